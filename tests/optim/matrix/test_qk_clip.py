"""QK-Clip: the largest score of each head, and weights after which it would have been the limit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost.flops import cost_of
from gpt_lab.errors import ConfigError
from gpt_lab.kernels.base import KeyView
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.optim.fit import fitted
from gpt_lab.parts.attention import score_limit
from gpt_lab.parts.attention.score_limit import largest_scores
from gpt_lab.parts.attention.softmax import Softmax
from tests.helpers import tiny_config

MOST = 0.5
CLIPPED: dict[str, dict[str, Any]] = {
    "mha": {"model.bias": True},
    "gqa": {"attention.kv_heads": 2},
    "mqa": {},
    "sliding": {"attention.window": 3},
    "mla": {},
    "mla with a query latent": {"attention.q_rank": 8},
    "differential": {},
    "sparse": {"attention.top_k": 4},
}
REFUSED: dict[str, dict[str, Any]] = {
    "which no weight makes larger": {"attention": {"name": "mha", "qk_norm": "head"}},
    "this model has none": {"attention": "mamba2"},
    "projections by a OwnedLinear": {"residual": "shared"},
}


def config(**settings: Any) -> RunConfig:
    return tiny_config(optim={"name": "muon", "qk_clip": MOST}, **{"scale.width": 16, "scale.depth": 1, **settings})


def prepared(cfg: RunConfig) -> GPT:
    """A model with large scores, told of the limit."""
    model = GPT(cfg, 32)
    initialize(model, cfg)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1 and "attention" in name:
                p.mul_(8.0)
            elif name.endswith(".bias"):
                p.normal_(generator=torch.Generator().manual_seed(1))
    fitted(registry.build("optim", cfg.optim), model, cfg)
    return model


TOKENS = torch.randint(32, (3, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CLIPPED)
def test_scores_are_the_limit_after_the_step(name: str) -> None:
    """Heads above it come down to it, by weights that make the values no smaller; others stay as they are."""
    model = prepared(config(attention={"name": name.split()[0]}, **CLIPPED[name]))
    (part,) = (part for part in model.modules() if isinstance(part, Softmax))
    model(TOKENS)
    before = part.largest_H.clone()
    assert (before > MOST).any()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    part.after_step()
    assert part.largest_H.max() == -math.inf, "and begins anew"
    assert part.measures() == {"score": before.max().item()}
    model(TOKENS)
    torch.testing.assert_close(part.largest_H, before.clamp(max=MOST), rtol=1e-4, atol=1e-5)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, state[key])}
    assert changed <= {
        f"blocks.0.attention.{one}"
        for one in ("qkv.weight", "qkv.bias", "q_proj.weight", "q_b_proj.weight", "kv_b_proj.weight")
    }
    if (fused := state.get("blocks.0.attention.qkv.weight")) is not None:
        first = (part.heads + part.kv_heads) * part.head_dim
        assert torch.equal(model.state_dict()["blocks.0.attention.qkv.weight"][first:], fused[first:]), "values stay"


def test_both_sides_share_it_where_each_head_has_its_keys() -> None:
    for name, queries, keys in (("mha", 0.5, 0.5), ("mqa", 1.0, 0.0)):
        model = prepared(config(attention=name))
        attention: Any = model.blocks[0].attention
        before = attention.qkv.weight.detach().clone()
        with torch.no_grad():
            attention.scale_scores(torch.full((4,), 0.25))
        ratio = (attention.qkv.weight / before)[:, 0]
        assert ratio[0].item() == pytest.approx(0.25**queries) and ratio[16].item() == pytest.approx(0.25**keys)


def test_evaluation_and_decoding_see_nothing() -> None:
    model = prepared(config()).eval()
    model(TOKENS)
    (part,) = (part for part in model.modules() if isinstance(part, Softmax))
    assert part.largest_H.max() == -math.inf
    assert "largest_H" not in "".join(model.state_dict())


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_limited_is_refused(said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        prepared(config(**REFUSED[said]))
    assert str(refused.value).endswith("leave it out") and "\n" not in str(refused.value)


def test_largest_scores_of_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over windows, documents and hidden keys; a few queries at a time or all."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 7, 4, generator=generator) for heads in (4, 2))
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 2, 2]])
    hidden = torch.zeros(2, 1, 7, 7)
    hidden[:, :, :, 1] = -math.inf
    expected = torch.full((4,), -math.inf)
    for b in range(2):
        for h in range(4):
            for i in range(7):
                for j in range(max(0, i - 2), i + 1):
                    if documents[b, i] == documents[b, j] and j != 1:
                        expected[h] = max(expected[h].item(), 0.5 * (q[b, h, i] @ k[b, h // 2, j]).item())
    view = KeyView(3, documents_q=documents, documents_k=documents)
    for at_once in (256, 3):
        monkeypatch.setattr(score_limit, "QUERIES", at_once)
        found: Tensor = largest_scores(q, k, 0.5, view, hidden)
        torch.testing.assert_close(found, expected)


def test_the_scores_are_paid_for() -> None:
    """2 T K multiply-adds of each head, for causal keys: once, without a backward pass."""
    plain, clipped = (tiny_config(optim={"name": "muon", "qk_clip": clip}) for clip in (None, MOST))
    model = GPT(plain, 32)
    more = cost_of(model, clipped.optim).train_flops_per_token - cost_of(model).train_flops_per_token
    assert more == 2 * 2 * 4 * 8 * (16 + 1) / 2
