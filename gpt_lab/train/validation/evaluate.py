"""Validation: the same windows, in the same order, whatever is being trained."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gpt_lab.data.base import Batch, Dataset
from gpt_lab.data.dataset import share
from gpt_lab.metrics import BOUND, EXACT
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.objective.base import Objective, Sequences
from gpt_lab.train.feed import to_device
from gpt_lab.train.parallel.ranks import ALONE, Ranks
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
    ranks: Ranks = ALONE,
) -> dict[str, float] | None:
    """Metrics on about `limit` tokens spread evenly over the validation split (None: all of it).

    Args:
        seed: of what the objective draws, such as masks: each row's are the same at every evaluation of a run, and
            other ones under another seed, so that the spread over seeds holds their error too.
        ranks: those that share the batches, in turn; each has the same result. `interrupted` is the same in all.

    Returns:
        val/loss (nats per token), val/ppl, and val/bpb (bits per byte, or what they cannot exceed) for text that comes
        back from its tokens or val/accuracy (share of right answers) for synthetic tasks; of a mixture by weight, and
        val/loss/NAME and val/bpb/NAME of each source. None if `interrupted()` became true.
    """
    if dataset.parts:
        each = {}
        for name, part in dataset.parts.items():
            own = share(limit, dataset.weights[name])
            told = functools.partial(evaluate, rows=rows, seed=seed, limit=own, interrupted=interrupted, ranks=ranks)
            values = told(model, objective, precision, part)
            if values is None:
                return None
            each[name] = values
        return by_weight(each, dataset.weights)
    device = next(model.parameters()).device

    def score(batch: Batch, begin: int) -> Tensor:
        """Nats, targets and, where asked for, right answers of rows from number `begin` on."""
        keys_B = None
        if objective.draws:
            keys_B = row_keys(seed, 0, torch.arange(begin, begin + len(batch.tokens_BT))).to(device)
        given = Sequences(*to_device(batch, device), keys_B)
        with precision.autocast():
            found = objective.score(model, given, answers=not dataset.is_text or bool(objective.rows))
        return torch.stack([value.double() for value in found if value is not None])

    sums: list[Tensor] = []
    number = begin = 0
    was_training = model.training
    model.eval()
    try:
        for number, batch in enumerate(dataset.validation(rows, limit), 1):
            if number % ranks.number == 1 % ranks.number and interrupted():
                return None
            if (number - 1) % ranks.number == ranks.rank:
                sums.append(score(batch, begin))
            begin += len(batch.tokens_BT)
        if len(sums) * ranks.number < number:  # passes are made together
            sums.append(torch.zeros_like(score(batch, begin)))
    finally:
        model.train(was_training)
        ranks.forget()
    in_turn = torch.stack(ranks.gather(torch.stack(sums)), dim=1).flatten(0, 1)[:number]
    nats, count, *right = in_turn.sum(dim=0).tolist()
    per_token = dataset.bytes_per_token if objective.measure in (EXACT, BOUND) else None
    return metrics(nats, count, per_token) | ({"val/accuracy": right[0] / count} if right else {})


def by_weight(found: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> dict[str, float]:
    """Metrics of a mixture: the mean of its sources' by weight, and of each source those that are no perplexity.

    What one of them lacks, the mixture lacks; its perplexity is that of the mean loss.

    Args:
        found: the metrics of each source. weights: of the sources; their sum is 1.
    """
    first = next(iter(found.values()))
    shared = [key for key in first if all(key in own for own in found.values())]
    values = {key: sum(weights[name] * own[key] for name, own in found.items()) for key in shared}
    if "val/ppl" in values:
        values["val/ppl"] = perplexity(values["val/loss"])
    each = {f"{key}/{name}": value for name, own in found.items() for key, value in own.items() if key != "val/ppl"}
    return values | each


def perplexity(loss: float) -> float:
    """exp of nats per token; inf beyond the largest float."""
    return math.exp(loss) if loss < 700 else math.inf


def metrics(nll: float, targets: float, bytes_per_token: float | None) -> dict[str, float]:
    """val/loss, val/ppl and, where bytes are known, val/bpb from nats summed over `targets` tokens.

    Of a part of the split the bytes are taken to be as many per token as in the whole.
    """
    loss = nll / targets
    values = {"val/loss": loss, "val/ppl": perplexity(loss)}
    if bytes_per_token is not None:
        values["val/bpb"] = loss / (math.log(2) * bytes_per_token)
    return values
