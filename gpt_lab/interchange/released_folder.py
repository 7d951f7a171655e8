"""A folder in Hugging Face's form, read: the model that its config.json describes, and its weights under our names."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gpt_lab.config import composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.digests import sha256
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.interchange.convert import from_hf

CONFIG = "config.json"
_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
_CONVOLUTION = re.compile(r"(.+\.self_attn)\.([qkv])_conv1d\.weight")
_RENAMED = (
    (re.compile(r"\.block_sparse_moe\."), ".mlp."),  # Mixtral, Kimi Linear
    (re.compile(r"^embed_out\."), "lm_head."),  # GPT-NeoX
    (re.compile(r"self_attn\.(f_[ab]_proj\.|dt_bias|A_log)"), r"self_attn.forget_gate.\1"),  # Kimi Linear
)
"""Names in files that differ from those of transformers' classes."""
_OF_MIXTRAL = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


class Opened(NamedTuple):
    """What a folder holds.

    Fields:
        cfg: composes its model. vocab_size: tokens that it predicts. weights: fp32, the state_dict of that model.
        digest: of its files.
    """

    cfg: RunConfig
    vocab_size: int
    weights: Mapping[str, Tensor]
    digest: str


def is_one(folder: Path) -> bool:
    """Whether a folder has a config.json."""
    return (folder / CONFIG).is_file()


def read(folder: Path, key: str) -> Opened:
    """Reads a folder; the last one stays in memory, by its files' digest.

    Args:
        key: the setting that names the folder, for errors.

    Raises:
        ConfigError: its family, or a setting of it, has no counterpart here; a tensor is missing, too many, or of
            another size. DataError: a file is missing or cannot be read.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise DataError(f"{key}={folder} has no weights: there must be model.safetensors, or several parts of it")
    digest = hashlib.sha256("".join(sha256(path) for path in (folder / CONFIG, *paths)).encode()).hexdigest()
    return _read(folder, digest, key)


@functools.lru_cache(maxsize=1)  # the trials of a sweep mostly have one
def _read(folder: Path, digest: str, key: str) -> Opened:
    config = _config(folder, key)
    try:
        paths = sorted(folder.glob("*.safetensors"))
        tensors = {name: tensor.float() for path in paths for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise DataError(f"{key}={folder}: its weights cannot be read ({error})") from None
    try:
        words, weights = from_hf(_stacked(tensors), config)
        return Opened(composition.compose(words), int(config["vocab_size"]), weights, digest)
    except ConfigError as error:
        raise ConfigError(f"{key}={folder}: {error}") from None


def _config(folder: Path, key: str) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{key}: {folder / CONFIG} cannot be read ({error})") from None
    if not isinstance(config, dict) or not isinstance(config.get("vocab_size"), int):
        raise DataError(f"{key}: {folder / CONFIG} has no vocab_size")
    return config


def _stacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as transformers' classes have them: of experts, and of short convolutions, files have one by one."""
    experts: dict[str, dict[int, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    convolutions: dict[str, dict[str, Tensor]] = defaultdict(dict)
    found = {}
    for name, tensor in tensors.items():
        for pattern, new in _RENAMED:
            name = pattern.sub(new, name)
        if (match := _CONVOLUTION.fullmatch(name)) is not None:
            convolutions[match[1]][match[2]] = tensor
        elif (match := _EXPERT.fullmatch(name)) is None:
            found[name] = tensor
        else:
            experts[match[1]][int(match[2])][_OF_MIXTRAL.get(match[3], match[3])] = tensor
    for name, three in convolutions.items():
        if three.keys() != {*"qkv"}:
            raise ConfigError(f"{name} lacks the short convolution of {', '.join({*'qkv'} - three.keys())}")
        found[f"{name}.conv1d.weight"] = torch.cat([three[x] for x in "qkv"])
    for name, each in experts.items():
        rows = [each[number] for number in sorted(each)]
        for part in ("gate_proj", "up_proj", "down_proj"):
            if any(part not in one or one[part].shape != rows[0][part].shape for one in rows):
                raise ConfigError(f"{name} lacks {part} of an expert, or has it in another size")
        gate_up = [torch.cat((one["gate_proj"], one["up_proj"])) for one in rows]
        found[f"{name}.gate_up_proj"] = torch.stack(gate_up)
        found[f"{name}.down_proj"] = torch.stack([one["down_proj"] for one in rows])
    return found
