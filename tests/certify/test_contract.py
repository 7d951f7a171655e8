"""Every shipped part keeps the contract, and a part that breaks a clause of it is told which."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt_lab import registry
from gpt_lab.certify.contract import VOCABULARY, contract, same_when_compiled, small
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.attention.softmax import SelfAttention
from gpt_lab.parts.mlp.feed_forward import SwiGLU
from gpt_lab.parts.states import KeyValues

PARTS = [
    (kind, name)
    for kind in ("attention", "position", "norm", "mlp", "residual", "init", "objective")
    for name in registry.index()[kind]
]


def _words(kind: str, name: str) -> list[str]:
    """What chooses a part, and what is refused without another."""
    needed = {
        "init=deepnorm": ["residual=post", "residual.alpha=null"],
        "objective=distill": ["objective.teacher=another"],
    }
    return [f"{kind}={name}", *needed.get(f"{kind}={name}", [])]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_keeps_it(kind: str, name: str) -> None:
    for finding in contract([*_words(kind, name), "compile=off"]):
        assert finding.passed, finding


@pytest.mark.slow
@pytest.mark.compiles
def test_every_part_is_one_graph() -> None:
    """Captured whole, run op by op, parts of several kinds at a time: to generate code for each would take minutes.

    Positions go with the default attention: not every one asks for them. What options change is traced where the part
    is tested.
    """
    kinds = {kind: [_words(kind, name) for other, name in PARTS if other == kind] for kind in dict(PARTS)}
    positions, objectives = kinds.pop("position"), kinds.pop("objective")
    for together in [*itertools.zip_longest(*kinds.values()), *((words,) for words in (*positions, *objectives))]:
        each = [words for words in together if words is not None]
        joined = [word for words in each for word in words]
        fits = _that_fits([["scale.depth=1", *joined], joined])  # some parts are of several layers
        for cfg in [fits] if fits else [small(words) for words in each]:
            torch.compiler.reset()
            found = same_when_compiled(cfg, backend="eager")
            assert found.passed, (each, found)


def test_a_part_that_is_no_graph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: SwiGLU, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x

    monkeypatch.setattr(SwiGLU, "forward", forward)
    torch.compiler.reset()
    found = same_when_compiled(small(["model=llama", "scale.depth=1"]), backend="eager")
    assert not found.passed and "graph_break" in found.note


def _that_fits(choices: list[list[str]]) -> RunConfig | None:
    """The first of these that makes a model."""
    for words in choices:
        try:
            cfg = small(words)
            GPT(cfg, VOCABULARY)
        except ConfigError:
            continue
        return cfg
    return None


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
    failed = {finding.name for finding in contract(["model=llama", "compile=off"]) if not finding.passed}
    assert clause in failed
