"""Every attention kernel that this machine has, against attention written out by hand, forward and backward."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gpt_lab.kernels import attention, available
from gpt_lab.kernels.base import KeyView, Memo, visible
from gpt_lab.parts.dropout import dropped
from tests.kernels.kernel_cases import (
    CASES,
    FP32,
    HEAD_DIM,
    HEADS,
    can,
    expected,
    inputs,
    options,
    request,
    run,
)

DENSE = [(k, c) for k in ("math", "sdpa") for c, case in CASES.items() if can(k, request(case))]


@pytest.mark.parametrize(("kernel", "name"), DENSE)
def test_forward_and_backward(kernel: str, name: str) -> None:
    case = CASES[name]
    made = [t.float() for t in inputs(case)]
    for got, want in zip(run(kernel, case, made), expected(case, made), strict=True):
        torch.testing.assert_close(got.double(), want, **FP32)


@pytest.mark.parametrize(("kernel", "name"), DENSE)
def test_bf16(kernel: str, name: str) -> None:
    case = CASES[name]
    made = [t.bfloat16() for t in inputs(case)]
    for got, want in zip(run(kernel, case, made), expected(case, made), strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.double(), want, rtol=3e-2, atol=3e-2 * max(1.0, want.abs().max().item()))


def test_the_cases_see_what_they_are_about() -> None:
    """Each option changes the result: a kernel that ignored it would fail above."""
    for name, case in CASES.items():
        if name in ("causal", "one token", "window beyond", "grouped", "last of the keys"):
            continue
        plain = {key: case[key] for key in ("length", "keys", "groups", "positions_q", "positions_k") if key in case}
        made = [t.float() for t in inputs(case)]
        assert (run("math", case, made)[0] - run("math", plain, made[:3])[0]).abs().max() > 1e-2, name


@pytest.mark.parametrize("name", ["causal", "window", "documents", "alibi", "softcap, alibi, window", "bias"])
def test_one_graph(name: str) -> None:
    case = CASES[name]
    made = [t.float() for t in inputs(case)]
    for kernel in ("math", "sdpa"):
        if can(kernel, request(case)):
            torch.compiler.reset()
            compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
            bias = made[3] if case.get("bias") else None
            got = compiled(*made[:3], kernel=kernel, scale=0.4, bias_HTS=bias, **options(case))
            torch.testing.assert_close(got, run(kernel, case, made)[0])


def test_masks_made_in_evaluation_serve_training() -> None:
    made = [torch.randn(1, 2, 7, 4) for _ in range(3)]
    with torch.inference_mode():
        attention(*made, kernel="math", scale=1.0, slopes_H=torch.ones(2), documents_q=torch.zeros(1, 7))
    made[0].requires_grad_()
    for kernel in ("math", "sdpa"):
        attention(*made, kernel=kernel, scale=1.0).sum().backward()
    assert made[0].grad is not None


def test_dropout() -> None:
    """Weights are dropped by key: row by row, the same in any micro-batch, inverted, off without keys."""
    made = [torch.randn(3, HEADS, 6, HEAD_DIM) for _ in range(3)]
    keys = torch.tensor([5, 6, 7])

    def drop(rows: slice, keys_B: Tensor | None, salt: int = 2) -> Tensor:
        cut = [t[rows] for t in made]
        return attention(*cut, kernel="math", scale=0.5, dropout=0.4, keys_B=keys_B, salt=salt)

    whole = drop(slice(None), keys)
    torch.testing.assert_close(whole[1:], drop(slice(1, None), keys[1:]))
    assert (whole - drop(slice(None), keys, salt=3)).abs().max() > 0.1
    plain = attention(*made, kernel="math", scale=0.5)
    torch.testing.assert_close(drop(slice(None), None), plain)
    weights = (0.5 * made[0] @ made[1].mT).masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf).softmax(-1)
    kept = weights.masked_fill(dropped(keys, 2, (HEADS, 6, 6), 0.4), 0.0) / 0.6
    torch.testing.assert_close(whole, kept @ made[2])


class TestMemo:
    def test_keeps_by_identity_and_version(self) -> None:
        memo, built = Memo(2), []
        a, b = torch.zeros(2), torch.zeros(2)

        def get(tensor: Tensor) -> Tensor:
            return memo("key", (tensor,), lambda: built.append(1) or tensor + 1)

        assert get(a) is get(a)
        assert get(b) is not get(a)
        assert len(built) == 2
        a.add_(1)
        assert get(a).tolist() == [2, 2]

    def test_forgets_the_oldest(self) -> None:
        memo = Memo(2)
        first = memo(1, (), lambda: torch.zeros(1))
        memo(2, (), lambda: torch.zeros(1))
        memo(3, (), lambda: torch.zeros(1))
        assert memo(1, (), lambda: torch.ones(1)) is not first

    def test_keeps_no_fake_tensor(self) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        memo = Memo()
        with FakeTensorMode():
            memo("key", (), lambda: torch.zeros(1))
        assert type(memo("key", (), lambda: torch.zeros(1))) is Tensor

    def test_changed_documents_change_the_mask(self) -> None:
        documents = torch.tensor([[0, 0, 1]])
        view = KeyView(documents_q=documents, documents_k=documents)
        before = visible(3, 3, torch.device("cpu"), view).sum()
        documents[0, 2] = 0
        assert visible(3, 3, torch.device("cpu"), view).sum() == before + 2


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kernel", ["math", "sdpa", "flash_attn", "flex"])
@pytest.mark.parametrize("name", CASES)
def test_cuda_kernels(name: str, kernel: str, dtype: str) -> None:
    case, head_dim = CASES[name], 32
    asked = request(case, "cuda", dtype, head_dim)
    if not can(kernel, asked):
        pytest.skip(f"{kernel}: {available()[kernel] or 'refuses this case'}")
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    made = [t.to(kind) for t in inputs(case, "cuda", head_dim)]
    for got, want in zip(run(kernel, case, made), expected(case, made), strict=True):
        bound = (1e-4 if dtype == "fp32" else 3e-2) * max(1.0, want.abs().max().item())
        torch.testing.assert_close(got.cpu().double(), want, rtol=3e-2 if dtype == "bf16" else 1e-4, atol=bound)
