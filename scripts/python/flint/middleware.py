"""Rate limits in front of web applications: WSGI (Flask, Django) and ASGI (FastAPI, Starlette).

A denied request is answered 429 with ``Retry-After``; every answer bears the server's ``RateLimit`` and
``RateLimit-Policy`` fields. Each check brings the limit that is given here. What is configured for the key, exactly or by
a pattern, counts before it and is never changed.
"""

from __future__ import annotations

import json
import math
from typing import Any, Awaitable, Callable, Dict, Iterable, List, MutableMapping, Optional, Tuple, Union

from ._client import SharedLimiter
from ._guard import Quota
from ._results import CheckResult
from ._values import Algorithm, Duration, Limit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Environ = Dict[str, Any]
StartResponse = Callable[..., Any]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]


def client_address(request: Any) -> str:
    """The default key: ``client:ADDRESS``, of an ASGI scope or a WSGI environ.

    Behind a reverse proxy that is the proxy's address; give a function of your own that reads what your proxy sets.
    """
    if "REMOTE_ADDR" in request or "wsgi.version" in request:
        return "client:%s" % (request.get("REMOTE_ADDR") or "unknown")
    client = request.get("client")
    return "client:%s" % (client[0] if client else "unknown")


class _Limits:
    """What both middlewares share: whom to ask for what, and what to answer."""

    def __init__(
        self,
        quota: Quota,
        key: Callable[[Any], Optional[str]],
        cost: Union[int, Callable[[Any], int]],
        exempt: Iterable[str],
    ) -> None:
        if isinstance(exempt, str):
            raise TypeError("exempt must be a list of paths, not a str")
        self.quota = quota
        self._key = key
        self._cost = cost
        self._exempt = frozenset(exempt)

    def of(self, request: Any, path: str) -> Optional[Tuple[str, int]]:
        """Key and cost of a request; None for one that is free."""
        if path in self._exempt:
            return None
        key = self._key(request)
        if key is None:
            return None
        return key, self._cost(request) if callable(self._cost) else self._cost

    @staticmethod
    def fields(result: CheckResult) -> List[Tuple[str, str]]:
        """Header fields of any answer."""
        fields = [("RateLimit-Policy", result.rate_limit_policy), ("RateLimit", result.rate_limit)]
        return [(name, value) for name, value in fields if value]

    @staticmethod
    def denial(result: CheckResult) -> Tuple[List[Tuple[str, str]], bytes]:
        """Header fields and body of a 429."""
        wait = None if result.retry_after_ms is None else max(1, math.ceil(result.retry_after_ms / 1000))
        message = "too many requests" + ("" if wait is None else "; try again in %d s" % wait)
        body = json.dumps({"error": message, "code": "rate_limited"}).encode() + b"\n"
        own = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        if wait is not None:
            own.append(("Retry-After", str(wait)))
        return own + _Limits.fields(result), body


class WSGIMiddleware:
    """A WSGI application behind limits.

    Args:
        app: the application.
        limiter: who decides; its ``on_error`` says what happens while the server can't be had.
        key: the limit's key of an environ; None lets the request pass.
        cost: units of a request, or a function of its environ.
        exempt: paths that are free.
        limit: what counts for a key that no limit is configured for: ``"100/1m"``, ``["10/1s", "5000/day"]`` or a dict.
        rate, per, algorithm, burst: the same as a limit of one window.
    """

    def __init__(
        self,
        app: WSGIApp,
        limiter: SharedLimiter,
        *,
        key: Callable[[Environ], Optional[str]] = client_address,
        cost: Union[int, Callable[[Environ], int]] = 1,
        exempt: Iterable[str] = (),
        limit: Optional[Limit] = None,
        rate: Optional[int] = None,
        per: Optional[Duration] = None,
        algorithm: Optional[Algorithm] = None,
        burst: Optional[int] = None,
    ) -> None:
        self._app = app
        self._limits = _Limits(Quota(limiter, limit, rate, per, algorithm, burst), key, cost, exempt)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        asked = self._limits.of(environ, environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
        if asked is None:
            return self._app(environ, start_response)
        result = self._limits.quota.take(*asked)
        if not result.allowed:
            headers, body = self._limits.denial(result)
            start_response("429 Too Many Requests", headers)
            return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]

        def start(status: str, headers: List[Tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, *self._limits.fields(result)], exc_info)

        return self._app(environ, start)


class ASGIMiddleware:
    """An ASGI application behind limits; what is no HTTP request passes. Arguments as for :class:`WSGIMiddleware`, with
    functions of the scope."""

    def __init__(
        self,
        app: ASGIApp,
        limiter: SharedLimiter,
        *,
        key: Callable[[Scope], Optional[str]] = client_address,
        cost: Union[int, Callable[[Scope], int]] = 1,
        exempt: Iterable[str] = (),
        limit: Optional[Limit] = None,
        rate: Optional[int] = None,
        per: Optional[Duration] = None,
        algorithm: Optional[Algorithm] = None,
        burst: Optional[int] = None,
    ) -> None:
        self._app = app
        self._limits = _Limits(Quota(limiter, limit, rate, per, algorithm, burst), key, cost, exempt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = self._limits.of(scope, scope.get("path", "")) if scope["type"] == "http" else None
        if asked is None:
            return await self._app(scope, receive, send)
        result = await self._limits.quota.atake(*asked)
        if not result.allowed:
            headers, body = self._limits.denial(result)
            if scope.get("method") == "HEAD":
                body = b""
            await send({"type": "http.response.start", "status": 429, "headers": _encoded(headers)})
            await send({"type": "http.response.body", "body": body})
            return None

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields = _encoded(self._limits.fields(result))
                message = {**message, "headers": [*message.get("headers", ()), *fields]}
            await send(message)

        return await self._app(scope, receive, send_with_fields)


def _encoded(headers: List[Tuple[str, str]]) -> List[Tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
