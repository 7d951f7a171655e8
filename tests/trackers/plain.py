"""A config that trackers can mirror and that no model needs to be built from."""

from __future__ import annotations

from gpt_lab import schema
from gpt_lab.registry import KINDS


def plain_config() -> schema.RunConfig:
    """Every part is named "plain", but the optimizer, which has options."""
    parts = {kind: {"name": "plain"} for kind in KINDS}
    return schema.RunConfig(
        **{**parts, "optim": {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.95]}},
        scale=schema.Scale("test", depth=2, width=32, heads=4, context=16),
        model=schema.Model(),
        budget=schema.Budget(steps=20),
        batch=schema.Batch(),
        eval=schema.Eval(),
        checkpoint=schema.Checkpoint(),
        log=schema.Log(),
        sample=schema.Sample(),
        study="ablation",
    )
