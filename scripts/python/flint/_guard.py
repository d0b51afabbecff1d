"""The decorator: functions that are called as often as a limit allows."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Set, TypeVar, Union, cast

from ._bounds import MAX_REMEMBERED_KEYS
from ._errors import FlintError, RateLimitExceeded

if TYPE_CHECKING:
    from ._client import SharedLimiter

F = TypeVar("F", bound=Callable[..., Any])
Key = Union[str, Callable[..., str]]
Cost = Union[int, Callable[..., int]]


class Guard:
    """Takes quota for each call of a function. Used from any number of threads and tasks: that two of them configure a
    limit at the same time changes nothing."""

    def __init__(
        self,
        limiter: "SharedLimiter",
        key: Key,
        cost: Cost,
        rate: Optional[int],
        per: Union[str, int, None],
        algorithm: Optional[str],
        burst: Optional[int],
    ) -> None:
        if (rate is None) != (per is None):
            raise ValueError("rate and per must be given together, or neither")
        if rate is None and (algorithm is not None or burst is not None):
            raise ValueError("algorithm and burst need rate and per")
        self._limiter = limiter
        self._key = key
        self._cost = cost
        self._values: Optional[Dict[str, Any]] = None
        if rate is not None:
            self._values = {"rate": rate, "per": per, "algorithm": algorithm, "burst": burst}
        self._configured: Set[str] = set()

    def decorate(self, function: F) -> F:
        """The function, behind the limit."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded_coroutine(*args: Any, **kwargs: Any) -> Any:
                await self._atake(args, kwargs)
                return await function(*args, **kwargs)

            return cast(F, guarded_coroutine)

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._take(args, kwargs)
            return function(*args, **kwargs)

        return cast(F, guarded)

    def _take(self, args: Any, kwargs: Any) -> None:
        key, cost = self._of_call(args, kwargs)
        if self._values is not None and key not in self._configured:
            try:
                self._limiter.limit(key, **self._values)
                self._remember(key)
            except FlintError as error:
                # With on_error, the check below decides in the server's place.
                self._limiter._instead(error)
        result = self._limiter.check(key, cost)
        if not result.allowed:
            raise RateLimitExceeded(result)

    async def _atake(self, args: Any, kwargs: Any) -> None:
        key, cost = self._of_call(args, kwargs)
        if self._values is not None and key not in self._configured:
            try:
                await self._limiter.alimit(key, **self._values)
                self._remember(key)
            except FlintError as error:
                self._limiter._instead(error)
        result = await self._limiter.acheck(key, cost)
        if not result.allowed:
            raise RateLimitExceeded(result)

    def _of_call(self, args: Any, kwargs: Any) -> "tuple[str, int]":
        key = self._key(*args, **kwargs) if callable(self._key) else self._key
        cost = self._cost(*args, **kwargs) if callable(self._cost) else self._cost
        return key, cost

    def _remember(self, key: str) -> None:
        if len(self._configured) >= MAX_REMEMBERED_KEYS:
            self._configured.clear()
        self._configured.add(key)
