"""Resolution of `auto`: device, precision, kernels, compile, and how long to train."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost import memory
from gpt_lab.cost.flops import Cost, check_match, cost_of
from gpt_lab.cost.loss_chunks import loss_chunk
from gpt_lab.data.base import Dataset
from gpt_lab.devices import hardware
from gpt_lab.devices.pick import pick
from gpt_lab.errors import ConfigError
from gpt_lab.metrics import EXACT
from gpt_lab.model.gpt import GPT
from gpt_lab.model.skip_init import bare_model
from gpt_lab.optim.base import state_bytes
from gpt_lab.optim.fit import fitted
from gpt_lab.optim.schedule import check_length
from gpt_lab.parts.objective.base import NEXT, Objective
from gpt_lab.train import precision, task_scores
from gpt_lab.train.begin_from import adaptation, model_from, teacher
from gpt_lab.train.begin_from.teacher import Teacher
from gpt_lab.train.budget import TrainingLimit, budget
from gpt_lab.train.curvature import twice
from gpt_lab.train.few_bits.kept_weights import weight_bytes
from gpt_lab.train.parallel import limits
from gpt_lab.train.precision import Precision
from gpt_lab.train.speed.eager import spare_compiler
from gpt_lab.train.validation.context_extrapolation import longer

RATE = {"cpu": 1.5e11, "cuda": 2e14}
"""FLOP/s of training assumed by compile=auto: of the class of device, not measured, so that the choice is stable."""
LAUNCH_SECONDS = 0.6e-3
"""Host time to launch one layer's kernels, forward and backward: what small models on a GPU wait for."""
REPAID_AFTER = {"cpu": 400.0, "cuda": 60.0}
"""Seconds of training that repay compiling: 10-28 s for 3-6 % on CPU, 20-40 s for half and more on CUDA."""


@dataclass(frozen=True)
class ResolvedRun:
    """One run's choices.

    Fields:
        kernels: attention kernel of each layer.
        reasons: for each choice, why.
        fingerprint: of the data. text: for text, what its tokens lose (Dataset.lossy), whether they mark ends, and what
            packing does to its documents; what validation measures (Objective.measure), if not the exact likelihood;
            why a teacher may have seen the validation text.
        longer: multiples of the training context, beyond 1, at which the final weights are validated.
        notes: what was asked for and cannot be had, said before training.
        prices: training FLOPs per token in rows of each length, and those that MFU counts.
        loss_chunk: tokens whose logits the loss makes at a time; None: all.
        state_bytes: that the optimizer keeps; None: it does not say. weight_bytes: of all weights between steps.
    """

    device: str
    precision: Precision
    kernels: tuple[str, ...]
    compile: bool
    budget: TrainingLimit
    cost: Cost
    fingerprint: str
    reasons: Mapping[str, str]
    text: Mapping[str, str | bool] = field(default_factory=dict)
    longer: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    teacher: Teacher | None = None
    prices: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    state_bytes: int | None = None
    weight_bytes: int = 0
    tasks: Mapping[str, str] = field(default_factory=dict)
    loss_chunk: int | None = None

    def flops(self, read: Mapping[int, int]) -> float:
        """Training FLOPs of so many tokens in rows of each length (Dataset.read_after)."""
        return paid(self.prices, read)

    def mfu_flops_per_token(self, dataset: Dataset, first: int, last: int) -> float:
        """FLOPs as MFU counts them, of what the model reads from step `first` to before `last`, over its tokens."""
        before, after = (paid(self.prices, dataset.read_after(step), 1) for step in (first, last))
        return (after - before) / max(dataset.tokens_after(last) - dataset.tokens_after(first), 1)

    @property
    def resolved(self) -> dict[str, str]:
        """What makes this run's numbers beside its settings; part of its signature."""
        weights = {} if self.teacher is None else {"teacher": self.teacher.digest}
        return {
            "device": self.device,
            "precision": self.precision.name,
            "kernel": ",".join(dict.fromkeys(self.kernels)),
            "compile": "on" if self.compile else "off",
            "data": self.fingerprint,
            **({} if self.loss_chunk is None else {"loss": "chunked"}),
            **weights,
            **self.tasks,
        }


def resolve(cfg: RunConfig, dataset: Dataset) -> ResolvedRun:
    """The plan of a config on this machine: all that training needs can be built. Touches no weight.

    Raises:
        ConfigError: a device, precision or kernel that this machine lacks; too little memory; parts that do not fit
            together; a budget too small for one step.
        DataError: a validation split shorter than one of eval.contexts.
    """
    device, device_reason = pick(cfg.device)
    chosen = precision.resolve(cfg.precision["name"], device)
    room = _room(device, cfg)
    memory.check(cfg, room, dataset.vocab_size)
    model = bare_model(cfg, dataset.vocab_size)
    cost = cost_of(model, cfg.optim)
    costs = {length: cost_of(model, cfg.optim, length) for length in cfg.row_lengths}
    adapted = adaptation.prepare(model, cfg, chosen)
    spare_compiler()
    optimizer = _optimizer(cfg, model, chosen)
    chosen.lower(model)
    layers = model.choose_kernels(device, chosen.products, documents=cfg.batch.document_mask)
    if model.twice:
        twice.check(cfg)
    memory.check(cfg, room, dataset.vocab_size, cost.parameters)
    check_match(cfg, cost)
    objective: Objective = registry.build("objective", cfg.objective)
    check_objective(cfg, dataset, objective)
    limits.check(cfg, model, registry.build("optim", cfg.optim), optimizer, objective, chosen)
    taught_by = teacher.find(cfg, dataset, objective)
    if taught_by is not None or objective.refers:
        cost = cost.taught(cost.train_flops_per_token // 3 if taught_by is None else taught_by.forward)
    costs = {n: one.taught(cost.teacher_flops_per_token).repeated(objective.passes) for n, one in costs.items()}
    cost = cost.repeated(objective.passes)
    prices = {n: (one.train_flops_per_token, one.mfu_flops_per_token) for n, one in costs.items()}
    limit = budget(cfg, cost, (dataset.tokens_after, lambda steps: paid(prices, dataset.read_after(steps))))
    check_length(cfg.schedule, limit.steps)
    registry.build("schedule", cfg.schedule)
    compiled, compile_reason = _compile(cfg, device, limit, cost, model.twice, objective.compiles)
    chunk, chunk_reason = loss_chunk(cfg, dataset.vocab_size, cfg.tokens_at_once, device, model.twice)
    reasons = {
        "device": device_reason,
        "precision": chosen.reason,
        "kernel": "; ".join(dict.fromkeys(f"{layer.name}: {layer.reason}" for layer in layers)),
        "compile": compile_reason,
        "loss": chunk_reason,
    }
    names = tuple(layer.name for layer in layers)
    times, notes = longer(cfg, dataset, model, device, chosen)
    text: dict[str, str | bool] = {}
    if dataset.is_text:
        text = {"lossy": dataset.lossy, "ends": dataset.ends}
    if dataset.packed is not None:
        text["packing"] = str(dataset.packed)
    if objective.measure != EXACT:
        text["measure"] = objective.measure
    if model.generates != NEXT:
        text["generates"] = model.generates
    if taught_by is not None:
        notes = (*notes, taught_by.note(cost.train_flops_per_token))
    if seen := (taught_by.seen if taught_by is not None else "") or model_from.why_seen(cfg, dataset):
        text["seen"] = seen
        notes = (*notes, f"{seen}: no verdict will rest on this run")
    notes = (*notes, *adapted.note(state_bytes(optimizer)))
    told = dataset.fingerprint, reasons, text, times, notes, taught_by, prices, state_bytes(optimizer)
    kept = weight_bytes(model, chosen.kept)
    asked = task_scores.digests(cfg, dataset, model)
    return ResolvedRun(device, chosen, names, compiled, limit, cost, *told, kept, asked, chunk)


def paid(prices: Mapping[int, tuple[int, int]], read: Mapping[int, int], kind: int = 0) -> float:
    """What so many tokens in rows of each length cost, at a price of a token in such rows."""
    return float(sum(tokens * prices[length][kind] for length, tokens in read.items()))


def check_objective(cfg: RunConfig, dataset: Dataset, objective: Objective) -> None:
    """Refuses what the objective cannot do.

    Raises:
        ConfigError: data that are no text, document masks, longer contexts; the line names the way out.
    """
    name, data = f"objective={cfg.objective['name']}", cfg.data["name"]
    if objective.text_only and not dataset.is_text:
        raise ConfigError(
            f"{name} predicts any token of a text, and data={cfg.data['name']} asks about some positions only: use "
            "objective=ce, or data that are text"
        )
    if objective.rows != dataset.rows_are and "pairs" in (objective.rows, dataset.rows_are):
        raise ConfigError(f"objective=dpo and data=preferences need each other, and here are {name} and data={data}")
    if objective.rows == "conversations" and dataset.rows_are != objective.rows:
        raise ConfigError(f"{name} needs one conversation a row: use data=chat data.packed=false")
    if objective.rows == "conversations" and cfg.objective.get("tokens", dataset.longest) < dataset.longest:
        raise ConfigError(
            f"objective.tokens={cfg.objective['tokens']} is less than the {dataset.longest} of the longest answer, "
            "which could never be right: raise it"
        )
    if objective.rows and cfg.batch.micro is not None:
        raise ConfigError(f"{name} takes a step's rows at once: leave out batch.micro, or lower batch.tokens")
    if objective.refers and cfg.model_from is None and cfg.resume_from is None:
        raise ConfigError(f"{name} compares with the weights that a run begins with: name them by model_from=RUN")
    if not objective.causal and cfg.batch.document_mask:
        raise ConfigError(f"{name} has no batch.document_mask: its text begins one token later than the documents do")
    if not objective.causal and len(cfg.eval.contexts) > 1:
        raise ConfigError(f"eval.contexts is of next-token losses, and {name} has none: leave it at [1]")


def check_size(cfg: RunConfig) -> None:
    """Refuses what its settings alone say to be too large for the device, before data is read or anything is built.

    Raises:
        ConfigError: as footprint.check; a device that is not there.
    """
    memory.check(cfg, _room(pick(cfg.device)[0], cfg))


def _room(device: str, cfg: RunConfig) -> memory.Room | None:
    own = hardware.free_memory(device)
    if own is not None:
        return memory.Room(own, "on the GPU")
    room, number = memory.free(), cfg.gpus_per_trial
    if room is None or number == 1:
        return room
    return memory.Room(room.size // number, f"for each of {number} processes")


def _optimizer(cfg: RunConfig, model: GPT, chosen: Precision) -> torch.optim.Optimizer:
    """The optimizer, over weights that nobody has touched."""
    recipe = registry.build("optim", cfg.optim)
    name, estimator = f"optim={cfg.optim['name']}", getattr(recipe, "estimator", None)
    if estimator and chosen.scaler is not None:
        raise ConfigError(
            f"{name} estimates the curvature of the loss, which precision={chosen.name} scales: use precision=bf16 or "
            "precision=fp32"
        )
    if estimator == "gnb" and cfg.objective["name"] != "ce":
        raise ConfigError(
            f"{name} draws next tokens from the model (optim.estimator=gnb), which objective={cfg.objective['name']} "
            "does not train alone: use optim.estimator=hutchinson, or objective=ce"
        )
    optimizer = fitted(recipe, model, cfg)
    if model.twice and not chosen.differentiates_twice:
        raise ConfigError(
            f"{name} differentiates twice, and products of precision={cfg.precision['name']} cannot be: use "
            "precision=bf16 or precision=fp32"
        )
    if chosen.kept is not None and hasattr(optimizer, "averaged"):
        raise ConfigError(
            f"{name} validates an average of its weights, which precision={cfg.precision['name']} would round: use "
            "precision=bf16 or precision=fp32"
        )
    return optimizer


def _compile(
    cfg: RunConfig, device: str, limit: TrainingLimit, cost: Cost, twice: bool, compiles: bool
) -> tuple[bool, str]:
    if cfg.parallel["name"] == "fsdp":
        return False, "parallel=fsdp puts layers together as they compute"
    if not compiles:
        if cfg.compile == "on":
            raise ConfigError(f"objective={cfg.objective['name']} generates as it trains: leave out compile=on")
        return False, "its objective generates"
    if device == "mps":  # torch's compiler for it is a prototype
        if cfg.compile == "on":
            raise ConfigError("compile=on needs a CPU or a CUDA device, and this run takes Apple's GPU: leave it out")
        return False, "not on Apple's GPU"
    if twice:  # what the compiler makes can be differentiated once
        if cfg.compile == "on":
            raise ConfigError(
                f"optim={cfg.optim['name']} differentiates twice, and compiled code cannot be: leave out compile=on"
            )
        return False, "its optimizer differentiates twice"
    grows = cfg.batch.start is not None and cfg.batch.micro is None
    if cfg.compile == "on" and grows:
        raise ConfigError(
            "compile=on needs batch.micro with batch.start: each size of the growing batch would be compiled anew"
        )
    if cfg.compile == "auto" and grows:
        return False, "a growing batch without batch.micro has a new shape at each size"
    if cfg.compile != "auto":
        if cfg.compile == "on" and _compiler() is None:
            raise ConfigError("compile=on needs a C++ compiler, and none is found: install g++ or use compile=off")
        return cfg.compile == "on", "asked for"
    if _compiler() is None:
        return False, "no C++ compiler"
    seconds, least = _training_seconds(cfg, device, limit, cost), REPAID_AFTER[device]
    long = seconds >= least
    return long, f"about {seconds:.0f} s of training {'repay' if long else 'do not repay'} it (from {least:.0f} s)"


def _training_seconds(cfg: RunConfig, device: str, limit: TrainingLimit, cost: Cost) -> float:
    if limit.seconds is not None:
        return limit.seconds
    assert limit.steps is not None
    per_step = cfg.tokens_per_step * cost.mfu_flops_per_token / RATE[device]
    launches = LAUNCH_SECONDS * cfg.scale.depth if device == "cuda" else 0.0
    return limit.steps * max(per_step, launches)


def _compiler() -> str | None:
    """The C++ compiler that torch.compile would call."""
    named = os.environ.get("CXX")
    return shutil.which(named) if named else shutil.which("g++") or shutil.which("clang++")
