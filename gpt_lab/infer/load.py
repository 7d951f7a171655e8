"""A trained model out of its run folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gpt_lab import config
from gpt_lab.data.tokenizer import Tokenizer, load_tokenizer
from gpt_lab.errors import ConfigError, DataError, unknown
from gpt_lab.model import GPT
from gpt_lab.schema import RunConfig
from gpt_lab.store import Run


def pick_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here.

    Raises:
        ConfigError: cuda is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but PyTorch finds no CUDA device here; use device=cpu or device=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def checkpoint_folder(run: Run, name: str | None = None) -> Path:
    """The folder of one checkpoint: `best`, `last` or `step-N`; None: best if there is one, else last.

    Raises:
        ConfigError: no such checkpoint; the line lists those there are.
    """
    folder = run.path / "checkpoints"
    there = sorted(
        path.parent.name for path in folder.glob("*/model.safetensors") if not path.parent.name.startswith(".")
    )
    for wanted in [name] if name else ["best", "last"]:
        if wanted in there:
            return folder / wanted
    if not there:
        raise ConfigError(f"{run.path} has no checkpoint yet: let it train up to its first one, or name another run")
    raise ConfigError(unknown("checkpoint", name or "best", there))


def load_run(run: Run, checkpoint: str | None = None, device: str = "cpu") -> tuple[GPT, Tokenizer, RunConfig]:
    """The model (fp32, eval mode, on `device`), the tokenizer and the configuration of a run.

    Attention is computed by the math kernel, whatever the run trained with: it works everywhere, and a single query
    against a cache is nothing that a fused kernel could speed up (flex would even be compiled anew for each length).

    Raises:
        ConfigError: no such checkpoint or device, or a config.yaml that this version of the lab does not know.
        DataError: no tokenizer, or files that do not fit together.
    """
    folder = checkpoint_folder(run, checkpoint)
    where = pick_device(device)
    cfg = config.from_dict(run.config)
    if not (run.path / "tokenizer").is_dir():
        raise DataError(f"{run.path} has no tokenizer: it was trained on data={cfg.data['name']}, which is not text")
    tokenizer = load_tokenizer(run.path / "tokenizer")
    model = GPT(dataclasses.replace(cfg, kernel={"name": "math"}), tokenizer.vocab_size)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"cannot use {folder}: {reason} (checkpoint=... names another)") from error
    model.to(where).eval()
    model.choose_kernels(where.type, "fp32")
    return model, tokenizer, cfg
