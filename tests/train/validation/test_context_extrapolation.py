"""Validation in windows longer than the training context."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt_lab import context_multiples, registry
from gpt_lab.config.schema import RunConfig, identity
from gpt_lab.data.base import Batch, Dataset
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.noise import records
from gpt_lab.store import all_runs
from gpt_lab.train import learner, precision, run_display, start
from gpt_lab.train.resolve_auto import resolve
from gpt_lab.train.state import Stopped
from gpt_lab.train.validation.context_extrapolation import evaluate_longer
from gpt_lab.train.validation.evaluate import evaluate
from tests.train.train_helpers import curve, quiet, said, train

Make = Callable[..., RunConfig]
FP32 = precision.resolve("fp32", "cpu")


def setting(cfg: RunConfig) -> tuple[GPT, Dataset]:
    """An untrained model whose attention matters: its weights are five times as large as usual."""
    dataset = open_dataset(cfg)
    model = GPT(cfg, dataset.vocab_size)
    initialize(model, cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv" in name or "embed" in name:
                parameter.mul_(5)
    model.eval()
    return model, dataset


def stream(dataset: Dataset) -> list[int]:
    """The validation text as the data set keeps it."""
    tokens: list[int] = dataset.shards.val.tolist()  # type: ignore[attr-defined]
    return tokens


@torch.no_grad()
def by_hand(model: GPT, tokens: list[int], length: int) -> list[float]:
    """Nats of every token but the first, each window of `length` read on its own, one at a time."""
    nats: list[float] = []
    for first in range(0, len(tokens) - 1, length):
        window = torch.tensor([tokens[first : first + length + 1]])
        log_probs = model(window[:, :-1]).log_softmax(dim=-1)
        nats += (-log_probs[0].gather(1, window[0, 1:, None]))[:, 0].tolist()
    return nats


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


@pytest.mark.parametrize("kernel", ["math", "sdpa"])
@pytest.mark.parametrize(
    "parts",
    [
        {"position": "rope"},
        {"position": "alibi", "attention": "gqa"},
        {"position": "sinusoidal"},
        {"position": "none", "attention": "sliding", "attention.qk_norm": "head"},
    ],
    ids=lambda parts: str(parts["position"]),
)
def test_against_windows_read_one_by_one(make: Make, parts: dict[str, Any], kernel: str) -> None:
    cfg = make(**parts, kernel=kernel)
    model, dataset = setting(cfg)
    values = evaluate_longer(model, cfg, FP32, dataset, (2, 4), rows=32)
    context, tokens = cfg.scale.context, stream(dataset)
    for block in model.blocks:
        block.attention.kernel = "math"  # type: ignore[union-attr,assignment]
    short = by_hand(model, tokens, context)
    for times in (2, 4):
        nats = by_hand(model, tokens, times * context)
        assert len(nats) == len(short) == dataset.val_tokens - 1, "the same targets at every length"
        past = [value for i, value in enumerate(nats) if i % (times * context) >= context]
        assert values[f"val/loss_{times}x"] == pytest.approx(mean(nats), rel=1e-5)
        assert values[f"val/bpb_{times}x"] == pytest.approx(math.fsum(nats) / math.log(2) / dataset.val_bytes, rel=1e-5)
        assert values[f"val/loss_beyond_{times}x"] == pytest.approx(mean(past), rel=1e-5)
    for part in (2, 3, 4):
        where = [i for i in range(len(nats)) if i // context % 4 == part - 1]
        excess = mean([nats[i] - short[i] for i in where])
        assert values[f"val/excess_4x_part{part}"] == pytest.approx(excess, abs=1e-5)
    assert len(values) == 6 + 3


def test_a_window_of_one_context_is_the_usual_validation(make: Make) -> None:
    """All of the excess together is the difference of the two means: 1x is the pass that makes val/loss."""
    cfg = make()
    model, dataset = setting(cfg)
    usual = evaluate(model, registry.build("objective", cfg.objective), FP32, dataset, rows=8)
    values = evaluate_longer(model, cfg, FP32, dataset, (2,), rows=8)
    assert usual is not None
    share = sum(i // cfg.scale.context % 2 for i in range(dataset.val_tokens - 1)) / (dataset.val_tokens - 1)
    whole = usual["val/loss"] + share * values["val/excess_2x_part2"]
    assert values["val/loss_2x"] == pytest.approx(whole, rel=1e-6)
    assert abs(values["val/excess_2x_part2"]) > 1e-3, "the test needs a context that matters"


@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
def test_what_no_layer_sees_changes_nothing(make: Make, position: str) -> None:
    """Two layers of a window of 5 see 9 tokens: past the context the loss is that of the last 9 tokens alone."""
    cfg = make(position=position, attention="sliding", **{"attention.window": 5, "attention.pattern": "S"})
    model, dataset = setting(cfg)
    assert cfg.scale.depth == 2 and cfg.scale.context > 9
    values = evaluate_longer(model, cfg, FP32, dataset, (4,), rows=32)
    tokens, length, context = stream(dataset), 4 * cfg.scale.context, cfg.scale.context
    past = [i for i in range(len(tokens) - 1) if i % length >= context]
    with torch.no_grad():
        seen = torch.tensor([tokens[i - 8 : i + 1] for i in past])
        log_probs = model(seen)[:, -1].log_softmax(dim=-1)
        nats = -log_probs.gather(1, torch.tensor([[tokens[i + 1]] for i in past]))
    assert values["val/loss_beyond_4x"] == pytest.approx(nats.mean().item(), rel=1e-5)


def test_rows_shrink_with_the_square_of_the_length(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make()
    model, dataset = setting(cfg)
    shapes: set[tuple[int, ...]] = set()
    usual = dataset.validation

    def watched(rows: int, limit: int | None = None, times: int = 1) -> Iterator[Batch]:
        for batch in usual(rows, limit, times):
            shapes.add(tuple(batch.tokens_BT.shape))
            yield batch

    monkeypatch.setattr(dataset, "validation", watched)
    evaluate_longer(model, cfg, FP32, dataset, (2, 4, 8), rows=32)
    context = cfg.scale.context
    assert shapes == {(32, context), (8, 2 * context), (2, 4 * context), (1, 8 * context)}


def test_the_kernel_is_that_of_the_length_and_comes_back(make: Make) -> None:
    model, _ = setting(make(kernel="auto"))
    names = [model.choose_kernels("cpu", "bf16", times=times)[0].name for times in (1, 1024)]
    assert names == ["math", "sdpa"]
    model.choose_kernels("cpu", "fp32")
    before = [block.attention.kernel for block in model.blocks]
    cfg = make(kernel="auto")
    model.train()
    evaluate_longer(model, cfg, FP32, open_dataset(cfg), (2,), rows=8)
    assert [block.attention.kernel for block in model.blocks] == before
    assert model.training


def test_a_run_reports_what_it_would_without_and_more(make: Make) -> None:
    plain = train(make())
    cfg = make(**{"eval.contexts": [1, 2, 4]}, study="longer")
    console = quiet()
    more = start.run_training(cfg, console, "train")
    added = {f"val/{name}_{k}x" for name in ("loss", "bpb", "loss_beyond") for k in (2, 4)}
    added |= {f"val/excess_4x_part{part}" for part in (2, 3, 4)}
    assert set(more.summary) - set(plain.summary) == added
    assert more.summary["val/loss"] == plain.summary["val/loss"]
    rows = curve(more.path)
    assert added <= rows[-1].keys()
    assert [{k: v for k, v in row.items() if k not in added} for row in rows] == curve(plain.path)
    assert "val bits per byte at 4x the context" in said(console)
    again = start.run_training(cfg, quiet())
    assert again.done and again.summary["val/bpb_4x"] == more.summary["val/bpb_4x"]


def test_a_finished_run_without_them_is_not_taken_for_one_with_them(make: Make) -> None:
    plain, more = make(), make(**{"eval.contexts": [1, 2]})
    resolved = {"device": "cpu"}
    assert plain.signature(resolved) != more.signature(resolved)
    assert plain.identity() != more.identity()
    older = {key: value for key, value in plain.flat().items() if key != "eval.contexts"}
    assert identity(older) == plain.identity(), "runs from before the key keep their identity"
    assert records.recipe(plain.flat()) == records.recipe(more.flat()), "and the noise of a recipe is that of both"


def test_stopped_at_the_last_validation_the_run_goes_on_there(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(make(**{"eval.contexts": [1, 2]}))
    cfg = make(**{"eval.contexts": [1, 2]}, study="stopped")
    usual = learner.evaluate_longer

    def signalled(*args: Any) -> dict[str, float]:
        caught = iter([None, signal.SIGTERM])
        return usual(*args[:-1], lambda: next(caught))

    with monkeypatch.context() as patch:
        patch.setattr(learner, "evaluate_longer", signalled)
        result = train(cfg)
    assert (result.state, result.exit_code) == ("stopped", 128 + signal.SIGTERM)
    assert "val/bpb_2x" not in result.summary
    result = train(cfg)
    assert result.state == "finished"
    assert curve(result.path) == curve(whole.path)
    assert result.summary["val/excess_2x_part2"] == whole.summary["val/excess_2x_part2"]


def test_a_signal_between_batches(make: Make) -> None:
    cfg = make()
    model, dataset = setting(cfg)
    with pytest.raises(Stopped):
        evaluate_longer(model, cfg, FP32, dataset, (2,), 8, lambda: signal.SIGINT)


def test_learned_positions_end_with_the_context(make: Make) -> None:
    cfg = make(**{"position": "learned", "eval.contexts": [1, 2, 4]})
    console = quiet()
    result = start.run_training(cfg, console)
    assert result.state == "finished"
    assert not [name for name in result.summary if context_multiples.split(name)[1] > 1]
    first = said(console).splitlines()[0]
    assert first == "position=learned has no positions beyond scale.context=16: it is not validated at 2x, 4x"


def test_a_split_that_fills_no_window(make: Make) -> None:
    cfg = make(**{"eval.contexts": [1, 1000]})
    with pytest.raises(DataError, match="1000 times scale.context=16 is 16000 tokens"):
        train(cfg)
    assert not list(all_runs(cfg.runs_dir, cfg.study))


@pytest.mark.parametrize("contexts", [[], [2, 4], [1, 1], [1, 4, 2], [1, 0], [1, 2.5], 4])
def test_contexts_begin_with_1_and_rise(make: Make, contexts: object) -> None:
    with pytest.raises(ConfigError, match=r"eval\.contexts"):
        make(**{"eval.contexts": contexts})


@pytest.mark.parametrize(("task", "answers"), [("copy", 32), ("induction", 1), ("mqar", 4)])
def test_synthetic_tasks_are_made_for_the_longer_context(make: Make, task: str, answers: int) -> None:
    data = {"name": "synthetic", "task": task, "symbols": 16, "val_sequences": 8}
    if task == "mqar":
        data["items"] = 4
    cfg = make(**{"data": data, "eval.contexts": [1, 4], "budget.steps": 2})
    dataset = open_dataset(cfg)
    longer = list(dataset.validation(3, times=4))
    tokens = torch.cat([batch.tokens_BT for batch in longer])
    targets = torch.cat([batch.targets_BT for batch in longer])
    assert tokens.shape[1] == 4 * cfg.scale.context
    assert int((targets != -100).sum()) == 8 * answers
    assert int(tokens.max()) < dataset.vocab_size, "no symbol that training lacks"
    summary = train(cfg).summary
    assert 0 <= summary["val/accuracy_4x"] <= 1
    assert {"val/bpb_4x", "val/loss_beyond_4x", "val/excess_4x_part2"}.isdisjoint(summary)


def test_a_document_mask_holds_in_longer_windows(make: Make, tmp_path: Path) -> None:
    """Without positions a token's loss is that of its document's tokens in the window, read on their own."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(60):
        (texts / f"{number}.txt").write_text("abc" * (number % 7 + 1), encoding="utf-8")
    cfg = make(
        position="none",
        data={"name": "text", "path": str(texts), "val_fraction": 0.5},
        tokenizer={"name": "byte", "eot": True},
        **{"batch.document_mask": True},
    )
    model, dataset = setting(cfg)
    values = evaluate_longer(model, cfg, FP32, dataset, (2,), rows=8)
    tokens, length = stream(dataset), 2 * cfg.scale.context
    eot = dataset.shards.eot  # type: ignore[attr-defined]
    assert tokens.count(eot) > 20
    nats = []
    with torch.no_grad():
        for i, target in enumerate(tokens[1:]):
            begin = max(j for j in range(i + 1) if tokens[j] == eot or j % length == 0)
            first = max(begin, i // length * length)
            nats.append(-model(torch.tensor([tokens[first : i + 1]]))[0, -1].log_softmax(-1)[target].item())
    assert values["val/loss_2x"] == pytest.approx(mean(nats), rel=1e-5)


def test_resolved_multiples(make: Make) -> None:
    assert resolve(make(), open_dataset(make())).longer == ()
    cfg = make(**{"eval.contexts": [1, 2, 8]})
    plan = resolve(cfg, open_dataset(cfg))
    assert (plan.longer, plan.notes) == ((2, 8), ())


def test_names() -> None:
    assert context_multiples.at("val/bpb", 1) == "val/bpb"
    assert context_multiples.split(context_multiples.at("val/bpb", 8)) == ("val/bpb", 8)
    assert context_multiples.split(context_multiples.at(context_multiples.BEYOND, 16)) == ("val/loss_beyond", 16)
    assert context_multiples.split(context_multiples.part(8, 3)) == (context_multiples.EXCESS, 8)
    assert context_multiples.split("val/bpb") == ("val/bpb", 1)
    rows = run_display.summary_rows({"val/accuracy": 0.5, "val/accuracy_2x": 0.25, "val/accuracy_16x": 0.125})
    assert [name for name, _ in rows] == ["val accuracy", *(f"val accuracy at {k}x the context" for k in (2, 16))]
