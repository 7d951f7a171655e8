"""The teacher of an objective: a run, or a model in Hugging Face's form, whose frozen predictions a loss reads.

It must have the run's tokens and at least its context. What it was trained on decides whether it can have seen the
validation text: a run on the same data, by fingerprint, has not; of any other nobody can say, and the run says so.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from gpt_lab.adapt import lora
from gpt_lab.config import checked
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost.flops import cost_of
from gpt_lab.data.base import Dataset
from gpt_lab.data.tokenizers.library import HuggingFaceTokenizer
from gpt_lab.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.infer.trained_model import WEIGHTS, weights_digest, whole_checkpoint
from gpt_lab.interchange import released_folder
from gpt_lab.metrics import EXACT
from gpt_lab.model.gpt import GPT
from gpt_lab.model.skip_init import bare_model
from gpt_lab.parts.objective.base import Objective
from gpt_lab.store import Run, find_run
from gpt_lab.train.precision import Precision

TOKENIZER = "tokenizer.json"
KEY = "objective.teacher"
CONVERSATIONS = ("chat", "preferences")
"""Data that may hold what the lab makes of conversations."""


@dataclass(frozen=True)
class Teacher:
    """A teacher that fits the run.

    Fields:
        name: as a reader knows it. place: the folder of its weights. cfg, vocab_size: what its model is made of.
        digest: of the weights and the settings.
        seen: why it may have seen the validation text, in words; "" where it cannot.
        parameters: of its model. forward: FLOPs of a token. spent: FLOPs of its own training, where they are known.
    """

    name: str
    place: Path
    cfg: RunConfig
    vocab_size: int
    digest: str
    seen: str
    parameters: int
    forward: int
    spent: float | None

    def told(self) -> dict[str, Any]:
        """What the run's record says of it."""
        return {"name": self.name, "weights": self.digest, "parameters": self.parameters, "flops": self.spent}

    def note(self, train_flops_per_token: int) -> str:
        """What it costs, in a line."""
        share = self.forward / train_flops_per_token
        own = "" if self.spent is None else f", {self.spent:.3g} FLOPs to train it"
        return (
            f"teacher {self.name}: {self.parameters:,} parameters{own}; its forward pass is {share:.0%} of the "
            "training FLOPs"
        )

    def load(self, device: str, precision: Precision, documents: bool) -> GPT:
        """Its model, frozen, on the device.

        Raises:
            DataError: the weights are not those of its configuration.
        """
        model = GPT(replace(self.cfg, kernel={"name": "auto"}), self.vocab_size)
        try:
            if released_folder.is_one(self.place):
                model.load_state_dict(released_folder.read(self.place, KEY).weights)
            else:
                model.load_state_dict(lora.plain(load_file(self.place / WEIGHTS)))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise DataError(f"cannot use {self.place}: {' '.join(str(error).split())[:300]}") from error
        model.requires_grad_(False)
        model.to(device).eval()
        model.choose_kernels(device, precision.products, documents=documents)
        return model


def find(cfg: RunConfig, dataset: Dataset, objective: Objective) -> Teacher | None:
    """The teacher that the objective names; None if it names none.

    Raises:
        ConfigError: it has other tokens, a shorter context, or predicts no next token. DataError: there is none.
    """
    if objective.teacher is None:
        return None
    tokenizer: Tokenizer | None
    folder = Path(objective.teacher).expanduser()
    if released_folder.is_one(folder):
        found, tokenizer = _of_hugging_face(folder)
    else:
        found, tokenizer = _of_run(cfg, objective.teacher, dataset)
    name = f"{KEY}={objective.teacher}"
    if tokenizer is not None and dataset.tokenizer is not None and _saved(tokenizer) != _saved(dataset.tokenizer):
        raise ConfigError(
            f"{name} has another tokenizer than this run ({tokenizer.vocab_size:,} tokens, here "
            f"{dataset.vocab_size:,}): a teacher must have the same tokens; use its data and tokenizer"
        )
    if found.vocab_size < dataset.vocab_size:
        raise ConfigError(f"{name} predicts {found.vocab_size:,} tokens, and this run has {dataset.vocab_size:,}")
    context = found.cfg.scale.context
    if context < cfg.scale.context:
        raise ConfigError(
            f"{name} was trained with scale.context={context}, less than {cfg.scale.context}: it says nothing of later "
            f"tokens; lower scale.context to {context}"
        )
    model = bare_model(replace(found.cfg, scale=replace(found.cfg.scale, context=cfg.scale.context)), found.vocab_size)
    cost = cost_of(model)
    return replace(found, parameters=cost.parameters, forward=cost.train_flops_per_token // 3)


def _of_run(cfg: RunConfig, name: str, dataset: Dataset) -> tuple[Teacher, Tokenizer | None]:
    try:
        run = find_run(cfg.runs_dir, name)
    except DataError as error:
        raise DataError(f"{KEY}={name}: {error}; a folder of Hugging Face's has a config.json") from None
    theirs = checked.from_dict(run.config)
    measure = (run.record.get("text") or {}).get("measure", EXACT)
    if measure != EXACT:
        own = theirs.objective["name"]
        raise ConfigError(f"{KEY}={name} was trained with objective={own}: it predicts no next token")
    place = whole_checkpoint(run, "last")  # not `best`, which the validation text has chosen
    shown = f"{run.study}/{run.name}"
    tokenizer: Tokenizer | None = None
    vocab_size = dataset.vocab_size
    if (run.path / "tokenizer").is_dir():
        tokenizer = load_tokenizer(run.path / "tokenizer")
        vocab_size = tokenizer.vocab_size
    elif _data(run) != dataset.fingerprint:
        raise ConfigError(f"{KEY}={name} was trained on data={theirs.data['name']}, which this run is not")
    spent = run.summary.get("flops")
    seen = may_have_seen(run, f"teacher {shown}", dataset)
    digest = _digest((weights_digest(place), theirs.identity()))
    made = Teacher(shown, place, theirs, vocab_size, digest, seen, 0, 0, spent)
    return made, tokenizer


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _data(run: Run) -> Any:
    return (run.record.get("resolved") or {}).get("data")


def may_have_seen(run: Run, name: str, dataset: Dataset) -> str:
    """Why a run may have seen the validation text."""
    inherited = (run.record.get("text") or {}).get("seen")
    if inherited:
        return f"{name} learnt from another: {inherited}"
    if dataset.made and run.config["data"]["name"] not in CONVERSATIONS:
        return ""
    if _data(run) != dataset.fingerprint:
        return f"{name} was trained on other data, which may hold the validation text"
    return ""


def _of_hugging_face(folder: Path) -> tuple[Teacher, Tokenizer]:
    if not (folder / TOKENIZER).is_file():
        raise DataError(f"{KEY}={folder} has no {TOKENIZER}: whether its tokens are those of this run cannot be told")
    found = released_folder.read(folder, KEY)
    seen = f"nobody here knows what teacher {folder.name} was trained on: it may have read the validation text"
    made = Teacher(str(folder), folder, found.cfg, found.vocab_size, found.digest, seen, 0, 0, None)
    return made, HuggingFaceTokenizer(path=str(folder))


def _saved(tokenizer: Tokenizer) -> dict[str, bytes]:
    """All that a tokenizer is, by file."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}
