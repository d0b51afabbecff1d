"""Keeps a private server running as long as it is used. A separate program, which `_server` starts; it imports nothing
of the package.

    _keeper.py LOCK COMMAND...

Each user holds a shared lock on the file LOCK, which the kernel gives back however the user ends. So this program is
given the exclusive one when the last user is gone; then it stops the server and ends. While it does so, a new user
waits for a shared lock, and finds no server.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading

#: Of prctl: the signal that a child gets when its parent dies.
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop_when_unused(lock: int, server: "subprocess.Popen[bytes]") -> None:
    fcntl.flock(lock, fcntl.LOCK_EX)
    server.send_signal(signal.SIGTERM)


def main() -> None:
    """Starts the server, and ends with it. Its output is that of this program."""
    if os.fork():
        # So the process that started this needs not wait for its end.
        os._exit(0)
    lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    server = subprocess.Popen(sys.argv[2:], preexec_fn=_die_with_parent)
    # The process that started this reads until the end, in case the server ends.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    signal.signal(signal.SIGTERM, lambda number, frame: server.send_signal(signal.SIGTERM))
    threading.Thread(target=_stop_when_unused, args=(lock, server), daemon=True).start()
    server.wait()
    os._exit(0)


if __name__ == "__main__":
    main()
