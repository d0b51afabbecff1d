"""The limiter that several processes share."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar, Union

from . import _calls
from ._address import parse_url, resolve_token
from ._bounds import (
    DEFAULT_TIMEOUT_SECONDS,
    DEFAULT_URL,
    GUARD_TIMEOUT_SECONDS,
    MAX_OWED,
    PROBE_EVERY_SECONDS,
    SLOT_TTL_SECONDS,
    WARN_EVERY_SECONDS,
)
from ._breaker import Breaker
from ._calls import Call, Held, Item
from ._errors import FlintConnectionError, FlintError, FlintServerError
from ._guard import Brought, Cost, Guard, Key, decorate
from ._hold import Asking, AsyncSlot, Hold, Renewal, Slot, Where, keep_by_task, keep_by_thread, made
from ._memory import Memory
from ._results import CheckAllResult, CheckResult, LimitStatus, Settlement, degraded_result, degraded_status
from ._tasks import AsyncPool
from ._threads import Pool
from ._values import ON_ERROR, Algorithm, Duration, Limit, Mode, OnError, Window, seconds

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("flint")

_DONE = {"allow": "allowed", "deny": "denied", "local": "decided in this process"}


class SharedLimiter:
    """A client of ``flint server start``. One for each process and server is enough: threads and tasks share it, and a
    forked child may continue to use its parent's.

    Each method has an asyncio version with an ``a`` before its name: ``await limiter.acheck("login")``.

    Args:
        url: ``http://HOST:PORT``, ``https://HOST:PORT`` (of a reverse proxy) or ``unix:/path/to.sock``; by default the
            environment's ``FLINT_SERVER``, else ``http://127.0.0.1:7878``.
        token: the bearer token; else the first in ``token_file`` (one per line, as in the server's ``--token-file``),
            else the environment's ``FLINT_SERVER_TOKEN``.
        timeout: seconds for one call in total.
        on_error: what happens while the server can't decide (no connection, no answer, statuses 502 to 504):
            ``"raise"``, or decide in the server's place: ``"allow"``, ``"deny"``, or ``"local"``, which counts in this
            process by the same values, as far as they are known here: those that a check brings, and those of
            ``limit()``; other keys are allowed. The logger ``flint`` warns once a minute. What ``limit()`` was given
            meanwhile is sent to the server before the next check. Wrong use (an unknown limit, a wrong token) always
            raises.

    After 5 failures in a row, calls no longer wait for the server until it answers a probe, which is sent once a second.

    Raises:
        ValueError: an invalid URL, token, timeout or ``on_error``; a ``token_file`` that others can write.
        OSError: a ``token_file`` that can't be read.
    """

    def __init__(
        self,
        url: Optional[str] = None,
        *,
        token: Optional[str] = None,
        token_file: Union[str, "os.PathLike[str]", None] = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        on_error: OnError = "raise",
    ) -> None:
        if on_error not in ON_ERROR:
            raise ValueError("on_error must be 'raise', 'allow', 'deny' or 'local', not %r" % (on_error,))
        self._address = parse_url(url or os.environ.get("FLINT_SERVER") or DEFAULT_URL)
        self._secret = resolve_token(token, token_file)
        authorization = "Authorization: Bearer %s\r\n" % self._secret if self._secret else ""
        self._timeout = seconds(timeout)
        self._on_error: OnError = on_error
        self._warn_from = 0.0
        # Decides in the server's place, once it must.
        self._memory = Memory(lenient=True)
        # What limit() could not tell the server, by key.
        self._owed: Dict[str, Call[bool]] = {}
        self._pool = Pool(self._address, authorization, timeout)
        self._tasks = AsyncPool(self._address, authorization, timeout)
        pool = self._pool
        # Without a reference to this limiter, so that an unused one is freed at once.
        self._breaker = Breaker(self._address.url, lambda: _probe(pool))

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
        slots: Optional[int] = None,
        mode: Optional[Mode] = None,
        unlimited: Optional[bool] = None,
        lasts: Optional[Duration] = None,
        max_keys: Optional[int] = None,
    ) -> bool:
        """Configures a limit: ``rate`` units per ``per`` (``"10s"``, ``"1m"``, a timedelta; an int is seconds; of the
        calendar ``"day"``, ``"week"``, ``"month"``, ``"quarter"``, ``"year"``), or ``windows``: ``"100/1m"`` or a list
        of these, all of which must allow. Returns True if the limit is new. A key with ``*`` is a pattern: every key
        that matches has its own limit with these values.

        Configuring the same values again changes nothing, so every worker may call this when it starts.

        Args:
            burst: the capacity of a token bucket; by default the rate.
            tz, anchor: for the calendar, the time zone and the day on which a month, quarter or year begins.
            slots: how many may be held at once, in place of windows.
            mode: ``"shadow"`` decides and counts, but answers that everything is allowed.
            unlimited: True allows every check and counts it, in place of the other values.
            lasts: these values end after this time, and the key's own values apply again.
            max_keys: for a pattern, how many keys may live under it.
        """
        fields = _fields(rate, per, algorithm, burst, tz, anchor, slots, mode, unlimited, max_keys)
        call = _calls.limit(key, windows, lasts, fields)
        try:
            created = self._sent(call, None)
        except FlintError as error:
            return self._later(key, call, error)
        self._configured(key, call)
        return created

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
        slots: Optional[int] = None,
        mode: Optional[Mode] = None,
        unlimited: Optional[bool] = None,
        lasts: Optional[Duration] = None,
        max_keys: Optional[int] = None,
    ) -> bool:
        """:meth:`limit` for asyncio."""
        fields = _fields(rate, per, algorithm, burst, tz, anchor, slots, mode, unlimited, max_keys)
        call = _calls.limit(key, windows, lasts, fields)
        try:
            created = await self._asent(call, None)
        except FlintError as error:
            return self._later(key, call, error)
        self._configured(key, call)
        return created

    def _configured(self, key: str, call: Call[bool]) -> None:
        self._owed.pop(key, None)
        if self._on_error == "local":
            self._memory.answer(call)

    def _later(self, key: str, call: Call[bool], error: FlintError) -> bool:
        """Notes what to tell the server when it is available again; raises the error if nothing is to be noted."""
        self._warn(error, self._on_error)
        if key not in self._owed and len(self._owed) >= MAX_OWED:
            raise error
        self._owed[key] = call
        if self._on_error == "local":
            self._memory.answer(call)
        return False

    def reset(self, key: Optional[str] = None, *, prefix: Optional[str] = None) -> None:
        """Gives back all that was spent of a limit, or of all limits whose keys begin with ``prefix``."""
        self._pool.call(_calls.reset(key, prefix))

    async def areset(self, key: Optional[str] = None, *, prefix: Optional[str] = None) -> None:
        """:meth:`reset` for asyncio."""
        await self._tasks.call(_calls.reset(key, prefix))

    def remove(self, key: Optional[str] = None, *, prefix: Optional[str] = None) -> int:
        """Removes a limit and its counts, or all limits whose keys begin with ``prefix``; returns how many."""
        return self._pool.call(_calls.remove(key, prefix))

    async def aremove(self, key: Optional[str] = None, *, prefix: Optional[str] = None) -> int:
        """:meth:`remove` for asyncio."""
        return await self._tasks.call(_calls.remove(key, prefix))

    # ---- deciding

    def check(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> CheckResult:
        """Spends ``cost`` units if the limit allows it. The result is true in a condition if it did.

        ``limit`` applies if none is configured for the key, neither exactly nor by a pattern: ``"100/1m"``,
        ``["10/1s", "5000/day"]`` or a dict of values.
        """
        call = _calls.check(key, cost, limit)
        return self._decided(call, lambda allowed, error: degraded_result(key, cost, allowed, error))

    async def acheck(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> CheckResult:
        """:meth:`check` for asyncio."""
        call = _calls.check(key, cost, limit)
        return await self._adecided(call, lambda allowed, error: degraded_result(key, cost, allowed, error))

    def allow(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> bool:
        """Spends ``cost`` units if the limit allows it; returns whether it did."""
        return self.check(key, cost, limit=limit).allowed

    async def aallow(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> bool:
        """:meth:`allow` for asyncio."""
        return (await self.acheck(key, cost, limit=limit)).allowed

    def check_all(self, items: Iterable[Item], *, limit: Optional[Limit] = None) -> CheckAllResult:
        """Spends units of all limits or of none. An item is a key, ``(key, cost)`` or
        ``{"key": ..., "cost": ..., "limit": ...}``.

        ``limit`` applies to items that name none, as in :meth:`check`.
        """
        return self._decided(_calls.check_all(items, limit), _all_degraded)

    async def acheck_all(self, items: Iterable[Item], *, limit: Optional[Limit] = None) -> CheckAllResult:
        """:meth:`check_all` for asyncio."""
        return await self._adecided(_calls.check_all(items, limit), _all_degraded)

    def allow_all(self, items: Iterable[Item], *, limit: Optional[Limit] = None) -> bool:
        """Spends units of all limits or of none; returns whether it did."""
        return self.check_all(items, limit=limit)["allowed"]

    async def aallow_all(self, items: Iterable[Item], *, limit: Optional[Limit] = None) -> bool:
        """:meth:`allow_all` for asyncio."""
        return (await self.acheck_all(items, limit=limit))["allowed"]

    def peek(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> CheckResult:
        """What :meth:`check` would answer, or for slots :meth:`hold`; spends nothing."""
        call = _calls.peek(key, cost, limit)
        return self._decided(call, lambda allowed, error: degraded_result(key, cost, allowed, error))

    async def apeek(self, key: str, cost: int = 1, *, limit: Optional[Limit] = None) -> CheckResult:
        """:meth:`peek` for asyncio."""
        call = _calls.peek(key, cost, limit)
        return await self._adecided(call, lambda allowed, error: degraded_result(key, cost, allowed, error))

    def peek_all(self, items: Iterable[Item], *, limit: Optional[Limit] = None) -> CheckAllResult:
        """What :meth:`check_all` would answer, or :meth:`hold`; spends nothing."""
        return self._decided(_calls.peek_all(items, limit), _all_degraded)

    async def apeek_all(self, items: Iterable[Item], *, limit: Optional[Limit] = None) -> CheckAllResult:
        """:meth:`peek_all` for asyncio."""
        return await self._adecided(_calls.peek_all(items, limit), _all_degraded)

    def check_many(
        self, items: Iterable[Item], *, limit: Optional[Limit] = None
    ) -> List[Union[CheckResult, FlintServerError]]:
        """Decides many checks in one request, each separately: returns a result or an error for each item."""
        return self._pool.call(_calls.check_many(items, limit))

    async def acheck_many(
        self, items: Iterable[Item], *, limit: Optional[Limit] = None
    ) -> List[Union[CheckResult, FlintServerError]]:
        """:meth:`check_many` for asyncio."""
        return await self._tasks.call(_calls.check_many(items, limit))

    # ---- holding, and spending without a decision

    def hold(
        self,
        key: Union[str, Iterable[Item]],
        cost: int = 1,
        *,
        ttl: Optional[Duration] = None,
        limit: Optional[Limit] = None,
    ) -> Hold:
        """Spends units whose final number is reported later by ``settle``, or takes slots until then, or both. ``key``
        is a single key, or a list of items as for :meth:`check_all`, of which all are held or none. If the hold is not
        settled within ``ttl`` (1 s to 24 h, by default a minute), units stay spent, and slots become free.

            with limiter.hold("llm:acme", cost=4000, ttl=120) as hold:
                hold.settle(answer(question).tokens)

        Raises:
            RateLimitExceeded: it was denied; ``result`` is the decision of the key that denied.
        """
        call, keys = _holding(key, cost, ttl, limit)
        return made(self, keys, *self._take_hold(call))

    def ahold(
        self,
        key: Union[str, Iterable[Item]],
        cost: int = 1,
        *,
        ttl: Optional[Duration] = None,
        limit: Optional[Limit] = None,
    ) -> Asking:
        """:meth:`hold` for asyncio: ``hold = await limiter.ahold(...)``, or ``async with limiter.ahold(...) as hold:``."""
        call, keys = _holding(key, cost, ttl, limit)
        return Asking(self, keys, call)

    def slot(
        self,
        key: Union[str, Iterable[Item]],
        cost: int = 1,
        *,
        ttl: Duration = SLOT_TTL_SECONDS,
        limit: Optional[Limit] = None,
    ) -> Slot:
        """Holds for as long as a block of code runs; a thread renews the hold meanwhile, at a third of its ``ttl``.
        If this process ends in any way, the slot becomes free after ``ttl``.

            with limiter.slot("gpu", ttl=30):
                work()

        Raises:
            RateLimitExceeded: at the beginning of the block, if no slot is free.
            HoldLost: at its end, if the slot could not be renewed. The attribute ``lost`` is true before that.
        """
        asked, keys = (key, [key]) if isinstance(key, str) else _listed(key)
        return Slot(self, keys, lambda: _calls.hold(asked, cost, ttl, limit))

    def aslot(
        self,
        key: Union[str, Iterable[Item]],
        cost: int = 1,
        *,
        ttl: Duration = SLOT_TTL_SECONDS,
        limit: Optional[Limit] = None,
    ) -> AsyncSlot:
        """:meth:`slot` for asyncio, ``async with limiter.aslot("gpu"):``. If the slot is lost, the block is cancelled
        and raises :class:`flint.HoldLost`."""
        asked, keys = (key, [key]) if isinstance(key, str) else _listed(key)
        return AsyncSlot(self, keys, lambda: _calls.hold(asked, cost, ttl, limit))

    def charge(self, key: str, cost: int, *, limit: Optional[Limit] = None) -> LimitStatus:
        """Spends without a check, also past the limit: what is beyond it is ``debt``. Returns the limit's status."""
        return self._decided(_calls.charge(key, cost, limit), lambda _, error: degraded_status(key))

    async def acharge(self, key: str, cost: int, *, limit: Optional[Limit] = None) -> LimitStatus:
        """:meth:`charge` for asyncio."""
        return await self._adecided(_calls.charge(key, cost, limit), lambda _, error: degraded_status(key))

    def refund(self, key: str, cost: int, *, limit: Optional[Limit] = None) -> LimitStatus:
        """Gives back units, at most what was spent and still counts. Returns the limit's status."""
        return self._decided(_calls.refund(key, cost, limit), lambda _, error: degraded_status(key))

    async def arefund(self, key: str, cost: int, *, limit: Optional[Limit] = None) -> LimitStatus:
        """:meth:`refund` for asyncio."""
        return await self._adecided(_calls.refund(key, cost, limit), lambda _, error: degraded_status(key))

    def _take_hold(
        self, call: Call[Held], timeout: Optional[float] = None, on_error: Optional[OnError] = None
    ) -> "Tuple[Held, Where]":
        """What hold and slot ask."""
        try:
            return self._sent(call, timeout), "server"
        except FlintError as error:
            return self._hold_instead(call, on_error or self._on_error, error)

    async def _atake_hold(
        self, call: Call[Held], timeout: Optional[float] = None, on_error: Optional[OnError] = None
    ) -> "Tuple[Held, Where]":
        """:meth:`_take_hold` for asyncio."""
        try:
            return await self._asent(call, timeout), "server"
        except FlintError as error:
            return self._hold_instead(call, on_error or self._on_error, error)

    def _hold_instead(self, call: Call[Held], on_error: OnError, error: FlintError) -> "Tuple[Held, Where]":
        def instead(allowed: bool, error: FlintError) -> Held:
            return Held([degraded_result(key, cost, allowed, error) for key, cost in call.asked])

        found = self._instead(call, instead, on_error, error)
        return found, "nobody" if on_error != "local" else "memory"

    def _settle(self, call: Call[Settlement], where: Where) -> Settlement:
        """What a hold asks, by who knows it."""
        if where != "server":
            return self._settled_here(call, where)
        try:
            return self._sent(call, None)
        except FlintError as error:
            self._warn(error, self._on_error)
            return self._settled_here(call, "nobody")

    async def _asettle(self, call: Call[Settlement], where: Where) -> Settlement:
        """:meth:`_settle` for asyncio."""
        if where != "server":
            return self._settled_here(call, where)
        try:
            return await self._asent(call, None)
        except FlintError as error:
            self._warn(error, self._on_error)
            return self._settled_here(call, "nobody")

    def _settled_here(self, call: Call[Settlement], where: Where) -> Settlement:
        if where == "nobody":
            return {"late": False, "results": [], "degraded": True}
        return {**call.decode(self._memory.answer(call)), "degraded": True}

    def _renew(self, call: "Call[Tuple[str, int]]", where: Where, timeout: Optional[float]) -> "Tuple[str, int]":
        """What a hold asks, by who knows it. Not by way of the breaker: a hold is not to be lost because checks have
        failed."""
        return self._pool.call(call, timeout) if where == "server" else self._renewed_here(call, where)

    async def _arenew(
        self, call: "Call[Tuple[str, int]]", where: Where, timeout: Optional[float]
    ) -> "Tuple[str, int]":
        """:meth:`_renew` for asyncio."""
        return await self._tasks.call(call, timeout) if where == "server" else self._renewed_here(call, where)

    def _renewed_here(self, call: "Call[Tuple[str, int]]", where: Where) -> "Tuple[str, int]":
        return ("", 0) if where == "nobody" else call.decode(self._memory.answer(call))

    def _keep(self, renewal: Renewal) -> Callable[[], None]:
        """Renews a hold until the function that it returns is called."""
        return keep_by_thread(renewal)

    def _akeep(self, renewal: Renewal, lost: Callable[[], None]) -> Callable[[], None]:
        """:meth:`_keep` for asyncio."""
        return keep_by_task(renewal, lost)

    # ---- waiting

    def acquire(
        self, key: str, cost: int = 1, *, timeout: Optional[float] = None, limit: Optional[Limit] = None
    ) -> bool:
        """Waits until ``cost`` units can be spent, spends them and returns True. Returns False after ``timeout``
        seconds, or as soon as it is clear that this time will not be enough; with None it waits for as long as it
        takes. A cost that can never be allowed returns False at once. Waiting callers are not served in order.
        """
        deadline = None if timeout is None else self._now() + timeout
        while True:
            result = self.check(key, cost, limit=limit)
            wait = self._wait(result, deadline)
            if wait is None:
                return result.allowed
            self._sleep(wait)

    async def aacquire(
        self, key: str, cost: int = 1, *, timeout: Optional[float] = None, limit: Optional[Limit] = None
    ) -> bool:
        """:meth:`acquire` for asyncio."""
        deadline = None if timeout is None else self._now() + timeout
        while True:
            result = await self.acheck(key, cost, limit=limit)
            wait = self._wait(result, deadline)
            if wait is None:
                return result.allowed
            await self._asleep(wait)

    def _wait(self, result: CheckResult, deadline: Optional[float]) -> Optional[float]:
        """Seconds until the next try; None where there is to be none."""
        if result.allowed or result.retry_after_ms is None:
            return None
        if deadline is not None and self._now() + result.retry_after > deadline:
            return None
        return max(result.retry_after, 0.001)

    def _now(self) -> float:
        return time.monotonic()

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def _asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _take(self, items: "List[Dict[str, Any]]", timeout: float, on_error: Optional[OnError]) -> CheckResult:
        """What guards ask: all items or none, in one request."""
        return self._decided(_calls.take(items), _degraded_take(items), timeout, on_error)

    async def _atake(self, items: "List[Dict[str, Any]]", timeout: float, on_error: Optional[OnError]) -> CheckResult:
        """:meth:`_take` for asyncio."""
        return await self._adecided(_calls.take(items), _degraded_take(items), timeout, on_error)

    # ---- while the server is away

    def _sent(self, call: Call[T], timeout: Optional[float]) -> T:
        """The server's answer, as far as it is to be asked."""
        self._breaker.enter()
        try:
            if self._owed:
                for key, owed in list(self._owed.items()):
                    try:
                        self._pool.call(owed, timeout)
                    except FlintServerError as error:
                        self._refused(key, error)
                    self._owed.pop(key, None)
            answer = self._pool.call(call, timeout)
        except FlintError as error:
            self._breaker.failed(error)
            raise
        self._breaker.succeeded()
        return answer

    @staticmethod
    def _refused(key: str, error: FlintServerError) -> None:
        """Logs an error that ``limit()`` could not raise any more; raises what may pass."""
        if error.unavailable:
            raise error
        _log.error("the limit for %r could not be configured when the server was back: %s", key, error)

    async def _asent(self, call: Call[T], timeout: Optional[float]) -> T:
        self._breaker.enter()
        try:
            if self._owed:
                for key, owed in list(self._owed.items()):
                    try:
                        await self._tasks.call(owed, timeout)
                    except FlintServerError as error:
                        self._refused(key, error)
                    self._owed.pop(key, None)
            answer = await self._tasks.call(call, timeout)
        except FlintError as error:
            self._breaker.failed(error)
            raise
        self._breaker.succeeded()
        return answer

    def _decided(
        self,
        call: Call[T],
        degraded: Callable[[bool, FlintError], T],
        timeout: Optional[float] = None,
        on_error: Optional[OnError] = None,
    ) -> T:
        """The server's decision, or the one in its place."""
        try:
            return self._sent(call, timeout)
        except FlintError as error:
            return self._instead(call, degraded, on_error or self._on_error, error)

    async def _adecided(
        self,
        call: Call[T],
        degraded: Callable[[bool, FlintError], T],
        timeout: Optional[float] = None,
        on_error: Optional[OnError] = None,
    ) -> T:
        try:
            return await self._asent(call, timeout)
        except FlintError as error:
            return self._instead(call, degraded, on_error or self._on_error, error)

    def _instead(
        self, call: Call[T], degraded: Callable[[bool, FlintError], T], on_error: OnError, error: FlintError
    ) -> T:
        """The decision in the server's place; raises the error where none is to be taken."""
        self._warn(error, on_error)
        if on_error != "local":
            return degraded(on_error == "allow", error)
        answer: Any = call.decode(self._memory.answer(call))
        if isinstance(answer, CheckResult):
            answer = dataclasses.replace(answer, degraded=True, error=error)
        elif isinstance(answer, Held):
            answer.results = [dataclasses.replace(each, degraded=True, error=error) for each in answer.results]
        else:
            answer["degraded"] = True
        whole: Any = answer
        found: T = whole
        return found

    def _warn(self, error: FlintError, on_error: OnError) -> None:
        """Warns: else it would go unnoticed that nothing is limited, or that all is denied. Raises the error where it
        is not for ``on_error``."""
        unavailable = isinstance(error, FlintConnectionError) or (
            isinstance(error, FlintServerError) and error.unavailable
        )
        if on_error == "raise" or not unavailable:
            raise error
        now = time.monotonic()
        if now >= self._warn_from:
            self._warn_from = now + WARN_EVERY_SECONDS
            _log.warning("checks are %s without the server, by on_error: %s", _DONE[on_error], error)

    # ---- looking

    def status(self, key: str) -> Optional[LimitStatus]:
        """The status of a limit; None if no limit has this key."""
        return self._pool.call(_calls.status(key))

    async def astatus(self, key: str) -> Optional[LimitStatus]:
        """:meth:`status` for asyncio."""
        return await self._tasks.call(_calls.status(key))

    def list(self, prefix: str = "", *, live: bool = False, pattern: Optional[str] = None) -> "List[LimitStatus]":
        """All limits and patterns whose keys begin with ``prefix``, sorted by key; with ``live`` also the keys that
        live under a pattern or under a limit that a check brought; with ``pattern`` only the keys that live under it."""
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
        """Returns once everything that was answered before is on the server's disk."""
        self._pool.call(_calls.flush())

    async def aflush(self) -> None:
        """:meth:`flush` for asyncio."""
        await self._tasks.call(_calls.flush())

    def compact(self) -> Dict[str, Any]:
        """Lets the server write a snapshot and remove the log that it replaces."""
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
        limit: Optional[Brought] = None,
        rate: Optional[int] = None,
        per: Optional[Duration] = None,
        cost: Cost = 1,
        algorithm: Optional[Algorithm] = None,
        burst: Optional[int] = None,
        prefix: Optional[str] = None,
        on_error: Optional[OnError] = None,
        timeout: float = GUARD_TIMEOUT_SECONDS,
    ) -> Callable[[F], F]:
        """A decorator: the function is called only if ``key`` allows it; otherwise :class:`flint.RateLimitExceeded` is
        raised. ``key``, ``cost`` and ``limit`` may be functions of the call's arguments. ``limit``, or ``rate`` and
        ``per``, applies if no limit is configured for the key, as in :meth:`check`. Works on plain functions and on
        coroutine functions. The other arguments are as for :class:`flint.Guard`.
        """
        guard = Guard(
            limit,
            key=key,
            prefix=prefix,
            cost=cost,
            rate=rate,
            per=per,
            algorithm=algorithm,
            burst=burst,
            on_error=on_error,
            timeout=timeout,
        )
        return lambda function: decorate(self, guard, function)


def _probe(pool: Pool) -> None:
    """Asks whether the server answers."""
    try:
        pool.call(_calls.health(), PROBE_EVERY_SECONDS)
    except FlintServerError as error:
        # Whatever it says, it has answered.
        if error.status in (502, 504):
            raise


def _all_degraded(allowed: bool, error: FlintError) -> CheckAllResult:
    return {"allowed": allowed, "denied_key": None, "results": [], "degraded": True}


def _degraded_take(items: "List[Dict[str, Any]]") -> Callable[[bool, FlintError], CheckResult]:
    return lambda allowed, error: degraded_result(items[0]["key"], items[0]["cost"], allowed, error)


def _key_of(item: Item) -> str:
    found = item["key"] if isinstance(item, Mapping) else item if isinstance(item, str) else item[0]
    return str(found)


def _listed(items: Iterable[Item]) -> "Tuple[List[Item], List[str]]":
    """Items that can be looked at twice, and their keys."""
    if isinstance(items, (bytes, Mapping)):
        raise TypeError("key must be a str or a list of items, not %s" % type(items).__name__)
    found = list(items)
    return found, [_key_of(item) for item in found]


def _holding(
    key: Union[str, Iterable[Item]], cost: int, ttl: Optional[Duration], limit: Optional[Limit]
) -> "Tuple[Call[Held], List[str]]":
    asked, keys = (key, [key]) if isinstance(key, str) else _listed(key)
    return _calls.hold(asked, cost, ttl, limit), keys


def _fields(
    rate: Optional[int],
    per: Optional[Duration],
    algorithm: Optional[Algorithm],
    burst: Optional[int],
    tz: Optional[str],
    anchor: Optional[int],
    slots: Optional[int],
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
        "slots": slots,
        "mode": mode,
        "unlimited": unlimited,
        "max_keys": max_keys,
    }


def _again(
    kind: "Type[SharedLimiter]", url: str, token: Optional[str], timeout: float, on_error: OnError
) -> "SharedLimiter":
    return kind(url, token=token, timeout=timeout, on_error=on_error)
