"""Checkpoints on disk: atomic, checked by digests, no pickle.

checkpoints/
  step-200/             one checkpoint: renamed into place when all of it is on stable storage
    model.safetensors     parameters and buffers by their names in the model
    training.safetensors  optimizer moments and the state of the random generators
    state.json            step, tokens, seconds, ...; structure of the optimizer state
    SHA256SUMS            digests of the three, checked whenever one is read
  last -> step-200      replaced in one system call, so there is never a moment without a valid `last`
  best -> step-100      lowest val/loss so far
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt_lab.digests import Damaged, check_sums, write_sums
from gpt_lab.errors import DataError
from gpt_lab.store.atomic_files import parse, sync_folder, writing
from gpt_lab.train.state import TrainingState

MODEL, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
ANEW = "force=true trains the run anew"


class Stateful(Protocol):
    """An optimizer or a gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Saved(Protocol):
    """What checkpoints are of."""

    def save(self, path: Path, state: Mapping[str, Any], /) -> None: ...
    def load(self, path: Path, /) -> dict[str, Any]: ...


class Content(NamedTuple):
    """What a checkpoint holds beside the state of its run."""

    model: nn.Module
    optimizer: Stateful
    scaler: Stateful | None = None

    def save(self, path: Path, state: Mapping[str, Any]) -> None:
        """As the function `save`."""
        save(path, *self, state)

    def load(self, path: Path) -> dict[str, Any]:
        """As the function `load`."""
        return load(path, *self)


class Checkpoints:
    """The checkpoints of one run: the newest (`last`), the best, and the newest `keep` of those every `every` steps."""

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep
        self._whole: set[int] = set()

    def save(self, content: Saved, state: Mapping[str, Any], *, best: bool = False) -> Path:
        """Writes `step-<state["step"]>`, points `last` (and `best`) at it, and prunes the others.

        Raises:
            LabError: disk full or read-only; the checkpoints before are intact and nothing half-written is left.
        """
        step = state["step"]
        path = self.folder / f"step-{step}"
        if step not in self._whole:
            content.save(path, state)
            self._whole.add(step)
        self.point("last", path)
        if best:
            self.point("best", path)
        self._prune()
        return path

    def resume(self, content: Saved, damaged: list[str]) -> TrainingState | None:
        """Loads the newest checkpoint that is whole; None, and nothing changed, if there is none.

        Args:
            damaged: takes a few words on each newer one that is not whole.

        Raises:
            DataError: it is of another model, or of another version of the lab.
        """
        for step in sorted(self._steps(), reverse=True):
            path = self.folder / f"step-{step}"
            try:
                saved = content.load(path)
            except Damaged as error:
                damaged.append(f"{path.name} is damaged ({error})")
                continue
            self._whole.add(step)
            try:
                return TrainingState.from_checkpoint(saved)
            except DataError as error:
                raise DataError(f"cannot resume from {path}: {error} ({ANEW})") from None
        return None

    def point(self, name: str, path: Path) -> None:
        """Makes `name` another name of the checkpoint at `path`, atomically."""
        temporary = self.folder / f".tmp-{name}"
        with writing(self.folder / name):
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(path.name)
            os.replace(temporary, self.folder / name)
            sync_folder(self.folder)

    def clean(self, step: int, best_step: int = 0) -> None:
        """Removes what is beyond `step`, where the run goes on, and what a killed process left half-written.

        Args:
            best_step: of the best checkpoint so far, should the one that `best` named be gone.
        """
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            for path in self.folder.glob(".tmp-*"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for beyond in self._steps():
                if beyond > step:
                    shutil.rmtree(self.folder / f"step-{beyond}")
            for name, target in (("last", step), ("best", best_step)):
                link, path = self.folder / name, self.folder / f"step-{target}"
                if link.is_symlink() and not link.exists():
                    self.point(name, path) if path.is_dir() else link.unlink()

    def _steps(self) -> list[int]:
        found = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def _prune(self) -> None:
        steps = self._steps()
        periodic = [step for step in steps if step % self.every == 0]
        kept = {f"step-{step}" for step in periodic[len(periodic) - min(self.keep, len(periodic)) :]}
        kept |= {(self.folder / name).resolve().name for name in ("last", "best")}
        for step in steps:
            if f"step-{step}" not in kept:
                shutil.rmtree(self.folder / f"step-{step}", ignore_errors=True)


def training_tensors(optimizer: Stateful) -> tuple[dict[str, Tensor], Any]:
    """What training.safetensors holds, and the structure of the optimizer's state, whose tensors it names."""
    tensors: dict[str, Tensor] = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        tensors["random.mps"] = torch.mps.get_rng_state()
    return tensors, _split(optimizer.state_dict(), "optimizer", tensors)


def write_whole(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file of tensors that are all here."""
    save_file(_separate(tensors), path)


def save(
    path: Path,
    model: nn.Module,
    optimizer: Stateful,
    scaler: Stateful | None,
    state: Mapping[str, Any],
    write: Callable[[Mapping[str, Tensor], Path], None] = write_whole,
) -> None:
    """Writes one checkpoint folder, atomically.

    Args:
        state: plain JSON values; comes back from `load`.
        write: makes the file of the model's tensors, then that of the optimizer's.

    Raises:
        LabError: it cannot be written; nothing of it is left.
    """
    tensors, structure = training_tensors(optimizer)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with _writing(path):
        try:
            temporary.mkdir(parents=True)
            write(model.state_dict(), temporary / MODEL)
            write(tensors, temporary / TRAINING)
            whole = {
                **state,
                "optimizer": structure,
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
            (temporary / STATE).write_text(json.dumps(whole), encoding="utf-8")
            write_sums(temporary)
            sync_folder(temporary)
            if path.exists():  # damaged, or of an earlier life of the run
                shutil.rmtree(path)
            os.rename(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def load(path: Path, model: nn.Module, optimizer: Stateful, scaler: Stateful | None) -> dict[str, Any]:
    """Puts a checkpoint back into model, optimizer, scaler and random generators; returns the state it was given.

    Raises:
        Damaged: it is not as it was written; nothing is changed. DataError: it is of another model.
    """
    return restore(path, read_state(path), model, optimizer, scaler)


def restore(
    path: Path, state: dict[str, Any], model: nn.Module, optimizer: Stateful, scaler: Stateful | None
) -> dict[str, Any]:
    """As `load`, of a checkpoint whose state has been read."""
    with fitting(path):
        model.load_state_dict(load_file(path / MODEL))
        restore_training(load_file(path / TRAINING), state, optimizer, scaler)
    return state


def restore_training(
    tensors: Mapping[str, Tensor], state: dict[str, Any], optimizer: Stateful, scaler: Stateful | None
) -> None:
    """Puts back what is not the model's, and takes it out of the state."""
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    if "random.mps" in tensors and torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["random.mps"])
    optimizer.load_state_dict(_join(state.pop("optimizer"), tensors))
    scaler_state = state.pop("scaler")
    if scaler is not None and scaler_state is not None:
        scaler.load_state_dict(scaler_state)


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Around putting a checkpoint back.

    Raises:
        DataError: it is of another model.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"cannot resume from {path}: {reason} ({ANEW})") from error


def read_state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint that is as it was written, which all of its files are read for.

    Raises:
        Damaged: it is not.
    """
    check_sums(path, MODEL, TRAINING, STATE)
    try:
        state = parse((path / STATE).read_bytes())
    except ValueError:
        state = None
    if not isinstance(state, dict) or path.resolve().name != f"step-{state.get('step')}":
        raise Damaged(f"{STATE} is not that of this checkpoint")
    return state


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """As store.files.writing, which knows OSError only; safetensors reports the number of one in its text."""
    with writing(path):
        try:
            yield
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            raise OSError(int(found[1]) if found else 0, os.strerror(int(found[1])) if found else str(error)) from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes one safetensors file, its folder too if need be.

    Raises:
        LabError: it cannot be written.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(_separate(tensors), path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values, each contiguous in memory of its own, as safetensors asks."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        storage = tensor.untyped_storage()
        if not tensor.is_contiguous() or storage.nbytes() != tensor.nbytes or storage.data_ptr() in seen:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(tensor.untyped_storage().data_ptr())
        separate[name] = tensor
    return separate


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A JSON tree of `value`; its tensors go to `tensors`, and their names stay behind."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):  # as pairs: the keys may be numbers
        return {"dict": [[key, _split(inner, f"{name}.{key}", tensors)] for key, inner in value.items()]}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_split(inner, f"{name}.{i}", tensors) for i, inner in enumerate(value)]}
    return value


def _join(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_split`."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _join(inner, tensors) for key, inner in content}
    items = [_join(inner, tensors) for inner in content]
    return tuple(items) if kind == "tuple" else items
