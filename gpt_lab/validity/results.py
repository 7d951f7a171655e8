"""Which rules of validity/rules.py the results themselves break, whatever the arms differ in."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd

from gpt_lab import metrics
from gpt_lab.frame.pairing import Paired
from gpt_lab.stats.paired import paired_t
from gpt_lab.study.design import Design
from gpt_lab.validity import rules
from gpt_lab.validity.rules import Doubt, doubt

Found = dict[str, list[Doubt]]
GONE = ("failed", "stopped", "without score")
"""States of runs that could be run again and were not; `missing` ones too, once the ledger says that they had ended."""
APART = 0.1
"""Relative difference of training FLOPs per second from which on two arms did not have the machine alike."""


def doubts(runs: pd.DataFrame, paired: Paired, design: Design, baseline: str, found: Found) -> None:
    """Adds what speaks against each arm."""
    used = runs[paired.finished]
    _gone(runs[paired.chosen], baseline, found)
    _twice(used, baseline, found)
    _few(used, design, found)
    _busy(used, design, baseline, found)
    if text := above_floor(used, paired, design):
        for each in found.values():
            each.append(doubt("floor", text, "better"))


def _gone(chosen: pd.DataFrame, baseline: str, found: Found) -> None:
    """Runs of an arm that ended or were broken off, and are not there: nobody sees whether they were bad ones."""
    score = chosen["score"].astype(float)
    states = chosen["state"].mask((chosen["state"] == "finished") & score.isna() & ~_lossy(chosen), "without score")
    lost = states.isin(GONE) | ((states == "missing") & ended(chosen))
    for arm, own in states[lost].groupby(chosen["arm"][lost], sort=False):
        said = ", ".join(
            f"{count} {'gone' if state == 'missing' else state}" for state, count in own.value_counts().items()
        )
        if arm == baseline:
            for each in found.values():
                each.append(doubt("gone", f"of the baseline's runs {said}", "worse"))
        elif arm in found:
            found[str(arm)].append(doubt("gone", f"of its runs {said}: those left may be the lucky ones", "better"))


def _lossy(chosen: pd.DataFrame) -> pd.Series[bool]:
    """Of runs, those whose tokens do not give the text back: they have no bits per byte, which another rule says."""
    if "env.lossy" not in chosen:
        return pd.Series(False, index=chosen.index)
    return chosen["env.lossy"].map(lambda text: isinstance(text, str) and text != "").astype(bool)


def ended(runs: pd.DataFrame) -> pd.Series[bool]:
    """Of runs that are missing, those that the ledger knows to have ended: something is said of them."""
    if "error" not in runs:
        return pd.Series(False, index=runs.index)
    return runs["error"].map(lambda text: isinstance(text, str) and text != "").astype(bool)


def _twice(used: pd.DataFrame, baseline: str, found: Found) -> None:
    """Runs of the same settings whose results differ: one of them is not what it says."""
    if "conflict" not in used:
        return
    said = used["conflict"].map(lambda text: isinstance(text, str) and text != "").to_numpy(bool)
    texts = used[said].groupby("arm")["conflict"].first().to_dict()
    for arm, each in found.items():
        for whose, name in (("", arm), ("of the baseline ", baseline)):
            if name in texts:
                each.append(doubt("twice", f"{whose}{texts[name]}", "all"))


def _few(used: pd.DataFrame, design: Design, found: Found) -> None:
    """Validation splits that are too small to tell models apart."""
    if not design.metric.startswith("val/") or "targets" not in used or not used["targets"].notna().any():
        return
    least = float(used["targets"].min())
    if least < rules.FEW_TARGETS:
        for each in found.values():
            each.append(doubt("few", f"the validation split has {least:,.0f} targets", "all"))


def _busy(used: pd.DataFrame, design: Design, baseline: str, found: Found) -> None:
    """Under a budget in seconds, arms that did not have the machine alike."""
    stated = "config.budget.seconds" in used and used["config.budget.seconds"].notna().any()
    if not stated and not design.metric.startswith("perf/"):
        return
    for arm, text in uneven(used, baseline).items():
        if arm in found and stated:
            found[arm].append(doubt("busy", text, "all"))


def uneven(used: pd.DataFrame, baseline: str) -> dict[str, str]:
    """Of each arm whose training FLOPs per second differ from the baseline's beyond noise: by how much, in words."""
    if not {"tokens_per_s", "train_flops_per_token"} <= set(used.columns):
        return {}
    rate = np.log(used["tokens_per_s"].astype(float) * used["train_flops_per_token"].astype(float))
    table = pd.DataFrame({"arm": used["arm"], "pair": used["pair"], "rate": rate}).pivot_table(
        index="arm", columns="pair", values="rate", dropna=False
    )
    if baseline not in table.index:
        return {}
    said = {}
    for arm in table.index:
        apart = (table.loc[arm] - table.loc[baseline]).to_numpy(float)
        known = apart[np.isfinite(apart)]
        if arm == baseline or not len(known):
            continue
        fit = paired_t([known])
        sure = len(known) < 2 or not fit.p()[0] > rules.SURE
        if abs(known.mean()) > math.log1p(APART) and sure:
            said[str(arm)] = (
                f"{math.exp(known.mean()):.2f} times the baseline's training FLOPs per second: a machine that was "
                "busy, or another efficiency"
            )
    return said


def above_floor(used: pd.DataFrame, paired: Paired, design: Design) -> str:
    """That no arm is below the bigram floor of its corpus; empty where one is, or where no floor is known."""
    if not metrics.has_floors(design.metric) or "floor_bigram" not in used or not len(used):
        return ""
    floor = float(used["floor_bigram"].astype(float).median())
    with np.errstate(invalid="ignore"):
        means = [row[~np.isnan(row)].mean() for row in paired.scores if (~np.isnan(row)).any()]
    if not math.isfinite(floor) or not means or min(means) < floor:
        return ""
    return f"every arm is above the bigram floor of the corpus ({floor:.3f}): counting pairs of tokens does better"


def torch_version(packages: object) -> str | None:
    """Of a run's `packages` text; None where it says nothing."""
    match = re.search(r"(?:^|, )torch ([^,]+)", packages) if isinstance(packages, str) else None
    return match[1] if match else None
