"""Adapters: the paper's formula, merged equals unmerged on every attention and MLP, only A and B learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from gpt_lab import registry
from gpt_lab.adapt import group_codes, lora
from gpt_lab.adapt.rounding import linear_weights, rounded
from gpt_lab.config.schema import RunConfig
from gpt_lab.config.sections import Adapt
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT, initialize
from tests.helpers import tiny_config

VOCAB = 40


def adapted(cfg: RunConfig, **settings: Any) -> GPT:
    """A model with adapters whose B is not 0, so that they say something."""
    cfg = replace(cfg, adapt=Adapt(**{"rank": 3, "alpha": 6.0, **settings}))
    model = GPT(cfg, VOCAB)
    initialize(model, cfg)
    lora.attach(model, cfg)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(lora.B):
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def tokens() -> torch.Tensor:
    return torch.randint(VOCAB, (2, 16), generator=torch.Generator().manual_seed(3))


PARTS = [(kind, name) for kind in ("attention", "mlp") for name in registry.index()[kind]]
NEEDS: dict[str, dict[str, Any]] = {"sliding": {"window": 8}}


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_merged_equals_unmerged(kind: str, name: str) -> None:
    """Whoever reads a weight, and however, reads it with its adapter: logits to 1e-5."""
    cfg = tiny_config(**{kind: {"name": name, **NEEDS.get(name, {})}})
    try:
        model = adapted(cfg)
    except ConfigError as error:
        pytest.skip(str(error))
    merged = GPT(cfg, VOCAB)
    merged.load_state_dict(lora.plain(model.state_dict()))
    for one in (model, merged):
        one.eval()
        one.choose_kernels("cpu", "fp32")
    with torch.no_grad():
        ours, theirs = model(tokens()), merged(tokens())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    plain = GPT(cfg, VOCAB)
    initialize(plain, cfg)
    assert any(not torch.equal(tensor, plain.state_dict()[key]) for key, tensor in merged.state_dict().items()), (
        "an adapter that says nothing proves nothing"
    )


def test_a_layer_is_the_formula_and_only_a_and_b_learn() -> None:
    model = adapted(tiny_config(), targets=["qkv", "down_proj"])
    layers = {name: part for name, part in model.named_modules() if isinstance(part, lora.AdaptedLinear)}
    assert {name.split(".")[-1] for name in layers} == {"qkv", "down_proj"}
    layer = next(iter(layers.values()))
    x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
    by_hand = x @ layer.base.T + 6.0 / 3 * (x @ layer.lora_A.T) @ layer.lora_B.T
    torch.testing.assert_close(layer(x), by_hand)
    model.choose_kernels("cpu", "fp32")
    model(tokens()).square().sum().backward()
    learn = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learn == {f"{name}.{one}" for name in layers for one in (lora.A, lora.B)}
    assert lora.trained(model)[0] == sum(3 * (layer.in_features + layer.out_features) for layer in layers.values())


@pytest.mark.parametrize("bits", [4, 8])
def test_over_few_bits_the_base_is_what_was_rounded(bits: int) -> None:
    cfg = tiny_config()
    model, whole = adapted(cfg, bits=bits, group=16), adapted(cfg)
    for name, part in model.named_modules():
        if isinstance(part, lora.AdaptedLinear):
            kept = group_codes.encode(whole.get_submodule(name).base, bits, 16)
            wanted = group_codes.decode(kept["codes"], kept["scales"], kept["format"])
            assert torch.equal(part.base, wanted) and "weight" not in dict(part.named_parameters())
            torch.testing.assert_close(part.lora_A, whole.get_submodule(name).lora_A)
    merged = GPT(cfg, VOCAB)
    merged.load_state_dict(lora.plain(model.state_dict()))
    for one in (model, merged):
        one.eval()
        one.choose_kernels("cpu", "fp32")
    torch.testing.assert_close(model(tokens()), merged(tokens()), rtol=0, atol=1e-5)


def test_rounding_is_undone() -> None:
    cfg = tiny_config(**{"model.tied": False})
    model = adapted(cfg, targets=["qkv"])
    model.eval()
    model.choose_kernels("cpu", "fp32")
    before, weights = model(tokens()), {key: value.clone() for key, value in model.state_dict().items()}
    assert "head.weight" in linear_weights(model)
    with rounded(model, 4, 16):
        inside = model(tokens())
    merged = GPT(cfg, VOCAB)
    kept = group_codes.encoded(lora.plain(weights), 4, 16, linear_weights(model))
    merged.load_state_dict(lora.plain(kept))
    merged.eval()
    merged.choose_kernels("cpu", "fp32")
    torch.testing.assert_close(inside, merged(tokens()), rtol=0, atol=1e-5)
    assert torch.equal(model(tokens()), before) and not torch.equal(inside, before)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_what_cannot_be_is_one_line() -> None:
    with pytest.raises(ConfigError, match="linear layer 'qvk'; did you mean 'qkv'"):
        adapted(tiny_config(), targets=["qvk"])
    with pytest.raises(ConfigError, match="adapt.rank=4 trains adapters of weights that stay as they are: name"):
        tiny_config(**{"adapt.rank": 4})


def test_peft_computes_the_same() -> None:
    """The library's own layers, around the same weights with the same A and B."""
    from peft import LoraConfig, inject_adapter_in_model

    cfg, targets = tiny_config(), ["qkv", "o_proj", "gate_proj", "up_proj", "down_proj"]
    ours, theirs = adapted(cfg, targets=targets), GPT(cfg, VOCAB)
    initialize(theirs, cfg)
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=6.0, target_modules=targets), theirs)
    same = ours.state_dict()
    for name, parameter in theirs.named_parameters():
        if name.endswith(".default.weight"):
            parameter.data.copy_(same[name.removesuffix(".default.weight")])
    for one in (ours, theirs):
        one.eval()
        one.choose_kernels("cpu", "fp32")
    torch.testing.assert_close(ours(tokens()), theirs(tokens()), rtol=0, atol=1e-6)
