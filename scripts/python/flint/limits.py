"""Storages for the package ``limits``, and so for Flask-Limiter and slowapi: importing this module is enough.

    import flint.limits
    limiter = flask_limiter.Limiter(get_remote_address, app=app, storage_uri="flint://127.0.0.1:7878")

``flint://HOST:PORT`` and ``flint+unix:///path/to.sock``, with ``async+`` before either for asyncio. The token is given as
the password, ``flint://:TOKEN@HOST:PORT``, or in the environment's ``FLINT_SERVER_TOKEN``. Missing parts of the address are
taken from ``FLINT_SERVER``.

How the strategies of ``limits`` are kept
-----------------------------------------
A hit is one check, which brings its limit. ``limits`` does not pass the limit to a fixed window's storage, and also counts
what it denies: so this is a fixed window of the largest rate, of which only the count is used. A sliding window counter
denies if the weighted count, rounded *down*, has no room, and Flint rounds up: there a unit is 1000, and the rate 999 more.
"""

from __future__ import annotations

import contextvars
import time
from datetime import datetime, timezone
from typing import Any, List, Mapping, Optional, Tuple
from urllib.parse import unquote, urlsplit

from limits import errors
from limits.aio import storage as aio_storage
from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage

from ._bounds import GUARD_TIMEOUT_SECONDS, MAX_COST
from ._client import SharedLimiter
from ._errors import FlintError
from ._guard import fit
from ._results import CheckResult, LimitStatus

__all__ = ["AsyncFlintStorage", "FlintStorage"]

#: What one unit of a sliding window counter is, so that less than a unit may be over.
_PARTS = 1000

#: The count of a window in which an operator's own limit has denied.
_DENIED = 2**62

#: Seconds for which ``get_expiry`` returns what ``get`` received.
_FRESH_SECONDS = 0.05

#: The last ``get`` of this thread or task: storage and key, when it was, and when its window ends.
_looked: "contextvars.ContextVar[Optional[Tuple[Tuple[int, str], float, float]]]" = contextvars.ContextVar(
    "flint_looked", default=None
)


def _address(uri: Optional[str]) -> Tuple[Optional[str], Optional[str]]:
    """URL and token of a storage's URI."""
    parts = urlsplit(uri or "flint://")
    token = unquote(parts.password) if parts.password else None
    if parts.scheme.endswith("+unix"):
        if not parts.path:
            raise errors.ConfigurationError("%s names no socket: expected flint+unix:///path/to.sock" % parts.scheme)
        return "unix:" + unquote(parts.path), token
    where = parts.netloc.rpartition("@")[2]
    if not where:
        return None, token
    try:
        port = parts.port
    except ValueError:
        raise errors.ConfigurationError("storage_uri %s: expected flint://HOST:PORT" % where) from None
    return "http://%s%s%s" % (where, ":7878" if port is None else "", parts.path), token


def _limiter(uri: Optional[str], options: Mapping[str, Any]) -> SharedLimiter:
    url, token = _address(uri)
    try:
        return SharedLimiter(
            url,
            token=token or options.get("token"),
            token_file=options.get("token_file"),
            timeout=float(options.get("timeout", GUARD_TIMEOUT_SECONDS)),
        )
    except (TypeError, ValueError) as error:
        raise errors.ConfigurationError("storage_uri: %s" % error) from error


def _fixed(expiry: int) -> Any:
    return {"rate": MAX_COST, "per": int(expiry), "algorithm": "fixed_window_counter"}


def _moving(limit: int, expiry: int) -> Any:
    # Flint rounds the instant of a hit up to a millisecond; nothing is to count for longer than the period.
    return {"rate": limit, "per": "%dms" % (int(expiry) * 1000 - 1), "algorithm": "sliding_window_log"}


def _sliding(limit: int, expiry: int) -> Any:
    rate = min(limit * _PARTS + _PARTS - 1, MAX_COST)
    return {"rate": rate, "per": int(expiry), "algorithm": "sliding_window_counter"}


def _seconds(instant: Any) -> float:
    found = datetime.strptime(instant, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    return found.timestamp()


def _windows(status: Optional[LimitStatus]) -> List[Mapping[str, Any]]:
    """The windows of a status: of an operator's limit there may be several."""
    if status is None:
        return []
    found: Mapping[str, Any] = {**status}
    return list(found.get("windows") or [found])


def _count(result: CheckResult) -> int:
    return result.used or 0 if result.allowed else _DENIED


def _used(key: Tuple[int, str], status: Optional[LimitStatus]) -> int:
    """The count of a key; what else was received is kept for ``get_expiry``, which usually comes next."""
    now = time.time()
    used = int(status["used"] or 0) if status is not None else 0
    end = _seconds(status["reset_at"]) if status is not None and used and status["reset_at"] else now
    _looked.set((key, now, end))
    return used


def _known_end(key: Tuple[int, str]) -> Optional[float]:
    found = _looked.get()
    _looked.set(None)
    if found is not None and found[0] == key and 0 <= time.time() - found[1] < _FRESH_SECONDS:
        return found[2]
    return None


def _end(status: Optional[LimitStatus]) -> float:
    if status is None or not status["used"] or not status["reset_at"]:
        return time.time()
    return _seconds(status["reset_at"])


def _moving_window(status: Optional[LimitStatus]) -> Tuple[float, int]:
    for window in _windows(status):
        if window.get("oldest_at") and window.get("used"):
            return _seconds(window["oldest_at"]), int(window["used"])
    return time.time(), 0


def _sliding_window(status: Optional[LimitStatus], expiry: int) -> Tuple[int, float, int, float]:
    for window in _windows(status):
        if window.get("window_started_at"):
            passed = min(max(time.time() - _seconds(window["window_started_at"]), 0.0), float(expiry))
            left = expiry - passed
            previous, current = window["previous"] // _PARTS, window["current"] // _PARTS
            return previous, left if previous else 0.0, current, left + expiry
    return 0, 0.0, 0, 0.0


class _Keys:
    """Where a storage's keys are, and the limiter that is asked."""

    def _begin(self, uri: Optional[str], options: Mapping[str, Any]) -> None:
        prefix = str(options.get("key_prefix", "limits"))
        if not prefix:
            raise errors.ConfigurationError("key_prefix must not be empty: reset() gives back all keys with this prefix")
        self._prefix = prefix
        self._limiter = _limiter(uri, options)

    def _key(self, key: str) -> str:
        return fit(key, self._prefix)

    @property
    def base_exceptions(self) -> "type[Exception]":
        """What a storage raises: :class:`flint.FlintError`."""
        return FlintError


class FlintStorage(_Keys, Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """The storage of ``flint://`` and ``flint+unix://``.

    Args:
        uri: see above.
        options: ``timeout``, seconds for one request (0.25); ``token`` and ``token_file`` as for a
            :class:`flint.SharedLimiter`; ``key_prefix`` (``limits``), before all keys with a colon.
    """

    STORAGE_SCHEME = ["flint", "flint+unix"]

    def __init__(self, uri: Optional[str] = None, wrap_exceptions: bool = False, **options: Any) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._begin(uri, options)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Adds to the window of a key, and returns its count."""
        _looked.set(None)
        if amount < 1:
            return self.get(key)
        return _count(self._limiter.check(self._key(key), amount, limit=_fixed(expiry)))

    def get(self, key: str) -> int:
        """The count of a key."""
        return _used((id(self), key), self._limiter.status(self._key(key)))

    def get_expiry(self, key: str) -> float:
        """When the window of a key ends, in seconds since the epoch."""
        known = _known_end((id(self), key))
        return _end(self._limiter.status(self._key(key))) if known is None else known

    def check(self) -> bool:
        """Whether the server can be reached and is healthy."""
        try:
            return bool(self._limiter.health()["ok"])
        except FlintError:
            return False

    def reset(self) -> Optional[int]:
        """Gives back all keys with the storage's prefix; returns how many keys there were."""
        below = self._prefix + ":"
        found = len(self._limiter.list(below, live=True))
        self._limiter.reset(prefix=below)
        return found

    def clear(self, key: str) -> None:
        """Gives back what was spent of a key."""
        _looked.set(None)
        if self._limiter.status(self._key(key)) is not None:
            self._limiter.reset(self._key(key))

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Spends of a moving window, if there is room."""
        if amount > limit:
            return False
        return self._limiter.allow(self._key(key), amount, limit=_moving(limit, expiry))

    def get_moving_window(self, key: str, limit: int, expiry: int) -> Tuple[float, int]:
        """When the oldest entry was made, and how many there are."""
        return _moving_window(self._limiter.status(self._key(key)))

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Spends of a sliding window counter, if there is room."""
        if amount > limit:
            return False
        units = amount * _PARTS
        return self._limiter.allow(self._key(key), units, limit=_sliding(limit, expiry))

    def get_sliding_window(self, key: str, expiry: int) -> Tuple[int, float, int, float]:
        """Count and time left of the previous window, and of the current one."""
        return _sliding_window(self._limiter.status(self._key(key)), expiry)

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Gives back what was spent of a key."""
        self.clear(key)


class AsyncFlintStorage(
    _Keys, aio_storage.Storage, aio_storage.MovingWindowSupport, aio_storage.SlidingWindowCounterSupport
):
    """The storage of ``async+flint://`` and ``async+flint+unix://``. Arguments as for :class:`FlintStorage`."""

    STORAGE_SCHEME = ["async+flint", "async+flint+unix"]

    def __init__(self, uri: Optional[str] = None, wrap_exceptions: bool = False, **options: Any) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._begin(uri, options)

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Adds to the window of a key, and returns its count."""
        _looked.set(None)
        if amount < 1:
            return await self.get(key)
        return _count(await self._limiter.acheck(self._key(key), amount, limit=_fixed(expiry)))

    async def get(self, key: str) -> int:
        """The count of a key."""
        return _used((id(self), key), await self._limiter.astatus(self._key(key)))

    async def get_expiry(self, key: str) -> float:
        """When the window of a key ends, in seconds since the epoch."""
        known = _known_end((id(self), key))
        return _end(await self._limiter.astatus(self._key(key))) if known is None else known

    async def check(self) -> bool:
        """Whether the server can be reached and is healthy."""
        try:
            return bool((await self._limiter.ahealth())["ok"])
        except FlintError:
            return False

    async def reset(self) -> Optional[int]:
        """Gives back all keys with the storage's prefix; returns how many keys there were."""
        below = self._prefix + ":"
        found = len(await self._limiter.alist(below, live=True))
        await self._limiter.areset(prefix=below)
        return found

    async def clear(self, key: str) -> None:
        """Gives back what was spent of a key."""
        _looked.set(None)
        if await self._limiter.astatus(self._key(key)) is not None:
            await self._limiter.areset(self._key(key))

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Spends of a moving window, if there is room."""
        if amount > limit:
            return False
        brought: Any = _moving(limit, expiry)
        return await self._limiter.aallow(self._key(key), amount, limit=brought)

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> Tuple[float, int]:
        """When the oldest entry was made, and how many there are."""
        return _moving_window(await self._limiter.astatus(self._key(key)))

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Spends of a sliding window counter, if there is room."""
        if amount > limit:
            return False
        brought: Any = _sliding(limit, expiry)
        return await self._limiter.aallow(self._key(key), amount * _PARTS, limit=brought)

    async def get_sliding_window(self, key: str, expiry: int) -> Tuple[int, float, int, float]:
        """Count and time left of the previous window, and of the current one."""
        return _sliding_window(await self._limiter.astatus(self._key(key)), expiry)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Gives back what was spent of a key."""
        await self.clear(key)
