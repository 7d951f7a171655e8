"""Matched controls: sizes known by hand, every swap of a part against what torch counts, and what cannot be matched."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gpt_lab import registry
from gpt_lab.config import composition, schema
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost import match
from gpt_lab.cost.flops import cost_of
from gpt_lab.errors import ConfigError
from gpt_lab.kernels import dense
from gpt_lab.model.gpt import GPT
from gpt_lab.model.skip_init import bare_model
from gpt_lab.parts.attention.sliding import Sliding
from gpt_lab.parts.attention.softmax import GroupedQuery, MultiHead, MultiQuery
from gpt_lab.parts.base import role
from gpt_lab.train.start import run_training
from tests.helpers import tiny_config
from tests.test_imports import heavy_after

COMPOSER = composition.Composer()
QUICK = ["data=synthetic"]
SWAPS = [pytest.param(kind, name, id=f"{kind}={name}") for kind in match.PARTS for name in registry.index()[kind]]
TINY = 4 * (4 * 128**2 + 3 * 128 * 344 + 2 * 128) + 128
"""Parameters beside the embeddings of the default model: 4 layers, 128 wide, swiglu of 8/3 x 128, RMS norms."""


@pytest.fixture(autouse=True)
def whole_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The math kernel leaves out blocks that causality hides; here it computes all, and hidden ones are taken off."""
    monkeypatch.setattr(dense, "_block", lambda queries, *_: queries)


PLAIN = (MultiHead, GroupedQuery, MultiQuery, Sliding)
FEED_FORWARD = "gpt_lab.parts.mlp.feed_forward"


def compose(*overrides: str) -> RunConfig:
    return match.compose([*QUICK, *overrides], COMPOSER)


def built(cfg: RunConfig) -> GPT:
    return bare_model(cfg, match.Models().vocabulary(cfg))


def parameters(model: GPT) -> int:
    """Those beside the embeddings and the head that a token uses, counted one by one."""
    idle = sum(getattr(part, "idle_parameters", 0) for part in model.modules())
    counted = (p.numel() for name, p in model.named_parameters() if role(name, p.ndim) not in ("embedding", "head"))
    return sum(counted) - idle


def flops(model: GPT) -> float:
    """Forward FLOPs per token as torch counts them, less the scores that the mask hides: torch's math computes them.

    Of parts that compute other products for many tokens than for one, what they state: test_flops.py counts that token
    by token.
    """
    blocks: list[Any] = model.layers()
    plain = model.streams is None and all(
        type(block.attention) in PLAIN and type(block.mlp).__module__ == FEED_FORWARD for block in blocks
    )
    if not plain or model.position.bias_kind in ("tensor", "content"):
        return cost_of(model).train_flops_per_token / 3
    tokens = torch.zeros(1, model.shape.context, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    back = torch.arange(tokens.numel())[:, None] - torch.arange(tokens.numel())
    hidden = sum(int(((back < 0) | (back >= (block.attention.window or back.numel()))).sum()) for block in blocks)
    return (counter.get_total_flops() - 4 * model.shape.width * hidden) / tokens.numel()


@functools.cache
def default(scale: str) -> tuple[int, float]:
    """Parameters and forward FLOPs of the default model."""
    model = built(COMPOSER.compose([*QUICK, f"scale={scale}"]))
    return parameters(model), flops(model)


@pytest.mark.parametrize(
    "overrides, expected",
    [
        # two matrices of 128 x 516 are three of 128 x 344; 512 and 520 are 0.52 % away
        (["mlp=gelu", "match=params"], {"mlp.d_ff": 516}),
        (["mlp=geglu", "match=params"], {}),
        # one head of keys and values instead of four: 2 x 3 x 32 x 128 parameters are 64 x 3 x 128
        (["attention=mqa", "match=params"], {"mlp.d_ff": 344 + 64}),
        (["attention=mqa", "match=flops"], {"mlp.d_ff": 344 + 64}),
        # two instead of four: 42.67 x 3 x 128; the multiple of 8 that is nearest, 384, is 0.52 % away
        (["attention=gqa", "match=params"], {"mlp.d_ff": 344 + 43}),
        (["attention=gqa", "match=flops"], {"mlp.d_ff": 344 + 40}),
        # in 3 of 4 layers a query sees 32 - 32 x 31 / 256 = 28.1 tokens on average, not 64.5: 3 x 4 x 128 x 36.4 FLOPs
        # are 18.2 x 3 x 2 x 128 in 4 layers, and 16 of them come within 1 %; no parameters
        (["attention=sliding", "match=flops"], {"mlp.d_ff": 344 + 16}),
        (["attention=sliding", "match=params"], {}),
        # vectors alone: within the tolerance, so that all matrices stay equal to the baseline's from their first value
        (["norm=layernorm", "match=params"], {}),
    ],
    ids=" ".join,
)
def test_sizes_known_by_hand(overrides: list[str], expected: dict[str, int]) -> None:
    cfg, plain = compose(*overrides), COMPOSER.compose([*QUICK, overrides[0]])
    flat, before = cfg.flat(), plain.flat()
    assert {key: flat[key] for key in flat if flat[key] != before[key]} == {
        **expected,
        "match": overrides[1].removeprefix("match="),
        "match_to": cfg.match_to,
        "label": cfg.label,
    }
    if cfg.match == "params":
        assert cfg.match_to == TINY == parameters(built(COMPOSER.compose(QUICK)))


@pytest.mark.parametrize("scale", ["tiny", "small"])
@pytest.mark.parametrize(("kind", "name"), SWAPS)
def test_every_swap_is_matched(kind: str, name: str, scale: str) -> None:
    """Counted by torch, not by cost/flops.py: parameters within 0.5 %, FLOPs within 1 %, of the default model's."""
    base, (all_parameters, all_flops) = COMPOSER.compose([f"scale={scale}"]), default(scale)
    if (kind, name) == ("mlp", "none"):
        with pytest.raises(ConfigError, match=r"no scale.depth or scale.width brings the model within 0\.5%"):
            compose(f"scale={scale}", f"{kind}={name}", "match=params")
        return
    by_parameters = compose(f"scale={scale}", f"{kind}={name}", "match=params")
    assert by_parameters.match_to == all_parameters
    assert abs(parameters(built(by_parameters)) / all_parameters - 1) <= 0.005
    by_flops = compose(f"scale={scale}", f"{kind}={name}", "match=flops")
    assert by_flops.match_to == 3 * all_flops
    assert abs(flops(built(by_flops)) / all_flops - 1) <= 0.01
    if (kind, name) != ("residual", "zamba2"):  # its shared block costs more than the MLPs of all layers
        assert base.scale == by_parameters.scale == by_flops.scale, "d_ff alone does it"


def test_unmatched_some_would_not_be() -> None:
    """So that the test above can fail."""
    base = built(COMPOSER.compose(QUICK))
    mqa = built(COMPOSER.compose([*QUICK, "attention=mqa"]))
    sliding = built(COMPOSER.compose([*QUICK, "attention=sliding"]))
    assert parameters(mqa) / parameters(base) - 1 == pytest.approx(-4 * 24576 / TINY)
    assert flops(sliding) / flops(base) < 0.97


def test_depth_where_no_d_ff_will_do_then_width() -> None:
    """Attention alone has 262,144: two layers and a d_ff of 106 have 2 (65,536 + 256 + 384 x 106) + 128."""
    cfg = compose("match=params", "match_to=213000")
    assert (cfg.scale.depth, cfg.scale.width, cfg.mlp["d_ff"]) == (2, 128, 106)
    assert parameters(built(cfg)) == 2 * (65_536 + 256 + 384 * 106) + 128
    cfg = compose("match=params", "match_to=213000", "scale.depth=4")
    assert (cfg.scale.depth, cfg.scale.width, cfg.mlp["d_ff"]) == (4, 104, 32)
    assert parameters(built(cfg)) == 4 * (4 * 104**2 + 3 * 104 * 32 + 2 * 104) + 104


def test_a_d_ff_that_is_stated_stays() -> None:
    with pytest.raises(ConfigError, match=r"leave out mlp.d_ff or scale.depth or scale.width, or the arm") as caught:
        compose("attention=mqa", "mlp.d_ff=300", "scale.depth=4", "scale.width=128", "match=params")
    assert f"no size brings the model within 0.5% of {TINY:,} non-embedding parameters" in str(caught.value)
    count = 4 * (40_960 + 384 * 300 + 256) + 128
    assert f"(nearest: {count:,}, {count / TINY - 1:+.1%}, as it is)" in str(caught.value)


def test_depth_alone_where_d_ff_is_stated() -> None:
    target = 3 * (65_536 + 256 + 384 * 300) + 128
    cfg = compose("mlp.d_ff=300", "match=params", f"match_to={target}")
    assert (cfg.scale.depth, cfg.scale.width, cfg.mlp["d_ff"]) == (3, 128, 300)
    assert parameters(built(cfg)) == target


def test_what_is_matched_already_is_left_alone() -> None:
    """The command line of a run that was matched gives the same run again."""
    cfg = compose("mlp=gelu", "match=params")
    words = ["mlp=gelu", "match=params", "mlp.d_ff=516", f"match_to={TINY}"]
    assert compose(*words).identity() == COMPOSER.compose([*QUICK, *words]).identity() == cfg.identity()
    assert compose("mlp=gelu", "match=params", f"match_to={TINY}").identity() == cfg.identity()


def test_the_reference_of_a_single_run() -> None:
    """The same command line without its choices of parts; without its preset, if it chooses none."""
    assert match.reference(["scale=small", "attention=gqa", "attention.kv_heads=1", "model.tied=true"]) == [
        "scale=small",
        "model.tied=true",
    ]
    assert match.reference(["model=gpt2", "mlp=swiglu", "match=params"]) == ["model=gpt2"]
    assert match.reference(["model=gpt2", "seed=3", "match=flops"]) == ["seed=3"]
    with pytest.raises(ConfigError, match="chooses no part"):
        match.reference(["scale.depth=8", "match=params"])
    preset = compose("model=mqa_alibi", "match=params")
    assert preset.match_to == TINY
    assert abs(parameters(built(preset)) / TINY - 1) <= 0.005


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["match=parms"], "unknown value for match: 'parms'; did you mean 'params'?"),
        (["match_to=1000"], "match_to=1000 needs match=params or match=flops"),
        (["match=params", "seed=3"], "chooses no part"),
        (["match=params", "match_to=0"], "match_to must be a whole number >= 1"),
        (["match=params", "match_to=1000"], "(nearest: "),
        (["mlp=gleu", "match=params"], "unknown mlp 'gleu'"),
    ],
)
def test_bad_input_is_one_line(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(*overrides)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_that_is_not_what_it_says_does_not_begin(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": "synthetic", "runs_dir": str(tmp_path / "runs"), "match": "params"}
    count = parameters(built(tiny_config(**settings)))
    for target, expected in ((None, "without match_to"), (count + count // 100, "0.5% is allowed")):
        with pytest.raises(ConfigError, match=expected):
            run_training(tiny_config(**settings, match_to=target))
    assert not (tmp_path / "runs").exists()
    assert run_training(tiny_config(**settings, match_to=count + count // 250)).state == "finished"


def test_without_match_a_run_keeps_its_identity_and_its_start_stays_light() -> None:
    assert match.compose(["mlp=gelu"]) == COMPOSER.compose(["mlp=gelu"])
    flat = COMPOSER.compose(["mlp=gelu"]).flat()
    older = {key: value for key, value in flat.items() if not key.startswith(("match", "model.embed_norm"))}
    assert schema.identity(older) == schema.identity(flat)
    assert schema.identity(flat | {"match": "params"}) != schema.identity(flat)
    heavy, printed = heavy_after(
        "sys.argv = ['train', '--cfg', 'mlp=gelu']\nfrom gpt_lab.cli.train import main; main()"
    )
    assert "match_to: null" in printed and heavy == []
