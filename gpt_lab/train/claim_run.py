"""Run claiming: the folder of a run's signature, or a new one."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from gpt_lab.config import auto_scale
from gpt_lab.config.schema import RunConfig
from gpt_lab.config.sections import Budget
from gpt_lab.devices import hardware
from gpt_lab.digests import Damaged
from gpt_lab.store import Run, code, find_signature, fork, gather
from gpt_lab.store.find import unreadable
from gpt_lab.train import checkpoint
from gpt_lab.train.begin_from.continuation import Origin
from gpt_lab.train.resolve_auto import ResolvedRun

ALIKE = ("cpu", "gpu", "gpus", "threads")
"""Of the hardware, what two runs must have in common to have the same numbers."""


def claim(
    cfg: RunConfig,
    plan: ResolvedRun,
    command: str,
    trunk: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    origin: Origin | None = None,
) -> Run:
    """The run of this signature in the study, made if it is not there. Not locked yet.

    Args:
        trunk: a fork point (store/fork.py) that a new run begins from, if it has come there the way this run would.
        say: told in one line what is damaged and therefore not used.
        origin: the run that it goes on from.

    Raises:
        LabError: the folder cannot be made.
    """
    signature = cfg.signature(plan.resolved if origin is None else plan.resolved | {"weights": origin.digest})
    found = find_signature(cfg.runs_dir, cfg.study, signature)
    if found is not None:
        return found
    for line in unreadable(Path(cfg.runs_dir) / cfg.study, run_name(cfg)):
        say(f"{line}; the run begins in another folder")
    made, fill = record(cfg, plan, signature, command), None
    if origin is not None:
        made["continues"] = dict(origin.told)
    if plan.teacher is not None:
        made["teacher"] = plan.teacher.told()
    if trunk is not None and (trunk / fork.FACTS).exists():
        try:
            facts = fork.check(trunk)
            state = checkpoint.read_state(trunk / fork.CHECKPOINTS / f"step-{facts['step']}")
        except Damaged as error:
            say(f"{trunk} is damaged ({error}): the run is trained from the start")
        else:
            if facts["shared"] == shared(cfg, plan, made):
                made["forked"] = {key: facts[key] for key in ("run", "id", "step")} | {"seconds": state["seconds"]}
                fill = functools.partial(fork.copy, trunk, step=facts["step"])
    return Run.create(cfg.runs_dir, cfg.study, run_name(cfg), cfg.to_dict(), made, fill)


def shared(cfg: RunConfig, plan: ResolvedRun, record: Mapping[str, Any]) -> str:
    """Equal for runs that go the same way while their schedules do: all but the budget is the same, down to the code.

    Args:
        record: of the run, as `record` makes it. A run that other code has begun is of both.
    """
    parts = [
        dataclasses.replace(cfg, budget=Budget()).signature(plan.resolved),
        dataclasses.asdict(cfg.log),
        dataclasses.asdict(cfg.sample),
        record.get("code"),
        code(),
        record.get("packages"),
        {key: (record.get("hardware") or {}).get(key) for key in ALIKE},
        # of which the lengths of rows, or what an optimizer raises, are shares
        *([dataclasses.asdict(cfg.budget)] if cfg.batch.curriculum or cfg.optim.get("rise") else ()),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run_name(cfg: RunConfig) -> str:
    """A readable name of the folder: what differs from the default, and the seed."""
    return f"{cfg.label.lstrip('.') or 'default'}-seed{cfg.seed}"


def record(cfg: RunConfig, plan: ResolvedRun, signature: str, command: str) -> dict[str, Any]:
    """What run.json holds from the start."""
    gathered = gather({**hardware.gpu(plan.device), "threads": torch.get_num_threads()})
    laws = auto_scale.recorded(cfg)
    return {
        **gathered,
        "command": command or gathered["command"],
        "code": code(),
        "signature": signature,
        "seed": cfg.seed,
        "config": cfg.flat(),
        "resolved": plan.resolved,
        "reasons": dict(plan.reasons),
        "text": dict(plan.text),
        "steps": plan.budget.steps,
        "parameters": plan.cost.parameters,
        "parameters_non_embedding": plan.cost.non_embedding,
        "train_flops_per_token": plan.cost.train_flops_per_token,
        **({"laws": laws} if laws else {}),
    }
