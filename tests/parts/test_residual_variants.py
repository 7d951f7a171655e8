"""Residual streams that are more than one sum: how they start, decode, train, and go with other parts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost.flops import cost
from gpt_lab.errors import ConfigError
from gpt_lab.infer.cache import Cache
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.optim.groups import groups
from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.objective.ce import CrossEntropy
from gpt_lab.parts.residual.hyper_connections import sinkhorn
from tests.helpers import tiny_config
from tests.parts import decoding

VARIANTS: dict[str, dict[str, Any]] = {
    "layerscale": {"name": "layerscale"},
    "skips": {"name": "skips", "unet": True},
    "static": {"name": "hyper_connections", "dynamic": False, "streams": 2},
    "dynamic": {"name": "hyper_connections"},
    "mhc": {"name": "mhc", "streams": 3},
    "attention": {"name": "attention_residuals"},
    "blocks": {"name": "attention_residuals", "size": 2},
    "looped": {"name": "looped", "prelude": 1, "coda": 1, "inject": "add"},
    "adapter": {"name": "looped", "inject": "adapter"},
    "shared": {"name": "shared", "rank": 3},
    "layer_drop": {"name": "layer_drop", "rate": 0.4},
    "memory": {"name": "block_recurrent", "block": 4, "vectors": 3, "at": 1},
}
MIXED = {
    "name": "hybrid",
    "pattern": "VNDV",
    "letters": {
        "V": {"name": "value_residual", "kv_heads": 2},
        "N": {"name": "none"},
        "D": {"name": "gated_deltanet"},
    },
}
"""Grouped queries, values of the first layer, a layer without attention, a recurrence: one model for all of them."""


def made(variant: str, **settings: Any) -> GPT:
    """A model with loud weights, but logits of size 1."""
    model = decoding.model(residual=VARIANTS[variant], **{"scale.depth": 4} | settings)
    model.embed.weight.data.mul_(0.1)
    for name, parameter in model.named_parameters():
        if ".up." in name:  # a product of two loud matrices would be louder than the one it is added to
            parameter.data.mul_(0.2)
    return model


def fresh(residual: dict[str, Any], **settings: Any) -> GPT:
    """A model as training begins with it."""
    cfg = tiny_config(residual=residual, **{"scale.depth": 4} | settings)
    model = GPT(cfg, decoding.VOCAB)
    initialize(model, cfg)
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_pieces_rows_documents_and_samples(variant: str) -> None:
    depth = 8 if variant in ("adapter", "shared") else 4  # four blocks, one for each letter
    decoding.check(made(variant, attention=MIXED, mlp="moe", **{"scale.depth": depth}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients(variant: str) -> None:
    decoding.check_trains(made(variant, mlp="moe"))


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize("variant, depth", [("skips", 3), ("static", 2), ("blocks", 3), ("adapter", 4), ("shared", 4)])
def test_traced(variant: str, depth: int) -> None:
    """As few and small layers as have a stream from one to another: tracing takes as long as there are operations."""
    decoding.check_compiled(
        made(variant, attention="value_residual", position="none", mlp="relu", **{"scale.depth": depth})
    )


@pytest.mark.parametrize("variant", ["skips", "looped", "adapter", "attention", "blocks", "shared", "layer_drop"])
def test_what_layers_leave_for_others_survives_checkpointing(variant: str) -> None:
    keys_B, tokens_BT, found = row_keys(0, 0, torch.arange(3)), decoding.text(3, 12), []
    for again in (False, True):
        model = made(variant, attention="value_residual", **{"model.checkpointing": again}).train()
        logits_BTV = model(tokens_BT, keys_B=keys_B)
        found.append(torch.autograd.grad(logits_BTV.square().mean(), list(model.parameters())))
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)


@torch.no_grad()
def test_streams_begin_as_pre_norm() -> None:
    tokens_BT = decoding.text(2, 16)
    plain = fresh({"name": "pre"})(tokens_BT)
    for residual in (
        {"name": "skips"},
        {"name": "hyper_connections", "streams": 3},
        {"name": "hyper_connections", "dynamic": False},
        {"name": "mhc"},
        {"name": "layer_drop"},
        {"name": "shared", "group": 1},
    ):
        torch.testing.assert_close(fresh(residual)(tokens_BT), plain, rtol=0, atol=1e-5, msg=str(residual))
    assert not torch.allclose(fresh({"name": "layerscale"})(tokens_BT), plain, atol=1e-3)


def test_streams_that_begin_alike_part() -> None:
    """A few steps of training, and no two streams are equal any more."""
    for name in ("hyper_connections", "mhc"):
        model = fresh({"name": name}).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(4):
            tokens_BT = decoding.text(4, 17)
            CrossEntropy()(model(tokens_BT[:, :-1]), tokens_BT[:, 1:])[0].backward()
            optimizer.step()
            optimizer.zero_grad()
        seen: list[Tensor] = []
        model.blocks[-1].register_forward_hook(lambda _block, _given, out, seen=seen: seen.append(out.detach()))
        model(decoding.text(2, 8))
        apart = (seen[0].unsqueeze(2) - seen[0].unsqueeze(3)).abs().amax((0, 1, 4))
        assert (apart + torch.eye(4)).min() > 1e-4, name


def test_mixing_is_doubly_stochastic() -> None:
    logits = torch.randn(50, 4, 4, generator=torch.Generator().manual_seed(0))
    matrix = sinkhorn(logits, 20)
    assert (matrix > 0).all()
    for dim in (-1, -2):
        torch.testing.assert_close(matrix.sum(dim), torch.ones(50, 4), rtol=0, atol=1e-4)


def test_vectors_and_scalars_are_not_decayed() -> None:
    """But for the matrices of what a token says itself."""
    decayed = {}
    for variant in ("layerscale", "skips", "dynamic", "mhc", "shared"):
        model = made(variant)
        plain = {name for name, _ in made("layer_drop").named_parameters()}
        found = groups(model, registry.build("init", {"name": "normal"}, model.shape))
        names = [name for group in found if group.decay for name, _ in group.params if name not in plain]
        decayed[variant] = {name.rpartition("connection.")[2] for name in names if "norms" not in name}
    assert decayed["layerscale"] == decayed["skips"] == set()
    assert decayed["dynamic"] == {"dynamic.weight"} and decayed["mhc"] == {"project.weight"}
    assert decayed["shared"] and all(".up." in name or ".down." in name for name in decayed["shared"])


def test_a_looped_model_has_the_parameters_of_its_blocks_and_the_flops_of_its_uses() -> None:
    def price(**settings: Any) -> Any:
        return cost(tiny_config(**settings), decoding.VOCAB)

    one, six = price(**{"scale.depth": 1}), price(**{"scale.depth": 6})
    looped = price(residual={"name": "looped", "loops": 6}, **{"scale.depth": 6})
    assert (looped.parameters, looped.train_flops_per_token) == (one.parameters, six.train_flops_per_token)
    model = fresh({"name": "looped", "loops": 2, "prelude": 1, "coda": 1})
    assert model.order == [0, 1, 1, 2] and len(model.blocks) == 3
    cache = Cache()
    with torch.no_grad():
        model(decoding.text(1, 5), states=cache)
    assert sorted(cache._states) == [(depth, "attention") for depth in range(4)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"residual": {"name": "looped", "loops": 3}}, "scale.depth=3 is"),
        ({"residual": {"name": "looped", "prelude": 2, "coda": 2}}, "scale.depth=6 is"),
        ({"residual": {"name": "mhc", "streams": 1}}, "residual.streams=2 or more"),
        ({"residual": {"name": "block_recurrent", "at": 4}}, "residual.at=4: there are 4 layers"),
        ({"residual": "shared", "attention": MIXED}, "the 2 blocks of residual=shared never come to letter D"),
        ({"residual": "shared", "init": {"name": "mup", "base_width": 16}}, "residual=shared .* use init=normal"),
    ],
)
def test_refusals(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        GPT(tiny_config(**{"scale.depth": 4} | settings), decoding.VOCAB)


def test_shared_under_mup_at_its_base_width() -> None:
    assert GPT(tiny_config(residual="shared", init={"name": "mup", "base_width": 32}), decoding.VOCAB).order == [0, 0]


@torch.no_grad()
def test_a_memory_reaches_beyond_attention_and_keeps_its_size() -> None:
    """Attention sees two tokens; what the first ones said arrives through the vectors, a block later."""
    sliding = {"name": "sliding", "window": 2, "pattern": "S"}
    model = decoding.model(
        residual={"name": "block_recurrent", "block": 4, "vectors": 3}, attention=sliding, **{"scale.depth": 1}
    )
    tokens_BT = decoding.text(1, 30)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 0] = (tokens_BT[:, 0] + 1) % decoding.VOCAB
    differs_T = (model(tokens_BT) - model(changed_BT)).abs().amax((0, 2)) > 1e-5
    assert differs_T[:2].all() and not differs_T[2:4].any() and differs_T[4:].all()
    cache, sizes = Cache(), set()
    for place in torch.arange(30).split(1):
        model(tokens_BT[:, place], positions_T=place, states=cache)
        sizes.add(cache._states[0, "memory"].nbytes)
    assert len(sizes) == 1


def test_layers_of_a_group_share_and_part() -> None:
    shared = fresh({"name": "shared", "group": 4, "rank": 2})
    names = dict(shared.named_parameters())
    assert len(shared.blocks) == 1 and names["blocks.0.attention.qkv.weight"].shape == (96, 32)
    own = [name for name in names if ".qkv." in name and name != "blocks.0.attention.qkv.weight"]
    assert len(own) == 3 * 4
    tokens_BT = decoding.text(2, 9)
    with torch.no_grad():
        before = shared(tokens_BT)
        names["blocks.0.mlp.down_proj.diagonal.2"].add_(1.0)
        assert not torch.allclose(shared(tokens_BT), before)


def _kept(model: GPT, rows: int, step: int = 0) -> tuple[Tensor, Tensor]:
    """Which rows keep the attention and the MLP of the only layer."""
    tokens_BT = decoding.text(1, 6).expand(rows, -1)
    outputs: dict[str, Tensor] = {}
    block: Any = model.blocks[0]
    plain = block._kept

    def noted(y_BTD: Tensor, flow: Any, salt: int) -> Tensor:
        kept: Tensor = plain(y_BTD, flow, salt)
        outputs["attention" if "attention" not in outputs else "mlp"] = (kept != 0).flatten(1).any(1)
        return kept

    block._kept = noted
    model(tokens_BT, keys_B=row_keys(0, step, torch.arange(rows)))
    block._kept = plain
    return outputs["attention"], outputs["mlp"]


@torch.no_grad()
def test_layer_drop_drops_its_share_of_rows() -> None:
    rows, rate = 2000, 0.3
    error = 4 * math.sqrt(rate * (1 - rate) / rows)
    for unit in ("branch", "layer"):
        model = fresh({"name": "layer_drop", "rate": rate, "unit": unit}, **{"scale.depth": 1}).train()
        attention, mlp = _kept(model, rows)
        for kept in (attention, mlp):
            assert abs(kept.double().mean().item() - (1 - rate)) < error
        assert torch.equal(attention, mlp) == (unit == "layer")
        assert not torch.equal(attention, _kept(model, rows, step=1)[0])
        assert all(kept.all() for kept in _kept(model.eval(), 10))
    deep: Any = fresh({"name": "layer_drop", "rate": rate}).blocks
    assert [block.p for block in deep] == pytest.approx([rate / 4, rate / 2, 0.75 * rate, rate])
    assert fresh({"name": "layer_drop", "rate": rate}).draws and not fresh({"name": "layer_drop", "rate": 0.0}).draws


WIDTHS = (64, 256)


def _change_of_logits(cfg: RunConfig) -> float:
    """Root mean square of what five steps of AdamW change."""
    model = GPT(cfg, 64)
    initialize(model, cfg)
    init = registry.build("init", cfg.init, model.shape)
    optimizer = registry.build("optim", cfg.optim).build(groups(model, init))
    tokens_BT = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(0))
    first = model(tokens_BT[:, :-1]).detach()
    for _ in range(5):
        CrossEntropy()(model(tokens_BT[:, :-1]), tokens_BT[:, 1:])[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    return float((model(tokens_BT[:, :-1]).detach() - first).square().mean().sqrt())


@pytest.mark.parametrize(
    "variant", ["layerscale", "skips", "dynamic", "mhc", "attention", "blocks", "adapter", "memory"]
)
def test_learning_does_not_depend_on_the_width_under_mup(variant: str) -> None:
    found = [
        _change_of_logits(
            tiny_config(
                residual=VARIANTS[variant],
                init={"name": "mup", "base_width": WIDTHS[0], "base_head_dim": 16},
                optim={"name": "adamw", "lr": 0.004, "weight_decay": 0.0},
                **{"scale.width": width, "scale.heads": width // 16},
            )
        )
        for width in WIDTHS
    ]
    assert abs(math.log(found[1] / found[0], WIDTHS[1] / WIDTHS[0])) < 0.25, found
