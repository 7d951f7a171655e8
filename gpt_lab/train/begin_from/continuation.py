"""Runs that go on from another's weights, with another position encoding or context: `train resume_from=RUN ...`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gpt_lab import registry
from gpt_lab.adapt import lora
from gpt_lab.config import checked, composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost import match
from gpt_lab.errors import ConfigError
from gpt_lab.infer.trained_model import WEIGHTS, weights_digest, whole_checkpoint
from gpt_lab.model.skip_init import bare_model
from gpt_lab.store import Run, find_run

KEY = "resume_from"
KEPT = ("data", "tokenizer")
"""What a continued run has in common with its origin: without it, weights and losses would mean something else."""
OWN = frozenset(
    {
        *(KEY, "model_from", "study", "runs_dir", "force", "label", "tracker", "match", "match_to"),
        *("parallel", "gpus_per_trial"),
    }
)
"""Settings that are not taken from the origin."""


class Origin(NamedTuple):
    """What a run begins with.

    Fields:
        told: what the run's record says of it: name, id and checkpoint of a run, or a folder.
        digest: of the weights. weights: reads them.
    """

    told: Mapping[str, Any]
    digest: str
    weights: Callable[[], Mapping[str, Tensor]]


def of_run(run: Run) -> Origin:
    """The newest whole checkpoint of a run."""
    place = whole_checkpoint(run, "last")
    told = {"run": f"{run.study}/{run.name}", "id": run.record.get("id"), "checkpoint": place.resolve().name}
    return Origin(told, weights_digest(place), lambda: lora.plain(load_file(place / WEIGHTS)))


def compose(words: Sequence[str]) -> RunConfig:
    """The config of a command line with `resume_from=RUN`: what it does not say is as in that run.

    Options that a part shares with the one it replaces keep values other than its defaults, such as position.base;
    position.original becomes that run's context.

    Raises:
        ConfigError: as config.composition.compose, or a `model=`, which stands for parts that the run has chosen.
        DataError: no such run.
    """
    asked = composition.compose([word for word in words if word.partition("=")[0] in (KEY, "runs_dir")])
    if asked.resume_from is None:
        return match.compose(words)
    stated = {word.lstrip("+").partition("=")[0] for word in words}
    for key in ("model", "experiment", "match"):
        if key in stated:
            raise ConfigError(f"{key}=... cannot be given with {KEY}: its settings are those of the run it names")
    run = find_run(asked.runs_dir, asked.resume_from)
    theirs = checked.from_dict(run.config).to_dict()
    usual = composition.compose_tree([])
    chosen = [
        f"{kind}={theirs[kind]['name']}"
        for kind in registry.KINDS
        if kind not in stated | OWN and theirs[kind]["name"] != usual[kind]["name"]
    ]
    tree = composition.compose_tree([*chosen, *words])
    budget = any(key.startswith("budget.") for key in stated)
    for key, value in theirs.items():
        if key in OWN or (key == "budget" and budget) or (key in stated and key not in registry.KINDS):
            continue
        if not isinstance(value, dict):
            tree[key] = value
            continue
        swapped = registry.get(key, value["name"]).options if key in stated else {}
        for name, inner in value.items():
            usual_there = name in swapped and swapped[name].default == inner
            if name in tree[key] and name != "name" and f"{key}.{name}" not in stated and not usual_there:
                tree[key][name] = inner
    position = tree["position"]
    if position.get("original", 0) is None and position.get("scaling") != "none":  # of the context before stretching
        tree["position"]["original"] = theirs["scale"]["context"]
    named = f"{run.study}/{run.name}"
    found = named if (Path(asked.runs_dir) / named).resolve() == run.path.resolve() else str(run.path)
    return checked.from_dict(tree | {KEY: found, "label": composition.label(words)})


def find(cfg: RunConfig, vocab_size: int) -> Origin | None:
    """The origin that a config names, whose weights fit; None if it names none.

    Raises:
        ConfigError: other data, or weights of another shape; the line names the setting. DataError: no such run.
    """
    if cfg.resume_from is None:
        return None
    run = find_run(cfg.runs_dir, cfg.resume_from)
    theirs = checked.from_dict(run.config)
    for key in KEPT:
        if getattr(theirs, key) != getattr(cfg, key):
            raise ConfigError(f"{KEY}={cfg.resume_from}: {key} must stay as it is in that run: leave {key} out")
    there = {name: tuple(tensor.shape) for name, tensor in of_run(run).weights().items()}
    here = {name: tuple(tensor.shape) for name, tensor in bare_model(cfg, vocab_size).state_dict().items()}
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name) and not (_of_position(name) and (name not in there or name not in here)):
            was, now = (_shown(shapes.get(name)) for shapes in (there, here))
            raise ConfigError(
                f"{KEY}={cfg.resume_from}: {name} {was} in that run and {now} here: leave out the setting that changes "
                "it (a position encoding may be another one, and so may scale.context where it has no table)"
            )
    return of_run(run)


def load(model: nn.Module, origin: Origin) -> None:
    """Takes over all weights but those of a position encoding that is not the model's."""
    known = model.state_dict()
    tensors = {name: tensor for name, tensor in origin.weights().items() if name in known}
    with torch.no_grad():
        model.load_state_dict(known | tensors)


def _of_position(name: str) -> bool:
    return name.startswith("position.")


def _shown(shape: tuple[int, ...] | None) -> str:
    return "is not there" if shape is None else f"is {' x '.join(map(str, shape)) or 'one number'}"
