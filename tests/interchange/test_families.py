"""Models of the lab as models of transformers and back: the same logits, the same bits, one clear line for the rest."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab.config import composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.interchange import convert, counterpart, links
from gpt_lab.model.gpt import GPT, initialize
from tests.parity import presets_ssm, released
from tests.parity.released import VOCAB

KNOWN = {family.architecture for family in counterpart.FAMILIES.values()}
CASES = released.CASES | presets_ssm.CASES
BOTH_WAYS = {name: case for name, case in CASES.items() if case.reference in KNOWN and not case.one_kv_head}
TINY = ["scale.depth=2", "scale.width=32", "scale.heads=4", "scale.context=32"]


VARIANTS = {
    "ArceeForCausalLM": ["model=llama", "mlp=relu2", "attention=gqa"],
    "MixtralForCausalLM": ["model=llama", "mlp=moe", "mlp.experts=4", "attention=gqa"],
    "Starcoder2ForCausalLM": ["model=gpt2", "position=rope", "attention=gqa", "model.tied=false"],
    "MinistralForCausalLM": ["model=llama", "attention=sliding", "attention.window=6", "attention.pattern=SL"],
    "StableLmForCausalLM": ["model=llama", "norm=layernorm", "position.partial=0.5", "attention.qkv_bias=true"],
    "OPTForCausalLM": ["model=gpt2", "mlp=relu", "residual=post"],
}
"""Families without a preset, and what composes one."""

GEMMA2 = CASES["gemma2"].overrides

composer = composition.Composer()


@functools.cache
def composed(*words: str) -> RunConfig:
    return composer.compose(words)


def compose(words: list[str]) -> RunConfig:
    """As composition.compose, each once."""
    return composed(*words)


def built(words: list[str]) -> GPT:
    """A model whose every tensor matters: gains between 1/2 and 2, nothing at 0."""
    cfg = compose(words)
    model = GPT(cfg, VOCAB).eval()
    initialize(model, cfg)
    model.choose_kernels("cpu", "fp32")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name and name.endswith("weight"):
                tensor.uniform_(0.6, 1.8, generator=generator)
            elif tensor.ndim == 1 and not name.endswith(("load_E",)):
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
            elif tensor.ndim > 1:
                tensor.mul_(3.0)
            if name.endswith("choice_bias_E") and "sigmoid" not in str(cfg.mlp):
                tensor.zero_()
    return model


def test_every_family_has_a_case() -> None:
    assert {case.reference for case in BOTH_WAYS.values()} | {"MptForCausalLM", *VARIANTS} == KNOWN


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_there_and_back(name: str) -> None:
    """What is written opens in transformers and gives our logits; what is read back is what was written, bit by bit."""
    case = BOTH_WAYS[name]
    model = built(case.overrides)
    cfg = compose(case.overrides)
    config, weights = convert.to_hf(model, cfg)
    assert config["architectures"] == [case.reference]
    theirs = convert.opened(config, weights)
    tokens = torch.randint(2, VOCAB, (2, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=0, atol=5e-5)
    words, again = convert.from_hf(weights, config)
    same_bits(again, model.state_dict())
    copy = GPT(compose(words), VOCAB).eval()
    copy.load_state_dict(again, strict=True)
    copy.choose_kernels("cpu", "fp32")
    with torch.no_grad():
        assert copy(tokens).equal(model(tokens))
    assert not list(counterpart.differences(cfg, compose(words)))
    assert convert.to_hf(copy, compose(words))[0] == config


def same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    counted = ("load_E", "dropped")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert name.endswith(counted) or found[name].equal(tensor), name


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_a_configuration_as_transformers_writes_it(name: str) -> None:
    """The release's configuration, all keys of it, composes the preset's model; so do the weights of the class."""
    from tests.parity.presets import reference

    case = BOTH_WAYS[name]
    theirs: Any = reference(case)
    words, state = convert.from_hf(theirs.state_dict(), theirs.config.to_dict())
    model = GPT(compose(words), VOCAB)
    model.load_state_dict(state, strict=True)
    assert not list(counterpart.differences(compose(case.overrides), compose(words)))


@pytest.mark.parametrize("architecture", VARIANTS)
def test_variants(architecture: str) -> None:
    words = [*VARIANTS[architecture], *TINY]
    model, cfg = built(words), compose(words)
    config, weights = convert.to_hf(model, cfg)
    assert config["architectures"] == [architecture]
    theirs = convert.opened(config, weights)
    tokens = torch.randint(2, VOCAB, (2, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=0, atol=5e-5)
    read, again = convert.from_hf(theirs.state_dict(), theirs.config.to_dict())
    same_bits(again, model.state_dict())
    assert not list(counterpart.differences(cfg, compose(read)))


def test_mpt() -> None:
    words = ["model=mqa_alibi", "attention=mha", *TINY]
    model, cfg = built(words), compose(words)
    config, weights = convert.to_hf(model, cfg)
    tokens = torch.randint(2, VOCAB, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), convert.opened(config, weights)(tokens).logits, rtol=0, atol=5e-5)
    same_bits(convert.from_hf(weights, config)[1], model.state_dict())


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["model=llama", "attention.softcap=30.0"], "attention.softcap=30.0"),
        (["model=llama", "attention=retention"], "attention=retention"),
        (["model=llama", "model.logit_softcap=30.0"], "model.logit_softcap=30.0"),
        (["model=llama", "position.scaling=ntk", "position.factor=2.0"], "position.scaling=ntk"),
        (["model=llama", "position.partial=0.5"], "position.partial"),
        (["model=qwen3", "norm.eps=1e-3"], "rms_norm_eps"),
        (["model=llama", "mlp=reglu"], "mlp=reglu"),
        (["model=llama", "position.pattern=RN", "model.embed_scale=true"], "model.embed_scale=true"),
        (["model=mqa_alibi"], "attention=mqa"),
        (["model=llama", "init=mup"], "init scales"),
        (["model=deepseek_v3", "attention.softcap=30.0"], "attention.softcap=30.0"),
        (["model=gpt_oss", "mlp.shared_experts=1"], "mlp.shared_experts=1"),
        (["model=gemma3", "position.pattern=N", "position.local_base=null"], "position.pattern=N"),
        (["model=kimi_linear", "attention.pattern=K", "scale.depth=2"], "latent attention"),
        (["model=qwen3_next", "attention.pattern=GR", "attention.letters.R.name=retention"], "attention=retention"),
        (["model=original"], "position=sinusoidal"),
    ],
)
def test_what_has_no_counterpart_is_named(words: list[str], what: str) -> None:
    cfg = compose([*words, *TINY])
    with pytest.raises(ConfigError) as error:
        convert.to_hf(GPT(cfg, VOCAB), cfg)
    assert what in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("preset", "change", "what"),
    [
        ("gemma2", {"attn_logit_softcapping": ...}, "attn_logit_softcapping"),
        ("gemma2", {"final_logit_softcapping": ...}, "final_logit_softcapping"),
        ("gemma2", {"query_pre_attn_scalar": ...}, "query_pre_attn_scalar"),
        ("gemma3", {"query_pre_attn_scalar": ...}, "query_pre_attn_scalar"),
        ("gemma3", {"attn_logit_softcapping": 2.0}, "attn_logit_softcapping=2.0"),
        ("gemma3", {"rope_parameters": {"full_attention": {}}}, "sliding_attention"),
        (
            "gemma3",
            {"rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope_type='linear'",
        ),
        (
            "gemma3",
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "yarn", "factor": 2.0, "truncate": False},
                    "sliding_attention": {},
                }
            },
            "truncate=False",
        ),
        ("nanochat", {"final_logit_softcapping": ...}, "final_logit_softcapping"),
        ("gpt_oss", {"rope_parameters": ...}, "rope_parameters"),
        (
            "deepseek_v3",
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale_all_dim": 0.8}},
            "mscale_all_dim",
        ),
        ("deepseek_v3", {"n_shared_experts": 0}, "n_shared_experts=0"),
    ],
)
def test_what_would_be_read_as_something_else_is_named(preset: str, change: dict[str, Any], what: str) -> None:
    """A key (... is left out) whose absence stands for the class's own value, or that the class computes otherwise."""
    words = GEMMA2 if preset == "gemma2" else [f"model={preset}", *TINY]
    config, weights = convert.to_hf(built(words), compose(words))
    config = {key: value for key, value in (config | change).items() if value is not ...}
    with pytest.raises(ConfigError) as error:
        convert.from_hf(weights, config)
    assert what in str(error.value)
    assert "\n" not in str(error.value)


def test_a_base_that_is_not_said_is_the_family_s() -> None:
    words = ["model=smollm3", *TINY[1:], "scale.depth=4"]
    config, weights = convert.to_hf(built(words), compose(words))
    del config["rope_parameters"]
    assert compose(convert.from_hf(weights, config)[0]).position["base"] == 2000000.0


def test_wrong_weights_are_named() -> None:
    cfg = compose(["model=qwen3", *TINY])
    config, weights = convert.to_hf(built(["model=qwen3", *TINY]), cfg)
    ours = dict(GPT(cfg, VOCAB).state_dict())
    o_proj = "model.layers.1.self_attn.o_proj.weight"
    cases: list[tuple[Any, dict[str, Any], dict[str, Any], str]] = [
        (convert.from_hf, {k: v for k, v in weights.items() if k != o_proj}, config, o_proj),
        (convert.from_hf, weights | {"model.extra.weight": torch.ones(1)}, config, "model.extra.weight"),
        (convert.from_hf, weights | {o_proj: torch.ones(3, 3)}, config, "blocks.1.attention.o_proj.weight"),
        (convert.from_hf, weights | {"model.layers.0.self_attn.k_proj.weight": torch.ones(3, 32)}, config, "k_proj"),
        (convert.from_hf, weights | {"lm_head.weight": torch.ones(VOCAB, 32)}, config, "lm_head.weight"),
        (convert.from_hf, weights, config | {"model_type": "qwen33"}, "qwen3"),
        (convert.from_hf, weights, {k: v for k, v in config.items() if k != "rms_norm_eps"}, "rms_norm_eps"),
        (convert.from_hf, weights, config | {"hidden_act": "gelu"}, "hidden_act"),
        (
            convert.from_hf,
            weights,
            config | {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}},
            "longrope",
        ),
    ]
    for function, tensors, settings, what in cases:
        with pytest.raises(ConfigError) as error:
            function(tensors, settings)
        assert what in str(error.value)
    for tensors, what in (
        ({k: v for k, v in ours.items() if "o_proj" not in k}, "o_proj"),
        (ours | {"norm.weight": torch.ones(3)}, "norm.weight"),
        ({}, "embed.weight"),
    ):
        with pytest.raises(ConfigError, match=what):
            convert.to_hf(tensors, cfg)


def test_padding_of_the_vocabulary_is_left_out() -> None:
    words = ["model=llama", "model.vocab_multiple=64", *TINY]
    cfg = compose(words)
    config, weights = convert.to_hf(GPT(cfg, VOCAB), cfg)
    assert config["vocab_size"] == VOCAB == len(weights["lm_head.weight"]) == len(weights["model.embed_tokens.weight"])


def test_old_files() -> None:
    """Llama 3.2's config.json and GPT-2's names, as their files have them."""
    words = ["model=llama3", "position.factor=32", "position.original=8192", "model.tied=true", *TINY]
    config, weights = convert.to_hf(GPT(compose(words), VOCAB), compose(words))
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "torch_dtype": "bfloat16"}
    read, _ = convert.from_hf(weights, config)
    assert not list(counterpart.differences(compose(words), compose(read)))
    words = ["model=gpt2", *TINY]
    config, weights = convert.to_hf(GPT(compose(words), VOCAB), compose(words))
    short = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    assert convert.from_hf(short | {"h.0.attn.bias": torch.ones(1)}, config)[0] == convert.from_hf(weights, config)[0]


OLD_GEMMA = {
    "head_dim": 8,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 7,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "query_pre_attn_scalar": 8,
    "rms_norm_eps": 1e-6,
    "sliding_window": 5,
    "vocab_size": VOCAB,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        (
            "Gemma2ForCausalLM",
            {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "model_type": "gemma2"},
        ),
        (
            "Gemma3ForCausalLM",
            {"rope_local_base_freq": 50.0, "rope_theta": 900.0, "rope_scaling": None, "model_type": "gemma3_text"},
        ),
        ("Gemma3ForCausalLM", {"sliding_window_pattern": 3, "layer_types": None, "model_type": "gemma3_text"}),
    ],
)
def test_old_gemmas(architecture: str, told: dict[str, Any]) -> None:
    """Their files tell neither the kinds of layers nor that the embeddings are tied."""
    import transformers

    config = OLD_GEMMA | told
    cls: Any = getattr(transformers, architecture)
    torch.manual_seed(0)
    theirs = cls(cls.config_class(**config)).eval()
    with torch.no_grad():
        for tensor in theirs.parameters():
            tensor.normal_(0, 0.3)
    words, state = convert.from_hf(theirs.state_dict(), config)
    model = GPT(compose(words), VOCAB).eval()
    model.load_state_dict(state, strict=True)
    model.choose_kernels("cpu", "fp32")
    tokens = torch.randint(2, VOCAB, (2, 30), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=1e-5, atol=5e-5)


def test_gains_stay_within_rounding() -> None:
    """Gains of 1 + w lose their last bits outside of [1/2, 2], and no more."""
    gains = torch.tensor([0.5, 2.0, 1.0000001, 0.3, 7.7, -3.0])
    again = links.SHIFTED.back(links.SHIFTED.there(gains))
    assert again[:3].equal(gains[:3])
    torch.testing.assert_close(again, gains, rtol=0, atol=5e-7)
