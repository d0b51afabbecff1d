"""The calls of the HTTP API: what is sent and what comes back, without a connection.

Owns the requests' bytes and the meaning of replies. Threads and asyncio send the same calls.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from typing import Any, Callable, Dict, Generic, Iterable, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union
from urllib.parse import quote

from . import _values
from ._bounds import LIST_PAGE
from ._errors import FlintServerError
from ._reply import Reply, retry_after
from ._results import CheckAllResult, CheckResult, LimitStatus, Settlement

T = TypeVar("T")

#: An item of ``check_all``: a key, ``{"key": ..., "cost": ..., "limit": ...}`` or ``(key, cost)``.
Item = Union[str, Mapping[str, Any], Tuple[str, int], Sequence[Any]]


# ``json.dumps`` with arguments, and ``json.loads`` of bytes, set up their machinery again for each call. A check is but a key
# and a cost, and most replies are one object without anything around it.
_parts: Any = json.JSONDecoder(), json.encoder
_encode = json.JSONEncoder(ensure_ascii=False).encode
_decode = json.JSONDecoder().decode
_scan: Callable[[str, int], Tuple[Any, int]] = _parts[0].scan_once
_quoted: Callable[[str], str] = _parts[1].encode_basestring


class _Keys:
    """Idempotency keys of this process: a random number and a counter. They can't be guessed, and a forked child has
    different ones."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        start = int.from_bytes(os.urandom(6), "big")
        self._form, self._next = "Idempotency-Key: %s%%016x\r\n" % os.urandom(8).hex(), itertools.count(start).__next__

    def line(self) -> str:
        """The header with a new key."""
        return self._form % self._next()


_keys = _Keys()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.begin)


class Call(Generic[T]):
    """One request, and what its reply means.

    Attributes:
        repeatable: the server may get it twice without harm. A spending request has its own idempotency key, by which
            the server recognizes it.
    """

    __slots__ = ("method", "path", "body", "_decode", "repeatable", "_once", "asked")

    def __init__(
        self,
        method: str,
        path: str,
        body: Any,
        decode: Callable[[Reply], T],
        repeatable: bool = True,
        spends: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        if type(body) is not str:
            body = "" if body is None else _encode(body)
        self.body: bytes = body.encode("utf-8", "surrogatepass")
        self._decode = decode
        self.repeatable = repeatable
        #: The items of a hold, for the code that decides in the server's place.
        self.asked: List[Tuple[str, int]] = []
        self._once = _keys.line() if spends else ""

    def decode(self, reply: Reply) -> T:
        """What a reply means; :class:`FlintServerError` for an error, and for a reply that is not from Flint."""
        try:
            return self._decode(reply)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            message = "the reply is not from Flint: is another program listening there?"
            raise FlintServerError(reply.status, "invalid_response", message) from None

    def request(self, host: str, prefix: str, authorization: str) -> bytes:
        """The bytes to send."""
        line = f"{self.method} {prefix}{self.path} HTTP/1.1\r\nHost: {host}\r\n"
        head = f"{line}Content-Length: {len(self.body)}\r\n{authorization}{self._once}\r\n"
        return head.encode("ascii") + self.body


def _json(reply: Reply) -> Any:
    text = reply.body.decode("utf-8")
    try:
        found, end = _scan(text, 0)
    except StopIteration:
        return _decode(text)
    return found if end == len(text) else _decode(text)


def _checked(reply: Reply) -> Any:
    """The reply's JSON; raises what an error says."""
    if reply.status == 200:
        return _json(reply)
    code, message = "invalid_response", "HTTP status %d" % reply.status
    try:
        error = json.loads(reply.body)
        code, message = str(error["code"]), str(error["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise FlintServerError(reply.status, code, message, retry_after(reply.headers))


def is_unknown(reply: Reply) -> bool:
    """Whether the server says that the request may or may not have been carried out."""
    if reply.status != 503:
        return False
    try:
        _checked(reply)
    except FlintServerError as error:
        return error.code == "outcome_unknown"
    return False


def _ignore(reply: Reply) -> None:
    _checked(reply)


#: How many fields decisions usually have, and the fields that some have in addition.
_PLAIN_FIELDS = 10
_RARE_FIELDS = ("debt", "window", "windows", "pattern", "overflow", "shadow", "would_deny")


def _result(decision: Dict[str, Any], reply: Optional[Reply]) -> CheckResult:
    """A decision, with the headers of its reply if they are about this decision."""
    found = {
        "key": decision["key"],
        "allowed": decision["allowed"],
        "cost": decision["cost"],
        "limit": decision["limit"],
        "remaining": decision["remaining"],
        # Without a limit there is neither.
        "reset_at": decision["reset_at"] or "",
        "retry_after_ms": decision["retry_after_ms"],
        "algorithm": decision["algorithm"] or "",
        "used": decision.get("used"),
        "next_ms": decision.get("next_ms"),
    }
    if len(decision) > _PLAIN_FIELDS:
        found.update((name, decision[name]) for name in _RARE_FIELDS if name in decision)
    if reply is not None:
        found["rate_limit_policy"], found["rate_limit"] = reply.field("ratelimit-policy"), reply.field("ratelimit")
    return CheckResult.of(found)


# ---- the server, and configuring


def _path(key: Optional[str]) -> str:
    if not isinstance(key, str):
        raise TypeError("key must be a str, not %s" % type(key).__name__)
    return "/v1/limits/" + quote(key, safe="", errors="surrogatepass")


def health() -> Call[Dict[str, Any]]:
    def decode(reply: Reply) -> Dict[str, Any]:
        if reply.status == 503:
            found: Dict[str, Any] = _json(reply)
            if found.get("ok") is False:
                # A log that has failed is an answer too.
                return found
        return _object(reply)

    return Call("GET", "/v1/health", None, decode)


def limit(key: str, windows: Any, lasts: Optional[_values.Duration], fields: Dict[str, Any]) -> Call[bool]:
    body: Dict[str, Any] = {"key": key}
    if windows is not None:
        body["windows"] = _values.windows(windows)
    body.update((name, value) for name, value in fields.items() if value is not None)
    if "per" in body:
        body["per"] = _values.duration(body["per"])
    if lasts is not None:
        found = _values.duration(lasts)
        body["for"] = found if isinstance(found, str) else "%ds" % found
    return Call("POST", "/v1/limits", body, lambda reply: bool(_checked(reply)["created"]))


# ---- deciding: what spends is known again by the server if it comes twice


def _asked(key: str, cost: int, limit: Optional[_values.Limit]) -> Any:
    """The body of a check."""
    if type(key) is str and type(cost) is int and (limit is None or type(limit) is str):
        if limit is None:
            return f'{{"key":{_quoted(key)},"cost":{cost}}}'
        return f'{{"key":{_quoted(key)},"cost":{cost},"limit":{_quoted(limit)}}}'
    body: Dict[str, Any] = {"key": key, "cost": cost}
    if limit is not None:
        body["limit"] = _values.limit(limit)
    return body


def _one(reply: Reply) -> CheckResult:
    return _result(_checked(reply), reply)


def _all(reply: Reply) -> CheckAllResult:
    found: CheckAllResult = _checked(reply)
    return {"allowed": found["allowed"], "denied_key": found["denied_key"], "results": found["results"]}


def check(key: str, cost: int, limit: Optional[_values.Limit]) -> Call[CheckResult]:
    return Call("POST", "/v1/check", _asked(key, cost, limit), _one, spends=True)


def peek(key: str, cost: int, limit: Optional[_values.Limit]) -> Call[CheckResult]:
    return Call("POST", "/v1/peek", _asked(key, cost, limit), _one)


def _item(item: Item, limit: Any) -> Any:
    """An item as the server takes it; ``limit`` is what it brings where it names none itself."""
    if isinstance(item, Mapping):
        found = dict(item)
        if found.get("limit") is not None:
            found["limit"] = _values.limit(found["limit"])
        elif limit is not None:
            found["limit"] = limit
        return found
    if limit is None:
        return item
    if isinstance(item, str):
        return {"key": item, "limit": limit}
    # What is wrong with an item is the server's to say.
    return {"key": item[0], "cost": item[1], "limit": limit} if len(item) == 2 else item


def _items(items: Iterable[Item], limit: Optional[_values.Limit]) -> List[Any]:
    if isinstance(items, (str, bytes, Mapping)):
        raise TypeError("items must be a list of keys, {'key', 'cost', 'limit'} or (key, cost), not one of them")
    brought = _values.limit(limit)
    return [_item(item, brought) for item in items]


def check_all(items: Iterable[Item], limit: Optional[_values.Limit]) -> Call[CheckAllResult]:
    return Call("POST", "/v1/check-all", {"items": _items(items, limit)}, _all, spends=True)


def peek_all(items: Iterable[Item], limit: Optional[_values.Limit]) -> Call[CheckAllResult]:
    return Call("POST", "/v1/peek", {"items": _items(items, limit)}, _all)


def take(items: List[Dict[str, Any]]) -> Call[CheckResult]:
    """Spends units of all items or of none; the result is the decision of the item that denies, else of the item with
    the least left."""
    if len(items) == 1:
        item = items[0]
        body: Any = item
        if type(item["key"]) is str and type(item["cost"]) is int:
            limit = item.get("limit")
            end = "}" if limit is None else f',"limit":{_quoted(limit) if type(limit) is str else _encode(limit)}}}'
            body = f'{{"key":{_quoted(item["key"])},"cost":{item["cost"]}{end}'
        return Call("POST", "/v1/check", body, _one, spends=True)

    def decode(reply: Reply) -> CheckResult:
        results = _checked(reply)["results"]
        binding = results[-1] if not results[-1]["allowed"] else min(results, key=_left)
        return _result(binding, reply)

    return Call("POST", "/v1/check-all", {"items": items}, decode, spends=True)


def _left(decision: Dict[str, Any]) -> float:
    return float("inf") if decision["remaining"] is None else float(decision["remaining"])


#: The statuses of errors that an item may have, but for those of 400.
_STATUSES = {
    "forbidden": 403,
    "limit_not_configured": 404,
    "overloaded": 503,
    "log_failed": 503,
    "store_unavailable": 503,
    "outcome_unknown": 503,
}


def check_many(
    items: Iterable[Item], limit: Optional[_values.Limit]
) -> Call[List[Union[CheckResult, FlintServerError]]]:
    def one(result: Dict[str, Any]) -> Union[CheckResult, FlintServerError]:
        if "error" in result:
            # An item has no HTTP status.
            code = str(result.get("code"))
            return FlintServerError(_STATUSES.get(code, 400), code, str(result["error"]))
        return _result(result, None)

    def decode(reply: Reply) -> List[Union[CheckResult, FlintServerError]]:
        results = [one(result) for result in _checked(reply)["results"]]
        if len(results) != len(asked):
            raise ValueError("not as many results as items")
        return results

    asked = _items(items, limit)
    return Call("POST", "/v1/check-many", {"items": asked}, decode, spends=True)


# ---- holds, charges and refunds


@dataclass
class Held:
    """The answer to a hold: how each item was decided, and where all were allowed the hold's id and times."""

    results: List[CheckResult]
    id: Optional[str] = None
    expires_at: str = ""
    ttl_ms: int = 0

    @property
    def binding(self) -> CheckResult:
        """The decision of the item that denies, else of the item with the least left."""
        last = self.results[-1]
        return last if not last.allowed else min(self.results, key=_least)


def hold(
    key: Union[str, Iterable[Item]], cost: int, ttl: Optional[_values.Duration], limit: Optional[_values.Limit]
) -> Call[Held]:
    body: Dict[str, Any]
    if isinstance(key, str):
        body = {"key": key, "cost": cost}
        if limit is not None:
            body["limit"] = _values.limit(limit)
    elif cost != 1:
        raise TypeError("cost is for a single key: give each of several keys its own, (key, cost)")
    else:
        body = {"items": _items(key, limit)}
    if ttl is not None:
        body["ttl"] = _values.duration(ttl)

    def decode(reply: Reply) -> Held:
        found = _checked(reply)
        results = [_result(each, reply) for each in found.get("results", [found])]
        if not found["allowed"]:
            return Held(results)
        if not isinstance(found["hold"], str):
            raise TypeError("no hold")
        return Held(results, found["hold"], found["expires_at"], found["ttl_ms"])

    call = Call("POST", "/v1/hold", body, decode, spends=True)
    call.asked = [(key, cost)] if isinstance(key, str) else [_priced(item) for item in body["items"]]
    return call


def _priced(item: Any) -> Tuple[str, int]:
    if isinstance(item, Mapping):
        return str(item["key"]), int(item.get("cost") or 1)
    return (item, 1) if isinstance(item, str) else (str(item[0]), int(item[1]))


def settle(hold: str, cost: Union[int, Mapping[str, int], None]) -> Call[Settlement]:
    """Settling twice with the same cost does no harm."""
    body: Dict[str, Any] = {"hold": hold}
    if isinstance(cost, Mapping):
        body["costs"] = dict(cost)
    elif cost is not None:
        body["cost"] = cost

    def decode(reply: Reply) -> Settlement:
        found: Settlement = _checked(reply)
        return {"late": found["late"], "results": found["results"]}

    return Call("POST", "/v1/settle", body, decode)


def renew(hold: str, ttl: Optional[_values.Duration]) -> Call[Tuple[str, int]]:
    body: Dict[str, Any] = {"hold": hold}
    if ttl is not None:
        body["ttl"] = _values.duration(ttl)

    def decode(reply: Reply) -> Tuple[str, int]:
        found = _checked(reply)
        return str(found["expires_at"]), int(found["ttl_ms"])

    return Call("POST", "/v1/renew", body, decode)


def charge(key: str, cost: int, limit: Optional[_values.Limit]) -> Call[LimitStatus]:
    return Call("POST", "/v1/charge", _asked(key, cost, limit), _its_status, spends=True)


def refund(key: str, cost: int, limit: Optional[_values.Limit]) -> Call[LimitStatus]:
    return Call("POST", "/v1/refund", _asked(key, cost, limit), _its_status, spends=True)


def _its_status(reply: Reply) -> LimitStatus:
    return _status(_checked(reply))


def _least(result: CheckResult) -> float:
    return float("inf") if result.remaining is None else float(result.remaining)


# ---- looking, resetting and removing


def _status(found: LimitStatus) -> LimitStatus:
    if not isinstance(found["key"], str):
        raise TypeError("no key")
    return found


def _statuses(reply: Reply) -> List[LimitStatus]:
    found = _checked(reply)
    if not isinstance(found, list):
        raise TypeError("no list")
    return [_status(status) for status in found]


def _object(reply: Reply) -> Dict[str, Any]:
    found: Dict[str, Any] = _checked(reply)
    if not isinstance(found["ok"], bool):
        raise TypeError("no ok")
    return found


def status(key: str) -> Call[Optional[LimitStatus]]:
    def decode(reply: Reply) -> Optional[LimitStatus]:
        try:
            return _status(_checked(reply))
        except FlintServerError as error:
            if error.code == "limit_not_configured":
                return None
            raise

    return Call("GET", _path(key), None, decode)


def page(prefix: str, live: bool, pattern: Optional[str], after: Optional[str]) -> Call[List[LimitStatus]]:
    query = "/v1/limits?limit=%d" % LIST_PAGE
    if live:
        query += "&live=true"
    for name, text in (("prefix", prefix or None), ("pattern", pattern), ("after", after)):
        if text is not None:
            query += "&%s=%s" % (name, quote(text, safe="", errors="surrogatepass"))
    return Call("GET", query, None, _statuses)


def top(by: str, limit: int) -> Call[List[LimitStatus]]:
    return Call("GET", "/v1/top?by=%s&limit=%d" % (quote(by, safe=""), limit), None, _statuses)


def _key_or_prefix(key: Optional[str], prefix: Optional[str]) -> None:
    if (key is None) == (prefix is None):
        raise TypeError("either a key or a prefix must be given")


def reset(key: Optional[str], prefix: Optional[str]) -> Call[None]:
    _key_or_prefix(key, prefix)
    return Call("POST", "/v1/reset", {"key": key} if prefix is None else {"prefix": prefix}, _ignore)


def remove(key: Optional[str], prefix: Optional[str]) -> Call[int]:
    _key_or_prefix(key, prefix)
    if prefix is not None:
        path = "/v1/limits?prefix=" + quote(prefix, safe="", errors="surrogatepass")
        return Call("DELETE", path, None, lambda reply: int(_checked(reply)["removed"]))

    def one(reply: Reply) -> int:
        _checked(reply)
        return 1

    # The second time, it would answer that there is no such limit.
    return Call("DELETE", _path(key), None, one, repeatable=False)


# ---- the log


def flush() -> Call[None]:
    return Call("POST", "/v1/log/flush", None, _ignore)


def compact() -> Call[Dict[str, Any]]:
    return Call("POST", "/v1/log/compact", None, _object)


def doctor() -> Call[Dict[str, Any]]:
    return Call("GET", "/v1/doctor", None, _object)
