"""A config that trackers can mirror and that no model needs to be built from."""

from __future__ import annotations

from typing import Any

from gpt_lab.config import schema, sections
from gpt_lab.registry import KINDS


def plain_config() -> schema.RunConfig:
    """Every part is named "plain", but the optimizer, which has options."""
    parts: dict[str, Any] = {kind: {"name": "plain"} for kind in KINDS}
    parts["optim"] = {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.95]}
    return schema.RunConfig(
        **parts,
        scale=sections.Scale("test", depth=2, width=32, heads=4, context=16),
        model=sections.Model(),
        budget=sections.Budget(steps=20),
        batch=sections.Batching(),
        eval=sections.Eval(),
        checkpoint=sections.Checkpoint(),
        log=sections.Log(),
        sample=sections.Sample(),
        study="ablation",
    )
