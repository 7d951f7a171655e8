"""Keys: each goes to its own hosts, encrypted, and is shown nowhere."""

from __future__ import annotations

import pytest

from gpt_lab.cli.trained import serve
from gpt_lab.errors import ConfigError
from gpt_lab.serve import credentials, served_model


@pytest.mark.parametrize(
    ("base", "key"),
    [
        ("https://far.example/v1", "open"),
        ("http://127.0.0.1:1/v1", "open"),
        ("https://router.huggingface.co/v1", "hugging"),
        ("https://huggingface.co./v1", "hugging"),
        ("https://a.b.endpoints.huggingface.cloud/v1", "hugging"),
        ("https://nothuggingface.co/v1", "open"),
        ("https://huggingface.co.evil.example/v1", "open"),
        ("https://someone.hf.space/v1", "open"),
    ],
)
def test_each_host_is_given_its_own_key_and_no_other(base: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "open")
    monkeypatch.setenv("HF_TOKEN", "hugging\n")
    assert credentials.headers(base) == {"Authorization": f"Bearer {key}"}
    monkeypatch.delenv("OPENAI_API_KEY" if key == "open" else "HF_TOKEN")
    assert credentials.headers(base) == {}


def test_a_key_never_travels_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not even begin."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY would be sent unencrypted"):
        served_model.load(["http://far.example/v1#m"], ".", None, "cpu")


@pytest.mark.parametrize("key", ["secret\nX-Other: 1", "secr\u00e9t", "secret\udcff"])
def test_what_is_no_key_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds more than a key") as refused:
        credentials.headers("https://far.example/v1")
    assert "secr" not in str(refused.value)
    monkeypatch.setenv(serve.KEY, key)
    with pytest.raises(ConfigError, match="a key is printable ASCII") as refused:
        serve.parse([])
    assert "secr" not in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [["key=secret", "key=secrets"], ["key= secret"], ["http://me:secret@127.0.0.1/v1"], ["http://a@secret[/v1#m"]],
)
def test_a_refusal_shows_no_key(words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        served_model.load(serve.parse(words).models, ".", None, "cpu")
    assert "secret" not in str(refused.value)
