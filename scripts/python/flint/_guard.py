"""What a guard is: the quota of a request or a call, and when none is needed. The decorator, the middlewares and the
dependencies are thin shells around it.

Nothing is configured by a guard, so that what an operator configures stays as it is, and a key that is used no more
leaves nothing on the server. One guarded request is one request to the server, however many guards and windows it has:
all of them are spent, or none.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Optional,
    Protocol,
    Sequence,
    TypedDict,
    TypeVar,
    Union,
    cast,
)

from . import _origin
from ._bounds import GUARD_TIMEOUT_SECONDS, MAX_COST, MAX_KEY_BYTES, MAX_PREFIX_BYTES
from ._errors import FlintServerError
from ._results import CheckResult, RateLimitExceeded, never_result
from ._values import ON_ERROR, Algorithm, Duration, Limit, OnError, limit as limit_values, seconds, values

F = TypeVar("F", bound=Callable[..., Any])
Key = Union[str, Callable[..., Any]]
Cost = Union[int, Callable[..., int]]
Brought = Union[Limit, Callable[..., Optional[Limit]]]

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class GuardValues(TypedDict, total=False):
    """The arguments of a :class:`Guard`, as shells take them."""

    limit: Optional[Brought]
    key: Key
    prefix: Optional[str]
    cost: Cost
    exempt: Union[Iterable[str], Callable[[Any], bool]]
    rate: Optional[int]
    per: Optional[Duration]
    algorithm: Optional[Algorithm]
    burst: Optional[int]
    trusted_proxies: Iterable[str]
    ipv6_prefix: int
    on_error: Optional[OnError]
    timeout: float


class Limiter(Protocol):
    """What quota is taken from: as much of :class:`flint.SharedLimiter` as is used here."""

    def _take(self, items: List[Dict[str, Any]], timeout: float, on_error: Optional[OnError]) -> CheckResult: ...

    async def _atake(self, items: List[Dict[str, Any]], timeout: float, on_error: Optional[OnError]) -> CheckResult: ...


def fit(key: Any, prefix: str) -> str:
    """A key as the server takes it. What a client sent may be too long, or hold anything: that is hashed."""
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    elif isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    elif not isinstance(key, str):
        raise TypeError("a guard's key must be a str, not %s" % type(key).__name__)
    whole = "%s:%s" % (prefix, key) if prefix else str(key)
    if len(whole) <= MAX_KEY_BYTES and whole.isascii() and whole.isprintable() and whole.strip():
        # As a rule.
        return whole
    if not _CONTROL.search(whole) and whole.strip() and len(whole.encode("utf-8")) <= MAX_KEY_BYTES:
        return whole
    hashed = "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return "%s:%s" % (prefix, hashed) if prefix else hashed


class Guard:
    """The quota of a web request: by which key it is counted, what it costs and which requests are free.

    Args:
        limit: the limit if none is configured for the key: ``"100/1m"``, ``["3/10s", "100/1d"]``, a dict, or a function
            of the request that returns such a value (for tiers of users); None to use only configured limits.
        key: the limit's key, or a function of the request; if it returns None, the request passes. Text that can't be
            a key is hashed.
        prefix: text before the key, followed by a colon. By default the application's name if no key is given, so that
            two applications have separate quotas, and otherwise nothing.
        cost: units of a request, or a function of the request; with 0 it passes.
        exempt: paths that are free, or a function of the request that returns whether it is. ``OPTIONS`` always is.
        rate, per, algorithm, burst: another way to give a limit of one window.
        trusted_proxies: if no key is given: reverse proxies whose ``X-Forwarded-For`` is believed.
        ipv6_prefix: if no key is given: how many bits of an IPv6 address count.
        on_error: what happens while the server can't decide: ``"raise"``, ``"allow"``, ``"deny"`` or ``"local"``; by
            default as for the limiter.
        timeout: how many seconds a request waits for a decision at most.

    If a request has several guards, ``on_error`` and ``timeout`` of the first guard apply. Functions are called with
    what the middleware or framework has: an environ, a scope, or a request.
    """

    def __init__(
        self,
        limit: Optional[Brought] = None,
        *,
        key: Key = _origin.client_address,
        prefix: Optional[str] = None,
        cost: Cost = 1,
        exempt: Union[Iterable[str], Callable[[Any], bool]] = (),
        rate: Optional[int] = None,
        per: Optional[Duration] = None,
        algorithm: Optional[Algorithm] = None,
        burst: Optional[int] = None,
        trusted_proxies: Iterable[str] = (),
        ipv6_prefix: int = 64,
        on_error: Optional[OnError] = None,
        timeout: float = GUARD_TIMEOUT_SECONDS,
    ) -> None:
        if isinstance(exempt, str):
            raise TypeError("exempt must be a list of paths, not a str")
        if not isinstance(ipv6_prefix, int) or not 1 <= ipv6_prefix <= 128:
            raise ValueError("ipv6_prefix must be 1 to 128 bits, not %r" % (ipv6_prefix,))
        size = len((prefix or "").encode("utf-8", "replace"))
        if size > MAX_PREFIX_BYTES or _CONTROL.search(prefix or ""):
            raise ValueError("prefix must be at most %d bytes without control characters" % MAX_PREFIX_BYTES)
        if on_error is not None and on_error not in ON_ERROR:
            raise ValueError("on_error must be 'raise', 'allow', 'deny' or 'local', not %r" % (on_error,))
        self.on_error: Optional[OnError] = on_error
        self.timeout = seconds(timeout)
        self._tiers: Optional[Callable[..., Optional[Limit]]] = limit if callable(limit) else None
        # The other values are refused together with a function as they are together with a limit.
        self._limit: Any = values("1/1s" if callable(limit) else limit, rate, per, algorithm, burst)
        self._key = key
        self._prefix = prefix
        self._cost = cost
        self._exempt = exempt if callable(exempt) else frozenset(exempt)
        self._trusted = _origin.networks(trusted_proxies)
        self._ipv6_prefix = ipv6_prefix

    @property
    def needs_name(self) -> bool:
        """Whether the application's name goes before the key."""
        return self._prefix is None and self._key is _origin.client_address

    def item(self, request: Any, plain: Any, name: str) -> Optional[Dict[str, Any]]:
        """What a request is to spend, as an item of check-all; None where it is free. ``plain`` is its scope or
        environ, ``name`` the application's."""
        if callable(self._exempt):
            if self._exempt(request):
                return None
        elif self._exempt and _origin.path(plain) in self._exempt:
            return None
        prefix = self._prefix or ""
        if self._key is _origin.client_address:
            if self._prefix is None:
                prefix = name
            key: Any = "client:" + _origin.client(plain, self._trusted, self._ipv6_prefix)
        else:
            key = self._key(request) if callable(self._key) else self._key
            if key is None:
                return None
        return self.priced(fit(key, prefix), (request,), {})

    def priced(self, key: str, args: Any, kwargs: Any) -> Optional[Dict[str, Any]]:
        """The item for a key, with its cost and limit; None where it costs nothing."""
        cost = self._cost(*args, **kwargs) if callable(self._cost) else self._cost
        if isinstance(cost, bool) or not isinstance(cost, int):
            raise TypeError("a guard's cost must be an int, not %s" % type(cost).__name__)
        if cost == 0:
            return None
        brought = limit_values(self._tiers(*args, **kwargs)) if self._tiers is not None else self._limit
        item: Dict[str, Any] = {"key": key, "cost": min(max(cost, 1), MAX_COST)}
        if brought is not None:
            item["limit"] = brought
        return item

    def called(self, args: Any, kwargs: Any) -> Optional[Dict[str, Any]]:
        """What a call of a function is to spend: key, cost and limit are functions of its arguments."""
        key = self._key(*args, **kwargs) if callable(self._key) else self._key
        return None if key is None else self.priced(fit(key, self._prefix or ""), args, kwargs)


class Guards:
    """The guards of an application, and the limiter that decides."""

    def __init__(self, limiter: Limiter, guards: Sequence[Guard], values: GuardValues) -> None:
        self._limiter = limiter
        self._guards = [*guards, Guard(**values)] if values or not guards else [*guards]
        self._needs_name = any(guard.needs_name for guard in self._guards)
        self._name: Optional[str] = None
        self._timeout = self._guards[0].timeout
        self._on_error: Optional[OnError] = self._guards[0].on_error

    def joined(self, others: "Guards") -> "Guards":
        """These and then the others', as one; those whose limiter is another are not to be joined."""
        return Guards(self._limiter, self._guards + others._guards, {})

    def is_of(self, others: "Guards") -> bool:
        """Whether both ask the same limiter."""
        return self._limiter is others._limiter

    def items(self, request: Any, plain: Any, app: Any) -> List[Dict[str, Any]]:
        """What a request is to spend; empty where it is free."""
        if _origin.method(plain) == "OPTIONS":
            # A browser asks before it sends the request that counts.
            return []
        if self._name is None:
            self._name = fit(_origin.application(plain, app)[:100], "") if self._needs_name else ""
        found: List[Dict[str, Any]] = []
        for guard in self._guards:
            item = guard.item(request, plain, self._name)
            if item is not None:
                found.append(item)
        if len(found) > 1:
            # One request can't name a key twice.
            seen: Dict[str, int] = {}
            for item in found:
                key = item["key"]
                seen[key] = seen.get(key, 0) + 1
                if seen[key] > 1:
                    item["key"] = fit("%s#%d" % (key, seen[key]), "")
        return found

    def take(self, items: List[Dict[str, Any]]) -> CheckResult:
        """Spends all items or none, and returns the decision that binds. A cost over the limit's capacity is always
        denied and not an error: it may come from a client."""
        try:
            return self._limiter._take(items, self._timeout, self._on_error)
        except FlintServerError as error:
            return _never(items, error)

    async def atake(self, items: List[Dict[str, Any]]) -> CheckResult:
        """:meth:`take` for asyncio."""
        try:
            return await self._limiter._atake(items, self._timeout, self._on_error)
        except FlintServerError as error:
            return _never(items, error)


def _never(items: List[Dict[str, Any]], error: FlintServerError) -> CheckResult:
    if error.code != "cost_exceeds_capacity":
        raise error
    dearest = max(items, key=lambda item: int(item["cost"]))
    return never_result(dearest["key"], dearest["cost"])


def decorate(limiter: Limiter, guard: Guard, function: F) -> F:
    """A function that is guarded."""
    if inspect.isasyncgenfunction(function):
        # Its call returns at once and can't wait for an answer.
        raise TypeError("rate_limit can't guard an asynchronous generator: guard the function that iterates over it")
    if _is_asynchronous(function):

        @functools.wraps(function)
        async def guarded_coroutine(*args: Any, **kwargs: Any) -> Any:
            item = guard.called(args, kwargs)
            if item is not None:
                _judge(await limiter._atake([item], guard.timeout, guard.on_error))
            return await function(*args, **kwargs)

        return cast(F, guarded_coroutine)

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        item = guard.called(args, kwargs)
        if item is not None:
            _judge(limiter._take([item], guard.timeout, guard.on_error))
        return function(*args, **kwargs)

    return cast(F, guarded)


def _judge(result: CheckResult) -> None:
    if not result.allowed:
        raise RateLimitExceeded(result)


def _is_asynchronous(function: Callable[..., Any]) -> bool:
    """Whether a call gives a coroutine: of a coroutine function, or of an object with an asynchronous ``__call__``."""
    if inspect.iscoroutinefunction(function):
        return True
    return not inspect.isclass(function) and inspect.iscoroutinefunction(getattr(function, "__call__", None))
