"""The pages say what is true: their tables are the registry's and the files', their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import questions
from gpt_lab.analysis.compare import compare
from gpt_lab.config import auto_scale, components, composition
from gpt_lab.console import terminal
from gpt_lab.report import console
from gpt_lab.report.tables import Report
from gpt_lab.study import cells, sweep_file
from gpt_lab.study.format.layout import BLOCK
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.search import search
from tests.docs.pages import PAGES, ROOT, block, prose, shown_file, text

MOST_LINES = 200
"""Of README."""


def test_the_verdicts_are_what_report_prints_of_the_committed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    study = questions.read("pos_enc", questions.REPORTS / "pos_enc")
    monkeypatch.setattr(type(study), "curves", lambda self, runs: {})  # of these runs only the final values are kept
    report = Report(compare(study), study)
    printed = [line.rstrip() for line in terminal.plain(lambda screen: console.show(report, screen))]
    verdicts = block("verdicts").splitlines()[1:-1]
    assert len(verdicts) > 8 and printed[: len(verdicts)] == verdicts


def test_the_laws_are_what_train_prints() -> None:
    cfg = composition.compose(["scale=auto", "scale.depth=4"])
    printed = terminal.plain(lambda screen: auto_scale.show(cfg, screen), 80)
    assert block("laws").splitlines() == ["```console", *printed, "```"]


def test_readme_is_short() -> None:
    assert len(text("README.md").splitlines()) < MOST_LINES


def test_readme_links_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)\)", text("README.md")))
    assert {page for page in PAGES if page.startswith("docs/")} <= linked


def test_the_verdicts_of_readme_are_the_report_s() -> None:
    """README shows the head of the session that the quick start has whole."""
    verdicts = block("verdicts").removeprefix("```console\n").removesuffix("```\n")
    assert verdicts in block("report") and " better " in verdicts


def test_the_list_of_questions() -> None:
    """The table is what the sweep files ask and, once they have all been run, what came out."""
    between = questions.BLOCK.search(questions.PAGE.read_text(encoding="utf-8"))
    assert between is not None
    assert between[0] == questions.table(questions.committed().get("questions", {}))


def test_the_keys_of_a_sweep_file() -> None:
    """The page names every key of the `gpt_lab:` block, and no other."""
    table = text("docs/sweep-files.md").partition("| key under `gpt_lab:` |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:]))
    assert sorted(named) == sorted(BLOCK)


def sweep_of_one_s_own(name: str, folder: Path) -> Sweep:
    """A sweep file that a page shows, read."""
    path = folder / name
    path.write_text(shown_file(f"sweeps/{name}"), encoding="utf-8")
    return sweep_file.load(path)


def test_the_sweep_file_of_one_s_own(tmp_path: Path) -> None:
    found = cells.cells(sweep_of_one_s_own("my_question.yaml", tmp_path))
    assert len(found) == 2 * 2 * 5
    assert {str(cell.arm) for cell in found} == {
        f"mlp={m}, position={p}" for m in ("gelu", "swiglu") for p in ("rope", "alibi")
    }


def test_the_sweep_file_that_tunes(tmp_path: Path) -> None:
    found = search.Search(sweep_of_one_s_own("tuned_question.yaml", tmp_path))
    assert found.tuner is not None and found.most == 2 * 3 * (5 + 4) + 2 * 5
    assert [arm.ladders[0].start for arm in found.tuner.arms] == [0.004, 0.008], "AdamW's is its config's"


def test_architecture_names_every_folder() -> None:
    packages = {path.parent.relative_to(ROOT / "gpt_lab").as_posix() for path in ROOT.glob("gpt_lab/*/**/__init__.py")}
    tree = re.findall(r"^```\n(gpt_lab/\n.*?)^```", text("docs/architecture.md"), re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"^  ([\w/]+)/ ", tree[0], re.MULTILINE))
    assert named == packages


def test_architecture_s_folders_are_in_the_order_of_imports() -> None:
    from tests.test_imports import ABOVE

    tree = re.findall(r"^```\n(gpt_lab/\n.*?)^```", text("docs/architecture.md"), re.DOTALL | re.MULTILINE)[0]
    folders = [name.replace("/", ".") for name in re.findall(r"^  ([\w/]+)/ ", tree, re.MULTILINE)]
    places = {name: place for place, name in enumerate(ABOVE)}
    assert [name for name in folders if name in places] == [name for name in ABOVE if name in folders]


def test_the_glossary_is_in_order() -> None:
    words = re.findall(r"^\| (?!word|-)([^|]+?) \|", text("docs/glossary.md"), re.MULTILINE)
    assert len(words) > 50
    assert words == sorted(set(words), key=str.lower)


@pytest.mark.parametrize("page", PAGES)
def test_settings_exist(page: str) -> None:
    """Every `kind=name` and `section.key` that a page mentions in running text is one that the lab has."""
    for kind, name in re.findall(r"`(\w+)=([\w.]+)`", prose(page)):
        if kind in components.KINDS:
            assert name in components.catalogue(kind)[kind], f"{kind}={name}"
    tree = composition.compose([]).flat()
    for key in re.findall(r"`((?:batch|budget|eval|checkpoint|log|sample|scale|model)\.\w+)`", prose(page)):
        assert key in tree, key


@pytest.mark.parametrize("page", PAGES)
def test_local_links(page: str) -> None:
    folder = (ROOT / page).parent
    for target, place in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", text(page)):
        path = (folder / target).resolve() if target else ROOT / page
        assert path.exists(), target
        assert not place or place in anchors(path), f"{target}#{place}"
    assert all(len(line) <= (800 if line.startswith("|") else 400) for line in text(page).splitlines())


def anchors(path: Path) -> set[str]:
    """The places of a Markdown file that GitHub gives its headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_results_name_no_folder_of_the_machine_they_come_from() -> None:
    home = re.compile(r"(?<![\w/.:-])/(?:home|work|root|tmp|Users|mnt)/\w")
    files = [path for folder in ("sweeps", "docs", "benchmarks/results") for path in (ROOT / folder).rglob("*.*")]
    texts = [path for path in files if path.suffix in (".md", ".html", ".csv", ".json", ".yaml", ".svg")]
    assert len(texts) > 100
    assert not [str(path.relative_to(ROOT)) for path in texts if home.search(path.read_text(encoding="utf-8"))]
