"""What every part of a model must keep, whoever wrote it, checked on a tiny model around it.

    leaks       nothing reads later tokens, other rows or other documents (the probe before every training)
    decoding    reading a text in pieces and token by token gives the logits of reading it whole
    lengths     a row gives the same logits beside longer rows as alone
    documents   two documents packed into a row give the logits that each gives alone
    gradients   every parameter gets one, and all are finite, in fp32 and in bf16
    training    the loss falls within 20 steps
    compiled    torch.compile gives the same loss and gradients

Under an objective that reads both ways, leaks are those of other rows and documents, and there is no decoding, nor are
there rows with padding behind them. The loss is the objective's; the teacher of one that has one is another tiny model.

Each check measures an error, relative to the size of what it compares, and holds it against a limit. B rows, T tokens.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.config import composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError, one_line
from gpt_lab.infer.cache import Cache
from gpt_lab.infer.generate import context_limit
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.objective.base import IGNORED, Objective, Sequences
from gpt_lab.train.leak_probe import causality

VOCABULARY, ROWS, STEPS, SEED = 32, 3, 20, 7
SIZES = (
    "scale.depth=2",
    "scale.width=32",
    "scale.heads=4",
    "scale.context=24",
    "batch.tokens=96",
    "model.dropout=0",
    "device=cpu",
)
"""The tiny model: a check that fails here fails at every size, and one that holds takes milliseconds."""
EXACT = 1e-4
"""Relative error of sums in another order, in fp32, through two layers with large weights."""
PIECES = (5, 1, 1, 9, 1, 3)
"""Lengths in which a text is read, over and over."""
GAIN = 3.0
"""Factor on matrices: with GPT-2's small weights, attention is nearly even and hides mistakes."""


@dataclass(frozen=True)
class Finding:
    """One check: its name, the largest relative error, the limit, and what there is to say."""

    name: str
    error: float
    limit: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


def contract(words: Sequence[str]) -> Iterator[Finding]:
    """All checks on the model that these overrides compose, at a tiny size; one by one, as they are done.

    An objective on pairs gets pairs; of one that samples what it learns from, the rest is told as unchecked.

    Args:
        words: overrides such as `attention=mine attention.heads=2`; sizes among them count, and compile=off leaves out
            torch.compile, which takes many seconds.

    Raises:
        ConfigError: the overrides fit to no model.
    """
    cfg = small(words)
    model = drawn(cfg)
    yield leaks(cfg)
    if model.shape.causal:
        yield decoding(model)
        yield lengths(model)
    yield documents(model)
    if registry.load("objective", cfg.objective["name"]).rows == "conversations":  # what is sampled of noise is noise
        yield Finding("gradients", 0.0, 0.0, "not checked, nor training nor compiling: it learns from what it samples")
        return
    yield gradients(cfg)
    yield training(cfg)
    if cfg.compile != "off":
        yield same_when_compiled(cfg)


def small(words: Sequence[str]) -> RunConfig:
    """The config of these overrides at a tiny size, but for sizes among them.

    Raises:
        ConfigError: they fit to no model.
    """
    stated = {word.partition("=")[0] for word in words}
    return composition.compose([*(size for size in SIZES if size.partition("=")[0] not in stated), *words])


def drawn(cfg: RunConfig) -> GPT:
    """The model with weights so large that mistakes show; a matrix of zeros would hide all that it is multiplied by."""
    model = GPT(cfg, VOCABULARY)
    initialize(model, cfg)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
            elif parameter.ndim > 1 and not name.endswith("conv.weight"):
                parameter.mul_(GAIN)
    model.choose_kernels("cpu", "fp32")
    return model.eval()


def leaks(cfg: RunConfig) -> Finding:
    """Later tokens, other rows and other documents change nothing."""
    for masked in (False, True):
        try:
            causality.check_ahead(replace(cfg, batch=replace(cfg.batch, document_mask=masked)), VOCABULARY)
        except ConfigError as error:
            return Finding("leaks", 1.0, 0.0, str(error))
    return Finding("leaks", 0.0, 0.0)


@torch.no_grad()
def decoding(model: GPT) -> Finding:
    """Logits of a text read in pieces and token by token, beyond the training context where positions allow."""
    limit = context_limit(model)
    length = 2 * model.shape.context if limit is None else limit
    tokens_BT, positions_T = _tokens(length), torch.arange(length)
    whole_BTV = model(tokens_BT)
    cache, pieces, first, turn = Cache(), [], 0, 0
    while first < length:
        last = min(first + PIECES[turn % len(PIECES)], length)
        pieces.append(model(tokens_BT[:, first:last], positions_T=positions_T[first:last], states=cache))
        if not cache.read(model, last - first):
            return Finding("decoding", 0.0, EXACT, "keeps no state: each new token reads the whole text again")
        first, turn = last, turn + 1
    return Finding("decoding", _error(torch.cat(pieces, 1), whole_BTV), EXACT, f"{cache.nbytes:,} bytes of state")


@torch.no_grad()
def lengths(model: GPT) -> Finding:
    """Rows of different lengths, padded at their end, against each row alone."""
    context = model.shape.context
    tokens_BT = _tokens(context)
    together_BTV = model(tokens_BT)
    error = 0.0
    for row, length in enumerate((context, context // 2 + 1, 3)):
        alone_BTV = model(tokens_BT[row : row + 1, :length])
        error = max(error, _error(together_BTV[row : row + 1, :length], alone_BTV))
    return Finding("lengths", error, EXACT)


@torch.no_grad()
def documents(model: GPT) -> Finding:
    """Two documents in a row, under the document mask, against each alone at its positions."""
    context = model.shape.context
    tokens_BT, cut = _tokens(context), context // 2 - 1
    documents_BT = (torch.arange(context) >= cut).long().expand(ROWS, -1).contiguous()
    packed_BTV = model(tokens_BT, documents_BT=documents_BT)
    error = 0.0
    for part in (slice(0, cut), slice(cut, context)):
        alone_BTV = model(tokens_BT[:, part], positions_T=torch.arange(context)[part])
        error = max(error, _error(packed_BTV[:, part], alone_BTV))
    return Finding("documents", error, EXACT)


def gradients(cfg: RunConfig) -> Finding:
    """Parameters that a step leaves without a gradient, or with one that is not finite, in fp32 or bf16."""
    lost: list[str] = []
    for dtype in (None, torch.bfloat16):
        model = drawn(cfg).train()
        with torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext():
            _loss(model, cfg)(_tokens(model.shape.context + 1)).backward()
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            if gradient is None or not bool(gradient.isfinite().all()) or not bool(gradient.any()):
                lost.append(name + (" (bf16)" if dtype else ""))
    said = f"no finite gradient other than 0: {', '.join(lost[:3])}" if lost else ""
    return Finding("gradients", float(len(lost)), 0.0, said)


def training(cfg: RunConfig) -> Finding:
    """The loss of the last of 20 steps relative to the first: it must fall by a tenth at least."""
    model = GPT(cfg, VOCABULARY)
    initialize(model, cfg)
    model.choose_kernels("cpu", "fp32")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss_of = _loss(model, cfg)
    place_T = torch.arange(model.shape.context + 1)
    tokens_BT = torch.stack([(place_T * step + 1) % 7 for step in (1, 2, 3)])  # each row repeats itself
    losses = []
    learners: list[Any] = [part for part in model.modules() if hasattr(part, "after_step")]
    for _ in range(STEPS):
        loss = loss_of(tokens_BT)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for part in learners:
            part.after_step()
        losses.append(loss.item())
    ratio = losses[-1] / losses[0]
    return Finding("training", ratio, 0.9, f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {STEPS} steps")


def same_when_compiled(cfg: RunConfig, backend: str = "inductor") -> Finding:
    """The loss of two packed documents and all its gradients under torch.compile, as one graph, against eager."""
    found: list[tuple[Tensor, Tensor]] = []
    for wrap in (
        lambda function: function,
        lambda function: torch.compile(function, dynamic=False, fullgraph=True, backend=backend),
    ):
        model = drawn(cfg).train()
        tokens_BT = _tokens(model.shape.context + 1)
        documents_BT = (torch.arange(model.shape.context) >= model.shape.context // 2 - 1).long().expand(ROWS, -1)
        try:
            loss = wrap(_loss(model, cfg))(tokens_BT, documents_BT.contiguous())
            loss.backward()
        except Exception as error:
            if not found:  # eager
                raise
            return Finding("compiled", float("inf"), 1e-3, one_line(str(error), 200))
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat(gradients)))
    return Finding("compiled", max(_error(ours, theirs) for ours, theirs in zip(found[1], found[0], strict=True)), 1e-3)


def _loss(model: GPT, cfg: RunConfig) -> Callable[..., Tensor]:
    """What the config's objective minimises, every random draw the same at each call."""
    objective: Objective = registry.build("objective", cfg.objective)
    if objective.teacher is not None:
        objective.teacher_model = GPT(cfg, VOCABULARY)
        initialize(objective.teacher_model, replace(cfg, seed=cfg.seed + 1))
    keys_B = row_keys(SEED, 0, torch.arange(ROWS)) if objective.draws else None
    if objective.refers:
        objective.teacher_model = copy.deepcopy(model).requires_grad_(False)

    def loss(tokens_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        if objective.rows == "pairs":  # of answers that are a row's second half: as it is, and each token one off
            half = tokens_BT.shape[1] // 2
            other_BT = torch.cat((tokens_BT[:, :half], (tokens_BT[:, half:] + 1) % VOCABULARY), 1)
            tokens_BT = torch.stack((tokens_BT, other_BT), 1).flatten(0, 1)
            targets_BT = torch.cat((torch.full_like(tokens_BT[:, :half], IGNORED), tokens_BT[:, half + 1 :]), 1)
            return objective.train(model, Sequences(tokens_BT[:, :-1], targets_BT)).loss
        return objective.train(model, Sequences(tokens_BT[:, :-1], tokens_BT[:, 1:], documents_BT, keys_B)).loss

    return loss


def _tokens(length: int) -> Tensor:
    return torch.randint(VOCABULARY, (ROWS, length), generator=torch.Generator().manual_seed(5))


def _error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value; infinite where something is no number."""
    if not bool(ours.isfinite().all() and theirs.isfinite().all()):
        return float("inf")
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).item()
