"""Every option of every part of the model, assembled: builds, trainable, reproducible; causal in test_causality.py."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.attention import softmax as attention
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.objective.ce import CrossEntropy
from tests.helpers import tiny_config

VOCAB = 61
KINDS = ("attention", "position", "norm", "mlp", "residual", "init")
PARTS = [pytest.param({kind: name}, id=f"{kind}={name}") for kind in KINDS for name in registry.index()[kind]]
FLAGS = [
    pytest.param({f"model.{key}": value}, id=f"model.{key}={value}")
    for key, value in {
        "tied": False,
        "bias": True,
        "embed_norm": True,
        "logit_softcap": 5.0,
        "vocab_multiple": 32,
        "checkpointing": True,
        "dropout": 0.1,
    }.items()
]
VARIANTS = [*PARTS, *FLAGS]


def _model(cfg: RunConfig, vocab_size: int = VOCAB) -> GPT:
    model = GPT(cfg, vocab_size)
    initialize(model, cfg)
    model.choose_kernels("cpu", "fp32")
    return model


def _loud(model: GPT) -> GPT:
    """Weights so large that a leak shows: at the usual 0.02 a small network hides it."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model.eval()


def _tokens(rows: int = 3, length: int = 16, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def _loss(model: GPT, tokens: Tensor, **inputs: Any) -> Tensor:
    losses: list[Tensor] = []
    loss = CrossEntropy()(model(tokens[:, :-1], losses=losses, **inputs), tokens[:, 1:])[0]
    return loss + sum(losses)


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_starts_near_that_of_a_uniform_guess(variant: dict[str, Any]) -> None:
    base = {"init.base_width": 32} if variant.get("init") == "mup" else {}
    loss = _loss(_model(tiny_config(**variant, **base)), _tokens(rows=8, length=17))
    assert loss.item() == pytest.approx(math.log(VOCAB), abs=0.3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_finite_gradient(variant: dict[str, Any]) -> None:
    model = _model(tiny_config(**variant))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():  # what it is multiplied by has none before it has moved
                parameter.normal_(0.0, 0.1)
    _loss(model, _tokens(length=17), keys_B=row_keys(0, 0, torch.arange(3))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("variant", [v for v in PARTS if v.values[0].keys() & {"attention", "position"}])
def test_documents_do_not_see_each_other(variant: dict[str, Any]) -> None:
    model, tokens = _loud(_model(tiny_config(**variant))), _tokens()
    model.choose_kernels("cpu", "fp32", documents=True)
    documents = (torch.arange(16) >= 7).long().expand(3, 16)
    changed = tokens.clone()
    changed[:, :7] = (changed[:, :7] + 1) % VOCAB
    with torch.no_grad():
        before, after = (model(t, documents_BT=documents) for t in (tokens, changed))
        whole = model(tokens)
    torch.testing.assert_close(before[:, 7:], after[:, 7:], rtol=0, atol=1e-5)
    torch.testing.assert_close(before[:, :7], whole[:, :7], rtol=0, atol=1e-5)
    if variant.get("attention") != "none":  # which reads no other token
        assert (before - whole)[:, 8:].abs().max() > 1e-3


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "init" not in v.values[0]])
def test_parts_that_two_variants_share_start_equal(variant: dict[str, Any]) -> None:
    deep = {"scale.depth": 4}  # where layers share, there are two blocks
    base, other = (dict(_model(tiny_config(**deep, **kind)).named_parameters()) for kind in ({}, variant))
    shared = [name for name in base.keys() & other.keys() if base[name].shape == other[name].shape]
    assert {"blocks.1.attention.o_proj.weight", "blocks.1.mlp.down_proj.weight"} & set(shared)  # retention's is wider
    for name in shared:
        assert torch.equal(base[name], other[name]), name


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    cfg = tiny_config(**{"model.bias": True})
    model = GPT(cfg, VOCAB)
    torch.manual_seed(1)
    initialize(model, cfg)
    first = {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(2)
    initialize(model, cfg)
    assert all(torch.equal(first[name], p) for name, p in model.named_parameters())
    assert all(not p.any() for name, p in first.items() if name.endswith(".bias"))
    assert not torch.equal(first["blocks.0.mlp.up_proj.weight"], first["blocks.1.mlp.up_proj.weight"])
    initialize(model, dataclasses.replace(cfg, seed=1))
    assert not torch.equal(first["blocks.0.mlp.up_proj.weight"], model.blocks[0].mlp.up_proj.weight)


def test_initial_values_are_pinned() -> None:
    """A changed generator, hash or name would change every run without a word."""
    model = _model(tiny_config(seed=7, init={"name": "normal", "std": 0.02}))
    torch.testing.assert_close(
        torch.stack([model.embed.weight[0, :2], model.blocks[1].mlp.down_proj.weight[0, :2]]),
        torch.tensor([[-0.02528068423, 0.01129534841], [-0.006658684462, 0.003304775571]]),
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize("tied", [True, False])
def test_vocabulary_padding_never_shows(tied: bool) -> None:
    cfgs = [tiny_config(**{"model.vocab_multiple": multiple, "model.tied": tied}) for multiple in (1, 64)]
    plain, padded = (_model(cfg) for cfg in cfgs)
    tokens = _tokens(length=17)
    torch.testing.assert_close(padded(tokens[:, :-1]), plain(tokens[:, :-1]))
    _loss(padded, tokens).backward()
    for weight in {padded.embed.weight, padded.embed.weight if padded.head is None else padded.head.weight}:
        assert weight.shape == (64, 32)
        assert not weight[VOCAB:].any()
        assert weight.grad is not None
        assert not weight.grad[VOCAB:].any()


def test_tied_means_one_matrix() -> None:
    names = dict(_model(tiny_config()).named_parameters())
    assert "head.weight" not in names
    assert "head.weight" in dict(_model(tiny_config(**{"model.tied": False})).named_parameters())


def test_bias_flag_reaches_every_linear_layer_but_the_head() -> None:
    model = _model(tiny_config(**{"model.bias": True, "model.tied": False}))
    linear = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert {name for name, m in linear.items() if m.bias is None} == {"head"}


def test_softcap_bounds_logits() -> None:
    tokens = _tokens()
    capped, free = (_loud(_model(tiny_config(**{"model.logit_softcap": cap})))(tokens) for cap in (0.5, None))
    assert free.abs().max() > 0.5 >= capped.abs().max()
    torch.testing.assert_close(capped, 0.5 * torch.tanh(free / 0.5))


def test_positions_count_from_zero() -> None:
    model, tokens = _loud(_model(tiny_config(position="learned"))), _tokens()
    assert torch.equal(model(tokens), model(tokens, positions_T=torch.arange(16)))
    assert not torch.equal(model(tokens[:, :8]), model(tokens[:, :8], positions_T=torch.arange(8) + 1))


def _gradients(model: GPT, tokens: Tensor, keys_B: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(_loss(model, tokens, keys_B=keys_B), list(model.parameters())))


@pytest.mark.parametrize("residual", registry.index()["residual"])
def test_dropout_is_the_same_in_any_micro_batch_and_when_recomputed(residual: str) -> None:
    tokens, keys = _tokens(rows=4, length=17), row_keys(0, 3, torch.arange(4))
    cfg = tiny_config(residual=residual, **{"model.dropout": 0.3})
    model = _model(cfg)
    whole = _gradients(model, tokens, keys)
    halves = [_gradients(model, tokens[i : i + 2], keys[i : i + 2]) for i in (0, 2)]
    for full, a, b in zip(whole, *halves, strict=True):
        torch.testing.assert_close(full, (a + b) / 2, rtol=1e-4, atol=1e-6)
    recomputed = _model(dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, checkpointing=True)))
    for full, again in zip(whole, _gradients(recomputed, tokens, keys), strict=True):
        assert torch.equal(full, again)
    other = _gradients(model, tokens, row_keys(0, 4, torch.arange(4)))
    assert not torch.equal(whole[0], other[0])


def test_dropout_is_off_in_evaluation_and_without_keys() -> None:
    tokens, keys = _tokens(), row_keys(0, 0, torch.arange(3))
    model, plain = _model(tiny_config(**{"model.dropout": 0.5})), _model(tiny_config())
    assert not torch.equal(model(tokens, keys_B=keys), plain(tokens))
    assert torch.equal(model(tokens), plain(tokens))
    assert torch.equal(model.eval()(tokens, keys_B=keys), plain(tokens))


def test_kernels_are_set_on_every_layer() -> None:
    model = GPT(tiny_config(kernel="sdpa"), VOCAB)
    choices = model.choose_kernels("cpu", "fp32")
    assert [choice.name for choice in choices] == [block.attention.kernel for block in model.blocks] == ["sdpa"] * 2


def test_a_kernel_that_cannot_is_refused() -> None:
    with pytest.raises(ConfigError, match="math"):
        GPT(tiny_config(kernel="flash_attn"), VOCAB).choose_kernels("cpu", "fp32")


class _Average(torch.nn.Module):
    """Attention of another package: neither kernels nor a scale of scores."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.o_proj = torch.nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        out: Tensor = self.o_proj(x.cumsum(1) / (flow.positions_T + 1)[:, None])
        return out


def test_attention_without_kernels_works_but_not_under_mup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MultiHead", _Average)
    settings = dataclasses.replace(tiny_config(), attention={"name": "mha"})
    model = GPT(settings, VOCAB)
    assert isinstance(model.blocks[0].attention, _Average)
    assert model.choose_kernels("cpu", "fp32") == []
    assert model(_tokens()).shape == (3, 16, VOCAB)
    with pytest.raises(ConfigError, match="init=normal"):
        GPT(dataclasses.replace(settings, init={"name": "mup"}), VOCAB)


def test_bf16_autocast_stays_close() -> None:
    model, tokens = _model(tiny_config()), _tokens(length=17)
    with torch.autocast("cpu", torch.bfloat16):
        low = _loss(model, tokens)
    assert low.item() == pytest.approx(_loss(model, tokens).item(), abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        {
            "position": "learned",
            "norm": "layernorm",
            "mlp": "gelu_tanh",
            "model.bias": True,
            "model.logit_softcap": 5.0,
        },
        {"model.checkpointing": True, "model.dropout": 0.2, "model.logit_softcap": 5.0},
    ],
)
def test_traced_gradients_equal_eager_ones(variant: dict[str, Any]) -> None:
    """Without the compiler's code, which takes a minute; a whole training with it is in train/test_step.py."""
    torch.compiler.reset()
    model = _model(tiny_config(**variant))
    tokens, keys = _tokens(length=17), row_keys(0, 0, torch.arange(3))
    eager = _gradients(model, tokens, keys)
    model.compile(fullgraph=True, backend="aot_eager")
    for mine, theirs in zip(_gradients(model, tokens, keys), eager, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
