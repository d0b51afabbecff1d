"""The limiter from tasks."""

import asyncio
import unittest

import flint
from support import Stub, WithServer, reply


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
            self.assertTrue((await limiter.acompact())["ok"] and (await limiter.adoctor())["ok"])
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

            allowed = sum(await asyncio.gather(*[one() for _ in range(64)]))
            self.assertEqual(allowed, 300)
            self.assertLessEqual((await limiter.adoctor())["connections"]["open"], 70)

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

    def test_restarts(self):
        async def work(limiter):
            await limiter.alimit("r", rate=100, per="365d")
            await limiter.acheck("r")
            self.server.restart()
            # The loop learns of the connection's end when it next runs.
            await asyncio.sleep(0.05)
            self.assertTrue((await limiter.acheck("r")).allowed)

        self.run_with(work)


class Misbehaviour(unittest.TestCase):
    def test_a_check_is_never_sent_twice(self):
        def answer_once(stub, connection):
            stub.read(connection)
            connection.sendall(reply())
            stub.read(connection)

        stub = Stub(answer_once)
        self.addCleanup(stub.close)

        async def work():
            async with flint.SharedLimiter(stub.url) as limiter:
                self.assertTrue(await limiter.acheck("k"))
                with self.assertRaises(flint.FlintConnectionError) as caught:
                    await limiter.acheck("k")
                self.assertTrue(caught.exception.request_sent)

        asyncio.run(work())
        self.assertEqual(len(stub.requests), 2)

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
