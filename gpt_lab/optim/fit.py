"""An optimizer for a model: what it asks of it, the rates that the init gives, and whether both go together."""

from __future__ import annotations

from typing import Any

import torch

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.optim.groups import groups


def fitted(recipe: Any, model: Any, cfg: RunConfig) -> torch.optim.Optimizer:
    """The optimizer of a recipe over a model's parameters, made known to the model; before kernels are chosen.

    Raises:
        ConfigError: it asks what the model, its init or its precision cannot give.
    """
    if cfg.init["name"] == "mup" and (why := getattr(recipe, "no_mup", None)):
        raise ConfigError(f"init=mup cannot hold learning rates across widths with optim={cfg.optim['name']}: {why}")
    if hasattr(recipe, "prepare"):
        recipe.prepare(model)
    if cfg.batch.packing == "bucketed" and getattr(recipe, "qk_clip", None) is not None:
        raise ConfigError(
            "batch.packing=bucketed: optim.qk_clip would count the scores of padding: use batch.packing=best_fit, "
            "which has none"
        )
    built: torch.optim.Optimizer = recipe.build(groups(model, registry.build("init", cfg.init, model.shape)))
    return built
