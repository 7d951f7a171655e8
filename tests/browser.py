"""Headless Chromium over the DevTools protocol through a pipe: the standard library is enough.

    page = browse("report.html", wait_for="document.querySelector('table')", script="document.title")

    with Browser() as browser:
        tab = browser.open("http://127.0.0.1:6006/")
        tab.wait("document.querySelectorAll('.run').length === 3")
        tab.evaluate("document.querySelector('button').click()")

Nothing outside 127.0.0.1 can be reached, but what a page asks for is in `requests` all the same.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # a container's root has no user namespaces
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
    "--metrics-recording-only",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)
WIDTH, HEIGHT = 1280, 900
TALLEST = 12_000
"""Pixels of the longest screenshot."""


class BrowserError(AssertionError):
    """The browser, or JavaScript in it, did not do what was asked in time."""


@dataclass(frozen=True)
class Page:
    """What was seen of a page.

    Fields:
        html: the document as it stands now, not as it was sent.
        console: console messages, uncaught exceptions and failed requests, as "level: text".
        requests: every URL that was asked for, the page's own first; data: and blob: ask nobody and are left out.
        value: what `script` gave, as plain JSON.
        screenshot: PNG of the whole height.
    """

    html: str
    console: list[str]
    requests: list[str]
    value: Any
    screenshot: bytes

    @property
    def errors(self) -> list[str]:
        """The console's errors and exceptions."""
        return [line for line in self.console if line.startswith("error:")]


def browse(
    url_or_path: str | os.PathLike[str], *, script: str | None = None, wait_for: str | None = None, timeout: float = 30
) -> Page:
    """Opens a page in a new browser, waits until `wait_for` (JavaScript) is true, then evaluates `script`.

    `script` is an expression; a promise is waited for. Without Chromium on the machine the test is skipped.

    Raises:
        BrowserError: a wait ran out, or the script threw.
    """
    with Browser(timeout) as browser:
        tab = browser.open(url_or_path)
        if wait_for is not None:
            tab.wait(wait_for)
        value = None if script is None else tab.evaluate(script)
        return tab.page(value)


class Browser:
    """One Chromium with a profile of its own; it ends with the `with` block, or with this process."""

    def __init__(self, timeout: float = 30) -> None:
        self.timeout = timeout
        self._pid: int | None = None
        self._profile = ""
        self._buffer = b""
        self._last_id = 0
        self._tabs: dict[str, Tab] = {}

    def __enter__(self) -> Browser:
        binary = next((found for name in NAMES if (found := shutil.which(name))), None)
        if binary is None:
            pytest.skip("no Chromium on this machine: apt-get install chromium")
        self._profile = tempfile.mkdtemp(prefix="gpt_lab_browser_")
        theirs_in, self._write = os.pipe()
        self._read, theirs_out = os.pipe()
        # Chromium reads 3 and writes 4: ours must lie above both when they are copied there.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs_in, theirs_out)]
        log = os.path.join(self._profile, "stderr.txt")
        arguments = [binary, *FLAGS, f"--user-data-dir={self._profile}", f"--window-size={WIDTH},{HEIGHT}"]
        actions = [
            (os.POSIX_SPAWN_DUP2, high[0], 3),
            (os.POSIX_SPAWN_DUP2, high[1], 4),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT, 0o644),
        ]
        try:
            self._pid = os.posix_spawn(binary, arguments, os.environ, file_actions=actions, setpgroup=0)
        finally:
            for fd in (theirs_in, theirs_out, *high):
                os.close(fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._write)
        os.close(self._read)
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        for _ in range(20):  # its children may write for a moment longer
            shutil.rmtree(self._profile, ignore_errors=True)
            if not os.path.exists(self._profile):
                break
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """The browser's process, which leads a process group of its own."""
        assert self._pid is not None
        return self._pid

    def open(self, url_or_path: str | os.PathLike[str]) -> Tab:
        """A new tab with the page, loaded."""
        text = os.fspath(url_or_path)
        url = text if "://" in text or text.startswith(("about:", "data:")) else Path(text).resolve().as_uri()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.call(f"{domain}.enable")
        tab.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
        tab.goto(url)
        return tab

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its answer.

        Raises:
            BrowserError: it failed, or there was no answer within the timeout.
        """
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        deadline = time.monotonic() + self.timeout
        while True:
            answer = self.next(deadline, method)
            if answer.get("id") == self._last_id:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                return dict(answer["result"])

    def listen(self, seconds: float) -> None:
        """Takes in the events of the next seconds."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while True:
                self._message(deadline)

    def next(self, deadline: float, what: str) -> dict[str, Any]:
        """The next message, whatever it is."""
        try:
            return self._message(deadline)
        except TimeoutError:
            raise BrowserError(f"{what}: no answer from Chromium within {self.timeout:g} s") from None

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                said = Path(self._profile, "stderr.txt").read_text(errors="replace")
                raise BrowserError(f"Chromium ended by itself: {said[-2000:]}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        tab = self._tabs.get(message.get("sessionId", ""))
        if tab is not None and "method" in message:
            tab.take(message["method"], message["params"])
        return message


@dataclass
class Tab:
    """One page. Expressions are JavaScript; their promises are waited for, their values plain JSON."""

    browser: Browser
    session: str
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _loads: int = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol to this tab."""
        return self.browser.call(method, self.session, **params)

    def goto(self, url: str) -> None:
        """Loads a page in this tab.

        Raises:
            BrowserError: it cannot be reached, or does not load in time.
        """
        loads = self._loads
        answer = self.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise BrowserError(f"{url}: {answer['errorText']}")
        deadline = time.monotonic() + self.browser.timeout
        while self._loads == loads:
            self.browser.next(deadline, f"load {url}")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression.

        Raises:
            BrowserError: it threw.
        """
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {_thrown(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait(self, condition: str, timeout: float | None = None) -> Any:
        """The value of an expression, once it is true.

        Raises:
            BrowserError: it stayed false, or threw, until the timeout; the line holds what the page shows.
        """
        seconds = self.browser.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        asked = f"(async () => {{ const value = await ({condition}); return {{is: Boolean(value), value}}; }})()"
        wrong = "false"
        while time.monotonic() < deadline:
            try:
                found = self.evaluate(asked)
                if found["is"]:  # an element is true, though its value as JSON is empty
                    return found["value"]
                wrong = "false"
            except BrowserError as error:  # such as null.click() before the element is there
                wrong = str(error)
            self.browser.listen(0.05)
        shown = self.evaluate("document.body ? document.body.innerText.slice(0, 2000) : ''")
        raise BrowserError(f"still {wrong} after {seconds:g} s: {condition}\nconsole: {self.console}\npage: {shown}")

    def screenshot(self) -> bytes:
        """PNG of the page at its whole height."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": min(max(size["height"], HEIGHT), TALLEST), "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])

    def page(self, value: Any = None) -> Page:
        """All that was seen until now."""
        html = self.evaluate("document.documentElement.outerHTML")
        return Page(html, list(self.console), list(self.requests), value, self.screenshot())

    def take(self, method: str, params: dict[str, Any]) -> None:
        """Notes an event."""
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Network.requestWillBeSent":
            self._asked(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self._asked(params["url"])
        elif method == "Runtime.consoleAPICalled":
            words = [str(arg.get("value", arg.get("description", arg["type"]))) for arg in params["args"]]
            self.console.append(f"{params['type']}: {' '.join(words)}")
        elif method == "Runtime.exceptionThrown":
            self.console.append(f"error: {_thrown(params['exceptionDetails'])}")
        elif method == "Log.entryAdded":
            entry = params["entry"]
            self.console.append(f"{entry['level']}: {entry['text']} {entry.get('url', '')}".rstrip())

    def _asked(self, url: str) -> None:
        if not url.startswith(("data:", "blob:")):
            self.requests.append(url)


def _thrown(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))
