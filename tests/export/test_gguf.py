"""gguf files, read back by the gguf package and opened by transformers."""

from __future__ import annotations

from pathlib import Path

import gguf
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
        (["model=llama3"], "of type llama3"),
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
