"""Idempotency-Key: one answer to the same request however often it is sent, over workers, kills and restarts; and what it must not do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import gateway_process
import httpx2
import openai
import pytest
from gateway_process import QUESTION
from test_gateway import FORMAT, Serving, running, serving  # noqa: F401
from test_gateway_limits import Keyed

from cascade.errors import Overloaded
from cascade.gateway.repeats import DAY, Record, Repeats, Saved
from cascade.gateway.server import _Stream
from cascade.gateway.state import State
from cascade.gateway.wire import Refused


def post(serving: Any, name: str, path: str = "chat/completions", key: str = "none", **more: Any) -> httpx2.Response:
    body = {"model": "chat", "messages": QUESTION, **({"max_tokens": 9} if path == "messages" else {}), **more}
    return httpx2.post(f"{serving.url}/v1/{path}", json=body, headers={"idempotency-key": name, "authorization": f"Bearer {key}"}, timeout=30)


def told(reply: httpx2.Response) -> tuple[int, bytes, dict[str, str]]:
    headers = {name: value for name, value in reply.headers.items() if name.startswith("x-cascade") or name == "content-type"}
    return reply.status_code, reply.content, headers


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", ["chat/completions", "messages"])
def test_the_same_request_gets_the_same_answer_and_is_asked_once(serving: Serving, path: str, stream: bool) -> None:
    name = f"{path} {stream}"
    replies = [post(serving, name, path, stream=stream) for _ in range(3)]
    assert [told(reply) for reply in replies[1:]] == [told(replies[0])] * 2
    assert [reply.headers.get("idempotent-replayed") for reply in replies] == [None, "true", "true"]
    assert len(serving.models.calls) == 1


def test_the_sdks_send_it_and_read_what_is_replayed(serving: Serving) -> None:
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none") as ours, anthropic.Anthropic(base_url=serving.url, api_key="none") as theirs:
        for _ in range(2):
            made = ours.chat.completions.create(model="chat", messages=QUESTION, extra_headers={"Idempotency-Key": "sdk"})
            assert made.choices[0].message.content == "four"
            with theirs.messages.stream(model="chat", messages=QUESTION, max_tokens=9, extra_headers={"Idempotency-Key": "their sdk"}) as stream:
                assert "".join(stream.text_stream) == "four"
    assert len(serving.models.calls) == 2


def test_another_request_of_the_same_name_is_refused(serving: Serving) -> None:
    post(serving, "twice")
    for other in ({"messages": [{"role": "user", "content": "3 and 3?"}]}, {"stream": True}, {"path": "messages"}):
        reply = post(serving, "twice", **other)
        error = reply.json()["error"]
        assert (reply.status_code, error.get("code", error["type"])) in ((422, "idempotency_key_reused"), (422, "invalid_request_error"))
        assert reply.headers["x-should-retry"] == "false"
    assert len(serving.models.calls) == 1


def test_another_caller_never_sees_it(tmp_path: Path) -> None:
    serving = Keyed(tmp_path, "", "")
    try:
        serving.models.said = {"small": "for one"}
        assert post(serving, "same", key=serving.keys[0]).json()["choices"][0]["message"]["content"] == "for one"
        serving.models.said = {"small": "for two"}
        assert post(serving, "same", key=serving.keys[1]).json()["choices"][0]["message"]["content"] == "for two"
    finally:
        serving.close()


@pytest.mark.parametrize(("said", "status", "kept"), [("not JSON", 422, True), (Overloaded("529"), 503, False)], ids=["not accepted", "the providers are down"])
def test_what_may_go_better_is_not_kept(serving: Serving, said: Any, status: int, kept: bool) -> None:
    serving.models.said = {"small": said, "big": said}
    assert post(serving, f"ends {status}", response_format=FORMAT).status_code == status
    serving.models.said = {"small": '{"sum": 4}', "big": '{"sum": 4}'}
    assert post(serving, f"ends {status}", response_format=FORMAT).status_code == (status if kept else 200)


def test_a_stream_that_ends_in_such_an_error_is_not_kept_either(serving: Serving) -> None:
    serving.models.said = {"small": Overloaded("529"), "big": Overloaded("529")}
    assert b"overloaded" in post(serving, "broken", stream=True).content
    serving.models.said = {"small": "four"}
    assert b"four" in post(serving, "broken", stream=True).content


def test_a_stream_that_ends_not_accepted_is_given_again_as_it_was_sent(serving: Serving) -> None:
    serving.models.said = {"small": "not JSON", "big": "not JSON"}
    first, again = (post(serving, "streamed 422", stream=True, response_format=FORMAT) for _ in range(2))
    assert told(again) == told(first)
    assert (first.status_code, b"not_accepted" in first.content, again.headers["idempotent-replayed"]) == (200, True, "true")


def test_a_stream_that_fails_by_our_own_fault_says_so_and_is_not_kept(serving: Serving) -> None:
    serving.models.said = {"small": KeyError("ours")}
    said = post(serving, "fault", stream=True).content
    assert (b'"code":"internal"' in said, b"ours" in said) == (True, False)
    serving.models.said = {"small": "four"}
    assert b"four" in post(serving, "fault", stream=True).content


@pytest.mark.parametrize("name", ["", "x" * 256, "a\x7fb"])
def test_a_name_that_is_none_is_refused(serving: Serving, name: str) -> None:
    assert post(serving, name).status_code == 400
    assert serving.models.calls == []


def test_who_sends_it_while_it_is_answered_waits_for_that_answer_and_who_goes_leaves_nothing(serving: Serving) -> None:
    serving.models.said = {"small": None}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{serving.url}/v1/chat/completions", json={"model": "chat", "messages": QUESTION}, headers={"idempotency-key": "gone"}, timeout=0.2)
    assert serving.models.cancelled.wait(5)
    serving.models.said = {"small": "four"}
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: post(serving, "gone"), range(4)))
    assert len({told(reply)[1] for reply in replies}) == 1
    assert sorted(reply.headers.get("idempotent-replayed", "no") for reply in replies) == ["no", "true", "true", "true"]


# ---------------------------------------------------------------- records


@pytest.fixture
def states(tmp_path: Path) -> Iterator[tuple[State, State]]:
    found = State(tmp_path), State(tmp_path)
    yield found
    for state in found:
        state.close()


BODY = {"model": "chat"}


def test_another_worker_waits_and_takes_over_when_the_first_is_gone(states: tuple[State, State]) -> None:
    async def go() -> None:
        one, two = Repeats(states[0]), Repeats(states[1], patience=0.1)
        first = await one.begin("a", "n", "/v1", BODY)
        assert isinstance(first, Record)
        with pytest.raises(Refused) as caught:
            await two.begin("a", "n", "/v1", BODY)
        assert (caught.value.status, caught.value.retry, caught.value.headers) == (409, True, {"retry-after": "1"})
        waiting = asyncio.ensure_future(Repeats(states[1]).begin("a", "n", "/v1", BODY))
        await first.keep(200, {"x": "y"}, b"four")
        assert await waiting == Saved(200, {"x": "y"}, b"four")
        for other in (await two.begin("b", "n", "/v1", BODY), await two.begin(None, "n", "/v1", BODY)):
            assert isinstance(other, Record)

    asyncio.run(go())


def test_a_record_of_a_dead_worker_is_taken_over_by_one(tmp_path: Path) -> None:
    one, two = State(tmp_path), State(tmp_path)

    async def go() -> None:
        assert isinstance(await Repeats(one).begin("a", "n", "/v1", BODY), Record)
        one.close()
        repeats = Repeats(two, patience=0.05)
        found = await asyncio.gather(*(repeats.begin("a", "n", "/v1", BODY) for _ in range(3)), return_exceptions=True)
        assert sorted(type(each).__name__ for each in found) == ["Record", "Refused", "Refused"]

    asyncio.run(go())
    two.close()


def test_a_record_is_kept_for_a_day(states: tuple[State, State], monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        repeats = Repeats(states[0])
        record = await repeats.begin("a", "n", "/v1", BODY)
        assert isinstance(record, Record)
        await record.keep(200, {}, b"four")
        clock = time.time() + DAY - 60
        monkeypatch.setattr(time, "time", lambda: clock)
        assert isinstance(await repeats.begin("a", "n", "/v1", BODY), Saved)
        monkeypatch.setattr(time, "time", lambda: clock + 120)
        assert isinstance(await repeats.begin("a", "n", "/v1", BODY), Record)

    asyncio.run(go())


def test_an_answer_that_cannot_be_kept_is_given_and_asked_anew(states: tuple[State, State]) -> None:
    async def go() -> None:
        repeats = Repeats(states[0])
        record = await repeats.begin("a", "n", "/v1", BODY)
        assert isinstance(record, Record)
        await states[0].do(lambda db: db.execute("CREATE TRIGGER full BEFORE UPDATE ON idempotent BEGIN SELECT RAISE(ABORT, 'disk full'); END"))
        await record.keep(200, {}, b"four")
        assert "disk full" in (states[0].problem or "")
        assert isinstance(await repeats.begin("a", "n", "/v1", BODY), Record)

    asyncio.run(go())


def test_a_record_that_could_not_be_given_up_yet_keeps_nobody_of_this_process_waiting(states: tuple[State, State]) -> None:
    async def go() -> None:
        repeats = Repeats(states[0], patience=0.2)
        record = await repeats.begin("a", "n", "/v1", BODY)
        assert isinstance(record, Record)
        for what in ("UPDATE OF status", "DELETE"):
            name = what.partition(" ")[0]
            await states[0].do(lambda db, what=what, name=name: db.execute(  # type: ignore[misc]
                f"CREATE TRIGGER no_{name} BEFORE {what} ON idempotent BEGIN SELECT RAISE(ABORT, 'disk full'); END"))
        await record.keep(200, {}, b"four")
        again = await repeats.begin("a", "n", "/v1", BODY)
        assert isinstance(again, Record)
        with pytest.raises(Refused, match="still being answered"):
            await Repeats(states[1], patience=0.1).begin("a", "n", "/v1", BODY)

    asyncio.run(go())


def test_signs_of_life_are_not_replayed(states: tuple[State, State]) -> None:
    async def events() -> AsyncIterator[bytes]:
        for event in (b": alive", b"one", b": alive", b"two"):
            yield event

    async def status() -> int:
        return 200

    async def go() -> None:
        repeats = Repeats(states[0])
        record = await repeats.begin("a", "n", "/v1", BODY)
        assert isinstance(record, Record)
        assert [event async for event in record.stream(events(), b": alive", {}, status)] == [b": alive", b"one", b": alive", b"two"]
        assert await repeats.begin("a", "n", "/v1", BODY) == Saved(200, {}, b"onetwo")

    asyncio.run(go())


def test_a_stream_whose_caller_had_gone_before_it_began_is_over_too() -> None:
    over: list[str] = []

    async def events() -> AsyncIterator[bytes]:
        yield b"never"

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.sleep(60)

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    asyncio.run(_Stream(events(), {}, (lambda: over.append("stopped"), lambda: over.append("dropped")))(scope, receive, send))
    assert over == ["stopped", "dropped"]


# ---------------------------------------------------------------- kills


def test_it_is_answered_after_a_kill_and_one_that_was_cut_off_is_asked_anew(tmp_path: Path) -> None:
    with gateway_process.providing() as provider, gateway_process.running(tmp_path, provider) as gateway:
        whole, stream = post(gateway, "whole"), post(gateway, "stream", stream=True)
        provider.hold()

        def ask() -> None:
            with pytest.raises(httpx2.TransportError):
                post(gateway, "cut")

        cut = threading.Thread(target=ask)
        cut.start()
        assert provider.came.acquire(timeout=10)
        gateway.kill()
        cut.join()
        provider.open.set()
        gateway.start()
        assert [told(post(gateway, "whole")), told(post(gateway, "stream", stream=True))] == [told(whole), told(stream)]
        assert provider.asked == 3
        again = post(gateway, "cut")
        assert (again.json()["choices"][0]["message"]["content"], again.headers.get("idempotent-replayed")) == ("answer 4", None)
        assert httpx2.get(f"{gateway.url}/v1/cascade/trails/{whole.headers['x-cascade-trail-id']}").json()["output"] == "answer 1"
