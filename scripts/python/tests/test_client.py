"""The limiter from threads and processes."""

import asyncio
import contextlib
import copy
import datetime
import gc
import json
import multiprocessing
import os
import pathlib
import pickle
import re
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock
import warnings

import flint
from flint import _calls
from flint._reply import Reply, retry_after
import over_store
from support import TOKEN, Server, Stub, WithServer, open_files, reply


def spend(limiter, key, times, results):
    """What a process of multiprocessing does."""
    results.put(sum(limiter.allow(key) for _ in range(times)))


class Calls(WithServer):
    def test_what_the_contract_shows(self):
        limiter = self.limiter(timeout=10.0)
        self.assertTrue(limiter.limit("api:user-42", rate=100, per="1m"))
        self.assertFalse(limiter.limit("api:user-42", rate=100, per="1m"))
        self.assertIs(limiter.allow("api:user-42"), True)
        result = limiter.check("api:user-42", cost=5)
        self.assertTrue(result and result.allowed)
        self.assertEqual(
            (result.key, result.cost, result.limit, result.remaining, result.retry_after, result.algorithm),
            ("api:user-42", 5, 100, 94, 0.0, "token_bucket"),
        )
        self.assertLess(abs(result.reset_time - datetime.datetime.now(datetime.timezone.utc)), datetime.timedelta(60))
        self.assertIn("q=100", result.rate_limit_policy)
        limiter.limit("org:acme", rate=1000, per=3600)
        limiter.limit("route:/v1/chat", rate=10, per="1d", algorithm="sliding_window_log")
        items = ["api:user-42", {"key": "org:acme", "cost": 10}, ("route:/v1/chat", 1)]
        result = limiter.check_all(items)
        self.assertEqual((result["allowed"], result["denied_key"], len(result["results"])), (True, None, 3))
        result = limiter.check_all([("org:acme", 1), ("route:/v1/chat", 10)])
        self.assertEqual((result["allowed"], result["denied_key"]), (False, "route:/v1/chat"))
        self.assertTrue(limiter.allow_all(["org:acme"]))

    def test_everything_else(self):
        limiter = self.limiter()
        for key in ["o'brien \"x\" \\ /%?&#", "ключ", "a" * 512]:
            limiter.limit(key, rate=2, per="1d", burst=4)
            denied = [limiter.check(key, 3), limiter.check(key, 3)][1]
            self.assertFalse(denied)
            self.assertTrue(denied.retry_after > 3600 and denied.remaining == 1, denied)
            status = limiter.status(key)
            self.assertEqual((status["key"], status["burst"], status["total_denied"]), (key, 4, 1))
            limiter.reset(key)
            self.assertEqual(limiter.status(key)["remaining"], 4)
            self.assertIn(key, [found["key"] for found in limiter.top("denied", 1000)])
            limiter.remove(key)
            self.assertIsNone(limiter.status(key))
        limiter.flush()
        self.assertTrue((over_store.ON or limiter.compact()["ok"]) and limiter.doctor()["ok"] and limiter.health()["ok"])

    def test_limits_that_checks_bring(self):
        limiter = self.limiter()
        day = datetime.timedelta(days=1)
        for key, limit in [
            ("brought:text", "2/1d"),
            ("brought:list", ["2/1d", "1000/1h"]),
            ("brought:dict", {"rate": 2, "per": day}),
            ("brought:windows", {"windows": [{"rate": 2, "per": day, "burst": None}, "9/month"]}),
        ]:
            self.assertEqual([limiter.allow(key, limit=limit) for _ in range(3)], [True, True, False], key)
            status = limiter.status(key)
            self.assertEqual((status["source"], status["remaining"]), ("request", 0))
        self.assertEqual(limiter.list("brought:"), [])
        self.assertEqual(len(limiter.list("brought:", live=True)), 4)
        # Items that name a limit keep their own.
        items = ["brought:a", ("brought:b", 2), {"key": "brought:c", "limit": "5/1h"}]
        self.assertEqual(
            [result["limit"] for result in limiter.check_all(items, limit=["2/1d"])["results"]], [2, 2, 5]
        )
        self.assertFalse(limiter.allow_all(["brought:b"], limit="2/1d"))
        many = limiter.check_many(["brought:b", "brought:d"], limit="2/1d")
        self.assertEqual([result.allowed for result in many], [False, True])
        with self.assertRaises(flint.FlintServerError):
            limiter.check("brought:text")

    def test_patterns_and_windows(self):
        limiter = self.limiter()
        self.assertTrue(limiter.limit("user:*", ["2/1d", {"rate": 9, "per": "month", "tz": "UTC", "anchor": 15}]))
        self.assertFalse(limiter.limit("user:*", windows=[{"rate": 9, "per": "month", "anchor": 15}, "2/1d"]))
        result = limiter.check("user:1", limit="1000/1s")
        self.assertEqual((result.pattern, result.window, result.limit, result.remaining), ("user:*", "2/1d", 2, 1))
        self.assertEqual([(window["name"], window["remaining"]) for window in result.windows], [("2/1d", 1), ("9/month", 8)])
        self.assertEqual((result.used, result.debt, result.next_ms > 3600_000), (1, 0, True))
        self.assertEqual([status["key"] for status in limiter.list(pattern="user:*")], ["user:1"])
        self.assertEqual(limiter.status("user:*")["live"], 1)
        limiter.reset(prefix="user:1")
        self.assertEqual(limiter.check("user:1").remaining, 1)
        limiter.limit("user:2", "1/1d")
        self.assertEqual((limiter.remove(prefix="user:"), limiter.list("user:")), (2, []))

    def test_modes_and_values_for_a_time(self):
        limiter = self.limiter()
        limiter.limit("shadow", "1/1d", mode="shadow")
        results = [limiter.check("shadow") for _ in range(2)]
        self.assertEqual([(r.allowed, r.shadow, r.would_deny) for r in results], [(True, True, False), (True, True, True)])
        limiter.limit("free", unlimited=True)
        result = limiter.check("free", 10**9)
        self.assertEqual((result.allowed, result.limit, result.remaining, result.used), (True, None, None, None))
        self.assertEqual((result.reset_at, result.reset_time, result.algorithm, result.retry_after), ("", None, "", 0.0))
        limiter.limit("banned", rate=0, per="1s")
        result = limiter.check("banned")
        self.assertEqual((result.allowed, result.retry_after_ms, result.retry_after), (False, None, float("inf")))
        limiter.limit("raised", "1/1d")
        limiter.limit("raised", "5/1d", lasts=datetime.timedelta(hours=2))
        status = limiter.status("raised")
        self.assertEqual((status["rate"], status["below"]["rate"]), (5, 1))
        self.assertTrue(status["for_until"])
        limiter.limit("raised", "6/1d", lasts=7200)
        self.assertEqual(limiter.status("raised")["rate"], 6)

    def test_many(self):
        limiter = self.limiter()
        limiter.limit("many", rate=2, per="1d")
        results = limiter.check_many(["many", ("many", 1), {"key": "many"}, "none", ("many", 99)])
        self.assertEqual([result.allowed for result in results[:3]], [True, True, False])
        self.assertEqual([error.code for error in results[3:]], ["limit_not_configured", "cost_exceeds_capacity"])

    def test_lists_are_paged(self):
        limiter = self.limiter()
        keys = ["page:%04d" % index for index in range(1203)]

        def configure(part):
            for key in part:
                limiter.limit(key, rate=1, per="1s")

        threads = [threading.Thread(target=configure, args=(keys[index::32],)) for index in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([status["key"] for status in limiter.list("page:")], keys)
        self.assertEqual(limiter.list("nothing:"), [])

    def test_errors(self):
        limiter = self.limiter()
        limiter.limit("small", rate=5, per="1d")
        for call, status, code in [
            (lambda: limiter.check("none"), 404, "limit_not_configured"),
            (lambda: limiter.remove("none"), 404, "limit_not_configured"),
            (lambda: limiter.check("small", 6), 400, "cost_exceeds_capacity"),
            (lambda: limiter.check("small", 0), 400, "invalid_argument"),
            (lambda: limiter.check(5), 400, "invalid_argument"),
            (lambda: limiter.limit("x", rate=-1, per="1s"), 400, "invalid_argument"),
            (lambda: limiter.limit("x", ["1/1s"] * 9), 400, "invalid_argument"),
            (lambda: limiter.limit("x", "1/1s", lasts="soon"), 400, "invalid_argument"),
            (lambda: limiter.limit("x", "1/month", tz="Mars/Olympus"), 400, "invalid_argument"),
            (lambda: limiter.limit("x", "1/1s", max_keys=5), 400, "invalid_argument"),
            (lambda: limiter.limit("x"), 400, "invalid_argument"),
            (lambda: limiter.check("x", limit="5"), 400, "invalid_argument"),
            (lambda: limiter.check("x", 6, limit="5/1s"), 400, "cost_exceeds_capacity"),
            (lambda: limiter.check_all([("x", 1, 2)], limit="5/1s"), 400, "invalid_argument"),
            (lambda: limiter.remove(prefix=""), 400, "invalid_argument"),
            (lambda: self.limiter(token="wrong").check("small"), 401, "unauthorized"),
            (lambda: self.limiter(token="wrong", on_error="allow").check("small"), 401, "unauthorized"),
        ]:
            with self.assertRaises(flint.FlintServerError) as caught:
                call()
            self.assertEqual((caught.exception.status, caught.exception.code), (status, code))
            self.assertTrue(caught.exception.message)
        for wrong in [
            lambda: limiter.check_all("small"),
            lambda: limiter.check("x", limit=5),
            lambda: limiter.check("x", limit=b"5/1s"),
            lambda: limiter.check("x", limit=[5]),
            lambda: limiter.remove(),
            lambda: limiter.reset("x", prefix="x"),
        ]:
            with self.assertRaises(TypeError):
                wrong()
        with self.assertRaises(ValueError):
            limiter.limit("x", rate=1, per=datetime.timedelta(microseconds=1500))
        with self.assertRaises(TypeError):
            flint.SharedLimiter(self.server.url, timeout=None)
        for wrong in [dict(url="ftp://x"), dict(timeout=0), dict(on_error="maybe"), dict(token="a\nb")]:
            with self.assertRaises(ValueError):
                flint.SharedLimiter(**{"url": self.server.url, **wrong})

    def test_token_file_and_environment(self):
        with tempfile.NamedTemporaryFile("w") as file:
            # As the server reads it: the second is being rotated out.
            file.write("# of the web application\n\n  %s \nold-token\n" % TOKEN)
            file.flush()
            self.assertTrue(self.limiter(token=None, token_file=file.name).health()["ok"])
            self.assertTrue(self.limiter(token="", token_file=pathlib.Path(file.name)).health()["ok"])
            # What comes before a token is for the server, and a mounted secret can't be helped.
            with tempfile.NamedTemporaryFile("w") as roles:
                roles.write("check app1: %s\n" % TOKEN)
                roles.flush()
                os.chmod(roles.name, 0o644)
                self.assertTrue(self.limiter(token=None, token_file=roles.name).health()["ok"])
            os.chmod(file.name, 0o602)
            with self.assertRaisesRegex(ValueError, "can be written by others"):
                self.limiter(token=None, token_file=file.name)
            os.chmod(file.name, 0o600)
            file.truncate(0)
            with self.assertRaisesRegex(ValueError, "has no token"):
                self.limiter(token=None, token_file=file.name)
            with self.assertRaises(FileNotFoundError):
                self.limiter(token=None, token_file=file.name + ".none")
        script = "import flint; print(flint.SharedLimiter().health()['ok'])"
        environment = {**os.environ, "FLINT_SERVER": self.server.url, "FLINT_SERVER_TOKEN": TOKEN}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        self.assertEqual(done.stdout, "True\n", done.stderr)

    def test_threads_share_connections_and_quota(self):
        limiter = self.limiter()
        limiter.limit("threads", rate=300, per="365d")
        allowed = []

        def work():
            allowed.append(sum(limiter.allow("threads") for _ in range(50)))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sum(allowed), 300)

    def test_processes_that_fork_share_quota_and_no_connection(self):
        limiter = self.limiter()
        limiter.limit("forks", rate=200, per="365d")
        limiter.allow("forks")
        reader, writer = os.pipe()
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                # The parent's kept connection is never used here: replies would get mixed up.
                try:
                    results = [limiter.check("forks") for _ in range(60)]
                    assert all(result.key == "forks" for result in results)
                    os.write(writer, bytes([sum(result.allowed for result in results)]))
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
        own = sum(limiter.allow("forks") for _ in range(60))
        for child in children:
            self.assertEqual(os.waitpid(child, 0)[1], 0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            counts = pipe.read()
        self.assertEqual((len(counts), 1 + own + sum(counts)), (4, 200))


    def test_processes_of_multiprocessing_share_quota(self):
        for how in ("spawn", "fork"):
            context = multiprocessing.get_context(how)
            limiter = self.limiter()
            limiter.limit(how, rate=70, per="365d")
            results = context.Queue()
            processes = [context.Process(target=spend, args=(limiter, how, 30, results)) for _ in range(3)]
            for process in processes:
                process.start()
            counts = [results.get(timeout=60) for _ in processes]
            for process in processes:
                process.join(60)
            self.assertEqual((sum(counts), [process.exitcode for process in processes]), (70, [0, 0, 0]), how)
            results.close()
            results.join_thread()

    def test_copies(self):
        limiter = self.limiter(timeout=3, on_error="deny")
        for again in (pickle.loads(pickle.dumps(limiter)), copy.copy(limiter), copy.deepcopy({"l": limiter})["l"]):
            self.assertTrue(again.health()["ok"])
            self.assertEqual((again._timeout, again._on_error), (3, "deny"))
            again.close()

    def test_a_limiter_that_is_forgotten_leaves_nothing_behind(self):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            gc.collect()
            before = open_files()
            flint.SharedLimiter(self.server.url, token=TOKEN).health()
            gc.collect()
            self.assertEqual(open_files(), before)
            self.assertEqual([str(warning.message) for warning in warned], [])

    def test_a_signal_handler_may_ask_too(self):
        limiter = self.limiter()
        limiter.limit("signal", rate=10**6, per="365d")
        asked = []
        depth = 0

        def handler(number, frame):
            nonlocal depth
            # On a slow machine the next signal comes before this one is done.
            if depth == 5:
                return
            depth += 1
            try:
                asked.append(limiter.check("signal", 2).cost)
            finally:
                depth -= 1

        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
            for _ in range(300):
                # Wherever the signal comes in, each reply goes to who asked.
                self.assertEqual(limiter.check("signal").cost, 1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        self.assertEqual(set(asked), {2})


class Sockets(unittest.TestCase):
    def test_unix_socket(self):
        with tempfile.TemporaryDirectory() as directory:
            server = Server(bind="unix:" + os.path.join(directory, "s"), token=None)
            self.addCleanup(server.close)
            with flint.SharedLimiter(server.url) as limiter:
                limiter.limit("k", rate=3, per="1d")
                self.assertEqual([limiter.allow("k") for _ in range(2)], [True, True])
                # Relative paths are those of the directory of now.
                before = os.getcwd()
                os.chdir(directory)
                try:
                    relative = flint.SharedLimiter("unix:s")
                finally:
                    os.chdir(before)
                with relative, pickle.loads(pickle.dumps(relative)) as again:
                    self.assertEqual((relative.allow("k"), again.allow("k")), (True, False))
                with flint.SharedLimiter("unix:" + directory + "/none") as wrong:
                    with self.assertRaises(flint.FlintConnectionError) as caught:
                        wrong.check("k")
                    self.assertEqual((caught.exception.reason, caught.exception.request_sent), ("connect", False))

    def test_nothing_is_lost_or_spent_twice_over_restarts(self):
        server = Server("--sync", "always")
        self.addCleanup(server.close)
        limiter = flint.SharedLimiter(server.url, token=TOKEN)
        self.addCleanup(limiter.close)
        limiter.limit("k", rate=10**9, per="365d")
        known, unsure, over = [], [], threading.Event()

        def note(error):
            # Whether it was spent is open only where the request was sent.
            (unsure if error.request_sent else []).append(error)

        def work():
            while not over.is_set():
                try:
                    known.append(limiter.check("k"))
                except flint.FlintConnectionError as error:
                    note(error)
                    time.sleep(0.005)

        async def job():
            while not over.is_set():
                try:
                    known.append(await limiter.acheck("k"))
                except flint.FlintConnectionError as error:
                    note(error)
                    await asyncio.sleep(0.005)

        async def jobs():
            await asyncio.gather(*[job() for _ in range(4)])

        threads = [threading.Thread(target=work) for _ in range(4)]
        threads.append(threading.Thread(target=lambda: asyncio.run(jobs())))
        for thread in threads:
            thread.start()
        for how in [signal.SIGKILL, signal.SIGTERM] * 3:
            before = len(known)
            while len(known) < before + 100 and all(thread.is_alive() for thread in threads):
                time.sleep(0.001)
            server.restart(how)
        over.set()
        for thread in threads:
            thread.join()
        total = limiter.status("k")["total_allowed"]
        self.assertGreaterEqual(len(known), 600)
        self.assertTrue(len(known) <= total <= len(known) + len(unsure), (len(known), total, len(unsure)))

    def test_restarts_in_between(self):
        server = Server("--sync", "always")
        self.addCleanup(server.close)
        with flint.SharedLimiter(server.url, token=TOKEN) as limiter:
            limiter.limit("k", rate=100, per="365d")
            for turn, how in enumerate([signal.SIGTERM, signal.SIGKILL, signal.SIGTERM]):
                # The kept connection ended meanwhile; that is seen before a check is sent.
                self.assertEqual(limiter.check("k").remaining, 99 - turn)
                server.restart(how)
            self.assertEqual(limiter.check("k").remaining, 96)
            server.stop()
            with self.assertRaises(flint.FlintConnectionError) as caught:
                limiter.check("k")
            self.assertEqual((caught.exception.reason, caught.exception.request_sent), ("connect", False))
            for decision in ["allow", "deny"]:
                with flint.SharedLimiter(server.url, token=TOKEN, on_error=decision) as degraded:
                    with self.assertLogs("flint", "WARNING") as logs:
                        result = degraded.check("k", 7)
                        degraded.allow("k")
                    self.assertEqual(len(logs.records), 1, "once a minute")
                    self.assertNotIn(TOKEN, logs.output[0])
                    self.assertEqual((result.allowed, result.degraded, result.cost), (decision == "allow", True, 7))
                    self.assertEqual(degraded.check_all(["k"])["allowed"], decision == "allow")
                    with self.assertRaises(flint.FlintConnectionError):
                        degraded.status("k")


class Misbehaviour(unittest.TestCase):
    def stub(self, answer, **more):
        stub = Stub(answer)
        self.addCleanup(stub.close)
        limiter = flint.SharedLimiter(stub.url, **more)
        self.addCleanup(limiter.close)
        return stub, limiter

    def test_what_breaks_is_sent_again_once(self):
        def answer_once(stub, connection):
            # The first is answered and the connection kept; the second is read, and the connection ends.
            stub.read(connection)
            connection.sendall(reply())
            stub.read(connection)

        stub, limiter = self.stub(answer_once)
        for _ in range(2):
            self.assertTrue(limiter.check("k"))
        keys = [re.search(rb"Idempotency-Key: ([0-9a-f]{32})", head).group(1) for head, _ in stub.requests]
        self.assertEqual(stub.connections, 2)
        # Another check has another key, and the same check the same.
        self.assertEqual((len(keys), len(set(keys)), keys[1]), (3, 2, keys[2]))

    def test_a_second_time_is_the_last(self):
        def break_off(stub, connection):
            stub.read(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\n")

        stub, limiter = self.stub(break_off)
        with self.assertRaises(flint.FlintConnectionError) as caught:
            limiter.check("k")
        self.assertEqual((caught.exception.request_sent, caught.exception.reason), (True, "closed"))
        self.assertEqual(len(stub.requests), 2)

    def test_a_request_that_the_kernel_takes_in_parts(self):
        def answer(stub, connection):
            # Two of the first size, and one whose rest is not read.
            for _ in range(2):
                time.sleep(0.2)
                stub.read(connection)
                connection.sendall(reply(b'{"results":[]}'))
            over.wait(5)

        over = threading.Event()
        self.addCleanup(over.set)
        stub, limiter = self.stub(answer, timeout=5)
        items = ["k" * 500] * 40_000
        for _ in range(2):
            with self.assertRaises(flint.FlintServerError):
                limiter.check_many(items)
        self.assertEqual([len(json.loads(body)["items"]) for _, body in stub.requests], [40_000] * 2)
        self.assertEqual(stub.connections, 1)
        began = time.monotonic()
        with self.assertRaises(flint.FlintConnectionError) as caught:
            limiter._pool.call(_calls.check_many(items, None), 0.3)
        self.assertEqual((caught.exception.reason, caught.exception.request_sent), ("timeout", False))
        self.assertLess(time.monotonic() - began, 2)

    def test_a_forked_child_has_idempotency_keys_of_its_own(self):
        ours = [_calls._keys.line() for _ in range(3)]
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, _calls._keys.line().encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading) as file:
            theirs = file.read().strip()
        lines = [line.strip() for line in (*ours, _calls._keys.line(), theirs)]
        self.assertEqual(len(set(lines)), 5)
        self.assertTrue(all(re.fullmatch("Idempotency-Key: [0-9a-f]{32}", line) for line in lines))
        self.assertNotEqual(theirs[:33], lines[0][:33])

    def test_what_would_do_harm_is_not_sent_again(self):
        stub, limiter = self.stub(lambda stub, connection: stub.read(connection))
        with self.assertRaises(flint.FlintConnectionError):
            limiter.remove("k")
        self.assertEqual(len(stub.requests), 1)

    def test_what_spends_nothing_has_no_key(self):
        def answer(stub, connection):
            stub.read(connection)
            connection.sendall(reply(b'{"ok":true}'))

        stub, limiter = self.stub(answer)
        self.assertTrue(limiter.health()["ok"])
        self.assertNotIn(b"Idempotency", stub.requests[0][0])

    def test_closed_connections_are_left_alone(self):
        def answer_and_close(stub, connection):
            stub.read(connection)
            connection.sendall(reply())

        stub, limiter = self.stub(answer_and_close)
        for _ in range(5):
            self.assertTrue(limiter.check("k"))
            # The end of the connection comes with a moment's delay.
            time.sleep(0.05)
        self.assertEqual((len(stub.requests), stub.connections), (5, 5))

    def test_timeout(self):
        release = threading.Event()

        def hang(stub, connection):
            stub.read(connection)
            release.wait(30)

        _, limiter = self.stub(hang, timeout=0.2)
        self.addCleanup(release.set)
        with self.assertRaises(flint.FlintConnectionError) as caught:
            limiter.check("k")
        self.assertEqual((caught.exception.request_sent, caught.exception.reason), (True, "timeout"))

    def test_all_addresses_of_a_name_share_the_timeout(self):
        # A listener whose queue is full accepts no connection.
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
            for _ in range(3):
                one = waiting.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(full.getsockname())
            where = full.getsockname()
            answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where)] * 5
            limiter = flint.SharedLimiter("http://localhost:%d" % where[1], timeout=0.8)
            begun = time.monotonic()
            with unittest.mock.patch("socket.getaddrinfo", return_value=answers):
                with self.assertRaises(flint.FlintConnectionError) as caught:
                    limiter.check("k")
            self.assertEqual((caught.exception.reason, caught.exception.request_sent), ("timeout", False))
            self.assertLess(time.monotonic() - begun, 3.2, "five times as long, else")
        # One that refuses is passed over for the next.
        stub, _ = self.stub(lambda stub, connection: (stub.read(connection), connection.sendall(reply())))
        port = int(stub.url.rsplit(":", 1)[1])
        with socket.create_server(("127.0.0.1", 0)) as gone:
            refusing = gone.getsockname()
        answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", to) for to in (refusing, ("127.0.0.1", port))]
        with unittest.mock.patch("socket.getaddrinfo", return_value=answers):
            self.assertTrue(flint.SharedLimiter("http://localhost:%d" % port).check("k"))

    def test_drops_do_not_outlive_the_timeout(self):
        def drip(stub, connection):
            stub.read(connection)
            while True:
                connection.sendall(b"H")
                time.sleep(0.02)

        _, limiter = self.stub(drip, timeout=0.3)
        with self.assertRaises(flint.FlintConnectionError):
            limiter.check("k")

    def test_odd_replies(self):
        for sent, reason in [
            (b"SSH-2.0-OpenSSH_9\r\n\r\n", "protocol"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "protocol"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "protocol"),
            (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40000, "protocol"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "protocol"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "closed"),
            (b"", "closed"),
        ]:
            def answer(stub, connection, sent=sent):
                stub.read(connection)
                connection.sendall(sent)

            _, limiter = self.stub(answer, timeout=5)
            with self.assertRaises(flint.FlintConnectionError) as caught:
                limiter.check("k")
            self.assertEqual(caught.exception.reason, reason, sent[:40])

    def test_whatever_comes_as_a_reply(self):
        chance = random.Random(5)
        begun = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nRetry-After: 1\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        ends = {"whole": 0, "refused": 0, "more": 0}
        for _ in range(20000):
            data = bytearray(begun)
            for _ in range(chance.randrange(1, 4)):
                at = chance.randrange(len(data))
                data[at : at + chance.randrange(3)] = chance.choice([b"", b"\xb2", b"9" * 5000, b"\r\n", bytes([chance.randrange(256)])])
            found = Reply()
            try:
                ends["whole" if found.feed(bytes(data[:40])) or found.feed(bytes(data[40:])) else "more"] += 1
                retry_after(found.headers)
            except flint.FlintConnectionError:
                ends["refused"] += 1
        self.assertTrue(all(ends.values()), ends)

    def test_answers_of_another_program(self):
        def answer(stub, connection):
            while stub.read(connection):
                connection.sendall(reply(stub.body, stub.status))

        stub, limiter = self.stub(answer)
        calls = [
            limiter.health, limiter.list, limiter.top, limiter.doctor, limiter.compact,
            lambda: limiter.check("k"), lambda: limiter.allow("k"), lambda: limiter.status("k"),
            lambda: limiter.allow_all(["k"]), lambda: limiter.check_many(["k"]), lambda: limiter.limit("k", rate=1, per="1s"),
        ]
        bodies = [b"", b"<html>", b"{}", b"5", b"null", b'"ok"', b'[{"a":1}]', b"\xff", b"[" * 50000, b'{"ok":null,"results":[5]}']
        for stub.status in (b"200 OK", b"404 Not Found", b"503 Service Unavailable"):
            for stub.body in bodies:
                for call in calls:
                    with self.assertRaises(flint.FlintServerError, msg=(stub.status, stub.body[:20], call)) as caught:
                        call()
                    self.assertEqual(caught.exception.code, "invalid_response", stub.body[:20])

    def test_good_replies_in_any_form(self):
        body = reply().split(b"\r\n\r\n", 1)[1]
        half = len(body) // 2
        chunks = b"%x\r\n%s\r\n%x;x=y\r\n%s\r\n0\r\n\r\n" % (half, body[:half], len(body) - half, body[half:])
        for sent in [
            b"HTTP/1.1 100 Continue\r\n\r\n" + reply(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
            b"HTTP/1.0 200 OK\r\n\r\n" + body,
        ]:
            for step in (1, 7, 100000):
                def answer(stub, connection, sent=sent, step=step):
                    stub.read(connection)
                    for at in range(0, len(sent), step):
                        connection.sendall(sent[at : at + step])

                _, limiter = self.stub(answer)
                self.assertEqual(limiter.check("k").remaining, 4)

    def test_an_overloaded_server(self):
        body = b'{"error":"all workers are busy","code":"overloaded"}'

        def answer(stub, connection):
            while stub.read(connection):
                connection.sendall(reply(body, b"503 Service Unavailable", b"Retry-After: 1\r\n"))

        stub, limiter = self.stub(answer)
        with self.assertRaises(flint.FlintServerError) as caught:
            limiter.check("k")
        error = caught.exception
        self.assertEqual((error.status, error.code, error.retry_after), (503, "overloaded", 1.0))
        self.assertEqual((error.message, error.unavailable), ("all workers are busy", True))
        self.assertEqual(len(stub.requests), 1, "a check is not tried again by itself")
        for decision in ("allow", "deny"):
            stub, limiter = self.stub(answer, on_error=decision)
            result = limiter.check("k", 2)
            self.assertEqual((result.allowed, result.degraded), (decision == "allow", True))
            self.assertEqual(result.retry_after, 0.0 if decision == "allow" else 1.0)
            self.assertEqual(limiter.check_all(["k"]), {
                "allowed": decision == "allow", "denied_key": None, "results": [], "degraded": True
            })

    def test_a_proxy_that_finds_no_server(self):
        def answer(stub, connection):
            stub.read(connection)
            connection.sendall(reply(b"<html>", b"502 Bad Gateway", b"Connection: close\r\n"))

        _, limiter = self.stub(answer)
        with self.assertRaises(flint.FlintServerError) as caught:
            limiter.check("k")
        self.assertEqual((caught.exception.status, caught.exception.code), (502, "invalid_response"))
        _, limiter = self.stub(answer, on_error="deny")
        self.assertEqual(limiter.check("k").allowed, False)


if __name__ == "__main__":
    unittest.main()
