"""Where the best value of a curve is: planted optima, edges, bad places."""

from __future__ import annotations

import math
import random

import pytest

from gpt_lab.stats import optimum
from gpt_lab.stats.optimum import ValueGrid


def bowl(best: float, bend: float = 0.05, *values: float) -> dict[float, float | None]:
    return {value: 2 + bend * math.log(value / best) ** 2 for value in values or (1e-3, 2e-3, 4e-3, 8e-3, 0.016)}


@pytest.mark.parametrize("best", [0.0021, 0.003, 0.004, 0.0055, 0.0079])
def test_the_vertex_of_a_parabola_is_found(best: float) -> None:
    found = optimum.optimum(bowl(best))
    assert found.value == pytest.approx(best, rel=0.005) and found.edge is None
    assert found.fit is not None and found.fit.at(best) == pytest.approx(2.0)


def test_what_is_chosen_has_three_digits() -> None:
    assert [optimum.rounded(value) for value in (0.0031415926, 123456.0, 4e-3)] == [0.00314, 123000.0, 0.004]
    assert all(
        optimum.rounded(optimum.optimum(bowl(b)).value or 0) == optimum.optimum(bowl(b)).value for b in (3.3e-3, 5e-3)
    )
    assert optimum.ladder(4e-3, 2, 5) == (1e-3, 2e-3, 4e-3, 8e-3, 0.016)


def test_a_cliff_does_not_move_the_vertex() -> None:
    """What lies beyond the next neighbours is not fitted: learning rates that are too high lose far more."""
    curve = bowl(0.004) | {0.016: 9.0}
    assert optimum.optimum(curve).value == pytest.approx(0.004, rel=0.005)


@pytest.mark.parametrize("best, edge", [(2e-4, "low"), (0.1, "high")])
def test_an_optimum_beyond_what_was_tried_is_on_the_edge(best: float, edge: str) -> None:
    found = optimum.optimum(bowl(best))
    assert found.edge == edge and found.value == found.tried in (1e-3, 0.016) and found.fit is None
    assert optimum.wider(bowl(best)) == (5e-4 if edge == "low" else 0.032)


def test_no_vertex_where_there_is_none() -> None:
    hill = {1e-3: 2.0, 2e-3: 1.99, 4e-3: 2.05, 8e-3: 2.2}
    assert optimum.Parabola(1.0, 0.0, 0.0, -1.0, 0.5, 2.0).vertex is None
    assert optimum.Parabola(1.0, 0.0, 1e9, 1e-9, 0.5, 2.0).vertex is None
    assert 1e-3 < (optimum.optimum(hill).value or 0) < 4e-3
    beside = {1e-3: 2.1, 2e-3: 2.0, 4e-3: None}
    assert optimum.optimum(beside) == optimum.Optimum(2e-3, 2e-3, None, None), "a bad place closes the bracket"


def test_bad_places_are_never_chosen() -> None:
    assert optimum.optimum({1e-3: 2.0, 2e-3: None, 4e-3: math.nan}).tried == 1e-3
    assert optimum.optimum({1e-3: None, 2e-3: None}) == optimum.Optimum(None, None, None, "low")
    assert optimum.wider({1e-3: None, 2e-3: None}) == 5e-4, "too high a rate is what diverges"
    assert optimum.optimum({}).edge is None


def test_finer_halves_the_wider_gap_beside_the_best_and_never_repeats() -> None:
    curve = bowl(0.0045)
    added = []
    for _ in range(8):
        value = optimum.finer(curve)
        assert value not in curve
        curve |= bowl(0.0045, 0.05, value)
        added.append(value)
    assert added[:2] == [2.83e-3, 5.66e-3], "the gaps above and below 0.004 are as wide: the lower one first"
    assert optimum.optimum(curve).value == pytest.approx(0.0045, rel=0.005)


def test_the_middle_is_tried_first() -> None:
    assert ValueGrid("optim.lr", (1e-3, 2e-3, 4e-3, 8e-3, 0.016), 3).outwards == (4e-3, 2e-3, 8e-3, 1e-3, 0.016)
    assert ValueGrid("optim.lr", (1e-3, 2e-3, 0.016), 3).start == 2e-3


def test_the_width_of_an_optimum() -> None:
    curve = {1e-3: 2.4, 2e-3: 2.1, 4e-3: 2.0, 8e-3: 2.1, 0.016: 2.4}
    low, high, is_open = optimum.range_within(curve, 0.05) or (0, 0, True)
    apart = 2 ** math.sqrt(0.5)  # a parabola through 2.1, 2.0, 2.1 an octave apart
    assert (low, high, is_open) == (pytest.approx(4e-3 / apart), pytest.approx(4e-3 * apart), False)
    assert optimum.range_within(curve, 0.25) == (
        pytest.approx(2e-3 / math.sqrt(2)),
        pytest.approx(8e-3 * 2**0.5),
        False,
    )
    assert optimum.range_within(curve, 1.0) == (1e-3, 0.016, True)
    assert optimum.range_within(curve | {8e-3: None}, 0.05) == (pytest.approx(4e-3 / math.sqrt(2)), 4e-3, True)
    assert optimum.range_within({1e-3: None}, 0.1) is None


def test_the_chosen_value_lies_within_its_range() -> None:
    """The vertex of a parabola may lie beyond the best value tried by more than the range around that is wide."""
    rng = random.Random(1)
    steep = {1e-3: 2.60, 2e-3: 2.000, 4e-3: 2.010, 8e-3: 2.40}
    curves: list[dict[float, float | None]] = [dict(steep)]
    for _ in range(300):
        best = 10 ** rng.uniform(-3, -2)
        curves.append(
            {
                v: 2 + 0.05 * math.log2(v / best) ** 2 + rng.gauss(0, 0.02)
                for v in (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 0.016, 0.032)
            }
        )
    for curve in curves:
        chosen = optimum.optimum(curve).value
        for loss in (1e-4, 0.01, 0.1):
            low, high, _ = optimum.range_within(curve, loss) or (0.0, 0.0, True)
            assert chosen is not None and low <= chosen <= high and low < high


def test_noise_moves_the_choice_less_than_a_step_of_the_grid() -> None:
    rng = random.Random(0)
    errors = []
    for _ in range(300):
        curve = {value: (score or 0) + rng.gauss(0, 0.005) for value, score in bowl(0.005).items()}
        errors.append(abs(math.log2((optimum.optimum(curve).value or 0) / 0.005)))
    assert sum(error < 0.5 for error in errors) > 290
