"""An arm and its baseline, as the dry run and the report both know them, and what forbids nothing but is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpt_lab import metrics
from gpt_lab.config import schema
from gpt_lab.console.lines import some
from gpt_lab.study.design import Design, Settings

SAME = 0.01
"""Relative difference of tokens or FLOPs that rounding to whole batches explains."""
ALIKE = 0.02
"""Relative difference of two arms' parameters that needs no word."""
HARMLESS = schema.NOT_IDENTITY | {"eval", "device", "compile", "chunked_loss"}
"""Settings whose difference between arms says nothing about the comparison."""
PRESETS = ("model", "experiment")
"""Settings that choose many others at once."""
PLACES = ("device", "cpu", "gpu", "threads")
"""Where two runs must agree for their speeds, or their seconds, to be compared."""
LEARNING_RATE = "optim.lr"
ORDER = ("batch.packing", "batch.curriculum", "batch.shortest")
"""Settings that give other batches of the same data."""
SOURCES = "data.sources."
"""How the settings of a mixture's sources begin; an arm may lack one that another has."""
TO_COME = "(runs that are done, against what would run now)"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """An arm and its baseline; of what comes twice, the arm's is first.

    Fields:
        differing: flat settings that both have, with other values, and of sources of data that only one has.
        differs: whether a setting has other values, or only one of them has it.
        matched: the arm is as large as the baseline by `match`, which may set MATCHED for that.
        parameters: of each; None where they are not known.
        tried: how many values of the nuisance settings; 0 where none has been yet.
        tunings: these (Design.tuning).
        rates: the learning rates, in words; None where they are tuned, or not known.
        cost: what both must spend alike, tokens or flops; None: nothing. spent: that of one run; None or NaN where it
            is not known.
        text: `lossy`, what of the text does not come back from the tokens, in words; `ends`, whether the ends of
            documents are encoded; `packing`, what it does to them, in words; `measure`, what validation measures if
            not the exact likelihood; `seen`, why a teacher may have seen the validation text. Any may be missing or
            None.
    """

    design: Design
    differing: Sequence[str]
    differs: Callable[[str], bool]
    matched: bool
    parameters: tuple[float | None, float | None]
    tried: tuple[int, int]
    tunings: tuple[Sequence[Settings], Sequence[Settings]]
    rates: tuple[str, str] | None
    cost: str | None
    spent: tuple[float | None, float | None]
    text: tuple[Mapping[str, object], Mapping[str, object]]

    @property
    def bundled(self) -> str:
        """What a preset that is compared changes beside its name: a verdict is on all of it; "" for other designs."""
        preset = next((factor for factor in self.design.factors if factor in PRESETS), None)
        if preset is None:
            return ""
        groups = dict.fromkeys(key.split(".")[0] if key.split(".")[0] != "model" else key for key in self.differing)
        kept = [name for name in groups if name not in (*HARMLESS, *self.design.factors, self.design.pair)]
        return f"{preset} changes {some(kept, 8)}: a verdict is on all of them together" if kept else ""

    @property
    def other_batches(self) -> str:
        """That both read other batches, although no rule forbids it; "" if they read the same."""
        keys = [key for key in self.differing if key in ORDER or key.startswith(SOURCES)]
        if not keys:
            return ""
        packed = self.text[0].get("packing")
        said = f"other batches than the baseline's ({some(keys, 4)}): pairs share their initial values, not their data"
        return said + (f"; packing: {packed}" if packed else "")

    @property
    def bounded(self) -> str:
        """That a verdict is on upper bounds, where it is; "" elsewhere."""
        kinds = {said.get("measure") for said in self.text}
        if kinds != {metrics.BOUND} or not self.design.metric.startswith("val/"):
            return ""
        return f"{self.design.metric} is an upper bound, the baseline's too: a verdict is on the bounds"

    @property
    def larger(self) -> str:
        """`+8.0% parameters against the baseline ...`; "" for arms of about the same size, or matched."""
        mine, base = self.parameters
        if self.matched or mine is None or base is None or not abs(mine - base) > ALIKE * base:
            return ""
        return f"{mine / base - 1:+.1%} parameters against the baseline: gpt_lab.match compares at equal size or FLOPs"


def swept(design: Design) -> set[str]:
    """Groups of the settings that are compared or tuned."""
    return {name.split(".")[0] for name in (*design.factors, *design.nuisance)}


def tuned_rate(design: Design) -> bool:
    """Whether a learning rate is among the settings that each arm tunes."""
    return any(key.startswith("optim.") and key.endswith("lr") for key in design.nuisance)


def cost_kind(stated: Iterable[Mapping[str, object]], design: Design) -> str | None:
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
