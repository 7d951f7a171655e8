"""Trunk and branch: what cells share, who waits for whom, and the same numbers as straight runs whatever happens."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt_lab import registry
from gpt_lab.config.composition import compose
from gpt_lab.errors import ConfigError
from gpt_lab.store import fork
from gpt_lab.store.atomic_files import read_json
from gpt_lab.study import cells, sweep_file
from gpt_lab.study.design import Cell, Settings
from gpt_lab.study.format import trunk_block
from gpt_lab.sweep import runner
from gpt_lab.sweep.ledger.entry import LedgerEntry
from gpt_lab.sweep.ledger.ledger import entries
from gpt_lab.sweep.search import trunk
from gpt_lab.sweep.search.trunk import Branch, Length, Trunks
from gpt_lab.train.budget import TrainingLimit
from tests.sweep.sweep_helpers import curves, quiet, said, write_sweep

WSD = {"schedule": "wsd", "schedule.warmup": 4}
BUDGETS = {"budget.steps": [16, 24, 40], "seed": [0, 1]}
BLOCK = {"trunk": True}


def write(folder: Path, swept: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A sweep file of tiny wsd runs over three budgets that share a trunk."""
    folder.mkdir(exist_ok=True)
    block = settings.pop("gpt_lab", BLOCK)
    return write_sweep(folder, swept or BUDGETS, fixed={**WSD, **settings}, **({"gpt_lab": block} if block else {}))


def cell(index: int, *overrides: str) -> Cell:
    return Cell(index, {}, Settings(), Settings(), 0, overrides, f"{index:012x}", f"{index:012x}")


def found(*budgets: int, schedule: tuple[str, ...] = ("schedule=wsd", "schedule.warmup=4"), **resolved: str) -> Trunks:
    """What runs of these steps share, one FLOP a step."""
    made = [compose([*schedule, f"budget.steps={steps}"]) for steps in budgets]
    given = {"compile": "off", **resolved}
    return trunk.find([cell(i) for i in range(len(made))], made, [Length(n, float(n), given) for n in budgets])


# -- what is shared --


@pytest.mark.parametrize("shape", ["sqrt", "linear"])
@pytest.mark.parametrize(("steps", "cooldown", "expected"), [(16, 0.2, 13), (100, 0.2, 80), (40, 0.5, 20), (40, 0, 40)])
def test_the_fork_is_where_the_cooldown_begins(shape: str, steps: int, cooldown: float, expected: int) -> None:
    settings = {"name": "wsd", "warmup": 4, "cooldown": float(cooldown), "shape": shape}
    found = trunk.shared_steps(settings, steps, 200)
    schedule = registry.build("schedule", settings)
    # as the trainer does it: the first step whose factor is not the peak's
    factors = [schedule(TrainingLimit(steps, None).progress(t, 0.0), t) for t in range(steps)]
    assert found == next((t for t in range(4, steps) if factors[t] < 1), steps)
    assert found == expected


def test_what_is_saved() -> None:
    """100, 200 and 400 steps with a cooldown of 20 %: 400 + 20 + 40 of 700, but for the odd step."""
    trunks = found(100, 200, 400)
    assert {b.key[-1]: (b.trunk[-1], b.step) for b in trunks.branches.values()} == {"0": ("2", 80), "1": ("2", 160)}
    assert trunks.spent == pytest.approx((400 + 20 + 40) / 700)
    assert trunk.saved(5, 0.42) == "5 runs for the cost of 2.1 (58% of the training FLOPs saved)"
    assert trunks.forks(f"{2:012x}") == [80, 160]
    assert trunks.share(f"{0:012x}") == pytest.approx(0.2)
    assert trunks.share(f"{2:012x}") == 1.0


def test_what_cannot_share(tmp_path: Path) -> None:
    assert "state it in steps (schedule.warmup=25)" in found(100, 200, schedule=("schedule=wsd",)).alone[0]
    assert "schedule=cosine depends on the budget" in found(100, 200, schedule=("schedule=cosine",)).alone[0]
    wsd = ("schedule=wsd", "schedule.warmup=4", "optim=ademamix")
    assert found(100, 200, schedule=wsd).alone == ("optim.rise=1 is a share of each budget, so no two begin alike",)
    assert found(100, 200, schedule=(*wsd, "optim.rise=0.0")).branches
    made = [compose(["schedule=wsd", "schedule.warmup=4", f"budget.steps={steps}"]) for steps in (100, 900)]
    pair = [cell(0), cell(1)]
    differ = trunk.find(pair, made, [Length(100, 1.0, {"compile": "off"}), Length(900, 9.0, {"compile": "on"})])
    assert differ.alone == ("compile is off for 100 steps and on for 900: state it",)
    seconds = trunk.find(pair, made, [Length(None, 0.0, {}), Length(None, 0.0, {})])
    assert "budget in seconds" in seconds.alone[0]
    one_more = [made[0], dataclasses.replace(made[1], seed=1)]
    assert trunk.find(pair, one_more, [Length(100, 1.0, {}), Length(900, 9.0, {})]) == Trunks(
        flops={pair[0].key: 1.0, pair[1].key: 9.0}
    )
    sweep = sweep_file.load(write(tmp_path))
    with pytest.raises(ConfigError, match=r"tiny.yaml: gpt_lab.trunk: no two cells differ in the budget alone"):
        trunk.required(sweep, Trunks())
    with pytest.raises(ConfigError, match="schedule=cosine depends on the budget from the first step on"):
        trunk.required(sweep, found(100, 200, schedule=("schedule=cosine",)))


@pytest.mark.parametrize(
    ("block", "swept", "said"),
    [
        ({"trunk": "yes please"}, ["budget.steps"], "gpt_lab.trunk must be true or false, not 'yes please'"),
        ({"trunk": True}, ["optim"], "needs several budgets: sweep budget.steps or budget.tokens"),
        ({"trunk": True}, ["budget.seconds"], "a budget in seconds cannot share a trunk"),
        ({"trunk": True, "tune": {}}, ["budget.steps"], "gpt_lab.tune asks for them one by one"),
    ],
)
def test_files_that_no_trunk_suits(block: dict[str, Any], swept: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        trunk_block.check(block, swept)
    trunk_block.check({"trunk": False}, ["optim"])
    trunk_block.check({}, ["budget.seconds"])


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tiny.yaml: gpt_lab.trunk must be true or false, not 3"):
        sweep_file.load(write(tmp_path, gpt_lab={"trunk": 3}))
    path = write(tmp_path)
    path.write_text(path.read_text().replace("method: grid", "method: random\nrun_cap: 2"))
    with pytest.raises(ConfigError, match="gpt_lab.trunk is for method: grid, not for random"):
        sweep_file.load(path)


# -- who waits for whom --


def entry(index: int, state: str, run: str | None = None) -> LedgerEntry:
    one = dataclasses.asdict(cell(index))
    return LedgerEntry(**one, state=state, run=run, attempts=0, error=None, wanted=True, score=None, seconds=None)  # type: ignore[arg-type]


def test_a_branch_waits_while_its_trunk_may_come_to_the_fork(tmp_path: Path) -> None:
    short, long = f"{0:012x}", f"{1:012x}"
    trunks = Trunks({short: Branch(short, long, 13, 0.8)})
    for state in ("waiting", "running"):
        for run in (None, "trunk"):
            assert trunks.waiting([entry(0, "waiting"), entry(1, state, run)], tmp_path) == {short}
    for state in ("failed", "diverged", "pruned", "stopped", "finished"):
        assert not trunks.waiting([entry(0, "waiting"), entry(1, state, "trunk")], tmp_path), "it trains by itself"
    assert not trunks.waiting([entry(0, "waiting", "begun"), entry(1, "running")], tmp_path), "it has begun by itself"
    assert not trunks.waiting([entry(0, "waiting")], tmp_path), "its trunk is not asked for any more"
    point = fork.fork_point(tmp_path / "trunk", 13)
    point.mkdir(parents=True)
    (point / fork.FACTS).write_text("{}")
    there = [entry(0, "waiting"), entry(1, "running", "trunk")]
    assert not trunks.waiting(there, tmp_path)
    assert trunks.settings(short, there, tmp_path) == {"trunk": str(point), "forks": []}
    assert trunks.settings(long, there, tmp_path) == {"trunk": None, "forks": [13]}
    trunks.clear(there, tmp_path)
    assert point.exists(), "nobody has taken it yet"
    trunks.clear([entry(0, "running", "branch"), entry(1, "running", "trunk")], tmp_path)
    assert not point.exists()


# -- real runs --


def run(path: Path, jobs: int = 2, **settings: Any) -> tuple[int, str]:
    console = quiet()
    return runner.run_sweep(sweep_file.load(path), console, jobs=jobs, **settings), said(console)


def forked(folder: Path) -> dict[int, int]:
    """Steps of each forked run's fork, by its own steps; equal for all seeds."""
    records = [read_json(path) for path in folder.glob("*/run.json")]
    return {record["steps"]: record["forked"]["step"] for record in records if "forked" in record}


@pytest.mark.slow
@pytest.mark.usefixtures("one_server")
def test_the_same_numbers_as_straight_runs(tmp_path: Path) -> None:
    budgets = {"budget.steps": [16, 24, 40], "optim": ["adamw", "muon"]}
    code, text = run(write(tmp_path / "straight", budgets, gpt_lab=None))
    assert code == 0
    assert "trunk" not in text
    straight = tmp_path / "straight" / "runs" / "tiny"
    assert forked(straight) == {}
    path = write(tmp_path / "forked", budgets)
    code, text = run(path)
    assert code == 0, text
    assert "trunk and branch: 6 runs for the cost of 3.6 (40% of the training FLOPs saved)" in text
    folder = tmp_path / "forked" / "runs" / "tiny"
    assert curves(folder) == curves(straight)
    assert forked(folder) == {16: 13, 24: 19}, "a float short of 20"
    assert "did not begin" not in text
    assert not list(folder.glob("*/forks/*")), "fork points are gone when all have taken them"
    code, text = run(path)
    assert "already done" in text

    from gpt_lab.analysis.compare import compare
    from gpt_lab.analysis.sections import every
    from gpt_lab.frame import load
    from gpt_lab.frame.places import StudyOptions

    study = load.load([str(folder)], StudyOptions())
    (found,) = [s for s in every.sections(compare(study), study) if s.title == "Trunk and branch"]
    assert "6 runs for the cost of 3.6 (40% of the training FLOPs saved)" in found.sentences[0]
    assert found.sentences[1].startswith("4 of them were forked")
    study = load.load([str(straight)], StudyOptions())
    assert not [s for s in every.sections(compare(study), study) if s.title == "Trunk and branch"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_server")
def test_without_a_trunk_branches_are_trained_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk that fails for good, one whose run is of another code version, and one that diverges before the fork."""
    path = write(tmp_path / "a", {"budget.steps": [16, 40]})
    folder = tmp_path / "a" / "runs" / "tiny"
    settings = trunk.Trunks.settings

    def refused(self: Trunks, key: str, known: Any, at: Path) -> dict[str, Any]:
        told = settings(self, key, known, at)
        return {**told, "forks": None} if told["forks"] else told

    with monkeypatch.context() as inner:
        inner.setattr(trunk.Trunks, "settings", refused)
        code, _ = run(path, retries=0)
    assert code == 1
    assert {e.values["budget.steps"]: e.state for e in entries(folder)} == {16: "finished", 40: "failed"}
    assert forked(folder) == {}
    code, _ = run(path)
    assert code == 0, "the trunk is tried again, and nobody waits for it any more"

    path = write(tmp_path / "b", {"budget.steps": [16, 40]}, **{"optim.lr": 1e9, "optim.clip": 1e9})
    run(path)
    folder = tmp_path / "b" / "runs" / "tiny"
    ended = {e.values["budget.steps"]: read_json(folder / str(e.run) / "run.json") for e in entries(folder)}
    assert {record["state"] for record in ended.values()} == {"diverged"}
    steps = {budget: record["summary"]["diverged/step"] for budget, record in ended.items()}
    assert steps[16] == steps[40] <= 13, "both at the same step"


@pytest.mark.slow
@pytest.mark.usefixtures("one_server")
def test_a_run_that_is_removed_is_trained_again(tmp_path: Path) -> None:
    path = write(tmp_path, {"budget.steps": [16, 40]})
    folder = tmp_path / "runs" / "tiny"
    run(path)
    whole = curves(folder)
    lost = {e.values["budget.steps"]: folder / str(e.run) for e in entries(folder)}
    shutil.rmtree(lost[16])
    code, text = run(path)
    assert code == 0
    assert curves(folder) == whole
    assert forked(folder) == {}, "its trunk had ended, and its fork point was gone"
    assert "1 of 1 branches did not begin at a fork point" in text


# -- what the dry run says --


def test_the_dry_run_says_what_is_saved_or_could_be(tmp_path: Path) -> None:
    def shown(block: dict[str, Any] | None, **settings: Any) -> str:
        console = quiet()
        runner.dry_run(sweep_file.load(write(tmp_path, gpt_lab=block, **settings)), console, jobs=1)
        return said(console)

    cost = "6 runs for the cost of 3.6 (40% of the training FLOPs saved)"
    assert f"trunk and branch: {cost}" in shown(BLOCK)
    assert f"gpt_lab: {{trunk: true}} would train {cost}, with the same results" in shown(None)
    assert "could share a trunk: schedule.warmup=0.05 is a share" in shown(None, **{"schedule.warmup": 0.05})
    assert "trunk" not in shown(None, schedule="cosine", **{"schedule.warmup": 0.05})
    with pytest.raises(ConfigError, match="state it in steps"):
        shown(BLOCK, **{"schedule.warmup": 0.05})
    both = {"budget.steps": [16, 40], "schedule": ["wsd", "constant"]}
    console = quiet()
    runner.dry_run(sweep_file.load(write(tmp_path, both)), console, jobs=1)
    assert "4 runs for the cost of" in said(console)


def test_some_arms_may_share_and_others_not(tmp_path: Path) -> None:
    """wsd has a trunk; cosine, which has a schedule of its own for each budget, is named and trained from the start."""
    sweep = sweep_file.load(write(tmp_path))
    made = [
        compose([*words, f"budget.steps={steps}"])
        for words in (["schedule=wsd", "schedule.warmup=4"], ["schedule=cosine"])
        for steps in (16, 40)
    ]
    both = trunk.find([cell(i) for i in range(4)], made, [Length(n, float(n), {}) for n in (16, 40, 16, 40)])
    assert len(both.branches) == 1
    assert trunk.required(sweep, both) is both
    assert any("trained from the start: schedule=cosine depends" in line for line in trunk.lines(sweep, both))


def test_cells_are_the_same_with_and_without(tmp_path: Path) -> None:
    keys = [
        [(c.key, c.identity) for c in cells.cells(sweep_file.load(write(tmp_path, gpt_lab=block)))]
        for block in (BLOCK, None)
    ]
    assert keys[0] == keys[1]
