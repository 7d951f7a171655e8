"""The chart of curves in a real browser: values under the pointer, arms on and off, axes, widths, no script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpt_lab.report.page import page
from gpt_lab.report.tables import Report
from tests.browser import Browser, Tab
from tests.report.fabricated import FakeStudy, drawn

pytestmark = pytest.mark.browser

READOUT = (
    "[...document.querySelectorAll('.readout li')].map(li => [li.children[0].textContent, li.children[1].textContent])"
)
TICKS = "[...document.querySelectorAll('.plot text.tick.{}')].map(t => t.textContent)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    answer, runs, figures = drawn("plain")
    assert isinstance(runs, FakeStudy)
    runs.texts = {run: (1000, f"KING: <b>{i}</b>") for i, run in enumerate(runs.runs["run"])}
    path.write_text(page(Report(answer, runs), figures), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.fixture
def tab(browser: Browser, report: Path) -> Iterator[Tab]:
    found = browser.open(report)
    found.wait("document.querySelectorAll('.plot path.mean').length === 5")
    yield found
    assert found.console == [] and found.requests == [report.as_uri()]


def press(tab: Tab, text: str) -> str:
    """Clicks a button of the chart; what it then announces."""
    return tab.evaluate(
        f"(b => {{ b.click(); return b.getAttribute('aria-pressed') }})"
        f"([...document.querySelectorAll('.buttons button')].find(b => b.textContent === {text!r}))"
    )


def key(tab: Tab, name: str) -> None:
    for kind in ("keyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)


def means(column: str, index: int) -> tuple[float, dict[str, str]]:
    """Mean place, and each arm's mean as text, at an evaluation of the runs."""
    runs = drawn("plain")[1]
    values, places = {}, []
    for arm, own in runs.runs.groupby("arm"):
        tables = runs.curves(list(own["run"])).values()
        values[str(arm).removeprefix("position=")] = f"{np.mean([t['val/bpb'].iloc[index] for t in tables]):.4f}"
        places += [t[column].iloc[index] for t in tables]
    return float(np.mean(places)), values


def test_the_pointer_shows_what_the_runs_hold(tab: Tab) -> None:
    tab.evaluate("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    frame = tab.evaluate("(r => [r.left, r.top, r.width])(document.querySelector('.plot svg').getBoundingClientRect())")
    left, right, most = 62, frame[2] - 14, 1_024_000 * 1.015
    place, expected = means("tokens", 11)
    x = frame[0] + left + place / most * (right - left) + 4
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=frame[1] + 200)
    tab.wait("document.querySelectorAll('.readout li').length === 5")
    shown = tab.evaluate(READOUT)
    assert tab.evaluate("document.querySelector('.readout p').textContent") == f"{place:,.0f} tokens"
    assert dict(map(tuple, shown)) == expected
    assert [value for _, value in shown] == sorted(value for _, value in shown), "best first"
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    tab.wait("document.querySelector('.readout').hidden")


def test_arrow_keys(tab: Tab) -> None:
    tab.evaluate("document.querySelector('.plot').focus()")
    for name, index in (("ArrowRight", 0), ("ArrowRight", 1), ("End", -1), ("ArrowLeft", -2), ("Home", 0)):
        key(tab, name)
        assert dict(map(tuple, tab.evaluate(READOUT))) == means("tokens", index)[1]
    assert "rope " in tab.evaluate("document.querySelector('.plot').getAttribute('aria-valuetext')")
    key(tab, "Escape")
    assert tab.evaluate("document.querySelector('.readout').hidden")


def test_arms_on_and_off(tab: Tab) -> None:
    lines = "document.querySelectorAll('.plot path.mean').length"
    bands = "document.querySelectorAll('.plot path.band').length"
    assert press(tab, "none") == "false"
    assert (tab.evaluate(lines), tab.evaluate(bands)) == (4, 4)
    tab.evaluate("document.querySelector('.plot').focus()")
    key(tab, "End")
    assert "none" not in dict(map(tuple, tab.evaluate(READOUT)))
    assert press(tab, "none") == "true" and tab.evaluate(lines) == 5
    press(tab, "all")
    assert tab.evaluate(lines) == 0, "an empty chart is no error"
    key(tab, "End")
    press(tab, "all")
    assert tab.evaluate(lines) == 5
    assert press(tab, "single runs") == "true"
    assert tab.evaluate("document.querySelectorAll('.plot path.thin').length") == 15


def test_axes_and_logarithms(tab: Tab) -> None:
    seen = [tab.evaluate(TICKS.format("x"))]
    assert seen[0][0] == "0" and "500 k" in seen[0]
    for name in ("steps", "FLOPs", "seconds"):
        assert press(tab, name) == "true"
        assert tab.evaluate("document.querySelector('.plot text.axis.x').textContent") == name
        seen.append(tab.evaluate(TICKS.format("x")))
    assert len({tuple(ticks) for ticks in seen}) == 4
    assert press(tab, "tokens") == "true" and tab.evaluate(TICKS.format("x")) == seen[0]
    assert press(tab, "log x") == "true"
    assert tab.evaluate(TICKS.format("x")) == ["50 k", "100 k", "200 k", "500 k", "1 M"]
    linear = tab.evaluate("document.querySelector('.plot path.mean').getAttribute('d')")
    assert press(tab, "log y") == "true"
    assert tab.evaluate("document.querySelector('.plot path.mean').getAttribute('d')") != linear
    assert "NaN" not in tab.evaluate("document.querySelector('.plot svg').outerHTML")
    press(tab, "log x")
    assert press(tab, "end of training") == "true"
    assert "0" not in tab.evaluate(TICKS.format("x"))


def test_sample_texts_stand_side_by_side(tab: Tab) -> None:
    boxes = tab.evaluate(
        "[...document.querySelector('.texts').children].map(a => [a.getBoundingClientRect().top, a.innerText])"
    )
    assert len(boxes) == 5 and len({top for top, _ in boxes}) == 1
    assert all("KING: <b>" in text for _, text in boxes), "text of a model is no markup"


@pytest.mark.parametrize("width", [1280, 390])
def test_widths(tab: Tab, width: int) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 500)
    tab.wait(f"document.querySelector('.plot svg').viewBox.baseVal.width <= {width}")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    boxes = tab.evaluate(
        "['.answer', '#arms tbody td:nth-child(2)', '#arms', '.plot'].map(name => document.querySelector(name))"
        ".map(node => node.getBoundingClientRect()).map(box => [box.left, box.right, box.bottom])"
    )
    answer, verdict, table, plot = boxes
    assert answer[2] < 844 and answer[1] <= width
    assert verdict[0] >= 0 and verdict[1] <= width and verdict[2] < 844
    for box in (table, plot) if width == 1280 else ():
        assert box[1] - box[0] > 1200


def test_without_javascript(browser: Browser, report: Path) -> None:
    tab = browser.open("about:blank")
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.goto(report.as_uri())
    seen = tab.evaluate(
        "[document.querySelectorAll('#arms tbody tr').length,"
        " document.querySelector('#curves .still svg').getBoundingClientRect().width,"
        " document.querySelector('.chart').getBoundingClientRect().height,"
        " document.querySelector('.texts').getBoundingClientRect().height]"
    )
    assert seen[0] == 5 and seen[1] > 500 and seen[2] == 0 and seen[3] > 50
