"""`kill -9` at random moments under load, in each durability mode, on one directory that lives through all rounds.
Nothing that was answered may be lost in `always` and `batch`, and in `relaxed` at most what was not written yet."""

import os
import random
import time

import checks_itself
import harness

WINDOW = 1.0
"""Seconds before the kill beyond which nothing may be lost in `relaxed`: records are written within a millisecond, but
not while the disk syncs (0.7 s were seen)."""


def one_round(number, directory, book):
    sync = ("always", "batch", "relaxed")[number % 3]
    # Every other three rounds have nothing that writes records early: compactions, flushes, new limits.
    busy = number % 6 < 3
    options = ["--sync", sync, "--compact-after", random.choice(["65536", "67108864"]) if busy else "67108864"]
    with harness.serving(directory, *options) as server:
        if number == 0:
            book.open(server)
        else:
            book.settle(harness.statuses(server), *book.crash)
        seconds, pause = harness.span(number)
        load = harness.Load(
            server, book, churn=busy, compact_every=busy and 0.04, flush_every=busy and 0.03, pause=pause)
        time.sleep(seconds)
        load.expect_end()
        book.crash = (sync, time.monotonic(), WINDOW, True)
        server.kill()
        load.stop()
    if load.refusals:
        raise harness.Violation(f"answered {load.refusals[0].status}: {load.refusals[0].body!r}")
    return load.answered(), load.compactions


def run(options, parent):
    checks_itself.run()
    directory = os.path.join(parent, "data")
    book = harness.Book(seed=options.seed)
    answered = compactions = 0
    for number in range(options.rounds):
        checks, compacted = one_round(number, directory, book)
        answered, compactions = answered + checks, compactions + compacted
    with harness.serving(directory) as server:
        book.settle(harness.statuses(server), *book.crash)
        server.terminate()
    harness.verify(directory)
    return (
        f"{options.rounds} kills, {answered} answers, {compactions} compactions asked for; "
        f"always and batch lost none, relaxed lost {book.lost}, the oldest {book.oldest * 1000:.0f} ms before its kill")


if __name__ == "__main__":
    harness.main("kill", run, 100)
