"""What forbids a verdict however clear the numbers: the rules, in one place for the dry run and for the report.

The dry run asks before anything is paid for (beforehand.py), the report of what was run (afterwards.py). Both find
what differs between an arm and its baseline; whether that is unfair, what it forbids and the words for it are here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpt_lab import metrics, schema
from gpt_lab.lines import some
from gpt_lab.study.design import Design

Blocked = Literal["better", "worse", "all"]

SAME = 0.01
"""Relative difference of tokens or FLOPs that rounding to whole batches explains."""
ALIKE = 0.02
"""Relative difference of two arms' parameters that needs no word."""
HARMLESS = schema.NOT_IDENTITY | {"eval", "device", "compile"}
"""Settings whose difference between arms says nothing about the comparison."""
PRESETS = ("model", "experiment")
"""Settings that choose many others at once."""
UNITS = {"flops": "FLOPs", "tokens": "tokens"}
LISTED = 4
FEW_TARGETS = 2000
"""Validation targets below which no model is told from another: their mean has a standard error of some 3 %."""
SURE = 0.05
"""p-value below which a difference of speeds is no noise."""
RATE = "optim.lr"
MOVES = {"optim.name": "optimizer", "batch.tokens": "batch size"}
"""Settings whose values each have a best learning rate of their own, often several times apart."""


@dataclass(frozen=True)
class Rule:
    """One row of docs/fairness-rules.md: what is not fair, which verdicts are withheld for it, and the way out."""

    title: str
    withheld: str
    way: str


EITHER = "better, worse"
RULES: Mapping[str, Rule] = {
    "lost": Rule(
        "Runs diverged or were pruned: those that are left are the lucky ones",
        "better; of the baseline: worse",
        "a setting at which all of them finish",
    ),
    "gone": Rule(
        "Runs failed, were stopped or are gone: those that are left may be the lucky ones",
        "better; of the baseline: worse",
        "the same sweep command, which runs them again",
    ),
    "twice": Rule(
        "Runs of the same settings with different results",
        "all",
        "find out which one is wrong; study=NAME runs all of them anew",
    ),
    "tuning": Rule(
        "Unequal tuning: more values tried for one arm",
        "better; worse, if the arm had fewer",
        "as many values for every arm",
    ),
    "edge": Rule(
        "The best value of a tuned setting is the first or last that was tried",
        "better, worse; of the baseline: better",
        "values beyond it, as many for every arm",
    ),
    "gaps": Rule(
        "No value of a tuned setting has all its pairs",
        "better",
        "the same sweep command, which runs what is missing",
    ),
    "reused": Rule(
        "The seeds that are compared also chose the tuned values",
        "better",
        "5 or more seeds that chose nothing, at the chosen values",
    ),
    "untuned": Rule(
        "A setting that is to be tuned has one value in each arm, and not the same",
        EITHER,
        "several values of it for each arm, or name it no nuisance",
    ),
    "rate": Rule(
        "Another optimizer or batch size at a learning rate that nobody tuned, or a rate set by hand",
        EITHER,
        "gpt_lab.tune: {optim.lr: {}}",
    ),
    "tune": Rule(
        "The tuning runs of `tune` are not there, not over, or choose another value than the one compared",
        EITHER,
        "the same sweep command, which runs what is missing",
    ),
    "budget": Rule(
        "Unequal tokens (or FLOPs, where the budget is in FLOPs)",
        "better; worse, if the arm had fewer",
        "one budget for every arm",
    ),
    "schedule": Rule(
        "Another learning-rate schedule, which is not what is compared",
        EITHER,
        "one schedule for every arm",
    ),
    "middle": Rule(
        "A run that ended before its budget did, or a value read on the way: in the middle of the schedule",
        "all",
        "runs that end with their schedule, and a metric of their end",
    ),
    "tokenizer": Rule(
        "Another tokenizer, and a metric per token",
        "all",
        "metric val/bpb",
    ),
    "lossy": Rule(
        "A tokenizer that loses text, and bits per byte",
        "all",
        "one that gives text back byte for byte: byte, bpe, tiktoken",
    ),
    "ends": Rule(
        "Where documents end is encoded for one and not for the other, and bits per byte",
        "all",
        "tokenizer.eot=true for both",
    ),
    "few": Rule(
        "Validation on fewer than 2,000 targets",
        "all",
        "a larger validation split",
    ),
    "floor": Rule(
        "Every arm above the corpus's bigram floor: no answer about language models",
        "better",
        "a longer budget or a better recipe, until an arm does better than counting pairs of tokens",
    ),
    "data": Rule(
        "Other data, another version of it, or a version that one run does not name",
        "all",
        "the same data for both runs of a pair (study=NAME runs all of them anew)",
    ),
    "code": Rule(
        "Another version of the code within pairs, or one that only one run names",
        EITHER,
        "both runs of a pair by one version (study=NAME runs all of them anew)",
    ),
    "torch": Rule(
        "Another version of torch within pairs",
        EITHER,
        "both runs of a pair by one version (study=NAME runs all of them anew)",
    ),
    "numbers": Rule(
        "Another number format within pairs, which is not what is compared",
        EITHER,
        "one precision for every arm",
    ),
    "machine": Rule(
        "Speed, or a budget in seconds, on different machines",
        "all",
        "every run on the same kind of machine",
    ),
    "busy": Rule(
        "A budget in seconds, and training FLOPs per second apart beyond noise",
        "all",
        "a machine with nothing else to do, or a budget in tokens or FLOPs",
    ),
    "settings": Rule(
        "Arms differ in more than what is compared",
        EITHER,
        "the same value in every arm, or name it a factor",
    ),
}
"""Where tuned settings are those of gpt_lab.nuisance."""


@dataclass(frozen=True)
class Doubt:
    """One sentence for an arm by one of RULES, and the verdicts that it forbids."""

    rule: str
    text: str
    blocks: frozenset[Blocked]

    @property
    def way(self) -> str:
        """What to do about it."""
        return RULES[self.rule].way

    @property
    def said(self) -> str:
        """With the way out."""
        return f"{self.text}. Way out: {self.way}"

    @property
    def withheld(self) -> str:
        """`no "better"`."""
        if "all" in self.blocks:
            return "no verdict"
        return "no " + " or ".join(f'"{word}"' for word in ("better", "worse") if word in self.blocks)


def doubt(rule: str, text: str, *blocks: Blocked) -> Doubt:
    """A doubt by a rule of RULES."""
    return Doubt(rule, text, frozenset(blocks))


def unequal_tuning(tried: int, of_baseline: int) -> list[Doubt]:
    """How many values of the nuisance settings an arm and its baseline tried; 0 where none has been yet."""
    if tried == of_baseline or not tried or not of_baseline:
        return []
    values = f"{tried} {'value' if tried == 1 else 'values'}"
    text = f"unequal tuning: {values} tried, the baseline {of_baseline}"
    return [doubt("tuning", text, "better", *(("worse",) if tried < of_baseline else ()))]


def reused(pair: str) -> Doubt:
    """Values of the pairing setting that chose the nuisance values and are compared."""
    return doubt("reused", f"tuned on the {pair}s that are compared", "better")


def untuned(tuning: Sequence[str], of_baseline: Sequence[str]) -> list[Doubt]:
    """Nuisance values of an arm and of its baseline, one each, that are not the same: nobody chose them.

    Args:
        tuning, of_baseline: names of the values that each tried (Design.tuning).
    """
    if len(tuning) != 1 or len(of_baseline) != 1 or tuning[0] == of_baseline[0]:
        return []
    text = f"{tuning[0] or 'nothing'} where the baseline has {of_baseline[0] or 'nothing'}, and neither was tuned"
    return [doubt("untuned", text, "better", "worse")]


def rate_by_hand(design: Design) -> bool:
    """Whether arms may have rates of their own beside what else is compared; a factorial crosses them fairly."""
    return RATE in design.factors and design.factorial is None


def untuned_rate(moved: Sequence[str], by_hand: bool, rates: Sequence[str]) -> list[Doubt]:
    """An arm whose difference may be that of two learning rates, none of which was tuned.

    Args:
        moved: names of MOVES in which it differs from the baseline. by_hand: it has another rate beside what differs.
        rates: the arm's and the baseline's.
    """
    if not moved and not by_hand:
        return []
    what = f"another {' and '.join(moved)} at" if moved else "it also has"
    text = f"{what} a learning rate that was not tuned ({rates[0]}, the baseline {rates[1]})"
    return [doubt("rate", text, "better", "worse")]


def budget_kind(stated: Iterable[Mapping[str, object]], design: Design) -> str | None:
    """What arms must have spent equally: flops where all state it so, else tokens; None where nothing must be.

    Args:
        stated: the `budget` of each run, by kind.
    """
    compared = [factor for factor in design.factors if factor not in design.within]
    if any(factor.split(".")[0] in ("budget", "experiment") for factor in compared):
        return None
    kinds = [{kind for kind, value in budget.items() if value is not None} for budget in stated]
    for kind in ("flops", "seconds"):
        if kinds and all(kind in own for own in kinds):
            return None if kind == "seconds" else kind
    return "tokens"


def unequal_budget(spent: float | None, of_baseline: float | None, kind: str) -> list[Doubt]:
    """Tokens or FLOPs of one run of an arm and of its baseline; None or NaN where they are not known."""
    if spent is None or of_baseline is None or not abs(spent - of_baseline) > SAME * of_baseline:
        return []
    text = f"unequal budget: {spent:,.4g} {UNITS[kind]}, the baseline {of_baseline:,.4g}"
    return [doubt("budget", text, "better", *(("worse",) if spent < of_baseline else ()))]


def unlike_text(text: Mapping[str, object], of_baseline: Mapping[str, object], design: Design) -> list[Doubt]:
    """What forbids to compare the bits per byte of an arm and its baseline.

    Args:
        text, of_baseline: `lossy`, what of the text does not come back from the tokens, in words, and `ends`, whether
            the ends of documents are encoded; either may be missing or None.
    """
    if not metrics.per_byte(design.metric):
        return []
    found = []
    for whose, lost in (("", text.get("lossy")), ("the baseline's ", of_baseline.get("lossy"))):
        if lost:
            found.append(doubt("lossy", f"{whose}{lost}", "all"))
    ends = text.get("ends"), of_baseline.get("ends")
    if None not in ends and ends[0] != ends[1]:
        said = "encodes where documents end, and the baseline does not"
        if not ends[0]:
            said = "does not encode where documents end, and the baseline does"
        found.append(doubt("ends", said, "all"))
    return found


def unlike(keys: Iterable[str], design: Design, *, matched: bool = False) -> list[Doubt]:
    """What to think of flat settings in which an arm differs from its baseline.

    Args:
        matched: the arm is as large as the baseline by `match`, which may set MATCHED for that.
    """
    found: dict[str, Doubt] = {}
    schedule: list[str] = []
    others: list[str] = []
    for key in keys:
        group = key.split(".")[0]
        if group == "data":
            text = f"other data than the baseline's: {design.metric} cannot be compared"
            found["data"] = doubt("data", text, "all")
        elif group == "tokenizer" and not metrics.per_byte(design.metric):
            text = f"another tokenizer than the baseline's: {design.metric} cannot be compared"
            found["tokenizer"] = doubt("tokenizer", text, "all")
        elif may_differ(key, design) or (matched and key in (*schema.MATCHED, "match_to")):
            continue
        else:
            (schedule if group == "schedule" else others).append(key)
    if schedule:
        text = f"another schedule than the baseline's ({some(schedule, LISTED)})"
        found["schedule"] = doubt("schedule", text, "better", "worse")
    if others:
        text = f"differs from the baseline in {some(others, LISTED)} too"
        found["settings"] = doubt("settings", text, "better", "worse")
    return list(found.values())


def may_differ(key: str, design: Design) -> bool:
    """Whether a setting may differ: it changes nothing, is swept, or belongs to a group or preset that is."""
    if key.split(".")[0] in HARMLESS:
        return True
    for swept in (*design.factors, *design.nuisance, design.pair):
        group = swept.removesuffix(".name")
        if key in (swept, group) or group in PRESETS or key.startswith(f"{group}."):
            return True
    return False


def bundled(keys: Iterable[str], design: Design) -> str:
    """What a preset that is compared changes beside its name: a verdict is on all of it; "" for other designs."""
    preset = next((factor for factor in design.factors if factor in PRESETS), None)
    if preset is None:
        return ""
    groups = dict.fromkeys(key.split(".")[0] if key.split(".")[0] != "model" else key for key in keys)
    kept = [name for name in groups if name not in (*HARMLESS, *design.factors, design.pair)]
    return f"{preset} changes {some(kept, 8)}: a verdict is on all of them together" if kept else ""


def larger(parameters: float, of_baseline: float) -> str:
    """`+8.0% parameters against the baseline ...`; "" for arms of about the same size."""
    if not abs(parameters - of_baseline) > ALIKE * of_baseline:
        return ""
    more = parameters / of_baseline - 1
    return f"{more:+.1%} parameters against the baseline: gpt_lab.match compares at equal size or FLOPs"
