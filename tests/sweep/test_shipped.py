"""Every file of sweeps/: what it compares, that it can be run here and through W&B, and that it takes minutes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from gpt_lab import registry
from gpt_lab.cost import match
from gpt_lab.study import build, cells, sweep_file
from gpt_lab.study.design import Cell
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.search import search
from gpt_lab.train.precision import cpu_native_bf16
from gpt_lab.validity import compared as compared_rules
from gpt_lab.validity.rules import rate

ROOT = Path(__file__).parent.parent.parent
NAMES = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
FLOPS_PER_S = 75e9
"""Of one core of two that train at once (AMD EPYC): 110e9 at scale=tiny, 75e9 at the smaller scale=micro."""
QUESTIONS = [name for name in NAMES if f"+experiment={name}" in sweep_file.load(name).command]
"""The ready-made ones, which have a file in experiments/ too."""

ARMS = {
    "pos_enc": (["rope", "learned", "sinusoidal", "alibi", "none"], 5),
    "extrapolation": (["rope", "learned", "sinusoidal", "alibi", "none"], 3),
    "attention": (["mha", "gqa", "mqa", "sliding"], 3),
    "norm": (["layernorm", "rmsnorm", "none"], 5),
    "mlp": (["gelu", "silu", "geglu", "swiglu"], 5),
    "optim": (["adamw", *sorted(set(registry.index()["optim"]) - {"adamw"})], 10),
    "muon": (["adamw", "muon"], 5),
    "precision": (["fp32", "bf16"], 5),
    "gqa_heads": ([8, 4, 2, 1], 5),
    "depth_width": (["1/256/8", "2/180/6", "4/128/4", "8/90/3", "16/64/2"], 3),
    "seeds": ([0, 1], 30),
    "lr_schedule": (["cosine", "linear", "wsd", "constant"], 3),
    "budgets": ([f"{o}/{n}.0" for o in ("rope", "alibi") for n in (204800, 409600, 614400, 819200)], 3),
    "position_seeds": (["rope", "alibi", "sinusoidal", "learned"], 8),
    "interactions": ([f"{r}/{q}/{t}" for r in ("pre", "olmo2") for q in ("none", "full") for t in (False, True)], 3),
    "pre_post": ([f"{r}/{w}/{lr}" for r in ("pre", "post") for w in (0.25, 0.0) for lr in (0.002, 0.008)], 4),
    "qk_norm": ([f"{q}/{lr}" for q in ("none", "head") for lr in (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)], 3),
    "distillation": ([0.0, 0.5], 5),
    "recall": ([f"{task}/{depth}" for task in ("induction", "mqar") for depth in (1, 2)], 5),
}
BASELINES = {"depth_width": "4/128/4", "qk_norm": "none", "recall": "1", "budgets": "rope"}
"""Where it is not the first arm."""
METRICS = {"recall": ("val/accuracy", "maximize")}
"""Where it is not bits per byte."""


@pytest.fixture(params=NAMES)
def sweep(request: pytest.FixtureRequest) -> Sweep:
    return sweep_file.load(request.param)


def planned(sweep: Sweep) -> list[Cell]:
    """Its cells; of a tuned one those that are known beforehand."""
    return list(search.Search(sweep).planned or ())


def compared(sweep: Sweep, cell_values: Any) -> Any:
    found = [cell_values[factor] for factor in sweep.design.factors if factor in cell_values]
    return found[0] if len(found) == 1 else "/".join(map(str, found))


def test_they_are_the_ones_that_are_documented() -> None:
    assert set(NAMES) == set(ARMS)


def test_arms_pairs_and_baseline(sweep: Sweep) -> None:
    arms, pairs = ARMS[sweep.path.stem]
    found = planned(sweep)
    assert list(dict.fromkeys(compared(sweep, cell.values) for cell in found)) == arms
    assert sweep.design.baseline is not None
    assert str(compared(sweep, sweep.design.baseline)) == str(BASELINES.get(sweep.path.stem, arms[0]))
    assert {sweep.design.reference(cell.values) for cell in found} <= {cell.arm for cell in found}
    fresh = [cell for cell in found if not sweep.design.tunes(cell.pair)]
    per_arm = {arm: {cell.pair for cell in fresh if cell.arm == arm} for arm in {cell.arm for cell in found}}
    assert all(values == set(range(pairs)) for values in per_arm.values())
    tunings = {len({cell.tuning for cell in found if cell.arm == arm}) for arm in per_arm}
    assert len(tunings) == 1 and (min(tunings) >= 3) == bool(sweep.design.nuisance), "each arm is tuned equally hard"


def test_it_says_what_it_asks(sweep: Sweep) -> None:
    block = sweep.content["gpt_lab"]
    assert {"study", "question", "baseline", "family"} <= set(block)
    assert block["study"] == block["family"] == sweep.path.stem
    assert block["question"].endswith("?")
    assert (sweep.design.metric, sweep.design.goal) == METRICS.get(sweep.path.stem, ("val/bpb", "minimize"))
    assert sweep.path.read_text().startswith("# ") and "minutes on 2 cores" in sweep.path.read_text()


def seconds(sweep: Sweep, models: match.Models) -> float:
    """What it takes on two cores, roughly."""
    flops = 0.0
    for cfg in cells.configs(planned(sweep)):
        assert cfg.scale.width * cfg.scale.depth <= 2048
        steps = cfg.budget.steps or (cfg.budget.tokens or math.inf) / cfg.batch.tokens
        flops += steps * cfg.batch.tokens * models.count(cfg, "flops")
    return flops / FLOPS_PER_S / 2


@pytest.mark.slow
def test_they_take_minutes() -> None:
    """One takes one to ten; the ready-made questions together less than half an hour, with what is beside training."""
    models = match.Models()
    took = {name: seconds(sweep_file.load(name), models) for name in NAMES}
    assert all(60 < one < 600 for one in took.values()), took
    assert sum(took[name] for name in QUESTIONS) < 1500


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # W&B's
def test_w_and_b_reads_the_same_file(sweep: Sweep) -> None:
    """`wandb sweep` reads it with load_sweep_config; the agent's words give train the very run of the cell."""
    from wandb.sdk.launch.sweeps import utils

    loaded = utils.load_sweep_config(str(sweep.path))
    assert loaded == sweep.content
    command = utils.create_sweep_command(list(loaded["command"]))
    assert command[:3] == ["uv", "run", "train"] and command[-1] == "${args_no_hyphens}"
    constants = {name: stated["value"] for name, stated in loaded["parameters"].items() if "value" in stated}
    found = planned(sweep)
    for cell in (found[0], found[len(found) // 2], found[-1]):
        args = {name: {"value": value} for name, value in {**constants, **cell.values}.items()}
        words = [*command[3:-1], *utils.create_sweep_command_args({"args": args})["args_no_hyphens"]]
        cfg = match.compose(words, cells.composer())
        assert (cfg.identity(), cfg.study) == (cell.identity, sweep.design.study)


def test_every_cell_is_one_of_w_and_bs(sweep: Sweep) -> None:
    """What gpt_lab adds only restricts the grid: all that runs here, W&B's grid has too, but for the tuning."""
    stated = sweep.content["parameters"]
    for cell in planned(sweep):
        for name, value in cell.values.items():
            if sweep.design.tuning_pairs and (name in sweep.design.nuisance or sweep.design.tunes(cell.pair)):
                continue
            one = stated[name]
            assert value in one["values"] if "values" in one else one["min"] <= value <= one["max"]


@pytest.mark.slow
def test_every_model_can_be_built() -> None:
    """On three data sets: Shakespeare in the default vocabulary, and two tasks. Teachers: test_teacher.py."""
    found: list[Cell] = [cell for name in NAMES for cell in planned(sweep_file.load(name))]
    assert len(found) == 728
    found = [cell for cell in found if cell.values.get("objective.alpha", 0) == 0]
    if cpu_native_bf16() is None:
        found = [cell for cell in found if cell.values.get("precision") != "bf16"]
    build.Builder().check(found, cells.configs(found))


def test_none_compares_what_moves_the_best_rate_at_an_untuned_one(sweep: Sweep) -> None:
    """No verdict could come of it."""
    moving = {key.removesuffix(".name") for key in rate.MOVES}
    assert not moving & {*sweep.design.factors} or compared_rules.tuned_rate(sweep.design)


def test_none_is_a_search() -> None:
    assert all(
        sweep_file.load(name).method == "grid" and search.pruner(sweep_file.load(name)) is None for name in NAMES
    )
