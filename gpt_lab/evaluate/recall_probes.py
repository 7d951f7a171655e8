"""Probes of recall in the context, on tokens without words: what a layer can look up, whatever it was trained on.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gpt_lab.data.synthetic import IGNORED, Synthetic, TaskSizes
from gpt_lab.errors import ConfigError
from gpt_lab.evaluate.likelihood import CPU_LOGITS, CUDA_LOGITS
from gpt_lab.evaluate.subject import Subject
from gpt_lab.evaluate.task import Asked, Task, TaskResult, standard_error, task

Ints = np.ndarray[Any, Any]
TRAINED_ON = "synthetic"
SYMBOLS = 64
"""Most different tokens of an MQAR probe of a model that was trained on something else."""


@task("mqar")
class MultiQueryRecall(Task):
    """Key-value pairs, then each key again among noise: the share of values that are the likeliest token there.

    Paper: Arora et al. 2023, arXiv:2312.04927. A model trained on data=synthetic data.task=mqar is asked in its own
    symbols and number of pairs, on rows that it has not seen; another in tokens of its vocabulary.
    """

    text = False

    def check(self, subject: Subject, asked: Asked) -> None:
        self._plan(subject)

    def measure(self, subject: Subject, asked: Asked) -> TaskResult:
        plan, own = self._plan(subject)
        made = plan.examples(_seed(asked), 1, asked.items)
        size = subject.model.vocab_size
        names = np.arange(size) if own else asked.generator("mqar").permutation(size)[: plan.vocab_size]
        targets = np.where(made.targets == IGNORED, IGNORED, names[np.maximum(made.targets, 0)])
        right, nats = _answers(subject, names[made.tokens], targets)
        return _result(right, {"nats_per_answer": float(np.mean(nats)), "pairs": float(plan.items)})

    def _plan(self, subject: Subject) -> tuple[TaskSizes, bool]:
        """The sizes, and whether they are those that the model was trained on."""
        data, size = subject.cfg.data, subject.model.vocab_size
        own = data["name"] == TRAINED_ON and data.get("task") == "mqar"
        if not own and size < 4:
            raise ConfigError(f"tasks=mqar needs 4 different tokens, and the model has {size}")
        symbols = data["symbols"] if own else min(SYMBOLS, size)
        items = data["items"] if own else max(1, min(symbols // 2, subject.context // 16))
        return Synthetic(task="mqar", symbols=symbols, items=items).plan(subject.context), own


@task("induction")
class Induction(Task):
    """Random tokens, then the same again: the share of the second time that is the likeliest token.

    Paper: Olsson et al. 2022, arXiv:2209.11895. `gain` is the nats per token that the second time saves. A model
    trained on data=synthetic data.task=induction is asked what it was trained on instead, on rows that it has not seen.
    """

    text = False

    def check(self, subject: Subject, asked: Asked) -> None:
        if subject.context < 4:
            raise ConfigError(f"tasks=induction needs a context of 4 tokens, and the model has {subject.context}")

    def measure(self, subject: Subject, asked: Asked) -> TaskResult:
        self.check(subject, asked)
        data = subject.cfg.data
        if data["name"] == TRAINED_ON and data.get("task") == "induction":
            plan = Synthetic(task="induction", symbols=data["symbols"], items=data["items"]).plan(subject.context)
            made = plan.examples(_seed(asked), 1, asked.items)
            right, nats = _answers(subject, made.tokens, made.targets)
            return _result(right, {"nats_per_answer": float(np.mean(nats))})
        half = subject.context // 2
        once = asked.generator("induction").integers(subject.model.vocab_size, size=(asked.items, half))
        whole = np.concatenate([once, once], axis=1)
        right, nats = _answers(subject, whole[:, :-1], whole[:, 1:])
        again = slice(half, None)  # the first token of the second time cannot be known
        values = {"nats_first": float(nats[:, : half - 1].mean()), "nats_again": float(nats[:, again].mean())}
        return _result(right[:, again], values | {"gain": values["nats_first"] - values["nats_again"]})


def _seed(asked: Asked) -> int:
    """Apart from those of training and validation, which are runs' seeds."""
    return 2**31 + asked.seed


@torch.no_grad()
def _answers(subject: Subject, tokens: Ints, targets: Ints) -> tuple[Ints, Ints]:
    """Right or not, and nats, at each target that counts: (rows, targets of a row)."""
    device = next(subject.model.parameters()).device
    most = CUDA_LOGITS if device.type == "cuda" else CPU_LOGITS
    rows = max(1, most // (tokens.shape[1] * subject.model.vocab_size))
    right, nats = [], []
    for first in range(0, len(tokens), rows):
        tokens_BT = torch.from_numpy(tokens[first : first + rows]).to(device)
        targets_BT = torch.from_numpy(targets[first : first + rows]).to(device)
        logits_BTV = subject.model(tokens_BT).float()
        counted_BT = targets_BT != IGNORED
        chosen_BT = targets_BT.clamp_min(0)[..., None]
        nats_BT = -logits_BTV.log_softmax(-1).gather(-1, chosen_BT).squeeze(-1)
        right_BT = logits_BTV.argmax(-1) == targets_BT
        shape = (len(tokens_BT), -1)
        right.append(right_BT[counted_BT].view(shape).double().cpu().numpy())
        nats.append(nats_BT[counted_BT].view(shape).double().cpu().numpy())
    return np.concatenate(right), np.concatenate(nats)


def _result(right: Ints, values: dict[str, float]) -> TaskResult:
    by_row = right.mean(axis=1).tolist()
    return TaskResult(
        float(np.mean(by_row)), len(by_row), standard_error(by_row), values, [{"accuracy": one} for one in by_row]
    )
