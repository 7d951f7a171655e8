"""cost.py against the parameters that exist and the FLOPs that torch counts."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gpt_lab import registry
from gpt_lab.cost import cost, cost_of
from gpt_lab.model import GPT
from tests.helpers import tiny_config

VOCAB = 61
KINDS = ("attention", "position", "norm", "mlp", "residual")
# torch counts the math kernel, which computes what a window then hides: here the window hides nothing
WHOLE = {"sliding": {"name": "sliding", "window": 16}}
VARIANTS = [
    *(
        pytest.param({kind: WHOLE.get(name, name)}, id=f"{kind}={name}")
        for kind in KINDS
        for name in registry.index()[kind]
    ),
    pytest.param({"model.bias": True, "norm": "layernorm"}, id="bias"),
    pytest.param({"model.tied": False}, id="untied"),
    pytest.param({"model.vocab_multiple": 64}, id="padded vocabulary"),
    pytest.param({"scale.depth": 3, "scale.width": 48, "scale.heads": 6, "scale.context": 24}, id="shape"),
    pytest.param({"mlp.d_ff": 40}, id="d_ff"),
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_exact(variant: dict[str, Any]) -> None:
    cfg = tiny_config(**variant)
    price, model = cost(cfg, VOCAB), GPT(cfg, VOCAB)
    assert price == cost_of(model)
    assert price.parameters == sum(p.numel() for p in model.parameters())
    assert price.parameters == price.embedding + price.non_embedding == sum(price.parameters_by_part.values())
    assert price.train_flops_per_token == 3 * price.forward_flops_per_token == 3 * sum(price.by_part.values())
    tokens = torch.zeros(2, cfg.scale.context, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    assert counter.get_total_flops() == price.forward_flops_per_token * tokens.numel()


def test_training_is_three_times_forward() -> None:
    cfg = tiny_config(norm="layernorm")
    model, tokens = GPT(cfg, VOCAB), torch.zeros(2, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    assert counter.get_total_flops() == cost(cfg, VOCAB).train_flops_per_token * tokens.numel()


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
    assert price.parameters_by_part["embed"] == 38_597_376
    assert price.embedding == 38_597_376 + 786_432
    # 6 N + 12 L H K T for matrices (head included, look-ups not), as in PaLM's appendix B
    matrices = 12 * 12 * 768**2 + 50257 * 768
    assert price.train_flops_per_token == 6 * matrices + 12 * 12 * 768 * 1024


def test_an_untied_head_counts_as_embedding() -> None:
    tied, untied = (cost(tiny_config(**{"model.tied": tied}), VOCAB) for tied in (True, False))
    assert untied.embedding == 2 * tied.embedding
    assert untied.non_embedding == tied.non_embedding
    assert untied.by_part == tied.by_part


def test_a_window_costs_less() -> None:
    settings = {"name": "sliding", "window": 5, "pattern": "SL"}
    full, window = (cost(tiny_config(attention=attention), VOCAB) for attention in ("mha", settings))
    assert full.by_part["attention"] - window.by_part["attention"] == 4 * 32 * (16 - 5)
    assert window.parameters == full.parameters
