"""Rounding at random: right on average, never further than one step, and undone by nothing that is saved."""

from __future__ import annotations

import pytest
import torch

from gpt_lab.train.few_bits.formats import CODES, Format, KeptBF16, KeptInt8

BOTH = pytest.mark.parametrize("way", [KeptBF16(), KeptInt8()], ids=["bf16", "int8"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(rows: int = 64, columns: int = 48) -> torch.Tensor:
    """Rows of very different sizes, one of zeros, one whose largest number is negative."""
    values = torch.randn(rows, columns, generator=generator()) * torch.logspace(-6, 3, rows)[:, None]
    values[1], values[2, 5] = 0.0, -1e3
    return values


@BOTH
def test_the_mean_of_many_draws_is_the_value(way: Format) -> None:
    """To five standard errors of what is drawn, in each element; rounding to nearest is beyond them in most."""
    values = torch.randn(4, 16, generator=generator(1))
    source, draws = generator(2), 1500
    rounded = torch.stack([way.decode(*way.encode(values, source)) for _ in range(draws)]).double()
    error = (rounded.mean(0) - values.double()).abs()
    allowed = 5 * rounded.std(0) / draws**0.5 + 1e-6
    assert (error < allowed).all()
    nearest = (way.decode(*way.encode(values, None)).double() - values.double()).abs()
    assert (nearest > allowed).float().mean() > 0.5


@BOTH
def test_only_the_two_neighbours_are_drawn(way: Format) -> None:
    values = torch.randn(4, 16, generator=generator(1))
    source = generator(2)
    rounded = torch.stack([way.decode(*way.encode(values, source)) for _ in range(200)])
    below, above = rounded.amin(0), rounded.amax(0)
    step = values.abs() / 128 if isinstance(way, KeptBF16) else values.abs().amax(-1, keepdim=True) / CODES
    assert ((below <= values) & (values <= above) | ((rounded - values).abs() < 1e-6).all(0)).all()
    assert (above - below <= step * 1.001).all()
    assert ((rounded == below) | (rounded == above)).all()


def test_updates_that_rounding_to_nearest_loses_are_kept_on_average() -> None:
    """300 steps of a hundredth of bf16's step at 1; of an int8 row, those of a hundredth of a code."""
    for way, step in ((KeptBF16(), 2.0**-7 / 100), (KeptInt8(), 0.01 / CODES)):
        values = torch.full((1, 1000), 1.0 if isinstance(way, KeptBF16) else 0.1)
        values[0, 0] = 1.0  # what the codes of the row are shares of
        lost = moved = way.decode(*way.encode(values, None))
        source = generator()
        for _ in range(300):
            lost, moved = lost.clone(), moved.clone()
            lost[:, 1:] += step
            moved[:, 1:] += step
            lost, moved = way.decode(*way.encode(lost, None)), way.decode(*way.encode(moved, source))
        first = way.decode(*way.encode(values, None))
        assert torch.equal(lost, first)
        assert (moved - first)[0, 1:].mean().item() == pytest.approx(300 * step, rel=0.06)


@BOTH
def test_what_was_rounded_once_is_found_again(way: Format) -> None:
    """A checkpoint has the values in fp32: rounded to nearest they are what they were, so that a resume is exact."""
    for source in (None, generator()):
        kept, scale = way.encode(matrix(), source)
        again, also = way.encode(way.decode(kept, scale), None)
        assert torch.equal(again, kept)
        assert (scale is None and also is None) or (scale is not None and torch.equal(also, scale))


def test_the_largest_of_a_row_is_kept_whatever_is_drawn() -> None:
    way, values, source = KeptInt8(), matrix(), generator()
    for _ in range(50):
        kept, scale = way.encode(values, source)
        assert kept.abs().amax(-1).tolist() == [0 if row == 1 else CODES for row in range(len(values))]
        assert torch.equal(way.decode(kept, scale).abs().amax(-1), values.abs().amax(-1))


@BOTH
def test_what_is_no_number_stays_none(way: Format) -> None:
    for bad in (float("nan"), float("inf")):
        values = torch.ones(2, 4)
        values[1, 2] = bad
        found = way.decode(*way.encode(values, generator()))
        assert torch.equal(found[0], torch.ones(4)) and not found[1, 2].isfinite()
