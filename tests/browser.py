"""A headless Chromium by its debugging pipe: real pages at any width, in light and dark, with and without JavaScript."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WITHIN = 30.0
"""Seconds that anything may take."""


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


START = """import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])"""
"""The browser reads its file 3 and writes its file 4."""


class Tab:
    """One page. `complaints` are what its console said: errors, and what its Content-Security-Policy stopped."""

    def __init__(self, browser: Browser, width: int, dark: bool, script: bool, login: tuple[str, str] | None) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.tabs[self.session] = self
        self.complaints: list[str] = []
        self._login = login
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        self("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 500)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self("Emulation.setScriptExecutionDisabled", value=not script)
        if login:
            self("Fetch.enable", handleAuthRequests=True)

    def __call__(self, method: str, **params: Any) -> Any:
        return self._browser.call(method, self.session, **params)

    def open(self, url: str) -> None:
        """Go there, and wait until it is there."""
        self("Page.navigate", url=url)
        self.until("document.readyState", "complete")

    def js(self, expression: str) -> Any:
        """What an expression is in the page; also where the page's own scripts are off."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, value: Any) -> None:
        """Wait for it."""
        end, found = time.monotonic() + WITHIN, None
        while True:
            with contextlib.suppress(Navigated):
                found = self.js(expression)
                if found == value:
                    return
            assert time.monotonic() < end, f"{expression} is {found!r}, not {value!r}"

    def picture(self, path: Path) -> Path:
        """A screenshot of the whole page."""
        height = self.js("document.documentElement.scrollHeight")
        width = self.js("document.documentElement.clientWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]))
        return path

    def heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"a dialog: {params['message']}")
            self._browser.later(self.session, "Page.handleJavaScriptDialog", accept=True)
        elif method == "Fetch.requestPaused":
            self._browser.later(self.session, "Fetch.continueRequest", requestId=params["requestId"])
        elif method == "Fetch.authRequired" and self._login:
            name, password = self._login
            answer = {"response": "ProvideCredentials", "username": name, "password": password}
            self._browser.later(self.session, "Fetch.continueWithAuth", requestId=params["requestId"], authChallengeResponse=answer)


class Navigated(Exception):
    """The page that was asked has gone to another one."""


class Browser:
    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._buffer, self._messages = b"", deque[dict[str, Any]]()
        self._next = 0
        self.tabs: dict[str, Tab] = {}

    def tab(self, width: int = 1280, dark: bool = False, script: bool = True, login: tuple[str, str] | None = None) -> Tab:
        return Tab(self, width, dark, script, login)

    def later(self, session: str | None, method: str, **params: Any) -> int:
        """Send it, and do not wait."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._next

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        id = self.later(session, method, **params)
        while (message := self._message()).get("id") != id:
            if "method" in message and message.get("sessionId") in self.tabs:
                self.tabs[message["sessionId"]].heard(message["method"], message["params"])
        if "navigated" in message.get("error", {}).get("message", ""):
            raise Navigated(method)
        assert "error" not in message, (method, message["error"])
        return message["result"]

    def _message(self) -> dict[str, Any]:
        while not self._messages:
            ready, _, _ = select.select([self._back], [], [], WITHIN)
            assert ready, "the browser says nothing"
            found = os.read(self._back, 1 << 20)
            assert found, "the browser has gone"
            *whole, self._buffer = (self._buffer + found).split(b"\0")
            self._messages.extend(map(json.loads, whole))
        return self._messages.popleft()


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own."""
    theirs, to = os.pipe()
    back, said = os.pipe()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions", "--remote-debugging-pipe",
               "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={folder}"]
    command = [sys.executable, "-c", START, str(theirs), str(said), str(chromium()), *options]
    process = subprocess.Popen(command, pass_fds=(theirs, said), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(theirs)
    os.close(said)
    browser = Browser(to, back)
    try:
        yield browser
    finally:
        browser.later(None, "Browser.close")
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        os.close(to)
        os.close(back)
