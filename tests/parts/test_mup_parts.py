"""The coordinate check of every part under init=mup: what changes in it in a few steps is the same at every width.

Yang et al. 2022, arXiv:2203.03466, appendix D.1. A part that fails is refused, by `no_mup`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.optim.groups import groups
from gpt_lab.parts.mlp.grouped_experts import GatedExperts, Stacked
from gpt_lab.parts.objective.ce import CrossEntropy
from tests.helpers import tiny_config

KINDS = ("attention", "position", "norm", "mlp", "residual")
WIDTHS = dict.fromkeys(KINDS, (32, 128)) | {"position": (64, 256)}
"""Biases of positions are the same from larger widths on."""
STEPS, SEEDS, HEAD_DIM, VOCABULARY = 5, 1, 16, 64
GROWS, SHRINKS = 0.35, -0.45
"""Powers of width between which a change counts as the same: four times the width may be a factor of 1.6 or 1/1.9."""
WITH: dict[str, dict[str, Any]] = {
    "attention=rwkv7": {f"attention.{what}_rank": 8 for what in ("decay", "gate", "value")},
    "norm=dyt": {"norm.embed_scale": 4.0},
    "norm=derf": {"norm.embed_scale": 4.0},
    "position=sinusoidal": {"position.scaled": False},
}
"""Settings without which a part is refused."""


def config(kind: str, name: str, width: int, grow: str, seed: int = 0) -> RunConfig:
    """`grow` says what grows with width: the number of heads, or each head."""
    heads = width // HEAD_DIM if grow == "heads" else WIDTHS[kind][0] // HEAD_DIM
    return tiny_config(
        **{kind: name},
        init={"name": "mup", "base_width": WIDTHS[kind][0], "base_head_dim": HEAD_DIM},
        optim={"name": "adamw", "lr": 0.004, "weight_decay": 0.0},
        seed=seed,
        **WITH.get(f"{kind}={name}", {}),
        **{"scale.width": width, "scale.heads": heads, "scale.depth": 2},
    )


def changes(cfg: RunConfig) -> dict[str, float]:
    """Root mean square of what STEPS steps change in the output of each module of the last block, and of the logits."""
    model = GPT(cfg, VOCABULARY)
    initialize(model, cfg)
    model.choose_kernels("cpu", "fp32")
    optimizer = registry.build("optim", cfg.optim).build(groups(model, registry.build("init", cfg.init, model.shape)))
    tokens = torch.randint(VOCABULARY, (4, 17), generator=torch.Generator().manual_seed(cfg.seed))
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, out: Any) -> None:
            if isinstance(out, Tensor):
                seen[name] = out.detach().float().clone()

        return hook

    for name, module in model.blocks[-1].named_modules():
        if not isinstance(module, Stacked | GatedExperts):  # their rows are other tokens at each step
            module.register_forward_hook(keep(name or "block"))
    _watch_biases(model, seen)
    first: dict[str, Tensor] = {}
    for step in range(STEPS + 1):
        losses: list[Tensor] = []
        logits = model(tokens[:, :-1], losses=losses)
        seen["logits"] = logits.detach().clone()
        first = first or dict(seen)
        if step < STEPS:
            loss, _, _ = CrossEntropy()(logits, tokens[:, 1:])
            (loss + sum(losses)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {name: (seen[name] - first[name]).square().mean().sqrt().item() for name in seen}


def _watch_biases(model: GPT, seen: dict[str, Tensor]) -> None:
    """Keeps what the position encoding adds to the scores of the last layer."""
    position: Any = model.position.at(model.shape.depth - 1)
    for name in ("bias", "content_bias"):
        plain = getattr(position, name)

        def watched(*args: Any, plain: Any = plain) -> Any:
            found = plain(*args)
            if isinstance(found, Tensor):
                seen["position"] = found.detach().clone()
            return found

        setattr(position, name, watched)


def growth(kind: str, name: str, grow: str) -> dict[str, float]:
    """The power of width that each change grows with: slope of its log over log width."""
    found = []
    for width in WIDTHS[kind]:
        each = [changes(config(kind, name, width, grow, seed)) for seed in range(SEEDS)]
        found.append({key: math.fsum(one[key] for one in each) / SEEDS for key in each[0]})
    moving = [key for key in found[0] if min(one[key] for one in found) > 0]
    return {key: float(np.polyfit(np.log(WIDTHS[kind]), [math.log(one[key]) for one in found], 1)[0]) for key in moving}


def refusal(cfg: RunConfig) -> str | None:
    """What init=mup says of a part; None: nothing."""
    try:
        GPT(cfg, VOCABULARY)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_coordinate_check(kind: str) -> None:
    """Of every part that is not refused; whether heads grow in number or in size, where a part sees them."""
    wrong = {}
    for name in registry.index()[kind]:
        for grow in ("heads", "head") if kind in ("attention", "position") else ("heads",):
            if refusal(config(kind, name, WIDTHS[kind][-1], grow)) is None:
                powers = growth(kind, name, grow)
                off = {key: round(power, 2) for key, power in powers.items() if not SHRINKS < power < GROWS}
                wrong |= {f"{kind}={name}, growing {grow}": off} if off else {}
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "where", "grow"),
    [
        ("attention", "gla", "attention.decay_up", "heads"),
        ("attention", "mla", "attention.kv_b_proj", "heads"),
        ("position", "cope", "position", "head"),
    ],
)
def test_what_a_latent_feeds_would_fail_without_its_role(
    kind: str, name: str, where: str, grow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("gpt_lab.optim.groups", "gpt_lab.model.gpt"):
        monkeypatch.setattr(f"{module}.init_roles", lambda model: {})
    assert not SHRINKS < growth(kind, name, grow)[where] < GROWS
