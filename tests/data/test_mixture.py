"""Mixtures: exact shares, each corpus in its own order, one tokenizer, a fingerprint of everything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt_lab.config import composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import MixtureDataset, open_dataset
from gpt_lab.data.mixture import SHARE, Mixed
from gpt_lab.data.packing import BestFit, Windows
from gpt_lab.errors import ConfigError, DataError
from tests.data.test_packing import toy

Make = Callable[..., RunConfig]


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    """Two corpora whose characters tell them apart, three to one."""
    found = {}
    for name, letter in (("upper", "A"), ("lower", "a")):
        path = tmp_path / f"{name}.jsonl"
        rows = ({"text": "".join(chr(ord(letter) + (i + j) % 26) for j in range(40 + i % 60))} for i in range(300))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        found[name] = {"name": "jsonl", "path": str(path), "weight": {"upper": 3, "lower": 1}[name]}
    return found


@pytest.mark.parametrize("weights", [[0.75, 0.25], [0.5, 0.3, 0.2], [1 / 3, 1 / 3, 1 / 3], [0.998, 0.002]])
def test_shares_are_exact_and_corpora_in_their_own_order(weights: list[float]) -> None:
    """Of each 1,024 rows each corpus has its weight's, to the row, and its rows follow one another without a gap."""

    def parts() -> list[Windows | BestFit]:
        return [(Windows if i % 2 else BestFit)(toy(), 4 + 0 * i, seed=i) for i in range(len(weights))]

    mixed = Mixed(parts(), weights, seed=5)
    inputs, targets = mixed.take(0, 2 * SHARE)
    chosen = np.concatenate([mixed._block(block) for block in range(2)])
    ends = np.round(np.cumsum(weights) * SHARE)
    for block in range(2):
        counts = np.bincount(chosen[block * SHARE : (block + 1) * SHARE], minlength=len(weights))
        assert np.abs(counts - np.array(weights) * SHARE).max() < 1
        assert np.cumsum(counts).tolist() == ends.tolist()
    for i, own in enumerate(parts()):
        alone = own.take(0, int((chosen == i).sum()))
        assert (inputs[chosen == i] == alone[0]).all() and (targets[chosen == i] == alone[1]).all()
    fresh = Mixed(parts(), weights, seed=5)
    for first, number in [(SHARE - 3, 7), (0, 1), (17, SHARE), (3, 2)]:
        assert (fresh.take(first, number)[0] == inputs[first : first + number]).all()
    assert not (Mixed(parts(), weights, seed=6).take(0, SHARE)[0] == inputs[:SHARE]).all()


@pytest.mark.parametrize("packing", ["stream", "best_fit", "bos_aligned"])
def test_batches(packing: str, config: Make, sources: dict[str, Any]) -> None:
    cfg = config(
        data={"name": "mix", "sources": sources},
        **{"batch.packing": packing, "batch.document_mask": True, "batch.curriculum": 0.4, "budget.steps": 60},
    )
    dataset = open_dataset(cfg)
    assert isinstance(dataset, MixtureDataset)
    batches = [dataset.batch(step) for step in range(60)]
    fresh = open_dataset(cfg)
    for step in (59, 3, 24):
        assert torch.equal(fresh.batch(step).tokens_BT, batches[step].tokens_BT)
        parts = [fresh.batch(step, slice(row, row + 1)) for row in range(len(batches[step].tokens_BT))]
        assert torch.equal(torch.cat([part.targets_BT for part in parts]), batches[step].targets_BT)
    assert batches[59].documents_BT is not None
    tokens = torch.cat([batch.tokens_BT.flatten() for batch in batches[24:]])
    assert float((tokens < 91).float().mean()) == pytest.approx(0.75, abs=0.08)
    assert dataset.vocab_size == 257
    assert (dataset.packed is None) == (packing == "stream")


def test_validation_is_each_corpus_once(config: Make, sources: dict[str, Any]) -> None:
    dataset = open_dataset(config(data={"name": "mix", "sources": sources}))
    assert list(dataset.parts) == ["upper", "lower"] and dict(dataset.weights) == {"upper": 0.75, "lower": 0.25}
    alone = {
        name: open_dataset(config(data={k: v for k, v in own.items() if k != "weight"}))
        for name, own in sources.items()
    }
    for name, part in dataset.parts.items():
        assert part.fingerprint == alone[name].fingerprint, "the same shards as without the others"
        mine, theirs = (torch.cat([b.targets_BT for b in one.validation(4)]) for one in (part, alone[name]))
        assert torch.equal(mine, theirs)
    both = sum(int((batch.targets_BT != -100).sum()) for batch in dataset.validation(4))
    assert both == dataset.val_tokens - 1 == sum(one.val_tokens - 1 for one in alone.values())
    limited = sum(batch.tokens_BT.numel() for batch in dataset.validation(1, limit=400))
    assert limited == 304 + 96, "by weight, in whole sequences"
    floors = {name: one.floors() for name, one in alone.items()}
    for kind, value in dataset.floors().items():
        assert value == pytest.approx(0.75 * floors["upper"][kind] + 0.25 * floors["lower"][kind])


def test_one_tokenizer_is_fitted_on_all_by_weight(config: Make, sources: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = {"name": "bpe", "vocab_size": 300, "fit_chars": 4000}
    dataset = open_dataset(config(data={"name": "mix", "sources": sources}, tokenizer=tokenizer))
    assert dataset.tokenizer is not None
    learnt = [dataset.tokenizer.decode([i]) for i in range(256, 299)]
    assert any(one.isupper() for one in learnt) and any(one.islower() for one in learnt)
    assert len({part.vocab_size for part in dataset.parts.values()}) == 1
    texts = [part.tokenizer.decode([299]) for part in dataset.parts.values() if part.tokenizer is not None]
    assert texts == ["<|endoftext|>"] * 2
    folders = {path.name for path in (tmp_path / "cache").glob("*") if path.is_dir()}
    assert len(folders) == 3, "the tokenizer, and the tokens of each"
    again = open_dataset(config(data={"name": "mix", "sources": sources}, tokenizer=tokenizer))
    assert (again.fingerprint, again.warnings) == (dataset.fingerprint, dataset.warnings)


def test_the_fingerprint_is_of_everything(config: Make, sources: dict[str, Any]) -> None:
    def name(**changed: Any) -> str:
        own = {key: {**value, **changed.get(key, {})} for key, value in sources.items()}
        return open_dataset(config(data={"name": "mix", "sources": own})).fingerprint

    found = [name(), name(upper={"weight": 2}), name(lower={"val_fraction": 0.2})]
    assert len(set(found)) == 3
    assert name(upper={"weight": 6}, lower={"weight": 2}) == found[0], "weights are relative"
    path = Path(sources["lower"]["path"])
    path.write_text(path.read_text(encoding="utf-8") + '{"text": "more"}\n', encoding="utf-8")
    assert name() not in found


def test_on_the_command_line(tmp_path: Path) -> None:
    words = ["data=mix", "data.sources.plays.name=shakespeare", "data.sources.plays.weight=3"]
    cfg = composition.compose([*words, "data.sources.code.name=stdlib", "data.sources.code.val_fraction=0.2"])
    assert cfg.data["sources"]["plays"] == {"name": "shakespeare", "weight": 3.0, "val_fraction": 0.1}
    assert cfg.data["sources"]["code"] == {"name": "stdlib", "weight": 1.0, "val_fraction": 0.2}
    assert cfg.flat()["data.sources.plays.weight"] == 3.0
    whole = composition.compose(
        ["data=mix", "data.sources={plays: {name: shakespeare, weight: 3}, code: {name: stdlib}}"]
    )
    assert whole.data["sources"]["plays"] == cfg.data["sources"]["plays"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["data=mix"], "data=mix needs data.sources=... .a mapping of names"),
        (["data=mix", "data.sources.a.name=shakespear"], "unknown data 'shakespear'; did you mean 'shakespeare'"),
        (["data=mix", "data.sources.a.name=stdlib", "data.sources.a.weight=0"], "a.weight must be a number > 0"),
        (["data=mix", "data.sources.a.name=stdlib", "data.sources.a.path=x"], "data=stdlib has no option 'path'"),
        (["data=mix", "data.sources.a.name=mix"], "a source cannot have sources of its own"),
        (["data=mix", "data.sources.a-b.name=stdlib"], "data.sources must be a mapping of names"),
        (["data=mix", "data.sources.a.name=stdlib", "batch.packing=bucketed"], "data=mix needs rows of one length"),
    ],
)
def test_what_is_no_mixture_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        composition.compose(words)


def test_what_cannot_be_mixed(config: Make, sources: dict[str, Any]) -> None:
    small = {**sources, "lower": {**sources["lower"], "weight": 0.001}}
    with pytest.raises(ConfigError, match="data.sources.lower.weight is less than one row in 1024 of the mixture"):
        open_dataset(config(data={"name": "mix", "sources": small}))
    with pytest.raises(ConfigError, match="data.sources.task.name=synthetic is no text"):
        open_dataset(config(data={"name": "mix", "sources": {"task": {"name": "synthetic"}}}))
    with pytest.raises(DataError, match="data.sources.upper: the training text has .* scale.context=99999 needs"):
        open_dataset(config(data={"name": "mix", "sources": sources}, **{"scale.context": 99999}))
