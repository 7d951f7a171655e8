"""`export`: a run as a folder that transformers opens, with the run's logits, its tokens, or nothing at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gpt_lab import registry
from gpt_lab.cli.train import run as train
from gpt_lab.cli.trained import export as command
from gpt_lab.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.export import agreement, hugging_face, staged, tokenizer_files
from gpt_lab.export.exported_model import read
from gpt_lab.store import find_run
from tests.export.conftest import SHORT, TEXT, TINY


def test_a_run_becomes_a_folder(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    out = tmp_path / "deep" / "model"
    assert command.run(["llama", "to=hf", f"out={out}", f"runs_dir={runs}"]) == 0
    assert f"{out}: LlamaForCausalLM, logits equal to" in capsys.readouterr().out
    source = read(find_run(runs, "llama"))
    assert source.tokenizer is not None and source.tokenizer.eot is not None
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    ids = torch.tensor([source.tokenizer.encode("the winter")])
    assert tokenizer("the winter", return_tensors="pt")["input_ids"].equal(ids)
    torch.testing.assert_close(model(ids).logits, source.model(ids), rtol=0, atol=1e-5)
    assert model.config.vocab_size == source.tokenizer.vocab_size < len(source.model.embed.weight)
    assert tokenizer.eos_token_id == model.config.eos_token_id == source.tokenizer.eot
    assert GenerationConfig.from_pretrained(out).eos_token_id == source.tokenizer.eot
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {out.stat().st_mode & 0o666}
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_tied_weights_stay_tied(runs: Path, tmp_path: Path) -> None:
    source = read(find_run(runs, "llama"))
    assert source.model.head is not None
    source.model.head = None
    tied = source._replace(cfg=_with(source.cfg, tied=True))
    hugging_face.write_folder(tied, tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    assert json.loads((tmp_path / "tied" / "config.json").read_text())["tie_word_embeddings"] is True


def _with(cfg: Any, **flags: Any) -> Any:
    import dataclasses

    return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, **flags))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["odd", "to=hf"], "attention=retention has no counterpart in"),
        (["llama"], "needs a format"),
        (["to=hf"], "needs a run"),
        (["llama", "to=onnx"], "unknown value for to: 'onnx'"),
        (["llama", "to=hf", "ot=x"], "did you mean 'out'"),
        (["llama", "to=hf", "--force"], "key=value"),
        (["llama", "to=hf", "checkpoint=step-9"], "unknown checkpoint"),
        (["llama", "to=hf", "out=a", "out=b"], "given twice"),
        (["nobody", "to=hf"], "no run 'nobody'"),
    ],
)
def test_refusals_write_nothing(runs: Path, tmp_path: Path, words: list[str], what: str) -> None:
    before = sorted(runs.rglob("*"))
    more = [] if "out=a" in words else [f"out={tmp_path / 'out'}"]
    with pytest.raises(LabError) as error:
        command.run([*words, *more, f"runs_dir={runs}"])
    assert what in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir()) and sorted(runs.rglob("*")) == before


def test_what_is_there_stays(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ConfigError, match="is there already"):
        command.run(["llama", "to=hf", f"out={tmp_path / 'mine'}", f"runs_dir={runs}"])
    assert (tmp_path / "mine").read_text() == "kept"


def test_another_model_is_seen(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that is changed on the way, one that is lost, another epsilon, other tokens: nothing is written."""
    source = read(find_run(runs, "llama"))
    to_hf, out = hugging_face.convert.to_hf, tmp_path / "out"

    def changed(*args: Any) -> Any:
        config, weights = to_hf(*args)
        weights["model.norm.weight"] = 1.01 * weights["model.norm.weight"]
        return config, weights

    def otherwise(*args: Any) -> Any:
        config, weights = to_hf(*args)
        return config | {"rms_norm_eps": 0.1}, weights

    for wrong in (changed, otherwise):
        with monkeypatch.context() as patch:
            patch.setattr(hugging_face.convert, "to_hf", wrong)
            with pytest.raises(LabError, match="computes other logits than the run: they differ by"):
                hugging_face.write_folder(source, out)
    with monkeypatch.context() as patch:
        patch.setattr(tokenizer_files, "unlike", lambda *args: "a text")
        with pytest.raises(LabError, match="'a text' has other tokens"):
            hugging_face.write_folder(source, out)
    assert not list(tmp_path.iterdir())


def test_a_lost_weight_is_named(runs: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source, out = read(find_run(runs, "llama")), tmp_path / "out"
    hugging_face.write_folder(source, out)
    weights = load_file(out / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LabError, match=r"missing weights: model\.norm\.weight"):
        agreement.compare(source, out)


def fitted(name: str, tmp_path: Path) -> Tokenizer:
    options: dict[str, Any] = {"name": name}
    if name == "hf":
        made = fitted("unigram", tmp_path)
        made.save(tmp_path / "made")
        options["path"] = str(tmp_path / "made")
    elif registry.get("tokenizer", name).options.get("vocab_size") is not None:
        options["vocab_size"] = 300
    tokenizer: Tokenizer = registry.build("tokenizer", options)
    if tokenizer.fits != "nothing":
        tokenizer.fit([TEXT])
    return tokenizer


def gpt2_ranks(tmp_path: Path) -> Tokenizer:
    """tiktoken's form of merges learnt here: its own are on the network."""
    import base64

    from gpt_lab.data.tokenizers.bpe import WORD, ScratchBPE

    bpe = fitted("bpe_scratch", tmp_path)
    assert isinstance(bpe, ScratchBPE) and bpe.eot is not None
    folder = tmp_path / "ranks"
    folder.mkdir()
    pieces = [base64.b64encode(bpe.decode_bytes([i])).decode() for i in range(bpe.eot)]
    (folder / "ranks.tiktoken").write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(pieces)))
    state = {"name": "own", "pattern": WORD.pattern, "special": {"<|endoftext|>": bpe.eot}}
    (folder / "state.json").write_text(json.dumps({"tokenizer": "tiktoken", "state": state}))
    return load_tokenizer(folder)


@pytest.mark.parametrize("name", sorted(registry.index()["tokenizer"]))
def test_every_tokenizer(name: str, tmp_path: Path) -> None:
    """AutoTokenizer gives the same tokens and the same text, for names of special tokens in a text too."""
    tokenizer = gpt2_ranks(tmp_path) if name == "tiktoken" else fitted(name, tmp_path)
    folder = tmp_path / "out"
    assert tokenizer_files.write_tokenizer(tokenizer, folder, 64)
    assert tokenizer_files.unlike(tokenizer, folder, TEXT[:200]) is None


def test_another_tokenizer_is_seen(tmp_path: Path) -> None:
    one, other = fitted("bpe", tmp_path), fitted("unigram", tmp_path)
    tokenizer_files.write_tokenizer(one, tmp_path / "out", 64)
    assert tokenizer_files.unlike(other, tmp_path / "out", TEXT) is not None


def test_a_tokenizer_of_ones_own(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model goes without it, and the command says so."""
    said: list[str] = []
    source = read(find_run(runs, "llama"))
    monkeypatch.setattr(type(source.tokenizer), "as_library", lambda self: None)
    hugging_face.write_folder(source, tmp_path / "out", said.append)
    assert "tokenizer=bpe has no form" in said[0]
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_runs_without_text(tmp_path: Path) -> None:
    words = [*TINY, *SHORT, "data=synthetic", f"runs_dir={tmp_path}"]
    assert train(words) == 0
    said: list[str] = []
    source = read(find_run(tmp_path, "latest"))
    assert hugging_face.write_folder(source, tmp_path / "out", said.append).architecture == "LlamaForCausalLM"
    assert "no tokenizer" in said[0]


def killed(code: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, check=False, env=os.environ)
    assert done.returncode == -9


def test_a_kill_tears_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    code = (
        f"import os, sys; sys.path.insert(0, {str(root)!r})\n"
        "from pathlib import Path\nfrom gpt_lab.export.staged import staged\n"
        "with staged(Path('out')) as folder:\n"
        "    (folder / 'half').write_text('x')\n    os.kill(os.getpid(), 9)\n"
    )
    killed(code, tmp_path)
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 1 and left[0].startswith(".out.")
    with staged.staged(tmp_path / "out") as folder:
        (folder / "whole").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabError, match=r"cannot write .*out: No space left on device; choose another folder with out"):
        with staged.staged(tmp_path / "out") as folder:
            raise OSError(28, os.strerror(28), str(folder))
    assert not list(tmp_path.iterdir())
