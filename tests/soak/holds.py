"""A gateway's day of holds, under `kill -9` and under power cuts, on one directory that lives through all rounds.

Clients hold units of several windows and slots at once, and settle to more, less or the same, renew, settle late,
twice or never. A request that is not answered is sent again after the crash, by its `Idempotency-Key` where it has
one, which must spend once. Each client has a key of its own in everything it does, which tells whether a request that
was not answered was carried out; so after each crash every window must be exact to the unit, not only within what is
open."""

import os
import random
import subprocess
import tempfile
import threading
import time
from datetime import datetime

import harness
import power
from harness import Violation

CLIENTS = 12
SLACK = 0.25
"""Seconds by which a client's look at the clock may differ from the server's, on a busy machine."""
CONNECTIONS, STORM = 32, 1024
REMEMBERED = 90_000
"""Holds that may be made after another until it may be forgotten, with some room: 100 000 are remembered."""
STREAMS, GPUS = "org:acme:streams", "org:acme:gpus"
SLOTS = {STREAMS: 4, GPUS: 10}
HUGE = 1_000_000_000
SMALL = 500
"""What some clients may spend of their own key, so that they are denied, go into debt, and refund."""
REFILL = 366 * 86400 / 10_000
"""Seconds in which the bucket gets a unit back."""
SHARED = {
    "org:acme": [
        {"rate": HUGE, "per": "30d", "algorithm": "fixed_window_counter"},
        {"rate": 2 * HUGE, "per": "366d", "algorithm": "sliding_window_log"},
    ],
    "org:acme:counter": [{"rate": HUGE, "per": "366d", "algorithm": "sliding_window_counter"}],
    "org:acme:bucket": [{"rate": 10_000, "per": "366d", "burst": 10_000_000, "algorithm": "token_bucket"}],
}
FAR = float("inf")
SPENDING = ("hold", "check", "charge", "refund")


def seconds(text):
    """An instant of an answer, in seconds since 1970."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


class Hold:
    """A hold that was answered."""

    def __init__(self, answer, units, slots, sent, answered, number):
        self.id, self.units, self.slots, self.number = answer["hold"], units, slots, number
        self.expires, self.ttl = seconds(answer["expires_at"]), answer["ttl_ms"] / 1000
        self.earliest, self.latest = self.expires, self.expires
        self.sent, self.answered = sent, answered
        self.certain_until = None
        self.costs = None
        self.waits, self.late = False, None

    def may_end(self, at):
        """From now on it may be open no more."""
        if self.certain_until is None:
            self.certain_until = min(at, self.earliest)

    def span(self):
        """Within which its slots were in use for certain."""
        end = self.earliest if self.certain_until is None else self.certain_until
        return self.answered, end - 0.002


class Gateway:
    """One client. It has one request in flight; `pending` is the one that was not answered."""

    def __init__(self, index, seed, tally):
        self.index, self.random, self.tally = index, random.Random(seed * 1000 + index), tally
        self.own = f"gateway:{index}"
        self.rate = SMALL if index % 3 == 0 else HUGE
        self.spent = {self.own: 0, **{key: 0 for key in SHARED}}
        self.holds, self.settled, self.all = [], [], []
        self.orphans, self.pending, self.retries = [], None, 0
        self.kept, self.recent, self.sent = [], [], 0.0

    def add(self, units):
        for key, cost in units.items():
            self.spent[key] += cost

    # What it does.

    def turn(self, client):
        """One step."""
        chance = self.random.random()
        now = time.time()
        if self.rate == SMALL and self.spent[self.own] > SMALL - 40:
            return self.spend(client, "refund", self.random.randint(1, 300))
        ready = [hold for hold in self.holds if not hold.waits or hold.latest < now]
        if ready and chance < 0.60:
            hold = self.random.choice(ready)
            if chance < 0.10:
                return self.renew(client, hold)
            return self.settle(client, hold, self.costs(hold))
        if self.settled and 0.60 <= chance < 0.70:
            return self.settle_again(client, self.random.choice(self.settled))
        if 0.70 <= chance < 0.74:
            return self.spend(client, "charge", self.random.randint(1, 9))
        if 0.74 <= chance < 0.80:
            return self.check(client)
        if self.kept and 0.80 <= chance < 0.85:
            return self.repeat(client)
        return self.hold(client)

    def costs(self, hold):
        """What it was in the end: the same, or of the own key certainly something else."""
        if self.random.random() < 0.25:
            return dict(hold.units)
        pick = self.random
        costs = {key: pick.choice([0, cost, pick.randint(0, 3 * cost)]) for key, cost in hold.units.items()}
        while costs[self.own] == hold.units[self.own]:
            costs[self.own] = self.random.randint(0, 3 * hold.units[self.own] + 1)
        return costs

    def send(self, client, op, path, body, key=None):
        """Sends, and keeps the request in mind until it is answered."""
        sent = self.sent = time.time()
        # When it was sent first, if it is sent again.
        first = self.pending[3] if self.pending else sent
        self.pending = (op, path, body, first, key)
        reply = client.ask("POST", path, body, {"Idempotency-Key": key} if key else {})
        if reply.status == 503:
            raise ConnectionError("503")
        answered = time.time()
        if self.tally.cut_since < answered and sent < self.tally.crashed_at:
            # See Ledger.certain: such an answer would not have left a machine without power.
            raise ConnectionError("overtaken by the cut")
        self.pending = None
        self.recent = [*self.recent[-5:], (sent, answered, path, body, key, reply.status, reply.body)]
        self.tally.answered += 1
        if key and reply.status == 200 and reply.json().get("allowed", True):
            self.kept = [*self.kept[-10:], (path, body, key, reply.body, self.tally.made, sent)]
        return reply, sent, answered

    def fresh(self):
        """A key by which a request is known when it is sent again, or none."""
        if self.random.random() < 0.5:
            return f"{self.index}-{self.random.getrandbits(64):x}"
        return None

    def spend(self, client, what, cost):
        """Charges, or refunds no more than was spent."""
        if what == "refund":
            cost = min(cost, self.spent[self.own])
        units = {self.own: cost if what == "charge" else -cost}
        body = {"key": self.own, "cost": cost}
        reply, _, _ = self.send(client, (what, units), f"/v1/{what}", body, self.fresh())
        self.add(units)
        if reply.ok()["used"] != self.spent[self.own]:
            raise Violation(f"{what} of {cost}: {reply.body!r}, and not {self.spent[self.own]} used")

    def check(self, client):
        """A check, of one key or of all or each of several; only what can't be denied is asked for."""
        cost = self.random.randint(1, 9)
        if self.spent[self.own] + cost > self.rate:
            return
        units = {self.own: cost}
        path, body = "/v1/check", {"key": self.own, "cost": cost}
        if self.random.random() < 0.7:
            units.update({key: self.random.randint(1, 9) for key in SHARED if self.random.random() < 0.7})
            path = self.random.choice(["/v1/check-all", "/v1/check-many"])
            body = {"items": [list(item) for item in units.items()]}
        reply, _, _ = self.send(client, ("check", units), path, body, self.fresh())
        self.checked(reply, units)

    def checked(self, reply, units):
        answer = reply.ok()
        if not all(result["allowed"] for result in answer.get("results", [answer])):
            raise Violation(f"{units} on {self.spent[self.own]} of {self.rate} was denied: {reply.body!r}")
        self.add(units)

    def repeat(self, client):
        """What was answered is answered again by its key, also after crashes, and nothing else is."""
        path, body, key, first, number, at = self.random.choice(self.kept)
        # Of 100 000 answers and for 10 minutes.
        if self.tally.answered > REMEMBERED or time.time() - at > 590:
            self.kept = [kept for kept in self.kept if kept[2] != key]
            return
        headers = {"Idempotency-Key": key}
        if self.random.random() < 0.3:
            other = {"items": [[self.own, 97]]} if "items" in body else {"key": self.own, "cost": 97}
            reply = client.ask("POST", path, other, headers)
            if reply.status != 503 and (reply.status, reply.code()) != (422, "idempotency_mismatch"):
                raise Violation(f"another request with the key of {path} {body}: {reply.status} {reply.body!r}")
        else:
            reply = client.ask("POST", path, body, headers)
            if reply.status != 503 and (reply.body != first or reply.headers.get("Idempotency-Replayed") != "true"):
                raise Violation(f"{path} {body} was answered {first!r}, and again {reply.status} {reply.body!r}")
        if reply.status == 503:
            raise ConnectionError("503")
        self.tally.repeated += 1

    def hold(self, client):
        units = {self.own: self.random.randint(1, 12)}
        for key in SHARED:
            if self.random.random() < 0.4:
                # The bucket can't be so large that it never is empty: a bound on how long it takes to fill.
                most = 20 if key == "org:acme:bucket" else 4000
                units[key] = self.random.choice([1, self.random.randint(1, 20), most])
        slots = {}
        if self.random.random() < 0.25:
            slots[STREAMS] = 1
        if self.random.random() < 0.15:
            slots[GPUS] = self.random.randint(1, 3)
        items = list(units.items()) + list(slots.items())
        rest = items[1:]
        self.random.shuffle(rest)
        ttl = self.random.choice(["1s", "1s", "1s", "2s", "3s"])
        body = {"items": [list(item) for item in [items[0], *rest]], "ttl": ttl}
        reply, sent, answered = self.send(client, ("hold", units, slots, ttl), "/v1/hold", body, self.fresh())
        self.held(reply, units, slots, sent, answered)

    def held(self, reply, units, slots, sent, answered):
        """What became of a hold."""
        answer = reply.ok()
        fits = self.spent[self.own] + units[self.own] <= self.rate
        if not answer["allowed"]:
            self.tally.denied += 1
            if "hold" in answer or (answer["denied_key"] == self.own) is fits:
                raise Violation(f"{self.spent[self.own]} of {self.rate} and {units}: {reply.body!r}")
            return
        if not fits:
            raise Violation(f"{self.spent[self.own]} of {self.rate} and {units}: allowed, {reply.body!r}")
        for result in answer["results"]:
            if result["key"] in SLOTS and not result["used"] <= SLOTS[result["key"]]:
                raise Violation(f"more slots than there are: {reply.body!r}")
        self.add(units)
        if answer["results"][0]["used"] != self.spent[self.own]:
            raise Violation(f"{reply.body!r}, and not {self.spent[self.own]} used")
        hold = Hold(answer, units, slots, sent, answered, self.tally.next())
        if not sent + hold.ttl - SLACK <= hold.expires <= answered + hold.ttl + SLACK:
            raise Violation(f"expires at {hold.expires}, sent {sent}, answered {answered}: {reply.body!r}")
        if hold.id in self.tally.ids:
            raise Violation(f"the id {hold.id} was given twice")
        self.tally.ids.add(hold.id)
        self.all.append(hold)
        # Some are never settled, and some late.
        fate = self.random.random()
        hold.waits = fate < 0.08
        if fate < 0.95:
            self.holds.append(hold)

    def settle(self, client, hold, costs):
        hold.may_end(time.time())
        how = self.random.random()
        body = {"hold": hold.id, "costs": {key: cost for key, cost in costs.items() if cost != hold.units[key]}}
        if not body["costs"] or how < 0.3:
            body["costs"] = dict(costs, **hold.slots)
        if costs == hold.units and how > 0.6:
            del body["costs"]
        reply, sent, answered = self.send(client, ("settle", hold, costs), "/v1/settle", body)
        self.settle_done(hold, costs, reply, sent, answered)

    def settle_done(self, hold, costs, reply, sent, answered, again=False):
        if reply.status == 404 and self.may_be_forgotten(hold):
            raise Violation("a hold was forgotten while the part ran, which ran too long")
        answer = reply.ok()
        told = {result["key"]: (result["held"], result["cost"]) for result in answer["results"]}
        wanted = {key: (hold.units[key], cost) for key, cost in costs.items()}
        wanted.update({key: (count, count) for key, count in hold.slots.items()})
        if told != wanted:
            raise Violation(f"settled to {told}, and not {wanted}")
        if not again:
            late = answer["late"]
            if (late and answered < hold.earliest - SLACK) or (not late and sent > hold.latest + SLACK):
                raise Violation(f"late is {late}, sent {sent}, expires {hold.earliest} to {hold.latest}")
            self.tally.late += late
            self.tally.settled += 1
        hold.late = answer["late"]
        self.add({key: cost - hold.units[key] for key, cost in costs.items()})
        hold.costs = costs
        self.holds.remove(hold)
        self.settled = [*self.settled[-20:], hold]

    def may_be_forgotten(self, hold):
        return self.tally.made - hold.number > REMEMBERED or time.time() - hold.earliest > 590

    def settle_again(self, client, hold):
        """What was settled stays so: the same is answered the same, anything else is refused."""
        if self.may_be_forgotten(hold):
            return self.settled.remove(hold)
        costs, same = dict(hold.costs), self.random.random() < 0.5
        if not same:
            key = self.random.choice(sorted(costs))
            costs[key] += self.random.choice([1, 7])
        reply, _, _ = self.send(client, ("again", hold), "/v1/settle", {"hold": hold.id, "costs": costs})
        if same:
            answer = reply.ok()
            told = {result["key"]: result["cost"] for result in answer["results"] if result["key"] not in SLOTS}
            if told != hold.costs or answer["late"] is not hold.late:
                raise Violation(f"settled to {hold.costs}, late {hold.late}, and said again: {reply.body!r}")
        elif (reply.status, reply.code()) != (409, "hold_settled"):
            raise Violation(f"settled twice, to {hold.costs} and {costs}: {reply.status} {reply.body!r}")
        self.tally.again += 1
        return None

    def renew(self, client, hold):
        ttl = self.random.choice([None, 1, 2, 3])
        length = hold.ttl if ttl is None else ttl
        body = {"hold": hold.id} if ttl is None else {"hold": hold.id, "ttl": f"{ttl}s"}
        sent = time.time()
        before = hold.earliest, hold.latest
        # Until it is answered either may hold, and it may be shorter than before.
        hold.earliest = min(hold.earliest, sent + length - SLACK)
        hold.latest = max(hold.latest, sent + length + 1000)
        reply, sent, answered = self.send(client, ("renew", hold, length), "/v1/renew", body)
        if reply.status == 410 and reply.code() == "hold_expired":
            hold.earliest, hold.latest = before
            if answered < hold.earliest - SLACK:
                raise Violation(f"renewed at {answered}, expires {hold.earliest}: {reply.body!r}")
            return
        expires = seconds(reply.ok()["expires_at"])
        if sent > before[1] + SLACK or not sent + length - SLACK <= expires <= answered + length + SLACK:
            raise Violation(f"renewed for {length} s at {sent} to {answered}, after {before}: {reply.body!r}")
        hold.expires = hold.earliest = hold.latest = expires
        self.tally.renewed += 1

    # What a crash leaves.

    def recover(self, used, listed):
        """Judges what is there of the own key, and so what became of the request that was not answered."""
        delta, op = {}, self.pending and self.pending[0]
        if op and op[0] in SPENDING:
            delta = op[1]
        elif op and op[0] == "settle":
            delta = {key: cost - op[1].units[key] for key, cost in op[2].items()}
        base, change = self.spent[self.own], delta.get(self.own, 0)
        if used not in (base, base + change):
            raise Violation(f"{self.own} has {used} used, not {base} or {change} more ({op}); crashed at "
                            f"{self.tally.crashed_at}, did {self.recent}")
        happened = change != 0 and used != base
        left = {key: self.spent[key] + (delta.get(key, 0) if happened else 0) for key in self.spent}
        if op and op[0] == "hold" and happened:
            self.orphans.append((op[2], self.sent))
        if op and op[0] == "renew":
            self.find_renewed(op[1], op[2], listed)
        self.happened = happened
        return left

    def find_renewed(self, hold, length, listed):
        sent = self.pending[3]
        if hold.id in listed:
            expires = listed[hold.id]
            renewed = abs(expires - hold.expires) > 0.0015
            if renewed and not sent + length - SLACK <= expires <= self.tally.crashed_at + length + SLACK:
                raise Violation(f"{hold.id} expires at {expires}, not {hold.expires}, renewed for {length} s at {sent}")
            hold.expires = hold.earliest = hold.latest = expires
        else:
            hold.earliest = min(hold.expires, sent + length - SLACK)
            hold.latest = max(hold.expires, self.tally.crashed_at + length + SLACK)

    def resume(self, client):
        """Sends again what was not answered, as a client does that can't know."""
        if self.pending is None:
            return
        op, path, body, self.asked_at, key = self.pending
        if op[0] == "settle":
            reply, sent, answered = self.send(client, op, path, body)
            # Whether it was late was decided then or now.
            self.settle_done(op[1], op[2], reply, sent, answered, again=True)
        elif op[0] in SPENDING and key is not None:
            reply, sent, answered = self.send(client, op, path, body, key)
            self.retries += 1
            self.replayed(reply, op, sent, answered)
        elif op[0] in SPENDING:
            if self.happened:
                self.add(op[1])
            self.pending = None
        else:
            self.pending = None

    def replayed(self, reply, op, sent, answered):
        """A request that was sent again with its key: if it was carried out before, that is answered."""
        replayed = reply.headers.get("Idempotency-Replayed") == "true"
        if replayed is not self.happened:
            raise Violation(f"replayed is {replayed}, carried out before {self.happened} ({op}: {reply.body!r})")
        self.tally.replayed += replayed
        if op[0] == "check":
            return self.checked(reply, op[1])
        if op[0] != "hold":
            reply.ok()
            return self.add(op[1])
        self.held(reply, op[1], op[2], self.asked_at if replayed else sent, answered)
        if replayed:
            self.orphans.pop()
        return None


class Tally:
    """What all clients have in common."""

    def __init__(self):
        self.answered = self.denied = self.settled = self.again = self.renewed = self.late = 0
        self.replayed = self.repeated = 0
        self.made, self.ids, self.compactions, self.looks = 0, set(), 0, 0
        self.cut_since = self.crashed_at = FAR

    def next(self):
        self.made += 1
        return self.made


class Day:
    """The clients, and the load of a round."""

    def __init__(self, seed):
        self.tally, self.begun = Tally(), time.time()
        self.gateways = [Gateway(index, seed, self.tally) for index in range(CLIENTS)]

    def open(self, server):
        client = server.client()
        for key, windows in SHARED.items():
            client.post("/v1/limits", {"key": key, "windows": windows}).ok()
        for gateway in self.gateways:
            window = {"rate": gateway.rate, "per": "366d", "algorithm": "fixed_window_counter"}
            client.post("/v1/limits", {"key": gateway.own, **window}).ok()
        for key, slots in SLOTS.items():
            client.post("/v1/limits", {"key": key, "slots": slots}).ok()
        client.close()

    def load(self, server, span):
        """Runs the clients; ends with the crash, which the caller makes in `crash`."""
        self.over, self.failures, self.crashing = threading.Event(), [], False
        self.tally.cut_since = self.tally.crashed_at = FAR
        runs = [lambda gateway=gateway: self.drive(server, gateway) for gateway in self.gateways]
        runs += [lambda: self.repeat(server, 0.04, self.compact), lambda: self.repeat(server, 0.01, self.look)]
        self.threads = [threading.Thread(target=self.guarded, args=(run,), daemon=True) for run in runs]
        for thread in self.threads:
            thread.start()
        harness.wait_quietly(span, lambda: self.failures)

    def crash(self, how, cut=False):
        self.crashing = True
        if cut:
            self.tally.cut_since = time.time()
        how()
        self.tally.crashed_at = time.time()
        self.over.set()

    def join(self):
        for thread in self.threads:
            thread.join(harness.PATIENCE)
            if thread.is_alive():
                raise Violation("a request was neither answered nor broken off")
        if self.failures:
            raise Violation(self.failures[0])

    def guarded(self, run):
        try:
            run()
        except harness.BROKEN as error:
            if not self.crashing:
                self.failures.append(f"a connection broke while the server was meant to live: {error!r}")
        except Violation as error:
            self.failures.append(str(error))
        except Exception:
            self.failures.append(harness.traceback.format_exc())

    def drive(self, server, gateway):
        client = server.client()
        gateway.resume(client)
        while not self.over.is_set():
            gateway.turn(client)

    def repeat(self, server, pause, run):
        client = server.client()
        while not self.over.wait(pause):
            run(client)

    def compact(self, client):
        self.tally.compactions += client.post("/v1/log/compact").status == 200

    def look(self, client):
        """At no instant are more slots in use than there are, and they are those of the holds that are listed."""
        for key in SLOTS:
            self.slots(client.get(f"/v1/limits/{key}").ok(), key)
        self.tally.looks += 1

    @staticmethod
    def slots(status, key):
        listed = sum(hold["cost"] for hold in status["holds"])
        if not listed == status["used"] <= SLOTS[key] or status["remaining"] != SLOTS[key] - listed:
            raise Violation(f"slots in use of {SLOTS[key]}: {status}")

    def judge(self, server):
        """What a restart brings back."""
        client = server.client()
        asked = time.time()
        slots = {key: client.get(f"/v1/limits/{key}").ok() for key in SLOTS}
        now = time.time()
        listed = {}
        for key, status in slots.items():
            self.slots(status, key)
            for hold in status["holds"]:
                listed[hold["hold"]] = seconds(hold["expires_at"])
                left = hold["left_ms"] / 1000
                if not listed[hold["hold"]] - now - SLACK <= left <= listed[hold["hold"]] - asked + SLACK:
                    raise Violation(f"asked at {asked} to {now}, and {left} s left of {hold}")
        found = harness.statuses(server)
        sums = {key: 0 for key in SHARED}
        for gateway in self.gateways:
            left = gateway.recover(found[gateway.own]["used"], listed)
            for key in SHARED:
                sums[key] += left[key]
        for key, total in sums.items():
            self.compare(key, found[key], total)
        for key, status in slots.items():
            self.judge_slots(key, status, asked, now)
        self.overlaps()
        client.close()

    def compare(self, key, status, total):
        """Each window of the key is what was settled or held, to the unit."""
        for window in status.get("windows", [status]):
            back = 0
            if window["algorithm"] == "token_bucket":
                back = -(-(time.time() - self.begun) // REFILL) - 1
            if not total - back <= window["used"] <= total:
                raise Violation(f"{key}: {window['used']} used, and settled or held was {total}: {window}")

    def judge_slots(self, key, status, asked, now):
        """Each hold that was answered is there with its time left, and others only by requests without an answer."""
        there = {hold["hold"]: hold for hold in status["holds"]}
        strange = []
        known = {}
        for gateway in self.gateways:
            for hold in gateway.all:
                if key in hold.slots:
                    known[hold.id] = hold
        settling = {gateway.pending[0][1].id for gateway in self.gateways
                    if gateway.pending and gateway.pending[0][0] == "settle"}
        for name, hold in known.items():
            if name in there:
                told = there[name]
                if hold.costs is not None or hold.latest < asked - SLACK or told["cost"] != hold.slots[key]:
                    raise Violation(f"{told} is open, and was settled to {hold.costs} or ran out at {hold.latest}")
                if hold.earliest == hold.latest and abs(seconds(told["expires_at"]) - hold.expires) > 0.0015:
                    raise Violation(f"{told}, and it was to last until {hold.expires}")
            elif hold.costs is None and name not in settling and hold.earliest > now + SLACK:
                raise Violation(f"{name} of {key} was held until {hold.earliest}, and at {now} it is gone")
        strange = sorted(hold["cost"] for name, hold in there.items() if name not in known)
        wanted = sorted(taken[key] for gateway in self.gateways for taken, sent in gateway.orphans
                        if key in taken and sent > now - 6)
        for cost in strange:
            if cost not in wanted:
                raise Violation(f"{key}: nobody asked for these: {there}, unanswered were {wanted}")
            wanted.remove(cost)

    def overlaps(self):
        """At no instant were more slots in use than there are, by the answers to clients."""
        for key, bound in SLOTS.items():
            edges = []
            for gateway in self.gateways:
                for hold in gateway.all:
                    begin, end = hold.span()
                    if key in hold.slots and begin < end:
                        edges += [(begin, 1, hold.slots[key]), (end, 0, -hold.slots[key])]
            in_use = 0
            for at, _, change in sorted(edges):
                in_use += change
                if in_use > bound:
                    raise Violation(f"{in_use} slots of {key} were in use at {at}")
        horizon = time.time() - 700
        for gateway in self.gateways:
            gateway.all = [hold for hold in gateway.all if hold.latest > min(horizon, self.tally.crashed_at) - 5]

    def all_run_out(self, server, since):
        """No slot is in use once all holds have expired."""
        time.sleep(max(0.0, since + 3 + SLACK - time.time()))
        client = server.client()
        for key in SLOTS:
            status = client.get(f"/v1/limits/{key}").ok()
            if status["used"] or status["holds"]:
                raise Violation(f"all holds have run out: {status}")
        client.close()


def options_of(number):
    small = random.random() < 0.5
    return ["--compact-after", "65536" if small else "67108864"]


def stumble(directory):
    """A server that is killed while it starts."""
    command = [os.environ["FLINT_BIN"], "--data-dir", directory, "server", "start", "--bind", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(random.uniform(0.0, 0.03))
    process.kill()
    process.wait()


def resume_and_judge(server, day, number):
    if number == 0:
        return day.open(server)
    day.judge(server)
    if number % 8 == 0:
        day.all_run_out(server, day.tally.crashed_at)
    return None


def kill_round(number, directory, day):
    sync = ("always", "batch")[number % 2]
    if number % 4 == 3:
        stumble(directory)
    with harness.serving(directory, "--sync", sync, *options_of(number)) as server:
        resume_and_judge(server, day, number)
        day.load(server, random.choice([random.uniform(0.01, 0.3), random.uniform(0.3, 1.5)]))
        day.crash(server.kill)
        day.join()
    # Time goes on while no process runs.
    time.sleep(random.choice([0, 0, 0.3, 1.2]))


def cut_round(number, disk, day):
    with disk.mount() as directory:
        with harness.serving(directory, *options_of(number)) as server:
            resume_and_judge(server, day, number)
            day.load(server, random.choice([random.uniform(0.01, 0.3), random.uniform(0.3, 1.5)]))
            day.crash(disk.cut, cut=True)
            # A disk that is gone is reported, not hidden.
            client = server.client()
            harness.wait_for("health 503 after the cut", lambda: client.get("/v1/health").status == 503)
            reply = client.post("/v1/hold", {"key": "org:acme"})
            if (reply.status, reply.code()) != (503, "log_failed"):
                raise Violation(f"a hold was answered {reply.status} after the cut: {reply.body!r}")
            day.join()


def last_look(directory, day):
    """What is there in the end, after an orderly stop too."""
    with harness.serving(directory) as server:
        day.judge(server)
        client = server.client()
        for gateway in day.gateways:
            gateway.resume(client)
        race(server, day)
        day.all_run_out(server, time.time())
        server.terminate()
    with harness.serving(directory) as server:
        day.judge(server)
        server.terminate()
    harness.verify(directory)


def race(server, day, rounds=50, racers=4):
    """Of several that settle one hold at once to different costs exactly one succeeds."""
    gateway, client = day.gateways[1], server.client()
    for _ in range(rounds):
        held = client.post("/v1/hold", {"items": [[gateway.own, 5], ["org:acme", 5]], "ttl": "2s"}).ok()
        replies = [None] * racers

        def settle(cost):
            mine = server.client()
            costs = {gateway.own: cost, "org:acme": 9 * cost}
            replies[cost] = mine.post("/v1/settle", {"hold": held["hold"], "costs": costs})
            mine.close()

        threads = [threading.Thread(target=settle, args=(cost,)) for cost in range(racers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won = [cost for cost, reply in enumerate(replies) if reply.status == 200]
        if len(won) != 1 or any(reply.status != 409 for cost, reply in enumerate(replies) if cost not in won):
            raise Violation(f"settled at once: {[(reply.status, reply.body) for reply in replies]}")
        gateway.add({gateway.own: won[0], "org:acme": 9 * won[0]})
    client.close()


def said(day, what, rounds):
    tally = day.tally
    retries = sum(gateway.retries for gateway in day.gateways)
    return (
        f"{rounds} {what}, {tally.answered} answers: {tally.made} holds ({tally.denied} denied), "
        f"{tally.settled} settled, {tally.late} late, {tally.again} again, {tally.renewed} renewed; {retries} requests "
        f"sent again by their key, {tally.replayed} of which were carried out before; {tally.repeated} asked again "
        f"once answered; {tally.compactions} compactions, {tally.looks} looks at the slots")


def kills(options, parent):
    day, directory = Day(options.seed), os.path.join(parent, "killed")
    for number in range(options.rounds):
        kill_round(number, directory, day)
    last_look(directory, day)
    return said(day, "kills", options.rounds)


def cuts(options, parent):
    harness.need("mkfs.ext4", "mount", "umount")
    if os.geteuid() != 0:
        raise harness.Skipped("only root may mount a file system and shut it down")
    day, disk = Day(options.seed), power.Disk(parent)
    for number in range(options.rounds):
        cut_round(number, disk, day)
    with disk.mount() as directory:
        last_look(directory, day)
    return f"{said(day, 'power cuts', options.rounds)}; control: {control(options, parent)}"


def control(options, parent):
    """With syncs that only say so a loss must be found, or the rounds before prove nothing."""
    try:
        harness.need("strace")
    except harness.Skipped as reason:
        return f"SKIPPED: {reason}"
    found = 0
    for number in range(1, 1 + power.CONTROLS):
        place = tempfile.mkdtemp(dir=parent)
        day, disk = Day(options.seed + number), power.Disk(place)
        with disk.mount() as directory, harness.serving(directory) as server:
            day.open(server)
            server.terminate()
        with disk.mount() as directory:
            with harness.serving(directory, wrapper=harness.trace(power.FAKED)) as server:
                day.load(server, 0.5)
                day.crash(disk.cut, cut=True)
                server.kill()
                day.join()
        try:
            with disk.mount() as directory, harness.serving(directory) as server:
                day.judge(server)
        except Violation:
            found += 1
    if found == 0:
        raise Violation("with syncs that do nothing no loss was found")
    return f"with syncs that do nothing a loss was found in {found} of {power.CONTROLS}"


class Storm:
    """One request sent from many connections at once, again and again, over crashes."""

    def __init__(self, path, body, key, first):
        self.path, self.body, self.key = path, body, key
        self.url, self.replies, self.failures = first, [], []
        self.threads = [threading.Thread(target=self.guarded, daemon=True) for _ in range(CONNECTIONS)]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def used(server):
        found = harness.statuses(server)
        return found["stormed"]["used"], found["stormed:slots"]["used"]

    def guarded(self):
        try:
            self.drive()
        except Exception:
            self.failures.append(harness.traceback.format_exc())

    def drive(self):
        left = STORM // CONNECTIONS
        while left:
            url = self.url
            client = harness.Client(url)
            try:
                while left:
                    reply = client.ask("POST", self.path, self.body, {"Idempotency-Key": self.key})
                    self.replies.append((reply.status, reply.body, reply.headers.get("Idempotency-Replayed")))
                    left -= 1
            except harness.BROKEN:
                harness.wait_for("another start", lambda: self.url != url)

    def ended(self):
        return self.failures or not any(thread.is_alive() for thread in self.threads)


def storm(number, directory):
    sync = ["--sync", ("always", "batch")[number % 2]]
    path, body = random.choice([
        ("/v1/charge", {"key": "stormed", "cost": 3}), ("/v1/check", {"key": "stormed", "cost": 3}),
        ("/v1/hold", {"key": "stormed", "cost": 3, "ttl": "1s"}),
        ("/v1/hold", {"items": [["stormed", 3], "stormed:slots"], "ttl": "1h"}),
        ("/v1/check-all", {"items": [["stormed", 3]]}), ("/v1/check-many", {"items": [["stormed", 3]]})])
    run, starts = None, 0
    while run is None or not run.ended():
        with harness.serving(directory, *sync, *options_of(number)) as server:
            if run is None:
                client = server.client()
                client.post("/v1/limits", {"key": "stormed", "limit": "1000000000/366d fixed_window_counter"}).ok()
                client.post("/v1/limits", {"key": "stormed:slots", "slots": 1_000_000}).ok()
                before = Storm.used(server)
                run = Storm(path, body, f"storm {number}", server.url)
            run.url = server.url
            starts += 1
            if starts < 4:
                harness.wait_quietly(random.uniform(0.0, 0.1), run.ended)
            else:
                harness.wait_for("all answers", run.ended)
            used = Storm.used(server)
    bodies = {body for status, body, _ in run.replies if status == 200}
    firsts = sum(1 for _, _, replayed in run.replies if replayed != "true")
    if run.failures or len(bodies) != 1 or firsts > 1 or any(reply[0] != 200 for reply in run.replies):
        raise Violation(f"{path}: {run.failures[:1]} {bodies}, {firsts} not replayed, {run.replies[:2]}")
    if used != (before[0] + 3, before[1] + ("stormed:slots" in body.get("items", ()))):
        raise Violation(f"{path} {body} sent {STORM} times: {before} used before, and {used} then")
    return starts - 1


def storms(options, parent):
    """The same key a thousand times from 32 connections, over kills."""
    directory = os.path.join(parent, "stormed")
    kills = sum(storm(number, directory) for number in range(options.rounds))
    harness.verify(directory)
    return f"{options.rounds} requests sent {STORM} times each over {kills} kills were carried out once each"


CASES = {"kills": kills, "cuts": cuts, "storms": storms}


def run(options, parent):
    outcomes = []
    for name in harness.chosen(CASES, options.only):
        try:
            outcomes.append(CASES[name](options, parent))
        except harness.Skipped as reason:
            outcomes.append(f"{name} SKIPPED: {reason}")
    return "; ".join(outcomes)


if __name__ == "__main__":
    harness.main("holds", run, 100, cases=True)
