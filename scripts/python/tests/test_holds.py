"""Holds and slots against a real server; requests that a proxy cuts are paid once; and how a hold is kept alive."""

import asyncio
import os
import signal
import socket
import threading
import time
import unittest
import unittest.mock

import flint
from support import TOKEN, Server, WithServer, read_message


class Cutting:
    """A proxy that hands each request on, waits for the answer, and cuts the connection instead of giving it: every
    second time, so that what is sent again has its answer."""

    def __init__(self, url):
        host, port = url[len("http://") :].split(":")
        self.server = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.cuts, self.replayed, self.requests = 0, 0, 0
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                while self._pass_on(connection):
                    pass

    def _pass_on(self, connection):
        data = read_message(connection)
        if data is None:
            return False
        with socket.create_connection(self.server) as server:
            server.sendall(data)
            answer = read_message(server)
        self.requests += 1
        self.replayed += b"idempotency-replayed: true" in answer.lower()
        if self.requests % 2:
            self.cuts += 1
            return False
        connection.sendall(answer)
        return True

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


class Cut(WithServer):
    def setUp(self):
        self.proxy = Cutting(self.server.url)
        self.addCleanup(self.proxy.close)
        self.cut = flint.SharedLimiter(self.proxy.url, token=TOKEN)
        self.addCleanup(self.cut.close)
        self.straight = self.limiter()

    def used(self, key):
        return self.straight.status(key)["used"]

    def test_nothing_is_paid_twice(self):
        self.straight.limit("k", rate=1000, per="365d")
        self.straight.limit("slots", slots=9)

        @self.cut.rate_limit("k", timeout=5)
        def guarded():
            pass

        for call, spends in [
            (lambda: self.cut.check("k", 3), 3),
            (lambda: self.cut.allow("k"), 1),
            (lambda: self.cut.check_all([("k", 4)]), 4),
            (lambda: self.cut.check_many([("k", 5), "nobody"]), 5),
            (lambda: self.cut.hold(["k", ("slots", 2)]), 1),
            (lambda: self.cut.charge("k", 6), 6),
            (lambda: self.cut.refund("k", 2), -2),
            (guarded, 1),
        ]:
            before, cuts, replayed = self.used("k"), self.proxy.cuts, self.proxy.replayed
            call()
            self.assertEqual(self.used("k") - before, spends)
            self.assertEqual((self.proxy.cuts - cuts, self.proxy.replayed - replayed), (1, 1))
        # One of each two was answered, and what was held is held once.
        self.assertEqual(self.used("slots"), 2)

    def test_nothing_is_paid_twice_by_tasks(self):
        async def work():
            async with self.cut as limiter:
                await limiter.acheck("a", 3, limit="1000/365d")
                await limiter.acheck_many([("a", 5)], limit="1000/365d")
                await limiter.acharge("a", 6, limit="1000/365d")
                await limiter.arefund("a", 2, limit="1000/365d")
                async with limiter.ahold("a", 7, limit="1000/365d") as hold:
                    await hold.asettle(1)

        asyncio.run(work())
        self.assertEqual(self.used("a"), 13)
        # Settling is answered alike when it comes again.
        self.assertEqual((self.proxy.cuts, self.proxy.replayed), (6, 5))


class Slots(WithServer):
    def test_a_thread_renews(self):
        limiter = self.limiter()
        with limiter.slot("gpu", ttl=1, limit={"slots": 1}) as hold:
            first = hold.expires_at
            # Longer than it would last.
            time.sleep(1.3)
            self.assertEqual(limiter.status("gpu")["used"], 1)
            self.assertGreater(hold.expires_at, first)
            self.assertIn("flint-renew", [thread.name for thread in threading.enumerate()])
            with self.assertRaises(flint.RateLimitExceeded) as caught:
                with limiter.slot("gpu", limit={"slots": 1}):
                    self.fail("two have one slot")
            self.assertTrue(0 < caught.exception.retry_after <= 1)
        self.assertTrue(limiter.peek("gpu", limit={"slots": 1}))

    def test_a_slot_that_is_lost(self):
        limiter = self.limiter()
        slot = limiter.slot("gone", ttl=1, limit={"slots": 1})
        with self.assertLogs("flint") as logged, self.assertRaises(flint.HoldLost) as caught:
            with slot as hold:
                # By a client that believed that this process is dead.
                limiter._pool.call(flint._calls.settle(hold.id, None))
                while not slot.lost:
                    time.sleep(0.01)
        self.assertEqual((caught.exception.key, "settled before" in str(caught.exception)), ("gone", True))
        self.assertIn("is lost", logged.output[0])

    def test_an_exception_of_the_block_is_the_one_that_is_told(self):
        limiter = self.limiter()
        slot = limiter.slot("mine", ttl=1, limit={"slots": 1})
        with self.assertLogs("flint"), self.assertRaises(ZeroDivisionError):
            with slot as hold:
                limiter._pool.call(flint._calls.settle(hold.id, None))
                while not slot.lost:
                    time.sleep(0.01)
                1 / 0
        with self.assertRaises(RuntimeError), slot:
            pass

    def test_a_task_is_cancelled_where_its_slot_is_lost(self):
        limiter = self.limiter()

        async def work():
            async with limiter:
                async with limiter.aslot("t", ttl=1, limit={"slots": 1}) as hold:
                    await asyncio.sleep(1.3)
                    self.assertEqual((await limiter.astatus("t"))["used"], 1)
                self.assertTrue(hold.settled)
                with self.assertLogs("flint"), self.assertRaises(flint.HoldLost):
                    async with limiter.aslot("t", ttl=1, limit={"slots": 1}) as hold:
                        await limiter._tasks.call(flint._calls.settle(hold.id, None))
                        await asyncio.sleep(30)
                # The cancellation is over.
                await asyncio.sleep(0)
                with self.assertRaises(asyncio.CancelledError):
                    async with limiter.aslot("t", limit={"slots": 1}) as hold:
                        asyncio.current_task().cancel()
                        await asyncio.sleep(30)
                self.assertTrue(hold.settled)
                asyncio.current_task().uncancel() if hasattr(asyncio.Task, "uncancel") else None

        asyncio.run(work())

    def test_a_slot_without_a_thread_is_given_back(self):
        limiter = self.limiter()
        with unittest.mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
            with self.assertRaises(RuntimeError), limiter.slot("gpu:1", limit={"slots": 1}):
                self.fail("it can't be renewed")
        self.assertIsNone(limiter.status("gpu:1"))

    def test_a_forked_child_gives_nothing_back(self):
        limiter = self.limiter()
        with limiter.hold("fork", limit={"slots": 1}):
            child = os.fork()
            if child == 0:
                try:
                    with limiter.hold("fork:child", limit={"slots": 1}) as hold:
                        hold._pid = os.getppid()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            self.assertEqual((limiter.status("fork")["used"], limiter.status("fork:child")["used"]), (1, 1))
        self.assertIsNone(limiter.status("fork"))


class Away(unittest.TestCase):
    def test_a_server_that_dies(self):
        server = Server("--sync", "batch")
        self.addCleanup(server.close)
        limiter = flint.SharedLimiter(server.url, token=TOKEN)
        self.addCleanup(limiter.close)
        with self.assertLogs("flint"), self.assertRaises(flint.HoldLost) as caught:
            with limiter.slot("gpu", ttl=1, limit={"slots": 1}):
                server.stop(signal.SIGKILL)
                time.sleep(1.1)
        self.assertIn("could not be renewed within 1 s", str(caught.exception))

    def test_by_on_error(self):
        url = "http://127.0.0.1:1"
        with flint.SharedLimiter(url, on_error="deny") as limiter, self.assertLogs("flint"):
            with self.assertRaises(flint.RateLimitExceeded) as caught:
                limiter.hold("k", 5)
            self.assertTrue(caught.exception.result.degraded)
            self.assertFalse(limiter.peek("k"))
        with flint.SharedLimiter(url, on_error="allow") as limiter, self.assertLogs("flint"):
            with limiter.hold(["k", ("l", 5)]) as hold:
                self.assertEqual((hold.degraded, hold.keys, [each.cost for each in hold.results]), (True, ["k", "l"], [1, 5]))
                self.assertEqual(hold.settle({"l": 3}), {"late": False, "results": [], "degraded": True})
            with limiter.slot("gpu") as hold:
                self.assertIsNone(hold.expires_time)
            self.assertTrue(limiter.charge("k", 5)["degraded"])
        with flint.SharedLimiter(url, on_error="local") as limiter, self.assertLogs("flint"):
            with limiter.hold("k", 5, limit="5/1m") as hold:
                self.assertTrue(hold.degraded)
                self.assertFalse(limiter.peek("k", limit="5/1m"))
                hold.settle(2)
            self.assertEqual(limiter.peek("k", limit="5/1m").remaining, 2)
            with limiter.slot("gpu", limit={"slots": 1}), self.assertRaises(flint.RateLimitExceeded):
                limiter.hold("gpu", limit={"slots": 1})
            self.assertTrue(limiter.charge("k", 50, limit="5/1m")["debt"])

    def test_what_was_held_before_the_server_went_away(self):
        server = Server("--sync", "batch")
        self.addCleanup(server.close)
        with flint.SharedLimiter(server.url, token=TOKEN, on_error="allow") as limiter:
            with limiter.hold("k", limit="5/1m") as hold, self.assertLogs("flint"):
                server.stop(signal.SIGKILL)
                self.assertTrue(hold.settle()["degraded"])
        with flint.SharedLimiter(server.url, token=TOKEN) as limiter, self.assertLogs("flint") as logged:
            server.start()
            with self.assertRaises(ZeroDivisionError), limiter.hold("k", limit="5/1m"):
                server.stop(signal.SIGKILL)
                1 / 0
        self.assertIn("could not be settled", logged.output[0])


if __name__ == "__main__":
    unittest.main()
