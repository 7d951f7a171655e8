"""Values as they stand: what a shell or W&B's agent hands over is what the config holds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_lab.config import composition
from gpt_lab.config.overrides import readable, word
from gpt_lab.errors import ConfigError
from gpt_lab.study import cells, sweep_file

ODD = (
    "my texts (1)/a=b",
    "é/ü.txt",
    "a,b",
    "#x",
    "~/x",
    "{a}",
    "[0-9]*.txt",
    "it's",
    '"',
    "\\",
    "a\\'b",
    "x\\",
    " ",
    "\n",
)
"""Paths and prompts that Hydra's grammar refuses bare, or reads as something else."""
PATHS = tuple(text for text in ODD if text.strip())


COMPOSER = composition.Composer(factored=False)
"""As composition.compose, which runs Hydra anew for each."""


def composed(*overrides: str) -> composition.RunConfig:
    path = [] if any(one.startswith("data.path=") for one in overrides) else ["data.path=x"]
    return COMPOSER.compose(["data=text", *path, *overrides])


@pytest.mark.parametrize("value", [*PATHS, "2024", "1e5", "true", "range(1,3)", "a${b", "plain", "a b"])
def test_text_stands_for_itself(value: str) -> None:
    assert composed(f"data.path={value}").data["path"] == value
    assert composed(f"sample.prompt={value}").sample.prompt == value


@pytest.mark.parametrize("value", [*PATHS, "null", "None", "true", "1e5", "nan"])
def test_a_sweep_s_own_words(value: str) -> None:
    """The cells of a local sweep are the same runs as an agent's: its words are quoted, they read back."""
    assert composed(sweep_file.override("data.path", value)).data["path"] == value
    assert composed(sweep_file.override("tracker.tags", [value, "b"])).tracker["tags"] == [value, "b"]


def test_any_text_in_quotes_reads_back() -> None:
    draw, letters = random.Random(0), "ab ()=#~,{}[]'\"\\é$:@|&*?!\n\t"
    for _ in range(200):
        value = "".join(draw.choices(letters, k=6))
        assert composition._parse(f"data.path={word(value)}").value() == value


def test_what_can_be_read_keeps_its_meaning() -> None:
    assert composed("data.path='a b'").data["path"] == "a b"
    assert composed(r"data.path=a\,b").data["path"] == "a,b"
    assert composed("seed=3", "sample.prompt=${study}").sample.prompt == "default"
    assert composed("eval.contexts=[1, 2]").eval.contexts == [1, 2]
    assert composed("data.val_path=null").data["val_path"] is None


@pytest.mark.parametrize(
    "text, expected",
    [
        ("model.logit_softcap=None", None),
        ("data.val_path=None", None),
        ("budget.steps=None", None),
        ("model.tied=False", False),
        ("model.tied=True", True),
        ("compile=True", "on"),
        ("optim.lr=1e-05", 1e-5),
        ("tracker.tags=['a (b)', 'c']", ["a (b)", "c"]),
    ],
)
def test_python_s_words(text: str, expected: object) -> None:
    """W&B's agent writes str(value)."""
    budget = ["budget.tokens=1e6"] if text.startswith("budget") else []
    assert composed(*budget, text).flat()[text.partition("=")[0]] == expected


@pytest.mark.parametrize("text", ["optim.lr=None", "seed=None", "optim.lr=1,2", "seed=a(b)", "scale.depth={1}"])
def test_a_number_is_no_text(text: str) -> None:
    assert readable(text) == text
    with pytest.raises(ConfigError):
        composed(text)


def test_a_sweep_takes_them_too(tmp_path: Path) -> None:
    """From its file and from its command line."""
    file = tmp_path / "odd.yaml"
    sweep: dict[str, Any] = {"method": "grid", "parameters": {"seed": {"values": [0]}, "data": {"value": "text"}}}
    sweep["parameters"]["sample.prompt"] = {"value": "a, (b)"}
    sweep["parameters"]["model.logit_softcap"] = {"value": None}
    file.write_text(yaml.safe_dump(sweep))
    found = cells.configs(cells.cells(sweep_file.load(file, ["data.path=a (1), b=é#.txt"])))
    assert [(cfg.data["path"], cfg.sample.prompt) for cfg in found] == [
        ("a (1), b=é#.txt", "a, (b)"),
    ]
