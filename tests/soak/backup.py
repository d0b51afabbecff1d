"""Backups under load at full rate, with compactions, in each durability mode, restored elsewhere. Each must hold the
state after a number of the operations of each connection, no fewer than were answered before it began. Where wrk is
installed it drives one more limit as fast as the server goes. Every fifth backup is read slowly."""

import os
import random
import shutil
import subprocess
import time

import harness

SETTLED = 0.2, 1.5
"""Seconds of load before the backup of a round, at least and at most."""
SLOW = 0.01
"""Seconds between two pieces of a backup that is read slowly."""
RATED = "rated"
SCRIPT = 'wrk.method = "POST"\nwrk.path = "/v1/take/rated"\n'


def flint(directory, *args, **options):
    command = [os.environ["FLINT_BIN"], "--data-dir", directory, *args]
    run = subprocess.run(command, capture_output=True, check=False, timeout=harness.PATIENCE, **options)
    if run.returncode != 0:
        raise harness.Violation(f"flint {' '.join(args)}: {run.returncode} {run.stderr.decode()}")
    return run.stdout


def take(directory, to, slowly):
    """Takes a backup. Returns how many seconds that took."""
    begun = time.monotonic()
    if not slowly:
        flint(directory, "log", "backup", to)
        return time.monotonic() - begun
    command = [os.environ["FLINT_BIN"], "--data-dir", directory, "log", "backup", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process, open(to, "xb") as file:
        while piece := process.stdout.read(65536):
            file.write(piece)
            time.sleep(SLOW)
    if process.returncode != 0:
        raise harness.Violation(f"flint log backup -: {process.returncode}")
    return time.monotonic() - begun


def judge(restored, ledgers, before, rated):
    """Holds what was restored to what was answered before. Returns how many operations it has beyond that."""
    harness.verify(restored)
    with harness.serving(restored) as server:
        found = harness.statuses(server)
        server.terminate()
    beyond = 0
    for ledger, floor in zip(ledgers, before):
        left, _ = ledger.settle(found)
        if left < floor:
            raise harness.Violation(f"connection {ledger.index}: {floor} operations were answered, {left} are in it")
        beyond += left - floor
    if found[RATED]["total_allowed"] < rated:
        raise harness.Violation(f"{RATED}: {rated} checks had been counted, {found[RATED]['total_allowed']} are in it")
    return beyond


def one_round(number, parent, seed):
    directory, backup, restored = (os.path.join(parent, f"{name}{number}") for name in ("data", "backup", "restored"))
    sync = ("always", "batch", "relaxed")[number % 3]
    book = harness.Book(seed=seed + number)
    wrk = None
    with harness.serving(directory, "--sync", sync, "--compact-after", random.choice(["65536", "67108864"])) as server:
        book.open(server)
        client = server.client()
        client.post("/v1/limits", {"key": RATED, "limit": "1000000000/1s"}).ok()
        load = harness.Load(server, book, compact_every=random.choice([0.04, 0]))
        if shutil.which("wrk"):
            script = os.path.join(parent, "take.lua")
            with open(script, "w", encoding="ascii") as file:
                file.write(SCRIPT)
            command = ["wrk", "-t1", "-c16", "-d60", "-s", script, server.url]
            wrk = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(*SETTLED))
        rated = client.get(f"/v1/limits/{RATED}").ok()["total_allowed"]
        before = [len(ledger.answered_at) for ledger in book.ledgers]
        took = take(directory, backup, number % 5 == 4)
        size = os.path.getsize(backup)
        if wrk:
            wrk.kill()
            wrk.wait()
        load.stop()
        if load.refusals:
            raise harness.Violation(f"answered {load.refusals[0].status}: {load.refusals[0].body!r}")
        server.terminate()
    flint(restored, "log", "restore", backup)
    beyond = judge(restored, book.ledgers, before, rated)
    for path in (directory, restored):
        shutil.rmtree(path)
    os.remove(backup)
    return sum(before) + rated, beyond, took, size


def run(options, parent):
    answered = beyond = size = 0
    slowest = 0.0
    for number in range(options.rounds):
        checks, more, took, length = one_round(number, parent, options.seed)
        answered, beyond, size = answered + checks, beyond + more, max(size, length)
        slowest = max(slowest, took)
    return (
        f"{options.rounds} backups, {answered} answers before they began are in them and {beyond} of meanwhile, "
        f"the largest has {size} bytes, the slowest took {slowest:.2f} s")


if __name__ == "__main__":
    harness.main("backup", run, 50)
