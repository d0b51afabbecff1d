"""The state of a key in memory, and the answers about it: entries, decisions and statuses as the server writes them.

Knows no requests and no clock; `_memory` has both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Iterable, List, Optional, Tuple

from ._counting import Quote, State, Values, Window, Wrong, state

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

#: Windows of earlier values that rest until these come back.
_MAX_RESTING = 8


def instant(micros: Optional[int]) -> Optional[str]:
    """RFC 3339 in UTC with milliseconds, rounded up."""
    if micros is None:
        return None
    when = _EPOCH + timedelta(milliseconds=-(-micros // 1000))
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + "%03dZ" % (when.microsecond // 1000)


def milliseconds(micros: Optional[int]) -> Optional[int]:
    return None if micros is None else -(-micros // 1000)


def longest(waits: Iterable[Optional[int]]) -> Optional[int]:
    found = list(waits)
    return None if None in found else max((wait for wait in found if wait is not None), default=0)


class Setting:
    """What is configured for a key or a pattern: values, and others over them for a time."""

    def __init__(self) -> None:
        self.values: Optional[Values] = None
        self.over: Optional[Tuple[Values, int]] = None
        self.max_keys: Optional[int] = None

    def at(self, now: int) -> Optional[Values]:
        """The values that count."""
        if self.over is not None and now >= self.over[1]:
            self.over = None
        return self.over[0] if self.over is not None else self.values


class Entry:
    """What a key has counted, under its values of now and those before."""

    def __init__(self) -> None:
        self.states: Dict[Window, State] = {}
        # Another after each reset: what was held before is not given back.
        self.era = object()
        self.values: Optional[Values] = None
        self.source = "request"
        self.pattern: Optional[str] = None
        self.totals = {"total_allowed": 0, "total_denied": 0, "total_allowed_cost": 0, "total_denied_cost": 0}
        self.last: Dict[str, Optional[int]] = {"last_allowed_at": None, "last_denied_at": None, "last_reset_at": None}

    def under(self, values: Values, now: int) -> List[State]:
        """The states of these values' windows, brought to an instant."""
        for each in self.states.values():
            each.advance(now)
        missing = [window for window in values.windows if window not in self.states]
        if missing:
            lump = max((each.used(now) for each in self.states.values()), default=0)
            for window in missing:
                self.states[window] = state(window)
                self.states[window].advance(now)
                if lump:
                    self.states[window].spend(now, lump)
            resting = [window for window in self.states if window not in values.windows]
            for window in resting[_MAX_RESTING:]:
                del self.states[window]
        return [self.states[window] for window in values.windows]

    def give_back(self, values: Values, now: int, held_at: int, units: int) -> None:
        """Gives back units that were held at an instant, in each window as far as they still count there."""
        if values.windows:
            self.under(values, now)
            for each in self.states.values():
                each.give_back(held_at, units)

    def refund(self, values: Values, now: int, units: int) -> None:
        """Gives back units, in each window as far as any count there."""
        if values.windows:
            self.under(values, now)
            for each in self.states.values():
                each.refund(units)

    def charge(self, values: Values, now: int, units: int) -> None:
        """Spends units, also past the limit."""
        self.under(values, now)
        if values.windows:
            for each in self.states.values():
                each.spend(now, units)
        self.count("allowed", units, now)

    def count(self, word: str, cost: int, now: int) -> None:
        """Counts a decision among the totals."""
        self.totals["total_" + word] += 1
        self.totals["total_%s_cost" % word] += cost
        self.last["last_%s_at" % word] = now

    def is_untouched(self, now: int) -> bool:
        """Whether nothing that was spent still counts."""
        for each in self.states.values():
            each.advance(now)
        return not any(each.used(now) for each in self.states.values())


class Verdict:
    """One item's decision, before anything is spent."""

    def __init__(self, key: str, cost: int, entry: Entry, values: Values, now: int) -> None:
        self.key, self.cost, self.entry, self.values, self.now = key, cost, entry, values, now
        states = entry.under(values, now)
        for window in values.windows:
            if window.rate and cost > window.capacity:
                message = "cost %d is over the capacity %d of limit `%s` and could never be allowed"
                raise Wrong(message % (cost, window.capacity, key), "cost_exceeds_capacity")
        self.spends = all(each.allows(now, cost) for each in states)
        self.quotes = [each.quote(now, cost, self.spends) for each in states]
        self.shadow = values.mode == "shadow"

    @property
    def allowed(self) -> bool:
        """Whether it is answered so."""
        return self.spends or self.shadow

    def stand(self) -> None:
        """Reports the state of the windows, for an item that is not spent because another one is denied."""
        states = [self.entry.states[window] for window in self.values.windows]
        self.quotes = [each.quote(self.now, self.cost, False) for each in states]

    def spend(self) -> None:
        """Spends it, in windows that rest too."""
        if not self.values.unlimited:
            for each in self.entry.states.values():
                each.spend(self.now, self.cost)

    def count(self) -> None:
        """Counts it among the totals."""
        self.entry.count("allowed" if self.spends else "denied", self.cost, self.now)

    @property
    def least(self) -> float:
        """What is left of it, for a comparison with others."""
        return min((float(quote.remaining) for quote in self.quotes), default=math.inf)

    @property
    def binding(self) -> int:
        """The window that binds: on a denial the longest wait, else the least remaining."""
        def rank(place: int) -> Tuple[float, int]:
            quote = self.quotes[place]
            wait = 0.0 if self.spends else (math.inf if quote.retry is None else quote.retry)
            return -wait, quote.remaining

        return min(range(len(self.quotes)), key=rank)

    def decision(self) -> Dict[str, Any]:
        """As JSON has it."""
        found: Dict[str, Any] = {"key": self.key, "allowed": self.allowed, "cost": self.cost}
        if self.values.unlimited:
            found.update({"limit": None, "remaining": None, "used": None, "reset_at": None})
            found.update({"retry_after_ms": 0, "next_ms": None, "algorithm": None})
        else:
            binding = self.quotes[self.binding]
            window = self.values.windows[self.binding]
            found.update({"limit": window.capacity, "remaining": binding.remaining, "used": binding.used})
            found["reset_at"] = instant(max(quote.reset_at for quote in self.quotes))
            wait = None if self.spends else longest(quote.retry for quote in self.quotes)
            found["retry_after_ms"] = 0 if self.allowed else milliseconds(wait)
            found["next_ms"] = milliseconds(longest(quote.next for quote in self.quotes))
            found["algorithm"] = window.algorithm
            if binding.debt:
                found["debt"] = binding.debt
            if len(self.quotes) > 1:
                found["window"] = window.short
                pairs = zip(self.values.windows, self.quotes)
                found["windows"] = [{**figures(*pair), "retry_after_ms": milliseconds(pair[1].retry)} for pair in pairs]
                for each, of in zip(found["windows"], self.values.windows):
                    each.update({"algorithm": of.algorithm, "per": of.per})
        return self.told(found)

    def told(self, found: Dict[str, Any]) -> Dict[str, Any]:
        """Adds what applies to all kinds of limits."""
        if self.entry.pattern is not None:
            found["pattern"] = self.entry.pattern
        if self.shadow:
            found["shadow"] = True
            found["would_deny"] = not self.spends
        return found

    def fields(self) -> Dict[str, str]:
        """Header fields of an answer with it."""
        policy, standing = [], []
        seen: Dict[str, int] = {}
        latest = None if self.allowed else longest(quote.retry for quote in self.quotes)
        if latest is not None:
            # No later than the whole of it is allowed.
            latest = max(-(-latest // 1_000_000), 1)
        for window, quote in zip(self.values.windows, self.quotes):
            seen[window.short] = seen.get(window.short, 0) + 1
            name = window.short if seen[window.short] == 1 else "%s#%d" % (window.short, seen[window.short])
            length = window.length
            if not length:
                begin, end = window.bounds(self.now)
                length = end - begin
            policy.append('"%s";q=%d' % (name, window.capacity))
            if length >= 1_000_000:
                policy[-1] += ";w=%d" % -(-length // 1_000_000)
            standing.append('"%s";r=%d' % (name, quote.remaining))
            wait = quote.next if self.allowed or quote.allowed else quote.retry
            if wait is not None:
                seconds = -(-wait // 1_000_000)
                standing[-1] += ";t=%d" % (seconds if latest is None else min(seconds, latest))
        found = {"cache-control": "no-store"}
        if policy:
            found.update({"ratelimit-policy": ", ".join(policy), "ratelimit": ", ".join(standing)})
        return found


@dataclass
class Slots:
    """The slots of a key: how many there are, and how many the open holds take, each until when, the first to end first;
    ``until`` is when one that is asked for would run out."""

    slots: int
    taken: List[Tuple[int, int]]
    now: int
    until: int

    @property
    def used(self) -> int:
        """Those in use."""
        return sum(units for _, units in self.taken)

    def freed(self, wanted: int) -> Optional[int]:
        """Microseconds until this many more are free; None for never."""
        freed = 0
        for until, units in self.taken:
            if freed >= wanted:
                break
            freed += units
            if freed >= wanted:
                return until - self.now
        return 0 if freed >= wanted else None

    def retry(self, cost: int) -> Optional[int]:
        """Microseconds until this many can be taken; None for never."""
        return None if cost > self.slots else self.freed(max(self.used + cost - self.slots, 0))

    def more(self, cost: int) -> "Slots":
        """With this many of them taken."""
        taken = sorted([*self.taken, (self.until, cost)]) if cost else self.taken
        return Slots(self.slots, taken, self.now, self.until)

    def figures(self) -> Dict[str, Any]:
        """Their state, as in a decision and a status."""
        used = self.used
        found: Dict[str, Any] = {"remaining": max(self.slots - used, 0), "used": used}
        if used > self.slots:
            found["debt"] = used - self.slots
        found["reset_at"] = instant(max([self.now, *(until for until, _ in self.taken)]))
        found["next_ms"] = milliseconds(self.freed(used - min(used, self.slots) + 1) if used else 0)
        return found


class SlotsVerdict(Verdict):
    """One item's decision where the limit has slots. They are taken by the hold that is made."""

    def __init__(self, key: str, cost: int, entry: Entry, values: Values, slots: Slots) -> None:
        if cost > values.slots:
            message = "cost %d is over the %d slots of limit `%s` and could never be allowed"
            raise Wrong(message % (cost, values.slots, key), "cost_exceeds_capacity")
        self.key, self.cost, self.entry, self.values, self.now = key, cost, entry, values, slots.now
        self.slots = slots
        self.shadow = values.mode == "shadow"
        self.spends = slots.used + cost <= slots.slots
        self.left = slots.more(cost) if self.spends else slots
        self.quotes = []

    def stand(self) -> None:
        self.left = self.slots

    def spend(self) -> None:
        pass

    @property
    def least(self) -> float:
        return float(max(self.left.slots - self.left.used, 0))

    def decision(self) -> Dict[str, Any]:
        found: Dict[str, Any] = {"key": self.key, "allowed": self.allowed, "cost": self.cost, "limit": self.values.slots}
        found.update(self.left.figures())
        found["retry_after_ms"] = 0 if self.allowed else milliseconds(None if self.spends else self.slots.retry(self.cost))
        found["algorithm"] = None
        return self.told(found)

    def fields(self) -> Dict[str, str]:
        left = self.left
        wait = left.freed(left.used - min(left.used, left.slots) + 1) if left.used else 0
        if not self.allowed and not self.spends and left.used + self.cost > left.slots:
            wait = self.slots.retry(self.cost)
        standing = '"slots";r=%d' % max(left.slots - left.used, 0)
        if wait is not None:
            standing += ";t=%d" % -(-wait // 1_000_000)
        policy = '"slots";q=%d' % left.slots
        return {"cache-control": "no-store", "ratelimit-policy": policy, "ratelimit": standing}


def figures(window: Window, quote: Quote) -> Dict[str, Any]:
    return {
        "name": window.short,
        "limit": window.capacity,
        "remaining": quote.remaining,
        "used": quote.used,
        "debt": quote.debt,
        "reset_at": instant(quote.reset_at),
        "next_ms": milliseconds(quote.next),
    }


def detail(of: State) -> Dict[str, Any]:
    found = of.detail()
    for name in ("oldest_at", "window_started_at"):
        if name in found:
            found[name] = instant(found[name])
    return found


def values_of(its: Values) -> Dict[str, Any]:
    """Values as a status has them."""
    if its.slots:
        return {"slots": its.slots, "mode": its.mode}
    if its.unlimited:
        return {"unlimited": True, "mode": its.mode}
    if len(its.windows) == 1:
        return {**its.windows[0].fields(), "mode": its.mode}
    named: List[Dict[str, Any]] = [{"name": window.short, **window.fields()} for window in its.windows]
    return {"windows": named, "mode": its.mode}
