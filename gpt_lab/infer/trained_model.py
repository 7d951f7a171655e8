"""Loading of a trained model from its run folder, or from a folder in Hugging Face's form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gpt_lab import registry
from gpt_lab.adapt import lora
from gpt_lab.config import checked
from gpt_lab.config.schema import RunConfig
from gpt_lab.data.tokenizers.library import FILE
from gpt_lab.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from gpt_lab.devices.pick import pick
from gpt_lab.digests import SUMS, Damaged, check_sums
from gpt_lab.errors import ConfigError, DataError, unknown
from gpt_lab.interchange import released_folder
from gpt_lab.model.gpt import GPT
from gpt_lab.store import Run

WEIGHTS = "model.safetensors"
NAMED = ("best", "last")
"""Names of checkpoints beside step-N, in the order in which they are wanted."""


class Trained(NamedTuple):
    """A model (fp32, eval mode) with what it was trained by, and the name of the checkpoint that it is from."""

    model: GPT
    tokenizer: Tokenizer
    cfg: RunConfig
    checkpoint: str


def whole_checkpoint(run: Run, name: str | None = None, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder of one checkpoint whose weights are as they were written.

    Args:
        name: `best`, `last` or `step-N`; None: best if there is one, else last, else the newest that is whole.
        say: told in one line which one is used instead of a damaged one.

    Raises:
        ConfigError: no such checkpoint; the line lists those there are. DataError: it is damaged, or all are.
    """
    folder = run.checkpoints
    there = sorted(path.name for path in _entries(folder) if not path.name.startswith("."))
    if not there:
        raise ConfigError(f"{run.path} has no checkpoint yet: let it train up to its first one, or name another run")
    if name is not None and name not in there:
        raise ConfigError(unknown("checkpoint", name, there))
    steps = sorted((n for n in there if n.startswith("step-")), key=lambda n: (len(n), n), reverse=True)
    wanted = [name] if name is not None else [*(n for n in NAMED if n in there), *steps]
    damaged: dict[Path, str] = {}
    for one in wanted:
        place = (folder / one).resolve()
        if place in damaged:
            continue
        try:
            check_sums(place, WEIGHTS)
        except Damaged as error:
            damaged[place] = f"checkpoint {one} of {run.path} is damaged ({error})"
        else:
            if damaged:
                say(f"{'; '.join(damaged.values())}: {one} is used instead")
            return folder / one
    others = f"others are {', '.join(n for n in there if n != name)}" if name is not None and len(there) > 1 else ""
    raise DataError(f"{'; '.join(damaged.values())}: nothing of it is used; {others or 'name another run'}")


def weights_digest(checkpoint: Path) -> str:
    """64 hex digits over the weights of a checkpoint that is whole."""
    sums = (checkpoint / SUMS).read_text(encoding="utf-8").splitlines()
    return next(line for line in sums if line.endswith(WEIGHTS)).split()[0]


def load_run(
    run: Run, checkpoint: str | None = None, device: str = "cpu", say: Callable[[str], None] = lambda line: None
) -> Trained:
    """A run's model on `device`; checkpoint and say are those of `whole_checkpoint`.

    Attention is computed by the math kernel, whatever the run trained with: it works everywhere, and a single query
    against a cache is nothing that a fused kernel could speed up (flex would even be compiled anew for each length).

    Raises:
        ConfigError: no such checkpoint or device, or a config.yaml that this version of the lab does not know.
        DataError: no tokenizer, damaged files, or such as do not fit together.
    """
    folder = whole_checkpoint(run, checkpoint, say)
    where = torch.device(pick(device)[0])
    cfg = checked.from_dict(run.config)
    place = run.path / "tokenizer"
    if not place.is_dir():
        raise DataError(f"{run.path} has no tokenizer: it was trained on data={cfg.data['name']}, which is not text")
    try:
        check_sums(place)
    except Damaged as error:
        raise DataError(
            f"{place} is damaged ({error}): copy it from a run on the same data, or name another run"
        ) from None
    tokenizer = load_tokenizer(place)
    model, _ = load_model(run, folder, where.type, tokenizer.vocab_size)
    return Trained(model, tokenizer, cfg, folder.name)


class Released(NamedTuple):
    """A model (fp32, eval mode) of a folder in Hugging Face's form; tokenizer: None: the folder has none."""

    model: GPT
    tokenizer: Tokenizer | None
    cfg: RunConfig
    digest: str


def load_folder(folder: Path, device: str = "cpu") -> Released:
    """The model of a folder that gpt_lab/interchange reads; its attention as load_run has it.

    Raises:
        ConfigError, DataError: as released_folder.read; no such device.
    """
    where = torch.device(pick(device)[0])
    opened = released_folder.read(folder, "model")
    tokenizer = None
    if (folder / FILE).is_file():
        tokenizer = registry.build("tokenizer", {"name": "hf", "path": str(folder)})
    model = GPT(dataclasses.replace(opened.cfg, kernel={"name": "math"}), opened.vocab_size)
    model.load_state_dict(dict(opened.weights))
    model.to(where).eval()
    model.choose_kernels(where.type, "fp32")
    return Released(model, tokenizer, opened.cfg, opened.digest)


def load_model(run: Run, checkpoint: Path, device: str = "cpu", vocab_size: int | None = None) -> tuple[GPT, RunConfig]:
    """A run's model alone, as load_run has it, also of one that was trained on no text; with its config.

    Args:
        vocab_size: None: as many as its embedding has.

    Raises:
        ConfigError: no such device. DataError: the weights cannot be read, or are of another model.
    """
    cfg, where = checked.from_dict(run.config), torch.device(pick(device)[0])
    try:
        weights = lora.plain(load_file(checkpoint / WEIGHTS))
        model = GPT(
            dataclasses.replace(cfg, kernel={"name": "math"}), vocab_size or len(weights.get("embed.weight", ""))
        )
        model.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"cannot use {checkpoint}: {reason} (checkpoint=... names another)") from error
    model.to(where).eval()
    model.choose_kernels(where.type, "fp32")
    return model, cfg


def same_tokenizer(one: Run, other: Run) -> bool:
    """Whether two runs have the same tokens, as their folders say."""
    found: list[dict[str, bytes]] = []
    for run in (one, other):
        found.append({path.name: path.read_bytes() for path in _entries(run.path / "tokenizer") if path.is_file()})
    return found[0] == found[1]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from error
