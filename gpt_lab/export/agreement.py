"""Whether an exported folder is the run's model: transformers opens it, and logits and greedy tokens are compared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpt_lab.errors import LabError
from gpt_lab.export.exported_model import Source

TOLERANCE = 1e-4
"""Largest difference of two logits, in units of the largest logit, or of 1 where all are smaller: fp32 in another order
of sums. Random models of every family stay below 2e-5."""
NEW_TOKENS = 8


class Agreement(NamedTuple):
    """The class that opened the folder, and by how much its logits differ, over the largest logit or 1."""

    architecture: str
    difference: float


def compare(source: Source, folder: Path, own_code: bool = False) -> Agreement:
    """Opens a folder as a user would, and holds its logits on random tokens and its greedy text against the run's.

    Args:
        own_code: the folder brings its modeling file.

    Raises:
        LabError: it does not open, misses a weight, or computes something else; the line says which.
    """
    from transformers import AutoModelForCausalLM

    opener: Any = AutoModelForCausalLM
    theirs, info = opener.from_pretrained(
        folder,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=own_code,
        local_files_only=True,
    )
    theirs.eval()
    name = type(theirs).__name__
    if own_code:
        _forget_code(type(theirs).__module__)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[what]:
            raise LabError(f"{name} opens the export with {what.replace('_keys', '')} weights: {min(info[what])}")
    return check(source, theirs)


def check(source: Source, theirs: Any) -> Agreement:
    """Holds the logits of a model of transformers on random tokens, and its greedy text, against the run's.

    Raises:
        LabError: it computes something else.
    """
    name = type(theirs).__name__
    tokens_BT = source.random_tokens()
    with torch.no_grad():
        found = _difference(source.model(tokens_BT), theirs(tokens_BT).logits)
    if not found <= TOLERANCE:
        raise LabError(f"{name} computes other logits than the run: they differ by {found:.1e} of the largest one")
    _check_greedy(source, theirs, name)
    return Agreement(name, found)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    largest = max(1.0, ours.abs().max().item())
    return (ours.float() - theirs.float()).abs().max().item() / largest


def _check_greedy(source: Source, theirs: Any, name: str) -> None:
    """Each token that it chose must be the likeliest here too, up to the tolerance: near ties may go either way."""
    prompt = source.random_tokens(1)[:, : max(1, source.length - NEW_TOKENS)]
    new = min(NEW_TOKENS, source.cfg.scale.context - prompt.shape[1])
    if new < 1:
        return
    with torch.no_grad():
        whole = theirs.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, do_sample=False, eos_token_id=None
        )
        logits_TV = source.model(whole)[0, prompt.shape[1] - 1 : -1].float()
    chosen_T = logits_TV.gather(-1, whole[0, prompt.shape[1] :, None]).squeeze(-1)
    lost = (logits_TV.max(dim=-1).values - chosen_T).max().item()
    if lost > TOLERANCE * max(1.0, logits_TV.abs().max().item()):
        raise LabError(f"{name} continues a text otherwise than the run: its cache keeps something else")


def _forget_code(module: str) -> None:
    """Removes the copy that transformers keeps of a folder's modeling file: this folder has its name for a moment."""
    from transformers.utils.hub import HF_MODULES_CACHE

    shutil.rmtree(Path(HF_MODULES_CACHE).joinpath(*module.split(".")[:2]), ignore_errors=True)
