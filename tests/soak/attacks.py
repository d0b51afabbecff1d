"""The attacks of tests/it/attacks.rs at full size, where a well-behaved client must be answered within a second."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def main():
    # Their number is fixed: --rounds and --seed are for other parts.
    command = ["cargo", "test", "--locked", "--quiet", "--release", "--test", "it", "attacks"]
    environment = {**os.environ, "FLINT_SOAK": "1", "RUST_BACKTRACE": "0"}
    threads = environment.get("FLINT_SOAK_MAX_BLOCKING")
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    passed = re.search(r"(\d+) passed; (\d+) failed", done.stdout)
    if done.returncode == 0 and passed and int(passed.group(1)) > 10:
        pool = f" by {threads} threads" if threads else ""
        print(f"attacks: held: {passed.group(1)} attacks at full size{pool}")
        return 0
    print(done.stdout, file=sys.stderr)
    print(f"attacks: VIOLATED: {passed.group(2) if passed else 'an unknown number of'} attacks did harm")
    return 1


if __name__ == "__main__":
    sys.exit(main())
