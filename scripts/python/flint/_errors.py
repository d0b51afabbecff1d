"""The failures of the package. A denial is not a failure: :class:`flint.RateLimitExceeded` is defined next to the
results."""

from __future__ import annotations

from typing import Any, Optional, Tuple

#: Statuses that say that the service is unavailable at the moment: the server's own 503 (``overloaded``, ``log_failed``,
#: ``store_unavailable``, ``outcome_unknown``), and what a reverse proxy answers when it cannot reach the server.
UNAVAILABLE_STATUSES = frozenset({502, 503, 504})


class FlintError(RuntimeError):
    """The base class of every failure of this package. A denial is not a failure and raises none of these."""


class FlintServerError(FlintError):
    """The server answered, and the answer is an error.

    Attributes:
        status: the HTTP status (400, 401, 403, 404, 413, 503, ...).
        code: the stable word for programs: ``invalid_argument``, ``unauthorized``, ``forbidden``,
            ``cost_exceeds_capacity``, ``limit_not_configured``, ``overloaded``, ``log_failed`` and the like.
            ``outcome_unknown`` when the server itself does not know whether the request was carried out.
            ``invalid_response`` when the answer is not from Flint (another program listens at this address).
        message: the sentence for people.
        retry_after: seconds after which to try again, if the server named them; else None.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: Optional[float] = None) -> None:
        super().__init__("%d %s: %s" % (status, code, message))
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def __reduce__(self) -> Tuple[Any, ...]:
        return (type(self), (self.status, self.code, self.message, self.retry_after))

    @property
    def unavailable(self) -> bool:
        """Whether the service as a whole is unavailable at the moment (502, 503, 504)."""
        return self.status in UNAVAILABLE_STATUSES


class FlintConnectionError(FlintError):
    """No complete answer came from the server.

    Attributes:
        request_sent: False when the server cannot have carried out the request (it never received all of it): trying
            again is safe. True when it may have carried it out: a check may have spent its cost.
        reason: ``"connect"`` (no connection), ``"timeout"``, ``"closed"`` (the connection broke), ``"protocol"``
            (the answer is not HTTP, or over a bound) or ``"open"`` (not asked, because the server has not answered for
            a while).
    """

    def __init__(self, message: str, *, request_sent: bool = False, reason: str = "closed") -> None:
        super().__init__(message)
        self.request_sent = request_sent
        self.reason = reason

    def __reduce__(self) -> Tuple[Any, ...]:
        return (_connection_error, (str(self), self.request_sent, self.reason))


class HoldLost(FlintError):
    """A hold that ``slot`` renews expired before the end of its block: it could not be renewed in time, or the server no
    longer knows it. Others may have the slot by now.

    Attributes:
        key: the slot's key; of several, the first.
        why: what happened.
    """

    def __init__(self, key: str, why: str) -> None:
        super().__init__("the hold on %r is lost: %s" % (key, why))
        self.key = key
        self.why = why

    def __reduce__(self) -> Tuple[Any, ...]:
        return (type(self), (self.key, self.why))


def _connection_error(message: str, request_sent: bool, reason: str) -> FlintConnectionError:
    return FlintConnectionError(message, request_sent=request_sent, reason=reason)
