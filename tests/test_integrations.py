"""docs/integrations.md with the libraries themselves, through a real gateway; the models behind it say what fits what they are asked."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_gateway import CHAT, Serving

from cascade import tools
from cascade.types import Answer, Call, Usage

PAGE = Path(__file__).parents[1] / "docs" / "integrations.md"
CLIENTS = "CASCADE_CLIENTS"
"""A folder of environments in which these libraries are installed, by the names below."""
ADA: dict[str, Any] = {"name": "Ada", "age": 36}
HELLO, PERSON = "Hello, Ada.\n", "Person(name='Ada', age=36)\n"
LIBRARIES = {
    "OpenAI's SDK": ("own", "openai", f"small {HELLO}{PERSON}{PERSON}{HELLO}{HELLO}{HELLO}"),
    "Anthropic's SDK": ("own", "anthropic", f"small {HELLO}{PERSON}{HELLO}{HELLO}{HELLO}"),
    "instructor": ("instructor", "instructor", "name='Ada' age=36\n"),
    "pydantic-ai": ("others", "pydantic_ai", PERSON),
    "LangChain": ("others", "langchain_openai", f"{PERSON}{HELLO}{PERSON}"),
    "DSPy": ("others", "dspy", "36\n"),
}


def interpreter(environment: str, module: str) -> str:
    """The Python that has the library; the test is skipped where there is none."""
    if environment != "own" and (folder := os.environ.get(CLIENTS)):
        return str(Path(folder) / environment / "bin" / "python")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed, and ${CLIENTS} names no folder of environments that have it")
    return sys.executable


def snippet(heading: str) -> str:
    found = re.search(rf"^## {heading}\n\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    assert found is not None
    return found[1]


class Models:
    """The small one is wrong wherever it can be; the big one says what is asked for."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def __call__(self, call: Call) -> Answer:
        self.calls.append(call)
        wrong = call.model == "p/small"
        asked = call.messages[-1].text
        if call.tools is not None:
            names = [tool["name"] for tool in call.tools.json["tools"]]
            used = [message for message in call.messages if not isinstance(message.content, str)]
            call_of = ("this_year", "{}") if "this_year" in names and not used else (names[-1], '{"name": "Ada"}' if wrong else '{"name": "Ada", "age": 36}')
            return Answer(tools.written("", [call_of]), "tool_calls", Usage(10, 5), model=call.model)
        text = "[[ ## age ## ]]\n36\n\n[[ ## completed ## ]]" if "[[ ##" in asked else "Hello, Ada."
        if call.schema is not None:
            text = '{"name": "Ada"}' if wrong else '{"name": "Ada", "age": 36}'
        return Answer(text, "stop", Usage(10, 5), model=call.model)


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Serving, Models]]:
    models = Models()
    serving = Serving(texts=(CHAT,), ask=models)
    yield serving, models
    serving.close()


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_librarys_example_runs_and_gets_what_the_ladder_accepted(serving: tuple[Serving, Models], library: str) -> None:
    environment, module, says = LIBRARIES[library]
    running, models = serving
    models.calls.clear()
    code = snippet(library).replace("http://127.0.0.1:8600", running.url)
    quiet = {"DSPY_CACHEDIR": os.environ.get("TMPDIR", "/tmp"), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run([interpreter(environment, module), "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **quiet})
    assert (done.stdout, done.returncode) == (says, 0), done.stderr[-3000:]
    if library != "DSPy":
        assert "p/big" in [call.model for call in models.calls], "the small model's answer did not fit, so the big one was asked"


def test_every_library_of_the_page_is_tried() -> None:
    assert re.findall(r"^## (.+)\n\n```python", PAGE.read_text(encoding="utf-8"), re.M) == list(LIBRARIES)
