"""How many values of the nuisance settings an arm and its baseline tried."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.console.lines import count_of
from gpt_lab.validity.compared import Compared
from gpt_lab.validity.rule import EITHER, Doubt, Rule

TUNING = Rule(
    "tuning",
    80,
    title="Unequal tuning: more values tried for one arm",
    withheld="better; worse, if the arm had fewer",
    way="as many values for every arm",
)
UNTUNED = Rule(
    "untuned",
    90,
    title="A setting that is to be tuned has one value in each arm, and not the same",
    withheld=EITHER,
    way="several values of it for each arm, or name it no nuisance",
)


@TUNING.known
def unequal(pair: Compared) -> Iterator[Doubt]:
    """More values tried for one of both."""
    tried, of_baseline = pair.tried
    if tried != of_baseline and tried and of_baseline:
        text = f"unequal tuning: {count_of(tried, 'value')} tried, the baseline {of_baseline}"
        yield TUNING.doubt(text, "better", *(("worse",) if tried < of_baseline else ()))


@UNTUNED.known
def untuned(pair: Compared) -> Iterator[Doubt]:
    """One value each, not the same: nobody chose them."""
    mine, base = pair.tunings
    if len(mine) == len(base) == 1 and mine[0] != base[0]:
        text = f"{mine[0] or 'nothing'} where the baseline has {base[0] or 'nothing'}, and neither was tuned"
        yield UNTUNED.doubt(text, "better", "worse")
