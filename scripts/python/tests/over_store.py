"""The same tests a second time, over a store: FLINT_TEST_STORE=1, and a program with the feature ``store``.

A redis-server is started for all tests of a process; each directory stands for one of its databases.
"""

import atexit
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

ON = os.environ.get("FLINT_TEST_STORE") == "1"

needs_directory = unittest.skipIf(ON, "it is about a data directory, and limits are in a store")

# Options of a server that make no sense over a store.
_OF_DIRECTORY = ("--sync", "--flush-every-ms", "--flush-every-events", "--compact-after")
_DATABASES = itertools.count()
_started = []


def without_directory(options):
    """The options of a server that it knows over a store too."""
    left, options = [], iter(options)
    for option in options:
        if option in _OF_DIRECTORY:
            next(options)
        else:
            left.append(option)
    return left


def new_url():
    """An unused database."""
    if not _started:
        _started.append(_start())
    return "redis://127.0.0.1:%d/%d" % (_started[0], next(_DATABASES))


def _start():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    directory = tempfile.mkdtemp(prefix="flint-store-")
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--databases", "1024"]
    # What a disk takes its time for is nothing to these tests.
    words += ["--appendonly", "yes", "--appendfsync", "no", "--save", ""]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    owner = os.getpid()

    def end():
        # Not in the children of tests that fork.
        if os.getpid() == owner:
            process.terminate()
            process.wait()
            shutil.rmtree(directory)

    atexit.register(end)
    deadline = time.monotonic() + 60
    while not _answers(port):
        assert time.monotonic() < deadline and process.poll() is None, "redis-server does not answer"
        time.sleep(0.01)
    return port


def _answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"
    except OSError:
        return False
