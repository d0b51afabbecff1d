"""Connections for asyncio: kept alive, for each event loop its own.

When a request is sent again: as for threads, see ``_threads``. A transport tells less of a failed send than a socket, so
here a request counts as sent once it was handed to the transport.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
import weakref
from collections import deque
from typing import Any, AsyncGenerator, Callable, Deque, Dict, List, Optional, TypeVar

from ._address import Address
from ._bounds import MAX_IDLE_SECONDS, TASK_CONNECTIONS
from ._calls import Call, is_unknown
from ._errors import FlintConnectionError
from ._reply import Reply
from ._threads import is_readable, share

T = TypeVar("T")


class _Connection(asyncio.Protocol):
    """One connection, with one request underway at most."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._waiter: Optional["asyncio.Future[None]"] = None
        self._reply = Reply()
        self._lost = False
        self._since = 0.0
        self._poll: Optional[Callable[[int], Any]] = None
        # One for many requests: it looks whether the one underway is late, and is not stopped with each.
        self._timer: Optional[asyncio.TimerHandle] = None
        self._deadline = 0.0

    async def ask(self, request: bytes, reply: Reply, deadline: float) -> None:
        """Sends a request and waits until ``reply`` is whole; OSError if it never will be."""
        if self._lost:
            raise ConnectionResetError("the connection was closed")
        waiter = self._loop.create_future()
        self._reply, self._waiter, self._deadline = reply, waiter, deadline
        if self._timer is None or self._timer.when() > deadline:
            self._set_timer()
        try:
            self._transport.write(request)
            await waiter
        finally:
            self._waiter = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        """The time of a request that was underway some time ago is over."""
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            _expire(self._waiter)

    def rest(self) -> None:
        """Notes that the connection is idle from now on."""
        self._since = time.monotonic()

    def is_fresh(self) -> bool:
        """Whether a request may be tried: not idle for long, and its end not seen, not even by the kernel."""
        if self._lost or self._transport.is_closing() or time.monotonic() - self._since >= MAX_IDLE_SECONDS:
            return False
        if self._poll is not None:
            return not self._poll(0)
        raw = self._transport.get_extra_info("socket")
        return raw is not None and not is_readable(raw)

    def close(self) -> None:
        self._poll = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            self._transport.close()
        except RuntimeError:
            # Its loop is closed, and the socket goes with it.
            pass

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        raw = transport.get_extra_info("socket")
        if raw is not None and hasattr(select, "poll"):
            poll = select.poll()
            poll.register(raw, select.POLLIN)
            self._poll = poll.poll

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            # Nobody asked, or not any longer: whatever it is, the next request must not take it for its reply.
            self._transport.close()
            return
        try:
            if self._reply.feed(data):
                self._waiter.set_result(None)
        except FlintConnectionError as error:
            self._waiter.set_exception(error)

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._end(exc)

    def _end(self, error: Optional[Exception]) -> None:
        self._lost = True
        self._poll = None
        if self._waiter is None or self._waiter.done():
            return
        if error is None and self._reply.end():
            self._waiter.set_result(None)
        elif isinstance(error, OSError):
            self._waiter.set_exception(error)
        else:
            why = "the connection was closed before the reply was complete"
            self._waiter.set_exception(ConnectionResetError(why if error is None else "%s: %s" % (why, error)))


async def _until(future: "asyncio.Future[None]", deadline: float) -> None:
    """Waits for a future, until ``deadline`` at most. ``asyncio.wait_for`` would do, at the price of a task."""
    timer = future.get_loop().call_at(deadline, _expire, future)
    try:
        await future
    finally:
        timer.cancel()


def _expire(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_exception(asyncio.TimeoutError())


class _Loop:
    """What one event loop has: its idle connections, and places for those in use.

    Places are bounded, so that ``asyncio.gather`` over thousands of checks is a queue here and not a storm of
    connections there. No lock: all of it runs in the loop's own thread, without an ``await`` in between.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._idle: List[_Connection] = []
        self._free = TASK_CONNECTIONS
        self._queue: Deque["asyncio.Future[None]"] = deque()
        self._ending: Optional[AsyncGenerator[None, None]] = None

    async def enter(self, deadline: float) -> None:
        """Takes a place."""
        if self._ending is None:
            # A loop that ends in order (asyncio.run, or a server's) ends its asynchronous generators first: this one
            # closes the connections while that still can be done. It does so too when the limiter is forgotten.
            self._ending = _close_at_the_end(self._idle)
            await self._ending.__anext__()
        if self._free > 0:
            self._free -= 1
            return
        turn = self.loop.create_future()
        self._queue.append(turn)
        try:
            await _until(turn, deadline)
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # The place came at the very moment in which the task was cancelled.
                self.leave()
            raise

    def leave(self) -> None:
        """Gives a place to the next in the queue, or back."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def is_late(self, deadline: float) -> bool:
        """Whether it is too late to send anything: nothing would wait for its answer."""
        return self.loop.time() >= deadline

    def take(self) -> Optional[_Connection]:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh():
                return connection
            connection.close()
        return None

    def give_back(self, connection: _Connection) -> None:
        connection.rest()
        self._idle.append(connection)

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        # The end of a closed connection is seen by the loop's next turn.
        await asyncio.sleep(0)


async def _close_at_the_end(idle: List[_Connection]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        while idle:
            idle.pop().close()


class AsyncPool:
    """Kept-alive connections to one server, by event loop. A forked child has its own loop."""

    def __init__(self, address: Address, authorization: str, timeout: float) -> None:
        self._address = address
        self._authorization = authorization
        self._timeout = timeout
        # The last that asked.
        self._recent: Optional[_Loop] = None
        self._loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop]" = weakref.WeakKeyDictionary()

    async def call(self, call: Call[T], timeout: Optional[float] = None) -> T:
        """Sends a call and waits for its answer, for ``timeout`` seconds or the pool's own."""
        timeout = self._timeout if timeout is None or timeout > self._timeout else timeout
        loop = asyncio.get_running_loop()
        mine = self._recent
        if mine is None or mine.loop is not loop:
            mine = self._recent = self._loops.get(loop) or self._begin(loop)
        deadline = loop.time() + timeout
        sent: Dict[str, bool] = {}
        try:
            await mine.enter(deadline)
            try:
                reply = await self._call(mine, call, deadline, sent)
                if "again" not in sent and call.repeatable and is_unknown(reply):
                    sent["again"] = True
                    reply = await self._call(mine, call, deadline, sent)
            finally:
                mine.leave()
        except (asyncio.TimeoutError, TimeoutError) as error:
            message = "no answer from %s within %g s" % (self._address.url, timeout)
            raise FlintConnectionError(message, request_sent=bool(sent), reason="timeout") from error
        return call.decode(reply)

    async def close(self) -> None:
        """Closes the idle connections of the running loop. The pool can be used again."""
        mine = self._loops.get(asyncio.get_running_loop())
        if mine is not None:
            await mine.close()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> _Loop:
        # A connection refers to its loop, which would otherwise be kept for as long as the pool.
        for other in list(self._loops):
            if other.is_closed():
                del self._loops[other]
        mine = self._loops[loop] = _Loop(loop)
        return mine

    async def _call(self, mine: _Loop, call: Call[T], deadline: float, sent: Dict[str, bool]) -> Reply:
        request = call.request(self._address.host_field, self._address.prefix, self._authorization)
        broken = False
        while True:
            try:
                connection = (None if broken else mine.take()) or await self._connect(deadline)
            except FlintConnectionError as error:
                # The first one may have been carried out.
                error.request_sent = "again" in sent
                raise
            reply = Reply()
            try:
                if mine.is_late(deadline):
                    raise asyncio.TimeoutError()
                sent["all"] = True
                await connection.ask(request, reply, deadline)
            except (asyncio.TimeoutError, FlintConnectionError):
                connection.close()
                raise
            except OSError as error:
                connection.close()
                if "again" not in sent and call.repeatable:
                    broken = sent["again"] = True
                    continue
                message = "the connection to %s broke: %s" % (self._address.url, error)
                raise FlintConnectionError(message, request_sent=True, reason="closed") from error
            except BaseException:
                # A call that is cancelled leaves a reply under way.
                connection.close()
                raise
            if reply.keep:
                mine.give_back(connection)
            else:
                connection.close()
            return reply

    async def _connect(self, deadline: float) -> _Connection:
        address = self._address
        try:
            if address.socket_path:
                return await self._open(deadline, "unix", address.socket_path)
            connection = await self._connect_tcp(deadline)
        except (asyncio.TimeoutError, TimeoutError):
            raise
        except OSError as error:
            message = "cannot connect to %s: %s; is the server running?" % (address.url, error)
            raise FlintConnectionError(message, reason="connect") from error
        raw: Optional[socket.socket] = connection._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    async def _connect_tcp(self, deadline: float) -> _Connection:
        """Connects to the first address of the name that answers; each has its share of the time."""
        address, loop = self._address, asyncio.get_running_loop()
        looking = loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        found = await asyncio.wait_for(looking, max(deadline - loop.time(), 0.001))
        for turn, (family, _, _, _, where) in enumerate(found):
            try:
                until = share(deadline, len(found) - turn, loop.time())
                return await self._open(until, "tcp", where[0], where[1], family=family, **self._tls())
            except (OSError, asyncio.TimeoutError):
                if turn == len(found) - 1 or loop.time() >= deadline:
                    raise
        raise OSError("the host name has no address")

    def _tls(self) -> Dict[str, Any]:
        return {"ssl": True, "server_hostname": self._address.host} if self._address.tls else {}

    async def _open(self, deadline: float, kind: str, *where: Any, **more: Any) -> _Connection:
        loop = asyncio.get_running_loop()
        connection = _Connection(loop)
        opening = loop.create_unix_connection if kind == "unix" else loop.create_connection
        made: Any = opening(lambda: connection, *where, **more)
        await asyncio.wait_for(made, max(deadline - loop.time(), 0.001))
        return connection
