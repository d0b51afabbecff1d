"""What a guard asks for, and which client it sees: without frameworks, against a real server."""

import asyncio
import unittest

import flint
from flint import _origin
from flint._guard import fit
from flint.testing import FakeLimiter
from support import WithServer


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


async def asgi_hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def wsgi(app, path="/", method="GET", address="10.0.0.1", **more):
    started = []
    environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "REMOTE_ADDR": address, "wsgi.version": (1, 0), **more}
    body = b"".join(app(environ, lambda status, headers, exc=None: started.append((status, headers))))
    return int(started[0][0][:3]), started[0][1], body


def asgi(app, path="/", method="GET", address="10.0.0.1", headers=(), **more):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "path": path, "method": method, "client": (address, 5), "headers": [*headers], **more}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], sent[0]["headers"], sent[1]["body"]


def environ(peer, *lines):
    found = {"REQUEST_METHOD": "GET", "REMOTE_ADDR": peer}
    if lines:
        found["HTTP_X_FORWARDED_FOR"] = ",".join(lines)
    return found


def scope(peer, *lines):
    headers = [(b"X-Forwarded-For", line.encode()) for line in lines]
    return {"type": "http", "method": "GET", "client": (peer, 1) if peer else None, "headers": headers}


class Clients(unittest.TestCase):
    def client(self, peer, *lines, trusted=("10.0.0.0/8", "192.0.2.1", "fd00::/8"), **more):
        found = {
            flint.client_address(request, trusted_proxies=trusted, **more)
            for request in (environ(peer, *lines), scope(peer, *lines))
        }
        self.assertEqual(len(found), 1, found)
        return found.pop()[len("client:") :]

    def test_one_household_is_one_client(self):
        found = {self.client("2001:db8::%d" % place) for place in range(1, 6)}
        self.assertEqual(found, {"2001:db8::/64"})
        self.assertEqual(self.client("2001:db8:0:1::1"), "2001:db8:0:1::/64")
        self.assertEqual(self.client("2001:db8::1", ipv6_prefix=128), "2001:db8::1")
        self.assertEqual(self.client("2001:db8:0:1::1", ipv6_prefix=56), "2001:db8::/56")
        # IPv4 on a socket of IPv6 is the same client as on an IPv4 socket.
        self.assertEqual(self.client("::ffff:198.51.100.7"), "198.51.100.7")
        self.assertEqual(self.client("::FFFF:c633:6407"), "198.51.100.7")
        self.assertEqual(self.client("fe80::1%eth0"), "fe80::/64")

    def test_the_rightmost_that_is_no_trusted_proxy(self):
        for peer, lines, expected in [
            ("203.0.113.9", ["198.51.100.7"], "203.0.113.9"),
            ("10.0.0.1", [], "10.0.0.1"),
            ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
            # What the client itself wrote is on the left.
            ("10.0.0.1", ["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", ["1.1.1.1", "198.51.100.7 , 10.0.0.3", "192.0.2.1"], "198.51.100.7"),
            ("10.0.0.1", ["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            ("::ffff:10.0.0.1", ["2001:db8::7"], "2001:db8::/64"),
            ("fd00::1", ["[2001:db8::7]:443"], "2001:db8::/64"),
            ("10.0.0.1", ["198.51.100.7:5511"], "198.51.100.7"),
            ("10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
            # Nothing that a proxy would write: the last that is known to be a proxy.
            ("10.0.0.1", ["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", ["1.1.1.1, \t" + "x" * 600 + ", 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", ["", ""], "10.0.0.1"),
            # A Unix socket.
            ("", ["198.51.100.7"], "198.51.100.7"),
        ]:
            self.assertEqual(self.client(peer, *lines), expected, (peer, lines))
        self.assertEqual(self.client("10.0.0.1", "198.51.100.7", trusted=()), "10.0.0.1")
        self.assertEqual(self.client("", "198.51.100.7", trusted=()), "unknown")

    def test_requests_of_frameworks(self):
        class Starlette:
            scope = {"type": "http", "client": ("198.51.100.7", 1), "headers": []}

        class Django:
            META = environ("198.51.100.7")

        class Flask:
            environ = environ("198.51.100.7")

        for request in (Starlette(), Django(), Flask()):
            self.assertEqual(flint.client_address(request), "client:198.51.100.7")

    def test_wrong_use(self):
        for trusted in ("10.0.0.0/8", ["10.0.0.0/8/3"], ["proxy"]):
            with self.assertRaises((TypeError, ValueError)) as caught:
                flint.Guard("1/1s", trusted_proxies=trusted)
            self.assertIn("trusted_proxies", str(caught.exception))
        for name, value in [("ipv6_prefix", 0), ("ipv6_prefix", 129), ("prefix", "a" * 257), ("on_error", "x"), ("timeout", 0)]:
            wrong = {name: value}
            with self.assertRaises(ValueError) as caught:
                flint.Guard("1/1s", **wrong)
            self.assertIn(next(iter(wrong)), str(caught.exception))


class Names(unittest.TestCase):
    def test_the_application_s_name(self):
        class App:
            def __call__(self, *args):
                pass

        named, flask, nameless = App(), App(), App()
        named.title, flask.name, nameless.title = "Shop", "blog", "FastAPI"
        self.assertEqual(_origin.application({}, named), "Shop")
        self.assertEqual(_origin.application({}, flask.__call__), "blog")
        self.assertEqual(_origin.application({"app": named}, None), "Shop")
        directory = _origin.application({}, None)
        self.assertTrue(directory)
        self.assertEqual(_origin.application({"app": nameless}, None), directory)


class Keys(WithServer):
    def test_what_a_client_sends_is_never_an_error(self):
        key = lambda environ: environ.get("HTTP_X_KEY")  # noqa: E731
        seen = set()
        for value in ["x" * 600, "a\tb", "", "  ", "\x00", "\x7f", "\x9f", "\ud800", "é" * 300, "ok"]:
            for prefix in (None, "shop"):
                app = flint.WSGIMiddleware(hello, self.limiter(), limit="1/1d", key=key, prefix=prefix)
                self.assertEqual(wsgi(app, HTTP_X_KEY=value)[0], 200, (value, prefix))
                self.assertEqual(wsgi(app, HTTP_X_KEY=value)[0], 429, (value, prefix))
                seen.add(fit(value, prefix or ""))
        self.assertEqual(len(seen), 20)
        self.assertTrue({"ok", "shop:ok"} < seen)
        self.assertEqual(wsgi(flint.WSGIMiddleware(hello, self.limiter(), limit="1/1d", key=key))[0], 200)
        self.assertEqual(fit(b"caf\xe9", "p"), "p:café")
        self.assertEqual(fit(42, "user"), "user:42")
        self.assertRegex(fit("x" * 600, "p"), "^p:sha256:[0-9a-f]{64}$")
        with self.assertRaises(TypeError):
            fit(1.5, "p")

    def test_a_cost_that_can_never_be_allowed(self):
        cost = lambda environ: int(environ["CONTENT_LENGTH"])  # noqa: E731
        app = flint.WSGIMiddleware(hello, self.limiter(), limit="10/1d", cost=cost, prefix="costs")
        for length, expected in [("0", 200), ("11", 429), (str(10**30), 429), ("-5", 200), ("9", 200), ("1", 429)]:
            status, headers, _ = wsgi(app, CONTENT_LENGTH=length)
            self.assertEqual(status, expected, length)
            self.assertEqual("Retry-After" in dict(headers), length == "1")
        both = [flint.Guard("10/1d", cost=cost, prefix="c1"), flint.Guard("5/1d", cost=cost, prefix="c2")]
        status, headers, _ = wsgi(flint.WSGIMiddleware(hello, self.limiter(), both), CONTENT_LENGTH="7")
        self.assertEqual((status, "Retry-After" in dict(headers)), (429, False))
        # An error of the application itself is reported as such.
        with self.assertRaises(flint.FlintServerError):
            wsgi(flint.WSGIMiddleware(hello, self.limiter(), limit="ten"))
        with self.assertRaises(TypeError):
            wsgi(flint.WSGIMiddleware(hello, self.limiter(), limit="1/1d", cost=1.5))

    def test_two_applications_have_two_quotas(self):
        class App:
            def __init__(self, title):
                self.title = title

            def __call__(self, environ, start_response):
                return hello(environ, start_response)

        limiter = self.limiter()
        shop, blog = [flint.WSGIMiddleware(App(title), limiter, limit="1/1d") for title in ("Shop", "Blog")]
        self.assertEqual([wsgi(app)[0] for app in (shop, blog, shop, blog)], [200, 200, 429, 429])
        self.assertEqual(limiter.status("Shop:client:10.0.0.1")["used"], 1)
        # One guard in front of two is two as well.
        guard = flint.Guard("1/1d")
        shop, blog = [flint.WSGIMiddleware(App(title), limiter, [guard]) for title in ("Shop 2", "Blog 2")]
        self.assertEqual([wsgi(app)[0] for app in (shop, blog, shop, blog)], [200, 200, 429, 429])

    def test_preflights_are_free(self):
        limiter = self.limiter()
        one = flint.WSGIMiddleware(hello, limiter, limit="3/1d", prefix="preflight-1")
        other = flint.ASGIMiddleware(asgi_hello, limiter, limit="3/1d", prefix="preflight-2")
        for ask, app in ((wsgi, one), (asgi, other)):
            for _ in range(4):
                self.assertEqual(ask(app, method="OPTIONS")[0], 200)
            self.assertEqual([ask(app)[0] for _ in range(4)], [200, 200, 200, 429])

    def test_tiers_and_exemptions(self):
        tiers = {"gold": ["5/1d", "1000/30d"], "free": "1/1d", "house": {"unlimited": True}}
        app = flint.WSGIMiddleware(
            hello,
            self.limiter(),
            limit=lambda environ: tiers[environ["tier"]],
            key=lambda environ: "tier:" + environ["tier"],
            exempt=lambda environ: environ["PATH_INFO"].startswith("/static/"),
        )
        self.assertEqual([wsgi(app, tier="free")[0] for _ in range(2)], [200, 429])
        self.assertEqual([wsgi(app, tier="gold")[0] for _ in range(6)], [200] * 5 + [429])
        self.assertEqual([wsgi(app, tier="house")[0] for _ in range(6)], [200] * 6)
        self.assertEqual(wsgi(app, "/static/x.css", tier="free")[0], 200)
        with self.assertRaises(ValueError):
            flint.Guard(lambda environ: "1/1s", rate=1, per="1s")


class Together(WithServer):
    def count(self, limiter):
        """The requests that go to the server from now on."""
        counted = []
        for pool in (limiter._pool, limiter._tasks):
            call = pool.call
            pool.call = lambda *args, call=call: (counted.append(args[0].path), call(*args))[1]
        return counted

    def test_several_windows_are_one_request(self):
        for ask, middleware, app in [(wsgi, flint.WSGIMiddleware, hello), (asgi, flint.ASGIMiddleware, asgi_hello)]:
            limiter = self.limiter()
            counted = self.count(limiter)
            guarded = middleware(app, limiter, limit=["3/10s", "100/1d"], prefix=ask.__name__)
            answers = [ask(guarded) for _ in range(4)]
            self.assertEqual([answer[0] for answer in answers], [200, 200, 200, 429])
            self.assertEqual(len(counted), 4)
            for _, headers, _ in answers:
                fields = {str(name, "ascii") if isinstance(name, bytes) else name.lower(): value for name, value in headers}
                policy = fields["ratelimit-policy"]
                policy = policy.decode() if isinstance(policy, bytes) else policy
                self.assertEqual(policy, '"3/10s";q=3;w=10, "100/1d";q=100;w=86400')
            # Denied by one window, nothing was spent of the other.
            least = limiter.status("%s:client:10.0.0.1" % ask.__name__)["windows"]
            self.assertEqual([window["used"] for window in least], [3, 3])

    def test_two_keys_are_all_or_none(self):
        limiter = self.limiter()
        counted = self.count(limiter)
        guards = [
            flint.Guard("5/1d", prefix="outer"),
            flint.Guard("2/1d", key=lambda environ: "org:acme", exempt=["/free"]),
        ]
        app = flint.WSGIMiddleware(hello, limiter, guards)
        self.assertEqual([wsgi(app)[0] for _ in range(4)], [200, 200, 429, 429])
        self.assertEqual(len(counted), 4)
        self.assertEqual(limiter.status("outer:client:10.0.0.1")["used"], 2)
        self.assertEqual(wsgi(app, "/free")[0], 200)
        self.assertEqual(limiter.status("outer:client:10.0.0.1")["used"], 3)
        # The fields are those of the window that binds.
        self.assertEqual(dict(wsgi(app, address="10.0.0.9")[1])["RateLimit-Policy"], '"2/1d";q=2;w=86400')

    def test_stacked_middlewares_spend_all_or_none(self):
        for ask, middleware, app in [(wsgi, flint.WSGIMiddleware, hello), (asgi, flint.ASGIMiddleware, asgi_hello)]:
            limiter = self.limiter()
            inner = middleware(app, limiter, limit="1/1d", prefix="inner-" + ask.__name__)
            stacked = middleware(inner, limiter, limit="5/1d", prefix="outer-" + ask.__name__)
            self.assertEqual([ask(stacked)[0] for _ in range(3)], [200, 429, 429])
            self.assertEqual(limiter.status("outer-%s:client:10.0.0.1" % ask.__name__)["used"], 1)
            # The same key in both is two limits.
            inner = middleware(app, limiter, limit="9/1d", prefix="same-" + ask.__name__)
            stacked = middleware(inner, limiter, limit="2/1d", prefix="same-" + ask.__name__)
            self.assertEqual([ask(stacked)[0] for _ in range(3)], [200, 200, 429])
            # Another limiter's is another's.
            other = FakeLimiter()
            stacked = middleware(middleware(app, limiter, limit="9/1d"), other, limit="1/1d")
            self.assertEqual([ask(stacked)[0] for _ in range(2)], [200, 429])

    def test_what_an_operator_raises_stays_raised(self):
        limiter = self.limiter()
        app = flint.WSGIMiddleware(hello, limiter, limit="3/1m", prefix="raised")
        self.assertEqual([wsgi(app)[0] for _ in range(4)], [200, 200, 200, 429])
        limiter.limit("raised:client:10.0.0.1", "1000/1m")
        self.assertEqual({wsgi(app)[0] for _ in range(20)}, {200})
        again = flint.WSGIMiddleware(hello, self.limiter(), limit="3/1m", prefix="raised")
        self.assertEqual(wsgi(again)[0], 200)
        self.assertEqual(limiter.status("raised:client:10.0.0.1")["rate"], 1000)

    def test_a_denied_function_inside(self):
        limiter = self.limiter()
        send = limiter.rate_limit("send:inside", limit="1/1d")(lambda: b"sent")

        def app(environ, start_response):
            body = send()
            start_response("200 OK", [])
            return [body]

        async def asgi_app(scope, receive, send_):
            await asgi_hello(scope, receive, send_) if send() else None

        guarded = flint.WSGIMiddleware(app, limiter, limit="9/1d", prefix="inside")
        self.assertEqual([wsgi(guarded)[0] for _ in range(2)], [200, 429])
        guarded = flint.ASGIMiddleware(asgi_app, limiter, limit="9/1d", prefix="inside")
        status, headers, body = asgi(guarded)
        self.assertEqual((status, b"retry-after" in dict(headers)), (429, True))

        def late(environ, start_response):
            start_response("200 OK", [])
            return [send()]

        with self.assertRaises(flint.RateLimitExceeded):
            wsgi(flint.WSGIMiddleware(late, limiter, limit="9/1d", prefix="inside"))

    def test_the_decorator_takes_what_a_guard_takes(self):
        limiter = self.limiter()

        @limiter.rate_limit(lambda user, tier: user, prefix="call", limit=lambda user, tier: "%d/1d" % tier)
        def call(user, tier):
            return user

        self.assertEqual([call("ann", 2), call("ann", 2), call("\x00" * 600, 1)], ["ann", "ann", "\x00" * 600])
        with self.assertRaises(flint.RateLimitExceeded) as caught:
            call("ann", 2)
        self.assertEqual(caught.exception.key, "call:ann")
        with self.assertRaises(flint.FlintServerError):
            limiter.rate_limit("dear", limit="1/1d", cost=5)(call)("ann", 2)


if __name__ == "__main__":
    unittest.main()
