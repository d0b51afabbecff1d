"""``flint.litellm`` in the proxy and in the library of LiteLLM, with models that are made up: nothing goes to a network.
Skipped with a message if the registry is out of reach."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import textwrap
import time
import unittest
import urllib.error
import urllib.request

import flint
from registry import PACKAGE, litellm_environment
from support import TOKEN, Server

CONFIG = '''
model_list:
  - model_name: good
    litellm_params: {model: openai/good, api_key: none, mock_response: "hello there"}
  - model_name: bad
    litellm_params: {model: openai/bad, api_key: none, mock_response: "litellm.InternalServerError"}
  - model_name: worse
    litellm_params: {model: openai/worse, api_key: none, mock_response: "litellm.InternalServerError"}
  - model_name: broken
    litellm_params: {model: broken/x}
  - model_name: endless
    litellm_params: {model: endless/x}
  - model_name: silent
    litellm_params: {model: silent/x}
litellm_settings:
  callbacks: [flint_limits.tokens, flint_limits.refusing]
  custom_provider_map:
    - {provider: broken, custom_handler: fake_model.broken}
    - {provider: endless, custom_handler: fake_model.endless}
    - {provider: silent, custom_handler: fake_model.silent}
router_settings:
  num_retries: 2
  fallbacks: [{bad: [good]}]
general_settings:
  master_key: sk-1234
'''

LIMITS = '''
import flint, flint.litellm
from litellm.integrations.custom_logger import CustomLogger

def key(data, user):
    # Attempts after the first name the model of a provider.
    return data["user"] + (":" + data["model"] if data["user"] == "tight" and "/" in data["model"] else "")

def limit(data, user):
    return {"rate": 2000 if data["user"] in ("small", "tight") else 10**6, "per": "1d", "algorithm": "fixed_window_counter"}

tokens = flint.litellm.TokenLimit(flint.SharedLimiter(), limit, key=key, timeout=5)

class Refusing(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        if data["user"] == "refused":
            raise ValueError("refused by another hook")

refusing = Refusing()
'''

MODELS = '''
import asyncio
from litellm import CustomLLM, ModelResponse

def piece(text):
    return {"text": text, "is_finished": False, "finish_reason": "", "index": 0, "tool_use": None, "usage": None}

class Broken(CustomLLM):
    async def astreaming(self, *args, **kwargs):
        for _ in range(3):
            yield piece("word ")
        raise RuntimeError("the provider broke")

class Endless(CustomLLM):
    async def astreaming(self, *args, **kwargs):
        while True:
            await asyncio.sleep(0.01)
            yield piece("word ")

class Silent(CustomLLM):
    """Tells no usage."""
    async def acompletion(self, *args, **kwargs):
        return ModelResponse(choices=[{"message": {"role": "assistant", "content": "hm"}}])

broken, endless, silent = Broken(), Endless(), Silent()
'''

#: The library: each line has what was held and settled since the last, and what is used of the key.
LIBRARY = '''
import asyncio, json, litellm, flint, flint.litellm
from flint.testing import FakeLimiter

litellm.suppress_debug_info = True
limiter = FakeLimiter()
litellm.callbacks = [
    flint.litellm.TokenLimit(limiter, {"rate": 100000, "per": "1d", "algorithm": "fixed_window_counter"}, output=50)
]
told = []

def tell(name):
    ask = getattr(limiter, name)
    async def told_too(call, *more):
        body = json.loads(call.body)
        told.append((call.path[len("/v1/"):], body.get("cost")))
        return await ask(call, *more)
    setattr(limiter, name, told_too)

tell("_atake_hold")
tell("_asettle")
messages = [{"role": "user", "content": "hello " * 20}]
text = {"messages": messages, "mock_response": "hi there"}

async def seen(user, seconds=0.4):
    await asyncio.sleep(seconds)
    status = limiter.status("llm:" + user)
    print(user, told, status and status["used"])
    told.clear()

async def main():
    answer = await litellm.acompletion(model="gpt-4o", **text)
    assert answer.usage.total_tokens == 30
    await seen("anybody")
    await litellm.acompletion(model="gpt-4o", max_tokens=7, n=2, user="ann", **text)
    await seen("ann")
    async for _ in await litellm.acompletion(model="gpt-4o", user="bob", stream=True, **text):
        pass
    await seen("bob")
    wrong = {**text, "mock_response": "litellm.InternalServerError"}
    try:
        await litellm.acompletion(model="gpt-4o", user="cy", **wrong)
    except litellm.InternalServerError:
        await seen("cy")
    fallbacks = [{"model": "gpt-4o-mini", "mock_response": "hi there"}]
    await litellm.acompletion(model="gpt-4o", user="dan", fallbacks=fallbacks, **wrong)
    await seen("dan")
    names = [("a", "litellm.InternalServerError"), ("b", "hi there")]
    models = [
        {"model_name": name, "litellm_params": {"model": "openai/" + name, "api_key": "none", "mock_response": answer}}
        for name, answer in names
    ]
    router = litellm.Router(model_list=models, num_retries=2, fallbacks=[{"a": ["b"]}], retry_after=0)
    await router.acompletion("a", messages=messages, user="eve")
    await seen("eve")
    # Cancelled: what it has sent.
    task = asyncio.ensure_future(litellm.acompletion(model="gpt-4o", user="fay", mock_delay=30, **text))
    await asyncio.sleep(0.3)
    task.cancel()
    await seen("fay", 1.4)
    # An hour of calls in one context leaves no more than some of them there.
    limiter.limit("llm:gus", "100/1d")
    for _ in range(10):
        try:
            await litellm.acompletion(model="gpt-4o", user="gus", **text)
        except flint.RateLimitExceeded as denied:
            print(type(denied).__name__, denied.key)
            break
        await asyncio.sleep(0.2)
    told.clear()
    assert len(flint.litellm._requests.get()) <= 9
    try:
        await litellm.acompletion(model="gpt-4o", user="hal", max_tokens=10**6, **text)
    except flint.RateLimitExceeded as denied:
        print(denied.retry_after)
    told.clear()
    await litellm.aembedding(model="text-embedding-3-small", input=["hello world", [1, 2, 3]], mock_response=[0.1], user="ian")
    await seen("ian")
    litellm.cache = litellm.Cache(type="local")
    for _ in range(2):
        await litellm.acompletion(model="gpt-4o", user="joe", caching=True, **text)
        await seen("joe")
    litellm.cache = None
    # While the server is away.
    limiter.fail()
    try:
        await litellm.acompletion(model="gpt-4o", user="kim", **text)
    except flint.FlintConnectionError:
        print("away")
    litellm.callbacks[0] = flint.litellm.TokenLimit(limiter, "1000/1d", on_error="allow")
    print((await litellm.acompletion(model="gpt-4o", user="kim", **text)).usage.total_tokens)

asyncio.run(main())
'''


def use(port, path, body, stream=False):
    """What the proxy answers: status, header fields, body."""
    headers = {"Authorization": "Bearer sk-1234", "Content-Type": "application/json"}
    request = urllib.request.Request("http://127.0.0.1:%d%s" % (port, path), json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


class LiteLLM(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bin = litellm_environment()
        cls.server = Server("--sync", "batch")
        cls.addClassCleanup(cls.server.close)
        variables = {"FLINT_SERVER": cls.server.url, "FLINT_SERVER_TOKEN": TOKEN, "PYTHONDONTWRITEBYTECODE": "1"}
        # No list of prices is fetched.
        variables.update({"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "CRITICAL", "PYTHONPATH": ""})
        cls.environment = {**os.environ, **variables}
        cls.limiter = flint.SharedLimiter(cls.server.url, token=TOKEN)
        cls.addClassCleanup(cls.limiter.close)

    def proxy(self, config, **modules):
        """The port of a proxy with this configuration."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        directory = tempfile.TemporaryDirectory(prefix="flint-litellm-")
        self.addCleanup(directory.cleanup)
        for name, text in [("config.yaml", config), *((name + ".py", text) for name, text in modules.items())]:
            with open(os.path.join(directory.name, name), "w") as file:
                file.write(text)
        command = [os.path.join(self.bin, "litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
        log = open(os.path.join(directory.name, "log"), "w+")
        self.addCleanup(log.close)
        proxy = subprocess.Popen(
            [*command, "--telemetry", "False"],
            cwd=directory.name,
            env=self.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

        def stop():
            os.killpg(proxy.pid, signal.SIGTERM)
            proxy.wait(30)

        self.addCleanup(stop)
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen("http://127.0.0.1:%d/health/liveliness" % port, timeout=5):
                    return port
            except (urllib.error.URLError, ConnectionError):
                log.seek(0)
                self.assertLess(time.monotonic(), deadline, log.read())
                time.sleep(0.2)

    def used(self, key, expected):
        """Waits until this much is used of a key: settlements come after the answer."""
        deadline = time.monotonic() + 10
        while True:
            status = self.limiter.status("llm:" + key)
            used = status["used"] if status is not None else 0
            if used == expected or time.monotonic() > deadline:
                self.assertEqual(used, expected, key)
                return
            time.sleep(0.05)

    def test_the_proxy(self):
        port = self.proxy(CONFIG, flint_limits=LIMITS, fake_model=MODELS)

        def chat(model, user, **more):
            messages = [{"role": "user", "content": "hello " * 10}]
            return use(port, "/chat/completions", {"model": model, "user": user, "messages": messages, **more})

        # 16 tokens are sent, about, and 1000 may come back.
        status, headers, body = chat("good", "plain")
        self.assertEqual((status, json.loads(body)["usage"]["total_tokens"]), (200, 30), body)
        self.assertEqual(headers["RateLimit"].split(";t=")[0], '"1000000/1d";r=%d' % (10**6 - 1016))
        self.used("plain", 30)
        status, _, body = chat("good", "streamed", stream=True, stream_options={"include_usage": True})
        usage = json.loads(re.findall(r"^data: (\{.*\"usage\".*)$", body, re.M)[-1])["usage"]
        self.assertGreater(usage["total_tokens"], 0)
        self.used("streamed", usage["total_tokens"])
        # Three attempts that fail, and the fallback.
        self.assertEqual(chat("bad", "fallback")[0], 200)
        self.used("fallback", 30)
        status, headers, _ = chat("worse", "failed")
        self.assertEqual((status, "RateLimit" in headers), (500, True))
        self.used("failed", 0)
        self.assertEqual(self.limiter.list("llm:failed", live=True), [])
        # A denial.
        self.assertEqual(chat("good", "small", max_tokens=1500)[0], 200)
        self.used("small", 30)
        few = {"rate": 2000, "per": "1d", "algorithm": "fixed_window_counter"}
        self.limiter.charge("llm:small", 1000, limit=few)
        status, headers, body = chat("good", "small", max_tokens=1500)
        self.assertEqual((status, headers["Cache-Control"]), (429, "no-store"), body)
        self.assertTrue(80_000 < int(headers["Retry-After"]) <= 86_400, headers)
        self.assertEqual(headers["RateLimit"].split(";t=")[0], '"2000/1d";r=970')
        self.assertEqual(json.loads(body)["error"]["code"], "429")
        self.assertIn("too many requests", json.loads(body)["error"]["message"])
        status, headers, _ = chat("good", "small", max_tokens=10**9)
        self.assertEqual((status, "Retry-After" in headers), (429, False))
        self.used("small", 1030)
        # The first attempt failed, and there is nothing left for the second.
        self.limiter.charge("llm:tight:openai/worse", 1900, limit=few)
        status, headers, body = chat("worse", "tight")
        self.assertEqual(status, 429, body)
        self.assertGreater(int(headers["Retry-After"]), 80_000)
        self.used("tight", 0)
        self.used("tight:openai/worse", 1900)
        # Refused after the hold was taken.
        self.assertGreaterEqual(chat("good", "refused")[0], 400)
        self.used("refused", 0)
        # A stream that breaks has cost what came.
        chat("broken", "broken", stream=True)
        self.used("broken", 16 + 3)
        # What is unknown.
        status, _, body = chat("silent", "silent")
        self.assertEqual(status, 200, body)
        self.used("silent", 1016)
        # What has no tokens passes.
        use(port, "/v1/images/generations", {"model": "silent", "user": "picture", "prompt": "a cat"})
        self.used("picture", 0)
        status, _, body = use(port, "/v1/embeddings", {"model": "good", "user": "embedded", "input": "hi", "mock_response": [0.1]})
        self.assertEqual(status, 200, body)
        self.used("embedded", json.loads(body)["usage"]["prompt_tokens"])
        self.leave(port)

    def test_the_page_s_example_and_signature(self):
        with open(os.path.join(PACKAGE, "..", "..", "man", "flint-python.3"), encoding="utf-8") as file:
            page = file.read()
        text = page.split("\nLiteLLM's proxy, with a hundred thousand")[1]
        module, config = [textwrap.dedent(found) for found in re.findall(r"^\.Bd -literal -compact\n(.*?)^\.Ed", text, re.M | re.S)[:2]]
        self.environment = {**self.environment, "OPENAI_API_KEY": "none", "LITELLM_MASTER_KEY": "sk-1234"}
        port = self.proxy(config, flint_limits=module)
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "mock_response": "hi"}
        status, headers, _ = use(port, "/v1/chat/completions", body)
        self.assertEqual(status, 200)
        self.assertIn('"100000/1m";r=', headers["RateLimit"])
        (key,) = [found["key"] for found in self.limiter.list("llm:", live=True) if "windows" in found]
        self.assertRegex(key, "^llm:[0-9a-f]{64}$")
        program = (
            "import flint.litellm, inspect, json\n"
            "found = inspect.signature(flint.litellm.TokenLimit).parameters.values()\n"
            "print(*[p.name if p.default is p.empty else p.name + '=' + json.dumps(p.default) for p in found], sep=', ')"
        )
        python = os.path.join(self.bin, "python")
        done = subprocess.run([python, "-c", program], env=self.environment, capture_output=True, text=True, timeout=60)
        shown = done.stdout.strip().replace("null", "None").replace("limit=None, ", "limit=None, *, ")
        self.assertIn("flint.litellm.TokenLimit(%s)" % shown, " ".join(page.split()))

    def leave(self, port):
        """A client that leaves in the middle of a stream has cost what it has sent and what came."""
        body = {"model": "endless", "user": "left", "stream": True, "messages": [{"role": "user", "content": "hello " * 10}]}
        text = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            head = "POST /chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-1234\r\nContent-Length: %d\r\n\r\n"
            connection.sendall((head % len(text)).encode() + text)
            come = b""
            while come.count(b"data:") < 20:
                come += connection.recv(65536)
        deadline = time.monotonic() + 10
        used = 1016
        while used == 1016 and time.monotonic() < deadline:
            time.sleep(0.05)
            used = self.limiter.status("llm:left")["used"]
        self.assertTrue(16 + 20 <= used < 500, used)

    def test_the_library(self):
        python = os.path.join(self.bin, "python")
        done = subprocess.run([python, "-c", LIBRARY], env=self.environment, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        hold, back, paid = ("hold", 81), ("settle", 0), ("settle", 30)
        self.assertEqual(
            done.stdout.splitlines(),
            [
                "anybody %s 30" % [hold, paid],
                "ann %s 30" % [("hold", 45), paid],
                "bob %s 30" % [hold, paid],
                "cy %s None" % [hold, back],
                "dan %s 30" % [hold, back, hold, back, hold, paid],
                "eve %s 30" % [hold, back, hold, back, hold, back, hold, paid],
                "fay %s 31" % [hold, ("settle", 31)],
                "RateLimitExceeded llm:gus",
                "inf",
                "ian %s 10" % [("hold", 6), ("settle", 10)],
                "joe %s 30" % [hold, paid],
                # Out of the cache.
                "joe %s 30" % [hold, back],
                "away",
                "30",
            ],
        )


if __name__ == "__main__":
    unittest.main()
