"""Parameters get the rule of their role."""

from __future__ import annotations

import torch
from torch import nn

from gpt_lab.optim.adam import AdamW
from gpt_lab.optim.groups import groups
from gpt_lab.parts.base import Role, Shape
from gpt_lab.parts.init import MuP, Normal


class Attention(nn.Module):
    """Just enough of an attention part: 4 query heads, 2 key/value heads of 8."""

    heads, kv_heads, head_dim = 4, 2, 8

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 64)
        self.o_proj = nn.Linear(32, 32, bias=False)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 32)
        self.attention = Attention()
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10, bias=False)
        self.head.weight = self.embed.weight
        self.frozen = nn.Linear(3, 3, bias=False)
        self.frozen.weight.requires_grad_(False)


SHAPE = Shape(depth=1, width=32, heads=4, context=8)


def test_every_trainable_parameter_once() -> None:
    model = Tied()
    found = groups(model, Normal(SHAPE))
    names = [name for group in found for name, _ in group.params]
    expected = {"embed.weight", "attention.qkv.weight", "attention.qkv.bias", "attention.o_proj.weight"}
    assert sorted(names) == sorted(expected | {"norm.weight", "norm.bias"})
    assert {group.role: [name for name, _ in group.params] for group in found}["embedding"] == ["embed.weight"]


def settings(recipe: AdamW, model: nn.Module, init: Normal | MuP, key: str) -> dict[str, float]:
    """What the optimizer's groups say under `key` for each parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = recipe.build(groups(model, init))
    return {names[id(p)]: group[key] for group in optimizer.param_groups for p in group["params"]}


def test_only_vectors_are_spared_from_decay() -> None:
    assert settings(AdamW(weight_decay=0.3), Tied(), Normal(SHAPE), "weight_decay") == {
        "embed.weight": 0.3,
        "attention.qkv.weight": 0.3,
        "attention.o_proj.weight": 0.3,
        "attention.qkv.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
    }


def test_base_lr_has_the_multiplier_of_the_init() -> None:
    model, init = Tied(), MuP(SHAPE, base_width=8)
    rates = settings(AdamW(lr=0.1), model, init, "base_lr")
    hidden = {"attention.qkv.weight", "attention.o_proj.weight"}
    assert rates == {name: 0.025 if name in hidden else 0.1 for name in rates}
    assert settings(AdamW(lr=0.1), model, init, "lr") == rates


def test_groups_under_one_rule_become_one() -> None:
    assert len(groups(Tied(), Normal(SHAPE))) == 4
    assert len(AdamW().build(groups(Tied(), Normal(SHAPE))).param_groups) == 2


def test_multipliers_split_a_role() -> None:
    class BySize(Normal):
        def lr_multiplier(self, role: Role, tensor_shape: tuple[int, ...]) -> float:
            return 2.0 if tensor_shape == (64, 32) else 1.0

    model = Tied()
    model.up_proj = nn.Linear(32, 5, bias=False)
    matrices = [group for group in groups(model, BySize(SHAPE)) if group.role == "matrix"]
    assert {group.lr_multiplier: [name for name, _ in group.params] for group in matrices} == {
        2.0: ["attention.qkv.weight"],
        1.0: ["up_proj.weight"],
    }


def test_fused_rows_are_those_of_the_heads() -> None:
    (matrix,) = (group for group in groups(Tied(), Normal(SHAPE)) if group.role == "matrix")
    assert matrix.rows == {"attention.qkv.weight": (32, 16, 16)}


def test_a_module_that_does_not_state_its_heads_is_left_whole() -> None:
    model = Tied()
    model.attention.kv_heads = 3  # type: ignore[misc]  # 4 x 8 + 2 x 24 rows are not the weight's 64
    assert all(not group.rows for group in groups(model, Normal(SHAPE)))
    assert torch.is_tensor(model.embed.weight)
