"""The `design: factorial` of a sweep file's `gpt_lab:` block: which fraction is run."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

from gpt_lab.errors import ConfigError, quoted, unknown
from gpt_lab.options import is_whole
from gpt_lab.stats.two_level import ROMAN, Word, _least_aberration, defining_relation, group, resolution
from gpt_lab.study.design import Design, Settings, shown

KEYS = ("fraction", "generators", "resolution")
"""Keys of the `gpt_lab:` block that say which fraction."""
MOST_CHOSEN = 9
"""Factors up to which the generators are chosen here: all choices are tried."""


def generator_words(
    block: Mapping[str, Any],
    factors: Sequence[str],
    values: Mapping[str, Sequence[Any]],
    baseline: Mapping[str, Any] | None,
) -> tuple[Word, ...] | None:
    """The words of the generators that a `gpt_lab:` block states or leaves to be chosen; () for the full factorial.

    None without `design: factorial`.

    Raises:
        ConfigError: a factor without exactly two levels, no baseline, generators that confound main effects.
    """
    if "design" not in block:
        for key in KEYS:
            if key in block:
                raise ConfigError(f"gpt_lab.{key} needs gpt_lab.design: factorial")
        return None
    if block["design"] != "factorial":
        raise ConfigError(unknown("gpt_lab.design", block["design"], ("factorial",)))
    if len(factors) < 2:
        raise ConfigError("gpt_lab.design: factorial needs two or more swept factors beside the pair and the nuisance")
    for name in factors:
        levels = list(dict.fromkeys(map(shown, values[name])))
        if len(levels) != 2:
            raise ConfigError(
                f"gpt_lab.design: factorial takes two values of each factor, but {name} has {len(levels)} "
                f"({', '.join(levels)}): give it two, list it in gpt_lab.nuisance, or leave gpt_lab.design out"
            )
    missing = [name for name in factors if baseline is None or name not in baseline]
    if missing:
        raise ConfigError(
            "gpt_lab.design: factorial counts effects from the baseline's levels: add gpt_lab.baseline with a level of "
            f"{', '.join(missing)}"
        )
    left_out = _left_out(block.get("fraction"), len(factors))
    least = _least(block.get("resolution"), len(factors))
    if "generators" in block:
        found = _stated(block["generators"], factors)
        if left_out is not None and len(found) != left_out:
            raise ConfigError(
                f"gpt_lab.generators states {len(found)}, which makes a fraction of 1/{2 ** len(found)}, "
                f"not {block['fraction']}"
            )
    elif left_out is None and least is None:
        return ()
    else:
        found = _chosen(factors, left_out, least)
    reached = resolution(found)
    if least is not None and reached is not None and reached < least:
        raise ConfigError(
            f"gpt_lab.generators reach resolution {ROMAN[reached]} only, not {ROMAN[least]}: "
            f"{defining_relation(found)}; leave gpt_lab.generators out and they are chosen"
        )
    return found


def check_complete(design: Design, arms: Collection[Settings]) -> None:
    """Every arm of the design is among those that the grid has.

    Raises:
        ConfigError: zip, per or exclude leaves one out.
    """
    if design.factorial is None or design.baseline is None:
        return
    for levels in itertools.product(*(design.values[name] for name in design.factors)):
        values = dict(zip(design.factors, levels, strict=True))
        if runs(values, design.baseline, design.factorial) and design.arm(values) not in arms:
            raise ConfigError(
                f"gpt_lab.design: factorial needs the arm {design.arm(values)}, which zip, per or exclude leaves out"
            )


def runs(values: Mapping[str, Any], low: Mapping[str, Any], words: Sequence[Word]) -> bool:
    """Whether a fraction runs this combination; `low` is the baseline."""
    high = {name for name in low if name in values and shown(values[name]) != shown(low[name])}
    return all(len(high & set(word)) % 2 == 0 for word in words)


def _left_out(stated: Any, factors: int) -> int | None:
    """p of a fraction 2^-p."""
    if stated is None:
        return None
    try:
        share = Fraction(str(stated))
        p = share.denominator.bit_length() - 1
        fits = not isinstance(stated, bool) and share == Fraction(1, 2**p) and p >= 1
    except (ValueError, ZeroDivisionError):
        fits = False
    if not fits:
        raise ConfigError(
            f"gpt_lab.fraction must be 1/2, 1/4, 1/8 and so on, not {quoted(stated)}: leave it out for the whole"
        )
    if 2 ** (factors - p) < factors + 1:
        raise ConfigError(
            f"gpt_lab.fraction: {stated} of {factors} factors is {2 ** max(factors - p, 0)} arms, too few to tell "
            f"{factors} main effects apart"
        )
    return p


def _least(stated: Any, factors: int) -> int | None:
    if stated is None:
        return None
    if not is_whole(stated) or not 3 <= stated <= factors:
        raise ConfigError(
            f"gpt_lab.resolution must be a whole number from 3 to the {factors} factors, not {quoted(stated)}"
        )
    return stated


def _stated(generators: Any, factors: Sequence[str]) -> tuple[Word, ...]:
    form = "{d: [a, b, c]}"
    if not isinstance(generators, Mapping) or not generators:
        raise ConfigError(f"gpt_lab.generators must be a mapping like {form}")
    found = []
    for name, others in generators.items():
        if name not in factors:
            raise ConfigError(unknown("factor in gpt_lab.generators:", name, factors))
        if not isinstance(others, list) or len(others) < 2 or len(set(map(str, others))) < len(others):
            raise ConfigError(f"gpt_lab.generators.{name} must be a list of two or more other factors, like {form}")
        for other in others:
            if other not in factors:
                raise ConfigError(unknown(f"factor in gpt_lab.generators.{name}:", other, factors))
            if other in generators:
                raise ConfigError(f"gpt_lab.generators.{name}: {other} is generated itself: name factors that are not")
        found.append(tuple(one for one in factors if one in others or one == name))
    for word in group(found):
        if len(word) < 3:
            first, second = sorted(word)
            raise ConfigError(f"gpt_lab.generators: {first} and {second} always change together: no effect is either's")
    return tuple(found)


def _chosen(factors: Sequence[str], left_out: int | None, least: int | None) -> tuple[Word, ...]:
    """Generators of the last factors: of the highest resolution, then with the fewest words of each length.

    Minimum aberration (Fries & Hunter 1980, Technometrics 22:601). Without a fraction: the smallest one that reaches
    the resolution; () where only the full factorial does.
    """
    k = len(factors)
    if k > MOST_CHOSEN:
        raise ConfigError(f"gpt_lab.generators are chosen for up to {MOST_CHOSEN} factors, not {k}: state them")
    sizes = [left_out] if left_out is not None else [p for p in range(k - 2, 0, -1) if 2 ** (k - p) >= k + 1]
    best: tuple[Word, ...] = ()
    for p in sizes:
        best = _least_aberration(factors, p)
        reached = resolution(best)
        if least is None or (reached is not None and reached >= least):
            return best
    if left_out is None:
        return ()
    raise ConfigError(
        f"gpt_lab.resolution: no 1/{2**left_out} fraction of {k} factors reaches {ROMAN[least or 0]}; the best has "
        f"{ROMAN[resolution(best) or 0]}: take a larger fraction"
    )
