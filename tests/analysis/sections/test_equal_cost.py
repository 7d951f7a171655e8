"""Studies with planted curves: which points the speed-up rests on, when it is withheld, and verdicts at equal cost."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.sections import equal_cost
from gpt_lab.analysis.sections.equal_cost import Line
from gpt_lab.frame.study import COLUMNS, Study
from gpt_lab.report.console import show
from gpt_lab.report.figures import base, speedup
from gpt_lab.report.figures.material import Material
from gpt_lab.report.markdown import markdown
from gpt_lab.report.tables import Report
from gpt_lab.study.design import Design
from tests.study.arms import settings

LADDER = Design(
    "ladder",
    factors=("budget.tokens", "mlp"),
    within=("budget.tokens",),
    baseline={"mlp": "relu"},
    sesoi=0.004,
)
ONE = Design("one", factors=("mlp",), baseline={"mlp": "relu"}, sesoi=0.004)
BUDGETS = (1e6, 2e6, 4e6)
FASTER = {"silu": 1.4, "gelu": 1.0, "glu": 1.2}
DEARER = {"glu": 1.5}
"""FLOPs and seconds per token, over the baseline's."""


def loss(tokens: Any) -> Any:
    return 1.5 + 0.6 * (np.asarray(tokens) / 4e6) ** -0.3


class Curved(Study):
    """Validation curves: those of a power law, or of one that a decaying rate lowers at the end."""

    decay = 0.0
    points = 20

    def curves(self, runs: list[str]) -> dict[str, pd.DataFrame]:
        found = {}
        for run in runs:
            row = self.runs[self.runs["run"] == run].iloc[0]
            tokens = np.linspace(0, row["tokens"], self.points + 1)[1:]
            share = tokens / row["tokens"]
            values = loss(tokens) - loss(row["tokens"]) + row["score"] + self.decay * (1 - share) * (share > 0.5)
            found[run] = pd.DataFrame({"step": tokens / 1000, "tokens": tokens, "val/bpb": values})
        return found


def study(
    budgets: tuple[float, ...] = BUDGETS, seeds: int = 5, noise: float = 5e-4, schedule: str = "cosine"
) -> Curved:
    """relu, and arms as good as relu with FASTER times the tokens."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.01, seeds)
    rows = []
    for budget in budgets:
        for mlp, faster in {"relu": 1.0, **FASTER}.items():
            cost = DEARER.get(mlp, 1.0)
            arm = f"budget.tokens={budget:.0f}, mlp={mlp}" if len(budgets) > 1 else f"mlp={mlp}"
            for seed in range(seeds):
                score = float(loss(budget * faster)) + shared[seed] + rng.normal(0, noise)
                rows.append(
                    dict.fromkeys(COLUMNS, math.nan)
                    | {"run": f"{arm}-{seed}", "source": "local", "study": "s", "name": arm, "error": ""}
                    | {
                        "state": "finished",
                        "arm": settings(arm),
                        "tuning": settings(""),
                        "pair": str(seed),
                        "score": score,
                    }
                    | {"tokens": budget, "flops": 6e5 * budget * cost, "seconds": budget / 2e4 * cost}
                    | {"config.mlp.name": mlp, "config.budget.tokens": budget, "config.seed": seed}
                    | {"config.schedule.name": schedule, "config.schedule.warmup": 0.05, "env.cpu": "EPYC"}
                )
    return Curved(LADDER if len(budgets) > 1 else ONE, pd.DataFrame(rows))


def lines(made: Study) -> dict[str, Line]:
    found = equal_cost.answer(compare(made), made)
    assert found is not None
    return {str(line.row.arm): line for line in found.lines}


def test_the_ends_of_a_ladder_of_budgets_give_planted_speedups() -> None:
    found = lines(study())
    assert len(found) == 9
    held = 0
    for budget in BUDGETS:
        for mlp, faster in FASTER.items():
            line, cost = found[f"budget.tokens={budget:.0f}, mlp={mlp}"], DEARER.get(mlp, 1.0)
            assert line.ratios["tokens"].estimate == pytest.approx(faster, rel=0.02)
            for kind in ("flops", "seconds"):
                assert line.ratios[kind].estimate == pytest.approx(faster / cost, rel=0.02)
            held += line.ratios["tokens"].low < faster < line.ratios["tokens"].high
    assert held >= 7


def test_verdicts_at_equal_cost_turn_where_an_arm_is_dear() -> None:
    """glu: better than relu per token, and worse than relu that trains for as many FLOPs."""
    found = lines(study())
    for budget in BUDGETS:
        glu = found[f"budget.tokens={budget:.0f}, mlp=glu"]
        assert [glu.verdicts[c].verdict for c in equal_cost.COSTS] == ["better", "worse", "worse"]
        delta = glu.verdicts["flops"].delta
        assert delta is not None
        assert delta.estimate == pytest.approx(float(loss(1.2 * budget) - loss(1.5 * budget)), abs=2e-3)
        gelu = found[f"budget.tokens={budget:.0f}, mlp=gelu"]
        assert [gelu.verdicts[c].verdict for c in equal_cost.COSTS] == ["equivalent"] * 3
        assert gelu.verdicts["flops"].delta == gelu.row.delta


def test_unequal_tokens_are_allowed_for() -> None:
    """An arm that got 1.5 times the tokens: the report's own verdict is withheld, the one per token is not."""
    made = study(noise=1e-4)
    more = made.runs["arm"] == settings("budget.tokens=4000000, mlp=gelu")
    made.runs.loc[more, ["tokens", "flops", "seconds"]] *= 1.5
    made.runs.loc[more, "score"] += float(loss(6e6) - loss(4e6))
    line = lines(made)["budget.tokens=4000000, mlp=gelu"]
    assert line.row.verdict == "undecided" and any("unequal budget" in text for text in line.row.warnings)
    assert line.verdicts["tokens"].verdict == "equivalent"
    assert line.ratios["tokens"].estimate == pytest.approx(1.0, rel=0.02)


def test_a_constant_rate_makes_the_validation_curve_do() -> None:
    made = study((4e6,), schedule="constant")
    found = lines(made)
    assert found["mlp=silu"].ratios["tokens"].estimate == pytest.approx(1.4, rel=0.03)
    assert found["mlp=silu"].ratios["tokens"].low < 1.4 < found["mlp=silu"].ratios["tokens"].high
    assert found["mlp=glu"].verdicts["flops"].verdict == "worse"
    text = " ".join(s for section in equal_cost.make(compare(made), made) for s in section.sentences)
    assert "last evaluations of its runs, under a constant schedule" in text and "Warning" not in text


def test_a_decaying_schedule_is_rough_and_decides_nothing() -> None:
    made = study((4e6,))
    found = lines(made)
    silu = found["mlp=silu"].ratios["tokens"]
    assert silu.estimate == pytest.approx(1.4, rel=0.03) and math.isnan(silu.low)
    glu = found["mlp=glu"].verdicts["flops"]
    assert (glu.verdict, glu.reason) == (None, "the baseline's curve is one in mid-schedule")
    speedups, verdicts = equal_cost.make(compare(made), made)
    assert any("Warning: these are losses in mid-schedule" in text for text in speedups.sentences)
    assert {row[0]: row[1] for row in speedups.rows}["mlp=silu"].startswith("about 1.4")
    assert {row[0]: row[2] for row in verdicts.rows}["mlp=glu"] == "not determined"


def withheld(made: Study) -> str:
    assert equal_cost.make(compare(made), made) == [], "what is not there is not spoken of"
    found = equal_cost.answer(compare(made), made)
    assert found is not None
    return found.lines[0].reason


def test_it_is_withheld_where_nothing_gives_it() -> None:
    bent = study((4e6,))
    bent.decay = 0.5
    assert "is no power law" in withheld(bent)
    few = study((4e6,))
    few.points = 5
    assert "fewer than 6 evaluations" in withheld(few)
    unknown = study((4e6,))
    unknown.runs = unknown.runs.drop(columns="config.schedule.name")
    assert "its schedule is not known" in withheld(unknown)


def test_another_schedule_than_the_curves_has_no_speedup() -> None:
    made = study((4e6,), schedule="constant")
    made.runs.loc[made.runs["arm"] == settings("mlp=silu"), "config.schedule.name"] = "cosine"
    found = lines(made)
    assert found["mlp=silu"].reach is None and "not those of the baseline's curve" in found["mlp=silu"].reason
    assert found["mlp=gelu"].reach is not None


def test_other_data_has_no_speedup_at_all() -> None:
    made = study()
    made.runs["config.data.name"] = "shakespeare"
    made.runs.loc[made.runs["config.mlp.name"] == "silu", "config.data.name"] = "text"
    line = lines(made)["budget.tokens=4000000, mlp=silu"]
    assert line.reach is None and "other data" in line.reason and line.verdicts["tokens"].verdict == "undecided"


def test_seconds_of_different_machines_do_not_compare() -> None:
    made = study()
    made.runs.loc[made.runs["pair"] == "1", "env.cpu"] = "Xeon"
    line = lines(made)["budget.tokens=4000000, mlp=glu"]
    assert line.verdicts["seconds"].verdict is None and "differ in cpu" in line.verdicts["seconds"].reason
    assert "seconds" not in line.ratios
    assert line.verdicts["flops"].verdict == "worse"


def test_a_pair_without_the_whole_curve_is_left_out() -> None:
    made = study()
    lost = (made.runs["arm"] == settings("budget.tokens=1000000, mlp=relu")) & (made.runs["pair"] == "2")
    made.runs.loc[lost, ["state", "score"]] = ["failed", math.nan]
    line = lines(made)["budget.tokens=4000000, mlp=silu"]
    assert line.row.n == 5 and line.reach is not None and line.reach.pairs == 4
    made.runs.loc[made.runs["arm"] == settings("budget.tokens=1000000, mlp=relu"), ["state", "score"]] = [
        "failed",
        math.nan,
    ]
    rough = lines(made)["budget.tokens=4000000, mlp=silu"].ratios["tokens"]  # two budgets left: the validation curve
    assert math.isnan(rough.low)


def test_nothing_is_said_where_nothing_is_compared() -> None:
    made = study()
    made.design = dataclasses.replace(LADDER, baseline=None)
    assert equal_cost.make(compare(made), made) == []
    other = study()
    other.design = dataclasses.replace(LADDER, metric="val/accuracy", goal="maximize")
    assert equal_cost.make(compare(other), other) == []


def test_every_form_of_the_report(tmp_path: Path) -> None:
    made = study()
    comparison = compare(made)
    console = Console(width=220, record=True, file=io.StringIO())
    show(Report(comparison, made), console)
    text = console.export_text()
    assert "Speed-up over mlp=relu with the same budget.tokens" in text and "Verdicts at equal cost" in text
    assert "the ends of its runs with 3 budgets" in text
    assert "Verdicts at equal cost" in markdown(Report(comparison, made), [])
    with base.look():
        drawing = speedup.draw(Material(comparison, made))
        assert drawing is not None and drawing.name == "speedup"
        assert "training tokens" in base.write(drawing, tmp_path)[0].read_text()
        none = study((4e6,))
        none.points = 3
        assert speedup.draw(Material(compare(none), none)) is None
