#!/usr/bin/env python3
"""Two builds of Flint compared on this machine: checks per second, processor time and context switches of a
check, over TCP and over a Unix socket. `scripts/bench compare OTHER_BINARY` runs it.

    FLINT_BIN=target/release/flint tests/bench/compare.py OTHER_BINARY

Both servers stand ready, and each work is measured with one and at once with the other, in changing order: the speed of
a machine changes from minute to minute, so what counts is the median of the ratios of such pairs. ROUNDS (default 3)
and SECONDS_EACH (default 4) may be set.
"""

import contextlib
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

ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = max(1, round(float(os.environ.get("SECONDS_EACH", "4"))))
SYNCS = ("always", "batch")
CONNECTIONS = (1, 32, 128)
# Over a Unix socket wrk can't; so h2load over TCP is there to be compared with.
WAYS = (("tcp", "wrk"), ("tcp", "h2load"), ("unix", "h2load"))
TICKS = os.sysconf("SC_CLK_TCK")
BODY = {"key": "bench"}


class Connection(http.client.HTTPConnection):
    """One over TCP or over a Unix socket."""

    def __init__(self, address):
        super().__init__("localhost", timeout=20)
        self.address = address

    def connect(self):
        if isinstance(self.address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(self.address)
        else:
            self.sock = socket.create_connection(self.address, self.timeout)


class Server:
    """A server with a limit that never denies, in its own directory."""

    def __init__(self, binary, parent, name, sync, transport):
        self.path = os.path.join(parent, name)
        bind = "unix:" + self.path + ".sock" if transport == "unix" else "127.0.0.1:0"
        command = [binary, "--data-dir", self.path, "server", "start", "--bind", bind, "--sync", sync]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FLINT_")}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=clean)
        try:
            self.prepare(binary, transport)
        except BaseException:
            self.stop()
            raise

    def prepare(self, binary, transport):
        line = self.process.stdout.readline().decode().strip()
        self.url = line.rpartition(" listening on ")[2].split(" (")[0]
        if not line:
            sys.exit("%s does not start (exit status %s)" % (binary, self.process.wait(20)))
        self.address = self.path + ".sock"
        if transport == "tcp":
            host, _, port = self.url[len("http://"):].rpartition(":")
            self.address = (host, int(port))
        connection = Connection(self.address)
        connection.request("POST", "/v1/limits", json.dumps({**BODY, "rate": 10**12, "per": "1d"}))
        if connection.getresponse().status != 200:
            sys.exit("%s configures no limit" % binary)
        connection.close()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def ticks(self):
        """Processor time so far, in ticks of the clock."""
        with open("/proc/%d/stat" % self.process.pid) as stat:
            # Behind the command's name, which may have blanks.
            fields = stat.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def switches(self):
        """Context switches so far, for each thread."""
        found, tasks = {}, "/proc/%d/task" % self.process.pid
        for task in os.listdir(tasks):
            # A thread may end meanwhile.
            with contextlib.suppress(OSError), open(os.path.join(tasks, task, "status")) as status:
                found[task] = sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
        return found


def wrk(server, connections, files):
    command = ["wrk", "-t1", "-c%d" % connections, "-d%ds" % SECONDS, "--timeout", "10s", "-s", files["lua"]]
    output = run([*command, server.url + "/v1/check"])
    if "failed: 0\n" not in output:
        sys.exit("answers that were no success:\n" + output)
    return int(re.search(r"(\d+) requests in", output)[1]), float(re.search(r"Requests/sec: *([\d.]+)", output)[1])


def h2load(server, connections, files):
    command = ["h2load", "--h1", "-t1", "-c%d" % connections, "-D%d" % SECONDS, "-d", files["body"]]
    if isinstance(server.address, str):
        command += ["-B", "unix:" + server.address, "http://localhost/v1/check"]
    else:
        command.append(server.url + "/v1/check")
    output = run(command)
    done, failed, errored = re.search(r" (\d+) done, \d+ succeeded, (\d+) failed, (\d+) errored", output).groups()
    if int(done) == 0 or failed != "0" or errored != "0":
        sys.exit("answers that were no success:\n" + output)
    return int(done), float(re.search(r"finished in .*, ([\d.]+) req/s", output)[1])


def run(command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60 + 4 * SECONDS).stdout


def measure(server, tool, connections, files):
    """Checks per second, microseconds of the server's processor time for one, and its context switches."""
    ticks, before = server.ticks(), server.switches()
    count, rate = {"wrk": wrk, "h2load": h2load}[tool](server, connections, files)
    after, ticks = server.switches(), server.ticks() - ticks
    # A thread that has ended meanwhile was one without work.
    switches = sum(times - before.get(task, 0) for task, times in after.items())
    return rate, ticks / TICKS * 1e6 / count, switches / count


def round_of(number, binaries, parent, files, found):
    """Each work once with each binary."""
    for sync in SYNCS:
        for transport in ("tcp", "unix"):
            with contextlib.ExitStack() as servers:
                pair = []
                for name, binary in enumerate(binaries):
                    pair.append(Server(binary, parent, str(name), sync, transport))
                    servers.callback(pair[-1].stop)
                for tool in (tool for where, tool in WAYS if where == transport):
                    for connections in CONNECTIONS:
                        values = [None, None]
                        for which in (0, 1) if number % 2 else (1, 0):
                            values[which] = measure(pair[which], tool, connections, files)
                        found.setdefault((sync, transport, tool, connections), []).append(values)
                        print("round %d  %s %s %s %d: " % (number, sync, transport, tool, connections) + " | ".join(
                            "%.0f/s %.1f us %.2f switches" % value for value in values), flush=True)


def median(values):
    return statistics.median(list(values))


def table(found):
    print()
    heads = ("THIS/s", "OTHER/s", "RATIO", "PAIRED", "(least", "most)", "us", "OTHER", "switches", "OTHER")
    print(("%-34s" + " %9s %9s %6s %7s %6s %6s  %6s %6s  %8s %6s") % ("CHECKS", *heads))
    for (sync, transport, tool, connections), pairs in found.items():
        this, other = ([median(pair[which][what] for pair in pairs) for what in range(3)] for which in (0, 1))
        ratios = [pair[0][0] / pair[1][0] for pair in pairs]
        print("%-34s %9.0f %9.0f %6.2f %7.2f %6.2f %6.2f  %6.1f %6.1f  %8.2f %6.2f" % (
            "%s, %s by %s, %d" % (sync, transport, tool, connections), this[0], other[0], this[0] / other[0],
            median(ratios), min(ratios), max(ratios), this[1], other[1], this[2], other[2]))
    print()
    print("%-34s %9s %9s" % ("UNIX SOCKET / TCP, by h2load", "THIS", "OTHER"))
    for sync in SYNCS:
        for connections in CONNECTIONS:
            rounds = zip(found[sync, "unix", "h2load", connections], found[sync, "tcp", "h2load", connections])
            ratios = [[unix[which][0] / tcp[which][0] for which in (0, 1)] for unix, tcp in rounds]
            print("%-34s %9.2f %9.2f" % (
                "%s, %d" % (sync, connections), median(ratio[0] for ratio in ratios),
                median(ratio[1] for ratio in ratios)))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: FLINT_BIN=target/release/flint tests/bench/compare.py OTHER_BINARY")
    if shutil.which(os.path.abspath(sys.argv[1])) is None:
        sys.exit("%s is no program that can be run: name the flint to compare with" % sys.argv[1])
    for tool in ("wrk", "h2load"):
        if shutil.which(tool) is None:
            sys.exit("scripts/bench compare needs %s: run scripts/bench --install" % tool)
    # Servers end with this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    binaries, found = [os.environ["FLINT_BIN"], sys.argv[1]], {}
    print("this is %s, the other %s" % tuple(binaries))
    with tempfile.TemporaryDirectory(prefix="flint-compare-") as parent:
        files = {"lua": os.path.join(parent, "check.lua"), "body": os.path.join(parent, "body")}
        with open(files["body"], "w") as file:
            json.dump(BODY, file)
        with open(files["lua"], "w") as file:
            file.write('wrk.method = "POST"\nwrk.body = %s\n' % json.dumps(json.dumps(BODY)))
            file.write(
                'function done(s) local e = s.errors; io.write("failed: ", e.status + e.connect + e.read + e.write + '
                'e.timeout, "\\n") end\n')
        for number in range(1, ROUNDS + 1):
            round_of(number, binaries, parent, files, found)
    table(found)


if __name__ == "__main__":
    main()
