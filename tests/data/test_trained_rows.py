"""Training on rows that are packed, padded, grow or are mixed: padding counts nowhere, and sums are exact."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost.flops import cost_of
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.objective.base import IGNORED, Sequences
from gpt_lab.train.feed import Feed
from gpt_lab.train.leak_probe import padding
from gpt_lab.train.resolve_auto import resolve
from gpt_lab.train.validation.evaluate import by_weight
from tests.helpers import tiny_config
from tests.train.train_helpers import curve, train

Make = Callable[..., RunConfig]
BUCKETED = {"batch.packing": "bucketed", "batch.tokens": 128, "scale.context": 32}


@pytest.fixture
def make(config: Make, tmp_path: Path) -> Make:
    """A config whose runs are in the test's folder."""
    return lambda **overrides: config(**{"runs_dir": str(tmp_path / "runs"), **overrides})


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, Any]:
    """Documents of 1 to 9 words."""
    path = tmp_path / "rows.jsonl"
    texts = (" ".join(f"word{(i * j) % 7}" for j in range(1 + i * i % 9)) for i in range(200))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return {"name": "jsonl", "path": str(path)}


@pytest.mark.parametrize(
    "settings", [{}, {"batch.document_mask": True, "batch.micro": 1}, {"attention": "gated_deltanet"}]
)
def test_padding_is_not_in_the_loss(settings: dict[str, Any], make: Make, rows: dict[str, Any]) -> None:
    """Loss and gradients of padded rows, in micro-batches, are those of each document alone without padding."""
    cfg = make(data=rows, **BUCKETED, **settings)
    dataset = open_dataset(cfg)
    model, objective = GPT(cfg, dataset.vocab_size), registry.build("objective", cfg.objective)
    initialize(model, cfg)
    model.choose_kernels("cpu", "fp32", documents=cfg.batch.document_mask)
    feed = Feed(dataset, "cpu", cfg.batch.micro, None)
    read = {step: dataset.batch(step) for step in range(60)}
    padded_steps = [step for step, batch in read.items() if bool((batch.targets_BT == IGNORED).any())]
    for step in {read[step].tokens_BT.shape[1]: step for step in padded_steps}.values():  # one of each length
        model.zero_grad()
        batch = feed.take(step)
        loss = sum(m.share * objective.train(model, Sequences(*m[:4])).loss for m in batch.micro)
        loss.backward()
        padded = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        model.zero_grad()
        nats, count = torch.zeros(()), 0
        whole = read[step]
        for tokens_T, targets_T in zip(whole.tokens_BT, whole.targets_BT, strict=True):
            real = int((targets_T != IGNORED).sum())
            if real:
                logits_TV = model(tokens_T[None, :real])[0]
                nats = nats + torch.nn.functional.cross_entropy(logits_TV, targets_T[:real], reduction="sum")
                count += real
        assert 0 < count == batch.targets < whole.targets_BT.numel()
        (nats / count).backward()
        assert math.isclose(loss.item(), nats.item() / count, rel_tol=1e-6)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(padded[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_budgets_and_sums_are_of_real_tokens(make: Make, rows: dict[str, Any]) -> None:
    cfg = make(data=rows, **BUCKETED, **{"budget.tokens": 900.0, "eval.tokens": 64})
    result = train(cfg)
    dataset = open_dataset(cfg)
    counted = [int((dataset.batch(step).targets_BT != IGNORED).sum()) for step in range(result.summary["steps"] + 1)]
    assert sum(counted[:-1]) == result.summary["tokens"] <= 900 < sum(counted), "as many steps as 900 tokens pay for"
    tokens = [row["tokens"] for row in curve(result.path) if "train/loss" in row]
    assert tokens == [sum(counted[: i + 1]) for i in range(len(tokens))]
    model = GPT(cfg, dataset.vocab_size)
    spent = sum(
        dataset.batch(step).tokens_BT.numel()
        * cost_of(model, context=dataset.batch(step).tokens_BT.shape[1]).train_flops_per_token
        for step in range(result.summary["steps"])
    )
    assert result.summary["flops"] == spent, "FLOPs are spent on padding too"
    plan, steps = resolve(cfg, dataset), result.summary["steps"]
    as_mfu = sum(
        dataset.batch(step).tokens_BT.numel()
        * cost_of(model, context=dataset.batch(step).tokens_BT.shape[1]).mfu_flops_per_token
        for step in range(3, steps)
    )
    assert plan.mfu_flops_per_token(dataset, 3, steps) == pytest.approx(as_mfu / sum(counted[3:steps]), rel=1e-12)
    assert result.summary["data/filled"] == dataset.packed.filled < 1  # type: ignore[union-attr]
    record = json.loads((result.path / "run.json").read_text())
    assert record["text"]["packing"] == str(dataset.packed)


def test_a_mixture_is_validated_by_weight_and_on_each(make: Make, rows: dict[str, Any], story: Path) -> None:
    sources = {"a": {**rows, "weight": 3}, "b": {"name": "text", "path": str(story)}}
    cfg = make(data={"name": "mix", "sources": sources}, **{"budget.steps": 4, "eval.contexts": [1, 2]})
    summary = train(cfg).summary
    for key in ("val/loss", "val/bpb", "val/bpb_2x"):
        assert summary[key] == pytest.approx(0.75 * summary[f"{key}/a"] + 0.25 * summary[f"{key}/b"], rel=1e-12)
    assert summary["val/ppl"] == pytest.approx(math.exp(summary["val/loss"]))
    assert summary["val/bpb/a"] != summary["val/bpb/b"]
    assert summary["val/targets"] == open_dataset(cfg).val_tokens - 1
    assert "floor/bigram" in summary


def test_what_one_source_lacks_the_mixture_lacks() -> None:
    found = by_weight({"a": {"val/loss": 2.0, "val/bpb": 1.0}, "b": {"val/loss": 4.0}}, {"a": 0.25, "b": 0.75})
    assert found == {"val/loss": 3.5, "val/loss/a": 2.0, "val/bpb/a": 1.0, "val/loss/b": 4.0}


@pytest.mark.parametrize("mlp", ["moe", "mod"])
def test_parts_that_learn_from_padding_are_refused(mlp: str) -> None:
    padding.check(tiny_config(mlp=mlp))
    with pytest.raises(
        ConfigError, match=r"batch.packing=bucketed: a part \(attention=mha, mlp=mo.\) also learns from"
    ):
        padding.check(tiny_config(mlp=mlp, **{"batch.packing": "bucketed"}))
    padding.check(tiny_config(**{"batch.packing": "bucketed"}))
