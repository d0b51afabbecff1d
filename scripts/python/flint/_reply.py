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
        headers: by their names in lower case; `field` is the fast way to one.
        body: its bytes.
        keep: whether the connection may be used again.
        begun: whether any byte has come.
    """

    __slots__ = (
        "status",
        "body",
        "keep",
        "begun",
        "_head",
        "_lower",
        "_headers",
        "_buffer",
        "_left",
        "_chunked",
        "_to_the_end",
    )

    def __init__(self) -> None:
        self.status = 0
        # The head in its own case and in lower case: most of its fields are never read.
        self._head = self._lower = ""
        self._headers: Optional[Dict[str, str]] = None
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
        # Unrequested bytes follow: whatever they are, this connection can't be trusted.
        self.keep = self.keep and len(self._buffer) == self._left
        return True

    def end(self) -> bool:
        """The connection has ended; True if the reply is whole by that."""
        if self.status and self._to_the_end:
            self.body = self._buffer
            return True
        return False

    @property
    def headers(self) -> Dict[str, str]:
        if self._headers is None:
            self._headers = {}
            for line in self._head.split("\r\n")[1:]:
                name, _, value = line.partition(":")
                self._headers[name.lower()] = value.strip()
        return self._headers

    @headers.setter
    def headers(self, headers: Dict[str, str]) -> None:
        self._headers = headers

    def field(self, name: str) -> str:
        """The value of a header field, by its name in lower case; empty where there is none."""
        if self._headers is not None:
            return self._headers.get(name, "")
        at = self._lower.rfind(f"\r\n{name}:")
        if at < 0:
            return ""
        end = self._head.find("\r\n", at + 2)
        return self._head[at + len(name) + 3 : end if end >= 0 else None].strip()

    def _read_head(self, head: bytes) -> None:
        text = head.decode("latin-1")
        # As a rule it is exactly this.
        if not text.startswith("HTTP/1.1 200 "):
            parts = text.partition("\r\n")[0].split(" ", 2)
            if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or len(parts[1]) != 3 or _number(parts[1]) is None:
                raise _not_http("is not HTTP: is another program listening there?")
            status = int(parts[1])
            if status < 200:
                return
            self.status = status
        else:
            self.status = 200
        self._head, self._lower = text, text.lower()
        self.keep = text.startswith("HTTP/1.1 ")
        if "\r\nconnection:" in self._lower and "close" in self.field("connection").lower():
            self.keep = False
        length = self.field("content-length")
        if "\r\ntransfer-encoding:" in self._lower and self.field("transfer-encoding").lower() == "chunked":
            self._chunked = True
        elif not length:
            self.keep = False
            self._to_the_end = True
        else:
            left = _number(length)
            if left is None or left > MAX_BODY_BYTES:
                raise _not_http("announces a body of %.20s bytes; at most %d are accepted" % (length, MAX_BODY_BYTES))
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
                # Trailers are not expected, so the reply is whole only with an empty line after the last chunk.
                self.keep = self.keep and self._buffer[end:] == b"\r\n\r\n"
                return len(self._buffer) >= end + 4
            if len(self._buffer) < end + 2 + size + 2:
                return False
            self.body += self._buffer[end + 2 : end + 2 + size]
            self._buffer = self._buffer[end + 4 + size :]


def _number(text: str) -> Optional[int]:
    # More digits than these are neither a size nor a time; and there are digits outside ASCII, which int() refuses.
    return int(text) if len(text) <= 15 and text.isascii() and text.isdigit() else None


def retry_after(headers: Dict[str, str]) -> Optional[float]:
    """Seconds of a ``Retry-After`` header, where there is one in seconds."""
    seconds = _number(headers.get("retry-after", ""))
    return None if seconds is None else float(seconds)
