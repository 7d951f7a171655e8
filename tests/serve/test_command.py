"""The `serve` command: arguments, an orderly end, and one that is not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from safetensors.torch import save_file

from gpt_lab.cli.trained import serve as command
from gpt_lab.data import chat_template
from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.infer.generate import complete
from gpt_lab.infer.trained_model import load_run
from gpt_lab.interchange import convert
from gpt_lab.serve import running, served_model
from gpt_lab.serve.served_model import LocalModel
from tests.made_run import run_maker


def test_defaults_and_every_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.parse([]) == command.Arguments()
    words = "a/b c host=::1 port=0 key=k checkpoint=last device=cpu rows=4 queue=0 tokens=100 body=2000 runs_dir=r"
    assert command.parse(words.split()) == command.Arguments(
        ("a/b", "c"), "::1", 0, "k", "last", "cpu", 4, 0, 100, 2000, "r"
    )
    monkeypatch.setenv(command.KEY, "from the environment")
    assert command.parse(["host=0.0.0.0"]).key == "from the environment"
    assert command.parse(["http://127.0.0.1:1/v1#a=b"]).models == ("http://127.0.0.1:1/v1#a=b",)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["host=0.0.0.0"], "host=0.0.0.0 can be reached by others: set a key"),
        (["prt=1"], "unknown argument 'prt'; did you mean 'port'?"),
        (["port=65536"], "port must be a whole number in"),
        (["rows=many"], "rows must be a whole number"),
        (["--port"], "settings are key=value"),
        (["port=1", "port=2"], "port is given twice"),
        (["http://127.0.0.1/v1", "port=0"], "is no endpoint: write http://HOST/v1#MODEL"),
        (["http://me:secret@127.0.0.1/v1#m"], "takes no key in its address"),
        (["http://[x/v1#m"], "is no endpoint"),
        (["http://a..b/v1#m"], "is no endpoint"),
        (["http://127.0.0.1:99999/v1#m"], "is no endpoint"),
        (["http://h1/v1#http://h2/v1#m", "http://h3/v1#m", "http://h2/v1#m"], "has the name of another model here"),
        (["http://127.0.0.1:1/v1#m", "http://127.0.0.1:1/v1#m"], "is given twice: leave one out"),
    ],
)
def test_bad_arguments_are_one_line(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "serve", lambda *arguments: pytest.fail("it would serve"))
    with pytest.raises(ConfigError, match=line.replace("?", r"\?")):
        command.run([*words, f"runs_dir={tmp_path}"])
    assert not list(tmp_path.iterdir())


def test_without_its_packages_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "gpt_lab.serve.running")
    monkeypatch.delattr("gpt_lab.serve.running")
    with pytest.raises(LabError, match="serve needs uvicorn: `uv sync --extra serve` installs it"):
        command.run([])


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_host_that_is_none_is_one_line(host: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on host={host} .*: host=127.0.0.1 is this machine"):
        running.listen(host, 0)


def test_models_of_one_name_are_all_served(tmp_path: Path) -> None:
    """Under what was typed, or where that is taken, where they are."""
    for folder in ("here", "there"):
        run_maker(tmp_path / folder)("rope", study="lab")
    there = tmp_path / "there" / "runs" / "lab" / "rope"
    found = served_model.load([str(there), "lab/rope"], str(tmp_path / "here" / "runs"), None, "cpu")
    here = str((tmp_path / "here" / "runs" / "lab" / "rope").resolve())
    assert [(name, one.name) for name, one in found.items()] == [("lab/rope", "lab/rope"), (here, here)]
    words = ["http://127.0.0.1:1/v1#m", "http://127.0.0.1:2/v1#m"]
    assert list(served_model.load(words, ".", None, "cpu")) == ["m", words[1]]


def test_models_are_runs_studies_and_folders(tmp_path: Path) -> None:
    """Of a study the best run; of a model that reads both ways nothing."""
    make = run_maker(tmp_path)
    make("worse", study="s", summary={"val/bpb": 3.0})
    make("better", study="s", summary={"val/bpb": 1.0})
    make("masked", study="m", objective="masked_diffusion")
    load = served_model.load
    assert list(load(["s", "s/worse"], str(tmp_path / "runs"), "last", "cpu")) == ["s/better", "s/worse"]
    with pytest.raises(ConfigError, match="its model is not autoregressive"):
        load(["m/masked"], str(tmp_path / "runs"), None, "cpu")
    with pytest.raises(DataError, match="did you mean s/better"):
        load(["s/bettr"], str(tmp_path / "runs"), None, "cpu")


def test_a_folder_of_hugging_faces_says_what_its_run_says(tmp_path: Path) -> None:
    """And converses, where the lab's chat template is in it."""
    run = run_maker(tmp_path)("rope", study="lab", checkpoints={"step-1": 3})
    trained = load_run(run)
    folder = tmp_path / "my model"
    folder.mkdir()
    config, weights = convert.to_hf(trained.model, trained.cfg)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    trained.tokenizer.as_library().save(str(folder / "tokenizer.json"))
    (folder / chat_template.FILE).write_text(chat_template.JINJA, encoding="utf-8")
    made = served_model.load([str(run.path), str(folder)], ".", None, "cpu")
    own, theirs = made.values()
    assert list(made) == ["lab/rope", "my-model"] and isinstance(own, LocalModel) and isinstance(theirs, LocalModel)
    assert own.vocabulary == theirs.vocabulary and own.template is None
    texts = [complete(one.model, list(b"To be"), max_tokens=20, seed=1) for one in (own, theirs)]
    assert texts[0] == texts[1]
    assert theirs.template is not None and theirs.template.stop == theirs.tokenizer.eot
    with pytest.raises(ConfigError, match="has no checkpoint=last"):
        served_model.load([str(folder)], ".", "last", "cpu")


@pytest.mark.slow
def test_a_server_ends_in_order_or_at_once_and_leaves_its_runs_alone(tmp_path: Path) -> None:
    """SIGTERM in mid-stream: the stream ends with an error and [DONE], the status is 0. kill -9: nothing is torn."""
    run = run_maker(tmp_path)("rope", study="lab", tokenizer=Byte(eot=False))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code = "from gpt_lab.serve import running; running.GRACE = 0.2\nfrom gpt_lab.cli.trained.serve import main; main()"
    for number, status in ((signal.SIGTERM, 0), (signal.SIGKILL, -9)):
        words = [str(run.path), "port=0", "tokens=1000000", "device=cpu"]
        process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            url = next(line.split()[0] for line in process.stderr if line.startswith("http://"))
            body = {"model": "lab/rope", "prompt": "x", "max_tokens": 900_000, "temperature": 0, "stream": True}
            with httpx.stream("POST", f"{url}v1/completions", json=body, timeout=30) as answer:
                lines = answer.iter_lines()
                next(lines)
                process.send_signal(number)
                rest = "\n".join(lines) if number == signal.SIGTERM else ""
            assert process.wait(30) == status
            if number == signal.SIGTERM:
                assert rest.rstrip().endswith("data: [DONE]") and '"code":' in rest and "server_stopping" in rest
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
