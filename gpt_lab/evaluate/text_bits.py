"""Bits per byte of a text, by position in the window and by how much context there is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt_lab.data.dataset import TextDataset, open_dataset
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.evaluate.likelihood import CPU_LOGITS, CUDA_LOGITS, encode
from gpt_lab.evaluate.subject import Subject
from gpt_lab.evaluate.task import Asked, Task, TaskResult, standard_error, task

Ints = np.ndarray[Any, Any]
SHORTER = (8, 4, 2)
"""The context is divided by these where what less of it costs is measured."""


class _TextBits(Task):
    """Bits per byte in windows that do not overlap, each of the context's length, at most asked.items of them.

    `ppl` is the perplexity of a token. `bpb_at_A-B` is of the tokens with A to B tokens before them in their window,
    `bpb_context_N` of the same text in windows of N tokens; both take a token for as many bytes as the text's mean.
    """

    shown = "bits per byte"

    def bits(self, subject: Subject, tokens: Ints, bytes_per_token: float, asked: Asked) -> TaskResult:
        """Of a text's tokens; of the first nothing is said."""
        if len(tokens) < 2:
            raise DataError("the text is too short: it must have two tokens")
        unit = math.log(2) * bytes_per_token
        context = subject.context
        windows = -(-(len(tokens) - 1) // context)
        chosen = np.unique(np.linspace(0, windows - 1, min(windows, asked.items)).round().astype(int))
        nats = _nats(subject, tokens, chosen * context, context)
        loss = float(np.nanmean(nats))
        values = {"loss": loss, "ppl": math.exp(min(loss, 700.0))}
        begin = 0
        for end in sorted({1, *(2**power for power in range(1, 31) if 2**power < context), context}):
            if not np.isnan(part := nats[:, begin:end]).all():
                values[f"bpb_at_{begin + 1}-{end}"] = float(np.nanmean(part)) / unit
            begin = end
        for short in sorted({context // by for by in SHORTER} - {0, context}):
            offsets = np.arange(0, context, short)
            cut = _nats(subject, tokens, (chosen[:, None] * context + offsets).ravel(), short)
            own = offsets[:, None] + np.arange(short) < context  # the last piece may reach into the next window
            values[f"bpb_context_{short}"] = float(np.nanmean(cut[np.tile(own, (len(chosen), 1))])) / unit
        each = (np.nansum(nats, axis=1) / np.maximum((~np.isnan(nats)).sum(axis=1), 1) / unit).tolist()
        return TaskResult(loss / unit, len(each), standard_error(each), values, [{"bpb": one} for one in each])


@task("val_bpb")
class ValidationBits(_TextBits):
    """The validation text of the run's own data: with enough items, val/bpb of its end."""

    def check(self, subject: Subject, asked: Asked) -> None:
        self._text(subject)

    def measure(self, subject: Subject, asked: Asked) -> TaskResult:
        if subject.run is None:
            raise ConfigError(
                "tasks=val_bpb is of a run's own data, and a folder has none: give a text, tasks=FILE.txt"
            )
        return self.bits(subject, *self._text(subject), asked)

    def _text(self, subject: Subject) -> tuple[Ints, float]:
        """The tokens, and their bytes per token."""
        dataset = open_dataset(subject.cfg)
        if not isinstance(dataset, TextDataset):
            raise ConfigError(f"tasks=val_bpb is of one corpus, not of data={subject.cfg.data['name']}: tasks=FILE.txt")
        if dataset.bytes_per_token is None:
            raise DataError(f"tasks=val_bpb: no bits per byte: {dataset.lossy}")
        if subject.run is not None:
            trained_on = (subject.run.record.get("resolved") or {}).get("data")
            if dataset.fingerprint != trained_on:
                raise DataError(
                    f"tasks=val_bpb: data={subject.cfg.data['name']} is no longer what {subject.run.path} was trained "
                    f"on (fingerprint {dataset.fingerprint}, of the run {trained_on}): bring the text back, or give "
                    "one, tasks=FILE.txt"
                )
        return np.asarray(dataset.shards.val, dtype=np.int64), dataset.bytes_per_token


class FileBits(_TextBits):
    """The text of a file, as one document."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.content = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error

    def check(self, subject: Subject, asked: Asked) -> None:
        self._text(subject)

    def measure(self, subject: Subject, asked: Asked) -> TaskResult:
        return self.bits(subject, *self._text(subject), asked)

    def _text(self, subject: Subject) -> tuple[Ints, float]:
        """The tokens, and their bytes per token."""
        tokenizer = subject.needed_tokenizer
        ids = encode(tokenizer, self.content)
        if tokenizer.decode_bytes(ids) != self.content.encode():
            raise DataError(
                f"tasks={self.path}: no bits per byte: the text does not come back from the tokens that the model's "
                "tokenizer makes of it"
            )
        counted = len(self.content.encode()) - len(tokenizer.decode_bytes(ids[:1]))
        return np.array(ids, dtype=np.int64), counted / max(len(ids) - 1, 1)


@torch.no_grad()
def _nats(subject: Subject, tokens: Ints, starts: Ints, length: int) -> Ints:
    """Nats of each token but the first in windows (starts, length); NaN beyond the end of the text."""
    device = next(subject.model.parameters()).device
    most = CUDA_LOGITS if device.type == "cuda" else CPU_LOGITS
    rows = max(1, most // (length * subject.model.vocab_size))
    found = []
    for first in range(0, len(starts), rows):
        places = starts[first : first + rows, None] + np.arange(length + 1)
        windows = torch.from_numpy(tokens[np.minimum(places, len(tokens) - 1)]).to(device)
        logits_BTV = subject.model(windows[:, :-1]).float()
        nats_BT = -logits_BTV.log_softmax(-1).gather(-1, windows[:, 1:, None]).squeeze(-1)
        found.append(np.where(places[:, 1:] < len(tokens), nats_BT.double().cpu().numpy(), np.nan))
    return np.concatenate(found)
