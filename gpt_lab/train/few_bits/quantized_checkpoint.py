"""`quantize RUN`: a checkpoint of a run with the weights of its linear layers in 4 or 8 bits, and what that costs."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save_file

from gpt_lab import registry
from gpt_lab.adapt.group_codes import encoded
from gpt_lab.adapt.rounding import linear_weights
from gpt_lab.data.base import Dataset
from gpt_lab.data.dataset import open_dataset
from gpt_lab.digests import write_sums
from gpt_lab.errors import DataError
from gpt_lab.infer.generate import complete
from gpt_lab.infer.trained_model import WEIGHTS, Trained, load_run, whole_checkpoint
from gpt_lab.parts.objective.base import Objective
from gpt_lab.store import Run
from gpt_lab.store.atomic_files import sync_folder, writing
from gpt_lab.train import precision
from gpt_lab.train.validation.evaluate import eval_rows, evaluate
from gpt_lab.train.validation.sample import prompt_tokens

FACTS = "quantized.json"
TIMED = 64
"""Tokens generated to measure how fast; at most what fits into the context."""


class Measured(NamedTuple):
    """A model: bytes of its file, validation metrics ({}: its data are not here), tokens per second at batch 1."""

    nbytes: int
    values: dict[str, float]
    tokens_per_s: float


class Written(NamedTuple):
    """The checkpoint that was written, and what was measured of the one that it is of and of itself."""

    place: Path
    source: str
    before: Measured
    after: Measured


def name_of(bits: int, group: int) -> str:
    """What the checkpoint is called."""
    return f"int{bits}-g{group}"


def quantize(
    run: Run, bits: int, group: int, checkpoint: str | None = None, say: Callable[[str], None] = lambda line: None
) -> Written:
    """Writes the checkpoint `int<bits>-g<group>` of a run, whole or not at all, in place of one of that name.

    Args:
        checkpoint, say: as whole_checkpoint.

    Raises:
        ConfigError, DataError: as load_run. LabError: it cannot be written.
    """
    source = whole_checkpoint(run, checkpoint, say)
    trained = load_run(run, source.name)
    tensors = encoded(trained.model.state_dict(), bits, group, linear_weights(trained.model))
    place = run.checkpoints / name_of(bits, group)
    temporary = run.checkpoints / f".tmp-{place.name}-{os.getpid()}"
    facts = {"of": source.resolve().name, "bits": bits, "group": group}
    with writing(place):
        try:
            temporary.mkdir()
            save_file(tensors, temporary / WEIGHTS)
            (temporary / FACTS).write_text(json.dumps(facts), encoding="utf-8")
            write_sums(temporary)
            sync_folder(temporary)
            if place.exists():
                shutil.rmtree(place)
            os.rename(temporary, place)
            sync_folder(place.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    dataset = None
    objective: Objective = registry.build("objective", trained.cfg.objective)
    try:
        if objective.refers:
            raise DataError(f"objective={trained.cfg.objective['name']} compares with weights that are not here")
        dataset = open_dataset(trained.cfg)
    except DataError as error:
        say(f"not validated: {error}")
    before = _measure(trained, dataset, source)
    return Written(place, facts["of"], before, _measure(load_run(run, place.name), dataset, place))  # type: ignore[arg-type]


def _measure(trained: Trained, dataset: Dataset | None, place: Path) -> Measured:
    model, cfg = trained.model, trained.cfg
    values: dict[str, float] | None = {}
    if dataset is not None:
        values = evaluate(
            model,
            registry.build("objective", cfg.objective),
            precision.resolve("fp32", "cpu"),
            dataset,
            rows=eval_rows("cpu", cfg.scale.context, dataset.vocab_size),
            seed=cfg.validation_seed,
        )
    number = min(TIMED, cfg.scale.context - 1)
    start = prompt_tokens(trained.tokenizer, "")
    complete(model, start, max_tokens=2, temperature=0.0, seed=0)
    began = time.perf_counter()
    complete(model, start, max_tokens=number, temperature=0.0, seed=0)
    rate = number / (time.perf_counter() - began)
    return Measured((place / WEIGHTS).stat().st_size, values or {}, rate)
