"""Full disks: the server on a small file system of each kind, which is filled up under load and emptied again. The
server must live, say 503, lose nothing that was answered, and go on by itself once there is room; and so it must be
where it is killed while the disk is full."""

import errno
import os
import subprocess
import time

import checks_itself
import harness
import power

MIB = 1024 * 1024
SIZES = {"tmpfs": 24 * MIB, "ext4": 24 * MIB, "xfs": 320 * MIB, "btrfs": 192 * MIB}
"""The file systems, each with little more than the least that its mkfs takes."""
COPIES_ON_WRITE = ("btrfs",)
"""There a disk may be found full only by the write of a check that was decided: it is refused, and spent."""
REFUSALS = ("log_failed", "io", "overloaded")


class Memory:
    """A tmpfs."""

    def __init__(self, parent, size):
        self.size, self.mounted = size, os.path.join(parent, "mounted")
        os.mkdir(self.mounted)

    def mount(self):
        return power.mounted(["-t", "tmpfs", "-o", f"size={self.size}", "none"], self.mounted)


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


def full_and_back(disk, directory, book, number, kind, outcome):
    """Fills the disk under load until all connections are refused. Returns after service has resumed."""
    filler = os.path.join(disk.mounted, "filler")
    crash = number % 2 == 1
    with harness.serving(directory) as server:
        load = harness.Load(server, book, compact_every=0.1, pause=0.002)
        deadline = time.monotonic() + harness.PATIENCE
        while not load.ended():
            if time.monotonic() > deadline:
                raise harness.Violation("the disk never was full for all connections")
            fill(filler)
            time.sleep(0.02)
        load.stop()
        outcome["answers"] += load.answered()
        outcome["refusals"] += len(load.refusals)
        for reply in load.refusals:
            if reply.status not in (500, 503) or reply.code() not in REFUSALS:
                raise harness.Violation(f"a full disk was answered {reply.status} {reply.body!r}")
        found = harness.statuses(server)
        for ledger in book.ledgers:
            spent = ledger.settle(found)[0] - len(ledger.answered_at)
            if spent and kind not in COPIES_ON_WRITE:
                raise harness.Violation(f"connection {ledger.index}: what was refused was spent")
            outcome["spent"] += spent
        if crash:
            server.kill()
        os.unlink(filler)
        if not crash:
            client = server.client()
            freed = time.monotonic()
            harness.wait_for("good health once there is room", lambda: client.get("/v1/health").status == 200)
            outcome["slowest"] = max(outcome["slowest"], time.monotonic() - freed)
            book.settle(harness.statuses(server), "always")
            client.post("/v1/log/compact").ok()
            again = harness.Load(server, book, pause=0.002)
            time.sleep(0.1)
            again.stop()
            if again.refusals:
                raise harness.Violation(f"still refused once there is room: {again.refusals[0].body!r}")
            outcome["answers"] += again.answered()
    with harness.serving(directory) as server:
        book.settle(harness.statuses(server), "always")


def case(kind, options, parent):
    """Returns what is to be said."""
    place = os.path.join(parent, kind)
    os.mkdir(place)
    disk = Memory(place, SIZES[kind]) if kind == "tmpfs" else power.Disk(place, SIZES[kind], kind)
    book = harness.Book(seed=options.seed)
    outcome = {"answers": 0, "refusals": 0, "spent": 0, "slowest": 0.0}
    with disk.mount() as directory:
        with harness.serving(directory) as server:
            book.open(server)
        for number in range(options.rounds):
            try:
                full_and_back(disk, directory, book, number, kind, outcome)
            except harness.Violation as violation:
                raise harness.Violation(f"round {number}: {violation}") from violation
        harness.verify(directory)
    return (
        f"full and back {options.rounds} times, {outcome['answers']} answers and {outcome['refusals']} refusals, "
        f"{outcome['spent']} of them spent, back within {outcome['slowest']:.1f} s")


def run(options, parent):
    if os.geteuid() != 0:
        raise harness.Skipped("only root may mount a file system")
    harness.need("mount", "umount")
    checks_itself.run()
    held, skipped, violated = [], [], []
    for kind in harness.chosen(SIZES, options.only):
        begun = time.monotonic()
        try:
            said = case(kind, options, parent)
        except harness.Skipped as reason:
            skipped.append(kind)
            print(f"full {kind}: SKIPPED: {reason}", flush=True)
        except harness.Violation as violation:
            violated.append(kind)
            print(f"full {kind}: VIOLATED: {violation}", flush=True)
        else:
            held.append(kind)
            print(f"full {kind}: held: {said} ({time.monotonic() - begun:.0f} s)", flush=True)
    if violated:
        raise harness.Violation(f"on {' and '.join(violated)}")
    if not held:
        raise harness.Skipped(f"no file system could be mounted of {', '.join(skipped)}")
    return f"{options.rounds} rounds each on {', '.join(held)}{'; skipped: ' + ', '.join(skipped) if skipped else ''}"


if __name__ == "__main__":
    harness.main("full", run, 25, cases=True)
