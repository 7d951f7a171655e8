"""The report in a real browser: it asks for nothing, says no error, sorts, filters and shows its figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_lab.report.page import page
from gpt_lab.report.tables import Report
from tests.browser import Browser, Tab
from tests.report.fabricated import drawn

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    answer, runs, figures = drawn("ugly")
    (folder / "report.html").write_text(page(Report(answer, runs), figures), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def tab(report: Path) -> Iterator[Tab]:
    with Browser() as browser:
        found = browser.open(report)
        found.wait("document.querySelectorAll('th button').length > 0")
        yield found


def column(tab: Tab, table: str, index: int) -> list[str]:
    """The texts of a column's visible cells, from top to bottom."""
    return tab.evaluate(
        f"[...document.querySelectorAll('#{table} tbody tr')].filter(r => !r.hidden)"
        f".map(r => r.cells[{index}].textContent)"
    )


def click(tab: Tab, table: str, index: int) -> str:
    """Clicks a head; the direction that it then announces."""
    head = f"document.querySelectorAll('#{table} thead th')[{index}]"
    return tab.evaluate(f"{head}.querySelector('button').click(), {head}.getAttribute('aria-sort')")


def test_no_error_and_no_request(tab: Tab, report: Path) -> None:
    seen = tab.page()
    assert seen.console == []
    assert seen.requests == [report.as_uri()]
    assert tab.evaluate("window.frames.length") == 0


def test_script_in_an_arm_is_text(tab: Tab) -> None:
    assert "position=<script>alert('x')</script>" in column(tab, "arms", 0)
    assert tab.evaluate("document.querySelectorAll('script:not([type])').length") == 1


def test_figures_are_seen(tab: Tab) -> None:
    sizes = tab.evaluate(
        "[...document.querySelectorAll('figure > div:not([hidden]) svg')].filter(s => s.querySelector('text'))"
        ".map(s => [s.closest('figure').id,"
        " s.getBoundingClientRect().width, s.getBoundingClientRect().height, s.querySelectorAll('text').length])"
    )
    assert [name for name, *_ in sizes] == ["forest", "seeds", "curves", "differences"]
    assert all(width > 500 and height > 90 and texts > 5 for _, width, height, texts in sizes)
    drawn = tab.evaluate(
        "(u => document.querySelector(u.getAttribute('xlink:href')) !== null)(document.querySelector('figure svg use'))"
    )
    assert drawn, "references inside a figure still hold after its ids changed"


def test_sorting(tab: Tab) -> None:
    before = column(tab, "arms", 0)
    assert click(tab, "arms", 2) == "ascending"
    deltas = column(tab, "arms", 2)
    assert deltas[:2] == ["−0.040 [−0.086, +0.005]", "0"] and deltas[-1] == "–"
    assert click(tab, "arms", 2) == "descending"
    turned = column(tab, "arms", 2)
    assert turned[0].startswith("+1.699") and turned[-1] == "–", "what has no number comes last both ways"
    assert column(tab, "arms", 0) != before
    assert click(tab, "arms", 0) == "ascending"
    assert column(tab, "arms", 0) == sorted(before, key=lambda name: name.replace("<", " "))
    marked = tab.evaluate("document.querySelectorAll('#arms th[aria-sort]').length")
    assert marked == 1


def test_sorting_by_keyboard(tab: Tab) -> None:
    tab.evaluate("document.querySelectorAll('#runs thead th')[4].querySelector('button').focus()")
    for kind in ("keyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    tab.wait("document.querySelectorAll('#runs thead th')[4].getAttribute('aria-sort') === 'ascending'")
    texts = column(tab, "runs", 4)
    scores = [float(text) for text in texts if text != "–"]
    assert scores == sorted(scores) and len(scores) > 5
    assert set(texts[len(scores) :]) == {"–"}, "runs without a result stood first and come last now"


def test_filter(tab: Tab) -> None:
    def type_in(text: str) -> str:
        return tab.evaluate(
            "(box => { box.value = " + json.dumps(text) + "; box.dispatchEvent(new Event('input'));"
            " return document.querySelector('.filter output').textContent })(document.querySelector('.filter input'))"
        )

    assert type_in("MISSING sinusoidal") == "4 of 24 rows"
    assert set(column(tab, "runs", 1)) == {"missing"}
    assert type_in("") == "" and len(column(tab, "runs", 1)) == 24


def test_fits_a_narrow_screen_and_the_dark(tab: Tab) -> None:
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400, "tables and figures scroll by themselves"
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    paper = tab.evaluate("getComputedStyle(document.querySelector('#forest svg path')).fill")
    assert dark != light and paper == dark, "the figures' paper is the page's"
