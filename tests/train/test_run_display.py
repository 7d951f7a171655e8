"""What the user sees."""

from __future__ import annotations

import io
import os
import pty
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from gpt_lab.config.schema import RunConfig
from gpt_lab.console import streams
from gpt_lab.store import Run
from gpt_lab.train import ending, run_display
from gpt_lab.train.budget import TrainingLimit
from gpt_lab.train.start import run_training
from tests.train.train_helpers import quiet, said, train

Make = Callable[..., RunConfig]


def terminal() -> Console:
    return Console(file=io.StringIO(), width=100, height=30, force_terminal=True)


def test_few_plain_lines_where_there_is_no_terminal(make: Make) -> None:
    console = quiet()
    run_training(make(**{"budget.steps": 40, "eval.every": 20}), console)
    lines = [line for line in said(console).splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 1/40", "step 20/40", "step 40/40"]
    assert "\x1b" not in said(console)
    assert re.search(r"step 40/40: loss \d\.\d+, val loss \d\.\d+, val bpb \d\.\d+, lr .*, [\d,]+ tokens/s", lines[-1])


@pytest.mark.parametrize("budget", [{"budget.steps": 12}, {"budget.seconds": 0.3}])
def test_a_live_view_in_a_terminal(make: Make, budget: dict[str, float]) -> None:
    console = terminal()
    run_training(make(**budget, **{"sample.tokens": 12, "sample.prompt": "to be", "eval.every": 6}), console)
    text = said(console)
    for expected in ("training", "ETA", "loss", "val bpb", "lr", "tokens/s", "GB", "sample", "to be"):
        assert expected in text
    assert text.rstrip().endswith("seed=1")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h"), "the cursor comes back"


@pytest.mark.parametrize("kind", ["terminal", "pipe", "full"])
def test_output_that_is_gone_ends_the_view(make: Make, kind: str) -> None:
    """A live view in a terminal that has hung up, lines into a pipe without a reader, a disk that is full."""
    if kind == "full":
        file = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, file = pty.openpty() if kind == "terminal" else os.pipe()
        os.close(reader)
    stream = streams.Stream(file)
    settings = {"budget.steps": 12, "sample.tokens": 4, "sample.prompt": "to be", "eval.every": 6}
    result = run_training(make(**settings), Console(file=streams.wrapped(stream), force_terminal=kind == "terminal"))
    os.close(file)
    assert (result.state, Run.open(result.path).state) == ("finished", "finished")
    assert stream.lost is not None


def test_the_cursor_comes_back_after_an_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt_lab.train.trainer import Trainer

    def broken(self: Trainer) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Trainer, "step", broken)
    console = terminal()
    with pytest.raises(RuntimeError):
        run_training(make(), console)
    assert said(console).count("\x1b[?25l") == said(console).count("\x1b[?25h") == 1


def test_a_step_between_refreshes_is_cheap() -> None:
    """Plain output is held back: a run of many log lines prints few."""
    console = quiet()
    view = run_display.RunDisplay(console, TrainingLimit(1000, None), 200)
    for step in range(1000):
        view.log(step, 0.0, {"train/loss": 1.0})
    assert said(console).count("\n") == 1


@pytest.mark.parametrize(
    "bpb, floors, words",
    [
        (0.9627, (1.1, 0.9180, 0.9647), "val bpb 0.9627 is worse than counting pairs of tokens: the corpus's bigram"),
        (0.9179, (1.1, 0.9180, 0.9647), "is below every n-gram floor of the corpus; the lowest, bigram, is 0.9180"),
        (2.0, (4.0, 3.0, 2.0), "is worse than counting triples of tokens: the corpus's trigram floor is 2.0000"),
        (3.5, (4.0, 3.0, 2.0), "is worse than counting pairs of tokens: the corpus's bigram floor is 3.0000"),
        (5.0, (4.0, 4.5, 4.6), "is worse than counting single tokens: the corpus's unigram floor is 4.0000"),
    ],
)
def test_the_verdict_compares_with_the_lowest_floor(bpb: float, floors: tuple[float, float, float], words: str) -> None:
    named = dict(zip(("floor/unigram", "floor/bigram", "floor/trigram"), floors, strict=True))
    assert words in str(run_display.verdict({"val/bpb": bpb, **named}))


def test_no_verdict_without_text() -> None:
    assert run_display.verdict({"val/accuracy": 1.0}) is None


def test_next_commands_can_be_run_as_they_are(make: Make) -> None:
    cfg = make()
    run = Run.open(train(cfg).path)
    (alone,) = ending.next_commands(run, cfg, "train", None)
    assert alone.startswith("another seed:"), "a model of no text continues none"
    assert ending.next_commands(run, cfg, "train", " ")[0].endswith(f"generate run={run.path}")
    generate, again = ending.next_commands(run, cfg, "train data.path='a b.txt' seed=4 force=true", "ROMEO: what's")
    assert generate.endswith(f"uv run generate run={run.path} 'prompt=ROMEO: what'\"'\"'s'")
    assert again.endswith("uv run train 'data.path=a b.txt' seed=1")


def test_the_final_table_leaves_out_what_is_not_known() -> None:
    names = [name for name, _ in run_display.summary_rows({"val/loss": 1.0, "steps": 3, "perf/mfu": None})]
    assert names == ["val loss (nats per token)", "steps"]
