"""``flint.Server``: a private server that lives as long as it is used."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

import flint
from flint import _server
import over_store
from support import FLINT, open_files

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def servers(data_dir, program=os.fsencode(FLINT)):
    """Processes that serve a directory, or keep its server."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/cmdline" % name, "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if program in (words[0], words[min(2, len(words) - 1)]) and os.fsencode(data_dir) in words:
                found.append(int(name))
    return found


def wait_for(what, seconds=10):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


@over_store.needs_directory
class Embedded(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="flint-server-")
        self.addCleanup(directory.cleanup)
        self.data = os.path.join(os.path.realpath(directory.name), "quotas")
        runtime = tempfile.TemporaryDirectory(prefix="flint-run-")
        self.addCleanup(runtime.cleanup)
        self.environment = {"XDG_RUNTIME_DIR": runtime.name, "FLINT_BIN": FLINT, "FLINT_SERVER_TOKEN": "of-another"}
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        self.addCleanup(lambda: [os.environ.pop(n) if v is None else os.environ.update({n: v}) for n, v in before.items()])
        self.runtime = runtime.name

    def gone(self):
        wait_for(lambda: not servers(self.data))

    def child(self, program):
        process = subprocess.Popen(
            [sys.executable, "-c", program, self.data],
            env={**os.environ, "PYTHONPATH": PACKAGE},
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stdin.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_it_counts_and_ends_and_knows_again(self):
        files = open_files()
        with flint.Server(self.data, sync="batch") as limiter:
            self.assertEqual([limiter.allow("login", limit="2/1d") for _ in range(3)], [True, True, False])
            self.assertEqual(len(servers(self.data)), 1)
        self.gone()
        server = flint.Server(self.data)
        self.assertFalse(server.limiter.allow("login", limit="2/1d"))
        self.assertIn("quotas", repr(server))
        del server
        self.gone()
        self.assertEqual(open_files(), files)

    def test_processes_share_it_until_the_last_is_gone(self):
        program = (
            "import flint, signal, sys\n"
            # It is ignored from the start where the tests run in the background of a shell.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "server = flint.Server(sys.argv[1])\n"
            "print(server.limiter.check('k', limit='100/1d').remaining, flush=True)\n"
            "sys.stdin.readline()\n"
        )
        children = [self.child(program) for _ in range(4)]
        found = sorted(int(child.stdout.readline()) for child in children)
        self.assertEqual(found, [96, 97, 98, 99])
        self.assertEqual(len(servers(self.data)), 1)
        with flint.Server(self.data) as limiter:
            # However they end.
            children[0].kill()
            children[1].send_signal(signal.SIGINT)
            children[2].stdin.write("\n")
            children[2].stdin.flush()
            for child in children[:3]:
                child.wait(10)
            self.assertEqual(limiter.status("k")["used"], 4)
        self.assertEqual(len(servers(self.data)), 1)
        children[3].kill()
        self.gone()

    def test_a_forked_child_uses_it_too(self):
        server = flint.Server(self.data)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                time.sleep(0.3)
                status = 0 if server.limiter.allow("k", limit="5/1d") else 2
            finally:
                os._exit(status)
        server.close()
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.gone()

    def test_closing_and_opening_in_a_hurry(self):
        for count in range(1, 6):
            with flint.Server(self.data, sync="batch") as limiter:
                self.assertEqual(limiter.check("k", limit="100/1d").remaining, 100 - count)
        self.gone()

    def test_the_keeper_is_killed(self):
        server = flint.Server(self.data)
        (keeper,) = servers(self.data, os.fsencode(_server._KEEPER))
        os.kill(keeper, signal.SIGKILL)
        self.gone()
        with self.assertRaises(flint.FlintConnectionError):
            server.limiter.allow("k", limit="5/1d")
        # The next one starts it again.
        with flint.Server(self.data) as limiter:
            self.assertTrue(limiter.allow("k", limit="5/1d"))
            self.assertTrue(server.limiter.allow("k", limit="5/1d"))
        server.close()
        self.gone()

    def test_another_runtime_directory(self):
        # A job of cron's has none, where its user has one in a session.
        with tempfile.TemporaryDirectory(prefix="flint-run-") as other, flint.Server(self.data) as limiter:
            limiter.allow("k", limit="5/1d")
            os.environ["XDG_RUNTIME_DIR"] = other
            with flint.Server(self.data) as found:
                self.assertEqual(found.status("k")["used"], 1)
            # Before the server has written where it is.
            with unittest.mock.patch("flint._server._announced", side_effect=[None, _server._announced(self.data)]):
                with flint.Server(self.data) as found:
                    self.assertEqual(found.status("k")["used"], 1)
            os.environ["XDG_RUNTIME_DIR"] = self.runtime
            self.assertEqual(len(servers(self.data)), 1)
        self.gone()

    def test_what_can_t_be(self):
        own = subprocess.Popen([FLINT, "--data-dir", self.data, "server", "start", "--bind", "127.0.0.1:0"],
                               stdout=subprocess.PIPE, env={})
        own.stdout.readline()
        try:
            with self.assertRaises(flint.FlintError) as caught:
                flint.Server(self.data)
        finally:
            own.terminate()
            own.communicate()
        self.assertIn("already locked", str(caught.exception))
        del os.environ["FLINT_BIN"]
        path, os.environ["PATH"] = os.environ["PATH"], "/nowhere"
        try:
            with self.assertRaises(flint.FlintError) as caught:
                flint.Server(self.data)
        finally:
            os.environ.update({"FLINT_BIN": FLINT, "PATH": path})
        self.assertIn("install", str(caught.exception))
        with self.assertRaises(ValueError):
            flint.Server(self.data, sync="never")
        with self.assertRaises(flint.FlintError) as caught:
            flint.Server(self.data, options=["--flush-every-ms", "x"])
        self.assertIn("--flush-every-ms", str(caught.exception))
        os.chmod(os.path.join(self.runtime, "flint-%d" % os.getuid()), 0o755)
        with self.assertRaises(flint.FlintError) as caught:
            flint.Server(self.data)
        self.assertIn("only this user", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
