"""Paired scores, one for each arm and pair: nuisance settings chosen, duplicates averaged, NaN left out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpt_lab.frame import tuned
from gpt_lab.options import is_number
from gpt_lab.stats.paired import Array
from gpt_lab.study.design import Design, Settings, shown


@dataclass(frozen=True)
class NuisanceChoice:
    """The nuisance values of one arm.

    Fields:
        tuning: the values chosen. tried: distinct values that were run.
        contested: pairs (of Paired.pairs) on which they were chosen. complete: they have a score on each of these.
        edges: settings whose chosen value is the first or last that the arm tried.
        problems: of its `tune`, which forbid to call the arm, or one compared with it, better.
    """

    tuning: Settings
    tried: int
    complete: bool
    contested: NDArray[np.bool_]
    edges: tuple[str, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fresh:
    """Of each variant, which pairs are compared (variants, pairs) and whether these chose nothing; arms with fewer."""

    usable: NDArray[np.bool_]
    fresh: NDArray[np.bool_]
    dropped: int


@dataclass(frozen=True)
class Paired:
    """Scores (arms, pairs) of the chosen runs, NaN where there is none, in order of appearance.

    Fields:
        chosen: of each row of the table of runs, whether it belongs to its arm's chosen values.
        finished: whether it also has a score that counts. doubled: finished runs beyond the first of their arm, pair
            and stratum. uneven: finished runs of a stratum that not every arm has in their pair.
    """

    arms: tuple[Settings, ...]
    pairs: tuple[str, ...]
    scores: Array
    choices: Mapping[Settings, NuisanceChoice]
    chosen: NDArray[np.bool_]
    finished: NDArray[np.bool_]
    doubled: int
    uneven: int = 0


def references(design: Design, arms: Sequence[Settings]) -> dict[Settings, Settings | None]:
    """The arm that each is compared with: the baseline, or of several the one with its own values of `within`.

    A baseline's is itself. None: no baseline is named, or none of the arms is this arm's.
    """
    base = design.baseline_arm
    if not design.within or design.baseline is None:
        return dict.fromkeys(arms, base)
    found = {arm: design.reference(dict(arm.given)) for arm in arms}
    return {arm: other if other in found else None for arm, other in found.items()}


def part(paired: Paired, arms: Collection[Settings], rows: NDArray[np.bool_]) -> Paired:
    """The table of some arms, whose runs are these rows."""
    kept = [i for i, arm in enumerate(paired.arms) if arm in arms]
    return replace(
        paired,
        arms=tuple(paired.arms[i] for i in kept),
        scores=paired.scores[kept],
        chosen=paired.chosen[rows],
        finished=paired.finished[rows],
    )


def fresh(paired: Paired, variants: Sequence[int], bases: Sequence[int], enough: int) -> Fresh:
    """Which pairs of each variant and its baseline are compared: of those that chose no nuisance value, if enough.

    Args:
        variants, bases: their places among the arms.
    """
    scored = ~np.isnan(paired.scores)
    both = scored[list(variants)] & scored[list(bases)]
    choices = [paired.choices[arm] for arm in paired.arms]
    used = np.array([choices[i].contested | choices[b].contested for i, b in zip(variants, bases, strict=True)])
    used = used.reshape(both.shape)
    untouched = both & ~used
    plenty = untouched.sum(1) >= enough
    usable = np.where(plenty[:, None], untouched, both)
    return Fresh(usable, ~(usable & used).any(1), int((plenty & (usable.sum(1) < both.sum(1))).sum()))


def pair_up(runs: pd.DataFrame, design: Design) -> Paired:
    """The table of scores that is compared.

    Of an arm's nuisance values the one with the best mean is chosen, on the pairs where at least two were asked for and
    among those that have a score on each of these pairs; where none has, among those that have the most. With `tune`
    the tuner's own choice is taken (frame/tuned.py), and the pairs that it was made on are not compared. The seed is
    the unit of replication: what else varies within an arm (the stratum) is averaged within a pair, over the strata
    that every arm has there.
    """
    arms = tuple(dict.fromkeys(runs["arm"]))
    pairs = tuple(dict.fromkeys(runs["pair"]))
    at = (runs["arm"].map({a: i for i, a in enumerate(arms)}), runs["pair"].map({p: i for i, p in enumerate(pairs)}))
    tunings = tuple(dict.fromkeys(runs["tuning"]))
    arm, pair = (index.to_numpy(np.int64) for index in at)
    tuning = runs["tuning"].map({t: i for i, t in enumerate(tunings)}).to_numpy(np.int64)
    score = runs["score"].to_numpy(float)
    done = (runs["state"] == "finished").to_numpy() & np.isfinite(score)
    begun = ~runs["state"].isin(["missing", "failed"]).to_numpy()

    choices: dict[Settings, NuisanceChoice] = {}
    chosen = np.zeros(len(runs), bool)
    order = np.argsort(arm, kind="stable")
    tuned_on = np.array([design.tunes(name) for name in pairs], bool)
    for index, rows in enumerate(np.split(order, np.searchsorted(arm[order], np.arange(1, len(arms))))):
        if design.tuning_pairs:
            found = tuned.read(runs.iloc[rows], design)
            choices[arms[index]] = NuisanceChoice(
                found.tuning, found.tried, True, tuned_on, found.edges, found.problems
            )
            chosen[rows[(runs["tuning"].iloc[rows] == found.tuning).to_numpy() & ~tuned_on[pair[rows]]]] = True
            continue
        best, choice = _choose(
            tuning[rows], pair[rows], np.where(done, score, np.nan)[rows], begun[rows], tunings, len(pairs), design
        )
        choices[arms[index]] = choice
        chosen[rows[tuning[rows] == best]] = True
    used = chosen & done
    named = runs["stratum"].to_numpy(str) if "stratum" in runs else np.full(len(runs), "")
    strata, stratum = np.unique(named, return_inverse=True)
    shape = (len(arms), len(pairs), len(strata))
    cell = np.ravel_multi_index((arm[used], pair[used], stratum[used]), shape)
    count = np.bincount(cell, minlength=math.prod(shape)).reshape(shape)
    total = np.bincount(cell, weights=score[used], minlength=math.prod(shape)).reshape(shape)
    there = count > 0
    common = np.all(there | ~there.any(2, keepdims=True), axis=0)
    kept = there & common
    with np.errstate(invalid="ignore"):
        each = np.where(kept, total / np.maximum(count, 1), 0.0)
        scores = np.where(kept.any(2), each.sum(2) / np.maximum(kept.sum(2), 1), np.nan)
    counted = used & common[pair, stratum]
    doubled = int(np.maximum(count - 1, 0).sum())
    return Paired(arms, pairs, scores, choices, chosen, counted, doubled, int((used & ~counted).sum()))


def _choose(
    tuning: NDArray[np.int64],
    pair: NDArray[np.int64],
    score: Array,
    begun: NDArray[np.bool_],
    names: tuple[Settings, ...],
    pairs: int,
    design: Design,
) -> tuple[int, NuisanceChoice]:
    """Number of the best nuisance values of one arm's runs, and how they were chosen."""
    values, place = np.unique(tuning, return_inverse=True)
    tried = len(np.unique(tuning[begun]))
    if len(values) == 1:
        return int(values[0]), NuisanceChoice(names[values[0]], tried, True, np.zeros(pairs, bool), ())
    asked = np.zeros((len(values), pairs), bool)
    asked[place, pair] = True
    contested = asked.sum(0) >= 2
    if not contested.any():  # drawn values, each on pairs of its own
        contested = asked.any(0)
    total = np.zeros((len(values), pairs))
    count = np.zeros((len(values), pairs))
    scored = np.isfinite(score)
    np.add.at(total, (place[scored], pair[scored]), score[scored])
    np.add.at(count, (place[scored], pair[scored]), 1)
    has = (count > 0) & contested
    candidates = has.sum(1) == max(1, has.sum(1).max())
    if not candidates.any():
        return int(values[0]), NuisanceChoice(names[values[0]], tried, False, contested, ())
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(has, total / np.maximum(count, 1), 0.0).sum(1) / has.sum(1)
    sign = 1 if design.goal == "minimize" else -1
    best = int(np.argmin(np.where(candidates, sign * mean, np.inf)))
    complete = bool(has[best].sum() == contested.sum())
    chosen = names[values[best]]
    ladder = [names[value] for value in np.unique(tuning[begun])]
    return int(values[best]), NuisanceChoice(chosen, tried, complete, contested, _edges(ladder, chosen, design))


def _edges(tunings: list[Settings], chosen: Settings, design: Design) -> tuple[str, ...]:
    """Settings whose chosen value ends the ladder of numbers that this arm tried."""
    found = []
    for key in design.nuisance:
        ladder = [value for value in design.values.get(key, ()) if is_number(value)]
        tried = {tuning.text(key) for tuning in tunings}
        rungs = [text for value in ladder if (text := shown(value)) in tried]
        if len(rungs) >= 2 and chosen.text(key) in (rungs[0], rungs[-1]):
            found.append(key)
    return tuple(found)
