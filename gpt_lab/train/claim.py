"""Which folder a run lives in: that of its signature, or a new one."""

from __future__ import annotations

from typing import Any

import torch

from gpt_lab.schema import RunConfig
from gpt_lab.store import Run, find_signature, gather
from gpt_lab.train.plan import Plan


def claim(cfg: RunConfig, plan: Plan, command: str) -> Run:
    """The run of this signature in the study, made if it is not there. Not locked yet.

    Raises:
        LabError: the folder cannot be made.
    """
    signature = cfg.signature(plan.resolved)
    found = find_signature(cfg.runs_dir, cfg.study, signature)
    if found is not None:
        return found
    return Run.create(cfg.runs_dir, cfg.study, run_name(cfg), cfg.to_dict(), record(cfg, plan, signature, command))


def run_name(cfg: RunConfig) -> str:
    """A readable name of the folder: what differs from the default, and the seed."""
    return f"{cfg.label.lstrip('.') or 'default'}-seed{cfg.seed}"


def record(cfg: RunConfig, plan: Plan, signature: str, command: str) -> dict[str, Any]:
    """What run.json holds from the start."""
    gpu = {"gpu": torch.cuda.get_device_name(), "gpus": torch.cuda.device_count()} if plan.device == "cuda" else {}
    gathered = gather({**gpu, "threads": torch.get_num_threads()})
    return {
        **gathered,
        "command": command or gathered["command"],
        "signature": signature,
        "seed": cfg.seed,
        "config": cfg.flat(),
        "resolved": plan.resolved,
        "reasons": dict(plan.reasons),
        "steps": plan.budget.steps,
        "parameters": plan.cost.parameters,
        "parameters_non_embedding": plan.cost.non_embedding,
        "train_flops_per_token": plan.cost.train_flops_per_token,
    }
