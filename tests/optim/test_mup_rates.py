"""The coordinate check of muP for optimizers: four times the width changes as much in a few steps, or is refused.

Yang et al. 2022, arXiv:2203.03466, appendix D.1.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.optim.fit import fitted
from gpt_lab.train import precision
from gpt_lab.train.feed import Micro, StepBatch
from gpt_lab.train.step import Stepper
from tests.helpers import tiny_config

WIDTHS, STEPS, HEAD_DIM = (32, 128), 3, 8
REFUSED = {"adahessian", "lamb", "prodigy", "sgd", "shampoo", "soap"}
NAMES = sorted(registry.index()["optim"])
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in NAMES if name not in REFUSED},
    "muon of the original size": {"name": "muon", "adjust_lr": "original", "lr": 0.02, "adam_lr": 0.004},
}
MOST = 0.32
"""Power of the width that a change may grow or shrink with: four times the width is a factor of 1.6."""


def config(optim: dict[str, Any], width: int) -> RunConfig:
    return tiny_config(
        init={"name": "mup", "base_width": WIDTHS[0], "base_head_dim": HEAD_DIM},
        optim={"weight_decay": 0.0, "lr": 0.004, **optim},
        **{"scale.width": width, "scale.heads": width // HEAD_DIM, "scale.depth": 1, "scale.context": 8},
    )


def changes(cfg: RunConfig) -> dict[str, float]:
    """Root mean squares of what STEPS steps change: in the output of each part of the block, and of the logits."""
    model = GPT(cfg, 64)
    initialize(model, cfg)
    recipe = registry.build("optim", cfg.optim)
    optimizer = fitted(recipe, model, cfg)
    objective = registry.build("objective", cfg.objective)
    stepper = Stepper(model, optimizer, objective, precision.resolve("fp32", "cpu"), recipe.clip, compiled=False)
    tokens = torch.randint(64, (4, 9), generator=torch.Generator().manual_seed(0))
    block: Any = model.blocks[0]
    seen: dict[str, Tensor] = {}
    for name in ("attention", "mlp"):
        getattr(block, name).register_forward_hook(lambda _part, _args, out, name=name: seen.update({name: out}))

    @torch.no_grad()
    def outputs() -> dict[str, Tensor]:
        logits = model(tokens[:, :-1])
        return {"logits": logits.clone(), **{name: out.clone() for name, out in seen.items()}}

    before = outputs()
    for step in range(STEPS):
        stepper(StepBatch([Micro(tokens[:, :-1], tokens[:, 1:], None, None, 1.0)], 32), 1.0, step=step)
    after = outputs()
    return {name: (after[name] - before[name]).square().mean().sqrt().item() for name in before}


@pytest.mark.parametrize("name", VARIANTS)
def test_changes_are_the_same_at_every_width(name: str) -> None:
    small, large = (changes(config(VARIANTS[name], width)) for width in WIDTHS)
    powers = {key: math.log(large[key] / small[key]) / math.log(WIDTHS[1] / WIDTHS[0]) for key in small}
    assert all(abs(power) < MOST for power in powers.values()), powers


def test_what_has_no_rule_is_refused() -> None:
    for name in REFUSED:
        cfg = config({"name": name}, WIDTHS[0])
        with pytest.raises(ConfigError, match=f"init=mup cannot hold .* with optim={name}: .* init=normal$"):
            fitted(registry.build("optim", cfg.optim), GPT(cfg, 64), cfg)
