"""Arms that were not tuned although what is compared moves the best learning rate, or whose rate was set by hand."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.validity.compared import LEARNING_RATE, Compared
from gpt_lab.validity.rule import EITHER, Doubt, Rule

MOVES = {"optim.name": "optimizer", "batch.tokens": "batch size"}
"""Settings whose values each have a best learning rate of their own, often several times apart."""
RATE = Rule(
    "rate",
    130,
    title="Another optimizer or batch size at a learning rate that nobody tuned, or a rate set by hand",
    withheld=EITHER,
    way=f"gpt_lab.tune: {{{LEARNING_RATE}: {{}}}}",
)


@RATE.known
def rate(pair: Compared) -> Iterator[Doubt]:
    """The difference may be that of two learning rates.

    A rate that is all that is compared is the question itself and raises no doubt; nor does one that both arms tuned,
    or that a factorial crosses with all else.
    """
    if pair.rates is None:
        return
    design, (mine, base) = pair.design, pair.rates
    moved = [word for key, word in MOVES.items() if pair.differs(key)]
    others = [key for key in design.factors if key != LEARNING_RATE]
    crossed = design.factorial is not None
    by_hand = LEARNING_RATE in design.factors and not crossed and mine != base and any(map(pair.differs, others))
    if moved or by_hand:
        what = f"another {' and '.join(moved)} at" if moved else "it also has"
        text = f"{what} a learning rate that was not tuned ({mine}, the baseline {base})"
        yield RATE.doubt(text, "better", "worse")
