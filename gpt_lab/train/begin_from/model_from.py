"""Runs that begin with a model of others or of another run: `train model_from=FOLDER|RUN ...`.

Its weights fix the parts, the sizes and the tokenizer; data, optimizer, schedule and budget are the run's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gpt_lab import registry
from gpt_lab.config import checked, composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.data.base import Dataset
from gpt_lab.data.tokenizers.library import FILE
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.interchange import released_folder
from gpt_lab.interchange.counterpart import TRAINED_WITH
from gpt_lab.model.skip_init import bare_model
from gpt_lab.store import find_run
from gpt_lab.train.begin_from.continuation import Origin, of_run
from gpt_lab.train.begin_from.teacher import may_have_seen

KEY = "model_from"
FIXED = ("attention", "position", "norm", "mlp", "residual", "init", "model", "scale", "tokenizer")
"""Groups and sections that the weights fix."""
FREE = TRAINED_WITH - {"vocab_multiple"}
"""Options of these that training may choose."""
READY_MADE = ("byte", "hf", "tiktoken")
"""Tokenizers that are the same whatever they are fitted on."""


class _Found(NamedTuple):
    """The config that the weights are of; the tokenizer's settings, None where there is none; name and seen as told."""

    cfg: RunConfig
    tokenizer: Mapping[str, Any] | None


def compose(words: Sequence[str]) -> RunConfig:
    """The config of a command line with `model_from=...`: what the weights fix is theirs.

    Raises:
        ConfigError: as config.composition.compose; a setting that contradicts the weights, by name.
        DataError: no such folder or run, or a file of it cannot be read.
    """
    asked = composition.compose([word for word in words if word.partition("=")[0] in (KEY, "runs_dir")])
    assert asked.model_from is not None
    name = f"{KEY}={asked.model_from}"
    found = _look_up(asked.model_from, asked.runs_dir)
    stated = {word.lstrip("+").partition("=")[0]: word.partition("=")[2] for word in words}
    for key in ("model", "match", "resume_from"):
        if key in stated:
            raise ConfigError(f"{key}=... cannot be given with {name}, which has a model already: leave it out")
    if "experiment" in stated:
        _check_experiment(stated["experiment"], name)
    fixed = {key: value for key, value in stated.items() if key.split(".")[0] in FIXED}
    if found.tokenizer is None:
        fixed = {key: value for key, value in fixed.items() if key.split(".")[0] != "tokenizer"}
    tree = composition.compose_tree([word for word in words if word.lstrip("+").partition("=")[0] not in fixed])
    theirs = found.cfg.to_dict()
    tree |= {key: theirs[key] for key in FIXED if key != "tokenizer"}
    if found.tokenizer is not None:
        same = found.cfg.model_from is None and tree["data"] == theirs["data"]
        tree["tokenizer"] = dict(theirs["tokenizer"] if same and "data" in theirs else found.tokenizer)
    for key, text in fixed.items():
        _apply(tree, key, yaml.safe_load(text), name)
    context = tree["scale"]["context"]
    if "batch.tokens" not in stated:  # whole sequences must fit
        tree["batch"]["tokens"] = -(-tree["batch"]["tokens"] // context) * context
    return checked.from_dict(tree | {"label": composition.label(words)})


def _check_experiment(experiment: str, name: str) -> None:
    """Refuses an experiment that is about the model."""
    asked, usual = composition.compose_tree([f"+experiment={experiment}"]), composition.compose_tree([])
    for key in FIXED:
        if asked[key] != usual[key]:
            raise ConfigError(
                f"experiment={experiment} sets {key}, which the weights of {name} fix: use an experiment that sets no "
                f"{', '.join(FIXED[:-1])} or {FIXED[-1]}"
            )


def _apply(tree: dict[str, Any], key: str, value: Any, name: str) -> None:
    """Sets what training may choose; refuses what is not as the weights have it."""
    *above, last = key.split(".") if "." in key else [key, "name"]
    section = tree
    for one in above:
        section = section.get(one) if isinstance(section, dict) else None  # type: ignore[assignment]
    if not isinstance(section, dict) or last not in section:
        raise ConfigError(f"{key} is no setting of the model of {name}: leave it out")
    shorter = key == "scale.context" and isinstance(value, int) and value <= section[last]
    if last in FREE or shorter:
        section[last] = value
    elif section[last] != value:
        raise ConfigError(f"{key}={value} contradicts {name}, whose weights have {key}={section[last]}: leave it out")


def find(cfg: RunConfig, dataset: Dataset) -> Origin | None:
    """The weights that a config names, which must fit the model and the tokenizer; None: it names none.

    Raises:
        ConfigError: they do not fit; the line names the tensor. DataError: there are none.
    """
    if cfg.model_from is None:
        return None
    folder = Path(cfg.model_from).expanduser()
    if released_folder.is_one(folder):
        opened = released_folder.read(folder, KEY)
        origin = Origin({"run": str(folder), "id": None, "checkpoint": None}, opened.digest, lambda: opened.weights)
    else:
        run = find_run(cfg.runs_dir, cfg.model_from)
        theirs = checked.from_dict(run.config)
        if cfg.tokenizer["name"] not in READY_MADE and cfg.data != theirs.data:
            raise ConfigError(
                f"{KEY}={cfg.model_from}: tokenizer={cfg.tokenizer['name']} would be fitted anew on this data, and its "
                "tokens be others: begin with a run on tokenizer=bpe, byte, hf or tiktoken, whose tokens come along"
            )
        origin = of_run(run)
    there = origin.weights()
    here = bare_model(cfg, dataset.vocab_size).state_dict()
    for name, tensor in here.items():
        wanted, have = tuple(tensor.shape), tuple(there[name].shape) if name in there else None
        if have is None or (have != wanted and not _more_rows(name, have, wanted)):
            shown = "is not there" if have is None else f"is {' x '.join(map(str, have))}"
            raise ConfigError(
                f"{KEY}={cfg.model_from}: {name} {shown}, and this run has it as {' x '.join(map(str, wanted))}: set "
                "nothing that its weights fix, the tokenizer included"
            )
    cut = {name: there[name][: len(tensor)] if tensor.ndim else there[name] for name, tensor in here.items()}
    return origin._replace(weights=lambda: cut)


def _more_rows(name: str, have: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a vocabulary is padded there."""
    return name in ("embed.weight", "head.weight") and have[0] > wanted[0] and have[1:] == wanted[1:]


def why_seen(cfg: RunConfig, dataset: Dataset) -> str:
    """Why a run that begins with a model may have seen the validation text; "" where it has not."""
    if cfg.model_from is None:
        return ""
    if released_folder.is_one(Path(cfg.model_from).expanduser()):
        return f"nobody here knows what {KEY}={cfg.model_from} was trained on: it may have read the validation text"
    return may_have_seen(find_run(cfg.runs_dir, cfg.model_from), f"{KEY}={cfg.model_from}", dataset)


def _look_up(name: str, runs_dir: str) -> _Found:
    folder = Path(name).expanduser()
    if released_folder.is_one(folder):
        tokenizer = {"name": "hf", "path": str(folder)} if (folder / FILE).is_file() else None
        return _Found(released_folder.read(folder, KEY).cfg, _whole("tokenizer", tokenizer))
    try:
        run = find_run(runs_dir, name)
    except DataError as error:
        raise DataError(f"{KEY}={name}: {error}; a folder of Hugging Face's has a config.json") from None
    cfg = checked.from_dict(run.config)
    place = run.path / "tokenizer"
    if (place / FILE).is_file():
        return _Found(_plain(cfg), _whole("tokenizer", {"name": "hf", "path": str(place)}))
    return _Found(_plain(cfg), cfg.tokenizer if place.is_dir() else None)


def _plain(cfg: RunConfig) -> RunConfig:
    """A run's config for another objective: rows of masks are no tokens."""
    return dataclasses.replace(cfg, resume_from=None, model_from=None)


def _whole(kind: str, chosen: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Settings of a part with all of its options."""
    if chosen is None:
        return None
    return {key: option.default for key, option in registry.get(kind, chosen["name"]).options.items()} | dict(chosen)
