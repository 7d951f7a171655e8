"""Kernels for CUDA, as far as a CPU can tell: flex uncompiled, flash-attn through a stand-in for the package."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab.kernels import attention
from gpt_lab.kernels import fused as fused_kernels
from tests.kernels.kernel_cases import (
    CASES,
    FP32,
    expected,
    inputs,
    options,
    run,
)

FLEX = [c for c, case in CASES.items() if not case.get("bias")]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", FLEX)
def test_flex_computes_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its masks and score changes, through flex_attention's own uncompiled form, which CPUs have without gradients."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setitem(fused_kernels._compiled, "flex", flex_attention)
    case = CASES[name]
    made = [t.float() for t in inputs(case, head_dim=16)]
    with torch.no_grad():
        got = attention(*made, kernel="flex", scale=0.4, **options(case))
    torch.testing.assert_close(got.double(), expected(case, made)[0], **FP32)


@pytest.mark.compiles
def test_flex_is_part_of_a_compiled_graph() -> None:
    """Two layers with masks and score changes of their own, documents among them, in one graph."""
    torch.compiler.reset()
    documents = CASES["documents"]["documents_q"]
    views: list[dict[str, Any]] = [
        {"window": 7, "softcap": 3.0, "documents_q": documents, "documents_k": documents},
        {"window": 3, "slopes_H": CASES["alibi"]["slopes_H"]},
    ]

    def layers(kernel: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for view in views:
            q = attention(q, k, v, kernel=kernel, scale=0.3, **view)
        return q

    made = [t.float() for t in inputs({}, head_dim=16)]
    with torch.no_grad():
        found = torch.compile(layers, fullgraph=True, backend="aot_eager")("flex", *made)
    torch.testing.assert_close(found, layers("math", *made), rtol=1e-5, atol=1e-5)


@pytest.fixture
def flash_stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A package `flash_attn` (2 and 4) that follows the real ones' documented arguments, on CPU."""

    def two(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
    ) -> Tensor:
        assert causal and not dropout_p and softmax_scale is not None
        offset = k.shape[1] - q.shape[1]
        far = torch.arange(q.shape[1])[:, None] + offset - torch.arange(k.shape[1])
        scores = torch.einsum("bthk,bshk->bhts", q, k.repeat_interleave(q.shape[2] // k.shape[2], 2)) * softmax_scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        if alibi_slopes is not None:
            scores = scores - alibi_slopes[:, None, None] * far.abs()
        hidden = (far < 0) | (
            (far > window_size[0]) if window_size[0] >= 0 else torch.zeros_like(far, dtype=torch.bool)
        )
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        return torch.einsum("bhts,bshv->bthv", weights, v.repeat_interleave(q.shape[2] // v.shape[2], 2))

    def forward(
        q: Tensor, k: Tensor, v: Tensor, *, return_lse: bool, window_size_left: int | None = None, **more: Any
    ) -> tuple[Tensor, Tensor]:
        assert return_lse and more.pop("window_size_right", 0) == 0
        left = -1 if window_size_left is None else window_size_left
        lse = torch.zeros(q.shape[0], q.shape[2], q.shape[1])
        return two(q, k, v, window_size=(left, 0), **more).contiguous(), lse

    def backward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        dout: Tensor,
        lse: Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        softcap: float = 0.0,
        window_size_left: int | None = None,
        window_size_right: int | None = None,
    ) -> tuple[Tensor, ...]:
        shared, left = q.shape[2] // k.shape[2], -1 if window_size_left is None else window_size_left
        keys, values = k.repeat_interleave(shared, 2), v.repeat_interleave(shared, 2)
        unit = torch.eye(k.shape[1]).expand(k.shape[0], -1, -1)[:, :, None].expand(-1, -1, q.shape[2], -1)
        common: dict[str, Any] = {"softmax_scale": softmax_scale, "causal": causal, "window_size": (left, 0)}
        weights = two(q, keys, unit, softcap=softcap, **common).transpose(1, 2)  # attention to unit values
        torch.testing.assert_close(two(q, k, v, softcap=softcap, **common), out)
        slope = torch.einsum("bthv,bshv->bhts", dout, values)
        slope = weights * (slope - (weights * slope).sum(-1, keepdim=True)) * softmax_scale
        if softcap:
            slope = slope * (1 - torch.tanh(torch.einsum("bthk,bshk->bhts", q, keys) * softmax_scale / softcap) ** 2)
        dk = torch.einsum("bhts,bthk->bshk", slope, q)
        dv = torch.einsum("bhts,bthv->bshv", weights, dout)
        return torch.einsum("bhts,bshk->bthk", slope, keys), *(
            t.unflatten(2, (k.shape[2], shared)).sum(3) for t in (dk, dv)
        )

    package, cute = types.ModuleType("flash_attn"), types.ModuleType("flash_attn.cute")
    interface = types.ModuleType("flash_attn.cute.interface")
    vars(package).update(flash_attn_func=two, cute=cute)
    vars(cute).update(flash_attn_func=two, interface=interface)
    vars(interface).update(_flash_attn_fwd=forward, _flash_attn_bwd=backward)
    for module in (package, cute, interface):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    sys.modules.pop("gpt_lab.kernels.flash4", None)
    fused_kernels._flash_version.cache_clear()
    yield package
    sys.modules.pop("gpt_lab.kernels.flash4", None)
    fused_kernels._flash_version.cache_clear()


FLASH = ["causal", "window", "window of 1", "grouped", "one key head", "softcap", "ring buffer", "last of the keys"]


@pytest.mark.parametrize("name", [*FLASH, "alibi", "softcap, alibi, window", "ring buffer, alibi"])
def test_flash_attn_2_is_called_right(name: str, flash_stub: types.ModuleType) -> None:
    case = CASES[name]
    made = [t.float() for t in inputs(case)]
    assert fused_kernels.flash_version() == 2
    for got, want in zip(run("flash_attn", case, made), expected(case, made), strict=True):
        torch.testing.assert_close(got.double(), want, **FP32)


@pytest.mark.parametrize("name", FLASH)
def test_flash_attn_4_is_called_right(name: str, flash_stub: types.ModuleType) -> None:
    """Version 4 alone: `import flash_attn` succeeds, without the function."""
    del flash_stub.flash_attn_func
    fused_kernels._flash_version.cache_clear()
    assert fused_kernels.flash_version() == 4
    case = CASES[name]
    made = [t.float() for t in inputs(case)]
    for got, want in zip(run("flash_attn", case, made), expected(case, made), strict=True):
        torch.testing.assert_close(got.double(), want, **FP32)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_flash_attn_4_is_one_operator(flash_stub: types.ModuleType) -> None:
    """Its fake and its gradient agree with it, so that torch.compile keeps one graph."""
    from gpt_lab.kernels.flash4 import flash4

    made = [torch.randn(2, 5, heads, 8, requires_grad=True) for heads in (4, 2, 2)]
    torch.library.opcheck(flash4, (*made, 0.3, -1, 0.0))
    torch.library.opcheck(flash4, (*made, 0.3, 2, 5.0))
