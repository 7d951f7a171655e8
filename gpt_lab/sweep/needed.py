"""How many seeds an effect needs, and how small an effect they show, in units of the metric where its noise is known.

The noise is that of null pairs (noise.py): an arm's difference to the baseline is taken to vary as much as that of two
baselines of other initial values. Arms that share initial values with the baseline correlate more and show less.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpt_lab.errors import ConfigError
from gpt_lab.sweep import grid, noise, null, spec
from gpt_lab.sweep.design import Sweep
from gpt_lab.sweep.noise import Noise
from gpt_lab.sweep.power import FEWEST, Tier, detectable_effect, seeds_needed

if TYPE_CHECKING:
    from gpt_lab.sweep.plan import Builder

PAIRED = 0.5
"""The correlation at which a pair's difference varies as much as one run: effects are then in units of its spread."""
WISHED = (2.0, 1.0, 0.5)
"""Effects that a plan tells the seeds of, in units of a difference's (without noise: of a run's) deviation."""


def known(sweep: Sweep, builder: Builder | None = None) -> Noise | None:
    """The noise of a sweep's baseline as this machine computes it; None where no null pairs tell it. Imports torch.

    Of a baseline that is tuned, any of its recipes serves a plan: the one with the most pairs.

    Raises:
        ConfigError, DataError: the baseline cannot be built here.
    """
    try:
        recipes = [recipe for recipe in null.recipes(sweep) if recipe.folder.is_dir()]
    except ConfigError:  # no baseline, or pairs of another kind: nobody asked for its noise
        return None
    if not recipes:
        return None
    from gpt_lab.sweep.plan import Builder

    builder = builder or Builder()
    found = []
    for recipe in recipes:
        assert recipe.cell is not None
        resolved = builder.plan(recipe.cfg, recipe.cell).resolved
        every = (noise.find(recipe.folder, metric, resolved, recipe.taken) for metric in recipe.metrics)
        found.append(next((one for one in every if one is not None), None))
    return max((one for one in found if one is not None), key=lambda one: one.pairs, default=None)


def reach(sweep: Sweep, effect: float) -> tuple[Sweep, str]:
    """The sweep with as many seeds as an effect (in units of the metric) needs, and a line that says so.

    Raises:
        ConfigError: the noise of its baseline is not known, nothing is compared, or no number of seeds will do.
    """
    if not (math.isfinite(effect) and effect > 0):
        raise ConfigError(f"--target-effect must be a number above 0, not {effect:g}")
    compared = comparisons(sweep)
    if compared < 1:
        raise ConfigError(f"{sweep.path}: --target-effect needs two arms or more, to be compared")
    if sweep.design.looks is not None:
        raise ConfigError(f"{sweep.path}: --target-effect sets the seeds of a fixed design: gpt_lab.seeds finds them")
    null.recipes(sweep)  # says why there can be no noise
    floor = known(sweep)
    if floor is None:
        way = null.again(str(sweep.path), sweep.overrides)
        raise ConfigError(f"--target-effect needs the noise of the baseline, which is not known here: `{way}` first")
    count, tier = seeds(sweep, effect / floor.sd, compared, floor.df)
    ends = []
    for sd in floor.interval():
        try:
            ends.append(f"{seeds(sweep, effect / sd, compared, floor.df)[0]:,}")
        except ConfigError:  # more than anyone runs
            ends.append("any number")
    line = (
        f"an effect of {effect:g} in {floor.metric} needs {count:,} seeds ({tier} tier, power 80 %; {ends[0]} "
        f"to {ends[1]} as far as the noise is known): {said(floor)}"
    )
    return spec.with_seeds(sweep, count), line


def seeds(sweep: Sweep, effect: float, compared: int, noise_df: float = 0.0) -> tuple[int, Tier]:
    """Fewest seeds that show an effect with a power of 80 %, and the tier that they are judged in.

    Args:
        effect: in units of the standard deviation of a pair's difference.
        compared: arms beside the baseline. noise_df: degrees of null pairs.

    Raises:
        ConfigError: a million do not.
    """
    alpha = sweep.design.alpha
    count = seeds_needed(effect, alpha=alpha, rho=PAIRED, comparisons=compared, tier="screen", noise_df=noise_df)
    chose = sweep.design.nuisance and not sweep.design.tuning_pairs
    if chose or count < FEWEST["confirm"]:  # seeds that chose nuisance values confirm nothing
        return count, "screen"
    return seeds_needed(effect, alpha=alpha, rho=PAIRED, comparisons=compared, tier="confirm"), "confirm"


def comparisons(sweep: Sweep) -> int:
    """Arms of a grid beside its baselines."""
    swept = {name: p for name, p in spec.parameters_of(sweep).items() if p.swept}
    rows = grid.combinations(swept, sweep.design.pair, spec.rules_of(sweep))
    return len({sweep.design.arm(row) for row in rows}) - len({sweep.design.reference(row) for row in rows})


def detectable(sweep: Sweep, pairs: int, compared: int, floor: Noise) -> list[str]:
    """The smallest effect that pairs show, for each tier that they allow, in units of the metric."""
    lines = [f"noise floor: {said(floor)}"]
    for tier, fewest in FEWEST.items():
        if pairs >= fewest:
            size = floor.sd * detectable_effect(
                pairs, alpha=sweep.design.alpha, rho=PAIRED, comparisons=compared, tier=tier, noise_df=floor.df
            )
            lines.append(
                f"smallest detectable effect, {tier} tier, {pairs} pairs, power 80 %: {size:.4f} in {floor.metric}"
            )
    return lines


def wished(sweep: Sweep, compared: int, floor: Noise | None) -> str:
    """The seeds that some effects need; where the noise is not known, in units of a run's deviation."""
    unit, name = (1.0, "run sd") if floor is None else (floor.sd, floor.metric)
    sizes = [unit * size for size in WISHED]
    if floor is not None and sweep.design.sesoi is not None and floor.metric == sweep.design.metric:
        sizes.append(sweep.design.sesoi)
    parts = []
    for size in sorted(sizes, reverse=True):
        try:
            count, tier = seeds(sweep, size / unit, compared, 0.0 if floor is None else floor.df)
            parts.append(f"{size:.3g} {name}: {count:,} ({tier})")
        except ConfigError:
            parts.append(f"{size:.3g} {name}: more than a million")
    assumed = " if the runs of a pair correlate by 0.5" if floor is None else ""
    return f"seeds that an effect needs{assumed}: {', '.join(parts)}"


def said(floor: Noise) -> str:
    """The noise in one line."""
    low, high = floor.interval()
    rho = "unknown" if math.isnan(floor.rho) else f"{floor.rho:.2f}"
    lost = f"; {floor.diverged} runs diverged and are not in it" if floor.diverged else ""
    return (
        f"two baselines differ with sd {floor.sd:.4f} (95 % {low:.4f} to {high:.4f}) in {floor.metric}, run sd "
        f"{floor.run_sd:.4f}, rho {rho}, {floor.pairs} null pairs of {floor.folder}{lost}"
    )
