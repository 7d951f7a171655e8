"""What trunk and branch saved: runs whose first steps another run had taken for them."""

from __future__ import annotations

from gpt_lab.report.types import Comparison, Section, Study
from gpt_lab.sweep import trunk


def make(comparison: Comparison, study: Study) -> list[Section]:
    """One section with what was really spent; none where no run was forked."""
    runs = study.runs[study.runs["flops"].notna() & (study.runs["steps"] > 0)]
    forked = runs["forked"].notna()
    if not forked.any():
        return []
    whole = runs["flops"]
    taken = whole * (1 - (runs["forked"] / runs["steps"]).fillna(0.0).clip(upper=1.0))
    said = f"trunk and branch: {trunk.saved(len(runs), float(taken.sum() / whole.sum()))}."
    what = (
        f"{int(forked.sum())} of them were forked from a longer run of the same settings at the step where their "
        "learning rate leaves its own. They have the numbers of runs trained from the start; their steps, tokens, "
        "FLOPs and seconds count those before the fork."
    )
    return [Section("Trunk and branch", (said, what))]
