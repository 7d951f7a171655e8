"""Sample texts of the arms side by side: the same prompt and seed, the last that each run wrote."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from gpt_lab.report.figures.material import Material
from gpt_lab.study.design import Settings

MOST_SHEETS = 3
"""Pairs that are shown, the first of them open."""
LONGEST = 1500
"""Signs of a text that are shown."""
SETTINGS = ("config.sample.prompt", "config.sample.tokens", "config.sample.temperature")


@dataclass(frozen=True)
class SampleText:
    """What one arm wrote.

    Fields:
        name: of the arm. note: the step.
        prompt: what all texts of the sheet begin with. continuation: the rest.
    """

    name: str
    note: str
    prompt: str
    continuation: str


@dataclass(frozen=True)
class Sheet:
    """The texts of one pair, in the order of the arms; `said` is how to read them."""

    title: str
    said: str
    texts: tuple[SampleText, ...]


def sheets(material: Material) -> list[Sheet]:
    """A sheet for each of the first pairs that most arms have texts of; none where runs keep no texts."""
    by_arm = {row.arm: material.runs_of(row) for row in material.shown()}
    pairs = list(dict.fromkeys(str(pair) for runs in by_arm.values() for pair in runs.index))
    pairs.sort(key=lambda pair: -sum(pair in runs.index for runs in by_arm.values()))
    found = []
    for pair in pairs[:MOST_SHEETS]:
        runs = {arm: str(own[pair]) for arm, own in by_arm.items() if pair in own.index}
        texts = material.study.samples(list(runs.values()))
        runs = {arm: run for arm, run in runs.items() if run in texts}
        if runs:
            found.append(_sheet(pair, runs, texts, material))
    return found


def _sheet(pair: str, runs: Mapping[Settings, str], texts: Mapping[str, tuple[int, str]], material: Material) -> Sheet:
    start = _prompt(runs, texts, material)
    columns = tuple(
        SampleText(material.names[arm] or "all runs", f"step {step:,}", start, _cut(text[len(start) :]))
        for arm, run in runs.items()
        for step, text in (texts[run],)
    )
    return Sheet(f"{material.design.pair} {pair}", _said(runs, start, material), columns)


def _prompt(runs: Mapping[Settings, str], texts: Mapping[str, tuple[int, str]], material: Material) -> str:
    """The prompt that all runs were given, else what all texts begin with; empty where there are none."""
    given = {str(prompt) for prompt in _values("config.sample.prompt", runs, material) if isinstance(prompt, str)}
    every = [texts[run][1] for run in runs.values()]
    if len(given) == 1 and all(text.startswith(min(given)) for text in every):
        return min(given)
    if len(every) < 2:
        return ""
    same = itertools.takewhile(lambda signs: len(set(signs)) == 1, zip(*every, strict=False))
    return "".join(signs[0] for signs in same)


def _values(column: str, runs: Mapping[Settings, str], material: Material) -> list[object]:
    table = material.study.runs
    if column not in table:
        return []
    own = table[table["run"].isin(list(runs.values()))]
    return list(own[column])


def _said(runs: Mapping[Settings, str], start: str, material: Material) -> str:
    said = "The last text of each arm's run; bold, what all of them begin with."
    if not start:
        said = "The last text of each arm's run."
    differ = [
        column.rpartition(".")[2] for column in SETTINGS if len(set(map(str, _values(column, runs, material)))) > 1
    ]
    if differ:
        said += f" They were not drawn alike: {' and '.join(differ)} of samples differ."
    return said + material.cut(material.shown()).replace("drawn", "shown") + " A text shows style; the table decides."


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
