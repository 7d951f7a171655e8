"""The studies of an atlas brought together: from the runs of this place, and from those that a folder keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpt_lab.atlas import studies
from gpt_lab.atlas.answers import Answer, Chapter, chapter, from_export, from_runs
from gpt_lab.frame.export import table, write_csv
from gpt_lab.store.atomic_files import writing


def from_place(folder: Path, settings: Sequence[str] = (), also: Sequence[studies.GroupStudy] = ()) -> list[Chapter]:
    """Every kind's chapter; runs of this place come first, and the folder keeps them from now on.

    Args:
        folder: keeps the runs of each study as CORPUS/NAME/runs.csv. settings: of all studies, as in `studies.group`.
        also: studies that are wanted beside the groups: rows on fresh seeds.

    Raises:
        LabError: runs that cannot be read, or a folder that cannot be written.
    """
    found = []
    for group in _wanted(folder, settings, also):
        answer = from_runs(group)
        if answer is None:
            answer = from_export(group, folder)
        else:
            _keep(answer, folder)
        found.append(answer)
    return _chapters(found, settings)


def from_folder(folder: Path) -> list[Chapter]:
    """Every kind's chapter from the runs that a folder keeps, those of the sweeps as they stand in their files."""
    return _chapters([from_export(group, folder) for group in _wanted(folder, (), ())], ())


def _chapters(found: Sequence[Answer | None], settings: Sequence[str]) -> list[Chapter]:
    answers = [answer for answer in found if answer is not None]
    groups = studies.chosen((), studies.CORPORA[:1], settings)
    return [chapter(group.kind, group.baseline, answers) for group in groups]


def _wanted(folder: Path, settings: Sequence[str], also: Sequence[studies.GroupStudy]) -> list[studies.GroupStudy]:
    """The groups, the rows on fresh seeds that the folder keeps, and what else is asked for; each once."""
    again = []
    for corpus in studies.CORPORA:
        for path in sorted((folder / corpus).glob("*-*/runs.csv")):
            kind, _, option = path.parent.name.partition("-")
            again.append(studies.group(kind, corpus, settings, option))
    every = (*studies.chosen((), (), settings), *again, *also)
    return list({(one.corpus, one.name): one for one in every}.values())


def _keep(answer: Answer, folder: Path) -> None:
    place = folder / answer.group.corpus / answer.group.name
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    write_csv(table(answer.study), place)
