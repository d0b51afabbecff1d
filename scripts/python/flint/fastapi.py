"""FastAPI and Starlette: a dependency that guards, and a handler for :class:`flint.RateLimitExceeded`.

    app = fastapi.FastAPI()
    app.add_exception_handler(flint.RateLimitExceeded, flint.fastapi.rate_limit_exceeded)

    @app.get("/", dependencies=[fastapi.Depends(flint.fastapi.RateLimit(limiter, limit="100/1m"))])
    async def root(): ...
"""

# No annotations as strings: FastAPI reads those of the dependency.

from typing import TYPE_CHECKING, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ._guard import Guard, Guards, GuardValues, Limiter
from ._http import denial, denial_fields, fields, message
from ._results import CheckResult, RateLimitExceeded

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Denied(RateLimitExceeded, HTTPException):
    """A denial that FastAPI answers with 429 by itself."""

    def __init__(self, result: CheckResult) -> None:
        RateLimitExceeded.__init__(self, result)
        self.status_code = 429
        self.detail = message(result)
        self.headers = dict(denial_fields(result))


class RateLimit:
    """A dependency: the request goes on only if its quota allows. ``dependencies=[Depends(RateLimit(...))]``.

    Args:
        limiter: the limiter that decides.
        guards: what is counted, if there are several guards: all are spent, or none.
        values: the arguments of one more :class:`flint.Guard`, whose functions are called with the ``Request``.
    """

    def __init__(self, limiter: Limiter, guards: Sequence[Guard] = (), **values: "Unpack[GuardValues]") -> None:
        self._guards = Guards(limiter, guards, values)

    async def __call__(self, request: Request, response: Response) -> None:
        items = self._guards.items(request, request.scope, None)
        if items:
            result = await self._guards.atake(items)
            if not result.allowed:
                raise Denied(result)
            response.headers.update(dict(fields(result)))


async def rate_limit_exceeded(request: Request, error: Exception) -> Response:
    """Answers a denial with 429: ``app.add_exception_handler(flint.RateLimitExceeded, rate_limit_exceeded)``."""
    if not isinstance(error, RateLimitExceeded):
        raise error
    headers, body = denial(error.result)
    return Response(body, status_code=429, headers=dict(headers))
