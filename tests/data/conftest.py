"""Small corpora and configs for the tests of data."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.corpora.shakespeare import Shakespeare
from gpt_lab.data.tokenizers.library import FILE
from gpt_lab.data.tokenizers.tokenizer import EOT
from tests.helpers import tiny_config


@pytest.fixture(scope="session")
def plays() -> list[str]:
    """The cleaned text of every tenth play."""
    return ["".join(document.pieces) for document in list(Shakespeare().documents())[::10]]


@pytest.fixture
def story(tmp_path: Path, plays: list[str]) -> Path:
    """The first 20 000 characters of one play, in a file."""
    path = tmp_path / "story.txt"
    path.write_text(plays[0][:20_000], encoding="utf-8")
    return path


@pytest.fixture
def config(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """A config on `story` with byte tokens, whose shards are kept in a folder of this test's own."""
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path / "cache"))

    def make(**overrides: object) -> RunConfig:
        return tiny_config(**{"data": {"name": "text", "path": str(story)}, "tokenizer": "byte"} | overrides)

    return make


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tiktoken's cache with a small stand-in for GPT-2's ranks: the 256 bytes and one merge."""
    import tiktoken.load
    from tiktoken_ext import openai_public

    lines = [bytes((byte,)) for byte in range(256)] + [b"th"]
    text = "".join(f"{base64.b64encode(token).decode()} {i}\n" for i, token in enumerate(lines)).encode()
    url = "https://openaipublic.blob.core.windows.net/encodings/p50k_base.tiktoken"
    folder = tmp_path / "ranks"
    folder.mkdir()
    (folder / hashlib.sha1(url.encode()).hexdigest()).write_bytes(text)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    load = tiktoken.load.load_tiktoken_bpe
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda url, expected_hash=None: load(url))
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    made = openai_public.ENCODING_CONSTRUCTORS["p50k_base"]
    small = {"small_vocab": lambda: made() | {"explicit_n_vocab": None, "special_tokens": {EOT: 257}}}
    monkeypatch.setattr("tiktoken.registry.ENCODING_CONSTRUCTORS", small)
    return folder


@pytest.fixture
def ready_made(tmp_path: Path, plays: list[str]) -> Path:
    """A folder with a tokenizer.json whose tokens are words with ▁, as in Llama: not byte-level."""
    inner = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")])
    extra = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    inner.train_from_iterator(
        [plays[0][:20_000]], trainers.BpeTrainer(vocab_size=600, special_tokens=extra, show_progress=False)
    )
    folder = tmp_path / "ready_made"
    folder.mkdir()
    inner.save(str(folder / FILE))
    return folder
