"""Expected sample size of sequential seeds: runs at least, at most, and to expect."""

from __future__ import annotations

from dataclasses import dataclass

from gpt_lab.plan.sample_size import Spread
from gpt_lab.study.design import Design, Looks
from gpt_lab.study.format.sequential_seeds import standings

EFFECTS = (0.0, 1.0, 2.0, 4.0)
"""True differences of every arm that a plan is told for, in deviations of a pair's difference."""
STUDIES = 1000
PER_SESOI = 2.0
"""Deviation of a pair's difference in units of the smallest effect size of interest, where no run tells it."""


@dataclass(frozen=True)
class Expected:
    """Means over made-up studies: runs of the whole study, and the share of arms that a look decides."""

    runs: float
    decided: float


def expected(looks: Looks, effect: float, sesoi: float, alpha: float, studies: int = STUDIES) -> Expected:
    """Runs to expect where every arm differs by this much; the same numbers each time.

    Args:
        effect, sesoi: in units of the standard deviation of a pair's difference.
    """
    import numpy as np

    noise = np.random.default_rng(0).standard_normal((studies, looks.family + 1, looks.last)) * 0.5**0.5
    found = standings(effect + noise[:, 1:] - noise[:, :1], looks, alpha, sesoi)
    runs = found.pairs.sum(1) + found.pairs.max(1)
    return Expected(float(runs.mean()), float(found.decided.mean()))


def lines(design: Design, noise: Spread | None) -> list[str]:
    """The plan of sequential seeds in words.

    Args:
        noise: of a pair's difference; None: not known.
    """
    looks, sesoi = design.looks, design.sesoi
    assert looks is not None and sesoi is not None
    arms = looks.family + 1
    sd = PER_SESOI * sesoi if noise is None else noise.sd
    parts = []
    for effect in EFFECTS:
        found = expected(looks, effect, sesoi / sd, design.alpha)
        name = f"{effect * sd:.3g}" if effect else "nothing"
        parts.append(f"{name} {found.runs:.0f} ({found.decided:.0%})")
    told = noise.text if noise is not None else f"no run tells the noise: sd of a pair's difference taken as {sd:g}"
    span = f"{arms * looks.first} to {arms * looks.last} runs"
    each = f"{looks.first} to {looks.last} for each of {arms} arms"
    return [
        f"sequential seeds: {each}, until decided: {span}",
        f"runs to expect, and arms decided, if all arms differ by: {', '.join(parts)} ({told})",
    ]
