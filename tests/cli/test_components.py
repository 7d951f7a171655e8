"""`components`: all, one kind, one part; on a terminal, in a pipe, as JSON."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from gpt_lab import registry
from gpt_lab.cli import components as cli
from gpt_lab.config import components, source_text
from gpt_lab.console.terminal import Terminal

PARTS = [(kind, name) for kind, parts in registry.index().items() for name in parts]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(list(arguments)) == 0
    return capsys.readouterr().out


def failure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["components", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_every_kind_is_described() -> None:
    assert set(components.KINDS) == {*registry.KINDS, *components.PRESETS}


def test_all_shows_every_part_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    words = text.split()
    for kind, name in PARTS:
        assert f"{kind}: {components.KINDS[kind]}" in text
        assert name in words
        for key in registry.get(kind, name).options:
            assert any(word.startswith(f"{key}=") for word in words), f"{kind}={name}: {key}"


def test_a_pipe_gets_plain_narrow_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["attention"], ["attention", "gqa"]):
        lines = printed(capsys, *arguments).splitlines()
        assert "\x1b" not in "".join(lines)
        assert all(line == line.rstrip() for line in lines)
        assert all(len(line) <= 120 or "://" in line or line.startswith(("Source: ", "Select: ")) for line in lines)


def test_one_kind(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "norm")
    assert text.startswith("norm: ")
    assert "rmsnorm" in text and "layernorm" in text
    assert "attention: " not in text


@pytest.mark.parametrize("kind, name", PARTS)
def test_one_part(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    part = registry.get(kind, name)
    text = " ".join(printed(capsys, kind, name).split())
    prose, *_ = re.split(rf"^({'|'.join(part.options) or '$'}): ", part.doc, maxsplit=1, flags=re.MULTILINE)
    assert " ".join(prose.split()) in text, "the docstring, and its lines on options in the table alone"
    explained = (" ".join(registry.explained(part.doc, key).split()) for key in part.options)
    assert not any(lines and lines in text for lines in explained)
    assert f"Select: uv run train {kind}={name}" in text
    assert f"{part.module.replace('.', '/')}.py:" in text
    for key in part.options:
        assert f"{kind}.{key}" in text


def test_the_source_line_is_the_class(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, name in PARTS:
        entry = components.catalogue(kind, name)[kind][name]
        line = entry.source.read_text(encoding="utf-8").splitlines()[entry.line - 1]
        assert line.startswith(f"class {registry.get(kind, name).qualname}")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    tree = json.loads(printed(capsys, "--json"))
    assert set(tree) == set(components.KINDS)
    for kind, name in PARTS:
        part = registry.get(kind, name)
        entry = tree[kind][name]
        assert entry["summary"] == part.summary
        assert entry["doc"] == part.doc
        assert Path(entry["source"]).is_file()
        required = {key for key, option in part.options.items() if option.default is registry.REQUIRED}
        assert {key for key, option in entry["options"].items() if option["required"]} == required
        defaults = {key: option["default"] for key, option in entry["options"].items() if not option["required"]}
        assert defaults == {key: o.default for key, o in part.options.items() if key not in required}
    assert json.loads(printed(capsys, "norm", "rmsnorm", "--json")) == {"norm": {"rmsnorm": tree["norm"]["rmsnorm"]}}


def test_presets(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "model", "gqa_rope")
    assert "gqa" in text and "Select: uv run train model=gqa_rope\n" in text
    assert "scale.width" in printed(capsys, "scale", "tiny")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["atention"], "did you mean 'attention'"),
        (["attention", "gqqa"], "did you mean 'gqa'"),
        (["scale", "tny"], "did you mean 'tiny'"),
        (["--jsn"], "--jsn"),
        (["a", "b", "c"], "c"),
        (["attention", "hybrid", "--jax"], "attention=hybrid has no twin in JAX (those that have one are attention: "),
        (["attention", "--jax"], "--jax shows the twin of one part (those that have one are attention: "),
        (["attention", "gqqa", "--jax"], "did you mean 'gqa'"),
        (["attention", "gqa", "--jax", "--json"], "leave out --json"),
        (["attention", "gqa", "--jax", "--parity"], "leave out --parity"),
        (["--check", "gqa", "--jax"], "leave out --check"),
    ],
)
def test_wrong_input(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words in failure(capsys, monkeypatch, *arguments)


def test_a_twin_stands_below_its_part(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes as far as the one that computes, what the twin's file has, and its line on the layout."""
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(capsys, "attention", "gqa", "--jax")
    twin = source_text.twin("attention", "gqa")
    assert twin.text.strip() in text, "it fits into a terminal as it is"
    own, base, below, *more = re.findall(r"^(?:Part|Twin): .*\n+(.*)", text, re.MULTILINE)
    assert (own, base, below[:3], more) == ('@register("attention", "gqa")', "class SelfAttention(Softmax):", '"""', [])
    assert text.splitlines()[-1] == f"Layout: {source_text.layout(twin)}"
    assert max(map(len, text.splitlines())) <= 80
    assert "override /attention: gqa" in printed(capsys, "model", "gqa_rope", "--jax")


def test_a_twin_is_shown_in_colours() -> None:
    console = Terminal(file=io.StringIO(), width=80, force_terminal=True)
    source_text.show(components.catalogue("position", "yarn")["position"]["yarn"], console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "\x1b[" in shown and "\x1b[48" not in shown, "on the terminal's own background"
    assert "class Rotary" in re.sub(r"\x1b\[[\d;]*m", "", shown), "a base that another file defines"


DOC = """What it does.

Paper: One et al. 2020, arXiv:2001.00001;
    Two et al. 2021, arXiv:2101.00002.

    alpha: share of the first, in [0, 1];
        more of it
    ``beta``: the second
"""


def test_reflow() -> None:
    address = "https://example.org/" + "a" * 60
    text = components.reflow(f"One two\nthree.\n\nReference: {address}\n\nkey: a b\n    c\nother: d", 40)
    assert text == f"One two three.\n\nReference:\n{address}\n\nkey: a b c\nother: d"
    assert max(map(len, components.reflow("key: " + "word " * 30 + "\nb: c", 40).splitlines())) <= 40


def test_reading_a_docstring() -> None:
    assert components.paper(DOC) == "One et al. 2020, arXiv:2001.00001; Two et al. 2021, arXiv:2101.00002."
    assert components.meaning(DOC, "alpha") == "share of the first, in [0, 1]; more of it"
    assert components.meaning(DOC, "beta") == "the second"
    assert components.meaning(DOC, "gamma") == ""
    assert components.paper("Summary only.") == ""


@pytest.mark.parametrize(
    "value, text",
    [(None, "null"), (True, "true"), (1e-6, "1e-06"), (3, "3"), ("SSSL", "SSSL"), ("", "''"), ([1, 2], "[1,2]")],
)
def test_literal(value: object, text: str) -> None:
    assert components.literal(value) == text
