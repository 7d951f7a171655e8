"""Presets as `train` composes them beside their originals: same weights, logits and gradients of both.

Nothing is normalised, patched or skipped on either side: both get the same random weights, through a map of names and
layouts, and run. Where a preset differs from a model on purpose, its own description says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.throughput import BareGPT, ModelShape
from gpt_lab.config import composition
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.objective import CrossEntropy
from tests.parity import parity_maps
from tests.parity.case import Comparison, parity

VOCAB, WIDTH, HEADS, KV_HEADS, CONTEXT, LENGTH = 61, 32, 4, 2, 32, 24
PLAIN, GATED = 4 * WIDTH, 88
"""Hidden widths of MLPs: four times the width; 8/3 of it, to the nearest multiple of 8."""
SIZES = ["scale.depth=2", f"scale.width={WIDTH}", f"scale.heads={HEADS}", f"scale.context={CONTEXT}"]
ENDS = {"bos_token_id": 0, "eos_token_id": 1}
THEIRS = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": None,
}
GATED_THEIRS = THEIRS | {"intermediate_size": GATED, "head_dim": WIDTH // HEADS}
GROUPED = GATED_THEIRS | {"num_key_value_heads": KV_HEADS}
Weights = Mapping[str, Tensor]


def _rope(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **more}}


class NanoGPT(BareGPT):
    """nanoGPT's model, in the words of the benchmark that trains it."""

    def __init__(self) -> None:
        super().__init__(ModelShape(2, HEADS, WIDTH, CONTEXT, 3, VOCAB))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


@dataclass(frozen=True)
class Case:
    """One architecture: our command line, the original and how its weights are named here.

    Fields:
        reference: a class of transformers, or NanoGPT.
        theirs: what the original's configuration says, from its release, never read from ours.
        names: its weights -> ours.
        one_kv_head: the original has a head of keys and values for each of queries, which here are all the same one.
    """

    words: list[str]
    reference: str
    theirs: dict[str, Any]
    names: Callable[[Weights], dict[str, Tensor]]
    one_kv_head: bool = False


CASES = {
    "gpt2": Case(
        ["model=gpt2"],
        "GPT2LMHeadModel",
        {"vocab_size": VOCAB, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": 2, "n_head": HEADS},
        parity_maps.gpt2,
    ),
    "llama": Case(["model=llama"], "LlamaForCausalLM", GATED_THEIRS | _rope(1e4), parity_maps.llama),
    "gqa_rope": Case(
        ["model=gqa_rope"], "LlamaForCausalLM", GROUPED | _rope(1e4) | {"tie_word_embeddings": True}, parity_maps.llama
    ),
    "qwen3": Case(
        ["model=qwen3"], "Qwen3ForCausalLM", GROUPED | _rope(1e6) | {"tie_word_embeddings": True}, parity_maps.llama
    ),
    "olmo2": Case(
        ["model=olmo2"],
        "Olmo2ForCausalLM",
        THEIRS | {"intermediate_size": GATED, "rms_norm_eps": 1e-6} | _rope(5e5),
        parity_maps.olmo2,
    ),
    "original": Case(
        ["model=original"],
        "MarianForCausalLM",
        {"vocab_size": VOCAB, "d_model": WIDTH, "decoder_layers": 2, "decoder_attention_heads": HEADS}
        | {"decoder_ffn_dim": PLAIN, "max_position_embeddings": CONTEXT, "activation_function": "relu"}
        | {"scale_embedding": True, "pad_token_id": 0, "decoder_start_token_id": 0, "encoder_layers": 2},
        parity_maps.marian,
    ),
    "nanochat": Case(
        ["model=nanochat"],
        "NanoChatForCausalLM",
        THEIRS | {"intermediate_size": PLAIN} | _rope(1e4),
        functools.partial(parity_maps.nanochat, heads=HEADS, kv_heads=HEADS),
    ),
    "mqa_alibi": Case(
        ["model=mqa_alibi"],
        "MptForCausalLM",
        {"vocab_size": VOCAB, "d_model": WIDTH, "n_heads": HEADS, "n_layers": 2, "max_seq_len": CONTEXT},
        parity_maps.mpt,
        one_kv_head=True,
    ),
    "mistral": Case(
        ["model=llama", "attention=sliding", "attention.window=5", "attention.pattern=S", "attention.kv_heads=2"],
        "MistralForCausalLM",
        GROUPED | _rope(1e4) | {"sliding_window": 5},
        parity_maps.llama,
    ),
    "llama, other numbers": Case(
        ["model=llama", "attention=gqa", "norm.eps=1e-3", "position.base=500", "mlp.d_ff=48"],
        "LlamaForCausalLM",
        GROUPED | _rope(500.0) | {"rms_norm_eps": 1e-3, "intermediate_size": 48},
        parity_maps.llama,
    ),
    "gemma2": Case(
        [
            "model=llama",
            "attention=sliding",
            "attention.window=5",
            "attention.pattern=SL",
            "attention.kv_heads=2",
            "attention.softcap=2",
            "residual=sandwich",
            "mlp=geglu",
            "model.logit_softcap=3",
        ],
        "Gemma2ForCausalLM",
        GROUPED
        | _rope(1e4)
        | {"sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
        | {"query_pre_attn_scalar": WIDTH // HEADS, "layer_types": ["sliding_attention", "full_attention"]}
        | {"tie_word_embeddings": False},
        parity_maps.gemma2,
    ),
    "gpt_neox": Case(
        [
            "model=gpt2",
            "position=rope",
            "position.partial=0.25",
            "mlp=gelu",
            "residual=parallel",
            "residual.shared_norm=false",
            "model.tied=false",
        ],
        "GPTNeoXForCausalLM",
        THEIRS | {"intermediate_size": PLAIN} | _rope(1e4, partial_rotary_factor=0.25),
        functools.partial(parity_maps.gpt_neox, heads=HEADS),
    ),
    "nanogpt": Case(["+experiment=shakespeare_char"], "NanoGPT", {}, parity_maps.nanogpt),
    "nanogpt on a CPU": Case(["+experiment=shakespeare_char_cpu"], "NanoGPT", {}, parity_maps.nanogpt),
}


def _reference(case: Case) -> nn.Module:
    if case.reference == "NanoGPT":
        return NanoGPT().eval()
    cls = getattr(transformers, case.reference)
    model: nn.Module = cls(cls.config_class(**ENDS | case.theirs, attn_implementation="eager")).eval()
    return model


def _drawn(case: Case, reference: nn.Module) -> dict[str, Tensor]:
    """Random weights for the original, large enough for every mistake to show."""
    weights = {}
    for name, parameter in reference.named_parameters():
        if not parameter.requires_grad:
            continue
        shape = list(parameter.shape)
        if case.one_kv_head and name.endswith("Wqkv.weight"):
            shape[0] = WIDTH + 2 * WIDTH // HEADS
        drawn = torch.randn(shape)
        weight = parameter.detach() + 0.3 * drawn if len(shape) == 1 else 0.9 * WIDTH**-0.5 * drawn
        weights[name] = weight.requires_grad_()
    return weights


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
        torch.manual_seed(0)
        reference = _reference(case)
        weights = _drawn(case, reference)
        tokens, targets = (torch.randint(2, VOCAB, (3, LENGTH)) for _ in range(2))
    model = GPT(composition.compose([*case.words, *SIZES, *more]), VOCAB).eval()
    model.choose_kernels("cpu", "fp32")
    named = case.names(weights)
    theirs = _repeated(weights) if case.one_kv_head else weights
    logits, found = functional_call(model, named, tokens), functional_call(reference, theirs, tokens)
    expected = found if isinstance(found, Tensor) else found.logits
    sides = []
    for value in (logits, expected):
        loss = CrossEntropy()(value, targets)[0]
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        sides.append([value, *(torch.zeros(()) if g is None else g for g in gradients)])
    assert named.keys() == {name for name, _ in model.named_parameters()}
    assert expected.std() > 0.5
    return sides[0], sides[1]


CERTIFIED = {
    "gpt2": [("norm", "layernorm"), ("position", "learned"), ("mlp", "gelu_tanh")],
    "llama": [("attention", "mha"), ("position", "rope"), ("norm", "rmsnorm"), ("mlp", "swiglu"), ("residual", "pre")],
    "gqa_rope": [("attention", "gqa")],
    "mistral": [("attention", "sliding")],
    "mqa_alibi": [("attention", "mqa"), ("position", "alibi")],
    "original": [("position", "sinusoidal"), ("mlp", "relu"), ("residual", "post")],
    "nanochat": [("mlp", "relu2")],
    "gemma2": [("mlp", "geglu"), ("residual", "sandwich")],
    "gpt_neox": [("mlp", "gelu"), ("residual", "parallel")],
    "olmo2": [("residual", "olmo2")],
}
"""The parts that each whole model stands for: a fault in one would show in its logits."""


def _whole(name: str) -> Comparison:
    mine, theirs = both(CASES[name])
    return Comparison([(mine[0], theirs[0])], list(zip(mine[1:], theirs[1:], strict=True)))


for _name, _parts in CERTIFIED.items():
    for _kind, _part in _parts:
        parity(_kind, _part, f"transformers.{CASES[_name].reference}")(functools.partial(_whole, _name))
