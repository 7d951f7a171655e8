"""Settings in which an arm differs from its baseline although nobody compares them; of the data, versions too."""

from __future__ import annotations

import operator
from collections.abc import Iterator

from gpt_lab import metrics
from gpt_lab.config import schema
from gpt_lab.console.lines import count_of, some
from gpt_lab.options import WEIGHT
from gpt_lab.study.design import Design, Settings
from gpt_lab.validity.compared import HARMLESS, PRESETS, SOURCES, TO_COME, Compared, swept
from gpt_lab.validity.planned import Planned
from gpt_lab.validity.rule import EITHER, Doubt, Rule
from gpt_lab.validity.seen import Seen

LISTED = 4
DATA = Rule(
    "data",
    160,
    title="Other data, another version of it, or a version that one run does not name",
    withheld="all",
    way="the same data for both runs of a pair (study=NAME runs all of them anew); of mixtures, metric val/bpb/SOURCE",
)
TOKENIZER = Rule(
    "tokenizer",
    170,
    title="Another tokenizer, and a metric per token",
    withheld="all",
    way="metric val/bpb",
)
SCHEDULE = Rule(
    "schedule",
    180,
    title="Another learning-rate schedule, which is not what is compared",
    withheld=EITHER,
    way="one schedule for every arm",
)
SETTINGS = Rule(
    "settings",
    190,
    title="Arms differ in more than what is compared",
    withheld=EITHER,
    way="the same value in every arm, or name it a factor",
)


def _of(rule: Rule, pair: Compared) -> list[str]:
    """The settings in which both differ that are this rule's."""
    return [key for key in pair.differing if _rule(key, pair) is rule]


def _rule(key: str, pair: Compared) -> Rule | None:
    """The rule that speaks of a setting; None: it may differ."""
    group = key.split(".")[0]
    if group == "data" and not _beside(key, pair.design.metric):
        return DATA
    if group == "tokenizer" and not metrics.per_byte(pair.design.metric):
        return TOKENIZER
    if may_differ(key, pair.design) or (pair.matched and key in (*schema.MATCHED, "match_to")):
        return None
    return SCHEDULE if group == "schedule" else SETTINGS


def _beside(key: str, metric: str) -> bool:
    """Whether a setting is of what a mixture has beside the source that the metric is of, or of the source's weight.

    The text that is validated is the same then. A metric per token needs the same tokens too, and a tokenizer that was
    fitted on another mixture has others.
    """
    _, of = metrics.source(metric)
    if not of or not metrics.per_byte(metric) or not key.startswith(SOURCES):
        return False
    name, _, option = key.removeprefix(SOURCES).partition(".")
    return name != of or option == WEIGHT


def may_differ(key: str, design: Design) -> bool:
    """Whether a setting may differ: it changes nothing, is swept, or belongs to a group or preset that is."""
    if key.split(".")[0] in HARMLESS:
        return True
    for name in (*design.factors, *design.nuisance, design.pair):
        group = name.removesuffix(".name")
        if key in (name, group) or group in PRESETS or key.startswith(f"{group}."):
            return True
    return False


@DATA.known
def data(pair: Compared) -> Iterator[Doubt]:
    """Other data, even where it is compared: a metric of other text is another metric."""
    if _of(DATA, pair):
        yield DATA.doubt(f"other data than the baseline's: {pair.design.metric} cannot be compared", "all")


@TOKENIZER.known
def tokenizer(pair: Compared) -> Iterator[Doubt]:
    """A metric per token of another tokenizer's tokens."""
    if _of(TOKENIZER, pair):
        yield TOKENIZER.doubt(f"another tokenizer than the baseline's: {pair.design.metric} cannot be compared", "all")


@SCHEDULE.known
def schedule(pair: Compared) -> Iterator[Doubt]:
    """A schedule that is not compared."""
    if keys := _of(SCHEDULE, pair):
        yield SCHEDULE.doubt(f"another schedule than the baseline's ({some(keys, LISTED)})", "better", "worse")


@SETTINGS.known
def settings(pair: Compared) -> Iterator[Doubt]:
    """Any other setting that is not compared."""
    if keys := _of(SETTINGS, pair):
        yield SETTINGS.doubt(f"differs from the baseline in {some(keys, LISTED)} too", "better", "worse")


def _version(count: int) -> str:
    return f"another version of the data than the baseline's in {count_of(count, 'pair')}"


@DATA.planned(place=205)
def data_to_come(pair: Planned) -> Iterator[Doubt]:
    """Pairs of which one run is done and the other would see other data."""
    count = pair.apart(lambda a, b: a.data is None or b.data is None or a.data == b.data)
    if count and not swept(pair.design) & {"data", "tokenizer"}:
        yield DATA.doubt(f"{_version(count)} {TO_COME}", "all")


@DATA.seen(place=195)
def data_seen(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """Pairs whose runs saw other data, or of which one does not name it."""
    if not swept(study.design) & {"data", "tokenizer"}:
        for arm, count in study.apart("data", same=operator.eq).items():
            yield arm, DATA.doubt(_version(count), "all")
