"""Holds: units whose final number is reported later, and slots until they are given back.

A :class:`Hold` is there once the limiter has it; a block of code that it stands around settles it, whatever happens. A
slot is a hold that is renewed while its block runs. `Renewal` says when, and whether it was lost; who asks it, a thread,
a task or a clock of a test, is the limiter's to say.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from datetime import datetime
from types import TracebackType
from typing import Any, Callable, Generator, List, Literal, Mapping, Optional, Protocol, Tuple, Type, Union

from . import _calls
from ._calls import Call, Held
from ._errors import FlintError, FlintServerError, HoldLost
from ._results import CheckResult, RateLimitExceeded, Settlement, instant
from ._values import Duration

_log = logging.getLogger("flint")

Cost = Union[int, Mapping[str, int], None]

#: Where a hold is kept: by the server, in the memory of this process, or nowhere, if ``on_error`` allowed it.
Where = Literal["server", "memory", "nobody"]

#: Answers that say that the hold no longer exists.
_GONE = frozenset({"hold_expired", "hold_not_found", "hold_settled"})


#: A clock in seconds is not more exact.
_MICROSECOND = 1e-6


class Limiter(Protocol):
    """As much of :class:`flint.SharedLimiter` as is used here."""

    def _now(self) -> float: ...

    def _take_hold(self, call: Call[Held]) -> "Tuple[Held, Where]": ...

    async def _atake_hold(self, call: Call[Held]) -> "Tuple[Held, Where]": ...

    def _settle(self, call: Call[Settlement], where: Where) -> Settlement: ...

    async def _asettle(self, call: Call[Settlement], where: Where) -> Settlement: ...

    def _renew(self, call: "Call[Tuple[str, int]]", where: Where, timeout: Optional[float]) -> "Tuple[str, int]": ...

    async def _arenew(
        self, call: "Call[Tuple[str, int]]", where: Where, timeout: Optional[float]
    ) -> "Tuple[str, int]": ...

    def _keep(self, renewal: "Renewal") -> Callable[[], None]: ...

    def _akeep(self, renewal: "Renewal", lost: Callable[[], None]) -> Callable[[], None]: ...


class Hold:
    """Units or slots that are held. A context manager, ``with`` or ``async with``: where its block ends without having
    settled it, it has cost what was held; where it ends by an exception, 0.

    Attributes:
        id: by which the server knows it; any process may settle it by a request of its own.
        key: the key; of several the first.
        keys: all of them.
        results: the decision of each, a list of :class:`flint.CheckResult`.
        result: that of the key with the least left.
        expires_at: when it runs out unless it is renewed; RFC 3339, UTC, with milliseconds.
        ttl_ms: milliseconds for which it was made or renewed.
        settled: whether it was settled.
        degraded: True where no server knows it, by the limiter's ``on_error``.
    """

    def __init__(self, limiter: Limiter, keys: List[str], held: Held, where: Where) -> None:
        self._limiter = limiter
        self._where: Where = where
        self._pid = os.getpid()
        self.keys = keys
        self.results = held.results
        self.id = held.id or ""
        self.expires_at = held.expires_at
        self.ttl_ms = held.ttl_ms
        self.settled = False

    def __repr__(self) -> str:
        return "Hold(%r, %r)" % (self.keys, self.id)

    @property
    def key(self) -> str:
        """The first key."""
        return self.keys[0]

    @property
    def result(self) -> CheckResult:
        """The decision of the key with the least left."""
        return Held(self.results).binding

    @property
    def degraded(self) -> bool:
        """Whether no server knows it."""
        return self._where != "server"

    @property
    def expires_time(self) -> Optional[datetime]:
        """``expires_at`` as an aware :class:`datetime.datetime` in UTC; None if the hold is not kept anywhere."""
        return instant(self.expires_at)

    def settle(self, cost: Cost = None) -> Settlement:
        """Reports the final cost: units of its single key, or a dict of keys and units; by default what was held. If it
        cost more, the rest is spent, also past the limit; if less, the difference is given back as far as it still
        counts. Slots are given back.

        Settling with the same cost again does nothing; another cost is an error. A hold that has expired can still be
        settled for ten minutes. With an ``on_error`` other than ``"raise"``, an unavailable server is only logged, and
        what was held stays spent.
        """
        found = self._limiter._settle(_calls.settle(self.id, cost), self._where)
        self.settled = True
        return found

    async def asettle(self, cost: Cost = None) -> Settlement:
        """:meth:`settle` for asyncio."""
        found = await self._limiter._asettle(_calls.settle(self.id, cost), self._where)
        self.settled = True
        return found

    def renew(self, ttl: Optional[Duration] = None) -> None:
        """Extends the hold to ``ttl`` from now; by default for as long as it was made for."""
        self._renewed(self._limiter._renew(_calls.renew(self.id, ttl), self._where, None))

    async def arenew(self, ttl: Optional[Duration] = None) -> None:
        """:meth:`renew` for asyncio."""
        self._renewed(await self._limiter._arenew(_calls.renew(self.id, ttl), self._where, None))

    def _renewed(self, found: "Tuple[str, int]") -> None:
        self.expires_at, self.ttl_ms = found

    def _nothing(self) -> Cost:
        return 0 if len(self.keys) == 1 else {key: 0 for key in self.keys}

    def _is_done(self) -> bool:
        # What a process holds is not for a child that it forks to give back.
        return self.settled or self._pid != os.getpid()

    def __enter__(self) -> "Hold":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._is_done():
            return
        if kind is None:
            self.settle()
            return
        try:
            self.settle(self._nothing())
        except FlintError as failure:
            # The exception of the block is the important one.
            _log.warning("the hold on %r could not be settled: %s", self.key, failure)

    async def __aenter__(self) -> "Hold":
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._is_done():
            return
        if kind is None:
            await self.asettle()
            return
        try:
            await self.asettle(self._nothing())
        except FlintError as failure:
            _log.warning("the hold on %r could not be settled: %s", self.key, failure)


class Asking:
    """A hold that is asked for, to be awaited, or to be entered by ``async with``."""

    def __init__(self, limiter: Limiter, keys: List[str], call: Call[Held]) -> None:
        self._limiter = limiter
        self._keys = keys
        self._call = call
        self._hold: Optional[Hold] = None

    def __await__(self) -> "Generator[Any, None, Hold]":
        return self._take().__await__()

    async def _take(self) -> Hold:
        return made(self._limiter, self._keys, *await self._limiter._atake_hold(self._call))

    async def __aenter__(self) -> Hold:
        self._hold = await self._take()
        return self._hold

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        assert self._hold is not None
        await self._hold.__aexit__(kind, error, trace)


def made(limiter: Limiter, keys: List[str], held: Held, where: Where) -> Hold:
    """The hold; :class:`flint.RateLimitExceeded` where it was denied."""
    if not all(result.allowed for result in held.results):
        raise RateLimitExceeded(held.binding)
    return Hold(limiter, keys, held, where)


class Renewal:
    """When a hold is to be renewed: after a third of its time. After a failure sooner, until it has expired.

    Args:
        asked: when the hold was asked for, by the limiter's clock: it does not last longer than from then.
    """

    def __init__(self, limiter: Limiter, hold: Hold, asked: float) -> None:
        self._limiter = limiter
        self._hold = hold
        self._ttl = hold.ttl_ms / 1000
        self._until = asked + self._ttl
        self._failure: Optional[FlintError] = None
        self.next = asked + self._ttl / 3
        self.lost: Optional[HoldLost] = None

    @property
    def is_needed(self) -> bool:
        """Whether the hold could expire."""
        return self._hold._where != "nobody"

    def wait(self) -> float:
        """Seconds until the next step."""
        return max(self.next - self._limiter._now(), 0.0)

    def judge(self) -> Optional[HoldLost]:
        """The loss, if it has expired by now."""
        if self.lost is None and self.is_needed and self._limiter._now() >= self._until - _MICROSECOND:
            why = "nobody asked" if self._failure is None else str(self._failure)
            self._lose("it could not be renewed within %g s: %s" % (self._ttl, why))
        return self.lost

    def step(self) -> bool:
        """Renews it; False where that is over: it was settled, or is lost."""
        if self._hold.settled or self.judge() is not None:
            return False
        asked = self._limiter._now()
        try:
            self._hold._renewed(self._limiter._renew(self._call(), self._hold._where, self._patience(asked)))
        except FlintError as error:
            return self._failed(error)
        return self._done(asked)

    async def astep(self) -> bool:
        """:meth:`step` for asyncio."""
        if self._hold.settled or self.judge() is not None:
            return False
        asked = self._limiter._now()
        try:
            found = await self._limiter._arenew(self._call(), self._hold._where, self._patience(asked))
        except FlintError as error:
            return self._failed(error)
        self._hold._renewed(found)
        return self._done(asked)

    def _call(self) -> "Call[Tuple[str, int]]":
        return _calls.renew(self._hold.id, None)

    def _patience(self, now: float) -> float:
        return max(min(self._ttl / 3, self._until - now), 0.001)

    def _done(self, asked: float) -> bool:
        self._until, self.next, self._failure = asked + self._ttl, asked + self._ttl / 3, None
        return True

    def _failed(self, error: FlintError) -> bool:
        if isinstance(error, FlintServerError) and error.code in _GONE:
            if not self._hold.settled:
                self._lose(error.message)
            return False
        self._failure = error
        self.next = min(self._limiter._now() + self._ttl / 10, self._until)
        return True

    def _lose(self, why: str) -> None:
        self.lost = HoldLost(self._hold.key, why)
        _log.warning("%s", self.lost)


def keep_by_thread(renewal: Renewal) -> Callable[[], None]:
    """Renews from a thread until the function that it returns is called."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(renewal.wait()) and renewal.step():
            pass

    threading.Thread(target=run, name="flint-renew", daemon=True).start()
    return stopped.set


def keep_by_task(renewal: Renewal, lost: Callable[[], None]) -> Callable[[], None]:
    """Renews from a task until the function that it returns is called; calls ``lost`` where the hold is."""

    async def run() -> None:
        while True:
            await asyncio.sleep(renewal.wait())
            if not await renewal.astep():
                break
        if renewal.lost is not None:
            lost()

    task = asyncio.ensure_future(run())

    def stop() -> None:
        task.cancel()

    return stop


class Slot:
    """A slot for the time of a block: ``with limiter.slot("gpu") as hold: ...``. It is taken when the block begins and
    given back when the block ends, and a thread renews it meanwhile.

    Raises:
        RateLimitExceeded: when the block begins, if no slot is free.
        HoldLost: when the block ends, if the slot was lost meanwhile and the block itself raised no exception.
    """

    def __init__(self, limiter: Limiter, keys: List[str], call: Callable[[], Call[Held]]) -> None:
        self._limiter = limiter
        self._keys = keys
        self._call = call
        self._hold: Optional[Hold] = None
        self._renewal: Optional[Renewal] = None
        self._stop: Callable[[], None] = lambda: None

    @property
    def lost(self) -> bool:
        """Whether the slot is lost: long work may check this between its steps."""
        return self._renewal is not None and self._renewal.judge() is not None

    def _begin(self, hold: Hold, asked: float) -> Renewal:
        self._hold, self._renewal = hold, Renewal(self._limiter, hold, asked)
        return self._renewal

    def _once(self) -> None:
        if self._hold is not None:
            raise RuntimeError("this slot was already entered: ask the limiter for another")

    def _found(self, told: Settlement) -> None:
        """Notes a loss that only the end has shown."""
        assert self._renewal is not None
        if told["late"] and self._renewal.lost is None:
            self._renewal._lose("it had expired before it was given back")

    def __enter__(self) -> Hold:
        self._once()
        asked = self._limiter._now()
        hold = made(self._limiter, self._keys, *self._limiter._take_hold(self._call()))
        renewal = self._begin(hold, asked)
        if renewal.is_needed:
            try:
                self._stop = self._limiter._keep(renewal)
            except BaseException as error:
                # No more threads: nothing would give it back.
                hold.__exit__(type(error), error, None)
                raise
        return hold

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        hold, renewal = self._hold, self._renewal
        assert hold is not None and renewal is not None
        self._stop()
        if not hold._is_done():
            lost = renewal.judge()
            try:
                self._found(hold.settle(None if kind is None else hold._nothing()))
            except FlintError as failure:
                gone = isinstance(failure, FlintServerError) and failure.code in _GONE
                if gone and lost is None:
                    renewal._lose(str(failure))
                elif kind is None and not gone and lost is None:
                    raise
        if renewal.lost is not None and kind is None:
            raise renewal.lost


class AsyncSlot(Slot):
    """:class:`Slot` for asyncio: ``async with limiter.aslot("gpu") as hold: ...``. A task renews it. If it is lost,
    the block is cancelled and raises :class:`flint.HoldLost`."""

    def __init__(self, limiter: Limiter, keys: List[str], call: Callable[[], Call[Held]]) -> None:
        super().__init__(limiter, keys, call)
        self._task: "Optional[asyncio.Task[Any]]" = None
        self._cancelled = False

    def __enter__(self) -> Hold:
        raise TypeError("aslot needs async with; for with, use slot")

    async def __aenter__(self) -> Hold:
        self._once()
        asked = self._limiter._now()
        hold = made(self._limiter, self._keys, *await self._limiter._atake_hold(self._call()))
        renewal = self._begin(hold, asked)
        self._task = asyncio.current_task()
        if renewal.is_needed:
            self._stop = self._limiter._akeep(renewal, self._cancel)
        return hold

    def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._cancelled = True
            self._task.cancel()

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        hold, renewal = self._hold, self._renewal
        assert hold is not None and renewal is not None
        self._stop()
        own = await self._uncancel(kind)
        if not hold._is_done():
            lost = renewal.judge()
            try:
                self._found(await hold.asettle(None if kind is None else hold._nothing()))
            except FlintError as failure:
                gone = isinstance(failure, FlintServerError) and failure.code in _GONE
                if gone and lost is None:
                    renewal._lose(str(failure))
                elif kind is None and not gone and lost is None:
                    raise
        if renewal.lost is not None and (kind is None or own):
            raise renewal.lost from error

    async def _uncancel(self, kind: Optional[Type[BaseException]]) -> bool:
        """Takes the cancellation back that came from here; whether it is what has ended the block."""
        if not self._cancelled:
            return False
        if kind is None:
            # It would come with the next await.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                pass
        others = 0
        if sys.version_info >= (3, 11) and self._task is not None:
            others = self._task.uncancel()
        return kind is asyncio.CancelledError and others == 0
