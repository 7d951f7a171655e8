"""MLPs of two or three layers that no released model of transformers has, beside its modules of the same form."""

from __future__ import annotations

import torch
from torch import nn
from transformers import ArceeConfig, LlamaConfig
from transformers.models.arcee.modeling_arcee import ArceeMLP
from transformers.models.llama.modeling_llama import LlamaMLP

from gpt_lab import registry
from gpt_lab.parts.base import Shape
from tests.parity.case import Comparison, gradients, parity

SHAPE = Shape(depth=2, width=32, heads=4, context=16)
SIZES = {"hidden_size": 32, "intermediate_size": 48, "bos_token_id": 0, "eos_token_id": 1}


def against(name: str, theirs: nn.Module) -> Comparison:
    """The part of this name and their module, whose layers have the same names."""
    ours: nn.Module = registry.load("mlp", name)(SHAPE, 0, d_ff=48)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(0, 1.5 * parameter.shape[-1] ** -0.5, generator=generator)
    theirs.load_state_dict(ours.state_dict())
    found = []
    for side in (ours, theirs):
        x = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        output = side(x)
        found.append((output, gradients(output, [x, *side.parameters()])))
    (mine, my_gradients), (other, their_gradients) = found
    return Comparison([(mine, other)], list(zip(my_gradients, their_gradients, strict=True)))


@parity("mlp", "silu", "transformers.ArceeMLP")
def silu() -> Comparison:
    return against("silu", ArceeMLP(ArceeConfig(**SIZES, hidden_act="silu")))


@parity("mlp", "reglu", "transformers.LlamaMLP")
def reglu() -> Comparison:
    return against("reglu", LlamaMLP(LlamaConfig(**SIZES, hidden_act="relu")))
