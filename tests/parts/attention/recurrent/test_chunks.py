"""Recurrences by chunks against their definition, token by token in fp64; short convolutions against torch's."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab.parts.attention.recurrent._chunks import recurrence, runs
from gpt_lab.parts.attention.recurrent._conv import ShortConvolution, shifted

B, H, K, V = 2, 3, 8, 5
Given = dict[str, Tensor | None]


def defined(given: Given, run_BT: Tensor | None) -> tuple[Tensor, Tensor]:
    """S_t = a_t S_{t-1} + k_t w_t, y_t = q_t S_t, where w is v, or b (v - k a S) under the delta rule.

    The generalized one adds p_t (r_t S_{t-1}).
    """
    q, k, v = (given[name].double() for name in "qkv")  # type: ignore[union-attr]
    decay, beta, state = given["decay"], given["beta"], given["state"]
    memory = torch.zeros(B, H, K, V).double() if state is None else state.double()
    read = []
    for t in range(q.shape[2]):
        if run_BT is not None and t > 0:
            memory = memory * (run_BT[:, t] == run_BT[:, t - 1])[:, None, None, None]
        before = memory
        if decay is not None:
            one = decay[:, :, t].double().exp()
            memory = memory * (one[..., None] if one.ndim == 3 else one[..., None, None])
        write = v[:, :, t]
        if beta is not None:
            write = beta[:, :, t, None].double() * (write - (k[:, :, t, :, None] * memory).sum(2))
        memory = memory + k[:, :, t, :, None] * write[:, :, None]
        if (recalling := given.get("recalling")) is not None and (placing := given.get("placing")) is not None:
            recalled = (recalling[:, :, t, :, None].double() * before).sum(2)
            memory = memory + placing[:, :, t, :, None].double() * recalled[:, :, None]
        read.append((q[:, :, t, :, None] * memory).sum(2))
    return torch.stack(read, dim=2), memory


def drawn(length: int, decay: str, rule: str, state: bool, steepest: float = 1.0) -> Given:
    generator = torch.Generator().manual_seed(length)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator)

    rates = {"none": None, "head": -steepest * uniform(B, H, length), "channel": -steepest * uniform(B, H, length, K)}
    given: Given = {
        "q": F.normalize(normal(B, H, length, K), dim=-1),
        "k": F.normalize(normal(B, H, length, K), dim=-1),
        "v": normal(B, H, length, V),
        "decay": rates[decay],
        "beta": 2 * uniform(B, H, length) if rule == "delta" else None,
        "state": normal(B, H, K, V) if state else None,
    }
    if rule == "generalized":  # takes off what the key recalls, by a rate of each channel
        key = F.normalize(normal(B, H, length, K), dim=-1)
        given |= {"recalling": -key, "placing": key * uniform(B, H, length, K)}
    return {name: None if t is None else t.requires_grad_() for name, t in given.items()}


def by_chunks(given: Given, chunk: int, run_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
    q, k, v = given["q"], given["k"], given["v"]
    recalling, placing = given.get("recalling"), given.get("placing")
    assert q is not None and k is not None and v is not None
    moved = None if recalling is None or placing is None else (recalling, placing)
    return recurrence(
        q, k, v, given["decay"], given["beta"], moved, chunk=chunk, state_BHKV=given["state"], runs_BT=run_BT
    )


def documents(length: int) -> Tensor:
    """Other lengths in each row, one document of a single token, one that spans several chunks."""
    numbers = torch.zeros(B, length, dtype=torch.long)
    numbers[0, length // 3 :] = 5
    numbers[0, length // 3 + 1 :] = 2
    numbers[1, -1:] = 7
    return numbers


@pytest.mark.parametrize("rule", ["linear", "delta", "generalized"])
@pytest.mark.parametrize("decay", ["none", "head", "channel"])
def test_equal_to_the_definition(decay: str, rule: str) -> None:
    """Outputs, last state and every gradient, at lengths that no chunk divides."""
    for length, state, packed in itertools.product((1, 2, 16, 37, 64), (False, True), (False, True)):
        given = drawn(length, decay, rule, state)
        run_BT = runs(documents(length)) if packed else None
        expected = defined(given, run_BT)
        wanted = [t for t in given.values() if t is not None]
        weights = [torch.randn(t.shape, generator=torch.Generator().manual_seed(2)) for t in expected]
        slopes = torch.autograd.grad(sum((a * b).sum() for a, b in zip(expected, weights, strict=True)), wanted)
        for chunk in (16, 32):
            found = by_chunks(given, chunk, run_BT)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b.float(), rtol=1e-5, atol=1e-5)
            mine = torch.autograd.grad(sum((a * b).sum() for a, b in zip(found, weights, strict=True)), wanted)
            for a, b in zip(mine, slopes, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["linear", "delta", "generalized"])
@pytest.mark.parametrize("decay", ["head", "channel"])
def test_nothing_overflows_where_all_is_forgotten_at_once(decay: str, rule: str) -> None:
    """exp(-400) is 0 and exp(400) infinite in fp32: whoever divides by decays has no number left."""
    given = drawn(50, decay, rule, True, steepest=400.0)
    found, expected = by_chunks(given, 32), defined(given, None)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-5, atol=1e-5)
    wanted = [t for t in given.values() if t is not None]
    assert all(t.isfinite().all() for t in torch.autograd.grad(found[0].sum() + found[1].sum(), wanted))


def test_keys_all_alike_are_solved_exactly() -> None:
    """The hardest system of the delta rule: every token replaces what the one before it has written."""
    given = drawn(64, "none", "delta", False)
    given["k"], given["beta"] = torch.ones(B, H, 64, K) * K**-0.5, torch.ones(B, H, 64)
    found, expected = by_chunks(given, 64), defined(given, None)
    torch.testing.assert_close(found[0], expected[0].float(), rtol=1e-5, atol=1e-5)


def test_one_head_of_keys_and_queries_serves_all() -> None:
    for decay, length in itertools.product(("none", "head", "channel"), (1, 37)):
        given = drawn(length, decay, "linear", True)
        q, k, v = given["q"], given["k"], given["v"]
        assert q is not None and k is not None and v is not None
        one = given | {"q": q[:, :1], "k": k[:, :1]}
        same = given | {"q": q[:, :1].expand(q.shape), "k": k[:, :1].expand(k.shape)}
        for a, b in zip(by_chunks(one, 16), by_chunks(same, 16), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["delta", "generalized"])
def test_accumulates_in_fp32_under_autocast(rule: str) -> None:
    given = drawn(40, "channel", rule, True)
    plain = by_chunks(given, 16)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = by_chunks(given, 16)
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(plain, lowered, strict=True))


def test_runs_end_where_the_number_changes() -> None:
    assert runs(torch.tensor([[4, 4, 0, 7, 7, 4]])).tolist() == [[0, 0, 1, 2, 2, 3]]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_short_convolution(taps: int, bias: bool) -> None:
    """torch's, whole and in pieces, and none across documents."""
    conv, x = ShortConvolution(6, taps, bias), torch.randn(2, 11, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in conv.named_parameters():
            parameter.copy_(conv.draw(name, torch.Generator().manual_seed(1)))
            assert 0 < parameter.abs().max() <= taps**-0.5
    expected = F.conv1d(F.pad(x.mT, (taps - 1, 0)), conv.weight[:, None], conv.bias, groups=6).mT
    torch.testing.assert_close(conv(x)[0], expected)
    earlier, found = None, []
    for piece in x.split([1, 2, 1, 7], dim=1):
        y, earlier = conv(piece, earlier)
        found.append(y)
    torch.testing.assert_close(torch.cat(found, dim=1), expected)
    run_BT = runs(torch.tensor([[0] * 4 + [1] * 7, [0] * 10 + [1]]))
    packed = conv(x, None, run_BT)[0]
    for row, cut in ((0, 4), (1, 10)):
        alone = torch.cat([conv(part)[0] for part in x[row : row + 1].split([cut, 11 - cut], dim=1)], dim=1)
        torch.testing.assert_close(packed[row : row + 1], alone)


def test_shifted_by_one_token() -> None:
    """Whole and in pieces, and none across documents."""
    x = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.cat((torch.zeros(2, 1, 3), x[:, :-1]), dim=1)
    assert torch.equal(shifted(x)[0], expected)
    earlier, found = None, []
    for piece in x.split([1, 4, 2], dim=1):
        y, earlier = shifted(piece, earlier)
        found.append(y)
    assert torch.equal(torch.cat(found, dim=1), expected)
    expected[0, 4] = expected[1, 6] = 0
    assert torch.equal(shifted(x, None, runs(torch.tensor([[0] * 4 + [1] * 3, [0] * 6 + [1]])))[0], expected)
