"""The values of a limit: what callers give, as the server takes it.

Only forms are brought together here; the values themselves are the server's to judge.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Dict, List, Literal, Mapping, Optional, Sequence, Tuple, TypedDict, Union

Algorithm = Literal["token_bucket", "sliding_window_log", "fixed_window_counter", "sliding_window_counter"]
Mode = Literal["enforce", "shadow"]

#: How durable an answer is.
Sync = Literal["always", "batch", "relaxed"]

#: What is done while no decision can be had.
OnError = Literal["raise", "allow", "deny", "local"]
ON_ERROR: Tuple[OnError, ...] = ("raise", "allow", "deny", "local")

#: A length of time: ``"250ms"``, ``"10s"``, ``"1m"``, ``"24h"``, ``"7d"``; seconds; or a timedelta.
Duration = Union[str, int, timedelta]


class Window(TypedDict, total=False):
    """``rate`` units per ``per``, which is a :data:`Duration` or a word of the calendar: ``"day"``, ``"week"``,
    ``"month"``, ``"quarter"``, ``"year"``. ``tz`` and ``anchor`` belong to the calendar, ``burst`` to token buckets."""

    rate: int
    per: Duration
    algorithm: Algorithm
    burst: int
    tz: str
    anchor: int


class LimitValues(Window, total=False):
    """The values of a limit: those of its one window, or several ``windows``, or ``slots``, or ``unlimited``; and its
    ``mode``."""

    windows: Sequence[Union[str, Window]]
    slots: int
    mode: Mode
    unlimited: bool


#: A limit that a check brings: ``"100/1m"``, ``["10/1s", "5000/day"]``, or a dict of values.
Limit = Union[str, Sequence[Union[str, Window]], LimitValues]


def duration(value: Duration) -> Union[str, int]:
    """A length of time as the server takes it."""
    if not isinstance(value, timedelta):
        return value
    milliseconds, rest = divmod(value, timedelta(milliseconds=1))
    if rest:
        raise ValueError("a length of time must be whole milliseconds, not %r" % value)
    return "%dms" % milliseconds


def seconds(timeout: float) -> float:
    """A time-out, if it can be one."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError("timeout must be a number of seconds, not %s" % type(timeout).__name__)
    if not 0 < timeout <= 3600:
        raise ValueError("timeout must be over 0 and at most 3600 seconds, not %r" % (timeout,))
    return timeout


def _window(window: Any) -> Any:
    if isinstance(window, str):
        return window
    if not isinstance(window, Mapping):
        raise TypeError("a window must be a str such as '100/1m' or a dict, not %s" % type(window).__name__)
    found = {name: value for name, value in window.items() if value is not None}
    if "per" in found:
        found["per"] = duration(found["per"])
    return found


def windows(given: Any) -> List[Any]:
    """One window or several."""
    return [_window(given)] if isinstance(given, (str, Mapping)) else [_window(window) for window in given]


def limit(given: Optional[Limit]) -> Any:
    """A limit as the server takes it in a request; None for none."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        found: Dict[str, Any] = _window(given)
        if "windows" in found:
            found["windows"] = windows(found["windows"])
        return found
    if isinstance(given, (bytes, bytearray)) or not hasattr(given, "__iter__"):
        raise TypeError("limit must be a str such as '100/1m', a list of them or a dict, not %s" % type(given).__name__)
    return windows(given)


def values(
    given: Optional[Limit],
    rate: Optional[int],
    per: Optional[Duration],
    algorithm: Optional[Algorithm],
    burst: Optional[int],
) -> Any:
    """The limit that a guard brings with its checks: ``given``, or one window of the others; None for none."""
    if (rate is None) != (per is None):
        raise ValueError("rate and per must be given together, or neither")
    if rate is None:
        if algorithm is not None or burst is not None:
            raise ValueError("algorithm and burst need rate and per")
        return limit(given)
    if given is not None:
        raise ValueError("limit and rate can't be used together")
    return _window({"rate": rate, "per": per, "algorithm": algorithm, "burst": burst})
