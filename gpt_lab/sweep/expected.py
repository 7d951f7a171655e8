"""What sequential seeds will cost, before anything runs: runs at least and at most, and how many to expect."""

from __future__ import annotations

from dataclasses import dataclass

from gpt_lab.sweep.design import Design, Looks
from gpt_lab.sweep.sequential import stand

EFFECTS = (0.0, 1.0, 2.0, 4.0)
"""True differences of every arm that a plan is told for, in units of a run's standard deviation."""
STUDIES = 1000
PER_SESOI = 2.0
"""A run's deviation in units of the smallest effect size of interest, where no run tells it."""


@dataclass(frozen=True)
class Expected:
    """Means over made-up studies: runs of the whole study, and the share of arms that a look decides."""

    runs: float
    decided: float


def expected(
    looks: Looks, effect: float, sesoi: float, alpha: float, spread: float = 1.0, studies: int = STUDIES
) -> Expected:
    """Runs to expect where every arm differs by this much; the same numbers each time.

    Args:
        effect, sesoi, spread: in units of a run's standard deviation; spread is the deviation of a pair's difference.
    """
    import numpy as np

    noise = np.random.default_rng(0).standard_normal((studies, looks.family + 1, looks.last)) * 0.5**0.5 * spread
    found = stand(effect + noise[:, 1:] - noise[:, :1], looks, alpha, sesoi)
    runs = found.pairs.sum(1) + found.pairs.max(1)
    return Expected(float(runs.mean()), float(found.decided.mean()))


def lines(design: Design, run_sd: float | None, pair_sd: float | None = None) -> list[str]:
    """The plan of sequential seeds in words.

    Args:
        run_sd: standard deviation of one run, in units of the metric; None where nothing tells it.
        pair_sd: of a pair's difference; None: that of runs that correlate by 1/2.
    """
    looks, sesoi = design.looks, design.sesoi
    assert looks is not None and sesoi is not None
    arms = looks.family + 1
    sd = PER_SESOI * sesoi if run_sd is None else run_sd
    parts = []
    for effect in EFFECTS:
        found = expected(looks, effect, sesoi / sd, design.alpha, 1.0 if pair_sd is None else pair_sd / sd)
        name = f"{effect:g} run sd" if effect else "no effect"
        parts.append(f"{name} {found.runs:.0f} ({found.decided:.0%})")
    told = f"run sd {sd:.4g}" if run_sd is not None else f"no run tells the run sd: taken as {sd:g}, twice the sesoi"
    span = f"{arms * looks.first} to {arms * looks.last} runs"
    each = f"{looks.first} to {looks.last} for each of {arms} arms"
    pairs = "runs of a pair correlate by 0.5" if pair_sd is None else f"of a pair's difference {pair_sd:.4g}"
    assumed = f"({told}; {pairs})"
    return [
        f"sequential seeds: {each}, until decided: {span}",
        f"runs to expect, and arms decided, if all arms differ by: {', '.join(parts)} {assumed}",
    ]
