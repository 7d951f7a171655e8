"""+experiment=shakespeare_char is nanoGPT's config/train_shakespeare_char.py, and trains as nanoGPT does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from gpt_lab import registry
from gpt_lab.config import composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.optim.groups import groups
from gpt_lab.train.feed import Micro, StepBatch
from gpt_lab.train.precision import resolve
from gpt_lab.train.speed.eager import light_step, spare_compiler
from gpt_lab.train.step import Stepper
from tests.parity import released
from tests.parity.released import CONTEXT, SIZES, VOCAB, NanoGPT

CHARACTERS = 65
"""Of nanoGPT's file."""
RUNS = {
    "shakespeare_char": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch_size": 64}
    | {"dropout": 0.2, "max_iters": 5000, "parameters": 10_646_784},
    "shakespeare_char_cpu": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12}
    | {"dropout": 0.0, "max_iters": 2000, "parameters": 795_904},
}
"""What nanoGPT's file, and for the small one its README, sets; parameters as it counts them, without positions."""
RATE, LEAST, WARMUP, DECAY, BETAS, CLIP, EVERY = 1e-3, 1e-4, 100, 0.1, (0.9, 0.99), 1.0, 250


def rate(it: int, max_iters: int) -> float:
    """nanoGPT's get_lr."""
    if it < WARMUP:
        return RATE * (it + 1) / (WARMUP + 1)
    return LEAST + 0.5 * (1 + math.cos(math.pi * (it - WARMUP) / (max_iters - WARMUP))) * (RATE - LEAST)


def compose(name: str, *more: str) -> RunConfig:
    return composition.compose([f"+experiment={name}", *more])


@pytest.mark.parametrize("name", RUNS)
def test_sizes_and_rates(name: str) -> None:
    cfg, theirs = compose(name), RUNS[name]
    found: dict[str, Any] = {
        "n_layer": cfg.scale.depth,
        "n_head": cfg.scale.heads,
        "n_embd": cfg.scale.width,
        "block_size": cfg.scale.context,
        "batch_size": cfg.rows,
        "dropout": cfg.model.dropout,
        "max_iters": cfg.budget.steps,
    }
    model = GPT(cfg, CHARACTERS)
    found["parameters"] = sum(p.numel() for name, p in model.named_parameters() if name != "position.table")
    assert found == theirs
    assert cfg.attention["dropout"] == cfg.model.dropout
    assert cfg.eval.every == EVERY
    assert cfg.tokenizer["name"] == "char"
    schedule, steps = registry.build("schedule", cfg.schedule), theirs["max_iters"]
    for it in (0, 1, 50, 99, 100, 101, 102, 1000, steps // 2, steps - 1, steps):
        mine = cfg.optim["lr"] * schedule((it + 1) / (steps + 1), it)
        assert mine == pytest.approx(rate(it, steps), rel=1e-12), it
    assert cfg.optim["lr"] * schedule(1 / (steps + 1), 0) == pytest.approx(1e-3 / 101)


@pytest.mark.parametrize("name", RUNS)
def test_initial_values(name: str) -> None:
    cfg = compose(name)
    model = GPT(cfg, CHARACTERS)
    initialize(model, cfg)
    last = 0.02 / math.sqrt(2 * cfg.scale.depth)
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == 1).all(), "gains of norms; there is no bias"
            continue
        expected = last if key.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
        assert parameter.std().item() == pytest.approx(expected, rel=0.02), key
        assert abs(parameter.mean().item()) < 4 * expected / parameter.numel() ** 0.5, key


def test_steps_are_nanogpts() -> None:
    """The same weights and batches: the same losses, and weights after eight updates. Dropout, drawn apart, is off."""
    spare_compiler()
    steps, rows = 8, 6
    plain = ("model.dropout=0", "attention.dropout=0", f"batch.tokens={rows * CONTEXT}")
    cfg = compose("shakespeare_char", *SIZES, "scale.depth=2", *plain)
    model = GPT(cfg, VOCAB)
    initialize(model, cfg)
    model.choose_kernels("cpu", "fp32")
    theirs = NanoGPT()
    theirs.load_state_dict(_back(theirs, model))
    recipe = registry.build("optim", cfg.optim)
    optimizer = recipe.build(groups(model, registry.build("init", cfg.init, model.shape)))
    objective = registry.build("objective", cfg.objective)
    stepper = Stepper(model, optimizer, objective, resolve("fp32", "cpu"), recipe.clip, compiled=False)
    schedule = registry.build("schedule", cfg.schedule)
    decayed = [p for p in theirs.parameters() if p.dim() >= 2]
    rest = [p for p in theirs.parameters() if p.dim() < 2]
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}], lr=RATE, betas=BETAS
    )
    update = light_step(adam)
    generator = torch.Generator().manual_seed(0)
    for it in range(steps):
        tokens = torch.randint(VOCAB, (rows, CONTEXT + 1), generator=generator)
        x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        multiplier = schedule((it + 1) / 5001, it)
        outcome = stepper(StepBatch([Micro(x, y, None, None, 1.0)], y.numel()), multiplier)
        for group in adam.param_groups:
            group["lr"] = rate(it, 5000)
        loss = nn.functional.cross_entropy(theirs(x).flatten(0, 1), y.flatten())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), CLIP)
        update()
        adam.zero_grad(set_to_none=True)
        assert outcome.nll_sum.item() / y.numel() == pytest.approx(loss.item(), rel=1e-6)
        assert outcome.grad_norm.item() == pytest.approx(norm.item(), rel=1e-5)
    for key, weight in released.nanogpt_weights(dict(theirs.named_parameters())).items():
        torch.testing.assert_close(model.get_parameter(key), weight, rtol=0, atol=1e-6)


def _back(theirs: nn.Module, model: GPT) -> dict[str, torch.Tensor]:
    """Our weights under nanoGPT's names: the map run on the names themselves."""
    names = dict(theirs.named_parameters())
    to_ours = {id(weight): key for key, weight in released.nanogpt_weights(names).items()}
    return {name: model.get_parameter(to_ours[id(weight)]).detach() for name, weight in names.items()}
