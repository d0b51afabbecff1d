"""Quota taken for a call or a request, and the decorator: functions that are called as often as a limit allows."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable, Dict, Optional, Protocol, Set, TypeVar, Union, cast

from ._bounds import MAX_REMEMBERED_KEYS
from ._errors import FlintError, FlintServerError
from ._results import CheckResult, RateLimitExceeded, degraded_result

F = TypeVar("F", bound=Callable[..., Any])
Key = Union[str, Callable[..., str]]
Cost = Union[int, Callable[..., int]]


class Limiter(Protocol):
    """What quota is taken from: as much of :class:`flint.SharedLimiter` as is used here."""

    def check(self, key: str, cost: int = 1) -> CheckResult: ...

    async def acheck(self, key: str, cost: int = 1) -> CheckResult: ...

    def limit(
        self,
        key: str,
        *,
        rate: int,
        per: Union[str, int],
        algorithm: Optional[str] = None,
        burst: Optional[int] = None,
    ) -> bool: ...

    async def alimit(
        self,
        key: str,
        *,
        rate: int,
        per: Union[str, int],
        algorithm: Optional[str] = None,
        burst: Optional[int] = None,
    ) -> bool: ...

    def _instead(self, error: FlintError) -> bool: ...


class Quota:
    """Checks limits that it configures itself where it was given their values: at the first use of each key, and again
    when a key is gone from the server. Used from any number of threads and tasks: that two of them configure a limit at
    the same time changes nothing."""

    def __init__(
        self,
        limiter: Limiter,
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
        self._values: Optional[Dict[str, Any]] = None
        if rate is not None:
            self._values = {"rate": rate, "per": per, "algorithm": algorithm, "burst": burst}
        self._configured: Set[str] = set()

    def take(self, key: str, cost: int) -> CheckResult:
        """Spends ``cost`` units of ``key`` if its limit allows it."""
        if self._values is None:
            return self._limiter.check(key, cost)
        if key in self._configured:
            try:
                return self._limiter.check(key, cost)
            except FlintServerError as error:
                self._forget(key, error)
        try:
            self._limiter.limit(key, **self._values)
        except FlintError as error:
            return degraded_result(key, cost, self._limiter._instead(error), error)
        self._remember(key)
        return self._limiter.check(key, cost)

    async def atake(self, key: str, cost: int) -> CheckResult:
        """:meth:`take` for asyncio."""
        if self._values is None:
            return await self._limiter.acheck(key, cost)
        if key in self._configured:
            try:
                return await self._limiter.acheck(key, cost)
            except FlintServerError as error:
                self._forget(key, error)
        try:
            await self._limiter.alimit(key, **self._values)
        except FlintError as error:
            return degraded_result(key, cost, self._limiter._instead(error), error)
        self._remember(key)
        return await self._limiter.acheck(key, cost)

    def _remember(self, key: str) -> None:
        if len(self._configured) >= MAX_REMEMBERED_KEYS:
            self._configured.clear()
        self._configured.add(key)

    def _forget(self, key: str, error: FlintServerError) -> None:
        """Forgets a key that was removed, or that a server with an empty directory never knew; nothing was spent then.
        Any other error is raised."""
        if error.code != "limit_not_configured":
            raise error
        self._configured.discard(key)


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
