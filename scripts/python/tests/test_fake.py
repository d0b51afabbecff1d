"""``flint.testing.FakeLimiter`` does what the real one does: one suite over both, the real one's server with a clock that
is set (``tests/clocked/server.rs``)."""

import asyncio
import dataclasses
import os
import random
import subprocess
import tempfile
import unittest
from datetime import timedelta

import flint
from flint.testing import Clock, FakeLimiter

from registry import TARGET

CLOCKED = os.environ.get("FLINT_CLOCKED") or os.path.join(TARGET, "debug", "examples", "clocked")

#: A Thursday, in the middle of an hour.
START = 1_767_229_323.456789


class Real:
    """A server with a manual clock, and its client."""

    def __init__(self, case):
        directory = tempfile.TemporaryDirectory(prefix="flint-clocked-")
        case.addCleanup(directory.cleanup)
        self.process = subprocess.Popen(
            [CLOCKED, os.path.join(directory.name, "data"), str(round(START * 1_000_000))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        case.addCleanup(self.end)
        self.limiter = flint.SharedLimiter(self.process.stdout.readline().strip())
        case.addCleanup(self.limiter.close)

    def end(self):
        self.process.communicate(timeout=30)

    def advance(self, seconds):
        self.process.stdin.write("%d\n" % round(seconds * 1_000_000))
        self.process.stdin.flush()
        self.process.stdout.readline()


class Fake:
    def __init__(self, case):
        self.clock = Clock(START)
        self.limiter = FakeLimiter(self.clock)

    def advance(self, seconds):
        self.clock.advance(seconds)


class Suite:
    """What both are held to."""

    def setUp(self):
        self.side = self.make()
        self.limiter = self.side.limiter

    def test_a_bucket(self):
        self.limiter.limit("k", rate=2, per="10s", burst=4)
        results = [self.limiter.check("k", 2) for _ in range(3)]
        self.assertEqual([result.allowed for result in results], [True, True, False])
        self.assertEqual((results[2].retry_after, results[2].remaining, results[2].used), (10.0, 0, 4))
        self.assertEqual(results[0].rate_limit_policy, '"2/10s";q=4;w=10')
        self.side.advance(9.999)
        self.assertEqual(self.limiter.check("k", 2).retry_after_ms, 1)
        self.side.advance(0.001)
        self.assertTrue(self.limiter.check("k", 2))

    def test_windows_of_all_algorithms(self):
        for algorithm, wait in [
            ("token_bucket", 5.0),
            ("fixed_window_counter", 7.0),
            ("sliding_window_log", 7.0),
            ("sliding_window_counter", 17.0),
        ]:
            limit = {"rate": 5, "per": timedelta(seconds=10), "algorithm": algorithm}
            key = "k:" + algorithm
            self.assertTrue(self.limiter.check(key, 4, limit=limit))
            self.side.advance(3)
            found = self.limiter.check(key, 5, limit=limit)
            self.assertEqual(found.allowed, False)
            self.assertAlmostEqual(found.retry_after, wait, delta=0.0011)
            self.side.advance(25)
            self.assertTrue(self.limiter.check(key, 5, limit=limit))

    def test_all_or_none(self):
        self.limiter.limit("a", "5/1m")
        items = ["a", {"key": "b", "cost": 2}, ("c", 1)]
        found = [self.limiter.check_all(items, limit="3/1m") for _ in range(2)]
        self.assertEqual([each["allowed"] for each in found], [True, False])
        self.assertEqual((found[0]["denied_key"], found[1]["denied_key"]), (None, "b"))
        self.assertEqual([decision["remaining"] for decision in found[0]["results"]], [4, 1, 2])
        self.assertEqual([decision["remaining"] for decision in found[1]["results"]], [4, 1])
        self.assertEqual(self.limiter.status("c")["used"], 1)
        self.assertTrue(self.limiter.allow_all(["a", "b"], limit="3/1m"))
        many = self.limiter.check_many(["a", "nobody", ("b", 1), ("a", 9)])
        self.assertEqual([getattr(each, "code", None) for each in many[1::2]], ["limit_not_configured", "cost_exceeds_capacity"])

    def test_errors(self):
        limiter = self.limiter
        limiter.limit("k", "5/1m")
        for code, status, call in [
            ("limit_not_configured", 404, lambda: limiter.check("nobody")),
            ("limit_not_configured", 404, lambda: limiter.reset("nobody")),
            ("limit_not_configured", 404, lambda: limiter.remove("nobody")),
            ("cost_exceeds_capacity", 400, lambda: limiter.check("k", 6)),
            ("invalid_argument", 400, lambda: limiter.check("k", 0)),
            ("invalid_argument", 400, lambda: limiter.check("k", 10**13)),
            ("invalid_argument", 400, lambda: limiter.check("")),
            ("invalid_argument", 400, lambda: limiter.check("x" * 513)),
            ("invalid_argument", 400, lambda: limiter.check("a\tb")),
            ("invalid_argument", 400, lambda: limiter.check("z", limit="five")),
            ("invalid_argument", 400, lambda: limiter.check("z", limit="5/1y")),
            ("invalid_argument", 400, lambda: limiter.check("z", limit="5/367d")),
            ("invalid_argument", 400, lambda: limiter.check("z", limit=["5/60s", "5/1m"])),
            ("invalid_argument", 400, lambda: limiter.check("z", limit=[])),
            ("invalid_argument", 400, lambda: limiter.check("z", limit={"rate": 5})),
            ("invalid_argument", 400, lambda: limiter.check("z", limit={"rate": 5, "per": "1s", "x": 1})),
            ("invalid_argument", 400, lambda: limiter.check("z", limit={"rate": 5, "per": "day", "burst": 1})),
            ("invalid_argument", 400, lambda: limiter.limit("z", "5/1s", max_keys=5)),
            ("invalid_argument", 400, lambda: limiter.limit("z", "5/1s", unlimited=True)),
            ("invalid_argument", 400, lambda: limiter.limit("z", rate=5, per="month", tz="Nowhere/At_All")),
            ("invalid_argument", 400, lambda: limiter.check_all([])),
            ("invalid_argument", 400, lambda: limiter.check_all(["k", "k"])),
            ("invalid_argument", 400, lambda: limiter.top("loved")),
        ]:
            with self.assertRaises(flint.FlintServerError) as caught:
                call()
            self.assertEqual((caught.exception.code, caught.exception.status), (code, status), str(caught.exception))
        with self.assertRaises(TypeError):
            limiter.check_all("k")
        self.assertIsNone(limiter.status("nobody"))

    def test_patterns_and_what_an_operator_configures(self):
        limiter = self.limiter
        self.assertTrue(limiter.limit("user:*", "2/1m"))
        self.assertFalse(limiter.limit("user:*", "2/1m"))
        limiter.limit("user:vip:*", "9/1m", max_keys=10)
        limiter.limit("user:ann", "1/1m")
        remaining = [limiter.check(key, limit="100/1m").remaining for key in ("user:bob", "user:vip:1", "user:ann", "user:")]
        self.assertEqual(remaining, [1, 8, 0, 99])
        self.assertEqual([status["key"] for status in limiter.list("user:")], ["user:*", "user:ann", "user:vip:*"])
        live = [status["key"] for status in limiter.list("user:", live=True)]
        self.assertEqual(live, ["user:", "user:*", "user:ann", "user:bob", "user:vip:*", "user:vip:1"])
        self.assertEqual([status["key"] for status in limiter.list(pattern="user:vip:*")], ["user:vip:1"])
        self.assertEqual(limiter.status("user:carl")["remaining"], 2)
        self.side.advance(60)
        self.assertEqual(len(limiter.list("user:", live=True)), 3)
        self.assertEqual(limiter.remove(prefix="user:"), 3)
        self.assertEqual(limiter.list(), [])

    def test_for_a_time_and_shadow_and_unlimited(self):
        limiter = self.limiter
        limiter.limit("k", "5/1m")
        limiter.check("k", 3)
        limiter.limit("k", rate=0, per="1s", lasts="10s")
        self.assertEqual((limiter.check("k").allowed, limiter.status("k")["below"]["rate"]), (False, 5))
        self.side.advance(10)
        self.assertEqual(limiter.check("k").remaining, 1)
        limiter.limit("k", "1/1d", mode="shadow")
        results = [limiter.check("k") for _ in range(2)]
        self.assertEqual([result.allowed for result in results], [True, True])
        self.assertTrue(results[1].would_deny and results[1].shadow)
        limiter.limit("k", unlimited=True)
        found = limiter.check("k", 1000)
        self.assertEqual((found.allowed, found.limit, found.remaining, found.reset_at), (True, None, None, ""))

    def test_resetting(self):
        limiter = self.limiter
        for key in ("a:1", "a:2", "b:1"):
            limiter.check(key, 5, limit="5/1m")
        limiter.reset("a:1")
        self.assertIsNone(limiter.status("a:1"))
        limiter.reset(prefix="a:")
        self.assertEqual([limiter.allow(key, limit="5/1m") for key in ("a:1", "a:2", "b:1")], [True, True, False])

    def test_holds(self):
        limiter = self.limiter
        limiter.limit("llm", "10000/1h")
        with limiter.hold("llm", cost=4000, ttl=120) as hold:
            self.assertEqual((hold.keys, hold.ttl_ms, hold.result.remaining), (["llm"], 120_000, 6000))
            self.assertEqual(hold.expires_time.timestamp(), -(-(START + 120) * 1000 // 1) / 1000)
            found = hold.settle(1234)
            held = {"key": "llm", "held": 4000, "cost": 1234, "remaining": 8766, "debt": 0}
            self.assertEqual(found, {"late": False, "results": [held]})
            self.assertEqual(hold.settle(1234), found)
            with self.assertRaises(flint.FlintServerError) as caught:
                hold.settle(1)
            self.assertEqual((caught.exception.status, caught.exception.code), (409, "hold_settled"))
        with limiter.hold("llm", 766):
            pass
        self.assertEqual(limiter.peek("llm").used, 2001)
        with self.assertRaises(ZeroDivisionError), limiter.hold("llm", 8000):
            1 / 0
        self.assertEqual(limiter.status("llm")["used"], 2000)
        with self.assertRaises(flint.RateLimitExceeded) as denied:
            limiter.hold("llm", 8001)
        self.assertEqual((denied.exception.result.cost, denied.exception.retry_after), (8001, 0.36))
        with limiter.hold("llm", 10) as hold:
            self.assertEqual(hold.settle(11_000)["results"][0]["debt"], 3000)

    def test_holds_of_several_keys(self):
        limiter = self.limiter
        limiter.limit("org", ["100/1m", "1000/day"])
        limiter.limit("org:streams", slots=2)
        items = [("org", 40), "org:streams", {"key": "user", "cost": 3, "limit": "5/1m"}]
        with limiter.hold(items) as hold:
            self.assertEqual([result.remaining for result in hold.results], [60, 1, 2])
            self.assertEqual((hold.key, hold.result.key), ("org", "org:streams"))
            with self.assertRaises(flint.RateLimitExceeded) as denied:
                limiter.hold(items)
            self.assertEqual(denied.exception.key, "user")
            with self.assertRaises(flint.FlintServerError):
                hold.settle(5)
            results = hold.settle({"org": 10, "user": 5})["results"]
            self.assertEqual([(each["cost"], each["remaining"]) for each in results], [(10, 90), (1, 2), (5, 0)])
        with self.assertRaises(KeyError), limiter.hold([("org", 40), "org:streams"]):
            raise KeyError
        self.assertEqual((limiter.peek("org").remaining, limiter.status("org:streams")["holds"]), (89, []))
        with self.assertRaises(TypeError):
            limiter.hold(["org"], 2)

    def test_slots(self):
        limiter = self.limiter
        limiter.limit("gpu", slots=2)
        first, second = limiter.hold("gpu", ttl=10), limiter.hold("gpu", ttl="20s")
        self.assertEqual(limiter.peek("gpu").retry_after, 10.0)
        self.assertEqual([hold["left_ms"] for hold in limiter.status("gpu")["holds"]], [10_000, 20_000])
        self.assertNotIn("holds", limiter.list()[0])
        self.side.advance(9)
        first.renew()
        self.side.advance(9)
        self.assertEqual(limiter.status("gpu")["used"], 2)
        second.renew(timedelta(minutes=1))
        self.assertEqual(second.ttl_ms, 60_000)
        self.side.advance(1)
        self.assertEqual(limiter.status("gpu")["used"], 1)
        with self.assertRaises(flint.FlintServerError) as caught:
            first.renew()
        self.assertEqual((caught.exception.status, caught.exception.code), (410, "hold_expired"))
        self.assertTrue(first.settle()["late"])
        self.side.advance(600)
        for call in (first.settle, first.renew):
            with self.assertRaises(flint.FlintServerError) as caught:
                call()
            self.assertEqual((caught.exception.status, caught.exception.code), (404, "hold_not_found"))
        for call in (
            lambda: limiter.check("gpu"),
            lambda: limiter.charge("gpu", 1),
            lambda: limiter.refund("gpu", 1),
            lambda: limiter.hold("gpu", ttl=0),
            lambda: limiter.hold("gpu", ttl="25h"),
            lambda: limiter.hold("gpu", 3),
            lambda: limiter.limit("gpu", "5/1m", slots=2),
            lambda: limiter.limit("gpu", slots=0),
            lambda: limiter.limit("gpu", slots=1_000_001),
        ):
            with self.assertRaises(flint.FlintServerError) as caught:
                call()
            self.assertEqual(caught.exception.status, 400)

    def test_charges_and_refunds(self):
        limiter = self.limiter
        limiter.limit("k", {"rate": 100, "per": "1m", "algorithm": "fixed_window_counter"})
        found = limiter.charge("k", 150)
        self.assertEqual((found["remaining"], found["debt"], found["total_allowed_cost"]), (0, 50, 150))
        self.assertEqual(limiter.refund("k", 70)["remaining"], 20)
        self.assertEqual(limiter.refund("k", 1000)["used"], 0)
        self.assertEqual(limiter.charge("new", 2, limit="5/1m")["remaining"], 3)
        self.assertEqual(limiter.refund("newer", 2, limit="5/1m")["remaining"], 5)
        with self.assertRaises(flint.FlintServerError):
            limiter.charge("nobody", 1)
        self.assertEqual(limiter.peek_all(["k", ("z", 2)], limit="5/1m")["results"][1]["remaining"], 3)
        self.assertIsNone(limiter.status("z"))

    def test_holds_for_asyncio(self):
        async def work():
            limiter = self.limiter
            try:
                hold = await limiter.ahold("k", 5, limit="9/1m")
                await hold.arenew(90)
                found = await hold.asettle(2)
                async with limiter.ahold([("k", 3)], limit="9/1m"):
                    pass
                with self.assertRaises(ZeroDivisionError):
                    async with limiter.ahold([("k", 3)], limit="9/1m"):
                        1 / 0
                async with limiter.aslot("gpu", limit={"slots": 1}):
                    with self.assertRaises(flint.RateLimitExceeded):
                        await limiter.ahold("gpu", limit={"slots": 1})
                await limiter.acharge("k", 1, limit="9/1m")
                await limiter.arefund("k", 2, limit="9/1m")
                all_of = await limiter.apeek_all(["k"], limit="9/1m")
                peeked = await limiter.apeek("k", limit="9/1m")
                return hold.ttl_ms, found["results"][0]["remaining"], peeked.remaining, all_of["allowed"]
            finally:
                await self.limiter.aclose()

        self.assertEqual(asyncio.run(work()), (90_000, 7, 4, True))

    def test_what_asks_for_nothing(self):
        self.limiter.flush()
        self.assertTrue(self.limiter.health()["ok"] and self.limiter.doctor() and self.limiter.compact())

    def test_for_asyncio(self):
        async def work():
            try:
                await self.limiter.alimit("k", "2/1m")
                results = await asyncio.gather(*[self.limiter.acheck("k") for _ in range(3)])
                return sorted(result.allowed for result in results), (await self.limiter.astatus("k"))["used"]
            finally:
                await self.limiter.aclose()

        self.assertEqual(asyncio.run(work()), ([False, True, True], 2))


class OfTheFake(Suite, unittest.TestCase):
    def make(self):
        return Fake(self)

    def test_the_clock(self):
        clock = Clock(0)
        clock.advance(1.5)
        self.assertEqual((clock(), clock.micros, clock.now.isoformat()), (1.5, 1_500_000, "1970-01-01T00:00:01.500000+00:00"))
        with self.assertRaises(ValueError):
            clock.advance(-1)

    def test_keys_that_nothing_counts_for_are_forgotten(self):
        for place in range(9_999):
            self.limiter.check("key:%d" % place, limit="1/1s")
        self.side.advance(1)
        for place in range(5):
            self.limiter.check("new:%d" % place, limit="1/1s")
        self.assertLess(len(self.limiter._fake.memory._entries), 10)

    def test_a_slot_is_renewed_by_the_clock(self):
        limiter = self.limiter
        with limiter.slot("gpu", ttl=30, limit={"slots": 1}) as hold:
            self.side.advance(3600)
            self.assertEqual(limiter.status("gpu")["holds"][0]["age_ms"], 3_600_000)
        self.assertTrue(hold.settled)
        slot = limiter.slot("gpu", ttl=30, limit={"slots": 1})
        with self.assertLogs("flint"), self.assertRaises(flint.HoldLost):
            with slot:
                self.side.advance(15)
                limiter.fail()
                self.side.advance(24.999)
                self.assertFalse(slot.lost)
                self.side.advance(0.001)
                self.assertTrue(slot.lost)
                limiter.fail(False)
        # Once is enough to go on for.
        with limiter.slot("gpu", ttl=30, limit={"slots": 1}):
            limiter.fail()
            self.side.advance(27)
            limiter.fail(False)
            self.side.advance(60)

        async def work():
            with self.assertLogs("flint"), self.assertRaises(flint.HoldLost):
                async with limiter.aslot("gpu", ttl=30, limit={"slots": 1}):
                    limiter.fail()
                    self.side.advance(30)
                    await asyncio.sleep(30)

        asyncio.run(work())

    def test_without_a_server(self):
        limiter = self.limiter
        limiter.check("k", 2, limit="5/1d")
        limiter.fail()
        with self.assertRaises(flint.FlintConnectionError):
            limiter.check("k", limit="5/1d")
        limiter.fail(False)
        self.assertEqual(limiter.check("k", limit="5/1d").remaining, 2)
        with self.assertRaises(TypeError):
            __import__("pickle").dumps(limiter)


@unittest.skipUnless(os.path.exists(CLOCKED), "SKIPPED: no %s: cargo build --example clocked" % CLOCKED)
class OfTheRealOne(Suite, unittest.TestCase):
    def make(self):
        return Real(self)


def outcome(call):
    """What a call gives, in a form that can be compared."""
    try:
        found = call()
    except flint.FlintServerError as error:
        return error.status, error.code
    except flint.RateLimitExceeded as denied:
        found = denied.result
    if isinstance(found, flint.CheckResult):
        return dataclasses.asdict(found), found.rate_limit, found.rate_limit_policy
    if isinstance(found, flint.Hold):
        return [outcome(lambda: each) for each in found.results], found.expires_at, found.ttl_ms
    if isinstance(found, dict) and "holds" in found:
        # Each side has its own ids.
        found["holds"] = [dict(hold, hold="") for hold in found["holds"]]
    for each in found if isinstance(found, list) else [found]:
        if isinstance(each, dict) and each.get("source") not in (None, "exact"):
            # When a key is forgotten of which nothing counts, and its totals with it, is the server's to say.
            each.update((name, 0) for name in each if name.startswith(("total_", "last_")))
    return found


@unittest.skipUnless(os.path.exists(CLOCKED), "SKIPPED: no %s: cargo build --example clocked" % CLOCKED)
class Alike(unittest.TestCase):
    maxDiff = 1500

    """The same calls at the same times give the same answers, in each field."""

    LIMITS = [
        "7/1m",
        "100/3s",
        "0/1s",
        ["3/10s", "20/1h"],
        ["5/2s", {"rate": 9, "per": "10s", "algorithm": "sliding_window_log"}],
        {"rate": 3, "per": "7s", "burst": 10},
        {"rate": 10, "per": "10s", "algorithm": "sliding_window_counter"},
        {"rate": 6, "per": "2500ms", "algorithm": "fixed_window_counter"},
        {"rate": 8, "per": 10, "algorithm": "sliding_window_log"},
        {"rate": 50, "per": "day", "tz": "Europe/Berlin"},
        {"rate": 50, "per": "month", "anchor": 31},
        ["10/week", "30/quarter", "90/year", "4/second"],
        {"rate": 2, "per": "10s", "mode": "shadow"},
        {"slots": 4},
        {"slots": 70, "mode": "shadow"},
        {"unlimited": True},
    ]

    def test_at_random(self):
        for seed in range(16):
            with self.subTest(seed=seed):
                self.compare(random.Random(seed))

    def compare(self, chance):
        real, fake = Real(self), Fake(self)
        limits = {"key:%d" % place: limit for place, limit in enumerate(self.LIMITS)}
        for key in chance.sample(sorted(limits), 5):
            limit = limits[key]
            if isinstance(limit, dict):
                values = {"windows": None, **limit}
                windows = values.pop("windows")
            else:
                windows, values = limit, {}
            for side in (real, fake):
                side.limiter.limit(key, windows, **values)
            limits[key] = None
        holds = []
        for _ in range(250):
            what = chance.random()
            if what < 0.3 and chance.random() < 0.5:
                self.held(chance, (fake, real), limits, holds)
                continue
            key = chance.choice(sorted(limits))
            cost = chance.choice([1, 1, 1, 2, 3, 7, 60])
            if what < 0.35:
                step = chance.choice([0.000001, 0.0004, 0.01, 0.3, 1, 2.5, 7.123456, 61, 3600, 90000, 40 * 86400])
                real.advance(step)
                fake.advance(step)
                continue
            keys = chance.sample(sorted(limits), 3)
            items = [{"key": each, "cost": cost, "limit": limits[each]} for each in keys]
            items = [{name: value for name, value in item.items() if value is not None} for item in items]
            if what < 0.75:
                def call(limiter, key=key, cost=cost):
                    return limiter.check(key, cost, limit=limits[key])
            elif what < 0.85:
                def call(limiter, items=items):
                    return limiter.check_all(items)
            elif what < 0.9:
                def call(limiter, items=items):
                    return [outcome(lambda: each) if not isinstance(each, Exception) else each.code
                            for each in limiter.check_many(items)]
            elif what < 0.93:
                def call(limiter, key=key):
                    return limiter.reset(key)
            elif what < 0.97:
                def call(limiter, key=key):
                    return limiter.status(key)
            else:
                def call(limiter):
                    return limiter.list(live=True)
            self.assertEqual(outcome(lambda: call(fake.limiter)), outcome(lambda: call(real.limiter)), (key, cost, what))

    def held(self, chance, sides, limits, holds):
        """A call of holds, charges and refunds."""
        what, number = chance.random(), chance.choice([0, 1, 2, 5, 30])
        key, ttl = chance.choice(sorted(limits)), chance.choice([None, 1, 5, "10s", "1h"])
        keys = chance.sample(sorted(limits), 3)
        items = [{"key": each, "cost": max(number, 1)} for each in keys]
        for item in items:
            if limits[item["key"]] is not None:
                item["limit"] = limits[item["key"]]
        made = [None, None]

        def hold(limiter, place):
            if what < 0.1:
                made[place] = limiter.hold(items, ttl=ttl)
            else:
                made[place] = limiter.hold(key, max(number, 1), ttl=ttl, limit=limits[key])
            return made[place]

        if what < 0.35 or not holds:
            def call(limiter, place):
                return hold(limiter, place)
        elif what < 0.65:
            pair = chance.choice(holds)
            cost = chance.choice([None, number, {each: number for each in pair[0].keys[:2]}])
            if pair[0].expires_time <= sides[0].clock.now and any(limits[each] is not None for each in pair[0].keys):
                # Whether such a key still has the limit that a request brought, to which more could be charged, depends
                # on whether the server has swept it.
                cost = None

            def call(limiter, place):
                return pair[place].settle(cost)
        elif what < 0.75:
            pair = chance.choice(holds)

            def call(limiter, place):
                pair[place].renew(ttl)
                return pair[place]
        elif what < 0.85:
            def call(limiter, place):
                return limiter.charge(key, max(number, 1), limit=limits[key])
        elif what < 0.93:
            def call(limiter, place):
                return limiter.refund(key, max(number, 1), limit=limits[key])
        else:
            def call(limiter, place):
                return limiter.peek_all(items) if number == 5 else limiter.peek(key, max(number, 1), limit=limits[key])
        found = [outcome(lambda: call(side.limiter, place)) for place, side in enumerate(sides)]
        if all(isinstance(each, dict) and "late" in each for each in found):
            for pair in zip(*(each["results"] for each in found)):
                # When a key is forgotten of which nothing counts is the server's to say here too.
                if any("configured" in each for each in pair) and not any(each["debt"] for each in pair):
                    for each in pair:
                        each.pop("configured", None)
                        each["remaining"] = None
        self.assertEqual(found[0], found[1], (key, number, what, ttl))
        if made[0] is not None:
            holds.append(made)


if __name__ == "__main__":
    unittest.main()
