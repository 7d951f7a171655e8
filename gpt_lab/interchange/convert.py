"""A model of the lab as one of Hugging Face's, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gpt_lab.config import composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.interchange import counterpart, links
from gpt_lab.interchange.family import Family, Released
from gpt_lab.model.gpt import GPT
from gpt_lab.model.skip_init import bare_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tensors = Mapping[str, Tensor]
LEFT_OVER = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias")
"""Constants that older files hold among the weights."""
BY_VOCABULARY = ("embed.weight", "head.weight")
TRAINING_ONLY = "auxiliary."
"""Where an objective's own modules are, which predict nothing."""


def to_hf(
    weights: GPT | Tensors, cfg: RunConfig, vocab_size: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration (a config.json's content) and the weights that transformers has of a model.

    Rows that pad the vocabulary are left out, and so are the head where it is the embedding and the modules that only
    training uses.

    Args:
        weights: the model, or its state_dict.
        cfg: what it was composed of.
        vocab_size: tokens without padding; None: the model's, or all rows of the embedding.

    Raises:
        ConfigError: no family has such a model, or a tensor is missing or of another size; the line names the option
            or the tensor.
    """
    found = dict(weights.state_dict()) if isinstance(weights, GPT) else dict(weights)
    if vocab_size is None and isinstance(weights, GPT):
        vocab_size = weights.vocab_size
    if "embed.weight" not in found:
        raise ConfigError("the weights lack embed.weight: they are no model of the lab")
    model = bare_model(cfg, vocab_size or found["embed.weight"].shape[0])
    family = counterpart.of(cfg, model)
    _check_shapes(model, found)
    found |= {name: found[name][: model.vocab_size] for name in BY_VOCABULARY if name in found}
    found = {name: tensor for name, tensor in found.items() if not name.startswith(TRAINING_ONLY)}
    linked = list(family.links(model))
    _refuse_leftover(model, found, {name for link in linked for name in link.ours}, family)
    config = {"architectures": [family.architecture], "model_type": family.model_type, **family.write(cfg, model)}
    return config, links.there(linked, found)


def from_hf(weights: Tensors, config: Mapping[str, Any]) -> tuple[list[str], dict[str, Tensor]]:
    """The overrides that compose a model of transformers here, and its state_dict.

    Args:
        weights: the state_dict of the family's class, with or without its head where that is the embedding.
        config: the content of its config.json.

    Raises:
        ConfigError: the family, or what its configuration says, has no counterpart, or a tensor is missing, too many
            or of another size; the line names it.
    """
    family = counterpart.known(str(config.get("model_type")))
    settings = family.read(Released(family.architecture, config))
    words = counterpart.words(settings)
    model = bare_model(composition.compose(words), Released(family.architecture, config)["vocab_size"])
    linked = list(family.links(model))
    theirs = [name for link in linked for name in link.theirs]
    found = _prefixed(weights, theirs)
    extra = found.keys() - set(theirs)
    if model.head is None and "lm_head.weight" in extra:
        if not found["lm_head.weight"].equal(found[theirs[0]]):
            raise ConfigError(f"lm_head.weight is not {theirs[0]}, but the configuration says that they are tied")
        extra.remove("lm_head.weight")
    extra = {name for name in extra if not name.endswith(LEFT_OVER)}
    if extra:
        raise ConfigError(f"{min(extra)} has no place in a {family.architecture} of this configuration")
    ours = links.back(linked, found)
    _check_shapes(model, dict(model.named_buffers()) | ours)
    filled = {name: tensor for name, tensor in model.state_dict().items() if name not in ours}
    return words, {**ours, **filled}


def opened(config: Mapping[str, Any], weights: Tensors) -> PreTrainedModel:
    """The model of transformers with these weights, in eval mode.

    Raises:
        ConfigError: the weights are not the configuration's.
    """
    import transformers

    cls = getattr(transformers, counterpart.known(config["model_type"]).architecture)
    model: PreTrainedModel = cls(cls.config_class(**{k: v for k, v in config.items() if k != "architectures"})).eval()
    missing, unexpected = model.load_state_dict(dict(weights), strict=False)
    model.tie_weights()
    if wrong := [
        *unexpected,
        *(name for name in missing if name != "lm_head.weight" or not config["tie_word_embeddings"]),
    ]:
        raise ConfigError(f"{wrong[0]} is {'too many' if unexpected else 'missing'} in a {cls.__name__}")
    return model


def _prefixed(weights: Tensors, theirs: list[str]) -> dict[str, Tensor]:
    """Names with the base model's prefix, which files of the base model alone do without (GPT-2's are such)."""
    prefix, wanted = theirs[0].partition(".")[0], set(theirs)
    short = {name: f"{prefix}.{name}" for name in weights if f"{prefix}.{name}" in wanted and name not in wanted}
    return {short.get(name, name): tensor for name, tensor in weights.items()}


def _check_shapes(model: nn.Module, found: Tensors) -> None:
    for name, wanted in model.state_dict().items():
        if name not in found:
            raise ConfigError(f"the weights lack {name}: they are of another model, or not all of them are here")
        shape, own = tuple(found[name].shape), tuple(wanted.shape)
        if shape != own and not (name in BY_VOCABULARY and shape[0] > own[0] and shape[1:] == own[1:]):
            raise ConfigError(f"{name} is {shape}, but the configuration makes it {own}")


def _refuse_leftover(model: nn.Module, found: Tensors, linked: set[str], family: Family) -> None:
    """Refuses a weight without a place there; what a part counts in training has none, nor need it have."""
    parameters = dict(model.named_parameters())
    for name in model.state_dict().keys() - linked:
        if name.startswith(TRAINING_ONLY):
            continue
        if name in parameters or (name.endswith("choice_bias_E") and found[name].any()):
            raise ConfigError(f"{name} has no place in a {family.architecture}")
