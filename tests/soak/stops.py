"""SIGTERM under busy clients: what was sent is answered, or its client was told before that the connection ends."""

import os
import random
import time

import harness
from clients import Clients

CLIENTS = 32
AHEAD = {"one-by-one": 1, "pipelined": 4}
"""Requests that each client has on the way, for each case."""
ENDS_WITHIN = 3.0
AT_WORK = 2000
"""Checks after which the clients are taken to be at work."""


def ready(directory):
    """A data directory in which the busy clients' key has quota for ever."""
    with harness.serving(directory) as server:
        client = server.client()
        harness.configure(client, "k", "fixed_window_counter")
        client.close()
        server.terminate()


def wait_for_work(server, more=AT_WORK):
    client = server.client()
    so_far = client.get("/v1/limits/k").ok()["total_allowed"]
    harness.wait_for("busy clients at work", lambda: client.get("/v1/limits/k").ok()["total_allowed"] > so_far + more)
    client.close()


def problems_of(seen):
    """What busy clients saw that they should not."""
    problems = []
    if seen["unanswered"]:
        reasons = ", ".join(f"{times} by {why}" for why, times in seen["reasons"].items())
        problems.append(f"{seen['unanswered']} requests unanswered of {seen['cut']} connections ({reasons})")
    others = {status: times for status, times in seen["statuses"].items() if status != "200"}
    if others:
        problems.append(f"answers that were no success: {others}")
    return problems


def stop(directory, ahead):
    """One round: what the clients saw, how long the stop took, and what is wrong."""
    with harness.serving(directory) as server, Clients(
        "busy", server.url, token=None, count=CLIENTS, ahead=ahead, reopens=False
    ) as clients:
        wait_for_work(server)
        time.sleep(random.uniform(0, 0.2))
        begun = time.monotonic()
        status = server.terminate()
        took = time.monotonic() - begun
        seen = clients.saw()
        problems = problems_of(seen)
        if status != 0:
            problems.append(f"exit status {status}: {server.stderr()[-300:]}")
        if took > ENDS_WITHIN:
            problems.append(f"the server ended after {took:.1f} s")
        return seen, took, problems


def case(name, ahead, rounds, parent):
    directory = os.path.join(parent, name)
    ready(directory)
    requests = told = unanswered = cut = violated = 0
    slowest, first = 0.0, None
    for _ in range(rounds):
        seen, took, problems = stop(directory, ahead)
        requests, told = requests + seen["requests"], told + seen["told"]
        unanswered, cut, slowest = unanswered + seen["unanswered"], cut + seen["cut"], max(slowest, took)
        violated += bool(problems)
        first = first or "; ".join(problems)
    print(
        f"stops {name}: {'VIOLATED' if violated else 'held'}: {rounds} stops under {CLIENTS} clients, {requests} "
        f"requests, {told} connections told to close, {cut} cut with {unanswered} requests unanswered, the slowest "
        f"stop {slowest:.2f} s{f'; {violated} stops violated, the first: {first}' if violated else ''}", flush=True)
    return not violated


def run(options, parent):
    cases = harness.chosen(AHEAD, options.only)
    violated = [name for name in cases if not case(name, AHEAD[name], options.rounds, parent)]
    if violated:
        raise harness.Violation(f"under clients that send {' and '.join(violated)}")
    return f"{options.rounds} stops each under clients that send {' and '.join(cases)}"


if __name__ == "__main__":
    harness.main("stops", run, 20, cases=True)
