"""The calls of the HTTP API: what is sent and what comes back, without a connection.

Owns the requests' bytes and the meaning of replies. Threads and asyncio send the same calls.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Generic, Iterable, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union
from urllib.parse import quote

from ._bounds import LIST_PAGE
from ._errors import FlintServerError
from ._reply import Reply, retry_after
from ._results import CheckAllResult, CheckResult, LimitStatus

T = TypeVar("T")

#: An item of ``check_all``: a key, ``{"key": ..., "cost": ...}`` or ``(key, cost)``.
Item = Union[str, Mapping[str, Any], Tuple[str, int], Sequence[Any]]


# ``json.dumps`` with arguments, and ``json.loads`` of bytes, set up their machinery anew for each call.
_encode = json.JSONEncoder(ensure_ascii=False).encode
_decode = json.JSONDecoder().decode


class Call(Generic[T]):
    """One request, and what its reply means.

    Attributes:
        repeatable: the server may get it twice without harm. A check spends quota each time, so it is not.
    """

    __slots__ = ("method", "path", "body", "_decode", "repeatable")

    def __init__(
        self, method: str, path: str, body: Any, decode: Callable[[Reply], T], repeatable: bool = True
    ) -> None:
        self.method = method
        self.path = path
        self.body = b"" if body is None else _encode(body).encode("utf-8", "surrogatepass")
        self._decode = decode
        self.repeatable = repeatable

    def decode(self, reply: Reply) -> T:
        """What a reply means; :class:`FlintServerError` for an error, and for what Flint does not say."""
        try:
            return self._decode(reply)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            message = "the reply is none of Flint's: is another program listening there?"
            raise FlintServerError(reply.status, "invalid_response", message) from None

    def request(self, host: str, prefix: str, authorization: str) -> bytes:
        """The bytes to send."""
        head = "%s %s%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n%s\r\n" % (
            self.method,
            prefix,
            self.path,
            host,
            len(self.body),
            authorization,
        )
        return head.encode("ascii") + self.body


def _json(reply: Reply) -> Any:
    return _decode(reply.body.decode("utf-8"))


def _checked(reply: Reply) -> Any:
    """The reply's JSON; raises what an error says."""
    if reply.status == 200:
        return _json(reply)
    code, message = "invalid_response", "HTTP status %d" % reply.status
    try:
        error = json.loads(reply.body)
        code, message = str(error["code"]), str(error["error"])
    except (ValueError, KeyError, TypeError):
        pass
    raise FlintServerError(reply.status, code, message, retry_after(reply.headers))


def _ignore(reply: Reply) -> None:
    _checked(reply)


def _result(decision: Dict[str, Any], headers: Mapping[str, str]) -> CheckResult:
    return CheckResult(
        key=decision["key"],
        allowed=decision["allowed"],
        cost=decision["cost"],
        limit=decision["limit"],
        remaining=decision["remaining"],
        reset_at=decision["reset_at"],
        retry_after_ms=decision["retry_after_ms"],
        algorithm=decision["algorithm"],
        rate_limit_policy=headers.get("ratelimit-policy", ""),
        rate_limit=headers.get("ratelimit", ""),
    )


def _path(key: str) -> str:
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


def limit(key: str, rate: int, per: Union[str, int], algorithm: Optional[str], burst: Optional[int]) -> Call[bool]:
    body: Dict[str, Any] = {"key": key, "rate": rate, "per": per}
    if algorithm is not None:
        body["algorithm"] = algorithm
    if burst is not None:
        body["burst"] = burst
    return Call("POST", "/v1/limits", body, lambda reply: bool(_checked(reply)["created"]))


def check(key: str, cost: int) -> Call[CheckResult]:
    body = {"key": key, "cost": cost}
    return Call("POST", "/v1/check", body, lambda reply: _result(_checked(reply), reply.headers), repeatable=False)


def _items(items: Iterable[Item]) -> List[Any]:
    if isinstance(items, (str, bytes, Mapping)):
        raise TypeError("items must be a list of keys, {'key', 'cost'} or (key, cost), not one of them")
    return [dict(item) if isinstance(item, Mapping) else item for item in items]


def check_all(items: Iterable[Item]) -> Call[CheckAllResult]:
    def decode(reply: Reply) -> CheckAllResult:
        found: CheckAllResult = _checked(reply)
        return {"allowed": found["allowed"], "denied_key": found["denied_key"], "results": found["results"]}

    return Call("POST", "/v1/check-all", {"items": _items(items)}, decode, repeatable=False)


def check_many(items: Iterable[Item]) -> Call[List[Union[CheckResult, FlintServerError]]]:
    def one(result: Dict[str, Any]) -> Union[CheckResult, FlintServerError]:
        if "error" in result:
            # An item has no status of its own; these codes are those of 400 and 404.
            status = 404 if result.get("code") == "limit_not_configured" else 400
            return FlintServerError(status, str(result.get("code")), str(result["error"]))
        return _result(result, {})

    def decode(reply: Reply) -> List[Union[CheckResult, FlintServerError]]:
        results = [one(result) for result in _checked(reply)["results"]]
        if len(results) != len(asked):
            raise ValueError("not as many results as items")
        return results

    asked = _items(items)
    return Call("POST", "/v1/check-many", {"items": asked}, decode, repeatable=False)


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


def page(prefix: str, after: Optional[str]) -> Call[List[LimitStatus]]:
    query = "/v1/limits?limit=%d" % LIST_PAGE
    if prefix:
        query += "&prefix=" + quote(prefix, safe="")
    if after is not None:
        query += "&after=" + quote(after, safe="")

    return Call("GET", query, None, _statuses)


def top(by: str, limit: int) -> Call[List[LimitStatus]]:
    return Call("GET", "/v1/top?by=%s&limit=%d" % (quote(by, safe=""), limit), None, _statuses)


def reset(key: str) -> Call[None]:
    return Call("POST", "/v1/reset", {"key": key}, _ignore)


def remove(key: str) -> Call[None]:
    # Twice, it would answer that there is no such limit.
    return Call("DELETE", _path(key), None, _ignore, repeatable=False)


def flush() -> Call[None]:
    return Call("POST", "/v1/log/flush", None, _ignore)


def compact() -> Call[Dict[str, Any]]:
    return Call("POST", "/v1/log/compact", None, _object)


def doctor() -> Call[Dict[str, Any]]:
    return Call("GET", "/v1/doctor", None, _object)
