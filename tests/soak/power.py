"""Power cuts: the server on a separate ext4 that is shut down under load without flushing its journal, so that what
was not synced is gone. At last the same with syncs that only say so: then a loss must be found, or this finds none."""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time

import checks_itself
import harness

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
IMAGE_BYTES = 256 * 1024 * 1024
CONTROLS = 5
"""Rounds with syncs that do nothing. One may be lucky, if the kernel writes by itself just before the cut."""
FAKED = ["fdatasync:retval=0", "fsync:retval=0"]
NEVER = ["--flush-every-ms", "3600000", "--flush-every-events", "1000000000"]


@contextlib.contextmanager
def mounted(arguments, place):
    """Gives the data directory of a file system while it is mounted there."""
    run = subprocess.run(["mount", *arguments, place], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise harness.Skipped(f"this cannot be mounted here: {run.stderr.strip()}")
    try:
        yield os.path.join(place, "data")
    finally:
        harness.wait_for("unmounting", lambda: subprocess.run(["umount", place], check=False).returncode == 0)


class Disk:
    """A file system in a file."""

    def __init__(self, parent, size=IMAGE_BYTES, kind="ext4"):
        self.kind = kind
        self.image, self.mounted = os.path.join(parent, "image"), os.path.join(parent, "mounted")
        os.mkdir(self.mounted)
        with open(self.image, "wb") as image:
            image.truncate(size)
        harness.need(f"mkfs.{kind}")
        force = "-F" if kind == "ext4" else "-f"
        subprocess.run([f"mkfs.{kind}", "-q", force, self.image], check=True, stdout=subprocess.DEVNULL)

    def mount(self):
        # The journal is written every 5 s otherwise, which would forgive a missing sync.
        options = "loop,commit=300" if self.kind == "ext4" else "loop"
        return mounted(["-o", options, self.image], self.mounted)

    def cut(self):
        """From this call on nothing reaches the disk, not even what was written before and not synced."""
        root = os.open(self.mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(root, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(root)


def load_until_cut(disk, directory, book, number, more, wrapper):
    """Load, and a cut in the middle of it. What is sent after the cut and answered is answered all the same."""
    sync, busy, (seconds, pause) = mode(number), number % 4 < 2, harness.span(number)
    options = ["--sync", sync, "--compact-after", "65536" if busy else "67108864"]
    options += more
    if busy and number // 4 % 2 == 1 and not wrapper and shutil.which("strace"):
        # A slow disk, on which a compaction overtakes what it must wait for.
        wrapper = harness.trace("fdatasync:delay_enter=50000")
    with harness.serving(directory, *options, wrapper=wrapper) as server:
        load = harness.Load(
            server, book, churn=busy, compact_every=busy and 0.04, flush_every=busy and 0.03, pause=pause)
        time.sleep(seconds)
        if load.refusals or load.failures:
            raise harness.Violation(f"before the cut: {[reply.body for reply in load.refusals] + load.failures}")
        load.expect_end()
        begun = time.monotonic()
        disk.cut()
        ended = time.monotonic()
        # A disk that is gone is reported, not hidden: the log fails, and no check is answered 200 any more.
        client = server.client()
        harness.wait_for("health 503 after the cut", lambda: client.get("/v1/health").status == 503)
        reply = client.post("/v1/check", {"key": book.ledgers[0].keys()[1]})
        if reply.status != 503 or reply.code() != "log_failed":
            raise harness.Violation(f"a check was answered {reply.status} after the cut: {reply.body!r}")
        server.kill()
        load.stop()
        return load.answered(), begun, ended


def mode(number):
    return ("always", "batch")[number % 2]


def one_round(disk, book, number, more=(), wrapper=()):
    with disk.mount() as directory:
        answered, cut_at, cut_until = load_until_cut(disk, directory, book, number, more, wrapper)
    with disk.mount() as directory:
        with harness.serving(directory) as server:
            book.settle(harness.statuses(server), mode(number), cut_at, harness.WINDOW, cut_until=cut_until)
            # Recovery is durable itself: the next cut comes at once.
            disk.cut()
    return answered


def loss_is_found(parent, seed, number, more=(), wrapper=()):
    """Whether the loss of a server that does not keep the promise of this round is found."""
    place = tempfile.mkdtemp(dir=parent)
    disk, book = Disk(place), harness.Book(seed=seed)
    with disk.mount() as directory, harness.serving(directory) as server:
        book.open(server)
        server.terminate()
    try:
        one_round(disk, book, number, more, wrapper)
    except harness.Violation as violation:
        # Not every violation is the expected one.
        if "must be left" not in str(violation) and "should not be there" not in str(violation):
            raise
        return True
    return False


def controls(parent, seed):
    """Servers that break the promise: without a loss found, the rounds before prove nothing."""
    # The long round, in `batch`, of a server that is told never to sync.
    if not loss_is_found(parent, seed, 3, more=NEVER):
        raise harness.Violation("with --flush-every of an hour no loss beyond the interval was found")
    try:
        harness.need("strace")
    except harness.Skipped as reason:
        return f"control with syncs that do nothing SKIPPED: {reason}"
    # In `always`, without compactions.
    found = sum(loss_is_found(parent, seed, 2, wrapper=harness.trace(FAKED)) for _ in range(CONTROLS))
    if found == 0:
        raise harness.Violation("with syncs that do nothing no loss was found")
    return f"a loss was found with syncs that do nothing in {found} of {CONTROLS}, and with an interval of an hour"


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
        answered[mode(number)] += one_round(disk, book, number)
    with disk.mount() as directory:
        harness.verify(directory)
    said = (
        f"{options.rounds} cuts of always with {answered['always']} answers lost none, {options.rounds} of batch with "
        f"{answered['batch']} lost {book.lost}, the oldest {book.oldest * 1000:.0f} ms before its cut")
    return f"{said}; controls: {controls(parent, options.seed)}"


if __name__ == "__main__":
    harness.main("power", run, 100)
