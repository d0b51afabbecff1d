"""What the parts of scripts/soak share: the real server, load on it, and a book of what a crash must leave.

Standard library alone, Python 3.9 and later. A part runs the server under a fault, has `Load` write down in a `Book`
what each connection sent and what was answered, and lets the book judge what a restart brings back. The book checks
the promise alone (nothing answered is lost in `always`, nor in `batch` by the end of the process; else a tail at most,
never a hole); it knows nothing of files and frames.
"""

import argparse
import contextlib
import copy
import http.client
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

PATIENCE = 120.0
"""Longest wait for anything, in seconds, on the slowest machine."""
CAPACITY = 1_000_000_000
BUCKET = 1000
"""Capacity of a token bucket that is refilled by one unit a year, in which nothing comes back while a part runs."""
ALGORITHMS = ("token_bucket", "fixed_window_counter", "sliding_window_log", "sliding_window_counter")
SHARED = ("shared/a", "shared/b")
HOURS = 5
"""How long a hold is made for: longer than any part runs."""
HOLDING = ("hold", "renew", "settle")
SPENDING = ("spend", *HOLDING)
"""What a quiet server writes as late as the mode allows."""
DENIED = "denied"
SKIPPED = 77


class Violation(Exception):
    """A promise that was not kept."""


class Skipped(Exception):
    """Something is missing on this machine without which the part proves nothing."""


def need(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            raise Skipped(f"{tool} is not installed")


def wait_for(what, condition, patience=PATIENCE):
    """Polls until the condition holds and returns its value."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Violation(f"{what} did not happen within {patience} s")
        time.sleep(0.005)


def wait_quietly(seconds, condition):
    """Waits until the condition holds, and no longer than this."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.005)


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def ok(self):
        if self.status != 200:
            raise Violation(f"answered {self.status} and not 200: {self.body!r}")
        return self.json()

    def code(self):
        return self.json().get("code")


class Client:
    """A client that keeps its connection. Any failure of it is an OSError or an HTTPException (see BROKEN)."""

    def __init__(self, url, timeout=PATIENCE, token=None):
        host, _, port = url[len("http://"):].rpartition(":")
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.connection = http.client.HTTPConnection(host, int(port), timeout=timeout)

    def ask(self, method, path, body=None, headers=None):
        sent = {**self.headers, **headers} if headers else self.headers
        self.connection.request(method, path, None if body is None else json.dumps(body), sent)
        response = self.connection.getresponse()
        return Reply(response.status, response.headers, response.read())

    def get(self, path):
        return self.ask("GET", path)

    def post(self, path, body=None):
        return self.ask("POST", path, body)

    def close(self):
        self.connection.close()


BROKEN = (OSError, http.client.HTTPException)


class Server:
    """A server process. `wrapper` is put before its command line and must leave it the process's own id."""

    def __init__(self, directory, *args, wrapper=()):
        command = [*wrapper, os.environ["FLINT_BIN"], "--data-dir", directory]
        command += ["server", "start", "--bind", "127.0.0.1:0", *args]
        # cargo names a dozen directories of libraries, in each of which the loader would look: no calls of Flint's.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLINT_", "LD_"))}
        self.err = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.err, env=clean)
        self.url = self._url()

    def _url(self):
        """The server's address, or None where it ended before it had one."""
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline().decode() if ready else ""
        prefix = "flint server listening on "
        if line.startswith(prefix):
            return line[len(prefix):].strip().split(" (")[0]
        self.kill()
        return None

    def client(self, timeout=PATIENCE, token=None):
        return Client(self.url, timeout, token)

    def alive(self):
        return self.process.poll() is None

    def kill(self):
        self.process.kill()
        return self.process.wait()

    def terminate(self):
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def stderr(self):
        self.err.seek(0)
        return self.err.read().decode(errors="replace")

    def resident_kib(self, name="VmRSS"):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return next((int(line.split()[1]) for line in status if line.startswith(f"{name}:")), 0)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@contextlib.contextmanager
def serving(directory, *args, **options):
    """A server that must start, and that ends with the block."""
    server = Server(directory, *args, **options)
    try:
        if server.url is None:
            raise Violation(f"the server did not start: {server.stderr().strip()}")
        yield server
    finally:
        server.kill()


def statuses(server):
    """All limits; those of slots with their open holds by id: what each takes, and until when."""
    client = server.client()
    found = {status["key"]: status for status in client.get("/v1/limits").ok()}
    for key, status in found.items():
        if "slots" in status:
            holds = client.get("/v1/limits/" + key.replace("/", "%2F")).ok()["holds"]
            status["holds"] = {hold["hold"]: (hold["cost"], hold["expires_at"]) for hold in holds}
    client.close()
    return found


class Limit:
    """The state of a limit of the book."""

    __slots__ = ("capacity", "spent", "allowed", "cost", "resets")

    def __init__(self, capacity=CAPACITY):
        self.capacity, self.spent, self.allowed, self.cost, self.resets = capacity, 0, 0, 0, 0

    def view(self):
        return (self.capacity, self.spent, self.allowed, self.cost)

    def matches(self, status):
        return self.view() == view(status)

    def take(self, cost):
        self.spent, self.allowed, self.cost = self.spent + cost, self.allowed + 1, self.cost + cost

    def correct(self, held, cost, resets):
        """What was held has cost something else. Nothing is given back for what was held before a reset."""
        if cost > held:
            self.take(cost - held)
        elif self.resets == resets:
            self.spent -= held - cost


class Slots:
    """The state of a connection's slots, and so of its holds. What was not answered is reported nowhere: the id of
    such a hold, and until when it lasts, are taken from what is found."""

    __slots__ = ("holds", "allowed")

    def __init__(self):
        self.holds, self.allowed = {}, 0

    def unknown(self, found):
        known = {hold["told"].get("id") for hold in self.holds.values()}
        return [name for name in found if name not in known]

    def matches(self, status):
        found, strange = status["holds"], 0
        for hold in self.holds.values():
            name, until = hold["told"].get("id"), hold["until"].get("until")
            if name is None:
                strange += 1
            elif name not in found or found[name][0] != 1:
                return False
            elif found[name][1] != until and (until is not None or found[name][1] == hold["before"]):
                return False
            elif until is None and found[name][1] == hold["before"]:
                return False
        return (
            strange == len(self.unknown(found)) and status["used"] == len(self.holds)
            and (status["total_allowed"], status["total_allowed_cost"]) == (self.allowed, self.allowed))

    def adopt(self, status):
        """Learns from what is found what was not answered."""
        found, strange = status["holds"], self.unknown(status["holds"])
        for hold in self.holds.values():
            if "id" not in hold["told"]:
                hold["told"]["id"] = strange.pop()
            hold["until"]["until"] = found[hold["told"]["id"]][1]


def view(status):
    if "slots" in status:
        return (status["slots"], status["used"], status["total_allowed"], sorted(status.get("holds", ())))
    capacity = status["rate"] if status["burst"] is None else status["burst"]
    return (capacity, capacity - status["remaining"], status["total_allowed"], status["total_allowed_cost"])


class Ledger:
    """One connection: what it did, in the order in which it did it. It has one request in flight, and keys of its own
    besides the shared ones; so what a restart brings back of its keys names exactly how many of its operations are
    left, and that they are the first ones."""

    def __init__(self, index, seed):
        self.index, self.random = index, random.Random(seed * 1000 + index)
        self.state = {key: Limit() for key in SHARED}
        self.slots = f"own{index}/slots"
        self.made = 0
        self.churn = True
        self.begin()

    def begin(self):
        self.ops, self.sent_at, self.answered_at, self.floor = [], [], [], 0
        self.ahead = copy.deepcopy(self.state)
        holds = self.state[self.slots].holds if self.slots in self.state else {}
        self.ids = {number: hold["told"]["id"] for number, hold in holds.items()}

    def changed(self):
        """How many operations there are up to the last change of a limit that was answered: such a change is written
        in every mode, and all before it."""
        return max((at + 1 for at in range(len(self.answered_at)) if self.ops[at][0] not in SPENDING), default=0)

    def certain(self, begun, ended):
        """How many operations a power cut must leave: those that were answered before it began, and, since a disk that
        is gone must be told, those that were sent when it was done and answered. A sync that it overtakes may return
        as if it had succeeded: to ext4 a transaction that was aborted is over like one that was written. Such an
        answer would not have left a machine without power."""
        return max((at + 1 for at, answered in enumerate(self.answered_at)
                    if answered < begun or self.sent_at[at] > ended), default=0)

    def keys(self):
        return [f"own{self.index}/{algorithm}" for algorithm in ALGORITHMS]

    def next_op(self):
        """A new operation; each one changes the connection's own keys, and none is denied."""
        bucket = self.keys()[0]
        op = ("reset", bucket) if self.ahead[bucket].spent > BUCKET - 10 else self._any_op()
        self.apply(self.ahead, op)
        return op

    def _any_op(self):
        if self.random.random() < 0.25:
            return self._any_hold()
        turn = self.random.random()
        own = self.random.choice(self.keys())
        cost = self.random.randint(1, 3)
        if turn < 0.75 or not self.churn:
            return ("spend", ((own, cost),)) if turn < 0.6 else ("spend", ((own, cost), (SHARED[0], 2), (SHARED[1], 2)))
        if turn < 0.80 and self.ahead[own].spent > 0:
            return ("reset", own)
        fresh = sorted(key for key in self.ahead if "/new" in key)
        if turn < 0.88 or not fresh:
            self.made += 1
            return ("create", f"own{self.index}/new{self.made:06}", CAPACITY)
        key = self.random.choice(fresh)
        # What was created and removed and did nothing between would leave no trace.
        if turn < 0.93 or self.ahead[key].spent == 0:
            return ("spend", ((key, cost), (own, 1)))
        if turn < 0.96:
            return ("create", key, self.ahead[key].capacity + 1)
        return ("remove", key)

    def _any_hold(self):
        """A hold of units and of a slot, or what becomes of one. `told` and `until` are filled by the answer."""
        holds, turn = self.ahead[self.slots].holds, self.random.random()
        if not holds or (turn < 0.5 and len(holds) < 20):
            self.made += 1
            shared = self.random.choice([0, 2])
            return ("hold", self.made, self.random.choice(self.keys()), self.random.randint(1, 3), shared, {})
        number = self.random.choice(sorted(holds))
        hold = holds[number]
        if turn < 0.65:
            # Never for as long as before, so that it is seen.
            hours = self.random.choice([hours for hours in range(6, 25) if hours != hold["hours"]])
            return ("renew", number, hours, {})
        cost = self.random.choice([hold["cost"], 0, hold["cost"] + self.random.randint(1, 3)])
        shared = ((SHARED[0], self.random.randint(0, 4)),) if hold["shared"] else ()
        return ("settle", number, ((hold["own"], cost), *shared))

    def body(self, op):
        """What is asked for with a hold."""
        if op[0] == "hold":
            items = [(op[2], op[3]), (self.slots, 1)] + ([(SHARED[0], op[4])] if op[4] else [])
            return {"items": items, "ttl": f"{HOURS}h"}
        if op[0] == "renew":
            return {"hold": self.ids[op[1]], "ttl": f"{op[2]}h"}
        return {"hold": self.ids[op[1]], "costs": dict(op[2])}

    def learn(self, op, answer):
        """Keeps what an answer says of a hold."""
        if op[0] == "hold":
            op[5].update(id=answer["hold"], until=answer["expires_at"])
            self.ids[op[1]] = answer["hold"]
        elif op[0] == "renew":
            op[3].update(until=answer["expires_at"])

    def apply(self, state, op):
        if op[0] == "spend":
            for key, cost in op[1]:
                state[key].take(cost)
        elif op[0] == "reset":
            state[op[1]].spent = 0
            state[op[1]].resets += 1
        elif op[0] == "create":
            state.setdefault(op[1], Limit()).capacity = op[2]
        elif op[0] == "remove":
            del state[op[1]]
        else:
            self._apply_hold(state, op)

    def _apply_hold(self, state, op):
        slots = state[self.slots]
        if op[0] == "hold":
            _, number, own, cost, shared, told = op
            state[own].take(cost)
            if shared:
                state[SHARED[0]].take(shared)
            slots.allowed += 1
            slots.holds[number] = {
                "own": own, "cost": cost, "shared": shared, "resets": state[own].resets, "hours": HOURS,
                "told": told, "until": told, "before": None}
        elif op[0] == "renew":
            hold = slots.holds[op[1]]
            before = hold["until"].get("until")
            slots.holds[op[1]] = {**hold, "hours": op[2], "until": op[3], "before": before}
        else:
            hold = slots.holds.pop(op[1])
            for key, cost in op[2]:
                held, resets = (hold["shared"], 0) if key in SHARED else (hold["cost"], hold["resets"])
                state[key].correct(held, cost, resets)

    def settle(self, found):
        """How many operations are left, by what was found of the connection's own keys."""
        own = {key: status for key, status in found.items() if key.startswith(f"own{self.index}/")}
        state, matches = copy.deepcopy(self.state), []
        for count in range(len(self.ops) + 1):
            if count > 0:
                self.apply(state, self.ops[count - 1])
            mine = {key: limit for key, limit in state.items() if key not in SHARED}
            if mine.keys() == own.keys() and all(limit.matches(own[key]) for key, limit in mine.items()):
                matches.append((count, copy.deepcopy(state)))
        if not matches:
            raise Violation(
                f"connection {self.index}: what was found is not the state after any number of its "
                f"{len(self.ops)} operations ({len(self.answered_at)} answered): "
                f"{ {key: view(status) for key, status in own.items()} }")
        if len(matches) > 1:
            raise AssertionError(f"connection {self.index}: an operation changed nothing: {self.ops}")
        if self.slots in own:
            matches[0][1][self.slots].adopt(own[self.slots])
        return matches[0]


class Book:
    """What all connections did since the last crash, and what was left by the crashes before."""

    def __init__(self, connections=8, seed=1):
        self.ledgers = [Ledger(index, seed) for index in range(connections)]
        self.denied, self.denied_sent, self.denied_answered, self.denied_floor = 0, 0, 0, 0
        self.lost, self.oldest = 0, 0.0

    def open(self, server):
        """Configures what the connections begin with."""
        client = server.client()
        for ledger in self.ledgers:
            for key, algorithm in zip(ledger.keys(), ALGORITHMS):
                configure(client, key, algorithm)
                ledger.state[key] = Limit(BUCKET if algorithm == "token_bucket" else CAPACITY)
            client.post("/v1/limits", {"key": ledger.slots, "slots": BUCKET}).ok()
            ledger.state[ledger.slots] = Slots()
            ledger.begin()
        for key in SHARED:
            configure(client, key, "fixed_window_counter")
        client.post("/v1/limits", {"key": DENIED, "rate": 1, "per": "366d", "algorithm": "fixed_window_counter"}).ok()
        client.post("/v1/check", {"key": DENIED}).ok()
        client.post("/v1/log/flush").ok()
        client.close()

    def settle(self, found, sync, crashed_at=None, window=0.0, killed=False, cut_until=None):
        """Judges what was found after a crash and goes on from there. `killed`: the process ended, and the machine did
        not. `cut_until`: when a power cut that began at `crashed_at` was done. Where a tail may be lost, what was
        answered longer than `window` seconds before the crash must be left too."""
        exact = sync == "always" or (killed and sync == "batch")
        lost_answered, kept_sent = [], []
        shares = {key: [0, 0, 0] for key in SHARED}
        for ledger in self.ledgers:
            left, state = ledger.settle(found)
            answered = len(ledger.answered_at)
            certain = answered if cut_until is None else ledger.certain(crashed_at, cut_until)
            floor = certain if exact else ledger.floor
            if killed:
                floor = max(floor, ledger.changed())
            if crashed_at is not None:
                floor = max(floor, sum(1 for at in ledger.answered_at if at < crashed_at - window))
            if left < floor:
                raise Violation(f"connection {ledger.index}: {floor} operations must be left, and {left} are ({sync})")
            lost_answered += ledger.answered_at[left:]
            kept_sent += ledger.sent_at[:left]
            self.lost += max(0, answered - left)
            ledger.state = state
            for key in SHARED:
                shares[key] = [sum(pair) for pair in zip(shares[key], state[key].view()[1:])]
        if lost_answered and kept_sent and max(kept_sent) > min(lost_answered):
            gap = max(kept_sent) - min(lost_answered)
            raise Violation(f"a hole: an operation sent {gap:.6f} s after a lost one was answered is left")
        if lost_answered and crashed_at is not None:
            self.oldest = max(self.oldest, crashed_at - min(lost_answered))
        self._settle_shared(found, shares)
        for ledger in self.ledgers:
            ledger.begin()

    def _settle_shared(self, found, shares):
        known = {key for ledger in self.ledgers for key in ledger.state} | {DENIED}
        if set(found) != known:
            raise Violation(f"limits that should not be there, or are missing: {set(found) ^ known}")
        for key in SHARED:
            expected = (CAPACITY, *shares[key])
            if view(found[key]) != expected:
                raise Violation(f"{key} is {view(found[key])}, and what its connections have left is {expected}")
        denied = found[DENIED]["total_denied"]
        if not self.denied + self.denied_floor <= denied <= self.denied + self.denied_sent:
            more = f"{self.denied_floor} to {self.denied_sent}"
            raise Violation(f"{denied} denials are left of {self.denied} and {more} more")
        if view(found[DENIED]) != (1, 1, 1, 1):
            raise Violation(f"a denial changed its limit: {found[DENIED]}")
        self.denied, self.denied_sent, self.denied_answered, self.denied_floor = denied, 0, 0, 0


def configure(client, key, algorithm):
    """Periods are a year long: all that is checked holds still."""
    body = {"key": key, "rate": CAPACITY, "per": "366d", "algorithm": algorithm}
    if algorithm == "token_bucket":
        body.update(rate=1, burst=BUCKET)
    client.post("/v1/limits", body).ok()


def send(client, ledger, op):
    if op[0] in HOLDING:
        return client.post(f"/v1/{op[0]}", ledger.body(op))
    if op[0] == "reset":
        return client.post("/v1/reset", {"key": op[1]})
    if op[0] == "create":
        body = {"key": op[1], "rate": op[2], "per": "366d", "algorithm": "fixed_window_counter"}
        return client.post("/v1/limits", body)
    if op[0] == "remove":
        return client.ask("DELETE", "/v1/limits/" + op[1].replace("/", "%2F"))
    if len(op[1]) == 1:
        return client.post("/v1/check", {"key": op[1][0][0], "cost": op[1][0][1]})
    return client.post("/v1/check-all", {"items": op[1]})


class Load:
    """Load on a server, from a thread per connection, with compactions and flushes. A connection ends with the first
    request that is not answered 200: whether that one was carried out is open, as it would be to any client."""

    def __init__(self, server, book, churn=True, compact_every=0.04, flush_every=0.03, pause=0.0, may_end=False):
        self.server, self.book, self.pause = server, book, pause
        self.over, self.failures, self.refusals = threading.Event(), [], []
        self.refused, self.compactions = set(), 0
        self.expected_end = may_end
        work = [lambda ledger=ledger: self._drive(ledger) for ledger in book.ledgers]
        for ledger in book.ledgers:
            ledger.churn = churn
        if compact_every:
            work.append(lambda: self._repeat(compact_every, self._compact))
        if flush_every:
            work.append(lambda: self._repeat(flush_every, self._flush))
        work.append(lambda: self._repeat(0.002, self._deny))
        self.threads = [threading.Thread(target=self._guarded, args=(run,), daemon=True) for run in work]
        for thread in self.threads:
            thread.start()

    def answered(self):
        return sum(len(ledger.answered_at) for ledger in self.book.ledgers)

    def ended(self):
        """Whether every connection has ended, because it was refused or because of a failure."""
        return self.failures or len(self.refused) == len(self.book.ledgers)

    def expect_end(self):
        """From now on a connection may break."""
        self.expected_end = True

    def stop(self):
        """Waits for the load to end, after the server was ended or so that it does."""
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                raise Violation("a request was neither answered nor broken off")
        if self.failures:
            raise Violation(self.failures[0])

    def _guarded(self, run):
        try:
            run()
        except BROKEN as error:
            if not self.expected_end:
                self.failures.append(f"a connection broke while the server was meant to live: {error!r}")
        except Violation as error:
            self.failures.append(str(error))
        except Exception:
            self.failures.append(traceback.format_exc())

    def _drive(self, ledger):
        client = self.server.client()
        while not self.over.is_set():
            op = ledger.next_op()
            ledger.ops.append(op)
            ledger.sent_at.append(time.monotonic())
            reply = send(client, ledger, op)
            if reply.status != 200:
                self.refusals.append(reply)
                self.refused.add(ledger.index)
                return
            ledger.answered_at.append(time.monotonic())
            answer = reply.json()
            if op[0] in ("spend", "hold") and not answer["allowed"]:
                raise Violation(f"{op} was denied: {reply.body!r}")
            ledger.learn(op, answer)
            if self.pause:
                self.over.wait(self.pause)

    def _repeat(self, pause, run):
        client = self.server.client()
        while not self.over.wait(pause):
            reply = run(client)
            if reply.status != 200:
                self.refusals.append(reply)

    def _compact(self, client):
        reply = client.post("/v1/log/compact")
        self.compactions += reply.status == 200
        return reply

    def _flush(self, client):
        answered = [len(ledger.answered_at) for ledger in self.book.ledgers]
        denied = self.book.denied_answered
        reply = client.post("/v1/log/flush")
        if reply.status == 200:
            for ledger, count in zip(self.book.ledgers, answered):
                ledger.floor = count
            self.book.denied_floor = denied
        return reply

    def _deny(self, client):
        self.book.denied_sent += 1
        reply = client.post("/v1/check", {"key": DENIED})
        if reply.status == 200:
            if reply.json()["allowed"]:
                raise Violation(f"{DENIED} was allowed: {reply.body!r}")
            self.book.denied_answered += 1
        return reply


WINDOW = 2.0
"""Seconds before a crash beyond which nothing may be lost in any mode: the flush interval of 0.1 s, and a slow disk on a
slow machine (0.7 s were seen)."""


def span(number):
    """How long the round is under load, and the pause of its connections, in seconds. A long one now and then, which is
    otherwise quiet, with so few checks that only the flush interval makes them durable in `batch` and `relaxed`."""
    return (1.5 * WINDOW, 0.05) if number % 20 == 3 else (random.uniform(0.01, 0.5), 0.0)


def trace(inject, calls=None, to="/dev/null"):
    """A command line before that of the server by which strace injects faults into it. The process id stays the
    server's, and strace ends with it. (With --seccomp-bpf strace 6.1 counts no further than one.)"""
    command = ["strace", "-D", "-f", "-qq", "-o", to]
    specs = [inject] if isinstance(inject, str) else list(inject)
    command += ["-e", "trace=" + (calls or ",".join(spec.split(":")[0] for spec in specs))]
    for spec in specs:
        command += ["-e", f"inject={spec}"]
    return command


def verify(directory):
    """`flint log verify` of a directory that no server owns."""
    command = [os.environ["FLINT_BIN"], "--data-dir", directory, "log", "verify"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise Violation(f"flint log verify: {run.returncode} {run.stdout} {run.stderr}")


def chosen(names, only):
    """The names of cases that have this in them."""
    found = [name for name in names if only in name]
    if not found:
        print(f"no case has {only} in its name; there are: {' '.join(names)}", file=sys.stderr)
        sys.exit(2)
    return found


def main(name, run, rounds, seconds=None, cases=False):
    """The frame of a part: its options, a fresh directory, one line of outcome, an exit status. A part with
    cases runs one of them alone where asked to, and some say how many seconds a case takes."""
    parser = argparse.ArgumentParser(prog=f"scripts/soak {name}")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds to run (default {rounds})")
    if cases:
        parser.add_argument("--only", default="", help="run the cases alone that have this in their names")
    if seconds is not None:
        parser.add_argument("--seconds", type=int, default=seconds, help=f"seconds of a case (default {seconds})")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="repeats the choices of a run")
    options = parser.parse_args()
    random.seed(options.seed)
    # SIGTERM must clean up as an exception does: mounts and servers would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parent = tempfile.mkdtemp(prefix=f"flint-soak-{name}-")
    begun = time.monotonic()
    try:
        said = run(options, parent)
    except Skipped as reason:
        print(f"{name}: SKIPPED: {reason}", flush=True)
        shutil.rmtree(parent, ignore_errors=True)
        sys.exit(SKIPPED)
    except SystemExit:
        shutil.rmtree(parent, ignore_errors=True)
        raise
    except Violation as violation:
        print(f"{name}: VIOLATED (seed {options.seed}, files kept in {parent}): {violation}", flush=True)
        sys.exit(1)
    shutil.rmtree(parent, ignore_errors=True)
    print(f"{name}: held: {said} ({time.monotonic() - begun:.0f} s, seed {options.seed})", flush=True)
