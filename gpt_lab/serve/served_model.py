"""The models that are served: runs, folders in Hugging Face's form, endpoints elsewhere."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpt_lab.data import chat_template
from gpt_lab.data.chat_template import ChatTemplate
from gpt_lab.data.tokenizers.library import FILE
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.errors import ConfigError, DataError, quoted
from gpt_lab.infer.light_layers import lighten
from gpt_lab.infer.trained_model import load_folder, load_run, weights_digest
from gpt_lab.interchange import released_folder
from gpt_lab.interchange.jinja_template import JinjaTemplate
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.objective.base import NEXT
from gpt_lab.serve import credentials
from gpt_lab.store import find_run


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
    template: ChatTemplate | JinjaTemplate | None = None

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a text, or a turn."""
        own = frozenset(() if self.tokenizer.eot is None else (self.tokenizer.eot,))
        return own | self.template.stops if isinstance(self.template, JinjaTemplate) else own


@dataclass(frozen=True)
class RemoteModel:
    """A model behind another OpenAI-compatible server.

    Fields:
        name: under which it is asked for here. base: the URL up to /v1. model: its name there.
    """

    name: str
    base: str
    model: str


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
        ConfigError: two words mean the same, or different models for which no two names are left; a URL is none, or its
            key cannot be sent; a model continues no text.
        DataError: there is no such run or folder, or it is damaged.
    """
    found: dict[str, Served] = {}
    for word in words:
        made = _remote(word) if "://" in word else _local(word, runs_dir, checkpoint, device, say)
        if any(_place(made) == _place(one) for one in found.values()):
            raise ConfigError(f"{quoted(word)} is given twice: leave one out")
        names = (made.name, word.rstrip("/"), "#".join(_place(made)))
        name = next((one for one in names if one not in found), None)
        if name is None:
            raise ConfigError(f"{quoted(word)} has the name of another model here: leave one out")
        found[name] = dataclasses.replace(made, name=name)
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
    if "@" in base or "?" in base:  # said without the word, which may hold a key
        raise ConfigError("an endpoint takes no key in its address: set OPENAI_API_KEY in the environment")
    try:
        parts = urlsplit(base)
        complete = bool(parts.scheme in ("http", "https") and parts.hostname and name) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:  # brackets that do not close, a port that is none, an empty part of a name
        complete = False
    if not complete:
        raise ConfigError(f"{quoted(word)} is no endpoint: write http://HOST/v1#MODEL, with the model's name there")
    credentials.headers(base)
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
    opened = load_folder(folder, device)
    tokenizer, size = opened.tokenizer, opened.model.vocab_size
    if tokenizer is None:
        raise DataError(f"{folder} has no {FILE}: without a tokenizer there is no text to continue")
    if tokenizer.vocab_size > size:
        raise DataError(f"{folder}: its tokenizer has {tokenizer.vocab_size} tokens, its model {size}")
    lighten(opened.model)
    name = re.sub(r"\s+", "-", folder.resolve().name)
    jinja = folder / chat_template.FILE
    ours = jinja.is_file() and jinja.read_text(encoding="utf-8", errors="replace") == chat_template.JINJA
    template = ChatTemplate(tokenizer) if ours else JinjaTemplate.load(folder, tokenizer)
    vocabulary = _vocabulary(tokenizer)
    return _checked(LocalModel(name, opened.model, tokenizer, folder, opened.digest, "", vocabulary, template))


def _checked(made: LocalModel) -> LocalModel:
    if made.model.generates != NEXT:
        raise ConfigError(f"{made.source} cannot be served: its model is not autoregressive")
    return made


def _vocabulary(tokenizer: Tokenizer) -> str:
    """16 hex digits over the bytes of each token."""
    digest = hashlib.sha256()
    for token in range(tokenizer.vocab_size):
        digest.update(b"%d:%b," % (token, tokenizer.decode_bytes([token])))
    return digest.hexdigest()[:16]
