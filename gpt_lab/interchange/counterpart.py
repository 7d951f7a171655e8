"""Which family a composed config is one of: the one whose configuration, read back, makes the same model.

So every option counts: one that a family's configuration does not say comes back as its default, and is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from gpt_lab import registry
from gpt_lab.config import checked, components, composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.config.sections import Model
from gpt_lab.errors import ConfigError, unknown
from gpt_lab.interchange import deepseek_like, gpt2_like, llama_like, llama_variants, mixtures, state_spaces
from gpt_lab.interchange.family import Family, Released, Settings
from gpt_lab.model.gpt import GPT

FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for module in (llama_like, llama_variants, gpt2_like, mixtures, deepseek_like, state_spaces)
    for family in module.FAMILIES
}
NAMED = 3
"""Families that an error names, of those that come closest."""
KINDS = ("attention", "position", "norm", "mlp", "residual")
TRAINED_WITH = frozenset(
    {"dropout", "checkpointing", "vocab_multiple", "chunk", "balance", "bias_rate", "z_loss", "capacity_factor"}
)
"""Options of training alone, or of its speed: a trained model computes the same without them."""
SIZES = frozenset(
    {"head_dim", "kv_heads", "key_heads", "window", "d_ff", "top_groups", "qkv_bias", "original", "attention_factor"}
    | {"kv_rank", "nope_dim", "rope_dim", "v_dim", "low_freq_factor", "high_freq_factor"}
)
"""Options whose null stands for a value that the others give, which a family's configuration spells out."""


def known(model_type: str) -> Family:
    """The family of a config.json's model_type.

    Raises:
        ConfigError: there is none; the line lists those there are.
    """
    if model_type not in FAMILIES:
        raise ConfigError(unknown("model_type", model_type, FAMILIES))
    return FAMILIES[model_type]


def of(cfg: RunConfig, model: GPT) -> Family:
    """The family that a model is of.

    Raises:
        ConfigError: of none; the line names what has no counterpart in the family that comes closest.
    """
    _refuse_unlike(cfg, model)
    misfits: dict[str, list[str]] = {}
    for family in FAMILIES.values():
        found = _misfits(cfg, model, family)
        if not found:
            return family
        misfits[family.architecture] = found
    fewest = min(map(len, misfits.values()))
    closest = [f"{found[0]} has no counterpart in {name}" for name, found in misfits.items() if len(found) == fewest]
    raise ConfigError("no family of transformers has this model: " + "; ".join(closest[:NAMED]))


def words(settings: Settings) -> list[str]:
    """The command line that composes settings: `attention=gqa attention.kv_heads=2 ...`, what is a default left out."""
    found = []
    for kind in KINDS:
        chosen = settings[kind]
        found += [f"{kind}={chosen['name']}", *_options(kind, kind, chosen)]
    flags = {field.name: field.default for field in dataclasses.fields(Model)} | settings["model"]
    sections = {"model": flags, "scale": settings["scale"]}
    found += [f"{name}.{key}={components.literal(v)}" for name, values in sections.items() for key, v in values.items()]
    context = settings["scale"]["context"]
    return found + ([f"batch.tokens={context}"] if _usual_tokens() % context else [])


@functools.cache
def _usual_tokens() -> int:
    """batch.tokens where nobody sets them: whole contexts must fit."""
    return int(composition.compose_tree([])["batch"]["tokens"])


def _options(kind: str, where: str, chosen: Mapping[str, Any]) -> Iterator[str]:
    for key, option in registry.get(kind, chosen["name"]).options.items():
        if key == "letters":
            for letter, part in chosen[key].items():
                yield f"{where}.letters.{letter}.name={part['name']}"
                yield from _options(kind, f"{where}.letters.{letter}", part)
        elif key in chosen and chosen[key] != option.default:
            yield f"{where}.{key}={components.literal(chosen[key])}"


def _refuse_unlike(cfg: RunConfig, model: GPT) -> None:
    """Refuses what all families compute otherwise."""
    if not model.shape.causal:
        raise ConfigError("no family of transformers here has this model: its objective makes it read both ways")
    if model.logits_scale != 1.0:
        raise ConfigError(
            "no family of transformers has this model: its init scales logits (use init=normal or fan_in)"
        )
    head_dim = model.shape.width // model.shape.heads
    if not math.isclose(registry.build("init", cfg.init, model.shape).attention_scale(head_dim) ** 2 * head_dim, 1.0):
        raise ConfigError("no family of transformers has this model: its init scales scores (use init=normal)")


def _misfits(cfg: RunConfig, model: GPT, family: Family) -> list[str]:
    """The settings that have no counterpart in a family."""
    found = [
        f"{kind}={part['name']}"
        for kind in KINDS
        for _, part in registry.parts_of(kind, getattr(cfg, kind))
        if part["name"] not in family.parts[kind]
    ]
    if found:  # another part is more than another option
        return [found[0], *found]
    try:
        read = family.read(Released(family.architecture, family.write(cfg, model)))
        return list(differences(cfg, _twin(cfg, read)))
    except ConfigError as error:
        return [f"({error})"]


def _twin(cfg: RunConfig, settings: Settings) -> RunConfig:
    """The config with other settings of the model, all that they do not say at its default."""
    return checked.from_dict(cfg.to_dict() | settings | {"scale": {"name": cfg.scale.name} | settings["scale"]})


def differences(mine: RunConfig, other: RunConfig) -> Iterator[str]:
    """Settings of one config whose model computes what the other's does not, as one writes them."""
    depth = mine.scale.depth
    for key in ("depth", "width", "heads", "context"):
        if getattr(mine.scale, key) != getattr(other.scale, key):
            yield f"scale.{key}={getattr(mine.scale, key)}"
            return
    for flag in dataclasses.fields(Model):
        value = getattr(mine.model, flag.name)
        if flag.name not in TRAINED_WITH and value != getattr(other.model, flag.name):
            yield f"model.{flag.name}={components.literal(value)}"
    for kind in KINDS:
        told: dict[str, None] = {}
        for layer in range(depth):
            a, b = (_part(kind, getattr(cfg, kind), layer, cfg) for cfg in (mine, other))
            told |= dict.fromkeys(_different(kind, a, b))
        yield from told


def _different(kind: str, mine: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    if mine["name"] != other["name"]:
        yield f"{kind}={mine['name']}"
        return
    for key, value in mine.items():
        if key not in TRAINED_WITH and value != other[key] and not (value is None and key in SIZES):
            yield f"{kind}.{key}={components.literal(value)}"


def _part(kind: str, settings: Mapping[str, Any], layer: int, cfg: RunConfig) -> dict[str, Any]:
    """What a layer has: of patterns, its letter alone; of names for one thing, one."""
    found = dict(settings)
    if "letters" in found:
        first = found.get("first", "")
        letter = (first + found["pattern"] * cfg.scale.depth)[layer]
        chosen = dict(found["letters"][letter])
        if found.get("d_ff") is not None and chosen.get("d_ff", 0) is None:
            chosen["d_ff"] = found["d_ff"]
        return _part(kind, chosen, layer, cfg)
    if "pattern" in found:
        found["pattern"] = found["pattern"][layer % len(found["pattern"])]
    if kind == "attention":
        heads = cfg.scale.heads
        if found["name"] in ("mha", "mqa"):
            found |= {"name": "gqa", "kv_heads": heads if found["name"] == "mha" else 1}
        if found.get("kv_heads", 1) is None:
            found["kv_heads"] = heads
        if found.get("pattern") == "L":
            found["window"] = None
    return found
