#!/usr/bin/env python3
"""Flint compared with other rate limiters on this machine: checks per second through the usual interface of each, and
what each still knows after kill -9. `scripts/bench others` runs it.

    FLINT_BIN=target/release/flint tests/bench/others.py

Works alternate within each round; the tables have medians. Everything listens on loopback, on free ports, in fresh
directories. What is not installed is skipped with a message:

    wrk, redis-server, redis-benchmark    scripts/bench --install
    throttlecrab-server                   cargo install throttlecrab-server (with protoc), on the PATH or in THROTTLECRAB
    the Python package limits             pip install 'limits[redis]' for the interpreter in OTHERS_PYTHON

Each checks one limit that never denies, by the cheapest algorithm it has. ROUNDS (default 3) and SECONDS_EACH (default
3) may be set.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = float(os.environ.get("SECONDS_EACH", "3"))
FLINT = os.environ["FLINT_BIN"]
THROTTLECRAB = os.environ.get("THROTTLECRAB") or shutil.which("throttlecrab-server")
PYTHON = os.environ.get("OTHERS_PYTHON") or sys.executable
# Capacity of the limit whose spending is to be remembered, and what is spent of it. A year's period: nothing comes back
# while this runs.
CAPACITY, SPENT, YEAR = 100_000, 1000, 365 * 86400


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Server:
    """A server with its own port and directory, which outlive a restart."""

    what = durability = ""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="flint-others-")
        self.port = free_port()
        self.process = None

    def command(self):
        raise NotImplementedError

    def start(self):
        with open(os.path.join(self.directory, "output"), "ab") as output:
            self.process = subprocess.Popen(self.command(), cwd=self.directory, stdout=output, stderr=output)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    with open(os.path.join(self.directory, "output"), errors="replace") as output:
                        sys.exit("%s does not start: %s" % (self.what, output.read()[-2000:]))
                time.sleep(0.02)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(30)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.directory)

    def post(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = json.loads(answer.read())
            if answer.status != 200:
                sys.exit("%s: %s" % (self.what, found))
            return found
        finally:
            connection.close()

    def resp(self, *words):
        """One command of the Redis protocol, for answers that are a list of integers or a bulk string."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection, connection.makefile("rwb") as file:
            file.write(b"*%d\r\n" % len(words))
            for word in map(str, words):
                file.write(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()))
            file.flush()
            head = file.readline()
            if head[:1] == b"*":
                return [int(file.readline()[1:]) for _ in range(int(head[1:]))]
            if head[:1] == b"$":
                return file.read(int(head[1:])).decode()
            sys.exit("%s: %s" % (self.what, head))

    def wrk(self, path, body, connections):
        script = os.path.join(self.directory, "wrk.lua")
        with open(script, "w") as file:
            file.write(
                'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = %s\n'
                "function done(s) local e = s.errors; io.write('failed: ', e.status + e.connect + e.read + e.write + "
                "e.timeout, '\\n') end\n" % json.dumps(json.dumps(body))
            )
        url = "http://127.0.0.1:%d%s" % (self.port, path)
        command = ["wrk", "-t1", "-c%d" % connections, "-d%ds" % max(1, round(SECONDS)), "-s", script, url]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60 + 4 * SECONDS).stdout
        if "failed: 0\n" not in output:
            sys.exit("%s: answers that were no success\n%s" % (self.what, output))
        return float(re.search(r"Requests/sec: *([\d.]+)", output).group(1))

    def redis_benchmark(self, connections, *words):
        def run(requests):
            command = ["redis-benchmark", "-p", self.port, "-c", connections, "-n", requests, "--csv", *words]
            output = subprocess.run(
                list(map(str, command)), capture_output=True, text=True, check=True, timeout=60 + 20 * SECONDS
            ).stdout
            return float(output.strip().splitlines()[-1].split('"')[3])

        # It has no option for a duration: a short run shows how many requests take that long.
        return run(int(run(2000) * SECONDS) + 1)


class Flint(Server):
    def __init__(self, sync):
        super().__init__()
        self.sync = sync
        self.what = "Flint, HTTP, --sync %s" % sync
        self.durability = {"always": "nothing"}.get(sync, "0.1 s or 100 checks")

    def command(self):
        data = os.path.join(self.directory, "data")
        return [FLINT, "--data-dir", data, "server", "start", "--bind", "127.0.0.1:%d" % self.port, "--sync", self.sync]

    def rate(self, connections):
        self.post("/v1/limits", {"key": "bench", "rate": 10**12, "per": "1d"})
        return self.wrk("/v1/check", {"key": "bench"}, connections)

    def configure(self):
        self.post("/v1/limits", {"key": "kept", "rate": CAPACITY, "per": YEAR})

    def spend(self):
        """Spends one unit; what is left."""
        return self.post("/v1/check", {"key": "kept"})["remaining"]


class Redis(Server):
    def __init__(self, fsync):
        super().__init__()
        self.fsync = fsync
        self.what = "Redis, Lua token bucket, %s" % ("appendfsync " + fsync if fsync else "no persistence")
        self.durability = {"always": "nothing", "everysec": "1 to 2 s", None: "everything"}[fsync]

    def command(self):
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.directory, "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", self.fsync] if self.fsync else ["--appendonly", "no"]
        return ["redis-server", *options]

    def configure(self):
        with open(os.path.join(HERE, "token_bucket.lua")) as file:
            self.script = self.resp("SCRIPT", "LOAD", file.read())

    def rate(self, connections):
        self.configure()
        return self.redis_benchmark(connections, "evalsha", self.script, 1, "bench", 10**12, 10**12, 86400000, 1)

    def spend(self):
        return self.resp("EVALSHA", self.script, 1, "kept", CAPACITY, CAPACITY, YEAR * 1000, 1)[1]


class Throttlecrab(Server):
    durability = "everything"

    def __init__(self, protocol):
        super().__init__()
        self.protocol = protocol
        self.what = "throttlecrab, %s" % {"http": "HTTP", "redis": "Redis protocol"}[protocol]

    def command(self):
        listen = ["--%s" % self.protocol, "--%s-host" % self.protocol, "127.0.0.1"]
        return [THROTTLECRAB, *listen, "--%s-port" % self.protocol, str(self.port), "--log-level", "error"]

    def configure(self):
        # Its limits come with each request.
        pass

    def rate(self, connections):
        if self.protocol == "redis":
            return self.redis_benchmark(connections, "THROTTLE", "bench", 10**9, 10**9, 86400)
        body = {"key": "bench", "max_burst": 10**9, "count_per_period": 10**9, "period": 86400}
        return self.wrk("/throttle", body, connections)

    def spend(self):
        if self.protocol == "redis":
            return self.resp("THROTTLE", "kept", CAPACITY, CAPACITY, YEAR)[2]
        body = {"key": "kept", "max_burst": CAPACITY, "count_per_period": CAPACITY, "period": YEAR}
        return self.post("/throttle", body)["remaining"]


def kept(server):
    """How many of SPENT units a server that was killed remembers."""
    server.configure()
    for _ in range(SPENT):
        left = server.spend()
    server.stop(signal.SIGKILL)
    server.start()
    server.configure()
    # This asks for one more.
    return max(0, SPENT + (left - server.spend()) - 1)


def from_python(library, server, threads):
    """Checks per second from one Python process, by its library for this server (None: in the process itself)."""
    environment = {**os.environ, "PYTHONPATH": os.path.join(HERE, "..", "..", "scripts", "python")}
    command = [PYTHON, os.path.join(HERE, "others_client.py"), library, str(server.port if server else 0)]
    done = subprocess.run(
        [*command, str(threads), str(SECONDS)], env=environment, capture_output=True, text=True, timeout=60 + 4 * SECONDS
    )
    if done.returncode != 0:
        sys.exit("%s from Python: %s" % (library, done.stderr[-2000:]))
    return float(done.stdout)


def missing(what, how):
    print("SKIPPED: %s is not installed (%s)" % (what, how))


def contenders():
    if not (shutil.which("redis-server") and shutil.which("redis-benchmark")):
        missing("redis-server or redis-benchmark", "scripts/bench --install")
        redis = []
    else:
        redis = [lambda fsync=fsync: Redis(fsync) for fsync in ("always", "everysec", None)]
    syncs = ("always", "batch", "relaxed")
    flint = [lambda sync=sync: Flint(sync) for sync in syncs]
    crab = []
    if THROTTLECRAB is None:
        missing("throttlecrab-server", "cargo install throttlecrab-server, with protoc")
    else:
        protocols = ("http", "redis") if redis else ("http",)
        crab = [lambda protocol=protocol: Throttlecrab(protocol) for protocol in protocols]
    served = [*flint, *redis, *crab]
    python = [("Flint's client, --sync %s" % sync, "flint", make) for sync, make in zip(syncs, flint)]
    if subprocess.run([PYTHON, "-c", "import limits"], capture_output=True).returncode != 0:
        missing("the Python package limits in %s" % PYTHON, "pip install 'limits[redis]', and OTHERS_PYTHON")
    else:
        python += [("limits, Redis, appendfsync %s" % f, "limits", make) for f, make in zip(("always", "everysec"), redis)]
        python.append(("limits, in memory (one process alone)", "limits", None))
    return served, python


def main():
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: run scripts/bench --install")
    served, python = contenders()
    rates, memory, columns = {}, {}, {}
    for turn in range(ROUNDS):
        for make in served:
            for connections in (1, 32):
                with make() as server:
                    rates.setdefault((server.what, connections), []).append(server.rate(connections))
                    columns[server.what] = server.durability
        for what, library, make in python:
            for threads in (1, 8):
                server = make() if make else None
                if server is None:
                    rate = from_python(library, None, threads)
                else:
                    with server:
                        rate = from_python(library, server, threads)
                rates.setdefault((what, threads), []).append(rate)
        print("round %d of %d is done" % (turn + 1, ROUNDS), flush=True)
    for make in served:
        with make() as server:
            memory[server.what] = kept(server)
    print("\n%-40s %12s %12s %14s   %s" % ("CHECKS PER SECOND", "1 conn.", "32 conn.", "AFTER kill -9", "A POWER CUT LOSES"))
    for what, loses in columns.items():
        one, many = (statistics.median(rates[what, connections]) for connections in (1, 32))
        print("%-40s %12.0f %12.0f %9d/%d   %s" % (what, one, many, memory[what], SPENT, loses))
    print("\n%-40s %12s %12s" % ("FROM ONE PYTHON PROCESS", "1 thread", "8 threads"))
    for what, _, _ in python:
        print("%-40s %12.0f %12.0f" % (what, *(statistics.median(rates[what, threads]) for threads in (1, 8))))


if __name__ == "__main__":
    main()
