"""For tests of programs that use Flint: the limiter without a server, by a clock that the test sets.

    clock = flint.testing.Clock()
    limiter = flint.testing.FakeLimiter(clock)
    assert not limiter.allow("login", limit="0/1m")
    clock.advance(60)
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import Any, Callable, List, Optional, Tuple, TypeVar

from ._breaker import Breaker
from ._calls import Call
from ._client import SharedLimiter
from ._errors import FlintConnectionError
from ._hold import Renewal
from ._memory import Memory
from ._values import OnError

T = TypeVar("T")

__all__ = ["Clock", "FakeLimiter"]


class Clock:
    """A clock that stands still until it is advanced.

    Args:
        start: seconds since the epoch.
    """

    def __init__(self, start: float = 1_767_225_600.0) -> None:
        self._micros = round(start * 1_000_000)
        self._renewals: List[Tuple[Renewal, Callable[[], None]]] = []

    def __call__(self) -> float:
        return self._micros / 1_000_000

    @property
    def micros(self) -> int:
        """Microseconds since the epoch."""
        return self._micros

    @property
    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.fromtimestamp(self._micros / 1_000_000, timezone.utc)

    def advance(self, seconds: float) -> None:
        """Advances the clock by this many seconds."""
        if seconds < 0:
            raise ValueError("a clock does not go back: seconds must be 0 or more, not %r" % (seconds,))
        end = self._micros + round(seconds * 1_000_000)
        while self._renewals:
            # What a thread would do meanwhile.
            first = min(self._renewals, key=lambda pair: pair[0].next)
            renewal, lost = first
            if round(renewal.next * 1_000_000) > end:
                break
            self._micros = max(self._micros, round(renewal.next * 1_000_000))
            if not renewal.step():
                self._renewals.remove(first)
                if renewal.lost is not None:
                    lost()
        self._micros = end

    def _keep(self, renewal: Renewal, lost: Callable[[], None]) -> Callable[[], None]:
        self._renewals.append((renewal, lost))

        def stop() -> None:
            if (renewal, lost) in self._renewals:
                self._renewals.remove((renewal, lost))

        return stop


class _Never(Breaker):
    """A breaker that stays closed: a test needs no threads."""

    def __init__(self) -> None:
        super().__init__("memory:", lambda: None)

    def failed(self, error: Exception) -> None:
        pass


class _Pool:
    """Answers calls out of memory."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.error: Optional[FlintConnectionError] = None

    def call(self, call: Call[T], timeout: Optional[float] = None) -> T:
        if self.error is not None:
            raise self.error
        return call.decode(self.memory.answer(call))

    def close(self) -> None:
        pass


class _Tasks:
    """The same for asyncio."""

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool

    async def call(self, call: Call[T], timeout: Optional[float] = None) -> T:
        return self._pool.call(call)

    async def close(self) -> None:
        pass


class FakeLimiter(SharedLimiter):
    """A :class:`flint.SharedLimiter` in memory. Methods, results and exceptions are the same; ``acquire`` does not wait
    but advances the clock, and a slot is renewed when the clock is advanced.

    A changed limit takes over what the old limit counted, and gives nothing back for what was held before; the server is
    more exact in this. There is no ``max_keys``.

    Args:
        clock: a :class:`Clock`; by default a new one, which is the attribute ``clock``.
        on_error: as for :class:`flint.SharedLimiter`, for tests of what happens without a server: see :meth:`fail`.
    """

    def __init__(self, clock: Optional[Clock] = None, *, on_error: OnError = "raise") -> None:
        super().__init__("unix:/dev/null", on_error=on_error)
        self.clock = clock if clock is not None else Clock()
        pool = _Pool(Memory(lambda: self.clock.micros))
        self._memory = Memory(lambda: self.clock.micros, lenient=True)
        self._fake = pool
        fakes: Any = pool, _Tasks(pool)
        self._pool, self._tasks = fakes
        self._breaker = _Never()

    def __repr__(self) -> str:
        return "FakeLimiter()"

    def __reduce__(self) -> "Tuple[Any, ...]":
        raise TypeError("a FakeLimiter can't be passed to another process: it counts in this process")

    def fail(self, down: bool = True) -> None:
        """Makes the server unavailable, or available again: what was counted is still there."""
        message = "the server is down, as set by the test"
        self._fake.error = FlintConnectionError(message, reason="connect") if down else None

    def _now(self) -> float:
        return self.clock()

    def _sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def _keep(self, renewal: Renewal) -> Callable[[], None]:
        return self.clock._keep(renewal, lambda: None)

    def _akeep(self, renewal: Renewal, lost: Callable[[], None]) -> Callable[[], None]:
        return self.clock._keep(renewal, lost)

    async def _asleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        # Other tasks go on.
        await asyncio.sleep(0)
