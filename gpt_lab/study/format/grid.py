"""The value combinations of a grid: W&B's product, less what the `gpt_lab:` block zips, restricts and leaves out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from gpt_lab.errors import ConfigError, cut, quoted, unknown
from gpt_lab.study.design import join, shown
from gpt_lab.study.format import factorial_block
from gpt_lab.study.format.parameters import Parameter, plain

LARGEST = 100_000
"""Combinations beyond which a grid is taken for a mistake."""
Values = dict[str, Any]


@dataclass(frozen=True)
class Rules:
    """What W&B's grids cannot say.

    Fields:
        zip: settings whose values go together, place by place.
        per: setting -> (other setting, its value as shown -> values; none of them: the setting is left out).
        exclude: combinations left out: each a mapping of settings to values.
        words, low: of a two-level factorial the fraction that is run, and the baseline's levels (stats/two_level.py).
    """

    zip: tuple[tuple[str, ...], ...] = ()
    per: Mapping[str, tuple[str, Mapping[str, tuple[Any, ...]]]] = field(default_factory=dict)
    exclude: tuple[Mapping[str, Any], ...] = ()
    words: tuple[tuple[str, ...], ...] = ()
    low: Mapping[str, Any] = field(default_factory=dict)


def rules(block: Mapping[str, Any], swept: Mapping[str, Parameter]) -> Rules:
    """The checked zip, per and exclude of a `gpt_lab:` block.

    Raises:
        ConfigError: a setting that is not swept, a value that it does not take, lists of different lengths.
    """
    zips = _zip(block.get("zip"), swept)
    return Rules(zips, _per(block.get("per"), swept, zips), _exclude(block.get("exclude"), swept))


def listed(parameter: Parameter) -> tuple[Any, ...]:
    """The values that a grid takes of a parameter.

    Raises:
        ConfigError: a distribution without a list of values.
    """
    if not parameter.drawn:
        return parameter.values
    numbers = parameter.numbers
    if parameter.distribution == "int_uniform":
        low, high, step = int(numbers["min"]), int(numbers["max"]), 1
        if high - low < LARGEST:
            return tuple(range(low, high + 1, step))
    if parameter.distribution == "q_uniform":
        q = Decimal(str(numbers["q"]))
        first, last = (round(Decimal(str(numbers[key])) / q) for key in ("min", "max"))
        whole = all(isinstance(numbers[key], int) for key in ("min", "max", "q"))
        if last - first < LARGEST:
            return tuple(int(i * q) if whole else float(i * q) for i in range(first, last + 1))
    raise ConfigError(
        f"{parameter.name}: a grid cannot list the values of {parameter.distribution}: give values: [...] "
        "or use method: random"
    )


def combinations(swept: Mapping[str, Parameter], pair: str, rules: Rules) -> list[Values]:
    """All combinations, in the file's order, the last parameter changing fastest; the pairing setting slowest of all.

    So a sweep that is cut short has compared every arm on its first seeds.

    Raises:
        ConfigError: too many, none left, or an exclusion that leaves nothing out.
    """
    axes = _axes(swept, rules)
    axes.sort(key=lambda axis: pair not in axis[0])  # stable
    count = math.prod(len(rows) for _, rows in axes)
    if count > LARGEST:
        raise ConfigError(f"the grid has {count:,} combinations, more than {LARGEST:,}: use method: random")
    found: list[Values] = []
    seen: set[str] = set()
    used = [False] * len(rules.exclude)
    order = tuple(swept)
    for rows in itertools.product(*(rows for _, rows in axes)):
        values: Values = {}
        for (keys, _), row in zip(axes, rows, strict=True):
            values.update(zip(keys, row, strict=True))
        kept = _restricted({key: values[key] for key in order}, rules)
        if (
            kept is None
            or not factorial_block.runs(values, rules.low, rules.words)
            or (name := join(order, kept)) in seen
        ):
            continue
        matches = [matching(kept, rule) for rule in rules.exclude]
        used = [a or b for a, b in zip(used, matches, strict=True)]
        if not any(matches):
            seen.add(name)
            found.append(kept)
    for was, rule in zip(used, rules.exclude, strict=True):
        if not was:
            raise ConfigError(f"gpt_lab.exclude: no combination has {join(tuple(rule), rule)}")
    if not found:
        raise ConfigError("the grid is empty: gpt_lab.exclude and gpt_lab.per leave nothing")
    return found


def matching(values: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    """Whether a combination has all values of a rule."""
    return all(key in values and shown(values[key]) == shown(value) for key, value in rule.items())


def _axes(swept: Mapping[str, Parameter], rules: Rules) -> list[tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
    zipped = {key: keys for keys in rules.zip for key in keys}
    axes: list[tuple[tuple[str, ...], list[tuple[Any, ...]]]] = []
    for name, parameter in swept.items():
        keys = zipped.get(name, (name,))
        if name == keys[0]:
            axes.append((keys, list(zip(*(listed(swept[key]) for key in keys), strict=True))))
        elif name not in zipped:
            axes.append(((name,), [(value,) for value in listed(parameter)]))
    return axes


def _restricted(values: Values, rules: Rules) -> Values | None:
    for key, (other, ladders) in rules.per.items():
        ladder = ladders.get(shown(values[other])) if other in values else None
        if ladder is None:
            continue
        if not ladder:
            del values[key]
        elif shown(values[key]) not in map(shown, ladder):
            return None
    return values


def swept_key(where: str, name: Any, swept: Mapping[str, Parameter]) -> str:
    """The name of a swept parameter.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(name, str) or name not in swept:
        raise ConfigError(unknown(f"swept parameter in {where}:", name, swept))
    return name


def within(block: Mapping[str, Any], factors: tuple[str, ...]) -> tuple[str, ...]:
    """The factors that gpt_lab.within names, in the file's order.

    Raises:
        ConfigError: it names none of them, or all.
    """
    stated = block.get("within", [])
    if not isinstance(stated, list):
        raise ConfigError(
            f"gpt_lab.within must be a list of parameters, not {quoted(stated)}: write [{cut(str(stated))}]"
        )
    for name in stated:
        if name not in factors:
            raise ConfigError(unknown("factor in gpt_lab.within:", str(name), factors))
    if stated and len(set(stated)) == len(factors):
        raise ConfigError("gpt_lab.within names every factor: nothing is left to compare")
    return tuple(name for name in factors if name in stated)


def one_of(where: str, name: str, value: Any, swept: Mapping[str, Parameter]) -> Any:
    """A value that a swept parameter takes.

    Raises:
        ConfigError: it does not take it.
    """
    value = plain(name, value)
    values = () if swept[name].drawn else swept[name].values
    if values and shown(value) not in map(shown, values):
        raise ConfigError(unknown(f"value of {name} in {where}:", shown(value), map(shown, values)))
    return value


def _zip(stated: Any, swept: Mapping[str, Parameter]) -> tuple[tuple[str, ...], ...]:
    if stated is None:
        return ()
    if not isinstance(stated, list) or not all(isinstance(keys, list) and len(keys) > 1 for keys in stated):
        raise ConfigError("gpt_lab.zip must be a list of lists of two or more parameters: [[scale.depth, scale.width]]")
    used: set[str] = set()
    for keys in stated:
        for key in keys:
            swept_key("gpt_lab.zip", key, swept)
            if key in used:
                raise ConfigError(f"gpt_lab.zip names {key} twice")
            used.add(key)
        lengths = {key: len(listed(swept[key])) for key in keys}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} {count}" for key, count in lengths.items())
            raise ConfigError(f"gpt_lab.zip: values that go together must be equally many ({counts})")
    return tuple(tuple(keys) for keys in stated)


def _per(
    stated: Any, swept: Mapping[str, Parameter], zips: Sequence[Sequence[str]]
) -> dict[str, tuple[str, Mapping[str, tuple[Any, ...]]]]:
    found: dict[str, tuple[str, Mapping[str, tuple[Any, ...]]]] = {}
    form = "{optim.lr: {optim=adamw: [1.0e-3], optim=muon: [0.01]}}"
    if stated is not None and not isinstance(stated, Mapping):
        raise ConfigError(f"gpt_lab.per must be a mapping like {form}")
    for key, ladders in (stated or {}).items():
        where = f"gpt_lab.per.{swept_key('gpt_lab.per', key, swept)}"
        if any(key in keys for keys in zips):
            raise ConfigError(f"{where}: {key} is in gpt_lab.zip already")
        if not isinstance(ladders, Mapping) or not ladders:
            raise ConfigError(f"{where} must be a mapping like {form}")
        others: set[str] = set()
        chosen: dict[str, tuple[Any, ...]] = {}
        named: set[str] = set()
        for condition, ladder in ladders.items():
            other, equals, value = str(condition).partition("=")
            if not equals or not isinstance(ladder, list):
                raise ConfigError(f"{where}: write SETTING=VALUE: [values], like {form}")
            others.add(swept_key(where, other, swept))
            known = one_of(where, other, _read(value), swept)
            chosen[shown(known)] = tuple(one_of(where, key, v, swept) for v in ladder)
            named.update(map(shown, chosen[shown(known)]))
        if len(others) > 1 or key in others:
            raise ConfigError(f"{where}: its values must depend on one other parameter, not on {', '.join(others)}")
        (other,) = others
        missing = [shown(value) for value in listed(swept[other]) if shown(value) not in chosen]
        left = [shown(value) for value in listed(swept[key]) if shown(value) not in named]
        if left and not missing:
            raise ConfigError(f"{where}: no {other} takes the value {left[0]} of parameters.{key}: remove it there")
        found[key] = (other, chosen)
    return found


def _exclude(stated: Any, swept: Mapping[str, Parameter]) -> tuple[Mapping[str, Any], ...]:
    if stated is None:
        return ()
    if not isinstance(stated, list) or not all(isinstance(rule, Mapping) and rule for rule in stated):
        raise ConfigError("gpt_lab.exclude must be a list of mappings: [{attention: mqa, position: alibi}]")
    where = "gpt_lab.exclude"
    return tuple(
        {swept_key(where, key, swept): one_of(where, key, value, swept) for key, value in rule.items()}
        for rule in stated
    )


def _read(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # then it is no value of any setting, and refused as text
        return text
