"""What an objective's validation measures: the text's exact likelihood, a bound of it, or something of its own."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.metrics import BOUND, EXACT
from gpt_lab.validity.compared import Compared
from gpt_lab.validity.rule import Doubt, Rule

OWN = Rule(
    "measure",
    260,
    title="An objective whose validation measures something else than the baseline's: no likelihood, or not the same",
    withheld="all",
    way="arms of one objective, or objectives that bound the likelihood",
)
BOUNDED = Rule(
    "bound",
    270,
    title="An upper bound against an exact likelihood: only a bound that lies below says which is lower",
    withheld="all but better; of the baseline: all but worse",
    way="arms of one objective; a bound below an exact value is better for certain",
)
SEEN = Rule(
    "teacher",
    280,
    title="A teacher that may have seen the validation text",
    withheld="better, equivalent; of the baseline: worse, equivalent",
    way="a teacher trained on the data of this run: a run of the lab with the same data and tokenizer",
)


def _kinds(pair: Compared) -> tuple[str, str]:
    """What each measures; older runs, which do not say, the exact likelihood."""
    mine, base = (str(said.get("measure") or EXACT) for said in pair.text)
    return mine, base


@OWN.known
def own(pair: Compared) -> Iterator[Doubt]:
    """A measure of one's own, against any other."""
    mine, base = _kinds(pair)
    if pair.design.metric.startswith("val/") and mine != base and not {mine, base} <= {EXACT, BOUND}:
        yield OWN.doubt(f"{pair.design.metric} is {_said(mine)}, the baseline's {_said(base)}", "all")


@BOUNDED.known
def bounded(pair: Compared) -> Iterator[Doubt]:
    """A bound on one side: that of the arm may be far above what it bounds, and so may the baseline's."""
    mine, base = _kinds(pair)
    if not pair.design.metric.startswith("val/") or {mine, base} != {EXACT, BOUND}:
        return
    if mine == BOUND:
        text = f"{pair.design.metric} is an upper bound, the baseline's exact: a bound above it says nothing"
        yield BOUNDED.doubt(text, "worse", "equivalent", "real but small")
    else:
        text = f"{pair.design.metric} is exact, the baseline's an upper bound: a value below it says nothing"
        yield BOUNDED.doubt(text, "better", "equivalent", "real but small")


def _said(measure: str) -> str:
    return {EXACT: "the text's likelihood", BOUND: "an upper bound of the text's likelihood"}.get(measure, measure)


@SEEN.known
def seen(pair: Compared) -> Iterator[Doubt]:
    """What the teacher of either read, in its own words."""
    mine, base = (said.get("seen") for said in pair.text)
    if mine:
        yield SEEN.doubt(str(mine), "better", "equivalent", "real but small")
    if base:
        yield SEEN.doubt(f"the baseline's {base}", "worse", "equivalent", "real but small")
