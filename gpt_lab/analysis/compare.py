"""The runs of a study to its answer: one row per arm, best first.

What is compared: `pairing` gives one score per arm and pair, `judge` what the numbers say, `validity/` what forbids it.
A verdict that a doubt forbids becomes undecided and the doubt its warning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from gpt_lab.analysis import looks as sequential
from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison, Row, VerdictName
from gpt_lab.analysis.judge import Verdicts, judge, judge_looks, seeds_to_plan, verdict
from gpt_lab.errors import ConfigError, DataError, unknown
from gpt_lab.frame import noise_floor
from gpt_lab.frame.paired_scores import NuisanceChoice, Paired, pair_up, part, references
from gpt_lab.frame.study import Study
from gpt_lab.stats import decision, pairing_gain
from gpt_lab.stats.interval import Interval
from gpt_lab.stats.paired import correlation, shrunken
from gpt_lab.stats.tiers import CONFIRMS, FEWEST
from gpt_lab.study.design import Design, Settings
from gpt_lab.validity.afterwards import doubts, information
from gpt_lab.validity.measures import above_floor, says
from gpt_lab.validity.rule import Doubt
from gpt_lab.validity.seen import Seen

MEDIANS = {
    "parameters": "parameters",
    "non_embedding": "parameters_non_embedding",
    "flops_per_token": "train_flops_per_token",
    "tokens_per_s": "tokens_per_s",
    "peak_memory_gb": "peak_memory_gb",
    "seconds": "seconds",
}


def compare(study: Study, tier: Literal["auto", "screen", "confirm"] = "auto") -> Comparison:
    """The verdict on each arm of a study against its baseline.

    `n`, `delta`, `mean` and `sd` rest on the chosen nuisance values; `runs` counts every finished run.

    Args:
        tier: auto: the highest that an arm's pairs allow; screen: never more; confirm: nothing less (fewer pairs, or
            seeds that chose nuisance values, leave an arm undecided).

    Raises:
        DataError: no run at all, or none asked for in the baseline's arm.
        ConfigError: alpha or the smallest effect size of interest is out of range.
    """
    design, runs = study.design, study.runs
    _check(design, runs, tier)
    return _Comparing(study, pair_up(runs, design), tier).answer()


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
        if not set(references(design, list(arms)).values()) & arms:
            raise DataError(unknown("baseline", str(design.baseline_arm), map(str, arms)))


class _Comparing:
    """One call of compare: what several steps share."""

    def __init__(self, study: Study, paired: Paired, tier: str) -> None:
        design, runs = study.design, study.runs
        self.study, self.design, self.runs, self.paired, self.wish = study, design, runs, paired, tier
        arms = paired.arms
        if design.baseline_arm is None and len(arms) == 1:
            of: dict[Settings, Settings | None] = {arms[0]: arms[0]}
        else:
            of = references(design, arms)
        self.place = {arm: i for i, arm in enumerate(arms)}
        self.base = [-1 if (other := of[arm]) is None else self.place[other] for arm in arms]
        self.counts = (~np.isnan(paired.scores)).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.means = np.nansum(paired.scores, axis=1) / np.where(self.counts, self.counts, np.nan)
            self.variances = np.nansum((paired.scores - self.means[:, None]) ** 2, axis=1) / np.where(
                self.counts > 1, self.counts - 1, np.nan
            )
        self.band = design.sesoi or 0.0
        self.baselines = [i for i, base in enumerate(self.base) if base == i]
        self.variants = [i for i, base in enumerate(self.base) if base != i]
        self.notes: list[str] = []
        self.doubted: dict[Settings, list[Doubt]] = {}
        self.worth: dict[Settings, pairing_gain.PairingGain] = {}
        waiting = (runs["state"] == "missing") & ~says(runs, "error") | (runs["state"] == "running")
        self.coming: dict[Settings, int] = runs["arm"][waiting & paired.chosen].value_counts().to_dict()
        self.verdicts: Verdicts | None = None
        self.planned = study.stated.pairs if study.stated is not None else None
        used = runs[paired.finished]
        bases = used["arm"].isin([arms[i] for i in self.baselines])
        self.floor = study.noise(used["run"][bases].tolist()) if self.baselines else None
        columns = {key: pd.to_numeric(used[name], errors="coerce") for key, name in MEDIANS.items() if name in used}
        self.by_arm: dict[Settings, dict[str, float]] = (
            pd.DataFrame(columns).groupby(used["arm"]).median().to_dict("index") if columns and len(used) else {}
        )
        score = runs["score"].astype(float)
        done = runs["state"] == "finished"
        self.finished = runs["arm"][done & np.isfinite(score)].value_counts().to_dict()
        other = runs["state"].mask(done & np.isinf(score), "diverged").mask(done & score.isna(), "without score")
        lost = runs[["arm"]].assign(state=other)[~(done & np.isfinite(score))]
        self.states: dict[Settings, dict[str, int]] = {}
        for (arm, state), count in lost.value_counts(sort=False).items():
            self.states.setdefault(arm, {})[state] = int(count)

    def answer(self) -> Comparison:
        if self.paired.doubled:
            self.notes.append(f"{self.paired.doubled} runs repeat an arm and pair: their mean counts once.")
        if self.paired.uneven:
            self.notes.append(
                f"{self.paired.uneven} runs are left out of the averages within a {self.design.pair}: other arms have "
                "none with the same settings."
            )
        rows = self._judged() if self.baselines else self._described()
        rows.sort(key=self._rank)
        self._say(rows)
        return Comparison(
            design=self.design,
            rows=tuple(rows),
            noise=self._noise(),
            correction=self._correction(),
            notes=tuple(self.notes),
            details=tuple(self._details(rows)),
            post_hoc=tuple(wording.post_hoc(self.design, self.study.stated)),
            caveat=above_floor(self.runs[self.paired.finished], self.paired, self.design),
            doubts=self.doubted,
        )

    def _described(self) -> list[Row]:
        """Rows of a study whose baseline is still to be chosen."""
        arms = "; ".join(map(str, self.paired.arms[:6])) + (" ..." if len(self.paired.arms) > 6 else "")
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
        bases = [self.base[i] for i in self.variants]
        if self.design.looks is not None:
            verdicts = judge_looks(self.paired, self.variants, bases, self.design, self.band)
            every = self.paired.scores[self.variants] - self.paired.scores[bases]
            if beyond := int(np.isfinite(every).sum() - np.isfinite(verdicts.differences).sum()):
                self.notes.append(f"{beyond} pairs after the look that decided, or after a gap, are not compared.")
        else:
            verdicts = judge(
                self.paired,
                self.variants,
                bases,
                self.design,
                self.band,
                self.wish,
                self.planned,
                [self._to_come(i) + self._to_come(base) > 0 for i, base in zip(self.variants, bases, strict=True)],
            )
        self.verdicts = verdicts
        if verdicts.dropped:
            self.notes.append(f"{verdicts.dropped} arms are compared on the seeds that chose no nuisance value only.")
        arms = self.paired.arms
        for base in self.baselines:
            own = {arms[i] for i, other in enumerate(self.base) if other == base}
            mask = self.runs["arm"].isin(own).to_numpy()
            study = Seen(self.runs[mask], part(self.paired, own, mask), self.design, arms[base])
            self.doubted |= doubts(study)
            self.notes += information(study)
        for k, i in enumerate(self.variants):
            found: list[Doubt | str] = [*self.doubted[arms[i]], *self._weak(verdicts, k, i, self.base[i])]
            rows.append(self._variant(verdicts, k, i, self.base[i], found))
        return rows

    def _weak(self, verdicts: Verdicts, k: int, i: int, base: int) -> list[str]:
        """What an arm's data lack."""
        n = int(verdicts.fit.pairs[k])
        found = []
        looks, pair = self.design.looks, self.design.pair
        if n == 0 and self.counts[i] and not self.counts[base]:
            found.append("the baseline has no finished run")
        elif n == 0 and self.counts[i]:
            found.append(f"no {pair} that the baseline finished too")
        elif n == 1:
            value = float(verdicts.fit.estimate[k])
            found.append(f"one pair only: it differs by {value:+.4g}, which has no interval")
        elif looks is not None and 0 < n < looks.first:
            found.append(f"{n} pairs only: the first look is after {looks.first}")
        elif 0 < n < FEWEST:
            found.append(f"{n} pairs only: {FEWEST} are the fewest for a verdict")
        if FEWEST <= n < CONFIRMS and self.wish == "confirm":
            found.append(f"{n} pairs: {CONFIRMS} are the fewest that confirm")
        if looks is None and n and (coming := self._to_come(i) + self._to_come(base)):
            found.append(f"{coming} of the planned runs are still to come, so nothing is confirmed yet")
        if verdicts.late[k]:
            found.append(
                f"{pair}s were added after runs were seen: a hint, which a new study (study=NAME) of as many confirms"
            )
        if n >= CONFIRMS and verdicts.claim[k] in (decision.LOWER, decision.HIGHER):
            turning = [self.paired.pairs[j] for j in np.flatnonzero(verdicts.left_out.turns[k])]
            if turning:
                found.append(f"another verdict without {pair} {' or '.join(turning)}, so it is not confirmed")
            if verdicts.skewed[k]:
                mean, median = float(verdicts.fit.estimate[k]), float(verdicts.medians[k])
                found.append(
                    f"skewed: by the median difference ({median:+.4g}, the mean is {mean:+.4g}) the verdict is another "
                    "one, so it is not confirmed"
                )
        return found

    def _to_come(self, i: int) -> int:
        """Runs of an arm that have not ended, and are neither broken off nor gone."""
        return self.coming.get(self.paired.arms[i], 0)

    def _variant(self, verdicts: Verdicts, k: int, i: int, base: int, found: Sequence[Doubt | str]) -> Row:
        fit, n = verdicts.fit, int(verdicts.fit.pairs[k])
        warnings = [doubt.said if isinstance(doubt, Doubt) else doubt for doubt in found]
        blocked = {what for doubt in found if isinstance(doubt, Doubt) for what in doubt.blocks}
        if n == 0:
            return self._row(i, "no data", n=0, warnings=warnings)
        tier = verdicts.tiers[k]
        name = verdict(int(verdicts.claim[k]), self.design.goal)
        delta = None
        if n >= 2 and math.isfinite(verdicts.half[k]):
            d, half, p = float(fit.estimate[k]), float(verdicts.half[k]), float(verdicts.p[k])
            delta = Interval(d, d - half, d + half, float(fit.df[k]), p)
        if verdicts.flat[k]:
            name, text = self._identical(float(fit.estimate[k]), n)
            warnings.append(text)
        withheld = "all" in blocked or name in blocked
        if withheld:
            name = "undecided"
        plan = None
        if name == "undecided" and not withheld and delta is not None and n >= FEWEST and not verdicts.flat[k]:
            plan = seeds_to_plan(
                delta.estimate,
                float(fit.error[k]),
                n,
                sesoi=self.band,
                alpha=self.design.alpha,
                arms=len(self.variants),
            )
        used = ~np.isnan(verdicts.differences[k])
        mine, theirs = self.paired.scores[i][used], self.paired.scores[base][used]
        alike = correlation(mine, theirs) if n >= CONFIRMS else math.nan
        worth = pairing_gain.of_arm(mine, theirs, self.design.alpha) if n >= CONFIRMS else None
        if worth is not None:
            self.worth[self.paired.arms[i]] = worth
        left = verdicts.left_out
        decided = name in ("better", "worse")
        return self._row(
            i,
            name,
            n=n,
            tier=tier,
            delta=delta,
            p_adjusted=None if math.isnan(verdicts.p_adjusted[k]) else float(verdicts.p_adjusted[k]),
            withheld=withheld,
            plan=plan,
            rho=None if math.isnan(alike) else alike,
            median=float(verdicts.medians[k]),
            left_out=(float(left.low[k]), float(left.high[k])) if decided and n >= 2 else None,
            turns=tuple(self.paired.pairs[j] for j in np.flatnonzero(left.turns[k])) if decided else (),
            warnings=warnings,
        )

    def _identical(self, difference: float, n: int) -> tuple[VerdictName, str]:
        if difference == 0:
            text = "the same score as the baseline in every pair: the setting changed nothing"
            return ("equivalent" if n >= FEWEST else "undecided"), text
        return "undecided", f"the same difference in every pair: the {self.design.pair} draws no new run"

    def _row(self, i: int, name: VerdictName, *, n: int, warnings: Sequence[str] = (), **found: Any) -> Row:
        """What a row says of its own runs, beside what was found by comparing."""
        arm = self.paired.arms[i]
        choice: NuisanceChoice = self.paired.choices[arm]
        mine = self.by_arm.get(arm, {})
        numbers: dict[str, Any] = {"tier": None, "delta": None, "p_adjusted": None, "rho": None}
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

    def _rank(self, row: Row) -> tuple[int, bool, float, Settings]:
        """Best first: by the difference on common pairs, else by the mean; arms that cannot be compared last.

        Each baseline's variants stand together.
        """
        sign = 1 if self.design.goal == "minimize" else -1
        place = self.place[row.arm]
        base = self.base[place]
        value = 0.0 if row.verdict == "baseline" else math.nan if row.mean is None else row.mean
        if base >= 0 and base != place:
            value -= float(self.means[base])
        if row.delta is not None:
            value = row.delta.estimate
        last = math.isnan(value) or row.verdict == "no data"
        group = self.baselines.index(base) if base >= 0 else len(self.baselines)
        return group, last, 0.0 if math.isnan(value) else sign * value, row.arm

    def _noise(self) -> Interval | None:
        """The interval of an arm that equals the baseline, with as many pairs as the arms have."""
        many = [i for i in self.baselines if self.counts[i] >= 2]
        if not many:
            return None
        n = int(np.median(self.counts[many]))
        freedom = self.counts[many] - 1.0
        variance = float(self.variances[many] @ freedom / freedom.sum())
        differences = np.empty((0, 0)) if self.verdicts is None else self.verdicts.differences
        if self.design.looks is not None:
            return sequential.floor(differences, n, variance, self.design)
        return noise_floor.interval(differences, n, variance, alpha=self.design.alpha, noise=self.floor)

    def _correction(self) -> str:
        family = len(self.variants) if self.baselines else 0
        if self.design.looks is not None and family:
            return sequential.correction(self.design, family)
        if family < 2:
            return "none: one comparison" if family else "none: no comparison"
        return f"Holm over {family} comparisons"

    def _say(self, rows: Sequence[Row]) -> None:
        """What the reader of the table must know."""
        if not self.baselines or self.verdicts is None:
            return
        better = [row for row in rows if row.verdict == "better"]
        known = [(row, row.delta) for row in rows if row.delta is not None and row.n >= FEWEST]
        if better and len(known) >= 3 and not self.design.within:
            errors = [self._standard_error(row, delta) for row, delta in known]
            drawn = shrunken([delta.estimate for _, delta in known], errors)
            place = next(j for j, (row, _) in enumerate(known) if row is better[0])
            places = wording.digits(known[place][1]) + 1
            seen, shrunk = (wording.signed(value, places) for value in (known[place][1].estimate, drawn[place]))
            self.notes.append(
                f"{better[0].arm} was selected out of {len(known)}: its difference of {seen} is {shrunk} after "
                "allowing for that."
            )
        if any(row.tier == "screen" for row in better):
            self.notes.append(
                f"A screen suggests: a new study of {CONFIRMS} or more seeds confirms what it calls better."
            )
        if text := wording.left_out(rows, self.design):
            self.notes.append(text)
        if text := wording.plans(
            [row for row in rows if row.verdict == "undecided" and not row.withheld and row.n >= FEWEST]
        ):
            self.notes.append(text)
        if self.floor is not None:
            self.notes.append(noise_floor.describe(self.floor, self.runs))

    def _standard_error(self, row: Row, delta: Interval) -> float:
        """Of an arm's difference, from its interval; 0 of one whose pairs all differ by the same."""
        assert self.verdicts is not None
        k = self.variants.index(self.place[row.arm])
        error = float(self.verdicts.fit.error[k])
        return (delta.high - delta.low) / 2 / (float(self.verdicts.half[k]) / error) if error > 0 else 0.0

    def _details(self, rows: Sequence[Row]) -> list[str]:
        """What only a reader who asks for it wants to know."""
        if self.verdicts is None:
            return []
        variances = self.variances[self.variants] + self.variances[[self.base[i] for i in self.variants]]
        paid = pairing_gain.of_all(self.verdicts.differences, variances, len(self.baselines), self.design.alpha)
        worth = {str(arm): one for arm, one in self.worth.items()}
        return [] if paid is None else [pairing_gain.describe(paid, self.design.pair, worth)]
