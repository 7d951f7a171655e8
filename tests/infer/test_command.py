"""The `generate` command: arguments, what it prints where, errors."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_lab.cli.trained import generate as command
from gpt_lab.console import streams
from gpt_lab.data.tokenizers.simple import Byte, Char
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.store import Run

MakeRun = Callable[..., Run]

SPEED = r"^(\d+) tokens in [\d.]+ s: \d+ tokens/s, (cache [\d.]+ MB|no cache)$"


def call(*args: str, capsys: pytest.CaptureFixture[str], runs: Path) -> tuple[str, str]:
    capsys.readouterr()
    assert command.run([f"runs_dir={runs}", "device=cpu", *args]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_defaults_and_every_argument() -> None:
    assert command.parse([]) == command.Arguments()
    args = "run=a prompt=x=y max_tokens=7 temperature=0 top_k=50 top_p=0.9 seed=3 samples=2 checkpoint=last device=cpu"
    assert command.parse([*args.split(), "cache=false", "runs_dir=r"]) == command.Arguments(
        "x=y", 7, 0.0, 50, 0.9, 3, 2, "last", "cpu", False, run="a", runs_dir="r"
    )
    assert command.parse(["--no-cache"]).cache is False
    assert command.parse(["top_k=null", "top_p=null", "temperature=1e-1"]).temperature == 0.1
    assert command.parse(["prompt=123", "run=1"]) == command.Arguments(run="1", prompt="123")
    assert command.parse(["prompt="]).prompt == ""


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("promt=x", "unknown argument 'promt'; did you mean 'prompt'?"),
        ("ROMEO:", """arguments are key=value, not 'ROMEO:'; a text to continue is prompt="ROMEO:\""""),
        ("--nocache", "did you mean --no-cache?"),
        ("--top_k=5", "did you mean top_k=...?"),
        ("max_tokens=0", "max_tokens must be a whole number >= 1"),
        ("max_tokens=many", "max_tokens must be a whole number"),
        ("temperature=-1", "temperature must be a number >= 0"),
        ("temperature=hot", "temperature must be a number"),
        ("temperature=nan", "temperature must be a finite number"),
        ("top_k=0", "top_k must be a whole number >= 1"),
        ("top_p=0", "top_p must be a number in (0, 1]"),
        ("top_p=1.5", "top_p must be a number in (0, 1]"),
        ("samples=2.5", "samples must be a whole number"),
        ("seed=true", "seed must be a whole number"),
        ("cache=maybe", "cache must be true or false"),
        ("device=tpu", "allowed: auto, cpu, cuda, mps"),
        ("min_p=2", "min_p must be a number in [0, 1]"),
        ("repetition_penalty=1e-300", "repetition_penalty must be a number in [0.01, 100]"),
        ('stop=["a", 3]', "stop[1] must be"),
    ],
)
def test_wrong_arguments_are_one_line_with_the_way_out(argument: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        command.parse([argument])
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_help_names_every_argument_with_its_default() -> None:
    for name, default in vars(command.Arguments()).items():
        shown = default if isinstance(default, str) and default else json.dumps(default)
        assert re.search(rf"^  {name}={re.escape(shown)}\s", command.HELP, re.MULTILINE)


@pytest.mark.parametrize("args", [["--help"], ["top_q=1"], ["run=nothing"]])
def test_help_and_refusals_import_nothing_heavy(args: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from gpt_lab.cli.trained import generate\n"
        f"sys.argv = ['generate', *{args!r}]\n"
        "try:\n    generate.main()\nexcept SystemExit as leaving:\n    print('EXIT', leaving.code)\n"
        "print('HEAVY', *({'torch', 'numpy', 'wandb', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "HEAVY\n" in done.stdout
    if args == ["--help"]:
        assert done.stdout.startswith("usage: generate") and "EXIT 0" in done.stdout and not done.stderr
    else:
        assert "EXIT 2" in done.stdout
        assert re.fullmatch(r"error: .*\n", done.stderr)


def test_the_text_goes_to_stdout_and_the_rest_to_stderr(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, letters: Char
) -> None:
    run = make_run("a", tokenizer=letters)
    out, err = call("prompt=ROMEO:", "max_tokens=30", capsys=capsys, runs=tmp_path / "runs")
    assert out.startswith("ROMEO:") and out.endswith("\n") and len(out) == 6 + 30 + 1
    first, speed = err.splitlines()
    assert first == f"run {run.path}, checkpoint best, cpu"
    matched = re.match(SPEED, speed)
    assert matched and matched[1] == "30" and matched[2].startswith("cache ")


def test_without_a_prompt_it_continues_the_run_s_own(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, letters: Char
) -> None:
    make_run("a", tokenizer=letters).update(prompt="MORE:")
    assert call("max_tokens=3", capsys=capsys, runs=tmp_path / "runs")[0].startswith("MORE:")
    assert not call("prompt=", "max_tokens=3", capsys=capsys, runs=tmp_path / "runs")[0].startswith("MORE:")
    assert "ROMEO" not in command.HELP


def test_options_reach_the_sampling(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, letters: Char
) -> None:
    make_run("a", tokenizer=letters, checkpoints={"step-1": 1, "step-2": 2}, links={"best": "step-1", "last": "step-2"})

    def out(*args: str) -> str:
        return call("prompt=ROMEO", "max_tokens=40", *args, capsys=capsys, runs=tmp_path / "runs")[0]

    greedy = out("temperature=0")
    assert greedy == out("temperature=0", "seed=9") == out("top_k=1") == out("top_p=1e-9", "seed=2")
    assert out("seed=1") == out("seed=1", "--no-cache") == out("cache=false", "seed=1") == out("seed=1", "run=a")
    assert len({greedy, out("seed=1"), out("seed=2"), out("seed=1", "temperature=2"), out("seed=1", "top_k=2")}) == 5
    assert out("temperature=0", "checkpoint=last") == out("temperature=0", "checkpoint=step-2") != greedy


def test_no_cache_is_said(make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_run("a")
    _, err = call("prompt=x", "max_tokens=3", "--no-cache", capsys=capsys, runs=tmp_path / "runs")
    assert err.rstrip().endswith("tokens/s, no cache")


def test_samples_are_labelled_and_the_first_is_the_single_one(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, letters: Char
) -> None:
    make_run("a", tokenizer=letters)
    args = ("prompt=ROMEO", "max_tokens=20", "temperature=1.5")
    single, _ = call(*args, capsys=capsys, runs=tmp_path / "runs")
    three, err = call(*args, "samples=3", capsys=capsys, runs=tmp_path / "runs")
    pieces = re.split(r"--- sample \d of 3 ---\n", three)
    assert pieces[0] == "" and pieces[1] == single and len(set(pieces)) == 4
    assert all(piece.startswith("ROMEO") for piece in pieces[1:])
    assert re.search(SPEED, err, re.MULTILINE)[1] == "60"  # type: ignore[index]


def test_stop_strings_end_the_text(make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A byte model, so that they cross the borders of tokens."""
    make_run("a")
    args = ("prompt=x", "max_tokens=60", "temperature=2", "samples=2")
    whole = re.split(r"--- sample \d of 2 ---\n", call(*args, capsys=capsys, runs=tmp_path / "runs")[0])[1:]
    ends = [whole[0][9:12], whole[1][5:7]]
    out, err = call(*args, f"stop={json.dumps(ends)}", capsys=capsys, runs=tmp_path / "runs")
    got = re.split(r"--- sample \d of 2 ---\n", out)[1:]
    for one, text in zip(got, whole, strict=True):
        (_, cut) = min((text[1:].find(end) + len(end), text[1:].find(end)) for end in ends if end in text[1:])
        assert one == text[: 1 + cut] + "\n"
    assert int(re.search(SPEED, err, re.MULTILINE)[1]) < 60  # type: ignore[index]
    assert call(*args[:3], f"stop={ends[0]}", capsys=capsys, runs=tmp_path / "runs")[0] == whole[0][:9] + "\n"


def test_prompts_of_a_file_are_continued_together(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, letters: Char
) -> None:
    make_run("a", tokenizer=letters)
    several, lines = tmp_path / "p.jsonl", tmp_path / "p.txt"
    several.write_text('"ROMEO"\n\n{"prompt": "OR"}\n', encoding="utf-8")
    lines.write_text("ROMEO\nOR\n", encoding="utf-8")
    out = call(f"prompts={several}", "max_tokens=20", "seed=4", capsys=capsys, runs=tmp_path / "runs")[0]
    assert out == call(f"prompts={lines}", "max_tokens=20", "seed=4", capsys=capsys, runs=tmp_path / "runs")[0]
    texts = re.split(r"--- prompt \d of 2 ---\n", out)
    for prompt, text in zip(("ROMEO", "OR"), texts[1:], strict=True):
        alone = call(f"prompt={prompt}", "max_tokens=20", "seed=4", capsys=capsys, runs=tmp_path / "runs")[0]
        assert text == alone
    several.write_text('"ROMEO"\n{"text": "OR"}\n', encoding="utf-8")
    for args, why in (
        ([f"prompts={several}"], 'line 2: \'{"text": "OR"}\' is neither'),
        ([f"prompts={tmp_path / 'none'}"], "No such file"),
        ([f"prompts={several}", "prompt=x"], "leave one out"),
    ):
        with pytest.raises(LabError, match=re.escape(why)):
            command.run([f"runs_dir={tmp_path / 'runs'}", *args])


def test_a_draft_gives_the_same_likeliest_text(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, letters: Char
) -> None:
    make_run("a", tokenizer=letters)
    make_run("small", tokenizer=letters, checkpoints={"step-1": 3}, **{"scale.width": 16})
    other = make_run("other")
    args = ("run=a", "prompt=ROMEO", "temperature=0", "max_tokens=15")
    plain = call(*args, capsys=capsys, runs=tmp_path / "runs")[0]
    out, err = call(*args, "draft=small", capsys=capsys, runs=tmp_path / "runs")
    assert out == plain and re.search(r"MB, \d+ of \d+ drafted tokens kept$", err.rstrip())
    with pytest.raises(ConfigError, match="another tokenizer"):
        command.run([f"runs_dir={tmp_path / 'runs'}", *args, f"draft={other.path}"])
    with pytest.raises(ConfigError, match="leave out cache=false"):
        command.run([f"runs_dir={tmp_path / 'runs'}", *args, "draft=small", "--no-cache"])


def test_run_names_a_study_a_run_or_a_folder(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good = make_run("good", study="s", summary={"val/bpb": 1.0})
    bad = make_run("bad", study="s", summary={"val/bpb": 3.0})
    for spec, expected in {
        "s": good,
        "s/best": good,
        "bad": bad,
        "latest": bad,
        str(good.path): good,
    }.items():
        _, err = call(f"run={spec}", "max_tokens=1", capsys=capsys, runs=tmp_path / "runs")
        assert err.startswith(f"run {expected.path},"), spec


def test_an_empty_prompt_starts_a_text(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, letters: Char
) -> None:
    assert command.start(Byte(), "") == ([256], "")
    assert command.start(letters, "") == (letters.encode("\n"), "")
    assert command.start(letters, "RO") == (letters.encode("RO"), "RO")
    no_lines = Char(eot=False)
    no_lines.fit(["abc"])
    with pytest.raises(LabError, match='give a prompt="..."'):
        command.start(no_lines, "")
    make_run("a", tokenizer=letters)
    out, _ = call("max_tokens=5", capsys=capsys, runs=tmp_path / "runs")
    assert len(out) == 5 + 1


def test_a_prompt_outside_the_vocabulary_is_one_line(
    make_run: MakeRun,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    letters: Char,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_run("a", tokenizer=letters)
    monkeypatch.setattr(sys, "argv", ["generate", f"runs_dir={tmp_path / 'runs'}", "prompt=ROMEO z", "device=cpu"])
    with pytest.raises(SystemExit) as leaving:
        command.main()
    captured = capsys.readouterr()
    assert leaving.value.code == 2 and captured.out == ""
    assert "error: character 'z'" in captured.err.splitlines()[-1]


def test_the_end_of_text_is_what_stops(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte model whose sampling is replaced by one that only asks what would stop it."""
    stops: list[int | None] = []
    monkeypatch.setattr("gpt_lab.infer.generate.generate", lambda *a, stop, **k: iter(stops.append(stop) or []))
    command._write(make_run("a"), command.Arguments(prompt="x", device="cpu"), io.StringIO(), io.StringIO())
    assert stops == [256]


class Terminal(io.TextIOWrapper):
    """A stream that keeps what each flush made visible."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.raw_bytes = io.BytesIO()
        super().__init__(self.raw_bytes, encoding="utf-8")

    def flush(self) -> None:
        super().flush()
        if not self.raw_bytes.closed:
            self.seen.append(self.raw_bytes.getvalue())


def test_each_token_is_shown_at_once_and_never_half_a_character(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte model told to write 東京😀: what is on the screen after each of its tokens ends in a whole character."""
    run = make_run("a")
    target = "é東京😀!"
    monkeypatch.setattr("gpt_lab.infer.generate.generate", lambda *a, **k: iter([[b] for b in target.encode()]))
    terminal = Terminal()
    command._write(run, command.Arguments(prompt="é", device="cpu"), terminal, io.StringIO())
    texts = [seen.decode("utf-8") for seen in terminal.seen if seen]  # strict: raises inside a character
    assert list(dict.fromkeys(texts)) == ["é", "éé", "éé東", "éé東京", "éé東京😀", "éé東京😀!", "éé東京😀!\n"]


def test_it_ends_with_its_reader(make_run: MakeRun, letters: Char) -> None:
    """Rather than go on writing for nobody, as into `| head`."""
    run, (reader, pipe) = make_run("a", tokenizer=letters), os.pipe()
    os.close(reader)
    said = io.StringIO()
    out = streams.wrapped(streams.Stream(pipe))
    command._write(run, command.Arguments(prompt="é", max_tokens=50, device="cpu"), out, said)
    os.close(pipe)
    assert said.getvalue().splitlines()[-1].startswith("0 tokens in")
