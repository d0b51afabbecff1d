"""HTTP/1.1 replies from bytes: no socket here, so that threads and asyncio share it.

``http.client`` would do, at about a third of the speed: it makes a file object and an ``email.message.Message`` for each
reply.
"""

from __future__ import annotations

from typing import Dict, Optional

from ._bounds import MAX_BODY_BYTES, MAX_HEAD_BYTES
from ._errors import FlintConnectionError


def _not_http(what: str) -> FlintConnectionError:
    return FlintConnectionError("the server's reply %s" % what, request_sent=True, reason="protocol")


class Reply:
    """One reply, filled by :meth:`feed` as its bytes come.

    Attributes:
        status: of the final reply; interim ones (1xx) are passed over.
        headers: by their names in lower case.
        body: its bytes.
        keep: whether the connection may be used again.
        begun: whether any byte has come.
    """

    __slots__ = ("status", "headers", "body", "keep", "begun", "_buffer", "_left", "_chunked", "_to_the_end")

    def __init__(self) -> None:
        self.status = 0
        self.headers: Dict[str, str] = {}
        self.body = b""
        self.keep = False
        self.begun = False
        self._buffer = b""
        self._left = 0
        self._chunked = False
        self._to_the_end = False

    def feed(self, data: bytes) -> bool:
        """Takes more bytes; True once the reply is whole."""
        self.begun = True
        self._buffer = self._buffer + data if self._buffer else data
        while self.status == 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEAD_BYTES:
                if len(self._buffer) > MAX_HEAD_BYTES:
                    raise _not_http("has a head of more than %d bytes" % MAX_HEAD_BYTES)
                return False
            head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
            self._read_head(head)
        if self._chunked:
            return self._read_chunks()
        if len(self._buffer) > MAX_BODY_BYTES:
            raise _not_http("has a body of more than %d bytes" % MAX_BODY_BYTES)
        if self._to_the_end or len(self._buffer) < self._left:
            return False
        self.body = self._buffer[: self._left]
        # Bytes that nobody asked for follow: whatever they are, this connection is not to be trusted.
        self.keep = self.keep and len(self._buffer) == self._left
        return True

    def end(self) -> bool:
        """The connection has ended; True if the reply is whole by that."""
        if self.status and self._to_the_end:
            self.body = self._buffer
            return True
        return False

    def _read_head(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or len(parts[1]) != 3 or _number(parts[1]) is None:
            raise _not_http("is not HTTP: is another program listening there?")
        status = int(parts[1])
        if status < 200:
            return
        headers: Dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise _not_http("has a header line without a colon")
            headers[name.lower()] = value.strip()
        self.status, self.headers = status, headers
        self.keep = parts[0] == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
        length = headers.get("content-length")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunked = True
        elif length is None:
            self.keep = False
            self._to_the_end = True
        else:
            left = _number(length)
            if left is None or left > MAX_BODY_BYTES:
                raise _not_http("announces a body of %.20s bytes; at most %d are taken" % (length, MAX_BODY_BYTES))
            self._left = left

    def _read_chunks(self) -> bool:
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                if len(self._buffer) > MAX_HEAD_BYTES:
                    raise _not_http("has a chunk without a size")
                return False
            try:
                size = int(self._buffer[:end].split(b";", 1)[0], 16)
            except ValueError:
                raise _not_http("has a chunk without a size") from None
            if size < 0 or len(self.body) + size > MAX_BODY_BYTES:
                raise _not_http("has a body of more than %d bytes" % MAX_BODY_BYTES)
            if size == 0:
                # Trailers are not expected, so the reply is whole only with an empty line behind the last chunk.
                self.keep = self.keep and self._buffer[end:] == b"\r\n\r\n"
                return len(self._buffer) >= end + 4
            if len(self._buffer) < end + 2 + size + 2:
                return False
            self.body += self._buffer[end + 2 : end + 2 + size]
            self._buffer = self._buffer[end + 4 + size :]


def _number(text: str) -> Optional[int]:
    # More digits than these are no size and no time; and there are digits outside ASCII, which int() does not take.
    return int(text) if len(text) <= 15 and text.isascii() and text.isdigit() else None


def retry_after(headers: Dict[str, str]) -> Optional[float]:
    """Seconds of a ``Retry-After`` header, where there is one in seconds."""
    seconds = _number(headers.get("retry-after", ""))
    return None if seconds is None else float(seconds)
