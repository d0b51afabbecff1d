"""Power cuts: the server on an ext4 of its own that is shut down under load without flushing its journal, so that what
was not synced is gone. At last the same with syncs that only say so: then a loss must be found, or this finds none."""

import contextlib
import fcntl
import os
import random
import struct
import subprocess
import time

import checks_itself
import harness

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
IMAGE_BYTES = 256 * 1024 * 1024
WINDOW = 2.0
"""Seconds before the cut beyond which nothing may be lost in `batch`: the flush interval of 0.1 s, and a slow disk."""
CONTROLS = 5
"""Rounds with syncs that do nothing. One may be lucky, if the kernel writes by itself just before the cut."""


class Disk:
    """A file system in a file."""

    def __init__(self, parent, size=IMAGE_BYTES):
        self.image, self.mounted = os.path.join(parent, "image"), os.path.join(parent, "mounted")
        os.mkdir(self.mounted)
        with open(self.image, "wb") as image:
            image.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)

    @contextlib.contextmanager
    def mount(self):
        # The journal is written every 5 s otherwise, which would forgive a missing sync.
        command = ["mount", "-o", "loop,commit=300", self.image, self.mounted]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise harness.Skipped(f"no loop mounts here: {run.stderr.strip()}")
        try:
            yield os.path.join(self.mounted, "data")
        finally:
            harness.wait_for("unmounting", lambda: subprocess.run(["umount", self.mounted], check=False).returncode == 0)

    def cut(self):
        """From this call on nothing reaches the disk, not even what was written before and not synced."""
        root = os.open(self.mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(root, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(root)


def load_until_cut(disk, directory, book, sync, busy, wrapper=()):
    """Load, and a cut in the middle of it. What is answered behind the cut is answered all the same."""
    options = ["--sync", sync, "--compact-after", random.choice(["1", "20000"]) if busy else "67108864"]
    with harness.serving(directory, *options, wrapper=wrapper) as server:
        load = harness.Load(server, book, churn=busy, compact_every=busy and 0.04, flush_every=busy and 0.03)
        time.sleep(random.uniform(0.02, 0.6))
        if load.refusals or load.failures:
            raise harness.Violation(f"before the cut: {[reply.body for reply in load.refusals] + load.failures}")
        load.expect_end()
        begun = time.monotonic()
        disk.cut()
        # A disk that is gone is told, not hidden: the log fails, and no check is answered 200 any more.
        client = server.client()
        harness.wait_for("health 503 after the cut", lambda: client.get("/v1/health").status == 503)
        reply = client.post("/v1/check", {"key": book.ledgers[0].keys()[1]})
        if reply.status != 503 or reply.code() != "log_failed":
            raise harness.Violation(f"a check was answered {reply.status} after the cut: {reply.body!r}")
        server.kill()
        load.stop()
        return load.answered(), begun


def one_round(disk, book, sync, busy, wrapper=()):
    with disk.mount() as directory:
        answered, cut_at = load_until_cut(disk, directory, book, sync, busy, wrapper)
    with disk.mount() as directory:
        with harness.serving(directory) as server:
            book.settle(harness.statuses(server), sync, cut_at, WINDOW)
            # Recovery is durable itself: the next cut comes at once.
            disk.cut()
    return answered


def control(parent, number, seed):
    """Whether the loss of a server whose syncs do nothing is found."""
    place = os.path.join(parent, f"control{number}")
    os.mkdir(place)
    disk, book = Disk(place), harness.Book(seed=seed)
    with disk.mount() as directory, harness.serving(directory) as server:
        book.open(server)
        server.terminate()
    try:
        one_round(disk, book, "always", False, harness.trace(["fdatasync:retval=0", "fsync:retval=0"]))
    except harness.Violation as violation:
        # Not every violation is the one that is looked for.
        if "must be left" not in str(violation) and "should not be there" not in str(violation):
            raise
        return True
    return False


def run(options, parent):
    harness.need("mkfs.ext4", "mount", "umount")
    if os.geteuid() != 0:
        raise harness.Skipped("only root may mount a file system and shut it down")
    checks_itself.run()
    disk, book = Disk(parent), harness.Book(seed=options.seed)
    with disk.mount() as directory, harness.serving(directory) as server:
        book.open(server)
        server.terminate()
    answered = {"always": 0, "batch": 0}
    for number in range(2 * options.rounds):
        sync = ("always", "batch")[number % 2]
        answered[sync] += one_round(disk, book, sync, number % 4 < 2)
    with disk.mount() as directory:
        harness.verify(directory)
    said = (
        f"{options.rounds} cuts of always with {answered['always']} answers lost none, {options.rounds} of batch with "
        f"{answered['batch']} lost {book.lost}, the oldest {book.oldest * 1000:.0f} ms before its cut")
    try:
        harness.need("strace")
    except harness.Skipped as reason:
        return f"{said}; control SKIPPED: {reason}"
    found = sum(control(parent, number, options.seed) for number in range(CONTROLS))
    if found == 0:
        raise harness.Violation("with syncs that do nothing no loss was found: these rounds prove nothing")
    return f"{said}; with syncs that do nothing a loss was found in {found} of {CONTROLS}"


if __name__ == "__main__":
    harness.main("power", run, 100)
