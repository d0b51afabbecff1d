"""Where a web request comes from, and which application it is for. Reads WSGI environs, ASGI scopes, and what
frameworks make of them (``.scope``, ``.META``); knows nothing of limits.
"""

from __future__ import annotations

import functools
import ipaddress
import os
from typing import Any, Iterable, List, Optional, Sequence, Union

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
IPAddress = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

#: Names that frameworks and tutorials give to any application: they tell none from another.
_ANY = frozenset(
    {"", "FastAPI", "Starlette", "__main__", "api", "app", "application", "asgi", "main", "server", "wsgi"}
)


def plain(request: Any) -> Any:
    """The scope or environ of a request of a framework; itself where it is one."""
    found = getattr(request, "scope", None)
    if isinstance(found, dict):
        # Django's ASGIRequest has both.
        return found
    found = getattr(request, "META", None)
    if isinstance(found, dict):
        return found
    found = getattr(request, "environ", None)
    return found if isinstance(found, dict) else request


def _is_wsgi(request: Any) -> bool:
    return "REQUEST_METHOD" in request or "REMOTE_ADDR" in request or "wsgi.version" in request


def method(request: Any) -> str:
    """The request's method, in upper case; empty where it has none."""
    return str(request.get("REQUEST_METHOD" if _is_wsgi(request) else "method") or "").upper()


def path(request: Any) -> str:
    """The request's path, with what the application is mounted at."""
    if _is_wsgi(request):
        return str(request.get("SCRIPT_NAME", "")) + str(request.get("PATH_INFO", ""))
    return str(request.get("path", ""))


def networks(given: Iterable[str]) -> List[Network]:
    """The networks of ``trusted_proxies``: addresses and CIDR networks."""
    if isinstance(given, (str, bytes)):
        raise TypeError("trusted_proxies must be a list of addresses and networks, not a %s" % type(given).__name__)
    found: List[Network] = []
    for text in given:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            message = "trusted_proxies: %r is neither an address nor a network such as 10.0.0.0/8" % (text,)
            raise ValueError(message) from None
    return found


def address(text: str) -> Optional[IPAddress]:
    """An address as proxies write it: with or without port, brackets and zone. None for anything else. IPv4 in IPv6 is
    IPv4."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


@functools.lru_cache(maxsize=4096)
def _household(text: str, ipv6_prefix: int) -> str:
    """How the key names an address. One household or machine has a whole IPv6 network, 64 bits long as a rule."""
    found = address(text)
    if found is None:
        return text
    if isinstance(found, ipaddress.IPv6Address) and ipv6_prefix < 128:
        return str(ipaddress.ip_network((int(found), ipv6_prefix), strict=False))
    return str(found)


def _is_trusted(found: IPAddress, trusted: Sequence[Network]) -> bool:
    return any(found.version == network.version and found in network for network in trusted)


def _forwarded(request: Any) -> str:
    """All lines of ``X-Forwarded-For``, joined."""
    if _is_wsgi(request):
        return str(request.get("HTTP_X_FORWARDED_FOR") or "")
    lines = [value for name, value in request.get("headers", ()) if name.lower() == b"x-forwarded-for"]
    return b",".join(lines).decode("latin-1")


def client(request: Any, trusted: Sequence[Network], ipv6_prefix: int) -> str:
    """The client's address: the peer's, or where the peer is a trusted proxy the rightmost address of
    ``X-Forwarded-For`` that is not one. What stands to the left of that may be the client's invention.

    A peer without an address has come through a Unix socket: it is a proxy of this machine, if any is trusted.
    """
    if _is_wsgi(request):
        peer = str(request.get("REMOTE_ADDR") or "")
    else:
        pair = request.get("client")
        peer = str(pair[0] or "") if pair else ""
    if trusted:
        known = address(peer)
        if not peer or (known is not None and _is_trusted(known, trusted)):
            for text in reversed(_forwarded(request).split(",")):
                known = address(text)
                if known is None:
                    # Not written by a proxy that can be trusted for more.
                    break
                peer = str(known)
                if not _is_trusted(known, trusted):
                    break
    return _household(peer, ipv6_prefix) if peer else "unknown"


def client_address(request: Any, *, trusted_proxies: Iterable[str] = (), ipv6_prefix: int = 64) -> str:
    """The key that guards use where none is given: ``client:ADDRESS`` of an ASGI scope, a WSGI environ, or a request of
    Starlette, FastAPI, Flask or Django.

    Args:
        trusted_proxies: addresses and networks of reverse proxies. Where one of them is the peer, the client is the
            rightmost address of ``X-Forwarded-For`` that is not one of them.
        ipv6_prefix: bits of an IPv6 address that count; one household has 64 bits or less of its own.
    """
    return "client:" + client(plain(request), networks(trusted_proxies), ipv6_prefix)


def application(request: Any, app: Any) -> str:
    """What distinguishes this application's keys from those of others at the same server: what its framework calls it, where
    that is not what any is called; the Django project; else the name of the working directory."""
    named = [getattr(app, "__self__", app)]
    if isinstance(request, dict):
        named.append(request.get("app"))
    for found in named:
        for attribute in ("title", "name"):
            name = getattr(found, attribute, None)
            if isinstance(name, str) and name not in _ANY:
                return name
    project, dot, _ = os.environ.get("DJANGO_SETTINGS_MODULE", "").partition(".")
    if dot and project not in _ANY:
        return project
    try:
        return os.path.basename(os.getcwd()) or "app"
    except OSError:
        # A directory that was removed.
        return "app"
