"""Layers with a shared Transformer block: decoding, cost, kernels, wrong sizes. For its reference see tests/parity."""

from __future__ import annotations

import pytest
import torch

from gpt_lab.cost.flops import cost
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT
from tests.helpers import tiny_config
from tests.parts import decoding


@pytest.mark.parametrize(
    "settings",
    [
        {"attention": "mamba2", "mlp": "none", "residual": "zamba2"},
        {"residual": {"name": "zamba2", "pattern": "H", "blocks": 2, "rank": 3, "d_ff": 32}},
    ],
)
def test_a_model_of_them(settings: dict[str, object]) -> None:
    """In pieces, beside other rows, after other documents, from one prompt; and it trains, in bf16 too."""
    model = decoding.model(**settings)
    decoding.check(model)
    decoding.check_trains(model)


def test_blocks_take_turns() -> None:
    """Five layers, four of them with the shared part, two blocks: each is used twice, with an adapter for each use."""
    options = {"name": "zamba2", "pattern": "MHHHH", "blocks": 2, "rank": 3, "d_ff": 16}
    model = GPT(tiny_config(attention="none", mlp="none", residual=options, **{"scale.depth": 5}), 37)
    adapters = [name for name, _ in model.named_parameters() if ".adapters." in name]
    assert (
        len(adapters) == 2 * 2 * 2 and len([name for name, _ in model.named_parameters() if "shared_proj" in name]) == 4
    )
    order: list[int] = []
    for number, block in enumerate(model.streams.blocks):  # type: ignore[union-attr]
        block.register_forward_hook(lambda *_, number=number: order.append(number))
    model(torch.zeros(1, 3, dtype=torch.long))
    assert order == [0, 1, 0, 1]


def test_cost() -> None:
    """By hand: two shared blocks of width 32 and hidden width 16, used twice each, in a context of 16 tokens."""
    options = {"name": "zamba2", "pattern": "H", "blocks": 2, "rank": 3, "d_ff": 16}
    bare = cost(tiny_config(attention="none", mlp="none", **{"scale.depth": 4}), 37)
    found = cost(tiny_config(attention="none", mlp="none", residual=options, **{"scale.depth": 4}), 37)
    block = 64 * 3 * 64 + 64 * 32 + 32 * 2 * 16 + 16 * 32
    adapter, proj, norms = 32 * 3 + 3 * 2 * 16, 32 * 32, 64 + 32
    assert found.non_embedding - bare.non_embedding == 2 * (block + norms) + 4 * (adapter + proj)
    scores = 2 * 64 * (16 + 1) / 2  # q k and weights v, of the keys that a token sees on average
    extra = 3 * 2 * 4 * (block + adapter + proj + scores)
    assert found.train_flops_per_token - bare.train_flops_per_token == extra
    assert found.mfu_flops_per_token - found.train_flops_per_token == 3 * 2 * 4 * 2 * 64 * (16 - 1) / 2


def test_the_shared_attention_is_an_attention_like_others() -> None:
    """It gets its kernel, and scores as large as the init says."""
    model = GPT(tiny_config(attention="mha", residual="zamba2", kernel="sdpa"), 37)
    assert [choice.name for choice in model.choose_kernels("cpu", "fp32")] == ["sdpa"] * 3
    shared = model.streams.blocks[0].attention  # type: ignore[union-attr]
    assert shared.kernel == "sdpa" and shared.head_dim == 16 and shared.scale == pytest.approx(8**-0.5)
    scaled = GPT(tiny_config(residual="zamba2", init={"name": "mup", "base_head_dim": 4}), 37)
    scale = scaled.streams.blocks[0].attention.scale  # type: ignore[union-attr]
    assert [scale, scaled.blocks[0].attention.scale] == pytest.approx([4**0.5 / 8] * 2)


def test_sizes_that_do_not_fit() -> None:
    for options, said in (
        ({"pattern": "MX"}, "residual.pattern=MX must be of the letters M and H"),
        ({"pattern": "MMH"}, r"residual.pattern=MMH has 0 layers of letter H in scale.depth=2, fewer than residual.bl"),
        ({"blocks": 2}, "residual.pattern=MH has 1 layers of letter H in scale.depth=2, fewer than residual.blocks=2"),
    ):
        with pytest.raises(ConfigError, match=said):
            GPT(tiny_config(residual={"name": "zamba2", **options}), 37)
