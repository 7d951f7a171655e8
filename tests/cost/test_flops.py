"""cost/flops.py against the parameters that exist and the FLOPs that torch counts.

torch counts what is multiplied: of the math kernel every key, hidden or not, and of a model that reads a text token by
token through a cache exactly the keys that each query sees.
"""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gpt_lab import registry
from gpt_lab.cost.flops import cost, cost_of
from gpt_lab.cost.match import compose
from gpt_lab.infer.cache import Cache
from gpt_lab.kernels.base import KeyView, visible
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.base import keys_seen
from tests.helpers import tiny_config

VOCAB = 61
KINDS = ("attention", "position", "norm", "mlp", "residual")
VARIANTS = [
    *(
        pytest.param({kind: name}, id=f"{kind}={name}")
        for kind in KINDS
        for name in registry.index()[kind]
        if name != "mod"  # what a token costs there is for its router to say
    ),
    pytest.param({"model.bias": True, "norm": "layernorm"}, id="bias"),
    pytest.param({"model.tied": False}, id="untied"),
    pytest.param({"model.vocab_multiple": 64}, id="padded vocabulary"),
    pytest.param({"scale.depth": 3, "scale.width": 48, "scale.heads": 6, "scale.context": 24}, id="shape"),
    pytest.param({"mlp.d_ff": 40}, id="d_ff"),
    *(
        pytest.param({"scale.depth": 4, "residual": residual}, id=" ".join(map(str, residual.values())))
        for residual in (
            {"name": "hyper_connections", "dynamic": False, "streams": 2},
            {"name": "mhc", "streams": 3},
            {"name": "attention_residuals", "size": 2},
            {"name": "looped", "prelude": 1, "coda": 1, "inject": "adapter"},
            {"name": "shared", "group": 3, "rank": 5},
            {"name": "block_recurrent", "block": 7, "vectors": 3},
        )
    ),
    pytest.param(
        {"scale.depth": 4, "attention": "hybrid", "residual": "attention_residuals"}, id="sources that are not there"
    ),
]


ABSORBING = ("mla", "sparse")
"""Attentions that decode by other products than they train by."""


def grouped_flops(rows: tuple[int, int], stacked: tuple[int, int, int], *rest: Any, **kwargs: Any) -> int:
    """Of torch's grouped_mm, which its counter leaves out: every row meets one matrix."""
    return 2 * rows[0] * stacked[1] * stacked[2]


@pytest.mark.parametrize("variant", VARIANTS)
def test_exact(variant: dict[str, Any]) -> None:
    cfg = tiny_config(**{"scale.context": 8} | variant)  # each token is a step
    price, model = cost(cfg, VOCAB), GPT(cfg, VOCAB)
    assert price == cost_of(model)
    assert price.parameters == sum(p.numel() for p in model.parameters())
    assert price.parameters == price.embedding + price.non_embedding
    if cfg.attention["name"] in ABSORBING:  # tests/parts/attention: what all tokens at once take
        return
    tokens = torch.zeros(1, cfg.scale.context, dtype=torch.long)
    cache = Cache()
    known = {torch.ops.aten._grouped_mm: grouped_flops}
    with FlopCounterMode(display=False, custom_mapping=known) as counter, torch.no_grad():
        for place in torch.arange(cfg.scale.context).split(1):
            model(tokens[:, place], positions_T=place, states=cache)
    assert 3 * counter.get_total_flops() == price.train_flops_per_token * tokens.numel()


def test_a_routed_share_costs_its_share() -> None:
    """One layer of two: 0.25 of a SwiGLU, and its router."""
    dense = cost(tiny_config(mlp="swiglu"), VOCAB)
    routed = cost(tiny_config(mlp="mod", **{"mlp.capacity": 0.25}), VOCAB)
    layer = 6 * 32 * 88
    assert dense.train_flops_per_token - routed.train_flops_per_token == 3 * (0.75 * layer - 2 * 32)


@pytest.mark.parametrize("attention", ["mha", "gqa", {"name": "sliding", "window": 16}])
def test_mfu_counts_every_key_for_every_query(attention: Any) -> None:
    """As the math kernel computes them; forward and backward are three times forward."""
    cfg = tiny_config(attention=attention, norm="layernorm")
    model, tokens = GPT(cfg, VOCAB), torch.zeros(2, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    price = cost(cfg, VOCAB)
    assert counter.get_total_flops() == price.mfu_flops_per_token * tokens.numel()
    # 12 L H K T against 6 L H K (T + 1)
    assert price.mfu_flops_per_token - price.train_flops_per_token == 6 * 2 * 32 * (16 - 1)


def test_gpt2_has_the_published_size() -> None:
    """124,439,808 parameters; 38.6M of them token embeddings and 0.8M positions."""
    cfg = tiny_config(
        position="learned",
        norm="layernorm",
        mlp="gelu_tanh",
        **{"model.bias": True, "scale.depth": 12, "scale.width": 768, "scale.heads": 12, "scale.context": 1024},
    )
    price = cost(cfg, 50257)
    assert price.parameters == 124_439_808
    assert price.embedding == 38_597_376 + 786_432
    # 6 N + 12 L H K T for matrices (head included, look-ups not), as in PaLM's appendix B
    matrices = 12 * 12 * 768**2 + 50257 * 768
    assert price.mfu_flops_per_token == 6 * matrices + 12 * 12 * 768 * 1024
    assert price.train_flops_per_token == 6 * matrices + 6 * 12 * 768 * 1025


@pytest.mark.parametrize(
    ("scale", "vocabulary", "counted", "millions"),
    [
        ("small", 32_000, "parameters", 13),
        ("medium", 50_257, "non_embedding", 85),
        ("large", 50_257, "parameters", 353),
    ],
)
def test_the_sizes_of_ignite(scale: str, vocabulary: int, counted: str, millions: int) -> None:
    """13M, 85M and 350M, with Llama's block."""
    price = cost(compose(["model=llama", "model.tied=true", f"scale={scale}"]), vocabulary)
    assert round(getattr(price, counted) / 1e6) == millions


def test_an_untied_head_counts_as_embedding() -> None:
    tied, untied = (cost(tiny_config(**{"model.tied": tied}), VOCAB) for tied in (True, False))
    assert untied.embedding == 2 * tied.embedding
    assert untied.non_embedding == tied.non_embedding
    assert untied.train_flops_per_token == tied.train_flops_per_token


def test_a_window_costs_what_its_queries_see() -> None:
    """Of 16 tokens, in a window of 4: 1 + 2 + 3 + 13 x 4 = 58 keys; without one 1 + ... + 16 = 136."""
    sliding = {"name": "sliding", "window": 4, "pattern": "SL"}
    full, window = (cost(tiny_config(attention=attention), VOCAB) for attention in ("mha", sliding))
    assert window.parameters == full.parameters
    assert 16 * (full.train_flops_per_token - window.train_flops_per_token) == 3 * 4 * 32 * (136 - 58)
    # MFU's convention has one layer of 16 keys a query, and one of 4
    assert full.mfu_flops_per_token - window.mfu_flops_per_token == 3 * 4 * 32 * (16 - 4)


@pytest.mark.parametrize("window", [None, 1, 4, 64, 100])
def test_the_keys_of_a_query_are_those_of_the_mask(window: int | None) -> None:
    for length in (1, 7, 64):
        mask = visible(length, length, torch.device("cpu"), KeyView(window))
        assert keys_seen(length, window) == pytest.approx(mask.sum().item() / length, rel=1e-12)
    # a window of a quarter of a long context costs 7/16 of what full attention does, not 1/4
    assert keys_seen(1 << 20, 1 << 18) / keys_seen(1 << 20) == pytest.approx(7 / 16, abs=1e-5)
