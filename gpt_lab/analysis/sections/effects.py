"""Effects of several factors: what is known of each, and the words for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.frame.paired_scores import Paired
from gpt_lab.stats.contrasts import Lenth
from gpt_lab.stats.decision import EQUIVALENT, HIGHER, LOWER, SMALL, decide
from gpt_lab.stats.interval import Interval
from gpt_lab.stats.paired import ROUNDING, Array, paired_t
from gpt_lab.stats.tiers import CONFIRMS, FEWEST
from gpt_lab.study.design import Design, Settings

SAME = "the same in every pair"
DOUBTED = "undecided: see notes"
WORDS = {LOWER: "matters", HIGHER: "matters", EQUIVALENT: "negligible", SMALL: "real but small"}


@dataclass(frozen=True)
class Simple:
    """What one change does at two levels of another factor: `norm=none` at `residual=pre` and at `residual=post`."""

    change: Settings
    places: tuple[Settings, Settings]
    at: tuple[Interval, Interval]


@dataclass(frozen=True)
class Effect:
    """A main effect or an interaction.

    Fields:
        n: pairs. interval: None below two pairs, or where all pairs give the same.
        p: after Holm's correction over the effects listed. word: as the module's text says.
        aliases: what a fraction cannot tell from it, with signs. simple: of an interaction, either factor's change.
    """

    name: str
    order: int
    estimate: float
    n: int
    interval: Interval | None
    p: float | None
    word: str
    aliases: str = ""
    simple: tuple[Simple, ...] = ()


@dataclass(frozen=True)
class Effects:
    """The answer on several factors.

    Fields:
        coded: effects of a two-level factorial; else differences of differences.
        singles: (name, contrast) of every order, where there is one replicate; with its Lenth if there are enough.
        warnings, notes: sentences.
    """

    coded: bool
    effects: tuple[Effect, ...]
    singles: tuple[tuple[str, float], ...] = ()
    lenth: Lenth | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """The arms of a study by the levels of their factors, and the pairs that are compared.

    Fields:
        levels: levels of the factors -> place of the arm. base: those of the baseline.
        doubted: arms whose runs cannot fairly be compared with the baseline's (fairness).
    """

    comparison: Comparison
    paired: Paired
    levels: dict[tuple[str, ...], int]
    base: tuple[str, ...]
    doubted: frozenset[int] = frozenset()

    @property
    def design(self) -> Design:
        return self.comparison.design

    def scores(self, arms: Sequence[int]) -> tuple[Array, str]:
        """(arms, pairs), and a sentence on seeds that also chose nuisance values; the rest only, where they suffice."""
        scores = self.paired.scores[list(arms)]
        chose = np.array([self.paired.choices[self.paired.arms[i]].contested for i in arms]).any(0)
        whole = ~np.isnan(scores).any(0)
        if not (whole & chose).any():
            return scores, ""
        if (whole & ~chose).sum() >= CONFIRMS:
            return np.where(chose, np.nan, scores), "Only seeds that chose no nuisance value are compared."
        return (
            scores,
            "The seeds compared also chose the nuisance values, which makes effects look surer than they are.",
        )

    def lost(self, arm: int) -> str:
        """`norm=none (2 diverged)`."""
        name = self.paired.arms[arm]
        states = next((wording.states(row) for row in self.comparison.rows if row.arm == name), "")
        return f"{name} ({states or 'no finished run'})"


def short(factors: Sequence[str]) -> list[str]:
    """The factors without their groups, where that leaves them different: `qk_norm`."""
    ends = [name.rpartition(".")[2] for name in factors]
    return [end if ends.count(end) == 1 else name for name, end in zip(factors, ends, strict=True)]


def judge(
    names: Sequence[str],
    found: Array,
    scores: Array,
    comparison: Comparison,
    *,
    orders: Sequence[int],
    simple: Sequence[tuple[Simple, ...]],
    doubted: Sequence[bool] = (),
    aliases: Sequence[str] = (),
    withheld: int = 0,
) -> list[Effect]:
    """Effects from their contrasts (effects, pairs), corrected together.

    Args:
        scores: that they were computed from; their size tells what is rounding.
        doubted: effects whose arms cannot fairly be compared: nothing is claimed of them.
        withheld: effects without a contrast that belong to the family all the same.
    """
    design, sesoi = comparison.design, comparison.band
    size = float(np.nanmax(np.abs(scores)))
    counts = (~np.isnan(found)).sum(1)
    flat = (counts >= 2) & (np.nanmax(found, axis=1) - np.nanmin(found, axis=1) <= ROUNDING * size)
    lacking = np.full((withheld, found.shape[1]), np.nan)
    fit = paired_t(np.concatenate([np.where(flat[:, None], np.nan, found), lacking]))
    said = decide(fit, alpha=design.alpha, sesoi=sesoi)
    half, p, adjusted = fit.half_width(design.alpha), fit.p(), said.p_adjusted
    effects = []
    for i, name in enumerate(names):
        word = WORDS.get(int(said.claim[i]), "undecided")
        if flat[i]:
            word = SAME
        elif doubted and doubted[i]:
            word = DOUBTED
        estimate = float(np.nanmean(found[i]))
        known = math.isfinite(fit.error[i])
        interval = Interval(estimate, estimate - half[i], estimate + half[i], float(fit.df[i]), float(p[i]))
        effects.append(
            Effect(
                name=name,
                order=orders[i],
                estimate=estimate,
                n=int(counts[i]),
                interval=interval if known else None,
                p=None if math.isnan(adjusted[i]) else float(adjusted[i]),
                word=word,
                aliases=aliases[i] if aliases else "",
                simple=simple[i],
            )
        )
    return effects


def interval_of(differences: Array, scores: Array, alpha: float) -> Interval | None:
    """Of one contrast over its pairs; None below two, or where all are the same to rounding of the scores."""
    fit = paired_t(differences[None])
    estimate, error = float(fit.estimate[0]), float(fit.error[0])
    if not math.isfinite(error):
        return None
    if np.nanmax(differences) - np.nanmin(differences) <= ROUNDING * np.nanmax(np.abs(scores)):
        return None
    half = float(fit.half_width(alpha)[0])
    return Interval(estimate, estimate - half, estimate + half, float(fit.df[0]), float(fit.p()[0]))


def reversals(effect: Effect, design: Design) -> list[str]:
    """Warnings that a factor's effect has another sign at another factor's other level.

    Either both intervals exclude 0, or the one at the baseline's level does, the interaction is sure and the estimate
    at the other level has the opposite sign.
    """
    found = []
    for simple in effect.simple:
        sure = effect.p is not None and effect.p <= design.alpha
        low, high = simple.at
        if surely(simple):
            found.append(turn(simple, design, effect.aliases))
        elif sure and not low.low <= 0 <= low.high and low.estimate * high.estimate < 0:
            also = "the second interval holds 0, that of the interaction does not"
            found.append(turn(simple, design, effect.aliases, also))
    return found


def surely(simple: Simple) -> bool:
    """Both intervals exclude 0, on different sides, with as many pairs as a verdict needs."""
    low, high = simple.at
    if min(low.df, high.df) < FEWEST - 1:
        return False
    return (low.high < 0 < high.low) or (high.high < 0 < low.low)


def turn(simple: Simple, design: Design, aliases: str, also: str = "") -> str:
    """The warning in words."""
    low, high = simple.at
    places = wording.common_digits([low, high])
    better = (low.estimate < 0) == (design.goal == "minimize")
    words = ("better", "worse") if better else ("worse", "better")
    text = (
        f"WARNING: {simple.change} is {words[0]} at {simple.places[0]} ({wording.with_interval(low, places)}) but "
        f"{words[1]} at {simple.places[1]} ({wording.with_interval(high, places)}): a verdict at one level does not "
        "hold at the other"
    )
    if aliases:
        also = f"{also}; aliased with {aliases}" if also else f"aliased with {aliases}"
    return f"{text} ({also})." if also else f"{text}."


def listed(names: Sequence[object], most: int = 6) -> str:
    """The first names, and how many more there are."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
