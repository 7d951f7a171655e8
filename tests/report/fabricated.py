"""Made-up studies for figures and pages: plain ones, and all that can be ugly about them."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import math
import tempfile
import types
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gpt_lab.analysis.comparison import Comparison, Row, VerdictName
from gpt_lab.frame.study import Study
from gpt_lab.report.figures import Figure, draw
from gpt_lab.stats.interval import Interval
from gpt_lab.study.design import Design
from tests.study.arms import settings

SCRIPT = "position=<script>alert('x')</script>"
FLOORS = {"floor_unigram": 3.962, "floor_bigram": 2.6904, "floor_trigram": 2.0805}
TOKENS = np.linspace(51_200, 1_024_000, 20)


class FakeStudy(Study):
    """Curves that end at each run's score: power laws with a little noise."""

    points: np.ndarray = TOKENS
    asked: list[str]
    texts: Mapping[str, tuple[int, str]] = types.MappingProxyType({})

    def samples(self, runs: list[str]) -> Mapping[str, tuple[int, str]]:
        return {run: self.texts[run] for run in runs if run in self.texts}

    def curves(self, runs: list[str]) -> Mapping[str, pd.DataFrame]:
        self.asked = [*getattr(self, "asked", []), *runs]
        found = {}
        for run in runs:
            row = self.runs[self.runs["run"] == run].iloc[0]
            rng = np.random.default_rng(abs(hash_of(run)))
            end = row["score"] if math.isfinite(row["score"]) else 2.4
            points = self.points if row["state"] != "diverged" else self.points[: len(self.points) // 3]
            shape = end + 2.2 * ((points / 20_000) ** -0.45 - (self.points[-1] / 20_000) ** -0.45)
            values = shape + 0.004 * rng.standard_normal(len(points)) * np.linspace(3, 0, len(points))
            steps = (points / 1024).astype(int)
            found[run] = pd.DataFrame(
                {"step": steps, "tokens": points, "flops": points * 5e6, "seconds": points / 2e4, "val/bpb": values}
            )
        return found


def hash_of(text: str) -> int:
    """The same in every process, unlike hash()."""
    return sum(ord(sign) * (i + 1) for i, sign in enumerate(text))


def study(
    effects: Mapping[str, float],
    *,
    seeds: int = 3,
    design: Design | None = None,
    noise: float = 0.008,
    states: Mapping[tuple[str, int], str] | None = None,
    tunings: Mapping[str, Mapping[str, float]] | None = None,
    costs: Mapping[str, float] | None = None,
) -> FakeStudy:
    """Runs of each arm whose score is 2.05 + its effect.

    Args:
        states: of (arm, seed) that did not finish.
        tunings: arm -> tuning -> how much worse than the arm's best.
        costs: arm -> factor of its FLOPs, seconds and parameters.
    """
    design = design or Design("pos_enc", "Which position encoding learns best?", factors=("position",), family="pos")
    rng = np.random.default_rng(7)
    of_seed = rng.normal(0, noise, seeds)
    rows: list[dict[str, Any]] = []
    for number, (arm, effect) in enumerate(effects.items()):
        factor = (costs or {}).get(arm, 1.0)
        for seed in range(seeds):
            for tuning, worse in ((tunings or {}).get(arm) or {"": 0.0}).items():
                state = (states or {}).get((arm, seed), "diverged" if math.isinf(worse) else "finished")
                score = 2.05 + effect + worse + of_seed[seed] + rng.normal(0, noise / 2)
                done = state == "finished"
                rows.append(
                    {
                        "run": f"runs/{design.study}/{number}-{tuning}-seed{seed}",
                        "source": "local",
                        "study": design.study,
                        "name": f"{arm}-{tuning}-seed{seed}",
                        "state": state,
                        "arm": settings(arm),
                        "tuning": settings(tuning),
                        "pair": str(seed),
                        "score": score if done else math.nan,
                        "error": "CUDA out of memory" if state == "failed" else "",
                        "seconds": 91.7 * factor * rng.uniform(0.97, 1.03) if done else math.nan,
                        "steps": 1000.0,
                        "tokens": 1_024_000.0,
                        "flops": 1.21e13 * factor,
                        "parameters": round(922_752 * factor),
                        "parameters_non_embedding": round(791_680 * factor),
                        "train_flops_per_token": 5.9e6 * factor,
                        "tokens_per_s": 22_344 / factor,
                        "peak_memory_gb": 1.18,
                        **FLOORS,
                        "config.position.name": arm.removeprefix("position="),
                        "config.seed": seed,
                        "config.optim.lr": 0.003,
                        "config.study": design.study,
                        "env.commit": "9f3c1a2b" * 5,
                        "env.cpu": "AMD EPYC",
                        "env.packages": "torch 2.11.0, numpy 2.4.1",
                        "env.command": f"train position={arm} seed={seed}",
                        "summary.val/bpb": score if done else math.nan,
                    }
                )
    return FakeStudy(design, pd.DataFrame(rows))


def comparison(
    made: Study, *, sesoi: float = 0.01, tier: Any = "screen", tunings: Mapping[str, str] | None = None
) -> Comparison:
    """Paired t by the book: good enough to draw."""
    design = made.design
    runs = made.runs
    base = design.baseline_arm
    rows = []
    for arm in dict.fromkeys(runs["arm"]):
        mine = runs[runs["arm"] == arm]
        tuning = settings((tunings or {}).get(str(arm), ""))
        done = mine[(mine["state"] == "finished") & (mine["tuning"] == tuning)].set_index("pair")["score"]
        theirs = runs[(runs["arm"] == base) & (runs["state"] == "finished")]
        theirs = theirs[theirs["tuning"] == settings((tunings or {}).get(str(base), ""))].set_index("pair")["score"]
        differences = (done - theirs).dropna()
        delta = None if arm == base or len(differences) < 2 else interval(differences.to_numpy())
        verdict: VerdictName = "no data"
        if arm == base:
            verdict = "baseline"
        elif len(differences) == 1:
            verdict = "undecided"
        elif delta is not None:
            verdict = judge(delta, sesoi, design.goal)
        rows.append(
            Row(
                arm=arm,
                verdict=verdict,
                tier=tier if delta is not None else None,
                n=len(differences) if arm != base else len(done),
                runs=len(done),
                mean=float(done.mean()) if len(done) else None,
                sd=float(done.std()) if len(done) > 1 else None,
                delta=delta,
                p_adjusted=min(1.0, 3 * delta.p) if delta is not None and math.isfinite(delta.p) else None,
                rho=0.62 if delta is not None and len(done) > 1 else None,
                plan=(9, 15) if verdict == "undecided" else None,
                medians={
                    "parameters": float(mine["parameters"].median()),
                    "non_embedding": float(mine["parameters_non_embedding"].median()),
                    "flops_per_token": float(mine["train_flops_per_token"].median()),
                    "tokens_per_s": float(mine["tokens_per_s"].median()),
                    "peak_memory_gb": 1.18,
                    "seconds": float(mine["seconds"].median()),
                },
                tuning=tuning,
                on_edge=tuning.text("optim.lr") == "0.01",
                states={k: int(v) for k, v in mine["state"].value_counts().items() if k != "finished"},
                warnings=("its learning rate is the last of its ladder",) if tuning.text("optim.lr") == "0.01" else (),
            )
        )
    sign = 1 if design.goal == "minimize" else -1
    rows.sort(key=lambda row: math.inf if row.mean is None else sign * row.mean)
    noise = Interval(0.0, -0.011, 0.011, 8.0, 1.0) if any(r.arm == base and r.runs > 1 for r in rows) else None
    return Comparison(
        dataclasses.replace(design, sesoi=sesoi),
        tuple(rows),
        noise,
        "Holm over 3 comparisons",
        ("Floors: trigram 2.0805 bits per byte.",),
    )


def interval(differences: np.ndarray) -> Interval:
    n, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return Interval(mean, mean - half, mean + half, n - 1, float(2 * stats.t.sf(abs(mean) / error, n - 1)))


def judge(delta: Interval, sesoi: float, goal: str) -> VerdictName:
    lower, upper = delta.low, delta.high
    if upper < -sesoi or lower > sesoi:
        return "better" if (upper < 0) == (goal == "minimize") else "worse"
    if -sesoi < lower and upper < sesoi:
        return "equivalent"
    return "real but small" if lower > 0 or upper < 0 else "undecided"


def pos_enc(**changes: Any) -> Design:
    plain = Design(
        "pos_enc",
        "Which position encoding learns Shakespeare best at a fixed budget?",
        factors=("position",),
        family="pos_enc",
        baseline={"position": "learned"},
    )
    return replace(plain, **changes)


def plain() -> tuple[Comparison, Study]:
    """Five arms, three seeds, one verdict of most kinds."""
    effects = {"learned": 0.0, "rope": -0.062, "alibi": -0.031, "sinusoidal": 0.006, "none": 0.09}
    made = study({f"position={k}": v for k, v in effects.items()}, design=pos_enc(), noise=0.006)
    return comparison(made), made


def ugly() -> tuple[Comparison, Study]:
    """An arm with a script for a name, one all diverged, one missing, one far away, half-run ones."""
    effects = {
        "learned": 0.0,
        "rope": -0.04,
        "alibi": 1.7,
        "sinusoidal": 0.01,
        "none": 0.05,
        "<script>alert('x')</script>": 0.02,
    }
    states = {("position=none", s): "diverged" for s in range(4)}
    states |= {("position=sinusoidal", s): "missing" for s in range(4)}
    states |= {("position=rope", 3): "failed", ("position=alibi", 0): "running", ("position=learned", 2): "stopped"}
    made = study({f"position={k}": v for k, v in effects.items()}, seeds=4, design=pos_enc(), states=states)
    made.notes.append("1 folder without run.json was skipped: runs/pos_enc/<b>torn</b>")
    return comparison(made), made


def one_seed() -> tuple[Comparison, Study]:
    made = study({"position=learned": 0.0, "position=rope": -0.05}, seeds=1, design=pos_enc())
    return comparison(made), made


def no_baseline() -> tuple[Comparison, Study]:
    made = study({"position=learned": 0.0, "position=rope": -0.05}, design=pos_enc(baseline=None))
    return comparison(made), made


def empty() -> tuple[Comparison, Study]:
    """Asked for, nothing finished."""
    arms = {"position=learned": 0.0, "position=rope": -0.05}
    made = study(arms, design=pos_enc(), states={(arm, s): "missing" for arm in arms for s in range(3)})
    return comparison(made), made


def maximise() -> tuple[Comparison, Study]:
    made = study(
        {"position=learned": 0.0, "position=rope": 0.08, "position=none": -0.07},
        design=pos_enc(goal="maximize", metric="val/accuracy", question=""),
        noise=0.004,
    )
    return comparison(made), made


def factorial(extra: Sequence[str] = ()) -> tuple[Comparison, Study]:
    """3 x 4 arms with long names."""
    design = Design(
        "attention_by_position",
        "Does the best position encoding depend on the kind of attention?",
        factors=("attention", "position"),
        baseline={"attention": "mha", "position": "rope"},
        family="grid",
    )
    effects = {
        f"attention={a}, position={p}": i * 0.02 + j * 0.015 - (0.05 if (a, p) == ("mqa", "alibi") else 0)
        for i, a in enumerate(("mha", "gqa", "mqa"))
        for j, p in enumerate(("rope", "alibi", "learned", "none"))
    }
    costs = {arm: {"mha": 1.0, "gqa": 0.93, "mqa": 0.9}[arm.split("=")[1].split(",")[0]] for arm in effects}
    made = study({**effects, **dict.fromkeys(extra, 0.1)}, design=design, costs=costs)
    return comparison(made), made


def tuned() -> tuple[Comparison, Study]:
    """Three optimizers, each over its own learning rates; one optimum on its edge, one value diverges."""
    design = Design(
        "optim",
        "Which optimizer is best at its own best learning rate?",
        factors=("optim",),
        nuisance=("optim.lr",),
        baseline={"optim": "adamw"},
        family="optim",
    )
    ladders = {
        "optim=adamw": {"0.001": 0.08, "0.002": 0.02, "0.004": 0.0, "0.008": 0.05},
        "optim=muon": {"0.005": 0.03, "0.01": 0.0},
        "optim=sgd": {"0.01": 0.3, "0.03": 0.1, "0.1": 0.0, "0.3": math.inf},
    }
    tunings = {arm: {f"optim.lr={lr}": worse for lr, worse in values.items()} for arm, values in ladders.items()}
    effects = {"optim=adamw": 0.0, "optim=muon": -0.07, "optim=sgd": 0.25}
    made = study(effects, design=design, tunings=tunings, costs={"optim=muon": 1.07})
    best = {"optim=adamw": "optim.lr=0.004", "optim=muon": "optim.lr=0.01", "optim=sgd": "optim.lr=0.1"}
    return comparison(made, tunings=best), made


def many(arms: int = 80) -> tuple[Comparison, Study]:
    rng = np.random.default_rng(3)
    effects = {"position=learned": 0.0, **{f"position=p{i}": float(rng.normal(0, 0.05)) for i in range(arms - 1)}}
    made = study(effects, design=pos_enc())
    return comparison(made), made


CASES = {
    "plain": plain,
    "ugly": ugly,
    "one_seed": one_seed,
    "no_baseline": no_baseline,
    "empty": empty,
    "maximise": maximise,
    "factorial": factorial,
    "tuned": tuned,
    "many": many,
}


@functools.cache
def drawn(case: str) -> tuple[Comparison, Study, list[Figure]]:
    """A case with its figures, drawn once for all tests of a process: each case takes a second or more."""
    folder = tempfile.TemporaryDirectory(prefix="gpt_lab_figures_")
    atexit.register(folder.cleanup)
    made, runs = CASES[case]()
    return made, runs, draw(made, runs, Path(folder.name))
