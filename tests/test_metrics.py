"""The table of metrics: each known by one row, also in windows of several contexts."""

from __future__ import annotations

import pytest

from gpt_lab import context_multiples, metrics


@pytest.mark.parametrize("row", metrics.TABLE.values(), ids=metrics.TABLE)
def test_rows_are_whole(row: metrics.Metric) -> None:
    assert row.form.format(0.5) and (not row.line or row.line.format(0.5) != row.line)
    assert row.short or row.goal is None, "what decides stands at the head of a column"
    assert row.label or row.goal is None, "what decides stands in the table at the end of a run"
    assert row.longer is None or context_multiples.split(context_multiples.at(row.name, 4)) == (row.name, 4)


def test_directions() -> None:
    higher = {name for name in metrics.TABLE if metrics.goal(name) == "maximize"}
    assert higher == {"val/accuracy", "perf/tokens_per_s", "perf/mfu"}
    assert metrics.goal("val/accuracy_4x") == "maximize" and metrics.goal("nosuch") == "minimize"
    assert not {"train/loss", "train/lr"} & set(metrics.DECIDING)


@pytest.mark.parametrize(
    "name, row",
    [
        ("val/bpb", "val/bpb"),
        ("val/bpb_8x", "val/bpb"),
        (context_multiples.at(context_multiples.BEYOND, 2), "val/loss"),
        (context_multiples.part(8, 3), "val/loss"),
        ("val/ppl_4x", None),
        (context_multiples.BEYOND, None),
        ("nosuch", None),
    ],
)
def test_the_row_of_a_name(name: str, row: str | None) -> None:
    found = metrics.find(name)
    assert (found and found.name) == row


def test_units() -> None:
    assert metrics.unit("perf/mfu") == "perf/mfu" and metrics.axis("nosuch") == "nosuch"
    assert metrics.axis("val/accuracy") == "val/accuracy (share of the answers)"
    assert metrics.short("val/bpb") == "bpb" and metrics.short("val/bpb_8x") == "val/bpb_8x"


def test_floors_are_of_one_context() -> None:
    assert {name for name in metrics.TABLE if metrics.has_floors(name)} == {"val/bpb", "quantized/bpb"}
    assert metrics.per_byte("val/bpb_8x") and not metrics.has_floors("val/bpb_8x")
