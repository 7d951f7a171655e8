"""What ranks cannot share is refused in one line before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError
from gpt_lab.train.resolve_auto import resolve
from tests.helpers import tiny_config
from tests.train.train_helpers import train

Make = Callable[..., RunConfig]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"batch.tokens": 16}, r"1 rows a step \(batch.tokens\) are fewer than 2 devices"),
        ({"probe": "light"}, "probe=light sees one process's part"),
        ({"optim": "sophia"}, "optim=sophia estimates curvature"),
        ({"optim": "muon", "optim.qk_clip": 10.0}, "optim.qk_clip sees the scores of one process"),
        ({"precision": "bf16_sr"}, "precision=bf16_sr keeps weights"),
        ({"mlp": "moe", "batch.tokens": 48}, "mlp=moe counts tokens"),
        ({"parallel": "fsdp", "optim": "lamb"}, "optim=lamb looks at whole tensors"),
        ({"parallel": "fsdp", "optim": "normuon"}, "optim=normuon looks at whole tensors"),
        ({"parallel": "fsdp", "optim": {"name": "adamw", "state": "int8"}}, "optim=adamw looks at whole tensors"),
        ({"parallel": "fsdp", "objective": "mtp"}, "objective=mtp reads more than logits"),
        ({"parallel": "fsdp", "residual": "looped"}, "uses a layer more than once"),
        ({"parallel": "fsdp", "position": "fire"}, "is a single number"),
        ({"parallel": "fsdp", "precision": "fp16"}, "precision=fp16 needs the whole gradient"),
        ({"parallel": "fsdp", "quantize.bits": 8}, "quantize.bits rounds whole weights"),
        ({"parallel": "fsdp", "compile": "on"}, "compile=on has not been tried"),
    ],
)
def test_refused(make: Make, settings: dict[str, Any], words: str) -> None:
    cfg = make(**{"parallel": "ddp", "gpus_per_trial": 2, **settings})
    with pytest.raises(ConfigError, match=words):
        resolve(cfg, open_dataset(cfg))
    assert not Path(cfg.runs_dir).exists()


@pytest.mark.parametrize("settings", [{"gpus_per_trial": 2}, {"parallel": "ddp"}, {"parallel": "fsdp"}])
def test_both_are_said(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="needs"):
        tiny_config(**settings)


def test_one_process_is_not_two(make: Make) -> None:
    with pytest.raises(ConfigError, match="only the command train starts so many"):
        train(make(parallel="ddp", gpus_per_trial=2))


def test_shared_or_not_it_is_the_same_run() -> None:
    alone, shared = tiny_config(), tiny_config(parallel="fsdp", gpus_per_trial=4)
    assert alone.identity() == shared.identity()
    assert alone.signature({}) == shared.signature({})
    assert shared.flat()["gpus_per_trial"] == 4
