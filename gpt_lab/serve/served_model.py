"""The models that are served: runs, folders in Hugging Face's form, endpoints elsewhere."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpt_lab.data import chat_template
from gpt_lab.data.chat_template import ChatTemplate
from gpt_lab.data.tokenizers.library import FILE, HuggingFaceTokenizer
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.devices.pick import pick
from gpt_lab.errors import ConfigError, DataError, quoted
from gpt_lab.infer.light_layers import lighten
from gpt_lab.infer.trained_model import load_run, weights_digest
from gpt_lab.interchange import released_folder
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.objective.base import NEXT
from gpt_lab.store import find_run

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class LocalModel:
    """A model in this process.

    Fields:
        name: under which it is asked for. source: the folder it is from. digest: of its weights, 64 hex digits.
        text: the run's own prompt, to begin with; "" where it has none. vocabulary: the same of two models means that
            the same token is the same text. template: None: it only continues text.
    """

    name: str
    model: GPT
    tokenizer: Tokenizer
    source: Path
    digest: str
    text: str
    vocabulary: str
    template: ChatTemplate | None = None


@dataclass(frozen=True)
class RemoteModel:
    """A model behind another OpenAI-compatible server.

    Fields:
        name: under which it is asked for here. base: the URL up to /v1. model: its name there.
    """

    name: str
    base: str
    model: str

    def headers(self) -> dict[str, str]:
        """What authenticates there: the key in the environment, read anew for each request and kept nowhere.

        Raises:
            ConfigError: the key would travel unencrypted.
        """
        host = urlsplit(self.base).hostname or ""
        names = ("HF_TOKEN", "OPENAI_API_KEY") if host.endswith((".huggingface.co", ".huggingface.cloud")) else ()
        key = next((os.environ[one] for one in names or ("OPENAI_API_KEY",) if os.environ.get(one)), None)
        if key is None:
            return {}
        if not self.base.startswith("https://") and host not in LOCAL_HOSTS:
            raise ConfigError(
                f"{self.base} is not https, and the key would be sent unencrypted: unset it, or use https"
            )
        return {"Authorization": f"Bearer {key}"}


Served = LocalModel | RemoteModel


def load(
    words: Sequence[str],
    runs_dir: str,
    checkpoint: str | None,
    device: str,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Served]:
    """The models that words of a command line mean, by name.

    Args:
        words: each a run (as of store.find_run), a folder with a config.json, or http://host/v1#model.
        checkpoint: of all runs; None: the best of each.

    Raises:
        ConfigError: two words mean the same, a URL is incomplete, a model continues no text.
        DataError: there is no such run or folder, or it is damaged.
    """
    found: dict[str, Served] = {}
    for word in words:
        made = _remote(word) if "://" in word else _local(word, runs_dir, checkpoint, device, say)
        if any(_place(made) == _place(one) for one in found.values()):
            raise ConfigError(f"{quoted(word)} is given twice: leave one out")
        if made.name in found:
            made = dataclasses.replace(made, name=word.rstrip("/"))
        found[made.name] = made
    return found


def _place(served: Served) -> tuple[str, ...]:
    """Where a model is."""
    return (served.base, served.model) if isinstance(served, RemoteModel) else (str(served.source.resolve()),)


def describe(served: Served) -> dict[str, Any]:
    """What a page should know of a model, beside what the API says."""
    if isinstance(served, RemoteModel):
        return {"kind": "remote", "chat": True, "vocabulary": None, "text": "", "context": None}
    shape = served.model.shape
    return {
        "kind": "local",
        "chat": served.template is not None,
        "vocabulary": served.vocabulary,
        "text": served.text,
        "context": shape.context,
    }


def _remote(word: str) -> RemoteModel:
    base, _, name = word.partition("#")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname or not name:
        raise ConfigError(f"{quoted(word)} is no endpoint: write http://HOST/v1#MODEL, with the model's name there")
    if parts.username or parts.password or parts.query:
        raise ConfigError("an endpoint takes no key in its address: set OPENAI_API_KEY in the environment")
    return RemoteModel(name, base.rstrip("/"), name)


def _local(word: str, runs_dir: str, checkpoint: str | None, device: str, say: Callable[[str], None]) -> LocalModel:
    folder = Path(word).expanduser()
    if released_folder.is_one(folder):
        return _released(folder, checkpoint, device)
    run = find_run(runs_dir, word)
    model, tokenizer, _, name = load_run(run, checkpoint, device, say)
    lighten(model)
    own = run.record.get("prompt")
    return _checked(
        LocalModel(
            name=f"{run.study}/{run.name}",
            model=model,
            tokenizer=tokenizer,
            source=run.path,
            digest=weights_digest(run.checkpoints / name),
            text=own if isinstance(own, str) else "",
            vocabulary=_vocabulary(tokenizer),
            template=ChatTemplate.load(run.path),
        )
    )


def _released(folder: Path, checkpoint: str | None, device: str) -> LocalModel:
    if checkpoint is not None:
        raise ConfigError(f"{folder} is a folder in Hugging Face's form, which has no checkpoint={checkpoint}")
    if not (folder / FILE).is_file():
        raise DataError(f"{folder} has no {FILE}: without a tokenizer there is no text to continue")
    where, _ = pick(device)
    opened = released_folder.read(folder, "model")
    tokenizer = HuggingFaceTokenizer(path=str(folder))
    model = GPT(dataclasses.replace(opened.cfg, kernel={"name": "math"}), opened.vocab_size)
    if tokenizer.vocab_size > opened.vocab_size:
        raise DataError(f"{folder}: its tokenizer has {tokenizer.vocab_size} tokens, its model {opened.vocab_size}")
    model.load_state_dict(opened.weights)
    model.to(where).eval()
    lighten(model)
    model.choose_kernels(where, "fp32")
    name = re.sub(r"\s+", "-", folder.resolve().name)
    jinja = folder / chat_template.FILE
    ours = jinja.is_file() and jinja.read_text(encoding="utf-8", errors="replace") == chat_template.JINJA
    template = ChatTemplate(tokenizer) if ours else None
    return _checked(LocalModel(name, model, tokenizer, folder, opened.digest, "", _vocabulary(tokenizer), template))


def _checked(made: LocalModel) -> LocalModel:
    if made.model.generates != NEXT:
        raise ConfigError(f"{made.source} cannot be served: its model does not say one token after the other")
    return made


def _vocabulary(tokenizer: Tokenizer) -> str:
    """16 hex digits over the bytes of each token."""
    digest = hashlib.sha256()
    for token in range(tokenizer.vocab_size):
        digest.update(b"%d:%b," % (token, tokenizer.decode_bytes([token])))
    return digest.hexdigest()[:16]
