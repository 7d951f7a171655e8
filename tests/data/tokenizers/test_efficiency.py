"""The comparison of tokenizers: each number against a count by hand, and the command that shows them."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gpt_lab.cli import tokenizers
from gpt_lab.data.corpora.shakespeare import Shakespeare
from gpt_lab.data.shards import open_shards
from gpt_lab.data.tokenizers.efficiency import measure, renyi_efficiency, token_counts
from gpt_lab.errors import ConfigError
from tests.data.tokenizers.test_lossless import corpus
from tests.docs.pages import block


def test_renyi_efficiency_by_hand() -> None:
    """Zouhar et al. 2023, arXiv:2306.16842."""
    # p = 1/2, 1/4, 1/4 of four tokens: sum p^2.5 = 2^-2.5 + 2 * 2^-5 = 0.176777 + 0.0625; ln = -1.430135
    assert renyi_efficiency(np.array([2, 1, 1, 0]), 4) == pytest.approx(1.430135 / 1.5 / math.log(4), rel=1e-5)
    # the example of the authors' own scorer, whose numbers are those of alpha 3 and of the tokens that occur
    for words, efficiency in (
        ("pick @@ed pick @@l @@ed pick @@les", 0.8031528501359657),
        ("pick @@e @@d pick @@l @@e @@d pick @@l @@e @@s", 0.9105681923824472),
    ):
        counts = np.array(list(Counter(words.split()).values()))
        assert renyi_efficiency(counts, len(counts), alpha=3) == pytest.approx(efficiency, rel=1e-12)
    assert renyi_efficiency(np.array([5, 5, 5]), 3) == pytest.approx(1.0)
    assert renyi_efficiency(np.array([3, 1]), 2, alpha=1) == pytest.approx(2 - 0.75 * math.log2(3))


def test_what_is_measured(tmp_path: Path) -> None:
    source = corpus(tmp_path, ["abab" * 30, "cd" * 20], ["abcd" * 25, "ab" * 10])
    settings = {"name": "byte", "eot": True}
    found = measure(source, settings, cache=tmp_path)
    assert (found.tokenizer, found.corpus, found.vocabulary, found.lossy) == ("byte", "jsonl", 257, "")
    assert found.bytes_per_token == pytest.approx(120 / 122), "two ends of documents are tokens too"
    assert found.unused == pytest.approx(1 - 4 / 256)
    counts = [60, 60, 20, 20]
    p = np.array(counts) / 160
    assert found.renyi == pytest.approx(math.log((p**2.5).sum()) / -1.5 / math.log(257))
    assert found.mb_per_s > 0
    by_token = token_counts(open_shards(source, settings, cache=tmp_path))
    assert by_token[[97, 98, 99, 100]].tolist() == counts and by_token.sum() == 160


def test_the_page_shows_what_is_measured() -> None:
    """The row of the tokenizer that is not fitted, but for its speed."""
    found = measure(Shakespeare(), {"name": "byte", "eot": True})
    told = [str(found.vocabulary), f"{found.bytes_per_token:.3f}", f"{found.renyi:.3f}", f"{found.unused:.1%}"]
    assert next(line.split()[2:6] for line in block("tokenizers").splitlines() if line.startswith("byte  ")) == told


def test_the_command(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    words = ["byte", "bpe", "wordpiece", "tokenizer.vocab_size=300", "data=text", f"data.path={story}"]
    assert tokenizers.run(words) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith("data="))
    assert [line.split()[0] for line in shown.splitlines()[2:5]] == ["byte", "bpe", "wordpiece"]
    assert "data=text: tokenizer=wordpiece loses text" in shown
    assert tokenizers.run([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["vocabulary"] for row in rows] == [257, 300, 300]
    assert rows[1]["bytes_per_token"] > rows[0]["bytes_per_token"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    "words, said",
    [
        (["byt"], "unknown tokenizer 'byt'; did you mean 'byte'"),
        (["data=shakespear"], "unknown data 'shakespear'; did you mean 'shakespeare'"),
        (["byte", "tokenizer.vocab_size=300"], "'tokenizer.vocab_size=300': none of byte, shakespeare, stdlib has it"),
        (["seed=3"], "tokenizers takes names, data=..., data.KEY=... and tokenizer.KEY=..., not 'seed=3'"),
        (["bpe", "tokenizer.vocab_size=3"], "tokenizer.vocab_size must be at least 257"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tokenizers.run(words)
