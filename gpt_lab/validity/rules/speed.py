"""Speeds and budgets in seconds of arms that did not have the same machine, or not alike."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.console.lines import count_of
from gpt_lab.study.design import Settings
from gpt_lab.validity.compared import PLACES, swept
from gpt_lab.validity.rule import Doubt, Rule
from gpt_lab.validity.seen import Seen

BUSY = Rule(
    "busy",
    50,
    title="A budget in seconds, and training FLOPs per second apart beyond noise",
    withheld="all",
    way="a machine with nothing else to do, or a budget in tokens or FLOPs",
)
MACHINE = Rule(
    "machine",
    230,
    title="Speed, or a budget in seconds, on different machines",
    withheld="all",
    way="every run on the same kind of machine",
)


@BUSY.seen()
def busy(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """Under a budget in seconds, arms that did not have the machine alike."""
    from gpt_lab.validity.measures import uneven

    if study.timed:
        for arm, text in uneven(study.used, study.baseline).items():
            if arm in study.arms:
                yield arm, BUSY.doubt(text, "all")


@MACHINE.seen()
def machine(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """Where time is what is compared or what is spent, pairs whose runs had other machines."""
    if (study.timed or study.design.metric.startswith("perf/")) and "device" not in swept(study.design):
        for arm, count in study.apart(*PLACES).items():
            yield arm, MACHINE.doubt(f"another machine than the baseline's in {count_of(count, 'pair')}", "all")
