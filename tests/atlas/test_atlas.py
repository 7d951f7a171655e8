"""The atlas: its sweeps hold every option, a row again has seeds of its own, and its sentences say what rows say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_lab import registry
from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.comparison import Row
from gpt_lab.atlas import atlas_files, collect, studies
from gpt_lab.atlas.answers import Entry, chapter
from gpt_lab.errors import ConfigError
from gpt_lab.frame import exported
from gpt_lab.frame.export import export
from gpt_lab.frame.study import Study
from gpt_lab.stats.interval import Interval
from gpt_lab.study.design import Settings
from tests.report import made


@pytest.mark.parametrize("kind", studies.SWEEPS)
def test_every_option_is_compared_or_left_out_for_a_reason(kind: str) -> None:
    group = studies.group(kind, "shakespeare")
    shipped = {name for name, part in registry.index()[kind].items() if part.module.startswith("gpt_lab.")}
    without = {name for one, name in studies.LEFT_OUT if one == kind}
    assert {*group.options} | without == shipped
    assert not {*group.options} & without
    assert group.sweep.design.looks is not None
    assert (group.sweep.design.looks.first, group.sweep.design.looks.last) == (3, 10)
    assert group.sweep.design.sesoi is not None
    moves_the_rate = kind in ("norm", "residual", "init", "optim", "objective")
    assert (group.sweep.design.nuisance == ("optim.lr",)) is moves_the_rate


def test_another_corpus_is_another_study() -> None:
    names = [studies.group("norm", corpus).sweep.design.study for corpus in studies.CORPORA]
    assert names == ["atlas_norm", "atlas_norm-data-stdlib"]


@pytest.mark.parametrize(("kind", "option"), [("attention", "gla"), ("optim", "muon"), ("norm", "dyt")])
def test_a_row_again_has_fresh_seeds_in_a_study_of_its_own(kind: str, option: str) -> None:
    group, again = studies.group(kind, "stdlib"), studies.group(kind, "stdlib", option=option)
    assert again.options == [group.baseline, option]
    assert again.sweep.design.study != group.sweep.design.study
    seeds = [{*one.sweep.design.values["seed"]} for one in (group, again)]
    assert not seeds[0] & seeds[1]
    assert again.sweep.design.sesoi == group.sweep.design.sesoi
    tuning = [one.sweep.design.tuning_pairs for one in (group, again)]
    assert len(tuning[0]) == len(tuning[1]) == (0 if kind == "attention" else 2)
    assert not {*tuning[0]} & {*tuning[1]}


@pytest.mark.parametrize(
    ("only", "corpora", "said"),
    [
        (["attentoin"], [], "did you mean 'attention'"),
        (["attention=gla2"], [], "gla"),
        (["mlp=none"], [], "no depth or width"),
        (["norm=rmsnorm"], [], "norm"),
        ([], ["shakespear"], "shakespeare"),
    ],
)
def test_what_is_not_there(only: list[str], corpora: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        studies.chosen(only, corpora)


def entry(verdicts: dict[str, str], effects: dict[str, float], **more: Any) -> Entry:
    rows = {
        corpus: Row(
            Settings((("norm", "dyt"),)), verdict, "sequential", 3, 3, 2.0, 0.1,
            Interval(effects[corpus], effects[corpus] - 0.01, effects[corpus] + 0.01, 2.0, 0.01), 0.01, None, {},
        )  # type: ignore[arg-type]
        for corpus, verdict in verdicts.items()
    }  # fmt: skip
    return dataclasses.replace(Entry("norm", "dyt", rows, {}, {}, {}, ""), **more)


def test_the_sentence_of_a_row() -> None:
    both = {"shakespeare": -0.1, "stdlib": -0.2}
    same = entry(dict.fromkeys(both, "better"), both)
    assert (same.reading, same.disagree) == ("Better on both corpora.", False)
    slow = entry(dict.fromkeys(both, "better"), both, speed={"shakespeare": 0.5, "stdlib": 0.5})
    assert slow.reading == "Better on both corpora; at 0.5 times the default's tokens/s."
    apart = entry({"shakespeare": "better", "stdlib": "worse"}, both)
    assert apart.disagree
    assert apart.reading == "The corpora disagree: better on shakespeare and worse on stdlib."
    near = entry({"shakespeare": "worse", "stdlib": "real but small"}, dict.fromkeys(both, 0.06))
    assert not near.disagree
    assert near.reading == "Worse on shakespeare and real but small on stdlib."
    open_ = entry({"shakespeare": "better", "stdlib": "undecided"}, both)
    assert not open_.disagree
    assert open_.reading == "Better on shakespeare and undecided on stdlib."
    rows = entry({"stdlib": "undecided"}, both).rows
    edge = {"stdlib": dataclasses.replace(rows["stdlib"], withheld=True, warnings=("the best rate is on the edge",))}
    assert entry({}, both, rows=edge).reading == (
        "Undecided on stdlib; withheld on stdlib: the best rate is on the edge."
    )
    again = entry(dict.fromkeys(both, "better"), both, again=entry({"stdlib": "better"}, both).rows)
    assert "on fresh seeds of stdlib still better, −0.200 [−0.210, −0.190]" in again.reading
    lost = entry(dict.fromkeys(both, "better"), both, again=entry({"stdlib": "undecided"}, both).rows)
    assert "on fresh seeds of stdlib undecided" in lost.reading
    assert Entry("norm", "dyt", {}, {}, {}, {}, "", "it cannot").reading == "Not run: it cannot."


def test_nothing_run_is_a_row_that_says_so(tmp_path: Path) -> None:
    chapters = collect.from_folder(tmp_path)
    text = atlas_files.markdown(chapters)
    for kind in studies.SWEEPS:
        offered = {name for name, part in registry.index()[kind].items() if part.module.startswith("gpt_lab.")}
        mine = next(one for one in chapters if one.kind == kind)
        assert {entry.option for entry in mine.entries} >= offered - {mine.baseline}
        assert {entry.reading[:7] for entry in mine.entries} == {"Not run"}
    assert "no depth or width brings it near" in text


def study() -> tuple[studies.GroupStudy, Study]:
    """Made-up runs of the sweep over positions: alibi far better, learned far worse, the others alike."""
    group = studies.group("position", "shakespeare")
    shifts = {"alibi": -0.3, "learned": 0.4}
    rows = []
    drawn = np.random.default_rng(0)
    for option in group.options:
        for seed in range(4):
            own = drawn.normal(scale=0.003)
            score = 3.0 + shifts.get(option, 0.001) * (option != "rope") + made.NOISE[seed] + own
            rows.append(made.run(option, seed, score, tokens_per_s=500.0 if option == "cope" else 1000.0))
    return group, Study(group.sweep.design, made.study(rows).runs)


def test_runs_that_a_report_wrote_give_the_same_verdicts(tmp_path: Path) -> None:
    group, before = study()
    export(before, tmp_path)
    after = exported.read(group.sweep, tmp_path)
    assert compare(after) == compare(before)


def test_a_page_of_made_up_runs(tmp_path: Path) -> None:
    _, runs = study()
    place = tmp_path / "shakespeare" / "position"
    place.mkdir(parents=True)
    export(runs, place)
    chapters = collect.from_folder(tmp_path)
    position = next(one for one in chapters if one.kind == "position")
    readings = {entry.option: entry.reading for entry in position.entries}
    assert [position.entries[0].option, position.entries[-1].option] == ["alibi", "learned"]
    assert readings["alibi"] == "Better on shakespeare."
    assert readings["learned"] == "Worse on shakespeare."
    assert readings["cope"] == "As good as the default on shakespeare; at 0.5 times the default's tokens/s."
    html, text = atlas_files.write(chapters, tmp_path / "out")
    page = html.read_text("utf-8")
    assert "<svg" in page
    assert "://" not in page.replace("http://www.w3.org/", ""), "nothing from outside"
    assert "| alibi | −0.300" in text.read_text("utf-8")
    assert (tmp_path / "out" / "figures" / "position.svg").is_file()


def test_a_chapter_without_runs() -> None:
    assert {one.option for one in chapter("init", "normal", ()).entries} >= {"fan_in", "mup", "deepnorm"}
