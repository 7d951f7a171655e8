"""Families with Llama's block: one stream, RMS norms, fused or apart q, k and v, a gated MLP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.interchange import keys
from gpt_lab.interchange.family import HEADS, PRE_NORM, Family, Released, Settings
from gpt_lab.interchange.links import CHANNELS, PLAIN, SHIFTED, Form, Link, joined, named, same, swapped_halves, taken
from gpt_lab.model.gpt import GPT

NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
OUT_NORMS = {"attention_out_norm": "post_attention_layernorm", "mlp_out_norm": "post_feedforward_layernorm"}
SANDWICH = {
    "attention_norm": "input_layernorm",
    "attention_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}
EXPERTS = {"routed.gate_up_proj.weight": "experts.gate_up_proj", "routed.down_proj.weight": "experts.down_proj"}
MLP = {f"{name}.weight": f"{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")}
MLP_BIASES = {f"{name}.bias": f"{name}.bias" for name in ("gate_proj", "up_proj", "down_proj")}


def ends(model: GPT, gain: Form = PLAIN) -> Iterator[Link]:
    """Embedding, last norm and head."""
    yield same("embed.weight", "model.embed_tokens.weight")
    if getattr(model.norm, "weight", None) is not None:
        yield same("norm.weight", "model.norm.weight", gain)
    if model.head is not None:
        yield same("head.weight", "lm_head.weight")


def heads(attention: Any, here: str, there: str, gain: Form = PLAIN) -> Iterator[Link]:
    """Softmax attention with q, k, v in one matrix here and in three there."""
    q, kv = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    for kind in ("weight", "bias"):
        if getattr(attention.qkv, kind) is not None:
            yield joined(f"{here}qkv.{kind}", [f"{there}{x}_proj.{kind}" for x in "qkv"], (q, kv, kv))
        if getattr(attention.o_proj, kind) is not None:
            yield same(f"{here}o_proj.{kind}", f"{there}o_proj.{kind}")
    if attention.qk_norm in ("head", "full"):
        yield from named({f"{x}_norm.weight": f"{x}_norm.weight" for x in "qk"}, here, there, gain)


def gated(mlp: Any, here: str, there: str) -> Iterator[Link]:
    """A gated MLP."""
    yield from named(MLP if mlp.down_proj.bias is None else MLP | MLP_BIASES, here, there)


def layers(model: GPT) -> Iterator[tuple[Any, str, str]]:
    """Each block with the prefixes of its names here and there."""
    for i, block in enumerate(model.blocks):
        yield block, f"blocks.{i}.", f"model.layers.{i}."


def layer_norms(here: str, there: str, gain: Form = PLAIN, names: Mapping[str, str] = NORMS) -> Iterator[Link]:
    """The norms of a layer."""
    yield from named({f"{x}.weight": f"{y}.weight" for x, y in names.items()}, here, there, gain)


def convolutions(mixer: Any, here: str, there: str) -> Link:
    """Short convolutions over q, k and v, which are one there."""
    names = tuple(f"{here}{x}_conv.weight" for x in "qkv")
    rows = (mixer.key_width, mixer.key_width, mixer.value_width)
    return Link(names, (f"{there}conv1d.weight",), rows, form=CHANNELS)


def links(norms: Mapping[str, str] = NORMS, gain: Form = PLAIN) -> Callable[[GPT], Iterator[Link]]:
    """Where the weights are, for the names of a layer's norms, and the form of their gains."""

    def found(model: GPT) -> Iterator[Link]:
        yield from ends(model, gain)
        for block, here, there in layers(model):
            yield from heads(block.attention, f"{here}attention.", f"{there}self_attn.", gain)
            yield from gated(block.mlp, f"{here}mlp.", f"{there}mlp.")
            yield from layer_norms(here, there, gain, norms)

    return found


def write(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    """What all of these say."""
    return keys.write_sizes(cfg, model) | {
        **keys.write_heads(model),
        "intermediate_size": keys.mlp(model).down_proj.in_features,
        "rope_parameters": keys.write_rope(cfg.position, model),
    }


def read(hf: Released, attention: str = "gqa", theta: float = 10000.0) -> Settings:
    """As write."""
    hf.expect("hidden_act", "silu")
    return keys.read_sizes(hf) | {
        "attention": keys.read_heads(hf, attention),
        "position": keys.read_rope(hf, theta=theta),
        "mlp": {"name": "swiglu", "d_ff": hf["intermediate_size"]},
    }


def _write_llama(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    return write(cfg, model) | {"attention_bias": cfg.model.bias, "mlp_bias": cfg.model.bias}


def _read_llama(hf: Released, theta: float = 10000.0) -> Settings:
    found = read(hf, theta=theta)
    bias = hf.get("attention_bias", False)
    hf.expect("mlp_bias", bias)
    found["model"]["bias"] = bias
    return found


def _write_mistral(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    return write(cfg, model) | {"sliding_window": keys.window(model)}


def _read_mistral(hf: Released) -> Settings:
    if hf["sliding_window"] is None:
        return read(hf)
    found = read(hf, "sliding")
    found["attention"] |= {"window": hf["sliding_window"], "pattern": "S"}
    return found


def _write_ministral(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    return _write_mistral(cfg, model) | {"layer_types": keys.layer_types(model)}


def _read_ministral(hf: Released) -> Settings:
    if hf.get("sliding_window") is None:
        return read(hf)
    found = read(hf, "sliding")
    types = hf.get("layer_types", [keys.WINDOWED] * hf["num_hidden_layers"])
    found["attention"] |= keys.read_windows(hf, types)
    return found


def _read_qwen3(hf: Released) -> Settings:
    hf.expect("attention_bias", False)
    hf.expect("use_sliding_window", False)
    hf.expect("rms_norm_eps", 1e-6)  # that of the norms of queries and keys
    found = read(hf)
    found["attention"] |= {"qk_norm": "head"}
    return found


def _read_olmo2(hf: Released) -> Settings:
    hf.expect("attention_bias", False)
    hf.expect("rms_norm_eps", 1e-6)  # that of the norms of queries and keys
    found = read(hf) | {"residual": {"name": "olmo2"}}
    found["attention"] |= {"qk_norm": "full"}
    return found


def _write_olmo2(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    found = write(cfg, model)
    del found["head_dim"]
    return found


def _write_smollm3(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    pattern = cfg.position["pattern"]
    rotated = [int(pattern[layer % len(pattern)] == "R") for layer in range(cfg.scale.depth)]
    return _write_olmo2(cfg, model) | {
        "no_rope_layers": rotated,
        "attention_bias": cfg.model.bias,
        "mlp_bias": cfg.model.bias,
        "pad_token_id": None,
    }


def _read_smollm3(hf: Released) -> Settings:
    hf.expect("use_sliding_window", False)
    found = _read_llama(hf, theta=2000000.0)
    every = hf.get("no_rope_layer_interval", 4)
    rotated = hf.get("no_rope_layers", [int((layer + 1) % every != 0) for layer in range(hf["num_hidden_layers"])])
    found["position"] |= {"pattern": keys.shortest("".join("NR"[one] for one in rotated))}
    return found


def _write_gemma(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    found = write(cfg, model)
    return found | {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": found["head_dim"],
        "sliding_window": keys.window(model),
        "layer_types": keys.layer_types(model),
        "attn_logit_softcapping": cfg.attention["softcap"],
        "final_logit_softcapping": cfg.model.logit_softcap,
        "pad_token_id": None,
    }


def _read_gemma(hf: Released, full_every: int) -> Settings:
    """full_every: of the layers, where their kinds are not told: files leave out what their class's default is."""
    usual = [keys.WINDOWED if (layer + 1) % full_every else keys.FULL for layer in range(hf["num_hidden_layers"])]
    told = {key: value for key, value in hf.values.items() if value is not None or key != "layer_types"}
    hf = Released(hf.architecture, {"tie_word_embeddings": True, "layer_types": usual, **told})
    hf.expect("hidden_activation", "gelu_pytorch_tanh")
    hf.expect("attention_bias", False)
    hf.demand("query_pre_attn_scalar", hf["head_dim"])
    found = keys.read_sizes(hf)
    found["attention"] = keys.read_heads(hf, "sliding") | keys.read_windows(hf, hf["layer_types"])
    found["mlp"] = {"name": "geglu", "d_ff": hf["intermediate_size"]}
    found["model"] |= {"embed_scale": True, "logit_softcap": hf.get("final_logit_softcapping")}
    return found | {"residual": {"name": "sandwich"}}


def _read_gemma2(hf: Released) -> Settings:
    found = _read_gemma(hf, 2) | {"position": keys.read_rope(hf)}
    found["attention"]["softcap"] = hf["attn_logit_softcapping"]
    found["model"]["logit_softcap"] = hf["final_logit_softcapping"]
    return found


def _write_gemma3(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    local = cfg.position["local_base"] or cfg.position["base"]
    rope = {keys.FULL: keys.write_rope(cfg.position, model)}
    rope[keys.WINDOWED] = {"rope_type": "default", "rope_theta": local}
    return _write_gemma(cfg, model) | {"rope_parameters": rope}


def _read_gemma3(hf: Released) -> Settings:
    hf.expect("rms_norm_eps", 1e-6)  # that of the norms of queries and keys
    hf.expect("use_bidirectional_attention", False, None)
    hf.expect("attn_logit_softcapping", None)  # which its model ignores
    if hf.get("rope_parameters") is None:  # as older files have it
        local = float(hf.get("rope_local_base_freq", 10000.0))
        position = keys.read_rope(hf, theta=1000000.0)
    else:
        inner = Released(hf.architecture, Released(hf.architecture, hf["rope_parameters"])[keys.WINDOWED])
        inner.expect("rope_type", "default")
        local = keys.read_rope(hf, keys.WINDOWED)["base"]
        position = keys.read_rope(hf, keys.FULL, 1000000.0)
    Released(hf.architecture, position).expect("truncate", True)  # which its model takes in any case
    found = _read_gemma(hf, hf.get("sliding_window_pattern", 6)) | {"position": position}
    found["attention"]["qk_norm"] = "head"
    pattern = found["attention"]["pattern"].replace("L", "R").replace("S", "L")
    if local != position["base"] or ("L" in pattern and position.get("scaling")):
        position |= {"pattern": pattern} | ({"local_base": local} if "L" in pattern else {})
    return found


def _write_nanochat(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    found = _write_olmo2(cfg, model)
    return found | {"final_logit_softcapping": cfg.model.logit_softcap, "hidden_act": "relu2", "pad_token_id": None}


def _read_nanochat(hf: Released) -> Settings:
    hf.expect("hidden_act", "relu2")
    hf.expect("attention_bias", False)
    hf.expect("rms_norm_eps", 1e-6)  # that of the norms of queries and keys
    found = keys.read_sizes(hf) | {"attention": keys.read_heads(hf), "position": keys.read_rope(hf)}
    found["attention"] |= {"qk_norm": "unit"}
    found["mlp"] = {"name": "relu2", "d_ff": hf["intermediate_size"]}
    found["norm"] |= {"gain": False}
    found["model"] |= {"embed_norm": True, "logit_softcap": hf["final_logit_softcapping"]}
    return found


def _nanochat(model: GPT) -> Iterator[Link]:
    """It rotates the other way: that is our rotation with a head's halves swapped."""
    yield from ends(model)
    for block, here, there in layers(model):
        found = block.attention
        q, kv = found.heads * found.head_dim, found.kv_heads * found.head_dim
        order = taken(
            swapped_halves(found.heads, found.head_dim),
            swapped_halves(found.kv_heads, found.head_dim),
            torch.arange(kv),
        )
        names = [f"{there}self_attn.{x}_proj.weight" for x in "qkv"]
        yield joined(f"{here}attention.qkv.weight", names, (q, kv, kv), order)
        yield same(f"{here}attention.o_proj.weight", f"{there}self_attn.o_proj.weight")
        yield from named(
            {"up_proj.weight": "fc1.weight", "down_proj.weight": "fc2.weight"}, f"{here}mlp.", f"{there}mlp."
        )


ROTARY = {"position": ("rope", "yarn")}
SWIGLU = PRE_NORM | ROTARY | {"mlp": ("swiglu",)}
GEMMA = ROTARY | {"attention": ("sliding",), "mlp": ("geglu",), "norm": ("rmsnorm",), "residual": ("sandwich",)}
HALF = SWIGLU | {"attention": HEADS}

FAMILIES = (
    Family("llama", "LlamaForCausalLM", HALF, _write_llama, _read_llama, links()),
    Family(
        "mistral",
        "MistralForCausalLM",
        SWIGLU | {"attention": (*HEADS, "sliding")},
        _write_mistral,
        _read_mistral,
        links(),
    ),
    Family("qwen3", "Qwen3ForCausalLM", HALF, write, _read_qwen3, links()),
    Family("olmo2", "Olmo2ForCausalLM", HALF | {"residual": ("olmo2",)}, _write_olmo2, _read_olmo2, links(OUT_NORMS)),
    Family("smollm3", "SmolLM3ForCausalLM", HALF, _write_smollm3, _read_smollm3, links()),
    Family("gemma2", "Gemma2ForCausalLM", GEMMA, _write_gemma, _read_gemma2, links(SANDWICH, SHIFTED)),
    Family("gemma3_text", "Gemma3ForCausalLM", GEMMA, _write_gemma3, _read_gemma3, links(SANDWICH, SHIFTED)),
    Family("nanochat", "NanoChatForCausalLM", HALF | {"mlp": ("relu2",)}, _write_nanochat, _read_nanochat, _nanochat),
    Family(
        "ministral",
        "MinistralForCausalLM",
        SWIGLU | {"attention": (*HEADS, "sliding")},
        _write_ministral,
        _read_ministral,
        links(),
    ),
)
