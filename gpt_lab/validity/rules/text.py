"""Bits per byte of text that does not come back from its tokens, or whose ends only one of two arms encodes."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab import metrics
from gpt_lab.validity.compared import Compared
from gpt_lab.validity.rule import Doubt, Rule

LOSSY = Rule(
    "lossy",
    240,
    title="A tokenizer that loses text, and bits per byte",
    withheld="all",
    way="one that gives text back byte for byte: byte, bpe, unigram, tiktoken",
)
ENDS = Rule(
    "ends",
    250,
    title="Where documents end is encoded for one and not for the other, and bits per byte",
    withheld="all",
    way="tokenizer.eot=true for both",
)


@LOSSY.known
def lossy(pair: Compared) -> Iterator[Doubt]:
    """Of either, what it loses in its own words."""
    for whose, said in zip(("", "the baseline's "), pair.text, strict=True):
        if metrics.per_byte(pair.design.metric) and (lost := said.get("lossy")):
            yield LOSSY.doubt(f"{whose}{lost}", "all")


@ENDS.known
def ends(pair: Compared) -> Iterator[Doubt]:
    """One has tokens for the ends of documents to tell, and the other has not."""
    mine, base = (said.get("ends") for said in pair.text)
    if metrics.per_byte(pair.design.metric) and None not in (mine, base) and mine != base:
        words = ("encodes", "does not") if mine else ("does not encode", "does")
        yield ENDS.doubt(f"{words[0]} where documents end, and the baseline {words[1]}", "all")
