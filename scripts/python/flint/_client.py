"""The limiter that several processes share."""

from __future__ import annotations

import logging
import os
import time
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Type, TypeVar, Union

from . import _calls
from ._address import parse_url, resolve_token
from ._bounds import DEFAULT_TIMEOUT_SECONDS, DEFAULT_URL, WARN_EVERY_SECONDS
from ._calls import Call, Item
from ._errors import FlintConnectionError, FlintError, FlintServerError
from ._guard import Cost, Guard, Key, Quota
from ._results import CheckAllResult, CheckResult, LimitStatus, degraded_result
from ._tasks import AsyncPool
from ._threads import Pool
from ._values import Algorithm, Duration, Limit, Mode, Window

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("flint")

_ON_ERROR = ("raise", "allow", "deny")


class SharedLimiter:
    """A client of ``flint server start``. One for each process and server is enough: threads and tasks share it, and a
    forked child may go on using its parent's.

    Each method has a twin for asyncio with an ``a`` before its name: ``await limiter.acheck("login")``.

    Args:
        url: ``http://HOST:PORT``, ``https://HOST:PORT`` (a reverse proxy's) or ``unix:/path/to.sock``; else the
            environment's ``FLINT_SERVER``, else ``http://127.0.0.1:7878``.
        token: the bearer token; else the first in ``token_file`` (one a line, as the server's own ``--token-file``),
            else the environment's ``FLINT_SERVER_TOKEN``.
        timeout: seconds for one call, all in all.
        on_error: what ``check``, ``allow``, ``check_all`` and ``allow_all`` do while the server can't be had (no
            connection, no answer, statuses 502 to 504): ``"raise"``, or decide in its place: ``"allow"`` or ``"deny"``.
            The logger ``flint`` warns of it, once a minute. A wrong use (an unknown limit, a wrong token) always raises.

    Raises:
        ValueError: a URL, token, timeout or ``on_error`` that can't be; a ``token_file`` that others can write.
        OSError: a ``token_file`` that can't be read.
    """

    def __init__(
        self,
        url: Optional[str] = None,
        *,
        token: Optional[str] = None,
        token_file: Union[str, "os.PathLike[str]", None] = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        on_error: str = "raise",
    ) -> None:
        if on_error not in _ON_ERROR:
            raise ValueError("on_error must be 'raise', 'allow' or 'deny', not %r" % (on_error,))
        if not isinstance(timeout, (int, float)):
            raise TypeError("timeout must be a number of seconds, not %s" % type(timeout).__name__)
        if not 0 < timeout <= 3600:
            raise ValueError("timeout must be over 0 and at most 3600 seconds, not %r" % (timeout,))
        self._address = parse_url(url or os.environ.get("FLINT_SERVER") or DEFAULT_URL)
        self._secret = resolve_token(token, token_file)
        authorization = "Authorization: Bearer %s\r\n" % self._secret if self._secret else ""
        self._timeout = timeout
        self._on_error = on_error
        self._warn_from = 0.0
        self._pool = Pool(self._address, authorization, timeout)
        self._tasks = AsyncPool(self._address, authorization, timeout)

    def __repr__(self) -> str:
        return "SharedLimiter(%r)" % self._address.url

    def __reduce__(self) -> "Tuple[Any, ...]":
        # To other processes (multiprocessing's spawn) goes what to connect to, and no connection.
        return (_again, (type(self), self._address.full_url, self._secret, self._timeout, self._on_error))

    def __enter__(self) -> "SharedLimiter":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    async def __aenter__(self) -> "SharedLimiter":
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """Closes the idle connections. The limiter can be used again."""
        self._pool.close()

    async def aclose(self) -> None:
        """Closes the idle connections of the running event loop, and those of threads."""
        self._pool.close()
        await self._tasks.close()

    # ---- configuring

    def limit(
        self,
        key: str,
        windows: Union[str, Window, Sequence[Union[str, Window]], None] = None,
        *,
        rate: Optional[int] = None,
        per: Optional[Duration] = None,
        algorithm: Optional[Algorithm] = None,
        burst: Optional[int] = None,
        tz: Optional[str] = None,
        anchor: Optional[int] = None,
        mode: Optional[Mode] = None,
        unlimited: Optional[bool] = None,
        lasts: Optional[Duration] = None,
        max_keys: Optional[int] = None,
    ) -> bool:
        """Configures a limit: ``rate`` units per ``per`` (``"10s"``, ``"1m"``, a timedelta; an int is seconds; of the
        calendar ``"day"``, ``"week"``, ``"month"``, ``"quarter"``, ``"year"``), or ``windows``: ``"100/1m"`` or several
        such, all of which must allow. True if it is new. A key with ``*`` is a pattern: every key that matches has such
        a limit of its own.

        The same values again change nothing, so every worker may say it at its start.

        Args:
            burst: of a token bucket, its capacity; else the rate.
            tz, anchor: of the calendar, the time zone and the day on which a month, quarter or year begins.
            mode: ``"shadow"`` decides and counts, but answers that all is allowed.
            unlimited: True allows every check and counts it, in place of the others.
            lasts: these values end by themselves after it, and the key's own come back.
            max_keys: of a pattern, how many keys may live by it.
        """
        fields = _fields(rate, per, algorithm, burst, tz, anchor, mode, unlimited, max_keys)
        return self._pool.call(_calls.limit(key, windows, lasts, fields))

    async def alimit(
        self,
        key: str,
        windows: Union[str, Window, Sequence[Union[str, Window]], None] = None,
        *,
        rate: Optional[int] = None,
        per: Optional[Duration] = None,
        algorithm: Optional[Algorithm] = None,
        burst: Optional[int] = None,
        tz: Optional[str] = None,
        anchor: Optional[int] = None,
        mode: Optional[Mode] = None,
        unlimited: Optional[bool] = None,
        lasts: Optional[Duration] = None,
        max_keys: Optional[int] = None,
    ) -> bool:
        """:meth:`limit` for asyncio."""
        fields = _fields(rate, per, algorithm, burst, tz, anchor, mode, unlimited, max_keys)
        return await self._tasks.call(_calls.limit(key, windows, lasts, fields))

    def reset(self, key: Optional[str] = None, *, prefix: Optional[str] = None) -> None:
        """Gives back all that was spent of a limit, or of all whose keys begin with ``prefix``."""
        self._pool.call(_calls.reset(key, prefix))

    async def areset(self, key: Optional[str] = None, *, prefix: Optional[str] = None) -> None:
        """:meth:`reset` for asyncio."""
        await self._tasks.call(_calls.reset(key, prefix))

    def remove(self, key: Optional[str] = None, *, prefix: Optional[str] = None) -> int:
        """Removes a limit with all it has counted, or all whose keys begin with ``prefix``; returns how many."""
        return self._pool.call(_calls.remove(key, prefix))

    async def aremove(self, key: Optional[str] = None, *, prefix: Optional[str] = None) -> int:
        """:meth:`remove` for asyncio."""
        return await self._tasks.call(_calls.remove(key, prefix))

    # ---- deciding

    def check(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> CheckResult:
        """Spends ``cost`` units if the limit allows it. The result is true in a condition if it did.

        ``limit`` is what counts where none is configured for the key, neither exactly nor by a pattern: ``"100/1m"``,
        ``["10/1s", "5000/day"]`` or a dict of values.
        """
        try:
            return self._pool.call(_calls.check(key, cost, limit))
        except FlintError as error:
            return degraded_result(key, cost, self._instead(error), error)

    async def acheck(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> CheckResult:
        """:meth:`check` for asyncio."""
        try:
            return await self._tasks.call(_calls.check(key, cost, limit))
        except FlintError as error:
            return degraded_result(key, cost, self._instead(error), error)

    def allow(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> bool:
        """Whether ``cost`` units could be spent, and were."""
        return self.check(key, cost, limit=limit).allowed

    async def aallow(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> bool:
        """:meth:`allow` for asyncio."""
        return (await self.acheck(key, cost, limit=limit)).allowed

    def check_all(self, items: Iterable[Item], *, limit: Optional[Limit] = None) -> CheckAllResult:
        """Spends of all limits or of none. An item is a key, ``(key, cost)`` or ``{"key": ..., "cost": ..., "limit": ...}``.

        ``limit`` is what items bring that name none, as in :meth:`check`.
        """
        call = _calls.check_all(items, limit)
        try:
            return self._pool.call(call)
        except FlintError as error:
            return {"allowed": self._instead(error), "denied_key": None, "results": [], "degraded": True}

    async def acheck_all(self, items: Iterable[Item], *, limit: Optional[Limit] = None) -> CheckAllResult:
        """:meth:`check_all` for asyncio."""
        call = _calls.check_all(items, limit)
        try:
            return await self._tasks.call(call)
        except FlintError as error:
            return {"allowed": self._instead(error), "denied_key": None, "results": [], "degraded": True}

    def allow_all(self, items: Iterable[Item], *, limit: Optional[Limit] = None) -> bool:
        """Whether all could be spent, and were."""
        return self.check_all(items, limit=limit)["allowed"]

    async def aallow_all(self, items: Iterable[Item], *, limit: Optional[Limit] = None) -> bool:
        """:meth:`allow_all` for asyncio."""
        return (await self.acheck_all(items, limit=limit))["allowed"]

    def check_many(
        self, items: Iterable[Item], *, limit: Optional[Limit] = None
    ) -> List[Union[CheckResult, FlintServerError]]:
        """Decides many checks in one request, each by itself: a result for each item, or its error in its place."""
        return self._pool.call(_calls.check_many(items, limit))

    async def acheck_many(
        self, items: Iterable[Item], *, limit: Optional[Limit] = None
    ) -> List[Union[CheckResult, FlintServerError]]:
        """:meth:`check_many` for asyncio."""
        return await self._tasks.call(_calls.check_many(items, limit))

    def _instead(self, error: FlintError) -> bool:
        """What to decide in the server's place; raises the error where that is not to be done."""
        unavailable = isinstance(error, FlintConnectionError) or (
            isinstance(error, FlintServerError) and error.unavailable
        )
        if self._on_error == "raise" or not unavailable:
            raise error
        now = time.monotonic()
        if now >= self._warn_from:
            # Else nobody would know that nothing is limited, or that nobody is served.
            self._warn_from = now + WARN_EVERY_SECONDS
            what = "allowed" if self._on_error == "allow" else "denied"
            _log.warning("checks are %s without the server, by on_error: %s", what, error)
        return self._on_error == "allow"

    # ---- looking

    def status(self, key: str) -> Optional[LimitStatus]:
        """How a limit stands; None where none has this key."""
        return self._pool.call(_calls.status(key))

    async def astatus(self, key: str) -> Optional[LimitStatus]:
        """:meth:`status` for asyncio."""
        return await self._tasks.call(_calls.status(key))

    def list(self, prefix: str = "", *, live: bool = False, pattern: Optional[str] = None) -> "List[LimitStatus]":
        """All limits and patterns whose keys begin with ``prefix``, sorted by key; with ``live`` also the keys that
        live by a pattern or by a limit that a check brought. With ``pattern`` only the keys that live by it."""
        found: List[LimitStatus] = []
        while True:
            page = self._pool.call(_calls.page(prefix, live, pattern, found[-1]["key"] if found else None))
            found += page
            if not page:
                return found

    async def alist(
        self, prefix: str = "", *, live: bool = False, pattern: Optional[str] = None
    ) -> "List[LimitStatus]":
        """:meth:`list` for asyncio."""
        found: List[LimitStatus] = []
        while True:
            page = await self._tasks.call(_calls.page(prefix, live, pattern, found[-1]["key"] if found else None))
            found += page
            if not page:
                return found

    def top(self, by: str = "denied", limit: int = 10) -> "List[LimitStatus]":
        """The limits with the most ``"denied"`` or ``"allowed"`` checks."""
        return self._pool.call(_calls.top(by, limit))

    async def atop(self, by: str = "denied", limit: int = 10) -> "List[LimitStatus]":
        """:meth:`top` for asyncio."""
        return await self._tasks.call(_calls.top(by, limit))

    # ---- the server

    def flush(self) -> None:
        """Returns once all that was answered before is on the server's disk."""
        self._pool.call(_calls.flush())

    async def aflush(self) -> None:
        """:meth:`flush` for asyncio."""
        await self._tasks.call(_calls.flush())

    def compact(self) -> Dict[str, Any]:
        """Has the server write a snapshot and remove the log that it stands for."""
        return self._pool.call(_calls.compact())

    async def acompact(self) -> Dict[str, Any]:
        """:meth:`compact` for asyncio."""
        return await self._tasks.call(_calls.compact())

    def doctor(self) -> Dict[str, Any]:
        """The server's report on its storage and connections."""
        return self._pool.call(_calls.doctor())

    async def adoctor(self) -> Dict[str, Any]:
        """:meth:`doctor` for asyncio."""
        return await self._tasks.call(_calls.doctor())

    def health(self) -> Dict[str, Any]:
        """``{"ok": ..., "version": ...}``; ``ok`` is False, with ``error``, once the log has failed."""
        return self._pool.call(_calls.health())

    async def ahealth(self) -> Dict[str, Any]:
        """:meth:`health` for asyncio."""
        return await self._tasks.call(_calls.health())

    # ---- guarding

    def rate_limit(
        self,
        key: Key,
        *,
        limit: Optional[Limit] = None,
        rate: Optional[int] = None,
        per: Optional[Duration] = None,
        cost: Cost = 1,
        algorithm: Optional[Algorithm] = None,
        burst: Optional[int] = None,
    ) -> Callable[[F], F]:
        """A decorator: the function is called only if ``key`` allows it, else :class:`flint.RateLimitExceeded` is
        raised. ``key`` and ``cost`` may be functions of the call's arguments. ``limit``, or ``rate`` and ``per``, is
        what counts for a key that no limit is configured for, as in :meth:`check`. Works on plain functions and on
        coroutine functions.
        """
        return Guard(Quota(self, limit, rate, per, algorithm, burst), key, cost).decorate


def _fields(
    rate: Optional[int],
    per: Optional[Duration],
    algorithm: Optional[Algorithm],
    burst: Optional[int],
    tz: Optional[str],
    anchor: Optional[int],
    mode: Optional[Mode],
    unlimited: Optional[bool],
    max_keys: Optional[int],
) -> Dict[str, Any]:
    """The values that :meth:`SharedLimiter.limit` and its twin are given, by the server's names for them."""
    return {
        "rate": rate,
        "per": per,
        "algorithm": algorithm,
        "burst": burst,
        "tz": tz,
        "anchor": anchor,
        "mode": mode,
        "unlimited": unlimited,
        "max_keys": max_keys,
    }


def _again(
    kind: "Type[SharedLimiter]", url: str, token: Optional[str], timeout: float, on_error: str
) -> "SharedLimiter":
    return kind(url, token=token, timeout=timeout, on_error=on_error)
