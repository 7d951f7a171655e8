"""Size matching: sizes at which a model has the parameters, or costs the FLOPs, of another.

The MLP's hidden width d_ff is set first; where no d_ff will do, the depth, then the width, each with a d_ff of its own.
A model that is within the tolerance already stays as it is, and so does a size that somebody states. Torch is imported
only where a model is counted.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from gpt_lab.config import composition
from gpt_lab.config.overrides import key_of
from gpt_lab.config.schema import MATCHED, TOLERANCE, RunConfig
from gpt_lab.cost import memory
from gpt_lab.errors import ConfigError

PARTS = ("attention", "position", "norm", "mlp", "residual")
"""Groups whose choice a single run is matched against: the same command line without it is the reference."""
NARROWEST, WIDEST = 1 / 4, 16
"""d_ff in units of the model's width: an MLP beyond these is another kind of model, so depth or width change first."""
ALIGNED = 8
"""A multiple of it is taken where the tolerance allows: tensor cores are slow on other widths."""
SHAPING = (*PARTS, "init", "objective", "scale", "model")
Sizes = dict[str, int]


def compose(overrides: Sequence[str], composer: composition.Composer | None = None) -> RunConfig:
    """The config of one run, as config.composition.compose, with the sizes that its `match` asks for.

    `match_to` says how many; without it, as many as the same command line has without its choices of parts (attention,
    position, norm, mlp, residual and their options) or, if it chooses none, without its preset `model=`.

    Args:
        composer: one that has composed others before; None: a new one.

    Raises:
        ConfigError: as config.composition.compose; nothing to match to; no sizes that are close enough.
    """
    composer = composer or composition.Composer(factored=False)
    cfg = composer.compose(overrides)
    if cfg.match is None:
        return cfg
    base = None if cfg.match_to is not None else composer.compose(reference(overrides))
    found = settings(cfg, base, {key_of(text) for text in overrides}, Models())
    return composer.compose([*overrides, *found])


def reference(overrides: Sequence[str]) -> list[str]:
    """The command line that a single run is matched to.

    Raises:
        ConfigError: it would be the same one.
    """
    given = [text for text in overrides if key_of(text) not in ("match", "match_to")]
    for drop in (lambda key: key.split(".")[0] in PARTS, lambda key: key == "model"):
        kept = [text for text in given if not drop(key_of(text))]
        if len(kept) < len(given):
            return kept
    raise ConfigError(
        "match has nothing to match to: this command line chooses no part. Choose one (mlp=gelu), or say how many "
        "with match_to=NUMBER"
    )


def settings(cfg: RunConfig, base: RunConfig | None, stated: Collection[str], models: Models) -> tuple[str, ...]:
    """The overrides that make a config what its `match` asks for: sizes to change, and `match_to`.

    Args:
        base: whose count is wanted; None: cfg.match_to says how many.
        stated: keys that keep the value they have.

    Raises:
        ConfigError: no sizes are close enough; the line names the nearest. A model that fits into no memory here.
    """
    assert cfg.match is not None
    room = memory.free()
    for one in (cfg, base):
        if one is not None:
            memory.check(one, room)
    if base is None:
        assert cfg.match_to is not None
        target, found = cfg.match_to, []
    else:
        if cfg.match == "flops" and (base.data, base.tokenizer) != (cfg.data, cfg.tokenizer):
            raise ConfigError(
                "match=flops needs the data and the tokenizer of what it is matched to: FLOPs per token do not compare "
                "across tokenizers. Use match=params"
            )
        target = models.count(base, cfg.match)
        found = [f"match_to={target}"]
    return (*(f"{key}={value}" for key, value in sizes(cfg, target, stated, models).items()), *found)


def sizes(cfg: RunConfig, target: int, stated: Collection[str], models: Models) -> Sizes:
    """The sizes to change so that a config has `target` of what its `match` counts; {} if it has them.

    Raises:
        ConfigError: as settings.
    """
    from gpt_lab.cost.flops import is_matched

    match = str(cfg.match)
    count = models.count(cfg, match)
    best: tuple[int, Sizes] = count, {}
    if is_matched(count, target, match):
        return {}
    for tried in _tried(cfg, target, stated, models):
        found = _counted(models, match, _with(cfg, tried))
        if found is None:
            continue
        if is_matched(found, target, match):
            return tried
        if abs(found - target) < abs(best[0] - target):
            best = found, tried
    raise ConfigError(_refusal(cfg, target, *best, stated))


class Models:
    """What models cost, each counted once."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._vocabularies: dict[str, int] = {}

    def count(self, cfg: RunConfig, match: str) -> int:
        """The non-embedding parameters (params) or training FLOPs per token (flops) of a config's model.

        Raises:
            ConfigError: its parts and sizes do not fit together. DataError: its data cannot be read.
        """
        vocabulary = self.vocabulary(cfg) if match == "flops" else 1
        shape = [_plain(getattr(cfg, key)) for key in SHAPING]
        optim = _plain(cfg.optim) if match == "flops" else None
        key = json.dumps([match, vocabulary, optim, *shape], sort_keys=True)
        if key not in self._counts:
            from gpt_lab.cost.flops import cost_of, counted
            from gpt_lab.model.skip_init import bare_model

            self._counts[key] = counted(cost_of(bare_model(cfg, vocabulary), cfg.optim), match)
        return self._counts[key]

    def vocabulary(self, cfg: RunConfig) -> int:
        """Tokens of the vocabulary: the head's FLOPs are those of the model too."""
        from gpt_lab.data.dataset import open_dataset

        key = json.dumps([_plain(cfg.data), _plain(cfg.tokenizer), cfg.scale.context], sort_keys=True)
        if key not in self._vocabularies:
            self._vocabularies[key] = open_dataset(cfg).vocab_size
        return self._vocabularies[key]


def _tried(cfg: RunConfig, target: int, stated: Collection[str], models: Models) -> Iterator[Sizes]:
    """Changes of size, the smallest intervention first."""
    for shape in _shapes(cfg, stated):
        if "d_ff" in cfg.mlp and "mlp.d_ff" not in stated:
            changed = _with(cfg, shape)
            count = functools.partial(_counted, models, str(cfg.match), changed)
            yield from ({"mlp.d_ff": d_ff, **shape} for d_ff in _hidden(changed.scale.width, target, count))
        elif shape:
            yield shape


def _shapes(cfg: RunConfig, stated: Collection[str]) -> Iterator[Sizes]:
    """No change, then other depths, then other widths, each from half to twice, the nearest first."""
    yield {}
    scale = cfg.scale
    step = 2 * scale.heads  # rotary positions need an even head dimension
    ranges = {
        "scale.depth": (scale.depth, range(max(1, scale.depth // 2), 2 * scale.depth + 1)),
        "scale.width": (scale.width, range(step * math.ceil(scale.width / 2 / step), 2 * scale.width + 1, step)),
    }
    for key, (own, others) in ranges.items():
        if key not in stated:
            yield from ({key: other} for other in sorted(others, key=lambda n: (abs(n - own), n)) if other != own)


def _hidden(width: int, target: int, count: Callable[[int], int | None]) -> list[int]:
    """Hidden widths to try: the nearest multiple of ALIGNED, then the nearest of all; none if nothing can be built."""
    low, high = max(1, int(NARROWEST * width)), WIDEST * width
    at_low, at_high = count(low), count(high)
    if at_low is None or at_high is None:
        return []
    if at_low >= target or at_high <= target:
        return [low if at_low >= target else high]
    turn = 0
    while high - low > 1:  # count(low) < target < count(high); what is linear in d_ff is found at the first guess
        guess = low + int((target - at_low) / (at_high - at_low) * (high - low))
        guess = (low + high) // 2 if turn % 3 == 2 else min(max(guess, low + 1), high - 1)
        found = count(guess)
        if found is None:
            return []
        if found <= target:
            low, at_low = guess, found
        else:
            high, at_high = guess, found
        turn += 1
    exact = low if target - at_low <= at_high - target else high
    aligned = ALIGNED * max(1, round(exact / ALIGNED))
    return [exact] if aligned == exact else [aligned, exact]


def _with(cfg: RunConfig, sizes: Mapping[str, int]) -> RunConfig:
    scale: dict[str, Any] = {
        key.removeprefix("scale."): value for key, value in sizes.items() if key.startswith("scale.")
    }
    changed = dataclasses.replace(cfg, scale=dataclasses.replace(cfg.scale, **scale))
    return changed if "mlp.d_ff" not in sizes else _wide(changed, sizes["mlp.d_ff"])


def _wide(cfg: RunConfig, d_ff: int) -> RunConfig:
    return dataclasses.replace(cfg, mlp={**cfg.mlp, "d_ff": d_ff})


def _counted(models: Models, match: str, cfg: RunConfig, d_ff: int | None = None) -> int | None:
    """As Models.count, with another d_ff if one is given; None for sizes that the parts cannot take."""
    try:
        return models.count(cfg if d_ff is None else _wide(cfg, d_ff), match)
    except ConfigError:
        return None


def _refusal(cfg: RunConfig, target: int, count: int, sizes: Sizes, stated: Collection[str]) -> str:
    from gpt_lab.cost.flops import COUNTED

    match = str(cfg.match)
    free = [key for key in MATCHED if key not in stated and (key != "mlp.d_ff" or "d_ff" in cfg.mlp)]
    kept = [key for key in MATCHED if key in stated]
    way = f"leave out {' or '.join(kept)}, or the arm" if kept else "choose another arm, or match to another"
    said = " ".join(f"{key}={value}" for key, value in sizes.items()) or "as it is"
    return (
        f"match={match}: no {' or '.join(free) or 'size'} brings the model within {TOLERANCE[match]:.1%} of {target:,} "
        f"{COUNTED[match]} (nearest: {count:,}, {count / target - 1:+.1%}, {said}): {way}"
    )


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else dict(value)
