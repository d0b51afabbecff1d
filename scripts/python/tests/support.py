"""A real server for the tests, and servers that misbehave."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import unittest

import over_store

FLINT = os.environ["FLINT_BIN"]
# Warnings of limiters without a server are looked at where they are meant.
logging.getLogger("flint").addHandler(logging.NullHandler())
TOKEN = "dev-secret"


class Server:
    """A flint server in a fresh directory, or over a fresh database, which outlives restarts."""

    def __init__(self, *options, bind="127.0.0.1:0", token=TOKEN):
        self.directory = tempfile.mkdtemp(prefix="flint-python-")
        self.options, self.bind, self.token = options, bind, token
        self.process = None
        self.words = ["--data-dir", os.path.join(self.directory, "data"), "server", "start"]
        if over_store.ON:
            self.options = over_store.without_directory(options)
            self.words = ["server", "start", "--store", over_store.new_url()]
        self.start()

    def start(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLINT_")}
        if self.token:
            environment["FLINT_SERVER_TOKEN"] = self.token
        self.process = subprocess.Popen(
            [FLINT, *self.words, "--bind", self.bind, *self.options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        line = self.process.stdout.readline().strip()
        assert line.startswith("flint server listening on "), (line, self.process.stderr.read())
        self.url = line.removeprefix("flint server listening on ").split(" (")[0]
        if self.url.startswith("http"):
            # A restart is at the same address.
            self.bind = self.url[len("http://") :]

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        _, self.errors = self.process.communicate(timeout=60)

    def restart(self, how=signal.SIGTERM):
        self.stop(how)
        self.start()

    def close(self):
        if self.process.poll() is None:
            self.stop()
        self.process.stdout.close()
        self.process.stderr.close()
        shutil.rmtree(self.directory)


def open_files():
    """Descriptors of this process, except the one for this look."""
    return len(os.listdir("/proc/self/fd")) - 1


class WithServer(unittest.TestCase):
    """One server for all tests of a class."""

    options = ("--sync", "batch")

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.options)
        cls.addClassCleanup(cls.server.close)

    def limiter(self, **more):
        import flint

        limiter = flint.SharedLimiter(self.server.url, **{"token": TOKEN, **more})
        self.addCleanup(limiter.close)
        return limiter


def read_message(connection):
    """A request or a reply, whole; None at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


class Stub:
    """Answers each connection by its own function, and counts the requests it got."""

    def __init__(self, answer):
        self.answer, self.requests, self.connections = answer, [], 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.closing = False
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            if self.closing:
                connection.close()
                return
            self.connections += 1
            with connection:
                try:
                    self.answer(self, connection)
                except OSError:
                    pass

    def read(self, connection):
        """Reads one request; None at the connection's end."""
        message = read_message(connection)
        if message is None:
            return None
        head, body = message.split(b"\r\n\r\n", 1)
        self.requests.append((head, body))
        return head, body

    def close(self):
        self.closing = True
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


DECISION = (
    b'{"key":"k","allowed":true,"cost":1,"limit":5,"remaining":4,"reset_at":"2026-01-31T23:59:59.999Z",'
    b'"used":1,"retry_after_ms":0,"next_ms":12000,"algorithm":"token_bucket"}'
)


def reply(body=DECISION, status=b"200 OK", headers=b""):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), headers, body)
