"""Every shipped part keeps the contract, and a part that breaks a clause of it is told which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt_lab import registry
from gpt_lab.certify.contract import contract, same_when_compiled, small
from gpt_lab.parts.attention.softmax import SelfAttention
from gpt_lab.parts.mlp.feed_forward import SwiGLU
from gpt_lab.parts.states import KeyValues

PARTS = [
    (kind, name)
    for kind in ("attention", "position", "norm", "mlp", "residual", "init")
    for name in registry.index()[kind]
]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_keeps_it(kind: str, name: str) -> None:
    for finding in contract([f"{kind}={name}"], compiled=False):
        assert finding.passed, finding


@pytest.mark.slow
@pytest.mark.compiles
def test_every_part_is_one_graph() -> None:
    """Captured whole, run op by op: to generate code for each would take minutes."""
    for kind, name in PARTS:
        torch.compiler.reset()
        found = same_when_compiled(small([f"{kind}={name}"]), backend="eager")
        assert found.passed, (kind, name, found)


def _forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = KeyValues.update

    def update(self: KeyValues, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, values, places = plain(self, k, v, positions)
        return keys[:, :, -7:], values[:, :, -7:], places[-7:]

    monkeypatch.setattr(KeyValues, "update", update)


def _sees_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SelfAttention.forward
    monkeypatch.setattr(
        SelfAttention, "forward", lambda self, x, flow: plain(self, x, flow._replace(documents_BT=None))
    )


def _sees_its_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SwiGLU.forward
    monkeypatch.setattr(SwiGLU, "forward", lambda self, x: plain(self, x) * (1 + 0.01 * x.shape[1]))


def _has_a_dead_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SwiGLU.__init__

    def init(self: SwiGLU, *args: Any, **options: Any) -> None:
        plain(self, *args, **options)
        self.unused = nn.Parameter(torch.ones(3))

    monkeypatch.setattr(SwiGLU, "__init__", init)


def _learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)


@pytest.mark.parametrize(
    ("plant", "clause"),
    [
        (_forgets, "decoding"),
        (_sees_documents, "documents"),
        (_sees_its_padding, "lengths"),
        (_has_a_dead_parameter, "gradients"),
        (_learns_nothing, "training"),
    ],
)
def test_a_broken_clause_is_named(
    plant: Callable[[pytest.MonkeyPatch], None], clause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    failed = {finding.name for finding in contract(["model=llama"], compiled=False) if not finding.passed}
    assert clause in failed
