"""Schedules against transformers, torch and nanoGPT's formulas."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import transformers

from gpt_lab import registry
from gpt_lab.config.composition import compose
from gpt_lab.errors import ConfigError
from gpt_lab.optim.schedule import WSD, Constant, Cosine, Linear, check_length, decay_factor

NAMES = sorted(registry.index()["schedule"])
N, W, D = 200, 20, 50
"""Steps in all, of the warm-up, of the cooldown."""


def factors(make: Any, **settings: Any) -> list[float]:
    """What a schedule of transformers (or torch) multiplies the learning rate with at steps 0 to N."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, **settings)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of stepping the schedule without the optimizer
        for _ in range(N + 1):
            found.append(scheduler.get_last_lr()[0])
            scheduler.step()
    return found


def ours(schedule: Any) -> list[float]:
    return [schedule(step / N, step) for step in range(N + 1)]


def test_cosine_equals_transformers() -> None:
    make = transformers.get_cosine_with_min_lr_schedule_with_warmup
    theirs = factors(make, num_warmup_steps=W, num_training_steps=N, min_lr_rate=0.1)
    assert ours(Cosine(warmup=W / N, final=0.1)) == pytest.approx(theirs, rel=1e-9)


def test_linear_equals_transformers() -> None:
    theirs = factors(transformers.get_linear_schedule_with_warmup, num_warmup_steps=W, num_training_steps=N)
    assert ours(Linear(warmup=W / N, final=0.0)) == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("shape", "theirs"), [("sqrt", "1-sqrt"), ("linear", "linear")])
@pytest.mark.parametrize("final", [0.0, 0.2])
def test_wsd_equals_transformers(shape: Any, theirs: str, final: float) -> None:
    settings = {"num_warmup_steps": W, "num_decay_steps": D, "num_training_steps": N, "decay_type": theirs}
    expected = factors(transformers.get_wsd_schedule, min_lr_ratio=final, **settings)
    found = ours(WSD(warmup=W / N, final=final, cooldown=D / N, shape=shape))
    first = 0 if final == 0 else W  # theirs warms up from the final rate, ours from 0
    assert found[first:] == pytest.approx(expected[first:], abs=1e-7)


def test_constant_equals_transformers() -> None:
    theirs = factors(transformers.get_constant_schedule_with_warmup, num_warmup_steps=W)
    assert ours(Constant(warmup=W / N)) == pytest.approx(theirs, rel=1e-9)


def test_cosine_equals_torch() -> None:
    theirs = factors(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=N, eta_min=0.1)
    assert ours(Cosine(warmup=0.0, final=0.1)) == pytest.approx(theirs, rel=1e-9)


def test_a_cosine_after_a_warmup_in_steps_is_nanogpts() -> None:
    """nanoGPT: (it + 1) / (warmup + 1), then a cosine over (it - warmup) / (steps - warmup)."""
    schedule = Cosine(warmup=W, final=0.1)
    for it in range(N):
        if it < W:
            expected = (it + 1) / (W + 1)
        else:
            expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (it - W) / (N - W)))
        assert schedule((it + 1) / (N + 1), it) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.8, 1.0])
def test_bounds_and_ends(name: str, warmup: float) -> None:
    settings = {"cooldown": 0.0 if warmup == 1.0 else 0.2} if name == "wsd" else {}
    schedule = registry.build("schedule", {"name": name, "warmup": warmup, **settings})
    found = [schedule(step / 1000, step) for step in range(1, 1201)]
    assert all(0 <= factor <= 1 for factor in found) and max(found) == pytest.approx(1.0, abs=0.01)
    assert found[999:] == [found[999]] * 201  # a budget of seconds may overrun
    if warmup < 1:
        rise = int(warmup * 1000)
        assert found[rise:] == sorted(found[rise:], reverse=True)
        assert found[999] == pytest.approx(getattr(schedule, "final", 1.0), abs=1e-9)
    assert found[: int(warmup * 1000)] == sorted(found[: int(warmup * 1000)])


def test_every_option_changes_the_curve() -> None:
    changed = {"warmup": 0.31, "final": 0.43, "cooldown": 0.37, "shape": "linear"}
    for name in NAMES:
        for key in registry.get("schedule", name).options.keys() - {"weight_decay"}:
            plain = registry.build("schedule", {"name": name})
            other = registry.build("schedule", {"name": name, key: changed[key]})
            assert ours(plain) != ours(other), (name, key)


def test_weight_decay_against_its_formulas() -> None:
    """At 11 points of the budget; nanochat's linear one is 1 - it / iterations."""
    for x in [0.1 * tenth for tenth in range(11)]:
        assert decay_factor("constant", x, 0.3) == 1.0
        assert decay_factor("linear", x, 0.3) == pytest.approx(1 - x)
        assert decay_factor("cosine", x, 0.3) == pytest.approx(math.cos(math.pi * x / 2) ** 2)
        assert decay_factor("proportional", x, 0.3) == 0.3
    assert decay_factor("linear", 1.7, 0.3) == decay_factor("cosine", 1.7, 0.3) == 0.0, (
        "a budget of seconds may overrun"
    )


def test_a_cooldown_before_the_end_of_the_warmup_is_refused() -> None:
    with pytest.raises(ConfigError, match="sum must be at most 1"):
        WSD(warmup=0.5, cooldown=0.6)
    assert WSD(warmup=0.4, cooldown=0.6)(0.4, 40) == 1.0


def test_a_warmup_in_steps_under_a_budget_in_seconds() -> None:
    """However fast the steps are: the warm-up takes its steps, the rest begins at the peak and ends with the budget."""
    for name in NAMES:
        schedule = registry.build("schedule", {"name": name, "warmup": W})
        seconds = [0.01 * step if step < 40 else 0.4 + 0.03 * (step - 40) for step in range(60)]
        found = [schedule(at / seconds[-1], step) for step, at in enumerate(seconds)]
        assert found[:W] == [(step + 1) / (W + 1) for step in range(W)]
        assert found[W] == pytest.approx(1.0)
        assert found[W:] == sorted(found[W:], reverse=True)
        assert found[-1] == pytest.approx(getattr(schedule, "final", 1.0))


@pytest.mark.parametrize("make", [WSD, Constant, Cosine, Linear])
def test_a_warmup_in_steps_is_that_share_of_every_budget(make: Any) -> None:
    for steps in (60, N):
        inside = [((t + 1) / (steps + 1), t) for t in range(steps)]
        counted, shared = make(warmup=W), make(warmup=(W + 1) / (steps + 1))
        assert [counted(*at) for at in inside] == pytest.approx([shared(*at) for at in inside], rel=1e-9)
    assert make(warmup=W)(0.9, W - 1) == W / (W + 1), "whatever the progress"


def test_a_warmup_in_steps_needs_room() -> None:
    with pytest.raises(ConfigError, match="20 steps of warm-up and a cooldown of 50% exceed a budget of 40 steps"):
        check_length({"name": "wsd", "warmup": 20, "cooldown": 0.5}, 40)
    check_length({"name": "wsd", "warmup": 20, "cooldown": 0.5}, 41)
    check_length({"name": "wsd", "warmup": 20, "cooldown": 0.5}, None)
    with pytest.raises(ConfigError, match="20 steps of warm-up exceed a budget of 19 steps"):
        check_length({"name": "constant", "warmup": 20}, 19)
    with pytest.raises(ConfigError, match="20 steps of warm-up exceed a budget of 19 steps"):
        check_length({"name": "cosine", "warmup": 20, "final": 0.1}, 19)
    for name in NAMES:
        with pytest.raises(ConfigError, match=r"warmup must be a number in \[0, 1\] or a whole number >= 2, not 1.5"):
            compose([f"schedule={name}", "schedule.warmup=1.5"])
        assert compose([f"schedule={name}", "schedule.warmup=20"]).schedule["warmup"] == 20
