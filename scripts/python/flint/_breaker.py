"""A circuit breaker: while the server does not answer, checks do not wait for it.

It opens after some failures in a row. From then on only a probe is sent, at most once a second, in a separate thread, so
that no caller waits for it; the first probe that succeeds closes the breaker. If nothing was asked for a while, so that no
probe was sent either, the next call is let through as a probe.

No lock: threads that meet here may count a failure too few or send a probe too many, and forks and signal handlers find
nothing held.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable, Optional

from ._bounds import BREAKER_FAILURES, PROBE_EVERY_SECONDS
from ._errors import FlintConnectionError, FlintError, FlintServerError

_log = logging.getLogger("flint")


class Breaker:
    """Of one limiter.

    Args:
        url: the server's, for messages.
        probe: asks the server; raises FlintError where it gave no answer.
        clock: seconds that never go back.
    """

    def __init__(self, url: str, probe: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._probe = probe
        self._clock = clock
        self._failures = 0
        self._last: Optional[FlintError] = None
        self._next_probe = 0.0
        # When something was known last.
        self._known = 0.0

    @property
    def is_open(self) -> bool:
        """Whether checks are not asked at the moment."""
        return self._last is not None

    def enter(self) -> None:
        """Raises if nothing is to be asked."""
        last = self._last
        if last is None:
            return
        now = self._clock()
        if now - self._known > 2 * PROBE_EVERY_SECONDS:
            self._known = now
            return
        if now >= self._next_probe:
            self._next_probe = now + PROBE_EVERY_SECONDS
            try:
                threading.Thread(target=self._ask, name="flint-probe", daemon=True).start()
            except RuntimeError:
                # No more threads, or the end of the interpreter: later.
                pass
        message = "%s was not asked: it did not answer %d times in a row, the last time: %s"
        raise FlintConnectionError(message % (self._url, BREAKER_FAILURES, last), reason="open")

    def succeeded(self) -> None:
        """The server has answered."""
        if self._failures:
            self._failures = 0
        if self._last is not None:
            self._last = None
            _log.warning("%s answers again", self._url)

    def failed(self, error: FlintError) -> None:
        """A call has failed with this error."""
        if isinstance(error, FlintServerError) and error.status not in (502, 504):
            # That is an answer, and no wait for one.
            self.succeeded()
            return
        if isinstance(error, FlintConnectionError) and error.reason == "open":
            return
        self._known = self._clock()
        if self._last is not None:
            return
        self._failures += 1
        if self._failures >= BREAKER_FAILURES:
            self._next_probe = self._known + PROBE_EVERY_SECONDS
            self._last = error
            message = "%s did not answer %d times in a row: checks do not wait for it until it does: %s"
            _log.warning(message, self._url, self._failures, error)

    def _ask(self) -> None:
        try:
            self._probe()
        except FlintError as error:
            self.failed(error)
        else:
            self.succeeded()
