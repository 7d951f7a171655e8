"""Attention parts against the references of transformers, and what holds for all of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.nanochat import modeling_nanochat
from transformers.models.olmo2 import modeling_olmo2
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from gpt_lab import kernels, registry
from gpt_lab.errors import ConfigError
from gpt_lab.parts.attention.sliding import Sliding
from gpt_lab.parts.attention.softmax import GroupedQuery, MultiHead, MultiQuery, SelfAttention
from gpt_lab.parts.base import Flow, Position, Shape
from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.position.rope import Rope

WIDTH, HEADS, CONTEXT = 32, 4, 16
SHAPE = Shape(depth=4, width=WIDTH, heads=HEADS, context=CONTEXT)
NAMES = [name for name, one in registry.index()["attention"].items() if "qk_norm" in one.options]
PLAIN = [name for name in NAMES if name not in ("gated", "differential")]
"""Whose FLOPs and heads are those of SelfAttention."""
POSITIONS = sorted(registry.index()["position"])


def make(name: str, layer: int = 0, shape: Shape = SHAPE, **options: Any) -> SelfAttention:
    """Random and loud: small weights hide errors."""
    part: SelfAttention = registry.build("attention", {"name": name} | options, shape, layer)
    return loud(part)


def loud(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * 0.35 if parameter.ndim > 1 else 1 + 0.3 * drawn)
    return module


def flow(length: int, position: str | Position = "none", shape: Shape = SHAPE, **more: Any) -> Flow:
    part = registry.build("position", {"name": position}, shape) if isinstance(position, str) else position
    return Flow(part, torch.arange(length), shared={}, **more)


def tokens(length: int, rows: int = 2) -> Tensor:
    return torch.randn(rows, length, WIDTH, generator=torch.Generator().manual_seed(1))


GROUPED = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": WIDTH // HEADS,
    "attn_implementation": "eager",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
REFERENCES: dict[str, tuple[Any, Any, dict[str, Any], str, dict[str, Any], int]] = {
    # module, its rotary embedding, config, our part, its options, length
    "Llama": (modeling_llama, "Llama", {"attention_bias": True}, "gqa", {"qkv_bias": True}, 12),
    "Llama MHA": (modeling_llama, "Llama", {"num_key_value_heads": HEADS}, "mha", {}, 12),
    "Llama MQA": (modeling_llama, "Llama", {"num_key_value_heads": 1}, "mqa", {}, 12),
    "Qwen2": (modeling_qwen2, "Qwen2", {}, "gqa", {"qkv_bias": True}, 12),
    "Qwen3": (modeling_qwen3, "Qwen3", {"rms_norm_eps": 1e-6}, "gqa", {"qk_norm": "head"}, 12),
    "Olmo2": (modeling_olmo2, "Olmo2", {"rms_norm_eps": 1e-6}, "gqa", {"qk_norm": "full"}, 12),
    "NanoChat": (modeling_nanochat, "NanoChat", {"rms_norm_eps": 1e-6}, "gqa", {"qk_norm": "unit"}, 12),
    "Mistral": (modeling_mistral, "Mistral", {}, "sliding", {"window": 11, "pattern": "S", "kv_heads": 2}, 12),
    "Gemma2": (
        modeling_gemma2,
        "Gemma2",
        {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": WIDTH // HEADS},
        "gqa",
        {"softcap": 2.0},
        12,
    ),
}


@pytest.mark.parametrize("kernel", ["math", "sdpa"])
@pytest.mark.parametrize("name", REFERENCES)
def test_reference(name: str, kernel: str) -> None:
    """Same weights, same outputs, same gradients of input and weights."""
    source, prefix, settings, part, options, length = REFERENCES[name]
    if kernel == "sdpa" and "softcap" in options:
        pytest.skip("only math can cap scores")
    config = getattr(transformers, f"{prefix}Config")(**(GROUPED | settings))
    config._attn_implementation = "eager"
    theirs = loud(getattr(source, f"{prefix}Attention")(config, layer_idx=0)).eval()
    ours = registry.build(
        "attention", {"name": part} | options, Shape(1, WIDTH, HEADS, CONTEXT, bias=name == "Llama"), 0
    )
    ours.kernel = kernel
    turn = name == "NanoChat"
    _copy(theirs, ours, turn)
    x, y = tokens(length).requires_grad_(), tokens(length).requires_grad_()
    index = torch.arange(length)
    far = index[:, None] - index[None]
    hidden = (far < 0) | (far >= options.get("window", 10**6))
    mask = torch.zeros(length, length).masked_fill(hidden, -math.inf)[None, None]
    rotary = getattr(source, f"{prefix}RotaryEmbedding")(config)(x, index[None])
    expected = theirs(x, position_embeddings=rotary, attention_mask=mask)[0]
    found = ours(y, flow(length, Rope(ours_shape(ours))))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    weight = torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(2))
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    torch.testing.assert_close(y.grad, x.grad, rtol=1e-4, atol=1e-4)
    for key, gradient in _gradients(theirs, ours, turn).items():
        torch.testing.assert_close(ours.get_parameter(key).grad, gradient, rtol=1e-4, atol=2e-4, msg=key)


def ours_shape(part: SelfAttention) -> Shape:
    return Shape(1, WIDTH, part.heads, CONTEXT)


def _fused(tensors: dict[str, Tensor], ending: str, heads: int, turn: bool) -> Tensor:
    q, k, v = (tensors[f"{x}_proj.{ending}"] for x in "qkv")
    if turn:  # nanochat rotates the other way: that is ours with the halves of each head swapped
        q, k = (t.unflatten(0, (-1, 2, WIDTH // heads // 2)).flip(1).flatten(0, 2) for t in (q, k))
    return torch.cat([q, k, v])


def _map(tensors: dict[str, Tensor], ours: SelfAttention, turn: bool) -> dict[str, Tensor]:
    named = dict(ours.named_parameters())
    found = {key: tensors[key] for key in named if key in tensors}
    for ending in ("weight", "bias"):
        if f"qkv.{ending}" in named:
            found[f"qkv.{ending}"] = _fused(tensors, ending, ours.heads, turn)
    assert found.keys() == named.keys()
    return found


def _copy(theirs: nn.Module, ours: SelfAttention, turn: bool) -> None:
    with torch.no_grad():
        for key, value in _map(dict(theirs.named_parameters()), ours, turn).items():
            ours.get_parameter(key).copy_(value)


def _gradients(theirs: nn.Module, ours: SelfAttention, turn: bool) -> dict[str, Tensor]:
    grads = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    return _map(grads, ours, turn)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("qk_norm", ["none", "head", "full", "unit"])
@pytest.mark.parametrize("name", NAMES)
def test_causal(name: str, qk_norm: str, position: str) -> None:
    """A later token never changes an earlier output, and an earlier one that is in sight changes a later."""
    part, x, along = make(name, qk_norm=qk_norm).eval(), tokens(10), flow(10, position)
    changed = x.clone()
    changed[:, 6] += 1.0
    for part.kernel in ("math", "sdpa"):
        moved = (part(changed, along) - part(x, along)).abs().amax((0, 2))
        assert moved[:6].max() < 1e-6  # not 0: products may split the work otherwise
        assert moved[6:8].min() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_kernels_agree_in_the_module(name: str) -> None:
    x, documents = tokens(CONTEXT), torch.arange(CONTEXT).div(5, rounding_mode="floor").expand(2, -1)
    for layer, position in itertools.product((0, 3), ("rope", "alibi")):
        part = make(name, layer)
        found = []
        for part.kernel in ("math", "sdpa"):
            part.zero_grad()
            y = part(x, flow(CONTEXT, position, documents_BT=documents))
            y.square().sum().backward()
            found.append((y.detach(), part.qkv.weight.grad))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_documents_are_apart() -> None:
    """Packed documents give what each gives alone."""
    x = tokens(11, rows=1)
    documents = torch.tensor([[0] * 4 + [1] * 7])
    part, rope = make("gqa"), "rope"
    packed = part(x, flow(11, rope, documents_BT=documents))
    alone = torch.cat([part(x[:, :4], flow(4, rope)), part(x[:, 4:], flow(7, rope))], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)
    assert (packed - part(x, flow(11, rope)))[:, 4:].abs().max() > 0.1


@pytest.mark.parametrize("options", [{}, {"qkv_bias": True}, {"qk_norm": "full"}])
@pytest.mark.parametrize("name", PLAIN)
def test_flops(name: str, options: dict[str, Any]) -> None:
    """Equal to what torch counts, less the keys that the mask hides: torch counts those too."""
    part = make(name, **options)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part(tokens(CONTEXT, rows=1), flow(CONTEXT))
    rows = torch.arange(CONTEXT)[:, None] - torch.arange(CONTEXT)
    hidden = ((rows < 0) | (rows >= (part.window or CONTEXT))).sum().item()
    assert counter.get_total_flops() - 4 * WIDTH * hidden == CONTEXT * part.flops_per_token(CONTEXT)


class TestSizes:
    @pytest.mark.parametrize(("part", "kv_heads"), [(MultiHead, 4), (GroupedQuery, 2), (MultiQuery, 1), (Sliding, 4)])
    def test_key_heads(self, part: type[SelfAttention], kv_heads: int) -> None:
        made: Any = part(SHAPE, 0)  # type: ignore[call-arg]
        assert made.kv_heads == kv_heads
        assert made.qkv.weight.shape == (WIDTH + 2 * kv_heads * 8, WIDTH)
        assert made.o_proj.weight.shape == (WIDTH, WIDTH)
        assert made.qkv.bias is None and made.o_proj.bias is None

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("qkv_bias", [True, False, None])
    def test_biases(self, bias: bool, qkv_bias: bool | None) -> None:
        made = MultiHead(Shape(4, WIDTH, HEADS, CONTEXT, bias=bias), 0, qkv_bias=qkv_bias)
        assert (made.o_proj.bias is not None) == bias
        assert (made.qkv.bias is not None) == (bias if qkv_bias is None else qkv_bias)

    @pytest.mark.parametrize(
        ("qk_norm", "shapes"), [("none", None), ("head", ((8,), (8,))), ("full", ((32,), (16,))), ("unit", ())]
    )
    def test_norms(self, qk_norm: Any, shapes: Any) -> None:
        made = GroupedQuery(SHAPE, 0, qk_norm=qk_norm)
        assert hasattr(made, "q_norm") == (shapes is not None)
        norms = [tuple(p.shape) for key, p in made.named_parameters() if "norm" in key]
        assert norms == list(shapes or ())


class TestPattern:
    @pytest.mark.parametrize(("pattern", "expected"), [("SSSL", "SSSLSS"), ("L", "LLLLLL"), ("SL", "SLSLSL")])
    def test_repeats(self, pattern: str, expected: str) -> None:
        windows = [Sliding(SHAPE, layer, window=3, pattern=pattern).window for layer in range(6)]
        assert windows == [{"S": 3, "L": None}[letter] for letter in expected]

    @pytest.mark.parametrize(("context", "window"), [(16, 4), (130, 32), (2, 1)])
    def test_a_quarter_by_default(self, context: int, window: int) -> None:
        assert Sliding(Shape(4, WIDTH, HEADS, context), 0).window == window

    def test_the_last_key_in_sight(self) -> None:
        """Window 3: token 7 sees 5, not 4."""
        part, x = make("sliding", window=3).eval(), tokens(8)
        for at, seen in ((4, False), (5, True)):
            changed = x.clone()
            changed[:, at] += 1
            moved = (part(changed, flow(8)) - part(x, flow(8)))[:, 7].abs().max()
            assert (moved > 1e-3) == seen


@pytest.mark.parametrize(
    ("name", "options", "shape", "message"),
    [
        ("gqa", {"kv_heads": 3}, SHAPE, "attention.kv_heads=3 must divide scale.heads=4"),
        ("gqa", {"kv_heads": 8}, SHAPE, "attention.kv_heads=8 must divide"),
        ("sliding", {"kv_heads": 3}, SHAPE, "attention.kv_heads=3 must divide"),
        ("mha", {}, Shape(1, 30, 4, 8), "scale.width=30 must be a multiple of scale.heads=4"),
        ("sliding", {"window": 17}, SHAPE, "attention.window=17 is larger than scale.context=16"),
        ("sliding", {"pattern": "SF"}, SHAPE, "attention.pattern='SF' must be letters S"),
        ("sliding", {"pattern": ""}, SHAPE, "attention.pattern='' must be"),
    ],
)
def test_refusals(name: str, options: dict[str, Any], shape: Shape, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.build("attention", {"name": name} | options, shape, 0)


class TestDropout:
    def test_by_key_and_only_in_training(self) -> None:
        part, x = make("mha", dropout=0.4), tokens(9)
        keys = [row_keys(0, step, torch.arange(2)) for step in (0, 1)]
        first, again, other = (part(x, flow(9, keys_B=k)) for k in (keys[0], keys[0], keys[1]))
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        assert (first - other).abs().max() > 0.1
        torch.testing.assert_close(part(x[1:], flow(9, keys_B=keys[0][1:])), first[1:])
        without = part(x, flow(9))
        assert (first - without).abs().max() > 0.1
        torch.testing.assert_close(part.eval()(x, flow(9, keys_B=keys[0])), without)

    def test_layers_differ(self) -> None:
        keys, x = row_keys(0, 0, torch.arange(2)), tokens(9)
        outs = [make("mha", layer, dropout=0.4)(x, flow(9, keys_B=keys, layer=layer)) for layer in (0, 1)]
        assert (outs[0] - outs[1]).abs().max() > 0.1


def test_scale_is_honoured() -> None:
    part, x = make("mha"), tokens(9)
    before = part(x, flow(9))
    assert part.scale == 1 / math.sqrt(8)
    part.scale *= 2
    with torch.no_grad():
        part.qkv.weight[:WIDTH] /= 2
    torch.testing.assert_close(part(x, flow(9)), before)


def test_a_bias_of_another_kind() -> None:
    """A position part of one's own can add any tensor to the scores."""

    class Recent(Position):
        bias_kind = "tensor"

        def bias(self, positions_q: Tensor, positions_k: Tensor) -> Tensor:
            same = positions_q[:, None] == positions_k
            return torch.where(same, 50.0, 0.0).expand(HEADS, -1, -1)

    part, x = make("mha").eval(), tokens(9)
    for part.kernel in ("math", "sdpa"):
        alone = part(x[:, 8:], flow(1))
        torch.testing.assert_close(part(x, flow(9, Recent(SHAPE)))[:, 8:], alone, rtol=1e-3, atol=1e-3)


def test_request() -> None:
    part = Sliding(SHAPE, 0, window=3, kv_heads=2, softcap=4.0, dropout=0.1)
    expected = kernels.KernelRequest("cpu", "bf16", 4, 2, 8, 16, 3, "alibi", 4.0, 0.1, True, 8, False, True, None)
    assert part.request("cpu", "bf16", "alibi", documents=True) == expected
    assert part.request(torch.device("cpu"), "bf16", "alibi", True) == expected


@pytest.mark.parametrize("qk_norm", ["none", "head", "full", "unit"])
def test_autocast(qk_norm: str) -> None:
    """bf16 autocast stays near fp32, forward and backward, whatever the norm makes of types."""
    part, x = make("gqa", qk_norm=qk_norm), tokens(CONTEXT)
    exact = part(x, flow(CONTEXT, "rope"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = part(x, flow(CONTEXT, "rope"))
    assert low.dtype == torch.bfloat16
    assert (low.float() - exact).norm() < 0.05 * exact.norm()
    grads = [torch.autograd.grad(y.float().square().sum(), part.qkv.weight)[0] for y in (exact, low)]
    assert (grads[1] - grads[0]).norm() < 0.1 * grads[0].norm()
