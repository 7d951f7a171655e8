"""The HTML report: whole, self-contained, and nothing from a run is ever markup."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Row
from gpt_lab.analysis.table import Cell
from gpt_lab.report import tables
from gpt_lab.report.figures import draw
from gpt_lab.report.inline import inline
from gpt_lab.report.page import page, sort_key
from gpt_lab.report.tables import Report
from gpt_lab.stats.interval import Interval
from tests.report.fabricated import (
    CASES,
    FakeStudy,
    comparison,
    drawn,
    no_baseline,
    one_seed,
    plain,
    pos_enc,
    study,
    tuned,
    ugly,
)
from tests.study.arms import settings

LARGEST = 1_500_000
"""Characters of a page with three arms of five runs, each evaluated 5,000 times."""
VOID = {"meta", "link", "input", "br"}


class Document(HTMLParser):
    """Every element with its attributes, the cells of each table, ids, and whether tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self.open: list[str] = []
        self.table = ""
        self.cell: list[str] | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = str(dict(attrs)["id"])
            self.tables[self.table] = []
        elif tag == "tr":
            self.tables[self.table].append([])
        elif tag in ("td", "th"):
            self.cell = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th") and self.cell is not None:
            self.tables[self.table][-1].append("".join(self.cell))
            self.cell = None

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell.append(data)
        tag = self.open[-1] if self.open else ""
        if tag == "script" and self.elements[-1][1].get("type"):
            tag = "data"
        self.texts[tag] = self.texts.get(tag, "") + data

    @property
    def scripts(self) -> int:
        """Scripts that run: a block of data is none."""
        return sum(tag == "script" and "type" not in attributes for tag, attributes in self.elements)

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]


def made(case: str) -> str:
    answer, runs, figures = drawn(case)
    return page(Report(answer, runs), figures, "uv run report pos_enc")


@pytest.mark.parametrize("case", ["plain", "ugly", "one_seed", "no_baseline", "empty", "maximise", "tuned"])
def test_is_whole_and_asks_nobody(case: str) -> None:
    text = made(case)
    document = Document(text)
    assert text.startswith("<!doctype html>")
    assert len(document.ids) == len(set(document.ids)), "ids of inlined figures do not clash"
    for tag, attributes in document.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
            address = attributes.get(name)
            assert address is None or address.startswith("#") or address == "data:,", f"<{tag} {name}={address}>"
        assert not any(name.startswith("on") for name in attributes), "no inline handlers: the policy forbids them"
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    known = set(document.ids)
    assert {a["xlink:href"][1:] for _, a in document.elements if a.get("xlink:href")} <= known
    markup = text[: text.rindex("<script>")]  # the script makes the ids that it refers to
    assert set(re.findall(r"url\(#([^)]+)\)", markup)) <= known
    for _, attributes in document.elements:
        assert set(str(attributes.get("aria-labelledby") or "").split()) <= known


def test_policy_allows_the_one_script() -> None:
    document = Document(made("plain"))
    policy = next(str(a["content"]) for t, a in document.elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(document.texts["script"].encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    assert document.scripts == 1


def test_text_of_runs_is_never_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"
    design = pos_enc(question=evil, family=evil, baseline={"position": evil})
    runs = study({"position=learned": -0.2, f"position={evil}": 0.1}, design=design)
    runs.runs["error"] = evil
    runs.runs["name"] = evil
    runs.runs["run"] = [f"{evil}{i}" for i in range(len(runs.runs))]
    runs.runs["env.cpu"] = evil
    runs.runs["config.text"] = [evil + str(arm) for arm in runs.runs["arm"]]
    runs.notes.append(evil)
    runs.texts = dict.fromkeys(runs.runs["run"], (7, f"{evil} and more"))
    answer = comparison(runs)
    answer = replace(answer, notes=(evil,), rows=tuple(replace(row, warnings=(evil,)) for row in answer.rows))
    text = page(Report(answer, runs), draw(answer, runs, tmp_path), evil)
    document = Document(text)
    assert [t for t, _ in document.elements if t in ("img", "iframe")] == []
    assert document.scripts == 1
    assert document.texts["h1"] == evil and document.texts["title"] == evil
    assert "leads &lt;/script&gt;" in text
    assert any(evil in row[0] for row in document.tables["arms"])
    assert evil in [arm["name"] for arm in json.loads(document.texts["data"])["arms"]]
    assert f"{evil} and more" in document.texts["b"]


def test_the_table_is_the_comparison() -> None:
    answer = drawn("plain")[0]
    head, *rows = Document(made("plain")).tables["arms"]
    assert [row[0] for row in rows] == [str(row.arm) for row in answer.rows]
    assert head[1:3] == ["verdictcorrected", "Δ val/bpbvariant − baseline, 95 % interval"]
    first = answer.rows[0]
    assert first.delta is not None
    assert rows[0][2] == wording.with_interval(first.delta) and rows[0][2].startswith("−0.063 [−0.077, ")
    assert rows[0][1] == "● better" and rows[0][4:6] == ["screen", "3"] and " ± " in rows[0][3]
    assert [row[1] for row in rows if row[0] == "position=learned"] == ["◇ baseline"]


def test_what_is_lost_is_said() -> None:
    text = made("ugly")
    lost = text[text.index('id="lost"') : text.index('id="notes"')]
    for state in ("missing", "diverged", "failed", "stopped", "running"):
        assert state in lost
    assert "CUDA out of memory" in lost and "position=sinusoidal" in lost
    assert "&lt;b&gt;torn&lt;/b&gt;" in text, "notes of the loader"
    assert 'id="lost"' not in made("plain")


def test_ten_thousand_runs() -> None:
    """All are counted, some are listed, those that need somebody first."""
    _, runs = plain()
    many = pd.concat([runs.runs] * 700, ignore_index=True)
    many["run"] = [f"runs/{i}" for i in range(len(many))]
    many.loc[len(many) - 1, ["state", "score"]] = ["failed", math.nan]
    big = FakeStudy(runs.design, many)
    text = page(Report(comparison(runs), big), [])
    rows = Document(text).tables["runs"][1:]
    assert len(rows) == tables.MOST_RUNS and rows[0][1] == "failed"
    assert f"The first {tables.MOST_RUNS} of 10500 runs; runs.csv holds all" in text
    assert len(text) < 1_000_000


def test_settings_that_differ() -> None:
    rows = Document(made("plain")).tables["settings"]
    assert rows[0] == ["arm", "position.name"]
    assert ["position=rope", "rope"] in rows
    assert len(rows) == 6, "equal settings, seeds and paths are no differences"


def test_environment_and_commands() -> None:
    text = made("plain")
    rows = Document(text).tables["environment"]
    assert ["cpu", "AMD EPYC", "all"] in rows
    assert "uv run train position=position=rope seed=1" in text and "uv run report pos_enc</code>" in text


def test_missing_numbers_are_dashes_and_sort_last() -> None:
    first = next(tables.arms(one_seed()[0]).cells())
    assert not [cell for cell in first if "±" in cell.text]
    assert "nan" not in Document(made("one_seed")).texts["td"].lower()
    assert sort_key(Cell("–", math.nan)) == "" and sort_key(Cell("3", 3.0)) == "3.0"
    assert sort_key(Cell("text")) is None


def test_inlined_figures_take_the_pages_colours() -> None:
    figure = drawn("plain")[2][0]
    svg = inline(figure.svg.read_text("utf-8"), "forest")
    assert svg.startswith("<svg") and svg.endswith("</svg>")
    assert "width=" not in svg[: svg.index(">")] and "viewBox" in svg[: svg.index(">")]
    assert "<style" not in svg and "<metadata" not in svg, "a style element would reach the whole page"
    assert "var(--ink, #1f2329)" in svg and 'id="figure_1"' not in svg
    bare = re.sub(r"var\(--[a-z]+, #[0-9a-f]{6}\)", "", svg)
    assert re.findall(r"#[0-9a-f]{6}\b", bare) == []


class TestAnswer:
    def test_one_better(self) -> None:
        said = wording.answer(tuned()[0])
        assert said.startswith("muon leads adamw by 0.0")
        assert "bits per byte (3 seeds) (a screen: to be confirmed)" in said
        assert said.endswith("; sgd is worse.")

    def test_several_better(self) -> None:
        said = wording.answer(plain()[0])
        assert said.startswith("rope leads learned by 0.063 [0.049, 0.077] bits per byte (3 seeds)")
        assert said.endswith("; alibi is better; position=none is worse; sinusoidal is undecided.")

    def test_none_better(self) -> None:
        said = wording.answer(ugly()[0])
        assert said.startswith("No arm is better than learned; ") and " and alibi are worse; rope is undecided" in said
        assert said.endswith("2 arms have no data yet.")

    def test_nothing_to_compare(self) -> None:
        assert "--baseline" in wording.answer(no_baseline()[0])
        assert "position=learned has no finished run" in wording.answer(CASES["empty"]()[0])
        lonely = study({"position=learned": 0.0}, design=pos_enc())
        assert wording.answer(comparison(lonely)) == "position=learned is the only arm, so nothing is compared."
        assert wording.answer(one_seed()[0]) == "No arm is better than learned; rope is undecided."
        apart = study(
            {"position=learned": 0.0, "position=a": 0.1},
            design=pos_enc(),
            states={("position=learned", 0): "failed", ("position=a", 1): "failed", ("position=a", 2): "failed"},
        )
        assert wording.answer(comparison(apart)).startswith("No other arm has a finished run that pairs")

    def test_confirmed_and_maximised(self) -> None:
        runs = study(
            {"position=learned": 0.0, "position=a": 0.1, "position=b": 0.3}, seeds=6, design=pos_enc(goal="maximize")
        )
        said = wording.answer(comparison(runs, tier="confirm"))
        assert said.startswith("b leads learned by 0.2993 [0.2941, 0.3045]") and "screen" not in said
        assert wording.answer(replace(comparison(runs), caveat="it is noise")).startswith("No answer about language")


class TestWording:
    def test_numbers(self) -> None:
        assert wording.signed(-0.0314, 3) == "−0.031" and wording.signed(0.0314, 3) == "+0.031"
        assert wording.signed(-0.0001, 3) == "0.000", "no sign on a zero"
        assert wording.short(1.21e13) == "1.21×10¹³" and wording.short(922_752) == "923 k"
        assert wording.power(4.85e11) == "4.85×10¹¹" and wording.power(9.999e-5) == "1×10⁻⁴"
        assert wording.short(2.05e6) == "2.05 M" and wording.short(0) == "0" and wording.short(0.25) == "0.25"
        assert wording.count(math.nan) == "–" and wording.plain(None) == "–"

    @pytest.mark.parametrize("value", [9.996e5, 999_999, 9.999e8, 9.9999e11, 9.9999e12, 0.00099999, 999.9])
    def test_rounding_up_keeps_three_digits(self, value: float) -> None:
        text = wording.short(value)
        assert "e+" not in text and "1000" not in text and "10×" not in text, text

    def test_two_digits_of_the_interval(self) -> None:
        assert wording.with_interval(Interval(-0.0314159, -0.0414, -0.0214, 4, 0.01)) == "−0.031 [−0.041, −0.021]"
        assert wording.with_interval(Interval(-1.5, -2.7, -0.3, 4, 0.01)) == "−1.5 [−2.7, −0.3]"
        assert wording.with_interval(Interval(-0.125, -0.125, -0.125, 4, 0.0)) == "−0.1250 [−0.1250, −0.1250]"
        assert wording.with_interval(Interval(0.02, math.nan, math.nan, math.nan, math.nan)) == "+0.020"

    def test_verdict_and_states(self) -> None:
        row = Row(
            settings("arm=a"), "undecided", "screen", 3, 3, 2.0, 0.1, None, None, None, {}, states={"diverged": 1}
        )
        assert wording.verdict(row) == "undecided" and wording.states(row) == "1 diverged"
        assert wording.verdict(replace(row, withheld=True)) == "undecided: see notes", (
            "or the interval would contradict"
        )
        ranges = [
            replace(row, arm=settings(f"arm={arm}"), plan=plan)
            for arm, plan in (("a", (9, 15)), ("b", (8, None)), ("c", None))
        ]
        assert wording.plans(ranges) == (
            "To decide an undecided arm plan a new study (power 80 %): arm=a 9 to 15 seeds, arm=b 8 seeds or more. "
            "Not within reach: arm=c."
        )
        assert wording.states(replace(row, states={"without score": 2})) == "2 without score"


def test_a_page_of_long_curves_is_small(tmp_path: Path) -> None:
    runs = study({"position=learned": 0.0, "position=rope": -0.06, "position=alibi": 0.01}, seeds=5, design=pos_enc())
    runs.points = np.linspace(1e3, 1e6, 5000)
    found = comparison(runs)
    text = page(Report(found, runs), draw(found, runs, tmp_path))
    assert {"curves", "differences"} <= {path.stem for path in tmp_path.iterdir()}
    assert 50_000 < len(text) < LARGEST
