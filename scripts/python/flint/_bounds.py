"""Every size, count and time bound of the client, each with its unit and its reason.

Bounds of the service itself (key length, rate, period, items in one ``check_all``) are the server's to decide and to
name in its error; they are deliberately not repeated here.
"""

from __future__ import annotations

#: The server's default address.
DEFAULT_URL = "http://127.0.0.1:7878"

#: Seconds for one call: connecting, sending and reading the whole reply together.
DEFAULT_TIMEOUT_SECONDS = 10.0

#: Seconds that a guard waits for a decision: a request of a web application must not hang with the limiter.
GUARD_TIMEOUT_SECONDS = 0.25

#: Failures in a row after which checks do not wait for the server any more.
BREAKER_FAILURES = 5

#: Seconds between two probes of a server that does not answer, and for one of them at most.
PROBE_EVERY_SECONDS = 1.0

#: Seconds that a private server has for its start: a large log is read then.
START_TIMEOUT_SECONDS = 60.0

#: Calls of ``limit()`` that are kept while the server is away.
MAX_OWED = 1000

#: Bytes of a key, and the largest cost, as the server has them: a guard keeps to them, whatever a client sends.
MAX_KEY_BYTES = 512
MAX_COST = 1_000_000_000_000

#: Bytes of a guard's prefix: a hash has room after it.
MAX_PREFIX_BYTES = 256

#: Connections kept open while idle, for each limiter and process. More may be in use at once, one for each thread.
IDLE_CONNECTIONS = 64

#: Connections of one event loop at once; more calls wait for one of them, within their timeout. Few enough that some
#: processes stay below the server's bound of 1024, and many enough to share its disk syncs.
TASK_CONNECTIONS = 64

#: Seconds after which an idle connection is given up by this side, so that a check rarely meets the moment in which the
#: server gives it up (after 60 s by default).
MAX_IDLE_SECONDS = 20.0

#: Bytes of a reply's status line and header fields together.
MAX_HEAD_BYTES = 32 * 1024

#: Bytes of a reply's body. A page of 1000 limits takes well under 2 MiB.
MAX_BODY_BYTES = 64 * 1024 * 1024

#: Bytes asked for in one read.
READ_BYTES = 64 * 1024

#: Characters of a bearer token.
MAX_TOKEN_CHARS = 4096

#: Limits asked for with one request by ``list()``.
LIST_PAGE = 1000

#: Milliseconds a degraded denial asks its caller to wait when the server named no time.
DEGRADED_RETRY_MS = 1000

#: Seconds between two warnings that checks are decided without the server.
WARN_EVERY_SECONDS = 60.0

#: Seconds that a slot lasts unless it is renewed, which is done at a third of them: a process that was killed frees it then.
SLOT_TTL_SECONDS = 30

#: Slots of a limit, and seconds of a hold, as the server has them, for the one in memory.
MAX_SLOTS = 1_000_000
MIN_HOLD_SECONDS = 1
MAX_HOLD_SECONDS = 86_400
DEFAULT_HOLD_SECONDS = 60

#: Seconds for which a hold that was settled or has expired is remembered.
HOLD_MEMORY_SECONDS = 600

#: Open holds that the status of a key lists.
MAX_HOLDS_LISTED = 1000
