"""`probe=light`: one line at each evaluation on the model and on the step before it, in the run's probe.jsonl."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from gpt_lab.model.gpt import GPT
from gpt_lab.parts.objective.base import Objective
from gpt_lab.store import Run
from gpt_lab.store.atomic_files import Lines
from gpt_lab.store.metric_lines import read_lines
from gpt_lab.store.run import PROBED
from gpt_lab.train.feed import StepBatch
from gpt_lab.train.precision import Precision
from gpt_lab.train.probe import gradients
from gpt_lab.train.probe.activations import activations

ROWS = 2
"""Rows of the step's batch whose activations are seen."""


class LightProbe:
    """Watches the steps of a run; training is bit for bit as without it.

    Args:
        every: steps between two evaluations: the last step before each is watched.
    """

    def __init__(self, run: Run, model: GPT, objective: Objective, precision: Precision, every: int) -> None:
        self.path = run.path / PROBED
        self.model, self.objective, self.precision, self.every = model, objective, precision, every
        self._batch: StepBatch | None = None
        self._before: dict[str, Tensor] = {}
        self._seen: dict[str, float] = {}

    def due(self, step: int) -> bool:
        """Whether an evaluation follows the step of this number, from 0."""
        return (step + 1) % self.every == 0

    def before_update(self, batch: StepBatch, norm: Tensor, clip: float) -> None:
        """Notes the gradients of a step that is watched, as they were before clipping, and keeps its weights."""
        self._batch = batch
        found = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        clipped = max(1.0, norm.item() / clip) if clip > 0 else 1.0
        self._seen = {f"grad_norm/{name}": value * clipped for name, value in gradients.norms(found).items()}
        self._before = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def after_update(self) -> None:
        """Compares the weights with those that were kept."""
        now = dict(self.model.named_parameters())
        moved = gradients.norms({name: now[name].detach().float() - old.float() for name, old in self._before.items()})
        sizes = gradients.norms(self._before)
        self._seen |= {f"update_ratio/{name}": moved[name] / size for name, size in sizes.items() if size > 0}
        self._before = {}

    def write(self, step: int) -> None:
        """Adds the line of an evaluation; lines of this step and of later ones, of an earlier process, go."""
        if self._batch is None:  # a resume that begins with an evaluation: its step was in another process
            return
        micro = self._batch.micro[0]
        documents_BT = None if micro.documents_BT is None else micro.documents_BT[:ROWS]
        with gradients.untouched(self.model), self.precision.autocast():
            seen = activations(self.model, micro.tokens_BT[:ROWS], documents_BT)
        noise = gradients.noise(self.model, self.objective, self.precision, self._batch)
        values = self._seen | {f"noise/{name}": value for name, value in noise.items()} | seen
        self._batch, self._seen = None, {}
        lines = Lines(self.path)
        rows, _ = read_lines(self.path, lines.read())
        kept: list[dict[str, Any]] = [row for row in rows if row["step"] < step]
        lines.replace([*kept, {"step": step, **values}])


def noise_scale(rows: list[dict[str, Any]]) -> float:
    """The gradient noise scale in targets, of the means of all lines; NaN where they do not say."""
    known = [row for row in rows if {"noise/square", "noise/trace"} <= row.keys()]
    square, trace = (sum(row[f"noise/{name}"] for row in known) for name in ("square", "trace"))
    return trace / square if square > 0 and trace > 0 else math.nan


def build(kind: str, run: Run, parts: tuple[GPT, Any, Objective, Precision], every: int) -> LightProbe | None:
    """The probe that a config's `probe` names; None: off. The parts are those that steps are made of."""
    model, _, objective, precision = parts
    return None if kind == "off" else LightProbe(run, model, objective, precision, every)
