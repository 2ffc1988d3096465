"""One call through an SDK's generic `post`: body out as bytes, reply in as bytes, deadline, clock, price. Knows no wire and no SDK.

`chat.completions.create` and `messages.create` spend most of their time building pydantic models that we do not need: `post` is
public in both SDKs and keeps their authentication, base URL, headers, proxies and errors. See docs/design/providers.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Protocol

import orjson

from cascade import prices, projection, tools
from cascade.errors import BadReply, CascadeError, ConfigurationError, InputError, ProviderError, TimedOut
from cascade.providers import Capabilities, capabilities, is_own_server, kind, logprobs, missing_key, replies, unsupported
from cascade.providers.failures import bad_reply, translated
from cascade.providers.live import Listening, Streamed, listener
from cascade.types import NOTHING, Answer, Call, FinishReason, Json, Message, Provider, Usage

_MOST_PLANS = 512
_MOST_KEPT = 64 * 1024
"""Bytes of a plan that is kept: schemas and tools of callers may have megabytes."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reply says. `tokens` are its log-probabilities as the wire gives them, None where it gives none; `calls` are the tools that it
    calls, each (name, arguments as JSON text)."""

    text: str
    finish: FinishReason
    model: str
    service_tier: str | None = None
    tokens: Json = None
    calls: tuple[tuple[str, str], ...] = ()


class Wire(Protocol):
    """One request format; `counting` is the path where tokens are counted, if there is one. `fields` are the body but for the messages,
    `tools` the tools and their choice as body fields, `messages` the messages."""

    path: str

    @property
    def counting(self) -> str | None: ...

    def fields(self, model: str, params: Mapping[str, Json], schema: Json, takes: Capabilities) -> dict[str, Json]: ...

    def tools(self, offered: Mapping[str, Json]) -> dict[str, Json]: ...

    def messages(self, messages: tuple[Message, ...]) -> dict[str, Json]: ...

    def read(self, reply: dict[str, Any], where: str) -> Reading: ...

    def usage(self, reply: dict[str, Any], where: str) -> Usage | None: ...

    def streamed(self) -> Streamed | None:
        """What reads a stream of this wire; None where it has none."""

    def streaming(self) -> dict[str, Json]:
        """What a body has for a stream."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all calls of one model, parameters and schema have in common: the end of the body and what is said about the schema in
    the system message. Where samples get a seed each, `seed` is the first; `seeded`: the policy says so, else sample 0 has none."""

    tail: bytes
    suffix: str | None
    seed: int | None
    seeded: bool


@dataclass(frozen=True, slots=True)
class _Client:
    """An SDK's client with the whole URL of its one endpoint, which spares the SDK from joining one for every call."""

    sdk: Any
    url: str

    async def close(self) -> None:
        await self.sdk.close()


class SdkAdapter:
    """An `Ask` to one provider. `make(provider, http_client)` builds the SDK's client; `as_json`: it wants the body as a dict."""

    def __init__(
        self,
        provider: Provider,
        pricing: prices.Pricing,
        wire: Wire,
        make: Callable[[Provider, Any], Any],
        as_json: bool = False,
    ) -> None:
        self.provider = provider
        self.wire = wire
        self._pricing = pricing
        self._make = make
        self._as_json = as_json
        self._table = provider.base_url if is_own_server(provider) else kind(provider.kind).prices
        self._plans: dict[tuple[str | None, ...], Plan] = {}
        self._clients: Any = None
        self._reply_type: Any = None

    async def __call__(self, call: Call) -> Answer:
        """Asks. Raises ProviderError and ConfigurationError as in errors.py; `call.timeout` bounds the whole call."""
        heard = self._listening(call)
        body = self.body(call, heard is not None)
        client = self._client()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(call.timeout):
                content = await (self._post(client, body, call.model) if heard is None else self._listen(client, body, call.model, heard))
        except TimeoutError as error:
            raise TimedOut(f"{call.model}: no answer within {call.timeout:g} s") from error
        whole = heard is None or content.lstrip()[:1] in (b"{", b"<")  # some servers do not stream, whatever they are told
        reply = replies.load(content, call.model) if whole or heard is None else heard.reply(content)
        answer = self.answer(call, reply, time.perf_counter() - started)
        if heard is not None and heard.told and answer.finish in ("stop", "length") and answer.text != heard.told:
            lied = bad_reply(call.model, "the stream ends with another text than it told")
            lied.cost_usd = answer.cost_usd
            raise lied
        return answer

    def _listening(self, call: Call) -> Listening | None:
        """What hears the answer as it comes, where somebody wants that and it can be had: the clouds' clients pack their streams."""
        if call.live is None or self._as_json or call.tools is not None or call.params.json.get("logprobs"):
            return None
        streamed = self.wire.streamed()
        return None if streamed is None else Listening(streamed, call.live, call.model)

    async def _listen(self, client: _Client, body: bytes, where: str, heard: Listening) -> bytes:
        """As `_post`. What breaks off after its first piece was told is not asked again: BadReply."""
        before = listener.set(heard.feed)
        try:
            return await self._post(client, body, where)
        except ProviderError as error:
            if not heard.told:
                raise
            broken = bad_reply(where, f"the stream broke off after {len(heard.told)} characters: {error}")
            broken.billed = True
            raise broken from error
        finally:
            listener.reset(before)

    async def count(self, call: Call) -> int | None:
        """The tokens of the call's prompt, as the provider counts them; None where its wire does not. Raises as a call does."""
        path = self.wire.counting
        if path is None:
            return None
        offered = self.wire.tools(call.tools.json) if call.tools else {}
        body = {"model": call.model.partition("/")[2], **self.wire.messages(call.messages), **offered}
        client = self._client()
        try:
            async with asyncio.timeout(call.timeout):
                response = await client.sdk.post(path, cast_to=self._reply_type, body=body)
        except Exception as error:  # as in _post
            raise translated(error, call.model) from error
        return replies.count(replies.load(response.content, call.model), "input_tokens", call.model) or None

    def open(self) -> None:
        """Imports the SDK and builds its client for the running loop. Raises ConfigurationError as a call does."""
        self._client()

    async def close(self) -> None:
        """Closes the connections of the running loop."""
        if self._clients is not None:
            await self._clients.close()

    # ------------------------------------------------------------ out

    def body(self, call: Call, live: bool = False) -> bytes:
        """What goes upstream: a JSON object; `live`: it asks for a stream. Raises ConfigurationError for what the model does not take,
        InputError for no text."""
        plan = self._plan(call)
        messages = call.messages if plan.suffix is None else _with_suffix(call.messages, plan.suffix)
        try:
            head = orjson.dumps(self.wire.messages(messages))
        except TypeError as error:
            raise InputError(f"{call.model}: the prompt is no valid text: {error}") from error
        seed = b""
        if plan.seed is not None and (plan.seeded or call.sample > 0):
            seed = b'"seed":%d,' % (plan.seed + call.sample)
        stream = orjson.dumps(self.wire.streaming())[1:-1] + b"," if live else b""
        return head[:-1] + b"," + seed + stream + plan.tail

    def _plan(self, call: Call) -> Plan:
        key = (call.model, call.params.digest, call.schema.digest if call.schema else None, call.tools.digest if call.tools else None)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._planned(call)
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            if len(plan.tail) <= _MOST_KEPT:
                self._plans[key] = plan
        return plan

    def _planned(self, call: Call) -> Plan:
        params = dict(call.params.json)
        schema = call.schema.json if call.schema else None
        problem = unsupported(self.provider, call.model, params)
        if problem:
            raise ConfigurationError(problem)
        takes = capabilities(self.provider, call.model, params)
        if schema is not None and takes.schema == "strict" and projection.unsupported(schema):
            # only a caller's can be so: a policy with such a schema is not loaded. The answer is validated at home all the same
            takes = replace(takes, schema="none" if projection.wrapped(schema) else "object")
        seeded = "seed" in params
        seed = params.pop("seed", 0) if takes.seed else None
        model = call.model.partition("/")[2]
        words = [_in_words(schema)] if schema is not None and takes.schema in ("none", "object") else []
        fields = self.wire.fields(model, params, schema, takes)
        if call.tools is not None:
            offered = call.tools.json
            if not takes.tool_choice and offered["choice"] not in ("auto", "none"):
                words.append(_must_call(offered["choice"]))
                offered = {**offered, "choice": "auto"}
            fields |= self.wire.tools(offered)
        return Plan(orjson.dumps(fields)[1:], "\n\n".join(words) or None, seed, seeded)

    # ------------------------------------------------------------ over the wire

    def _client(self) -> _Client:
        """The SDK's client for this loop. The first call of a process imports the SDK, before its deadline starts."""
        if self._clients is None:
            import httpx2

            from cascade.providers.transport import PerLoop, http_client

            self._reply_type = httpx2.Response
            self._clients = PerLoop(lambda plain: self._opened(http_client(plain=plain)))
        client: _Client = self._clients.get()
        return client

    def _opened(self, http_client: Any) -> _Client:
        sdk = self.sdk(http_client)
        return _Client(sdk, f"{str(sdk.base_url).rstrip('/')}{self.wire.path}")

    def sdk(self, http_client: Any) -> Any:
        """The SDK's client on these connections. Raises ConfigurationError when a key, a region or the like is missing."""
        problem = missing_key(self.provider)
        if problem:
            raise ConfigurationError(problem)
        try:
            return self._make(self.provider, http_client)
        except CascadeError:
            raise
        except Exception as error:  # each SDK has its own way to say that credentials, a region or a project are missing
            raise translated(error, f'provider "{self.provider.name}"') from error

    async def _post(self, client: _Client, body: bytes, where: str) -> bytes:
        try:
            if self._as_json:
                response = await client.sdk.post(self.wire.path, cast_to=self._reply_type, body=orjson.loads(body))
            else:
                response = await client.sdk.post(client.url, cast_to=self._reply_type, content=body)
        except Exception as error:  # the SDKs let through what recorders, cloud credentials and our transport raise
            failure = translated(error, where)
            if failure is error:
                raise
            raise failure from error
        content: bytes = response.content
        return content

    # ------------------------------------------------------------ in

    def answer(self, call: Call, reply: dict[str, Any], seconds: float, tier: str | None = None) -> Answer:
        """What a reply to the call says; priced by `tier` where that is known, else by the reply's own. Raises BadReply."""
        usage = self.wire.usage(reply, call.model)
        try:
            read = self.wire.read(reply, call.model)
        except BadReply as error:
            error.cost_usd = self._cost(call.model, usage, tier, None)
            raise
        calls = read.calls if read.finish == "stop" else ()
        if calls and call.tools is None:
            problem = bad_reply(call.model, "200, but the model calls a tool it was not given")
            problem.cost_usd = self._cost(call.model, usage, tier, None)
            raise problem
        cost = self._cost(call.model, usage, tier or read.service_tier, read.model)
        return Answer(
            text=tools.written(read.text, calls) if calls else read.text,
            finish="tool_calls" if calls else read.finish,
            usage=usage,
            cost_usd=cost,
            seconds=seconds,
            model=read.model or call.model.partition("/")[2],
            service_tier=read.service_tier,
            signals=NOTHING if read.tokens is None or calls else _sureness(call, read),
        )

    def paid(self, model: str, reply: dict[str, Any], tier: str) -> tuple[Decimal | None, bool]:
        """What a reply of the model cost, None when that is not known; and whether it can be read as an answer."""
        usage = None
        try:
            usage = self.wire.usage(reply, model)
            read = self.wire.read(reply, model)
        except BadReply:
            return self._cost(model, usage, tier, None), False
        return self._cost(model, usage, tier, read.model), True

    def _cost(self, model: str, usage: Usage | None, service_tier: str | None, answered_by: str | None) -> Decimal | None:
        return prices.cost(usage, model, self._pricing, self._table, service_tier, answered_by)


def _sureness(call: Call, read: Reading) -> Mapping[str, float]:
    """What the log-probabilities tell, where the policy asked for them: some servers give them unasked."""
    if not call.params.json.get("logprobs"):
        return NOTHING
    return logprobs.signals(read.tokens, read.text, call.schema.json if call.schema else None) or NOTHING


def _with_suffix(messages: tuple[Message, ...], suffix: str) -> tuple[Message, ...]:
    """The messages with a sentence added to the system message, which is made when there is none."""
    for index, message in enumerate(messages):
        if message.role == "system":
            longer = Message("system", f"{message.text}\n\n{suffix}")
            return (*messages[:index], longer, *messages[index + 1 :])
    return (Message("system", suffix), *messages)


def _must_call(choice: Json) -> str:
    """What a model that cannot be made to call a tool is told instead; the gate `tools` sees to it."""
    return f"Do not answer in words: call the tool {choice['name']}." if isinstance(choice, Mapping) else "Do not answer in words: call a tool."


def _in_words(schema: Json) -> str:
    """What a server that ignores schemas is told instead."""
    text = orjson.dumps(schema).decode()
    return f"Answer with one JSON value that fits this JSON Schema, without any text around it:\n{text}"
