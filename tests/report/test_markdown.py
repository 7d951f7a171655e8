"""report.md: the terminal's content and more, as text that no run can turn into markup."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gpt_lab.analysis import wording
from gpt_lab.report import facts
from gpt_lab.report.facts import MOST_COMMANDS, MOST_LOST
from gpt_lab.report.figures import Figure
from gpt_lab.report.markdown import markdown
from gpt_lab.report.tables import Report
from gpt_lab.study import sweep_file
from gpt_lab.study.sweep import Sweep
from tests.report import fabricated
from tests.report.test_console import EVERY

ORDER = ("learned", "rope", "alibi", "sinusoidal", "none")


def tables(text: str) -> list[list[str]]:
    """Each table's lines."""
    found: list[list[str]] = []
    for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            found[-1].append(line)
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("name", EVERY)
def test_whole_and_well_formed(name: str) -> None:
    comparison, study = getattr(fabricated, name)()
    text = markdown(Report(comparison, study), [], command="uv run report x")
    assert text.startswith("# ") and text.endswith("\n") and not text.endswith("\n\n")
    for table in tables(text):
        assert len({len(cells(line)) for line in table}) == 1
        assert set(cells(table[1])) <= {"---", "---:"}
    answers = tables(text)[0]
    assert len(answers) == 2 + len(comparison.rows)
    for row, line in zip(comparison.rows, answers[2:], strict=True):
        assert wording.verdict(row) in cells(line)
        if row.delta is not None:
            assert wording.with_interval(row.delta) in cells(line)


def test_every_remark_and_every_lost_run_is_there() -> None:
    comparison, study = fabricated.ugly()
    text = markdown(Report(comparison, study), []).replace("\\", "")
    for line in (*facts.remarks(comparison, study), *map(str, facts.lost(study))):
        assert line in text
    assert "4 missing" in text and "## Not finished" in text
    plain = markdown(Report(*fabricated.plain()), [])
    assert "## Not finished" not in plain and "not finished" not in plain


def test_text_of_runs_is_no_markup() -> None:
    comparison, study = fabricated.ugly()
    study.notes.append("a|b *c* [d](http://e)\n# f R&D &amp; &#60; $g$")
    text = markdown(Report(comparison, study), [])
    assert "<script>" not in text and "\\<script\\>" in text
    assert "- a|b \\*c\\* \\[d\\](http://e) # f R&D \\&amp; \\&#60; \\$g\\$" in text
    study.runs["config.position.name"] = ["x|y"] * 12 + ["z"] * 12
    assert "x\\|y" in markdown(Report(comparison, study), [])


def test_figures_are_linked_relatively(tmp_path: Path) -> None:
    comparison, study = fabricated.plain()
    folder = tmp_path / "figures"
    figure = Figure("forest", "Forest [plot]", "What *it* shows", folder / "forest.svg", folder / "forest.png")
    text = markdown(Report(comparison, study), [figure])
    assert "![Forest \\[plot\\]](figures/forest.svg)\n\nWhat \\*it\\* shows" in text
    assert str(tmp_path) not in text


def test_how_to_repeat_a_sweep() -> None:
    comparison, study = fabricated.plain()
    stated = sweep_file.load("sweeps/pos_enc.yaml").design
    sweep = Sweep(Path("sweeps/pos_enc.yaml"), stated, overrides=("scale=nano", "data.path=a b"))
    study.sweep = replace(sweep, design=replace(stated, values={**stated.values, "seed": (0, 1)}))
    assert "'data.path=a b' --seeds 2\n" in markdown(Report(comparison, study), [])
    study.sweep = sweep
    text = markdown(Report(comparison, study), [], "uv run report sweeps/pos_enc.yaml --sesoi 0.01")
    assert text.endswith(
        "```sh\nuv run sweep sweeps/pos_enc.yaml scale=nano 'data.path=a b'\n"
        "uv run report sweeps/pos_enc.yaml --sesoi 0.01\n```\n"
    )


def test_how_to_repeat_single_runs() -> None:
    comparison, study = fabricated.plain()
    study.runs["env.command"] = [None, *(f"train seed={i // 2}" for i in range(14))]
    text = markdown(Report(comparison, study), [], command="uv run report x")
    commands = text[text.rindex("```sh") :].splitlines()[1:-1]
    assert commands == [*(f"uv run train seed={i}" for i in range(7)), "uv run report x"]
    big = fabricated.study({f"position=p{i}": 0.0 for i in range(30)}, seeds=1)
    big.runs["env.command"] = [f"train seed={i} '```'" for i in range(30)]
    text = markdown(Report(replace(comparison, rows=()), big), [], command="uv run report x")
    assert f"# and {30 - MOST_COMMANDS} more: column env.command of runs.csv" in text
    assert text.endswith("\nuv run report x\n````\n")  # a longer fence than the text's own


def test_where_the_runs_ran() -> None:
    comparison, study = fabricated.plain()
    study.runs["env.commit"] = ["a" * 40] * 15
    study.runs["env.cpu"] = ["one"] * 10 + ["two"] * 5
    text = markdown(Report(comparison, study), [])
    assert f"| commit | {'a' * 40} | all |" in text
    assert "| cpu | one | 10 |\n| cpu | two | 5 |" in text
    assert "runs differ in CPU: one (10 runs), two (5 runs)" in text


def test_settings_of_each_arm() -> None:
    """The longer side downwards, and nothing escaped twice."""
    comparison, study = fabricated.plain()
    (table,) = [table for table in tables(markdown(Report(comparison, study), [])) if "position.name" in table[0]]
    assert cells(table[0]) == ["arm", "position.name"]
    assert [cells(line)[0] for line in table[2:]] == [f"position={name}" for name in ORDER]
    for number in range(6):
        study.runs[f"config.norm.x{number}"] = [f"a_{arm}" for arm in study.runs["arm"]]
    (table,) = [table for table in tables(markdown(Report(comparison, study), [])) if "setting" in table[0]]
    assert cells(table[0])[1:] == [f"position={name}" for name in ORDER]
    assert cells(table[2]) == ["`position.name`", *ORDER]
    assert cells(table[3])[1] == "a\\_position=learned"


def test_thousands_of_lost_runs() -> None:
    effects = {f"position=p{i}": 0.0 for i in range(MOST_LOST + 3)}
    states = {(arm, s): "missing" for arm in effects for s in range(2)}
    made = fabricated.study(effects, seeds=2, design=fabricated.pos_enc(baseline=None), states=states)
    text = markdown(Report(fabricated.comparison(made), made), [])
    assert text.count("- missing: ") == MOST_LOST
    assert "- and 6 more runs that are not finished: runs.csv names them" in text
