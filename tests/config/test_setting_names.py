"""Which setting a wrong name means."""

from __future__ import annotations

import pytest

from gpt_lab import registry
from gpt_lab.config.setting_names import NAMES_ELSEWHERE, closest_settings, settings, unknown_option


@pytest.mark.parametrize(
    "name, expected",
    {
        "bugdet.steps": "budget.steps",
        "optimizer.lr": "optim.lr",
        "optimizer": "optim",
        "optim.learning_rate": "optim.lr",
        "model.n_layer": "scale.depth",
        "training.lr": "optim.lr",
        "LR": "optim.lr",
        "context-length": "scale.context",
        "warmup": "schedule.warmup",
        "kv_heads": "attention.kv_heads",
        "dropout": "model.dropout attention.dropout",
        "every": "checkpoint.every eval.every log.every",
        "weight_deacy": "optim.weight_decay schedule.weight_decay",
        "weight_decay": "optim.weight_decay",
        "rampup_batch_size": "batch.ramp",
        "attention.kvheads": "attention.kv_heads",
        "positon": "position",
        "colour": "",
        "x" * 100_000: "",
    }.items(),
    ids=lambda value: value[:20],
)
def test_meant(name: str, expected: str) -> None:
    assert " ".join(closest_settings(name)) == expected


def test_names_of_the_field_are_none_of_ours_and_mean_one() -> None:
    theirs = [word for words in NAMES_ELSEWHERE.values() for word in words.split()]
    assert set(NAMES_ELSEWHERE) <= set(settings())
    assert not set(theirs) & set(settings())
    assert len(set(theirs)) == len(theirs)


def test_an_option_of_another_part() -> None:
    line = unknown_option(registry.get("attention", "mha"), "window")
    assert line.startswith("attention=mha has no option 'window': attention=sliding has it, as in `attention=sliding ")
