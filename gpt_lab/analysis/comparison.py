"""What a comparison says: a row for each arm, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gpt_lab.stats.interval import Interval
from gpt_lab.study.design import Design, Settings
from gpt_lab.validity.rule import Doubt, Given

VerdictName = Literal["baseline", "better", "worse", "equivalent", "real but small", "undecided", "no data"]
RowTier = Literal["screen", "confirm", "sequential"]
"""sequential: seeds were added until the arm was decided."""


@dataclass(frozen=True)
class Row:
    """One arm of a comparison; numbers are None where they do not exist.

    Fields:
        n: seeds (values of the pairing setting) that the difference rests on. runs: finished runs of the arm.
        mean, sd: of the metric over these seeds.
        delta: difference to the baseline, variant - baseline, with the arm's own interval at level 1 - alpha.
        p_adjusted: after Holm's correction over the family.
        withheld: a doubt forbids what the numbers say.
        plan: of an undecided arm the seeds, at least and at most, of a new study that decides it; None: out of reach.
        rho: share of the noise that pairing takes away (stats.paired.correlation); None below 5 pairs.
        median: of the differences. left_out: lowest and highest estimate with one seed left out, of arms that are
            better or worse. turns: the seeds without each of which the verdict is another.
        medians: parameters, non_embedding, flops_per_token, tokens_per_s, peak_memory_gb, seconds over its runs.
        tuning: the nuisance values chosen; on_edge: it is the last of its ladder.
        states: how many runs are missing, failed, diverged, stopped, running, pruned.
        warnings: what forbids or weakens the verdict.
    """

    arm: Settings
    verdict: VerdictName
    tier: RowTier | None
    n: int
    runs: int
    mean: float | None
    sd: float | None
    delta: Interval | None
    p_adjusted: float | None
    rho: float | None
    medians: Mapping[str, float]
    withheld: bool = False
    plan: tuple[int, int | None] | None = None
    median: float | None = None
    left_out: tuple[float, float] | None = None
    turns: tuple[str, ...] = ()
    tuning: Settings = field(default_factory=Settings)
    on_edge: bool = False
    states: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The answer: rows best first (the baseline among them).

    Fields:
        noise: what two sets of baseline runs differ by: the difference 0 with the interval that a variant equal to the
            baseline would get; None with fewer than two baseline runs.
        notes: sentences below the table. details: those that only some want.
        post_hoc: sentences on what was chosen once runs were there.
        caveat: why the study is no answer to its question, whatever the verdicts; "" without one.
        doubts: what speaks against comparing each variant with its baseline.
    """

    design: Design
    rows: tuple[Row, ...]
    noise: Interval | None
    correction: str
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    post_hoc: tuple[str, ...] = ()
    caveat: str = ""
    doubts: Mapping[Settings, Sequence[Doubt]] = field(default_factory=dict)

    @property
    def sesoi(self) -> float | None:
        """The smallest effect size of interest, in units of the metric; None: none is stated."""
        return self.design.sesoi

    def doubted(self, arm: Settings, given: Given) -> list[Doubt]:
        """What speaks against an arm beside what an analysis sees to by itself."""
        return [doubt for doubt in self.doubts.get(arm, ()) if doubt.rule.unless != given]

    @property
    def band(self) -> float:
        """The same as a number: 0 without one, as then every difference counts."""
        return self.design.sesoi or 0.0
