"""The decorator and the middlewares."""

import asyncio
import pickle
import sys
import unittest

import flint
from support import WithServer


class Decorator(WithServer):
    def test_plain_functions(self):
        limiter = self.limiter()
        calls = []

        @limiter.rate_limit("send", rate=2, per="1d")
        def send(to):
            """Sends."""
            calls.append(to)
            return len(calls)

        self.assertEqual((send("a"), send(to="b"), send.__doc__), (1, 2, "Sends."))
        with self.assertRaises(flint.RateLimitExceeded) as caught:
            send("c")
        self.assertEqual(calls, ["a", "b"])
        self.assertTrue(caught.exception.retry_after > 3600 and caught.exception.key == "send")
        again = pickle.loads(pickle.dumps(caught.exception))
        self.assertEqual((again.result, str(again)), (caught.exception.result, str(caught.exception)))

    def test_keys_and_costs_of_the_arguments(self):
        limiter = self.limiter()

        @limiter.rate_limit(lambda user, n: "upload:" + user, rate=10, per="1d", cost=lambda user, n: n)
        def upload(user, n):
            return n

        self.assertEqual((upload("ann", 7), upload("bob", 10)), (7, 10))
        with self.assertRaises(flint.RateLimitExceeded):
            upload("ann", 4)
        self.assertEqual(limiter.status("upload:ann")["total_allowed_cost"], 7)

    def test_coroutine_functions(self):
        async def work():
            async with self.limiter() as limiter:
                @limiter.rate_limit("job", rate=1, per="1d")
                async def job():
                    return "done"

                self.assertEqual(await job(), "done")
                with self.assertRaises(flint.RateLimitExceeded):
                    await job()

                class Job:
                    async def __call__(self, n):
                        return n

                costly = limiter.rate_limit("jobs", rate=5, per="1d", cost=lambda n: n)(Job())
                self.assertEqual(await costly(4), 4)
                with self.assertRaises(flint.RateLimitExceeded):
                    await costly(2)

                @limiter.rate_limit("job", limit="1/1d")
                class Plain:
                    async def __call__(self):
                        pass

                with self.assertRaises(flint.RateLimitExceeded):
                    Plain()

                async def numbers():
                    yield 1

                with self.assertRaises(TypeError):
                    limiter.rate_limit("job")(numbers)

        asyncio.run(work())

    def test_nothing_is_configured(self):
        limiter = self.limiter()

        @limiter.rate_limit(lambda user: "again:" + user, limit=["2/1d", "1000/1h"])
        def work(user):
            return True

        @limiter.rate_limit(lambda user: "again:" + user, rate=2, per="1d")
        async def job(user):
            return True

        self.assertTrue(work("ann") and work("ann") and work("bob"))
        self.assertTrue(asyncio.run(job("bob")))
        with self.assertRaises(flint.RateLimitExceeded):
            asyncio.run(job("bob"))
        self.assertEqual(limiter.list("again:"), [])
        self.assertEqual([status["source"] for status in limiter.list("again:", live=True)], ["request"] * 2)
        # What an operator configures counts at once, and stays.
        limiter.limit("again:ann", "1/1d")
        limiter.limit("again:*", "1/1d", mode="shadow")
        with self.assertRaises(flint.RateLimitExceeded):
            work("ann")
        self.assertTrue(work("bob"))
        self.assertEqual([status["rate"] for status in limiter.list("again:")], [1, 1])
        # Without values it is unknown what counts.
        with self.assertRaises(flint.FlintServerError):
            limiter.rate_limit("unknown")(work)("ann")

    def test_a_denial_for_ever(self):
        limiter = self.limiter()

        @limiter.rate_limit("never", limit="0/1s")
        def work():
            return True

        with self.assertRaises(flint.RateLimitExceeded) as caught:
            work()
        self.assertEqual(str(caught.exception), "rate limit exceeded for 'never': retry never")
        self.assertEqual(caught.exception.retry_after, float("inf"))

    def test_wrong_use_and_no_server(self):
        limiter = self.limiter()
        with self.assertRaises(ValueError):
            limiter.rate_limit("x", rate=5)
        with self.assertRaises(ValueError):
            limiter.rate_limit("x", burst=5)
        with self.assertRaises(ValueError):
            limiter.rate_limit("x", limit="5/1s", rate=5, per="1s")
        degraded = flint.SharedLimiter("http://127.0.0.1:9", on_error="allow")
        self.assertEqual(degraded.rate_limit("x", rate=5, per="1s")(lambda: 5)(), 5)
        refusing = flint.SharedLimiter("http://127.0.0.1:9", on_error="deny")
        with self.assertRaises(flint.RateLimitExceeded):
            refusing.rate_limit("x", rate=5, per="1s")(lambda: 5)()
        with self.assertRaises(flint.FlintConnectionError):
            flint.SharedLimiter("http://127.0.0.1:9").rate_limit("x", rate=5, per="1s")(lambda: 5)()


class Middleware(WithServer):
    def wsgi(self, app, path="/", method="GET", address="10.0.0.1"):
        started = []
        environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "REMOTE_ADDR": address, "wsgi.version": (1, 0)}
        body = b"".join(app(environ, lambda status, headers, exc=None: started.append((status, dict(headers)))))
        return started[0][0], started[0][1], body

    def test_wsgi(self):
        def hello(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"hello"]

        app = flint.WSGIMiddleware(hello, self.limiter(), rate=2, per="1d", exempt=["/health"])
        for left in (1, 0):
            status, headers, body = self.wsgi(app)
            self.assertEqual((status, body), ("200 OK", b"hello"))
            self.assertIn('r=%d;' % left, headers["RateLimit"])
            self.assertEqual(headers["RateLimit-Policy"], '"2/1d";q=2;w=86400')
        status, headers, body = self.wsgi(app)
        self.assertEqual(status, "429 Too Many Requests")
        self.assertTrue(int(headers["Retry-After"]) > 3600 and b'"code"' in body, headers)
        self.assertEqual(self.wsgi(app, method="HEAD")[2], b"")
        self.assertEqual(self.wsgi(app, "/health")[0], "200 OK")
        self.assertEqual(self.wsgi(app, address="10.0.0.2")[0], "200 OK")
        # What waiting does not end has no Retry-After.
        app = flint.WSGIMiddleware(hello, self.limiter(), limit={"windows": ["0/1s"]})
        status, headers, body = self.wsgi(app, address="10.0.0.3")
        self.assertEqual((status[:3], "Retry-After" in headers), ("429", False))
        self.assertEqual(body, b'{"error": "too many requests", "code": "rate_limited"}\n')

    def test_an_operator_s_limit_stands(self):
        def hello(environ, start_response):
            start_response("200 OK", [])
            return [b"hello"]

        limiter = self.limiter()
        limiter.limit("shop:client:10.9.0.1", "1/1d")
        app = flint.WSGIMiddleware(hello, limiter, rate=100, per="1m", prefix="shop")
        for address in ("10.9.0.1", "10.9.0.1", "10.9.0.2"):
            status, headers, _ = self.wsgi(app, address=address)
        self.assertEqual((status, headers["RateLimit-Policy"]), ("200 OK", '"100/1m";q=100;w=60'))
        self.assertEqual(self.wsgi(app, address="10.9.0.1")[0], "429 Too Many Requests")
        self.assertEqual([status["key"] for status in limiter.list("shop:client:10.9.")], ["shop:client:10.9.0.1"])
        self.assertEqual(limiter.status("shop:client:10.9.0.1")["rate"], 1)
        # A pattern that is configured later counts at once for clients that are known already.
        limiter.limit("shop:client:10.9.*", "1/1d")
        self.assertEqual(self.wsgi(app, address="10.9.0.2")[0], "429 Too Many Requests")

    def test_wsgi_errors_and_no_server(self):
        def failing(environ, start_response):
            try:
                raise KeyError("x")
            except KeyError:
                start_response("500 Internal Server Error", [], sys.exc_info())
            return [b"sorry"]

        limiter = self.limiter()
        app = flint.WSGIMiddleware(
            failing, limiter, key=lambda environ: "failing", rate=3, per="1d", algorithm="fixed_window_counter"
        )
        status, headers, body = self.wsgi(app)
        self.assertEqual((status, body), ("500 Internal Server Error", b"sorry"))
        self.assertIn("RateLimit", headers)
        self.assertEqual(limiter.status("failing")["algorithm"], "fixed_window_counter")
        with self.assertRaises(TypeError):
            flint.WSGIMiddleware(failing, limiter, exempt="/health")
        for decision, expected in [("allow", "500 Internal Server Error"), ("deny", "429 Too Many Requests")]:
            for values in ({}, {"rate": 3, "per": "1d"}):
                degraded = flint.SharedLimiter("http://127.0.0.1:9", on_error=decision)
                status, headers, _ = self.wsgi(flint.WSGIMiddleware(failing, degraded, **values))
                self.assertEqual((status, "RateLimit" in headers), (expected, False))
                self.assertEqual(headers.get("Retry-After"), "1" if decision == "deny" else None)
        with self.assertRaises(flint.FlintConnectionError):
            self.wsgi(flint.WSGIMiddleware(failing, flint.SharedLimiter("http://127.0.0.1:9")))

    def asgi(self, app, path="/", address="10.1.0.1"):
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": b""}

        scope = {"type": "http", "path": path, "method": "GET", "client": (address, 5), "headers": []}
        return app(scope, receive, send), sent

    def test_asgi(self):
        async def hello(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
            await send({"type": "http.response.body", "body": b"hello"})

        async def work():
            async with self.limiter() as limiter:
                costs = {"/dear": 2}
                app = flint.ASGIMiddleware(
                    hello,
                    limiter,
                    key=lambda scope: None if scope["path"] == "/free" else flint.client_address(scope),
                    cost=lambda scope: costs.get(scope["path"], 1),
                    rate=3,
                    per="1d",
                )
                statuses = []
                for path in ["/dear", "/free", "/dear", "/", "/", "/free"]:
                    call, sent = self.asgi(app, path)
                    await call
                    statuses.append(sent[0]["status"])
                    headers = dict(sent[0]["headers"])
                    self.assertEqual(b"ratelimit" in headers, path != "/free", headers)
                    self.assertEqual(b"retry-after" in headers, sent[0]["status"] == 429)
                self.assertEqual(statuses, [200, 200, 429, 200, 429, 200])
                call, sent = self.asgi(app, "/", "10.1.0.2")
                await call
                self.assertEqual(sent[0]["status"], 200)
                # Anything but an HTTP request passes.
                seen = []

                async def lifespan(scope, receive, send):
                    seen.append(scope["type"])

                for kind in ("lifespan", "websocket"):
                    await flint.ASGIMiddleware(lifespan, limiter)({"type": kind, "path": "/"}, None, None)
                self.assertEqual(seen, ["lifespan", "websocket"])
                for decision, expected in [("allow", 200), ("deny", 429)]:
                    degraded = flint.SharedLimiter("http://127.0.0.1:9", on_error=decision)
                    call, sent = self.asgi(flint.ASGIMiddleware(hello, degraded, rate=3, per="1d"))
                    await call
                    self.assertEqual(sent[0]["status"], expected)
                call, _ = self.asgi(flint.ASGIMiddleware(hello, flint.SharedLimiter("http://127.0.0.1:9")))
                with self.assertRaises(flint.FlintConnectionError):
                    await call

        asyncio.run(work())


if __name__ == "__main__":
    unittest.main()
