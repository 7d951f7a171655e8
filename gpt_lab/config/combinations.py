"""Checks of settings against each other: impossible combinations, and settings without an effect. No torch."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError, quoted

STUDY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]{0,199}")
"""Names of studies: folders on any disk, groups in W&B."""
TRIED = 100_000
"""Numbers that are looked through for those to offer."""
OFFERED = 8
MOST_LENGTHS = 8
"""Lengths of rows: a compiled model is compiled for each, and no more than so many times."""


def check(cfg: RunConfig) -> None:
    """Refuses a config that no model, batch or folder could have.

    Raises:
        ConfigError: the line names the settings, and values that would do.
    """
    _check_model(cfg)
    _check_budget(cfg)
    _check_batch(cfg)
    contexts = cfg.eval.contexts
    if contexts[:1] != [1] or any(b <= a for a, b in itertools.pairwise(contexts)):
        raise ConfigError(f"eval.contexts must begin with 1 and rise, such as [1, 2, 4, 8], not {quoted(contexts)}")
    if cfg.match is None and cfg.match_to is not None:
        raise ConfigError(f"match_to={cfg.match_to} needs match=params or match=flops: it says how many of what")
    if cfg.match == "flops" and cfg.objective.get("teacher") is not None and cfg.objective.get("alpha") != 0:
        raise ConfigError(
            "match=flops makes models equal and leaves a teacher out: use match=params, or budget.flops, which counts "
            "its forward pass"
        )
    if cfg.adapt.rank is not None and cfg.model_from is None and cfg.resume_from is None:
        raise ConfigError(
            f"adapt.rank={cfg.adapt.rank} trains adapters of weights that stay as they are: name a trained model with "
            "model_from=RUN"
        )
    name, number = cfg.parallel["name"], cfg.gpus_per_trial
    if number > 1 and name == "none":
        raise ConfigError(f"gpus_per_trial={number} needs parallel=ddp or parallel=fsdp: how devices share the run")
    if number == 1 and name != "none":
        raise ConfigError(f"parallel={name} needs gpus_per_trial=2 or more: how many devices share the run")
    check_study("study", cfg.study)


def check_study(where: str, name: str) -> None:
    """Refuses a name that cannot be a study's.

    Raises:
        ConfigError: the line says what can.
    """
    if not STUDY.fullmatch(name):
        raise ConfigError(f"{where} must be a plain folder name (200 letters, digits, . _ = -), not {quoted(name)}")


def refuse_ignored(stated: Collection[str], tree: Mapping[str, Any]) -> None:
    """Refuses a setting that the others leave without any effect: whoever gave it expects one.

    Args:
        stated: keys that somebody gave. tree: the composed settings.

    Raises:
        ConfigError: the line names the setting that rules it out.
    """
    for key, why in _ignored(tree):
        given = next((one for one in stated if one == key or one.startswith(f"{key}.")), None)
        if given is not None:
            raise ConfigError(f"{given} would change nothing: {why}")


def _ignored(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data, tokenizer, sample = tree["data"], tree["tokenizer"], tree["sample"]
    adapt, quantize = tree.get("adapt") or {}, tree.get("quantize") or {}
    if adapt.get("rank") is None:
        yield from ((f"adapt.{key}", "there are no adapters without adapt.rank") for key in adapt if key != "rank")
    elif adapt.get("bits") is None:
        yield "adapt.group", "weights are in groups with adapt.bits=4 or 8 only"
    if quantize.get("bits") is None:
        yield "quantize.group", "weights are in groups with quantize.bits=4 or 8 only"
    if not tree["optim"].get("weight_decay"):
        yield "schedule.weight_decay", f"optim={tree['optim']['name']} has no optim.weight_decay above 0 to change"
    if data["name"] == "synthetic":
        own = "data=synthetic makes its own symbols (data.symbols says how many) and no text: leave it out"
        yield from ((key, own) for key in ("tokenizer", "sample.prompt", "sample.temperature"))
        if sample.get("tokens"):
            yield "sample.tokens", own
    elif tree["objective"]["name"] == "mlm":
        yield from ((f"sample.{key}", "objective=mlm writes no text") for key in ("prompt", "temperature"))
        if sample.get("tokens"):
            yield "sample.tokens", "objective=mlm writes no text"
    elif sample.get("tokens") == 0:
        yield from ((f"sample.{key}", "sample.tokens=0 draws no text") for key in ("prompt", "temperature"))
    if not tree["eval"].get("tasks"):
        yield from ((f"eval.{key}", "eval.tasks names no task") for key in ("items", "shots"))
    if tree["optim"]["name"] == "schedule_free":
        held = "optim=schedule_free takes the warm-up alone and stays at the peak: leave it out"
        yield from ((f"schedule.{key}", held) for key in ("final", "cooldown", "shape"))
    if tree["batch"].get("packing") != "bucketed" and not tree["batch"].get("curriculum"):
        yield "batch.shortest", "rows are of one length without batch.packing=bucketed or batch.curriculum"
    for other in ("val_path", "val_split"):
        if data.get(other) is not None:
            yield "data.val_fraction", f"data.{other} names the validation text: leave one of them out"
    for kind, settings in (("data", data), ("tokenizer", tokenizer)):
        path = settings.get("path")
        if settings["name"] == "hf" and isinstance(path, str) and os.path.exists(os.path.expanduser(path)):
            yield f"{kind}.revision", f"{kind}.path={path} is here and no name on the Hub: leave it out"


def _check_model(cfg: RunConfig) -> None:
    scale = cfg.scale
    if scale.width % scale.heads:
        fitting = [h for h in _divisors(scale.width) if h <= 4 * scale.heads][-OFFERED:]
        raise ConfigError(
            f"scale.heads={scale.heads} does not divide scale.width={scale.width} (heads that do: "
            f"{', '.join(map(str, fitting))})"
        )
    for where, attention in registry.parts_of("attention", cfg.attention):
        kv_heads = attention.get("kv_heads")
        if kv_heads and scale.heads % kv_heads:
            raise ConfigError(f"{where}.kv_heads={kv_heads} does not divide scale.heads={scale.heads}")
        window = attention.get("window")
        if window and window > scale.context:
            raise ConfigError(
                f"{where}.window={window} is larger than scale.context={scale.context}: "
                "make the window smaller or choose attention=mha"
            )
    for kind, settings in (("attention", cfg.attention), ("mlp", cfg.mlp)):
        pattern = settings.get("first", "") + settings.get("pattern", "")
        for where, _ in registry.parts_of(kind, settings):
            letter = where.rpartition(".")[2]
            if where != kind and letter not in pattern[: scale.depth]:
                raise ConfigError(
                    f"{kind}.pattern={pattern}: {scale.depth} layers (scale.depth) never come to letter {letter}: "
                    "shorten the pattern or use more layers"
                )


def _check_budget(cfg: RunConfig) -> None:
    given = [f.name for f in dataclasses.fields(cfg.budget) if getattr(cfg.budget, f.name) is not None]
    if len(given) != 1:
        said = "none is" if not given else " and ".join(given) + " are"
        raise ConfigError(
            f"exactly one of budget.steps, budget.tokens, budget.flops, budget.seconds is needed: {said} set"
        )


def _check_batch(cfg: RunConfig) -> None:
    batch, context = cfg.batch, cfg.scale.context
    for key, tokens in (("tokens", batch.tokens), ("start", batch.start)):
        if tokens is None:
            continue
        if tokens % context:
            below = tokens // context * context
            near = f"{below or context} or {below + context}" if below else str(context)
            raise ConfigError(f"batch.{key}={tokens} is not a multiple of scale.context={context} (nearest: {near})")
        rows = tokens // context
        if batch.micro is not None and rows % batch.micro:
            micro = batch.micro
            fitting = sorted(sorted(_divisors(rows), key=lambda m: abs(m - micro))[:OFFERED])
            raise ConfigError(
                f"batch.micro={micro} does not divide the {rows} rows of {'a' if key == 'tokens' else 'the first'} "
                f"step (nearest that do: {', '.join(map(str, fitting))})"
            )
    if (batch.start is None) != (batch.ramp is None):
        given, other = ("start", "ramp") if batch.ramp is None else ("ramp", "start")
        raise ConfigError(
            f"batch.{given} needs batch.{other}: the batch grows from batch.start tokens to batch.tokens over the "
            "first batch.ramp tokens"
        )
    _check_rows(cfg)
    if batch.start is not None and batch.start >= batch.tokens:
        raise ConfigError(f"batch.start={batch.start} must be less than batch.tokens={batch.tokens}, to which it grows")


def _check_rows(cfg: RunConfig) -> None:
    """Refuses row lengths that cannot be, or that leave open how much a budget pays for."""
    batch, budget, lengths = cfg.batch, cfg.budget, cfg.row_lengths
    bucketed = batch.packing == "bucketed"
    if cfg.data["name"] == "synthetic" and (batch.packing != "stream" or batch.curriculum):
        key = "packing" if batch.packing != "stream" else "curriculum"
        raise ConfigError(f"batch.{key} needs text: data=synthetic makes rows of scale.context={cfg.scale.context}")
    if batch.shortest is not None and batch.shortest > cfg.scale.context:
        raise ConfigError(f"batch.shortest={batch.shortest} is more than scale.context={cfg.scale.context}: lower it")
    if len(lengths) > MOST_LENGTHS and (bucketed or batch.curriculum):
        raise ConfigError(
            f"batch.shortest={batch.shortest} makes rows of {len(lengths)} lengths, each half of the next: raise it to "
            f"{lengths[-MOST_LENGTHS]} or more, for {MOST_LENGTHS} at most"
        )
    if batch.curriculum and len(lengths) == 1:
        raise ConfigError(
            f"batch.curriculum needs shorter rows, halves of scale.context={cfg.scale.context}: lower batch.shortest, "
            "or make the context even"
        )
    if batch.curriculum and budget.steps is None and (bucketed or budget.tokens is None):
        unit = "budget.steps" if bucketed else "budget.steps or budget.tokens"
        raise ConfigError(f"batch.curriculum is a share of the steps, which must be known beforehand: set {unit}")
    if bucketed and batch.start is not None:
        raise ConfigError("batch.packing=bucketed makes batches of one size: leave out batch.start and batch.ramp")
    if bucketed and cfg.data["name"] == "mix":
        raise ConfigError("data=mix needs rows of one length: use batch.packing=stream, bos_aligned or best_fit")


def _divisors(number: int) -> list[int]:
    """What divides a number, up to TRIED."""
    return [n for n in range(1, min(number, TRIED) + 1) if number % n == 0]
