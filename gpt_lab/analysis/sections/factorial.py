"""What several factors do together: main effects and interactions of a factorial, differences of differences of a grid.

A sweep with `design: factorial` gets the effects of stats/contrasts.py. Any other sweep over two factors or more gets,
for each pair of factors with the others at the baseline, the differences of differences against the baseline's cell:
(a', b') - (a', b) - (a, b') + (a, b). Either is computed in each pair of runs (seed) that has every arm that it needs,
then tested by a plain t over the seeds: what a seed does to all arms drops out. p-values are corrected by Holm over all
effects listed. The words, with e the smallest effect size of interest, each claim corrected by itself:

    matters          the effect lies beyond e
    negligible       it lies within (-e, e)
    real but small   it is not 0
    undecided        none of these, or fewer than 3 seeds
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt_lab import metrics
from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.analysis.sections.effects import (
    Effect,
    Effects,
    Grid,
    Simple,
    interval_of,
    judge,
    listed,
    reversals,
    short,
    surely,
    turn,
)
from gpt_lab.analysis.sections.interactions import differences
from gpt_lab.analysis.table import Table, columns
from gpt_lab.frame.paired_scores import pair_up
from gpt_lab.frame.study import Study
from gpt_lab.stats import contrasts, two_level
from gpt_lab.stats.contrasts import Lenth
from gpt_lab.stats.paired import Array
from gpt_lab.study.design import Design, Settings, shown

MOST_ARMS = 512
"""Arms up to which interactions of every order are computed, which one replicate needs."""
MOST_WARNINGS = 8


def sections(comparison: Comparison, study: Study) -> list[Table]:
    """The effects as a part of the report; nothing where a study has none."""
    found = analyse(comparison, study)
    if found is None:
        return []
    metric, level = comparison.design.metric, wording.percent(comparison.design.alpha)
    title = "Effects of the factors" if found.coded else "Interactions of the factors"
    sentences = [*found.warnings[:MOST_WARNINGS]]
    if len(found.warnings) > MOST_WARNINGS:
        sentences.append(f"WARNING: {len(found.warnings) - MOST_WARNINGS} more effects change their sign like this.")
    sentences += found.notes
    tested = [effect for effect in found.effects if effect.p is not None]
    if tested:
        sentences.append(
            f"{level} intervals, plain t over the {comparison.design.pair}s; p-values by Holm over all "
            f"{'effects' if found.coded else 'interactions'}, those withheld included.{wording.margin(comparison)}"
        )
    warned = [row.arm for row in comparison.rows if row.warnings]
    if found.effects and warned:
        sentences.append(f"The notes on these arms hold for what is computed from them too: {listed(warned)}.")
    if not found.effects:
        return [Table(title, tuple(sentences))]
    aliased = any(effect.aliases for effect in found.effects)
    heads = ["effect" if found.coded else "interaction", f"Δ {metric}", "p (Holm)", "verdict", "n"]
    heads += ["aliased with"] if aliased else []
    heads += ["at the other's levels"]
    places = _places(found.effects)
    rows = tuple(_row(effect, places, aliased) for effect in found.effects)
    return [Table(title, tuple(sentences), columns(heads, {1, 2, 4}), rows)]


def _places(effects: Sequence[Effect]) -> int:
    """Decimals of the column."""
    known = [effect.interval for effect in effects if effect.interval is not None]
    if known:
        return wording.common_digits(known)
    return wording.decimals(max((abs(effect.estimate) for effect in effects), default=0.0) / 10)


def _row(effect: Effect, places: int, aliased: bool) -> tuple[str, ...]:
    size = wording.signed(effect.estimate, places)
    if effect.interval is not None:
        size = wording.with_interval(effect.interval, places)
    cells = [effect.name, size, wording.p_value(effect.p, 4), effect.word, str(effect.n)]
    cells += [effect.aliases] if aliased else []
    text = ""
    if effect.simple:
        one = effect.simple[0]
        low, high = (wording.signed(interval.estimate, places) for interval in one.at)
        text = f"{one.change}: {low} at {one.places[0]}, {high} at {one.places[1].texts[0][1]}"
    return (*cells, text)


def analyse(comparison: Comparison, study: Study) -> Effects | None:
    """Effects and interactions of a study; None where fewer than two factors are crossed, or no baseline is named."""
    design = comparison.design
    low = design.baseline or {}
    if len(design.factors) < 2 or study.runs.empty or any(name not in low for name in design.factors):
        return None
    base = tuple(shown(low[name]) for name in design.factors)
    paired = pair_up(study.runs, design)
    found = {tuple(text for _, text in arm.texts): i for i, arm in enumerate(paired.arms)}
    doubted = [comparison.doubted(arm, "fresh seeds") for arm in paired.arms]  # which Grid.scores sees to
    blocked = frozenset(i for i, against in enumerate(doubted) if against)
    grid = Grid(comparison, paired, found, base, blocked)
    return differences(grid) if design.factorial is None else _coded(grid, design.factorial)


def _coded(grid: Grid, words: Sequence[two_level.Word]) -> Effects:
    """Main effects and two-factor interactions of a two-level factorial or of its fraction."""
    design, base = grid.design, grid.base
    names = design.factors
    highs = []
    for name, low in zip(names, base, strict=True):
        others = [level for level in dict.fromkeys(map(shown, design.values[name])) if level != low]
        highs.append(others[0])
    rows = [row for row in itertools.product((False, True), repeat=len(names)) if _even(row, names, words)]
    keys = [tuple(h if up else low for up, h, low in zip(row, highs, base, strict=True)) for row in rows]
    chosen = (
        f"A {two_level.describe(words, names)}. Low levels are the baseline's; the high ones are "
        f"{', '.join(f'{name}={level}' for name, level in zip(names, highs, strict=True))}."
    )
    meaning = (
        "An effect is the mean over the arms at the high level minus the mean at the low one; that of a × b is half of "
        f"what the effect of a gains when b goes from low to high. In {metrics.unit(design.metric)}: "
        f"{'below' if design.goal == 'minimize' else 'above'} 0 is better."
    )
    notes = [chosen, meaning]
    absent: list[object] = [design.arm(dict(zip(names, key, strict=True))) for key in keys if key not in grid.levels]
    arms = [grid.levels[key] for key in keys if key in grid.levels]
    absent += [grid.lost(i) for i in arms if np.isnan(grid.paired.scores[i]).all()]
    if absent:
        notes.append(f"Withheld: each effect needs all {len(keys)} arms, and none has finished of {listed(absent)}.")
        return Effects(True, (), notes=tuple(notes))
    scores, tuned = grid.scores(arms)
    whole = ~np.isnan(scores).any(0)
    notes += [text for text in (tuned, _dropped(grid, arms, scores)) if text]
    scores = np.where(whole, scores, np.nan)
    if not whole.any():
        notes.append(f"Withheld: no {design.pair} has a finished run in all {len(keys)} arms.")
        return Effects(True, (), notes=tuple(notes))
    high = np.array(rows)
    wanted = contrasts.distinct(names, words, 2)
    found = contrasts.per_pair(contrasts.coefficients(high, names, wanted), scores)
    simple = [_simple_coded(high, scores, effect, names, base, highs, design.alpha) for effect in wanted]
    effects = judge(
        [_name(effect, names) for effect in wanted],
        found,
        scores,
        grid.comparison,
        orders=[len(effect) for effect in wanted],
        aliases=[_aliased(effect, words, names) for effect in wanted],
        simple=simple,
        doubted=[bool(grid.doubted & {*arms})] * len(wanted),
    )
    singles: tuple[tuple[str, float], ...] = ()
    scale = None
    if whole.sum() == 1 and len(rows) <= MOST_ARMS:
        every = contrasts.distinct(names, words)
        sizes = contrasts.per_pair(contrasts.coefficients(high, names, every), scores)[:, whole][:, 0]
        singles = tuple((_name(e, names), float(v)) for e, v in zip(every, sizes, strict=True))
        enough = len(every) >= contrasts.FEWEST_CONTRASTS
        scale = contrasts.lenth(sizes, design.alpha) if enough else None
        notes.append(_single(design, scale, singles))
    warnings = [text for effect in effects for text in reversals(effect, design)]
    if not words and len(names) > 2:
        warned = {effect.name for effect in effects if reversals(effect, design)}
        warnings += _at_baseline(high, scores, names, base, highs, design, warned)
    return Effects(True, tuple(effects), singles, scale, tuple(warnings), tuple(notes))


def _even(row: Sequence[bool], names: Sequence[str], words: Sequence[two_level.Word]) -> bool:
    return all(sum(up for name, up in zip(names, row, strict=True) if name in word) % 2 == 0 for word in words)


def _name(effect: frozenset[str], names: Sequence[str]) -> str:
    return " × ".join(label for label, name in zip(short(names), names, strict=True) if name in effect)


def _aliased(effect: frozenset[str], words: Sequence[two_level.Word], names: Sequence[str]) -> str:
    """`−c × d, 3 of higher order`."""
    others = two_level.aliases(effect, words)
    near = [f"{'−' if sign < 0 else '+'} {_name(e, names)}" for sign, e in others if len(e) <= 2]
    far = len(others) - len(near)
    return ", ".join([*near, *([f"{far} of higher order"] if far else [])])


def _simple_coded(
    high: NDArray[np.bool_],
    scores: Array,
    effect: frozenset[str],
    names: Sequence[str],
    base: Sequence[str],
    highs: Sequence[str],
    alpha: float,
    fixed: bool = False,
) -> tuple[Simple, ...]:
    """Either factor's change at the other's two levels, averaged over the rest of the arms.

    Args:
        fixed: instead with all other factors at the baseline.
    """
    if len(effect) != 2:
        return ()
    pair = [i for i, name in enumerate(names) if name in effect]
    rest = [i for i in range(len(names)) if i not in pair]
    kept = ~high[:, rest].any(1) if fixed else np.ones(len(high), bool)
    found, said = [], short(names)
    for one, other in (pair, pair[::-1]):
        ends = []
        for up in (False, True):
            here = kept & (high[:, other] == up)
            weights = np.where(here, np.where(high[:, one], 1.0, -1.0), 0.0) * (2 / here.sum())
            ends.append(interval_of(contrasts.per_pair(weights[None], scores)[0], scores, alpha))
        places = Settings(((said[other], base[other]),)), Settings(((said[other], highs[other]),))
        if ends[0] is not None and ends[1] is not None:
            found.append(Simple(Settings(((said[one], highs[one]),)), places, (ends[0], ends[1])))
    return tuple(found)


def _at_baseline(
    high: NDArray[np.bool_],
    scores: Array,
    names: Sequence[str],
    base: Sequence[str],
    highs: Sequence[str],
    design: Design,
    warned: set[str],
) -> list[str]:
    """Warnings on the arms' own verdicts, whose other factors are all at the baseline."""
    found = []
    for two in itertools.combinations(names, 2):
        if _name(frozenset(two), names) in warned:
            continue
        for simple in _simple_coded(high, scores, frozenset(two), names, base, highs, design.alpha, fixed=True):
            if surely(simple):
                found.append(turn(simple, design, "", "with the other factors at the baseline"))
    return found


def _dropped(grid: Grid, arms: Sequence[int], scores: Array) -> str:
    """Which seeds are left out for lack of which runs."""
    lacking = np.isnan(scores)
    parts = []
    for j, pair in enumerate(grid.paired.pairs):
        gone = [grid.paired.arms[i] for i, missing in zip(arms, lacking[:, j], strict=True) if missing]
        if 0 < len(gone) < len(arms):
            parts.append(f"{pair} (missing: {listed(gone)})")
    return f"Left out, as each effect needs every arm: {grid.design.pair} {'; '.join(parts)}." if parts else ""


def _single(design: Design, scale: Lenth | None, singles: Sequence[tuple[str, float]]) -> str:
    if scale is None:
        return (
            f"One replicate of {len(singles)} contrasts: nothing tells how large chance is "
            f"({contrasts.FEWEST_CONTRASTS} contrasts or a second {design.pair} would)."
        )
    if scale.pse == 0:
        return "One replicate, most of whose contrasts are 0: nothing tells how large chance is."
    beyond = [name for name, value in singles if abs(value) > scale.simultaneous]
    near = [name for name, value in singles if scale.margin < abs(value) <= scale.simultaneous]
    return (
        f"One replicate: if most of the {len(singles)} contrasts are chance, one has a standard error of about "
        f"{wording.amount(scale.pse)} (Lenth's PSE). Beyond the simultaneous margin of "
        f"{wording.amount(scale.simultaneous)}: {listed(beyond) or 'none'}. Beyond the margin of one contrast, "
        f"{wording.amount(scale.margin)}: {listed(near) or 'no other'}. This suggests and decides nothing: repeat it "
        "with more seeds."
    )
