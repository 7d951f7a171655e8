"""What trunk and branch saved: runs whose first steps another run had taken for them."""

from __future__ import annotations

import pandas as pd

from gpt_lab.analysis.comparison import Comparison
from gpt_lab.analysis.table import Table
from gpt_lab.frame.study import Study
from gpt_lab.sweep.search import trunk


def make(comparison: Comparison, study: Study) -> list[Table]:
    """One section with what was really spent; none where no run was forked."""
    runs = study.runs
    at = pd.to_numeric(runs.get("forked", pd.Series(dtype=float, index=runs.index)), errors="coerce")
    known = (runs["flops"] > 0) & (runs["steps"] > 0)
    if not (known & at.notna()).any():
        return []
    runs, at = runs[known], at[known]
    spent = runs["flops"] * (1 - (at / runs["steps"]).fillna(0.0).clip(upper=1.0))
    said = f"trunk and branch: {trunk.saved(len(runs), float(spent.sum() / runs['flops'].sum()))}."
    what = (
        f"{int(at.notna().sum())} of them were forked from a longer run of the same settings at the step where their "
        "learning rate leaves its own. They have the numbers of runs trained from the start; their steps, tokens, "
        "FLOPs and seconds count those before the fork."
    )
    return [Table("Trunk and branch", (said, what))]
