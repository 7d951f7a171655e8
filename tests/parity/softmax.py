"""Softmax attention and its relatives against transformers, and against formulas of papers in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.func import functional_call
from transformers.models.deepseek_v3 import modeling_deepseek_v3
from transformers.models.deepseek_v32 import modeling_deepseek_v32
from transformers.models.diffllama import modeling_diffllama
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.qwen3_next import modeling_qwen3_next

from gpt_lab import registry
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.position.rope import Rope
from tests.parity.case import Comparison, gradients, parity

WIDTH, HEADS, LENGTH = 32, 4, 12
K = WIDTH // HEADS
Tensors = Mapping[str, Tensor]
SIZES = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": K,
    "attention_bias": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def loud(module: nn.Module) -> Any:
    """Weights so large that outputs are of size 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * 0.35 if parameter.ndim > 1 else 1 + 0.3 * drawn)
    return module.eval()


def inputs() -> Tensor:
    return torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()


def part(settings: Mapping[str, Any], layer: int = 0) -> Any:
    return registry.build("attention", settings, Shape(4, WIDTH, HEADS, 2 * LENGTH), layer).eval()


def flow(layer: int = 0, **more: Any) -> Flow:
    shape = Shape(4, WIDTH, HEADS, 2 * LENGTH)
    return Flow(Rope(shape), torch.arange(LENGTH), layer=layer, shared={}, **more)


def causal() -> Tensor:
    return torch.full((LENGTH, LENGTH), -math.inf).triu(1)[None, None]


def fused(theirs: Tensors) -> dict[str, Tensor]:
    """q, k and v one below the other, as our qkv has them."""
    return {
        "qkv.weight": torch.cat([theirs[f"{x}_proj.weight"] for x in "qkv"]),
        "o_proj.weight": theirs["o_proj.weight"],
    }


def against(
    theirs: nn.Module,
    config: Any,
    rotary: Any,
    settings: Mapping[str, Any],
    names: Callable[[Tensors], dict[str, Tensor]],
) -> Comparison:
    """Outputs, and gradients of the input and of every weight of theirs, which ours reads through the map."""
    loud(theirs)
    weights = dict(theirs.named_parameters())
    mapped, layer = names(weights), getattr(theirs, "layer_idx", 0)
    ours = part(settings, layer)
    assert {name: t.shape for name, t in mapped.items()} == {name: p.shape for name, p in ours.named_parameters()}
    x, y = inputs(), inputs()
    expected = theirs(x, position_embeddings=rotary(config)(x, torch.arange(LENGTH)[None]), attention_mask=causal())[0]
    found = functional_call(ours, mapped, (y, flow(layer)))
    there, here = (gradients(out, [t, *weights.values()]) for out, t in ((expected, x), (found, y)))
    return Comparison([(found, expected)], list(zip(here, there, strict=True)))


def config_of(name: str, **sizes: Any) -> Any:
    config = getattr(transformers, name)(**(SIZES | sizes))
    config._attn_implementation = "eager"
    return config


LATENT = {
    "kv_lora_rank": 4 * K,
    "q_lora_rank": None,
    "qk_nope_head_dim": K,
    "qk_rope_head_dim": K // 2,
    "v_head_dim": K,
}


def turned(weight: Tensor, heads: int, rope: int) -> Tensor:
    """Rows of each head with their last `rope` from pairs side by side to all first of a pair, then all second."""
    kept, rotated = weight.unflatten(0, (heads, -1)).split((weight.shape[0] // heads - rope, rope), dim=1)
    rotated = rotated.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)
    return torch.cat((kept, rotated), dim=1).flatten(0, 1)


def latent(theirs: Tensors, rope: int = K // 2) -> dict[str, Tensor]:
    """DeepseekV3Attention, whose rotated dimensions are interleaved."""
    ours = {
        "kv_a_proj.weight": turned(theirs["kv_a_proj_with_mqa.weight"], 1, rope),
        "kv_a_norm.weight": theirs["kv_a_layernorm.weight"],
        "kv_b_proj.weight": theirs["kv_b_proj.weight"],
        "o_proj.weight": theirs["o_proj.weight"],
    }
    if "q_proj.weight" in theirs:
        return ours | {"q_proj.weight": turned(theirs["q_proj.weight"], HEADS, rope)}
    return ours | {
        "q_a_proj.weight": theirs["q_a_proj.weight"],
        "q_a_norm.weight": theirs["q_a_layernorm.weight"],
        "q_b_proj.weight": turned(theirs["q_b_proj.weight"], HEADS, rope),
    }


def _mla(settings: Mapping[str, Any], **sizes: Any) -> Comparison:
    config = config_of("DeepseekV3Config", **(LATENT | sizes))
    theirs = modeling_deepseek_v3.DeepseekV3Attention(config, layer_idx=0)
    config.head_dim = config.qk_rope_head_dim
    rotary = modeling_deepseek_v3.DeepseekV3RotaryEmbedding
    return against(theirs, config, rotary, settings, lambda t: latent(t, config.qk_rope_head_dim))


@parity("attention", "mla", "transformers.DeepseekV3Attention")
def mla() -> Comparison:
    return _mla({"name": "mla"})


@parity("attention", "mla", "transformers.DeepseekV3Attention", "queries from a latent, other sizes")
def mla_with_a_query_latent() -> Comparison:
    sizes = {"q_lora_rank": 10, "kv_lora_rank": 14, "qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 5}
    settings = {"name": "mla", "q_rank": 10, "kv_rank": 14, "nope_dim": 6, "rope_dim": 8, "v_dim": 5}
    return _mla(settings, **sizes)


@parity("attention", "sparse", "transformers.DeepseekV32Attention", "queries from a latent")
def sparse() -> Comparison:
    """Twelve heads of the indexer: with few, zeros of the relu tie, and torch.topk takes any of them.

    Its loss, which the reference does not have: tests/parts/attention/test_attention_variants.py.
    """
    sizes = {"q_lora_rank": 10, "index_topk": 4, "index_n_heads": 12, "index_head_dim": 8}
    config = config_of("DeepseekV32Config", **(LATENT | sizes))
    theirs = modeling_deepseek_v32.DeepseekV32Attention(config, layer_idx=0)
    config.head_dim = config.qk_rope_head_dim

    def names(there: Tensors) -> dict[str, Tensor]:
        indexer = {"wq_b": "q_proj", "wk": "k_proj", "k_norm": "k_norm", "weights_proj": "w_proj"}
        found = latent(there)
        for name, tensor in there.items():
            if name.startswith("indexer."):
                _, module, ending = name.split(".")
                found[f"index_{indexer[module]}.{ending}"] = tensor
        return found

    settings = {"name": "sparse", "q_rank": 10, "top_k": 4, "index_heads": 12, "index_dim": 8}
    return against(theirs, config, modeling_deepseek_v32.DeepseekV32RotaryEmbedding, settings, names)


@parity("attention", "gated", "transformers.Qwen3NextAttention", "elementwise, grouped, qk_norm")
def gated() -> Comparison:
    config = config_of("Qwen3NextConfig", num_key_value_heads=2)
    config.rope_parameters["partial_rotary_factor"] = 1.0
    theirs = modeling_qwen3_next.Qwen3NextAttention(config, layer_idx=0)

    def names(there: Tensors) -> dict[str, Tensor]:
        query, gate = there["q_proj.weight"].unflatten(0, (HEADS, 2, K)).unbind(1)
        ours = fused({**there, "q_proj.weight": query.flatten(0, 1)})
        norms = {f"{x}_norm.weight": 1.0 + there[f"{x}_norm.weight"] for x in "qk"}  # theirs multiply by 1 + w
        return ours | norms | {"gate_proj.weight": gate.flatten(0, 1)}

    settings = {"name": "gated", "kv_heads": 2, "qk_norm": "head"}
    return against(theirs, config, modeling_qwen3_next.Qwen3NextRotaryEmbedding, settings, names)


@parity("attention", "sinks", "transformers.GptOssAttention", "grouped, biases")
def sinks() -> Comparison:
    config = config_of("GptOssConfig", num_key_value_heads=2, layer_types=["full_attention"], num_hidden_layers=1)
    theirs = modeling_gpt_oss.GptOssAttention(config, layer_idx=0)

    def names(there: Tensors) -> dict[str, Tensor]:
        return fused(there) | {"sinks_H": there["sinks"]}

    return against(theirs, config, modeling_gpt_oss.GptOssRotaryEmbedding, {"name": "sinks", "kv_heads": 2}, names)


def _differential(layer: int, settings: Mapping[str, Any], **sizes: Any) -> Comparison:
    config = config_of("DiffLlamaConfig", rms_norm_eps=1e-5, **sizes)
    theirs = modeling_diffllama.DiffLlamaAttention(config, layer_idx=layer)

    def names(there: Tensors) -> dict[str, Tensor]:
        return fused(there) | {name: there[name] for name in there if name.startswith("lambda_")}

    return against(
        theirs, config, modeling_diffllama.DiffLlamaRotaryEmbedding, {"name": "differential"} | settings, names
    )


@parity("attention", "differential", "transformers.DiffLlamaAttention")
def differential() -> Comparison:
    return _differential(0, {})


@parity("attention", "differential", "transformers.DiffLlamaAttention", "grouped, third layer")
def differential_grouped() -> Comparison:
    return _differential(2, {"kv_heads": 2}, num_key_value_heads=2)


@parity("attention", "value_residual", "formula.ResFormer", "two layers")
def value_residual() -> Comparison:
    """a V_n + b V_0 of the second layer, written out in fp64."""
    first, second = (loud(part({"name": "value_residual"}, layer)) for layer in (0, 1))
    with torch.no_grad():  # two layers: outputs of size 1 again
        for parameter in (*first.parameters(), *second.parameters()):
            parameter.mul_(0.5 if parameter.ndim > 1 else 1.0)
    x, y = inputs(), inputs()
    here = flow()
    found = second(first(y, here), here._replace(layer=1))
    wanted = [*first.parameters(), *second.parameters()]
    there, values = x.double(), None
    rope = Rope(Shape(4, WIDTH, HEADS, 2 * LENGTH))
    for layer in (first, second):
        q, k, v = (
            t.view(2, LENGTH, HEADS, K).transpose(1, 2) for t in (there @ layer.qkv.weight.double().T).chunk(3, -1)
        )
        q, k = rope.rotate(q, k, torch.arange(LENGTH))
        own, shared = (1.0, 0.0) if values is None else layer.mix.double()
        values = v if values is None else values
        v = own * v + shared * values
        weights = (q @ k.transpose(-1, -2) / K**0.5 + causal().double()).softmax(-1)
        there = (weights @ v).transpose(1, 2).flatten(2) @ layer.o_proj.weight.double().T
    there = there.float()
    grads = [gradients(out, [t, *wanted]) for out, t in ((found, y), (there, x))]
    return Comparison([(found, there)], list(zip(*grads, strict=True)))


@parity("attention", "none", "formula.zero")
def none() -> Comparison:
    """Beside a stream, nothing: what a block adds of it is 0 and no gradient passes."""
    x = inputs()
    found = x + part({"name": "none"})(x, flow())
    return Comparison([(found, x)], [(gradients(found, [x])[0], gradients(x * 1, [x])[0])])
