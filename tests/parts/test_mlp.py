"""MLPs against transformers', and their default sizes."""

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, LlamaConfig
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP

from gpt_lab import registry
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.base import Shape
from tests.helpers import tiny_config

WIDTH = 24
SHAPE = Shape(depth=2, width=WIDTH, heads=2, context=8)
WITH_BIAS = Shape(depth=2, width=WIDTH, heads=2, context=8, bias=True)
PLAIN = {
    "relu": torch.relu,
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "relu2": lambda x: torch.relu(x) ** 2,
    "silu": lambda x: x * torch.sigmoid(x),
}
GATED = {"swiglu": PLAIN["silu"], "geglu": PLAIN["gelu_tanh"], "reglu": torch.relu}
ELSEWHERE = {"moe", "mod", "none", "hybrid"}
"""tests/parity/mlp.py; none is below."""


def test_every_mlp_is_held_against_a_formula() -> None:
    assert set(registry.index()["mlp"]) == {*PLAIN, *GATED, *ELSEWHERE}


@pytest.mark.parametrize("residual", ["pre", "sandwich", "olmo2", "parallel"])
def test_without_an_mlp_its_norms_are_left_out(residual: str) -> None:
    model = GPT(tiny_config(mlp="none", residual=residual), 61)
    assert not [name for name, _ in model.named_parameters() if "mlp" in name]


def test_none_adds_nothing() -> None:
    mlp = registry.build("mlp", {"name": "none"}, SHAPE, 0)
    assert not mlp(torch.randn(2, 5, WIDTH)).any() and not list(mlp.parameters()) and mlp.flops_per_token(8) == 0


@pytest.mark.parametrize("name", PLAIN)
def test_plain_formula(name: str) -> None:
    mlp = registry.build("mlp", {"name": name}, WITH_BIAS, 0)
    x = 3 * torch.randn(2, 5, WIDTH)
    up, down = mlp.up_proj, mlp.down_proj
    torch.testing.assert_close(mlp(x), PLAIN[name](x @ up.weight.T + up.bias) @ down.weight.T + down.bias)
    assert up.weight.shape == (4 * WIDTH, WIDTH)


@pytest.mark.parametrize("name", GATED)
def test_gated_formula(name: str) -> None:
    mlp = registry.build("mlp", {"name": name}, SHAPE, 0)
    x = 3 * torch.randn(2, 5, WIDTH)
    hidden = GATED[name](x @ mlp.gate_proj.weight.T) * (x @ mlp.up_proj.weight.T)
    torch.testing.assert_close(mlp(x), hidden @ mlp.down_proj.weight.T)


@pytest.mark.parametrize("name", [*PLAIN, *GATED])
def test_d_ff_bias_and_flops(name: str) -> None:
    mlp = registry.build("mlp", {"name": name, "d_ff": 40}, WITH_BIAS, 0)
    matrices = 3 if name in GATED else 2
    assert mlp.down_proj.weight.shape == (WIDTH, 40)
    assert sum(p.numel() for p in mlp.parameters()) == matrices * 40 * WIDTH + WIDTH + (matrices - 1) * 40
    assert mlp.flops_per_token(8) == mlp.flops_per_token(800) == 2 * matrices * 40 * WIDTH
    bare = registry.build("mlp", {"name": name}, SHAPE, 0)
    assert all(p.ndim == 2 for p in bare.parameters())


@pytest.mark.parametrize(
    ("width", "tolerance"), [(32, 0.04), (128, 0.02), (256, 0.02), (384, 0), (768, 0), (1000, 0.01)]
)
def test_gated_default_keeps_the_parameters_of_a_plain_mlp(width: int, tolerance: float) -> None:
    shape = Shape(depth=1, width=width, heads=1, context=8)
    plain, gated = (
        sum(p.numel() for p in registry.build("mlp", {"name": name}, shape, 0).parameters())
        for name in ("relu", "reglu")
    )
    assert abs(gated / plain - 1) <= tolerance


def test_tiny_width_keeps_a_gate() -> None:
    assert registry.build("mlp", {"name": "swiglu"}, Shape(1, 1, 1, 8), 0).down_proj.weight.shape == (1, 8)


def test_gelu_tanh_is_gpt2s() -> None:
    reference = GPT2MLP(4 * WIDTH, GPT2Config(n_embd=WIDTH, resid_pdrop=0.0))
    mlp = registry.build("mlp", {"name": "gelu_tanh"}, WITH_BIAS, 0)
    with torch.no_grad():
        for theirs, mine in ((reference.c_fc, mlp.up_proj), (reference.c_proj, mlp.down_proj)):
            theirs.weight.normal_(0, 0.3)
            theirs.bias.normal_()
            mine.weight.copy_(theirs.weight.T)
            mine.bias.copy_(theirs.bias)
    x = torch.randn(2, 3, WIDTH)
    torch.testing.assert_close(mlp(x), reference(x), rtol=0, atol=1e-5)
    assert (registry.build("mlp", {"name": "gelu"}, WITH_BIAS, 0).activation(x) - F.gelu(x)).abs().max() == 0


def test_swiglu_is_llamas() -> None:
    reference = LlamaMLP(LlamaConfig(hidden_size=WIDTH, intermediate_size=40, num_attention_heads=2))
    mlp = registry.build("mlp", {"name": "swiglu", "d_ff": 40}, SHAPE, 0)
    mlp.load_state_dict(reference.state_dict())
    x = 4 * torch.randn(2, 3, WIDTH)
    torch.testing.assert_close(mlp(x), reference(x), rtol=0, atol=1e-5)
