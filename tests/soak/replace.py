"""A server that starts afresh on the same socket, under busy clients: what was sent is answered, or its client was told
before that the connection ends."""

import os
import socket
import time

import harness
import stops
from clients import Clients, request

FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 2048; exec "$@"', "sh")
"""With these, the server starts afresh at 256 connections that tiny_http does not let go of: an eighth of them."""
LEAKS = 270
"""Connections that announce a body beyond all bounds: tiny_http does not let go of them. A few more than it takes."""
WITHIN = 30.0
"""Seconds until the server starts afresh, under load."""
AFTERWARDS = 1.0


def environment(server):
    with open(f"/proc/{server.process.pid}/environ", "rb") as file:
        return file.read()


def wear_out(server):
    """Takes connections that are not let go of until the server has started afresh. Returns how long that took."""
    host, _, port = server.url[len("http://"):].rpartition(":")
    before, begun, leaks = environment(server), time.monotonic(), []
    try:
        for _ in range(LEAKS):
            leaks.append(socket.create_connection((host, int(port)), harness.PATIENCE))
            leaks[-1].sendall(request("POST", "/v1/check", None, b"{", 10_000_000_000))
        harness.wait_for("a fresh image of the same process", lambda: environment(server) != before, WITHIN)
    finally:
        for connection in leaks:
            connection.close()
    return time.monotonic() - begun


def replace(directory, ahead):
    """One replacement: what the clients saw, and how long it took."""
    with harness.serving(directory, wrapper=FEW_DESCRIPTORS) as server, Clients(
        "busy", server.url, token=None, count=stops.CLIENTS, ahead=ahead, reopens=True
    ) as clients:
        stops.wait_for_work(server)
        took = wear_out(server)
        stops.wait_for_work(server, more=100)
        time.sleep(AFTERWARDS)
        seen = clients.finish()
        server.terminate()
        return seen, took


def case(name, ahead, rounds, parent):
    directory, violated = os.path.join(parent, name), 0
    stops.ready(directory)
    for _ in range(rounds):
        try:
            seen, took = replace(directory, ahead)
            problems = stops.problems_of(seen)
            said = (
                f"{seen['requests']} requests on {seen['connections']} connections, {seen['told']} told to close, "
                f"{seen['cut']} cut with {seen['unanswered']} requests unanswered, the slowest answer "
                f"{seen['slowest']:.2f} s; afresh after {took:.1f} s")
        except harness.Violation as violation:
            problems, said = [str(violation)], "not replaced"
        violated += bool(problems)
        print(
            f"replace {name}: {'VIOLATED' if problems else 'held'}: {said}{': ' * bool(problems)}{'; '.join(problems)}",
            flush=True)
    return not violated


def run(options, parent):
    cases = harness.chosen(stops.AHEAD, options.only)
    violated = [name for name in cases if not case(name, stops.AHEAD[name], options.rounds, parent)]
    if violated:
        raise harness.Violation(f"under clients that send {' and '.join(violated)}")
    return f"{options.rounds} replacements each under clients that send {' and '.join(cases)}"


if __name__ == "__main__":
    harness.main("replace", run, 1, cases=True)
