"""A run that is forked from a longer one is the run that was trained from the start, bit for bit."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.store import Run, fork
from gpt_lab.train import checkpoint, claim_run, start, trainer
from gpt_lab.train.precision import cpu_native_bf16
from tests.helpers import flip
from tests.train.train_helpers import (
    CLOCKED,
    assert_mirrored,
    assert_same,
    mirrored,
    quiet,
    said,
    train,
    weights,
)

Make = Callable[..., RunConfig]
WSD = {"name": "wsd", "warmup": 4, "cooldown": 0.25}
LONG, FORKS = 40, {20: 15, 28: 21}
"""Steps of the trunk; of the others, with the first step of each one's cooldown."""
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw, sqrt": {},
    "muon, linear, bf16, dropout, sparse log": {
        "optim": "muon",
        "schedule": {**WSD, "shape": "linear"},
        "precision": "bf16" if cpu_native_bf16() else "fp32",
        "model.dropout": 0.2,
        "log.every": 4,
        "checkpoint.keep": 3,
    },
    "tokens, no evaluation before the fork": {"budget": "tokens", "eval.every": 24},
}


class Dead(BaseException):
    """As if the process had died."""


def run(cfg: RunConfig, trunk: Path | None = None, forks: tuple[int, ...] = ()) -> trainer.Result:
    return start.run_training(cfg, quiet(), "train", trunk=trunk, forks=forks)


def make_all(make: Make, study: str, **settings: Any) -> dict[int, RunConfig]:
    """The configs of the trunk and of its branches."""
    kind = settings.pop("budget", "steps")
    factor = 64 if kind == "tokens" else 1
    settings = {"schedule": WSD, "eval.every": 6, **settings, "study": study}
    return {n: make(**settings, **{f"budget.{kind}": n * factor}) for n in (LONG, *FORKS)}


def assert_identical(mine: Path, straight: Path) -> None:
    """Everything but times, names and the word of the fork."""
    assert_same(mine, straight)
    one, other = Run.open(mine), Run.open(straight)
    for key in ("signature", "steps", "resolved", "state"):
        assert one.record[key] == other.record[key], key
    assert one.config == {**other.config, "study": one.config["study"]}
    ours, theirs = ({k: v for k, v in r.summary.items() if k not in CLOCKED} for r in (one, other))
    assert ours == theirs
    names = [sorted(p.name for p in (path / "checkpoints").iterdir()) for path in (mine, straight)]
    assert names[0] == names[1]
    for name in ("best", "last"):
        if name in names[0]:
            states = [checkpoint.read_state(path / "checkpoints" / name) for path in (mine, straight)]
            assert states[0]["step"] == states[1]["step"]
            assert {k: v.sum() for k, v in weights(mine, name).items()} == {
                k: v.sum() for k, v in weights(straight, name).items()
            }


@pytest.mark.parametrize("name", VARIANTS)
def test_a_branch_is_the_straight_run(make: Make, name: str) -> None:
    straight = {n: run(cfg).path for n, cfg in make_all(make, "straight", **VARIANTS[name]).items()}
    forked = make_all(make, "forked", **VARIANTS[name])
    trunk = run(forked[LONG], forks=tuple(FORKS.values())).path
    assert_identical(trunk, straight[LONG])
    for steps, at in FORKS.items():
        point = fork.fork_point(trunk, at)
        before = {path: path.read_bytes() for path in point.rglob("*") if path.is_file()}
        result = run(forked[steps], trunk=point)
        assert_identical(result.path, straight[steps])
        record = Run.open(result.path).record
        assert record["forked"]["run"] == trunk.name
        assert record["forked"]["step"] == at
        assert 0 < record["forked"]["seconds"] < result.summary["seconds"], "the trunk's time counts"
        assert {path: path.read_bytes() for path in before} == before, "a branch leaves the fork point as it is"


def test_one_step_earlier_or_later_would_be_another_run(make: Make) -> None:
    """The known answer can be missed: a fork inside the cooldown of the trunk is not the straight run."""
    straight = run(make_all(make, "straight")[20]).path
    forked = make_all(make, "forked")
    trunk = run(forked[LONG], forks=(36,)).path
    with pytest.raises(AssertionError):
        assert_same(
            run(dataclasses.replace(forked[20], budget=forked[28].budget), fork.fork_point(trunk, 36)).path, straight
        )


@pytest.mark.parametrize("moment", ["before the fork point", "while it is written", "after it"])
def test_a_killed_trunk_leaves_a_whole_fork_point(make: Make, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = run(make_all(make, "straight")[20]).path
    forked = make_all(make, "forked")
    step, link = trainer.Trainer.step, fork._link

    def dying(self: trainer.Trainer) -> None:
        if self.state.step == 18:
            raise Dead
        step(self)

    def die(*_: Any, **__: Any) -> None:
        raise Dead

    with monkeypatch.context() as inner:
        if moment == "after it":
            inner.setattr(trainer.Trainer, "step", dying)
        else:
            inner.setattr(fork, "write_fork_point" if moment == "before the fork point" else "_link", die)
        with pytest.raises(Dead):
            run(forked[LONG], forks=(15,))
    (folder,) = (p.parent for p in Path(forked[LONG].runs_dir, "forked").glob("*/run.json"))
    point = fork.fork_point(folder, 15)
    assert (fork.read(point) is not None) == (moment == "after it")
    if moment == "while it is written":
        (folder / "forks" / ".tmp-15").mkdir(parents=True)  # what kill -9 leaves, which runs no handler
        (folder / "forks" / ".tmp-15" / "torn").write_text("")
    trunk = run(forked[LONG], forks=(15,)).path
    assert trunk == folder
    assert [path.name for path in (folder / "forks").iterdir()] == ["step-15"]
    assert fork._link is link
    assert_identical(run(forked[20], trunk=point).path, straight)


def test_a_killed_branch_goes_on_without_its_trunk(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = run(make_all(make, "straight")[28]).path
    forked = make_all(make, "forked")
    trunk = run(forked[LONG], forks=(21,)).path
    point = fork.fork_point(trunk, 21)
    link, step = fork._link, trainer.Trainer.step

    def torn(source: str, target: str) -> str:
        link(source, target)
        raise Dead

    def dying(self: trainer.Trainer) -> None:
        if self.state.step == 26:
            raise Dead
        step(self)

    with monkeypatch.context() as inner:  # while the fork point is copied: no run is there
        inner.setattr(fork, "_link", torn)
        with pytest.raises(Dead):
            run(forked[28], trunk=point)
    assert len(list(Path(forked[28].runs_dir, "forked").glob("*/run.json"))) == 1
    with monkeypatch.context() as inner:  # at its first step, and then at its sixth
        for method in (lambda _: die(), dying):
            inner.setattr(trainer.Trainer, "step", method)
            with pytest.raises(Dead):
                run(forked[28], trunk=point)
    fork.remove(point)
    assert_identical(train(forked[28]).path, straight)


def die() -> None:
    raise Dead


def test_what_differs_in_more_than_the_budget_is_trained_from_the_start(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked = make_all(make, "forked")
    trunk = run(forked[LONG], forks=(15,)).path
    point = fork.fork_point(trunk, 15)
    others = {
        "another seed": make_all(make, "forked", seed=1)[20],
        "another rate": make_all(make, "forked", **{"optim.lr": 0.5})[20],
        "another log": make_all(make, "forked", **{"log.every": 2})[20],
        "another precision": make_all(make, "forked", precision="bf16_sr")[20],
    }
    for what, cfg in others.items():
        assert "forked" not in Run.open(run(cfg, trunk=point).path).record, what
    with monkeypatch.context() as inner:
        inner.setattr(claim_run, "code", lambda: "of another day")
        other_code = dataclasses.replace(forked[20], study="other_code")
        assert "forked" not in Run.open(run(other_code, trunk=point).path).record
        mixed = dataclasses.replace(forked[LONG], study="mixed")
        run(mixed)
    begun = Run.open(Path(mixed.runs_dir, "mixed", trunk.name))
    shutil.rmtree(begun.checkpoints)
    begun.update(state="running")
    run(mixed, forks=(15,))  # begun by other code, and gone on with by this
    after = dataclasses.replace(forked[20], study="after")
    assert "forked" not in Run.open(run(after, trunk=fork.fork_point(begun.path, 15)).path).record


@pytest.mark.parametrize("name", ["checkpoints/step-15/training.safetensors", "metrics.jsonl", "fork.json"])
def test_a_damaged_fork_point_is_not_begun_from(make: Make, name: str) -> None:
    forked = make_all(make, "forked")
    trunk = run(forked[LONG], forks=(15, 21)).path
    flip(fork.fork_point(trunk, 15), name)
    console = quiet()
    result = start.run_training(forked[20], console, "train", trunk=fork.fork_point(trunk, 15))
    assert "forked" not in Run.open(result.path).record
    why = f"{fork.fork_point(trunk, 15)} is damaged ({Path(name).name} is not what was written)"
    assert f"{why}: the run is trained from the start\n" in said(console)
    straight = run(make_all(make, "straight")[20]).path
    assert_identical(result.path, straight)


def test_a_branch_whose_checkpoints_are_damaged_is_no_branch_any_more(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked = make_all(make, "forked")
    trunk = run(forked[LONG], forks=(15,)).path
    with monkeypatch.context() as inner:
        inner.setattr(trainer.Trainer, "step", lambda _: die())
        with pytest.raises(Dead):
            run(forked[20], trunk=fork.fork_point(trunk, 15))
    (branch,) = {path.parent for path in trunk.parent.glob("*/run.json")} - {trunk}
    assert Run.open(branch).record["forked"]["step"] == 15
    for path in (branch / "checkpoints").glob("step-*"):
        flip(path, "state.json")
    assert_identical(run(forked[20]).path, run(make_all(make, "straight")[20]).path)
    assert Run.open(branch).record["forked"] is None


def test_force_trains_a_forked_run_from_the_start(make: Make) -> None:
    forked = make_all(make, "forked")
    trunk = run(forked[LONG], forks=(15,)).path
    branch = run(forked[20], trunk=fork.fork_point(trunk, 15)).path
    assert run(dataclasses.replace(forked[20], force=True)).path == branch
    assert "forked" not in Run.open(branch).record
    assert_identical(branch, run(make_all(make, "straight")[20]).path)
    run(dataclasses.replace(forked[LONG], force=True))
    assert not (trunk / fork.FOLDER).exists()


def test_the_mirror_of_a_branch_has_the_steps_before_the_fork(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    forked = make_all(make, "forked")
    trunk = run(forked[LONG], forks=(15,)).path
    kept = mirrored(monkeypatch)
    branch = run(forked[20], trunk=fork.fork_point(trunk, 15)).path
    assert_mirrored(kept, branch)
    assert len(kept) == 20
