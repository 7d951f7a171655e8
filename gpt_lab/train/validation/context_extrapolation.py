"""Validation of the final weights at contexts longer than they were trained on. B rows, T tokens, P parts.

The validation text is cut into windows of k training contexts, side by side, and every target is counted once: the same
targets at every k, the last and shorter window included, so k = 1 is the ordinary validation. The first context's
length of a window is what k = 1 sees too; so the loss is also taken by the place in the window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab import context_multiples
from gpt_lab.config.schema import RunConfig
from gpt_lab.data.base import Dataset
from gpt_lab.errors import DataError
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.objective.base import IGNORED
from gpt_lab.train.feed import to_device
from gpt_lab.train.precision import Precision
from gpt_lab.train.state import Stopped
from gpt_lab.train.validation.evaluate import by_weight


def longer(
    cfg: RunConfig, dataset: Dataset, model: GPT, device: str, precision: Precision
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The multiples of eval.contexts beyond 1 that can be measured, and what there is to say of the others.

    Raises:
        ConfigError: the attention kernel asked for cannot do a longer context.
        DataError: the validation split does not fill one window.
    """
    wanted = tuple(cfg.eval.contexts[1:])
    if not wanted:
        return (), ()
    shown = ", ".join(f"{times}x" for times in wanted)
    if not model.position.extrapolates:
        name, context = cfg.position["name"], cfg.scale.context
        note = f"position={name} has no positions beyond scale.context={context}: it is not validated at {shown}"
        return (), (note,)
    length = wanted[-1] * cfg.scale.context
    least = min((part.val_tokens for part in dataset.parts.values()), default=dataset.val_tokens)
    if dataset.is_text and least <= length:
        raise DataError(
            f"eval.contexts: {wanted[-1]} times scale.context={cfg.scale.context} is {length} tokens, and the "
            f"validation split has {least}: leave {wanted[-1]} out, or hold out more text"
        )
    try:
        for times in wanted:
            model.choose_kernels(device, precision.products, documents=cfg.batch.document_mask, times=times)
    finally:
        model.choose_kernels(device, precision.products, documents=cfg.batch.document_mask)
    return wanted, ()


@torch.no_grad()
def evaluate_longer(
    model: GPT,
    cfg: RunConfig,
    precision: Precision,
    dataset: Dataset,
    multiples: Sequence[int],
    rows: int,
    caught: Callable[[], int | None] = lambda: None,
) -> dict[str, float]:
    """Metrics over the whole validation set in windows of each multiple of the context.

    Args:
        multiples: above 1, rising.
        rows: windows of one context per batch; of k contexts a k²-th, which bounds scores and masks like those.
        caught: the number of a signal that asks to stop, or None.

    Returns:
        For each k val/loss_kx (nats per token), and for text val/bpb_kx and val/loss_beyond_kx, for synthetic tasks
        val/accuracy_kx; for text and the largest k also val/excess_kx_part2 to partk. Of a mixture as in `evaluate`.

    Raises:
        Stopped: a signal came.
    """
    if dataset.parts:
        found = {
            name: evaluate_longer(model, cfg, precision, part, multiples, rows, caught)
            for name, part in dataset.parts.items()
        }
        return by_weight(found, dataset.weights)
    device = next(model.parameters()).device
    bytes_per_token = dataset.bytes_per_token

    def measure(times: int, parts: int) -> Tensor:
        """Nats, targets, right answers (P, 3): context's lengths of text are dealt out to the parts in turn."""
        model.choose_kernels(device, precision.products, documents=cfg.batch.document_mask, times=times)
        sums = torch.zeros(parts, 3, dtype=torch.float64, device=device)
        first = 0
        for batch in dataset.validation(max(1, rows // times**2), times=times):
            if (number := caught()) is not None:
                raise Stopped(number)
            sums += _sums(model, precision, to_device(batch, device), first, cfg.scale.context, parts)
            first += len(batch.tokens_BT) * times
        return sums.cpu()

    values: dict[str, float] = {}
    was_training = model.training
    model.eval()
    try:
        for times in multiples:
            sums = measure(times, times)
            nats, targets, right = sums.sum(dim=0).tolist()
            values[context_multiples.at("val/loss", times)] = nats / targets
            if not dataset.is_text:
                values[context_multiples.at("val/accuracy", times)] = right / targets
                continue
            if bytes_per_token is not None:
                values[context_multiples.at("val/bpb", times)] = nats / targets / (math.log(2) * bytes_per_token)
            nats, targets, _ = sums[1:].sum(dim=0).tolist()
            values[context_multiples.at(context_multiples.BEYOND, times)] = nats / targets
        if multiples and dataset.is_text:
            same = measure(1, times)
            for number in range(2, times + 1):
                excess = (sums[number - 1, 0] - same[number - 1, 0]) / same[number - 1, 1]
                values[context_multiples.part(times, number)] = excess.item()
    finally:
        model.choose_kernels(device, precision.products, documents=cfg.batch.document_mask)
        model.train(was_training)
    return values


def _sums(
    model: GPT, precision: Precision, batch: tuple[Tensor, Tensor, Tensor | None], first: int, context: int, parts: int
) -> Tensor:
    """Nats, targets and right answers (P, 3) of a batch whose first token begins the `first` context's length."""
    tokens_BT, targets_BT, documents_BT = batch
    with precision.autocast():
        logits_BTV = model(tokens_BT, documents_BT=documents_BT)
    log_probs_NV = F.log_softmax(logits_BTV.flatten(0, 1), dim=-1, dtype=torch.float32)
    nats_N = F.nll_loss(log_probs_NV, targets_BT.flatten(), ignore_index=IGNORED, reduction="none")
    counted_N = (targets_BT != IGNORED).flatten()
    right_N = (logits_BTV.argmax(dim=-1) == targets_BT).flatten() & counted_N
    part_N = (first + torch.arange(len(nats_N), device=nats_N.device) // context) % parts
    each_N3 = torch.stack([nats_N.double(), counted_N.double(), right_N.double()], dim=1)
    return torch.zeros(parts, 3, dtype=torch.float64, device=nats_N.device).index_add_(0, part_N, each_N3)
