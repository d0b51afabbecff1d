"""`limit apply` of many limits, with and without a server: how long it takes, and that `kill -9` at any moment leaves
all of the limits as they were or all as they are to be."""

import json
import os
import random
import subprocess
import time

import harness

LIMITS = int(os.environ.get("FLINT_SOAK_LIMITS", "100000"))
WITHIN = 2.0
"""Longest time of one apply at full size, in seconds."""
CASES = {"alone": False, "served": True}


def limits(version):
    """What version N of the file says: other rates than the version before, a tenth of other keys, and a pattern."""
    first = version * LIMITS // 10
    keys = (f"user:{number:07}" for number in range(first, first + LIMITS - 1))
    return {**{key: version + 1 for key in keys}, "user:*": version + 1}


class Files:
    def __init__(self, parent):
        self.parent = parent

    def write(self, version):
        path = os.path.join(self.parent, "limits.json")
        with open(path, "w", encoding="ascii") as file:
            json.dump([{"key": key, "limit": f"{rate}/1h"} for key, rate in limits(version).items()], file)
        return path


def command(directory, *args):
    return [os.environ["FLINT_BIN"], "--data-dir", directory, *args]


def flint(directory, *args):
    done = subprocess.run(command(directory, *args), capture_output=True, check=False)
    if done.returncode != 0:
        raise harness.Violation(f"flint {' '.join(args)} ended with {done.returncode}: {done.stderr.decode().strip()}")
    return done.stdout


def configured(directory):
    return {status["key"]: status["rate"] for status in json.loads(flint(directory, "limit", "list", "--json"))}


def timed(directory, path, *args):
    begun = time.monotonic()
    flint(directory, "limit", "apply", path, *args)
    return time.monotonic() - begun


class Case:
    """One directory, and the server that owns it where there is one."""

    def __init__(self, directory, served):
        self.directory, self.server = directory, None
        self.served = served

    def begin(self):
        if self.served:
            self.server = harness.Server(self.directory)
            if self.server.url is None:
                raise harness.Violation(f"the server did not start: {self.server.stderr().strip()}")

    def end(self):
        if self.server:
            self.server.terminate()
            self.server = None

    def cut(self, path, after):
        """Applies, and kills the writer after this time. Returns whether it was done before."""
        begun = subprocess.Popen(
            command(self.directory, "limit", "apply", path, "--prune"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            begun.wait(after)
        except subprocess.TimeoutExpired:
            (self.server or begun).kill()
        done = begun.wait(harness.PATIENCE) == 0
        if self.server:
            self.server.kill()
            self.server = None
        return done


def case(name, served, rounds, parent):
    os.mkdir(parent)
    files, here = Files(parent), Case(os.path.join(parent, "data"), served)
    flint(here.directory, "limit", "add", "old", "1/1s")
    here.begin()
    took = {
        "added": timed(here.directory, files.write(0)),
        "the same again": timed(here.directory, files.write(0)),
        "changed": timed(here.directory, files.write(1), "--prune"),
    }
    left, applied = 0, 0
    version = 1
    try:
        for _ in range(rounds):
            path = files.write(version + 1)
            done = here.cut(path, random.uniform(0, 2 * took["changed"]))
            here.begin()
            found = configured(here.directory)
            if found == limits(version + 1):
                version, applied = version + 1, applied + 1
            elif done or found != limits(version):
                odd = sum(found.get(key) != rate for key, rate in limits(version).items())
                raise harness.Violation(
                    f"{name}: {'answered and ' if done else ''}not all or none: {len(found)} limits, {odd} of them not as before")
            else:
                left += 1
    finally:
        here.end()
    flint(here.directory, "log", "verify")
    times = ", ".join(f"{what} in {seconds:.2f} s" for what, seconds in took.items())
    print(f"apply {name}: {LIMITS} limits, {times}; {rounds} kills, of which {left} left what was and {applied} what is to be",
          flush=True)
    if LIMITS >= 100_000 and max(took.values()) > WITHIN:
        raise harness.Violation(f"{name}: longer than {WITHIN} s: {times}")


def run(options, parent):
    cases = harness.chosen(CASES, options.only)
    for name in cases:
        case(name, CASES[name], options.rounds, os.path.join(parent, name))
    return f"{options.rounds} kills each while {LIMITS} limits were applied, {' and '.join(cases)}"


if __name__ == "__main__":
    harness.main("apply", run, 20, cases=True)
