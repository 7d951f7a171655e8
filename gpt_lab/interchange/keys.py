"""What the configurations of most families say alike: sizes, rotary positions, layers with windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpt_lab.config.schema import RunConfig, Section
from gpt_lab.errors import ConfigError
from gpt_lab.interchange.family import Released, Settings
from gpt_lab.model.gpt import GPT

WINDOWED, FULL = "sliding_attention", "full_attention"


def attention(model: GPT, layer: int = 0) -> Any:
    """The attention at a depth."""
    return model.layers()[layer].attention


def mlp(model: GPT, layer: int = 0) -> Any:
    """The MLP at a depth."""
    return model.layers()[layer].mlp


def first_with(parts: Sequence[Any], attribute: str, what: str) -> Any:
    """The first of some parts that has an attribute.

    Raises:
        ConfigError: none has it; the line says what it stands for.
    """
    for part in parts:
        if hasattr(part, attribute):
            return part
    raise ConfigError(f"no layer with {what}")


def write_sizes(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    """Sizes, under the names that most families have."""
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": cfg.scale.width,
        "num_hidden_layers": cfg.scale.depth,
        "num_attention_heads": cfg.scale.heads,
        "max_position_embeddings": cfg.scale.context,
        "rms_norm_eps": cfg.norm["eps"],
        "tie_word_embeddings": cfg.model.tied,
    }


def read_sizes(hf: Released) -> Settings:
    """As write_sizes."""
    return {
        "scale": {
            "depth": hf["num_hidden_layers"],
            "width": hf["hidden_size"],
            "heads": hf["num_attention_heads"],
            "context": hf["max_position_embeddings"],
        },
        "norm": {"name": "rmsnorm", "eps": hf["rms_norm_eps"]},
        "residual": {"name": "pre"},
        "model": {"tied": hf["tie_word_embeddings"], "bias": False},
    }


def write_heads(model: GPT, layer: int = 0) -> dict[str, Any]:
    """Key/value heads and head dimension of the attention at a depth."""
    found = attention(model, layer)
    return {"num_key_value_heads": found.kv_heads, "head_dim": found.head_dim}


def read_heads(hf: Released, name: str = "gqa") -> dict[str, Any]:
    """An attention with them; mha where every query head has its own keys."""
    heads, head_dim = hf["num_attention_heads"], hf.get("head_dim")
    kv_heads = hf.get("num_key_value_heads", heads)
    own_dim = None if head_dim in (None, hf["hidden_size"] // heads) else head_dim
    if name == "gqa" and kv_heads == heads:
        return {"name": "mha", "head_dim": own_dim}
    return {"name": name, "kv_heads": kv_heads, "head_dim": own_dim}


def write_rope(position: Section, model: GPT) -> dict[str, Any]:
    """`rope_parameters` of position=rope or yarn."""
    built: Any = model.position
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": position["base"]}
    if position["partial"] != 1.0:
        found["partial_rotary_factor"] = position["partial"]
    if position["name"] == "yarn":
        found |= {"rope_type": "yarn", "factor": position["factor"], "attention_factor": built.gain}
        found |= {key: position[key] for key in ("beta_fast", "beta_slow", "truncate")}
        found["original_max_position_embeddings"] = built.original
    elif position["scaling"] in ("linear", "llama3"):
        found |= {"rope_type": position["scaling"], "factor": position["factor"]}
        if position["scaling"] == "llama3":
            found |= dict(zip(("low_freq_factor", "high_freq_factor"), built.turns, strict=True))
            found["original_max_position_embeddings"] = built.original
    return found


def read_rope(hf: Released, kind: str | None = None, theta: float = 10000.0, partial: bool = False) -> dict[str, Any]:
    """position=rope or yarn from `rope_parameters`, or from `rope_theta` and `rope_scaling` of older files.

    Args:
        kind: whose parameters of several are wanted; None: there is one set of them.
        theta: the base where the configuration says none.
        partial: whether the family can rotate a part of a head.
    """
    given = hf.get("rope_parameters")
    if given is None:
        given = {"rope_theta": hf.get("rope_theta", theta)} | hf.get("rope_scaling", {})
    elif kind is not None:
        given = Released(hf.architecture, given)[kind]
    rope = Released(hf.architecture, given)
    share = float(rope.get("partial_rotary_factor", hf.get("partial_rotary_factor", 1.0)))
    if share != 1.0 and not partial:
        raise ConfigError(f"{hf.architecture} rotates whole heads, not a part of {share:g} (position.partial)")
    plain = {"base": float(rope.get("rope_theta", theta)), "partial": share}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type == "default":
        return {"name": "rope", **plain}
    if rope_type == "linear":
        return {"name": "rope", **plain, "scaling": "linear", "factor": float(rope["factor"])}
    original = rope.get("original_max_position_embeddings", hf["max_position_embeddings"])
    if rope_type == "llama3":
        turns = {key: float(rope[key]) for key in ("low_freq_factor", "high_freq_factor")}
        return {
            "name": "rope",
            **plain,
            "scaling": "llama3",
            "factor": float(rope["factor"]),
            "original": original,
            **turns,
        }
    if rope_type == "yarn" and not (rope.get("mscale") or rope.get("mscale_all_dim")):
        betas = {key: float(rope.get(key, default)) for key, default in (("beta_fast", 32), ("beta_slow", 1))}
        more = {"truncate": rope.get("truncate", True), "attention_factor": rope.get("attention_factor")}
        return {"name": "yarn", **plain, "factor": float(rope["factor"]), "original": original, **betas, **more}
    raise ConfigError(
        f"{hf.architecture} with rope_type={rope_type} (or its mscale, mscale_all_dim) has no counterpart"
    )


def layer_types(model: GPT) -> list[str]:
    """Which layers have a window."""
    return [FULL if attention(model, layer).window is None else WINDOWED for layer in range(model.shape.depth)]


def window(model: GPT) -> int | None:
    """The window of those that have one."""
    found = {attention(model, layer).window for layer in range(model.shape.depth)} - {None}
    return max(found, default=None)


def read_windows(hf: Released, types: Sequence[str]) -> dict[str, Any]:
    """Window and pattern of attention=sliding."""
    _known(hf, types, (WINDOWED, FULL))
    return {"window": hf["sliding_window"], "pattern": shortest("".join("L" if t == FULL else "S" for t in types))}


def letters(hf: Released, types: Sequence[str], names: dict[str, str]) -> str:
    """The pattern of layers of some types, each of which has a letter."""
    _known(hf, types, tuple(names))
    return shortest("".join(names[one] for one in types))


def shortest(pattern: str) -> str:
    """The shortest pattern that gives the same letters when repeated."""
    for length in range(1, len(pattern)):
        if (pattern[:length] * len(pattern))[: len(pattern)] == pattern:
            return pattern[:length]
    return pattern


def _known(hf: Released, types: Sequence[str], known: Sequence[str]) -> None:
    for one in types:
        if one not in known:
            raise ConfigError(
                f"{hf.architecture} with layers of {one} has no counterpart here: only {', '.join(known)}"
            )
