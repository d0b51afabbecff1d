"""A private server for a data directory: embedded mode for Python.

The server listens on a Unix socket in a directory that only this user can enter, and is shared by all processes of this
user that open the same data directory. Each of these processes holds a lock; `_keeper` stops the server when the last of them is gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import weakref
from types import TracebackType
from typing import List, Optional, Sequence, Type, Union

from ._bounds import DEFAULT_TIMEOUT_SECONDS, START_TIMEOUT_SECONDS
from ._client import SharedLimiter
from ._errors import FlintConnectionError, FlintError
from ._values import OnError, Sync

_KEEPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_keeper.py")


class Server:
    """Embedded mode: the limits of a data directory, with a private server that starts and stops by itself.

        with flint.Server("quotas") as limiter:
            limiter.allow("login", limit="5/1m")

    The first process that opens a directory starts a server for it, on a private Unix socket. Other processes of the
    same user share it, and it stops when the last process has closed it or ended in any way.

    Args:
        data_dir: the data directory, created if it does not exist.
        sync: ``"always"``, ``"batch"`` or ``"relaxed"``, as in ``flint server start --sync``; the first process sets it.
        timeout, on_error: as for :class:`flint.SharedLimiter`.
        options: further options of ``flint server start``; the first process sets them.

    Attributes:
        limiter: the :class:`flint.SharedLimiter`.

    Raises:
        FlintError: the program ``flint`` isn't there, or the server can't be started: the message has the server's.
    """

    def __init__(
        self,
        data_dir: Union[str, "os.PathLike[str]"] = ".flint",
        *,
        sync: Sync = "always",
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        on_error: OnError = "raise",
        options: Sequence[str] = (),
    ) -> None:
        if sync not in ("always", "batch", "relaxed"):
            raise ValueError("sync must be 'always', 'batch' or 'relaxed', not %r" % (sync,))
        if isinstance(options, str):
            raise TypeError("options must be a list, not a str")
        self.data_dir = os.path.realpath(os.fspath(data_dir))
        self._options = ["--sync", sync, *options]
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        place = _announced(self.data_dir) or _place(self.data_dir)
        try:
            self._open(place, timeout, on_error, deadline)
        except FlintError:
            # A process with another XDG_RUNTIME_DIR may have been faster.
            other = _announced(self.data_dir)
            if other is None or other == place:
                raise
            self._open(other, timeout, on_error, deadline)

    def __repr__(self) -> str:
        return "Server(%r)" % self.data_dir

    def __enter__(self) -> SharedLimiter:
        return self.limiter

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Uses the server no more: it ends, unless others use it."""
        self.limiter.close()
        self._end()

    def _open(self, place: str, timeout: float, on_error: OnError, deadline: float) -> None:
        self.limiter = SharedLimiter("unix:%s/flint.sock" % place, timeout=timeout, on_error=on_error)
        use = _lock(os.path.join(place, "users"), True, deadline)
        self._end = weakref.finalize(self, os.close, use)
        try:
            self._find_or_start(place, self._options, deadline)
        except BaseException:
            self._end()
            raise

    def _answers(self) -> bool:
        try:
            self.limiter.health()
        except FlintConnectionError:
            return False
        return True

    def _find_or_start(self, place: str, options: List[str], deadline: float) -> None:
        if self._answers():
            return
        starting = _lock(os.path.join(place, "starting"), False, deadline)
        try:
            if not self._answers():
                _start(self.data_dir, place, options, deadline)
        finally:
            os.close(starting)


def _announced(data_dir: str) -> Optional[str]:
    """The place of the private server that has the data directory, as that wrote into it; None where there is none."""
    try:
        with open(os.path.join(data_dir, "flint.lock"), "rb") as file:
            url = json.loads(file.read(4096))["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    place, socket = os.path.split(url[len("unix:") :]) if isinstance(url, str) and url.startswith("unix:") else ("", "")
    if socket != "flint.sock" or os.path.basename(place) != _name(data_dir):
        return None
    try:
        _own(place)
    except (OSError, FlintError):
        return None
    return place


def _name(data_dir: str) -> str:
    return hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]


def _place(data_dir: str) -> str:
    """The directory of the socket and the locks for a data directory, which only this user can enter."""
    above = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    found = os.path.join(above, "flint-%d" % os.getuid())
    for directory in (found, os.path.join(found, _name(data_dir))):
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
        _own(directory)
    return directory


def _own(directory: str) -> None:
    about = os.lstat(directory)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        message = "%s must be a directory that only this user can enter: remove it, or set XDG_RUNTIME_DIR"
        raise FlintError(message % directory)


def _lock(path: str, shared: bool, deadline: float) -> int:
    # Not everywhere where the rest of the package is of use.
    import fcntl

    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            # A server that ends, or a server that another process starts.
            if time.monotonic() >= deadline:
                os.close(file)
                message = "another process has kept %s locked for %g s" % (path, START_TIMEOUT_SECONDS)
                raise FlintError(message) from None
            time.sleep(0.01)
        except BaseException:
            os.close(file)
            raise


def _program() -> str:
    found = os.environ.get("FLINT_BIN") or shutil.which("flint")
    if not found:
        raise FlintError(
            "the program flint was not found: install it (scripts/install or scripts/deb in Flint's source tree), so "
            "that it is in PATH, or set FLINT_BIN"
        )
    return found


def _start(data_dir: str, place: str, options: List[str], deadline: float) -> None:
    command = [_program(), "--data-dir", data_dir, "server", "start", "--bind", "unix:%s/flint.sock" % place]
    # A token of the environment is another server's; this socket needs none.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLINT_")}
    if "FLINT_LOG" in os.environ:
        environment["FLINT_LOG"] = os.environ["FLINT_LOG"]
    keeper = subprocess.Popen(
        [sys.executable or "python3", "-I", _KEEPER, os.path.join(place, "users"), *command, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        # The interrupt of a terminal is not for it.
        start_new_session=True,
        cwd="/",
    )
    said = b""
    # It goes on in a separate process.
    keeper.wait()
    assert keeper.stdout is not None
    with keeper.stdout as output:
        while b"flint server listening on" not in said:
            ready, _, _ = select.select([output], [], [], max(deadline - time.monotonic(), 0))
            more = os.read(output.fileno(), 4096) if ready else b""
            if not more:
                why = said.decode("utf-8", "replace").strip() or "no answer within %g s" % START_TIMEOUT_SECONDS
                raise FlintError("the server for %s did not start: %s" % (data_dir, why))
            said += more
