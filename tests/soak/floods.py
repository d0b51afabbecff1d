"""Floods that need no token, each for half a minute: memory must stay bounded, and well-behaved clients must be
answered in time meanwhile and afterwards."""

import contextlib
import os
import shutil
import socket
import threading
import time

import harness
from clients import Clients, KEYS, request

MIB = 1024
MOST_KIB = 300 * MIB
"""Most memory of the server in any case."""
TOO_MUCH_KIB = 1536 * MIB
"""A case ends here, for the machine must survive it."""
ANSWERED_WITHIN = {"kept": 1.0, "new": 2.2}
"""Seconds. While the kernel's queue of new connections is full, a client that opens one has to ask again, after a second."""
BACK_WITHIN = 15.0
"""Seconds after an attack, within which what it took must be given back ..."""
LEFT_KIB, LEFT_DESCRIPTORS = 64 * MIB, 40
"""... but for so much."""
TOKEN = "soak-secret"
WARM_UP = 1.0
LIMITS = 100_000


class Case:
    """An attack. `attackers` has a role and its settings for each process."""

    def __init__(self, name, attackers, args=(), limits=0):
        self.name, self.attackers, self.args, self.limits = name, attackers, args, limits


def flood(ahead, processes, token):
    return [("flood", {"source": f"127.0.1.{index + 1}", "token": token, "ahead": ahead}) for index in range(processes)]


def hold(count, to_send, reads=True):
    return [("hold", {"source": "127.0.1.1", "count": count, "to_send": to_send.decode(), "reads": reads})]


def idle(count, token):
    return hold(count, request("POST", "/v1/check", token, b"{", 5000))


def stalled(count, token):
    return hold(count, request("POST", "/v1/check", token, b" " * 65536, 200_000))


def all_cases():
    """Those with the token in the attackers' hands, and without."""
    cases = []
    for known, token in (("stranger", None), ("token", TOKEN)):
        for ahead in (1, 20, 100, 400):
            for processes in (1, 2):
                cases.append(Case(f"flood-{ahead}x{processes}-{known}", flood(ahead, processes, token)))
        for count in (33, 200, 400):
            cases.append(Case(f"idle-{count}-{known}", idle(count, token)))
        for threads in (1, 2):
            few = ("--max-blocking", str(threads))
            cases.append(Case(f"flood-400x2-{known}-by-{threads}", flood(400, 2, token), few))
            cases.append(Case(f"idle-400-{known}-by-{threads}", idle(400, token), few))
        for count in (33, 200):
            cases.append(Case(f"stalled-{count}-{known}", stalled(count, token)))
            cases.append(Case(f"stalled-{count}-{known}-by-2", stalled(count, token), ("--max-blocking", "2")))
    unread = hold(33, request("GET", "/v1/limits", TOKEN), reads=False)
    cases.append(Case("unread-33-token", unread, limits=LIMITS))
    cases.append(Case("unread-33-token-by-2", unread, ("--max-blocking", "2"), limits=LIMITS))
    return cases


def configure_many(server, count, connections=8, ahead=50):
    """So many limits more, from several connections that each send requests ahead."""
    host, _, port = server.url[len("http://"):].rpartition(":")
    failures = []

    def work(first):
        with socket.create_connection((host, int(port)), harness.PATIENCE) as connection:
            numbers = range(first, count, connections)
            for begin in range(0, len(numbers), ahead):
                some = numbers[begin:begin + ahead]
                body = '{"key":"many/%d","rate":1000,"per":"1d"}'
                connection.sendall(b"".join(
                    request("POST", "/v1/limits", TOKEN, (body % number).encode()) for number in some))
                received = b""
                while received.count(b'"created":true') < len(some):
                    more = connection.recv(65536)
                    if not more:
                        failures.append(received)
                        return
                    received += more

    threads = [threading.Thread(target=work, args=(first,), daemon=True) for first in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise harness.Violation(f"limits could not be configured: {failures[0]!r}")


def prepare(directory, limits):
    """A data directory with what good clients need, and with this many further limits."""
    with harness.serving(directory, "--token", TOKEN, "--sync", "batch") as server:
        client = server.client(token=TOKEN)
        for key in ("k", *(f"good/{index}" for index in range(KEYS))):
            body = {"key": key, "rate": harness.CAPACITY, "per": "366d", "algorithm": "fixed_window_counter"}
            client.post("/v1/limits", body).ok()
        configure_many(server, limits)
        client.post("/v1/log/compact").ok()
        client.close()
        server.terminate()


class Watched:
    """What the server takes, looked at every 50 ms."""

    def __init__(self, server):
        self.server, self.peak, self.stopped_at = server, 0, None

    def resident(self):
        """The memory taken now, or None when there is no server any more."""
        try:
            resident = self.server.resident_kib()
            self.peak = max(self.peak, resident, self.server.resident_kib("VmHWM"))
        except (FileNotFoundError, ProcessLookupError):
            resident = 0
        if resident > TOO_MUCH_KIB:
            self.stopped_at = time.time()
            self.server.kill()
        return resident if self.server.alive() and resident else None

    def watch(self, seconds, until=lambda resident: False):
        """Watches for this long, or until this holds. False when the server is gone."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            resident = self.resident()
            if resident is None:
                return False
            if until(resident):
                return True
            time.sleep(0.05)
        return True


def doctor(server):
    """How connections ended, in the server's own words."""
    try:
        client = server.client(timeout=5, token=TOKEN)
        seen = client.get("/v1/doctor").ok()["connections"]
        client.close()
    except (*harness.BROKEN, harness.Violation) as error:
        return None, f"doctor did not answer: {error!r}"
    ended = " ".join(f"{name} {count}" for name, count in seen["ended"].items() if count) or "none"
    return f"ended {ended}, leaked {seen['leaked']}", None


def judge(watched, before, back, good, trouble):
    """All that is not as promised."""
    problems = [trouble] if trouble else []
    stopped = watched.stopped_at
    if stopped is not None:
        problems.append(f"stopped at {watched.peak // MIB} MiB")
    elif not watched.server.alive():
        problems.append(f"the server ended with {watched.server.process.returncode}: {watched.server.stderr()[-300:]}")
    elif watched.peak > MOST_KIB:
        problems.append(f"{watched.peak // MIB} MiB of memory, more than {MOST_KIB // MIB}")
    failures = [text for at, text in good["failures"] if stopped is None or at < stopped]
    if failures:
        told = sorted(set(failures), key=failures.count, reverse=True)[:3]
        most = ", ".join(f"{failures.count(text)} times {text}" for text in told)
        problems.append(f"{len(failures)} good requests failed: {most}")
    for kind in ("kept", "new"):
        if good[kind] > ANSWERED_WITHIN[kind]:
            problems.append(f"an answer after {good[kind]:.1f} s ({kind} connections)")
    if good["answered"] == 0:
        problems.append("no good client was answered")
    if stopped is None and not back and watched.server.alive():
        kib, descriptors = watched.server.resident_kib(), watched.server.descriptors()
        problems.append(
            f"{BACK_WITHIN:.0f} s later still {kib // MIB} MiB and {descriptors} descriptors, "
            f"before {before[0] // MIB} and {before[1]}")
    return problems


def attack(case, directory, seconds):
    """Runs a case and prints its line. Returns whether the promise held."""
    args = ("--token", TOKEN, *case.args)
    with contextlib.ExitStack() as processes:
        server = processes.enter_context(harness.serving(directory, *args))
        good = processes.enter_context(Clients("good", server.url, token=TOKEN))
        watched = Watched(server)
        watched.watch(WARM_UP)
        before = (server.resident_kib(), server.descriptors())
        attackers = [
            processes.enter_context(Clients(role, server.url, **settings)) for role, settings in case.attackers]
        watched.watch(seconds)
        for attacker in attackers:
            attacker.end()
        watched.watch(BACK_WITHIN, lambda _: all(attacker.ended() for attacker in attackers))
        seen = [attacker.saw() for attacker in attackers]
        ended = time.monotonic()

        def given_back(resident):
            few = server.descriptors() <= before[1] + LEFT_DESCRIPTORS
            return few and resident <= before[0] + LEFT_KIB and time.monotonic() > ended + 1

        watched.watch(BACK_WITHIN, given_back)
        took = time.monotonic() - ended
        back = server.alive() and given_back(server.resident_kib())
        told, trouble = doctor(server) if server.alive() else (None, None)
        served = good.finish()
        problems = judge(watched, before, back, served, trouble)
    sums = {name: sum(one.get(name, 0) for one in seen) for name in ("connections", "requests", "cut", "failed")}
    print(
        f"floods {case.name}: {'VIOLATED' if problems else 'held'}: peak {watched.peak // MIB} MiB, slowest "
        f"{served['kept']:.3f} s kept {served['new']:.3f} s new, {served['answered']} good answers, "
        f"{served['reopened']} reopened; attackers: {sums['connections']} connections, {sums['requests']} requests, "
        f"{sums['cut']} cut, {sums['failed']} failed; {told or 'no doctor'}; back after {took:.1f} s"
        f"{': ' * bool(problems)}{'; '.join(problems)}", flush=True)
    return not problems


def run(options, parent):
    every = {case.name: case for case in all_cases()}
    cases = [every[name] for name in harness.chosen(every, options.only)]
    prepared = {}
    for limits in sorted({case.limits for case in cases}):
        prepared[limits] = os.path.join(parent, f"prepared-{limits}")
        prepare(prepared[limits], limits)
    directory, violated, runs = os.path.join(parent, "data"), [], 0
    for _ in range(options.rounds):
        for case in cases:
            shutil.copytree(prepared[case.limits], directory)
            runs += 1
            if not attack(case, directory, options.seconds):
                violated.append(case.name)
            shutil.rmtree(directory)
    if violated:
        raise harness.Violation(f"{len(violated)} of {runs} floods: {' '.join(violated)}")
    return f"{runs} floods of {options.seconds} s"


if __name__ == "__main__":
    harness.main("floods", run, 1, seconds=30, cases=True)
