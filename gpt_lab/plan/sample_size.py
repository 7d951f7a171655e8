"""Power and sample size of a sweep: differences that earn `better`, and when `equivalent` is due.

Everything is planned for the printed word (stats/power_analysis.py): `better` must clear the smallest effect size of
interest, `equivalent` must lie inside it with both ends. The noise is that of the study's own finished runs where they
tell it, else of null pairs (noise.py), which share no initial values and so correlate less than arms that do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt_lab.errors import ConfigError
from gpt_lab.noise import null_pairs, records
from gpt_lab.stats.tiers import CONFIRMS, FEWEST
from gpt_lab.study import sweep_file
from gpt_lab.study.design import Design, Settings, shown
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger import ledger

if TYPE_CHECKING:
    from gpt_lab.study.build import Builder
    from gpt_lab.sweep.ledger.entry import LedgerEntry

RHOS = (0.0, 0.5, 0.9)
"""Correlations of a pair's runs for which a plan is told where no run tells it."""
STEPS = (0.5, 1.0, 2.0)
"""Differences beyond the smallest effect size of interest that a plan is told the seeds of, in deviations of a
pair's."""
UNITS = "run sd: how far runs of one arm lie apart over seeds; rho: how much of that the runs of a seed share"
"""What a reader of the lines must know."""
FEWEST_DF = 4
"""Degrees of freedom from which on a study's own runs tell its noise."""


@dataclass(frozen=True)
class Spread:
    """What is known of the noise.

    Fields:
        metric: whose. sd: standard deviation of a pair's difference, df: its degrees of freedom. run_sd: of a run.
        rho: share of the noise that pairing takes away; NaN: not known. source: the runs, in words.
    """

    metric: str
    sd: float
    df: float
    run_sd: float
    rho: float
    source: str

    def ends(self, alpha: float = 0.05) -> tuple[float, float]:
        """The interval of sd at level 1 - alpha."""
        from scipy.special import chdtri

        low, high = (float(chdtri(self.df, tail)) for tail in (alpha / 2, 1 - alpha / 2))
        return self.sd * (self.df / low) ** 0.5, self.sd * (self.df / high) ** 0.5

    @property
    def text(self) -> str:
        """In one line."""
        low, high = self.ends()
        rho = "" if math.isnan(self.rho) else f", rho {self.rho:.2f}"
        return (
            f"the two runs of a pair differ with sd {self.sd:.4f} (95 % {low:.4f} to {high:.4f}) in {self.metric}, run "
            f"sd {self.run_sd:.4f}{rho}: {self.source}"
        )


def spread(sweep: Sweep, builder: Builder | None = None) -> Spread | None:
    """The noise of a sweep, of its own runs or of null pairs; None where neither tells it. May import torch.

    Raises:
        ConfigError, DataError: the baseline cannot be built here.
    """
    from gpt_lab.study.place import runs_folder

    return of_runs(sweep.design, ledger.entries(runs_folder(sweep))) or of_null_pairs(sweep, builder)


def of_runs(design: Design, entries: Sequence[LedgerEntry]) -> Spread | None:
    """The noise of the finished runs of a study, pooled over its arms; None below FEWEST_DF degrees of freedom."""
    import numpy as np

    scores: dict[tuple[Settings, Settings], dict[str, float]] = {}
    values: dict[Settings, Mapping[str, Any]] = {}
    for one in entries:
        if (
            one.state == "finished"
            and one.score is not None
            and math.isfinite(one.score)
            and not design.tunes(one.pair)
        ):
            arm = design.arm(one.values)
            scores.setdefault((arm, design.tuning(one.values)), {})[shown(one.pair)] = one.score
            values.setdefault(arm, one.values)
    chosen = {arm: max((key for key in scores if key[0] == arm), key=lambda key: len(scores[key])) for arm in values}
    squares = both = freedom = runs = 0.0
    for arm, own in values.items():
        base = design.reference(own)
        if base is None or base == arm or base not in chosen:
            continue
        mine, theirs = scores[chosen[arm]], scores[chosen[base]]
        pairs = [pair for pair in mine if pair in theirs]
        if len(pairs) < 2:
            continue
        x, y = np.array([mine[pair] for pair in pairs]), np.array([theirs[pair] for pair in pairs])
        df = len(pairs) - 1
        squares += float(np.var(x - y, ddof=1)) * df
        both += float(np.var(x, ddof=1) + np.var(y, ddof=1)) * df
        freedom, runs = freedom + df, runs + len(pairs)
    if freedom < FEWEST_DF or not squares > 0:
        return None
    rho = max(-1.0, 1 - squares / both)
    source = f"{int(runs)} pairs of this study"
    return Spread(design.metric, (squares / freedom) ** 0.5, freedom, (both / freedom / 2) ** 0.5, rho, source)


def of_null_pairs(sweep: Sweep, builder: Builder | None = None) -> Spread | None:
    """The noise of a sweep's baseline as this machine computes it; None where no null pairs tell it. Imports torch.

    Of a baseline that is tuned, any of its recipes serves a plan: the one with the most pairs.

    Raises:
        ConfigError, DataError: the baseline cannot be built here.
    """
    try:
        recipes = [recipe for recipe in null_pairs.recipes(sweep) if recipe.folder.is_dir()]
    except ConfigError:  # no baseline, or pairs of another kind: nobody asked for its noise
        return None
    if not recipes:
        return None
    from gpt_lab.study.build import Builder

    builder = builder or Builder()
    every = []
    for recipe in recipes:
        assert recipe.cell is not None
        resolved = builder.plan(recipe.cfg, recipe.cell).resolved
        each = (records.find(recipe.folder, metric, resolved, recipe.taken) for metric in recipe.metrics)
        every.append(next((one for one in each if one is not None), None))
    found = max((one for one in every if one is not None), key=lambda one: one.pairs, default=None)
    if found is None:
        return None
    lost = f"; {found.diverged} runs diverged and are not in it" if found.diverged else ""
    return Spread(
        found.metric, found.sd, found.df, found.run_sd, found.rho, f"{found.pairs} null pairs of {found.folder}{lost}"
    )


def with_enough_seeds(sweep: Sweep, effect: float) -> tuple[Sweep, str]:
    """The sweep with as many seeds as call an effect (in units of the metric) better, and a line that says so.

    Raises:
        ConfigError: the noise of its baseline is not known, nothing is compared, or no number of seeds will do.
    """
    from gpt_lab.stats import power_analysis

    if not (math.isfinite(effect) and effect > 0):
        raise ConfigError(f"--target-effect must be a number above 0, not {effect:g}")
    compared = comparisons(sweep)
    if compared < 1:
        raise ConfigError(f"{sweep.path}: --target-effect needs two arms or more, to be compared")
    if sweep.design.looks is not None:
        raise ConfigError(f"{sweep.path}: --target-effect sets the seeds of a fixed design: gpt_lab.seeds finds them")
    band = sweep.design.sesoi or 0.0
    if effect <= band:
        raise ConfigError(
            f"--target-effect {effect:g} lies within the smallest effect size of interest ({band:g}): no number of "
            "seeds calls it better"
        )
    null_pairs.recipes(sweep)  # says why there can be no noise
    known = spread(sweep)
    if known is None:
        way = null_pairs.again(str(sweep.path), sweep.overrides)
        raise ConfigError(f"--target-effect needs the noise of the baseline, which is not known here: `{way}` first")
    counts = [
        power_analysis.sample_size(effect - band, sd=sd, arms=compared, alpha=sweep.design.alpha)
        for sd in (known.sd, *known.ends())
    ]
    if counts[0] is None:
        raise ConfigError(f"--target-effect {effect:g}: not within reach of {power_analysis.MOST} seeds: {known.text}")
    ends = ["any number" if count is None else f"{count:,}" for count in counts[1:]]
    beyond = f" with a smallest effect size of interest of {band:g}" if band else ""
    line = (
        f"a difference of {effect:g} in {known.metric} is called better{beyond} in 80 % of studies of {counts[0]:,} "
        f"seeds ({ends[0]} to {ends[1]} as far as the noise is known): {known.text}"
    )
    return sweep_file.with_seeds(sweep, counts[0]), line


def comparisons(sweep: Sweep) -> int:
    """Arms of a grid beside its baselines."""
    rows = sweep.combinations()
    return len({sweep.design.arm(row) for row in rows}) - len({sweep.design.reference(row) for row in rows})


def lines(design: Design, pairs: int, compared: int, noise: Spread | None) -> list[str]:
    """What a fixed design of this many pairs can say, and the seeds that differences need."""
    from gpt_lab.stats import power_analysis

    if pairs < FEWEST:
        return []
    alpha, band = design.alpha, design.sesoi
    tier = "confirm" if pairs >= CONFIRMS and not (design.nuisance and not design.tuning_pairs) else "screen"
    beyond = power_analysis.detectable(pairs, arms=compared, alpha=alpha)
    inside = power_analysis.narrowest(pairs, arms=compared, alpha=alpha)
    head = f"with {pairs} {design.pair}s ({tier}), 80 % of studies"
    start = "" if band is None else f"{band:g} + "
    found = []
    if noise is None:
        units = [f"{start}{beyond * math.sqrt(2 * (1 - rho)):.2f} run sd (rho {rho:g})" for rho in RHOS]
        reach = f"{', '.join(units[:-1])} or {units[-1]}"
        found.append(f"{head} call an arm better whose true difference is at least {reach}")
        if band is not None:
            sd = f"the sd of a pair's difference is at most {band / inside:.2g}"
            found.append(f"{head} call an arm without any difference equivalent (within {band:g}), if {sd}")
        return [*found, _seeds(1.0, "times the sd of a pair's difference", band, compared, alpha), UNITS]
    found.append(f"noise: {noise.text}")
    least = f"{(band or 0.0) + beyond * noise.sd:.4f} in {noise.metric}"
    found.append(f"{head} call an arm better whose true difference is at least {least}")
    if band is not None:
        enough = inside * noise.sd <= band
        needed = power_analysis.sample_size(band / noise.sd, word="equivalent", arms=compared, alpha=alpha)
        more = "no number of seeds is" if needed is None else f"{needed:,} seeds are"
        found.append(
            f"{head} call an arm without any difference equivalent (within {band:g})"
            if enough
            else f"{more} enough that 80 % of studies call an arm without any difference equivalent (within {band:g})"
        )
    return [*found, _seeds(noise.sd, f"in {noise.metric}", band, compared, alpha)]


def _seeds(unit: float, name: str, band: float | None, compared: int, alpha: float) -> str:
    """The seeds that some differences need."""
    from gpt_lab.stats import power_analysis

    parts = []
    for step in reversed(STEPS):
        count = power_analysis.sample_size(step, arms=compared, alpha=alpha)
        parts.append(f"{'no number' if count is None else f'{count:,}'} for {step * unit:.3g}")
    beyond = "of" if band is None else f"beyond {band:g} by"
    return f"seeds that call a true difference {beyond} so much better in 80 % of studies: {', '.join(parts)} {name}"
