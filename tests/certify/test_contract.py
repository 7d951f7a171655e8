"""Every shipped part keeps the contract, and a part that breaks a clause of it is told which."""

from __future__ import annotations

import traceback
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
def test_every_part_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured whole, run op by op, parts of several kinds at a time: to generate code for each would take minutes.

    Attentions are three layers of a model, with little beside them: each operation costs. Positions go with the default
    attention: not every one asks for them. What options change is traced where the part is tested.
    """
    # of each operation torch writes down from where it was called, which takes a tenth of the time
    monkeypatch.setattr(traceback.StackSummary, "format", lambda self, **_: [])
    plain = [pair for pair in PARTS if getattr(registry.load(*pair), "compiles", True)]
    kinds = {kind: [_words(kind, name) for other, name in plain if other == kind] for kind in dict(PARTS)}
    attentions = [words for words in kinds.pop("attention") if words != ["attention=hybrid"]]  # that is all of them
    same = [["attention=rwkv7"], ["attention=value_residual"]]  # mix in values of a first layer of their own kind
    others = [words for words in attentions if words not in same]
    threes = [*(others[first : first + 3] for first in range(0, len(others), 3)), *([words] for words in same)]
    rows = [[f"scale.depth={len(three)}", *_layers(three), "norm=none", "mlp=none"] for three in threes]
    rows += [words for words in kinds["init"] if len(words) > 1]  # of two kinds
    kinds["init"] = [words for words in kinds["init"] if len(words) == 1]
    while any(kinds.values()):
        row: list[str] = []
        for left in kinds.values():
            if words := next((words for words in left if _that_fits(row + words)), None):
                row += words
                left.remove(words)
        assert row, kinds
        rows.append(row)
    assert len(rows) < len(PARTS) / 2, "most go together"
    for row in rows:
        cfg = _that_fits(row)
        assert cfg is not None, row
        torch.compiler.reset()
        found = same_when_compiled(cfg, backend="eager")
        assert found.passed, (row, found)


def _layers(part: list[list[str]]) -> list[str]:
    """What chooses one part, or several attentions as layers of one model."""
    if len(part) == 1:
        return part[0]
    names = [words[0].partition("=")[2] for words in part]
    letters = [f"attention.letters.{letter}.name={name}" for letter, name in zip("ABC", names, strict=False)]
    return ["attention=hybrid", f"attention.pattern={'ABC'[: len(names)]}", *letters]


def test_a_part_that_is_no_graph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: SwiGLU, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x

    monkeypatch.setattr(SwiGLU, "forward", forward)
    torch.compiler.reset()
    found = same_when_compiled(small(["model=llama", "scale.depth=1"]), backend="eager")
    assert not found.passed and "graph_break" in found.note


def _that_fits(words: list[str]) -> RunConfig | None:
    """The smallest model of these, if there is one: some parts are of several layers."""
    for least in (["scale.depth=1"], []):
        try:
            cfg = small([*least, *words])
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
