"""A run under `scale=auto` trains with what it printed, and its record says so."""

from __future__ import annotations

from pathlib import Path

from gpt_lab.config import auto_scale, composition
from gpt_lab.store import Run
from gpt_lab.train.start import run_training
from tests.train.train_helpers import quiet, said

SMALL = ("scale.depth=1", "scale.width=16", "scale.context=16", "tokenizer=byte", "precision=fp32", "compile=off")


def test_it_trains_with_what_it_printed(corpus: Path, tmp_path: Path) -> None:
    where = (f"data.path={corpus}", f"runs_dir={tmp_path}", "tracker=none", "sample.tokens=0", "eval.every=100")
    cfg = composition.compose(["scale=auto", "data=text", *SMALL, *where])
    console = quiet()
    run = Run.open(run_training(cfg, console, "train").path)
    printed = [line.split() for line in said(console).splitlines()]
    rows = {row.key: row for row in auto_scale.rows(cfg)}
    assert rows.keys() == {
        "scale.width",
        "scale.heads",
        "budget.tokens",
        "batch.tokens",
        "optim.lr",
        "optim.weight_decay",
    }
    for kept, row in zip(run.record["laws"], rows.values(), strict=True):
        assert kept["value"] == run.record["config"][row.key] == row.value
        line = next(line for line in printed if line[:1] == [row.key])
        assert float(line[1].replace(",", "")) == row.value
        assert ("given" in line) == row.given == kept["given"] == (row.key == "scale.width")
        assert row.source == " ".join(line[-2:]) == kept["source"]
    assert run.record["config"] == cfg.flat()
    assert run.record["steps"] == rows["budget.tokens"].value // rows["batch.tokens"].value == 14
    assert run.record["summary"]["tokens"] == 14 * rows["batch.tokens"].value
    rates = [row["train/lr"] for row in run.metrics() if "train/lr" in row]
    assert 0 < max(rates) <= rows["optim.lr"].value == 0.032
