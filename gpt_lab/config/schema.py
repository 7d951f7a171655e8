"""RunConfig: the settings of one run, typed, checked and immutable. Imports neither torch nor hydra."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from gpt_lab.config.batch_sizes import BatchSizes, growing
from gpt_lab.config.sections import Adapt, Batching, Budget, Checkpoint, Eval, Log, Model, Quantize, Sample, Scale
from gpt_lab.errors import ConfigError
from gpt_lab.options import (
    Device,
    NonEmpty,
    NonNegativeInt,
    PositiveInt,
    check,
)

Section = Mapping[str, Any]
"""One group's choice: `name` and the options of that part."""


@dataclass(frozen=True)
class RunConfig:
    """One run. Groups are `{name, option: value, ...}`; the rest are fixed keys."""

    attention: Section
    position: Section
    norm: Section
    mlp: Section
    residual: Section
    init: Section
    optim: Section
    schedule: Section
    precision: Section
    kernel: Section
    data: Section
    tokenizer: Section
    objective: Section
    tracker: Section
    scale: Scale
    model: Model
    budget: Budget
    batch: Batching
    eval: Eval
    checkpoint: Checkpoint
    log: Log
    sample: Sample
    adapt: Adapt = field(default_factory=Adapt)
    quantize: Quantize = field(default_factory=Quantize)
    parallel: Section = field(default_factory=lambda: {"name": "none"})
    seed: NonNegativeInt = 0
    replica: NonNegativeInt = 0
    """Another draw of all that is random in a run but the order of its data."""
    study: NonEmpty = "default"
    runs_dir: NonEmpty = "runs"
    device: Device = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    gpus_per_trial: PositiveInt = 1
    """Devices that share the run, each with a process of its own: `parallel` says how."""
    chunked_loss: Literal["auto", "on", "off"] = "auto"
    """Whether the loss is computed some tokens at a time, without all logits in memory: cost/loss_chunks.py."""
    force: bool = False
    probe: Literal["off", "light"] = "off"
    """What is noted of the model at each evaluation, which changes nothing of it: train/probe."""
    match: Literal["params", "flops"] | None = None
    """What the model was made equal in, by gpt_lab.cost.match: parameters beside the embeddings, or FLOPs per token."""
    match_to: PositiveInt | None = None
    """How many of them."""
    resume_from: NonEmpty | None = None
    """The run whose weights this one begins with: train/begin_from/continuation.py."""
    model_from: NonEmpty | None = None
    """The folder or run whose model, weights and tokenizer this one begins with: train/begin_from/model_from.py."""
    label: str = field(default="", metadata={"derived": True})
    """Readable name of what differs from the default, derived from the command line."""

    @property
    def data_seed(self) -> int:
        """The seed of the data order: the run's, unless batch.seed fixes another."""
        return self.seed if self.batch.seed is None else self.batch.seed

    @property
    def draw_seed(self) -> int:
        """The seed of initial values and dropout: the run's, or another for each replica of it."""
        if self.replica == 0:
            return self.seed
        digest = hashlib.sha256(f"{self.seed}/{self.replica}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    @property
    def validation_seed(self) -> int:
        """The seed of what validation draws, such as masks: another for each seed, replica and order of the data."""
        return (self.data_seed * 0x9E3779B97F4A7C15 + self.draw_seed) % 2**63

    @property
    def rows(self) -> int:
        """Sequences per optimizer step, the most if they become more."""
        return self.batch.tokens // self.scale.context

    @property
    def tokens_at_once(self) -> int:
        """Tokens that go through the model at once, the most if they become more."""
        return min(self.batch.micro or self.rows, self.rows) * self.scale.context

    @property
    def tokens_per_step(self) -> int:
        """Tokens of an optimizer step of the most sequences."""
        return self.rows * self.scale.context

    @property
    def batch_sizes(self) -> BatchSizes:
        """The sequences of each optimizer step."""
        batch, context = self.batch, self.scale.context
        if batch.start is None or batch.ramp is None:
            return BatchSizes(self.rows)
        return growing(batch.start // context, self.rows, batch.micro or 1, -(-batch.ramp // context))

    @property
    def row_lengths(self) -> list[int]:
        """The lengths that rows of training may have, rising: the context, and if they differ its halves."""
        least = self.batch.shortest or max(1, self.scale.context // 8)
        found = [self.scale.context]
        if self.batch.packing != "bucketed" and not self.batch.curriculum:
            return found
        while found[0] % 2 == 0 and found[0] // 2 >= least:
            found.insert(0, found[0] // 2)
        return found

    def tokens_after(self, steps: int) -> int:
        """Tokens of the first so many optimizer steps."""
        return self.batch_sizes.first(steps) * self.scale.context

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as written to config.yaml."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def flat(self) -> dict[str, Any]:
        """Dotted keys to scalars and lists, as trackers and tables want them."""
        return dict(_flatten("", self.to_dict()))

    def identity(self) -> str:
        """12 hex digits over what was asked for: equal for a run of the same settings, whoever ran it and wherever."""
        return identity(self.flat())

    def signature(self, resolved: Mapping[str, Any]) -> str:
        """12 hex digits over all that changes the result: the settings but NOT_IDENTITY, and what `auto` became.

        Args:
            resolved: device, compile, precision and kernel as chosen on this machine, fingerprint of the data.
        """
        kept = {k: v for k, v in self.flat().items() if _counts(k, v) and k not in RESOLVED}
        text = json.dumps([kept, dict(resolved)], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def identity(flat: Mapping[str, Any]) -> str:
    """RunConfig.identity() of flat settings, such as a run's record keeps under `config`."""
    kept = {k: _number(v) for k, v in flat.items() if _counts(k, v)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:12]


def misfit(flat: Mapping[str, Any]) -> str:
    """What of flat settings, read from a file, cannot be a setting, in one sentence; "" if nothing.

    A part's options are not held against the part, which may be of another package: they are plain values, or lists
    of such, and its name is text.
    """
    for key, value in flat.items():
        try:
            _check_flat(key, tuple(value) if isinstance(value, list) else value, type(value).__name__)
        except (ConfigError, TypeError) as error:  # TypeError: a list in a list has no hash
            return str(error) if isinstance(error, ConfigError) else f"{key} holds what is no setting"
    return ""


@functools.lru_cache(maxsize=4096)
def _check_flat(key: str, value: Any, kind: str) -> None:
    """Refuses one setting; `kind` tells 1, 1.0 and true apart, which are equal."""
    hint = str if key.endswith(".name") else _flat_hints().get(key, float | None if key == "optim.lr" else Any)
    check(key, list(value) if kind == "list" else value, hint)


@functools.cache
def _flat_hints() -> dict[str, Any]:
    """Dotted fixed keys and their types."""
    found = {}
    for field_name, hint in get_type_hints(RunConfig, include_extras=True).items():
        inner = get_type_hints(hint, include_extras=True) if dataclasses.is_dataclass(hint) else None
        if inner is None and hint is not Section:
            found[field_name] = hint
        found |= {f"{field_name}.{name}": kind for name, kind in (inner or {}).items()}
    return found


NOT_IDENTITY = frozenset(
    {
        *("study", "runs_dir", "tracker", "log", "sample", "checkpoint", "force", "label", "probe"),
        *("parallel", "gpus_per_trial"),
    }
)
"""Top-level keys that change where a run is kept, what is shown of it or how many devices share it, never its numbers.

Sums over ranks are in another order, as they are on another number of threads: a run may go on with any number of
ranks, and its record says with how many it went from which step."""

LATER: Mapping[str, Any] = {
    "match": None,
    "match_to": None,
    "resume_from": None,
    "model_from": None,
    "chunked_loss": "auto",
    "eval.contexts": [1],
    "eval.tasks": [],
    "eval.shots": 0,
    "eval.items": 500,
    "batch.start": None,
    "batch.ramp": None,
    "batch.packing": "stream",
    "batch.shortest": None,
    "batch.curriculum": 0.0,
    "schedule.weight_decay": "constant",
    "model.embed_norm": False,
    "data.raw": False,
    "position.pattern": "R",
    "position.local_base": None,
    "residual.alpha": 1.0,
    "position.original": None,
    "position.low_freq_factor": None,
    "position.high_freq_factor": None,
    "position.truncate": True,
    "attention.head_dim": None,
    "attention.sinks": False,
    "model.embed_scale": False,
    "mlp.shared_gate": False,
    "mlp.routed_scale": 1.0,
    "mlp.groups": 1,
    "mlp.top_groups": None,
    "mlp.clamp": None,
    "optim.state": "fp32",
    "optim.ns": "quintic",
    "optim.qk_clip": None,
    "tokenizer.vocab": None,
    "adapt.rank": None,
    "adapt.alpha": 16.0,
    "adapt.targets": [],
    "adapt.bits": None,
    "adapt.group": 64,
    "quantize.bits": None,
    "quantize.group": 64,
}
"""Keys that came later, with the value that changes nothing: older runs, without them, keep their identity."""

MATCHED = ("mlp.d_ff", "scale.depth", "scale.width")
"""Sizes that `match` may set, the first that will do."""

TOLERANCE = {"params": 0.005, "flops": 0.01}
"""Relative difference up to which two models are matched, for each value of `match`."""

RESOLVED = frozenset({"device", "compile", "chunked_loss", "precision.name", "kernel.name"})
"""Keys whose meaning on this machine is in `resolved`: `auto` and the choice it made are the same run."""


def _counts(key: str, value: Any) -> bool:
    plain = _without_letter(key)
    return key.split(".")[0] not in NOT_IDENTITY and not (plain in LATER and value == LATER[plain])


@functools.lru_cache(maxsize=4096)
def _without_letter(key: str) -> str:
    """The option of a part that a letter's part, or a source of data, has."""
    return re.sub(r"\.(letters|sources)\.\w+\.", ".", key)


def _number(value: Any) -> Any:
    """1.0 as 1: a server that keeps JSON may drop the point."""
    if isinstance(value, list | tuple):
        return [_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _flatten(prefix: str, tree: Mapping[str, Any]) -> Any:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value
