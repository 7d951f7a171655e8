"""`replica`: the same seed, another draw; what it does to training is in tests/train."""

from __future__ import annotations

import itertools

import pytest
import torch

from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import initialize
from gpt_lab.model.skip_init import bare_model
from tests.helpers import tiny_config


def test_the_first_replica_is_the_seed_itself() -> None:
    assert tiny_config(seed=5).draw_seed == 5


def test_every_seed_and_replica_draws_differently() -> None:
    drawn = [tiny_config(seed=s, replica=r).draw_seed for s, r in itertools.product(range(20), range(5))]
    assert len(set(drawn)) == 100
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_the_data_stay_those_of_the_seed() -> None:
    assert tiny_config(seed=5, replica=2).data_seed == 5


def test_replicas_have_signatures_of_their_own() -> None:
    assert tiny_config(replica=1).signature({}) != tiny_config().signature({})


@pytest.mark.parametrize("value", [-1, 1.5, "one"])
def test_a_replica_is_a_number(value: object) -> None:
    with pytest.raises(ConfigError, match="replica must be a whole number"):
        tiny_config(replica=value)


def test_initial_values_are_another_draw() -> None:
    """Every drawn tensor differs, none correlates; what is not drawn stays."""
    models = []
    for replica in (0, 1):
        cfg = tiny_config(replica=replica)
        model = bare_model(cfg, 64)
        initialize(model, cfg)
        models.append(dict(model.named_parameters()))
    for name, first in models[0].items():
        second = models[1][name]
        if first.ndim < 2:
            assert torch.equal(first, second)
        else:
            correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
            assert abs(correlation) < 5 / first.numel() ** 0.5, name
