"""Quota taken for a call or a request, and the decorator: functions that are called as often as a limit allows."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable, Optional, Protocol, TypeVar, Union, cast

from ._results import CheckResult, RateLimitExceeded
from ._values import Algorithm, Duration, Limit, values

F = TypeVar("F", bound=Callable[..., Any])
Key = Union[str, Callable[..., str]]
Cost = Union[int, Callable[..., int]]


class Limiter(Protocol):
    """What quota is taken from: as much of :class:`flint.SharedLimiter` as is used here."""

    def check(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> CheckResult: ...

    async def acheck(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> CheckResult: ...


class Quota:
    """Checks that bring a limit, for keys that none is configured for. Nothing is configured here, so that what an
    operator configures stays as it is, and a key that is used no more leaves nothing on the server."""

    def __init__(
        self,
        limiter: Limiter,
        limit: Optional[Limit],
        rate: Optional[int],
        per: Optional[Duration],
        algorithm: Optional[Algorithm],
        burst: Optional[int],
    ) -> None:
        self._limiter = limiter
        self._limit: Optional[Limit] = values(limit, rate, per, algorithm, burst)

    def take(self, key: str, cost: int) -> CheckResult:
        """Spends ``cost`` units of ``key`` if its limit allows it."""
        return self._limiter.check(key, cost, limit=self._limit)

    async def atake(self, key: str, cost: int) -> CheckResult:
        """:meth:`take` for asyncio."""
        return await self._limiter.acheck(key, cost, limit=self._limit)


class Guard:
    """Takes quota for each call of a function."""

    def __init__(self, quota: Quota, key: Key, cost: Cost) -> None:
        self._quota = quota
        self._key = key
        self._cost = cost

    def decorate(self, function: F) -> F:
        """The function, behind the limit."""
        if inspect.isasyncgenfunction(function):
            # Its call returns at once and can't wait for an answer.
            raise TypeError("rate_limit can't guard an asynchronous generator: guard the function that iterates over it")
        if _is_asynchronous(function):

            @functools.wraps(function)
            async def guarded_coroutine(*args: Any, **kwargs: Any) -> Any:
                self._judge(await self._quota.atake(*self._of_call(args, kwargs)))
                return await function(*args, **kwargs)

            return cast(F, guarded_coroutine)

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._judge(self._quota.take(*self._of_call(args, kwargs)))
            return function(*args, **kwargs)

        return cast(F, guarded)

    @staticmethod
    def _judge(result: CheckResult) -> None:
        if not result.allowed:
            raise RateLimitExceeded(result)

    def _of_call(self, args: Any, kwargs: Any) -> "tuple[str, int]":
        key = self._key(*args, **kwargs) if callable(self._key) else self._key
        cost = self._cost(*args, **kwargs) if callable(self._cost) else self._cost
        return key, cost


def _is_asynchronous(function: Callable[..., Any]) -> bool:
    """Whether a call gives a coroutine: of a coroutine function, or of an object with an asynchronous ``__call__``."""
    if inspect.iscoroutinefunction(function):
        return True
    return not inspect.isclass(function) and inspect.iscoroutinefunction(getattr(function, "__call__", None))
