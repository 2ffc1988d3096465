"""The table of model endpoints: which adapter a provider kind uses, where it lives and what it can do. Imports no SDK.

Names for the rest of cascade:

- `KINDS`: name -> `Kind`, the built-in rows. A policy may use a name as it stands (`groq/llama-…`) or declare a provider of that kind.
- `kind_names()`: all kinds, those of outside packages (entry points `cascade.providers`) included.
- `kind(name) -> Kind`: the row; KeyError when there is none.
- `provider(name, settings=None) -> types.Provider`: a built-in provider, or one declared in a policy, with the row's defaults.
- `capabilities(provider, model, params) -> Capabilities`: what that model takes; `model` with or without its provider segment.
- `key_env(provider) -> str | None`: the environment variable that holds its key.
- `replaying()`: a block within which no key is looked for (cassettes).
- `missing_key(provider) -> str | None`: one line naming the environment variable that is not set.
- `problems(provider)`: lines on what is wrong with a declared provider's options.
- `unsupported(provider, model, params, schema) -> str | None`: why a tier cannot ask this, found before any money is spent.
- `build(provider, pricing=…) -> Adapter`: the `Ask` with an `async close()`. Its SDK is imported at the first call.
- `build_batches(provider, pricing=…) -> batch.Batches`: its Batch API, where `capabilities` say that it has one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from cascade import projection
from cascade.types import NOTHING, Answer, Call, Json, Provider

if TYPE_CHECKING:
    from cascade.providers.batch import Batches

SchemaMode = Literal["strict", "full", "object", "none"]
"""How a schema goes upstream: `strict` as a relaxed projection, `full` as it is, `object` as JSON mode with the schema in the
prompt, `none` in the prompt only."""


class Adapter(Protocol):
    """An `Ask` that holds connections. `close()` may be called more than once, from any loop."""

    async def __call__(self, call: Call) -> Answer: ...

    async def close(self) -> None: ...


@runtime_checkable
class Opening(Protocol):
    """An adapter that can be made ready before its first call."""

    def open(self) -> None: ...


@runtime_checkable
class Counting(Protocol):
    """An adapter that may count the tokens of a prompt."""

    async def count(self, call: Call) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model takes. `sampling`: temperature and top_p; `seed`: a seed a sample; `logprobs`: token probabilities;
    `deterministic`: equal calls give equal answers with these params, so that samples of one call tell nothing; `batch`: the provider
    has a Batch API; `tool_choice`: a tool can be forced."""

    sampling: bool = False
    seed: bool = False
    logprobs: bool = False
    schema: SchemaMode = "strict"
    deterministic: bool = False
    batch: bool = False
    tool_choice: bool = True


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: the adapter's `module` (with a function `build(provider, pricing)`), defaults, and the id in the price table.

    `compat`: an OpenAI-shaped server that is not OpenAI (`max_tokens`). `options`: what `Provider.options` may hold; `needs`: what
    it cannot do without. `decides`: it answers fixed questions and writes no text; None: it does both. `batches` is the module of its
    Batch API (with a function `build(provider, pricing)`), None where it has none.
    """

    module: str
    base_url: str | None = None
    api_key_env: str | None = None
    capabilities: Capabilities = Capabilities()
    compat: bool = False
    prices: str | None = None
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    decides: bool | None = False
    batches: str | None = None


_OPENAI = "cascade.providers.openai"
_ANTHROPIC = "cascade.providers.anthropic"
_GUIDED = Capabilities(sampling=True, seed=True, logprobs=True, schema="full")
_LOCAL = replace(_GUIDED, tool_choice=False)
_CLAUDE = Capabilities(tool_choice=False)
_JSON_MODE = Capabilities(sampling=True, logprobs=True, schema="object")
_HOSTED = Capabilities(sampling=True, seed=True, schema="strict")


def _compatible(
    base_url: str | None, key: str | None, prices: str | None = None, takes: Capabilities = _HOSTED, needs: tuple[str, ...] = ()
) -> Kind:
    return Kind(_OPENAI, base_url, key, takes, compat=True, prices=prices, options=("headers",), needs=needs)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "openai": Kind(_OPENAI, None, "OPENAI_API_KEY", prices="openai", options=("api", "headers"), batches=f"{_OPENAI}_batch"),
        "anthropic": Kind(_ANTHROPIC, None, "ANTHROPIC_API_KEY", _CLAUDE, prices="anthropic", options=("headers",),
                          batches=f"{_ANTHROPIC}_batch"),
        "azure": Kind(
            _OPENAI, None, "AZURE_OPENAI_API_KEY", prices="azure", options=("api", "api_version", "headers")
        ),
        "bedrock": Kind(_ANTHROPIC, None, None, _CLAUDE, prices="aws", options=("region", "profile", "headers")),
        "vertex": Kind(_ANTHROPIC, None, None, _CLAUDE, prices="google", options=("region", "project", "headers")),
        "foundry": Kind(_ANTHROPIC, None, "ANTHROPIC_FOUNDRY_API_KEY", _CLAUDE, prices="azure", options=("resource", "headers")),
        "gemini": _compatible("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "google"),
        "groq": _compatible("https://api.groq.com/openai/v1", "GROQ_API_KEY", "groq"),
        "mistral": _compatible("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral", replace(_HOSTED, seed=False)),
        "openrouter": _compatible("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openrouter"),
        "deepseek": _compatible("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "deepseek", _JSON_MODE),
        "together": _compatible("https://api.together.xyz/v1", "TOGETHER_API_KEY", "together", replace(_GUIDED, logprobs=False)),
        "fireworks": _compatible(
            "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", "fireworks", replace(_GUIDED, logprobs=False)
        ),
        "xai": _compatible("https://api.x.ai/v1", "XAI_API_KEY", "x-ai"),
        "ollama": _compatible("http://127.0.0.1:11434/v1", None, None, _LOCAL),
        "vllm": _compatible("http://127.0.0.1:8000/v1", None, None, _GUIDED),
        "llamacpp": _compatible("http://127.0.0.1:8080/v1", None, None, _LOCAL),
        "decisions": Kind("cascade.providers.decisions", "https://api.openai.com/v1", "OPENAI_API_KEY", Capabilities(schema="none"),
                          prices="openai", options=("headers",), decides=True),
        "scripted": Kind("cascade.providers.scripted", capabilities=_GUIDED, options=("replies",), needs=("options.replies",), decides=None),
        "recorded": Kind("cascade.providers.recorded", capabilities=_GUIDED, options=("path",), needs=("options.path",), decides=None),
    }
)

ENTRY_POINTS = "cascade.providers"
RESERVED = frozenset(
    {
        *("model", "messages", "input", "system", "instructions", "n", "response_format", "text", "output_config"),
        *("stream", "stream_options", "store", "background", "previous_response_id"),
        *("tools", "tool_choice", "functions", "function_call"),
    }
)
"""Parameters that are cascade's own business: a policy that sets them is refused."""

_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


def kind_names() -> tuple[str, ...]:
    """All kinds a policy may name, in table order, then those of installed packages."""
    from importlib.metadata import entry_points  # here: it takes 10 ms

    outside = sorted({point.name for point in entry_points(group=ENTRY_POINTS)} - KINDS.keys())
    return (*KINDS, *outside)


def kind(name: str) -> Kind:
    """The row of that name; KeyError when there is none. An entry point must load to a `Kind`."""
    if name in KINDS:
        return KINDS[name]
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINTS, name=name):
        row = point.load()
        if isinstance(row, Kind):
            return row
    raise KeyError(name)


def provider(name: str, settings: Mapping[str, Any] | None = None) -> Provider:
    """The provider a policy means by `name`: built in, or declared by `settings`, whose keys are the fields of `types.Provider`.

    `kind` defaults to `name`. A server of one's own gets no built-in key: with `base_url` and no `api_key_env`, none is sent.
    KeyError for an unknown kind.
    """
    given = dict(settings or {})
    row = kind(given.setdefault("kind", name))
    given.setdefault("api_key_env", None if given.get("base_url") else row.api_key_env)
    if given.get("base_url") is None:
        given["base_url"] = row.base_url
    return Provider(name=name, **given)


def bare_model(model: str) -> str:
    """The model's own name: `provider/model` without its first segment."""
    return model.partition("/")[2] or model


def capabilities(provider: Provider, model: str, params: Mapping[str, Json] = NOTHING) -> Capabilities:
    """What this model takes when asked with these params; `model` is `provider/model`. The policy's record has the last word."""
    row = kind(provider.kind)
    own: dict[str, Any] = {key: value for key, value in provider.capabilities.items() if key != "schema"}
    batch = row.batches is not None and not is_own_server(provider)
    takes = replace(_model_takes(provider, row, bare_model(model), params), **{"batch": batch, **own})
    if "schema" in provider.capabilities:
        takes = replace(takes, schema=_schema_mode(provider.capabilities["schema"], takes.schema))
    if "deterministic" in own or not takes.sampling:
        return takes
    return replace(takes, deterministic=params.get("temperature") == 0)


def _schema_mode(setting: Any, known: SchemaMode) -> SchemaMode:
    if isinstance(setting, str):
        mode: SchemaMode = setting  # type: ignore[assignment]  # the policy loader has checked the word
        return mode
    if not setting:
        return "none"
    return known if known in ("strict", "full") else "strict"


def is_own_server(provider: Provider) -> bool:
    """Whether a provider of kind openai, decisions or anthropic points at a server that is not the vendor's."""
    if provider.base_url is None or provider.kind not in _VENDOR_HOSTS:
        return False
    return urlsplit(provider.base_url).hostname != _VENDOR_HOSTS[provider.kind]


_VENDOR_HOSTS = {"openai": "api.openai.com", "decisions": "api.openai.com", "anthropic": "api.anthropic.com"}


def _model_takes(provider: Provider, row: Kind, model: str, params: Mapping[str, Json]) -> Capabilities:
    """The row's record, corrected by what the model's name and its reasoning effort tell."""
    if row.module == _ANTHROPIC:
        foreign = is_own_server(provider) and not model.startswith("claude")
        return Capabilities(sampling=True, schema="none", tool_choice=False) if foreign else row.capabilities
    if provider.kind == "openai" and is_own_server(provider):
        return _GUIDED
    if provider.kind in ("openai", "azure"):
        if model.startswith(("gpt-4", "gpt-3.5", "chatgpt-4")):
            return Capabilities(sampling=True, seed=True, logprobs=True)
        thinks_not = params.get("reasoning_effort") == "none"  # GPT-6 samples only when it does not reason
        return Capabilities(sampling=thinks_not, logprobs=thinks_not)
    if provider.kind == "groq" and "gpt-oss" not in model:
        return replace(row.capabilities, schema="object")  # json_schema is refused for the other models there
    return row.capabilities


_replays = 0


@contextmanager
def replaying(on: bool = True) -> Iterator[None]:
    """Within this block no key is looked for or sent: a cassette answers. With `on` False nothing changes."""
    global _replays
    _replays += on
    try:
        yield
    finally:
        _replays -= on


def key_env(provider: Provider) -> str | None:
    """The environment variable that holds this provider's key; None when it sends none."""
    if _replays:
        return None
    row = kind(provider.kind)
    vendors = provider.base_url in (None, row.base_url)
    return provider.api_key_env or (row.api_key_env if vendors else None)


def missing_key(provider: Provider) -> str | None:
    """One line naming the environment variable this provider wants and does not find; None when nothing is missing."""
    name = key_env(provider)
    if name is None or os.environ.get(name):
        return None
    return f'provider "{provider.name}" has no key: set the environment variable {name}'


def problems(provider: Provider) -> Iterator[str]:
    """What is wrong with a declared provider: options it does not know, settings it cannot do without."""
    row = kind(provider.kind)
    known = set(row.options)
    for option in provider.options:
        if option not in known:
            yield f'options.{option}: kind "{provider.kind}" has no such option; it knows: {", ".join(sorted(known)) or "none"}'
    if provider.capabilities.get("batch") and row.batches is None:
        yield f'capabilities.batch: kind "{provider.kind}" has no Batch API that cascade knows'
    for need in row.needs:
        place, _, name = need.rpartition(".")
        if not (provider.options.get(name) if place else getattr(provider, name)):
            yield f'{need}: kind "{provider.kind}" needs it'


def unsupported(provider: Provider, model: str, params: Mapping[str, Json] = NOTHING, schema: Json = None) -> str | None:
    """Why this model cannot be asked with these params and this schema (a JSON Schema or None), in one line; None when it can."""
    for name in params:
        if name in RESERVED:
            return f"params.{name} is set by cascade itself: remove it"
    if type(params.get("seed", 0)) is not int:
        return f"params.seed must be a whole number, not {params['seed']!r:.40}"
    if not isinstance(params.get("logprobs", False), bool):
        return f"params.logprobs must be true or false, not {params['logprobs']!r:.40}"
    takes = capabilities(provider, model, params)
    for name in _unsupported_params(takes, params):
        hint = ' (only with reasoning_effort: "none")' if provider.kind in ("openai", "azure") else ""
        return f"{model} takes no {name}{hint}"
    if schema is not None and takes.schema == "strict":
        problem = projection.unsupported(schema)
        return f"{model} cannot be held to this schema: {problem}" if problem else None
    return None


def _unsupported_params(takes: Capabilities, params: Mapping[str, Json]) -> Iterator[str]:
    for name in _SAMPLING:
        if name in params and not takes.sampling:
            yield name
    if "seed" in params and not takes.seed:
        yield "seed"
    if ("logprobs" in params or "top_logprobs" in params) and not takes.logprobs:
        yield "logprobs"


def build(provider: Provider, pricing: Mapping[str, Mapping[str, Decimal]] = NOTHING) -> Adapter:
    """The adapter of this provider; `pricing` is the policy's (dollars per million tokens). Imports no SDK yet."""
    adapter: Adapter = import_module(kind(provider.kind).module).build(provider, pricing)
    return adapter


def build_batches(provider: Provider, pricing: Mapping[str, Mapping[str, Decimal]] = NOTHING) -> Batches:
    """The Batch API of this provider. Imports no SDK yet."""
    module = kind(provider.kind).batches
    assert module is not None, "its capabilities say that it has one"
    found: Batches = import_module(module).build(provider, pricing)
    return found
