"""Presets as `train` composes them beside their originals: same weights, logits and gradients of both.

Nothing is normalised, patched or skipped on either side: both get the same random weights, through a map of names and
layouts, and run. Where a preset differs from a model on purpose, its own description says so.
"""

from __future__ import annotations

import functools

import torch
import transformers
from torch import Tensor, nn
from torch.func import functional_call

from gpt_lab.config import composition
from gpt_lab.interchange import links
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.objective.ce import CrossEntropy
from tests.parity.case import Comparison, parity
from tests.parity.released import CASES, ENDS, HEADS, VOCAB, WIDTH, Case, NanoGPT, Weights

LENGTH = 24


def reference(case: Case) -> nn.Module:
    if case.reference == "NanoGPT":
        return NanoGPT().eval()
    cls = getattr(transformers, case.reference)
    layers = {"num_hidden_layers": case.depth} | case.theirs
    model: nn.Module = cls(cls.config_class(**ENDS | layers, attn_implementation="eager")).eval()
    return model


def _drawn(case: Case, original: nn.Module) -> dict[str, Tensor]:
    """Random weights for the original, large enough for every mistake to show.

    A head of delta attention that reads next to nothing is brought to size 1, with its rounding errors: theirs make
    that rare.
    """
    weights = {}
    for name, parameter in original.named_parameters():
        if not parameter.requires_grad:
            continue
        shape = list(parameter.shape)
        if case.one_kv_head and name.endswith("Wqkv.weight"):
            shape[0] = WIDTH + 2 * WIDTH // HEADS
        drawn = torch.randn(shape)
        if name.endswith("A_log"):
            weight = drawn * 0.3 - 3.0  # memories of many tokens
        elif name.endswith("conv1d.weight"):
            weight = 4.0 * drawn  # SiLU then leaves keys that agree
        else:
            weight = parameter.detach() + 0.3 * drawn if len(shape) == 1 else 0.9 * WIDTH**-0.5 * drawn
        weights[name] = weight.requires_grad_()
    return weights | {
        name: 0.3 * torch.randn(buffer.shape)
        for name, buffer in original.named_buffers()
        if name.endswith("e_score_correction_bias")
    }


def ours(case: Case, model: GPT, weights: Weights) -> dict[str, Tensor]:
    """The original's weights under the names that they have in our model."""
    return links.back(case.family.links(model), weights) if case.names is None else case.names(weights)


def _repeated(weights: Weights) -> dict[str, Tensor]:
    """The one head of keys, and that of values, once for each head of queries."""
    head = WIDTH // HEADS
    return {
        name: torch.cat([w[:WIDTH], *(w[WIDTH + i * head :][:head].repeat(HEADS, 1) for i in range(2))])
        if name.endswith("Wqkv.weight")
        else w
        for name, w in weights.items()
    }


def both(case: Case, *more: str) -> tuple[list[Tensor], list[Tensor]]:
    """Logits, and the gradients of the original's weights, through our model and through the original."""
    with torch.random.fork_rng():
        torch.manual_seed(case.seed)
        original = reference(case)
        weights = _drawn(case, original)
        tokens, targets = (torch.randint(2, VOCAB, (3, LENGTH)) for _ in range(2))
    model = GPT(composition.compose([*case.overrides, *more]), VOCAB).eval()
    model.choose_kernels("cpu", "fp32")
    named = ours(case, model, weights)
    theirs = _repeated(weights) if case.one_kv_head else weights
    logits, found = functional_call(model, named, tokens), functional_call(original, theirs, tokens)
    expected = found if isinstance(found, Tensor) else found.logits
    sides = []
    for value in (logits, expected):
        loss = CrossEntropy()(value, targets)[0]
        wanted = [weight for weight in weights.values() if weight.requires_grad]
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        sides.append([value, *(torch.zeros(()) if g is None else g for g in gradients)])
    buffers = {name for name, _ in model.named_buffers()}
    assert named.keys() - buffers == {name for name, _ in model.named_parameters()}
    assert expected.std() > 0.5
    return sides[0], sides[1]


CERTIFIED = {
    "gpt2": [("norm", "layernorm"), ("position", "learned"), ("mlp", "gelu_tanh")],
    "llama": [("attention", "mha"), ("position", "rope"), ("norm", "rmsnorm"), ("mlp", "swiglu"), ("residual", "pre")],
    "gqa_rope": [("attention", "gqa")],
    "mistral": [("attention", "sliding")],
    "deepseek_v3": [("mlp", "hybrid")],
    "llama3": [("position", "rope")],
    "gpt_oss": [("position", "yarn")],
    "mqa_alibi": [("attention", "mqa"), ("position", "alibi")],
    "original": [("position", "sinusoidal"), ("mlp", "relu"), ("residual", "post")],
    "nanochat": [("mlp", "relu2")],
    "gemma2": [("mlp", "geglu"), ("residual", "sandwich")],
    "gpt_neox": [("mlp", "gelu"), ("residual", "parallel")],
    "olmo2": [("residual", "olmo2")],
}
"""The parts that each whole model stands for: a fault in one would show in its logits."""
STATED = {"llama3": "scaling=llama3"}
"""Options of those parts that make one model's case another's."""


def _whole(name: str) -> Comparison:
    mine, theirs = both(CASES[name])
    return Comparison([(mine[0], theirs[0])], list(zip(mine[1:], theirs[1:], strict=True)))


for _name, _parts in CERTIFIED.items():
    for _kind, _part in _parts:
        parity(_kind, _part, f"transformers.{CASES[_name].reference}", STATED.get(_name, ""))(
            functools.partial(_whole, _name)
        )
