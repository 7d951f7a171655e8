"""Conversations without a terminal and with one, against generation in this process."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gpt_lab.chat.loop import converse
from gpt_lab.chat.session import Session, Settings
from gpt_lab.cli.trained import chat as command
from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.infer.generate import complete
from gpt_lab.infer.stream import text
from gpt_lab.serve.served_model import LocalModel
from tests.browser import browse

Models = dict[str, LocalModel]
SETTINGS = Settings(temperature=1.0, seed=3, max_tokens=12)


def generated(model: LocalModel, ids: list[int], seed: int = 3, temperature: float = 1.0) -> str:
    end = model.tokenizer.eot
    (found,) = complete(model.model, ids, max_tokens=12, temperature=temperature, seed=seed, stop=end)
    return text(model.tokenizer, found, ids)


def heard(models: Models, lines: str, chat: bool | None = None, terminal: bool = False) -> str:
    """What a conversation prints."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, height=40, no_color=True, highlight=False)
    with Session(models, SETTINGS, chat) as session:
        converse(session, console, io.StringIO(lines))
    return out.getvalue()


def test_a_pipe_gets_the_text_and_nothing_else(models: Models) -> None:
    """A line that ends with a backslash goes on; commands change what follows."""
    rope = models["lab/rope"]
    lines = "To be\n\n/seed 4\nA\\\nB\n/temperature 0\nA\n/quit\nnever read\n"
    wanted = [
        "To be" + generated(rope, list(b"To be")),
        "A\nB" + generated(rope, list(b"A\nB"), seed=4),
        "A" + generated(rope, list(b"A"), seed=4, temperature=0.0),
    ]
    assert heard({"lab/rope": rope}, lines) == "".join(f"{one}\n" for one in wanted)


def test_two_models_draw_with_the_same_numbers_and_part_at_a_token(models: Models) -> None:
    two = {name: models[name] for name in ("lab/rope", "lab/alibi")}
    with Session(two, SETTINGS) as session:
        *_, turn = session.say("To be")
    assert [said.text for said in turn.answers] == [generated(model, list(b"To be")) for model in two.values()]
    one, other = (said.tokens for said in turn.answers)
    assert turn.parted is not None and one[turn.parted] != other[turn.parted]
    assert one[: turn.parted] == other[: turn.parted]
    with Session({"a": models["lab/rope"], "b": models["lab/rope"]}, SETTINGS) as session:
        *_, turn = session.say("To be")
    assert turn.parted is None, "one model against itself: the same text"


def test_a_conversation_goes_on_by_the_template(models: Models) -> None:
    tuned = models["lab/tuned"]
    assert tuned.template is not None
    first = generated(tuned, tuned.template.render([{"role": "user", "content": "Hi"}], True)).lstrip()
    turns = [("user", "Hi"), ("assistant", first), ("user", "And?")]
    second = generated(tuned, tuned.template.render([{"role": r, "content": c} for r, c in turns], True)).lstrip()
    assert heard({"lab/tuned": tuned}, "Hi\nAnd?\n/reset\nHi\n") == f"{first}\n{second}\n{first}\n"
    with pytest.raises(ConfigError, match="lab/rope has no chat template: mode=completion"):
        Session(models, SETTINGS, chat=True)


def test_an_answer_begins_with_its_first_word(models: Models) -> None:
    """In what is kept, too, from which an export and the next question are made; `mode=completion` keeps the space."""
    tuned = models["lab/tuned"]
    assert tuned.template is not None
    ids = tuned.template.render([{"role": "user", "content": "Hi"}], True)
    options = {"max_tokens": 12, "temperature": 5.0, "stop": tuned.tokenizer.eot}
    seed = next(n for n in range(2000) if complete(tuned.model, ids, seed=n, **options)[0][:1] in ([32], [10]))
    whole = text(tuned.tokenizer, complete(tuned.model, ids, seed=seed, **options)[0], ids)
    with Session({"lab/tuned": tuned}, Settings(temperature=5.0, seed=seed, max_tokens=12)) as session:
        *_, turn = session.say("Hi")
    assert turn.answers[0].text == whole.lstrip() != whole and "".join(turn.answers[0].pieces) == whole.lstrip()


def test_a_turn_that_fails_is_not_part_of_the_conversation(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session({"lab/rope": models["lab/rope"]}, SETTINGS) as session:
        with monkeypatch.context() as patch:
            patch.setattr("gpt_lab.infer.batch.Batch.add", lambda *arguments: 1 / 0)
            with pytest.raises(LabError, match="lab/rope: division by zero"):
                [*session.say("To be")]
        assert session.turns == [] and [*session.say("To be")][-1:] == session.turns


@pytest.mark.parametrize("line", [b"To \xff be\n", b"/export \xff.html\n"])
def test_a_line_that_is_no_text_is_one_line(models: Models, line: bytes) -> None:
    with (
        Session({"lab/rope": models["lab/rope"]}, SETTINGS) as session,
        pytest.raises(DataError, match="no text in UTF-8"),
    ):
        converse(session, Console(file=io.StringIO()), io.TextIOWrapper(io.BytesIO(line), encoding="utf-8"))


def test_a_terminal_shows_both_side_by_side(models: Models) -> None:
    two = {name: models[name] for name in ("lab/rope", "lab/alibi")}
    shown = heard(two, "To be\n", terminal=True)
    last = shown[shown.rindex("lab/rope") :]
    assert "lab/alibi" in last.splitlines()[0] and last.count("To be") == 2
    assert "tokens/s" in last and "they part at token " in last


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("/sed 3", "unknown command 'sed'; did you mean 'seed'?"),
        ("/seed -1", "/seed takes a whole number >= 0, not '-1'"),
        ("/temperature hot", "/temperature takes a number, not 'hot'"),
        ("/temperature nan", "temperature must be a number >= 0"),
        ("/reset now", "/reset takes nothing"),
        ("/export x.txt", "nothing was said yet"),
        ("/export", "/export takes a file"),
        ("x\n/export a\0.html", r"'a\\x00.html' is no file name"),
    ],
)
def test_a_mistake_in_a_pipe_is_one_line(models: Models, line: str, error: str) -> None:
    with pytest.raises(LabError, match=error.replace("?", r"\?")):
        heard({"lab/rope": models["lab/rope"]}, f"{line}\n")


def test_the_exported_file_shows_markup_as_text(models: Models, tmp_path: Path) -> None:
    path = tmp_path / "said.html"
    two = {name: models[name] for name in ("lab/rope", "lab/tuned")}
    heard(two, f"<script>alert(1)</script>\n/export {path}\n", chat=False)
    text_of_file = path.read_text(encoding="utf-8")
    assert "<script" not in text_of_file and "&lt;script&gt;alert(1)" in text_of_file
    assert all(name in text_of_file for name in two) and [one.name for one in tmp_path.iterdir()] == ["said.html"]


@pytest.mark.browser
def test_the_exported_file_stands_alone(models: Models, tmp_path: Path) -> None:
    path = tmp_path / "said.html"
    heard({"lab/rope": models["lab/rope"]}, f"To be\n/export {path}\n", chat=False)
    page = browse(path, script="document.querySelectorAll('pre').length")
    assert page.value == 1 and page.errors == [] and len(page.requests) == 1


def test_the_command(places: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("To be\n"))
    assert command.run([str(places[0]), "max_tokens=12", "temperature=1", "seed=3", "device=cpu"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("To be") and "completion with lab/rope" in printed.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a", "b", "c"], "two models at most, not 3"),
        (["temprature=1"], "did you mean 'temperature'"),
        (["mode=talk"], "mode"),
        (["--seed"], "settings are key=value"),
        (["max_tokens=0"], "max_tokens must be a whole number >= 1"),
        (["seed=1", "seed=2"], "seed is given twice"),
        (["http://127.0.0.1:1/v1#m"], "`serve` shows models of other servers"),
    ],
)
def test_the_command_refuses_in_one_line(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        command.run(words)
