"""Cost of tuning: runs of every arm, at least and at most, and the comparison."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt_lab.plan import run_time
from gpt_lab.stats.optimum import ValueGrid
from gpt_lab.study.design import shown
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.search.tuner import Tuner

if TYPE_CHECKING:
    from gpt_lab.plan.cost_table import SweepCost


def lines(sweep: Sweep, tuner: Tuner, plan: SweepCost) -> list[str]:
    """How many runs, in which stages, and how long."""
    design, ladders = sweep.design, tuner.arms[0].ladders
    keys = " then ".join(
        f"{len(one.values)} values of {one.key} (up to {one.widen} more for all while a best one is on an edge)"
        for one in ladders
    )
    seeds = ", ".join(map(shown, design.tuning_pairs))
    arms, done = len(tuner.arms), sum(arm.done for arm in plan.arms)
    rows = len(tuner.rows)
    most = "" if design.looks is None else "at most "
    fewest = rows if design.looks is None else design.looks.first * arms
    alike = f"as many for each of {arms} arms: {keys} on {design.pair} {seeds}"
    found = [
        f"tuning: {_between(tuner.least, tuner.most)} runs, {alike}",
        f"comparison: {most}{rows} runs on fresh values of {design.pair}, each arm at the value that its tuning chose",
        f"in all {_between(tuner.least + fewest, tuner.most + rows)} runs" + (f"; {done} are done" if done else ""),
    ]
    if any(one.values != ladders[i].values for arm in tuner.arms for i, one in enumerate(arm.ladders)):
        found += [f"{arm.settings} begins with {_values(arm.ladders)}" for arm in tuner.arms]
    else:
        found.append(f"every arm begins with {_values(ladders)}")
    each = [arm.seconds for arm in plan.arms if arm.seconds is not None]
    if plan.seconds is None or not each:
        return [*found, f"time: not known ({plan.basis})"]
    more = (tuner.most - tuner.least) * statistics.fmean(each) / plan.jobs
    longest = f", {run_time.shown(plan.seconds + more)} at most" if more else ""
    return [*found, f"about {run_time.shown(plan.seconds)}{longest} with {plan.jobs} at a time ({plan.basis})"]


def _between(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} to {most}"


def _values(ladders: Sequence[ValueGrid]) -> str:
    return "; ".join(f"{one.key} {', '.join(map(shown, one.values))}" for one in ladders)
