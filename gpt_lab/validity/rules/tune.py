"""Arms of a sweep with `tune` whose tuning is not sound."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.study.design import Settings
from gpt_lab.validity.rule import EITHER, Doubt, Rule
from gpt_lab.validity.seen import Seen

TUNE = Rule(
    "tune",
    120,
    title="The tuning runs of `tune` are not there, not over, or choose another value than the one compared",
    withheld=EITHER,
    way="the same sweep command, which runs what is missing",
)


@TUNE.seen()
def tune(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """What frame/tuned.py found of the arm or of the baseline."""
    for arm, whose, name in study.both("", "of the baseline: "):
        for problem in study.paired.choices[name].problems:
            yield arm, TUNE.doubt(f"{whose}{problem}", "better", "worse")
