"""Runs that are not there to be compared, because they went badly or for a reason that nobody sees."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gpt_lab.console.lines import count_of
from gpt_lab.study.design import Settings
from gpt_lab.validity.rule import Doubt, Rule
from gpt_lab.validity.seen import Seen

LOST = Rule(
    "lost",
    10,
    title="Runs diverged or were pruned: those that are left are the lucky ones",
    withheld="better; of the baseline: worse",
    way="a setting at which all of them finish",
)
GONE = Rule(
    "gone",
    20,
    title="Runs failed, were stopped or are gone: those that are left may be the lucky ones",
    withheld="better; of the baseline: worse",
    way="the same sweep command, which runs them again",
)
BROKEN_OFF = ("failed", "stopped", "without score")
"""States of runs that could be run again and were not; `missing` ones too, once the ledger says that they had ended."""


@LOST.seen()
def lost(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """Runs that ended because they went badly."""
    chosen = study.chosen
    infinite = (chosen["state"] == "finished") & (chosen["score"].astype(float).abs() == math.inf)
    states = chosen["state"].mask(infinite, "diverged")
    for state in ("diverged", "pruned"):
        for name, count in chosen["arm"][states == state].value_counts().items():
            said = f"{count_of(int(count), 'run')} {state}"
            rest = ": only the others are compared" if (states[chosen["arm"] == name] == "finished").any() else ""
            for arm in study.resting_on(name):
                if name == study.baseline:
                    yield arm, LOST.doubt(f"of the baseline {said}: it is judged by the others", "worse")
                else:
                    yield arm, LOST.doubt(said + rest, "better")


@GONE.seen()
def gone(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """Runs that ended or were broken off, and are not there: nobody sees whether they were bad ones."""
    from gpt_lab.validity.measures import says

    chosen = study.chosen
    told = says(chosen, "env.lossy") | says(chosen, "env.measure")  # why there are no bits per byte
    scoreless = (chosen["state"] == "finished") & chosen["score"].astype(float).isna() & ~told
    states = chosen["state"].mask(scoreless, "without score")
    there_not = states.isin(BROKEN_OFF) | ((states == "missing") & says(chosen, "error"))
    for name, own in states[there_not].groupby(chosen["arm"][there_not], sort=False):
        counts = own.value_counts().items()
        said = ", ".join(f"{count} {'gone' if state == 'missing' else state}" for state, count in counts)
        for arm in study.resting_on(name):
            if name == study.baseline:
                yield arm, GONE.doubt(f"of the baseline's runs {said}", "worse")
            else:
                yield arm, GONE.doubt(f"of its runs {said}: those left may be the lucky ones", "better")
