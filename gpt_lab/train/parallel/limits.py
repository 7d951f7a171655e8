"""What cannot be shared among ranks, refused before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT
from gpt_lab.optim.matrix.muon import MuonRule
from gpt_lab.parts.objective.base import Objective
from gpt_lab.train.precision import Precision


def check(
    cfg: RunConfig, model: GPT, recipe: Any, optimizer: torch.optim.Optimizer, objective: Objective, chosen: Precision
) -> None:
    """Refuses a run whose numbers on several devices would not be those of one.

    Raises:
        ConfigError: the first reason, with the way out.
    """
    if cfg.gpus_per_trial == 1:
        return
    if chosen.device == "cuda" and (there := torch.cuda.device_count()) < cfg.gpus_per_trial:
        raise ConfigError(f"gpus_per_trial={cfg.gpus_per_trial}, and PyTorch finds {there} CUDA devices: lower it")
    whys = _of_any(cfg, model, recipe, objective, chosen)
    for why in whys:
        raise ConfigError(f"parallel={cfg.parallel['name']}: {why}")
    if cfg.parallel["name"] == "fsdp":
        for why in _of_shares(cfg, model, recipe, optimizer, objective, chosen):
            raise ConfigError(f"parallel=fsdp: {why}")


def _of_any(cfg: RunConfig, model: GPT, recipe: Any, objective: Objective, chosen: Precision) -> Iterator[str]:
    number, optim = cfg.gpus_per_trial, f"optim={cfg.optim['name']}"
    fewest = (cfg.batch.start or cfg.batch.tokens) // cfg.scale.context
    if fewest < number:
        key = "start" if cfg.batch.start else "tokens"
        yield f"{fewest} rows a step (batch.{key}) are fewer than {number} devices: raise it, or use fewer"
    if objective.rows:
        yield f"objective={cfg.objective['name']} takes a step's rows at once: leave parallel out"
    if cfg.probe != "off":
        yield f"probe={cfg.probe} sees one process's part of a step: leave it out"
    if cfg.adapt.rank is not None:
        yield "adapt.rank trains few weights, and one device will do: leave parallel out"
    if getattr(recipe, "estimator", None):
        yield f"{optim} estimates curvature from the rows of one process: use optim=adamw or optim=muon"
    if getattr(recipe, "qk_clip", None) is not None:
        yield "optim.qk_clip sees the scores of one process: leave it out"
    if chosen.kept is not None:
        yield f"precision={cfg.precision['name']} keeps weights that cannot be exchanged: use precision=auto"
    for part in model.modules():
        if not hasattr(part, "after_step"):
            continue
        name = getattr(type(part), "part", ("part", type(part).__name__))
        said = f"{name[0]}={name[1]}"
        if not hasattr(part, "counts"):
            yield f"{said} learns from the rows of one process (it names no `counts` to be summed): use another part"
        elif cfg.batch.packing == "bucketed" or cfg.batch.start is not None or cfg.rows % number:
            yield f"{said} counts tokens, and needs as many rows on each device: use a batch that {number} divides"


def _of_shares(
    cfg: RunConfig,
    model: GPT,
    recipe: Any,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    chosen: Precision,
) -> Iterator[str]:
    if not getattr(recipe, "by_element", False) and type(optimizer) is not MuonRule:
        yield f"optim={cfg.optim['name']} looks at whole tensors, of which a device has rows: use parallel=ddp"
    if type(objective).train is not Objective.train or type(objective).score is not Objective.score:
        yield f"objective={cfg.objective['name']} reads more than logits: use parallel=ddp"
    if model.order != list(range(cfg.scale.depth)):
        yield f"residual={cfg.residual['name']} uses a layer more than once: use parallel=ddp"
    if scalars := [name for name, p in model.named_parameters() if p.ndim == 0]:
        yield f"{scalars[0]} is a single number, which has no rows: use parallel=ddp"
    if chosen.scaler is not None or chosen.name == "fp8":
        yield f"precision={chosen.name} needs the whole gradient: use precision=bf16, or parallel=ddp"
    if cfg.quantize.bits is not None:
        yield "quantize.bits rounds whole weights: use `quantize` on the finished run, or parallel=ddp"
    if cfg.compile == "on":
        yield "compile=on has not been tried with it: leave compile out"
