"""The guards in FastAPI, Starlette, Flask and Django: statuses, fields, and one request to the server for each guarded
request. Skipped with a message if the registry is out of reach."""

import hashlib
import os
import subprocess
import unittest

from registry import environment
from support import TOKEN, Server

COMMON = '''
import flint
from flint import _tasks, _threads

calls = []
for kind in (_threads.Pool, _tasks.AsyncPool):
    def call(self, it, timeout=None, call=kind.call):
        calls.append(it.path)
        return call(self, it, timeout)
    kind.call = call

limiter = flint.SharedLimiter()
limits = ["3/10s", "100/1d"]

def show(answers):
    print([answer.status_code for answer in answers], len(calls))
    calls.clear()
    assert {answer.headers.get("RateLimit-Policy") for answer in answers} == {'"3/10s";q=3;w=10, "100/1d";q=100;w=86400'}
    assert ["Retry-After" in answer.headers for answer in answers] == [answer.status_code == 429 for answer in answers]
'''

FASTAPI = COMMON + '''
import fastapi, fastapi.middleware.cors, fastapi.testclient, flint.fastapi, starlette.applications, starlette.routing
from starlette.responses import PlainTextResponse

app = fastapi.FastAPI(title="shop")
app.add_exception_handler(flint.RateLimitExceeded, flint.fastapi.rate_limit_exceeded)
client = fastapi.testclient.TestClient(app)

@app.get("/dependency", dependencies=[fastapi.Depends(flint.fastapi.RateLimit(limiter, limit=limits))])
async def dependency():
    return "hello"

tiers = {"gold": "2/1d", None: "1/1d"}
tier = flint.fastapi.RateLimit(
    limiter,
    key=lambda request: "user:" + request.headers["x-user"],
    limit=lambda request: tiers[request.headers.get("x-tier")],
)

@app.get("/tiers", dependencies=[fastapi.Depends(tier)])
def tiered():
    return "hello"

@app.get("/decorated")
@limiter.rate_limit("decorated", limit=limits)
async def decorated(request: fastapi.Request):
    return "hello"

@app.get("/plain")
@limiter.rate_limit("plain", limit="1/1d")
def plain(request: fastapi.Request):
    return "hello"

show([client.get("/dependency") for _ in range(4)])
print([client.get("/decorated").status_code for _ in range(4)], client.get("/decorated").json()["code"])
print([client.get("/plain").status_code for _ in range(2)])
print([client.get("/tiers", headers={"x-user": "ann"}).status_code for _ in range(2)])
print([client.get("/tiers", headers={"x-user": "bob", "x-tier": "gold"}).status_code for _ in range(3)])
print([client.get("/tiers", headers={"x-user": name}).status_code for name in ("x" * 600, "a\\tb")])
calls.clear()
# Without a handler: the dependency needs none, and the middleware answers for a decorated function.
app = fastapi.FastAPI(title="blog")
app.add_middleware(flint.ASGIMiddleware, limiter=limiter, limit=limits, exempt=["/decorated"])
app.add_middleware(fastapi.middleware.cors.CORSMiddleware, allow_origins=["*"])
client = fastapi.testclient.TestClient(app)

@app.get("/")
async def root():
    return "hello"

@app.get("/decorated")
@limiter.rate_limit("decorated", limit=limits)
async def again(request: fastapi.Request):
    return "hello"

@app.get("/dependency", dependencies=[fastapi.Depends(flint.fastapi.RateLimit(limiter, prefix="dep", limit="1/1d"))])
def dependency():
    return "hello"

show([client.get("/") for _ in range(4)])
preflight = {"Origin": "http://x", "Access-Control-Request-Method": "GET"}
print([client.options("/", headers=preflight).status_code for _ in range(4)], len(calls))
print(client.get("/decorated").status_code)
blog = fastapi.FastAPI()
blog.get("/", dependencies=[fastapi.Depends(flint.fastapi.RateLimit(limiter, prefix="dep", limit="1/1d"))])(lambda: "hello")
client = fastapi.testclient.TestClient(blog)
answers = [client.get("/") for _ in range(2)]
print([answer.status_code for answer in answers], answers[1].json()["detail"][:17], answers[1].headers["Retry-After"] > "0")
calls.clear()

async def home(request):
    return PlainTextResponse("hello")

@limiter.rate_limit("starlette", limit="1/1d")
async def limited(request):
    return PlainTextResponse("hello")

routes = [starlette.routing.Route("/", home), starlette.routing.Route("/limited", limited)]
app = starlette.applications.Starlette(
    routes=routes, exception_handlers={flint.RateLimitExceeded: flint.fastapi.rate_limit_exceeded}
)
client = fastapi.testclient.TestClient(flint.ASGIMiddleware(app, limiter, limit=limits, prefix="star", exempt=["/limited"]))
show([client.get("/") for _ in range(4)])
print([client.get("/limited").status_code for _ in range(2)])
print(sorted(status["key"] for status in limiter.list(live=True)))
'''

FLASK = COMMON + '''
import flask, flint.flask

app = flask.Flask("flask-shop")
app.register_error_handler(flint.RateLimitExceeded, flint.flask.rate_limit_exceeded)
app.wsgi_app = flint.WSGIMiddleware(app.wsgi_app, limiter, limit=limits, exempt=["/limited"])

@app.route("/")
def root():
    return "hello"

@app.route("/limited")
@limiter.rate_limit(lambda: flint.client_address(flask.request), limit="1/1d")
def limited():
    return "hello"

client = app.test_client()
show([client.get("/") for _ in range(4)])
answers = [client.get("/limited") for _ in range(2)]
print([answer.status_code for answer in answers], answers[1].json["code"], "Retry-After" in answers[1].headers)
print(sorted(status["key"] for status in limiter.list(live=True)))
'''

DJANGO = COMMON + '''
import asyncio, django, django.conf, django.http, django.test, django.urls, flint.django, sys

@limiter.rate_limit("view", limit="1/1d")
def send():
    return "sent"

def home(request):
    return django.http.HttpResponse("hello")

def sending(request):
    return django.http.HttpResponse(send())

async def asynchronous(request):
    return django.http.HttpResponse("hello")

urlpatterns = [
    django.urls.path("", home), django.urls.path("send", sending), django.urls.path("asynchronous", asynchronous)
]
django.conf.settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["flint.django.RateLimitMiddleware"],
    FLINT={"limiter": limiter, "limit": limits, "exempt": ["/send"], "prefix": "site", "trusted_proxies": ["127.0.0.1"]},
)
django.setup()
client = django.test.Client()
show([client.get("/") for _ in range(4)])
print([client.get("/send").status_code for _ in range(2)])
calls.clear()

async def ask():
    client = django.test.AsyncClient()
    answers = [await client.get("/asynchronous", headers={"X-Forwarded-For": "2001:db8::1"}) for _ in range(4)]
    await limiter.aclose()
    return answers

show(asyncio.run(ask()))
print(sorted(status["key"] for status in limiter.list(live=True)))
'''


class Frameworks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bin = environment()

    def run_program(self, program):
        server = Server("--sync", "batch")
        self.addCleanup(server.close)
        done = subprocess.run(
            [os.path.join(self.bin, "python"), "-c", program],
            env={**os.environ, "FLINT_SERVER": server.url, "FLINT_SERVER_TOKEN": TOKEN, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout.splitlines()

    def test_fastapi_and_starlette(self):
        self.assertEqual(
            self.run_program(FASTAPI),
            [
                "[200, 200, 200, 429] 4",
                "[200, 200, 200, 429] rate_limited",
                "[200, 429]",
                "[200, 429]",
                "[200, 200, 429]",
                "[200, 200]",
                "[200, 200, 200, 429] 4",
                "[200, 200, 200, 200] 0",
                "429",
                "[200, 429] too many requests True",
                "[200, 200, 200, 429] 4",
                "[200, 429]",
                str(
                    sorted(
                        [
                            "blog:client:testclient",
                            "decorated",
                            "dep:client:testclient",
                            "plain",
                            "shop:client:testclient",
                            "star:client:testclient",
                            "starlette",
                            "sha256:" + hashlib.sha256(b"user:a\tb").hexdigest(),
                            "sha256:" + hashlib.sha256(b"user:" + b"x" * 600).hexdigest(),
                            "user:ann",
                            "user:bob",
                        ]
                    )
                ),
            ],
        )

    def test_flask(self):
        self.assertEqual(
            self.run_program(FLASK),
            ["[200, 200, 200, 429] 4", "[200, 429] rate_limited True", "['client:127.0.0.1', 'flask-shop:client:127.0.0.1']"],
        )

    def test_django(self):
        self.assertEqual(
            self.run_program(DJANGO),
            [
                "[200, 200, 200, 429] 4",
                "[200, 429]",
                "[200, 200, 200, 429] 4",
                "['site:client:127.0.0.1', 'site:client:2001:db8::/64', 'view']",
            ],
        )


if __name__ == "__main__":
    unittest.main()
