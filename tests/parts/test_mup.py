"""The coordinate check of muP with the lab's own groups and optimizer: sizes of activations and updates over width."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.optim.groups import groups
from gpt_lab.parts.objective.ce import CrossEntropy
from tests.helpers import tiny_config

WIDTHS = (64, 128, 256, 512)
STEPS = 5
HEAD_DIM = 16
MUP = {"name": "mup", "base_width": 64, "base_head_dim": HEAD_DIM}


def config(init: dict[str, object], width: int, tied: bool, grow: str) -> RunConfig:
    """`grow` says what grows with width: the number of heads, or each head."""
    heads = width // HEAD_DIM if grow == "heads" else WIDTHS[0] // HEAD_DIM
    return tiny_config(
        init=init,
        optim={"name": "adamw", "lr": 0.004, "weight_decay": 0.0},
        **{"scale.width": width, "scale.heads": heads, "model.tied": tied},
    )


def sizes(cfg: RunConfig) -> dict[str, float]:
    """Root mean squares after STEPS steps: of what the parts of the last block give, of logits and their change."""
    model = GPT(cfg, 64)
    initialize(model, cfg)
    init = registry.build("init", cfg.init, model.shape)
    optimizer = registry.build("optim", cfg.optim).build(groups(model, init))
    tokens = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(0))
    seen: dict[str, torch.Tensor] = {}
    block = model.blocks[-1]
    for name, part in {"attention": block.attention, "mlp": block.mlp, "stream": block}.items():
        part.register_forward_hook(lambda _part, _args, out, name=name: seen.update({name: out.detach()}))
    first = torch.empty(0)
    for step in range(STEPS + 1):
        logits = model(tokens[:, :-1])
        seen["logits"] = logits.detach()
        if step == 0:
            first = seen["logits"]
        loss, _, _ = CrossEntropy()(logits, tokens[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seen["change of the logits"] = seen["logits"] - first
    return {name: float(values.square().mean().sqrt()) for name, values in seen.items()}


@functools.cache
def growth(init: str, tied: bool, grow: str) -> dict[str, float]:
    """The power of width that each size grows with: slope of log size over log width."""
    chosen = MUP if init == "mup" else {"name": init, "std": 0.02}
    found = [sizes(config(chosen, width, tied, grow)) for width in WIDTHS]
    return {key: float(np.polyfit(np.log(WIDTHS), [math.log(one[key]) for one in found], 1)[0]) for key in found[0]}


@pytest.mark.parametrize("grow", ["heads", "head"])
@pytest.mark.parametrize("tied", [True, False])
def test_nothing_grows_with_width_under_mup(tied: bool, grow: str) -> None:
    """Eight times the width: a power of 0.25 would be a factor of 1.7."""
    assert max(growth("mup", tied, grow).values()) < 0.25, growth("mup", tied, grow)
    assert growth("mup", tied, grow)["change of the logits"] > -0.25, "nor does learning stop"


@pytest.mark.parametrize("tied", [True, False])
def test_all_of_it_grows_with_width_under_normal(tied: bool) -> None:
    found = growth("normal", tied, "heads")
    assert found["change of the logits"] > 0.5, found
    assert min(found[key] for key in ("attention", "mlp", "stream")) > 0.3, found
