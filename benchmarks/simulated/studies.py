"""Whether verdicts keep their promise: thousands of made-up studies whose truth is known, judged by the real code.

A score is effect + sqrt(rho) c_s + sqrt(1 - rho) sd_v e_sv, in units of a run's standard deviation: c_s is common to
all runs of a seed, e_sv is the run's own, of the condition's shape with mean 0 and variance 1. Differences go through
stats.paired_t and decision.decide, as in compare(), with e = 0, so that every difference matters; a band
makes false verdicts rarer still.

`token z` and `token bootstrap` are the controls, what an evaluation harness prints: they take the tokens of the
validation set, not the runs, for the sample. `seed bootstrap` resamples the pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpt_lab.stats import decision
from gpt_lab.stats.paired import Array, Fit, paired_t

Distribution = Literal["normal", "t3", "lognormal"]
NoiseModel = Literal["equal", "noisy arm", "noisy baseline", "dispersed"]
Analysis = Literal["lab", "token z", "token bootstrap", "seed bootstrap"]

FALSE = (0.04, 0.06)
"""Share of false verdicts that counts as 5 %."""
COVERED = (0.93, 0.97)
"""Coverage that counts as 95 %."""
TOKENS = 100
"""Validation tokens of one made-up run; their spread gives a run's mean a standard error of TOKEN_ERROR."""
TOKEN_ERROR = 0.1
"""Of a run's standard deviation: two runs that differ by nothing but their seed are some 14 token errors apart."""
RESAMPLES = 200


@dataclass(frozen=True)
class Condition:
    """A kind of study.

    Fields:
        arms, seeds: variants beside the baseline, and pairs.
        rho: correlation of the runs of one seed.
        shape: of a run's own noise. noise: which runs have more of it: the last arm, the baseline (twice), or each arm
            by a log-normal factor of its own (35 %).
        effects: true difference of the first arms to the baseline; the rest equal it.
    """

    arms: int
    seeds: int
    rho: float = 0.5
    shape: Distribution = "normal"
    noise: NoiseModel = "equal"
    effects: tuple[float, ...] = ()


@dataclass(frozen=True)
class ErrorRates:
    """Shares over the studies of a condition, two-sided at alpha.

    Fields:
        rejected: of null arms with p < alpha before correction.
        false_verdicts: of studies that call any null arm better or worse.
        false_better: of null arms called better.
        coverage: of true differences inside the shown interval; coverage_worst: in the arm with the least.
        found: of planted effects called in their direction. wrong_way: called in the other.
        false_share: false ones among the verdicts of a study, on average.
        width: mean width of the interval, in units of a run's standard deviation.
        None: there are no null arms, or no planted ones.
    """

    studies: int
    rejected: float | None
    false_verdicts: float | None
    false_better: float | None
    coverage: float
    coverage_worst: float
    found: float | None
    wrong_way: float | None
    false_share: float
    width: float

    @property
    def honest(self) -> bool:
        """False verdicts at 5 % +/- 1 % and coverage of 93-97 %; Holm's families only have the upper bound."""
        return self.safe and self.coverage <= COVERED[1] and (self.rejected is None or self.rejected >= FALSE[0])

    @property
    def safe(self) -> bool:
        """False verdicts at 6 % and coverage of 93 %, or better: as promised, or more cautious than that."""
        rates = (self.rejected or 0.0, self.false_verdicts or 0.0)
        return max(rates) <= FALSE[1] and self.coverage >= COVERED[0]


@dataclass(frozen=True)
class Judged:
    """What a method says of the arms (studies, arms): claims, p-values before correction, the shown interval."""

    claim: NDArray[np.int64]
    p: Array
    low: Array
    high: Array


def calibrate(
    condition: Condition, method: Analysis, *, studies: int, seed: int = 0, alpha: float = 0.05
) -> ErrorRates:
    """Simulates and judges studies; the same seed gives the same numbers."""
    rng = generator(condition, seed)
    scores = simulate(condition, studies, rng)
    judged = METHODS[method](scores[:, 1:] - scores[:, :1], rng, alpha)
    truth = effects_of(condition)
    null = truth == 0
    called = np.isin(judged.claim, (decision.LOWER, decision.HIGHER))
    better = judged.claim == decision.LOWER
    inside = (judged.low <= truth) & (truth <= judged.high)
    right = np.where(truth < 0, better, judged.claim == decision.HIGHER)
    false = (called & null) | (called & ~right & ~null)
    some, planted = bool(null.any()), bool((~null).any())
    return ErrorRates(
        studies=studies,
        rejected=float((judged.p < alpha)[:, null].mean()) if some else None,
        false_verdicts=float(called[:, null].any(1).mean()) if some else None,
        false_better=float(better[:, null].mean()) if some else None,
        coverage=float(inside.mean()),
        coverage_worst=float(inside.mean(0).min()),
        found=float((called & right)[:, ~null].mean()) if planted else None,
        wrong_way=float((called & ~right)[:, ~null].mean()) if planted else None,
        false_share=float((false.sum(1) / np.maximum(called.sum(1), 1)).mean()),
        width=float((judged.high - judged.low).mean()),
    )


def generator(condition: Condition, seed: int) -> np.random.Generator:
    """Random numbers of a condition's own, the same in every process."""
    return np.random.default_rng([seed, *_number(condition)])


def simulate(condition: Condition, studies: int, rng: np.random.Generator) -> Array:
    """Scores (studies, 1 + arms, seeds) in units of a run's standard deviation; the baseline first."""
    own = _noise(condition.shape, (studies, condition.arms + 1, condition.seeds), rng)
    deviations = _deviations(condition, studies, rng)
    common = rng.standard_normal((studies, 1, condition.seeds))
    effects = np.concatenate([[0.0], effects_of(condition)])
    apart = math.sqrt(1 - condition.rho)
    return np.asarray(effects[:, None] + math.sqrt(condition.rho) * common + apart * (own * deviations[..., None]))


def effects_of(condition: Condition) -> Array:
    """True difference of each arm to the baseline."""
    effects = np.zeros(condition.arms)
    effects[: len(condition.effects)] = condition.effects
    return effects


def _noise(shape: Distribution, size: tuple[int, ...], rng: np.random.Generator) -> Array:
    if shape == "normal":
        return rng.standard_normal(size)
    if shape == "t3":
        return rng.standard_t(3, size) / math.sqrt(3)
    return (np.exp(rng.standard_normal(size)) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)


def _deviations(condition: Condition, studies: int, rng: np.random.Generator) -> Array:
    deviations = np.ones((studies, condition.arms + 1))
    if condition.noise == "noisy arm":
        deviations[:, -1] = 2
    elif condition.noise == "noisy baseline":
        deviations[:, 0] = 2
    elif condition.noise == "dispersed":
        deviations *= np.exp(0.35 * rng.standard_normal(deviations.shape))
    return deviations


def _number(condition: Condition) -> list[int]:
    """The condition as a seed, the same in every process."""
    return list(repr(dataclasses.astuple(condition)).encode())


def judge(differences: Array, alpha: float, sesoi: float = 0.0) -> Judged:
    """The lab's own verdicts."""
    fit = paired_t(differences)
    claim = decision.decide(fit, alpha=alpha, sesoi=np.full(len(differences), sesoi)).claim
    half = fit.half_width(alpha)
    return Judged(claim, fit.p(), fit.estimate - half, fit.estimate + half)


def _lab(differences: Array, rng: np.random.Generator, alpha: float) -> Judged:
    return judge(differences, alpha)


def _tokens(differences: Array, rng: np.random.Generator) -> Array:
    """Differences of single tokens (studies, arms, seeds * TOKENS) of runs that differ by `differences`."""
    spread = TOKEN_ERROR * math.sqrt(2 * TOKENS)
    tokens = differences[..., None] + spread * rng.standard_normal((*differences.shape, TOKENS))
    return np.asarray(tokens.reshape(*differences.shape[:-1], -1))


def _token_z(differences: Array, rng: np.random.Generator, alpha: float) -> Judged:
    tokens = _tokens(differences, rng)
    n = tokens.shape[-1]
    error = tokens.std(-1, ddof=1) / math.sqrt(n)
    fit = Fit(tokens.mean(-1), error, np.full(error.shape, n - 1.0), np.full(error.shape, n))
    half = fit.half_width(alpha)
    p = fit.p()
    return _plain(fit.estimate, p, fit.estimate - half, fit.estimate + half, alpha)


def _token_bootstrap(differences: Array, rng: np.random.Generator, alpha: float) -> Judged:
    return _bootstrap(_tokens(differences, rng), rng, alpha)


def _seed_bootstrap(differences: Array, rng: np.random.Generator, alpha: float) -> Judged:
    return _bootstrap(differences, rng, alpha)


def _bootstrap(sample: Array, rng: np.random.Generator, alpha: float) -> Judged:
    """Percentile interval of the mean over the last axis."""
    n = sample.shape[-1]
    low, high = np.empty(sample.shape[:-1]), np.empty(sample.shape[:-1])
    for study, arms in enumerate(sample):
        means = arms[:, rng.integers(0, n, (RESAMPLES, n))].mean(-1)
        low[study], high[study] = np.quantile(means, (alpha / 2, 1 - alpha / 2), axis=-1)
    excludes = (low > 0) | (high < 0)
    return _plain(sample.mean(-1), np.where(excludes, 0.0, 1.0), low, high, alpha)


def _plain(estimate: Array, p: Array, low: Array, high: Array, alpha: float) -> Judged:
    """Verdicts without any correction."""
    side = np.where(estimate < 0, decision.LOWER, decision.HIGHER)
    return Judged(np.where(p < alpha, side, decision.OPEN), p, low, high)


METHODS: dict[Analysis, Callable[[Array, np.random.Generator, float], Judged]] = {
    "lab": _lab,
    "token z": _token_z,
    "token bootstrap": _token_bootstrap,
    "seed bootstrap": _seed_bootstrap,
}
