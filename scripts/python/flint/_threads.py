"""Connections for threads: a pool of kept-alive sockets, safe to use from many threads and over a fork.

When a request is sent again
----------------------------
* A kept connection that the server has closed meanwhile is found readable before anything is sent: another is taken.
* The send itself fails: then not all of the request's bytes were taken by the kernel, the server never had a whole
  request, and it acts on whole requests alone. On a kept connection another is taken.
* All bytes were taken and the connection ended before the whole reply was there: the request may have been carried out,
  or may not. It is repeated once, on a fresh connection: what spends bears an idempotency key, by which the server
  answers the second as it did the first. The few calls that would do harm (see ``Call.repeatable``) are not repeated,
  and raise FlintConnectionError with ``request_sent`` true.
* The server answers ``outcome_unknown``: to it the same has happened on the way to its store. The same holds.

After a time-out nothing is repeated: there is no time left.
"""

from __future__ import annotations

import os
import select
import socket
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Deque, Optional, TypeVar

from ._address import Address
from ._bounds import IDLE_CONNECTIONS, MAX_IDLE_SECONDS, READ_BYTES
from ._calls import Call, is_unknown
from ._errors import FlintConnectionError
from ._reply import Reply

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")


class _Stale(Exception):
    """A kept connection was of no use, and the request can be sent again."""


class _Line:
    """A connection, which waits as ``settimeout`` has it: what needs no more than a socket.

    Attributes:
        since: since when it is idle.
    """

    __slots__ = ("_socket", "since")

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.since = 0.0

    def is_quiet(self) -> bool:
        """Whether nothing has come unasked, not even its end."""
        return not is_readable(self._socket)

    def send(self, request: bytes, deadline: float) -> None:
        """Hands all of a request to the kernel."""
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(request)

    def receive(self, deadline: float) -> bytes:
        """Waits for more of a reply; empty at the end."""
        self._socket.settimeout(_left(deadline))
        return self._socket.recv(READ_BYTES)

    def close(self) -> None:
        """Ends it."""
        self._socket.close()


class _Polled(_Line):
    """The same with half the calls of the kernel, each of which lets another thread in: the socket itself never waits."""

    __slots__ = ("_poll",)

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        connection.setblocking(False)
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        self._poll = poll.poll

    def is_quiet(self) -> bool:
        try:
            return not self._poll(0)
        except (OSError, ValueError):
            return False

    def send(self, request: bytes, deadline: float) -> None:
        _left(deadline)
        try:
            sent = self._socket.send(request)
        except BlockingIOError:
            sent = 0
        if sent < len(request):
            # More than fits at once: the socket may wait.
            super().send(request[sent:], deadline)
            self._socket.setblocking(False)

    def receive(self, deadline: float) -> bytes:
        while True:
            # As the kernel has it, 0 would be not at all.
            if not self._poll(max(_left(deadline) * 1000, 1)):
                raise socket.timeout("timed out")
            try:
                return self._socket.recv(READ_BYTES)
            except BlockingIOError:
                pass


def _left(deadline: float) -> float:
    """Seconds until then; raises if there are none: nothing would wait for an answer."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout("timed out")
    return left


#: Idle connections. A deque takes and gives from both ends without a lock: none is held when a signal handler or a
#: finalizer comes in between and asks for a check itself, nor when another thread forks.
_Idle = Deque[_Line]


class Pool:
    """Kept-alive connections to one server.

    After a fork, the child begins with none: the parent's are its own.
    """

    def __init__(self, address: Address, authorization: str, timeout: float) -> None:
        self._address = address
        self._authorization = authorization
        self._timeout = timeout
        self._tls: Optional["ssl.SSLContext"] = None
        self._idle: _Idle = deque()
        self._pid = os.getpid()
        # A limiter that is forgotten leaves no open socket.
        weakref.finalize(self, _close_all, self._idle)
        _pools.add(self)

    def _renew(self) -> None:
        # Closing the child's descriptors leaves the parent's connections as they are.
        self._pid = os.getpid()
        _close_all(self._idle)

    def call(self, call: Call[T], timeout: Optional[float] = None) -> T:
        """Sends a call and waits for its answer, for ``timeout`` seconds or the pool's own."""
        timeout = self._timeout if timeout is None or timeout > self._timeout else timeout
        deadline = time.monotonic() + timeout
        request = call.request(self._address.host_field, self._address.prefix, self._authorization)
        again = broken = False
        while True:
            kept = None if broken else self._take()
            try:
                reply = self._exchange(kept or self._dial(deadline), kept is not None, request, deadline, timeout)
            except _Stale:
                continue
            except FlintConnectionError as error:
                if not again and call.repeatable and error.request_sent and error.reason == "closed":
                    again = broken = True
                    continue
                # The first one may have been carried out.
                error.request_sent = error.request_sent or again
                raise
            if not again and call.repeatable and is_unknown(reply):
                again = True
                continue
            return call.decode(reply)

    def close(self) -> None:
        """Closes the idle connections. The pool can be used again."""
        _close_all(self._idle)

    def _take(self) -> Optional[_Line]:
        if self._pid != os.getpid():
            self._renew()
        now = time.monotonic()
        while True:
            try:
                line = self._idle.pop()
            except IndexError:
                return None
            # What is readable before anything was asked is the connection's end.
            if now - line.since < MAX_IDLE_SECONDS and line.is_quiet():
                return line
            line.close()

    def _give_back(self, line: _Line) -> None:
        # Several threads at once may pass the bound by one each.
        if len(self._idle) < IDLE_CONNECTIONS:
            line.since = time.monotonic()
            self._idle.append(line)
        else:
            line.close()

    def _dial(self, deadline: float) -> _Line:
        connection = self._connect(deadline)
        # Under TLS what has come need not be readable, and some platforms have no poll.
        return _Line(connection) if self._address.tls or not hasattr(select, "poll") else _Polled(connection)

    def _connect(self, deadline: float) -> socket.socket:
        address = self._address
        try:
            if address.socket_path:
                return _open(socket.AF_UNIX, address.socket_path, deadline)
            connection = self._connect_tcp(deadline)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.tls:
                return self._secure(connection)
            return connection
        except OSError as error:
            reason = "timeout" if isinstance(error, socket.timeout) else "connect"
            message = "cannot connect to %s: %s; is the server running?" % (address.url, error)
            raise FlintConnectionError(message, reason=reason) from error

    def _connect_tcp(self, deadline: float) -> socket.socket:
        # socket.create_connection would give each address of a name the whole time. Here each has its share of what is
        # left: the first may drop packets.
        found = socket.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_STREAM)
        for turn, (family, _, _, _, where) in enumerate(found):
            try:
                return _open(family, where, share(deadline, len(found) - turn, time.monotonic()))
            except OSError as error:
                if turn == len(found) - 1 or time.monotonic() >= deadline:
                    raise error
        raise OSError("the host name has no address")

    def _secure(self, connection: socket.socket) -> socket.socket:
        import ssl

        if self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            return self._tls.wrap_socket(connection, server_hostname=self._address.host)
        except BaseException:
            connection.close()
            raise

    def _exchange(
        self, line: _Line, kept: bool, request: bytes, deadline: float, timeout: float
    ) -> Reply:
        reply = Reply()
        sent = False
        try:
            line.send(request, deadline)
            sent = True
            while True:
                data = line.receive(deadline)
                if reply.feed(data) if data else reply.end():
                    break
                if not data:
                    raise ConnectionResetError("the connection was closed before the reply was complete")
        except OSError as error:
            line.close()
            if isinstance(error, socket.timeout):
                message = "no answer from %s within %g s" % (self._address.url, timeout)
                raise FlintConnectionError(message, request_sent=sent, reason="timeout") from error
            if kept and not sent:
                raise _Stale from error
            message = "the connection to %s broke: %s" % (self._address.url, error)
            raise FlintConnectionError(message, request_sent=sent, reason="closed") from error
        except BaseException:
            line.close()
            raise
        if reply.keep:
            self._give_back(line)
        else:
            line.close()
        return reply


def _close_all(idle: _Idle) -> None:
    while True:
        try:
            line = idle.pop()
        except IndexError:
            return
        line.close()


def share(deadline: float, addresses: int, now: float) -> float:
    """Until when the next of this many addresses may be tried."""
    return now + (deadline - now) / addresses


def _open(family: int, where: Any, deadline: float) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        connection.connect(where)
    except BaseException:
        connection.close()
        raise
    return connection


def is_readable(connection: Any) -> bool:
    """Whether a read from a socket would return at once: with data, its end or an error."""
    try:
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([connection], [], [], 0)[0])
    except (OSError, ValueError):
        return True


#: All pools, for a forked child to reset.
_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_pools):
        pool._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
