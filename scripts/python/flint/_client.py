"""The limiter that several processes share."""

from __future__ import annotations

import logging
import os
import time
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, Type, TypeVar, Union

from . import _calls
from ._address import parse_url, resolve_token
from ._bounds import DEFAULT_TIMEOUT_SECONDS, DEFAULT_URL, WARN_EVERY_SECONDS
from ._calls import Call, Item
from ._errors import FlintConnectionError, FlintError, FlintServerError
from ._guard import Cost, Guard, Key, Quota
from ._results import CheckAllResult, CheckResult, LimitStatus, degraded_result
from ._tasks import AsyncPool
from ._threads import Pool

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
        ValueError: a URL, token, timeout or ``on_error`` that can't be; a ``token_file`` that others can read.
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
        *,
        rate: int,
        per: Union[str, int],
        algorithm: Optional[str] = None,
        burst: Optional[int] = None,
    ) -> bool:
        """Configures a limit: ``rate`` units per ``per`` (``"10s"``, ``"1m"``; an int is seconds). True if it is new.

        The same values again change nothing, so every worker may say it at its start.
        """
        return self._pool.call(_calls.limit(key, rate, per, algorithm, burst))

    async def alimit(
        self,
        key: str,
        *,
        rate: int,
        per: Union[str, int],
        algorithm: Optional[str] = None,
        burst: Optional[int] = None,
    ) -> bool:
        """:meth:`limit` for asyncio."""
        return await self._tasks.call(_calls.limit(key, rate, per, algorithm, burst))

    def reset(self, key: str) -> None:
        """Gives back all that was spent of a limit."""
        self._pool.call(_calls.reset(key))

    async def areset(self, key: str) -> None:
        """:meth:`reset` for asyncio."""
        await self._tasks.call(_calls.reset(key))

    def remove(self, key: str) -> None:
        """Removes a limit with all it has counted."""
        self._pool.call(_calls.remove(key))

    async def aremove(self, key: str) -> None:
        """:meth:`remove` for asyncio."""
        await self._tasks.call(_calls.remove(key))

    # ---- deciding

    def check(self, key: str, cost: int = 1) -> CheckResult:
        """Spends ``cost`` units if the limit allows it. The result is true in a condition if it did."""
        try:
            return self._pool.call(_calls.check(key, cost))
        except FlintError as error:
            return degraded_result(key, cost, self._instead(error), error)

    async def acheck(self, key: str, cost: int = 1) -> CheckResult:
        """:meth:`check` for asyncio."""
        try:
            return await self._tasks.call(_calls.check(key, cost))
        except FlintError as error:
            return degraded_result(key, cost, self._instead(error), error)

    def allow(self, key: str, cost: int = 1) -> bool:
        """Whether ``cost`` units could be spent, and were."""
        return self.check(key, cost).allowed

    async def aallow(self, key: str, cost: int = 1) -> bool:
        """:meth:`allow` for asyncio."""
        return (await self.acheck(key, cost)).allowed

    def check_all(self, items: Iterable[Item]) -> CheckAllResult:
        """Spends of all limits or of none. An item is a key, ``{"key": ..., "cost": ...}`` or ``(key, cost)``."""
        call = _calls.check_all(items)
        try:
            return self._pool.call(call)
        except FlintError as error:
            return {"allowed": self._instead(error), "denied_key": None, "results": [], "degraded": True}

    async def acheck_all(self, items: Iterable[Item]) -> CheckAllResult:
        """:meth:`check_all` for asyncio."""
        call = _calls.check_all(items)
        try:
            return await self._tasks.call(call)
        except FlintError as error:
            return {"allowed": self._instead(error), "denied_key": None, "results": [], "degraded": True}

    def allow_all(self, items: Iterable[Item]) -> bool:
        """Whether all could be spent, and were."""
        return self.check_all(items)["allowed"]

    async def aallow_all(self, items: Iterable[Item]) -> bool:
        """:meth:`allow_all` for asyncio."""
        return (await self.acheck_all(items))["allowed"]

    def check_many(self, items: Iterable[Item]) -> List[Union[CheckResult, FlintServerError]]:
        """Decides many checks in one request, each by itself: a result for each item, or its error in its place."""
        return self._pool.call(_calls.check_many(items))

    async def acheck_many(self, items: Iterable[Item]) -> List[Union[CheckResult, FlintServerError]]:
        """:meth:`check_many` for asyncio."""
        return await self._tasks.call(_calls.check_many(items))

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

    def list(self, prefix: str = "") -> "List[LimitStatus]":
        """All limits whose keys begin with ``prefix``, sorted by key."""
        found: List[LimitStatus] = []
        while True:
            page = self._pool.call(_calls.page(prefix, found[-1]["key"] if found else None))
            found += page
            if not page:
                return found

    async def alist(self, prefix: str = "") -> "List[LimitStatus]":
        """:meth:`list` for asyncio."""
        found: List[LimitStatus] = []
        while True:
            page = await self._tasks.call(_calls.page(prefix, found[-1]["key"] if found else None))
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
        rate: Optional[int] = None,
        per: Union[str, int, None] = None,
        cost: Cost = 1,
        algorithm: Optional[str] = None,
        burst: Optional[int] = None,
    ) -> Callable[[F], F]:
        """A decorator: the function is called only if ``key`` allows it, else :class:`flint.RateLimitExceeded` is
        raised. ``key`` and ``cost`` may be functions of the call's arguments. With ``rate`` and ``per`` the limit is
        configured at its first use, and again where it was removed since. Works on plain functions and on coroutine
        functions.
        """
        return Guard(Quota(self, rate, per, algorithm, burst), key, cost).decorate


def _again(
    kind: "Type[SharedLimiter]", url: str, token: Optional[str], timeout: float, on_error: str
) -> "SharedLimiter":
    return kind(url, token=token, timeout=timeout, on_error=on_error)
