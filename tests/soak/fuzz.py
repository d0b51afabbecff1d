"""Decoders under mutated inputs: each target of tests/fuzz.rs for a while, in a debug build."""

import os
import pathlib
import random
import re
import subprocess
import sys

import harness

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TARGETS = ("frame", "record", "head", "body")


def drive(target, seconds, seed):
    """Runs one target and prints its line. Returns whether it survived."""
    command = ["cargo", "test", "--locked", "--quiet", "--test", "fuzz", "--", "--ignored", "--nocapture"]
    settings = {"FLINT_FUZZ_TARGET": target, "FLINT_FUZZ_SECONDS": str(seconds), "FLINT_FUZZ_SEED": str(seed)}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False)
    survived = re.search(rf"^{target}: (\d+) inputs of seed \d+ survived$", done.stdout, re.MULTILINE)
    if done.returncode == 0 and survived:
        print(f"fuzz {target}: held: {survived.group(1)} inputs of seed {seed}", flush=True)
        return True
    print(done.stdout, file=sys.stderr)
    print(f"fuzz {target}: VIOLATED: an input of seed {seed} was not survived; it is printed above", flush=True)
    return False


def run(options, _):
    harness.need("cargo")
    targets = harness.chosen(TARGETS, options.only)
    runs = [(target, random.randrange(1 << 30)) for _ in range(options.rounds) for target in targets]
    violated = [target for target, seed in runs if not drive(target, options.seconds, seed)]
    if violated:
        raise harness.Violation(f"{len(violated)} of {len(runs)} runs: {' '.join(violated)}")
    return f"{len(runs)} runs of {options.seconds} s on {' '.join(targets)}"


if __name__ == "__main__":
    harness.main("fuzz", run, 1, seconds=600, cases=True)
