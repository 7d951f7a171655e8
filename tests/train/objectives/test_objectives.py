"""Each objective through the trainer: it ends below what it began with, by a stated bound; what it says at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gpt_lab import registry
from gpt_lab.cli.trained import generate as command
from gpt_lab.config.composition import compose
from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.objective.base import NEXT
from gpt_lab.parts.objective.ce import CrossEntropy
from gpt_lab.store import Run
from gpt_lab.train import start
from gpt_lab.train.precision import resolve as precision
from gpt_lab.train.resolve_auto import resolve
from gpt_lab.train.validation.evaluate import evaluate
from tests.helpers import tiny_config
from tests.train.train_helpers import quiet, said, train

Make = Callable[..., RunConfig]
FAST = {"optim.lr": 0.01, "schedule.warmup": 0.1, "budget.steps": 40, "eval.every": 40, "sample.tokens": 6}
ENDS: dict[str, tuple[Any, float]] = {
    "mtp": ("mtp", 0.5),
    "mtp, parallel": ({"name": "mtp", "style": "parallel", "ahead": 2}, 0.5),
    "masked diffusion": ("masked_diffusion", 0.55),
    "mlm": ("mlm", 0.55),
}
"""Objective, and the share of the untrained model's validation loss that 40 steps of 64 tokens must get below."""
MTP = {"ahead": 2, "weight": 0.1, "style": "parallel"}


@pytest.mark.parametrize("name", ENDS)
def test_it_ends_below_its_untrained_loss(name: str, make: Make) -> None:
    objective, share = ENDS[name]
    cfg = make(objective=objective, **FAST)
    dataset = open_dataset(cfg)
    model = GPT(cfg, dataset.vocab_size)
    initialize(model, cfg)
    measure = registry.build("objective", cfg.objective)
    before = evaluate(model, measure, precision("fp32", "cpu"), dataset, rows=32)
    console = quiet()
    result = start.run_training(cfg, console, "train")
    assert before is not None and result.summary["val/loss"] < share * before["val/loss"]
    run, text = Run.open(result.path), said(console)
    samples = list(run.samples.glob("*.txt"))
    if name == "mlm":
        assert "val/bpb" not in result.summary and "no bits per byte: objective=mlm measures nats of a masked" in text
        assert "continue a text" not in text and not samples
        with pytest.raises(ConfigError, match="cannot continue a text"):
            command.run([f"run={run.path}", "device=cpu"])
    else:
        assert len(samples) == 1 and "continue a text" in text
        assert command.run([f"run={run.path}", "device=cpu", "max_tokens=3"]) == 0
        assert ("val bpb is at most" in text) == (name == "masked diffusion")
    assert run.record["text"].get("measure", "exact") == measure.measure
    assert run.record["text"].get("generates", NEXT) == measure.generates


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"objective": "mlm", "attention": "mamba"}, "attention=mamba looks at earlier tokens only: use attention=mha"),
        ({"objective": "mlm", "attention": "sliding"}, "attention=sliding looks at earlier tokens only"),
        ({"objective": "masked_diffusion", "position": "alibi"}, "position=alibi looks at earlier tokens only: use"),
        ({"objective": "mlm", "data": "synthetic"}, "objective=mlm predicts any token of a text, and data=synthetic"),
        ({"objective": "mlm", "eval.contexts": [1, 2]}, "eval.contexts is of next-token losses"),
        (
            {"objective": "mlm", "batch.document_mask": True, "tokenizer": {"name": "byte", "eot": True}},
            "objective=mlm has no batch.document_mask",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(settings: dict[str, Any], line: str, make: Make) -> None:
    cfg = make(**settings)
    with pytest.raises(ConfigError, match=line):
        resolve(cfg, open_dataset(cfg))


def test_each_is_another_run_and_so_is_each_of_its_options() -> None:
    found = [tiny_config(objective=name) for name in registry.index()["objective"]]
    found += [tiny_config(objective="mtp", **{f"objective.{key}": value}) for key, value in MTP.items()]
    found += [tiny_config(objective="mlm", **{f"objective.{key}": 0.05}) for key in ("rate", "masked", "random")]
    found += [tiny_config(objective="distill", **{f"objective.{key}": 0.2}) for key in ("alpha", "temperature")]
    found += [tiny_config(objective="masked_diffusion", **{"objective.val_draws": 2})]
    assert len({cfg.signature({}) for cfg in found}) == len({cfg.identity() for cfg in found}) == len(found)


def test_masks_of_validation_are_a_pairs_own() -> None:
    seeds = [tiny_config(**one).validation_seed for one in ({}, {"seed": 1}, {"replica": 1}, {"batch.seed": 7})]
    assert len(set(seeds)) == 4
    assert tiny_config(objective="mlm", attention="gqa", seed=1).validation_seed == seeds[1]


def test_settings_without_an_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sample.tokens would change nothing: objective=mlm writes no text"):
        compose(["objective=mlm", "sample.tokens=5"])
    with pytest.raises(ConfigError, match=r"schedule.weight_decay would change nothing: optim=adam has no"):
        compose(["optim=adam", "schedule.weight_decay=linear"])


def test_a_class_without_the_base_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "build", lambda kind, *rest: object())
    with pytest.raises(ConfigError, match=r"objective=ce is no Objective"):
        GPT(make(), 256)


def test_both_ways_every_place_sees_all_and_the_tokens_start_as_they_would(make: Make) -> None:
    import torch

    plain, both = (GPT(make(objective=name, **{"model.vocab_multiple": 64}), 250) for name in ("ce", "mlm"))
    for model, name in ((plain, "ce"), (both, "mlm")):
        initialize(model, make(objective=name))
    assert torch.equal(plain.embed.weight[:250], both.embed.weight[:250])
    assert both.embed.weight[250].any() and not both.embed.weight[251:].any()
    tokens_BT = torch.randint(250, (1, 16))
    other_BT = tokens_BT.clone()
    other_BT[0, -1] = (tokens_BT[0, -1] + 1) % 250
    changed = (both(tokens_BT) != both(other_BT)).any(-1)
    assert changed.all() and not (plain(tokens_BT) != plain(other_BT)).any(-1)[0, :-1].any()
    context = 16
    causal, all_keys = (model.blocks[0].attention.flops_per_token(context) for model in (plain, both))  # type: ignore[operator]
    assert all_keys - causal == 4 * 32 * (context - (context + 1) / 2)


def test_validation_is_the_labs_own_whatever_is_trained(make: Make) -> None:
    """An objective cannot change what a causal model's validation measures, only what it is trained on."""
    cfg = make(**{"budget.steps": 2})
    dataset = open_dataset(cfg)
    model = GPT(cfg, dataset.vocab_size)
    initialize(model, cfg)
    heavy = CrossEntropy(label_smoothing=0.4, z_loss=2.0)
    fp32 = precision("fp32", "cpu")
    assert evaluate(model, heavy, fp32, dataset, rows=9) == evaluate(model, CrossEntropy(), fp32, dataset, rows=9)
    assert train(make(objective={"name": "mtp"}, **{"budget.steps": 2})).summary["val/bpb"] > 0
