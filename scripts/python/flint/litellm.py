"""LiteLLM: tokens of language models are held before a call, by an estimate, and settled to what the call used.

    # flint_limits.py, next to the proxy's config.yaml, which has litellm_settings: {callbacks: flint_limits.tokens}
    import flint, flint.litellm

    tokens = flint.litellm.TokenLimit(flint.SharedLimiter(on_error="allow"), limit=["100000/1m", "2000000/day"])

How a request is counted
------------------------
LiteLLM reports a request to its callbacks before it is sent (the proxy once, by ``async_pre_call_hook``; proxy and library
for each attempt, by ``async_pre_call_deployment_hook``) and when it ends, but it may report only the first failed attempt.
So an attempt that finds the hold of an earlier attempt open gives that back, and takes its own: a request has at most one
open hold, and its last one is settled. Ends that are not reported are found in other ways: an abandoned stream by its
iterator, and a cancelled request by its task.

The hooks find the hold of a request by a context variable, which tasks inherit: names in the request's own data may be
invented by the client.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any, AsyncGenerator, Callable, Dict, Mapping, Optional, Protocol, Set, Tuple, Union

from . import _calls
from ._bounds import GUARD_TIMEOUT_SECONDS, MAX_COST
from ._calls import Call, Held
from ._errors import FlintError, FlintServerError
from ._guard import Brought, Guard
from ._hold import Hold, Limiter, Where, made
from ._http import denial_fields, fields, message
from ._results import CheckResult, RateLimitExceeded, never_result
from ._values import Duration, OnError

try:
    from litellm.integrations.custom_logger import CustomLogger
except ImportError as missing:
    raise ImportError('flint.litellm needs the package litellm: pip install "litellm[proxy]"') from missing

__all__ = ["TokenLimit"]

_log = logging.getLogger("flint")

#: Calls whose answer has tokens, by LiteLLM's names, and calls of which only what is sent counts. Others pass.
_ANSWERED = frozenset(
    {
        "completion",
        "acompletion",
        "text_completion",
        "atext_completion",
        "responses",
        "aresponses",
        "anthropic_messages",
        "generate_content",
        "agenerate_content",
        "generate_content_stream",
        "agenerate_content_stream",
    }
)
_SENT_ONLY = frozenset({"embedding", "aembedding", "embeddings"})

#: What a request sends, in the requests of several APIs.
_SENT = ("messages", "prompt", "input", "system", "instructions", "contents", "tools", "functions")

#: How a request names the bound of its answer.
_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")

#: Bytes of text for each token, about, and tokens of a picture, a sound or a file.
_BYTES_PER_TOKEN = 4
_TOKENS_PER_FILE = 1000

#: Requests that a context remembers, finished ones aside.
_REMEMBERED = 8

#: Seconds after which a cancelled request is settled: word of its success may be on the way.
_GRACE_SECONDS = 1.0

#: The requests of this context, by the callback that has them and the name that LiteLLM gives a request.
_requests: "contextvars.ContextVar[Mapping[Tuple[int, Any], _Request]]" = contextvars.ContextVar("flint_requests")


class _Limiter(Limiter, Protocol):
    """As much of :class:`flint.SharedLimiter` as is used here."""

    async def _atake_hold(
        self, call: Call[Held], timeout: Optional[float] = None, on_error: Optional[OnError] = None
    ) -> "Tuple[Held, Where]": ...


class TokenLimit(CustomLogger):
    """A callback of LiteLLM that limits tokens: for the ``callbacks`` of its proxy's configuration, or
    ``litellm.callbacks``, where it counts ``acompletion`` and the like. If a request is denied, the proxy answers 429,
    with ``Retry-After``; without the proxy it raises :class:`flint.RateLimitExceeded`.

    A request that fails costs nothing, and neither does a request that is answered from LiteLLM's cache. A request that
    is cancelled, or whose stream is abandoned, costs approximately what was sent and streamed. A request whose usage is
    not reported costs what was held.

    Args:
        limiter: the limiter that decides.
        limit: as for a :class:`flint.Guard`, or a function of the request's data and the user.
        key: the limit's key, or a function of the data and the user (from the proxy, a ``UserAPIKeyAuth``; else None);
            if it returns None, the request passes. By default each key of the proxy is counted separately or, without
            the proxy, each ``user`` of requests.
        prefix: text before the key, followed by a colon.
        estimate: tokens that are held, or a function of the data and the user. By default approximately what the request
            sends, plus as many as the answer may have: its ``max_tokens``, or ``output``.
        output: tokens of an answer whose request has no ``max_tokens``.
        cost: a function that returns the final cost from what LiteLLM logs and the answer; by default the input and
            output tokens.
        ttl: how long a request may take before it is settled.
        on_error: what happens while the server can't decide, by default as for the limiter.
        timeout: how many seconds a request waits for a decision at most.
    """

    def __init__(
        self,
        limiter: _Limiter,
        limit: Optional[Brought] = None,
        *,
        key: Union[str, Callable[..., Optional[str]], None] = None,
        prefix: str = "llm",
        estimate: Union[int, Callable[..., int], None] = None,
        output: int = 1000,
        cost: Optional[Callable[..., int]] = None,
        ttl: Duration = "10m",
        on_error: Optional[OnError] = None,
        timeout: float = GUARD_TIMEOUT_SECONDS,
    ) -> None:
        super().__init__()
        self._limiter = limiter
        self._output = output
        self._estimate = estimate
        self._cost = cost
        self._ttl = ttl
        self._guard = Guard(
            limit,
            key=_own_key if key is None else key,
            prefix=prefix,
            cost=1 if estimate is None else estimate,
            on_error=on_error,
            timeout=timeout,
        )
        # Settlements that are not awaited.
        self._underway: "Set[asyncio.Task[None]]" = set()

    def _estimated(self, data: Mapping[str, Any], kind: str) -> int:
        found = sent_tokens(data)
        if kind in _ANSWERED:
            bounds = (_whole(data.get(name)) for name in _BOUNDS)
            found += next((bound for bound in bounds if bound), self._output) * (_whole(data.get("n")) or 1)
        return min(max(found, 1), MAX_COST)

    # ---- before a call

    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: Any) -> None:
        """Of the proxy: once for a request, before it is sent."""
        kind = _kind(call_type)
        if kind is None:
            return
        try:
            await self._begin(data, user_api_key_dict).take(data, kind)
        except RateLimitExceeded as denied:
            raise _answer(denied.result) from denied

    async def async_pre_call_deployment_hook(self, kwargs: Any, call_type: Any) -> None:
        """Before each attempt. The first of the proxy has its hold already."""
        kind = _kind(call_type)
        if kind is not None:
            await (self._of(kwargs) or self._begin(kwargs, None)).attempt(kwargs, kind)

    def _begin(self, data: Mapping[str, Any], user: Any) -> "_Request":
        request = _Request(self, user)
        others = _requests.get({})
        if len(others) >= _REMEMBERED:
            # A program may ask all it asks in one context.
            others = {name: other for name, other in others.items() if other.hold is not None}
        _requests.set({**others, (id(self), _name(data)): request})
        return request

    def _of(self, data: Mapping[str, Any]) -> "Optional[_Request]":
        return _requests.get({}).get((id(self), _name(data)))

    async def _hold(self, data: Mapping[str, Any], user: Any, kind: str) -> Optional[Hold]:
        """What an attempt holds; None where it is free."""
        item = self._guard.called((data, user), {})
        if item is None:
            return None
        key, cost = item["key"], item["cost"] if self._estimate is not None else self._estimated(data, kind)
        call = _calls.hold(key, cost, self._ttl, item.get("limit"))
        try:
            held, where = await self._limiter._atake_hold(call, self._guard.timeout, self._guard.on_error)
        except FlintServerError as error:
            if error.code != "cost_exceeds_capacity":
                raise
            raise RateLimitExceeded(never_result(key, cost)) from error
        return made(self._limiter, [key], held, where)

    # ---- after a call

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """An answer is whole."""
        request = self._of(kwargs)
        if request is None or request.hold is None:
            return
        cost: Optional[int] = None
        try:
            cost = self._used(kwargs, response_obj)
        finally:
            await request.settle(cost)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """An attempt has failed, perhaps in the middle of its stream."""
        request = self._of(kwargs)
        if request is not None:
            await request.settle(request.known() if request.streamed else 0)

    async def async_post_call_failure_hook(
        self, request_data: Any, original_exception: Exception, user_api_key_dict: Any, traceback_str: Any = None
    ) -> Any:
        """Of the proxy: the request has failed in the end, or was refused by another hook."""
        request = self._of(request_data)
        if request is not None:
            await request.settle(request.known() if request.streamed else 0)
        if isinstance(original_exception, RateLimitExceeded):
            # Of an attempt: to the router it was an error like any.
            return _answer(original_exception.result)
        return None

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Any
    ) -> AsyncGenerator[Any, None]:
        """Of the proxy: counts what is streamed, and sees where it is left before its end."""
        request = self._of(request_data)
        whole = False
        try:
            async for chunk in response:
                if request is not None:
                    request.streamed += _chunk_tokens(chunk)
                yield chunk
            whole = True
        finally:
            if request is not None and not whole:
                request.abandon()

    async def async_post_call_response_headers_hook(
        self,
        data: Any,
        user_api_key_dict: Any,
        response: Any,
        request_headers: Any = None,
        litellm_call_info: Any = None,
    ) -> Optional[Dict[str, str]]:
        """Of the proxy: the fields that say what is left."""
        request = self._of(data)
        return None if request is None or request.result is None else dict(fields(request.result))

    def _used(self, kwargs: Mapping[str, Any], response: Any) -> Optional[int]:
        """What a request has cost; None if it is unknown."""
        if self._cost is not None:
            return min(max(self._cost(kwargs, response), 0), MAX_COST)
        if kwargs.get("cache_hit"):
            return 0
        logged = kwargs.get("standard_logging_object") or {}
        return _whole(logged.get("total_tokens")) or _usage(response)


class _Request:
    """A request of a model, and what is held for it.

    Attributes:
        hold: what is open, if anything is.
        result: the last decision.
        streamed: tokens that have come, about.
    """

    def __init__(self, owner: TokenLimit, user: Any) -> None:
        self._owner = owner
        self._user = user
        self._sent = 0
        self._attempted = False
        self._task: "Optional[asyncio.Task[Any]]" = None
        self.hold: Optional[Hold] = None
        self.result: Optional[CheckResult] = None
        self.streamed = 0

    async def take(self, data: Mapping[str, Any], kind: str) -> None:
        """Holds what an attempt may use. Raises RateLimitExceeded."""
        self._sent, self.streamed = sent_tokens(data), 0
        try:
            self.hold = await self._owner._hold(data, self._user, kind)
        except RateLimitExceeded as denied:
            self.result = denied.result
            raise
        if self.hold is not None:
            self.result = self.hold.result
            self._task = asyncio.current_task()
            if self._task is not None:
                self._task.add_done_callback(self._ended)

    async def attempt(self, data: Mapping[str, Any], kind: str) -> None:
        """An attempt begins: the first has what is held, a later one gives that back and holds again."""
        if self._attempted or self.result is None:
            await self.settle(0)
            await self.take(data, kind)
        self._attempted = True

    def known(self) -> int:
        """What it has cost, as far as is known before its end."""
        return self._sent + self.streamed if self._attempted else 0

    async def settle(self, cost: Optional[int]) -> None:
        """Says what it has cost, if that was not said before; None is what was held."""
        hold, self.hold = self.hold, None
        if hold is None:
            return
        if self._task is not None:
            self._task.remove_done_callback(self._ended)
        try:
            await hold.asettle(None if cost is None else min(cost, MAX_COST))
        except FlintError as error:
            # The answer is there: it is not to be lost by this.
            _log.warning("the hold on %r could not be settled, so it stays spent: %s", hold.key, error)

    def abandon(self) -> None:
        """Settles by what is known, without anybody who waits for it."""
        if self.hold is None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # The end of the program: it stays spent.
            return
        task = loop.create_task(self.settle(self.known()))
        self._owner._underway.add(task)
        task.add_done_callback(self._owner._underway.discard)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        if task.cancelled():
            task.get_loop().call_later(_GRACE_SECONDS, self.abandon)


def sent_tokens(data: Mapping[str, Any]) -> int:
    """About how many tokens a request sends. The model's own tokenizer might have to be fetched first."""
    return sum(_tokens(data[name]) for name in _SENT if name in data)


def _tokens(found: Any) -> int:
    if isinstance(found, str):
        if found.startswith("data:"):
            return _TOKENS_PER_FILE
        return -(-len(found.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)
    if isinstance(found, Mapping):
        if "data" in found or "url" in found or "file_data" in found:
            return _TOKENS_PER_FILE
        return sum(_tokens(value) for value in found.values())
    if isinstance(found, (list, tuple)):
        # Texts and parts of them, or numbers of tokens.
        return sum(1 if isinstance(value, int) else _tokens(value) for value in found)
    return 0


def _chunk_tokens(chunk: Any) -> int:
    """About how many tokens a piece of a stream has: as a rule one."""
    texts = []
    for choice in getattr(chunk, "choices", None) or ():
        delta = getattr(choice, "delta", None)
        texts += [getattr(delta, name, None) or "" for name in ("content", "reasoning_content")]
    return max(len("".join(map(str, texts)).encode("utf-8", "replace")) // _BYTES_PER_TOKEN, 1)


def _whole(found: Any) -> Optional[int]:
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        return None
    return min(found, MAX_COST)


def _usage(response: Any) -> Optional[int]:
    """The tokens that an answer says it has used, in the words of several APIs."""
    usage = response.get("usage") if isinstance(response, Mapping) else getattr(response, "usage", None)
    told = usage if isinstance(usage, Mapping) else getattr(usage, "__dict__", {})
    total = _whole(told.get("total_tokens"))
    if total is not None:
        return total
    names = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
    return sum(_whole(told.get(name)) or 0 for name in names) or None


def _kind(call_type: Any) -> Optional[str]:
    """LiteLLM's name of a call that has tokens; None for others."""
    name = str(getattr(call_type, "value", call_type))
    return name if name in _ANSWERED or name in _SENT_ONLY else None


def _name(data: Mapping[str, Any]) -> Any:
    """The name of a request in all of LiteLLM's logs: fallbacks have additional names."""
    return getattr(data.get("litellm_logging_obj"), "litellm_call_id", None) or data.get("litellm_call_id")


def _own_key(data: Mapping[str, Any], user: Any) -> str:
    """Of the proxy each of its keys, which it has hashed; else each user that the program names."""
    found = getattr(user, "token", None) or getattr(user, "api_key", None) if user is not None else data.get("user")
    return str(found) if found else "anybody"


def _answer(result: CheckResult) -> Exception:
    """A denial as the proxy answers it."""
    from fastapi import HTTPException

    return HTTPException(429, message(result), dict(denial_fields(result)))
