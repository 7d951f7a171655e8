"""A verdict as an exit status: keep, discard, or more runs needed. Imports no pandas until it is asked."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpt_lab.errors import ConfigError
from gpt_lab.report.targets import Options, Places

if TYPE_CHECKING:
    from gpt_lab.report.types import Comparison, Row, VerdictName

Decision = Literal["keep", "discard", "more runs"]
EXIT: dict[Decision, int] = {"keep": 0, "discard": 1, "more runs": 2}
TABLE: dict[str, Decision] = {
    "better": "keep",
    "worse": "discard",
    "equivalent": "discard",
    "real but small, for the worse": "discard",
    "real but small, for the better": "more runs",
    "undecided": "more runs",
    "no data, and every run diverged": "discard",
    "no data": "more runs",
}
"""What becomes of a variant, by its verdict. Only `better` is kept: what is equivalent changes nothing that matters."""


@dataclass(frozen=True)
class Gate:
    """The answer for one variant.

    Fields:
        why: the verdict, a key of TABLE. line: the answer in one line. facts: the same as plain data.
    """

    arm: str
    why: str
    line: str
    facts: dict[str, Any]

    @property
    def decision(self) -> Decision:
        return TABLE[self.why]

    @property
    def status(self) -> int:
        """Exit status of the command."""
        return EXIT[self.decision]

    def json(self) -> str:
        """One line of JSON; numbers that do not exist are null."""
        return json.dumps({"decision": self.decision, "exit": self.status, "arm": self.arm, **self.facts})


def ask(places: Places, options: Options, asked: str) -> Gate:
    """Reads the runs, compares them, and decides on one variant.

    Raises:
        ConfigError: no such arm, or it is the baseline, or there is none.
        DataError: as write.answer, but for runs of which none has finished: these need time, and no mending.
    """
    from gpt_lab.report import frame
    from gpt_lab.report.compare import compare
    from gpt_lab.report.named import arm_named
    from gpt_lab.report.pairing import references

    study = frame.read(places, options)
    design = study.design
    arms = list(dict.fromkeys(study.runs["arm"]))
    arm = arm_named(asked, arms, design.factors, "variant")
    if design.baseline_arm is None:
        raise ConfigError(f"no baseline is stated, so nothing decides on {arm}: choose one with --baseline")
    against = references(design, arms)[arm] or design.baseline_arm
    if arm == against:
        raise ConfigError(f"{arm} is the baseline: --gate asks about an arm that is compared with it")
    if not (study.runs["state"] == "finished").any():
        states = study.runs["state"][study.runs["arm"] == arm].value_counts().to_dict()
        return _gate(arm, "no data", states, None, None, against, design.goal)
    comparison = compare(study, tier=options.tier)
    row = next(row for row in comparison.rows if row.arm == arm)
    return _gate(arm, row.verdict, dict(row.states), row, comparison, against, design.goal)


def reason(verdict: VerdictName, estimate: float | None, goal: str, states: dict[str, int]) -> str:
    """The key of TABLE of a verdict.

    Args:
        estimate: variant - baseline. states: how many runs of the variant are not finished, by state.
    """
    if verdict == "real but small":
        assert estimate is not None
        return f"real but small, for the {'better' if (estimate < 0) == (goal == 'minimize') else 'worse'}"
    if verdict == "no data" and set(states) == {"diverged"}:
        return "no data, and every run diverged"
    return verdict


def _gate(
    arm: str,
    verdict: VerdictName,
    states: dict[str, int],
    row: Row | None,
    comparison: Comparison | None,
    baseline: str,
    goal: str,
) -> Gate:
    delta = None if row is None else row.delta
    why = reason(verdict, None if delta is None else delta.estimate, goal, states)
    facts: dict[str, Any] = {
        "baseline": baseline,
        "verdict": verdict,
        "tier": None if row is None else row.tier,
        "pairs": 0 if row is None else row.n,
        "delta": None if delta is None else dataclasses.asdict(delta),
        "more_seeds": None if row is None else row.more_seeds,
        "metric": None if comparison is None else comparison.design.metric,
        "sesoi": None if comparison is None else comparison.sesoi,
        "not_finished": {state: int(number) for state, number in states.items()},
        "warnings": [] if row is None else list(row.warnings),
    }
    return Gate(arm, why, _line(TABLE[why], arm, why, row, comparison, facts), _plain(facts))


def _line(
    decision: Decision, arm: str, why: str, row: Row | None, comparison: Comparison | None, facts: dict[str, Any]
) -> str:
    """`keep: norm=layernorm is better than norm=rmsnorm: −0.031 [−0.041, −0.021] bits per byte, 5 pairs (confirm)`."""
    from gpt_lab.report import wording

    parts = [f"{decision}: {arm}: {why} (baseline {facts['baseline']})"]
    if row is not None and comparison is not None and row.delta is not None:
        unit = wording.unit(comparison.design.metric)
        parts.append(f"{wording.with_interval(row.delta)} {unit}, {row.n} pairs, {row.tier}")
    if facts["more_seeds"]:
        parts.append(f"about {wording.seeds(facts['more_seeds'])} more would decide")
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
