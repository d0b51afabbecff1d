"""What a guarded application answers: header fields of every answer, and the 429 of a denial."""

from __future__ import annotations

import json
import math
from typing import List, Tuple

from ._results import CheckResult

Fields = List[Tuple[str, str]]


def fields(result: CheckResult) -> Fields:
    """Header fields of any answer."""
    found = [("RateLimit-Policy", result.rate_limit_policy), ("RateLimit", result.rate_limit)]
    return [(name, value) for name, value in found if value]


def message(result: CheckResult) -> str:
    """A denial, for people."""
    wait = _wait(result)
    return "too many requests" + ("" if wait is None else "; try again in %d s" % wait)


def denial_fields(result: CheckResult) -> Fields:
    """Header fields of a 429, but those of its body."""
    found = [("Cache-Control", "no-store")]
    wait = _wait(result)
    if wait is not None:
        found.append(("Retry-After", str(wait)))
    return found + fields(result)


def denial(result: CheckResult) -> Tuple[Fields, bytes]:
    """Header fields and body of a 429."""
    body = json.dumps({"error": message(result), "code": "rate_limited"}).encode() + b"\n"
    own = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return own + denial_fields(result), body


def encoded_fields(result: CheckResult) -> List[Tuple[bytes, bytes]]:
    """:func:`fields` as ASGI has them."""
    found = ((b"ratelimit-policy", result.rate_limit_policy), (b"ratelimit", result.rate_limit))
    return [(name, value.encode("latin-1")) for name, value in found if value]


def encoded(headers: Fields) -> List[Tuple[bytes, bytes]]:
    """Header fields as ASGI has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _wait(result: CheckResult) -> "int | None":
    return None if result.retry_after_ms is None else max(1, math.ceil(result.retry_after_ms / 1000))
