"""The live page as people meet it: in a real browser, at two widths, in light and dark, with and without scripts; and what it gives away."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import httpx2
import pytest
from browser import Browser, Tab, browsing, chromium
from serving import CHAT, gateway, ladders, serving
from stub import Reply, Stub, chat, running

from cascade.gateway import page, views
from cascade.gateway.keys import Keys, new
from cascade.gateway.page import Viewer
from cascade.gateway.rows import Row, Sum
from cascade.gateway.seen import Eyes, Ladder, Seen
from cascade.gateway.server import Gateway
from cascade.monitor.live import Line
from cascade.report.numbers import Counting
from cascade.types import Tried

EVIL = "</textarea></pre><script>document.title='taken'</script>\"'><img src=x onerror=\"document.title='taken'\"><svg/onload=alert(1)>{{7*7}}\u202e"
browsers = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def models() -> Iterator[Stub]:
    with running() as stub:
        yield stub


@pytest.fixture
def stub(models: Stub) -> Stub:
    models.default = chat("four")
    models.will()
    return models


@pytest.fixture
def url(stub: Stub) -> Iterator[str]:
    with serving(gateway(stub.url)) as at:
        yield at


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


def ask(url: str, text: str = "2 and 2?", model: str = "chat", **headers: str) -> httpx2.Response:
    reply = httpx2.post(f"{url}/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": text}]}, headers=headers)
    read(url, reply.headers["x-cascade-trail-id"], **headers)
    return reply


def read(url: str, id: str, **headers: str) -> httpx2.Response:
    """The trail's page; asking for it waits for it to be written."""
    return httpx2.get(f"{url}/trails/{id}", headers=headers)


def plain(text: str) -> str:
    """HTML without its tags, as a reader sees it."""
    return " ".join(unescape(re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", text, flags=re.S)).split())


# ---------------------------------------------------------------- what it says


def test_with_no_request_it_says_how_to_make_one_and_that_works(url: str) -> None:
    text = httpx2.get(f"{url}/").text
    assert "No requests yet Try: curl " in plain(text)
    words = shlex.split(unescape(re.search(r"<pre[^>]*>(curl .*?)</pre>", text, re.S)[1]))  # type: ignore[index]
    assert words[1] == f"{url}/v1/chat/completions"
    assert httpx2.post(words[1], content=words[-1].encode(), headers={"content-type": "application/json"}).status_code == 200


def test_the_command_for_a_policy_with_a_prompt_names_its_inputs(stub: Stub) -> None:
    said = page.start(ladders(stub.url)["sums"].policy, "http://localhost:1")
    assert json.loads(json.loads(shlex.split(said)[-1])["messages"][0]["content"]) == {"a": "…", "b": "…"}


def test_it_says_who_was_asked_and_what_that_cost_against_always_the_last_tier(stub: Stub, url: str) -> None:
    stub.will(chat('{"sum": 4}'), chat('{"sum": "x"}'), chat('{"sum": 4}'))
    ask(url, '{"a": 2, "b": 2}', "sums")
    ask(url, '{"a": 3, "b": 3}', "sums")
    said = plain(httpx2.get(f"{url}/").text)
    assert "requests 2 0 from the cache, or shared accepted 100.0 % 2 answers spent $0.000192 all priced" in said
    assert "saved $0.000128 40 % of always the last tier, estimated; newest 2" in said, "2 × $0.00016 there, $0.000192 here"
    assert "sums: requests by tier tier model asked accepted converted pays from dollars s/request not accepted because " \
           "small p/small 2 1 50.0 % 2.0× $0.0000320" in said
    assert "big p/big 1 1 100.0 % – $0.000160" in said
    assert "accepted at big $0.000176" in said
    assert re.search(r"small p/small answered \$0.000016 [0-9.]+ small schema failed 0.00/1 [0-9.]+ /sum: .x. is not of type .integer.", said), said


def test_an_unknown_price_stays_unknown() -> None:
    seen = Seen([Sum("chat", "accepted", "small", 3, 1, Decimal("0.5"), 2, 3.0, 2.0)], [], {}, {})
    said = plain(page.sections(seen, Viewer(None))["numbers"])
    assert "requests 3 1 from the cache, or shared" in said
    assert "spent unknown 2 requests have no price; the others $0.500" in said
    assert "saved unknown nothing was asked yet" in said
    assert "latency, p50 unknown" in said


def test_when_old_rows_have_been_dropped_it_says_of_how_many_these_are_the_newest() -> None:
    row = Row(25_300, 0.0, "x", "chat", "chat@1", "accepted", "small", False, Decimal(0), 0.25, None, 1, None, None)
    seen = Seen([Sum("chat", "accepted", "small", 10_000, 0, Decimal(0), 0, 1.0, 1.0)], [row], {}, {})
    said = plain(page.sections(seen, Viewer(None))["numbers"])
    assert said.startswith("In numbers requests 10,000 the newest of 25,300; 0 from the cache, or shared")
    assert "latency, p50 250 ms of the newest 1 latency, p99 250 ms slowest 250 ms" in said


@pytest.mark.parametrize(("n", "share", "value"), [(1, 0.5, 1), (2, 0.5, 1), (3, 0.5, 2), (100, 0.5, 50), (100, 0.99, 99), (101, 0.99, 100), (1000, 0.99, 990)])
def test_a_percentile_is_the_nearest_rank(n: int, share: float, value: float) -> None:
    assert page._percentile([float(i) for i in range(1, n + 1)], share) == value


def test_drift_and_its_alarm_are_shown(stub: Stub) -> None:
    policy = ladders(stub.url)["chat"].policy
    lines = [Line(0, "small: accepted", 400, 0.41, 0.62, 0.55, 0.7, 2e5, 1000.0, True), Line(0, "differs", 0, None, 0.01, 0.0, 0.02, 1.0, 1000.0, False)]
    seen = Seen([], [], {}, {"chat": Ladder("chat@1", Counting(policy).numbers(), lines, "drift of <b>small</b>: accepted"),
                             "sums": Ladder("sums@1", Counting(policy).numbers(), [], None)})
    found = page.sections(seen, Viewer(None))
    assert "Alarm of chat: drift of <b>small</b>: accepted" in plain(found["numbers"])
    assert "0 small: accepted 400 0.410 0.620 0.550–0.700 2e+05 1000 ALARM 0 differs 0 – 0.010 0.000–0.020 1 1000 " \
           "Not watched, since they are not calibrated: sums." in plain(found["drift"])


def test_without_trails_the_numbers_are_there_and_the_rest_is_told_to_be_not(stub: Stub) -> None:
    with serving(Gateway(ladders(stub.url), trails=False)) as at:
        id = httpx2.post(f"{at}/v1/chat/completions", json={"model": "chat", "messages": [{"role": "user", "content": "x"}]}).headers["x-cascade-trail-id"]
        until(lambda: "requests 1 " in plain(httpx2.get(f"{at}/").text))
        said = plain(httpx2.get(f"{at}/").text)
        assert read(at, id).status_code == 404
    assert "No trails are kept (--no-trails), so its tiers are not known." in said
    assert "Its trail is not kept." in said


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---------------------------------------------------------------- what is hostile


def hostile(stub: Stub, url: str) -> tuple[str, str]:
    """The page and a trail of a request whose texts are all an attack."""
    stub.will(chat(EVIL), chat(EVIL))
    id = ask(url, json.dumps({"a": EVIL, "b": EVIL}), "sums").headers["x-cascade-trail-id"]
    stub.will(Reply(json.dumps({"error": {"message": EVIL, "code": EVIL}}).encode(), status=400))
    ask(url, EVIL)
    return httpx2.get(f"{url}/").text, read(url, id).text


def test_what_models_and_callers_say_is_text_and_nothing_else(stub: Stub, url: str) -> None:
    for text in hostile(stub, url):
        scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
        assert scripts in ([], [page.SCRIPT])
        assert not re.search(r"<(img|svg/|textarea)|</textarea|javascript:", text)
        assert not re.search(r"<[^>]*\son\w+=[^>]*>", text.replace(page.SCRIPT, ""))
        assert "{{7*7}}" in text, "it is no template"
    assert EVIL.replace("\u202e", "\ufffd") in unescape(text)


@pytest.mark.parametrize("path", ["/trails/<script>alert(1)</script>", "/trails/%3Cscript%3Ealert(1)%3C%2Fscript%3E", "/trails/x%0d%0aset-cookie:%20a=1"])
def test_an_address_is_not_said_back(url: str, path: str) -> None:
    reply = httpx2.get(f"{url}{path}")
    assert (reply.status_code, "alert(1)" in reply.text, "set-cookie" in reply.headers) == (404, False, False)


def test_the_pages_may_do_nothing_but_what_they_are_made_for(url: str) -> None:
    for path, status in (("/", 200), ("/trails/x", 404)):
        reply = httpx2.get(f"{url}{path}")
        assert reply.status_code == status
        policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
        assert policy == {"default-src": "'none'", "style-src": policy["style-src"], "script-src": policy["script-src"], "connect-src": "'self'",
                          "img-src": "data:", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"}
        assert all(re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy[name]) for name in ("style-src", "script-src"))
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", reply.text), "nothing from elsewhere"
        assert (reply.headers["cache-control"], reply.headers["x-content-type-options"]) == ("no-store", "nosniff")


def test_without_keys_only_this_machine_sees_it(url: str) -> None:
    for path in ("/", "/events", "/trails/x"):
        reply = httpx2.get(f"{url}{path}", headers={"host": "evil.example"})
        assert (reply.status_code, reply.headers["content-type"]) == (403, "text/html; charset=utf-8")


# ---------------------------------------------------------------- keys


def basic(password: str, name: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.fixture
def locked(stub: Stub, tmp_path: Path) -> Iterator[tuple[str, str, str]]:
    """Its address, and two keys."""
    (one, line_one), (two, line_two) = new("team-a"), new("team-b")
    (tmp_path / "keys.txt").write_text(f"{line_one}\n{line_two}\n")
    with serving(gateway(stub.url, Keys(str(tmp_path / "keys.txt")))) as at:
        yield at, one, two


def test_with_keys_the_key_is_the_password_and_everything_else_is_asked_for_one(locked: tuple[str, str, str]) -> None:
    url, one, _ = locked
    good = [basic(one), basic(one, "") , basic(one).replace("Basic", "bASIC"), f"Bearer {one}"]
    wrong = ["", basic("x"), basic(""), basic(one[:-1]), "Basic", "Basic %%%", "Basic " + base64.b64encode(one.encode()).decode(), basic(f"x:{one}")]
    for path in ("/", "/trails/x"):
        found = [httpx2.get(f"{url}{path}", headers={"authorization": given}) for given in good + wrong]
        assert [reply.status_code for reply in found] == [200 if path == "/" else 404] * len(good) + [401] * len(wrong)
        assert all(reply.headers["www-authenticate"].startswith("Basic realm=") for reply in found[len(good) :])
        assert not any(one in reply.text for reply in found)
    assert httpx2.get(f"{url}/events").status_code == 401
    assert httpx2.get(f"{url}/v1/models", headers={"authorization": basic(one)}).status_code == 401, "what browsers send by themselves opens only the page"


def test_a_key_sees_its_own_texts_and_all_numbers(stub: Stub, locked: tuple[str, str, str]) -> None:
    url, one, two = locked
    stub.will(chat("not for others"))
    id = ask(url, "secret of a", authorization=f"Bearer {one}").headers["x-cascade-trail-id"]
    mine, theirs = (httpx2.get(f"{url}/", headers={"authorization": basic(key)}).text for key in (one, two))
    assert (id in mine, id in theirs) == (True, False)
    assert "requests 1 0 from the cache, or shared" in plain(theirs)
    assert ("Those of your key, team-b." in plain(theirs), "team-a" in plain(theirs)) == (True, False)
    assert "not for others" in read(url, id, authorization=basic(one)).text
    assert read(url, id, authorization=basic(two)).status_code == 404


# ---------------------------------------------------------------- the stream


def events(reply: httpx2.Response) -> Iterator[dict[str, str]]:
    for line in reply.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_a_stream_tells_all_at_first_and_then_what_has_changed(url: str) -> None:
    with httpx2.stream("GET", f"{url}/events", timeout=30) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        told = events(reply)
        assert list(next(told)) == ["numbers", "ladders", "drift", "latest"]
        ask(url)
        news: dict[str, str] = {}
        while "requests 1 " not in plain(news.get("numbers", "")):
            news = next(told)
        assert "drift" not in news, "it is as it was"


def test_a_quiet_stream_shows_that_it_lives(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "EVERY", 0.01)
    monkeypatch.setattr(views, "HEARTBEAT", 0.02)
    with serving(gateway(stub.url)) as url, httpx2.stream("GET", f"{url}/events", timeout=30) as reply:
        lines = reply.iter_lines()
        assert [next(lines)[:6] for _ in range(5)] == ["data: ", "", ": noth", "", ": noth"]


def test_there_are_at_most_so_many_streams_and_one_that_goes_makes_room(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "LISTENERS", 2)
    monkeypatch.setattr(views, "EVERY", 0.05)
    with serving(gateway(stub.url)) as url, contextlib.ExitStack() as open:
        told = [events(open.enter_context(httpx2.stream("GET", f"{url}/events", timeout=30))) for _ in range(2)]
        assert [next(iter(next(one))) for one in told] == ["numbers", "numbers"]
        reply = httpx2.get(f"{url}/events")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert httpx2.get(f"{url}/").status_code == 200
        open.close()

        def room() -> bool:
            with httpx2.stream("GET", f"{url}/events", timeout=30) as again:
                return again.status_code == 200

        until(room)


def test_however_many_look_it_is_looked_and_rendered_once_a_second(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, rendered = [], []
    look, sections = Eyes.look, page.sections
    monkeypatch.setattr(Eyes, "look", lambda eyes: looks.append(1) or look(eyes))
    monkeypatch.setattr(page, "sections", lambda seen, viewer: rendered.append(1) or sections(seen, viewer))
    made = gateway(stub.url)
    monkeypatch.setattr(views, "EVERY", 3600.0)
    with serving(made) as url:
        for _ in range(10):
            ask(url)
            assert httpx2.get(f"{url}/").status_code == 200
    assert (len(looks), len(rendered)) == (1, 1)


def test_only_what_is_new_is_read_and_texts_are_not_kept(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "EVERY", 0.0)
    monkeypatch.setattr(views, "SHARE", 0)
    made = gateway(stub.url)
    read_: list[int] = []
    trails = made.rows.trails

    async def counted(after: int = 0, most: int = 50) -> Any:
        found = await trails(after, most)
        read_.append(len(found))
        return found

    monkeypatch.setattr(made.rows, "trails", counted)
    with serving(made) as url:
        for _ in range(3):
            ask(url)
            httpx2.get(f"{url}/")
        kept = made.views._eyes._trails
        assert [n for n in read_ if n] == [1, 1, 1]
        assert [event.text for outcome in kept.values() for event in outcome.trail if isinstance(event, Tried)] == ["", "", ""]


def test_a_store_that_cannot_be_read_is_told(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    made = gateway(stub.url)

    async def broken(*args: Any) -> Any:
        raise sqlite3.OperationalError("disk I/O error")

    for name in ("last", "trail"):
        monkeypatch.setattr(made.rows, name, broken)
    with serving(made) as url:
        assert [(httpx2.get(f"{url}{path}").status_code, "disk I/O error" in httpx2.get(f"{url}{path}").text) for path in ("/", "/trails/x")] == [(503, True)] * 2
        assert httpx2.get(f"{url}/events").text == "", "it ends, and the page tries again"


def test_an_open_page_does_not_hold_up_the_end(tmp_path: Path) -> None:
    text = CHAT.format(url="", retries=0, timeout=5).replace('kind: openai, base_url: "/v1", api_key_env: null', "kind: scripted, replies: {small: four, big: four}")
    (tmp_path / "chat.yaml").write_text(text)
    command = [sys.executable, "-c", "from cascade.cli import main; main()", "serve", str(tmp_path / "chat.yaml"), "--port", "0", "--drain", "20",
               "--state", str(tmp_path / "state")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = process.stderr.readline().split()[3].rstrip(",").removesuffix("/v1")
            with httpx2.stream("GET", f"{url}/events", timeout=30) as reply:
                told = events(reply)
                next(told)
                process.send_signal(signal.SIGTERM)
                assert list(told) == [], "it ends whole, not torn"
            assert process.wait(60) in (0, -signal.SIGTERM)
        finally:
            process.kill()


# ---------------------------------------------------------------- in a browser

SHOWN = """[...document.body.querySelectorAll('*')].filter(e => !e.closest('.scroll,pre,svg,.unseen,.skip') && e.getClientRects().length &&
  e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
FAINT = """(() => {
  const part = c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const light = rgb => 0.2126 * part(rgb[0]) + 0.7152 * part(rgb[1]) + 0.0722 * part(rgb[2]);
  const read = text => text.match(/[\\d.]+/g).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = read(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  return [...document.querySelectorAll('p,td,th,dd,dt,li,summary,summary *,text,h1,h2,h3,a,pre,span')].filter(e => e.textContent.trim()).map(e => {
    const style = getComputedStyle(e), a = light(read(e.tagName === 'text' ? style.fill : style.color)), b = light(behind(e));
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 60)];
  }).filter(([ratio]) => ratio < 4.5);
})()"""


def tile(tab: Tab, name: str) -> Any:
    return tab.js(f"[...document.querySelectorAll('.tile')].find(t => t.textContent.startsWith('{name}'))?.querySelector('.value').textContent")


@browsers
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_it_is_readable_and_nothing_overflows_or_complains(stub: Stub, url: str, browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    hostile(stub, url)
    ask(url)
    tab = browser.tab(width, dark)
    tab.open(f"{url}/")
    tab.until("document.getElementById('live').textContent", "live")
    tab.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert (tab.js("document.documentElement.scrollWidth"), tab.js(SHOWN), tab.js(FAINT)) == (width, [], [])
    assert tab.js("[...document.querySelectorAll('p,td,th,li,text,summary,span')].filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).length") == 0
    assert tab.js("[...document.querySelectorAll('table')].filter(t => !t.querySelector('th[scope=col]') || !t.getAttribute('aria-label')).length") == 0
    assert tab.js("[document.querySelectorAll('main').length, document.querySelectorAll('h1').length, document.documentElement.lang]") == [1, 1, "en"]
    assert tab.js("performance.getEntriesByType('resource').map(e => e.name)") == [], "nothing is fetched"
    tab.js("document.querySelectorAll('.who').forEach(e => { e.textContent = 'a-policy-with-a-rather-long-name-indeed'; })")
    assert tab.js("[...document.querySelectorAll('.state')].filter(e => e.getBoundingClientRect().width < 100).length") == 0, "it leaves room for the rest"
    assert tab.js(SHOWN) == []
    assert len(tab.picture(tmp_path / "page.png").read_bytes()) > 10_000
    tab.js("document.querySelector('.latest a').click()")
    tab.until("document.title.startsWith('trail ')", True)
    tab.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert (tab.js("document.documentElement.scrollWidth"), tab.js(SHOWN), tab.js(FAINT)) == (width, [], [])
    assert tab.complaints == []


@browsers
def test_in_a_browser_hostile_texts_do_nothing(stub: Stub, url: str, browser: Browser) -> None:
    hostile(stub, url)
    tab = browser.tab()
    tab.open(f"{url}/")
    tab.until("document.getElementById('live').textContent", "live")
    assert tab.js("[document.title, document.scripts.length, document.images.length]") == ["cascade, live", 1, 0]
    hrefs = tab.js("[...document.querySelectorAll('.latest a')].map(a => a.href)")
    for href in hrefs:
        tab.open(href)
        assert tab.js("[document.scripts.length, document.images.length, document.querySelectorAll('textarea').length]") == [0, 0, 0]
        assert tab.js("document.title").startswith("trail ")
    assert tab.complaints == []


@browsers
def test_in_a_browser_it_updates_without_being_loaded_anew_and_keeps_what_is_open(stub: Stub, url: str, browser: Browser) -> None:
    ask(url)
    tab = browser.tab()
    tab.open(f"{url}/")
    tab.until("document.getElementById('live').textContent", "live")
    tab.js("window.mark = 'not loaded anew'; document.querySelector('.latest details').open = true; document.querySelector('.latest a').focus()")
    focused = tab.js("document.activeElement.id")
    assert tile(tab, "requests") == "1"
    ask(url)
    tab.until("document.querySelectorAll('.latest li').length", 2)
    assert (tile(tab, "requests"), tab.js("window.mark")) == ("2", "not loaded anew")
    assert tab.js("[...document.querySelectorAll('.latest details')].map(d => d.open)") == [False, True]
    assert tab.js("document.activeElement.id") == focused
    assert tab.complaints == []


@browsers
def test_in_a_browser_the_first_request_takes_the_place_of_the_advice_to_make_one(url: str, browser: Browser) -> None:
    tab = browser.tab(390)
    tab.open(f"{url}/")
    tab.until("document.getElementById('live').textContent", "live")
    assert tab.js("document.getElementById('start').innerText").startswith("No requests yet")
    ask(url)
    tab.until("document.querySelectorAll('.latest li').length", 1)
    assert tab.js("document.getElementById('start')") is None


@browsers
def test_without_scripts_all_is_there_and_it_loads_itself_anew(url: str, browser: Browser) -> None:
    id = ask(url).headers["x-cascade-trail-id"]
    tab = browser.tab(script=False)
    tab.open(f"{url}/")
    assert (tile(tab, "requests"), tile(tab, "accepted")) == ("1", "100.0\u00a0%")
    assert tab.js("document.querySelector('.latest a').pathname") == f"/trails/{id}"
    assert tab.js("document.getElementById('live').textContent") == "as of this page’s loading"
    ask(url)
    tab.until("document.querySelectorAll('.latest li').length", 2)
    assert tab.complaints == []


@browsers
def test_in_a_browser_a_key_is_the_password_for_the_page_and_its_stream(locked: tuple[str, str, str], browser: Browser) -> None:
    url, one, _ = locked
    tab = browser.tab(login=("anyone", one))
    tab.open(f"{url}/")
    tab.until("document.getElementById('live').textContent", "live")
    ask(url, authorization=f"Bearer {one}")
    tab.until("document.querySelectorAll('.latest li').length", 1)
    assert tab.js("document.querySelector('.eyebrow').textContent").startswith("key team-a")


@browsers
def test_in_a_browser_a_lost_connection_is_told_and_made_again(stub: Stub, browser: Browser, tmp_path: Path) -> None:
    tab = browser.tab()
    with serving(gateway(stub.url)) as url:
        tab.open(f"{url}/")
        tab.until("document.getElementById('live').textContent", "live")
    tab.until("document.getElementById('live').textContent", "not connected, trying again")
