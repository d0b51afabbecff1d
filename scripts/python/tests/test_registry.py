"""What needs packages from the registry: types under mypy, and FastAPI under uvicorn with four workers. Skipped aloud
where the registry is out of reach."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

from support import TOKEN, Server

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

APP = '''
import os
import fastapi
import flint

limiter = flint.SharedLimiter(os.environ["FLINT_SERVER"])
limiter.limit("tenant:acme", rate=50, per="365d")
app = fastapi.FastAPI()
app.add_middleware(flint.ASGIMiddleware, limiter=limiter, key=lambda scope: "tenant:acme", exempt=["/health"])

@app.get("/health")
async def health():
    return {"pid": os.getpid()}

@app.get("/")
async def root():
    return {"pid": os.getpid()}
'''


class Registry(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory(prefix="flint-venv-")
        cls.addClassCleanup(directory.cleanup)
        cls.bin = os.path.join(directory.name, "bin")
        made = subprocess.run([sys.executable, "-m", "venv", directory.name], capture_output=True, text=True)
        pip = [os.path.join(cls.bin, "pip"), "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        packages = ["mypy", "fastapi", "uvicorn", PACKAGE]
        if made.returncode == 0:
            options = ["--retries", "1", "--timeout", "15"]
            made = subprocess.run(pip + options + packages, capture_output=True, text=True)
        if made.returncode != 0:
            print("SKIPPED: mypy, fastapi and uvicorn can't be installed: %s" % made.stderr.strip()[-200:])
            raise unittest.SkipTest("the registry is out of reach")

    def test_types(self):
        done = subprocess.run(
            [os.path.join(self.bin, "mypy"), "--strict", "--cache-dir", os.devnull, "flint"],
            cwd=PACKAGE,
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_four_workers_share_one_quota(self):
        server = Server("--sync", "batch")
        self.addCleanup(server.close)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "quota_app.py"), "w") as file:
                file.write(APP)
            environment = {**os.environ, "FLINT_SERVER": server.url, "FLINT_SERVER_TOKEN": TOKEN, "PYTHONPATH": ""}
            command = [os.path.join(self.bin, "uvicorn"), "quota_app:app", "--workers", "4", "--port", str(port)]
            app = subprocess.Popen(
                command + ["--log-level", "warning"], cwd=directory, env=environment, start_new_session=True
            )
            try:
                workers, statuses = self.ask(port)
            finally:
                os.killpg(app.pid, signal.SIGTERM)
                app.wait(30)
        self.assertGreater(len(workers), 1, "several workers answered")
        self.assertEqual((statuses.count(200), statuses.count(429)), (50, 30))

    def ask(self, port):
        def get(path):
            try:
                with urllib.request.urlopen("http://127.0.0.1:%d%s" % (port, path), timeout=30) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    self.assertTrue(int(error.headers["Retry-After"]) > 0 and error.headers["RateLimit"])
                    return error.code, None

        deadline = time.monotonic() + 60
        workers = set()
        while len(workers) < 4 and time.monotonic() < deadline:
            try:
                workers.add(get("/health")[1]["pid"])
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        return workers, [get("/")[0] for _ in range(80)]


if __name__ == "__main__":
    unittest.main()
