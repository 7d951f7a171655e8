"""A report's tables: made once, and the same in the terminal, in Markdown and on the page."""

from __future__ import annotations

import io
import math
import re
from html import unescape

import pytest
from rich.console import Console

from gpt_lab.analysis.table import Cell, Column, Table, columns
from gpt_lab.report import console
from gpt_lab.report.markdown import markdown
from gpt_lab.report.page import page
from gpt_lab.report.tables import COSTS, Report, arms, costs
from tests.report import fabricated
from tests.report.test_console import EVERY


def wide(report: Report) -> str:
    text = io.StringIO()
    console.show(report, Console(file=text, width=400, highlight=False))
    return text.getvalue()


@pytest.mark.parametrize("name", [*EVERY, "tuned"])
def test_every_form_has_every_value(name: str) -> None:
    report = Report(*getattr(fabricated, name)())
    forms = {"console": wide(report), "markdown": markdown(report, []), "page": unescape(page(report, []))}
    forms["markdown"] = re.sub(r"\\(.)", r"\1", forms["markdown"])
    for form, text in forms.items():
        tables = report.in_form(form)
        assert tables[0].name == "arms"
        for table in tables:
            assert table.title in text or table.name in ("arms", "costs"), "these need no title where they come first"
            for row in (table.columns, *table.cells()):
                for value in row:
                    whole = value.head if isinstance(value, Column) else value.text
                    assert (value.brief if form == "console" else whole) in text
            assert all(" ".join(line.split()) in " ".join(text.split()) for line in table.sentences)


def test_the_verdict_is_the_second_column() -> None:
    for name in EVERY:
        table = arms(getattr(fabricated, name)()[0])
        assert table.heads[:2] == ("arm", "verdict")
        assert {len(row) for row in table.rows} == {len(table.heads)}


def test_costs_that_no_arm_has_are_left_out() -> None:
    comparison, _ = fabricated.plain()
    (table,) = costs(comparison)
    assert table.heads == ("arm", *(cost.column.head for cost in COSTS))
    for row in comparison.rows:
        assert isinstance(row.medians, dict)
        row.medians.clear()
    assert costs(comparison) == []


def test_tables_are_made_once() -> None:
    report = Report(*fabricated.plain())
    assert report.in_form("page")[-1] is report.in_form("markdown")[-1]


@pytest.mark.parametrize(
    "text, key", [("−0.5 [−1, 0]", -0.5), ("1,234", 1234.0), ("12%", 12.0), ("–", math.nan), ("", math.nan)]
)
def test_numbers_are_sorted_by_what_they_begin_with(text: str, key: float) -> None:
    table = Table("t", (), columns(("a", "b"), {1}), (("x", text), ("y", Cell("all", 7.0))))
    first, second = table.cells()
    assert first[0].key is None and first[1].key == pytest.approx(key, nan_ok=True)
    assert second[1].key == 7.0
