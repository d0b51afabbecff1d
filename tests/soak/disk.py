"""Disks that refuse: each system call of each kind fails, once or for good, under load; and a small ext4 is filled up
and emptied again. The server must live, say 503, keep what it answered, and go on once it can."""

import errno
import os
import time

import checks_itself
import harness
import power

CALLS = ("pwrite64", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "openat")
ERRORS = ("EIO", "ENOSPC")
REFUSALS = ("log_failed", "io", "overloaded")
LOAD = 0.3
"""Seconds of load with a failing call."""
SMALL_BYTES = 24 * 1024 * 1024


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


def fill(path):
    """Takes what is left of the file system."""
    with open(path, "ab", buffering=0) as filler:
        for step in (1 << 20, 1 << 12, 1 << 9):
            try:
                while True:
                    filler.write(b"\7" * step)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def full_and_back(disk, directory, book, crash, outcome):
    """Fills the disk under load until all connections are refused. Returns after service has resumed."""
    filler = os.path.join(disk.mounted, "filler")
    with harness.serving(directory) as server:
        load = harness.Load(server, book, compact_every=0.1)
        deadline = time.monotonic() + harness.PATIENCE
        while not load.ended():
            if time.monotonic() > deadline:
                raise harness.Violation("the disk never was full for all connections")
            fill(filler)
            time.sleep(0.02)
        load.stop()
        outcome.answered, outcome.refused = outcome.answered + load.answered(), outcome.refused + len(load.refusals)
        for reply in load.refusals:
            if reply.status not in (500, 503) or reply.code() not in REFUSALS:
                raise harness.Violation(f"a full disk was answered {reply.status} {reply.body!r}")
        found = harness.statuses(server)
        for ledger in book.ledgers:
            if ledger.settle(found)[0] != len(ledger.answered_at):
                raise harness.Violation(f"connection {ledger.index}: what was refused was spent")
        if crash:
            server.kill()
        os.unlink(filler)
        if not crash:
            client = server.client()
            harness.wait_for("good health once there is room", lambda: client.get("/v1/health").status == 200)
            book.settle(harness.statuses(server), "always")
            client.post("/v1/log/compact").ok()
            again = harness.Load(server, book)
            time.sleep(0.1)
            again.stop()
            if again.refusals:
                raise harness.Violation(f"still refused once there is room: {again.refusals[0].body!r}")
            outcome.answered += again.answered()
    with harness.serving(directory) as server:
        book.settle(harness.statuses(server), "always")


def small_disk(options, parent, outcome):
    if os.geteuid() != 0:
        raise harness.Skipped("only root may mount a file system")
    harness.need("mkfs.ext4", "mount", "umount")
    place = os.path.join(parent, "small")
    os.mkdir(place)
    disk, book = power.Disk(place, SMALL_BYTES), harness.Book(seed=options.seed)
    with disk.mount() as directory:
        with harness.serving(directory) as server:
            book.open(server)
        for number in range(options.rounds):
            full_and_back(disk, directory, book, number % 2 == 1, outcome)


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
    said = (
        f"{outcome.runs} runs with a failing call, {outcome.not_started} of them refused at start, {outcome.answered} "
        f"answers and {outcome.refused} refusals")
    outcome.answered = outcome.refused = 0
    try:
        small_disk(options, parent, outcome)
    except harness.Skipped as reason:
        return f"{said}; full disk SKIPPED: {reason}"
    counts = f"{outcome.answered} answers and {outcome.refused} refusals"
    return f"{said}; a disk full and back {options.rounds} times with {counts}"


if __name__ == "__main__":
    harness.main("disk", run, 10)
