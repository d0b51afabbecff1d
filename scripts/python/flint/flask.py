"""Flask: a handler for :class:`flint.RateLimitExceeded`.

    app.register_error_handler(flint.RateLimitExceeded, flint.flask.rate_limit_exceeded)
"""

from __future__ import annotations

from typing import Dict, Tuple

from ._http import denial
from ._results import RateLimitExceeded


def rate_limit_exceeded(error: RateLimitExceeded) -> Tuple[bytes, int, Dict[str, str]]:
    """Answers a denial with 429."""
    headers, body = denial(error.result)
    return body, 429, dict(headers)
