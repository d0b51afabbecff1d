"""What the calls of a limiter answer with, and the exception that carries a denial."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, List, Optional, Tuple, TypedDict

from ._bounds import DEGRADED_RETRY_MS
from ._errors import FlintError, FlintServerError


@dataclass(frozen=True)
class CheckResult:
    """A decision. True in a condition when the check was allowed: ``if limiter.check("login"): ...``

    Attributes:
        key: the limit's key.
        allowed: whether the cost was spent. A denied check spends nothing.
        cost: units asked for.
        limit: the limit's capacity in units (``burst`` of a token bucket, else ``rate``).
        remaining: whole units left after this decision.
        reset_at: when the limit is untouched again if nothing more is spent; RFC 3339, UTC, with milliseconds.
        retry_after_ms: 0 when allowed, else milliseconds until this same cost could be allowed, rounded up.
        algorithm: ``token_bucket``, ``sliding_window_log``, ``fixed_window_counter`` or ``sliding_window_counter``.
        degraded: True when no server decided this, but the limiter's ``on_error``. ``limit`` and ``remaining`` are
            then 0 and ``reset_at`` and ``algorithm`` are empty.
        error: why a degraded result is degraded; else None.
        rate_limit_policy: the server's ``RateLimit-Policy`` field, to be handed on to one's own clients; else empty.
        rate_limit: the server's ``RateLimit`` field, likewise.
    """

    key: str
    allowed: bool
    cost: int
    limit: int
    remaining: int
    reset_at: str
    retry_after_ms: int
    algorithm: str
    degraded: bool = False
    error: Optional[FlintError] = field(default=None, compare=False)
    rate_limit_policy: str = field(default="", compare=False, repr=False)
    rate_limit: str = field(default="", compare=False, repr=False)

    def __bool__(self) -> bool:
        return self.allowed

    @property
    def retry_after(self) -> float:
        """Seconds until this same cost could be allowed; 0.0 when it was."""
        return self.retry_after_ms / 1000

    @property
    def reset_time(self) -> Optional[datetime]:
        """``reset_at`` as an aware :class:`datetime.datetime` in UTC; None for a degraded result."""
        if not self.reset_at:
            return None
        return datetime.strptime(self.reset_at, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)


class RateLimitExceeded(Exception):
    """A decorated function was not called, because its limit denied the call. Not a :class:`flint.FlintError`: a denial
    is no failure.

    Attributes:
        result: the denial, a :class:`flint.CheckResult`.
    """

    def __init__(self, result: CheckResult) -> None:
        super().__init__("rate limit exceeded for %r: retry in %.3f s" % (result.key, result.retry_after))
        self.result = result

    def __reduce__(self) -> Tuple[Any, ...]:
        return (type(self), (self.result,))

    @property
    def retry_after(self) -> float:
        """Seconds until the same call could be allowed."""
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
    def remaining(self) -> int:
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


class Decision(TypedDict):
    """One decision as the server writes it, an element of ``check_all()["results"]``."""

    key: str
    allowed: bool
    cost: int
    limit: int
    remaining: int
    reset_at: str
    retry_after_ms: int
    algorithm: str


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


class LimitStatus(TypedDict):
    """A limit and its counters. Times are RFC 3339 in UTC, or None where the thing never happened."""

    key: str
    rate: int
    per: str
    per_millis: int
    burst: Optional[int]
    algorithm: str
    remaining: int
    reset_at: str
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
