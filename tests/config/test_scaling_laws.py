"""Each law against numbers that its paper prints."""

from __future__ import annotations

import pytest

from gpt_lab import registry
from gpt_lab.config import auto_scale
from gpt_lab.config import scaling_laws as laws
from gpt_lab.parts.base import Shape

TABLE_A9 = [
    (44, 512, 8, 8),
    (57, 576, 9, 9),
    (74, 640, 10, 10),
    (117, 768, 12, 12),
    (175, 896, 14, 14),
    (251, 1024, 16, 16),
]
"""Chinchilla, table A9: millions of parameters, width, heads, layers of the shallowest model of each width."""
TABLE_3 = {
    0.4e9: 8.0e9,
    1e9: 20.2e9,
    10e9: 205.1e9,
    67e9: 1.5e12,
    175e9: 3.7e12,
    280e9: 5.9e12,
    520e9: 11.0e12,
    1e12: 21.2e12,
}
"""Chinchilla, table 3: parameters, and the tokens for them."""
TABLE_1 = [
    (3e9, 3200, 43),
    (7e9, 4096, 67),
    (13e9, 5120, 91),
    (30e9, 6048, 154),
    (70e9, 8192, 231),
    (130e9, 12288, 258),
]
"""Vocabulary law, table 1: M, width, thousands of tokens by the derivative-based approach (43 is in the abstract)."""


@pytest.mark.parametrize("millions, width, heads, depth", TABLE_A9)
def test_shapes_and_parameters(millions: int, width: int, heads: int, depth: int) -> None:
    """Their parameters are all of them, embeddings of 32,000 tokens included: the matrices alone are far fewer."""
    assert (laws.width(depth), laws.heads(width)) == (width, heads)
    matrices = laws.matrices(depth, width)
    assert matrices + 32_000 * width == pytest.approx(millions * 1e6, rel=0.07), "relative positions are not counted"
    assert matrices < 0.81 * millions * 1e6


@pytest.mark.parametrize("parameters", TABLE_3)
def test_tokens(parameters: float) -> None:
    assert laws.tokens(parameters) == pytest.approx(TABLE_3[parameters], rel=0.11)


@pytest.mark.parametrize("matrices, width, thousands", TABLE_1)
def test_vocabulary(matrices: float, width: int, thousands: int) -> None:
    assert round(laws.vocabulary(matrices, width) / 1000) == thousands
    assert laws.vocabulary(33e6, 512) == 6144, "what was found at the smallest model"


def test_batch() -> None:
    """Figure 1 of Power Lines prints 0.0306 D^0.383, of sequences of 2,048 tokens; no table has values of it."""
    assert laws.batch(3e9) / 2048 == pytest.approx(130.45, abs=0.01)
    assert laws.batch(40e9) == pytest.approx(0.721e6, rel=1e-3)
    for steps in (10, 1000, 1e5):
        batch = laws.batch_of_steps(steps)
        assert laws.batch(steps * batch) == pytest.approx(batch, rel=1e-9)


def test_weight_decay() -> None:
    """Figure 1 prints 1.084 (D / N)^-0.527; the decay is what makes the timescale so, and goes with the batch."""
    assert laws.timescale(1) == 1.084
    assert laws.timescale(2000) / laws.timescale(20) == pytest.approx(100**-0.527)
    batch, rate, tokens, parameters = 5e5, 5e-3, 2.2e9, 1.1e8
    decay = laws.weight_decay(batch, rate, tokens, parameters)
    assert batch / (rate * decay * tokens) == pytest.approx(laws.timescale(20))
    assert laws.weight_decay(2 * batch, rate, tokens, parameters) == pytest.approx(2 * decay)


@pytest.mark.parametrize("width", [64, 128, 512, 2048])
def test_learning_rate(width: int) -> None:
    """Table 8 of muP, which is init=mup's own: Adam's rate of a matrix goes by the inverse of its input's width."""
    init = registry.build("init", {"name": "mup", "base_width": auto_scale.TUNED_AT}, Shape(2, width, 4, 8))
    assert laws.learning_rate(0.004, auto_scale.TUNED_AT, width) == 0.004 * init.lr_multiplier("matrix", (width, width))


@pytest.mark.parametrize("width, heads", [(64, 1), (192, 3), (100, 2), (2, 1), (3, 1), (96, 2)])
def test_heads_of_any_width(width: int, heads: int) -> None:
    assert laws.heads(width) == heads
    assert width % heads == 0
