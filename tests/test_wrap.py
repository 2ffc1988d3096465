"""`cascade.wrap`: the SDKs' own clients, with policies as models and everything else as before."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import stub
from pydantic import BaseModel
from test_gateway import CHAT, FORMAT, QUESTION, SUM, Models, Serving

import cascade
from cascade import Cascade, tools
from cascade.errors import Overloaded
from cascade.policy.load import load_text
from cascade.types import CacheSettings

CLIENTS = [openai.OpenAI, openai.AsyncOpenAI, anthropic.Anthropic, anthropic.AsyncAnthropic]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Serving]:
    """A server that the bare client asks; its policies are models to it."""
    serving = Serving()
    serving.models.said = {"small": "from elsewhere", "big": ""}
    yield serving
    serving.close()


class Ladder:
    """A policy in this process."""

    def __init__(self) -> None:
        self.models = Models()
        self.models.said = {"small": '{"sum": "four"}', "big": '{"sum": 4}'}
        self.cascade = Cascade(load_text(CHAT.replace("name: chat", "name: mine"), "x.yaml"), ask=self.models, cache=CacheSettings(backend="off"))


@pytest.fixture
def ladder() -> Iterator[Ladder]:
    found = Ladder()
    yield found
    found.cascade.close()


def client(kind: type[Any], serving: Serving, ladder: Ladder) -> Any:
    url = f"{serving.url}/v1" if kind.__module__.startswith("openai") else serving.url
    return cascade.wrap(kind(base_url=url, api_key="none", max_retries=0), ladder.cascade)


def now(value: Any) -> Any:
    """A call's result, awaited where it has to be."""
    async def wait() -> Any:
        return await value

    return asyncio.run(wait()) if asyncio.iscoroutine(value) else value


def ask(one: Any, model: str, **more: Any) -> Any:
    if isinstance(one, openai.OpenAI | openai.AsyncOpenAI):
        return one.chat.completions.create(model=model, messages=QUESTION, **({"response_format": FORMAT} if model == "mine" else {}), **more)
    form: Any = {"output_config": {"format": {"type": "json_schema", "schema": SUM}}} if model == "mine" else {}
    return one.messages.create(model=model, max_tokens=99, messages=QUESTION, **form, **more)


def text(reply: Any) -> str:
    return str(reply.choices[0].message.content if hasattr(reply, "choices") else reply.content[0].text)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_policy_is_a_model_and_all_else_goes_where_it_went(kind: type[Any], elsewhere: Serving, ladder: Ladder) -> None:
    one = client(kind, elsewhere, ladder)
    assert type(one) is kind
    assert text(now(ask(one, "mine"))) == '{"sum":4}'
    assert [call.model for call in ladder.models.calls] == ["p/small", "p/big"]
    other = client(kind, elsewhere, ladder)  # a fresh one: an async client belongs to its loop
    assert text(now(ask(other, "chat"))) == "from elsewhere"
    assert len(ladder.models.calls) == 2


def test_objects_are_the_sdks_own(elsewhere: Serving, ladder: Ladder) -> None:
    ours, theirs = client(openai.OpenAI, elsewhere, ladder), client(anthropic.Anthropic, elsewhere, ladder)
    assert type(ask(ours, "mine")) is openai.types.chat.ChatCompletion
    assert type(ask(theirs, "mine")) is anthropic.types.Message

    class Sum(BaseModel):
        sum: int

    assert ours.chat.completions.parse(model="mine", messages=QUESTION, response_format=Sum).choices[0].message.parsed == Sum(sum=4)
    raw = ours.chat.completions.with_raw_response.create(model="mine", messages=QUESTION, response_format=FORMAT)
    assert (raw.headers["x-cascade-tier"], raw.headers["x-cascade-cost-usd"]) == ("big", str(Decimal("0.00022")))


def test_streams_are_streams(elsewhere: Serving, ladder: Ladder) -> None:
    ladder.models.said = {"small": "four", "big": ""}
    ours, theirs = client(openai.OpenAI, elsewhere, ladder), client(anthropic.Anthropic, elsewhere, ladder)
    chunks = list(ours.chat.completions.create(model="mine", messages=QUESTION, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "four"
    with theirs.messages.stream(model="mine", max_tokens=9, messages=QUESTION) as stream:
        assert "".join(stream.text_stream) == "four"
    other = list(ours.chat.completions.create(model="chat", messages=QUESTION, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in other) == "from elsewhere"

    async def asynchronously() -> str:
        async with client(openai.AsyncOpenAI, elsewhere, ladder) as one:
            return "".join([chunk.choices[0].delta.content or "" async for chunk in
                            await one.chat.completions.create(model="mine", messages=QUESTION, stream=True)])  # fmt: skip

    assert asyncio.run(asynchronously()) == "four"


def test_tools_are_carried(elsewhere: Serving, ladder: Ladder) -> None:
    wrong, right = tools.written("", [("add", '{"a": "2"}')]), tools.written("", [("add", '{"a": 2}')])
    ladder.models.said = {"small": (wrong, "tool_calls"), "big": (right, "tool_calls")}
    schema: Any = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    one = client(openai.OpenAI, elsewhere, ladder)
    made = one.chat.completions.create(model="mine", messages=QUESTION, tools=[{"type": "function", "function": {"name": "add", "parameters": schema}}])
    assert [call.function.arguments for call in made.choices[0].message.tool_calls] == ['{"a":2}']

    async def asynchronously() -> Any:
        async with (client(anthropic.AsyncAnthropic, elsewhere, ladder) as other,
                    other.messages.stream(model="mine", max_tokens=9, messages=QUESTION, tools=[{"name": "add", "input_schema": schema}]) as stream):
            return await stream.get_final_message()

    said = asyncio.run(asynchronously())
    assert (said.stop_reason, said.content[0].input) == ("tool_use", {"a": 2})


def test_closing_the_copy_closes_the_ladders_it_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main(path: Path) -> str:
        async with cascade.wrap(openai.AsyncOpenAI(api_key="none"), path) as one:
            return text(await one.chat.completions.create(model="mine", messages=QUESTION))

    with stub.running() as upstream:
        upstream.default = stub.chat("four")
        path = tmp_path / "mine.yaml"
        path.write_text(CHAT.replace("name: chat", "name: mine").replace("http://127.0.0.1:9", upstream.url))
        assert asyncio.run(main(path)) == "four"
        gc.collect()
    assert "Unclosed" not in caplog.text


def test_closing_the_copy_leaves_a_given_cascade_open(elsewhere: Serving, ladder: Ladder, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Cascade] = []
    with monkeypatch.context() as patch:
        patch.setattr(Cascade, "close", closed.append)
        with client(openai.OpenAI, elsewhere, ladder) as one:
            assert text(ask(one, "mine")) == '{"sum":4}'
    assert closed == []


def test_errors_are_the_sdks_own(elsewhere: Serving, ladder: Ladder) -> None:
    ladder.models.said = {"small": Overloaded("529"), "big": Overloaded("529")}
    ours, theirs = client(openai.OpenAI, elsewhere, ladder), client(anthropic.Anthropic, elsewhere, ladder)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(ours, "mine")
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    with pytest.raises(anthropic.APIStatusError) as other:
        ask(theirs, "mine")
    assert other.value.status_code == 503
    with pytest.raises(openai.BadRequestError, match="unknown parameter 'functions'"):
        ask(ours, "mine", functions=[])


def test_many_at_a_time_in_a_loop(elsewhere: Serving, ladder: Ladder) -> None:
    async def many() -> list[str]:
        async with client(openai.AsyncOpenAI, elsewhere, ladder) as one:
            questions = [[{"role": "user", "content": str(i)}] for i in range(20)]
            replies = await asyncio.gather(*(one.chat.completions.create(model="mine", messages=q, response_format=FORMAT) for q in questions))
            return [text(reply) for reply in replies]

    assert asyncio.run(many()) == ['{"sum":4}'] * 20


def test_what_cannot_be_wrapped_is_told(ladder: Ladder) -> None:
    with pytest.raises(TypeError, match="a client of the openai or anthropic SDK is wrapped, this is str"):
        cascade.wrap("client", ladder.cascade)
    with pytest.raises(ValueError, match="two policies are named mine"):
        cascade.wrap(openai.OpenAI(api_key="x"), ladder.cascade, ladder.cascade)


def test_it_needs_no_server() -> None:
    code = "import sys, cascade.gateway.inside; print([m for m in ('starlette', 'uvicorn', 'openai', 'anthropic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_example_of_the_docs_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "wrap.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "policies").mkdir()
    scripted = CHAT.replace('kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null', "kind: scripted, replies: {small: '4', big: '4'}")
    (tmp_path / "policies" / "chat.yaml").write_text(scripted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    exec(compile(code, "docs/wrap.md", "exec"), {})
    assert capsys.readouterr().out == "4\n"
