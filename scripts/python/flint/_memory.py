"""A server in this process: answers the same calls, in memory, by its own clock.

It decides in the place of a server that is away (``on_error="local"``), and for tests (:mod:`flint.testing`). Of what a
server does it has no ``max_keys``, no history and nothing on a disk.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Pattern, Set, Tuple
from urllib.parse import parse_qsl, unquote, urlsplit

from ._bounds import DEFAULT_HOLD_SECONDS, MAX_COST, MAX_HOLDS_LISTED, MAX_KEY_BYTES
from ._calls import Call
from ._counting import Values, Wrong, length_ms, values
from ._held import Book, Item, Pledge, ttl_of
from ._reply import Reply
from ._standing import Entry, Setting, Slots, SlotsVerdict, Verdict, detail, figures, instant, longest, milliseconds, values_of

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")

#: Keys after which those that nothing counts for are forgotten.
_SWEEP_EVERY = 10_000


def _micros() -> int:
    return time.time_ns() // 1000


class Memory:
    """Answers calls.

    Args:
        clock: microseconds since the epoch.
        lenient: whether a key without a limit is allowed, and is not an error.
    """

    def __init__(self, clock: Callable[[], int] = _micros, lenient: bool = False) -> None:
        self._clock = clock
        self._lenient = lenient
        self._exact: Dict[str, Setting] = {}
        self._patterns: Dict[str, Tuple[Setting, Pattern[str]]] = {}
        self._entries: Dict[str, Entry] = {}
        self._book = Book()
        # Reentrant: a signal handler may come in between and ask itself.
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._now = 0
        self._sweep_at = _SWEEP_EVERY

    def answer(self, call: Call[Any]) -> Reply:
        """The reply to a call."""
        body = json.loads(call.body.decode("utf-8", "surrogatepass")) if call.body else None
        parts = urlsplit(call.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        reply = Reply()
        reply.status, reply.keep, reply.begun = 200, True, True
        if self._pid != os.getpid():
            # In a forked child the threads of the parent are gone, and with them what would unlock this.
            self._pid, self._lock = os.getpid(), threading.RLock()
        with self._lock:
            # Never back, whatever the clock does.
            self._now = max(self._now, self._clock())
            try:
                found, reply.headers = self._route(call.method, parts.path, query, body)
            except Wrong as error:
                reply.status = error.status
                found = {"error": str(error), "code": error.code}
        reply.body = json.dumps(found).encode()
        return reply

    def _route(self, method: str, path: str, query: Dict[str, str], body: Any) -> Tuple[Any, Dict[str, str]]:
        if path == "/v1/check":
            return self._check(body)
        if path == "/v1/check-all":
            return self._check_all(body["items"])
        if path == "/v1/peek":
            items = body.get("items")
            return self._check(body, peek=True) if items is None else self._check_all(items, peek=True)
        if path == "/v1/hold":
            return self._hold(body)
        return self._plain(method, path, query, body), {}

    def _plain(self, method: str, path: str, query: Dict[str, str], body: Any) -> Any:
        if path == "/v1/check-many":
            return {"results": [self._alone(item) for item in self._asked(body["items"])]}
        if path == "/v1/limits":
            if method == "POST":
                return {"ok": True, "created": self._configure(body)}
            if method == "DELETE":
                return {"ok": True, "removed": self._remove(query["prefix"])}
            return self._page(query)
        if path.startswith("/v1/limits/"):
            key = unquote(path[len("/v1/limits/") :], errors="surrogatepass")
            return self._remove_one(key) if method == "DELETE" else self._status(key)
        if path == "/v1/settle":
            return self._settle(body)
        if path == "/v1/renew":
            pledge = self._book.find(body["hold"], self._now)
            ttl = ttl_of(body.get("ttl"))
            self._book.renew(pledge, ttl, self._now)
            told = pledge.told()
            return {"ok": True, **told, "ttl_ms": told["ttl_ms"] if ttl is None else ttl // 1000}
        if path in ("/v1/charge", "/v1/refund"):
            return self._correct(body, path == "/v1/charge")
        if path == "/v1/reset":
            return self._reset(body)
        if path == "/v1/top":
            return self._top(query["by"], int(query["limit"]))
        if path == "/v1/health":
            return {"ok": True, "version": "memory"}
        # flush, compact and doctor of nothing.
        return {"ok": True, "log_bytes_before": 0, "log_bytes_after": 0, "snapshot_bytes": 0}

    # ---- which limit a key has

    @staticmethod
    def _key(key: Any) -> str:
        try:
            size = len(key.encode("utf-8"))
        except (UnicodeError, AttributeError):
            raise Wrong("key must be a UTF-8 string") from None
        if not key.strip():
            raise Wrong("key must not be blank")
        if size > MAX_KEY_BYTES:
            raise Wrong("key must be at most %d bytes, not %d" % (MAX_KEY_BYTES, size))
        if _CONTROL.search(key):
            raise Wrong("key `%s` must not contain a control character" % key)
        return str(key)

    def _found(self, key: str, brought: Optional[Values]) -> Tuple[Values, str, Optional[str]]:
        setting = self._exact.get(key)
        found = setting.at(self._now) if setting is not None else None
        if found is not None:
            return found, "exact", None
        best: Optional[Tuple[Tuple[int, int, bytes], str, Values]] = None
        for pattern, (setting, matcher) in self._patterns.items():
            found = setting.at(self._now)
            if found is not None and matcher.fullmatch(key):
                literal = len(pattern) - pattern.count("*")
                # Of equal ones the first by its bytes.
                rank = (-pattern.index("*"), -literal, pattern.encode())
                if best is None or rank < best[0]:
                    best = rank, pattern, found
        if best is not None:
            return best[2], "pattern", best[1]
        if brought is not None:
            return brought, "request", None
        if self._lenient:
            return Values(()), "request", None
        message = "no limit is configured for key `%s`; configure it first" % key
        raise Wrong(message, "limit_not_configured", 404)

    def _entry(self, key: str, brought: Optional[Values]) -> Tuple[Entry, Values]:
        values, source, pattern = self._found(key, brought)
        entry = self._entries.get(key)
        if entry is None or (source != "exact" and self._is_untouched(key, entry)):
            entry = Entry()
        entry.source, entry.pattern = source, pattern
        return entry, values

    def _is_untouched(self, key: str, entry: Entry) -> bool:
        return entry.is_untouched(self._now) and not self._book.holds(key, self._now)

    def _slots(self, key: str, its: Values, ttl: Optional[int] = None) -> Slots:
        until = self._now + (DEFAULT_HOLD_SECONDS * 1_000_000 if ttl is None else ttl)
        return Slots(its.slots, self._book.taken(key, self._now), self._now, until)

    # ---- deciding

    @staticmethod
    def _asked(items: Any) -> List[Dict[str, Any]]:
        if not isinstance(items, list) or not 1 <= len(items) <= 1000:
            raise Wrong("items must have 1 to 1000 items")
        found: List[Dict[str, Any]] = []
        for item in items:
            if isinstance(item, str):
                found.append({"key": item})
            elif isinstance(item, dict):
                found.append(item)
            elif isinstance(item, list) and len(item) == 2:
                found.append({"key": item[0], "cost": item[1]})
            else:
                raise Wrong("an item must be a key, an object or [key, cost]")
        return found

    def _item(self, item: Mapping[str, Any]) -> Tuple[str, int, Optional[Values]]:
        for name in item:
            if name not in ("key", "cost", "limit"):
                raise Wrong("unknown field `%s`" % name)
        key, cost = self._key(item.get("key")), item.get("cost", 1)
        if isinstance(cost, bool) or not isinstance(cost, int):
            raise Wrong("cost must be an integer")
        if not 1 <= cost <= MAX_COST:
            raise Wrong("cost must be from 1 to %d, not %d" % (MAX_COST, cost))
        return key, cost, values(item["limit"]) if item.get("limit") is not None else None

    def _verdict(self, item: Mapping[str, Any], holds: bool = False, ttl: Optional[int] = None) -> Verdict:
        key, cost, brought = self._item(item)
        entry, its = self._entry(key, brought)
        if not its.slots:
            return Verdict(key, cost, entry, its, self._now)
        self._refuse_slots(key, its, holds)
        return SlotsVerdict(key, cost, entry, its, self._slots(key, its, ttl))

    @staticmethod
    def _refuse_slots(key: str, its: Values, holds: bool = False) -> None:
        if its.slots and not holds:
            raise Wrong("`%s` has slots; use hold to take them" % key)

    def _keep(self, verdict: Verdict) -> None:
        """A key that something was spent of, or that is configured, stays."""
        if verdict.spends or verdict.entry.source != "request":
            verdict.entry.values = verdict.values
            self._entries[verdict.key] = verdict.entry
        if len(self._entries) >= self._sweep_at:
            for key in [key for key, entry in self._entries.items() if key not in self._exact]:
                if self._is_untouched(key, self._entries[key]):
                    del self._entries[key]
            self._sweep_at = max(_SWEEP_EVERY, 2 * len(self._entries))

    def _check(self, body: Mapping[str, Any], peek: bool = False) -> Tuple[Any, Dict[str, str]]:
        verdict = self._verdict(body, peek)
        found, fields = verdict.decision(), verdict.fields()
        if peek:
            return found, fields
        if verdict.spends:
            verdict.spend()
        verdict.count()
        self._keep(verdict)
        return found, fields

    def _alone(self, item: Mapping[str, Any]) -> Dict[str, Any]:
        try:
            found: Dict[str, Any] = self._check(item)[0]
        except Wrong as error:
            return {"error": str(error), "code": error.code}
        return found

    def _check_all(self, items: Any, peek: bool = False) -> Tuple[Any, Dict[str, str]]:
        return self._all(self._asked(items), peek, peek, None)[:2]

    def _all(
        self, asked: List[Dict[str, Any]], peek: bool, holds: bool, ttl: Optional[int]
    ) -> Tuple[Any, Dict[str, str], List[Verdict]]:
        """Spends of all or none; the verdicts are of those that were."""
        seen: Set[Any] = set()
        verdicts: List[Verdict] = []
        for item in asked:
            if item.get("key") in seen:
                raise Wrong("items must not have the key `%s` twice; add up its costs" % item.get("key"))
            seen.add(item.get("key"))
            verdicts.append(self._verdict(item, holds, ttl))
        denied = next((place for place, verdict in enumerate(verdicts) if not verdict.allowed), None)
        told = verdicts if denied is None else verdicts[: denied + 1]
        if denied is not None:
            for verdict in told:
                verdict.stand()
        found: Dict[str, Any] = {"allowed": denied is None, "denied_key": None if denied is None else told[-1].key}
        found["results"] = [verdict.decision() for verdict in told]
        shown = told[-1] if denied is not None else min(told, key=lambda verdict: verdict.least)
        fields = shown.fields()
        # What would be denied in shadow mode counts as denied, whatever the others are.
        counted = verdicts if denied is None else [verdict for verdict in told if not verdict.spends]
        for verdict in [] if peek else counted:
            if verdict.spends:
                verdict.spend()
            verdict.count()
            self._keep(verdict)
        return found, fields, verdicts if denied is None else []

    # ---- holding

    def _hold(self, body: Dict[str, Any]) -> Tuple[Any, Dict[str, str]]:
        ttl = ttl_of(body.pop("ttl", None))
        several = body.get("items") is not None
        found, fields, verdicts = self._all(self._asked(body["items"]) if several else [body], False, True, ttl)
        if not several:
            found = found["results"][0]
        if verdicts:
            # What a shadow denied is not held.
            items = [
                Item(each.key, each.cost if each.spends else 0, bool(its.slots), its.unlimited, each.entry.era)
                for each, its in ((each, each.values) for each in verdicts)
            ]
            pledge = self._book.make(items, self._now, ttl)
            found.update({"hold": pledge.id, **pledge.told()})
        return found, fields

    def _settle(self, body: Mapping[str, Any]) -> Any:
        pledge = self._book.find(body["hold"], self._now)
        costs = pledge.asked(body)
        # What was live until now is reported, although nothing of it may be left.
        standings = [self._standing(item.key) for item in pledge.items]
        if pledge.costs is None:
            pledge.costs, pledge.settled_at = costs, self._now
            for item, cost, standing in zip(pledge.items, costs, standings):
                if not item.slots and item.cost and standing is not None:
                    self._settle_item(pledge, item, cost, *standing)
        elif pledge.costs != costs:
            message = "the hold was settled before, with another cost; it can be settled only once"
            raise Wrong(message, "hold_settled", 409)
        results = [self._settled(*told) for told in zip(pledge.items, costs, standings)]
        return {"ok": True, "late": pledge.settled_at >= pledge.until, "results": results}

    def _settle_item(self, pledge: Pledge, item: Item, cost: int, entry: Entry, its: Values) -> None:
        if cost > item.cost and not its.slots:
            self._entries[item.key] = entry
            entry.charge(its, self._now, cost - item.cost)
        elif cost < item.cost and entry.era is item.era:
            entry.give_back(its, self._now, pledge.at, item.cost - cost)

    def _settled(self, item: Item, cost: int, standing: Optional[Tuple[Entry, Values]]) -> Dict[str, Any]:
        found = {"key": item.key, "held": item.cost, "cost": cost, "remaining": None, "debt": 0}
        if standing is None:
            found["configured"] = False
            return found
        entry, its = standing
        status = self._shown(item.key, entry, its)
        found.update({"remaining": status["remaining"], "debt": status.get("debt", 0)})
        return found

    def _standing(self, key: str) -> Optional[Tuple[Entry, Values]]:
        """The entry of a key and its values, as they are without a request's."""
        known = self._entries.get(key)
        live = known is not None and not self._is_untouched(key, known)
        try:
            return self._entry(key, known.values if known is not None and live else None)
        except Wrong:
            return None

    def _correct(self, body: Mapping[str, Any], charges: bool) -> Any:
        """A charge, or a refund."""
        if body.get("cost") is None:
            raise Wrong("cost is missing")
        key, cost, brought = self._item(body)
        entry, its = self._entry(key, brought)
        self._refuse_slots(key, its)
        if charges:
            entry.charge(its, self._now, cost)
            entry.values = its
            self._entries[key] = entry
        else:
            entry.refund(its, self._now, cost)
        return self._shown(key, entry, its)

    # ---- configuring

    def _configure(self, body: Dict[str, Any]) -> bool:
        key = self._key(body.pop("key", None))
        lasts = body.pop("for", None)
        max_keys = body.pop("max_keys", None)
        if max_keys is not None and "*" not in key:
            raise Wrong("max_keys is only for patterns")
        its = values(body)
        until = None if lasts is None else self._now + length_ms(lasts, "for") * 1000
        setting = self._patterns[key][0] if key in self._patterns else self._exact.get(key)
        created = setting is None
        if setting is None:
            setting = Setting()
            if "*" in key:
                parts = [re.escape(part) for part in key.split("*")]
                self._patterns[key] = setting, re.compile("(?s:.+)".join(parts))
            else:
                self._exact[key] = setting
        if until is None:
            setting.values = its
        else:
            setting.over = its, until
        setting.max_keys = max_keys
        return created

    def _remove_one(self, key: str) -> Any:
        if key not in self._exact and key not in self._patterns:
            raise Wrong("no limit is configured for key `%s`; configure it first" % key, "limit_not_configured", 404)
        self._forget(key)
        return {"ok": True}

    def _forget(self, key: str) -> None:
        if self._exact.pop(key, None) is not None:
            self._entries.pop(key, None)
        self._patterns.pop(key, None)

    def _remove(self, prefix: str) -> int:
        found = [key for key in [*self._exact, *self._patterns] if key.startswith(prefix)]
        for key in found:
            self._forget(key)
        return len(found)

    def _reset(self, body: Mapping[str, Any]) -> Any:
        if "prefix" in body:
            keys = [key for key in {*self._entries, *self._exact} if key.startswith(body["prefix"])]
        else:
            keys = [body["key"]]
            known = self._entries.get(body["key"])
            if known is None or self._is_untouched(body["key"], known):
                self._found(self._key(body["key"]), None)
        for key in keys:
            if key in self._exact or self._book.holds(key, self._now):
                entry = self._entries.setdefault(key, Entry())
                entry.states.clear()
                entry.era = object()
                entry.last["last_reset_at"] = self._now
            else:
                self._entries.pop(key, None)
        return {"ok": True}

    # ---- looking

    def _status(self, key: str) -> Dict[str, Any]:
        if key in self._patterns:
            return self._pattern_status(key)
        known = self._entries.get(key)
        brought = known.values if known is not None and not self._is_untouched(key, known) else None
        if self._lenient and brought is None:
            brought = Values(())
        entry, its = self._entry(key, brought)
        found = self._shown(key, entry, its)
        if its.slots:
            found["holds"] = self._book.listed(key, self._now)[:MAX_HOLDS_LISTED]
        return found

    def _shown(self, key: str, entry: Entry, its: Values) -> Dict[str, Any]:
        verdict = [each.quote(self._now, 0, False) for each in entry.under(its, self._now)]
        states = [entry.states[window] for window in its.windows]
        found: Dict[str, Any] = {"key": key}
        found.update(values_of(its))
        for each in found.get("windows", ()):
            place = found["windows"].index(each)
            each.update(figures(its.windows[place], verdict[place]))
            each.update(detail(states[place]))
            del each["limit"]
        found["source"] = entry.source
        if entry.pattern is not None:
            found["pattern"] = entry.pattern
        if its.slots:
            found.update(self._slots(key, its).figures())
        elif not verdict:
            found.update({"remaining": None, "used": None, "reset_at": None, "next_ms": None})
        else:
            least = min(verdict, key=lambda quote: quote.remaining)
            found.update({"remaining": least.remaining, "used": least.used})
            if least.debt:
                found["debt"] = least.debt
            found["reset_at"] = instant(max(quote.reset_at for quote in verdict))
            found["next_ms"] = milliseconds(longest(quote.next for quote in verdict))
            if len(verdict) == 1:
                found.update(detail(states[0]))
        self._lasting(found, self._exact.get(key))
        found.update(entry.totals)
        found.update({name: instant(at) for name, at in entry.last.items()})
        return found

    def _lasting(self, found: Dict[str, Any], setting: Optional[Setting]) -> None:
        if setting is not None and setting.over is not None:
            found["for_until"] = instant(setting.over[1])
            found["for_ms"] = milliseconds(setting.over[1] - self._now)
            found["below"] = None if setting.values is None else values_of(setting.values)

    def _pattern_status(self, pattern: str) -> Dict[str, Any]:
        setting = self._patterns[pattern][0]
        its = setting.at(self._now)
        if its is None:
            raise Wrong("no limit is configured for key `%s`" % pattern, "limit_not_configured", 404)
        found = self._shown(pattern, Entry(), its)
        found["source"] = "exact"
        self._lasting(found, setting)
        found["live"] = len(self._live(pattern))
        if setting.max_keys is not None:
            found["max_keys"] = setting.max_keys
        return found

    def _live(self, pattern: Optional[str]) -> List[str]:
        found = []
        for key, entry in self._entries.items():
            if key not in self._exact and not self._is_untouched(key, entry):
                if pattern is None or self._found(key, entry.values)[2] == pattern:
                    found.append(key)
        return found

    def _page(self, query: Mapping[str, str]) -> List[Dict[str, Any]]:
        if "pattern" in query:
            keys = self._live(query["pattern"])
        else:
            keys = [key for key, setting in self._exact.items() if setting.at(self._now) is not None]
            keys += [key for key, (setting, _) in self._patterns.items() if setting.at(self._now) is not None]
            if query.get("live") == "true":
                keys += self._live(None)
        keys = sorted(key for key in keys if key.startswith(query.get("prefix", "")))
        after = query.get("after")
        keys = [key for key in keys if after is None or key > after]
        found = [self._status(key) for key in keys[: int(query.get("limit", "1000"))]]
        for status in found:
            status.pop("holds", None)
        return found

    def _top(self, by: str, limit: int) -> List[Dict[str, Any]]:
        if by not in ("allowed", "denied"):
            raise Wrong("by must be allowed or denied, not %s" % by)
        name = "total_" + by
        found = [self._status(key) for key in self._entries if self._entries[key].totals[name]]
        for status in found:
            status.pop("holds", None)
        return sorted(found, key=lambda status: (-status[name], status["key"]))[:limit]
