"""The runs of a study to its answer: one row per arm, best first.

What is compared: `pairing` gives one score per arm and pair, `stats` the differences, `verdict` the words, `fairness`
what forbids them. The tier is each arm's: `confirm` from 5 pairs on whose seeds did not also choose its or the
baseline's nuisance values, else `screen`. Where 5 or more such fresh pairs exist, only they are compared. A verdict
that a doubt forbids becomes undecided and the doubt its warning. Where seeds were added until an arm was decided, the
tier is `sequential` and sequential.py gives the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpt_lab.errors import ConfigError, DataError, unknown
from gpt_lab.report import floor, rho, sequential, stats, verdict
from gpt_lab.report.fairness import doubts, information
from gpt_lab.report.pairing import Choice, Paired, pair_up, part, references
from gpt_lab.report.pairing import fresh as fresh_pairs
from gpt_lab.report.stats import Array, Fit
from gpt_lab.report.types import Comparison, Interval, Row, RowTier, Study, Tier, VerdictName
from gpt_lab.sweep.design import Design, Looks
from gpt_lab.sweep.fairness import Doubt
from gpt_lab.sweep.power import FEWEST

MEDIANS = {
    "parameters": "parameters",
    "non_embedding": "parameters_non_embedding",
    "flops_per_token": "train_flops_per_token",
    "tokens_per_s": "tokens_per_s",
    "peak_memory_gb": "peak_memory_gb",
    "seconds": "seconds",
}
WORDS: dict[int, VerdictName] = {
    verdict.SMALL: "real but small",
    verdict.EQUIVALENT: "equivalent",
    verdict.OPEN: "undecided",
}
ROUNDING = 1e-13
"""Of the largest score: differences that vary by less are one number."""


@dataclass(frozen=True)
class _Verdicts:
    """Arrays over the variants: the fit of each one's tier, and what verdict.decide made of it.

    Fields:
        tiers: of each. fresh: the seeds that are compared chose nothing. flat: every pair differs by the same number.
    """

    fit: Fit
    half: Array
    p: Array
    p_adjusted: Array
    claim: NDArray[np.int64]
    tiers: tuple[RowTier, ...]
    fresh: NDArray[np.bool_]
    flat: NDArray[np.bool_]


def compare(study: Study, tier: Literal["auto", "screen", "confirm"] = "auto") -> Comparison:
    """The verdict on each arm of a study against its baseline.

    `n`, `delta`, `mean` and `sd` rest on the chosen nuisance values; `runs` counts every finished run.

    Args:
        tier: auto: the highest that an arm's pairs allow; screen: never more; confirm: nothing less (fewer pairs, or
            seeds that chose nuisance values, leave an arm undecided).

    Raises:
        DataError: no run at all, or none asked for in the baseline's arm.
        ConfigError: alpha or the smallest effect is out of range.
    """
    design, runs = study.design, study.runs
    _check(design, runs, tier)
    paired = pair_up(runs, design)
    return _Comparing(study, paired, tier).answer()


def _check(design: Design, runs: pd.DataFrame, tier: str) -> None:
    if tier not in ("auto", "screen", "confirm"):
        raise ConfigError(unknown("tier", tier, ("auto", "screen", "confirm")))
    if design.looks is not None and tier != "auto":
        raise ConfigError(f"seeds were added until arms were decided, so no {tier} verdict holds: leave --tier out")
    if not 0 < design.alpha < 1:
        raise ConfigError(f"alpha={design.alpha:g} must lie between 0 and 1")
    if design.sesoi is not None and not (math.isfinite(design.sesoi) and design.sesoi >= 0):
        raise ConfigError(f"sesoi={design.sesoi:g} must be a finite number, at least 0")
    if runs.empty:
        raise DataError(f"study {design.study} has no runs")
    if design.baseline_arm is not None:
        arms = set(runs["arm"])
        if not set(references(design, sorted(arms)).values()) & arms:
            raise DataError(unknown("baseline", design.baseline_arm, arms))


class _Comparing:
    """One call of compare: what several steps share."""

    def __init__(self, study: Study, paired: Paired, tier: str) -> None:
        design, runs = study.design, study.runs
        self.design, self.runs, self.paired, self.wish = design, runs, paired, tier
        arms = paired.arms
        if design.baseline_arm is None and len(arms) == 1:
            of: dict[str, str | None] = {arms[0]: arms[0]}
        else:
            of = references(design, arms)
        self.base = [-1 if (other := of[arm]) is None else arms.index(other) for arm in arms]
        self.counts = (~np.isnan(paired.scores)).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.means = np.nansum(paired.scores, axis=1) / np.where(self.counts, self.counts, np.nan)
            self.variances = np.nansum((paired.scores - self.means[:, None]) ** 2, axis=1) / np.where(
                self.counts > 1, self.counts - 1, np.nan
            )
        self.sesoi = design.sesoi if design.sesoi is not None else self._default_sesoi()
        self.baselines = [i for i, base in enumerate(self.base) if base == i]
        self.variants = [i for i, base in enumerate(self.base) if base != i]
        self.notes: list[str] = []
        self.worth: dict[str, rho.Worth] = {}
        self.errors: dict[str, float] = {}
        self.differences = np.empty((0, len(paired.pairs)))
        used = runs[paired.finished]
        bases = used["arm"].isin([arms[i] for i in self.baselines])
        self.floor = study.noise(used["run"][bases].tolist()) if self.baselines else None
        columns = {key: pd.to_numeric(used[name], errors="coerce") for key, name in MEDIANS.items() if name in used}
        self.by_arm: dict[str, dict[str, float]] = (
            pd.DataFrame(columns).groupby(used["arm"]).median().to_dict("index") if columns and len(used) else {}
        )
        score = runs["score"].astype(float)
        done = runs["state"] == "finished"
        self.finished = runs["arm"][done & np.isfinite(score)].value_counts().to_dict()
        other = runs["state"].mask(done & np.isinf(score), "diverged").mask(done & score.isna(), "without score")
        lost = runs[["arm"]].assign(state=other)[~(done & np.isfinite(score))]
        self.states: dict[str, dict[str, int]] = {}
        for (arm, state), count in lost.value_counts(sort=False).items():
            self.states.setdefault(arm, {})[state] = int(count)

    def answer(self) -> Comparison:
        if self.paired.doubled:
            self.notes.append(f"{self.paired.doubled} runs repeat an arm and pair: their mean counts once.")
        rows = self._judged() if self.baselines else self._described()
        correction = self._correction(rows)
        rows.sort(key=self._rank)
        self._say(rows)
        return Comparison(self.design, tuple(rows), self._noise(rows), self.sesoi, correction, tuple(self.notes))

    def _described(self) -> list[Row]:
        """Rows of a study whose baseline is still to be chosen."""
        arms = "; ".join(self.paired.arms[:6]) + (" ..." if len(self.paired.arms) > 6 else "")
        self.notes.append(f"No baseline is stated, so nothing is compared: choose one with --baseline ({arms}).")
        rows = []
        for i in self.variants:
            name: VerdictName = "undecided" if self.counts[i] else "no data"
            rows.append(self._row(i, name, n=int(self.counts[i])))
        return rows

    def _judged(self) -> list[Row]:
        """Each baseline's row, then one for each variant."""
        rows = [self._row(i, "baseline", n=int(self.counts[i])) for i in self.baselines]
        alone = [i for i in self.variants if self.base[i] < 0]
        for i in alone:
            rows.append(self._row(i, "no data", n=0, warnings=["its baseline was not asked for"]))
        self.variants = [i for i in self.variants if self.base[i] >= 0]
        if not self.variants:
            return rows
        verdicts = self._verdicts()
        doubted: dict[str, list[Doubt]] = {}
        arms = self.paired.arms
        for base in self.baselines:
            own = {arms[i] for i, other in enumerate(self.base) if other == base}
            mask = self.runs["arm"].isin(own).to_numpy()
            runs, paired = self.runs[mask], part(self.paired, own, mask)
            doubted |= doubts(runs, paired, self.design, arms[base])
            self.notes += information(runs, paired, self.design, arms[base])
        for k, i in enumerate(self.variants):
            found: list[Doubt | str] = [*doubted[arms[i]], *self._weak(verdicts, k, i, self.base[i])]
            rows.append(self._variant(verdicts, k, i, self.base[i], found))
        return rows

    def _verdicts(self) -> _Verdicts:
        """What the numbers alone say of every variant."""
        if self.design.looks is not None:
            return self._looked(self.design.looks)
        bases = [self.base[i] for i in self.variants]
        found = fresh_pairs(self.paired, self.variants, bases, FEWEST["confirm"])
        if found.dropped:
            self.notes.append(f"{found.dropped} arms are compared on the seeds that chose no nuisance value only.")
        fresh, scores = found.fresh, self.paired.scores
        self.differences = np.where(found.usable, scores[self.variants] - scores[bases], np.nan)
        flat = self._flat()
        plain = stats.paired_t(self.differences)
        null = stats.Null(self.floor.sd**2, self.floor.df) if self.floor is not None else None
        pooled = stats.pooled_t(np.where(flat[:, None], np.nan, self.differences), null)
        able = fresh & (plain.pairs >= FEWEST["confirm"])
        confirm = np.ones_like(able) if self.wish == "confirm" else able & (self.wish != "screen")
        high = self._decide(plain, "confirm", able & confirm & ~flat)
        low = self._decide(pooled, "screen", ~confirm & ~flat)
        own = confirm | flat
        fit = Fit(*(np.where(own, getattr(plain, f), getattr(pooled, f)) for f in ("estimate", "error", "df", "pairs")))
        return _Verdicts(
            fit=fit,
            half=fit.half_width(self.design.alpha),
            p=fit.p(),
            p_adjusted=np.where(confirm, high.p_adjusted, low.p_adjusted),
            claim=np.where(confirm, high.claim, low.claim),
            tiers=tuple("confirm" if high else "screen" for high in confirm),
            fresh=fresh,
            flat=flat,
        )

    def _looked(self, looks: Looks) -> _Verdicts:
        """The same of a study whose seeds were added until each arm was decided."""
        scores, pairs = self.paired.scores, self.paired.pairs
        differences = scores[self.variants] - scores[[self.base[i] for i in self.variants]]
        ordered, places = sequential.ordered(differences, pairs, self.design)
        found = sequential.decide(ordered, looks, self.design.alpha, self.sesoi)
        self.notes += sequential.notes(found.stand, differences)
        self.differences = np.where(sequential.used(found.stand, places, len(pairs)), differences, np.nan)
        fit = stats.paired_t(self.differences)
        every = np.ones(len(fit.pairs), bool)
        tiers: tuple[RowTier, ...] = tuple("sequential" for _ in fit.pairs)
        return _Verdicts(fit, found.half, found.p, found.p_adjusted, found.claim, tiers, every, self._flat())

    def _decide(self, fit: Fit, tier: Tier, eligible: NDArray[np.bool_]) -> verdict.Decision:
        return verdict.decide(fit, tier=tier, alpha=self.design.alpha, sesoi=self.sesoi, eligible=eligible)

    def _flat(self) -> NDArray[np.bool_]:
        """Arms of two pairs or more whose differences are all the same to rounding."""
        size = np.max(np.abs(self.paired.scores), initial=0.0, where=~np.isnan(self.paired.scores))
        shown = ~np.isnan(self.differences)
        high = np.where(shown, self.differences, -np.inf).max(1)
        low = np.where(shown, self.differences, np.inf).min(1)
        return np.asarray((shown.sum(1) >= 2) & (high - low <= ROUNDING * size))

    def _weak(self, verdicts: _Verdicts, k: int, i: int, base: int) -> list[str]:
        """What an arm's data lack."""
        n = int(verdicts.fit.pairs[k])
        found = []
        looks = self.design.looks
        if n == 0 and self.counts[i] and not self.counts[base]:
            found.append("the baseline has no finished run")
        elif n == 0 and self.counts[i]:
            found.append(f"no {self.design.pair} that the baseline finished too")
        elif n == 1:
            value = float(verdicts.fit.estimate[k])
            found.append(f"one pair only: it differs by {value:+.4g}, which has no interval")
        elif looks is not None and 0 < n < looks.first:
            found.append(f"{n} pairs only: the first look is after {looks.first}")
        elif 0 < n < FEWEST["screen"]:
            found.append(f"{n} pairs only: {FEWEST['screen']} are the fewest for a verdict")
        if FEWEST["screen"] <= n < FEWEST["confirm"] and self.wish == "confirm":
            found.append(f"{n} pairs: {FEWEST['confirm']} are the fewest that confirm")
        return found

    def _variant(self, verdicts: _Verdicts, k: int, i: int, base: int, found: Sequence[Doubt | str]) -> Row:
        fit, n = verdicts.fit, int(verdicts.fit.pairs[k])
        warnings = [doubt.said if isinstance(doubt, Doubt) else doubt for doubt in found]
        blocked = {what for doubt in found if isinstance(doubt, Doubt) for what in doubt.blocks}
        if n == 0:
            return self._row(i, "no data", n=0, warnings=warnings)
        tier = verdicts.tiers[k]
        name = self._name(int(verdicts.claim[k]))
        delta = None
        self.errors[self.paired.arms[i]] = float(fit.error[k])
        if n >= 2 and math.isfinite(verdicts.half[k]):
            d, half, p = float(fit.estimate[k]), float(verdicts.half[k]), float(verdicts.p[k])
            delta = Interval(d, d - half, d + half, float(fit.df[k]), p)
        if verdicts.flat[k]:
            name, text = self._identical(float(fit.estimate[k]), n)
            warnings.append(text)
        more = None
        if "all" in blocked or name in blocked:
            name = "undecided"
        elif name == "undecided" and not verdicts.flat[k] and tier != "sequential":
            lacking = FEWEST[tier] - (n if verdicts.fresh[k] or tier == "screen" else 0)
            more = max(self._more(fit, k, tier) or 0, lacking) or None
        used = ~np.isnan(self.differences[k])
        mine, theirs = self.paired.scores[i][used], self.paired.scores[base][used]
        correlation = stats.correlation(mine, theirs)
        worth = rho.of_arm(mine, theirs, self.design.alpha) if n >= 4 else None
        if worth is not None:
            self.worth[self.paired.arms[i]] = worth
        return self._row(
            i,
            name,
            n=n,
            tier=tier,
            delta=delta,
            p_adjusted=None if math.isnan(verdicts.p_adjusted[k]) else float(verdicts.p_adjusted[k]),
            more_seeds=more,
            rho=None if math.isnan(correlation) else correlation,
            runs_saved=None if worth is None else worth.saved,
            warnings=warnings,
        )

    def _name(self, claim: int) -> VerdictName:
        if claim in (verdict.LOWER, verdict.HIGHER):
            return "better" if (claim == verdict.LOWER) == (self.design.goal == "minimize") else "worse"
        return WORDS[claim]

    def _identical(self, difference: float, n: int) -> tuple[VerdictName, str]:
        if difference == 0:
            text = "the same score as the baseline in every pair: the setting changed nothing"
            return ("equivalent" if n >= FEWEST["screen"] else "undecided"), text
        return "undecided", f"the same difference in every pair: the {self.design.pair} draws no new run"

    def _more(self, fit: Fit, k: int, tier: Tier) -> int | None:
        n = int(fit.pairs[k])
        if n < 2:
            return None
        deviation = float(fit.error[k]) * math.sqrt(n)
        family = len(self.variants)
        return verdict.further_seeds(
            float(fit.estimate[k]), deviation, n, sesoi=self.sesoi, alpha=self.design.alpha, tier=tier, family=family
        )

    def _row(self, i: int, name: VerdictName, *, n: int, warnings: Sequence[str] = (), **found: Any) -> Row:
        """What a row says of its own runs, beside what was found by comparing."""
        arm = self.paired.arms[i]
        choice: Choice = self.paired.choices[arm]
        mine = self.by_arm.get(arm, {})
        numbers: dict[str, Any] = {"tier": None, "delta": None, "p_adjusted": None, "more_seeds": None}
        numbers |= {"rho": None, "runs_saved": None}
        return Row(
            arm=arm,
            verdict=name,
            n=n,
            runs=int(self.finished.get(arm, 0)),
            mean=float(self.means[i]) if self.counts[i] else None,
            sd=math.sqrt(self.variances[i]) if self.counts[i] > 1 else None,
            medians={key: value for key, value in mine.items() if math.isfinite(value)},
            tuning=choice.tuning,
            on_edge=bool(choice.edges),
            states=self.states.get(arm, {}),
            warnings=tuple(warnings),
            **(numbers | found),
        )

    def _rank(self, row: Row) -> tuple[int, bool, float, str]:
        """Best first: by the difference on common pairs, else by the mean; arms that cannot be compared last.

        Each baseline's variants stand together.
        """
        sign = 1 if self.design.goal == "minimize" else -1
        place = self.paired.arms.index(row.arm)
        base = self.base[place]
        value = 0.0 if row.verdict == "baseline" else math.nan if row.mean is None else row.mean
        if base >= 0 and base != place:
            value -= float(self.means[base])
        if row.delta is not None:
            value = row.delta.estimate
        last = math.isnan(value) or row.verdict == "no data"
        group = self.baselines.index(base) if base >= 0 else len(self.baselines)
        return group, last, 0.0 if math.isnan(value) else sign * value, row.arm

    def _default_sesoi(self) -> float:
        runs, metric = self.runs[self.paired.finished], self.design.metric
        run_sd = math.sqrt(stats.typical_variance(self.variances, self.counts))
        bytes_per_token = math.nan
        if {"summary.val/loss", "summary.val/bpb"} <= set(runs.columns):
            loss, bpb = (pd.to_numeric(runs[f"summary.val/{name}"], errors="coerce") for name in ("loss", "bpb"))
            bytes_per_token = float((loss / (math.log(2) * bpb)).median())
        known = self.means[self.counts > 0]
        typical = float(np.median(known)) if len(known) else math.nan
        return verdict.default_sesoi(metric, run_sd, bytes_per_token=bytes_per_token, typical=typical)

    def _noise(self, rows: Sequence[Row]) -> Interval | None:
        """The interval of an arm that equals the baseline, with as many pairs as the arms have."""
        many = [i for i in self.baselines if self.counts[i] >= 2]
        if not many:
            return None
        n = int(np.median(self.counts[many]))
        freedom = self.counts[many] - 1.0
        variance = float(self.variances[many] @ freedom / freedom.sum())
        screen = any(row.tier == "screen" for row in rows)
        differences = self.differences if self.variants else np.empty((0, 0))
        if self.design.looks is not None:
            return sequential.floor(differences, n, variance, self.design)
        return floor.interval(differences, n, variance, screen=screen, alpha=self.design.alpha, noise=self.floor)

    def _correction(self, rows: Sequence[Row]) -> str:
        family = len(self.variants) if self.baselines else 0
        if self.design.looks is not None and family:
            return sequential.correction(self.design, family)
        if family < 2:
            return "none: one comparison" if family else "none: no comparison"
        tiers = {row.tier for row in rows} - {None}
        names = [name for tier, name in (("confirm", "Holm"), ("screen", "Benjamini-Hochberg")) if tier in tiers]
        return f"{' (confirm), '.join(names)}{' (screen)' if len(names) > 1 else ''} over {family} comparisons"

    def _say(self, rows: Sequence[Row]) -> None:
        """What the reader of the table must know."""
        if not self.baselines:
            return
        better = [row for row in rows if row.verdict == "better"]
        known = [(row, row.delta) for row in rows if row.delta is not None and row.n >= FEWEST["screen"]]
        if better and len(known) >= 3 and not self.design.within:
            errors = [self.errors[row.arm] for row, _ in known]
            drawn = stats.shrunken([delta.estimate for _, delta in known], errors)
            place = next(j for j, (row, _) in enumerate(known) if row is better[0])
            self.notes.append(
                f"{better[0].arm} was selected out of {len(known)}: its difference of "
                f"{known[place][1].estimate:+.4g} is {drawn[place]:+.4g} after allowing for that."
            )
        if any(row.tier == "screen" for row in better):
            self.notes.append(
                "A screen suggests: confirm a better arm on 5 or more fresh seeds before calling it best."
            )
        if any(row.verdict == "undecided" and row.more_seeds and row.n >= FEWEST["screen"] for row in rows):
            self.notes.append(
                "Adding seeds until an arm is decided makes false verdicts likelier: add them once, or use fresh ones."
            )
        variances = self.variances[self.variants] + self.variances[[self.base[i] for i in self.variants]]
        if (paid := rho.of_all(self.differences, variances, len(self.baselines), self.design.alpha)) is not None:
            self.notes.append(rho.said(paid, self.design.pair, self.worth))
        if self.floor is not None:
            self.notes.append(floor.said(self.floor, rows, self.runs))
