"""Validation metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.data.base import Batch
from gpt_lab.data.dataset import open_dataset
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.train import precision
from gpt_lab.train.validation.evaluate import eval_rows, evaluate, metrics

Make = Callable[..., RunConfig]


def setting(cfg: RunConfig) -> tuple[GPT, Any, Any, Any]:
    dataset = open_dataset(cfg)
    model = GPT(cfg, dataset.vocab_size)
    initialize(model, cfg)
    return model, registry.build("objective", cfg.objective), precision.resolve("fp32", "cpu"), dataset


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_each_target_counts_once_whatever_the_rows(make: Make, rows: int) -> None:
    """Against the sum over the whole stream, window by window."""
    model, objective, fp32, dataset = setting(make())
    values = evaluate(model, objective, fp32, dataset, rows=rows)
    assert values is not None
    nll, count = 0.0, 0
    with torch.no_grad():
        for batch in dataset.validation(1):
            log_probs = model(batch.tokens_BT).log_softmax(dim=-1)
            for token, target in zip(log_probs[0], batch.targets_BT[0].tolist(), strict=True):
                if target != -100:
                    nll -= token[target].item()
                    count += 1
    assert count == dataset.val_tokens - 1
    assert math.isclose(values["val/loss"], nll / count, rel_tol=1e-5)
    assert math.isclose(values["val/bpb"], nll / math.log(2) / dataset.val_bytes, rel_tol=1e-5)


def test_regularisers_do_not_enter(make: Make) -> None:
    model, objective, fp32, dataset = setting(make())
    heavy = registry.build("objective", {"name": "ce", "label_smoothing": 0.3, "z_loss": 1.0})
    assert evaluate(model, heavy, fp32, dataset, rows=4) == evaluate(model, objective, fp32, dataset, rows=4)


def test_a_part_with_dropout_of_its_own_has_none(make: Make) -> None:
    """The lab's own dropout is keyed, and off where there are no keys; another package's follows model.eval()."""
    model, objective, fp32, dataset = setting(make())
    plain = evaluate(model, objective, fp32, dataset, rows=4, limit=100)
    model.blocks[0].mlp = torch.nn.Sequential(model.blocks[0].mlp, torch.nn.Dropout(0.5))
    model.train()
    assert evaluate(model, objective, fp32, dataset, rows=4, limit=100) == plain
    assert model.training


def test_dropout_is_off_and_comes_back(make: Make) -> None:
    model, objective, fp32, dataset = setting(make(**{"model.dropout": 0.5}))
    model.train()
    first = evaluate(model, objective, fp32, dataset, rows=4, limit=100)
    assert first == evaluate(model, objective, fp32, dataset, rows=4, limit=100)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_accuracy_counts_answers_only() -> None:
    """A model that is right on two of three counted targets."""
    targets_BT = torch.tensor([[1, 2, 3, -100]])

    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, tokens_BT: torch.Tensor, documents_BT: None) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.tensor([[1, 2, 0, 0]]), 5).float()

    def validation(rows: int, limit: int | None) -> Iterator[Batch]:
        yield Batch(torch.zeros(1, 4, dtype=torch.long), targets_BT, None)

    dataset = SimpleNamespace(parts={}, validation=validation, bytes_per_token=None, is_text=False)
    objective = registry.build("objective", {"name": "ce"})
    values = evaluate(Fixed(), objective, precision.resolve("fp32", "cpu"), dataset, rows=1)  # type: ignore[arg-type]
    assert values is not None
    assert values["val/accuracy"] == pytest.approx(2 / 3)
    assert "val/bpb" not in values


def test_an_interrupted_evaluation_has_no_result(make: Make) -> None:
    model, objective, fp32, dataset = setting(make())
    asked = iter([False, True])
    assert evaluate(model, objective, fp32, dataset, rows=1, interrupted=lambda: next(asked)) is None
    assert model.training


def test_bits_per_byte() -> None:
    assert metrics(10 * math.log(2), 5, 2.0) == {
        "val/loss": pytest.approx(2 * math.log(2)),
        "val/ppl": pytest.approx(4.0),
        "val/bpb": pytest.approx(1.0),
    }
    assert metrics(5000.0, 1, None) == {"val/loss": 5000.0, "val/ppl": math.inf}


@pytest.mark.parametrize(
    "tokenizer, tokens", [("byte", 11), ("char", 8), ({"name": "bpe", "vocab_size": 257, "fit_chars": 100}, 11)]
)
def test_bits_per_byte_of_a_model_that_knows_nothing(
    make: Make, tmp_path: Path, tokenizer: str | dict[str, Any], tokens: int
) -> None:
    """log2 V bits for each token of 4 documents of 11 bytes and for each of their 4 ends, whatever the tokenizer."""
    for name, texts in {"train": ["ab ü€\r\nx" * 9], "val": ["ab", "ü€", "x\r\n", "b"]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = {"name": "jsonl", "path": str(tmp_path / "train.jsonl"), "val_path": str(tmp_path / "val.jsonl")}
    model, objective, fp32, dataset = setting(make(data=data, tokenizer=tokenizer))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    values = evaluate(model, objective, fp32, dataset, rows=2)
    assert values is not None
    assert values["val/bpb"] == pytest.approx((tokens + 4) * math.log2(dataset.vocab_size) / 11, rel=1e-6)


def test_rows_fit_the_device() -> None:
    assert eval_rows("cpu", 64, 65) * 64 * 65 <= 2**20
    assert eval_rows("cpu", 1024, 50304) == 1
    assert eval_rows("cuda", 1024, 50304) * 1024 * 50304 <= 2**28
    assert eval_rows("cuda", 64, 65) * 64 <= 65536
