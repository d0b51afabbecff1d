"""While the server is slow or away: time-outs, the circuit breaker, and decisions in the server's place."""

import asyncio
import os
import re
import signal
import socket
import time
import unittest
from unittest import mock

import flint
from flint._breaker import Breaker
from flint.testing import Clock, FakeLimiter
from support import TOKEN, Server, Stub, reply
from test_guards import asgi, asgi_hello, hello, wsgi


class Hung(unittest.TestCase):
    """A server that is stopped: it takes connections and answers nothing."""

    def setUp(self):
        self.server = Server("--sync", "batch")
        self.addCleanup(self.server.close)
        self.stopped = False
        self.addCleanup(self.go_on)

    def stop(self):
        os.kill(self.server.process.pid, signal.SIGSTOP)
        self.stopped = True

    def go_on(self):
        if self.stopped:
            os.kill(self.server.process.pid, signal.SIGCONT)
            self.stopped = False

    def limiter(self, **more):
        limiter = flint.SharedLimiter(self.server.url, token=TOKEN, **more)
        self.addCleanup(limiter.close)
        return limiter

    def test_a_guarded_application_goes_on(self):
        for ask, middleware, app in [(wsgi, flint.WSGIMiddleware, hello), (asgi, flint.ASGIMiddleware, asgi_hello)]:
            # The machine may hold up some requests of one outage, but not those of each.
            for prefix in ("first", "second", "third"):
                times = self.outage(ask, middleware, app, ask.__name__ + prefix)
                # One of the first five may also have waited for the machine. Later ones wait for nothing.
                if sorted(times[:5])[3] < 0.3 and max(times[:5]) < 0.5 and sum(times[5:]) < 0.5:
                    break
            else:
                self.fail("three times too slow, at last %s" % times)

    def outage(self, ask, middleware, app, name):
        """How long each of 50 requests took while the server was stopped."""
        limiter = self.limiter(on_error="allow")
        app = middleware(app, limiter, limit="1000/1d", prefix=name)
        self.assertEqual(ask(app)[0], 200)
        self.stop()
        times = []
        with self.assertLogs("flint", "WARNING") as logged:
            for _ in range(50):
                began = time.monotonic()
                self.assertEqual(ask(app)[0], 200)
                times.append(time.monotonic() - began)
            self.assertGreater(min(times[:5]), 0.2)
            self.go_on()
            deadline = time.monotonic() + 10
            while limiter._breaker.is_open and time.monotonic() < deadline:
                ask(app)
                time.sleep(0.02)
        told = [line for line in logged.output if "in a row" in line]
        self.assertEqual(len(told), 1, logged.output)
        self.assertEqual(sum("answers again" in line for line in logged.output), 1, logged.output)
        self.assertEqual(ask(app)[0], 200)
        # At most one unit for each request that was sent: nothing that was given up was asked twice.
        used = limiter.status("%s:client:10.0.0.1" % name)["used"]
        self.assertTrue(2 <= used <= 7, used)
        return times

    def test_a_call_of_one_s_own_has_its_own_time(self):
        limiter = self.limiter(on_error="allow", timeout=0.6)
        limiter.limit("k", "5/1d")
        self.stop()
        began = time.monotonic()
        self.assertTrue(limiter.check("k").degraded)
        self.assertGreater(time.monotonic() - began, 0.5)

    def test_a_limit_at_the_start_is_told_later(self):
        for on_error in ("allow", "deny", "local"):
            limiter = self.limiter(on_error=on_error, timeout=0.3)
            self.stop()
            self.assertFalse(limiter.limit("late:" + on_error, "2/1d"))
            self.assertFalse(asyncio.run(limiter.alimit("late:a" + on_error, "2/1d")))
            result = limiter.check("late:" + on_error)
            self.assertEqual((result.degraded, result.allowed), (True, on_error != "deny"))
            if on_error == "local":
                found = [limiter.allow("late:local") for _ in range(3)]
                self.assertEqual(found, [True, False, False])
            self.go_on()
            while limiter._breaker.is_open:
                limiter.allow("late:" + on_error)
                time.sleep(0.02)
            for key in ("late:" + on_error, "late:a" + on_error):
                self.assertFalse(limiter.check(key).degraded)
                self.assertEqual(limiter.status(key)["source"], "exact")
        with self.assertRaises(flint.FlintServerError):
            limiter.limit("wrong", "0.5/1d")
        # What is wrong with it is said late, but said, and stops no check.
        fake = FakeLimiter(on_error="allow")
        fake.fail()
        fake.limit("wrong", "0.5/1d")
        fake.fail(False)
        with self.assertLogs("flint", "ERROR") as logged:
            self.assertTrue(fake.check("k", limit="1/1d"))
        self.assertIn("'wrong'", logged.output[0])
        self.assertFalse(asyncio.run(fake.acheck("k", limit="1/1d")))
        limiter = self.limiter(timeout=0.3)
        self.stop()
        with self.assertRaises(flint.FlintConnectionError):
            limiter.limit("late:raise", "2/1d")


class Addresses(unittest.TestCase):
    def test_the_first_address_of_a_name_drops_packets(self):
        server = Server("--sync", "batch")
        self.addCleanup(server.close)
        port = int(server.url.rsplit(":", 1)[1])
        # A full queue of connections: what comes then is not answered.
        full = socket.socket()
        self.addCleanup(full.close)
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(3):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
            self.addCleanup(waiting[-1].close)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where) for where in (full.getsockname(), ("127.0.0.1", port))]
        limiter = flint.SharedLimiter("http://flint.example:%d" % port, token=TOKEN, timeout=1.0)
        self.addCleanup(limiter.close)

        async def ask():
            try:
                return await limiter.ahealth()
            finally:
                await limiter.aclose()

        with mock.patch("socket.getaddrinfo", return_value=found):
            for get in (limiter.health, lambda: asyncio.run(ask())):
                # The server refuses this name of a host, but that is an answer.
                began = time.monotonic()
                try:
                    get()
                except flint.FlintServerError as error:
                    self.assertEqual(error.code, "forbidden_origin")
                self.assertLess(time.monotonic() - began, 0.95)


class Circuit(unittest.TestCase):
    def setUp(self):
        self.time, self.probes, self.error = 0.0, 0, None
        self.breaker = Breaker("http://x", self.probe, lambda: self.time)

    def probe(self):
        self.probes += 1
        if self.error:
            raise self.error

    def fail(self, times, error=None):
        for _ in range(times):
            self.breaker.failed(error or flint.FlintConnectionError("no", reason="timeout"))

    def refused(self):
        try:
            self.breaker.enter()
        except flint.FlintConnectionError as error:
            self.assertEqual((error.reason, error.request_sent), ("open", False))
            self.assertIn("not asked", str(error))
            # A probe has its own thread.
            end = time.monotonic() + 5
            while any(thread.name == "flint-probe" for thread in __import__("threading").enumerate()):
                self.assertLess(time.monotonic(), end)
                time.sleep(0.001)
            return True
        return False

    def test_it_opens_after_five_and_probes_once_a_second(self):
        self.fail(4)
        self.breaker.succeeded()
        self.fail(4)
        self.assertFalse(self.refused())
        with self.assertLogs("flint", "WARNING") as logged:
            self.fail(3)
        self.assertEqual(len(logged.output), 1)
        self.error = flint.FlintConnectionError("no", reason="timeout")
        for now, probes in [(0.5, 0), (1.0, 1), (1.5, 1), (2.0, 2), (2.9, 2), (3.0, 3)]:
            self.time = now
            self.assertTrue(self.refused())
            self.assertEqual(self.probes, probes, now)
        self.error = None
        self.time = 4.0
        with self.assertLogs("flint", "WARNING") as logged:
            self.assertTrue(self.refused())
        self.assertIn("answers again", logged.output[0])
        self.assertFalse(self.refused())

    def test_after_a_silence_the_next_call_is_the_probe(self):
        self.fail(5)
        self.time = 100.0
        self.assertFalse(self.refused())
        self.assertTrue(self.refused())
        self.breaker.succeeded()
        self.assertFalse(self.refused())

    def test_what_counts_as_a_failure(self):
        for status, opens in [(503, False), (500, False), (404, False), (502, True), (504, True)]:
            self.breaker.succeeded()
            self.fail(4)
            self.fail(1, flint.FlintServerError(status, "x", "y"))
            self.assertEqual(self.breaker.is_open, opens, status)

    def test_in_a_limiter(self):
        limiter = flint.SharedLimiter("http://127.0.0.1:9")
        for place in range(7):
            with self.assertRaises(flint.FlintConnectionError) as caught:
                limiter.check("k")
            self.assertEqual(caught.exception.reason, "connect" if place < 5 else "open")
        with self.assertRaises(flint.FlintConnectionError) as caught:
            asyncio.run(limiter.acheck("k"))
        self.assertEqual(caught.exception.reason, "open")
        # What asks about the server itself is sent all the same.
        with self.assertRaises(flint.FlintConnectionError) as caught:
            limiter.health()
        self.assertEqual(caught.exception.reason, "connect")

    def test_an_overloaded_server_is_asked_again(self):
        def answer(stub, connection):
            while stub.read(connection):
                connection.sendall(reply(b'{"error":"full","code":"overloaded"}', b"503 Service Unavailable"))

        stub = Stub(answer)
        self.addCleanup(stub.close)
        with flint.SharedLimiter(stub.url, on_error="deny") as limiter:
            for _ in range(8):
                self.assertTrue(limiter.check("k").degraded)
        self.assertEqual(len(stub.requests), 8)


class NoDecision(unittest.TestCase):
    """Errors that say that no decision was had, and those that do not."""

    def stub(self, *answers, **more):
        """A limiter whose server gives these answers, the last for ever."""
        left = [*answers]

        def answer(stub, connection):
            while stub.read(connection):
                code = left.pop(0) if len(left) > 1 else left[0]
                if code is None:
                    return
                status = {b"ok": b"200 OK", b"forbidden": b"403 Forbidden"}.get(code, b"503 Service Unavailable")
                error = b'{"error":"so it is","code":"%s"}' % code
                connection.sendall(reply(status=status) if code == b"ok" else reply(error, status))

        stub = Stub(answer)
        self.addCleanup(stub.close)
        limiter = flint.SharedLimiter(stub.url, **more)
        self.addCleanup(limiter.close)
        return stub, limiter

    def both(self, limiter, *arguments):
        """A check by a thread and one by a task; their results, or their errors."""

        async def ask():
            try:
                return await limiter.acheck("k", *arguments)
            finally:
                await limiter.aclose()

        found = []
        for call in (lambda: limiter.check("k", *arguments), lambda: asyncio.run(ask())):
            try:
                found.append(call())
            except flint.FlintError as error:
                found.append(error)
            limiter.close()
        return found

    def keys(self, stub):
        return [re.search(rb"Idempotency-Key: ([0-9a-f]{32})", head).group(1) for head, _ in stub.requests]

    def test_a_store_that_is_away(self):
        for code in (b"store_unavailable", b"outcome_unknown"):
            for on_error, allowed in [("allow", True), ("deny", False), ("local", True)]:
                stub, limiter = self.stub(code, on_error=on_error)
                for result in self.both(limiter):
                    self.assertEqual((result.degraded, result.allowed, result.error.code), (True, allowed, code.decode()))
                guarded = flint.WSGIMiddleware(hello, limiter, limit="1/1d")
                self.assertEqual(wsgi(guarded)[0], 200 if allowed else 429)
                # It was answered, at once: nothing is to be spared.
                self.assertFalse(limiter._breaker.is_open)
            _, limiter = self.stub(code)
            for error in self.both(limiter):
                self.assertEqual((error.status, error.code, error.unavailable), (503, code.decode(), True))

    def test_an_unknown_outcome_is_asked_for_once_more_by_the_same_key(self):
        stub, limiter = self.stub(b"outcome_unknown", b"ok", b"outcome_unknown", b"ok")
        self.assertEqual([result.remaining for result in self.both(limiter)], [4, 4])
        first, second, third, fourth = self.keys(stub)
        self.assertTrue(first == second != third == fourth)
        # Once: not again where the connection breaks, or the other way round.
        for answers in ([b"outcome_unknown"], [None, b"outcome_unknown"], [b"outcome_unknown", None]):
            stub, limiter = self.stub(*answers)
            (error, _), keys = self.both(limiter), self.keys(stub)
            self.assertIsInstance(error, flint.FlintError)
            self.assertEqual((keys.count(keys[0]), keys.count(keys[-1]), len(keys)), (2, 2, 4), answers)
        # Away is away: to ask again is the caller's to decide.
        stub, limiter = self.stub(b"store_unavailable")
        self.both(limiter)
        self.assertEqual(len(stub.requests), 2)
        # What would do harm the second time is not repeated.
        stub, limiter = self.stub(b"outcome_unknown")
        with self.assertRaises(flint.FlintServerError):
            limiter.remove("k")
        self.assertEqual(len(stub.requests), 1)

    def test_an_item_of_many(self):
        def answer(stub, connection):
            stub.read(connection)
            error = b'{"error":"so it is","code":"outcome_unknown"}'
            connection.sendall(reply(b'{"results":[%s,%s]}' % (error, error.replace(b"outcome_unknown", b"forbidden"))))

        stub = Stub(answer)
        self.addCleanup(stub.close)
        with flint.SharedLimiter(stub.url) as limiter:
            found = limiter.check_many(["a", "b"])
        self.assertEqual([(each.status, each.unavailable) for each in found], [(503, True), (403, False)])

    def test_a_token_whose_role_does_not_reach(self):
        for on_error in ("raise", "allow", "deny", "local"):
            _, limiter = self.stub(b"forbidden", on_error=on_error)
            for error in self.both(limiter):
                self.assertEqual((error.status, error.code, error.unavailable), (403, "forbidden", False))
            with self.assertRaises(flint.FlintServerError):
                wsgi(flint.WSGIMiddleware(hello, limiter, limit="1/1d"))


class Local(unittest.TestCase):
    def setUp(self):
        self.clock = Clock()
        self.limiter = FakeLimiter(self.clock, on_error="local")
        self.limiter.limit("configured", "2/1d")
        self.limiter.fail()

    def test_by_the_same_values(self):
        found = [self.limiter.check("k", limit=["3/10s", "100/1d"]) for _ in range(4)]
        self.assertEqual([result.allowed for result in found], [True, True, True, False])
        self.assertTrue(all(result.degraded and isinstance(result.error, flint.FlintConnectionError) for result in found))
        self.assertEqual((found[-1].window, found[-1].retry_after_ms), ("3/10s", 3334))
        self.clock.advance(4)
        self.assertTrue(asyncio.run(self.limiter.aallow("k", limit=["3/10s", "100/1d"])))
        self.assertEqual([self.limiter.allow("configured") for _ in range(3)], [True, True, False])
        self.assertEqual([self.limiter.allow("unknown", 10**9) for _ in range(3)], [True] * 3)
        found = self.limiter.check_all(["configured", ("k", 1)], limit="1/1d")
        self.assertEqual((found["allowed"], found["denied_key"], found["degraded"]), (False, "configured", True))
        with self.assertRaises(flint.FlintServerError):
            self.limiter.check("k", 5, limit="3/1d")

    def test_of_a_guard_alone(self):
        limiter = FakeLimiter(self.clock)
        limiter.fail()
        app = flint.WSGIMiddleware(hello, limiter, limit="2/1d", prefix="local", on_error="local")
        self.assertEqual([wsgi(app)[0] for _ in range(3)], [200, 200, 429])
        for on_error, status in [("allow", 200), ("deny", 429)]:
            app = flint.WSGIMiddleware(hello, limiter, limit="2/1d", on_error=on_error)
            self.assertEqual(wsgi(app)[0], status)
        with self.assertRaises(flint.FlintConnectionError):
            wsgi(flint.WSGIMiddleware(hello, limiter, limit="2/1d"))


class Acquire(unittest.TestCase):
    def test_it_waits(self):
        clock = Clock()
        limiter = FakeLimiter(clock)
        began = clock()
        self.assertTrue(all(limiter.acquire("mail", limit="2/10s") for _ in range(4)))
        self.assertEqual(clock() - began, 10.0)
        self.assertFalse(limiter.acquire("mail", timeout=4.9, limit="2/10s"))
        self.assertEqual(clock() - began, 10.0)
        self.assertTrue(limiter.acquire("mail", timeout=5, limit="2/10s"))
        self.assertFalse(limiter.acquire("never", limit="0/1s"))
        self.assertTrue(asyncio.run(limiter.aacquire("mail", 2, limit="2/10s")))
        self.assertEqual(clock() - began, 25.0)

    def test_in_real_time(self):
        server = Server("--sync", "batch")
        self.addCleanup(server.close)
        with flint.SharedLimiter(server.url, token=TOKEN) as limiter:
            began = time.monotonic()
            self.assertTrue(all(limiter.acquire("k", limit="1/50ms") for _ in range(3)))
            self.assertGreaterEqual(time.monotonic() - began, 0.1)
            self.assertTrue(asyncio.run(limiter.aacquire("k", limit="1/50ms")))


if __name__ == "__main__":
    unittest.main()
