"""Connections for asyncio: kept-alive streams, for each event loop its own.

When a request is sent again: as for threads, see ``_threads``. A stream tells less of a failed send than a socket, so
here a request counts as sent once it was handed to the stream.
"""

from __future__ import annotations

import asyncio
import socket
import time
import weakref
from typing import Dict, List, Optional, Tuple, TypeVar

from ._address import Address
from ._bounds import IDLE_CONNECTIONS, MAX_IDLE_SECONDS, READ_BYTES
from ._calls import Call
from ._errors import FlintConnectionError
from ._reply import Reply

T = TypeVar("T")


class _Stale(Exception):
    """A kept connection was of no use, and the request can be sent again."""


class _Connection:
    __slots__ = ("reader", "writer", "since")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.since = time.monotonic()

    def is_open(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())

    def close(self) -> None:
        try:
            self.writer.close()
        except RuntimeError:
            # Its loop is closed, and the socket with it.
            pass


class AsyncPool:
    """Kept-alive connections to one server, by event loop. A forked child has a loop of its own."""

    def __init__(self, address: Address, authorization: str, timeout: float) -> None:
        self._address = address
        self._authorization = authorization
        self._timeout = timeout
        self._idle: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, List[_Connection]]" = (
            weakref.WeakKeyDictionary()
        )

    async def call(self, call: Call[T]) -> T:
        """Sends a call and waits for its answer."""
        sent: Dict[str, bool] = {}
        try:
            reply = await asyncio.wait_for(self._call(call, sent), self._timeout)
        except (asyncio.TimeoutError, TimeoutError) as error:
            message = "no answer from %s within %g s" % (self._address.url, self._timeout)
            raise FlintConnectionError(message, request_sent=bool(sent), reason="timeout") from error
        return call.decode(reply)

    async def close(self) -> None:
        """Closes the idle connections of the running loop. The pool can be used again."""
        for connection in self._idle.pop(asyncio.get_running_loop(), []):
            connection.close()

    async def _call(self, call: Call[T], sent: Dict[str, bool]) -> Reply:
        request = call.request(self._address.host_field, self._address.prefix, self._authorization)
        while True:
            kept = self._take()
            try:
                return await self._exchange(kept or await self._connect(), kept is not None, request, call, sent)
            except _Stale:
                sent.clear()

    def _take(self) -> Optional[_Connection]:
        idle = self._idle.get(asyncio.get_running_loop())
        while idle:
            connection = idle.pop()
            if time.monotonic() - connection.since < MAX_IDLE_SECONDS and connection.is_open():
                return connection
            connection.close()
        return None

    def _give_back(self, connection: _Connection) -> None:
        idle = self._idle.setdefault(asyncio.get_running_loop(), [])
        if len(idle) < IDLE_CONNECTIONS:
            connection.since = time.monotonic()
            idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> _Connection:
        address = self._address
        streams: Tuple[asyncio.StreamReader, asyncio.StreamWriter]
        try:
            if address.socket_path:
                streams = await asyncio.open_unix_connection(address.socket_path)
            else:
                streams = await asyncio.open_connection(address.host, address.port, ssl=address.tls or None)
                raw: Optional[socket.socket] = streams[1].get_extra_info("socket")
                if raw is not None:
                    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            message = "cannot connect to %s: %s; is the server running?" % (address.url, error)
            raise FlintConnectionError(message, reason="connect") from error
        return _Connection(*streams)

    async def _exchange(
        self, connection: _Connection, kept: bool, request: bytes, call: Call[T], sent: Dict[str, bool]
    ) -> Reply:
        reply = Reply()
        whole = False
        try:
            sent["all"] = True
            connection.writer.write(request)
            await connection.writer.drain()
            while not whole:
                data = await connection.reader.read(READ_BYTES)
                whole = reply.feed(data) if data else reply.end()
                if not data and not whole:
                    raise ConnectionResetError("the connection was closed before the reply was whole")
        except OSError as error:
            if kept and not reply.begun and call.repeatable:
                raise _Stale from error
            message = "the connection to %s broke: %s" % (self._address.url, error)
            raise FlintConnectionError(message, request_sent=True, reason="closed") from error
        finally:
            # A call that is cancelled leaves a reply underway behind.
            if not (whole and reply.keep):
                connection.close()
        if reply.keep:
            self._give_back(connection)
        return reply
