"""Rate limits in front of web applications: WSGI (Flask, Django) and ASGI (FastAPI, Starlette).

A denied request is answered 429 with ``Retry-After``; every answer has the server's ``RateLimit`` and
``RateLimit-Policy`` headers. Each check brings the limit that is given here. A limit that is configured for the key, exactly
or by a pattern, takes precedence and is never changed.

Two middlewares with the same limiter that wrap each other directly act as one guard: both are spent, or none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Awaitable, Callable, Dict, Iterable, List, MutableMapping, Optional, Sequence

from ._guard import Guard, Guards, GuardValues, Limiter
from ._http import Fields, denial, encoded, encoded_fields, fields
from ._results import CheckResult, RateLimitExceeded

if TYPE_CHECKING:
    from typing_extensions import Unpack

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Environ = Dict[str, Any]
StartResponse = Callable[..., Any]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]


class _Middleware:
    """What both have: an application, and its guards."""

    def __init__(self, app: Any, limiter: Limiter, guards: Sequence[Guard], values: GuardValues) -> None:
        self._app = app
        self._guards = Guards(limiter, guards, values)
        while type(self._app) is type(self) and self._guards.is_of(self._app._guards):
            # One right inside another: what is inside both is guarded by all at once.
            self._guards, self._app = self._guards.joined(self._app._guards), self._app._app


class WSGIMiddleware(_Middleware):
    """A WSGI application that is guarded by limits.

    Args:
        app: the application.
        limiter: the limiter that decides; its ``on_error`` applies while it can't, unless a guard has its own.
        guards: what is counted, if there are several guards: all are spent, or none.
        values: the arguments of one more :class:`flint.Guard`, whose functions are called with the environ.
    """

    def __init__(
        self, app: WSGIApp, limiter: Limiter, guards: Sequence[Guard] = (), **values: Unpack[GuardValues]
    ) -> None:
        super().__init__(app, limiter, guards, values)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        items = self._guards.items(environ, environ, self._app)
        result: Optional[CheckResult] = None
        if items:
            result = self._guards.take(items)
            if not result.allowed:
                return _denied(result, environ, start_response)
        own = fields(result) if result is not None else []
        started = False

        def start(status: str, headers: Fields, exc_info: Any = None) -> Any:
            nonlocal started
            started = True
            return start_response(status, [*headers, *own], exc_info)

        try:
            answer: Iterable[bytes] = self._app(environ, start)
            return answer
        except RateLimitExceeded as error:
            # Of a function with its own limit.
            if started:
                raise
            return _denied(error.result, environ, start_response)


def _denied(result: CheckResult, environ: Environ, start_response: StartResponse) -> List[bytes]:
    headers, body = denial(result)
    start_response("429 Too Many Requests", headers)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


class ASGIMiddleware(_Middleware):
    """An ASGI application that is guarded by limits; only HTTP requests count. Arguments as for
    :class:`WSGIMiddleware`, with functions of the scope."""

    def __init__(
        self, app: ASGIApp, limiter: Limiter, guards: Sequence[Guard] = (), **values: Unpack[GuardValues]
    ) -> None:
        super().__init__(app, limiter, guards, values)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        items = self._guards.items(scope, scope, self._app)
        result: Optional[CheckResult] = None
        if items:
            result = await self._guards.atake(items)
            if not result.allowed:
                await _asgi_denied(result, scope, send)
                return
        own = encoded_fields(result) if result is not None else []
        started = False

        async def send_with_fields(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if own:
                    message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_fields)
        except RateLimitExceeded as error:
            if started:
                raise
            await _asgi_denied(error.result, scope, send)


async def _asgi_denied(result: CheckResult, scope: Scope, send: Send) -> None:
    headers, body = denial(result)
    if scope.get("method") == "HEAD":
        body = b""
    await send({"type": "http.response.start", "status": 429, "headers": encoded(headers)})
    await send({"type": "http.response.body", "body": body})
