"""The windows of a limit and what they have counted, as the server has them: pure arithmetic in whole microseconds.

Knows no keys, requests or clocks. What the server does with a changed limit is simpler here: a new window takes what
the most used old one counts as one lump.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, Deque, Dict, List, Mapping, Optional, Tuple

from ._bounds import MAX_COST, MAX_SLOTS

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_WORDS = {"second": 1000, "minute": 60_000, "hour": 3_600_000}
_CALENDAR = ("day", "week", "month", "quarter", "year")
_ALGORITHMS = ("token_bucket", "sliding_window_log", "fixed_window_counter", "sliding_window_counter")
# Of the calendar, the average.
_NOMINAL = {
    "day": 86_400_000_000,
    "week": 604_800_000_000,
    "month": 2_629_746_000_000,
    "quarter": 3 * 2_629_746_000_000,
    "year": 12 * 2_629_746_000_000,
}

#: What never comes is reported as the last moment that can be written.
NEVER = 253_402_300_799_999_000
_YEAR_MS = 366 * 86_400_000


class Wrong(Exception):
    """A request that the server would answer with an error."""

    def __init__(self, message: str, code: str = "invalid_argument", status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


def length_ms(given: Any, name: str = "per") -> int:
    """A length of time in milliseconds."""
    found = re.fullmatch(r"(\d{0,15})(ms|[smhdw]?)", given) if isinstance(given, str) else None
    if isinstance(given, int) and not isinstance(given, bool):
        length = given * 1000
    elif given in _WORDS:
        length = _WORDS[given]
    elif found is not None and given:
        length = int(found.group(1) or 1) * _UNITS[found.group(2) or "s"]
    else:
        length = 0
    if not 1 <= length <= _YEAR_MS:
        message = "%s must be a whole number and a unit (ms, s, m, h, d, w) from 1ms to 366d, not `%s`"
        raise Wrong(message % (name, given))
    return length


def length_text(ms: int) -> str:
    """A length as the server writes it: ``1m``, ``90s``."""
    for unit in ("d", "h", "m", "s"):
        if ms % _UNITS[unit] == 0:
            return "%d%s" % (ms // _UNITS[unit], unit)
    return "%dms" % ms


@dataclass(frozen=True)
class Window:
    """One window. ``length`` is in microseconds, 0 for the calendar's, of which ``per`` names the unit."""

    rate: int
    per: str
    length: int
    algorithm: str
    capacity: int
    tz: Optional[str] = None
    anchor: Optional[int] = None

    @property
    def short(self) -> str:
        """``100/1m``."""
        return "%d/%s" % (self.rate, self.per)

    @property
    def place(self) -> Tuple[int, str, int, int, int, int]:
        """Its place among others: the shortest first."""
        nominal = self.length or _NOMINAL[self.per]
        algorithm = _ALGORITHMS.index(self.algorithm)
        return nominal, self.tz or "", self.anchor or 0, self.rate, algorithm, self.capacity

    def fields(self) -> Dict[str, Any]:
        """Its values as a status has them."""
        burst = self.capacity if self.algorithm == "token_bucket" and self.rate else None
        found: Dict[str, Any] = {"rate": self.rate, "per": self.per, "per_millis": self.length // 1000 or None}
        found.update({"burst": burst, "algorithm": self.algorithm})
        if self.tz is not None:
            found["tz"] = self.tz
        if self.anchor is not None:
            found["anchor"] = self.anchor
        return found

    def bounds(self, now: int) -> Tuple[int, int]:
        """The calendar's period around an instant."""
        zone = _zone(self.tz or "UTC")
        here = datetime.fromtimestamp(now // 1_000_000, zone)
        day = datetime(here.year, here.month, here.day)
        if self.per == "day":
            begin, end = day, day + timedelta(days=1)
        elif self.per == "week":
            begin = day - timedelta(days=day.weekday())
            end = begin + timedelta(days=7)
        else:
            months = {"month": 1, "quarter": 3, "year": 12}[self.per]
            index = here.year * 12 + here.month - 1
            index -= index % months
            if self._anchored(index) > day:
                index -= months
            begin, end = self._anchored(index), self._anchored(index + months)
        return _micros(begin.replace(tzinfo=zone)), _micros(end.replace(tzinfo=zone))

    def _anchored(self, index: int) -> datetime:
        first = datetime(index // 12, index % 12 + 1, 1)
        last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
        return first.replace(day=min(self.anchor or 1, last.day))


def _micros(when: datetime) -> int:
    return int(when.timestamp()) * 1_000_000


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return timezone.utc
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise Wrong("tz must be the name of a time zone such as Europe/Berlin, not `%s`" % name) from None


def _whole(given: object, name: str, least: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= MAX_COST:
        raise Wrong("%s must be an integer from %d to %d, not %r" % (name, least, MAX_COST, given))
    return given


def window(given: Any) -> Window:
    """A window from its short form or its values."""
    if isinstance(given, str):
        rate, slash, per = given.partition("/")
        if not slash or not rate.isdigit() or not rate.isascii():
            raise Wrong("limit must be RATE/PER, such as 100/1m or 5000/day, not `%s`" % given)
        return _window({"rate": int(rate), "per": per})
    if not isinstance(given, Mapping):
        raise Wrong("a window must be a string such as 100/1m or an object, not %r" % (given,))
    return _window(given)


def _window(given: Mapping[str, Any]) -> Window:
    for name in given:
        if name not in ("rate", "per", "algorithm", "burst", "tz", "anchor"):
            raise Wrong("unknown field `%s`" % name)
    if given.get("rate") is None or given.get("per") is None:
        raise Wrong("rate and per are missing")
    rate, per = _whole(given["rate"], "rate", 0), given["per"]
    calendar = per in _CALENDAR
    algorithm = given.get("algorithm") or ("fixed_window_counter" if calendar else "token_bucket")
    if algorithm not in _ALGORITHMS:
        raise Wrong("algorithm must be one of %s, not `%s`" % (", ".join(_ALGORITHMS), algorithm))
    burst, tz, anchor = given.get("burst"), given.get("tz"), given.get("anchor")
    if burst is not None and algorithm != "token_bucket":
        raise Wrong("burst is only for token_bucket; leave it out for %s" % algorithm)
    if calendar and algorithm != "fixed_window_counter":
        raise Wrong("algorithm of a calendar period must be fixed_window_counter, not %s" % algorithm)
    if not calendar and (tz is not None or anchor is not None):
        raise Wrong("tz and anchor are only for calendar periods")
    if anchor is not None and (per not in ("month", "quarter", "year") or not 1 <= _whole(anchor, "anchor", 1) <= 31):
        raise Wrong("anchor must be the day from 1 to 31 on which a month, quarter or year begins, not %r" % (anchor,))
    capacity = rate if burst is None else _whole(burst, "burst", 1)
    if calendar:
        _zone(tz or "UTC")
        anchored = (anchor or 1) if per in ("month", "quarter", "year") else None
        return Window(rate, per, 0, algorithm, capacity, tz or "UTC", anchored)
    ms = length_ms(per)
    return Window(rate, length_text(ms), ms * 1000, algorithm, capacity)


@dataclass
class Quote:
    """The state of one window; times in microseconds, ``retry`` and ``next`` None for never."""

    allowed: bool
    remaining: int
    used: int
    debt: int
    reset_at: int
    retry: Optional[int]
    next: Optional[int]


class State:
    """What one window has counted. Each method is given an instant to which the state was advanced."""

    def __init__(self, window: Window) -> None:
        self.window = window

    def advance(self, now: int) -> None:
        """Brings it to an instant."""

    def used(self, now: int) -> int:
        """Units that count, rounded up."""
        raise NotImplementedError

    def spend(self, now: int, cost: int) -> None:
        """Spends, also past the limit."""
        raise NotImplementedError

    def give_back(self, held_at: int, units: int) -> None:
        """Gives back units that were held at an instant, as far as they still count."""
        raise NotImplementedError

    def refund(self, units: int) -> None:
        """Gives back units, at most what counts: the newest first."""
        raise NotImplementedError

    def until(self, now: int, units: int) -> Optional[int]:
        """Microseconds until this many units are left; None for never."""
        raise NotImplementedError

    def reset_at(self, now: int) -> int:
        """When it is untouched again."""
        raise NotImplementedError

    def copy(self) -> State:
        """A copy in the same state."""
        found = type(self)(self.window)
        found.__dict__.update(self.__dict__)
        return found

    def detail(self) -> Dict[str, Any]:
        """What only this algorithm reports; instants in microseconds."""
        return {}

    def allows(self, now: int, cost: int) -> bool:
        """Whether so much may be spent."""
        return self.used(now) + cost <= self.window.capacity

    def quote(self, now: int, cost: int, take: bool) -> Quote:
        """Whether and when ``cost`` may be spent; the other figures are as after that where ``take``."""
        allowed = cost == 0 or self.allows(now, cost)
        retry: Optional[int] = 0
        if not allowed:
            retry = None if cost > self.window.capacity or not self.window.rate else self.until(now, cost)
        left = self
        if take and cost:
            left = self.copy()
            left.spend(now, cost)
        used = left.used(now)
        remaining = max(self.window.capacity - used, 0)
        following = left.until(now, remaining + 1) if used else 0
        return Quote(
            allowed=allowed,
            remaining=remaining,
            used=used,
            debt=max(used - self.window.capacity, 0),
            reset_at=left.reset_at(now) if used else now,
            retry=retry,
            next=following if self.window.rate else None,
        )


class _Bucket(State):
    """``parts`` are missing, each a ``length``-th of a unit; one microsecond brings ``rate`` of them."""

    def __init__(self, window: Window) -> None:
        super().__init__(window)
        self.parts = 0
        self.at = 0
        self.full_at = 0

    def advance(self, now: int) -> None:
        if now > self.at:
            self.parts = max(self.parts - (now - self.at) * self.window.rate, 0)
            self.at = now
            self.full_at = self.full_at if self.parts else now

    def used(self, now: int) -> int:
        return -(-self.parts // self.window.length)

    def spend(self, now: int, cost: int) -> None:
        self.at = max(self.at, now)
        self.parts += cost * self.window.length

    def give_back(self, held_at: int, units: int) -> None:
        # A bucket that was full since has forgotten what was held.
        if self.full_at <= held_at:
            self.refund(units)

    def refund(self, units: int) -> None:
        self.parts = max(self.parts - units * self.window.length, 0)
        self.full_at = self.full_at if self.parts else self.at

    def until(self, now: int, units: int) -> Optional[int]:
        if not self.window.rate:
            return None
        missing = self.parts - (self.window.capacity - units) * self.window.length
        return max(-(-missing // self.window.rate), 0)

    def reset_at(self, now: int) -> int:
        wait = self.until(now, self.window.capacity)
        return NEVER if wait is None else now + wait


class _Fixed(State):
    def __init__(self, window: Window) -> None:
        super().__init__(window)
        self.count = 0
        self.start = 0
        self.end = 0

    def advance(self, now: int) -> None:
        if self.count and now >= self.end:
            self.count, self.start, self.end = 0, 0, 0

    def used(self, now: int) -> int:
        return self.count

    def spend(self, now: int, cost: int) -> None:
        if not self.count:
            length = self.window.length
            self.start, self.end = (now, now + length) if length else self.window.bounds(now)
        self.count += cost

    def give_back(self, held_at: int, units: int) -> None:
        if self.start <= held_at < self.end:
            self.refund(units)

    def refund(self, units: int) -> None:
        self.count -= min(units, self.count)
        if not self.count:
            self.start, self.end = 0, 0

    def until(self, now: int, units: int) -> Optional[int]:
        return max(self.end - now, 0)

    def reset_at(self, now: int) -> int:
        return self.end


class _Log(State):
    """One entry for each millisecond, rounded up, in which something was spent."""

    def __init__(self, window: Window) -> None:
        super().__init__(window)
        self.entries: Deque[Tuple[int, int]] = deque()
        self.total = 0

    def copy(self) -> State:
        found = _Log(self.window)
        found.entries, found.total = deque(self.entries), self.total
        return found

    def advance(self, now: int) -> None:
        while self.entries and self.entries[0][0] + self.window.length <= now:
            self.total -= self.entries.popleft()[1]

    def used(self, now: int) -> int:
        return self.total

    def spend(self, now: int, cost: int) -> None:
        at = -(-now // 1000) * 1000
        self.total += cost
        if self.entries and self.entries[-1][0] >= at:
            at, units = self.entries.pop()
            cost += units
        self.entries.append((at, cost))

    def give_back(self, held_at: int, units: int) -> None:
        held_at = -(-held_at // 1000) * 1000
        for place, (at, there) in enumerate(self.entries):
            if at == held_at:
                self._take(place, min(units, there))
                return

    def refund(self, units: int) -> None:
        while units and self.entries:
            given = min(units, self.entries[-1][1])
            self._take(len(self.entries) - 1, given)
            units -= given

    def _take(self, place: int, units: int) -> None:
        at, there = self.entries[place]
        self.total -= units
        if there > units:
            self.entries[place] = at, there - units
        else:
            del self.entries[place]

    def until(self, now: int, units: int) -> Optional[int]:
        gone = self.total - (self.window.capacity - units)
        for at, cost in self.entries:
            if gone <= 0:
                break
            gone -= cost
            if gone <= 0:
                return at + self.window.length - now
        return 0

    def reset_at(self, now: int) -> int:
        return self.entries[-1][0] + self.window.length if self.entries else now

    def detail(self) -> Dict[str, Any]:
        return {"oldest_at": self.entries[0][0] if self.entries else None}


class _Pair(State):
    """The count of the window before, weighted by its overlap with one period, and that of the current one."""

    def __init__(self, window: Window) -> None:
        super().__init__(window)
        self.start = 0
        self.previous = 0
        self.current = 0

    def advance(self, now: int) -> None:
        passed = now - self.start
        if passed >= 2 * self.window.length:
            self.start, self.previous, self.current = 0, 0, 0
        elif passed >= self.window.length:
            self.start, self.previous, self.current = self.start + self.window.length, self.current, 0
        if not self.previous and not self.current:
            self.start = 0

    def used(self, now: int) -> int:
        left = self.window.length - min(max(now - self.start, 0), self.window.length)
        return -(-self.previous * left // self.window.length) + self.current

    def spend(self, now: int, cost: int) -> None:
        if not self.previous and not self.current:
            self.start = now
        self.current += cost

    def give_back(self, held_at: int, units: int) -> None:
        length = self.window.length
        if self.start <= held_at < self.start + length:
            self.refund(units)
        elif self.start - length <= held_at < self.start:
            self.previous -= min(units, self.previous)
        if not self.previous and not self.current:
            self.start = 0

    def refund(self, units: int) -> None:
        self.current -= min(units, self.current)
        if not self.previous and not self.current:
            self.start = 0

    def until(self, now: int, units: int) -> Optional[int]:
        free = self.window.rate - units
        if free < 0:
            return None
        if free >= self.current:
            wait = self._shrunk(self.previous, free - self.current)
        else:
            wait = self.window.length + self._shrunk(self.current, free)
        return max(wait - (now - self.start), 0)

    def _shrunk(self, count: int, room: int) -> int:
        """Microseconds of the window after which ``count`` weighs no more than ``room``."""
        return 0 if count <= room else self.window.length - room * self.window.length // count

    def reset_at(self, now: int) -> int:
        return self.start + self.window.length * (2 if self.current else 1)

    def detail(self) -> Dict[str, Any]:
        return {"previous": self.previous, "current": self.current, "window_started_at": self.start or None}


def state(window: Window) -> State:
    """Nothing spent."""
    kinds = {
        "token_bucket": _Bucket,
        "fixed_window_counter": _Fixed,
        "sliding_window_log": _Log,
        "sliding_window_counter": _Pair,
    }
    return kinds[window.algorithm](window)


@dataclass(frozen=True)
class Values:
    """The values of a limit. ``windows`` is empty where it is unlimited, and where it has ``slots``."""

    windows: Tuple[Window, ...]
    mode: str = "enforce"
    slots: int = 0

    @property
    def unlimited(self) -> bool:
        """Whether all is allowed."""
        return not self.windows and not self.slots


def values(given: Any) -> Values:
    """A limit as a request brings it: a string, an array, or an object."""
    if isinstance(given, str):
        return Values((window(given),))
    if isinstance(given, list):
        given = {"windows": given}
    if not isinstance(given, Mapping):
        raise Wrong("limit must be a string such as 100/1m, an array of them, or an object, not %r" % (given,))
    rest = {name: value for name, value in given.items() if name not in ("mode", "unlimited", "windows", "slots")}
    mode = given.get("mode", "enforce")
    if mode not in ("enforce", "shadow"):
        raise Wrong("mode must be enforce or shadow, not %r" % (mode,))
    if given.get("slots") is not None:
        if rest or "windows" in given or given.get("unlimited"):
            raise Wrong("slots replaces rate, per, windows and unlimited; leave them out")
        if not 1 <= _whole(given["slots"], "slots", 1) <= MAX_SLOTS:
            raise Wrong("slots must be from 1 to %d, not %d" % (MAX_SLOTS, given["slots"]))
        return Values((), mode, given["slots"])
    if given.get("unlimited"):
        if rest or "windows" in given:
            raise Wrong("unlimited replaces rate, per and windows; leave them out")
        return Values((), mode)
    if "windows" not in given:
        return Values((window(rest),), mode)
    if rest:
        raise Wrong("windows replaces %s; leave it out" % next(iter(rest)))
    found: List[Window] = sorted((window(each) for each in given["windows"]), key=lambda each: each.place)
    if not 1 <= len(found) <= 8:
        raise Wrong("windows must have 1 to 8 windows, not %d" % len(found))
    if len({(each.rate, each.per, each.algorithm) for each in found}) < len(found):
        raise Wrong("windows must not have two with the same rate, per and algorithm")
    return Values(tuple(found), mode)
