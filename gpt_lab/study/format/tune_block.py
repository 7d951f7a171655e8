"""The `tune` of a sweep file's `gpt_lab:` block: what is tuned within each arm, from where, on which seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt_lab.config import setting_names
from gpt_lab.config.overrides import key_of
from gpt_lab.errors import ConfigError, quoted, unknown
from gpt_lab.options import is_number, is_whole
from gpt_lab.stats import optimum
from gpt_lab.stats.optimum import ValueGrid
from gpt_lab.study.design import shown
from gpt_lab.study.format import parameters
from gpt_lab.study.format.parameters import Parameter

FIRST = 10_000
"""Tuning seeds unless the file states others: those of comparisons count from 0, those of null pairs from 1000."""
KEYS = ("start", "factor", "points", "values", "widen")
SEEDS = "seeds"
DEFAULT = 3
"""Tuning seeds: with one its luck stays in the chosen value, and so in every fresh seed (any false verdict in 7-10 % of
studies with flat curves, simulated)."""
FORM = "tune: {optim.lr: {start: 4.0e-3}}"
MOST = 25
"""Of points, widenings and seeds; more is taken for a mistake."""


@dataclass(frozen=True)
class StatedNumbers:
    """A number, or a list of numbers: one for all arms, or one for each value of another setting.

    Fields:
        given: of all arms; None: none, or `by` has them.
        setting, by: the other setting, and what is stated for its values (as shown).
    """

    given: Any = None
    setting: str = ""
    by: Mapping[str, Any] = field(default_factory=dict)

    def for_arm(self, row: Mapping[str, Any]) -> Any:
        """What holds for an arm of these values; None: nothing."""
        if self.setting in row:
            return self.by.get(shown(row[self.setting]))
        return self.given


@dataclass(frozen=True)
class Tuned:
    """One tuned setting: the ladder that each arm begins with, and how often it may be widened."""

    key: str
    start: StatedNumbers
    values: StatedNumbers
    factor: float
    points: int
    widen: int

    def ladder(self, row: Mapping[str, Any], default: Any, arm: str) -> ValueGrid:
        """An arm's first values.

        Args:
            default: what its config has of the setting.

        Raises:
            ConfigError: nothing says where to begin.
        """
        listed = self.values.for_arm(row)
        if listed is not None:
            return ValueGrid(self.key, listed, self.widen)
        start = self.start.for_arm(row)
        start = default if start is None else start
        if not is_number(start) or not 0 < start < math.inf:
            has = "has none" if start is None else f"is {shown(start)} there"
            raise ConfigError(
                f"gpt_lab.tune.{self.key} of {arm or 'the arm'}: its own value cannot begin a grid ({self.key} {has}): "
                "state a start above 0"
            )
        return ValueGrid(self.key, optimum.ladder(float(start), self.factor, self.points), self.widen)


@dataclass(frozen=True)
class TuneBlock:
    """What is tuned, one setting after the other, and the values of the pairing setting that this is done on."""

    keys: tuple[Tuned, ...]
    pairs: tuple[int, ...]


def read(
    raw: Mapping[str, Any], swept: Mapping[str, Parameter], found: Mapping[str, Parameter], overrides: Sequence[str]
) -> TuneBlock | None:
    """The checked `tune` of a sweep file; None without one.

    Args:
        raw: the whole file. swept: parameters that are swept. found: those with one value too.

    Raises:
        ConfigError: one line that names the key.
    """
    block = raw.get("gpt_lab") or {}
    if "tune" not in block:
        return None
    stated = block["tune"]
    if not isinstance(stated, Mapping) or not set(stated) - {SEEDS}:
        raise ConfigError(f"gpt_lab.tune must name a setting, like {FORM}")
    pair = block.get("pair", "seed")
    keys = tuple(_tuned(key, value, swept, pair) for key, value in stated.items() if key != SEEDS)
    for one in keys:
        if any(key_of(text) == one.key for text in overrides) or one.key in found:
            where = f"parameters.{one.key}" if one.key in found else f"{one.key}=..."
            raise ConfigError(
                f"gpt_lab.tune.{one.key}: each arm gets a value of its own: take {where} out (start: in tune says "
                "where to begin)"
            )
    for other, why in (
        ("nuisance", "what is tuned is named in tune alone"),
        ("per", "ladders of arms are start: or values: in tune"),
    ):
        if other in block:
            raise ConfigError(f"gpt_lab.tune and gpt_lab.{other} do not go together: {why}")
    for other, place in (("run_cap", raw), ("target", raw.get("metric") or {})):
        if other in place:
            raise ConfigError(f"gpt_lab.tune and {other} do not go together: arms would not be tuned alike")
    if pair not in swept:
        raise ConfigError(f"gpt_lab.tune needs {pair} swept in parameters: the fresh values to compare the arms on")
    return TuneBlock(keys, _pairs(stated.get(SEEDS, DEFAULT), swept[pair]))


def _tuned(key: Any, stated: Any, swept: Mapping[str, Parameter], pair: str) -> Tuned:
    name = parameters.check_name(key)
    where = f"gpt_lab.tune.{name}"
    if name == pair:
        raise ConfigError(f"{where}: {name} pairs the runs and cannot be tuned: that would pick the luckiest")
    if name in setting_names.GROUPS:
        raise ConfigError(f"{where}: {name} is a choice of parts, and tune takes numbers: sweep it in parameters")
    parameters.plain(name, 0.123)  # a fraction: what lies between two values of a grid must be a value too
    if not isinstance(stated, Mapping):
        raise ConfigError(f"{where} must be a mapping like {FORM}, {{}} for the arms' own values")
    for one in stated:
        if one not in KEYS:
            raise ConfigError(unknown(f"key of {where}:", str(one), KEYS))
    values = _stated(f"{where}.values", stated.get("values"), swept, pair, _several)
    if "values" in stated:
        for one in ("start", "factor", "points"):
            if one in stated:
                raise ConfigError(f"{where}: values is the whole grid: leave {one} out")
        lengths = {len(value) for value in (values.by.values() if values.setting else (values.given,))}
        if len(lengths) > 1:
            raise ConfigError(f"{where}.values: every arm must get equally many: {sorted(lengths)}")
        if values.setting and (lacking := [v for v in map(shown, swept[values.setting].values) if v not in values.by]):
            raise ConfigError(f"{where}.values: {values.setting}={lacking[0]} is missing")
        points = lengths.pop()
    else:
        points = _whole(f"{where}.points", stated.get("points", 5), 3)
        if points % 2 == 0:
            raise ConfigError(f"{where}.points must be odd (as many below the start as above), not {points}")
    factor = stated.get("factor", 2)
    if not is_number(factor) or not 1.1 <= factor <= 100:
        raise ConfigError(f"{where}.factor must be a number from 1.1 to 100, not {quoted(factor)}")
    start = _stated(f"{where}.start", stated.get("start"), swept, pair, _one)
    return Tuned(name, start, values, float(factor), points, _whole(f"{where}.widen", stated.get("widen", 4), 0))


def _stated(where: str, stated: Any, swept: Mapping[str, Parameter], pair: str, check: Any) -> StatedNumbers:
    if stated is None:
        return StatedNumbers()
    if not isinstance(stated, Mapping):
        return StatedNumbers(check(where, stated))
    settings: set[str] = set()
    by: dict[str, Any] = {}
    factors = [name for name in swept if name != pair]
    for condition, value in stated.items():
        name, equals, word = str(condition).partition("=")
        if not equals:
            raise ConfigError(f"{where}: write SETTING=VALUE: ..., like {{optim=adamw: 4.0e-3}}")
        if name not in factors:
            raise ConfigError(unknown(f"factor in {where}:", name, factors))
        known = [shown(v) for v in swept[name].values]
        if word not in known:
            raise ConfigError(unknown(f"value of {name} in {where}:", word, known))
        settings.add(name)
        by[word] = check(where, value)
    if len(settings) != 1:
        raise ConfigError(f"{where}: its values must depend on one other parameter, not on {len(settings)}")
    return StatedNumbers(setting=settings.pop(), by=by)


def _one(where: str, value: Any) -> float:
    if isinstance(value, str):
        parameters.refuse_number_text(where, value)
    if not is_number(value) or not 0 < value < math.inf:
        raise ConfigError(f"{where} must be a number above 0, not {quoted(value)}")
    return optimum.rounded(float(value))


def _several(where: str, value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) < 3:
        raise ConfigError(f"{where} must be a list of three numbers or more, not {quoted(value)}")
    numbers = tuple(_one(where, one) for one in value)
    if any(b <= a for a, b in itertools.pairwise(numbers)):
        raise ConfigError(f"{where} must rise, and differ in the first three digits")
    return numbers


def _pairs(stated: Any, pair: Parameter) -> tuple[int, ...]:
    where = f"gpt_lab.tune.{SEEDS}"
    numbers = stated if isinstance(stated, list) else range(FIRST, FIRST + _whole(where, stated, 1))
    for number in numbers:
        if not is_whole(number):
            raise ConfigError(f"{where} must be whole numbers, not {quoted(number)}")
    if not numbers or len(numbers) > MOST or len(set(numbers)) < len(numbers):
        raise ConfigError(f"{where} must be a number of seeds, or a list of different ones: [{FIRST}]")
    for number in numbers:
        parameters.plain(pair.name, number)
        if shown(number) in map(shown, pair.values):
            raise ConfigError(
                f"{where}: {pair.name}={number} is one of the comparison's: tuned on it, an arm would be compared on "
                "its own luck"
            )
    return tuple(numbers)


def _whole(where: str, value: Any, least: int) -> int:
    if not is_whole(value) or not least <= value <= MOST:
        raise ConfigError(f"{where} must be a whole number from {least} to {MOST}, not {quoted(value)}")
    return value
