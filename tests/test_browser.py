"""The browser harness sees what a page does: its values, its console, its requests."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.browser import Browser, BrowserError, browse

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><meta charset="utf-8"><title>Ablation é</title>
<link rel="stylesheet" href="https://example.com/style.css">
<p id="text">before</p><button onclick="setTimeout(() => {document.getElementById('text').textContent = 'after'}, 200)">
</button><div style="height:2000px"></div>
<script>console.warn("one", 2); setTimeout(() => {throw new Error("broken")}, 0)</script>"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "page é.html"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_page_is_read_clicked_and_photographed(tmp_path: Path) -> None:
    path = _write(tmp_path, PAGE)
    page = browse(
        path,
        wait_for="document.querySelector('button').click() || document.getElementById('text').textContent === 'after'",
        script="Promise.resolve({title: document.title, height: document.body.scrollHeight})",
    )
    assert page.value["title"] == "Ablation é" and page.value["height"] > 2000
    assert '<p id="text">after</p>' in page.html
    assert page.requests[0] == path.as_uri()
    assert "https://example.com/style.css" in page.requests, "a request to the outside is seen, though it fails"
    assert "warning: one 2" in page.console
    assert any("Error: broken" in line for line in page.errors)
    assert page.screenshot.startswith(b"\x89PNG")
    width, height = (int.from_bytes(page.screenshot[at : at + 4], "big") for at in (16, 20))
    assert (width, height > 2000) == (1280, True)


def test_a_quiet_page_has_no_errors_and_asks_for_itself_alone(tmp_path: Path) -> None:
    path = _write(tmp_path, "<title>quiet</title><img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>")
    page = browse(path)
    assert (page.console, page.requests, page.value) == ([], [path.as_uri()], None)


def test_a_wait_takes_elements_promises_and_values(tmp_path: Path) -> None:
    path = _write(tmp_path, "<p>text</p>")
    with Browser() as browser:
        tab = browser.open(path)
        assert tab.wait("document.querySelector('p')") == {}
        assert tab.wait("Promise.resolve(document.querySelectorAll('p').length)") == 1


def test_a_wait_that_runs_out_says_what_the_page_shows(tmp_path: Path) -> None:
    path = _write(tmp_path, "<p>nothing here</p>")
    with pytest.raises(BrowserError, match="nothing here"):
        browse(path, wait_for="document.querySelector('svg')", timeout=5)


def test_without_chromium_the_test_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        browse("about:blank")


def test_chromium_is_gone_after_a_failure(tmp_path: Path) -> None:
    browser = Browser()
    with pytest.raises(BrowserError, match="null"), browser:
        browser.open(_write(tmp_path, "<p></p>")).evaluate("null.click()")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(browser.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("processes of Chromium are left")
