"""The nouns: what a request, a call, an answer, an event and a policy are. Knows no I/O and imports nothing of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

import orjson

Json: TypeAlias = Any
"""A JSON value: None, bool, int, float, str, list or dict of these."""

FinishReason = Literal["stop", "tool_calls", "length", "refusal", "filter"]
"""Why a model stopped. `tool_calls`: it calls tools, and its text is these calls, see tools.py. `length` is a truncated answer, `filter` the
provider's content filter."""

WHOLE: tuple[FinishReason, ...] = ("stop", "tool_calls")
"""How a whole answer ends."""

Mode = Literal["record", "shadow", "audit"]
"""Why a request asked more than its ladder needed; None for an ordinary one."""

Status = Literal["accepted", "flagged", "refused", "failed", "invalid", "in_doubt"]
"""How a request ended; see `outcome.Outcome`."""


class _Nothing(dict[str, Any]):
    """An empty mapping that stays empty, so that it can be a default of a frozen dataclass."""

    def __hash__(self) -> int:  # type: ignore[override]
        return 0

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("this mapping is frozen")


NOTHING: Mapping[str, Any] = _Nothing()


def digest(value: Json) -> str:
    """The sha256 hex digest (64 characters) of a JSON value's canonical bytes."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


class Document:
    """A JSON value with its digest, taken once: two documents are equal when their digests are. Treat `json` as frozen."""

    __slots__ = ("digest", "json")

    def __init__(self, json: Json) -> None:
        self.json = json
        self.digest = digest(json)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Document) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Document({self.digest[:8]})"


NO_PARAMS = Document({})


# ---------------------------------------------------------------- asking a model


@dataclass(frozen=True, slots=True)
class Text:
    """A part of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: an https or data URL, and how closely it is to be looked at, where the caller says so (OpenAI's low, high, auto)."""

    url: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model called, in an assistant's turn; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the call of that `id` gave, in a user's turn; `error`: it went wrong."""

    id: str
    content: tuple[Text | Image, ...]
    error: bool = False


Part: TypeAlias = Text | Image | ToolCall | ToolResult
IMAGE_TOKENS = 5_000
"""More than a picture costs at any provider we price."""


class Message(NamedTuple):
    """One turn of a conversation; `role` is system, user or assistant. `content` is text, or parts where there is more than text."""

    role: str
    content: str | tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text of it."""
        return self.content if isinstance(self.content, str) else "\n\n".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def size(self) -> int:
        """More than the tokens that it can be: a token is at least one byte."""
        return len(self.content.encode("utf-8", "surrogatepass")) if isinstance(self.content, str) else sum(map(_size, self.content))


def _size(part: Part) -> int:
    if isinstance(part, Text):
        return len(part.text.encode("utf-8", "surrogatepass"))
    if isinstance(part, Image):
        return IMAGE_TOKENS
    if isinstance(part, ToolCall):
        return len(part.name) + len(part.arguments.encode("utf-8", "surrogatepass")) + 64
    return sum(map(_size, part.content)) + 64


@dataclass(frozen=True, slots=True)
class Call:
    """One rendered model call, content-addressed: equal calls have equal answers.

    `model` is `provider/model`. `params` holds what the provider takes beside messages and schema (always `max_tokens`).
    `sample` tells n draws of the same call apart. `timeout` is the call's total deadline in seconds, not part of its identity.
    `tools` are those that the model may call, as `tools.offered` gives them. `live` is told the answer's text in pieces, as they come, by
    providers that can; it is no part of the identity either.
    """

    model: str
    messages: tuple[Message, ...]
    schema: Document | None = None
    params: Document = NO_PARAMS
    sample: int = 0
    timeout: float | None = field(default=None, compare=False)
    tools: Document | None = None
    live: Callable[[str], None] | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        """The sha256 hex digest of everything that goes upstream."""
        schema = self.schema.digest if self.schema else None
        parts = [self.model, [list(message) for message in self.messages], schema, self.params.digest, self.sample]
        return digest(parts if self.tools is None else [*parts, self.tools.digest])


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `input` includes `cached` and `cache_written`; `output` includes `reasoning`."""

    input: int
    output: int
    cached: int = 0
    cache_written: int = 0
    reasoning: int = 0


class Retry(NamedTuple):
    """An attempt that failed and was made again: error kind, one-line reason, seconds it took."""

    error: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said. `usage` and `cost_usd` are None when unknown, never 0; `cached` answers were paid before.

    `price` names the unit prices used, `service_tier` is what the response says, `retries` the attempts before this one. `signals`
    are named numbers the provider gives with the text, e.g. `logprob_mean`.
    """

    text: str
    finish: FinishReason = "stop"
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    seconds: float = 0.0
    model: str = ""
    cached: bool = False
    service_tier: str | None = None
    retries: tuple[Retry, ...] = ()
    signals: Mapping[str, float] = NOTHING


Ask: TypeAlias = Callable[[Call], Awaitable[Answer]]
"""The only way to a model. Raises `ProviderError` (see errors.py). Wrappers have the same shape and stack."""


# ---------------------------------------------------------------- verifying an answer


@dataclass(frozen=True, slots=True)
class Case:
    """What a verifier sees: the answer `text`, how it ended (`finish`: where it calls tools, these are its value), its JSON `value` (None
    with `problem` set when none could be read), the request's `inputs`, the `call` that asks for a whole answer, and the policy's `schema`
    and `compare` (dotted field -> comparator options).
    `notes` say what extraction had to do (e.g. "fence", "prose"). `signals` are the answer's own and those of the gates before this
    one, named as in `signals.gather`. `enough` is the score that passes, where nobody asks how far above or below it the answer lies: a
    verifier may stop asking when that is decided. None: all is asked, for a recording or a gate that only advises."""

    inputs: Mapping[str, Json]
    text: str
    value: Json
    call: Call
    schema: Document | None = None
    compare: Mapping[str, Json] = NOTHING
    problem: str | None = None
    notes: tuple[str, ...] = ()
    signals: Mapping[str, float] = NOTHING
    enough: float | None = None
    finish: FinishReason = "stop"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`score` in 0..1, or None: could not tell. `reason` is one line for people and repairs; `fields` are the disputed JSON
    pointers; `signals` are named numbers for calibration."""

    score: float | None
    reason: str | None = None
    fields: tuple[str, ...] = ()
    signals: Mapping[str, float] = NOTHING


class Verifier(Protocol):
    """Scores an answer. It never says "pass": the threshold is the policy's.

    `early(inputs, call)` lists calls that do not need the answer: the engine asks them beside the tier, and the same
    `ask` returns them at once. A verifier without such calls returns ().
    """

    def early(self, inputs: Mapping[str, Json], call: Call) -> tuple[Call, ...]: ...

    async def __call__(self, case: Case, ask: Ask) -> Verdict: ...


# ---------------------------------------------------------------- the policy


@dataclass(frozen=True, slots=True)
class Gate:
    """A verifier and the score it takes to pass. `kind` is the verifier's name, `options` its settings, `name` is unique in a tier.

    `repairable`: its reasons help the same model to mend its answer. `advisory`: its score and signals are written down and the next
    gate follows whatever they say, because a calibrated gate after it weighs them. `asks`: it asks models, so its threshold is
    learned and is no rule of the task. `accept_at`: a score as high as this accepts the answer at once, and no gate after it is asked.
    """

    name: str
    kind: str
    threshold: float = 1.0
    options: Mapping[str, Json] = NOTHING
    repairable: bool = False
    advisory: bool = False
    asks: bool = False
    accept_at: float | None = None

    @property
    def enough(self) -> float | None:
        """The score that passes, where nobody looks how far above or below it the answer lies; None where that is of interest."""
        return None if self.advisory or self.accept_at is not None else self.threshold

    @property
    def early(self) -> bool:
        """Whether its calls are made beside the tier's own."""
        return self.kind == "agreement" and not self.options.get("late")

    def accepts(self, score: float | None) -> bool:
        """Whether this score accepts the answer at once."""
        return self.accept_at is not None and score is not None and score >= self.accept_at


@dataclass(frozen=True, slots=True)
class Tier:
    """One rung: a model, how it is asked, and the gates its answer must pass. Times are seconds."""

    name: str
    model: str
    gates: tuple[Gate, ...] = ()
    params: Mapping[str, Json] = NOTHING
    repair: int = 0
    escalate: Literal["whole", "partial"] = "whole"
    carry: Literal["nothing", "errors", "draft"] = "nothing"
    max_tokens: int = 1024
    timeout: float = 60.0
    retries: int = 2

    @property
    def late(self) -> tuple[str, ...]:
        """The gates that ask models when their turn comes, in that order."""
        return tuple(gate.name for gate in self.gates if gate.asks and not gate.early)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What follows a refusal, an error, a truncated answer, and the end of the ladder."""

    refusal: Literal["stop", "next"] = "stop"
    error: Literal["stop", "next"] = "next"
    truncated: Literal["stop", "next"] = "next"
    exhausted: Literal["best", "last", "error"] = "best"


@dataclass(frozen=True, slots=True)
class Provider:
    """A model endpoint: `kind` picks the adapter; `options` go to its client; `capabilities` override the adapter's record."""

    name: str
    kind: str
    base_url: str | None = None
    api_key_env: str | None = None
    options: Mapping[str, Json] = NOTHING
    capabilities: Mapping[str, bool] = NOTHING
    concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class Template(NamedTuple):
    """Jinja2 source with the place it came from; `line` is the 1-based line in `path` where the source starts. `includes` are the
    (name, source) of the templates it reads, where they are known already; names are relative to the folder of `path`."""

    source: str
    path: str
    line: int = 1
    includes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Where accepted answers are kept. `backend`: disk, memory, off or redis://host:port/db. `ttl` and `negative_ttl` in seconds, None =
    for ever. `namespace` and `password_env`, the environment variable that holds the password, are Redis's."""

    backend: str = "disk"
    path: str = "~/.cache/cascade"
    ttl: float | None = 30 * 86400.0
    negative_ttl: float | None = 86400.0
    namespace: str = "cascade"
    password_env: str | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """Where the mean of a number in [0, 1] is to lie while a policy serves. `error` is the greatest probability of a false alarm, `mean`
    what calibration saw."""

    low: float
    high: float
    error: float
    mean: float


@dataclass(frozen=True, slots=True)
class Watch:
    """What a calibrated policy is held against while it serves. `file` is the thresholds file and `source` its sha256; `step` the index of
    the step in force, None where the last tier alone serves; `expected` by the names that `monitor.observe` gives."""

    file: str
    source: str
    step: int | None
    expected: Mapping[str, Expected] = NOTHING


@dataclass(frozen=True, slots=True)
class Policy:
    """A ladder and its rules, with every file read and every name resolved. `digest` covers all that can change an answer.

    `prompt` None: the request's input `messages` are the prompt. `caller_schema`: a request may bring a schema in place of this one.

    A calibrated policy has a `watch`, and the `safer` policy that serves after an alarm; None where there is none.
    """

    name: str
    prompt: Template | None
    tiers: tuple[Tier, ...]
    system: Template | None = None
    schema: Document | None = None
    outcomes: Outcomes = Outcomes()
    providers: Mapping[str, Provider] = NOTHING
    compare: Mapping[str, Json] = NOTHING
    pricing: Mapping[str, Mapping[str, Decimal]] = NOTHING
    budget_per_request: Decimal | None = None
    budget_per_run: Decimal | None = None
    deadline: float | None = None
    cache: CacheSettings = CacheSettings()
    shadow: float = 0.0
    audit: float = 0.0
    path: str | None = None
    digest: str = ""
    watch: Watch | None = None
    safer: Policy | None = None
    caller_schema: bool = False

    def tier(self, name: str) -> Tier:
        """The tier of that name; KeyError if there is none."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise KeyError(name)


# ---------------------------------------------------------------- steps: what to do next


@dataclass(frozen=True, slots=True)
class Try:
    """Ask this tier: for a whole answer, or only for the `part` of the last one that these JSON pointers name."""

    tier: str
    part: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repair:
    """Ask this tier again with what was wrong with its last answer; `n` counts from 1."""

    tier: str
    n: int


@dataclass(frozen=True, slots=True)
class Check:
    """Put the last answer through this gate."""

    tier: str
    gate: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Stop. `answer` is the index in the trail of the Tried event that is served, None when there is none."""

    status: Status
    answer: int | None = None
    error: str | None = None


Step: TypeAlias = Try | Repair | Check | Finish


# ---------------------------------------------------------------- events: what happened


@dataclass(frozen=True, slots=True)
class Tried:
    """A model answered. With `gate` set it was asked by that gate (a vote, a sample, a judge; "audit": the last tier's model, asked
    beside a served answer), else it is the tier's own answer; `repair` is 0 for the first answer. With `part` set it was asked only for
    the fields at these JSON pointers, and `text` holds only them: `reading.said` tells what it comes to."""

    event: ClassVar[str] = "tried"
    tier: str
    model: str
    text: str
    finish: FinishReason = "stop"
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    seconds: float = 0.0
    sample: int = 0
    gate: str | None = None
    repair: int = 0
    cached: bool = False
    retries: tuple[Retry, ...] = ()
    signals: Mapping[str, float] = NOTHING
    part: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """A call gave no answer. `error` is the kind (see errors.py), `reason` one line. It may still have cost money: None = unknown."""

    event: ClassVar[str] = "failed"
    tier: str
    model: str
    error: str
    reason: str
    cost_usd: Decimal | None = Decimal(0)
    seconds: float = 0.0
    sample: int = 0
    gate: str | None = None
    repair: int = 0
    retries: tuple[Retry, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """A gate looked at the tier's last answer. `score` None: could not tell (never passes)."""

    event: ClassVar[str] = "checked"
    tier: str
    gate: str
    score: float | None
    threshold: float
    passed: bool
    reason: str | None = None
    fields: tuple[str, ...] = ()
    signals: Mapping[str, float] = NOTHING
    cost_usd: Decimal | None = Decimal(0)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Skipped:
    """A tier was passed over without a call, e.g. because it failed this input before."""

    event: ClassVar[str] = "skipped"
    tier: str
    reason: str


@dataclass(frozen=True, slots=True)
class Compared:
    """A tier's answer was held against the last tier's (`against`), by the policy's comparators: in a recording, a shadow or an audit.
    `fields` are the JSON pointers on which they differ."""

    event: ClassVar[str] = "compared"
    tier: str
    against: str
    same: bool
    fields: tuple[str, ...] = ()


Event: TypeAlias = Tried | Failed | Checked | Skipped | Compared
Trail: TypeAlias = tuple[Event, ...]
