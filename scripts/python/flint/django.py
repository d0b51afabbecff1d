"""Django: a middleware, for WSGI and ASGI.

    MIDDLEWARE = ["flint.django.RateLimitMiddleware", ...]
    FLINT = {"limiter": flint.SharedLimiter(), "limit": "100/1m", "exempt": ["/health"]}
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any, Callable, Dict, Optional, cast

from ._client import SharedLimiter
from ._guard import Guards, GuardValues
from ._http import denial, fields
from ._results import CheckResult, RateLimitExceeded


class RateLimitMiddleware:
    """Guards every request. The setting ``FLINT`` is a dict: ``limiter`` (by default for the server in ``FLINT_SERVER``),
    ``guards`` and the arguments of a :class:`flint.Guard`, whose functions are called with Django's request. A denial
    raised by a function that a view calls is answered 429 too.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        settings: Any = importlib.import_module("django.conf").settings
        given: Dict[str, Any] = dict(getattr(settings, "FLINT", {}))
        limiter = given.pop("limiter", None) or SharedLimiter()
        self._guards = Guards(limiter, given.pop("guards", ()), cast(GuardValues, given))
        self._get_response = get_response
        self._response: Any = importlib.import_module("django.http").HttpResponse
        self._is_async = inspect.iscoroutinefunction(get_response)
        if self._is_async:
            # So that Django awaits it.
            importlib.import_module("asgiref.sync").markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        if self._is_async:
            return self._answer(request)
        items = self._guards.items(request, request.META, None)
        result: Optional[CheckResult] = self._guards.take(items) if items else None
        if result is not None and not result.allowed:
            return self._denied(result)
        return self._with_fields(self._get_response(request), result)

    async def _answer(self, request: Any) -> Any:
        items = self._guards.items(request, request.META, None)
        result: Optional[CheckResult] = await self._guards.atake(items) if items else None
        if result is not None and not result.allowed:
            return self._denied(result)
        return self._with_fields(await self._get_response(request), result)

    def process_exception(self, request: Any, error: Exception) -> Any:
        """Answers the denial of a function that a view called; leaves other errors to Django."""
        return self._denied(error.result) if isinstance(error, RateLimitExceeded) else None

    @staticmethod
    def _with_fields(response: Any, result: Optional[CheckResult]) -> Any:
        if result is not None:
            for name, value in fields(result):
                response[name] = value
        return response

    def _denied(self, result: CheckResult) -> Any:
        headers, body = denial(result)
        response = self._response(body, status=429)
        for name, value in headers:
            response[name] = value
        return response
