"""Matched arms of a sweep: equal to the baseline, explicit in every run, the same whoever runs them."""

from __future__ import annotations

import io
import shlex
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gpt_lab.analysis.compare import compare
from gpt_lab.cost import match
from gpt_lab.errors import ConfigError
from gpt_lab.frame import load
from gpt_lab.frame.places import StudyOptions
from gpt_lab.plan import dry_run
from gpt_lab.store import all_runs
from gpt_lab.study import cells, sweep_file
from gpt_lab.study.design import Cell
from gpt_lab.study.sweep import Sweep
from gpt_lab.train.start import run_training
from tests.study.arms import settings

SMALL = {
    "data": "synthetic",
    "scale.depth": 2,
    "scale.width": 64,
    "scale.heads": 4,
    "scale.context": 32,
    "batch.tokens": 64,
    "budget.steps": 4,
    "eval.every": 4,
    "sample.tokens": 0,
    "tracker": "none",
    "device": "cpu",
    "precision": "fp32",
    "compile": "off",
}
LAYER = 4 * 64**2 + 3 * 64 * 168 + 2 * 64
"""Parameters of a default block of width 64: attention, swiglu of 8/3 x 64, two norms."""
TARGET = 2 * LAYER + 64
MLP = {"mlp": {"values": ["swiglu", "gelu"]}, "seed": {"values": [0, 1]}}
PAIR = {"attention": {"values": ["mha", "mqa"]}, "mlp": {"values": ["swiglu", "gelu"]}, "seed": {"values": [0, 1]}}
BASE = {"mlp": "swiglu"}


def read(swept: dict[str, Any], block: dict[str, Any], *overrides: str, **more: Any) -> Sweep:
    constants = {name: {"value": value} for name, value in SMALL.items() if name not in swept}
    raw = {"method": "grid", "parameters": {**swept, **constants}, "gpt_lab": block, **more}
    return sweep_file.read(Path("matched.yaml"), raw, overrides)


def given(cell: Cell) -> dict[str, str]:
    """The settings that matching added to a cell."""
    words = dict(text.split("=", 1) for text in cell.overrides)
    return {key: words[key] for key in ("mlp.d_ff", "match_to") if key in words}


@pytest.mark.parametrize(
    "sweep",
    [
        read(MLP, {"baseline": BASE, "match": "params"}),
        read(MLP, {"baseline": BASE}, "match=params"),
        read({**MLP, "match": {"value": "params"}}, {"baseline": BASE}),
        read(MLP, {"baseline": BASE}, command=["uv", "run", "train", "match=params", "${args_no_hyphens}"]),
        read(MLP, {"baseline": BASE, "match": "flops"}, "match=params"),
    ],
    ids=["block", "override", "parameter", "command", "the command line has the last word"],
)
def test_each_arm_takes_the_size_of_the_baseline(sweep: Sweep) -> None:
    """128 d_ff parameters in gelu's two matrices are 192 x 168 in swiglu's three at 252."""
    found = cells.cells(sweep)
    assert [given(cell) for cell in found] == 2 * [
        {"match_to": str(TARGET)},
        {"mlp.d_ff": "252", "match_to": str(TARGET)},
    ]
    assert [cell.arm for cell in found] == 2 * [settings("mlp=swiglu"), settings("mlp=gelu")]


def test_the_reference_is_the_baseline_arm_and_no_default() -> None:
    """gelu of 4 x 64 in the baseline: 171 or 170 x 3 in swiglu."""
    small, wide = cells.cells(read({"mlp": MLP["mlp"]}, {"baseline": {"mlp": "gelu"}, "match": "params"}))
    assert given(wide) == {"match_to": str(TARGET - 2 * (3 * 168 - 2 * 256) * 64)}
    assert given(small) == {**given(wide), "mlp.d_ff": "171"}
    kept = cells.cells(read(PAIR, {"baseline": {"attention": "mqa", "mlp": "gelu"}, "match": "params"}))
    target = 2 * (64 * 64 + 64 * 96 + 128 * 256 + 128) + 64
    assert {given(cell)["match_to"] for cell in kept} == {str(target)}


def test_runs_are_the_planned_ones_whoever_composes_them() -> None:
    """By train from the cell's own words, and by W&B's agent, which knows the swept values alone."""
    sweep = read(PAIR, {"baseline": {"attention": "mha", "mlp": "swiglu"}, "match": "params"})
    for cell in cells.cells(sweep):
        assert match.compose(cell.overrides, cells.composer()).identity() == cell.identity
        words = [text for text in cell.overrides if text.partition("=")[0] not in given(cell)]
        told = [*words, f"match_to={given(cell)['match_to']}"]
        assert match.compose(told, cells.composer()).identity() == cell.identity
        assert match.compose(words, cells.composer()).identity() == cell.identity, (
            "the default model is the baseline here"
        )
        assert cells.composer().compose(words).identity() != cell.identity


def test_matched_and_unmatched_are_arms_of_their_own() -> None:
    swept = {"mlp": MLP["mlp"], "match": {"values": [None, "params", "flops"]}, "seed": {"values": [0]}}
    found = cells.cells(read(swept, {"baseline": {**BASE, "match": None}}))
    assert [(str(cell.arm), given(cell).get("mlp.d_ff")) for cell in found] == [
        ("mlp=swiglu, match=null", None),
        ("mlp=swiglu, match=params", None),
        ("mlp=swiglu, match=flops", None),
        ("mlp=gelu, match=null", None),
        ("mlp=gelu, match=params", "252"),
        ("mlp=gelu, match=flops", None),
    ]
    assert len({cell.identity for cell in found}) == 6


def test_a_ladder_has_a_baseline_on_each_rung() -> None:
    swept = {"scale": {"values": ["tiny", "small"]}, "attention": {"values": ["mha", "mqa"]}}
    constants = {"data": {"value": "synthetic"}}
    raw = {"method": "grid", "parameters": {**swept, **constants}}
    block = {"baseline": {"scale": "tiny", "attention": "mha"}, "match": "params"}
    found = cells.cells(sweep_file.read(Path("ladder.yaml"), raw | {"gpt_lab": block}))
    targets = [given(cell)["match_to"] for cell in found]
    assert targets == 2 * ["791680"] + 2 * [str(6 * (4 * 256**2 + 3 * 256 * 680 + 2 * 256) + 256)]
    # all but one of the heads' keys and values: 2 x 3 x 32 x 128 of 3 x 128, 2 x 7 x 32 x 256 of 3 x 256
    assert [given(cell).get("mlp.d_ff") for cell in found] == [None, str(344 + 64), None, str(680 + 152)]


@pytest.mark.parametrize(
    "swept, block, expected",
    [
        (MLP, {"match": "params"}, "cell 0 (mlp=swiglu, seed=0): match needs gpt_lab.baseline"),
        (
            MLP,
            {"baseline": BASE, "match": "param"},
            "unknown value of gpt_lab.match: 'param'; did you mean 'params'?",
        ),
        ({**MLP, "match": {"value": "flops"}}, {"baseline": BASE, "match": "params"}, "match is set in gpt_lab and in"),
        ({"match": {"values": ["params", "all"]}}, {}, "unknown value for match: 'all'"),
        (
            {**MLP, "mlp.d_ff": {"value": 8}, "scale.heads": {"value": 4}},
            {"baseline": BASE, "match": "params"},
            "cell 1 (mlp=gelu, seed=0): match=params: no size brings the model within 0.5% of ",
        ),
        (
            {"data": {"values": ["synthetic", "shakespeare"]}, "seed": {"values": [0]}},
            {"baseline": {"data": "synthetic"}, "match": "flops"},
            "cell 1 (data=shakespeare, seed=0): match=flops needs the data and the tokenizer",
        ),
    ],
)
def test_what_cannot_be_matched_is_said_before_anything_runs(
    swept: dict[str, Any], block: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        cells.cells(read(swept, block))
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_dry_run_shows_the_sizes_and_how_an_agent_is_told() -> None:
    sweep = read(PAIR, {"baseline": {"attention": "mha", "mlp": "swiglu"}, "match": "params"})
    console = Console(file=io.StringIO(), width=220)
    dry_run.show(sweep, cells.cells(sweep), console, 1, 1)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "matched by" in printed and "as it is" in printed and "mlp.d_ff=252" in printed
    assert f"match=params: within 0.5% of {TARGET:,} non-embedding parameters" in printed
    assert f"match: {{value: params}}, match_to: {{value: {TARGET}}}" in printed
    assert "parameters against" not in printed
    plain = Console(file=io.StringIO(), width=220)
    unmatched = read(PAIR, {"baseline": {"attention": "mha", "mlp": "swiglu"}})
    dry_run.show(unmatched, cells.cells(unmatched), plain, 1, 1)
    assert isinstance(plain.file, io.StringIO)
    assert "matched by" not in plain.file.getvalue() and "match=" not in plain.file.getvalue()
    assert "attention=mqa, mlp=swiglu: -" in plain.file.getvalue()


def test_trained_and_reported_without_a_doubt(tmp_path: Path) -> None:
    """Runs of one study, matched and not: records show the sizes, the report has both and says nothing of d_ff."""
    swept = {
        "attention": {"values": ["mha", "mqa"]},
        "match": {"values": [None, "params"]},
        "seed": {"values": [0, 1]},
    }
    block = {"baseline": {"attention": "mha", "match": None}, "exclude": [{"attention": "mha", "match": "params"}]}
    sweep = read(swept, block, f"runs_dir={tmp_path}", metric={"name": "val/loss", "goal": "minimize"})
    found = cells.cells(sweep)
    for cfg, cell in zip(cells.configs(found), found, strict=True):
        assert run_training(cfg, command=shlex.join(["train", *cell.overrides])).state == "finished"
    records = [run.record for run in all_runs(tmp_path)]
    assert len(records) == 6
    matched = [r for r in records if r["config"]["match"] == "params"]
    assert {r["config"]["mlp.d_ff"] for r in matched} == {168 + 2 * 3 * 16 * 64 // (3 * 64)}
    whole = [r for r in records if r["config"]["attention.name"] == "mha"]
    assert {r["parameters_non_embedding"] for r in (*matched, *whole)} == {TARGET}

    study = load.load([str(tmp_path / "matched")], StudyOptions(baseline="attention=mha"))
    arms = {"attention=mha, match=null", "attention=mqa, match=null", "attention=mqa, match=params"}
    assert set(map(str, study.runs["arm"])) == arms, "without the sweep's file too"
    assert not any("mlp.d_ff" in w or "match" in w for row in compare(study).rows for w in row.warnings)
