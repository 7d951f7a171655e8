"""Conversations: the template, the mask by hand, whole conversations in rows, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch

from gpt_lab.data.chat_template import JINJA, ChatTemplate
from gpt_lab.data.conversations import chat, dialogues
from gpt_lab.data.dataset import open_dataset
from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.errors import LabError
from tests.helpers import tiny_config

TALK = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": "<|endoftext|>User: 1+1?"},
    {"role": "assistant", "content": " 2"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "so"},
]
BY_HAND = [
    ("System: Be brief.¶User: <|endoftext|>User: 1+1?¶Assistant:", False),
    (" 2¶", True),
    ("User: why?¶Assistant:", False),
    (" so¶", True),
]
"""What TALK becomes, ¶ for the one token that ends a turn, and whether it is a target."""
TEXT = "".join(text for text, _ in BY_HAND)


def file(folder: Path, *lines: Any) -> str:
    path = folder / "talk.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return str(path)


def test_the_mask_is_what_the_assistant_says() -> None:
    template = ChatTemplate(Byte())
    ids, learnt = template.with_answers(TALK)
    shown = "".join("¶" if i == template.stop else chr(i) for i in ids)
    assert shown == TEXT
    assert learnt == [own for text, own in BY_HAND for _ in text]


def test_transformers_renders_the_same() -> None:
    template = ChatTemplate(Byte())
    rendered = jinja2.Template(JINJA).render(messages=TALK, eos_token="¶", add_generation_prompt=True)
    ids = template.render(TALK, add_generation_prompt=True)
    assert rendered == TEXT + "Assistant:" == "".join("¶" if i == template.stop else chr(i) for i in ids)
    assert template.answer([*b" yes ", template.stop, *b"no"]) == "yes"


def test_rows_hold_whole_conversations_and_each_target_once(tmp_path: Path) -> None:
    talks = [
        [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"{i}" * (1 + i % 3)}]
        for i in range(40)
    ]
    path = file(tmp_path, *({"messages": one} for one in talks))
    settings = {"data": {"name": "chat", "path": path}, "scale.context": 64, "batch.tokens": 256}
    dataset = open_dataset(tiny_config(**settings))
    template = ChatTemplate(Byte())
    wanted = sorted(tuple(template.with_answers(one).ids) for one in talks)
    rows = len(dataset._train_rows.tokens)  # type: ignore[attr-defined]
    found, answers = [], 0
    batches = [dataset.batch(step) for step in range(rows)]  # 4 rows each: four epochs
    for tokens, targets, _ in (batches[i] for i in range(rows)):
        for row, aims in zip(tokens.numpy(), targets.numpy(), strict=True):
            counted = aims != -100
            assert (row[1:][counted[:-1]] == aims[:-1][counted[:-1]]).all(), "a target is the next token"
            answers += int(counted.sum())
            text = "".join("¶" if i == template.stop else chr(i) for i in row.tolist())
            for talk in text.split("User: ")[1:]:
                ids = [*b"User: ", *(template.stop if c == "¶" else ord(c) for c in talk)]
                found.append(tuple(next(one for one in wanted if list(one) == ids[: len(one)])))
    held = {one for batch in dataset.validation(8) for one in _talks(batch.tokens_BT, template, wanted)}
    assert set(found) | held == set(wanted) and not set(found) & held
    assert answers == 4 * dataset.train_tokens
    one = dataset.batch(3)
    part = dataset.batch(3, slice(1, 3))
    assert torch.equal(one.tokens_BT[1:3], part.tokens_BT)
    assert np.isclose(dataset.bytes_per_token or 0, dataset.val_bytes / (dataset.val_tokens - 1))


def _talks(tokens_BT: torch.Tensor, template: ChatTemplate, wanted: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    rows = [row.tolist() for row in tokens_BT]
    return {one for one in wanted for row in rows for i in range(len(row)) if row[i : i + len(one)] == list(one)}


def test_the_labs_own_is_always_the_same_and_right() -> None:
    talks = dialogues.conversations("all")
    assert talks == dialogues.conversations("all") and len(talks) > 1000
    assert {len(one) for one in talks} == {2, 4}
    for question, answer in dialogues.conversations("arithmetic"):
        a, sign, b = question["content"].removeprefix("What is ").removesuffix("?").split()
        assert int(answer["content"]) == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]


@pytest.mark.parametrize(
    ("lines", "settings", "said"),
    [
        ([{"text": "x"}], {}, "line 1: messages must be a list"),
        ([{"messages": [{"role": "bot", "content": "x"}]}], {}, "unknown role 'bot'"),
        ([{"messages": TALK}] * 9, {}, "leaves"),
        ([{"messages": TALK}] * 9, {"tokenizer": {"name": "byte", "eot": False}}, "leaves|end of text"),
        ([{"messages": TALK}], {"batch.document_mask": True}, "leaves"),
        ([{"messages": TALK}], {"data.topic": "plays"}, "leave one of them out"),
    ],
)
def test_what_cannot_be_learnt_from_is_one_line(
    lines: list[Any], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(LabError, match=said):
        open_dataset(tiny_config(**{"data": {"name": "chat", "path": file(tmp_path, *lines)}, **settings}))


def test_rows_and_tokenizers_that_do_not_fit_are_refused() -> None:
    for settings, said in (
        ({"scale.context": 16}, "fits into scale.context=16"),
        ({"tokenizer": {"name": "byte", "eot": False}}, "need a tokenizer with an end of text"),
        ({"batch.document_mask": True}, "use data.packed=false"),
        ({"eval.contexts": [1, 2]}, r"leave it at \[1\]"),
        ({"batch.packing": "best_fit"}, "whole conversations"),
    ):
        with pytest.raises(LabError, match=said):
            open_dataset(tiny_config(**{"data": "chat", "scale.context": 128, **settings}))


def test_what_is_held_out_stands_nowhere_in_training() -> None:
    """Not even as one of the turns of another conversation."""
    sides = chat.hold_out(dialogues.conversations("all"), 0.1)

    def turns(side: list[list[dict[str, str]]]) -> set[tuple[str, str]]:
        return {
            (one["content"], other["content"])
            for talk in side
            for one, other in zip(talk[::2], talk[1::2], strict=True)
        }

    assert any(len(one) > 2 for one in sides.val) and len(turns(sides.val)) > 100
    assert not turns(sides.train) & turns(sides.val)
