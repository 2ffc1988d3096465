"""A policy file to a `Policy`: every file read, every name resolved, every mistake found and told at once with its place."""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin

import jiter
from pydantic import BaseModel, ValidationError

from cascade import prompts, providers, shipped, verifiers
from cascade.compare import Comparators
from cascade.errors import PolicyError
from cascade.policy.model import PolicyPart, ProviderPart, TierPart, model_ref
from cascade.policy.source import MAX_BYTES, Loc, Source, SourceError, name, parse
from cascade.types import CacheSettings, Document, Gate, Json, Outcomes, Policy, Provider, Template, Tier, digest
from cascade.verifiers.schema import check_schema

LATER = "not in this version"


@dataclass
class Loaded:
    """A policy with where its parts stand (for lint), and the tiers to which the schema gate was added."""

    policy: Policy
    source: Source
    schema_added: tuple[int, ...] = ()


def load(path: str) -> Policy:
    """The policy of a file. Raises PolicyError with all that is wrong, a line each: `file:line:column: path: what`."""
    return load_with_places(path).policy


def load_text(text: str, path: str) -> Policy:
    """The policy of a text, as if it stood in the file `path` (which need not exist; other files are found relative to it)."""
    return _Loader(path).load(text).policy


def load_with_places(path: str) -> Loaded:
    """As `load`, with the place of every part."""
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise PolicyError([f"{path}:1:1: the file has more than {MAX_BYTES} bytes"])
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as err:
        raise PolicyError([f"{path}: {err.strerror or err}"]) from err
    except UnicodeDecodeError as err:
        raise PolicyError([f"{path}: not UTF-8 text (byte {err.start})"]) from err
    return _Loader(path).load(text)


@dataclass
class _Loader:
    path: str
    source: Source = field(default_factory=Source)
    problems: list[tuple[tuple[int, int], str]] = field(default_factory=list)
    unusable: set[str] = field(default_factory=set)

    def load(self, text: str) -> Loaded:
        try:
            self.source = parse(text, self.path)
        except SourceError as err:
            raise PolicyError([f"{self.path}:{err.line}:{err.column}: {err}"]) from err
        part = self._read()
        loaded = self._resolve(part) if part else None
        if self.problems or loaded is None:
            raise PolicyError([line for _, line in sorted(dict.fromkeys(self.problems))])
        return loaded

    # ------------------------------------------------------------ problems

    def problem(self, loc: Loc, message: str, key: bool = False) -> None:
        line, column = self.source.at(loc, key)
        where = f"{name(loc)}: " if loc else ""
        self.problems.append(((line, column), f"{self.path}:{line}:{column}: {where}{message}"))

    def foreign(self, loc: Loc, line: str) -> None:
        """A problem in another file, which names its place itself."""
        self.problems.append((self.source.at(loc), line))

    def _read(self) -> PolicyPart | None:
        value = self.source.value
        if not isinstance(value, dict):
            self.problem((), f"a policy is a mapping with version, name, prompt and tiers; this is {_kind(value)}")
            return None
        try:
            return PolicyPart.model_validate(value)
        except ValidationError as err:
            for error in err.errors():
                self._translated(error)
            return _what_is_left(value, [error["loc"] for error in err.errors()])

    def _translated(self, error: Any) -> None:
        loc: Loc = tuple(part for part in error["loc"] if part != "[key]")
        if error["type"] == "extra_forbidden":
            self.problem(loc, f"unknown key{near(str(loc[-1]), _keys_at(loc[:-1]))}", key=True)
        elif error["type"] == "missing":
            self.problem(loc[:-1], f'the key "{loc[-1]}" is missing', key=True)
        else:
            self.problem(loc, _plain(error))

    # ------------------------------------------------------------ resolving

    def _resolve(self, part: PolicyPart) -> Loaded | None:
        self._refuse_later(part)
        schema = self._schema(part)
        known = self._providers(part)
        compare = self._compare(part)
        prompt = self._template(("prompt",), part.prompt)
        system = self._template(("system",), part.system) if part.system is not None else None
        added: list[int] = []
        tiers = tuple(self._tiers(part, schema, compare, known, added))
        pricing = {ref: self._prices(ref, price) for ref, price in part.pricing.items()}
        if self.problems or prompt is None:
            return None
        policy = Policy(
            name=part.name, prompt=prompt, tiers=tiers, system=system, schema=schema,
            outcomes=Outcomes(**part.outcomes.model_dump()), providers=known, compare=compare, pricing=pricing,
            budget_per_request=part.budget.per_request, budget_per_run=part.budget.per_run, deadline=part.defaults.deadline,
            cache=CacheSettings(**part.cache.model_dump()), path=self.path,
        )  # fmt: skip
        object.__setattr__(policy, "digest", policy_digest(policy))  # over the whole: it can only be known now
        return Loaded(policy, self.source, tuple(added))

    def _refuse_later(self, part: PolicyPart) -> None:
        """Keys of the format that this version does not act upon: better refused than silently without effect."""
        for key in ("shadow", "audit", "thresholds"):
            if getattr(part, key):
                self.problem((key,), f"{LATER}: remove it")
        for i, tier in enumerate(part.tiers):
            if tier.escalate == "partial":
                self.problem(("tiers", i, "escalate"), f'partial escalation is {LATER}: write "whole"')
        if part.cache.backend not in ("disk", "memory", "off"):
            redis = part.cache.backend.startswith("redis")
            self.problem(("cache", "backend"), f"a shared cache in Redis is {LATER}: use disk, memory or off" if redis
                         else f"{part.cache.backend!r} is none of disk, memory, off")

    def _schema(self, part: PolicyPart) -> Document | None:
        given = part.schema_
        if given is None:
            return None
        if isinstance(given, str):
            given = self._python_schema(given) if given.startswith("python:") else self._schema_file(given)
            if given is None:
                return None
        problems = check_schema(given)
        for problem in problems:
            self.problem(("schema",), problem)
        return None if problems else Document(given)

    def _schema_file(self, given: str) -> Json:
        path = self._beside(given)
        try:
            raw = path.read_bytes()
        except OSError as err:
            self.problem(("schema",), f"{_shown(path)}: {err.strerror or err}")
            return None
        try:
            return jiter.from_json(raw, catch_duplicate_keys=True, allow_inf_nan=False)
        except ValueError as err:
            self.problem(("schema",), f"{_shown(path)}: not JSON: {err}")
            return None

    def _python_schema(self, given: str) -> Json:
        module, _, attribute = given.removeprefix("python:").partition(":")
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as err:
            self.problem(("schema",), f"{given}: cannot be imported: {err}")
            return None
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            self.problem(("schema",), f"{given}: is no pydantic model")
            return None
        return found.model_json_schema()

    def _compare(self, part: PolicyPart) -> Mapping[str, Json]:
        for key, spec in part.compare.items():
            try:
                Comparators.load({key: spec})
            except ValueError as err:
                self.problem(("compare", key), _without(key, str(err)))
        return part.compare

    def _template(self, loc: Loc, given: str) -> Template | None:
        """The template a key means: a file relative to the policy, or the text itself."""
        if _is_path(given) or self._beside(given).is_file():
            path = self._beside(given)
            try:
                template = Template(path.read_text(encoding="utf-8"), _shown(path))
            except (OSError, UnicodeDecodeError) as err:
                self.problem(loc, f"{_shown(path)}: {getattr(err, 'strerror', None) or err}")
                return None
        else:
            template = Template(given, self.path, self.source.blocks.get(loc, self.source.at(loc)[0]))
        problems = prompts.check(template)
        for line in problems:
            self.foreign(loc, line)
        return None if problems else template

    # ------------------------------------------------------------ providers and models

    def _providers(self, part: PolicyPart) -> dict[str, Provider]:
        found: dict[str, Provider] = {}
        for given, settings in part.providers.items():
            loc: Loc = ("providers", given)
            if settings.kind not in providers.kind_names():
                self.problem((*loc, "kind"), f"unknown kind{near(settings.kind, providers.kind_names())}")
                self.unusable.add(given)
                continue
            made = providers.provider(given, _provider_settings(settings, self._beside))
            for line in providers.problems(made):
                self.problem(loc, line)
            for key in made.capabilities:
                if key not in ("sampling", "seed", "logprobs", "deterministic", "schema"):
                    self.problem((*loc, "capabilities", key), "unknown capability" + near(
                        key, ("sampling", "seed", "logprobs", "deterministic", "schema")), key=True)
            found[given] = made
        return found

    def _model(self, loc: Loc, ref: str, params: Mapping[str, Json], schema: Document | None, known: dict[str, Provider]) -> str:
        """The model's reference, its provider found (built in, or declared) and able to do what is asked of it."""
        provider = ref.partition("/")[0]
        if provider in self.unusable:
            return ref
        if provider not in known:
            if provider not in providers.kind_names():
                self.problem(loc, f"unknown provider {provider!r}{near(provider, (*known, *providers.kind_names()))}")
                return ref
            known[provider] = providers.provider(provider)
            for line in providers.problems(known[provider]):
                self.problem(loc, f"{line}: declare it under providers")
        try:
            problem = providers.unsupported(known[provider], ref, params, schema.json if schema else None)
        except (KeyError, TypeError):
            return ref  # capabilities that were refused already
        if problem:
            self.problem(loc, problem)
        return ref

    def _prices(self, ref: str, price: Any) -> dict[str, Decimal]:
        return {key: value for key, value in price.model_dump().items() if value is not None}

    # ------------------------------------------------------------ tiers and gates

    def _tiers(self, part: PolicyPart, schema: Document | None, compare: Mapping[str, Json], known: dict[str, Provider],
               added: list[int]) -> Iterator[Tier]:
        taken: dict[str, int] = {}
        for i, given in enumerate(part.tiers):
            loc: Loc = ("tiers", i)
            params = {**part.defaults.params, **given.params}
            self._model((*loc, "model") if isinstance(self._raw(loc), dict) else loc, given.model, params, schema, known)
            own = given.name or _free_name(given.model, taken)
            if own in taken:
                self.problem((*loc, "name"), f"the name {own!r} is taken by tiers[{taken[own]}]: tier names are unique")
            taken[own] = i
            gates_loc: Loc = ("gates",) if given.gates is None else (*loc, "gates")
            gates = self._gates(gates_loc, part.gates if given.gates is None else given.gates, schema, compare, known)
            if schema and not any(gate.kind == "schema" for gate in gates):
                gates = (_schema_gate(), *gates)
                added.append(i)
            yield self._tier(own, given, part, params, gates)

    def _tier(self, own: str, given: TierPart, part: PolicyPart, params: Mapping[str, Json], gates: tuple[Gate, ...]) -> Tier:
        defaults = part.defaults
        return Tier(
            name=own, model=given.model, gates=gates, params=params, carry=given.carry,
            repair=defaults.repair if given.repair is None else given.repair,
            max_tokens=given.max_tokens or defaults.max_tokens, timeout=given.timeout or defaults.timeout,
            retries=defaults.retries if given.retries is None else given.retries,
        )  # fmt: skip

    def _gates(self, loc: Loc, given: list[Any], schema: Document | None, compare: Mapping[str, Json],
               known: dict[str, Provider]) -> tuple[Gate, ...]:
        gates: list[Gate] = []
        for i, item in enumerate(given):
            if not given_default(item) or schema or loc != ("gates",) or "gates" in (self.source.value or {}):
                gate = self._gate((*loc, i), item, schema, compare, known, gates)
                if gate:
                    gates.append(gate)
        return tuple(gates)

    def _gate(self, loc: Loc, item: Any, schema: Document | None, compare: Mapping[str, Json], known: dict[str, Provider],
              before: list[Gate]) -> Gate | None:
        kind: str
        options: Any = None
        if isinstance(item, str):
            kind = item
        elif isinstance(item, dict) and len(item) == 1:
            ((kind, options),) = item.items()
            loc = (*loc, kind)
        else:
            self.problem(loc, f'a gate is a verifier\'s name or one name with its options, e.g. {{judge: {{model: …}}}}; this is {_kind(item)}')
            return None
        if kind not in verifiers.KINDS:
            self.problem(loc, f"unknown verifier{near(kind, tuple(verifiers.KINDS))}", key=True)
            return None
        spec = verifiers.KINDS[kind]
        settings = self._own_options(loc, spec, options)
        own, threshold = settings.pop("name", None), settings.pop("threshold", spec.threshold)
        if own is not None and (not isinstance(own, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", own)):
            self.problem((*loc, "name"), "a name has letters, digits, dots and dashes")
            own = None
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            self.problem((*loc, "threshold"), f"a threshold is a number from 0 to 1, a score cannot reach {threshold!r}")
            threshold = spec.threshold
        names = [gate.name for gate in before]
        if own in names:
            self.problem((*loc, "name"), f"the name {own!r} is taken: gate names are unique in a tier")
        own = own or _free_name(kind, dict.fromkeys(names, 0), whole=True)
        return self._built(loc, kind, own, float(threshold), settings, schema, compare, known)

    def _own_options(self, loc: Loc, spec: verifiers.Spec, options: Any) -> dict[str, Any]:
        if options is None:
            return {}
        if isinstance(options, dict):
            return dict(options)
        if spec.positional is None:
            self.problem(loc, f"{spec.name} takes options in a mapping, this is {_kind(options)}")
            return {}
        return {spec.positional: options}

    def _built(self, loc: Loc, kind: str, own: str, threshold: float, options: dict[str, Any], schema: Document | None,
               compare: Mapping[str, Json], known: dict[str, Provider]) -> Gate | None:
        spec = verifiers.KINDS[kind]
        for key in spec.templates:
            if isinstance(options.get(key), str):
                options[key] = self._template((*loc, key), options[key])
                if options[key] is None:
                    return None
        if spec.default_prompt and not options.get("prompt"):
            shipped_prompt = shipped.folder("prompts") / spec.default_prompt  # in the options, so that the digest covers it
            options["prompt"] = Template(shipped_prompt.read_text(encoding="utf-8"), str(shipped_prompt))
        try:
            if kind != "schema" or schema or not self.problems:
                spec.build(options, schema, compare)
            models = spec.models(options)
        except ValueError as err:
            for line in str(err).splitlines():
                key, _, rest = line.partition(": ")
                inside = key.split(".")[0] in options and rest
                self.problem((*loc, key.split(".")[0]) if inside else loc, rest if inside else line, key="unknown key" in line)
            return None
        for ref in models:
            at = next((key for key in ("model", "with") if key in options), None)
            self._model((*loc, at) if at else loc, model_ref(ref), options.get("params") or {}, None, known)
        return Gate(own, kind, threshold, options, spec.repairable)

    # ------------------------------------------------------------ small things

    def _beside(self, given: str) -> Path:
        """A path relative to the policy file."""
        return Path(os.path.normpath(os.path.join(os.path.dirname(self.path), os.path.expanduser(given))))

    def _raw(self, loc: Loc) -> Json:
        value = self.source.value
        for part in loc:
            value = value[part]
        return value


def policy_digest(policy: Policy) -> str:
    """sha256 hex over all that can change an answer; not over prices, cache, key names or where files lie."""
    return digest({
        "prompt": prompts.digest(policy.prompt),
        "system": prompts.digest(policy.system) if policy.system else None,
        "schema": policy.schema.digest if policy.schema else None,
        "compare": dict(policy.compare),
        "outcomes": [policy.outcomes.refusal, policy.outcomes.error, policy.outcomes.truncated, policy.outcomes.exhausted],
        "providers": {key: [p.kind, p.base_url, dict(p.options), dict(p.capabilities)] for key, p in policy.providers.items()},
        "tiers": [[t.name, t.model, dict(t.params), t.repair, t.carry, t.max_tokens, [_gate_digest(g) for g in t.gates]] for t in policy.tiers],
    })  # fmt: skip


def _gate_digest(gate: Gate) -> Json:
    options = {key: prompts.digest(value) if isinstance(value, Template) else value for key, value in gate.options.items()}
    return [gate.name, gate.kind, gate.threshold, options]


def near(word: str, words: Any) -> str:
    """`, did you mean "x"?`, or which words there are."""
    close = difflib.get_close_matches(word, list(words), 1, cutoff=0.6)
    if close:
        return f', did you mean "{close[0]}"?'
    return f"; there are: {', '.join(words)}" if words else ""


def given_default(item: Any) -> bool:
    """Whether a gate is just the schema's."""
    return bool(item == "schema")


def _schema_gate() -> Gate:
    return Gate("schema", "schema", verifiers.KINDS["schema"].threshold, {}, verifiers.KINDS["schema"].repairable)


def _provider_settings(part: ProviderPart, beside: Any) -> dict[str, Any]:
    """The part as `types.Provider` wants it: what only the adapter knows goes into its options."""
    own = {"kind", "base_url", "api_key_env", "capabilities", "concurrency", "requests_per_minute", "tokens_per_minute"}
    given = part.model_dump(exclude_unset=True)
    settings = {key: value for key, value in given.items() if key in own}
    options = {key: value for key, value in given.items() if key not in own and value is not None}
    if "path" in options:
        options["path"] = str(beside(options["path"]))
    return {**settings, "options": options}


def _keys_at(loc: Loc) -> tuple[str, ...]:
    """The keys a mapping of the file may have."""
    model: type[BaseModel] | None = PolicyPart
    named = False  # the next part is a name of the user's own, as in providers.local
    for part in loc:
        if isinstance(part, int) or named:
            named = False
            continue
        found = next((f for key, f in model.model_fields.items() if (f.alias or key) == part), None) if model else None
        if found is None:
            return ()
        model, named = _inner(found.annotation), get_origin(found.annotation) is dict
    return tuple(f.alias or key for key, f in model.model_fields.items()) if model else ()


def _what_is_left(value: dict[str, Json], wrong: list[tuple[str | int, ...]]) -> PolicyPart | None:
    """The policy without the values that were refused, so that the rest can be looked at too; None where that cannot be done."""
    rest = copy.deepcopy(value)
    for loc in wrong:
        inner: Any = rest
        for part in loc[:-1]:
            inner = inner[part] if isinstance(inner, dict) and part in inner or isinstance(inner, list) and isinstance(part, int) else None
        if isinstance(inner, dict):
            inner.pop(loc[-1], None)
    try:
        return PolicyPart.model_validate(rest)
    except ValidationError:
        return None


def _inner(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = [found for arg in get_args(annotation) if (found := _inner(arg)) is not None]
    return models[-1] if models else None


def _plain(error: Any) -> str:
    """A pydantic message in our words."""
    kind, context, given = error["type"], error.get("ctx", {}), error.get("input")
    if kind == "literal_error":
        return f"{given!r} is none of {context['expected'].replace(chr(39), '')}"
    if kind.endswith("_type"):
        wanted = {"string": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list",
                  "dict": "a mapping", "model": "a mapping"}.get(kind.removesuffix("_type"), kind.removesuffix("_type"))  # fmt: skip
        return f"must be {wanted}, this is {_kind(given)}"
    if kind == "too_short":
        return "must not be empty"
    if kind == "string_pattern_mismatch":
        return f"{given!r} does not fit the pattern {context['pattern']}"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _without(key: str, message: str) -> str:
    return message.removeprefix(f"{key}: ").removeprefix(f"compare.{key}: ")


def _is_path(given: str) -> bool:
    return "\n" not in given and bool(re.search(r"\.(j2|jinja2?|txt|md)$", given.strip()))


def _shown(path: Path) -> str:
    return os.fspath(path)


def _free_name(model: str, taken: Mapping[str, int], whole: bool = False) -> str:
    """A name that is not taken yet: the model's last part, then with -2, -3 …"""
    base = model if whole else re.sub(r"[^A-Za-z0-9_.-]+", "-", model.rpartition("/")[2]).strip("-.") or "tier"
    return next(c for c in (base, *(f"{base}-{n}" for n in range(2, len(taken) + 3))) if c not in taken)
