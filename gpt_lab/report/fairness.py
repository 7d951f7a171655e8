"""What forbids a verdict however small its interval: arms that were not given the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from gpt_lab import schema
from gpt_lab.report import untuned
from gpt_lab.report.pairing import Paired
from gpt_lab.sweep.design import Design

Blocked = Literal["better", "worse", "all"]

SAME = 0.01
"""Relative difference of tokens or FLOPs that rounding to whole batches explains."""
HARMLESS = schema.NOT_IDENTITY | {"eval", "device", "compile"}
"""Settings whose difference between arms says nothing about the comparison."""
COUNTS = {"params": "parameters_non_embedding", "flops": "train_flops_per_token"}
"""What each value of `match` makes equal."""


@dataclass(frozen=True)
class Doubt:
    """One sentence for an arm, and the verdicts that it forbids."""

    text: str
    blocks: frozenset[Blocked]


def doubts(
    runs: pd.DataFrame, paired: Paired, design: Design, baseline: str, *, spent: bool = True
) -> dict[str, list[Doubt]]:
    """What speaks against comparing each arm with the baseline.

    Args:
        runs: the study's runs. paired: which of them are compared.
        spent: whether unequal budgets do; not where a comparison allows for them.
    """
    found: dict[str, list[Doubt]] = {arm: [] for arm in paired.arms if arm != baseline}
    used = runs[paired.finished]
    _lost(runs[paired.chosen], design, baseline, found)
    _tuning(paired, baseline, found)
    for arm, texts in untuned.doubts(used, paired, design, baseline).items():
        found[arm] += [Doubt(text, _blocks("better", "worse")) for text in texts]
    if spent:
        _spent(used, design, baseline, found)
    _settings(used, design, baseline, found)
    return found


def _lost(chosen: pd.DataFrame, design: Design, baseline: str, found: dict[str, list[Doubt]]) -> None:
    """Runs that ended because they went badly: those that are left are the better ones."""
    infinite = (chosen["state"] == "finished") & np.isinf(chosen["score"].astype(float))
    states = chosen["state"].mask(infinite, "diverged")
    for state in ("diverged", "pruned"):
        counts = chosen["arm"][states == state].value_counts()
        for arm, count in counts.items():
            said = f"{_runs(int(count))} {state}"
            if arm == baseline:
                for each in found.values():
                    each.append(Doubt(f"of the baseline {said}: it is judged by the others", _blocks("worse")))
            else:
                rest = ": only the others are compared" if (states[chosen["arm"] == arm] == "finished").any() else ""
                found[str(arm)].append(Doubt(said + rest, _blocks("better")))


def _tuning(paired: Paired, baseline: str, found: dict[str, list[Doubt]]) -> None:
    base = paired.choices[baseline]
    for arm, each in found.items():
        mine = paired.choices[arm]
        if mine.tried != base.tried and mine.tried and base.tried:
            text = f"unequal tuning: {mine.tried} values tried, the baseline {base.tried}"
            each.append(Doubt(text, _blocks("better", *(("worse",) if mine.tried < base.tried else ()))))
        if mine.edges:
            text = f"best {', '.join(mine.edges)} is at the edge of what was tried: it may do better beyond"
            each.append(Doubt(text, _blocks("better", "worse")))
        if base.edges:
            text = f"the baseline's best {', '.join(base.edges)} is at the edge of what was tried"
            each.append(Doubt(text, _blocks("better")))
        for choice, whose in ((mine, "its"), (base, "the baseline's")):
            if not choice.complete:
                text = f"none of {whose} tuning values has all its pairs: chosen among those with the most"
                each.append(Doubt(text, _blocks("better")))


def _spent(used: pd.DataFrame, design: Design, baseline: str, found: dict[str, list[Doubt]]) -> None:
    """Budgets: equal in what the sweep fixes (FLOPs or seconds if it says so, else tokens)."""
    compared = [factor for factor in design.factors if factor not in design.within]
    if any(factor.split(".")[0] in ("budget", "model", "experiment") for factor in compared):
        return
    stated = [kind for kind in ("flops", "seconds") if _all_set(used, f"config.budget.{kind}")]
    kind = stated[0] if stated else "tokens"
    if kind not in used or kind == "seconds":
        return
    spent = used.groupby("arm", sort=False)[kind].median()
    base = spent.get(baseline, np.nan)
    unit = {"flops": "FLOPs", "tokens": "tokens"}[kind]
    for arm, each in found.items():
        mine = spent.get(arm, np.nan)
        if np.isfinite(mine) and np.isfinite(base) and abs(mine - base) > SAME * base:
            text = f"unequal budget: {mine:,.4g} {unit}, the baseline {base:,.4g}"
            each.append(Doubt(text, _blocks("better", *(("worse",) if mine < base else ()))))


def _settings(used: pd.DataFrame, design: Design, baseline: str, found: dict[str, list[Doubt]]) -> None:
    """Settings beyond the factors in which an arm differs from the baseline."""
    others: dict[str, list[str]] = {arm: [] for arm in found}
    arms = used["arm"]
    matched = _matched(used, design, baseline)
    for column in used.columns:
        key = column.removeprefix("config.")
        group = key.split(".")[0]
        what = None
        if group == "data":
            what = "other data than the baseline's"
        elif group == "tokenizer" and not design.metric.endswith("bpb"):
            what = "another tokenizer than the baseline's"
        if key == column or group in HARMLESS or (what is None and _explained(key, design)):
            continue
        codes, values = pd.factorize(used[column].astype(str).where(used[column].notna()))
        if len(values) < 2:
            continue
        present = codes >= 0
        ends = pd.DataFrame({"arm": arms[present], "code": codes[present]}).groupby("arm")["code"].agg(["min", "max"])
        if baseline not in ends.index:
            continue
        differs = (ends != ends.loc[baseline]).any(axis=1)
        for arm in differs.index[differs]:
            if arm in matched and key in (*schema.MATCHED, "match_to"):
                continue
            if what is None:
                others[arm].append(key)
            elif not any(what in doubt.text for doubt in found[arm]):
                found[arm].append(Doubt(f"{what}: {design.metric} cannot be compared", _blocks("all")))
    for arm, keys in others.items():
        if keys:
            shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
            found[arm].append(Doubt(f"differs from the baseline in {shown} too", _blocks("better", "worse")))


def _matched(used: pd.DataFrame, design: Design, baseline: str) -> set[str]:
    """Arms that `match` made as large as the baseline is: they may differ from it in MATCHED and in the target.

    Where the scale is compared, each has a baseline of its own.
    """
    if "config.match" not in used or "config.match_to" not in used:
        return set()
    base, found = used[used["arm"] == baseline], set()
    for arm, own in used.groupby("arm", sort=False):
        kinds = {(kind, to) for kind, to in zip(own["config.match"], own["config.match_to"], strict=True)}
        kind, to = next(iter(kinds))
        if len(kinds) > 1 or not isinstance(kind, str):
            continue
        count = float(base[COUNTS[kind]].median())
        if abs(count - to) <= schema.TOLERANCE[kind] * to or "scale" in design.factors:
            found.add(str(arm))
    return found


def _explained(key: str, design: Design) -> bool:
    """Whether a setting may differ: it is swept, or belongs to a group or preset that is."""
    for swept in (*design.factors, *design.nuisance, design.pair):
        group = swept.removesuffix(".name")
        if key in (swept, group) or group in ("model", "experiment") or key.startswith(f"{group}."):
            return True
    return False


def _all_set(used: pd.DataFrame, column: str) -> bool:
    return column in used and len(used) > 0 and bool(used[column].notna().all())


def _blocks(*verdicts: Blocked) -> frozenset[Blocked]:
    return frozenset(verdicts)


def _runs(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"
