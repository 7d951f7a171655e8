"""Keys: which host is given which, and what can be one. Imports no torch."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from gpt_lab.errors import ConfigError

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
HUGGING_FACE = (".huggingface.co", ".huggingface.cloud")
"""Ends of the hosts that are given HF_TOKEN, and no other key; no other host is given it."""


def is_key(text: str) -> bool:
    """Whether a header can hold it: printable ASCII characters, with no space around them."""
    return text.isascii() and text.isprintable() and bool(text) and text == text.strip()


def headers(base: str) -> dict[str, str]:
    """What authenticates at a URL: the key in the environment, read anew for each request and kept nowhere.

    Raises:
        ConfigError: the key would travel unencrypted, or is none that a header can hold.
    """
    host = (urlsplit(base).hostname or "").rstrip(".")
    name = "HF_TOKEN" if f".{host}".endswith(HUGGING_FACE) else "OPENAI_API_KEY"
    key = os.environ.get(name, "").strip()
    if not key:
        return {}
    if not is_key(key):
        raise ConfigError(f"{name} holds more than a key: set it to the key alone, on one line, of ASCII characters")
    if not base.lower().startswith("https://") and host not in LOCAL_HOSTS:
        raise ConfigError(f"{base} is not https, and {name} would be sent unencrypted: unset it, or use https")
    return {"Authorization": f"Bearer {key}"}
