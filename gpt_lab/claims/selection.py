"""Selection of the cells of a claim that are run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt_lab.claims.folder import Claim
from gpt_lab.errors import ConfigError, DataError, unknown
from gpt_lab.study.arm_names import find_arm
from gpt_lab.study.design import Settings

ClaimCell = Mapping[str, Any]
DEFAULT = 2
"""Cells that are run again unless the user says: one of the baseline, one of the arm that the claim is about."""


def choose(
    claim: Claim, named: Sequence[str] = (), number: int | None = None, everything: bool = False
) -> list[ClaimCell]:
    """The cells to run again, all of them among those that the verdicts rest on.

    Without `named`, arms take turns, the baseline first, then the first better or worse arm, then the others as the
    claim has them; within an arm the cheapest run comes first (in FLOPs; of equal ones the first pair).

    Args:
        named: `ARM,PAIR` each. number: how many (DEFAULT). everything: all of them.

    Raises:
        ConfigError: a cell that the claim does not have, or more than it has. DataError: it has none that can be run.
    """
    if named:
        return list({cell["config"]: cell for cell in (_named(claim, text) for text in named)}.values())
    able = [cell for cell in claim.cells if cell["counts"]]
    if not able:
        raise DataError(f"{claim.folder} holds no finished run that a verdict rests on: there is nothing to run again")
    queues = [sorted((c for c in able if c["arm"] == arm), key=_cost) for arm in _order(claim)]
    turns: list[ClaimCell] = [queue[i] for i in range(max(map(len, queues))) for queue in queues if i < len(queue)]
    if everything:
        return turns
    if number is not None and number > len(turns):
        raise ConfigError(
            f"--cells {number}: the verdicts of {claim.folder} rest on {len(turns)} runs; --all takes all"
        )
    return turns[: number or DEFAULT]


def label(claim: Claim, cell: ClaimCell) -> str:
    """`norm=layernorm, optim.lr=0.003, seed=0`."""
    pair = cell["pair"] and f"{claim.design['pair']}={cell['pair']}"
    return ", ".join(word for word in (cell["arm"], cell["tuning"], pair) if word) or "the run"


def _order(claim: Claim) -> list[str]:
    """Arms: the baseline, the first that is better or worse, the others."""
    others = [arm for arm in claim.arms if arm["verdict"] != "baseline"]
    others.sort(
        key=lambda arm: ("better", "worse").index(arm["verdict"]) if arm["verdict"] in ("better", "worse") else 2
    )
    baselines = [arm for arm in claim.arms if arm["verdict"] == "baseline"]
    return [arm["arm"] for arm in (*baselines, *others)]


def _cost(cell: ClaimCell) -> float:
    return float("inf") if cell["flops"] is None else float(cell["flops"])


def _named(claim: Claim, text: str) -> ClaimCell:
    """The cell of `ARM,PAIR`; both may hold commas themselves."""
    words = text.split(",")
    if len(words) < 2:
        raise ConfigError(f"--cell takes ARM,PAIR, such as {_example(claim)!r}, not {text!r}")
    arms = {Settings(tuple(arm["settings"].items())): arm["arm"] for arm in claim.arms}
    refusal: ConfigError | None = None
    for at in range(len(words) - 1, 0, -1):
        try:
            arm = arms[find_arm(",".join(words[:at]).strip(), arms)]
        except ConfigError as error:
            refusal = refusal or error
            continue
        pair = ",".join(words[at:]).strip().removeprefix(f"{claim.design['pair']}=")
        cells = [cell for cell in claim.cells if cell["arm"] == arm]
        meant = [cell for cell in cells if cell["pair"] == pair]
        if not meant:
            refusal = ConfigError(unknown(f"{claim.design['pair']} of {arm}", pair, {c["pair"] for c in cells}))
            break
        counted = [cell for cell in meant if cell["counts"]]
        if not counted:
            states = ", ".join(sorted({cell["state"] for cell in meant}))
            raise ConfigError(f"no verdict rests on {label(claim, meant[0])} ({states}), so it cannot be verified")
        return counted[0]
    assert refusal is not None
    raise refusal


def _example(claim: Claim) -> str:
    counted = [cell for cell in claim.cells if cell["counts"]]
    return f"{counted[0]['arm']},{counted[0]['pair']}" if counted else "norm=layernorm,0"
