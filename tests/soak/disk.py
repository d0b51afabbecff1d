"""Disks that refuse: each system call of each kind fails, once or for good, under load. The server must live, say 503,
and keep what it answered."""

import os

import checks_itself
import harness

CALLS = ("pwrite64", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "openat")
ERRORS = ("EIO", "ENOSPC")
REFUSALS = ("log_failed", "io", "overloaded")
LOAD = 0.3
"""Seconds of load with a failing call."""


class Outcome:
    runs = answered = refused = not_started = 0


def failing_call(fault, directory, book, outcome):
    outcome.runs += 1
    server = harness.Server(directory, "--compact-after", "65536", wrapper=harness.trace(fault))
    try:
        if server.url is None:
            # Loaders end with 127 where they can't open a library.
            if server.process.returncode not in (3, 127):
                raise harness.Violation(f"{fault}: the start ended with {server.process.returncode}: {server.stderr()}")
            outcome.not_started += 1
        else:
            load = harness.Load(server, book, compact_every=0.01)
            harness.wait_quietly(LOAD, load.ended)
            load.stop()
            outcome.answered, outcome.refused = outcome.answered + load.answered(), outcome.refused + len(load.refusals)
            for reply in load.refusals:
                if reply.status not in (500, 503) or reply.code() not in REFUSALS:
                    raise harness.Violation(f"{fault}: answered {reply.status} {reply.body!r}")
            if not server.alive():
                raise harness.Violation(f"{fault}: the server ended: {server.stderr()}")
    except harness.Violation as violation:
        raise harness.Violation(f"{fault}: {violation}; stderr: {server.stderr()[-600:]}") from violation
    finally:
        server.kill()
    with harness.serving(directory) as server:
        try:
            book.settle(harness.statuses(server), "always")
        except harness.Violation as violation:
            raise harness.Violation(f"{fault}: {violation}") from violation


def run(options, parent):
    harness.need("strace")
    checks_itself.run()
    book, outcome = harness.Book(seed=options.seed), Outcome()
    directory = os.path.join(parent, "data")
    with harness.serving(directory) as server:
        book.open(server)
    for call in CALLS:
        for error in ERRORS:
            for when in range(1, options.rounds + 1):
                for repeat in ("", "+"):
                    failing_call(f"{call}:error={error}:when={when}{repeat}", directory, book, outcome)
    harness.verify(directory)
    return (
        f"{outcome.runs} runs with a failing call, {outcome.not_started} of them refused at start, {outcome.answered} "
        f"answers and {outcome.refused} refusals")


if __name__ == "__main__":
    harness.main("disk", run, 10)
