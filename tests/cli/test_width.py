"""Nothing that the commands print is broken inside a word, at 80 columns and at 60.

What is printed at another width has the same words: a piece of one would be a word of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from gpt_lab import doctor, registry
from gpt_lab.config import auto_scale, components, composition
from gpt_lab.console import lines
from gpt_lab.console.terminal import Terminal, fit
from gpt_lab.plan import cost_table, dry_run
from gpt_lab.study import sweep_file
from gpt_lab.sweep import sweep_display
from gpt_lab.sweep.ledger.entry import LedgerEntry
from gpt_lab.train import run_display as train_live
from gpt_lab.train.budget import TrainingLimit
from tests.processes.scripts import MODULES
from tests.study.arms import settings
from tests.test_listed import SCRIPTS

WIDTHS = (80, 60)
COMMANDS = tuple(SCRIPTS)
FRAME = re.compile(r"[\u2500-\u257f]+|\\$", re.MULTILINE)
"""Borders of tables, and the backslash at the end of a line of a command that goes on."""


def words(text: str) -> set[str]:
    return set(FRAME.sub(" ", text).split())


def hold(at: Callable[[int], str], sticking_out: int = 0) -> None:
    """Checks what a function prints at each width, against what it prints where there is room."""
    whole = words(at(2000))
    assert len(whole) > 3
    for width in WIDTHS:
        text = at(width)
        assert words(text) <= whole
        assert whole <= words(text), "and nothing is left out"
        long = [line for line in text.splitlines() if len(line.rstrip()) > width]
        assert not [line for line in long if len(line.split()) > 1 + sticking_out], long


def printed(show: Callable[[Console], object]) -> Callable[[int], str]:
    def at(width: int) -> str:
        console = Terminal(file=io.StringIO(), width=width, force_terminal=True, no_color=True, highlight=False)
        show(console)
        assert isinstance(console.file, io.StringIO)
        return re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())

    return at


def rendered(thing: RenderableType) -> Callable[[int], str]:
    return printed(lambda console: console.print(thing))


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(MODULES[command])

    def at(width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        with contextlib.suppress(SystemExit):
            assert module.run(["--help"]) == 0
        return capsys.readouterr().out

    hold(at)


def test_components() -> None:
    hold(printed(lambda console: components.show(components.catalogue(), console)), sticking_out=1)
    for kind, name in (("attention", "sliding"), ("data", "hf"), ("optim", "muon"), ("model", "llama")):
        assert name in registry.index().get(kind, {}) or kind == "model"
        entry = components.catalogue(kind, name)[kind][name]
        hold(printed(lambda console, entry=entry: components.show_one(entry, console)), sticking_out=1)  # type: ignore[misc]


def test_doctor() -> None:
    rows = [
        doctor.Finding("environment", "python", "ok", "3.11.7", needed=True),
        doctor.Finding(
            "compiler", "Python headers", "missing", "no /usr/include/python3.11/" + "deep/" * 9, "apt-get it"
        ),
        doctor.Finding(
            "kernels", "flex", "note", "trains on CUDA only, where torch.compile makes it worth its while " * 3
        ),
    ]
    hold(printed(lambda console: doctor.show(rows, console)), sticking_out=2)


ARMS = ("position=sinusoidal, attention.qk_norm=full", "position=rope (baseline)", "position=none")


def a_sweep(folder: Path) -> sweep_file.Sweep:
    raw = {"method": "grid", "parameters": {"seed": {"values": [0]}}, "metric": {"name": "val/bpb"}}
    return sweep_file.read(folder / "positions.yaml", raw, [])


def test_the_dry_run(tmp_path: Path) -> None:
    arms = tuple(
        cost_table.ArmPlan(
            settings(arm), 30, 12, 3, 10, 922_752_000, 791_680_000, 5_920_000, 6e5, 1.09e13, 4_012.0, "mlp.d_ff=1_365"
        )
        for arm in ARMS
    )
    made = cost_table.SweepCost(arms, 2, 9e4, "told from a few steps of each model", ())
    hold(rendered(dry_run.table(a_sweep(tmp_path), made)))


def test_the_last_table_of_a_sweep(tmp_path: Path) -> None:
    entries = [
        LedgerEntry(
            *(f"k{i}", i, {}, arm, "optim.lr=0.004", 17, (), "", "failed", f"sinusoidal-full-lr0.004-seed{i}"),
            *(1, None, True, 2.0546, 1234.5),
        )
        for i, arm in enumerate(ARMS)
    ]
    hold(printed(lambda console: sweep_display.show_result(console, a_sweep(tmp_path), entries)))


def test_the_table_of_a_run() -> None:
    summary = {"val/loss": 2.704, "val/bpb": 2.0546, "floor/trigram": 2.0805, "parameters": 922_752, "flops": 1.2e13}
    rows = train_live.summary_rows(summary)
    hint = "another seed:     uv run train norm=rmsnorm attention=gqa attention.kv_heads=2 budget.steps=4 seed=1"
    hold(printed(lambda console: train_live.show_end(console, "default-seed0", rows, [hint])))


def test_the_table_of_laws() -> None:
    cfg = composition.compose(["scale=auto", "optim=muon", "batch.tokens=128", "budget.seconds=9"])
    hold(printed(lambda console: auto_scale.show(cfg, console)))


def test_the_view_of_a_run() -> None:
    def show(console: Console) -> None:
        view = train_live.RunDisplay(console, TrainingLimit(1000, None), 200)
        view.values = {"train/loss": 2.7312, "val/loss": 2.6903, "val/bpb": 2.0442, "train/lr": 4e-4, "perf/mfu": 0.299}
        view.sample("Thisbe:\nO wall, full often hast thou heard my moans, for parting my fair Pyramus and me")
        console.print(view._render())

    hold(printed(show), sticking_out=99)


def test_the_view_of_a_sweep(tmp_path: Path) -> None:
    """What is least asked for is left out."""

    def show(console: Console) -> None:
        view = sweep_display.SweepDisplay(console, a_sweep(tmp_path), 90, 2)
        for arm in ARMS:
            view._recent.append(tuple(map(Text, (arm, "17", "finished", "2.7312", "2.0546", "0:17", "17,400"))))
        console.print(view._render())

    for width in WIDTHS:
        assert words(printed(show)(width)) < words(printed(show)(2000)) or width == 80


def test_a_styled_text_is_folded_too() -> None:
    text = Text.assemble(("a bold start", "bold"), " and a/very/long/path/without/blanks on\nanother line")
    console = Terminal(file=io.StringIO(), width=20)
    console.print(text)
    assert isinstance(console.file, io.StringIO)
    lined = console.file.getvalue().splitlines()
    assert lined == ["a bold start and", "a/very/long/path/without/blanks", "on", "another line"]


def test_a_command_to_copy_goes_on_after_a_backslash() -> None:
    line = "another seed:     uv run train norm=rmsnorm attention=gqa attention.kv_heads=2 seed=1"
    folded = lines.fold(line, 60)
    assert folded == [
        "another seed:     uv run train norm=rmsnorm attention=gqa \\",
        "                  attention.kv_heads=2 seed=1",
    ]
    assert lines.fold("an answer:  `uv run report` says more than fits", 30) == [
        "an answer:  `uv run report`",
        "            says more than",
        "            fits",
    ]
    assert lines.fold("    a/path/without/any/blank/that/is/long", 20) == ["    a/path/without/any/blank/that/is/long"]


def test_columns_without_room_follow_below() -> None:
    table = Table(title="t")
    for heading in ("arm", "runs", "parameters", "a long heading"):
        table.add_column(heading)
    table.add_row("position=sinusoidal", "3", "922,752", "one two three four")
    parts = fit(table, Terminal(file=io.StringIO(), width=40))
    heads = [[column.header for column in part.columns] for part in parts if isinstance(part, Table)]
    assert heads == [["arm", "runs"], ["arm", "parameters"], ["arm", "a long heading"]], "three need 42 columns"
    assert [part.title for part in parts if isinstance(part, Table)] == ["t", None, None]


def test_into_a_pipe_lines_stay_whole() -> None:
    console = Terminal(file=io.StringIO(), width=40)
    console.print("word " * 30, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\n") == 1
