"""The limiter from tasks."""

import asyncio
import gc
import threading
import unittest
import warnings

import flint
from flint import _calls
from flint._bounds import TASK_CONNECTIONS
import over_store
from support import TOKEN, Stub, WithServer, open_files, reply


class Tasks(WithServer):
    def run_with(self, work, **more):
        async def run():
            async with self.limiter(**more) as limiter:
                return await work(limiter)

        return asyncio.run(run())

    def test_every_twin(self):
        async def work(limiter):
            self.assertTrue(await limiter.alimit("a:1", rate=5, per="1d"))
            self.assertTrue(await limiter.aallow("a:1"))
            self.assertEqual((await limiter.acheck("a:1", 2)).remaining, 2)
            self.assertEqual((await limiter.acheck_all(["a:1"]))["allowed"], True)
            self.assertFalse(await limiter.aallow_all([("a:1", 5)]))
            self.assertEqual([r.allowed for r in await limiter.acheck_many(["a:1", "a:1"])], [True, False])
            self.assertEqual((await limiter.astatus("a:1"))["total_allowed"], 4)
            self.assertIsNone(await limiter.astatus("none"))
            self.assertEqual([s["key"] for s in await limiter.alist("a:")], ["a:1"])
            self.assertEqual((await limiter.atop("denied", 1))[0]["key"], "a:1")
            await limiter.areset("a:1")
            await limiter.aflush()
            self.assertTrue((over_store.ON or (await limiter.acompact())["ok"]) and (await limiter.adoctor())["ok"])
            self.assertTrue((await limiter.ahealth())["ok"])
            await limiter.aremove("a:1")
            with self.assertRaises(flint.FlintServerError):
                await limiter.acheck("a:1")

        self.run_with(work)
        sync = {name for name in dir(flint.SharedLimiter) if not name.startswith("_")}
        missing = {name for name in sync if "a" + name not in sync and name[1:] not in sync}
        self.assertEqual(missing, {"rate_limit"})

    def test_many_tasks_share_connections(self):
        async def work(limiter):
            await limiter.alimit("tasks", rate=300, per="365d")

            async def one():
                return sum([await limiter.aallow("tasks") for _ in range(10)])

            before = open_files()
            allowed = sum(await asyncio.gather(*[one() for _ in range(64)]))
            self.assertEqual(allowed, 300)
            self.assertLessEqual(open_files() - before, TASK_CONNECTIONS)

        self.run_with(work)

    def test_the_loop_is_never_blocked_and_cancelling_is_safe(self):
        async def work(limiter):
            await limiter.alimit("c", rate=1000, per="365d")
            for _ in range(30):
                task = asyncio.ensure_future(limiter.acheck("c"))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                # Its reply must not come as the next one's.
                self.assertEqual((await limiter.acheck("c", 3)).cost, 3)

        self.run_with(work)

    def test_two_loops_after_each_other(self):
        limiter = self.limiter()
        for _ in range(2):
            async def work():
                health = await limiter.ahealth()
                await limiter.aclose()
                return health["ok"]

            self.assertTrue(asyncio.run(work()))

    def test_loops_leave_nothing_behind(self):
        limiter = self.limiter()
        limiter.limit("loops", rate=1000, per="365d")
        limiter.close()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            before = open_files()
            for _ in range(5):
                # As in scripts: nothing is closed.
                self.assertTrue(asyncio.run(limiter.acheck("loops")))
                self.assertEqual(open_files(), before)
            self.assertEqual(len(limiter._tasks._loops), 1)

            async def forgetting():
                other = flint.SharedLimiter(self.server.url, token=TOKEN)
                await other.acheck("loops")
                del other
                gc.collect()
                for _ in range(5):
                    await asyncio.sleep(0)
                return open_files()

            within = asyncio.run(asyncio.wait_for(forgetting(), 30))
            self.assertLessEqual(within, before + 3, "the loop's own descriptors alone")
            gc.collect()
            self.assertEqual([str(warning.message) for warning in warned], [])

    def test_loops_in_threads(self):
        limiter = self.limiter()
        limiter.limit("loops-in-threads", rate=100, per="365d")
        allowed = []

        async def work():
            return sum(await asyncio.gather(*[limiter.aallow("loops-in-threads") for _ in range(40)]))

        threads = [threading.Thread(target=lambda: allowed.append(asyncio.run(work()))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sum(allowed), 100)

    def test_thousands_of_tasks_are_a_queue(self):
        async def work(limiter):
            await limiter.alimit("storm", rate=1500, per="365d")
            before = open_files()
            tasks = [asyncio.ensure_future(limiter.aallow("storm")) for _ in range(2000)]
            self.assertEqual(sum(await asyncio.gather(*tasks)), 1500)
            # All that were opened are kept.
            self.assertLessEqual(open_files() - before, TASK_CONNECTIONS)
            # Those that are cancelled give their places back, in the queue or not.
            tasks = [asyncio.ensure_future(limiter.aallow("storm")) for _ in range(300)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.assertEqual(limiter._tasks._loops[asyncio.get_running_loop()]._free, TASK_CONNECTIONS)

        self.run_with(work)

    def test_restarts(self):
        async def work(limiter):
            await limiter.alimit("r", rate=100, per="365d")
            await limiter.acheck("r")
            for _ in range(2):
                # The loop has had no turn to learn of the connection's end.
                self.server.restart()
                self.assertTrue((await limiter.acheck("r")).allowed)

        self.run_with(work)


class Misbehaviour(unittest.TestCase):
    def test_each_request_of_a_connection_has_a_time_of_its_own(self):
        def answer(stub, connection):
            for wait in (0, 0, 0.3, 5):
                stub.read(connection)
                over.wait(wait)
                connection.sendall(reply())

        over = threading.Event()
        stub = Stub(answer)
        self.addCleanup(stub.close)
        self.addCleanup(over.set)

        async def work():
            loop = asyncio.get_running_loop()
            async with flint.SharedLimiter(stub.url) as limiter:
                # The longer time is over long after the shorter one, and the other way round.
                for timeout in (10, 0.2, 10):
                    await limiter._tasks.call(_calls.check("k", 1, None), timeout)
                began = loop.time()
                with self.assertRaises(flint.FlintConnectionError) as caught:
                    await limiter._tasks.call(_calls.check("k", 1, None), 0.2)
                self.assertEqual(caught.exception.reason, "timeout")
                self.assertTrue(0.15 < loop.time() - began < 2)

        asyncio.run(work())
        self.assertEqual((stub.connections, len(stub.requests)), (1, 4))

    def test_what_breaks_is_sent_again_once(self):
        def answer_once(stub, connection):
            stub.read(connection)
            connection.sendall(reply())
            stub.read(connection)

        def break_off(stub, connection):
            stub.read(connection)

        async def work(stub, *calls):
            async with flint.SharedLimiter(stub.url) as limiter:
                for call in calls:
                    await call(limiter)

        def check(limiter):
            return limiter.acheck("k")

        stub = Stub(answer_once)
        self.addCleanup(stub.close)
        asyncio.run(work(stub, check, check))
        keys = [head.split(b"Idempotency-Key: ")[1][:32] for head, _ in stub.requests]
        self.assertEqual((len(keys), len(set(keys)), keys[1], stub.connections), (3, 2, keys[2], 2))
        for call, requests in [(check, 2), (lambda limiter: limiter.aremove("k"), 1)]:
            stub = Stub(break_off)
            self.addCleanup(stub.close)
            with self.assertRaises(flint.FlintConnectionError) as caught:
                asyncio.run(work(stub, call))
            self.assertEqual((caught.exception.request_sent, len(stub.requests)), (True, requests))

    def test_a_place_that_does_not_come_in_time(self):
        stub = Stub(lambda stub, connection: stub.read(connection))
        self.addCleanup(stub.close)

        async def work():
            async with flint.SharedLimiter(stub.url, timeout=0.2) as limiter:
                # As though other calls had all places.
                limiter._tasks._begin(asyncio.get_running_loop())._free = 0
                with self.assertRaises(flint.FlintConnectionError) as caught:
                    await limiter.acheck("k")
                return caught.exception

        error = asyncio.run(work())
        # What waited for a place has sent nothing.
        self.assertEqual((error.reason, error.request_sent, stub.connections), ("timeout", False, 0))

    def test_what_nobody_asked_for_is_no_reply(self):
        def answer_twice(stub, connection):
            stub.read(connection)
            connection.sendall(reply() + reply())
            stub.read(connection)

        stub = Stub(answer_twice)
        self.addCleanup(stub.close)

        async def work():
            async with flint.SharedLimiter(stub.url) as limiter:
                for _ in range(3):
                    self.assertTrue(await limiter.acheck("k"))

        asyncio.run(work())
        self.assertEqual((len(stub.requests), stub.connections), (3, 3))

    def test_odd_replies(self):
        for sent, reason in [(b"SSH-2.0-OpenSSH_9\r\n\r\n", "protocol"), (b"HTTP/1.1 200 OK\r\n", "closed"), (b"", "closed")]:
            def answer(stub, connection, sent=sent):
                stub.read(connection)
                connection.sendall(sent)

            stub = Stub(answer)
            self.addCleanup(stub.close)

            async def work(stub=stub):
                async with flint.SharedLimiter(stub.url, timeout=5) as limiter:
                    with self.assertRaises(flint.FlintConnectionError) as caught:
                        await limiter.acheck("k")
                    return caught.exception

            error = asyncio.run(work())
            self.assertEqual((error.reason, error.request_sent), (reason, True), sent)

    def test_good_replies_in_any_form(self):
        def answer(stub, connection):
            stub.read(connection)
            for byte in b"HTTP/1.0 200 OK\r\n\r\n" + reply().split(b"\r\n\r\n", 1)[1]:
                connection.sendall(bytes([byte]))

        stub = Stub(answer)
        self.addCleanup(stub.close)

        async def work():
            async with flint.SharedLimiter(stub.url) as limiter:
                return await limiter.acheck("k")

        self.assertEqual(asyncio.run(work()).remaining, 4)

    def test_timeout_and_refusal(self):
        def hang(stub, connection):
            stub.read(connection)
            stub.read(connection)

        stub = Stub(hang)
        self.addCleanup(stub.close)

        async def work():
            async with flint.SharedLimiter(stub.url, timeout=0.2) as limiter:
                with self.assertRaises(flint.FlintConnectionError) as caught:
                    await limiter.acheck("k")
                self.assertEqual((caught.exception.reason, caught.exception.request_sent), ("timeout", True))
            async with flint.SharedLimiter("http://127.0.0.1:9", on_error="allow") as limiter:
                self.assertTrue((await limiter.acheck("k")).degraded)
                self.assertTrue(await limiter.aallow_all(["k"]))

        asyncio.run(work())


if __name__ == "__main__":
    unittest.main()
