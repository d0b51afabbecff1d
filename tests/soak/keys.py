"""A million keys that live under a pattern, each used once: memory and disk must come back when their minute is over."""

import json
import os
import threading
import time

import harness

EACH = 1_000_000
"""Keys of a round."""
AT_ONCE = 1000
"""Keys in one request."""
CONNECTIONS = 4
PERIOD = 60.0
MOST_KIB = 200 * 1024
"""Most memory at the peak."""
BACK_WITHIN = 30.0
"""Seconds after the last period, within which sweeps have removed all keys and memory is back ..."""
LEFT = 1.15
"""... but for so much of what it was."""
TRIMMED_WITHIN = 20.0
"""Seconds within which the allocator has given back what is free."""
MOST_BYTES = 1024 * 1024
"""Log and snapshot after a compaction."""


WARM_UP = 200_000
"""Keys of each connection that are gone at once: buffers and threads have their memory before it is compared."""


def use(server, first, last, failures, name="user"):
    client = server.client()
    for begin in range(first, last, AT_ONCE):
        items = [f"{name}:{number:07}" for number in range(begin, begin + AT_ONCE)]
        results = client.post("/v1/check-many", {"items": items}).ok()["results"]
        denied = [result for result in results if not result.get("allowed") or result.get("overflow")]
        if denied:
            failures.append(f"{len(denied)} of {AT_ONCE} first checks were not allowed: {denied[0]}")
            return
    client.close()


def using(server, share, failures, name):
    threads = [
        threading.Thread(target=use, args=(server, index * share, (index + 1) * share, failures, name))
        for index in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    return threads


def one_round(directory):
    with harness.serving(directory, "--sync", "batch", "--max-blocking", "8") as server:
        client = server.client()
        client.post("/v1/limits", {"key": "user:*", "limit": "100/1m"}).ok()
        client.post("/v1/limits", {"key": "warm:*", "limit": "1000000/1s"}).ok()
        failures = []
        for thread in using(server, WARM_UP, failures, "warm"):
            thread.join()
        harness.wait_for("no key of the warm-up", lambda: client.get("/v1/limits/warm:*").ok()["live"] == 0)
        client.ask("DELETE", "/v1/limits/warm:*").ok()
        # The allocator gives back what is free some seconds later.
        time.sleep(TRIMMED_WITHIN)
        before, begun = server.resident_kib(), time.monotonic()
        threads = using(server, EACH // CONNECTIONS, failures, "user")
        peak = before
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, server.resident_kib())
            time.sleep(0.05)
        if failures:
            raise harness.Violation(failures[0])
        took, used = time.monotonic() - begun, time.monotonic()
        live = client.get("/v1/limits/user:*").ok()["live"]
        peak = max(peak, server.resident_kib(), server.resident_kib("VmHWM"))
        if peak > MOST_KIB:
            raise harness.Violation(f"{EACH} keys took {peak // 1024} MiB, more than {MOST_KIB // 1024}")
        time.sleep(max(0.0, used + PERIOD - time.monotonic()))
        most = before * LEFT

        def back():
            return client.get("/v1/limits/user:*").ok()["live"] == 0 and server.resident_kib() <= most

        harness.wait_for(
            f"no live key, and {most / 1024:.0f} of {before / 1024:.0f} MiB (there are {server.resident_kib() >> 10})",
            back, BACK_WITHIN)
        after, back_after = server.resident_kib(), time.monotonic() - used - PERIOD
        listed = client.ask("GET", "/v1/limits?live=true").ok()
        if [status["key"] for status in listed] != ["user:*"]:
            raise harness.Violation(f"the list shows more than the pattern: {json.dumps(listed)[:300]}")
        totals = listed[0]["total_allowed"]
        if totals != EACH:
            raise harness.Violation(f"the pattern counts {totals} checks, and there were {EACH}")
        done = client.post("/v1/log/compact").ok()
        # Without the space that is filled ahead of the log.
        left = done["log_bytes_after"] + done["snapshot_bytes"]
        if left > MOST_BYTES:
            raise harness.Violation(f"log and snapshot take {left} bytes, more than {MOST_BYTES}")
        server.terminate()
    harness.verify(directory)
    return (f"{EACH} keys in {took:.0f} s ({live} live then), peak {peak >> 10} MiB, {before >> 10} MiB before and "
            f"{after >> 10} after ({back_after:.0f} s after their minute), {left >> 10} KiB on disk")


def run(options, parent):
    rounds = [one_round(os.path.join(parent, f"data-{number}")) for number in range(options.rounds)]
    return "; ".join(rounds)


if __name__ == "__main__":
    harness.main("keys", run, 1)
