"""A flood of denied checks over HTTP: it must add little to the log, one record per limit and flush interval."""

import json
import os
import socket
import subprocess
import threading
import time

import harness

KEYS = ("flood/a", "flood/b", "flood/c", "flood/d")
DEPTH = 16
"""Requests that a connection sends before it reads the replies."""
PER_ROUND = 10_000
MOST_BYTES = 1024 * 1024
FLUSH_EVERY = 0.1


def flood(url, key, count, failures):
    body = json.dumps({"key": key}).encode()
    request = b"POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    host, _, port = url[len("http://"):].rpartition(":")
    with socket.create_connection((host, int(port)), harness.PATIENCE) as connection:
        for _ in range(count // DEPTH):
            connection.sendall(request * DEPTH)
            # Each reply ends with its body's end, and none of them stands in another.
            received = b""
            while received.count(b"}\n") < DEPTH:
                more = connection.recv(65536)
                if not more:
                    failures.append(f"the connection of {key} was broken off")
                    return
                received += more
            if received.count(b'"allowed":false') != DEPTH or received.count(b"HTTP/1.1 200") != DEPTH:
                failures.append(f"not all denied: {received!r}")
                return


def denied_records(directory):
    dump = [os.environ["FLINT_BIN"], "--data-dir", directory, "log", "dump"]
    records = dict.fromkeys(KEYS, 0)
    for line in subprocess.run(dump, capture_output=True, check=True).stdout.splitlines():
        record = json.loads(line)
        if record["event"] == "denied":
            records[record["key"]] += 1
    return records


def run(options, parent):
    directory = os.path.join(parent, "data")
    count = options.rounds * PER_ROUND // len(KEYS) // DEPTH * DEPTH
    with harness.serving(directory) as server:
        client = server.client()
        for key in KEYS:
            client.post("/v1/limits", {"key": key, "rate": 1, "per": "366d", "algorithm": "fixed_window_counter"}).ok()
            client.post("/v1/check", {"key": key}).ok()
        before, begun, failures = client.get("/v1/doctor").ok()["log_bytes"], time.monotonic(), []
        threads = [threading.Thread(target=flood, args=(server.url, key, count, failures), daemon=True) for key in KEYS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - begun
        if failures:
            raise harness.Violation(failures[0])
        client.post("/v1/log/flush").ok()
        grown = client.get("/v1/doctor").ok()["log_bytes"] - before
        if grown >= MOST_BYTES:
            raise harness.Violation(f"{count * len(KEYS)} denials added {grown} bytes to the log")
        server.terminate()
    # One more for the flush, one for the interval that had begun, one for the stop.
    most, records = int(took / FLUSH_EVERY) + 3, denied_records(directory)
    if not all(1 <= records[key] <= most for key in KEYS):
        raise harness.Violation(f"{records} records of denials in {took:.1f} s")
    with harness.serving(directory) as server:
        found = harness.statuses(server)
        if any(found[key]["total_denied"] != count for key in KEYS):
            raise harness.Violation(f"not all denials are counted after a restart: {found}")
    return f"{count * len(KEYS)} denials in {took:.0f} s added {grown} bytes and {sum(records.values())} records"


if __name__ == "__main__":
    harness.main("denials", run, 100)
