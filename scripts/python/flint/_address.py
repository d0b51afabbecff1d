"""Where the server is and who asks: the one place that reads URLs and tokens."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Optional, Union
from urllib.parse import urlsplit

from ._bounds import MAX_TOKEN_CHARS

TOKEN_VARIABLE = "FLINT_SERVER_TOKEN"

_FORMS = "http://HOST:PORT, https://HOST:PORT or unix:/path/to.sock"


@dataclass(frozen=True)
class Address:
    """One server: either ``host`` and ``port``, or ``socket_path``.

    Attributes:
        url: as given, without a closing slash; for messages.
        host_field: the value of the ``Host`` field.
        prefix: path in front of ``/v1/...`` (a reverse proxy's), without a closing slash.
    """

    url: str
    host_field: str
    host: str = ""
    port: int = 0
    tls: bool = False
    prefix: str = ""
    socket_path: str = ""

    @property
    def full_url(self) -> str:
        """The same server from any directory."""
        return "unix:" + self.socket_path if self.socket_path else self.url


def parse_url(url: str) -> Address:
    """Reads a server's URL; :class:`ValueError` says what would be right.

    Without a port, HTTP's own are meant: 80 and 443. A relative socket path is taken from the current directory of now.
    """
    if not isinstance(url, str):
        raise TypeError("url must be a str, not %s" % type(url).__name__)
    if any(ord(c) <= 0x20 or ord(c) == 0x7F for c in url if not url.startswith("unix:")) or "\0" in url:
        raise ValueError("url %r contains a blank or control character: expected %s" % (url, _FORMS))
    if url.startswith("unix:"):
        return _parse_unix(url)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("url %r: %s; expected %s" % (url, error, _FORMS)) from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("url %r: expected %s" % (url, _FORMS))
    if parts.username is not None or parts.password is not None:
        raise ValueError("url must not contain a user name or password: pass the token as token=")
    if parts.query or parts.fragment:
        raise ValueError("url %r must end before '?' and '#': expected %s" % (url, _FORMS))
    if "%" in host:
        raise ValueError("url %r: an IPv6 zone is not supported" % url)
    if port == 0:
        raise ValueError("url %r: port 0 cannot be connected to" % url)
    tls = parts.scheme == "https"
    standard = 443 if tls else 80
    try:
        ascii_host = host if ":" in host else host.encode("idna").decode("ascii")
        prefix = parts.path.rstrip("/").encode("ascii").decode("ascii")
    except UnicodeError:
        raise ValueError("url %r: expected a host name, and a path in ASCII (percent-encoded)" % url) from None
    field = "[%s]" % host if ":" in host else ascii_host
    if port is not None and port != standard:
        field += ":%d" % port
    return Address(
        url=url.rstrip("/"), host_field=field, host=ascii_host, port=port or standard, tls=tls, prefix=prefix
    )


def _parse_unix(url: str) -> Address:
    path = url[len("unix:") :]
    if path.startswith("//"):
        path = path[2:]
        if not path.startswith("/"):
            raise ValueError("url %r: a socket has no host, write unix:///path/to.sock" % url)
    if not path or path.endswith("/"):
        raise ValueError("url %r names no socket: expected unix:/path/to.sock" % url)
    if not hasattr(socket, "AF_UNIX"):
        raise ValueError("url %r: this platform has no Unix sockets" % url)
    return Address(url=url, host_field="localhost", socket_path=os.path.abspath(path))


def resolve_token(token: Optional[str], token_file: Union[str, "os.PathLike[str]", None]) -> Optional[str]:
    """The token to send: ``token``, else the first of ``token_file``, else the environment's ``FLINT_SERVER_TOKEN``.

    An empty one is none, and the next is asked. The file is one as ``flint server start --token-file`` reads: tokens one a
    line, blank lines and lines that begin with ``#`` aside.

    Raises:
        ValueError: for a token that no HTTP field can carry, or over 4096 characters, and for a file that others than its
            owner and group can write or that holds no token. The token is not repeated.
        OSError: when ``token_file`` cannot be read.
    """
    if token is not None and not isinstance(token, str):
        raise TypeError("token must be a str, not %s" % type(token).__name__)
    source, found = "token", token
    if not found and token_file is not None:
        source, found = "token_file %s" % os.fspath(token_file), _first_token(token_file)
    if not found:
        source, found = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
    if not found:
        return None
    if len(found) > MAX_TOKEN_CHARS:
        raise ValueError("%s is longer than %d characters" % (source, MAX_TOKEN_CHARS))
    if not all(0x21 <= ord(c) <= 0x7E for c in found):
        raise ValueError("%s must be printable ASCII without blanks" % source)
    return found


def _first_token(path: Union[str, "os.PathLike[str]"]) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o002:
            raise ValueError("token_file %s can be written by others; run chmod o-w on it" % os.fspath(path))
        for line in file:
            if line.strip() and not line.strip().startswith("#"):
                # A role and a key prefix may come first; they are for the server.
                return line.split()[-1]
    raise ValueError("token_file %s has no token" % os.fspath(path))
