"""What needs packages from the registry: types under mypy, FastAPI under uvicorn with four workers, and a WSGI
application under gunicorn, which forks its workers from a process that has already sent requests. Skipped with a message if
the registry is out of reach."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import flint
from registry import PACKAGE, environment, litellm_environment
from support import TOKEN, Server

with open(os.path.join(PACKAGE, "..", "..", "README.md"), encoding="utf-8") as readme:
    # The application that README shows, of which only the quota's period is another: nothing comes back meanwhile.
    (README_APP,) = re.findall(r"^```python\n(import fastapi\n.*?)^```", readme.read(), re.M | re.S)
APP = README_APP.replace('limit="100/1m"', 'limit=["100/365d", "5000/day"]') + '''
import os

@app.get("/health")
async def health():
    return {"pid": os.getpid()}
'''

WSGI = '''
import os
import flask
import flint

limiter = flint.SharedLimiter(os.environ["FLINT_SERVER"])
# The workers are forked off this process, in which a connection is kept.
limiter.limit("tenant:acme", ["100/365d", "5000/day"])
app = flask.Flask("shop")

@app.route("/")
@app.route("/health")
def root():
    return {"pid": os.getpid()}

app.wsgi_app = flint.WSGIMiddleware(app.wsgi_app, limiter, key=lambda environ: "tenant:acme", exempt=["/health"])
'''

TYPED = '''
import asyncio
from datetime import timedelta
from typing import Callable, Dict, List
import flint
from flint.testing import FakeLimiter

limiter = flint.SharedLimiter("http://127.0.0.1:7878", token="dev-secret", timeout=10.0)

@limiter.rate_limit(lambda user, n: "u:" + user, rate=5, per="1s", cost=lambda user, n: n)
def send(user: str, n: int = 1) -> int:
    return n

@limiter.rate_limit("job")
async def job(user: str) -> str:
    return user

async def asgi_app(scope: object, receive: object, send: object) -> None:
    pass

def app(environ: Dict[str, object], start_response: Callable[..., object]) -> List[bytes]:
    return []

guarded = flint.WSGIMiddleware(app, limiter, rate=5, per="1s", key=lambda environ: str(environ.get("HTTP_X_USER")))
guard = flint.Guard(lambda request: ["10/1s", "5000/day"], key=lambda request: "user:7", on_error="local")
outer = flint.ASGIMiddleware(asgi_app, FakeLimiter(), [guard], limit="5/1s", trusted_proxies=["10.0.0.0/8"])
acquired: bool = limiter.acquire("mail", timeout=5)
with flint.Server("quotas", sync="batch") as embedded:
    embedded.allow("k")
tiers: flint.Limit = {"windows": ["10/1s", {"rate": 5000, "per": timedelta(days=1)}], "mode": "shadow"}
twice = flint.WSGIMiddleware(app, limiter, limit=tiers)

async def main() -> str:
    allowed: bool = await limiter.aallow("k")
    async with limiter.ahold([("llm", 4000), "streams"], ttl="2m") as held:
        settled: flint.Settlement = await held.asettle({"llm": 1234})
    again: flint.Hold = await limiter.ahold("llm", 5)
    async with limiter.aslot("gpu", limit={"slots": 1}):
        await again.arenew(timedelta(seconds=90))
    debt: int = settled["results"][0]["debt"]
    return await job("ann") if allowed and not debt else "no"

limiter.limit("user:*", ["10/1s", {"rate": 5, "per": "day", "tz": "UTC"}], lasts=timedelta(hours=1), max_keys=1000)
limiter.limit("k", rate=5, per="1s", algorithm="sliding_window_log", mode="enforce")
result = limiter.check("k", cost=5, limit="100/1m")
remaining: int = result.remaining or 0
least: "list[int]" = [window["remaining"] for window in result.windows]
removed: int = limiter.remove(prefix="user:")
found = limiter.check_all(["user:42", {"key": "org:acme", "cost": 10}, ("route:/v1/chat", 1)])
denied: "str | None" = found["denied_key"] if not found["allowed"] else None
for one in limiter.check_many([("a", 1), ("b", 2)]):
    word: str = one.code if isinstance(one, flint.FlintServerError) else one.key
with limiter.hold("llm:acme", cost=4000, ttl=120) as hold:
    late: bool = hold.settle(1234)["late"]
slot: flint.Slot = limiter.slot("gpu", ttl=30)
with slot as hold:
    held_by: str = hold.id if not slot.lost else hold.expires_at
limiter.limit("gpu", slots=4)
debt: int = limiter.charge("k", 5, limit="100/1m").get("debt", 0)
left: "int | None" = limiter.refund("k", 5)["remaining"]
open_holds: int = len((limiter.status("gpu") or limiter.list()[0]).get("holds", []))
free: bool = limiter.peek("k").allowed and limiter.peek_all(["k", ("l", 2)])["allowed"]
status = limiter.status("k")
print(status["remaining"] if status is not None else 0, [each["key"] for each in limiter.list("u:")])
asyncio.run(main())
'''


class Registry(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bin = environment()

    def mypy(self, *what, directory=PACKAGE):
        command = [os.path.join(self.bin, "mypy"), "--strict", "--cache-dir", os.devnull, *what]
        return subprocess.run(command, cwd=directory, capture_output=True, text=True)

    def modules(self):
        """The package's modules, except the one whose package has a separate environment."""
        names = sorted(os.listdir(os.path.join(PACKAGE, "flint")))
        self.assertIn("litellm.py", names)
        return [os.path.join("flint", name) for name in names if name.endswith(".py") and name != "litellm.py"]

    def test_types(self):
        done = self.mypy(*self.modules())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_types_of_litellm(self):
        module, python = os.path.join("flint", "litellm.py"), os.path.join(litellm_environment(), "python")
        done = self.mypy("--python-executable", python, module)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        done = self.pyright(module, python=python)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def pyright(self, *what, directory=PACKAGE, python=None):
        python = python or os.path.join(self.bin, "python")
        command = [os.path.join(self.bin, "pyright"), "--pythonpath", python, *what]
        return subprocess.run(command, cwd=directory, capture_output=True, text=True)

    def test_types_under_pyright(self):
        done = self.pyright(*self.modules())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_types_of_the_documentation_s_examples(self):
        with open(os.path.join(PACKAGE, "..", "..", "man", "flint-python.3"), encoding="utf-8") as file:
            examples = file.read().split(".Sh EXAMPLES")[1]
        found = re.findall(r"^\.Bd -literal -offset indent\n(.*?)^\.Ed", examples, re.M | re.S)
        found = [text.replace("\\(dq", '"').replace("\\e", "\\") for text in found]
        for name in ("README.md", os.path.join("..", "..", "README.md")):
            with open(os.path.join(PACKAGE, name), encoding="utf-8") as file:
                found += re.findall(r"^```python\n(.*?)^```", file.read(), re.M | re.S)
        self.assertGreater(len(found), 10)
        with tempfile.TemporaryDirectory() as directory:
            names = ["example_%d.py" % place for place in range(len(found))]
            for name, text in zip(names, found):
                with open(os.path.join(directory, name), "w") as file:
                    file.write(text)
            done = self.pyright(*names, directory=directory)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            # Strict but for annotations, which examples have none of.
            options = ["--allow-untyped-defs", "--allow-untyped-calls", "--allow-untyped-decorators"]
            done = self.mypy(*options, *names, directory=directory)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_types_of_a_program_that_uses_the_installed_package(self):
        with tempfile.TemporaryDirectory() as directory:
            wrong = 'flint.WSGIMiddleware(app, limiter, on_error="never")\n'
            for text, code in [(TYPED, 0), (TYPED + wrong, 1), (TYPED + "send(5)\n", 1)]:
                with open(os.path.join(directory, "program.py"), "w") as file:
                    file.write(text)
                done = self.mypy("program.py", directory=directory)
                self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertIn('Argument 1 to "send" has incompatible type "int"', done.stdout)

    def test_four_workers_of_uvicorn_share_one_quota(self):
        self.assertEqual(APP.count("365d"), 1)
        self.share(APP, "uvicorn", "quota_app:app", "--workers", "4", "--log-level", "warning", "--port")

    def test_workers_forked_by_gunicorn_share_one_quota(self):
        options = ["--workers", "4", "--threads", "2", "--preload", "--log-level", "warning", "--bind"]
        self.share(WSGI, "gunicorn", "quota_app:app", *options, address="127.0.0.1:")

    def test_greenlets_of_gunicorn_share_one_quota(self):
        options = ["--workers", "2", "--worker-class", "gevent", "--log-level", "warning", "--bind"]
        self.share(WSGI, "gunicorn", "quota_app:app", *options, address="127.0.0.1:", expected=2)

    def test_two_windows_in_one_guard_are_spent_all_or_none(self):
        few = '["3/10s", "100/1d"]'
        uvicorn = ["uvicorn", "quota_app:app", "--workers", "4", "--log-level", "warning", "--port"]
        gunicorn = ["gunicorn", "quota_app:app", "--workers", "4", "--log-level", "warning", "--bind"]
        gevent = [*gunicorn[:-1], "--worker-class", "gevent", "--bind"]
        for program, command, address in [(APP, uvicorn, ""), (WSGI, gunicorn, "127.0.0.1:"), (WSGI, gevent, "127.0.0.1:")]:
            self.assertEqual(program.count('["100/365d", "5000/day"]'), 1)
            with self.subTest(command):
                self.few(program.replace('["100/365d", "5000/day"]', few), command, address)

    def few(self, program, command, address):
        server = Server("--sync", "batch")
        self.addCleanup(server.close)
        with self.running(server, program, command, address) as port:
            self.workers(port, 2)
            began = time.monotonic()
            answers = [self.get(port, "/") for _ in range(6)]
            # One comes back after a third of 10 s.
            most = 3 + int((time.monotonic() - began) / (10 / 3))
            # What was answered last.
            with flint.SharedLimiter(server.url, token=TOKEN) as limiter:
                (status,) = [found for found in limiter.list(live=True) if "windows" in found]
        allowed = [status for status, _, _ in answers].count(200)
        self.assertTrue(3 <= allowed <= most and allowed < 6, answers)
        for code, headers, _ in answers:
            self.assertEqual(headers["RateLimit-Policy"], '"3/10s";q=3;w=10, "100/1d";q=100;w=86400')
            self.assertEqual("Retry-After" in headers, code == 429)
            left = [int(each) for each in re.findall(r";r=(\d+)", headers["RateLimit"])]
            self.assertEqual((len(left), left[0] == 0 or code == 200), (2, True), headers["RateLimit"])
        # Nothing of the day was spent by what the ten seconds denied.
        self.assertEqual(status["windows"][1]["remaining"], 100 - allowed)
        self.assertEqual(self.checks(server), 6)

    def checks(self, server):
        """The requests for checks that a server has got."""
        request = urllib.request.Request(server.url + "/v1/metrics", headers={"Authorization": "Bearer " + TOKEN})
        with urllib.request.urlopen(request) as answer:
            metrics = answer.read().decode()
        counted = re.findall(r'^flint_request_duration_seconds_count\{route="/v1/check.*\} (\d+)$', metrics, re.M)
        return sum(int(count) for count in counted)

    @contextlib.contextmanager
    def running(self, server, program, command, address):
        """The port of an application, while it runs."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "quota_app.py"), "w") as file:
                file.write(program)
            environment = {**os.environ, "FLINT_SERVER": server.url, "FLINT_SERVER_TOKEN": TOKEN, "PYTHONPATH": ""}
            app = subprocess.Popen(
                [os.path.join(self.bin, command[0]), *command[1:], address + str(port)],
                cwd=directory,
                env=environment,
                start_new_session=True,
            )
            try:
                yield port
            finally:
                os.killpg(app.pid, signal.SIGTERM)
                app.wait(30)

    def share(self, program, *command, address="", expected=4):
        server = Server("--sync", "batch")
        self.addCleanup(server.close)
        with self.running(server, program, command, address) as port:
            workers = self.workers(port, expected)
            statuses = [self.get(port, "/")[0] for _ in range(130)]
        self.assertGreater(len(workers), 1, "several workers answered")
        self.assertEqual((statuses.count(200), statuses.count(429)), (100, 30))
        # One for each that is guarded.
        self.assertEqual(self.checks(server), 130)

    def get(self, port, path):
        """Status, header fields and body of an answer."""
        try:
            with urllib.request.urlopen("http://127.0.0.1:%d%s" % (port, path), timeout=30) as answer:
                return answer.status, answer.headers, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                self.assertTrue(int(error.headers["Retry-After"]) > 0 and error.headers["RateLimit"])
                return error.code, error.headers, None

    def workers(self, port, expected):
        """The processes that answer, once there are this many."""
        deadline = time.monotonic() + 60
        workers = set()
        while len(workers) < expected and time.monotonic() < deadline:
            try:
                workers.add(self.get(port, "/health")[2]["pid"])
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        return workers


if __name__ == "__main__":
    unittest.main()
