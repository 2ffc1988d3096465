"""A policy file to a `Policy`: every file read, every name resolved, every mistake found and told at once with its place."""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any, get_origin

import jiter
import orjson
from pydantic import BaseModel, ValidationError

from cascade import prompts, providers, redis_store, shipped, thresholds, verifiers
from cascade.compare import Comparators
from cascade.errors import InputError, PolicyError
from cascade.monitor import expect
from cascade.policy import fields
from cascade.policy.mistakes import Mistake, kind, mistakes, near, plainly
from cascade.policy.model import NAME, CachePart, PolicyPart, ProviderPart, TierPart, model_ref
from cascade.policy.source import MAX_BYTES, Loc, Source, SourceError, cut, name, parse
from cascade.thresholds import Thresholds
from cascade.types import CacheSettings, Document, Gate, Json, Outcomes, Policy, Provider, Template, Tier, Watch, digest
from cascade.verifiers.schema import check_schema

MESSAGES = "messages"
"""The `prompt` of a policy whose prompt is what its callers say."""
NO_MODEL = "?/?"
"""Stands for a tier's model that was refused, so that the rest of the policy can be looked at."""


@dataclass
class Loaded:
    """A policy with where its parts stand (for lint), and the tiers to which the schema gate was added."""

    policy: Policy
    declared: Policy
    """The policy without its thresholds file: its tiers and gates are those of the source, index by index."""
    source: Source
    schema_added: tuple[int, ...] = ()
    gate_places: Mapping[tuple[int, int], Loc] = field(default_factory=dict)
    """Where the gate of a tier stands, both by index; the tier's place for a schema gate that was added."""


def load(path: str, *, calibrated: bool = True, files: set[str] | None = None) -> Policy:
    """The policy of a file. Raises PolicyError with all that is wrong, a line each: `file:line:column: path: what`.

    `calibrated` False: as if it named no thresholds file, e.g. to record anew. All files that were read, or should have been, are added
    to `files`, also when it raises.
    """
    return load_with_places(path, calibrated=calibrated, files=files).policy


def load_text(text: str, path: str) -> Policy:
    """The policy of a text, as if it stood in the file `path` (which need not exist; other files are found relative to it)."""
    return _Loader(path).load(text).policy


def load_with_places(path: str, *, calibrated: bool = True, files: set[str] | None = None) -> Loaded:
    """As `load`, with the place of every part."""
    files = set() if files is None else files
    files.add(path)
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise PolicyError([f"{path}:1:1: the file has more than {MAX_BYTES} bytes"])
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as err:
        raise PolicyError([f"{path}: not UTF-8 text (byte {err.start})"]) from err
    except (OSError, ValueError) as err:  # ValueError: a zero byte in the path
        raise PolicyError([f"{path}: {getattr(err, 'strerror', None) or err}"]) from err
    return _Loader(path, calibrated, files=files).load(text)


@dataclass
class _Loader:
    path: str
    calibrated: bool = True
    source: Source = field(default_factory=Source)
    problems: list[tuple[tuple[int, int], str]] = field(default_factory=list)
    unusable: set[str] = field(default_factory=lambda: {"?"})
    places: dict[tuple[int, int], Loc] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

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
        self.problems.append(((line, column), f"{self.path}:{line}:{column}: {where}{cut(message)}"))

    def _read(self) -> PolicyPart | None:
        value = self.source.value
        if not isinstance(value, dict):
            self.problem((), f"a policy is a mapping with version, name, prompt and tiers; this is {kind(value)}")
            return None
        try:
            return PolicyPart.model_validate(value)
        except ValidationError as err:
            found = mistakes(err, value, PolicyPart)
            for mistake in found:
                self.problem(*mistake[:3])
            return _what_is_left(value, found)

    # ------------------------------------------------------------ resolving

    def _resolve(self, part: PolicyPart) -> Loaded | None:
        self._refuse_later(part)
        schema = self._schema(part)
        known = self._providers(part)
        compare = self._compare(part, schema)
        prompt = None if part.prompt == MESSAGES else self._template(("prompt",), part.prompt)
        system = self._template(("system",), part.system) if part.system is not None else None
        added: list[int] = []
        tiers = tuple(self._tiers(part, schema, compare, known, added))
        pricing = {ref: self._prices(ref, price) for ref, price in part.pricing.items()}
        if self.problems:
            return None
        policy = Policy(
            name=part.name, prompt=prompt, tiers=tiers, system=system, schema=schema,
            outcomes=Outcomes(**part.outcomes.model_dump()), providers=known, compare=compare, pricing=pricing,
            budget_per_request=part.budget.per_request, budget_per_run=part.budget.per_run, deadline=part.defaults.deadline,
            cache=CacheSettings(**part.cache.model_dump()), shadow=part.shadow, audit=part.audit, path=self.path,
            caller_schema=part.caller_schema,
        )  # fmt: skip
        declared = policy
        if part.thresholds and self.calibrated:
            policy = self._thresholds(policy, part.thresholds)
            if self.problems:
                return None
        object.__setattr__(policy, "digest", policy_digest(policy))  # over the whole: it can only be known now
        return Loaded(policy, declared, self.source, tuple(added), self.places)

    def _refuse_later(self, part: PolicyPart) -> None:
        """What this version, or this policy, does not act upon: better refused than silently without effect."""
        for i, tier in enumerate(part.tiers):
            if tier.escalate == "partial" and part.schema_ is None:
                self.problem(("tiers", i, "escalate"), 'partial needs a schema: it tells the fields apart; declare one, or write "whole"')
        if part.caller_schema and part.thresholds:
            self.problem(("caller_schema",), "the certificate of thresholds holds for the policy's own schema only: take one of them out")
        self._cache(part.cache)

    def _cache(self, cache: CachePart) -> None:
        if cache.backend in ("disk", "memory", "off"):
            return
        if "://" not in cache.backend and "@" not in cache.backend:  # else it may hold a password, and is not repeated
            self.problem(("cache", "backend"), f"{cache.backend!r} is none of disk, memory, off, redis://host:port/db")
            return
        try:
            redis_store.address(cache.backend)
        except ValueError as err:
            self.problem(("cache", "backend"), str(err))

    def _thresholds(self, policy: Policy, given: str) -> Policy:
        """The policy as calibration left it. A file that was made for another policy is refused, saying what changed."""
        path = self._beside(given)
        self.files.add(os.fspath(path))
        if not path.exists():
            self.problem(("thresholds",), f"{_shown(path)}: is not there; cascade calibrate writes it")
            return policy
        text = self._read_file(("thresholds",), path)
        if text is None:
            return policy
        try:
            found = thresholds.loads(text.encode())
        except InputError as err:
            self.problem(("thresholds",), f"{_shown(path)}: {err}")
            return policy
        for what in thresholds.problems(policy, found):
            self.problem(("thresholds",), f"{_shown(path)} does not hold any more: {what}. Record and calibrate again, or remove this line")
        return _calibrated(policy, found, _shown(path), hashlib.sha256(text.encode()).hexdigest()) if not self.problems else policy

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
            self._schema_problem(problem, part.schema_)
        try:
            return None if problems else Document(given)
        except TypeError as err:  # orjson's, of a number beyond 64 bits
            self._schema_problem(str(err), part.schema_)
            return None

    def _schema_problem(self, problem: str, given: Any) -> None:
        """`/properties/a: what` at its place, where the schema stands in the policy file; else with the file's name."""
        pointer, colon, rest = problem.partition(": ")
        if isinstance(given, str):
            self.problem(("schema",), f"{given}: {problem}")
        elif colon and pointer.startswith("/"):
            keys = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
            self.problem(("schema", *(int(key) if key.isdigit() else key for key in keys)), rest)
        else:
            self.problem(("schema",), problem)

    def _schema_file(self, given: str) -> Json:
        path = self._beside(given)
        text = self._read_file(("schema",), path)
        if text is None:
            return None
        try:
            found = jiter.from_json(text.encode(), catch_duplicate_keys=True, allow_inf_nan=False)
        except ValueError as err:
            self.problem(("schema",), f"{_shown(path)}: not JSON: {err}")
            return None
        if found is None:
            self.problem(("schema",), f"{_shown(path)}: is null, and no JSON Schema")
        return found

    def _read_file(self, loc: Loc, path: Path) -> str | None:
        """The text of a file that the policy names; None when it cannot be read, which is told."""
        self.files.add(os.fspath(path))
        try:
            if path.stat().st_size > MAX_BYTES:
                self.problem(loc, f"{_shown(path)}: the file has more than {MAX_BYTES} bytes")
                return None
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as err:
            self.problem(loc, f"{_shown(path)}: not UTF-8 text (byte {err.start})")
        except (OSError, ValueError) as err:  # ValueError: a zero byte in the path
            self.problem(loc, f"{_shown(path)}: {getattr(err, 'strerror', None) or err}")
        return None

    def _python_schema(self, given: str) -> Json:
        module, _, attribute = given.removeprefix("python:").partition(":")
        if not module or not attribute:
            self.problem(("schema",), "write python:package.module:Model")
            return None
        try:
            found = getattr(import_module(module), attribute)
            if isinstance(found, type) and issubclass(found, BaseModel):
                return found.model_json_schema()
        except Exception as err:  # a user's module can raise anything while it is imported
            self.problem(("schema",), f"{given}: cannot be imported: {type(err).__name__}: {err}")
            return None
        self.problem(("schema",), f"{given}: is no pydantic model")
        return None

    def _compare(self, part: PolicyPart, schema: Document | None) -> Mapping[str, Json]:
        """The comparators that are sound; gates are not held up by the others."""
        sound: dict[str, Json] = {}
        for key, spec in part.compare.items():
            try:
                Comparators.load({key: spec})
            except ValueError as err:
                self.problem(("compare", key), plainly(_without(key, str(err))))
                continue
            sound[key] = spec
            self._field(("compare", key), key, schema)
        return sound

    def _field(self, loc: Loc, given: str, schema: Document | None) -> None:
        """A field that no answer can have would be compared with nothing, and so always agree."""
        found = fields.find(given, schema)
        if found.state == "unknown":
            self.problem(loc, f"the schema has no field {given!r}{found.hint}", key=True)

    def _template(self, loc: Loc, given: str) -> Template | None:
        """The template a key means: a file relative to the policy, or the text itself."""
        if not given.strip():
            self.problem(loc, "must not be empty")
            return None
        if _is_text(given):
            template = Template(given, self.path, self.source.blocks.get(loc, self.source.at(loc)[0]))
        else:
            path = self._beside(given)
            text = self._read_file(loc, path)
            if text is None:
                return None
            template = Template(text, _shown(path))
        problems = prompts.check(template)
        for line in problems:
            self._template_problem(loc, line)
        if problems:
            return None
        self.files.update(part.path for part in prompts.parts(template)[1:])
        return prompts.whole(template)

    def _template_problem(self, loc: Loc, line: str) -> None:
        """`file:line: what`; where the template stands in the policy, as a problem of the policy."""
        inside = re.match(rf"{re.escape(self.path)}:(\d+): (.*)", line)
        if inside is None:
            self.problems.append((self.source.at(loc), cut(line)))
            return
        at, column = int(inside[1]), self.source.at(loc)[1]
        column = column if at == self.source.at(loc)[0] else 1
        self.problems.append(((at, column), cut(f"{self.path}:{at}:{column}: {name(loc)}: {inside[2]}")))

    # ------------------------------------------------------------ providers and models

    def _providers(self, part: PolicyPart) -> dict[str, Provider]:
        found: dict[str, Provider] = {}
        for given, settings in part.providers.items():
            loc: Loc = ("providers", given)
            if settings.kind not in providers.kind_names():
                if settings.kind != "?":
                    self.problem((*loc, "kind"), f"unknown kind{near(settings.kind, providers.kind_names())}")
                self.unusable.add(given)
                continue
            made = providers.provider(given, _provider_settings(settings, self._beside))
            for line in providers.problems(made):
                key, _, what = line.removeprefix("options.").partition(": ")  # in the file an option stands beside the rest
                is_there = key in settings.model_fields_set
                self.problem((*loc, key) if is_there else loc, what if is_there else f"{key} is missing: {what}", key=True)
            found[given] = made
        return found

    def _model(self, loc: Loc, ref: str, known: dict[str, Provider], decides: bool = False) -> str:
        """The model's reference, its provider found: built in, or declared; `decides`: it is to answer questions, else to write text."""
        provider = ref.partition("/")[0]
        if provider in self.unusable and self.problems:  # told already
            return ref
        if provider not in known:
            if provider not in providers.kind_names():
                self.problem(loc, f"unknown provider {provider!r}{near(provider, (*known, *providers.kind_names()))}")
                return ref
            known[provider] = providers.provider(provider)
            if needs := [line.removeprefix("options.").partition(": ")[0] for line in providers.problems(known[provider])]:
                self.problem(loc, f"{provider} needs {' and '.join(needs)}: declare it under providers")
        can = providers.kind(known[provider].kind).decides
        if can is not None and can != decides:
            self.problem(loc, f"{ref} answers fixed questions and writes no text: ask it in a decision gate" if can else
                         f"{ref} writes text; a decision asks a model of a provider of kind decisions, such as decisions/gpt-6-luna")
        return ref

    def _params(self, model: Loc, loc: Loc, ref: str, params: Mapping[str, Json], schema: Document | None,
                known: dict[str, Provider]) -> None:
        """Refuse params that this model does not take, or that are cascade's own; `model` and `loc` are where they stand."""
        for key, instead in _OWN_PARAMS.items():
            if key in params:
                self.problem(self._param_place(loc, key), f"write {instead} beside params, not in it", key=True)
        provider = known.get(ref.partition("/")[0])
        problem = providers.unsupported(provider, ref, params, schema.json if schema else None) if provider else None
        if problem:
            at = next((key for key in params if re.search(rf"(params\.|takes no ){re.escape(key)}\b", problem)), None)
            self.problem(self._param_place(loc, at) if at else model, problem.removeprefix(f"params.{at} "), key=at is not None)

    def _param_place(self, loc: Loc, key: str) -> Loc:
        """A tier's own params come first, then the defaults'."""
        own = self._raw(loc)
        return (*loc, key) if isinstance(own, dict) and key in own else ("defaults", "params", key)

    def _prices(self, ref: str, price: Any) -> dict[str, Decimal]:
        return {key: value for key, value in price.model_dump().items() if value is not None}

    # ------------------------------------------------------------ tiers and gates

    def _tiers(self, part: PolicyPart, schema: Document | None, compare: Mapping[str, Json], known: dict[str, Provider],
               added: list[int]) -> Iterator[Tier]:
        taken: dict[str, int] = {}
        for i, given in enumerate(part.tiers):
            loc: Loc = ("tiers", i)
            params = {**part.defaults.params, **given.params}
            place = (*loc, "model") if isinstance(self._raw(loc), dict) else loc
            self._model(place, given.model, known)
            self._params(place, (*loc, "params"), given.model, params, schema, known)
            own = given.name or _free_name(given.model, taken)
            if own in taken:
                self.problem((*loc, "name"), f"the name {own!r} is taken by tiers[{taken[own]}]: tier names are unique")
            taken[own] = i
            gates_loc: Loc = ("gates",) if given.gates is None else (*loc, "gates")
            gates, places = self._gates(gates_loc, part, given.gates, schema, compare, known)
            if schema and not any(gate.kind == "schema" for gate in gates):
                gates, places = (schema_gate(), *gates), [loc, *places]
                added.append(i)
            self.places.update({(i, j): place for j, place in enumerate(places)})
            yield self._tier(own, given, part, params, gates)

    def _tier(self, own: str, given: TierPart, part: PolicyPart, params: Mapping[str, Json], gates: tuple[Gate, ...]) -> Tier:
        defaults = part.defaults
        return Tier(
            name=own, model=given.model, gates=gates, params=params, carry=given.carry, escalate=given.escalate,
            repair=defaults.repair if given.repair is None else given.repair,
            max_tokens=given.max_tokens or defaults.max_tokens, timeout=given.timeout or defaults.timeout,
            retries=defaults.retries if given.retries is None else given.retries,
        )  # fmt: skip

    def _gates(self, loc: Loc, part: PolicyPart, own: list[Any] | None, schema: Document | None, compare: Mapping[str, Json],
               known: dict[str, Provider]) -> tuple[tuple[Gate, ...], list[Loc]]:
        """The gates of a tier: its own, else the policy's; and where each stands."""
        given = part.gates if own is None else own
        if own is None and "gates" not in part.model_fields_set and part.schema_ is None:
            given = []  # the default is the schema gate, where there is a schema
        gates: list[Gate] = []
        places: list[Loc] = []
        for i, item in enumerate(given):
            gate = self._gate((*loc, i), item, part, schema, compare, known, gates)
            if gate:
                gates.append(gate)
                places.append((*loc, i))
        return tuple(gates), places

    def _gate(self, loc: Loc, item: Any, part: PolicyPart, schema: Document | None, compare: Mapping[str, Json],
              known: dict[str, Provider], before: list[Gate]) -> Gate | None:
        if isinstance(item, str):
            verifier, given = item, None
        elif isinstance(item, dict) and len(item) == 1:
            ((verifier, given),) = item.items()
            loc = (*loc, verifier)
        else:
            self.problem(loc, "a gate is a verifier's name, or one name with its options such as {judge: {model: …}}; this is "
                         + (f"a mapping of {len(item)}" if isinstance(item, dict) else kind(item)))
            return None
        if verifier not in verifiers.KINDS:
            self.problem(loc, f"unknown verifier {verifier!r}{near(verifier, verifiers.KINDS)}", key=True)
            return None
        spec = verifiers.KINDS[verifier]
        if given is not None and not isinstance(given, dict) and spec.positional is None:
            self.problem(loc, f"{verifier} takes options in a mapping, this is {kind(given)}")
            return None
        options: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
        if spec.positional is not None and given is not None and not isinstance(given, dict):
            options[spec.positional] = given
        own = self._gate_name(loc, verifier, options.pop("name", None), [gate.name for gate in before])
        threshold = self._threshold(loc, options.pop("threshold", spec.threshold))
        accept_at = self._accept_at(loc, options.pop("accept_at", None), threshold)
        if not spec.asks and (sure := next((gate for gate in before if gate.accept_at is not None), None)):
            self.problem(loc, f"{own} would be passed over when {sure.name} reaches its accept_at: put it before {sure.name}; it asks no model")
        if not self._options(loc, spec, options, isinstance(given, dict)) or not self._built(
            loc, spec, options, isinstance(given, dict), part, schema, compare, known
        ):
            return None
        return Gate(own, verifier, threshold, options, spec.repairable, asks=spec.asks, accept_at=accept_at)

    def _gate_name(self, loc: Loc, verifier: str, own: Any, taken: list[str]) -> str:
        if own is not None and not (isinstance(own, str) and re.fullmatch(NAME, own)):
            self.problem((*loc, "name"), "a name has letters, digits, dots and dashes")
        elif own in taken:
            self.problem((*loc, "name"), f"the name {own!r} is taken: gate names are unique in a tier")
        elif own is not None:
            return str(own)
        return _free_name(verifier, dict.fromkeys(taken, 0), whole=True)

    def _threshold(self, loc: Loc, given: Any) -> float:
        if not isinstance(given, bool) and isinstance(given, int | float) and 0 <= given <= 1:
            return float(given)
        self.problem((*loc, "threshold"), f"a threshold is a number from 0 to 1, a score cannot reach {given!r}")
        return 1.0

    def _accept_at(self, loc: Loc, given: Any, threshold: float) -> float | None:
        if given is None:
            return None
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
            self.problem((*loc, "accept_at"), f"a score from 0 to 1, none can reach {given!r}")
        elif given < threshold:
            self.problem((*loc, "accept_at"), f"{given!r} is below the threshold {threshold:g}, so it would accept what fails the gate: "
                         f"write {threshold:g} or more")
        else:
            return float(given)
        return None

    def _options(self, loc: Loc, spec: verifiers.Spec, options: dict[str, Any], named: bool) -> bool:
        """Whether the options have the right types, strictly: "3" is not 3. `named`: they stand in a mapping of their own."""
        for key in spec.templates:
            several = isinstance(options.get(key), list) and get_origin(spec.options.model_fields[key].annotation) is tuple
            for i, given in enumerate(options[key] if several else [options.get(key)]):
                if not isinstance(given, str) and (several or given is not None):
                    place = (*loc, key, i) if several else (*loc, key)
                    self.problem(place if named else loc, f"must be text, this is {kind(given)}")
                    return False
        try:
            spec.options.model_validate_json(orjson.dumps(options), strict=True)
        except ValidationError as err:
            for mistake in mistakes(err, options, spec.options):
                if named:
                    self.problem((*loc, *mistake.loc), mistake.message, mistake.at_key)
                else:
                    self.problem(loc, f"{spec.name} needs its {mistake.missing}" if mistake.missing else mistake.message)
            return False
        return True

    def _built(self, loc: Loc, spec: verifiers.Spec, options: dict[str, Any], named: bool, part: PolicyPart, schema: Document | None,
               compare: Mapping[str, Json], known: dict[str, Provider]) -> bool:
        """Whether a verifier can be made of these options, and its models asked. Templates are read into the options."""
        for key in spec.templates:
            if isinstance(options.get(key), list):
                options[key] = [self._template((*loc, key, i), given) for i, given in enumerate(options[key])]
            elif options.get(key) is not None:
                options[key] = self._template((*loc, key), options[key])
            if options.get(key, "") is None or (isinstance(options.get(key), list) and None in options[key]):
                return False
        if spec.default_prompt and not options.get("prompt"):
            shipped_prompt = shipped.folder("prompts") / spec.default_prompt  # in the options, so that the digest covers it
            options["prompt"] = Template(shipped_prompt.read_text(encoding="utf-8"), str(shipped_prompt))
        if part.schema_ is not None and schema is None:
            return True  # the schema was refused already, and there is nothing to hold the options against
        at = next((key for key in ("model", "with") if key in options), None)
        try:
            models = tuple(model_ref(ref) for ref in spec.models(options))
            spec.build(options, schema, compare)
        except ValueError as err:
            for line in str(err).splitlines():
                key, _, rest = line.partition(": ")
                place, what = (key, rest) if key in options and rest else (at if at and "provider/model" in line else None, line)
                self.problem((*loc, place) if named and place else loc, what)
            return False
        for i, field_name in enumerate(options.get("fields", ())):
            self._field((*loc, "fields", i), field_name, schema)
        for ref in models:
            place_of_model = (*loc, at) if named and at else loc
            self._model(place_of_model, ref, known, spec.decides)
            self._params(place_of_model, (*loc, "params"), ref, options.get("params", {}), schema if at == "with" else None, known)
        return True

    # ------------------------------------------------------------ small things

    def _beside(self, given: str) -> Path:
        """A path relative to the policy file."""
        return Path(os.path.normpath(os.path.join(os.path.dirname(self.path), os.path.expanduser(given))))

    def _raw(self, loc: Loc) -> Json:
        """What the file says there; None where a stand-in was put for what it did not say."""
        value = self.source.value
        for part in loc:
            if isinstance(value, dict):
                value = value.get(part)
            else:
                value = value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None
        return value


_OWN_PARAMS = dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens"), "max_tokens") | {"timeout": "timeout"}


def _calibrated(policy: Policy, found: Thresholds, file: str, source: str) -> Policy:
    """The policy at the chosen step, with the chain of those that serve after alarms: safer steps, then the last tier alone. What was
    never certified has no safer policy."""
    chain = [found.chosen]
    if found.chosen is not None and found.steps[found.chosen].certified:
        while chain[-1] is not None:
            chain.append(expect.safer(found, chain[-1]))
    made: Policy | None = None
    for step in reversed(chain):
        watch = Watch(file, source, step, {} if step is None else expect.expected(found, step))
        made = replace(thresholds.apply(policy, found, step), watch=watch, safer=made)
        made = replace(made, digest=policy_digest(made))
    assert made is not None, "the chain holds the chosen step"
    return made


def policy_digest(policy: Policy) -> str:
    """sha256 hex over all that can change an answer; not over prices, cache, key names or where files lie."""
    return digest({
        "prompt": prompts.digest(policy.prompt),
        "system": prompts.digest(policy.system),
        "schema": policy.schema.digest if policy.schema else None,
        "compare": dict(policy.compare),
        "outcomes": [policy.outcomes.refusal, policy.outcomes.error, policy.outcomes.truncated, policy.outcomes.exhausted],
        "providers": {key: _provider_digest(policy.providers[key]) for key in sorted(_asked(policy))},
        "tiers": [[t.name, t.model, dict(t.params), t.repair, t.carry, t.escalate, t.max_tokens,
                   [_gate_digest(gate) for gate in t.gates]] for t in policy.tiers],
    })  # fmt: skip


def _asked(policy: Policy) -> set[str]:
    """The providers that tiers and gates ask: one that is only declared changes no answer."""
    models = [model for tier in policy.tiers for gate in tier.gates for model in verifiers.models(gate.kind, gate.options)]
    return {ref.partition("/")[0] for ref in (*models, *(tier.model for tier in policy.tiers))}


def _provider_digest(provider: Provider) -> Json:
    options = {key: value for key, value in provider.options.items() if key != "path"}  # where recordings lie
    return [provider.kind, provider.base_url, options, dict(provider.capabilities)]


def _gate_digest(gate: Gate) -> Json:
    sure = [] if gate.accept_at is None else [gate.accept_at]
    return [gate.name, gate.kind, gate.threshold, prompts.by_content(gate.options), *sure]


def schema_gate() -> Gate:
    """The gate that looks whether an answer fits the schema."""
    return Gate("schema", "schema", verifiers.KINDS["schema"].threshold, {}, verifiers.KINDS["schema"].repairable)


def _provider_settings(part: ProviderPart, beside: Any) -> dict[str, Any]:
    """The part as `types.Provider` wants it: what only the adapter knows goes into its options."""
    own = {"kind", "base_url", "api_key_env", "capabilities", "concurrency", "requests_per_minute", "tokens_per_minute"}
    given = part.model_dump(exclude_unset=True, by_alias=True)
    settings = {key: value for key, value in given.items() if key in own}
    options = {key: value for key, value in given.items() if key not in own and value is not None}
    if "path" in options:
        options["path"] = str(beside(options["path"]))
    return {**settings, "options": options}


_STAND_INS: Mapping[str, Json] = {"version": 1, "name": "p", "prompt": "- -", "tiers": [NO_MODEL], "model": NO_MODEL, "kind": "?"}


def _what_is_left(value: dict[str, Json], wrong: list[Mistake]) -> PolicyPart | None:
    """The policy without what was refused, so that the rest can be looked at too; None where that cannot be done."""
    rest = copy.deepcopy(value)
    for _ in range(3):  # taking a value out may leave a gap, and filling it an empty list
        for mistake in wrong:
            _mend(rest, mistake)
        try:
            return PolicyPart.model_validate(rest)
        except ValidationError as err:
            wrong = mistakes(err, rest, PolicyPart)
    return None


def _has(value: Json, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _mend(rest: Json, mistake: Mistake) -> None:
    """Take the refused value out, or put a stand-in where one is missing."""
    loc = mistake.loc if mistake.missing is None else (*mistake.loc, mistake.missing)
    *way, last = loc or ("",)
    here: Any = rest
    for part in way:
        if not _has(here, part):
            return
        here = here[part]
    if isinstance(here, list) and _has(here, last):
        here[int(last)] = NO_MODEL
    elif isinstance(here, dict) and mistake.missing is not None:
        here[last] = _STAND_INS.get(str(last), 0)
    elif isinstance(here, dict):
        here.pop(last, None)


def _without(key: str, message: str) -> str:
    return message.removeprefix(f"{key}: ").removeprefix(f"compare.{key}: ")


def _is_text(given: str) -> bool:
    """Whether a prompt is the text itself: several lines, or a hole to fill, or words and no file's ending. Else it is a path."""
    if "\n" in given or "{{" in given or "{%" in given:
        return True
    return " " in given.strip() and not re.search(r"\.(j2|jinja2?|txt|md)$", given.strip())


def _shown(path: Path) -> str:
    return os.fspath(path)


def _free_name(model: str, taken: Mapping[str, int], whole: bool = False) -> str:
    """A name that is not taken yet: the model's last part, then with -2, -3 …"""
    base = model if whole else re.sub(r"[^A-Za-z0-9_.-]+", "-", model.rpartition("/")[2]).strip("-.") or "tier"
    return next(c for c in (base, *(f"{base}-{n}" for n in range(2, len(taken) + 3))) if c not in taken)
