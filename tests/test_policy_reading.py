"""How a policy's text is read: places, scalars, paths and texts, fields against the schema, digests; and that nothing ends in a traceback."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from cascade.errors import PolicyError
from cascade.policy import load, load_text
from cascade.policy.bounds import bounds
from cascade.policy.fields import find
from cascade.policy.lint import lint
from cascade.policy.load import _Loader
from cascade.policy.source import SourceError, cut, name, parse
from cascade.types import Document

HERE = Path(__file__).parent / "policies"

YAML = "a: 1\nb:\n  - x\n  - c: |\n      text\n"
JSON = '{\n  "a": 1,\n  "b": ["x",\n\t{"c": "text \\" ] }"}]\n}\n'
TOML = 'a = 1\n\n[[b]]\nc = "x"\n\n[[b]]\nc = """\ntext"""\nd = {e = 1}\n'


@pytest.mark.parametrize(
    ("text", "path", "loc", "key", "value"),
    [
        (YAML, "p.yaml", ("a",), (1, 1), (1, 4)),
        (YAML, "p.yaml", ("b", 0), (3, 5), (3, 5)),
        (YAML, "p.yaml", ("b", 1, "c"), (4, 5), (4, 8)),
        (YAML, "p.yaml", ("b", 7, "nowhere"), (2, 1), (2, 1)),
        (JSON, "p.json", ("a",), (2, 3), (2, 8)),
        (JSON, "p.json", ("b", 0), (3, 9), (3, 9)),
        (JSON, "p.json", ("b", 1, "c"), (4, 3), (4, 8)),
        (TOML, "p.toml", ("a",), (1, 1), (1, 1)),
        (TOML, "p.toml", ("b", 0, "c"), (4, 1), (4, 1)),
        (TOML, "p.toml", ("b", 1, "c"), (7, 1), (7, 1)),
        (TOML, "p.toml", ("b", 1, "d", "e"), (9, 6), (9, 6)),
    ],
)
def test_each_value_knows_its_place(text: str, path: str, loc: Any, key: Any, value: Any) -> None:
    source = parse(text, path)
    assert (source.at(loc, key=True), source.at(loc)) == (key, value)


def test_texts_of_several_lines_know_where_they_begin() -> None:
    assert (parse(YAML, "p.yaml").blocks, parse(TOML, "p.toml").blocks) == ({("b", 1, "c"): 5}, {("b", 1, "c"): 8})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("y", "y"), ("true", True), ("~", None), ("", None), ("1e3", 1000.0), (".5", 0.5), ("-7", -7),
        ("0o17", "0o17"), ("1_000", "1_000"), ("12:30", "12:30"), ("2026-11-25", "2026-11-25"), ("'1'", "1"), ('"\\ud83d\\ude00"', "😀"),
        ("18446744073709551615", 18446744073709551615), ("0.05", 0.05),
    ],
)  # fmt: skip
def test_yaml_scalar(text: str, value: Any) -> None:
    found = parse(f"a: {text}\n", "p.yaml").value["a"]
    assert (found, type(found)) == (value, type(value))


def test_json_may_hold_what_yaml_may_not() -> None:
    text = '{"' + "k" * 3000 + '": "del \x7f, tab \\t, slash \\/, \\ud83d\\ude00"}'
    assert parse(text, "p.json").value == json.loads(text)


def test_a_text_beyond_a_mebibyte_is_refused() -> None:
    with pytest.raises(SourceError, match="more than 1048576 bytes"):
        parse("#" * (1 << 20) + "\n", "p.yaml")


def test_what_files_say_cannot_steer_a_terminal() -> None:
    assert (cut("a\x1b[31m\nb"), cut("x" * 9, 5)) == ("a [31m b", "xxxx…")
    assert name(("pricing", "openai/gpt-6", "a\x1bb", 3)) == "pricing.openai/gpt-6['a\\x1bb'][3]"


HEAD = "version: 1\nname: p\n"
TIERS = "tiers: [openai/gpt-6-luna]\n"


@pytest.mark.parametrize(
    ("prompt", "source"),
    [
        ("Is it spam?", "Is it spam?"), ("'{{text}}'", "{{text}}"), ("|\n  one\n  two.md", "one\ntwo.md\n"), ("p.j2", "from the file"),
        ("'my prompt.md'", "from another"), ("sub/plain", "without an ending"), (f"'{'Say it again. ' * 100}{{{{ x }}}}'", "Say it again. " * 100 + "{{ x }}"),
    ],
)  # fmt: skip
def test_a_prompt_is_a_path_or_the_text_itself(tmp_path: Path, prompt: str, source: str) -> None:
    (tmp_path / "sub").mkdir()
    for file, text in (("p.j2", "from the file"), ("my prompt.md", "from another"), ("sub/plain", "without an ending")):
        (tmp_path / file).write_text(text)
    (tmp_path / "p.yaml").write_text(HEAD + f"prompt: {prompt}\n" + TIERS)
    assert load(str(tmp_path / "p.yaml")).prompt.source == source


SCHEMA = Document({
    "type": "object", "additionalProperties": False,
    "properties": {
        "total": {"type": "number"}, "vendor": {"$ref": "#/$defs/vendor"}, "free": {}, "open": {"type": "object", "properties": {"a": {}}},
        "lines": {"type": "array", "items": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/line"}]}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {}}, "additionalProperties": False}},
        "pair": {"prefixItems": [{"$ref": "#/$defs/line"}]}, "tree": {"$ref": "#"}, "odd.key": {},
    },
    "$defs": {
        "vendor": {"type": "object", "properties": {"name": {}}, "unevaluatedProperties": False},
        "line": {"type": "object", "properties": {"amount": {"type": "number"}}, "additionalProperties": False},
    },
})  # fmt: skip


@pytest.mark.parametrize(
    ("field", "state"),
    [
        ("total", "known"), ("totl", "unknown"), ("vendor.name", "known"), ("vendor.nam", "unknown"), ("lines.amount", "known"),
        ("lines[0].amount", "known"), ("lines.amont", "unknown"), ("free.anything", "known"), ("open.a", "known"), ("open.b", "open"),
        ("map.any.x", "known"), ("map.any.y", "unknown"), ("pair.amount", "known"), ("tree.tree.total", "known"), ("tree.tree.totl", "unknown"),
        ('["odd.key"]', "known"), ("total.deeper", "known"),
    ],
)  # fmt: skip
def test_a_field_is_held_against_the_schema(field: str, state: str) -> None:
    assert find(field, SCHEMA).state == state


PROVIDERS = """
prompt: Is it spam?
providers:
  here: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key_env: KEY_A, concurrency: 4}
  tape: {kind: recorded, path: a/tape.json}
tiers: [here/x]
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("KEY_A", "KEY_B", True), ("concurrency: 4", "concurrency: 5", True), ("127.0.0.1:1", "127.0.0.1:2", False),
        ("concurrency: 4", "capabilities: {sampling: false}", False), ("  tape: {kind: recorded, path: a/tape.json}\n", "", True),
        ("here/x]", "here/x, tape/y]", False),
    ],
)  # fmt: skip
def test_of_a_provider_the_digest_covers_what_can_change_an_answer(old: str, new: str, same: bool) -> None:
    text = HEAD + PROVIDERS
    assert old in text
    assert (load_text(text, "p.yaml").digest == load_text(text.replace(old, new), "p.yaml").digest) is same


def test_where_recordings_lie_does_not_change_the_digest() -> None:
    text = HEAD + PROVIDERS.replace("tiers: [here/x]", "tiers: [tape/x]")
    assert load_text(text, "p.yaml").digest == load_text(text, "elsewhere/p.yaml").digest


# ---------------------------------------------------------------- mutations

ODD: list[Any] = [
    None, True, False, 0, -1, 2.5, 1e308, 2**63, "", "x", "a b", "3", "openai/gpt-6-luna", "/", "?/?", "python::", "schema", "1h", "{% if %}",
    "\x00", "é" * 300, "..", "[", "a..b", [], [1], ["schema"], [[]], {}, {"a": 1}, {"schema": None}, {"judge": {"model": "openai/x"}},
    {"$ref": "#"}, {"number": {}}, {"number": 3}, {"": 1}, [None], {"model": "vllm/x"},
]  # fmt: skip
KEYS = ["model", "gates", "name", "", "a b", "with", "fields", "schema", "kind", "params", "threshold", "prompt", "path", "$ref", "?"]


def _places(value: Any, loc: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([loc] if loc else []), *(place for key, part in parts for place in _places(part, (*loc, key)))]


def _mutated(value: Any, dice: random.Random) -> Any:
    """One to three places of the value taken out, replaced, or added to."""
    value = copy.deepcopy(value)
    for _ in range(dice.randint(1, 3)):
        *way, last = dice.choice(_places(value))
        here = value
        for part in way:
            here = here[part]
        what = dice.choice(["replace", "replace", "remove", "add"])
        if what == "remove":
            del here[last]
        elif what == "add" and isinstance(here, dict):
            here[dice.choice(KEYS)] = copy.deepcopy(dice.choice(ODD))
        else:
            here[last] = copy.deepcopy(dice.choice(ODD))
    return value


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_policy_is_sound_or_told_in_our_own_lines(seed: int) -> None:
    dice = random.Random(seed)
    policy = yaml.safe_load((HERE / "good" / "contract.yaml").read_text())
    path = str(HERE / "good" / "mutated.json")
    for _ in range(25):
        text = json.dumps(_mutated(policy, dice))
        lines = _problems(path, text)
        assert [line for line in lines if not line.startswith(f"{path}:") or len(line.splitlines()) > 1] == [], text
        assert [line for line in lines if "nput should" in line] == [], text  # pydantic's own words
        assert len(set(lines)) == len(lines), text


def _problems(path: str, text: str) -> list[str]:
    try:
        loaded = _Loader(path).load(text)
    except PolicyError as err:
        return err.problems
    lint(loaded, {})
    bounds(loaded.policy)
    return []
