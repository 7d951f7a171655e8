"""What the atlas knows of each option: its verdicts by corpus, its price, the same row on fresh seeds, a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpt_lab import registry
from gpt_lab.analysis import wording
from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.atlas.studies import CORPORA, LEFT_OUT, GroupStudy
from gpt_lab.config import certificates
from gpt_lab.errors import DataError
from gpt_lab.frame import exported, load
from gpt_lab.frame.places import StudyOptions, find
from gpt_lab.frame.study import Study
from gpt_lab.study.place import runs_folder

DECIDED = ("better", "worse", "equivalent", "real but small")


@dataclass(frozen=True)
class Answer:
    """A study of the atlas and its comparison."""

    group: GroupStudy
    study: Study
    comparison: Comparison

    @property
    def rows(self) -> dict[str, Row]:
        """option -> its row, the baseline's among them."""
        return {row.arm.text(self.group.kind): row for row in self.comparison.rows}


@dataclass(frozen=True)
class Entry:
    """One option of the atlas.

    Fields:
        rows: corpus -> its row; a corpus where nothing has finished is left out. again: the same on fresh seeds.
        speed, memory: corpus -> ratio to the baseline of tokens/s and of peak memory, medians over runs.
        why: it has no row: what speaks against one; "" where it only was not run.
    """

    kind: str
    option: str
    rows: Mapping[str, Row]
    again: Mapping[str, Row]
    speed: Mapping[str, float]
    memory: Mapping[str, float]
    certificate: str
    why: str = ""

    @property
    def disagree(self) -> bool:
        """Two corpora decide it differently, and their intervals have nothing in common."""
        decided = [row for row in self.rows.values() if row.verdict in DECIDED and row.delta is not None]
        lows, highs = ([getattr(row.delta, end) for row in decided] for end in ("low", "high"))
        return len({row.verdict for row in decided}) > 1 and max(lows) > min(highs)

    @property
    def reading(self) -> str:
        """One sentence on what its rows say together."""
        return _reading(self)


@dataclass(frozen=True)
class Chapter:
    """A kind of parts: the studies that there are by corpus, and an entry for each option but the baseline."""

    kind: str
    baseline: str
    answers: Mapping[str, Answer]
    entries: tuple[Entry, ...] = field(default_factory=tuple)


def from_runs(group: GroupStudy) -> Answer | None:
    """What the runs of this place say; None where none of the study has finished.

    Raises:
        LabError: runs that cannot be read.
    """
    folder = runs_folder(group.sweep)
    if not folder.is_dir():
        return None
    options = StudyOptions()
    try:
        study = load.read(find([str(folder)], options), options)
    except DataError:
        return None
    return _answer(group, study)


def from_export(group: GroupStudy, results: Path) -> Answer | None:
    """What the runs.csv below a folder of results (CORPUS/KIND) says; None where there is none."""
    folder = results / group.corpus / group.name
    return _answer(group, exported.read(group.sweep, folder)) if (folder / "runs.csv").is_file() else None


def chapter(kind: str, baseline: str, answers: Iterable[Answer]) -> Chapter:
    """A kind's options from what there is of its studies, best first by the mean of their effects."""
    found = [one for one in answers if one.group.kind == kind]
    groups = {one.group.corpus: one for one in found if not one.group.option}
    again = {(one.group.corpus, one.group.option): one for one in found if one.group.option}
    measured = certificates.read()
    names = [name for name in registry.index()[kind] if name != baseline]
    entries = [
        Entry(
            kind,
            name,
            {corpus: row for corpus, one in groups.items() if (row := one.rows.get(name)) is not None and row.n},
            {corpus: row for (corpus, option), one in again.items() if option == name and (row := one.rows[name]).n},
            _ratios(groups, name, "tokens_per_s"),
            _ratios(groups, name, "peak_memory_gb"),
            _certificate(measured.get((kind, name))),
            LEFT_OUT.get((kind, name), ""),
        )
        for name in names
    ]
    ordered = {corpus: groups[corpus] for corpus in CORPORA if corpus in groups}
    return Chapter(kind, baseline, ordered, tuple(sorted(entries, key=_place)))


def _answer(group: GroupStudy, study: Study) -> Answer | None:
    if not (study.runs["state"] == "finished").any():
        return None
    return Answer(group, study, compare(study))


def _place(entry: Entry) -> tuple[bool, float, str]:
    effects = [row.delta.estimate for row in entry.rows.values() if row.delta is not None]
    return not effects, sum(effects) / len(effects) if effects else 0.0, entry.option


def _ratios(groups: Mapping[str, Answer], option: str, cost: str) -> dict[str, float]:
    found = {}
    for corpus, answer in groups.items():
        rows, baseline = answer.rows, answer.group.baseline
        if option in rows and baseline in rows:
            mine, theirs = (rows[name].medians.get(cost, math.nan) for name in (option, baseline))
            if math.isfinite(mine) and theirs > 0:
                found[corpus] = mine / theirs
    return found


def _certificate(certificate: certificates.Certificate | None) -> str:
    if certificate is None or not certificate.parity:
        return ""
    first = certificate.parity[0]
    return f"{first.reference} {first.version}".rstrip() + f", {first.outputs:.0e}"


def _reading(entry: Entry) -> str:
    if not entry.rows:
        if once_more := "; ".join(_once_more(entry)):
            return f"{once_more[0].upper()}{once_more[1:]}."
        return f"Not run: {entry.why}." if entry.why else "Not run."
    verdicts = {corpus: row.verdict for corpus, row in entry.rows.items()}
    kinds = set(verdicts.values())
    if len(kinds) == 1:
        only = next(iter(kinds))
        where = "on both corpora" if len(verdicts) > 1 else f"on {next(iter(verdicts))}"
        first = {
            "better": f"Better {where}",
            "worse": f"Worse {where}",
            "equivalent": f"As good as the default {where}",
            "real but small": f"Differs {where}, perhaps by too little to matter",
            "undecided": f"Undecided {where}",
        }.get(only, f"No data {where}")
    else:
        named = " and ".join(f"{verdict} on {corpus}" for corpus, verdict in verdicts.items())
        first = f"The corpora disagree: {named}" if entry.disagree else named[:1].upper() + named[1:]
    said = [first, *_withheld(entry), *_price(entry), *_once_more(entry)]
    return "; ".join(said) + "."


def _withheld(entry: Entry) -> list[str]:
    """Why a verdict that the numbers would give is not given, by corpus."""
    return [
        f"withheld on {corpus}: {row.warnings[0]}"
        for corpus, row in entry.rows.items()
        if row.withheld and row.warnings
    ]


def _price(entry: Entry) -> list[str]:
    """Its speed, where it is far from the baseline's on every corpus."""
    ratios = list(entry.speed.values())
    if ratios and (max(ratios) < 0.9 or min(ratios) > 1.1):
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        return [f"at {mean:.2g} times the default's tokens/s"]
    return []


def _once_more(entry: Entry) -> list[str]:
    said = []
    for corpus, row in entry.again.items():
        if row.delta is not None:
            before = entry.rows.get(corpus)
            stays = "still " if before is not None and row.verdict == before.verdict else ""
            said.append(f"on fresh seeds of {corpus} {stays}{row.verdict}, {wording.with_interval(row.delta)}")
    return said


def rows_by_verdict(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Verdict -> the entries that have it on every corpus that has a row."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        verdicts = {row.verdict for row in entry.rows.values()}
        if len(verdicts) == 1:
            found.setdefault(verdicts.pop(), []).append(entry)
    return found
