"""Which of the rules on fair comparison (validity/rules.py) the runs of a study break."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from gpt_lab import schema
from gpt_lab.frame.pairing import Paired, fresh
from gpt_lab.lines import count_of
from gpt_lab.stats.tiers import CONFIRMS
from gpt_lab.store import record
from gpt_lab.study.design import Design
from gpt_lab.validity import results, rules, untuned
from gpt_lab.validity.rules import SAME, Doubt, doubt

COUNTS = {"params": "parameters_non_embedding", "flops": "train_flops_per_token"}
"""What each value of `match` makes equal."""
MACHINE = ("device", "cpu", "gpu", "threads")
"""Where two runs must agree for their speeds to be compared."""
Found = dict[str, list[Doubt]]


def doubts(
    runs: pd.DataFrame, paired: Paired, design: Design, baseline: str, *, spent: bool = True
) -> dict[str, list[Doubt]]:
    """What speaks against comparing each arm with the baseline.

    Args:
        runs: the study's runs. paired: which of them are compared.
        spent: whether unequal budgets do; not where a comparison allows for them.
    """
    found: Found = {arm: [] for arm in paired.arms if arm != baseline}
    used = runs[paired.finished]
    _lost(runs[paired.chosen], baseline, found)
    results.doubts(runs, paired, design, baseline, found)
    _tuning(runs, paired, design, baseline, found)
    for arm, more in untuned.doubts(used, paired, design, baseline).items():
        found[arm] += more
    if spent:
        _spent(used, design, baseline, found)
    _middle(used, design, baseline, found)
    matched = _matched(used, design, baseline)
    for arm, keys in _unlike(used, baseline).items():
        found[arm] += rules.unlike(keys, design, matched=arm in matched)
    _versions(used, design, baseline, found)
    _text(runs[paired.chosen], design, baseline, found)
    return found


def information(runs: pd.DataFrame, paired: Paired, design: Design, baseline: str) -> list[str]:
    """What a reader should know of how the arms differ; it forbids nothing."""
    used = runs[paired.finished]
    said: dict[str, list[str]] = {}
    for arm, keys in _unlike(used, baseline).items() if set(rules.PRESETS) & set(design.factors) else ():
        if text := rules.bundled(keys, design):
            said.setdefault(text, []).append(arm)
    sizes = used.groupby("arm", sort=False)["parameters"].median() if "parameters" in used else {}
    matched = _matched(used, design, baseline)
    for arm in paired.arms:
        known = arm in sizes and baseline in sizes and arm not in matched
        if known and (text := rules.larger(sizes[arm], sizes[baseline])):
            said.setdefault(text, []).append(arm)
    return [f"{'; '.join(arms)}: {text}" for text, arms in said.items()]


def _lost(chosen: pd.DataFrame, baseline: str, found: Found) -> None:
    """Runs that ended because they went badly: those that are left are the better ones."""
    infinite = (chosen["state"] == "finished") & np.isinf(chosen["score"].astype(float))
    states = chosen["state"].mask(infinite, "diverged")
    for state in ("diverged", "pruned"):
        counts = chosen["arm"][states == state].value_counts()
        for arm, count in counts.items():
            said = f"{count_of(int(count), 'run')} {state}"
            if arm == baseline:
                for each in found.values():
                    each.append(doubt("lost", f"of the baseline {said}: it is judged by the others", "worse"))
            else:
                rest = ": only the others are compared" if (states[chosen["arm"] == arm] == "finished").any() else ""
                found[str(arm)].append(doubt("lost", said + rest, "better"))


def _tuning(runs: pd.DataFrame, paired: Paired, design: Design, baseline: str, found: Found) -> None:
    base = paired.choices[baseline]
    place = paired.arms.index
    tested = fresh(paired, [place(arm) for arm in found], [place(baseline)] * len(found), CONFIRMS).fresh
    begun = runs[~runs["state"].isin(["missing", "failed"])] if design.nuisance else runs[:0]
    tunings: Mapping[Any, Any] = begun.groupby("arm")["tuning"].unique().to_dict()
    for (arm, each), clean in zip(found.items(), tested, strict=True):
        mine = paired.choices[arm]
        if not clean:
            each.append(rules.reused(design.pair))
        each += rules.unequal_tuning(mine.tried, base.tried)
        each += rules.untuned(list(tunings.get(arm, ())), list(tunings.get(baseline, ())))
        if mine.edges:
            text = f"best {', '.join(mine.edges)} is at the edge of what was tried: it may do better beyond"
            each.append(doubt("edge", text, "better", "worse"))
        if base.edges:
            text = f"the baseline's best {', '.join(base.edges)} is at the edge of what was tried"
            each.append(doubt("edge", text, "better"))
        for choice, whose in ((mine, "its"), (base, "the baseline's")):
            if not choice.complete:
                text = f"none of {whose} tuning values has all its pairs: chosen among those with the most"
                each.append(doubt("gaps", text, "better"))


def _spent(used: pd.DataFrame, design: Design, baseline: str, found: Found) -> None:
    """Budgets: equal in what the sweep fixes (FLOPs or seconds if it says so, else tokens)."""
    columns = [name for name in used if str(name).startswith("config.budget.")]
    stated = used[columns].drop_duplicates().rename(columns=lambda name: name.rpartition(".")[2])
    budgets = [{kind: value for kind, value in row.items() if pd.notna(value)} for row in stated.to_dict("records")]
    kind = rules.budget_kind(budgets, design)
    if kind is None or kind not in used:
        return
    spent = used.groupby("arm", sort=False)[kind].median()
    for arm, each in found.items():
        each += rules.unequal_budget(spent.get(arm), spent.get(baseline), kind)


def _middle(used: pd.DataFrame, design: Design, baseline: str, found: Found) -> None:
    """Values from the middle of a schedule: of a run that says it ended early, of a metric that is read on the way."""
    if design.metric.startswith("best/"):
        for each in found.values():
            each.append(doubt("middle", f"{design.metric} is the best of all evaluations, not that of the end", "all"))
    early: dict[str, float] = {}
    for kind in ("steps", "tokens", "flops"):
        if kind not in used or f"config.budget.{kind}" not in used or "steps" not in used:
            continue
        asked = pd.to_numeric(used[f"config.budget.{kind}"], errors="coerce")
        spent, steps = used[kind].astype(float), used["steps"].astype(float)
        short = (asked - spent > SAME * asked) & (asked - spent > spent / steps)
        for arm, share in (spent / asked)[short].groupby(used["arm"][short]).min().items():
            early[str(arm)] = float(share)
    for arm, each in found.items():
        for whose, name in (("a run", arm), ("a run of the baseline", baseline)):
            if name in early:
                text = f"{whose} ended at {early[name]:.0%} of its budget, in the middle of its schedule"
                each.append(doubt("middle", text, "all"))


def _unlike(used: pd.DataFrame, baseline: str) -> dict[str, list[str]]:
    """Of each arm the flat settings whose values are not those of the baseline's runs."""
    found: dict[str, list[str]] = {arm: [] for arm in used["arm"].unique() if arm != baseline}
    arms = used["arm"]
    for column in used.columns:
        key = str(column).removeprefix("config.")
        if key == column or key.split(".")[0] in schema.NOT_IDENTITY:
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
            found[arm].append(key)
    return found


def _versions(used: pd.DataFrame, design: Design, baseline: str, found: Found) -> None:
    """Versions and places in which the two runs of a pair differ: between pairs they may, for differences cancel it."""
    compared = {factor.split(".")[0] for factor in (*design.factors, *design.nuisance)}
    timed = design.metric.startswith("perf/") or bool(
        "config.budget.seconds" in used and used["config.budget.seconds"].notna().any()
    )

    def judge(rule: str, what: str, columns: tuple[str, ...], same: Callable[[Any, Any], bool], *blocks: Any) -> None:
        for arm, count in _apart(used, [f"env.{name}" for name in columns], baseline, same).items():
            found[arm].append(doubt(rule, f"{what} in {count_of(count, 'pair')}", *blocks))

    if not compared & {"data", "tokenizer"}:
        judge("data", "another version of the data than the baseline's", ("data",), _known_equal, "all")
    judge(
        "code",
        "other code than the baseline's",
        ("code", "commit", "dirty", "changes"),
        _same_code,
        *("better", "worse"),
    )
    judge("torch", "another torch than the baseline's", ("packages",), _same_torch, "better", "worse")
    if not compared & {"precision", "device"}:
        judge("numbers", "another number format than the baseline's", ("precision",), _equal, "better", "worse")
    if timed and not compared & {"device"}:
        judge("machine", "another machine than the baseline's", MACHINE, _equal, "all")


def _text(chosen: pd.DataFrame, design: Design, baseline: str, found: Found) -> None:
    """Bits per byte of text that does not come back from its tokens, or whose ends only one of two arms encodes."""
    known = [key for key in ("lossy", "ends") if f"env.{key}" in chosen]
    said: dict[str, dict[str, Any]] = {}
    for arm, own in chosen.groupby("arm", sort=False):
        values = {key: [value for value in own[f"env.{key}"] if isinstance(value, str | bool)] for key in known}
        said[str(arm)] = {key: max(found, default=None) for key, found in values.items()}
    for arm, each in found.items():
        each += rules.unlike_text(said.get(arm, {}), said.get(baseline, {}), design)


def _apart(used: pd.DataFrame, columns: list[str], baseline: str, same: Callable[[Any, Any], bool]) -> dict[str, int]:
    """Of each arm the pairs in which what its run and the baseline's say of themselves is not the same.

    What says nothing of any of these in all runs tells nothing.
    """
    known = [name for name in columns if name in used]
    if not known or not any(used[name].nunique(dropna=False) > 1 for name in known):
        return {}
    table = pd.DataFrame({name: used[name].astype(object) if name in used else None for name in columns})
    table = table.where(table.notna(), None)
    values = list(table.itertuples(index=False, name=None))
    codes, names = pd.factorize(pd.Series(values, dtype=object))
    by_pair: dict[str, dict[str, set[int]]] = {}
    for arm, pair, code in zip(used["arm"], used["pair"], codes, strict=True):
        by_pair.setdefault(arm, {}).setdefault(pair, set()).add(int(code))
    verdicts: dict[tuple[int, int], bool] = {}

    def differ(a: int, b: int) -> bool:
        if a != b and (a, b) not in verdicts:
            verdicts[a, b] = not same(names[a], names[b])
        return a != b and verdicts[a, b]

    base = by_pair.get(baseline, {})
    counts = {
        arm: sum(any(differ(a, b) for a, b in product(own[pair], base.get(pair, ()))) for pair in own)
        for arm, own in by_pair.items()
        if arm != baseline
    }
    return {arm: count for arm, count in counts.items() if count}


def _equal(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """Where both say something, they say the same."""
    return all(a == b for a, b in zip(first, second, strict=True) if a is not None and b is not None)


def _known_equal(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return first == second


def _same_code(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """By the content of the modules where both name it, else by their commits; not where only one names its code."""
    (code, *version), (other, *of_other) = first, second
    if code is not None and other is not None:
        return bool(code == other)
    if (code is None and version[0] is None) != (other is None and of_other[0] is None):
        return False
    return record.same_code(*version, *of_other)


def _same_torch(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    a, b = (results.torch_version(one[0]) for one in (first, second))
    return a is None or b is None or a == b


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
