"""The dry run: right numbers, said where they come from, and nothing begun that cannot be built."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from rich.console import Console

from gpt_lab import config
from gpt_lab.cost import Cost, cost_of
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError
from gpt_lab.schema import RunConfig
from gpt_lab.store import Run
from gpt_lab.sweep import cells, lint, plan, spec, speed
from gpt_lab.sweep.design import Cell, Sweep
from gpt_lab.sweep.ledger import Ledger
from gpt_lab.sweep.power import detectable_effect
from gpt_lab.sweep.runner import folder_of
from gpt_lab.train.bare import bare_model

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
        return spec.read(tmp_path / "pos.yaml", {**raw, **more}, overrides)

    return make


def shown(sweep: Sweep, found: list[Cell] | None = None, jobs: int = 2) -> str:
    console = Console(file=io.StringIO(), width=200)
    plan.show(sweep, found if found is not None or sweep.method != "grid" else cells.cells(sweep), console, jobs, 1)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cost_of_run(cfg: RunConfig) -> Cost:
    return cost_of(bare_model(cfg, open_dataset(cfg).vocab_size))


def test_costs_are_those_of_the_models(make: Any) -> None:
    sweep = make()
    found = cells.cells(sweep)
    made = plan.estimate(sweep, found, jobs=2, threads=1)
    assert [arm.arm for arm in made.arms] == ["position=rope", "position=learned"]
    for arm in made.arms:
        cfg = config.compose(next(cell for cell in found if cell.arm == arm.arm).overrides)
        exact = cost_of_run(cfg)
        assert (arm.parameters, arm.non_embedding) == (exact.parameters, exact.non_embedding)
        assert arm.flops_per_token == exact.train_flops_per_token
        assert arm.tokens == 20 * 64 and arm.flops == 20 * 64 * exact.train_flops_per_token
        assert (arm.runs, arm.done, arm.pairs, arm.tunings) == (3, 0, 3, 1)
        assert arm.seconds is not None
    assert made.seconds == pytest.approx(sum(3 * (arm.seconds or 0) for arm in made.arms) / 2)
    assert "assumed: 45% of this machine's matmul peak" in made.basis
    assert made.arms[1].parameters - made.arms[0].parameters == 16 * 32


def test_what_the_ledger_has_is_not_paid_again(make: Any) -> None:
    sweep = make()
    found = cells.cells(sweep)
    before = plan.estimate(sweep, found, 1, 1)
    ledger = Ledger.open(folder_of(sweep))
    ledger.begin(sweep, found)
    for score in (2.0, 2.02, 2.04):
        entry = ledger.claim()
        assert entry is not None
        ledger.end(entry.key, "finished", score=score)
    ledger.close()
    after = plan.estimate(sweep, found, 1, 1)
    assert sum(arm.done for arm in after.arms) == 3
    assert before.seconds is not None and after.seconds is not None
    assert after.seconds < 0.8 * before.seconds
    assert "3 are done" in shown(sweep)
    # two scores of one arm (2.0 and 2.04), one of the other
    assert plan.noise(sweep) == (pytest.approx(0.04 / math.sqrt(2)), 2)
    size = detectable_effect(3, comparisons=1, tier="screen") * 0.04 / math.sqrt(2)
    assert f"{size:.4f} in val/bpb" in shown(sweep)


def test_the_smallest_effect_is_said_in_units_of_the_run_sd_before_any_run(make: Any) -> None:
    printed = shown(make())
    assert f"screen tier, 3 pairs, power 80 %: {detectable_effect(3, tier='screen'):.2f} run sd" in printed
    assert "effect, confirm tier" not in printed, "three pairs are too few for it"
    assert "confirm tier, 5 pairs" in shown(spec.with_seeds(make(), 5))
    assert "warning: 2 values of seed give no verdict" in shown(spec.with_seeds(make(), 2))


def test_speed_is_that_of_earlier_runs_of_the_same_size(make: Any) -> None:
    import torch

    from gpt_lab.store.record import machine

    sweep = make()
    found = cells.cells(sweep)
    cfg = config.compose(found[0].overrides)
    record = {
        "config": cfg.flat(),
        "resolved": {"device": "cpu", "precision": "fp32", "compile": "off"},
        "hardware": {**machine(), "threads": 1},
        "train_flops_per_token": cost_of_run(cfg).train_flops_per_token,
    }
    others = {
        "slower": (record, 1000.0),
        "faster": (record, 3000.0),
        "more threads": ({**record, "hardware": {**machine(), "threads": 8}}, 9e9),
        "another machine": ({**record, "hardware": {"cpu": "other", "threads": 1}}, 9e9),
        "larger": ({**record, "train_flops_per_token": 10**9}, 9e9),
        "another optimizer": ({**record, "config": {**cfg.flat(), "optim.name": "muon"}}, 9e9),
        "another precision": ({**record, "resolved": {**record["resolved"], "precision": "bf16"}}, 9e9),
    }
    for name, (one, rate) in others.items():
        run = Run.create(cfg.runs_dir, "earlier", name, cfg.to_dict(), one)
        run.finish("finished", {"perf/tokens_per_s": rate})
    assert torch.get_num_threads() == 1
    made = plan.estimate(sweep, found, 1, 1)
    assert made.basis == "measured: runs of the same size on this machine"
    seen = open_dataset(cfg).val_tokens
    assert seen < 2048, "each of the two evaluations and the last cover it all"
    assert made.arms[0].seconds == pytest.approx(20 * 64 / 2000 + 3 * seen / (3 * 2000) + speed.BESIDE)


def test_a_budget_in_seconds_is_the_time(make: Any) -> None:
    swept = {**ARMS, "budget.steps": {"value": None}, "budget.seconds": {"value": 30.0}}
    made = plan.estimate(sweep := make(swept), cells.cells(sweep), 1, 1)
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
    monkeypatch.setattr(lint.record, "git", lambda: git)
    ledger = Ledger.open(folder_of(sweep))
    ledger.begin(sweep, found)
    cfg = config.compose(found[0].overrides)
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
    with_more = spec.with_seeds(make({**ARMS, "position": {"values": ["rope", "learned", "alibi"]}}), 3)
    ledger = Ledger.open(folder_of(sweep))
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
    assert "7 trials" in printed and "about" in printed and "detectable" not in printed


def test_a_cell_that_cannot_be_built_is_named(make: Any) -> None:
    """The check that a runner makes before its first run: rotary positions need an even head dimension."""
    sweep = make({"scale.heads": {"values": [4, 32]}, "seed": {"values": [0, 1]}}, gpt_lab={})
    with pytest.raises(ConfigError, match=r"cell 1 \(scale.heads=32, seed=0\): .*even"):
        plan.check_builds(cells.cells(sweep))


def test_a_sweep_that_can_be_built(make: Any) -> None:
    plan.check_builds(cells.cells(make()))


@pytest.mark.parametrize(
    "seconds, expected",
    [(0.2, "1 s"), (59.4, "59 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3599.7, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert speed.shown(seconds) == expected


def test_longer_contexts_that_an_arm_cannot_be_validated_at(make: Any) -> None:
    """Said once for the arm, and counted in the time of the others."""
    sweep = make(ARMS, "eval.contexts=[1,4,8]")
    said = shown(sweep)
    assert said.count("position=learned has no positions beyond scale.context=16: it is not validated at 4x, 8x") == 1
    builder = plan.Builder()
    rope = cells.cells(sweep)[0]
    (cfg,) = cells.configs([rope])
    made = builder.plan(cfg, rope)
    plain = builder.plan(config.from_dict({**cfg.to_dict(), "eval": {**cfg.to_dict()["eval"], "contexts": [1]}}), rope)
    longer, usual = speed.seconds(cfg, made, 3000, 1000.0), speed.seconds(cfg, plain, 3000, 1000.0)
    assert longer is not None and usual is not None
    assert longer - usual == pytest.approx(3 * 3000 / (3 * 1000.0)), "two longer passes and one to compare them with"


def test_a_metric_of_a_length_that_is_not_validated(make: Any) -> None:
    metric = {"metric": {"name": "val/bpb_8x", "goal": "minimize"}}
    assert cells.cells(make(ARMS, "eval.contexts=[1,8]", **metric))
    with pytest.raises(ConfigError, match=r"val/bpb_8x needs a validation at 8 times the context, and eval.contexts"):
        cells.cells(make(ARMS, "eval.contexts=[1,4]", **metric))
    with pytest.raises(ConfigError, match="unknown metric name 'val/ppl_8x'"):
        make(ARMS, metric={"name": "val/ppl_8x", "goal": "minimize"})
    with pytest.raises(ConfigError, match="must be maximize"):
        make(ARMS, metric={"name": "val/accuracy_2x", "goal": "minimize"})
