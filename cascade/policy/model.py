"""The policy file's shape, key by key, with what each key means. The JSON Schema and the reference page are made from this.

What needs other files (prompts, schemas, models, verifiers) is checked in load.py.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: Any) -> float:
    """`30s`, `500ms`, `2m`, `1h`, `30d`, or a number of seconds; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError('write a duration such as "30s", "2m" or a number of seconds')
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)\s*", value)
        if not match:
            raise ValueError(f'{value!r} is no duration; write "30s", "500ms", "2m", "1h" or "30d"')
        value = float(match[1]) * _UNITS[match[2]]
    if not 0 < value < float("inf"):
        raise ValueError("a duration is more than 0 seconds")
    return float(value)


def dollars(value: Any) -> Decimal:
    """A non-negative number as an exact Decimal; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("write an amount of US dollars as a number")
    amount = Decimal(repr(value))
    if not amount.is_finite() or amount < 0:
        raise ValueError("an amount of US dollars is 0 or more")
    return amount


def model_ref(value: object) -> str:
    """`provider/model`, also written `provider:model`; ValueError otherwise."""
    if not isinstance(value, str):
        raise ValueError("write a model as provider/model")
    if "/" not in value:
        value = value.replace(":", "/", 1)
    provider, slash, model = value.partition("/")
    if not (provider and slash and model) or value != value.strip():
        raise ValueError(f"{value!r} is no model; write provider/model, e.g. openai/gpt-6-luna")
    return value


Seconds = Annotated[float, BeforeValidator(seconds), WithJsonSchema(
    {"anyOf": [{"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)\s*$"}, {"type": "number", "exclusiveMinimum": 0}]})]
Dollars = Annotated[Decimal, BeforeValidator(dollars), WithJsonSchema({"type": "number", "minimum": 0})]
ModelRef = Annotated[str, BeforeValidator(model_ref), WithJsonSchema({"type": "string", "pattern": "^[^/:]+[/:].+$"})]
Share = Annotated[float, Field(ge=0, le=1)]

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}"


def _name(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(NAME, value):
        raise ValueError(f"{value!r} is no name: letters, digits, dots and dashes, at most 80")
    return value


def _address(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"https?://[^\s/]\S*", value):
        raise ValueError(f"{value!r} is no address; write http://… or https://…")
    return value


def _version(value: Any) -> Any:
    if type(value) is not int or value != 1:
        raise ValueError("this version of cascade reads version 1")
    return value


def _schema_word(value: Any) -> Any:
    if value not in (None, "strict", "full", "object", "none") and not isinstance(value, bool):
        raise ValueError(f"{value!r} is none of true, false, strict, full, object, none")
    return value


Name = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})]
Address = Annotated[str, BeforeValidator(_address), WithJsonSchema({"type": "string", "pattern": r"^https?://[^\s/]\S*$"})]
SchemaWord = Annotated[Any, BeforeValidator(_schema_word), WithJsonSchema({"enum": [True, False, "strict", "full", "object", "none"]})]


class Part(BaseModel):
    """A mapping of the file: unknown keys are refused, "3" is not 3."""

    model_config = ConfigDict(extra="forbid", strict=True)


class CapabilitiesPart(Part):
    """What a server can do, where cascade cannot know."""

    sampling: bool | None = Field(None, description="It takes temperature and top_p.")
    seed: bool | None = Field(None, description="It takes a seed.")
    logprobs: bool | None = Field(None, description="It gives token probabilities.")
    deterministic: bool | None = Field(None, description="Equal calls get equal answers, so that samples tell nothing.")
    batch: bool | None = Field(None, description="It has a Batch API (kinds openai and anthropic), for cascade run --engine batch.")
    tool_choice: bool | None = Field(None, description="It can be made to call a tool; where not, it is told to in words.")
    schema_: SchemaWord = Field(None, alias="schema", description="How it takes a JSON Schema: strict (a subset is enforced), full "
                                "(as it is), object (JSON mode), none (in the prompt); true, false.")


class ProviderPart(Part):
    """A model endpoint of your own naming."""

    kind: str = Field(description="The adapter: openai (any OpenAI-compatible server, with base_url), anthropic, azure, bedrock, vertex, …")
    base_url: Address | None = Field(None, description="The server's address.")
    api_key_env: str | None = Field(None, description="The environment variable that holds the key; null for none.")
    capabilities: CapabilitiesPart = Field(CapabilitiesPart(), description="What the server can do, where cascade cannot know.")
    concurrency: int | None = Field(None, ge=1, description="Calls at a time.")
    requests_per_minute: int | None = Field(None, ge=1, description="Calls a minute.")
    tokens_per_minute: int | None = Field(None, ge=1, description="Tokens a minute, prompt and answer.")
    api: Literal["chat", "responses"] | None = Field(None, description="Which OpenAI API: chat (default) or responses.")
    api_version: str | None = Field(None, description="Azure's dated API version.")
    region: str | None = Field(None, description="Bedrock, Vertex: the region.")
    profile: str | None = Field(None, description="Bedrock: the AWS profile.")
    project: str | None = Field(None, description="Vertex: the project.")
    resource: str | None = Field(None, description="Foundry: the resource.")
    headers: dict[str, str] | None = Field(None, description="Headers sent with every call; no secrets.")
    path: str | None = Field(None, description="Kind recorded: the file of recordings, relative to this file.")
    replies: dict[str, Any] | None = Field(None, description="Kind scripted: model -> reply or list of replies.")


class Defaults(Part):
    """What holds for every tier that does not say otherwise."""

    timeout: Seconds = Field(60.0, description="Total time of one call, retries and waits included.")
    deadline: Seconds | None = Field(None, description="Total time of a request, all tiers together.")
    retries: int = Field(2, ge=0, le=10, description="Attempts after the first when a provider is overloaded or unreachable.")
    max_tokens: int = Field(1024, ge=1, description="Most tokens of an answer.")
    repair: int = Field(0, ge=0, le=10, description="Re-asks on the same tier.")
    params: dict[str, Any] = Field({}, description="What models take beside the messages.")


class TierPart(Part):
    """One rung of the ladder."""

    name: Name | None = Field(None, description="Unique; default: the model's name.")
    model: ModelRef = Field(description="provider/model (provider:model is accepted).")
    params: dict[str, Any] = Field({}, description="What the model takes beside the messages, e.g. reasoning_effort, temperature.")
    repair: int | None = Field(None, ge=0, le=10, description="Re-asks on the same tier with the errors, before escalating.")
    gates: list[Any] | None = Field(None, description="What its answer must pass, in this order; default: the policy's gates.")
    escalate: Literal["whole", "partial"] = Field("whole", description="What it is asked for: whole, or partial: only the fields in which the "
                                                 "last answer failed its gates; the others are kept.")
    carry: Literal["nothing", "errors", "draft"] = Field("nothing", description="What this tier sees of the last one's try.")
    timeout: Seconds | None = Field(None, description="Total time of one call.")
    retries: int | None = Field(None, ge=0, le=10, description="Attempts after the first.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens of an answer.")


def _short(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class OutcomesPart(Part):
    """What follows where a tier gives no answer that can be checked, and at the ladder's end."""

    refusal: Literal["stop", "next"] = Field("stop", description="The model refuses.")
    error: Literal["stop", "next"] = Field("next", description="The provider fails.")
    truncated: Literal["stop", "next"] = Field("next", description="The answer is cut off at max_tokens.")
    exhausted: Literal["best", "last", "error"] = Field("best", description="Every tier failed: serve the best answer, the last, or none.")


class Budget(Part):
    """US dollars; the worst case of a call is set aside before it is made."""

    per_request: Dollars | None = Field(None, description="At most this for a request.")
    per_run: Dollars | None = Field(None, description="At most this for a run, or the life of a Cascade.")


class Price(Part):
    """US dollars per million tokens."""

    input: Dollars = Field(description="Prompt tokens.")
    output: Dollars = Field(description="Answer tokens.")
    cached: Dollars | None = Field(None, description="Prompt tokens read from the provider's cache.")
    cache_write: Dollars | None = Field(None, description="Prompt tokens written to it.")
    batch: Dollars | None = Field(None, description="The share of these prices that a call of a batch costs, as 0.5; without it, what batches "
                                                  "cost is unknown.")


class CachePart(Part):
    """Where accepted answers are kept."""

    backend: str = Field("disk", description="disk, memory, off, or redis://host:port/db (rediss:// for TLS), which machines share.")
    path: str = Field("~/.cache/cascade", description="The folder, for disk.")
    ttl: Seconds | None = Field(30 * 86400.0, description="How long an accepted answer is served.")
    negative_ttl: Seconds | None = Field(86400.0, description="How long it is remembered that a tier failed an input.")
    namespace: Name = Field("cascade", description="What the keys begin with, for Redis.")
    password_env: str | None = Field(None, description="The environment variable that holds the password, for Redis; the user stands in "
                                                       "the address: redis://user@host.")


class PolicyPart(Part):
    """A policy: a ladder of models, what an answer must pass, and what it may cost."""

    version: Annotated[Literal[1], BeforeValidator(_version)] = Field(description="The format's version: 1.")
    name: Name = Field(description="The policy's name; rows carry it.")
    prompt: str = Field(description="The Jinja2 template of the prompt: a path relative to this file, or the text; or messages: the request's "
                                    "input of that name is the prompt, a list of {role, content}.")
    system: str | None = Field(None, description="The template of the system message, likewise.")
    caller_schema: bool = Field(False, description="A request may bring a schema of its own, which takes the place of this one.")
    schema_: str | dict[str, Any] | None = Field(None, alias="schema", description="The answer's JSON Schema: a path, the schema itself, "
                                                 "or python:package.module:Model.")
    providers: dict[Name, ProviderPart] = Field({}, description="Model endpoints of your own; those of the known providers are built in.")
    defaults: Defaults = Field(Defaults(), description="What holds for every tier.")
    gates: list[Any] = Field(["schema"], description="The gates of every tier that names none.")
    tiers: list[Annotated[TierPart, BeforeValidator(_short)]] = Field(min_length=1, description="The ladder, cheapest first; short form: "
                                                                      "just the model.")
    outcomes: OutcomesPart = Field(OutcomesPart(), description="Refusals, errors, truncation, exhaustion.")
    budget: Budget = Field(Budget(), description="US dollars.")
    compare: dict[str, Any] = Field({}, description="Field -> how its values are compared (agreement, consistency, gold).")
    pricing: dict[str, Price] = Field({}, description="provider/model -> prices, where the price table has none or another.")
    cache: CachePart = Field(CachePart(), description="The cache of accepted answers.")
    shadow: Share = Field(0.0, description="Share of requests on which every tier is asked and the last one's answer served: data for "
                                            "calibrate.")
    audit: Share = Field(0.0, description="Share of accepted requests that the last tier is asked too, beside the served answer; with "
                                           "thresholds, what tells that they no longer hold.")
    thresholds: str | None = Field(None, description="The file that cascade calibrate wrote; refused when it no longer fits the policy.")
