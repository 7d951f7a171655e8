"""Of each fairness rule a study that breaks it, and one that comes near and is fair: rows of CASES."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd

from gpt_lab.frame.study import Study
from gpt_lab.metrics import BOUND
from tests.report.made import BOWL, TUNED, of_size, study, tuned
from tests.study.arms import settings


def changed(column: str, arm: object, others: object = None, *, better: bool = True, pairs: int = 5) -> Study:
    """Arm a at an effect of -0.05 (better) or 0.05, whose runs of the first pairs have this in a column."""
    made = of_size(-0.05 if better else 0.05)
    mine = (made.runs["arm"] == settings("position=a")) & (made.runs["pair"].astype(int) < pairs)
    made.runs[column] = pd.Series([arm if own else others for own in mine], dtype="object")
    return made


def by_design(made: Study, **changes: object) -> Study:
    made.design = dataclasses.replace(made.design, **changes)  # type: ignore[arg-type]
    return made


def lost(better: bool, state: str = "diverged") -> Study:
    made = of_size(-0.05 if better else 0.05, seeds=6)
    row_of = made.runs["arm"] == (settings("position=a") if better else settings("position=rope"))
    made.runs.loc[row_of & (made.runs["pair"] == "3"), ["state", "score"]] = [state, math.nan]
    return made


def tried(mine: dict[float, float], base: dict[float, float], better: bool, chosen: float = 0.003) -> Study:
    """Both tuned on seeds 0 and 1, then five fresh seeds at the chosen values."""
    shift = -0.05 if better else 0.05
    scores = {"rope": base, "none": {lr: score + shift for lr, score in mine.items()}}
    rows = tuned(scores, seeds=[0, 1]).runs.to_dict("records")
    best = min(base, key=base.__getitem__)
    rows += tuned({"rope": {best: 2.0}, "none": {chosen: 2.0 + shift}}, seeds=range(2, 7)).runs.to_dict("records")
    for r in rows:  # one name for the arm in question, whatever the case
        r["arm"] = settings(str(r["arm"]).replace("=none", "=a"))
    return study(rows, TUNED)


def ladder(better: bool, *, edge: bool) -> Study:
    """Both at the best of three values, the arm's in the middle or at the end."""
    rising = {0.001: 2.0, 0.003: 2.1, 0.01: 2.2}
    return tried(rising if edge else BOWL, BOWL, better, chosen=0.001 if edge else 0.003)


def on_the_same_seeds(better: bool) -> Study:
    shift = -0.05 if better else 0.05
    return tuned({"rope": BOWL, "a": {lr: score + shift for lr, score in BOWL.items()}})


def alone(better: bool, lr: float = 0.003) -> Study:
    """One learning rate in each arm."""
    shift = -0.05 if better else 0.05
    return tuned({"rope": {0.001: 2.0}, "a": {lr: 2.0 + shift}})


def gaps(better: bool, *, whole: bool) -> Study:
    """Each value of the arm lost another of the seeds that choose, or none did."""
    made = ladder(better, edge=False)
    for place, lr in enumerate(() if whole else BOWL):
        own = (made.runs["arm"] == settings("position=a")) & (made.runs["tuning"] == settings(f"optim.lr={lr:g}"))
        made.runs.loc[own & (made.runs["pair"] == str(place % 2)), ["state", "score"]] = ["failed", math.nan]
    return made


def spent(better: bool, tokens: float) -> Study:
    made = of_size(-0.05 if better else 0.05)
    made.runs.loc[made.runs["arm"] == settings("position=a"), "tokens"] = tokens
    return made


def ended(better: bool, steps: float) -> Study:
    """Runs of 100 steps; the arm's ended after so many."""
    made = changed("steps", steps, 100.0, better=better)
    made.runs["config.budget.steps"] = 100
    return made


def timed(better: bool, rate: float) -> Study:
    """A budget of 60 seconds, in which the arm's runs have this share of the baseline's tokens per second."""
    made = of_size(-0.05 if better else 0.05)
    own = made.runs["arm"] == settings("position=a")
    made.runs["config.budget.seconds"], made.runs["train_flops_per_token"] = 60.0, 1e6
    made.runs["tokens_per_s"] = 1000.0 * np.where(own, rate, 1.0) * (1 + 0.01 * np.sin(np.arange(len(made.runs))))
    return made


EVEN = {0.001: 2.2, 0.003: 2.0, 0.009: 2.2}
"""A parabola in the logarithm, lowest at 0.003."""
CASES = {
    "lost": (lambda better: lost(better), lambda better: of_size(-0.05 if better else 0.05, seeds=6)),
    "gone": (lambda better: lost(better, "failed"), lambda better: of_size(-0.05 if better else 0.05, seeds=5)),
    "twice": (
        lambda better: changed("conflict", "runs of the same settings end with 2 and 2.1", "", better=better, pairs=1),
        lambda better: changed("conflict", "", "", better=better),
    ),
    "few": (
        lambda better: changed("targets", 300.0, 300.0, better=better),
        lambda better: changed("targets", 30_000.0, 30_000.0, better=better),
    ),
    "floor": (
        lambda better: changed("floor_bigram", 1.9, 1.9, better=better),
        lambda better: changed("floor_bigram", 2.04, 2.04, better=better),
    ),
    "torch": (
        lambda better: changed("env.packages", "python 3.11, torch 2.12.0", "python 3.11, torch 2.11.0", better=better),
        lambda better: changed("env.packages", "torch 2.11.0, wandb 0.31", "torch 2.11.0, wandb 0.30", better=better),
    ),
    "busy": (lambda better: timed(better, 0.7), lambda better: timed(better, 0.98)),
    "tuning": (
        lambda better: tried({**BOWL, 0.03: 2.3} if better else {0.001: 2.2, 0.003: 2.0}, BOWL, better),
        lambda better: tried(BOWL, BOWL, better),
    ),
    "edge": (lambda better: ladder(better, edge=True), lambda better: ladder(better, edge=False)),
    "gaps": (lambda better: gaps(better, whole=False), lambda better: gaps(better, whole=True)),
    "reused": (on_the_same_seeds, lambda better: tried(BOWL, BOWL, better)),
    "untuned": (alone, lambda better: alone(better, 0.001)),
    "rate": (
        lambda better: by_design(
            changed("config.optim.name", "muon", "adamw", better=better), factors=("position", "optim")
        ),
        lambda better: by_design(
            changed("config.optim.name", "adamw", "adamw", better=better), factors=("position", "optim")
        ),
    ),
    "tune": (
        lambda better: by_design(tried(BOWL, EVEN, better), tuning_pairs=(0, 1)),
        lambda better: by_design(tried(EVEN, EVEN, better), tuning_pairs=(0, 1)),
    ),
    "budget": (lambda better: spent(better, 1.05e6 if better else 0.95e6), lambda better: spent(better, 1.001e6)),
    "schedule": (
        lambda better: changed("config.schedule.warmup", 0.3, 0.05, better=better),
        lambda better: by_design(
            changed("config.schedule.warmup", 0.3, 0.05, better=better), factors=("position", "schedule")
        ),
    ),
    "middle": (lambda better: ended(better, 60.0), lambda better: ended(better, 100.0)),
    "tokenizer": (
        lambda better: by_design(changed("config.tokenizer.name", "byte", "bpe", better=better), metric="val/loss"),
        lambda better: by_design(
            changed("config.tokenizer.name", "byte", "bpe", better=better), factors=("position", "tokenizer")
        ),
    ),
    "lossy": (
        lambda better: changed("env.lossy", "tokenizer=hf loses text: ...", "", better=better),
        lambda better: by_design(
            changed("env.lossy", "tokenizer=hf loses text: ...", "", better=better), metric="val/loss"
        ),
    ),
    "ends": (
        lambda better: changed("env.ends", False, True, better=better),
        lambda better: changed("env.ends", True, True, better=better),
    ),
    "measure": (
        lambda better: changed("env.measure", "nats of a masked token", "", better=better),
        lambda better: changed("env.measure", "nats of a masked token", "nats of a masked token", better=better),
    ),
    "bound": (
        lambda better: changed("env.measure", *(("", BOUND) if better else (BOUND, "")), better=better),
        lambda better: changed("env.measure", BOUND, BOUND, better=better),
    ),
    "teacher": (
        lambda better: changed("env.seen", *(("read it", "") if better else ("", "read it")), better=better),
        lambda better: changed("env.seen", "", "", better=better),
    ),
    "data": (
        lambda better: changed("env.data", "new", "old", better=better, pairs=2),
        lambda better: by_design(changed("env.data", "new", "old", better=better), factors=("position", "tokenizer")),
    ),
    "code": (
        lambda better: changed("env.commit", "f" * 40, "e" * 40, better=better, pairs=2),
        lambda better: changed("env.commit", "f" * 40, "f" * 40, better=better),
    ),
    "numbers": (
        lambda better: changed("env.precision", "bf16", "fp32", better=better),
        lambda better: by_design(
            changed("env.precision", "bf16", "fp32", better=better), factors=("position", "precision")
        ),
    ),
    "machine": (
        lambda better: by_design(changed("env.cpu", "new", "old", better=better), metric="perf/peak_memory_gb"),
        lambda better: changed("env.cpu", "new", "old", better=better),
    ),
    "settings": (
        lambda better: changed("config.model.dropout", 0.1, 0.0, better=better),
        lambda better: changed("config.eval.every", 10, 20, better=better),
    ),
}
"""Of each rule a study that breaks it, and one that comes near and is fair; both better or worse by 0.05."""
