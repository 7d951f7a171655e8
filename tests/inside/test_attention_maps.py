"""Maps of every attention option: weights times values are what it computed, rows sum to one, nothing is changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gpt_lab import registry
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.inside.attention_maps import look
from gpt_lab.kernels.choose import KERNELS
from gpt_lab.kernels.dense import Sdpa
from gpt_lab.model.gpt import GPT, initialize
from tests.helpers import tiny_config

RECURRENT = ("delta", "gated_deltanet", "gla", "kda", "linear", "mamba", "mamba2", "retention", "rwkv7")
HYBRID = {"name": "hybrid", "pattern": "GA", "letters": {"G": {"name": "gated_deltanet"}, "A": {"name": "mha"}}}
IDS = torch.arange(14).mul(7).remainder(64).tolist()


def built(name: str) -> GPT:
    cfg = tiny_config(attention=HYBRID if name == "hybrid" else name)
    model = GPT(cfg, 64)
    initialize(model, cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


@pytest.mark.parametrize("name", sorted(registry.index()["attention"]))
def test_every_option(name: str) -> None:
    model = built(name)
    before = model(torch.tensor([IDS]))
    kernels = dict(KERNELS)
    seen = look(model, IDS)
    assert kernels == KERNELS and torch.equal(model(torch.tensor([IDS])), before)
    drawn, kept = sorted({one.layer for one in seen.maps}), [one.layer for one in seen.states]
    expected = {"none": ([], []), "hybrid": ([1], [0])} | dict.fromkeys(RECURRENT, ([], [0, 1]))
    assert (drawn, kept) == expected.get(name, ([0, 1], []))
    for one in seen.maps:
        heads = 2 if name == "differential" else 4
        assert one.weights_HTS.shape == (heads, 14, 14)
        if one.name == "difference":
            continue
        total = one.weights_HTS.sum(-1) + (0 if one.sinks_HT is None else one.sinks_HT)
        torch.testing.assert_close(total, torch.ones_like(total))
        assert one.weights_HTS.triu(1).count_nonzero() == 0
        assert (one.sinks_HT is not None) == (name == "sinks")
    for one in seen.states:
        assert len(one.norms_TN) == 14 and one.norms_TN.isfinite().all() and (one.norms_TN[-1] > 0).all()


def test_a_difference_is_what_the_layer_weighs_with() -> None:
    """Values of the first pair at the identity: the layer's output before its norm is the map itself."""
    model = built("differential")
    maps = {(one.layer, one.name): one.weights_HTS for one in look(model, IDS).maps}
    part = model.layers()[1].attention
    factor = (part.lambda_q1 * part.lambda_k1).sum().exp() - (part.lambda_q2 * part.lambda_k2).sum().exp() + part.first
    torch.testing.assert_close(maps[1, "difference"], maps[1, "first"] - factor * maps[1, "second"])


def test_one_head_by_hand() -> None:
    model = built("mha")
    inputs: list[torch.Tensor] = []
    hook = model.layers()[0].attention.qkv.register_forward_hook(lambda module, args, out: inputs.append(out))
    weights = look(model, IDS).maps[0].weights_HTS
    hook.remove()
    q, k, _ = inputs[0].view(1, 14, 12, 8).transpose(1, 2).split((4, 4, 4), dim=1)
    q, k = model.position.rotate(q, k, torch.arange(14))
    for t in range(14):
        by_hand = (k[0, 2, : t + 1] @ q[0, 2, t] / 8**0.5).softmax(-1)
        torch.testing.assert_close(weights[2, t, : t + 1], by_hand)


class Wrong(Sdpa):
    @staticmethod
    def run(*given: Any) -> torch.Tensor:
        return 1.01 * Sdpa.run(*given)


def test_the_layer_s_own_kernel_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("sinks")
    plain = look(model, IDS)
    model.kernel_name = "sdpa"
    model.choose_kernels("cpu", "fp32")
    for one, other in zip(look(model, IDS).maps, plain.maps, strict=True):
        torch.testing.assert_close(one.weights_HTS, other.weights_HTS)
    monkeypatch.setitem(KERNELS, "sdpa", Wrong)
    with pytest.raises(LabError, match="layer 0: .* not give what kernel=sdpa computed: the two compute different"):
        look(model, IDS)
    assert KERNELS["sdpa"] is Wrong


def test_what_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match="no tokens"):
        look(built("mha"), [])
    with pytest.raises(ConfigError, match="17 tokens, and the context is 16"):
        look(built("mha"), [1] * 17)
