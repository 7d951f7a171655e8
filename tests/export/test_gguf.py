"""gguf files, read back by the gguf package and opened by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from gpt_lab.errors import LabError
from gpt_lab.export import gguf_file
from gpt_lab.export.exported_model import Source, read
from gpt_lab.store import find_run
from tests.export.conftest import TINY
from tests.interchange.test_families import built, compose


@pytest.mark.parametrize("words", [["model=llama"], ["model=gqa_rope", "model.tied=true", "norm.eps=1e-3"]])
def test_a_llama(words: list[str], tmp_path: Path) -> None:
    source = Source(built([*words, *TINY]), compose([*words, *TINY]), None)
    said: list[str] = []
    made = gguf_file.write_folder(source, tmp_path / "out", said.append)
    assert made.architecture == "LlamaForCausalLM" and made.difference < 2e-5
    assert "is not written to gguf" in said[0]
    names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    assert ("output.weight" in names) == (source.model.head is not None), "tied weights stay tied"


STRETCHED = [
    ["model=llama3", "position.original=16", "position.factor=4"],
    ["model=llama", "position.scaling=linear", "position.factor=3"],
]


@pytest.mark.parametrize("words", STRETCHED)
def test_stretched_positions(words: list[str], tmp_path: Path) -> None:
    source = Source(built([*words, *TINY]), compose([*words, *TINY]), None)
    assert gguf_file.write_folder(source, tmp_path / "out").difference < 2e-5
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "out" / gguf_file.FILE).tensors}
    plain = 10000.0 if words[0] == "model=llama" else 500000.0
    dim = source.model.shape.width // source.model.shape.heads
    rotary: Any = source.model.position
    expected = plain ** -(np.arange(0, dim, 2) / dim) / rotary.rates.numpy()
    np.testing.assert_allclose(tensors["rope_freqs.weight"], expected, rtol=1e-5)
    assert expected.max() > 1.5


@pytest.mark.parametrize("words", [["model=llama"], *STRETCHED])
def test_llama_cpp_computes_the_same(words: list[str], tmp_path: Path) -> None:
    """The reader that the file is for, with keys and values in fp32."""
    source = Source(built([*words, *TINY]), compose([*words, *TINY]), None)
    gguf_file.write_folder(source, tmp_path / "out")
    tokens = torch.randint(source.model.vocab_size, (source.cfg.scale.context,)).tolist()
    model = in_llama_cpp(tmp_path / "out", len(tokens))
    model.eval(tokens)
    with torch.inference_mode():
        logits_TV = source.model(torch.tensor([tokens]))[0].numpy()
    assert np.abs(model.scores[: len(tokens)] - logits_TV).max() < 2e-5
    model.close()


def test_llama_cpp_cuts_the_same_tokens(runs: Path, tmp_path: Path) -> None:
    source = read(find_run(runs, "llama"))
    gguf_file.write_folder(source, tmp_path / "out")
    model = in_llama_cpp(tmp_path / "out", 32)
    text = "ROMEO: don't  say\n\n日本, I'LL be é 12345"
    assert source.tokenizer is not None
    assert model.tokenize(text.encode(), add_bos=False) == source.tokenizer.encode(text)
    model.close()


def in_llama_cpp(folder: Path, context: int) -> Any:
    """What llama.cpp reads from a folder's file."""
    llama_cpp: Any = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    options = {"n_threads": 1, "logits_all": True, "verbose": False, "type_k": 0, "type_v": 0}
    return llama_cpp.Llama(str(folder / gguf_file.FILE), n_ctx=context, **options)


def test_its_tokenizer(runs: Path, tmp_path: Path) -> None:
    source = read(find_run(runs, "llama"))
    gguf_file.write_folder(source, tmp_path / "out")
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert source.tokenizer is not None and len(tokens) == source.tokenizer.vocab_size
    assert fields["tokenizer.ggml.eos_token_id"].contents() == source.tokenizer.eot
    inner = source.tokenizer.as_library()
    assert tokens == [inner.id_to_token(i) for i in range(len(tokens))]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["model=qwen3"], "this is a Qwen3ForCausalLM"),
        (["model=llama", "model.bias=true"], "model.bias=true has no counterpart"),
        (["model=llama", "position=yarn", "position.factor=2"], "of type yarn"),
        (["attention=retention"], "attention=retention has no counterpart"),
    ],
)
def test_others_are_refused(words: list[str], what: str, tmp_path: Path) -> None:
    source = Source(built([*words, *TINY]), compose([*words, *TINY]), None)
    with pytest.raises(LabError, match=what) as error:
        gguf_file.write_folder(source, tmp_path / "out")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_changed_tensor_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in another order are another model, whatever comes back bit by bit."""
    source = Source(built(["model=llama", *TINY]), compose(["model=llama", *TINY]), None)
    monkeypatch.setattr(gguf_file, "_interleaved", lambda array, heads: array)
    with torch.no_grad(), pytest.raises(LabError, match="computes other logits"):
        gguf_file.write_folder(source, tmp_path / "out")
