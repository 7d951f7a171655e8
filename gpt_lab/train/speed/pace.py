"""Step time of a config on this machine: a few training steps, validation and a checkpoint, timed.

Everything goes through the trainer itself, at a learning rate of 0. A model whose step would take seconds is timed on
fewer rows, then on fewer layers, and its time is carried over by FLOPs and, for the optimizer, by parameters.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from gpt_lab.config.schema import RunConfig
from gpt_lab.console.signals import Signals
from gpt_lab.data.base import Batch, Dataset
from gpt_lab.data.dataset import open_dataset
from gpt_lab.data.shard_cache import cache_folder
from gpt_lab.errors import ConfigError
from gpt_lab.model.skip_init import bare_model
from gpt_lab.store.atomic_files import writing
from gpt_lab.train.claim_run import claim
from gpt_lab.train.resolve_auto import ResolvedRun, resolve
from gpt_lab.train.trainer import Trainer
from gpt_lab.train.validation.evaluate import evaluate

ENOUGH = 0.6
"""Seconds of steps that are timed; at least three steps, but for those of more than a second."""
GLANCE = 0.15
"""Seconds of validation that are timed."""
MOST = 2e11
"""FLOPs of a timed step on a CPU: what takes about a second on one core."""
COMPILING = 20.0
"""Seconds that compiling takes on a CPU, where it is not tried: 10 to 28 (it saves 3-6 % of a step there)."""


@dataclass(frozen=True)
class Pace:
    """Seconds that the parts of a run take.

    Fields:
        start: until it has its data, model, optimizer and folder. compile: of torch.compile; 0 without.
        step: one optimizer step. save: a checkpoint. sample: a text of the model.
        validation: one token, by the window's length in training contexts.
        share: of the time, how much of it the thread that trains had a processor.
    """

    start: float
    compile: float
    step: float
    save: float
    sample: float
    validation: dict[int, float]
    share: float


def measure(cfg: RunConfig, ready: Callable[[], None] = lambda: None) -> Pace:
    """The pace of a config in this process, in about two seconds.

    Of one that several devices share: of a step's rows as many as one of them has, without what they send each other.

    Args:
        ready: called before the steps that are timed; may wait for other processes.

    Raises:
        ConfigError, DataError: it cannot be trained here. LabError: no memory, no space for the checkpoint.
    """
    began = time.perf_counter()
    cache = cache_folder()
    with writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".pace-") as folder, Signals() as signals:
        whole = resolve(cfg, open_dataset(cfg))
        compiled = whole.compile and whole.device == "cuda"
        plain: dict[str, Any] = {"runs_dir": folder, "study": "pace", "tracker": {"name": "none"}, "force": False}
        plain |= {"parallel": {"name": "none"}, "gpus_per_trial": 1}
        small = dataclasses.replace(_small(cfg, whole), compile="on" if compiled else "off", **plain)
        dataset = open_dataset(small)
        plan = resolve(dataclasses.replace(small, runs_dir=cfg.runs_dir), dataset)  # where a teacher is
        run = claim(small, plan, "train")
        trainer = Trainer(small, plan, dataset, run, Console(file=io.StringIO()), signals)
        trainer.schedule = lambda progress, step: 0.0  # whatever the rate: nothing diverges
        start = time.perf_counter() - began
        if compiled:
            began = time.perf_counter()
            trainer.learner.warm_up([0])
        compiling = time.perf_counter() - began if compiled else COMPILING if whole.compile else 0.0
        step, update, share = _steps(trainer, ready)
        tokens = {times: _validation(trainer, times) for times in (1, *plan.longer)}
        save, sample = _save(trainer), _timed(trainer.draw_sample)
    work = _work(cfg, whole) / (_work(small, plan) * cfg.gpus_per_trial)
    each = whole.cost.mfu_flops_per_token / plan.cost.mfu_flops_per_token
    size = whole.cost.parameters / plan.cost.parameters
    return Pace(
        start=start * size,
        compile=compiling,
        step=(step - update) * work + update * size,
        save=save * size,
        sample=sample * each,
        validation={times: seconds * each for times, seconds in tokens.items()},
        share=share,
    )


def _work(cfg: RunConfig, plan: ResolvedRun) -> int:
    """FLOPs of a step."""
    return cfg.tokens_per_step * plan.cost.mfu_flops_per_token


def _small(cfg: RunConfig, plan: ResolvedRun) -> RunConfig:
    """The config with as many rows and layers as can be timed, its batch of full size from the first step on."""
    cfg = dataclasses.replace(cfg, batch=dataclasses.replace(cfg.batch, start=None, ramp=None, curriculum=0.0))
    work = _work(cfg, plan)
    if plan.device != "cpu" or work <= MOST:
        return cfg
    together = 2 if cfg.data["name"] == "preferences" else 1  # rows of a pair
    rows = together * max(1, int(cfg.rows * MOST / work) // together)
    depth = cfg.scale.depth
    if work / cfg.rows > MOST:
        fewest = max(1, int(depth * MOST * cfg.rows / work))
        depth = next(fewer for fewer in range(fewest, depth + 1) if fewer == depth or _can_be_built(cfg, fewer))
    micro = None if cfg.batch.micro is None or cfg.batch.micro >= rows else cfg.batch.micro
    return dataclasses.replace(
        cfg,
        batch=dataclasses.replace(cfg.batch, tokens=rows * cfg.scale.context, micro=micro),
        scale=dataclasses.replace(cfg.scale, depth=depth),
        match=None,
        match_to=None,
        budget=dataclasses.replace(cfg.budget, steps=1000, tokens=None, flops=None, seconds=None),
    )


def _can_be_built(cfg: RunConfig, depth: int) -> bool:
    """Whether the parts take so many layers: some want a multiple."""
    try:
        bare_model(dataclasses.replace(cfg, scale=dataclasses.replace(cfg.scale, depth=depth)), 1)
    except ConfigError:
        return False
    return True


def _steps(trainer: Trainer, ready: Callable[[], None]) -> tuple[float, float, float]:
    """Seconds of a step, those of its optimizer, and the share of them that its thread had a processor."""
    spent = [0.0]
    update = trainer.stepper.update

    def timed() -> Any:
        began = time.perf_counter()
        done = update()
        spent[0] += time.perf_counter() - began
        return done

    trainer.stepper.update = timed
    number, seconds = 0, _timed(trainer.step)  # the first allocates, and so does the second: its optimizer's state
    if seconds < ENOUGH:
        trainer.step()
    trainer.history.settle()
    ready()
    spent[0], began, worked = 0.0, time.perf_counter(), time.thread_time()
    while number == 0 or seconds < ENOUGH or (number < 3 and seconds < 4 * ENOUGH):
        trainer.step()
        number += 1
        if number % trainer.cfg.log.every == 0:
            trainer.history.settle()
        seconds = time.perf_counter() - began
    trainer.history.settle()
    seconds = time.perf_counter() - began
    return seconds / number, spent[0] / number, (time.thread_time() - worked) / seconds


class _Glance:
    """The first batches of a validation set, in windows of `times` contexts: as many as a moment takes."""

    def __init__(self, dataset: Dataset, times: int) -> None:
        self.dataset, self.times = dataset, times
        self.bytes_per_token, self.is_text = dataset.bytes_per_token, dataset.is_text
        self.parts: dict[str, Dataset] = {}
        self.tokens = 0
        self.began = time.perf_counter()

    def validation(self, rows: int, limit: int | None = None) -> Iterator[Batch]:
        """As Dataset.validation; the first batch, which allocates, is not counted where there is another."""
        for number, batch in enumerate(self.dataset.validation(max(1, rows // self.times**2), times=self.times)):
            if number == 1:
                self.tokens, self.began = 0, time.perf_counter()
            self.tokens += batch.tokens_BT.numel()
            yield batch
            if number > 0 and time.perf_counter() - self.began > GLANCE:
                return


def _validation(trainer: Trainer, times: int) -> float:
    """Seconds of a validation token in windows of `times` contexts."""
    kernels = {"documents": trainer.cfg.batch.document_mask}
    device, precision = trainer.plan.device, trainer.plan.precision
    glance: Any = _Glance(trainer.dataset, times)
    trainer.model.choose_kernels(device, precision.products, times=times, **kernels)
    evaluate(trainer.model, trainer.learner.objective, precision, glance, rows=trainer.learner.eval_rows)
    seconds = time.perf_counter() - glance.began
    trainer.model.choose_kernels(device, precision.products, **kernels)
    return float(seconds / glance.tokens)


def _save(trainer: Trainer) -> float:
    """Seconds of a checkpoint that is not the first."""
    trainer.save()
    trainer.step()
    return _timed(trainer.save)


def _timed(what: Any) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began
