"""`kill -9` at the n-th system call of each kind, under load with compactions and then in the recovery from it."""

import os
import shutil
import time

import checks_itself
import harness

CALLS = ("pwrite64", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "openat")
PATIENCE = 3.0
"""Seconds of load after which a server that has not come to its n-th call is killed all the same."""
WINDOW = 3.0
"""Seconds before the kill beyond which nothing may be lost in `relaxed`, with strace slowing the disk down."""
MOST_CALLS = 100
"""More calls of one kind than a recovery makes in the thread that makes most of them."""


def fault(call, when):
    return harness.trace(f"{call}:signal=SIGKILL:when={when}")


class Outcome:
    struck = answered = recoveries = 0


def under_load(call, when, sync, directory, book, outcome):
    """A server that is killed at its call. Returns when it ended."""
    server = harness.Server(directory, "--sync", sync, "--compact-after", "65536", wrapper=fault(call, when))
    try:
        if server.url is None:
            outcome.struck += 1
            return time.monotonic()
        load = harness.Load(server, book, compact_every=0.01, may_end=True)
        deadline = time.monotonic() + PATIENCE
        while server.alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        outcome.struck += not server.alive()
        ended = time.monotonic()
        server.kill()
        load.stop()
        outcome.answered += load.answered()
        return ended
    finally:
        server.kill()


def standing(server):
    """All that a restart must bring back of each limit. When more is there runs down, and when an untouched one is
    untouched again is the time of day."""
    found = harness.statuses(server)
    for status in found.values():
        del status["next_ms"]
        if harness.view(status)[1] == 0:
            del status["reset_at"]
    return found


def in_recovery(call, directory, outcome):
    """Starts on the crashed directory that are killed at their first, second … call, until one comes up. Returns what
    a start on a copy that was taken before each found after it, too, was killed in recovery."""
    found = []
    for when in range(1, MOST_CALLS):
        copy = directory + ".copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(directory, copy)
        for place in (copy, directory):
            server = harness.Server(place, wrapper=fault(call, when))
            came_up = server.url is not None
            server.kill()
            outcome.recoveries += not came_up
        with harness.serving(copy) as server:
            found.append(standing(server))
        if came_up:
            return found
    raise harness.Violation(f"a recovery made {MOST_CALLS} calls of {call}")


def run(options, parent):
    harness.need("strace")
    checks_itself.run()
    book, outcome = harness.Book(seed=options.seed), Outcome()
    directory = os.path.join(parent, "data")
    with harness.serving(directory) as server:
        book.open(server)
    for call in CALLS:
        for when in range(1, options.rounds + 1):
            sync = ("always", "batch", "relaxed")[when % 3]
            ended = under_load(call, when, sync, directory, book, outcome)
            copies = in_recovery(call, directory, outcome) if when % 5 == 0 or when == options.rounds else []
            with harness.serving(directory) as server:
                found = standing(server)
                book.settle(harness.statuses(server), sync, ended, WINDOW, killed=True)
                if any(copy != found for copy in copies):
                    raise harness.Violation(f"{call} {when}: a killed recovery changed what the next one found")
        harness.verify(directory)
    return (
        f"{len(CALLS) * options.rounds} runs under load, {outcome.struck} killed at their call, {outcome.answered} "
        f"answers, {outcome.recoveries} recoveries killed at a call; relaxed lost {book.lost}")


if __name__ == "__main__":
    harness.main("strace", run, 30)
