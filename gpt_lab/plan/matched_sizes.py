"""Matched sizes of the arms, as the dry run prints them."""

from __future__ import annotations

from collections.abc import Sequence

from gpt_lab.config.schema import MATCHED, TOLERANCE, RunConfig
from gpt_lab.study import sweep_file
from gpt_lab.study.design import Cell
from gpt_lab.study.sweep import Sweep


def sizes(sweep: Sweep, cfg: RunConfig, cell: Cell) -> str:
    """The sizes that `match` gave a cell (`mlp.d_ff=516`); empty for a cell that is not matched."""
    if cfg.match is None:
        return ""
    stated = {text.partition("=")[0] for text in sweep_file.fixed(sweep)} | set(cell.values)
    found = [text for text in cell.overrides if (key := text.partition("=")[0]) in MATCHED and key not in stated]
    return " ".join(found) or "as it is"


def lines(sweep: Sweep, configs: Sequence[RunConfig]) -> list[str]:
    """What the arms are matched to, and how W&B's agent is told the same.

    Args:
        configs: one of each arm.
    """
    from gpt_lab.cost.flops import COUNTED

    targets = list(dict.fromkeys((cfg.match, cfg.match_to) for cfg in configs))
    found = [
        f"match={match}: within {TOLERANCE[match]:.1%} of {count:,} {COUNTED[match]}"
        for match, count in targets
        if match is not None and count is not None
    ]
    if len(targets) == 1 and found and "match_to" not in sweep.parameters:
        ((match, count),) = targets
        found.append(
            f"the same under W&B's agent, in parameters: match: {{value: {match}}}, match_to: {{value: {count}}} "
            "(and no gpt_lab.match)"
        )
    return found
