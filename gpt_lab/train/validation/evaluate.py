"""Validation: the same windows, in the same order, whatever is being trained."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gpt_lab.data.dataset import Dataset
from gpt_lab.metrics import BOUND, EXACT
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.objective.base import Objective, Sequences
from gpt_lab.train.feed import to_device
from gpt_lab.train.precision import Precision

CPU_LOGITS, CUDA_LOGITS = 2**20, 2**28
"""Largest number of logits held at once: on CPU about what the caches hold, on CUDA 1 GB in fp32."""


def eval_rows(device: str, context: int, vocab_size: int) -> int:
    """Rows per validation batch that make good use of the device."""
    most = CPU_LOGITS if device == "cpu" else CUDA_LOGITS
    return max(1, min(most // (context * vocab_size), 65536 // context))


@torch.no_grad()
def evaluate(
    model: GPT,
    objective: Objective,
    precision: Precision,
    dataset: Dataset,
    *,
    rows: int,
    seed: int = 0,
    limit: int | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Metrics on about `limit` tokens spread evenly over the validation split (None: all of it).

    Args:
        seed: of what the objective draws, such as masks: each row's are the same at every evaluation of a run, and
            other ones under another seed, so that the spread over seeds holds their error too.

    Returns:
        val/loss (nats per token), val/ppl, and val/bpb (bits per byte, or what they cannot exceed) for text that comes
        back from its tokens or val/accuracy (share of right answers) for synthetic tasks. None if `interrupted()`
        became true.
    """
    device = next(model.parameters()).device
    sums: list[Tensor] = []
    first = 0
    was_training = model.training
    model.eval()
    try:
        for batch in dataset.validation(rows, limit):
            if interrupted():
                return None
            keys_B = None
            if objective.draws:
                keys_B = row_keys(seed, 0, torch.arange(first, first + len(batch.tokens_BT))).to(device)
            first += len(batch.tokens_BT)
            given = Sequences(*to_device(batch, device), keys_B)
            with precision.autocast():
                found = objective.score(model, given, answers=not dataset.is_text)
            sums.append(torch.stack([value.double() for value in found if value is not None]))
    finally:
        model.train(was_training)
    nats, count, *right = torch.stack(sums).sum(dim=0).tolist()
    per_token = dataset.bytes_per_token if objective.measure in (EXACT, BOUND) else None
    return metrics(nats, count, per_token) | ({"val/accuracy": right[0] / count} if right else {})


def metrics(nll: float, targets: float, bytes_per_token: float | None) -> dict[str, float]:
    """val/loss, val/ppl and, where bytes are known, val/bpb from nats summed over `targets` tokens.

    Of a part of the split the bytes are taken to be as many per token as in the whole.
    """
    loss = nll / targets
    values = {"val/loss": loss, "val/ppl": math.exp(loss) if loss < 700 else math.inf}
    if bytes_per_token is not None:
        values["val/bpb"] = loss / (math.log(2) * bytes_per_token)
    return values
