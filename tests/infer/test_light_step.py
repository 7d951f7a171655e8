"""The step written out gives the logits of the model that it stands for, and stands for no other."""

from __future__ import annotations

import copy

import pytest
import torch

from gpt_lab.certify.contract import VOCABULARY, small
from gpt_lab.infer.batch import Batch
from gpt_lab.infer.cache import Cache
from gpt_lab.infer.generate import next_logits
from gpt_lab.infer.light_layers import lighten
from gpt_lab.infer.light_step import LightStep, light_step
from gpt_lab.model.gpt import GPT, initialize

KNOWN = {
    "llama": ["model=llama"],
    "gpt2": ["model=gpt2"],
    "tied": ["model=llama", "model.tied=true"],
    "grouped": ["model=llama", "attention=gqa"],
    "one key head": ["model=llama", "attention=mqa", "model.bias=true"],
    "window": ["model=llama", "attention=sliding", "attention.window=5", "attention.pattern=SL"],
    "part of a head": ["model=llama", "position=rope", "position.partial=0.5"],
    "two bases": ["model=llama", "position=rope", "position.pattern=LR", "position.local_base=100"],
    "xpos": ["model=llama", "position=xpos"],
    "no gain": ["model=llama", "norm.gain=false", "mlp=relu2"],
    "layernorm": ["model=llama", "norm=layernorm", "position=sinusoidal", "mlp=geglu"],
    "softcap": ["model=llama", "model.logit_softcap=3.0", "model.embed_scale=true"],
}
OTHERS = {
    "position": ["model=llama", "position=alibi"],
    "attention": ["model=llama", "attention=mla"],
    "scores": ["model=llama", "attention.softcap=5.0"],
    "norm of queries": ["model=llama", "attention.qk_norm=head"],
    "mlp": ["model=llama", "mlp=moe"],
    "residual": ["model=llama", "residual=sandwich"],
    "norm": ["model=llama", "norm=none"],
    "embeddings": ["model=llama", "model.embed_norm=true"],
}


def tiny_model(more: list[str]) -> GPT:
    """One with biases and gains that are not 0 and 1, whose errors would show."""
    cfg = small(["scale.depth=2", *more])
    model = GPT(cfg, VOCABULARY)
    initialize(model, cfg)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.3)
    model.choose_kernels("cpu", "fp32")
    return model.eval()


def light(model: GPT) -> GPT:
    lightened = copy.deepcopy(model)
    lighten(lightened)
    return lightened


@pytest.mark.parametrize("rows", [1, 3, 32])
@pytest.mark.parametrize("more", KNOWN.values(), ids=KNOWN)
def test_a_step_gives_the_models_logits(more: list[str], rows: int) -> None:
    """From a first token on beyond the training context, where the encoding has positions there."""
    model = tiny_model(more)
    lightened = light(model)
    assert light_step(lightened) is not None
    length = model.shape.context + (5 if model.position.extrapolates else 0)
    tokens = torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    caches = Cache(), Cache()
    for end in range(6, length + 1):
        expected, found = (
            next_logits(one, tokens[:, :end], cache) for one, cache in zip((model, lightened), caches, strict=True)
        )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert caches[0].seen == caches[1].seen == length


@pytest.mark.parametrize("name", ["llama", "gpt2", "grouped", "window", "xpos"])
def test_rows_at_different_positions(name: str) -> None:
    model = tiny_model(KNOWN[name])
    batches = [Batch(model), Batch(light(model))]
    for row, prompt in enumerate(([1, 2, 3], [4] * 9, [5, 6])):
        for batch in batches:
            batch.add(prompt, row)
    for token in range(6):
        chosen = [0, 1, 2] if token % 2 else [2, 0]
        expected, found = (batch.read({row: token + row for row in chosen}) for batch in batches)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("more", OTHERS.values(), ids=OTHERS)
def test_other_parts_are_the_models_own(more: list[str]) -> None:
    assert LightStep.of(tiny_model(more)) is None


def test_what_is_watched_is_the_models_own() -> None:
    model = tiny_model([])
    model.blocks[0].register_forward_hook(lambda *_: None)
    assert LightStep.of(model) is None


def test_weights_that_have_moved_are_not_read() -> None:
    model = light(tiny_model(["model=llama"]))
    model.double()
    assert light_step(model) is None


def test_weights_that_change_are_read() -> None:
    model, other = light(tiny_model(["model=llama"])), tiny_model(["model=llama", "seed=1"])
    model.load_state_dict(other.state_dict())
    tokens = torch.arange(8)[None]
    caches = Cache(), Cache()
    for end in (7, 8):
        expected, found = (
            next_logits(one, tokens[:, :end], cache) for one, cache in zip((other, model), caches, strict=True)
        )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
