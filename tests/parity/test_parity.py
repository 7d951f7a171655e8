"""Presets as `train` composes them against their originals: same weights, same logits, same gradients.

Nothing is normalised, patched or skipped on either side (presets.py). Where a preset differs from a model on purpose,
its own description says so.
"""

from __future__ import annotations

import pytest
import torch

from gpt_lab.config import composition, setting_names
from gpt_lab.model.skip_init import bare_model
from tests.parity import presets_ssm, released
from tests.parity.presets import both

CASES = released.CASES | presets_ssm.CASES


def test_every_preset_has_its_original() -> None:
    assert {name for name, case in CASES.items() if case.words == [f"model={name}"]} == set(
        setting_names.choices("model")
    )


@pytest.mark.parametrize(("scale", "parameters"), [("gpt2", 124_439_808), ("large", 354_823_168)])
def test_scales_of_gpt2(scale: str, parameters: int) -> None:
    model = bare_model(composition.compose(["model=gpt2", f"scale={scale}"]), 50257)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients(name: str) -> None:
    for mine, theirs in zip(*both(CASES[name]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2", "mlp=gelu"),
        ("llama", "norm.eps=1e-4"),
        ("olmo2", "position.base=10000"),
        ("original", "position.scaled=false"),
        ("nanochat", "model.embed_norm=false"),
        ("nanochat", "model.logit_softcap=16"),
        ("mqa_alibi", "mlp=gelu_tanh"),
        ("nanogpt", "mlp=gelu_tanh"),
        ("mamba2", "norm.eps=1e-4"),
        ("mamba2", "position=sinusoidal"),
        ("zamba2", "attention.dt_limit=0.1"),
        ("zamba2, a block used twice", "position.base=500"),
        ("llama3", "position.factor=9"),
        ("mistral", "attention.window=9"),
        ("smollm3", "position.pattern=R"),
        ("gemma3", "position.local_base=20000"),
        ("gemma3", "attention.window=9"),
        ("gpt_oss", "position.truncate=true"),
        ("gpt_oss", "mlp.clamp=0.5"),
        ("gpt_oss", "attention.pattern=LS"),
        ("qwen3_next", "mlp.renormalize=false"),
        ("qwen3_next, heads of 16", "position.base=1000000"),
        ("deepseek_v3", "mlp.letters.E.routed_scale=2.4"),
        ("deepseek_v3", "mlp.letters.E.top_groups=3"),
        ("kimi_linear", "position=rope"),
        ("modded_nanogpt", "model.logit_softcap=29"),
    ],
)
def test_a_wrong_preset_would_show(name: str, change: str) -> None:
    (mine, *_), (theirs, *_) = both(CASES[name], change)
    assert (mine - theirs).abs().max() > 5e-5
