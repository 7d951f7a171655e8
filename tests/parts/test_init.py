"""Standard deviations, multipliers, and muP's promise: activations and updates of O(1) at every width."""

import itertools
import math
from typing import Any

import pytest
import torch

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.optim.groups import groups as param_groups
from gpt_lab.parts.base import Shape, role
from gpt_lab.parts.init import MuP, usual_std
from gpt_lab.parts.objective.ce import CrossEntropy
from tests.helpers import tiny_config

ROLES = {
    "embedding": ("embed.weight", (200, 256)),
    "head": ("head.weight", (200, 256)),
    "matrix": ("blocks.0.mlp.up_proj.weight", (300, 256)),
    "residual": ("blocks.0.mlp.down_proj.weight", (256, 300)),
}
DEPTH_FACTOR = (2 * 3) ** -0.5
AT_256, AT_128 = 0.02 * 3**0.5, 0.02 * 6**0.5
"""GPT-2's 0.02 is for a width of 768; muP's base is 128 wide."""
EXPECTED = {
    "normal": {"embedding": AT_256, "head": AT_256, "matrix": AT_256, "residual": AT_256 * DEPTH_FACTOR},
    "fan_in": {"embedding": 0.02, "head": 0.02, "matrix": 256**-0.5, "residual": 300**-0.5 * DEPTH_FACTOR},
    "mup": {"embedding": AT_128, "head": AT_128, "matrix": AT_256, "residual": AT_256 * DEPTH_FACTOR},
    "deepnorm": {
        "embedding": AT_256,
        "head": AT_256,
        "matrix": 24**-0.25 * (2 / 556) ** 0.5,
        "residual": 24**-0.25 * (2 / 556) ** 0.5,
    },
}


@pytest.mark.parametrize("name", registry.index()["init"])
def test_standard_deviations(name: str) -> None:
    init = registry.build("init", {"name": name}, Shape(depth=3, width=256, heads=4, context=8))
    for kind, (parameter, shape) in ROLES.items():
        assert role(parameter, 2) == kind
        value = init.weight(parameter, shape, kind, torch.Generator().manual_seed(0))
        assert value.shape == shape
        assert value.dtype == torch.float32
        assert value.std().item() == pytest.approx(EXPECTED[name][kind], rel=0.02)
        assert abs(value.mean().item()) < 5 * EXPECTED[name][kind] / math.sqrt(value.numel())


@pytest.mark.parametrize("name", ["normal", "fan_in"])
def test_options(name: str) -> None:
    shape = Shape(depth=3, width=256, heads=4, context=8)
    option = {"normal": "std", "fan_in": "embedding_std"}[name]
    init = registry.build("init", {"name": name, option: 0.5, "scaled_residual": False}, shape)
    assert init.std((10, 256), "embedding") == 0.5
    assert init.std((256, 64), "residual") == init.std((256, 64), "matrix")
    assert init.lr_multiplier("matrix", (4, 4)) == init.logits_scale == 1.0
    assert init.attention_scale(64) == 1 / 8


def test_at_gpt2_s_width_it_is_gpt2_s() -> None:
    """Larger in narrower models, up to 0.05."""
    init = registry.build("init", {"name": "normal"}, Shape(depth=12, width=768, heads=12, context=8))
    assert init.std((50257, 768), "embedding") == 0.02
    assert init.std((768, 3072), "residual") == pytest.approx(0.02 / math.sqrt(24))
    assert [usual_std(width) for width in (3072, 192, 64, 1)] == [0.01, 0.04, 0.05, 0.05]


@pytest.mark.parametrize("attention", ["mha", "gqa"])
def test_deepnorm_makes_values_smaller_and_not_queries_keys_or_gates(attention: str) -> None:
    """Xavier by torch, of each matrix for itself, also in one that holds three."""
    cfg = tiny_config(init="deepnorm", attention=attention, **{"scale.width": 256, "scale.depth": 3})
    model = GPT(cfg, 61)
    initialize(model, cfg)
    beta = (8 * 3) ** -0.25
    block: Any = model.blocks[1]
    assert block.alpha == pytest.approx((2 * 3) ** 0.25)
    rows = (256, *2 * [64 * block.attention.kv_heads])
    gains = [(part, gain) for part, gain in zip(block.attention.qkv.weight.split(rows), (1, 1, beta), strict=True)]
    gains += [(block.attention.o_proj.weight, beta), (block.mlp.gate_proj.weight, 1)]
    gains += [(block.mlp.up_proj.weight, beta), (block.mlp.down_proj.weight, beta)]
    for weight, gain in gains:
        xavier = torch.nn.init.xavier_normal_(torch.empty(weight.shape), gain=gain, generator=_generator())
        assert weight.std().item() == pytest.approx(xavier.std().item(), rel=0.03)
    assert model.embed.weight.std().item() == pytest.approx(AT_256, rel=0.03)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"residual": "pre"}, "and residual=pre is not: use residual=post residual.alpha=null"),
        ({"residual": "post"}, "and residual=post residual.alpha=1 is not: use residual=post"),
        ({"attention": "gated"}, "says nothing of attention=gated's gate_proj"),
        ({"attention": "mla"}, "says nothing of attention=mla's kv_a_proj"),
        ({"mlp": "moe"}, "says nothing of mlp=moe's router"),
    ],
)
def test_deepnorm_refuses_what_it_has_no_rule_for(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        GPT(tiny_config(init="deepnorm", **settings), 61)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_deepnorm_bounds_the_first_update_of_a_deep_model() -> None:
    """Section 3 of the paper: without it one small step changes the output of 64 post-norm layers as a whole."""
    moved = {}
    plain = {"init": {"name": "fan_in", "scaled_residual": False}, "residual": "post"}
    for name, chosen in (("deepnorm", {"init": "deepnorm"}), ("fan_in", plain)):
        cfg = tiny_config(norm="layernorm", mlp="relu", **chosen, **{"scale.depth": 64, "scale.width": 16})
        model = GPT(cfg, 61)
        initialize(model, cfg)
        optimizer = torch.optim.Adam(model.blocks.parameters(), lr=1e-4)
        tokens, given = torch.randint(61, (4, 17), generator=_generator()), []
        model.blocks[-1].register_forward_hook(lambda _block, args, out, given=given: given.append(out.detach()))
        CrossEntropy()(model(tokens[:, :-1]), tokens[:, 1:])[0].backward()
        optimizer.step()
        model(tokens[:, :-1])
        moved[name] = (given[1] - given[0]).square().mean().sqrt().item()
    assert moved["deepnorm"] < 0.1 < 0.5 < moved["fan_in"], moved


def test_mup_multipliers() -> None:
    init = MuP(Shape(depth=3, width=512, heads=4, context=8), base_width=128, base_head_dim=32)
    assert init.logits_scale == 1 / 4
    assert init.attention_scale(128) == pytest.approx(32**0.5 / 128)
    assert [init.lr_multiplier(kind, (512, 512)) for kind in ("matrix", "residual", "embedding", "head", "vector")] == [
        0.25,
        0.25,
        1.0,
        1.0,
        1.0,
    ]


def test_mup_at_its_base_is_normal() -> None:
    mup = tiny_config(init={"name": "mup", "base_width": 32, "base_head_dim": 8})
    models = [GPT(cfg, 61) for cfg in (mup, tiny_config())]
    for model, cfg in zip(models, (mup, tiny_config()), strict=True):
        initialize(model, cfg)
    tokens = torch.arange(16)[None]
    assert torch.equal(models[0](tokens), models[1](tokens))


def _movement(cfg: RunConfig, steps: int = 4) -> dict[str, float]:
    """Root mean square of what a few Adam steps changed in a block's output and in the logits."""
    model = GPT(cfg, 64)
    initialize(model, cfg)
    init = registry.build("init", cfg.init, model.shape)
    groups = [
        {"params": [p], "lr": 0.004 * init.lr_multiplier(role(name, p.ndim), tuple(p.shape))}
        for name, p in model.named_parameters()
    ]
    optimizer = torch.optim.Adam(groups)
    tokens = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(0))
    seen: dict[str, torch.Tensor] = {}
    model.blocks[-1].register_forward_hook(lambda module, args, out: seen.update(block=out.detach()))

    def look() -> dict[str, torch.Tensor]:
        logits = model(tokens[:, :-1])
        loss, _, _ = CrossEntropy()(logits, tokens[:, 1:])
        loss.backward()
        return {"block": seen["block"], "logits": logits.detach()}

    first = look()
    for _ in range(steps):
        optimizer.step()
        optimizer.zero_grad()
        last = look()
    return {key: (last[key] - first[key]).square().mean().sqrt().item() for key in first}


def test_coordinate_check() -> None:
    """The figure of the paper's appendix D.1: with muP the movement is the same at every width, without it grows."""
    widths = (32, 128, 512)

    def spread(init: dict[str, object]) -> dict[str, float]:
        moved = [_movement(tiny_config(init=init, **{"scale.width": width})) for width in widths]
        return {key: max(a[key] / b[key] for a, b in itertools.permutations(moved, 2)) for key in moved[0]}

    mup = spread({"name": "mup", "base_width": 32, "base_head_dim": 8})
    standard = spread({"name": "normal", "std": 0.02})
    assert max(mup.values()) < 2, mup
    assert min(standard.values()) > 3, standard


BASE_64 = {"name": "mup", "base_width": 64, "base_head_dim": 16}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"norm": "unit"}, "with norm=unit: its numbers shrink as 1/sqrt(scale.width): use norm=rmsnorm"),
        ({"norm": "dyt"}, "with norm=dyt: embeddings times sqrt(scale.width) grow with width: set norm.embed_scale"),
        ({"norm": "derf"}, "with norm=derf: embeddings times sqrt(scale.width) grow with width"),
        ({"position": "sinusoidal"}, "grow with width: use position.scaled=false"),
        ({"attention": "kda", "scale.heads": 2}, "attention=kda has none that it could: keep heads"),
    ],
)
def test_mup_refuses_what_it_has_no_rule_for(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        GPT(tiny_config(init=BASE_64, **{"scale.width": 64, "scale.heads": 4} | settings), 61)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_latents_go_by_their_own_size() -> None:
    """Four times the base's width in four times the heads: the factor of a matrix on its learning rate is 1/4."""
    cfg = tiny_config(init=BASE_64, attention="mla", **{"scale.width": 256, "scale.heads": 16})
    model = GPT(cfg, 61)
    initialize(model, cfg)
    found = param_groups(model, registry.build("init", cfg.init, model.shape))
    rates = {name: group.lr_multiplier for group in found for name, _ in group.params}
    weights = dict(model.named_parameters())
    usual, latent = "blocks.0.attention.q_proj.weight", "blocks.0.attention.kv_b_proj.weight"
    assert (rates[usual], rates[latent]) == (0.25, 1.0)
    assert weights[usual].std().item() == pytest.approx(weights[latent].std().item() / 2, rel=0.05)
    wider = tiny_config(init=BASE_64, attention="mla", **{"scale.width": 256, "scale.heads": 4})
    init = registry.build("init", wider.init, GPT(wider, 61).shape)
    assert init.lr_multiplier("head_input", (1, 1)) == 0.25 and init.lr_multiplier("fixed_input", (1, 1)) == 1.0
