"""One Python process that checks one limit by its library: others_client.py flint|limits PORT THREADS SECONDS. Prints
checks per second. Port 0: in this process itself."""

import sys
import threading
import time


def flint_check(port):
    import flint

    limiter = flint.SharedLimiter("http://127.0.0.1:%d" % port)
    limiter.limit("bench", rate=10**12, per="1d")
    return lambda: limiter.allow("bench")


def limits_check(port):
    import limits

    storage = limits.storage.storage_from_string("redis://127.0.0.1:%d" % port if port else "memory://")
    # The cheapest of its strategies.
    limiter = limits.strategies.FixedWindowRateLimiter(storage)
    item = limits.RateLimitItemPerDay(10**12)
    return lambda: limiter.hit(item, "bench")


def main():
    library, port, threads, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    check = {"flint": flint_check, "limits": limits_check}[library](port)
    counts, end = [], time.monotonic() + seconds

    def work():
        done = 0
        while time.monotonic() < end:
            if not check():
                raise SystemExit("a limit that never denies has denied")
            done += 1
        counts.append(done)

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if len(counts) != threads:
        sys.exit("a thread has failed")
    print(sum(counts) / seconds)


if __name__ == "__main__":
    main()
