"""Flint: a durable rate limiter. This package is the client of ``flint server start``.

    import flint
    limiter = flint.SharedLimiter("http://127.0.0.1:7878", token="dev-secret")
    limiter.limit("api:user-42", rate=100, per="1m")
    if limiter.allow("api:user-42"):
        ...
    limiter.check("visitor:7", limit="5/1m")    # no configuration needed

See ``man flint-python``.
"""

from __future__ import annotations

from ._client import SharedLimiter
from ._errors import FlintConnectionError, FlintError, FlintServerError, HoldLost
from ._guard import Guard
from ._hold import AsyncSlot, Hold, Slot
from ._origin import client_address
from ._server import Server
from ._results import CheckAllResult, CheckResult, Decision, LimitStatus, RateLimitExceeded, Settlement
from ._values import Limit, LimitValues, Window
from .middleware import ASGIMiddleware, WSGIMiddleware

__version__ = "0.1.0"

__all__ = [
    "ASGIMiddleware",
    "AsyncSlot",
    "CheckAllResult",
    "CheckResult",
    "Decision",
    "FlintConnectionError",
    "FlintError",
    "FlintServerError",
    "Guard",
    "Hold",
    "HoldLost",
    "Limit",
    "LimitStatus",
    "LimitValues",
    "RateLimitExceeded",
    "Server",
    "Settlement",
    "SharedLimiter",
    "Slot",
    "WSGIMiddleware",
    "Window",
    "client_address",
]
