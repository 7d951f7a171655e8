"""What holds for the source tree as a whole: small files and folders, one name a thing, every part explained."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from gpt_lab import project, registry
from gpt_lab.config import components

ROOT = Path(__file__).parent.parent
LONGEST = 450
MOST = 15
PARTS = [(kind, name) for kind, parts in registry.index().items() for name in parts]
SOURCES = [p for folder in ("gpt_lab", "scripts", "benchmarks", "tests") for p in sorted((ROOT / folder).rglob("*.py"))]


RULES = "validity/rules"
"""One file for each fairness rule, however many there are."""
TWINS = tuple(f"twins/{kind}" for kind in components.KINDS)
NAMED_BY_WHAT_THEY_SHOW = ("cli", "cli/trained", "notebook", "report/figures", RULES, *TWINS)
"""Folders of gpt_lab/ whose files are commands, functions, figures, rules and twins: each bears the name of what it is
of."""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_files_are_small() -> None:
    lines = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {name: count for name, count in lines.items() if count > LONGEST}, "split them by job"


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES} - {ROOT / "gpt_lab" / RULES}), ids=relative)
def test_folders_are_small(folder: Path) -> None:
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST, f"{relative(folder)}/ has {len(modules)} modules: give those of one topic a folder"


def test_no_two_modules_share_a_name() -> None:
    """`base` is what the modules of its folder share."""
    package = ROOT / "gpt_lab"
    places = [path.relative_to(package) for path in sorted(package.rglob("*.py"))]
    names = [
        path.stem
        for path in places
        if path.stem not in ("__init__", "base") and path.parent.as_posix() not in NAMED_BY_WHAT_THEY_SHOW
    ]
    shared = {name for name, count in Counter(names).items() if count > 1}
    assert not shared, [str(path) for path in places if path.stem in shared]


def test_files_say_what_they_are() -> None:
    texts = {relative(path): path.read_text(encoding="utf-8") for path in SOURCES if path.stat().st_size}
    assert not [name for name, text in texts.items() if not text.startswith(('"""', 'r"""'))], "begin with a docstring"


def test_no_path_of_one_machine() -> None:
    found = {
        relative(path): re.findall(r"""["'](/(?:work|root|home|Users)/[^"']*)""", path.read_text(encoding="utf-8"))
        for path in SOURCES
    }
    assert not {name: paths for name, paths in found.items() if paths}


def test_this_checkout_uses_its_own_conf() -> None:
    """An editable install also has a packaged copy, which goes stale: the source tree's comes first."""
    for name in ("conf", "experiments", "sweeps"):
        assert project.folders(name) == [ROOT / name]


@pytest.mark.parametrize("kind, name", PARTS)
def test_every_part_is_explained(kind: str, name: str) -> None:
    """One line of summary; the paper or another reference; each option."""
    part = registry.get(kind, name)
    assert part.summary, "line 1 of the docstring is the summary"
    assert len(part.summary) <= 120, "the summary is one line"
    assert name in ("auto", "none") or components.paper(part.doc), (
        "Paper: Author et al. YEAR, arXiv:NNNN.NNNNN, or Reference: ..."
    )
    unexplained = [key for key in part.options if not components.meaning(part.doc, key)]
    assert not unexplained, f"explain {unexplained} in the docstring of {part.qualname}, as `key: meaning, unit`"


def test_summaries_tell_parts_apart() -> None:
    for kind, parts in registry.index().items():
        summaries = Counter(part.summary for part in parts.values())
        assert [s for s, count in summaries.items() if count > 1] == [], f"two parts of {kind} have the same summary"


@pytest.mark.parametrize("kind", components.PRESETS)
def test_presets_are_explained(kind: str) -> None:
    unexplained = [name for name, entry in components.catalogue(kind)[kind].items() if not entry.summary]
    assert not unexplained, f"begin conf/{kind}/NAME.yaml with a comment that says what it is"


def test_the_wheel_carries_conf_experiments_and_sweeps() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {folder: f"gpt_lab/{folder}" for folder in ("conf", "experiments", "sweeps")}
    for folder in included:
        assert list((ROOT / folder).rglob("*.yaml")), f"{folder}/ must exist in a clone"


def test_scripts_are_declared() -> None:
    """Each file in cli/ and cli/trained/ is a console script, and each script has its file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = {
        path.stem: f"gpt_lab.{place}.{path.stem}:main"
        for place in ("cli", "cli.trained")
        for path in (ROOT / "gpt_lab" / place.replace(".", "/")).glob("[a-z]*.py")
    }
    assert project["project"]["scripts"] == files
