"""Each twin against its part, as `train` builds that: outputs, and gradients of the input and of every weight."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gpt_lab import kernels
from gpt_lab.config.composition import Composer
from gpt_lab.infer.cache import Cache
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.base import Flow
from tests.parity.case import TOLERANCE

DEPTH, WIDTH, HEADS, LENGTH, VOCABULARY = 2, 32, 4, 12, 40
SIZES = (f"scale.depth={DEPTH}", f"scale.width={WIDTH}", f"scale.heads={HEADS}", f"scale.context={LENGTH}")
Jitted = Callable[[Callable[..., Any]], Callable[..., Any]]
compose = Composer().compose


def built(*words: str) -> GPT:
    """The model of a command line, with weights so large that outputs are of size 1, and gains that differ from 1."""
    stated = {word.partition("=")[0] for word in words}
    sizes = [word for word in SIZES if word.partition("=")[0] not in stated]
    cfg = compose([*sizes, f"batch.tokens={LENGTH}", *words])
    model = GPT(cfg, VOCABULARY)
    initialize(model, cfg)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(1.2 / parameter.shape[-1] ** 0.5 / parameter.std())
            else:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def flow(model: GPT, **more: Any) -> Flow:
    return Flow(model.position, torch.arange(LENGTH), shared={}, **more)


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hold(
    jitted: Jitted,
    part: Callable[[Tensor], Tensor],
    weights: Mapping[str, Tensor],
    twin: Callable[[Any, Any], Any],
    x: Tensor,
) -> None:
    """Holds a twin, of weights and input, against a part that has these weights."""
    import jax

    leaves = {"x": x.requires_grad_(x.is_floating_point()), **weights}
    wanted = {name: tensor for name, tensor in leaves.items() if tensor.requires_grad}
    found = part(x)
    assert found.std() > 0.1, "too small for a mistake to show"
    direction = drawn(*found.shape, seed=2)
    grads = torch.autograd.grad((found * direction).sum(), list(wanted.values()))

    def both(arrays: dict[str, Any]) -> Any:
        def output(changed: dict[str, Any]) -> Any:
            now = arrays | changed
            return twin({name: now[name] for name in weights}, now["x"])

        value, back = jax.vjp(output, {name: arrays[name] for name in wanted})
        return value, back(direction.numpy())[0]

    theirs, their_grads = jitted(both)({name: tensor.detach().numpy() for name, tensor in leaves.items()})
    np.testing.assert_allclose(found.detach().numpy(), theirs, rtol=0, atol=TOLERANCE)
    assert wanted.keys() == their_grads.keys()
    for name, grad in zip(wanted, grads, strict=True):
        largest = max(1.0, float(abs(their_grads[name]).max()))
        np.testing.assert_allclose(grad.numpy(), their_grads[name], rtol=0, atol=TOLERANCE * largest, err_msg=name)


def named(module: nn.Module) -> dict[str, Tensor]:
    """The weights by their names in the state_dict, with their gradients."""
    parameters = dict(module.named_parameters())
    return {name: parameters[name] for name in module.state_dict() if name in parameters}


def test_rope(jitted: Jitted) -> None:
    from gpt_lab.twins.position.rope import rope

    position, places = built("model=gqa_rope").position, torch.arange(LENGTH)
    hold(
        jitted,
        lambda q: position.rotate(q.transpose(1, 2), q.transpose(1, 2), places)[0].transpose(1, 2),
        {},
        lambda w, q: rope(q, places.numpy()),
        drawn(2, LENGTH, HEADS, WIDTH // HEADS),
    )


@pytest.mark.parametrize("factor, original", [(4.0, LENGTH), (16.0, 4096)])
def test_yarn(jitted: Jitted, factor: float, original: int) -> None:
    from gpt_lab.twins.position.yarn import yarn

    words = ("position=yarn", f"position.factor={factor}", f"position.original={original}", "scale.heads=1")
    position, places = built(*words).position, torch.arange(LENGTH)
    hold(
        jitted,
        lambda k: position.rotate(k.transpose(1, 2), k.transpose(1, 2), places)[1].transpose(1, 2),
        {},
        lambda w, k: yarn(k, places.numpy(), original, factor),
        drawn(2, LENGTH, 1, WIDTH),
    )


def test_rmsnorm(jitted: Jitted) -> None:
    from gpt_lab.twins.norm.rmsnorm import rmsnorm

    part = built().blocks[0].get_submodule("attention_norm")
    hold(jitted, part, named(part), rmsnorm, drawn(2, LENGTH, WIDTH))


def test_swiglu(jitted: Jitted) -> None:
    from gpt_lab.twins.mlp.swiglu import swiglu

    part = built().blocks[0].get_submodule("mlp")
    hold(jitted, part, named(part), swiglu, drawn(2, LENGTH, WIDTH))


def test_moe(jitted: Jitted) -> None:
    """The balance loss beside the output: what it is minimised by is part of the part."""
    import jax.numpy as jnp

    from gpt_lab.twins.mlp.moe import moe

    model = built("mlp=moe", "mlp.experts=4", "mlp.d_ff=8", "mlp.balance=1.0")
    part = model.blocks[0].get_submodule("mlp")

    def mixed(x: Tensor) -> Tensor:
        losses: list[Tensor] = []
        y = part(x, flow(model, losses=losses))
        return torch.cat((y.flatten(), torch.stack(losses)))

    def twin(w: Any, x: Any) -> Any:
        y, balance = moe(w, x)
        return jnp.append(y.ravel(), balance)

    hold(jitted, mixed, named(part), twin, drawn(2, LENGTH, WIDTH))


ATTENTION: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "gqa": (("attention.kv_heads=2", "scale.heads=8"), {"heads": 8, "kv_heads": 2}),
    "sliding": (("attention.window=5",), {"heads": HEADS, "window": 5}),
    "mla": ((), {"heads": HEADS}),
    "mamba2": (("attention.state_dim=8", "position=none"), {"state_dim": 8}),
    "gated_deltanet": (("position=none",), {"heads": HEADS}),
}
"""Name -> what the command line has beside it, and the twin's arguments."""


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(jitted: Jitted, name: str) -> None:
    from gpt_lab.twins.position.rope import rope

    words, sizes = ATTENTION[name]
    model = built(f"attention={name}", *words)
    part = model.blocks[0].get_submodule("attention")
    twin = getattr(importlib.import_module(f"gpt_lab.twins.attention.{name}"), name)
    rotated = {} if "position=none" in words else {"rotate": rope}
    x = drawn(2, LENGTH, WIDTH)
    hold(jitted, lambda x: part(x, flow(model)), named(part), functools.partial(twin, **sizes, **rotated), x)


def test_mha(jitted: Jitted) -> None:
    from gpt_lab.twins.attention import mha
    from gpt_lab.twins.position.rope import rope

    model = built("attention=mha")
    part = model.blocks[0].get_submodule("attention")

    def twin(w: Any, x: Any) -> Any:
        return mha.mha(w, x, HEADS, rope, mha.empty(x, HEADS))[0]

    hold(jitted, lambda x: part(x, flow(model)), named(part), twin, drawn(2, LENGTH, WIDTH))


def test_the_cache_of_mha(jitted: Jitted) -> None:
    """Seven tokens, then one after the other: outputs, keys and values of each step."""
    from gpt_lab.twins.attention import mha
    from gpt_lab.twins.position.rope import rope

    model = built("attention=mha")
    part = model.blocks[0].get_submodule("attention")
    x, states = drawn(2, LENGTH, WIDTH), Cache()
    weights = {name: tensor.detach().numpy() for name, tensor in named(part).items()}
    step = jitted(functools.partial(mha.mha, heads=HEADS, rotate=rope))
    cache, begin = mha.empty(x.numpy(), HEADS), 0
    for end in (7, 8, 9):
        here = flow(model, states=states)._replace(positions_T=torch.arange(begin, end))
        with torch.no_grad():
            found = part(x[:, begin:end], here)
        theirs, cache = step(weights, x[:, begin:end].numpy(), cache=cache)
        np.testing.assert_allclose(found.numpy(), theirs, rtol=0, atol=TOLERANCE)
        kept = states.slot(0, "attention", lambda: pytest.fail("it keeps nothing"))
        for ours, twins in zip((kept._keys, kept._values), cache, strict=True):
            np.testing.assert_allclose(ours[:, :, :end].transpose(1, 2).numpy(), twins, rtol=0, atol=TOLERANCE)
        begin = end


def test_pre(jitted: Jitted) -> None:
    from gpt_lab.twins.attention import mha
    from gpt_lab.twins.mlp.swiglu import swiglu
    from gpt_lab.twins.position.rope import rope
    from gpt_lab.twins.residual.pre import pre

    model = built("residual=pre")

    def attention(w: Any, x: Any) -> Any:
        return mha.mha(w, x, HEADS, rope, mha.empty(x, HEADS))[0]

    block = model.blocks[0]
    twin = functools.partial(pre, attention=attention, mlp=swiglu)
    hold(jitted, lambda x: block(x, flow(model)), named(block), twin, drawn(2, LENGTH, WIDTH))


def test_flash_attn(jitted: Jitted) -> None:
    """The kernel of that name needs a CUDA device, where the tests hold it against this one too."""
    import jax

    from gpt_lab.twins.kernel.flash_attn import flash_attn

    dim = WIDTH // HEADS
    keys, values = drawn(2, HEADS, LENGTH, dim, seed=3), drawn(2, HEADS, LENGTH, dim, seed=4)
    weights = {"k": keys.requires_grad_(), "v": values.requires_grad_()}

    def twin(w: Any, q: Any) -> Any:
        return jax.vmap(jax.vmap(functools.partial(flash_attn, tile=3)))(q, w["k"], w["v"])

    def part(q: Tensor) -> Tensor:
        return kernels.attention(q, keys, values, kernel="math", scale=dim**-0.5)

    hold(jitted, part, weights, twin, drawn(2, HEADS, LENGTH, dim))


def test_gqa_rope(jitted: Jitted) -> None:
    """The whole model: logits, and gradients of all parameters, the tied embedding's from both of its ends."""
    from gpt_lab.twins.model.gqa_rope import gqa_rope

    model = built("model=gqa_rope")
    weights = named(model)
    assert weights.keys() == dict(model.named_parameters()).keys() == model.state_dict().keys()
    twin = functools.partial(gqa_rope, depth=DEPTH, heads=HEADS)
    tokens = torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(3))
    hold(jitted, model, weights, twin, tokens)
