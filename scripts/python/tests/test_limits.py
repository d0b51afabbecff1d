"""``flint.limits``: the storages of the package ``limits``, held to its own tests, and Flask-Limiter and slowapi over
them. Skipped with a message if the registry is out of reach."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from registry import PACKAGE, environment, sources
from support import TOKEN, Server

FLASK = '''
import flask, flask_limiter, flask_limiter.util, flint.limits, flint, sys
from flint import _threads
strategy, address = sys.argv[1:]
app = flask.Flask("shop")
app.config["RATELIMIT_HEADERS_ENABLED"] = True
flask_limiter.Limiter(flask_limiter.util.get_remote_address, app=app, storage_uri="flint://:dev-secret@" + address,
                      strategy=strategy, default_limits=["3/hour"])

@app.route("/")
def root():
    return "hello"

calls = []
call = _threads.Pool.call
_threads.Pool.call = lambda self, it, timeout=None: (calls.append(it.path), call(self, it, timeout))[1]
client = app.test_client()
answers = [client.get("/") for _ in range(5)]
print([answer.status_code for answer in answers], len(calls))
print([answer.headers["X-RateLimit-Remaining"] for answer in answers])
'''

SLOWAPI = '''
import fastapi, fastapi.testclient, slowapi, slowapi.errors, slowapi.util, flint.limits, sys
strategy, address = sys.argv[1:]
limiter = slowapi.Limiter(slowapi.util.get_remote_address, storage_uri="flint://:dev-secret@" + address, strategy=strategy)
app = fastapi.FastAPI()
app.state.limiter = limiter
app.add_exception_handler(slowapi.errors.RateLimitExceeded, slowapi._rate_limit_exceeded_handler)

@app.get("/")
@limiter.limit("3/hour")
async def root(request: fastapi.Request):
    return "hello"

client = fastapi.testclient.TestClient(app)
print([client.get("/").status_code for _ in range(5)])
'''


class Limits(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bin = environment()
        cls.server = Server("--sync", "batch")
        cls.addClassCleanup(cls.server.close)

    def python(self, *arguments, directory=None, timeout=300, **more):
        variables = {"FLINT_SERVER": self.server.url, "FLINT_SERVER_TOKEN": TOKEN, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [os.path.join(self.bin, "python"), *arguments],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": "", **variables, **more},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def test_the_tests_of_the_package_itself(self):
        found = os.path.join(sources("limits==5.8.0"), "tests")
        with tempfile.TemporaryDirectory(prefix="flint-limits-") as directory:
            shutil.copytree(found, os.path.join(directory, "tests"))
            shutil.copy(os.path.join(PACKAGE, "tests", "limits", "conftest.py"), os.path.join(directory, "tests"))
            with open(os.path.join(directory, "pytest.ini"), "w") as file:
                file.write("[pytest]\nfilterwarnings = ignore::pytest.PytestUnknownMarkWarning\n")
            files = ["test_strategy.py", "test_storage.py", "integration", "aio/test_strategy.py", "aio/test_storage.py"]
            files = [os.path.join("tests", name) for name in files]
            # They hold the wall clock to 10 ms, which a busy machine does not always: a second try, as upstream has for many.
            again = ["--force-flaky", "--max-runs=2"]
            options = ["-q", "-rs", "-p", "no:cacheprovider", *again]
            done = self.python("-m", "pytest", *options, *files, directory=directory)
        self.assertEqual(done.returncode, 0, done.stdout[-5000:] + done.stderr[-2000:])
        passed = int(re.search(r"(\d+) passed", done.stdout).group(1))
        self.assertGreaterEqual(passed, 100, done.stdout[-3000:])
        left_out = re.findall("^LEFT OUT: (.*)$", done.stdout, re.M)
        self.assertTrue(left_out and all("flint" not in each for each in left_out))

    def address(self):
        return self.server.url[len("http://") :]

    def test_flask_limiter(self):
        for strategy in ("fixed-window", "moving-window", "sliding-window-counter"):
            self.python("-c", "import flint; flint.SharedLimiter().reset(prefix='limits:')")
            done = self.python("-W", "error::ResourceWarning", "-c", FLASK, strategy, self.address())
            self.assertEqual(done.returncode, 0, done.stderr)
            statuses, remaining = done.stdout.splitlines()
            # One request for each hit, and one for what the headers say.
            self.assertEqual(statuses, "[200, 200, 200, 429, 429] 10", strategy)
            self.assertEqual(remaining, "['2', '1', '0', '0', '0']", strategy)
            self.server.restart(signal.SIGKILL)
            done = self.python("-c", FLASK, strategy, self.address())
            self.assertEqual(done.stdout.splitlines()[0], "[429, 429, 429, 429, 429] 10", done.stderr)

    def test_slowapi_and_a_killed_server(self):
        for strategy in ("fixed-window", "moving-window", "sliding-window-counter"):
            self.python("-c", "import flint; flint.SharedLimiter().reset(prefix='limits:')")
            done = self.python("-c", SLOWAPI, strategy, self.address())
            self.assertEqual((done.stdout, done.returncode), ("[200, 200, 200, 429, 429]\n", 0), done.stderr)
            self.server.restart(signal.SIGKILL)
            done = self.python("-c", SLOWAPI, strategy, self.address())
            self.assertEqual((done.stdout, done.returncode), ("[429, 429, 429, 429, 429]\n", 0), done.stderr)

    def test_addresses_and_errors(self):
        program = '''
import asyncio, flint, flint.limits, limits, time
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

storage = storage_from_string("flint://")
print(storage._limiter, storage.check())
print(storage_from_string("flint://[::1]/below")._limiter, storage_from_string("flint+unix:///run/a%20b.sock")._limiter)
print(storage_from_string("flint://:a%40b@host:1")._limiter._secret)
print(asyncio.run(storage_from_string("async+flint://").check()))
for wrong in ("flint+unix://", "flint://host:port", "flint://host:0"):
    try:
        storage_from_string(wrong)
    except limits.errors.ConfigurationError as error:
        print("wrong", "flint" in str(error) or "storage_uri" in str(error))
away = storage_from_string("flint://127.0.0.1:9", wrap_exceptions=True)
print(away.check())
try:
    away.incr("k", 60)
except limits.errors.StorageError as error:
    print(type(error.storage_error).__name__)
try:
    storage_from_string("flint://127.0.0.1:9").get("k")
except flint.FlintConnectionError:
    print("as it is")
# Only what is below the prefix is given back.
other = storage_from_string("flint://", key_prefix="other")
flint.SharedLimiter().check("mine", limit="5/1d")
print(other.incr("k" * 600, 60, 7), other.get("k" * 600), storage.get("k" * 600), other.incr("k", 60, 0))
print(storage.reset() is not None, other.get("k" * 600), flint.SharedLimiter().status("mine")["used"])
print(other.reset(), other.get("k" * 600), flint.SharedLimiter().status("mine")["used"])
# An operator's limit counts before that of the program.
flint.SharedLimiter().limit("other:*", "1/1d")
item = limits.parse("100/hour")
print([FixedWindowRateLimiter(other).hit(item, "ann") for _ in range(2)])
flint.SharedLimiter().remove("other:*")
'''
        done = self.python("-c", program)
        self.assertEqual(done.stderr, "")
        self.assertEqual(
            done.stdout,
            "SharedLimiter(%r) True\n"
            "SharedLimiter('http://[::1]:7878/below') SharedLimiter('unix:/run/a b.sock')\n"
            "a@b\nTrue\nwrong True\nwrong True\nwrong True\nFalse\nFlintConnectionError\nas it is\n"
            "7 7 0 0\nTrue 7 1\n1 0 1\n[True, False]\n" % self.server.url,
        )


if __name__ == "__main__":
    unittest.main()
