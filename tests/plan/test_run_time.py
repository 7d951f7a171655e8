"""How long runs will take: what is counted, which earlier runs tell it, what is measured and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import LabError
from gpt_lab.plan import paces, run_time
from gpt_lab.plan.paces import Machine
from gpt_lab.store import Run
from gpt_lab.store.record import machine as hardware
from gpt_lab.train.resolve_auto import ResolvedRun, resolve
from tests.helpers import pace, stand_in, tiny_config

ONE = Machine(1, 1)
TOKENS = 5000
Make = Callable[..., tuple[RunConfig, ResolvedRun]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    path = tmp_path / "words.txt"
    path.write_text("To be, or not to be, that is the question.\n" * 400)

    def make(**settings: Any) -> tuple[RunConfig, ResolvedRun]:
        plain = {"data": {"name": "text", "path": str(path)}, "runs_dir": str(tmp_path / "runs"), "eval.tokens": 2000}
        cfg = tiny_config(**{**plain, **settings})
        return cfg, resolve(cfg, open_dataset(cfg))

    return make


@pytest.mark.parametrize(
    "settings, beside",
    [
        ({}, 2 * 0.02 + 0.05 + 3 * 0.01 + 2 * 0.5),
        ({"budget.steps": 25}, 0.5 + 2 * 0.02 + 0.05 + 3 * 0.01 + 3 * 0.5),
        ({"eval.tokens": None}, 2 * 0.05 + 3 * 0.01 + 2 * 0.5),
        ({"eval.tokens": 10**6}, 3 * 0.05 + 3 * 0.01 + 2 * 0.5),
        ({"checkpoint.every": 4}, 2 * 0.02 + 0.05 + 7 * 0.01 + 2 * 0.5),
        ({"tracker": "wandb"}, 2 * 0.02 + 0.05 + 3 * 0.01 + 2 * 0.5 + run_time.MIRROR["wandb"]),
        ({"eval.contexts": [1, 4]}, 2 * 0.02 + 2 * 0.05 + 5000 * 3e-5 + 3 * 0.01 + 2 * 0.5),
        ({"budget.seconds": 2.0}, 2 * 0.02 + 0.05 + 3 * 0.01 + 2 * 0.5),
    ],
)
def test_a_run_is_its_steps_and_all_that_it_does_beside_them(
    settings: dict[str, Any], beside: float, make: Make
) -> None:
    """20 steps of 0.1 s; two evaluations, each with a text and a checkpoint; the last checkpoint and validation."""
    cfg, plan = make(**settings)
    known = pace(validation={1: 1e-5, 4: 3e-5})
    assert run_time.run_seconds(cfg, plan, TOKENS, known) == pytest.approx(1.0 + 2.0 + beside)


def test_runs_begin_as_places_become_free() -> None:
    assert run_time.together([], 2) == 0.0
    assert run_time.together([5.0, 1.0, 1.0, 1.0], 2) == 5.0
    assert run_time.together([2.0, 2.0, 2.0], 2) == 4.0, "the last one alone"
    assert run_time.together([1.0, 2.0], 8) == 2.0


@pytest.mark.parametrize(
    "seconds, expected",
    [(0.2, "1 s"), (59.4, "59 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3599.7, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert run_time.shown(seconds) == expected


def test_earlier_runs_of_the_same_settings_tell_it(make: Make) -> None:
    """From start to end, whatever their seed; not those of other settings, of another machine, or taken up again."""
    cfg, plan = make()
    alike = {"config": cfg.flat(), "resolved": plan.resolved, "hardware": {**hardware(), "threads": 1}}
    other, _ = make(**{"eval.every": 5})
    others: dict[str, tuple[dict[str, Any], float]] = {
        "a": (alike, 20.0),
        "b": ({**alike, "config": {**cfg.flat(), "seed": 7, "optim.lr": 0.1, "study": "x"}}, 30.0),
        "c": ({**alike, "config": {**cfg.flat(), "replica": 1}}, 40.0),
        "more threads": ({**alike, "hardware": {**hardware(), "threads": 8}}, 900.0),
        "another machine": ({**alike, "hardware": {"cpu": "other", "threads": 1}}, 900.0),
        "other settings": ({**alike, "config": other.flat()}, 900.0),
        "another optimizer": ({**alike, "config": {**cfg.flat(), "optim.name": "muon"}}, 900.0),
        "another precision": ({**alike, "resolved": {**plan.resolved, "precision": "bf16"}}, 900.0),
        "taken up again": ({**alike, "resumed": True}, 900.0),
        "from a trunk": ({**alike, "forked": {"step": 3}}, 900.0),
    }
    for name, (record, seconds) in others.items():
        run = Run.create(cfg.runs_dir, "earlier", name, cfg.to_dict(), record)
        run.finish("finished", {"seconds": 1.0})
        ended = f"2026-01-31T12:{int(seconds) // 60:02d}:{int(seconds) % 60:02d}.000000Z"
        run.update(started="2026-01-31T12:00:00.000000Z", finished=ended)
    Run.create(cfg.runs_dir, "earlier", "unfinished", cfg.to_dict(), alike)
    found = run_time.times([cfg, make(position="alibi")[0]], [plan, make(position="alibi")[1]], [TOKENS] * 2, ONE)
    assert found.runs[0] == 30.0
    assert found.runs[1] == pytest.approx(1.0 + 2.0 + 2 * 0.02 + 0.05 + 3 * 0.01 + 2 * 0.5)
    assert found.basis == "as 3 earlier runs took; told from a few steps of each model"


def test_a_pace_is_measured_once_for_each_model(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(new: list[Any], machine: Machine, known: dict[str, Any]) -> bool:
        asked.append(len(new))
        return stand_in(new, machine, known)

    monkeypatch.setattr(paces, "_measure", measure)
    same = [make(), make(seed=3), make(**{"optim.lr": 0.1, "budget.steps": 90, "eval.every": 7, "study": "x"})]
    assert len(paces.find(same, ONE).paces) == 3
    assert asked == [1]
    others = [make(position="alibi"), make(optim="muon"), make(**{"batch.tokens": 128}), make(**{"sample.tokens": 9})]
    paces.find([*same, *others, make(**{"eval.contexts": [1, 4]})], ONE)
    assert asked == [1, 6]
    assert paces._key(*make(), ONE) != paces._key(*make(), Machine(2, 1)) != paces._key(*make(), Machine(1, 2))


class Server:
    """A fork server whose children say what they are told to."""

    answers: list[Any]
    asked: list[int]

    def wait(self) -> None: ...

    def close(self) -> None: ...

    def gather(self, jobs: dict[str, Any]) -> dict[str, Any]:
        type(self).asked.append(len(jobs))
        answer = type(self).answers.pop(0)
        if isinstance(answer, str):
            raise LabError(answer)
        return {job: {"pace": answer.__dict__} for job in jobs}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Server]:
    monkeypatch.undo()
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("gpt_lab.sweep.workers.client.ForkServer", Server)
    monkeypatch.setattr(paces, "cores", lambda: 2)
    Server.answers, Server.asked = [], []
    return Server


def test_what_was_measured_is_kept_unless_other_work_was_going_on(server: type[Server], make: Make) -> None:
    two = Machine(2, 1)
    server.answers = [pace(step=0.2, share=0.5), pace(step=0.1, share=0.95)]
    busy = paces.find([make()], two)
    assert busy.basis == "told from a few steps of each model; the machine is busy with other work"
    assert busy.paces[0] is not None and busy.paces[0].step == 0.2
    free = paces.find([make()], two)
    assert free.paces[0] is not None and free.paces[0].step == 0.1
    assert paces.find([make()], two).paces == free.paces, "from the cache: nothing more is asked"
    assert server.asked == [2, 2], "as many at once as the sweep will run"
    server.answers = [pace(share=0.5)]
    paces.find([make()], Machine(4, 1))
    assert paces.find([make()], Machine(4, 1)).paces[0] is not None, "four runs on two cores have half of one each"


def test_a_model_that_cannot_be_timed(server: type[Server], make: Make) -> None:
    server.answers = ["out of memory"]
    found = run_time.times(*map(list, zip(make(), strict=True)), [TOKENS], ONE)
    assert found.runs == (None,)
    assert found.basis == "a few steps could not be timed: out of memory"


def test_a_spoilt_cache_is_measured_anew(server: type[Server], make: Make) -> None:
    server.answers = [pace(), pace(step=0.3)]
    paces.find([make()], ONE)
    (kept,) = paces._path("x").parent.glob("*.json")
    kept.write_text('{"pace": {"step": "NaN"}, "start": 1}')
    (found,) = paces.find([make()], ONE).paces
    assert found is not None and found.step == 0.3


def test_as_many_at_once_as_memory_holds(make: Make) -> None:
    _, plan = make()
    assert paces._at_once(Machine(3, 1), plan) == 3
    large = replace(plan, cost=replace(plan.cost, parameters=10**12))
    assert paces._at_once(Machine(3, 1), large) == 1
