"""What the calls of a limiter answer with, and the exception that carries a denial."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Dict, List, Optional, Sequence, Tuple, TypedDict

from ._bounds import DEGRADED_RETRY_MS
from ._errors import FlintError, FlintServerError


def instant(text: str) -> Optional[datetime]:
    """A time of the server's as an aware datetime; None for none."""
    if not text:
        return None
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class CheckResult:
    """A decision. True in a condition when the check was allowed: ``if limiter.check("login"): ...``

    Attributes:
        key: the limit's key.
        allowed: whether the cost was spent. A denied check spends nothing.
        cost: units that were requested.
        limit: the limit's capacity in units (``burst`` of a token bucket, else ``rate``); None without a limit
            (``unlimited``), as the next two. With several windows these are the figures of the window that binds.
        remaining: whole units left after this decision.
        used: units that count, rounded up.
        debt: units used beyond the capacity.
        reset_at: when the limit is untouched again if nothing more is spent; RFC 3339, UTC, with milliseconds; empty
            without a limit.
        retry_after_ms: 0 when allowed, else milliseconds until this same cost could be allowed, rounded up; None for
            never.
        next_ms: milliseconds until one more unit is available; None for never.
        algorithm: ``token_bucket``, ``sliding_window_log``, ``fixed_window_counter`` or ``sliding_window_counter``;
            empty without a limit.
        window: with several windows, the window that binds, such as ``"10/1s"``; else None.
        windows: with several windows, the figures of each; else empty.
        pattern: the pattern that the limit comes from, if any.
        overflow: whether the key is beyond ``max_keys`` and shares a limit with others.
        shadow: whether the limit is in shadow mode: everything is allowed, and ``would_deny`` is the decision.
        would_deny: whether a limit in shadow mode would have denied this; nothing was spent then.
        degraded: True when no server decided this, but the limiter's ``on_error``. ``limit`` and ``remaining`` are
            then 0 and ``reset_at`` and ``algorithm`` are empty.
        error: why a degraded result is degraded; else None.
        rate_limit_policy: the server's ``RateLimit-Policy`` header, to be passed on to your own clients; else empty.
        rate_limit: the server's ``RateLimit`` header, likewise.
    """

    key: str
    allowed: bool
    cost: int
    limit: Optional[int]
    remaining: Optional[int]
    reset_at: str
    retry_after_ms: Optional[int]
    algorithm: str
    degraded: bool = False
    error: Optional[FlintError] = field(default=None, compare=False)
    rate_limit_policy: str = field(default="", compare=False, repr=False)
    rate_limit: str = field(default="", compare=False, repr=False)
    used: Optional[int] = None
    debt: int = 0
    next_ms: Optional[int] = None
    window: Optional[str] = None
    windows: Sequence[DecisionWindow] = ()
    pattern: Optional[str] = None
    overflow: bool = False
    shadow: bool = False
    would_deny: bool = False

    @classmethod
    def of(cls, fields: Dict[str, Any]) -> "CheckResult":
        """One with these fields, and the others at their defaults, without the price of setting each."""
        found = object.__new__(cls)
        object.__setattr__(found, "__dict__", fields)
        return found

    def __bool__(self) -> bool:
        return self.allowed

    @property
    def retry_after(self) -> float:
        """Seconds until this same cost could be allowed; 0.0 when it was, ``math.inf`` for never."""
        return math.inf if self.retry_after_ms is None else self.retry_after_ms / 1000

    @property
    def reset_time(self) -> Optional[datetime]:
        """``reset_at`` as an aware :class:`datetime.datetime` in UTC; None if there is none."""
        return instant(self.reset_at)


class RateLimitExceeded(Exception):
    """A decorated function was not called, because its limit denied the call. Not a :class:`flint.FlintError`: a denial
    is not a failure.

    Attributes:
        result: the denial, a :class:`flint.CheckResult`.
    """

    def __init__(self, result: CheckResult) -> None:
        when = "never" if result.retry_after_ms is None else "in %.3f s" % result.retry_after
        super().__init__("rate limit exceeded for %r: retry %s" % (result.key, when))
        self.result = result

    def __reduce__(self) -> Tuple[Any, ...]:
        return (type(self), (self.result,))

    @property
    def retry_after(self) -> float:
        """Seconds until the same call could be allowed; ``math.inf`` for never."""
        return self.result.retry_after

    @property
    def key(self) -> str:
        """The limit's key."""
        return self.result.key

    @property
    def cost(self) -> int:
        """Units the call would have spent."""
        return self.result.cost

    @property
    def remaining(self) -> Optional[int]:
        """Whole units left."""
        return self.result.remaining

    @property
    def reset_at(self) -> str:
        """When the limit is untouched again, RFC 3339 in UTC."""
        return self.result.reset_at

    @property
    def algorithm(self) -> str:
        """The limit's algorithm."""
        return self.result.algorithm


class DecisionWindow(TypedDict):
    """One window of a decision on a limit that has several."""

    name: str
    limit: int
    remaining: int
    used: int
    debt: int
    reset_at: str
    retry_after_ms: Optional[int]
    next_ms: Optional[int]
    algorithm: str
    per: str


class _DecisionBesides(TypedDict, total=False):
    debt: int
    window: str
    windows: List[DecisionWindow]
    pattern: str
    overflow: bool
    shadow: bool
    would_deny: bool


class Decision(_DecisionBesides):
    """One decision as the server writes it, an element of ``check_all()["results"]``."""

    key: str
    allowed: bool
    cost: int
    limit: Optional[int]
    remaining: Optional[int]
    used: Optional[int]
    reset_at: Optional[str]
    retry_after_ms: Optional[int]
    next_ms: Optional[int]
    algorithm: Optional[str]


class _CheckAllDegraded(TypedDict, total=False):
    degraded: bool


class CheckAllResult(_CheckAllDegraded):
    """The answer of ``check_all``: all items were spent, or none.

    ``denied_key`` is the first item's key that was denied, or None. ``results`` runs up to and including the first
    denied item. ``degraded`` is there, and true, only when no server decided this but the limiter's ``on_error``;
    ``results`` is empty then.
    """

    allowed: bool
    denied_key: Optional[str]
    results: List[Decision]


class OpenHold(TypedDict):
    """A hold that takes slots, in the status of their limit."""

    hold: str
    cost: int
    held_at: str
    expires_at: str
    age_ms: int
    left_ms: int


class _SettledKeyBesides(TypedDict, total=False):
    # False where the key has no limit any more: nothing could be corrected.
    configured: bool


class SettledKey(_SettledKeyBesides):
    """What a hold has cost of one key. ``remaining`` is None where nothing limits it."""

    key: str
    held: int
    cost: int
    remaining: Optional[int]
    debt: int


class _SettlementBesides(TypedDict, total=False):
    degraded: bool


class Settlement(_SettlementBesides):
    """The answer of ``hold.settle()``: each key of the hold, in its order.

    ``late`` is true if the hold had expired. ``degraded`` is present, and true, only if ``on_error`` replaced the
    server: what was held stays spent.
    """

    late: bool
    results: List[SettledKey]


class _LimitStatusBesides(TypedDict, total=False):
    # Of a limit with one window; of several, each element of `windows` has them.
    rate: int
    per: str
    per_millis: Optional[int]
    burst: Optional[int]
    algorithm: str
    tz: str
    anchor: int
    windows: List[Dict[str, Any]]
    unlimited: bool
    # While values last for a time only.
    for_until: str
    below: Optional[Dict[str, Any]]
    # Of slots, and where one key is asked for its open holds.
    slots: int
    holds: List[OpenHold]
    # Of a pattern.
    max_keys: int
    live: int
    # Of a key that lives under a pattern.
    pattern: str
    overflow: bool
    debt: int
    # Where no server answered.
    degraded: bool


class LimitStatus(_LimitStatusBesides):
    """A limit, its values and its counters, as ``GET /v1/limits/{key}`` has them. Times are RFC 3339 in UTC, or None
    where the thing never happened."""

    key: str
    mode: str
    source: str
    remaining: Optional[int]
    used: Optional[int]
    reset_at: Optional[str]
    next_ms: Optional[int]
    total_allowed: int
    total_denied: int
    total_allowed_cost: int
    total_denied_cost: int
    last_allowed_at: Optional[str]
    last_denied_at: Optional[str]
    last_reset_at: Optional[str]


def degraded_result(key: str, cost: int, allowed: bool, error: FlintError) -> CheckResult:
    """The decision taken in the server's place. A denial asks for the wait the server named, or for a second."""
    wait_ms = 0
    if not allowed:
        named = error.retry_after if isinstance(error, FlintServerError) else None
        wait_ms = DEGRADED_RETRY_MS if named is None else max(1, int(named * 1000))
    return CheckResult(
        key=key,
        allowed=allowed,
        cost=cost,
        limit=0,
        remaining=0,
        reset_at="",
        retry_after_ms=wait_ms,
        algorithm="",
        degraded=True,
        error=error,
    )


def degraded_status(key: str) -> LimitStatus:
    """What is said of a limit in the server's place."""
    return {
        "key": key,
        "mode": "enforce",
        "source": "request",
        "remaining": 0,
        "used": 0,
        "reset_at": None,
        "next_ms": None,
        "total_allowed": 0,
        "total_denied": 0,
        "total_allowed_cost": 0,
        "total_denied_cost": 0,
        "last_allowed_at": None,
        "last_denied_at": None,
        "last_reset_at": None,
        "degraded": True,
    }


def never_result(key: str, cost: int) -> CheckResult:
    """The denial of a cost that its limit can never allow."""
    return CheckResult(
        key=key, allowed=False, cost=cost, limit=None, remaining=None, reset_at="", retry_after_ms=None, algorithm=""
    )
