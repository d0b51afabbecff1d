"""The holds of the server in memory: which are open, what they take, and what they have cost.

Knows no limits and no clock; `_memory` has both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ._bounds import DEFAULT_HOLD_SECONDS, HOLD_MEMORY_SECONDS, MAX_COST, MAX_HOLD_SECONDS, MIN_HOLD_SECONDS
from ._counting import Wrong, length_ms
from ._standing import instant, milliseconds


@dataclass
class Item:
    """What is held of one key. ``era`` is that of the key's entry: what was held before a reset is not given back.
    ``free`` is where it is unlimited, so that nothing is taken of anything."""

    key: str
    cost: int
    slots: bool
    free: bool
    era: object


@dataclass
class Pledge:
    """A hold. Times are in microseconds."""

    id: str
    items: List[Item]
    at: int
    until: int
    ttl: int
    costs: Optional[List[int]] = None
    settled_at: int = 0

    def is_open(self, now: int) -> bool:
        """Whether it takes slots."""
        return self.costs is None and now < self.until

    def told(self) -> Dict[str, Any]:
        """How long it lasts, as JSON has it."""
        return {"expires_at": instant(self.until), "ttl_ms": self.ttl // 1000}

    def asked(self, body: Mapping[str, Any]) -> List[int]:
        """The costs of all items that a settlement names; of slots what was held."""
        costs = [item.cost for item in self.items]
        if body.get("costs") is not None:
            keys = [item.key for item in self.items]
            for key, cost in body["costs"].items():
                if key not in keys:
                    raise Wrong("costs has the key `%s`, which is not in the hold" % key)
                place = keys.index(key)
                costs[place] = costs[place] if self.items[place].slots else _cost(cost)
        elif body.get("cost") is not None:
            cost = _cost(body["cost"])
            places = [place for place, item in enumerate(self.items) if not item.slots]
            if len(places) > 1:
                raise Wrong("the hold has several keys with a cost; give the cost of each in costs")
            for place in places:
                costs[place] = cost
        return costs


def _cost(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= MAX_COST:
        raise Wrong("cost must be an integer from 0 to %d, not %r" % (MAX_COST, given))
    return given


def ttl_of(given: Any) -> Optional[int]:
    """The time of a hold in microseconds, where one is given."""
    if given is None:
        return None
    ms = length_ms(given, "ttl")
    if not MIN_HOLD_SECONDS * 1000 <= ms <= MAX_HOLD_SECONDS * 1000:
        raise Wrong("ttl must be from %ds to %dh, not `%s`" % (MIN_HOLD_SECONDS, MAX_HOLD_SECONDS // 3600, given))
    return ms * 1000


class Book:
    """All holds that are known."""

    def __init__(self) -> None:
        self._pledges: Dict[str, Pledge] = {}

    def make(self, items: List[Item], now: int, ttl: Optional[int]) -> Pledge:
        """Another hold."""
        ttl = DEFAULT_HOLD_SECONDS * 1_000_000 if ttl is None else ttl
        pledge = Pledge(os.urandom(8).hex(), items, now, now + ttl, ttl)
        self._pledges[pledge.id] = pledge
        return pledge

    def find(self, id: Any, now: int) -> Pledge:
        """The hold with this id."""
        if not isinstance(id, str):
            raise Wrong("hold must be the id of a hold")
        for old in list(self._pledges.values()):
            over = old.until if old.costs is None else old.settled_at
            if now >= over + HOLD_MEMORY_SECONDS * 1_000_000:
                del self._pledges[old.id]
        pledge = self._pledges.get(id)
        if pledge is None:
            message = "no such hold: its id is wrong, or it was settled or expired more than 10 minutes ago"
            raise Wrong(message, "hold_not_found", 404)
        return pledge

    def renew(self, pledge: Pledge, ttl: Optional[int], now: int) -> None:
        """Lets it last longer."""
        if pledge.costs is not None:
            raise Wrong("the hold was settled before, so it can't be renewed", "hold_settled", 409)
        if not pledge.is_open(now):
            raise Wrong("the hold has expired, so it can't be renewed", "hold_expired", 410)
        pledge.until = now + (pledge.ttl if ttl is None else ttl)

    def holds(self, key: str, now: int) -> bool:
        """Whether a hold of this key is open, which keeps what is known of the key."""
        items = (item for pledge in self._pledges.values() if pledge.is_open(now) for item in pledge.items)
        return any(item.key == key and item.cost and not item.free for item in items)

    def taken(self, key: str, now: int) -> List[Tuple[int, int]]:
        """The slots of a key that are in use: until when, and how many; the first to end first."""
        return sorted((pledge.until, item.cost) for pledge, item in self._of(key, now))

    def listed(self, key: str, now: int) -> List[Dict[str, Any]]:
        """The same as a status has it, the oldest first."""
        return [
            {
                "hold": pledge.id,
                "cost": item.cost,
                "held_at": instant(pledge.at),
                "expires_at": instant(pledge.until),
                "age_ms": milliseconds(now - pledge.at),
                "left_ms": milliseconds(pledge.until - now),
            }
            for pledge, item in self._of(key, now)
        ]

    def _of(self, key: str, now: int) -> List[Tuple[Pledge, Item]]:
        pairs = [(pledge, item) for pledge in self._pledges.values() if pledge.is_open(now) for item in pledge.items]
        return [(pledge, item) for pledge, item in pairs if item.key == key and item.slots and item.cost]
