"""A draft changes the time that a text takes, and nothing else."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.errors import ConfigError
from gpt_lab.infer import speculative
from gpt_lab.infer.generate import Request, Usage, complete, gathered
from gpt_lab.infer.sampling import Sampling
from gpt_lab.infer.speculative import generate_with_draft
from gpt_lab.model.gpt import GPT
from tests.helpers import tiny_config
from tests.parts.decoding import model

OPTIONS: dict[str, dict[str, Any]] = {"sliding": {"attention.window": 5, "attention.pattern": "SL"}}
CASES = [{"attention": name, **OPTIONS.get(name, {})} for name in registry.index()["attention"]]
CASES += [{"position": "learned"}, {"residual": "block_recurrent"}, {"residual": "zamba2"}]


def disturbed(made: GPT, share: float) -> GPT:
    """A draft that agrees with a model often, and not always."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(share * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: "-".join(map(str, CASES[number].values())))
def test_the_likeliest_text_is_the_same(number: int) -> None:
    """Every kind of state is taken back; beyond the training context too, across a window, and from the first token."""
    settings, usage = CASES[number], Usage()
    made, draft = model(**settings), disturbed(model(**settings), 0.04)
    if settings.get("attention") != "rwkv7":  # whose norm is of fp32
        made, draft = made.double(), draft.double()
    prompt = [3] if number % 2 else [5, 7, 11, 2, 9, 1, 4]
    plain = complete(made, prompt, max_tokens=20, temperature=0.0, repetition_penalty=1.5)
    options = {"temperature": 0.0, "repetition_penalty": 1.5}
    assert gathered(generate_with_draft(made, draft, prompt, max_tokens=20, usage=usage, **options), 1) == plain
    assert 0 < usage.accepted < usage.drafted


class Known(torch.nn.Module):
    """Stands for a model whose logits after a token are a row of a table."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.table = 1.5 * torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class KnownReader:
    def __init__(self, known: Known) -> None:
        self.known, self.cache = known, self

    def read(self, text: list[int], last: int) -> Tensor:
        return self.known.table[text[-last:]]

    def mark(self) -> None: ...

    def back(self, seen: int) -> None: ...


class Tree:
    """All that may come of a computation with random decisions: runs it once for each path, and multiplies chances."""

    def __init__(self) -> None:
        self.todo: list[list[int]] = [[]]

    def start(self) -> None:
        self.path, self.chance, self.taken = self.todo.pop(), 1.0, 0

    def branch(self, shares: list[float]) -> int:
        if self.taken == len(self.path):
            first, *others = [place for place, share in enumerate(shares) if share > 0]
            self.todo.extend([*self.path, other] for other in others)
            self.path.append(first)
        self.taken += 1
        self.chance *= shares[self.path[self.taken - 1]]
        return self.path[self.taken - 1]


def test_draws_are_distributed_as_the_model_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 27 texts of 3 tokens out of 3: the probability of each, summed over all that draft and rejection may do."""
    target, draft, sampling, tree = Known(0), Known(1), Sampling(0.8, top_p=0.95), Tree()
    monkeypatch.setattr(speculative, "Reader", KnownReader)
    monkeypatch.setattr(speculative, "context_limit", lambda known: None)
    monkeypatch.setattr(speculative._Sample, "_draw", lambda sample, p_V: tree.branch((p_V / p_V.sum()).tolist()))
    monkeypatch.setattr(
        speculative._Sample, "_keeps", lambda sample, p, q: tree.branch([min(1.0, p / q), 1 - min(1.0, p / q)]) == 0
    )
    found: dict[tuple[int, ...], float] = {}
    while tree.todo:
        tree.start()
        sample: Any = speculative._Sample(target, draft, [2], Request(3, sampling), 2, 0, Usage())  # type: ignore[arg-type]
        text = tuple(sample.tokens())
        found[text] = found.get(text, 0.0) + tree.chance
    assert sum(found.values()) == pytest.approx(1)
    for text in itertools.product(range(3), repeat=3):
        steps = itertools.pairwise((2, *text))
        exact = [sampling.distribution(target.table[[before]])[0, token].item() for before, token in steps]
        assert found.get(text, 0.0) == pytest.approx(math.prod(exact), abs=1e-12)


def test_real_draws_of_the_same_model_are_all_kept() -> None:
    made, usage = model().double(), Usage()
    steps = generate_with_draft(made, made, [4, 2], max_tokens=15, samples=2, top_k=9, usage=usage)
    texts = gathered(steps, 2)
    assert [len(ids) for ids in texts] == [15, 15] and texts[0] != texts[1]
    assert usage.accepted == usage.drafted == 24


@pytest.mark.parametrize("settings", [{}, {"position": "learned"}], ids=["rope", "learned"])
def test_no_more_logits_than_are_needed(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Over pieces of a prompt, and beyond a context that cannot be passed."""
    monkeypatch.setattr(speculative, "PREFILL", 6)
    made, draft = model(**settings).double(), disturbed(model(**settings), 0.04).double()
    seen: list[int] = []
    for one in (made, draft):
        logits = one.logits
        monkeypatch.setattr(one, "logits", lambda x, logits=logits: seen.append(x.shape[1]) or logits(x))
    prompt = list(range(1, 21))
    steps = generate_with_draft(made, draft, prompt, max_tokens=12, temperature=0.0, block=3)
    assert gathered(steps, 1) == complete(made, prompt, max_tokens=12, temperature=0.0)
    assert max(seen) == (1 if settings else 4)


def test_what_cannot_draft_is_refused() -> None:
    made = model()
    with pytest.raises(ConfigError, match="vocabulary of 40, this one of 61"):
        generate_with_draft(made, GPT(tiny_config(), 40), [1], max_tokens=1)
    with pytest.raises(ConfigError, match="block 1 to"):
        generate_with_draft(made, made, [1], max_tokens=1, block=0)
