"""A batch that grows: sizes against the formula, budgets in tokens and FLOPs, what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from gpt_lab.config.batch_sizes import BatchSizes, growing
from gpt_lab.errors import ConfigError
from tests.helpers import tiny_config

GROWING = {"batch.tokens": 160, "batch.start": 32, "batch.ramp": 480}
"""From 2 rows of 16 tokens to 10, over 30 rows."""


def test_it_grows_linearly_in_what_was_trained_on() -> None:
    sizes = growing(start=2, full=10, unit=1, over=30)
    read = 0
    for step in range(40):
        expected = min(10, int(2 + 8 * min(read, 30) / 30))
        assert (sizes.first(step), sizes.rows(step)) == (read, expected)
        read += expected
    assert sizes.rows(10**9) == 10


def test_whole_micro_batches() -> None:
    sizes = growing(start=4, full=16, unit=4, over=100)
    found = [sizes.rows(step) for step in range(30)]
    assert found == sorted(found) and set(found) == {4, 8, 12, 16}


@pytest.mark.parametrize("sizes", [growing(2, 10, 1, 30), growing(4, 16, 4, 100), BatchSizes(7)])
def test_steps_that_a_number_of_sequences_pays_for(sizes: BatchSizes) -> None:
    for sequences in range(300):
        steps = sizes.steps(sequences)
        assert sizes.first(steps) <= sequences < sizes.first(steps + 1)


@pytest.mark.parametrize("budget", [{"steps": 12}, {"tokens": 1000.0}, {"flops": 3e8}])
def test_budgets_stay_right(budget: dict[str, float]) -> None:
    from gpt_lab.cost.flops import cost
    from gpt_lab.train.budget import budget as limit

    cfg = tiny_config(**GROWING, **{f"budget.{key}": value for key, value in budget.items()})
    price = cost(cfg, 256)
    steps = limit(cfg, price).steps
    assert steps is not None
    if "steps" in budget:
        assert steps == 12
        return
    each = price.train_flops_per_token if "flops" in budget else 1
    spent, with_one_more = (each * cfg.tokens_after(count) for count in (steps, steps + 1))
    assert spent <= next(iter(budget.values())) < with_one_more
    constant = dataclasses.replace(cfg, batch=dataclasses.replace(cfg.batch, start=None, ramp=None))
    assert (limit(constant, price).steps or 0) < steps, "small steps are cheaper"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch.start": 32}, "batch.start needs batch.ramp"),
        ({"batch.ramp": 320}, "batch.ramp needs batch.start"),
        ({"batch.start": 64, "batch.ramp": 320}, "batch.start=64 must be less than batch.tokens=64"),
        ({"batch.start": 24, "batch.ramp": 320}, "batch.start=24 is not a multiple of scale.context=16"),
        ({"batch.start": 16, "batch.ramp": 320, "batch.micro": 2}, "does not divide the 1 rows of the first step"),
    ],
)
def test_what_cannot_grow_is_refused(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_config(**settings)


def test_it_is_another_run_than_one_without() -> None:
    assert tiny_config(**GROWING).identity() != tiny_config(**{"batch.tokens": 160}).identity()
