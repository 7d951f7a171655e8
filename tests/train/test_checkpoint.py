"""Checkpoints: whole or not there, bit for bit, pruned."""

from __future__ import annotations

import functools
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gpt_lab.digests import Damaged
from gpt_lab.errors import DataError, LabError
from gpt_lab.train import checkpoint
from gpt_lab.train.checkpoint import Checkpoints, Content
from gpt_lab.train.state import TrainingState
from tests.helpers import flip


def make(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3, bias=False))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9), fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """What a full disk is to a writer, without filling one: writes beyond `size` bytes fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    model, optimizer = make()
    step(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    state = {"step": 1, "seconds": 0.1 + 0.2, "losses": [1 / 3], "best": None}
    checkpoint.save(tmp_path / "step-1", model, optimizer, scaler, state)
    random = torch.rand(3)
    step(model, optimizer)

    other, its = make(seed=1)
    fresh = torch.amp.GradScaler("cpu")
    loaded = checkpoint.load(tmp_path / "step-1", other, its, fresh)
    assert {name: loaded[name] for name in state} == state
    assert fresh.get_scale() == 128.0
    assert torch.equal(torch.rand(3), random), "the random generator goes on where it was"
    step(other, its)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert its.param_groups[0]["betas"] == (0.8, 0.9)


def test_nested_optimizer_state_comes_back(tmp_path: Path) -> None:
    """Optimizers of other packages keep lists, tuples, None and numbers beside tensors."""

    class Odd:
        state: dict[str, Any]

        def state_dict(self) -> dict[str, Any]:
            return self.state

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.state = state

    shared = torch.arange(6.0).view(2, 3)
    odd, other = Odd(), Odd()
    odd.state = {"state": {0: {"m": shared, "row": shared[1], "t": shared.T, "k": [1, (2.5, None)]}}, "name": "x"}
    checkpoint.save(tmp_path / "step-0", nn.Linear(1, 1), odd, None, {"step": 0})
    checkpoint.load(tmp_path / "step-0", nn.Linear(1, 1), other, None)
    inner = other.state["state"][0]
    assert other.state["name"] == "x"
    assert inner["k"] == [1, (2.5, None)]
    assert torch.equal(inner["m"], shared)
    assert torch.equal(inner["row"], shared[1])
    assert torch.equal(inner["t"], shared.T)


def test_keeps_last_best_and_the_newest_periodic(tmp_path: Path) -> None:
    model, optimizer = make()
    checkpoints = Checkpoints(tmp_path, every=10, keep=2)
    for number in range(5, 61, 5):
        checkpoints.save(Content(model, optimizer), {"step": number}, best=number == 15)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "step-15", "step-50", "step-60"]
    assert (tmp_path / "best").resolve().name == "step-15"
    assert (tmp_path / "last").resolve().name == "step-60"
    assert (tmp_path / "last" / "model.safetensors").is_file()


def test_keep_nothing_periodic(tmp_path: Path) -> None:
    model, optimizer = make()
    checkpoints = Checkpoints(tmp_path, every=1, keep=0)
    for number in (1, 2, 3):
        checkpoints.save(Content(model, optimizer), {"step": number}, best=number == 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "step-1", "step-3"]


def tear_tensors(path: Path) -> None:
    with open(path / "model.safetensors", "r+b") as file:
        file.truncate(40)


def tear_state(path: Path) -> None:
    (path / "state.json").write_text('{"step": 2, "by')


def lose(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def another_step(path: Path) -> None:
    """Files that are as they were written, but of another checkpoint."""
    shutil.rmtree(path)
    shutil.copytree(path.with_name("step-1"), path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "torn tensors": tear_tensors,
    "torn state": tear_state,
    **{f"no {name}": lose(name) for name in ("state.json", "training.safetensors", "SHA256SUMS")},
    **{
        f"64 bytes of {name} at {where:.0%}": functools.partial(flip, name=name, where=where)
        for name in ("model.safetensors", "training.safetensors", "state.json", "SHA256SUMS")
        for where in (0.0, 0.5, 1.0)
    },
    "copied": another_step,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_passed_over_and_named(tmp_path: Path, damage: str) -> None:
    model, optimizer = make()
    checkpoints = Checkpoints(tmp_path, every=1, keep=5)
    for number in (1, 2):
        step(model, optimizer)
        checkpoints.save(Content(model, optimizer), asdict(TrainingState(step=number)), best=True)
    DAMAGE[damage](tmp_path / "step-2")
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(Damaged):
        checkpoint.load(tmp_path / "step-2", model, optimizer, None)
    assert all(map(torch.equal, before, model.parameters())), "nothing of it was taken"
    said: list[str] = []
    assert checkpoints.resume(Content(model, optimizer), said) == TrainingState(step=1)
    assert len(said) == 1
    assert said[0].startswith("step-2 is damaged (")
    (tmp_path / ".tmp-step-3-1").mkdir()
    checkpoints.clean(1, best_step=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "step-1"]
    assert {(tmp_path / name).resolve().name for name in ("best", "last")} == {"step-1"}
    DAMAGE[damage](tmp_path / "step-1") if damage != "copied" else tear_state(tmp_path / "step-1")
    assert checkpoints.resume(Content(model, optimizer), said) is None
    checkpoints.clean(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"step": 1}, {**asdict(TrainingState(step=1)), "losses": [None]}])
def test_a_state_of_another_version_is_one_line(tmp_path: Path, wrong: dict[str, Any]) -> None:
    model, optimizer = make()
    checkpoints = Checkpoints(tmp_path, every=1, keep=1)
    checkpoints.save(Content(model, optimizer), wrong)
    with pytest.raises(DataError, match=r"cannot resume from .*step-1: it has no \w+ that can be used \(force=true"):
        checkpoints.resume(Content(model, optimizer), [])


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    model, optimizer = make()
    checkpoint.save(tmp_path / "step-1", model, optimizer, None, {"step": 1})
    other = nn.Linear(2, 2)
    with pytest.raises(DataError, match="cannot resume from .*step-1") as caught:
        checkpoint.load(tmp_path / "step-1", other, torch.optim.SGD(other.parameters()), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [100, 500])  # within model.safetensors, within training.safetensors
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, size: int) -> None:
    model, optimizer = make()
    step(model, optimizer)
    checkpoints = Checkpoints(tmp_path, every=1, keep=1)
    checkpoints.save(Content(model, optimizer), {"step": 1}, best=True)
    before = {path: path.read_bytes() for path in tmp_path.glob("step-*/*")}
    with file_size_limit(size), pytest.raises(LabError, match=r"cannot write .*step-2: no space left"):
        checkpoints.save(Content(model, optimizer), {"step": 2})
    assert {path: path.read_bytes() for path in tmp_path.glob("step-*/*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "step-1"]
    checkpoint.load(tmp_path / "last", model, optimizer, None)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model, optimizer = make()
    with pytest.raises(LabError, match="cannot write .*: Not a directory"):
        Checkpoints(tmp_path / "file", 1, 1).save(Content(model, optimizer), {"step": 1})


def die_at(call: int, save: Callable[[], object]) -> int:
    """Exit status of a child process that runs `save` and ends, as by kill -9, before its n-th change of the folder."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os._exit(9)
            return real(*args, **kwargs)

        return wrapper

    for name in ("fsync", "rename", "replace", "mkdir", "symlink", "rmdir", "unlink"):
        setattr(os, name, dying(getattr(os, name)))
    try:
        save()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_death_at_every_system_call_leaves_a_valid_last(tmp_path: Path) -> None:
    model, optimizer = make()
    step(model, optimizer)
    codes: list[int] = []
    first, second = asdict(TrainingState(step=1)), asdict(TrainingState(step=2))
    while not codes or codes[-1] == 9:
        folder = tmp_path / str(len(codes))
        checkpoints = Checkpoints(folder, 1, 1)
        checkpoints.save(Content(model, optimizer), first, best=True)
        codes.append(die_at(len(codes) + 1, lambda c=checkpoints: c.save(Content(model, optimizer), second, best=True)))
        steps = {}
        for name in ("last", "best"):
            steps[name] = checkpoint.load(folder / name, model, optimizer, None)["step"]
        found = checkpoints.resume(Content(model, optimizer), [])
        assert found is not None
        assert found.step >= steps["last"] >= steps["best"]
    assert codes[-1] == 0
    assert len(codes) > 12, "some of the calls were not met"


def test_nothing_is_pickled(tmp_path: Path) -> None:
    model, optimizer = make()
    step(model, optimizer)
    checkpoint.save(tmp_path / "step-1", model, optimizer, None, {"step": 1})
    names = sorted(path.name for path in (tmp_path / "step-1").iterdir())
    assert names == ["SHA256SUMS", "model.safetensors", "state.json", "training.safetensors"]
