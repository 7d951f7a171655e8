"""The gate: a verdict as an exit status, keep, discard or more runs. Imports no pandas until it is asked."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpt_lab.errors import ConfigError
from gpt_lab.frame.places import Places, StudyOptions
from gpt_lab.stats.tiers import FEWEST

if TYPE_CHECKING:
    import pandas as pd

    from gpt_lab.analysis.comparison import Comparison, Row
    from gpt_lab.study.design import Design, Settings

GateDecision = Literal["keep", "discard", "more runs"]
TO_COME = ("missing", "running", "stopped", "failed")
"""States of runs that the same sweep command still makes."""
EXIT: dict[GateDecision, int] = {"keep": 0, "discard": 1, "more runs": 2}
TABLE: dict[str, GateDecision] = {
    "better": "keep",
    "better, by a screen": "discard",
    "worse": "discard",
    "equivalent": "discard",
    "real but small": "discard",
    "undecided": "discard",
    "undecided, with looks to come": "more runs",
    "every run diverged": "discard",
    "runs are missing": "more runs",
}
"""What becomes of a variant. Only what is confirmed `better` is kept, and the answer is final once the planned runs are
there: a gate that is asked again and again with more seeds keeps 9 % of variants that change nothing. `more runs` are
those that were planned (or the first 3 seeds), or the next looks of sequential seeds, which pay for being asked."""


@dataclass(frozen=True)
class Gate:
    """The answer for one variant.

    Fields:
        why: a key of TABLE. line: the answer in one line. facts: the same as plain data.
    """

    arm: Settings
    why: str
    line: str
    facts: dict[str, Any]

    @property
    def decision(self) -> GateDecision:
        return TABLE[self.why]

    @property
    def status(self) -> int:
        """Exit status of the command."""
        return EXIT[self.decision]

    def json(self) -> str:
        """One line of JSON; numbers that do not exist are null."""
        return json.dumps({"decision": self.decision, "exit": self.status, "arm": str(self.arm), **self.facts})


def ask(places: Places, options: StudyOptions, variant: str) -> Gate:
    """Reads the runs, compares them, and decides on one variant.

    Raises:
        ConfigError: no such arm, or it is the baseline, or there is none.
        DataError: as write.answer, but for runs of which none has finished: these need time, and no mending.
    """
    from gpt_lab.analysis.compare import compare
    from gpt_lab.frame import load
    from gpt_lab.frame.paired_scores import references
    from gpt_lab.study.arm_names import find_arm

    study = load.read(places, options)
    design, stated = study.design, study.stated
    arms = list(dict.fromkeys(study.runs["arm"]))
    arm = find_arm(variant, arms, "variant")
    if design.baseline_arm is None:
        raise ConfigError(f"no baseline is stated, so nothing decides on {arm}: choose one with --baseline")
    against = references(design, arms)[arm] or design.baseline_arm
    if arm == against:
        raise ConfigError(f"{arm} is the baseline: --gate asks about an arm that is compared with it")
    left_out = 0
    if stated is not None and stated.pairs is not None:
        planned = study.runs["pair"].isin(stated.pairs) | study.runs["pair"].map(design.tunes)
        left_out = int((~planned & study.runs["arm"].isin([arm, against])).sum())
        study.runs = study.runs[planned].reset_index(drop=True)
    mine = study.runs[study.runs["arm"].isin([arm, against])]
    comparison = compare(study, tier=options.tier) if (study.runs["state"] == "finished").any() else None
    row = None if comparison is None else next(row for row in comparison.rows if row.arm == arm)
    why = reason(row, mine, arm, design, known=stated is not None and stated.pairs is not None)
    return _gate(arm, why, mine, row, comparison, against, left_out)


def reason(row: Row | None, runs: pd.DataFrame, arm: Settings, design: Design, *, known: bool) -> str:
    """The key of TABLE.

    Args:
        row: the variant's; None before any run has finished. runs: the variant's and its baseline's.
        known: whether a sweep says how many seeds were planned; without one, fewer than any verdict needs are too few.
    """
    own = runs[runs["arm"] == arm]
    if len(own) and (own["state"] == "diverged").all():
        return "every run diverged"
    if design.looks is not None and row is not None and row.verdict in ("undecided", "real but small", "no data"):
        lost = {"diverged", "pruned", "without score"} & set(row.states)
        if row.n < design.looks.last and not lost:
            return "undecided, with looks to come"
    elif runs["state"].isin(TO_COME).any() or row is None or row.verdict == "no data" or (row.n < FEWEST and not known):
        return "runs are missing"
    assert row is not None
    if row.verdict == "better" and row.tier == "screen":
        return "better, by a screen"
    return "undecided" if row.verdict == "no data" else row.verdict


def _gate(
    arm: Settings,
    why: str,
    runs: pd.DataFrame,
    row: Row | None,
    comparison: Comparison | None,
    baseline: Settings,
    left_out: int,
) -> Gate:
    delta = None if row is None else row.delta
    states = runs["state"][(runs["arm"] == arm) & (runs["state"] != "finished")].value_counts().to_dict()
    facts: dict[str, Any] = {
        "baseline": str(baseline),
        "verdict": "no data" if row is None else row.verdict,
        "tier": None if row is None else row.tier,
        "seeds": 0 if row is None else row.n,
        "delta": None if delta is None else dataclasses.asdict(delta),
        "metric": None if comparison is None else comparison.design.metric,
        "sesoi": None if comparison is None else comparison.sesoi,
        "post_hoc": [] if comparison is None else list(comparison.post_hoc),
        "not_finished": {state: int(number) for state, number in states.items()},
        "warnings": [] if row is None else list(row.warnings),
    }
    if left_out:
        facts["warnings"].append(f"{left_out} runs beyond the planned ones are not used")
    return Gate(arm, why, _line(TABLE[why], arm, why, row, comparison, facts), _plain(facts))


def _line(
    decision: GateDecision,
    arm: Settings,
    why: str,
    row: Row | None,
    comparison: Comparison | None,
    facts: dict[str, Any],
) -> str:
    """`keep: norm=layernorm is better than norm=rmsnorm: −0.031 [−0.041, −0.021] bits per byte, 5 pairs (confirm)`."""
    from gpt_lab import metrics
    from gpt_lab.analysis import wording

    parts = [f"{decision}: {arm}: {why} (baseline {facts['baseline']})"]
    if row is not None and comparison is not None and row.delta is not None:
        unit = metrics.unit(comparison.design.metric)
        parts.append(f"{wording.with_interval(row.delta)} {unit}, {wording.seeds(row.n)}, {row.tier}")
    parts += facts["post_hoc"]
    said = " ".join(facts["warnings"])
    parts += [f"{number} {state}" for state, number in facts["not_finished"].items() if state not in said]
    return " ".join("; ".join([*parts, *facts["warnings"]]).split())


def _plain(value: Any) -> Any:
    """JSON that any reader takes: what is not finite is null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
