"""The dry run: right numbers, said where they come from, and nothing begun that cannot be built."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from rich.console import Console

from gpt_lab.config import composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost.flops import Cost, cost_of
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError
from gpt_lab.model.skip_init import bare_model
from gpt_lab.plan import dry_run, sample_size
from gpt_lab.stats import power_analysis
from gpt_lab.stats.power_analysis import detectable, narrowest
from gpt_lab.store import Run
from gpt_lab.study import build, cells, sweep_file
from gpt_lab.study.design import Cell
from gpt_lab.study.place import runs_folder
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger.ledger import Ledger, entries
from gpt_lab.validity import planned

TINY = {
    "tokenizer": "byte",
    "scale.depth": 2,
    "scale.width": 32,
    "scale.heads": 4,
    "scale.context": 16,
    "batch.tokens": 64,
    "budget.steps": 20,
    "eval.every": 10,
    "eval.tokens": 2048,
    "tracker": "none",
    "device": "cpu",
    "precision": "fp32",
}
ARMS = {"position": {"values": ["rope", "learned"]}, "seed": {"values": [0, 1, 2]}}


@pytest.fixture(autouse=True)
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("To be, or not to be, that is the question.\n" * 400)
    return path


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def make(swept: dict[str, Any] = ARMS, *overrides: str, **more: Any) -> Sweep:
        fixed = {**TINY, "data": "text", "data.path": str(tmp_path / "words.txt"), "runs_dir": str(tmp_path / "runs")}
        constants = {name: {"value": value} for name, value in fixed.items() if name not in swept}
        raw = {"method": "grid", "parameters": {**swept, **constants}, "gpt_lab": {"baseline": {"position": "rope"}}}
        return sweep_file.read(tmp_path / "pos.yaml", {**raw, **more}, overrides)

    return make


def shown(sweep: Sweep, found: list[Cell] | None = None, jobs: int = 2) -> str:
    console = Console(file=io.StringIO(), width=200)
    dry_run.show(sweep, found if found is not None or sweep.method != "grid" else cells.cells(sweep), console, jobs, 1)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cost_of_run(cfg: RunConfig) -> Cost:
    return cost_of(bare_model(cfg, open_dataset(cfg).vocab_size), cfg.optim)


def test_costs_are_those_of_the_models(make: Any) -> None:
    sweep = make()
    found = cells.cells(sweep)
    made = dry_run.estimate(sweep, found, jobs=2, threads=1)
    assert [str(arm.arm) for arm in made.arms] == ["position=rope", "position=learned"]
    for arm in made.arms:
        cfg = composition.compose(next(cell for cell in found if cell.arm == arm.arm).overrides)
        exact = cost_of_run(cfg)
        assert (arm.parameters, arm.non_embedding) == (exact.parameters, exact.non_embedding)
        assert arm.flops_per_token == exact.train_flops_per_token
        assert arm.tokens == 20 * 64 and arm.flops == 20 * 64 * exact.train_flops_per_token
        assert (arm.runs, arm.done, arm.pairs, arm.tunings) == (3, 0, 3, 1)
        assert arm.seconds is not None
    assert made.seconds == pytest.approx(sum(3 * (arm.seconds or 0) for arm in made.arms) / 2 + 3), "and the start"
    assert made.basis == "told from a few steps of each model"
    assert made.arms[1].parameters - made.arms[0].parameters == 16 * 32


def test_what_the_optimizers_keep(make: Any) -> None:
    swept = {"optim": {"values": ["adamw", "lion"]}, "seed": {"values": [0, 1, 2]}}
    printed = shown(make(swept, gpt_lab={"baseline": {"optim": "adamw"}}))
    assert "optimizer state, bytes a parameter: optim=adamw: 8, optim=lion: 4\n" in printed
    assert "\noptimizer state: 8 bytes a parameter\n" in shown(make()), "and the counters of steps"


def test_what_weights_of_few_bits_take(make: Any) -> None:
    """Said where an arm's are not all fp32."""
    swept = {"precision": {"values": ["fp32", "bf16_sr"]}, "seed": {"values": [0, 1, 2]}}
    printed = shown(make(swept, gpt_lab={"baseline": {"precision": "fp32"}}))
    assert "weights, bytes a parameter: precision=fp32: 4, precision=bf16_sr: 2." in printed
    assert "weights, bytes" not in (plain := shown(make())) and "weights:" not in plain


def test_what_the_ledger_has_is_not_paid_again(make: Any) -> None:
    sweep = make()
    found = cells.cells(sweep)
    before = dry_run.estimate(sweep, found, 1, 1)
    ledger = Ledger.open(runs_folder(sweep))
    ledger.begin(sweep, found)
    for score in (2.0, 2.02, 2.04):
        entry = ledger.claim()
        assert entry is not None
        ledger.end(entry.key, "finished", score=score)
    ledger.close()
    after = dry_run.estimate(sweep, found, 1, 1)
    assert sum(arm.done for arm in after.arms) == 3
    assert before.seconds is not None and after.seconds is not None
    assert after.seconds < 0.8 * before.seconds
    assert "3 are done" in shown(sweep)


def test_the_plan_is_for_the_printed_word(make: Any) -> None:
    """Better must clear the margin, equivalent must lie inside it; in run sd where no run tells the noise."""
    printed = shown(make())
    size = detectable(3) * math.sqrt(2)
    head = "with 3 seeds (screen), 80 % of studies call an arm better whose true difference is at least"
    assert f"{head} {size:.2f} run sd (rho 0), {size * math.sqrt(0.5):.2f} run sd (rho 0.5) or" in printed
    assert "\nrun sd: how far runs of one arm lie apart over seeds; rho: " in printed
    assert "equivalent" not in printed, "without a margin nothing is"
    with_margin = sweep_file.with_seeds(make(gpt_lab={"baseline": {"position": "rope"}, "sesoi": 0.01}), 5)
    printed = shown(with_margin)
    head = "with 5 seeds (confirm), 80 % of studies call an arm"
    assert (
        f"{head} better whose true difference is at least 0.01 + {detectable(5) * math.sqrt(2):.2f} run sd" in printed
    )
    most = f"if the sd of a pair's difference is at most {0.01 / narrowest(5):.2g}"
    assert f"{head} without any difference equivalent (within 0.01), {most}" in printed
    counts = [power_analysis.sample_size(step) for step in (2, 1, 0.5)]
    steps = ", ".join(f"{count} for {step:g}" for count, step in zip(counts, (2, 1, 0.5), strict=True))
    assert f"better in 80 % of studies: {steps} times the sd of a pair's difference" in printed
    assert "warning: 2 values of seed give no verdict" in shown(sweep_file.with_seeds(make(), 2))


def test_runs_that_exist_tell_the_noise(make: Any) -> None:
    """Five pairs that correlate by 0.96: their own spread is planned with, not a guess."""
    sweep = sweep_file.with_seeds(make(gpt_lab={"baseline": {"position": "rope"}, "sesoi": 0.01}), 5)
    found = cells.cells(sweep)
    ledger = Ledger.open(runs_folder(sweep))
    ledger.begin(sweep, found)
    seeds = [0.00, 0.05, 0.02, 0.09, 0.04]
    own = [0.003, -0.002, 0.001, 0.004, -0.006]
    while (entry := ledger.claim()) is not None:
        score = 2 + seeds[entry.pair] + (own[entry.pair] if entry.arm != "position=rope" else 0.0)
        ledger.end(entry.key, "finished", score=score)
    ledger.close()
    known = sample_size.of_runs(sweep.design, entries(runs_folder(sweep)))
    assert known is not None and known.sd == pytest.approx(np.std(own, ddof=1)) and known.df == 4
    assert known.rho == pytest.approx(
        1 - np.var(own, ddof=1) / (np.var(seeds, ddof=1) + np.var(np.add(seeds, own), ddof=1))
    )
    printed = shown(sweep)
    assert f"rho {known.rho:.2f}: 5 pairs of this study" in printed
    head = "with 5 seeds (confirm), 80 % of studies call an arm"
    least = f"{0.01 + detectable(5) * known.sd:.4f} in val/bpb"
    assert f"{head} better whose true difference is at least {least}" in printed
    n = power_analysis.sample_size(0.01 / known.sd, word="equivalent")
    assert f"{n} seeds are enough that 80 % of studies call an arm without any difference equivalent" in printed or (
        f"{head} without any difference equivalent (within 0.01)\n" in printed
    )


def test_a_budget_in_seconds_is_the_time(make: Any) -> None:
    swept = {**ARMS, "budget.steps": {"value": None}, "budget.seconds": {"value": 30.0}}
    made = dry_run.estimate(sweep := make(swept), cells.cells(sweep), 1, 1)
    assert made.arms[0].tokens is None and made.arms[0].flops is None
    assert made.arms[0].seconds is not None and made.arms[0].seconds > 30


@pytest.mark.parametrize(
    "swept, block, expected",
    [
        ({"position": {"values": ["rope", "learned"]}}, {}, "no baseline"),
        ({"attention": {"values": ["mqa", "mha"]}}, {"baseline": {"attention": "mqa"}}, "attention=mha: +"),
        (
            {"batch.tokens": {"values": [64, 128]}},
            {"baseline": {"batch.tokens": 64}},
            'batch.tokens=128: unequal budget: 2,560 tokens, the baseline 1,280: no "better". Way out: ',
        ),
        (
            {"optim": {"values": ["adamw", "sgd"]}, "optim.lr": {"values": [0.001, 0.002, 0.1]}},
            {
                "baseline": {"optim": "adamw"},
                "nuisance": ["optim.lr"],
                "per": {"optim.lr": {"optim=adamw": [0.001, 0.002], "optim=sgd": [0.1]}},
            },
            'optim=sgd: unequal tuning: 1 value tried, the baseline 2: no "better" or "worse". Way out: ',
        ),
        (
            {"optim": {"values": ["adamw", "sgd"]}, "optim.lr": {"values": [0.001, 0.002]}},
            {"baseline": {"optim": "adamw"}, "nuisance": ["optim.lr"], "zip": [["optim", "optim.lr"]]},
            "optim=sgd: optim.lr=0.002 where the baseline has optim.lr=0.001, and neither was tuned: no ",
        ),
        (
            {"optim": {"values": ["adamw", "sgd"]}, "optim.lr": {"values": [0.001, 0.002]}},
            {"baseline": {"optim": "adamw"}, "nuisance": ["optim.lr"]},
            'optim=sgd: two values of optim.lr: the best of them is always at the edge of what was tried: no "better" ',
        ),
        (
            {"norm": {"values": ["rmsnorm", "none"]}, "optim.lr": {"values": [0.001, 0.002, 0.004]}},
            {"baseline": {"norm": "rmsnorm"}, "nuisance": ["optim.lr"]},
            'norm=none: tuned on the seeds that are compared: no "better". Way out: 5 or more seeds',
        ),
        (
            {"data.val_fraction": {"values": [0.1, 0.2]}},
            {"baseline": {"data.val_fraction": 0.1}},
            "data.val_fraction=0.2: other data than the baseline's: val/bpb cannot be compared: no verdict. Way out: ",
        ),
        (
            {"model": {"values": ["llama", "gpt2"]}},
            {"baseline": {"model": "llama"}},
            "model=gpt2: model changes position, norm, mlp, model.tied, model.bias: a verdict is on all of them",
        ),
        (
            {"norm": {"values": ["none", "rmsnorm"]}},
            {"baseline": {"norm": "none"}, "exclude": [{"norm": "rmsnorm", "seed": 2}]},
            "unequal pairs: norm=rmsnorm has 2, norm=none 3",
        ),
    ],
)
def test_warnings(make: Any, swept: dict[str, Any], block: dict[str, Any], expected: str) -> None:
    printed = shown(make({**swept, "seed": {"values": [0, 1, 2]}}, gpt_lab=block))
    assert f"warning: {expected}" in printed


def test_a_tokenizer_needs_bits_per_byte(make: Any) -> None:
    swept = {"tokenizer": {"values": ["byte", "char"]}, "seed": {"values": [0, 1, 2]}}
    block = {"baseline": {"tokenizer": "byte"}}
    line = "tokenizer=char: another tokenizer than the baseline's: val/loss cannot be compared: no verdict"
    assert line in shown(make(swept, metric={"name": "val/loss"}, gpt_lab=block))
    assert line not in shown(make(swept, gpt_lab=block))


def test_bits_per_byte_need_the_whole_text_and_its_ends(make: Any, tmp_path: Path) -> None:
    paths = {name: str(tmp_path / f"{name}.json") for name in ("whole", "lossy")}
    for name, letters in (("whole", "To be,rnthaisqu.\n"), ("lossy", "obe")):
        vocabulary = {letter: i for i, letter in enumerate([*dict.fromkeys(letters), "<unk>"])}
        inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
        inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
        inner.decoder = tokenizers.decoders.Fuse()
        inner.save(paths[name])
    seeds = {"seed": {"values": [0, 1, 2]}}
    swept = {"tokenizer.path": {"values": list(paths.values())}, **seeds, "tokenizer": {"value": "hf"}}
    printed = shown(make(swept, gpt_lab={"baseline": {"tokenizer.path": paths["whole"]}}))
    lossy = (
        r"tokenizer=hf loses text: at least [\d,]+ of [\d,]+ bytes of the validation text do not come back \(.To.*\)"
    )
    assert len(re.findall(rf"{lossy}: there will be no bits per byte", printed)) == 1
    assert len(re.findall(rf"lossy.json: {lossy}: no verdict. Way out: one that gives text back", printed)) == 1
    swept = {"tokenizer.eot": {"values": [True, False]}, **seeds, "tokenizer": {"value": "char"}}
    said = "tokenizer.eot=false: does not encode where documents end, and the baseline does: no verdict"
    assert said in shown(make(swept, gpt_lab={"baseline": {"tokenizer.eot": True}}))


@pytest.mark.parametrize("way", ["ladders of one's own", "equal FLOPs", "the budget is the question"])
def test_what_looks_unequal_and_is_fair_has_no_warning(make: Any, way: str) -> None:
    seeds = {"seed": {"values": list(range(9))}}
    if way == "ladders of one's own":
        lrs = {"optim=adamw": [0.001, 0.002, 0.004], "optim=sgd": [0.1, 0.2, 0.4]}
        block = {"baseline": {"optim": "adamw"}, "nuisance": ["optim.lr"], "per": {"optim.lr": lrs}}
        block["exclude"] = [{"optim.lr": lr, "seed": s} for lr in (0.001, 0.004, 0.1, 0.4) for s in range(2, 9)]
        swept = {
            "optim": {"values": ["adamw", "sgd"]},
            "optim.lr": {"values": [lr for own in lrs.values() for lr in own]},
        }
    elif way == "equal FLOPs":
        block = {"baseline": {"mlp": "gelu"}, "match": "params"}
        flops = {"budget.steps": {"value": None}, "budget.flops": {"value": 1e9}}
        swept = {"mlp": {"values": ["gelu", "swiglu"]}, **flops}
    else:
        swept, block = {"budget.steps": {"values": [20, 40]}}, {"baseline": {"budget.steps": 20}}
    assert "warning" not in shown(make({**swept, **seeds}, gpt_lab=block))


def test_code_and_data_that_changed_since_a_part_was_run(
    make: Any, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pairs are half done; the rest would be run by other code and on another text."""
    sweep = make()
    found = cells.cells(sweep)
    git = {"commit": "e" * 40, "dirty": False, "changes": None}
    monkeypatch.setattr(planned.record, "git", lambda: git)
    ledger = Ledger.open(runs_folder(sweep))
    ledger.begin(sweep, found)
    cfg = composition.compose(found[0].overrides)
    resolved = {"data": open_dataset(cfg).fingerprint}
    for number in range(4):  # both arms of seed 0, then of seed 1
        entry = ledger.claim()
        assert entry is not None
        run = Run.create(
            cfg.runs_dir, sweep.design.study, f"run{number}", cfg.to_dict(), {"git": git} | {"resolved": resolved}
        )
        run.finish("finished", {})
        ledger.name_run(entry.key, run.name)
        ledger.end(entry.key, "finished", score=2.0)
    ledger.close()
    assert "warning" not in shown(sweep)
    git = {"commit": "f" * 40, "dirty": False, "changes": None}
    assert "warning" not in shown(sweep), "both runs of the third pair would be made now"
    with_more = sweep_file.with_seeds(make({**ARMS, "position": {"values": ["rope", "learned", "alibi"]}}), 3)
    ledger = Ledger.open(runs_folder(sweep))
    ledger.begin(with_more, cells.cells(with_more))
    ledger.close()
    printed = shown(with_more)
    assert "position=alibi: other code than the baseline's in 2 pairs (runs that are done, against" in printed
    assert 'no "better" or "worse". Way out: both runs of a pair by one version (study=NAME' in printed
    assert "position=learned: " not in printed and "version of the data" not in printed
    text.write_text("Other words, and more of them, that nobody has read so far.\n" * 400)
    assert "position=alibi: another version of the data than the baseline's in 2 pairs" in shown(with_more)


def test_a_fair_sweep_has_no_warning(make: Any) -> None:
    printed = shown(make({"position": {"values": ["rope", "alibi"]}, "seed": {"values": [0, 1, 2]}}))
    assert "warning" not in printed
    assert "6 trials: 2 arms x 3 values of seed" in printed and "(baseline)" in printed


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_search_is_planned_too(make: Any, method: str) -> None:
    swept = {"optim.lr": {"min": 0.001, "max": 0.01}, "seed": {"value": 0}}
    sweep = make(swept, method=method, run_cap=7, metric={"name": "val/bpb"}, gpt_lab={})
    printed = shown(sweep)
    assert "7 trials" in printed and "about" in printed and "80 % of studies" not in printed


def check(sweep: Any) -> None:
    found = cells.cells(sweep)
    build.Builder().check(found, cells.configs(found))


def test_a_cell_that_cannot_be_built_is_named(make: Any) -> None:
    """The check that a runner makes before its first run: rotary positions need an even head dimension."""
    sweep = make({"scale.heads": {"values": [4, 32]}, "seed": {"values": [0, 1]}}, gpt_lab={})
    with pytest.raises(ConfigError, match=r"cell 1 \(scale.heads=32, seed=0\): .*even"):
        check(sweep)


def test_a_sweep_that_can_be_built(make: Any) -> None:
    check(make())


def test_longer_contexts_that_an_arm_cannot_be_validated_at(make: Any) -> None:
    """Said once for the arm, and counted in the time of the others."""
    said = shown(make(ARMS, "eval.contexts=[1,4,8]"))
    assert said.count("position=learned has no positions beyond scale.context=16: it is not validated at 4x, 8x") == 1
    longer, usual = (
        dry_run.estimate(sweep, cells.cells(sweep), 1, 1) for sweep in (make(ARMS, "eval.contexts=[1,4,8]"), make())
    )
    tokens = open_dataset(composition.compose(cells.cells(make())[0].overrides)).val_tokens
    for one, other, passes in zip(longer.arms, usual.arms, (2 * 2e-5 + 1e-5, 0.0), strict=True):
        assert one.seconds is not None and other.seconds is not None
        assert one.seconds - other.seconds == pytest.approx(passes * tokens), "two longer passes, one to compare with"


def test_a_metric_of_a_length_that_is_not_validated(make: Any) -> None:
    metric = {"metric": {"name": "val/bpb_8x", "goal": "minimize"}}
    assert cells.cells(make(ARMS, "eval.contexts=[1,8]", **metric))
    with pytest.raises(ConfigError, match=r"val/bpb_8x needs a validation at 8 times the context, and eval.contexts"):
        cells.cells(make(ARMS, "eval.contexts=[1,4]", **metric))
    with pytest.raises(ConfigError, match="unknown metric name 'val/ppl_8x'"):
        make(ARMS, metric={"name": "val/ppl_8x", "goal": "minimize"})
    with pytest.raises(ConfigError, match="must be maximize"):
        make(ARMS, metric={"name": "val/accuracy_2x", "goal": "minimize"})
