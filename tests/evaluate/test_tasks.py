"""Tasks against answers by hand, models that know them, and the loss that training measures."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt_lab.data.dataset import open_dataset
from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.evaluate import items_file, made_texts, recall_probes, task_names, task_runs, text_bits
from gpt_lab.evaluate.likelihood import log_likelihoods, pair
from gpt_lab.evaluate.subject import Subject
from gpt_lab.evaluate.subject import of_run as run_subject
from gpt_lab.evaluate.task import Asked, Item, score_items
from tests.infer.conftest import MakeRun

CHOICES = [{"query": f"Number {i} is", "choices": ["odd", "even", "both"], "gold": i % 3} for i in range(9)]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_multiple_choice_by_hand(subject: Subject, tmp_path: Path) -> None:
    result = items_file.FileQuestions(lines(tmp_path / "a.jsonl", CHOICES)).measure(subject, Asked())
    assert subject.tokenizer is not None
    right, right_sum = [], []
    for row in CHOICES:
        pairs = [pair(subject.tokenizer, row["query"], f" {choice}") for choice in row["choices"]]
        found = log_likelihoods(subject.model, pairs, 48)
        means = [sum(one.log_probs) / len(one.log_probs) for one in found]
        right.append(np.argmax(means) == row["gold"])
        right_sum.append(np.argmax([one.total for one in found]) == row["gold"])
    p = float(np.mean(right))
    assert result.score == p and result.values["accuracy_sum"] == np.mean(right_sum)
    assert result.values["centred"] == pytest.approx((p - 1 / 3) / (2 / 3))
    assert result.stderr == pytest.approx(math.sqrt(p * (1 - p) / 8))


def test_examples_stand_before_the_item_and_are_never_it(subject: Subject, tmp_path: Path) -> None:
    task = items_file.FileQuestions(lines(tmp_path / "a.jsonl", CHOICES))
    items = task.items(subject, Asked(shots=8, seed=1))
    for row, item in zip(CHOICES, items, strict=True):
        *before, own = item.contexts[0].split("\n\n")
        others = [f"{o['query']} {o['choices'][o['gold']]}" for o in CHOICES if o is not row]
        assert own == row["query"] and sorted(before) == sorted(others)
    assert items == task.items(subject, Asked(shots=8, seed=1)) != task.items(subject, Asked(shots=8, seed=2))
    with pytest.raises(ConfigError, match="shots=9: .* has 9 lines"):
        task.items(subject, Asked(shots=9))


def test_examples_without_a_file(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", CHOICES)
    (tmp_path / "b.txt").write_text("a text")
    with pytest.raises(ConfigError, match="shots=1: examples are of files of items .*, and mqar, b_bpb cannot have"):
        task_runs.prepared([task_names.find(str(one)) for one in (path, "mqar", tmp_path / "b.txt")], Asked(shots=1))


def test_schema_and_language_modeling(tmp_path: Path) -> None:
    schema = {"context_options": ["He, the man,", "He, the dog,"], "continuation": "barked.", "gold": 1}
    cloze = {"context": "one two", "continuation": "three", "delimiter": "\n"}
    assert items_file.read(lines(tmp_path / "a.jsonl", [schema]))[0].example == "He, the dog, barked."
    line = items_file.read(lines(tmp_path / "b.jsonl", [cloze]))[0]
    assert line.example == "one two\nthree"
    item = Item(schema["context_options"], [" barked."], 1)  # type: ignore[arg-type]
    assert item.texts == [("He, the man,", " barked."), ("He, the dog,", " barked.")]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "line 2: not valid JSON"),
        ("[]", "an object is expected"),
        ('{"query": "a"}', "its keys are query, and must be"),
        ('{"query": "a", "choices": ["b", "c"], "gold": 2}', "numbered 0 to 1"),
        ('{"query": "a", "choices": ["b", ""], "gold": 1}', "choices must be a list of texts"),
        ('{"query": "a", "choices": ["b"], "gold": 0}', "no choice"),
        ('{"context": "a", "continuation": ""}', "continuation must be a text"),
        ('{"context": "a", "continuation": "b", "delimeter": ""}', "did you mean 'delimiter'"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"context": "a", "continuation": "b"}}\n{line}\n')
    with pytest.raises(DataError, match=what):
        items_file.read(path)


def test_needles_fit_and_lie_at_their_depth(subject: Subject) -> None:
    wide = subject._replace(context=240)
    items = list(made_texts.Needle().items(wide, Asked(items=40)))
    assert items == list(made_texts.Needle().items(wide, Asked(items=40)))
    assert len({item.contexts[0] for item in items}) == 40
    places: dict[int, dict[str, int]] = {}
    for item in items:
        text, word = item.contexts[0], item.continuations[item.gold]
        assert 240 - 40 < len(text + max(item.continuations, key=len)) <= 240
        sentences = text.split(".")[:-1]
        before = next(number for number, one in enumerate(sentences) if one.endswith(word))
        assert text.count(word) == 1 and len(sentences) >= 5
        places.setdefault(len(sentences), {})[item.of["depth"]] = before
    for number, found in places.items():
        assert found["0"] == 0 and found["1"] == number - 1
        assert len(set(found.values())) == 5 and sorted(found.values()) == [found[one] for one in sorted(found)]
    with pytest.raises(ConfigError, match="needle needs a context of .* for 5 depths, and this one has 200"):
        made_texts.Needle().check(subject._replace(context=200), Asked())


def test_cloze_asks_for_a_name_that_was_there(subject: Subject) -> None:
    for item in made_texts.Cloze().items(subject, Asked(items=5)):
        assert item.continuations[0] in f" {item.contexts[0]}" and not item.contexts[0].endswith(item.continuations[0])
    result = score_items(subject, list(made_texts.Cloze().items(subject, Asked(items=3))))
    assert result.score in (0, 1 / 3, 2 / 3, 1) and result.values["nats_per_answer"] > 0


class Looks(torch.nn.Module):
    """Predicts what stood behind the last earlier place of the same token: induction itself."""

    vocab_size = 256

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*tokens_BT.shape, self.vocab_size)
        for b, row in enumerate(tokens_BT.tolist()):
            behind: dict[int, int] = {}
            for t, token in enumerate(row):
                if t:
                    behind[row[t - 1]] = token
                if token in behind:
                    logits[b, t, behind[token]] = 20.0
        return logits


@pytest.mark.parametrize("probe", [recall_probes.MultiQueryRecall, recall_probes.Induction])
def test_probes_are_solved_by_what_they_probe(subject: Subject, probe: type[Any]) -> None:
    blind = probe().measure(subject, Asked(items=20))
    assert blind.score < 0.2
    sees = probe().measure(subject._replace(model=Looks()), Asked(items=20))  # type: ignore[arg-type]
    assert sees.score > 0.85, "but where a token of the noise or of the first time recurs by chance"
    if probe is recall_probes.Induction:
        assert sees.values["gain"] > 3 > abs(blind.values["gain"])


@pytest.mark.parametrize(
    ("probe", "task"), [(recall_probes.MultiQueryRecall, "mqar"), (recall_probes.Induction, "induction")]
)
def test_a_model_of_the_task_is_asked_in_its_own_symbols(subject: Subject, probe: type[Any], task: str) -> None:
    data = {"name": "synthetic", "task": task, "symbols": 40, "items": 3, "val_sequences": 8}
    own = subject._replace(cfg=dataclasses.replace(subject.cfg, data=data), model=Looks())  # type: ignore[arg-type]
    result = probe().measure(own, Asked(items=30))
    assert result.score > 0.85 and result.items == 30
    assert result.values.keys() == ({"nats_per_answer", "pairs"} if task == "mqar" else {"nats_per_answer"})


def test_bits_of_a_text(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("Wer reitet so spät durch Nacht und Wind? " * 7, encoding="utf-8")
    found = text_bits.FileBits(path).measure(subject, Asked())
    ids = torch.tensor(list(path.read_bytes()))
    nats = 0.0
    for first in range(0, len(ids) - 1, 48):
        window = ids[first : first + 49]
        nats += torch.nn.functional.cross_entropy(subject.model(window[None, :-1])[0], window[1:]).item() * (
            len(window) - 1
        )
    assert found.score == pytest.approx(nats / math.log(2) / (len(ids) - 1), rel=1e-5)
    assert found.values["ppl"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-5)
    assert {"bpb_at_1-1", "bpb_at_33-48", "bpb_context_12"} <= found.values.keys()


def test_bits_by_position_and_context_by_hand(subject: Subject, tmp_path: Path) -> None:
    """A context that its parts do not divide: the last target of each window counts too."""
    path = tmp_path / "own.txt"
    path.write_text("Wer reitet so spaet durch Nacht und Wind? " * 4)
    ids = torch.tensor(list(path.read_bytes()))

    def nats(first: int, last: int) -> list[float]:
        logits = subject.model(ids[None, first:last])[0]
        return torch.nn.functional.cross_entropy(logits, ids[first + 1 : last + 1], reduction="none").tolist()

    by_before: dict[int, list[float]] = {}
    short: list[float] = []
    for first in range(0, len(ids) - 1, 47):
        end = min(first + 47, len(ids) - 1)
        for before, one in enumerate(nats(first, end), 1):
            by_before.setdefault(before, []).append(one)
        short += [one for begin in range(first, end, 11) for one in nats(begin, min(begin + 11, end))]
    found = text_bits.FileBits(path).measure(subject._replace(context=47), Asked()).values
    for low, high in ((1, 1), (2, 2), (3, 4), (5, 8), (33, 47)):
        expected = np.mean([one for before in range(low, high + 1) for one in by_before[before]]) / math.log(2)
        assert found[f"bpb_at_{low}-{high}"] == pytest.approx(expected, rel=1e-5)
    assert len(short) == len(ids) - 1
    assert found["bpb_context_11"] == pytest.approx(np.mean(short) / math.log(2), rel=1e-5)


def test_other_data_than_the_run_s_are_refused(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path / "cache"))
    corpus = tmp_path / "words.txt"
    corpus.write_text("to be or not to be " * 100)
    data = {"name": "text", "path": str(corpus)}
    run = make_run("one", data=data, tokenizer=Byte(), **{"scale.context": 48})
    own = run_subject(run, device="cpu")
    run.update(resolved={"data": open_dataset(own.cfg).fingerprint})
    task = text_bits.ValidationBits()
    assert task.measure(own, Asked(items=2)).items == 2
    corpus.write_text("that is the question " * 100)
    with pytest.raises(DataError, match=r"no longer what .* was trained on .* tasks=FILE.txt"):
        task.measure(own, Asked(items=2))


OWN = '''
from gpt_lab.evaluate.task import Item, Questions, task


@task("capitals")
class Capitals(Questions):
    """Capitals of countries."""

    def items(self, subject, asked):
        return [Item(["The capital of Peru is"], [" Lima", " Rome"], 0)]
'''


def test_a_task_of_ones_own_is_one_file(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT_LAB_PARTS", str(tmp_path))
    (tmp_path / "my_task.py").write_text(OWN)
    task_names.known.cache_clear()
    try:
        name = task_names.find("capitals")
        found = task_runs.measure(subject, [name], Asked(), lambda *told: None)["capitals"]
    finally:
        task_names.known.cache_clear()
    assert found["measured"] == 1 and found["values"]["chance"] == 0.5 and len(found["digest"]) == 64


@pytest.mark.parametrize(
    ("asked", "error", "what"),
    [
        (["nedle"], ConfigError, "did you mean 'needle'"),
        (["no.jsonl"], DataError, "there is no file no.jsonl"),
        (["cloze", "cloze"], ConfigError, "cloze is there twice"),
    ],
)
def test_unknown_tasks(asked: list[str], error: type[LabError], what: str) -> None:
    with pytest.raises(error, match=what):
        task_names.find_all(asked)
