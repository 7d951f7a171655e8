"""How a token is drawn from logits, against an independent computation in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gpt_lab.errors import ConfigError
from gpt_lab.infer.sampling import DRAWN, Sampling, Streams, log_probabilities, stream


def reference(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """Token probabilities by the definitions: cut to k, renormalise, cut to the nucleus, renormalise."""
    p = np.exp(logits.astype(np.float64) / temperature)
    if top_k is not None:
        p = np.where(p >= np.sort(p)[-min(top_k, len(p))], p, 0)
    p = p / p.sum()
    if top_p is not None:
        order = np.argsort(-p)
        size = next(n for n in range(1, len(p) + 1) if p[order[:n]].sum() >= top_p - 1e-12 or n == len(p))
        kept = np.zeros(len(p), dtype=bool)
        kept[order[:size]] = True
        p = np.where(kept, p, 0)
    return p / p.sum()


def probabilities(logits: torch.Tensor, sampling: Sampling) -> np.ndarray:
    p, ids = sampling.candidates(logits[None])
    full = torch.zeros(1, len(logits), dtype=torch.float64)
    full = full.scatter(1, torch.arange(p.shape[1])[None] if ids is None else ids, p / p.sum())
    return full[0].numpy()


@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, 20, 1000])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_probabilities_are_those_of_the_definition(temperature: float, top_k: int | None, top_p: float | None) -> None:
    for seed in range(5):
        logits = 3 * torch.randn(50, generator=torch.Generator().manual_seed(seed))
        got = probabilities(logits, Sampling(temperature, top_k, top_p))
        np.testing.assert_allclose(got, reference(logits.numpy(), temperature, top_k, top_p), atol=1e-12)


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.76, 4)])
def test_a_nucleus_that_is_full_takes_no_further_token(top_p: float, kept: int) -> None:
    p_BK, _ = Sampling(1.0, None, top_p).candidates(torch.zeros(1, 4))
    assert int((p_BK > 0).sum()) == kept


@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (4, None), (None, 0.8), (6, 0.9)])
def test_draws_follow_the_probabilities(top_k: int | None, top_p: float | None) -> None:
    """An even grid of uniform numbers must give each token its share, to within one grid step at each end."""
    logits = 2 * torch.randn(12, generator=torch.Generator().manual_seed(1))
    sampling, count = Sampling(0.9, top_k, top_p), 20_000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = sampling.choose(logits.expand(count, -1), uniform)
    shares = np.bincount(drawn.numpy(), minlength=12) / count
    np.testing.assert_allclose(shares, reference(logits.numpy(), 0.9, top_k, top_p), atol=2 / count)


def test_temperature_zero_takes_the_likeliest_and_a_tiny_one_does_not_overflow() -> None:
    logits = 100 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    uniform = torch.linspace(0, 0.999, 6, dtype=torch.float64)
    best = logits.argmax(-1)
    assert torch.equal(Sampling(0.0, 5, 0.5).choose(logits, uniform), best)
    assert torch.equal(Sampling(1e-300).choose(logits, uniform), best)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(1.0, 3), Sampling(1.0, None, 0.9)])
def test_the_ends_of_the_uniform_range_never_draw_an_impossible_token(sampling: Sampling, uniform: float) -> None:
    logits = torch.tensor([[-2000.0, 1.0, 0.5, 0.2, -1.0, -2000.0]])
    assert sampling.choose(logits, torch.tensor([uniform], dtype=torch.float64)).item() in {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"temperature": -1.0}, "temperature must be a number >= 0"),
        ({"temperature": float("nan")}, "temperature must be a number >= 0"),
        ({"top_k": 0}, "top_k must be a whole number >= 1"),
        ({"top_p": 0.0}, r"top_p must be a number in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p must be a number in \(0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Sampling(**options)


PROCESSORS = [
    Sampling(1.0, min_p=0.1),
    Sampling(0.7, top_k=20, min_p=0.05),
    Sampling(1.5, top_p=0.9, min_p=0.02),
    Sampling(1.0, top_k=30, top_p=0.8, min_p=0.2, repetition_penalty=1.3),
    Sampling(1.2, repetition_penalty=0.8),
]


@pytest.mark.parametrize("sampling", PROCESSORS, ids=str)
def test_probabilities_are_those_of_transformers(sampling: Sampling) -> None:
    """By its processors and warpers, in its order, on random logits; and by the definitions."""
    from transformers.generation import logits_process as theirs

    draw = torch.Generator().manual_seed(5)
    logits_BV = 3 * torch.randn(6, 80, generator=draw)
    texts_BT = torch.randint(80, (6, 25), generator=draw)
    steps: list[Any] = [theirs.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)]
    steps += [theirs.TemperatureLogitsWarper(sampling.temperature)]
    steps += [] if sampling.top_k is None else [theirs.TopKLogitsWarper(sampling.top_k)]
    steps += [] if sampling.top_p is None else [theirs.TopPLogitsWarper(sampling.top_p)]
    steps += [] if sampling.min_p is None else [theirs.MinPLogitsWarper(sampling.min_p)]
    expected_BV = logits_BV.clone()
    for step in steps:
        expected_BV = step(texts_BT, expected_BV)
    present_BV = torch.zeros_like(logits_BV, dtype=torch.bool).scatter(1, texts_BT, True)
    penalized_BV = sampling.penalized(logits_BV, present_BV)
    got_BV = sampling.distribution(penalized_BV)
    torch.testing.assert_close(got_BV.float(), expected_BV.softmax(-1), rtol=0, atol=1e-6)
    assert torch.equal(got_BV > 0, expected_BV > float("-inf"))
    for row, text in enumerate(texts_BT.tolist()):
        plain = [
            (one / sampling.repetition_penalty if one > 0 else one * sampling.repetition_penalty)
            if token in text
            else one
            for token, one in enumerate(logits_BV[row].tolist())
        ]
        share = reference(np.array(plain), sampling.temperature, sampling.top_k, sampling.top_p)
        share = np.where(share < (sampling.min_p or 0) * share.max(), 0, share)
        np.testing.assert_allclose(got_BV[row].numpy(), share / share.sum(), atol=1e-6)


def test_log_probabilities_are_the_model_s_own() -> None:
    logits_BV = 2 * torch.randn(2, 9, generator=torch.Generator().manual_seed(1))
    exact = np.log(np.exp(logits_BV.double().numpy()) / np.exp(logits_BV.double().numpy()).sum(-1, keepdims=True))
    for row, one in enumerate(log_probabilities(logits_BV, [3, 7], top=4)):
        assert one.token == [3, 7][row] and one.chosen == pytest.approx(exact[row, one.token], abs=1e-12)
        best = np.argsort(-exact[row])[:4]
        assert [token for token, _ in one.top] == best.tolist()
        np.testing.assert_allclose([value for _, value in one.top], exact[row][best], atol=1e-12)


def test_numbers_drawn_at_a_time_are_those_drawn_one_by_one() -> None:
    streams, alone = Streams(3, [0, 2]), [stream(3, 0), stream(3, 2)]
    for _ in range(2 * DRAWN + 1):
        assert streams.next().tolist() == [torch.rand((), dtype=torch.float64, generator=one).item() for one in alone]
