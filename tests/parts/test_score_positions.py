"""Position encodings that rotate by layer or act on scores: through the cache, with documents, and on both kernels."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from gpt_lab import registry
from gpt_lab.errors import ConfigError
from gpt_lab.parts.base import Position, Shape
from tests.parts import decoding

ENCODINGS: dict[str, dict[str, Any]] = {
    "yarn": {},
    "xpos": {"position.scale_base": 16.0},
    "t5": {"position.buckets": 8, "position.max_distance": 20},
    "fire": {},
    "kerple": {},
    "cope": {"position.positions": 6},
    "rope": {"position.pattern": "LN", "position.local_base": 100.0},
}
SHAPE = Shape(depth=4, width=32, heads=4, context=16)


def made(name: str, **options: Any) -> Position:
    position: Position = registry.build("position", {"name": name, **options}, SHAPE)
    return position


@pytest.mark.parametrize("name", ENCODINGS)
class TestInAModel:
    def test_decoding_rows_and_documents(self, name: str) -> None:
        for kernel in ("math", "sdpa"):
            decoding.check(decoding.model(kernel, position=name, attention="gqa", **ENCODINGS[name]))
        window = {"name": "sliding", "window": 6, "pattern": "SL", "kv_heads": 2}
        decoding.check(decoding.model(position=name, attention=window, **ENCODINGS[name]))

    def test_kernels_agree(self, name: str) -> None:
        tokens = decoding.text(2, 16)
        found = [decoding.model(k, position=name, **ENCODINGS[name])(tokens) for k in ("math", "sdpa")]
        torch.testing.assert_close(*found, rtol=0, atol=1e-4)

    def test_gradients(self, name: str) -> None:
        decoding.check_trains(decoding.model(position=name, **ENCODINGS[name]))

    def test_it_is_not_nothing(self, name: str) -> None:
        """The order of the earlier tokens shows in the last one's logits."""
        model, tokens = decoding.model(position=name, **ENCODINGS[name]), decoding.text(1, 16)
        swapped = tokens[:, [1, 0, *range(2, 16)]]
        assert (model(tokens) - model(swapped))[:, -1].abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize("name", [name for name, options in ENCODINGS.items() if options])
def test_compiled(name: str) -> None:
    decoding.check_compiled(decoding.model(position=name, mlp="relu", **ENCODINGS[name]))


@pytest.mark.parametrize("name", ["cope", "t5"])
def test_fused_kernels_refuse_scores_that_are_learned(name: str) -> None:
    with pytest.raises(ConfigError, match="kernel=flex"):
        decoding.model("flex", position=name)


def test_layers_of_a_pattern() -> None:
    position = made("rope", base=100.0, pattern="RRLN", local_base=10.0)
    q = torch.randn(1, 4, 5, 8)
    found = [position.at(layer).rotate(q, q, torch.arange(5))[0] for layer in range(8)]
    plain, local = made("rope", base=100.0), made("rope", base=10.0)
    expected = [p.rotate(q, q, torch.arange(5))[0] for p in (plain, plain, local)] + [q]
    for mine, theirs in zip(found, 2 * expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_each_layer_has_its_own_or_all_share() -> None:
    for name, shared in (("kerple", False), ("cope", False), ("fire", False), ("t5", True)):
        position = made(name)
        assert (position.at(0) is position.at(3)) == shared
    for name in ("fire", "t5"):
        both = [made(name, shared=shared) for shared in (False, True)]
        assert [position.at(0) is position.at(3) for position in both] == [False, True]


def test_xpos_scores_depend_on_distance_and_fade() -> None:
    position, ones = made("xpos", scale_base=2.0), torch.ones(1, 1, 3, 8)
    near, far = (
        position.rotate(ones, ones, places) for places in (torch.tensor([0, 3, 30]), torch.tensor([40, 43, 70]))
    )
    scores = [q @ k.mT for q, k in (near, far)]
    torch.testing.assert_close(scores[0].tril(), scores[1].tril(), rtol=1e-4, atol=1e-4)
    assert scores[0][0, 0, 2, 0].abs() < 0.2 < scores[0][0, 0, 2, 2].abs()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("yarn", {"factor": 0.5}, "position.factor=0.5 would shorten"),
        ("yarn", {"beta_slow": 40.0}, "position.beta_slow=40 must be below position.beta_fast=32"),
        ("yarn", {"base": 1.0}, "position.base=1 gives all pairs one rate"),
        ("t5", {"buckets": 1}, "position.buckets=1 tells no distances apart"),
        ("t5", {"max_distance": 16}, "position.max_distance=16 must be more than half of position.buckets=32"),
    ],
)
def test_refusals(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        made(name, **options)


def test_cope_refuses_queries_of_another_dimension() -> None:
    q = torch.randn(1, 4, 3, 6)
    with pytest.raises(ConfigError, match="position=cope needs queries of dimension 8"):
        made("cope").at(0).content_bias(q, q, 1.0, torch.ones(3, 3).tril().bool())
