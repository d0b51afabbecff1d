"""A disk that does not answer: each fdatasync takes half a minute. Requests must be refused in time, health must go on
being answered, memory must stay bounded, and service must resume."""

import os
import pathlib
import signal
import subprocess
import threading
import time

import harness

STALL = 30
"""Seconds that a stalled fdatasync takes, three times as long as a request waits for the disk."""
ANSWERED_WITHIN = 25.0
"""Seconds: a request waits for room in the log and for its record, 10 s each, and for a worker."""
HEALTH_WITHIN = 2.0
WORKERS = 8
CLIENTS = (40, 96)
"""Fewer than the server's queue holds (64), so that each waits for a worker, and more."""
GROWTH_KIB = 64 * 1024


def attach(server):
    delay = f"inject=fdatasync:delay_enter={STALL * 1_000_000}"
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", delay]
    tracer = subprocess.Popen([*command, "-p", str(server.process.pid)], stderr=subprocess.DEVNULL)

    def traced():
        if tracer.poll() is not None:
            raise harness.Skipped("strace may not attach to a process here")
        tasks = pathlib.Path(f"/proc/{server.process.pid}/task")
        return all("TracerPid:\t0\n" not in (task / "status").read_text("ascii") for task in tasks.iterdir())

    harness.wait_for("attaching strace", traced)
    return tracer


class Stalled:
    """What clients see of a stalled server."""

    def __init__(self, server, clients):
        self.server, self.clients, self.over = server, clients, threading.Event()
        self.refused, self.sent, self.answered, self.failures = 0, 0, 0, []
        self.slowest, self.slowest_health, self.healths, self.peak = 0.0, 0.0, 0, 0
        self.lock = threading.Lock()

    def ask(self):
        """Checks until the stall is over, each on a new connection, as impatient clients do."""
        while not self.over.is_set():
            with self.lock:
                self.sent += 1
            begun, client = time.monotonic(), self.server.client(ANSWERED_WITHIN + 5)
            try:
                reply = client.post("/v1/check", {"key": "k"})
            except harness.BROKEN as error:
                self.failures.append(f"a check was not answered: {error!r}")
                return
            finally:
                client.close()
            with self.lock:
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self.answered += reply.status == 200
                self.refused += reply.status == 503
            if reply.status == 503 and (reply.code() != "overloaded" or reply.headers["Retry-After"] != "1"):
                self.failures.append(f"refused without Retry-After: 1: {reply.headers} {reply.body!r}")
            elif reply.status not in (200, 503):
                self.failures.append(f"answered {reply.status}: {reply.body!r}")
            self.over.wait(0.05)

    def ask_health(self):
        while not self.over.is_set():
            begun, client = time.monotonic(), self.server.client(ANSWERED_WITHIN + 5)
            try:
                status = client.get("/v1/health").status
                if status != 200:
                    self.failures.append(f"health was answered {status}")
            except harness.BROKEN as error:
                self.failures.append(f"health was not answered: {error!r}")
            finally:
                client.close()
            self.slowest_health = max(self.slowest_health, time.monotonic() - begun)
            self.healths += 1
            self.peak = max(self.peak, self.server.resident_kib())
            self.over.wait(0.2)


    def problems(self, resident_before):
        """All that is not as promised, for they have different causes."""
        told = sorted(set(self.failures))
        problems = [f"with {self.clients} clients: {text} ({self.failures.count(text)} times)" for text in told[:5]]
        if self.refused == 0:
            problems.append("nothing was refused: the disk was not stalled, or nobody was answered")
        if self.slowest > ANSWERED_WITHIN:
            problems.append(f"a check was answered after {self.slowest:.1f} s")
        if self.peak > resident_before + GROWTH_KIB:
            problems.append(f"memory grew from {resident_before} to {self.peak} KiB")
        if self.slowest_health > HEALTH_WITHIN:
            problems.append(f"health took {self.slowest_health:.1f} s, more than {HEALTH_WITHIN} s")
        return problems


def stall(server, clients, seconds):
    seen = Stalled(server, clients)
    tracer = attach(server)
    try:
        threads = [threading.Thread(target=seen.ask, daemon=True) for _ in range(clients)]
        threads.append(threading.Thread(target=seen.ask_health, daemon=True))
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        seen.over.set()
        for thread in threads:
            thread.join(ANSWERED_WITHIN + 10)
            if thread.is_alive():
                raise harness.Violation(f"a request hangs after {ANSWERED_WITHIN + 10} s")
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
    return seen


def resume(server):
    """Waits until checks are answered 200 again, once the disk answers."""
    client = server.client()
    harness.wait_for("a check answered 200 again", lambda: client.post("/v1/check", {"key": "k"}).status == 200)


def run(options, parent):
    harness.need("strace")
    directory = os.path.join(parent, "data")
    with harness.serving(directory, "--max-blocking", str(WORKERS)) as server:
        client = server.client()
        harness.configure(client, "k", "fixed_window_counter")
        before = server.resident_kib()
        answered, said, problems = 0, [], []
        for clients in CLIENTS:
            seen = stall(server, clients, options.rounds)
            problems += seen.problems(before)
            resume(server)
            answered += seen.answered + 1
            said.append(
                f"{clients} clients, {seen.sent} checks, {seen.refused} refused, the slowest after "
                f"{seen.slowest:.1f} s; {seen.healths} times health, the slowest after {seen.slowest_health:.2f} s; "
                f"peak {seen.peak} KiB")
        server.kill()
    with harness.serving(directory) as server:
        allowed = harness.statuses(server)["k"]["total_allowed"]
        if allowed < answered:
            problems.append(f"{answered} checks were answered and {allowed} are left")
    if problems:
        raise harness.Violation("; ".join(problems))
    return f"{options.rounds} s of stall each: {' | '.join(said)}"


if __name__ == "__main__":
    harness.main("stall", run, 40)
