"""What learns: model, optimizer, objective and batches of a run, in each of its ranks.

Rank 0's trainer asks for steps, validation and checkpoints; what is marked `together` the other ranks then do too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.data.base import Dataset
from gpt_lab.devices import hardware
from gpt_lab.optim.fit import fitted
from gpt_lab.parts.objective.base import Objective
from gpt_lab.train.begin_from import continuation
from gpt_lab.train.begin_from.first_weights import begun, reference
from gpt_lab.train.checkpoint import Content, read_state
from gpt_lab.train.feed import Feed
from gpt_lab.train.parallel.ranks import ALONE, Ranks
from gpt_lab.train.resolve_auto import ResolvedRun
from gpt_lab.train.speed.freed_memory import keep_freed_memory
from gpt_lab.train.step import StepOutcome, Stepper
from gpt_lab.train.validation.context_extrapolation import evaluate_longer
from gpt_lab.train.validation.evaluate import eval_rows, evaluate
from gpt_lab.train.validation.quantized import evaluate_quantized
from gpt_lab.train.validation.sample import draw

P = ParamSpec("P")
R = TypeVar("R")


def together(method: Callable[Concatenate[Learner, P], R]) -> Callable[Concatenate[Learner, P], R]:
    """Marks what every rank does once the first has asked for it; arguments are plain values."""

    @functools.wraps(method)
    def asked(self: Learner, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.ranks.watched():
            self.ranks.announce(method.__name__, *args)
            return method(self, *args, **kwargs)

    return asked


class Learner:
    """The state of a run at step 0, and what is done with it.

    Args:
        caught: the number of a signal that asks to stop, or None; rank 0's counts.
        ranks: those that share the run.
    """

    def __init__(
        self,
        cfg: RunConfig,
        plan: ResolvedRun,
        dataset: Dataset,
        origin: continuation.Origin | None = None,
        caught: Callable[[], int | None] = lambda: None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.cfg, self.plan, self.dataset, self.ranks = cfg, plan, dataset, ranks
        self.caught = lambda: ranks.told(caught())
        if plan.device == "cpu":
            keep_freed_memory()
        torch.manual_seed(cfg.draw_seed % 2**63)  # the lab's own draws are keyed; this is for parts of other packages
        self.model = begun(cfg, dataset.vocab_size, origin)
        ranks.place(self.model, plan.device)
        recipe = registry.build("optim", cfg.optim)
        self.optimizer: torch.optim.Optimizer = fitted(recipe, self.model, cfg)
        ranks.fit(self.model, self.optimizer)
        plan.precision.lower(self.model)
        plan.precision.keep(self.model)
        self.model.choose_kernels(plan.device, plan.precision.products, documents=cfg.batch.document_mask)
        self.objective: Objective = registry.build("objective", cfg.objective)
        self.objective.chunk = plan.loss_chunk
        if plan.teacher is not None:
            documents = cfg.batch.document_mask
            self.objective.teacher_model = plan.teacher.load(plan.device, plan.precision, documents)
        elif self.objective.refers:
            begins = cfg, dataset.vocab_size, origin, plan.device, plan.precision.products
            self.objective.teacher_model = reference(*begins)
        self.stepper = Stepper(*self.parts, recipe.clip, compiled=plan.compile, seed=cfg.draw_seed, ranks=ranks)
        draw_seed = cfg.draw_seed if self.model.draws or self.objective.draws else None
        self.feed = Feed(dataset, plan.device, cfg.batch.micro, draw_seed, ranks.rank, ranks.number)
        self.eval_rows = eval_rows(plan.device, cfg.scale.context, dataset.vocab_size)

    @property
    def parts(self) -> tuple[Any, torch.optim.Optimizer, Objective, Any]:
        """What steps are made of."""
        return self.model, self.optimizer, self.objective, self.plan.precision

    @together
    def warm_up(self, steps: Collection[int]) -> None:
        """Compiles for the batches of these steps."""
        self.stepper.warm_up(*map(self.feed.take, steps))

    @together
    def step(self, step: int, multiplier: float, decay: float, progress: float) -> tuple[StepOutcome, int]:
        """One optimizer step, 0-based, and its counted targets; does not wait for the device."""
        batch = self.feed.take(step)
        outcome = self.stepper(batch, multiplier, decay, step, progress)
        self.feed.prefetch(step + 1)
        return outcome, batch.targets

    @together
    def evaluate(self, limit: int | None) -> dict[str, float] | None:
        """Metrics on the validation split; None if a signal came."""
        with self.stepper.averaged():
            return self._evaluate(limit)

    @together
    def evaluate_longer(self) -> dict[str, float]:
        """Metrics in windows of each further multiple of the context.

        Raises:
            Stopped: a signal came.
        """
        how = self.plan.precision, self.dataset, self.plan.longer, self.eval_rows, self.caught
        with self.stepper.averaged():
            return evaluate_longer(self.model, self.cfg, *how)

    @together
    def evaluate_quantized(self) -> dict[str, float] | None:
        """Metrics of weights in few bits; None if a signal came."""
        with self.stepper.averaged():
            return evaluate_quantized(self.model, self.cfg.quantize, lambda: self._evaluate(None))

    @together
    def sample(self, prompt: str) -> str:
        """Text of the model as it is now."""
        tokenizer = self.dataset.tokenizer
        assert tokenizer is not None
        how = self.cfg.sample, self.plan.precision, self.cfg.seed, self.dataset.template
        with self.stepper.averaged():
            text = draw(self.model, tokenizer, prompt, *how)
        self.ranks.forget()
        return text

    @together
    def save(self, path: Path, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint.

        Raises:
            LabError: it cannot be written; nothing of it is left.
        """
        with self.stepper.averaged():
            self.ranks.save(self._content, path, state)

    def load(self, path: Path) -> dict[str, Any]:
        """Puts a checkpoint back; returns the state it was given.

        Raises:
            Damaged: it is not as it was written; nothing is changed. DataError: it is of another model.
        """
        return self.restore(path, read_state(path))

    @together
    def restore(self, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        """As `load`, of a checkpoint whose state has been read."""
        return self.ranks.restore(self._content, path, state)

    @together
    def peak_memory_gb(self) -> list[float]:
        """The most memory that each rank has held so far."""
        here = torch.tensor([hardware.peak_memory_gb(self.plan.device)], dtype=torch.float64)
        return [float(one) for one in self.ranks.gather(here)]

    @property
    def _content(self) -> Content:
        return Content(self.model, self.optimizer, self.plan.precision.scaler)

    def _evaluate(self, limit: int | None) -> dict[str, float] | None:
        return evaluate(
            self.model,
            self.objective,
            self.plan.precision,
            self.dataset,
            rows=self.eval_rows,
            seed=self.cfg.validation_seed,
            limit=limit,
            interrupted=lambda: self.caught() is not None,
            ranks=self.ranks,
        )
