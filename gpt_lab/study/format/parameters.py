"""The `parameters` of a sweep file: names, values and distributions, as W&B defines them, checked one by one."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt_lab import options
from gpt_lab.config import setting_names
from gpt_lab.config.schema import NOT_IDENTITY
from gpt_lab.errors import ConfigError, cut, quoted, unknown
from gpt_lab.options import is_number, is_whole
from gpt_lab.study.design import shown

DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "int_uniform": (("min", "max"), {}),
    "uniform": (("min", "max"), {}),
    "q_uniform": (("min", "max"), {"q": 1}),
    "log_uniform": (("min", "max"), {}),
    "log_uniform_values": (("min", "max"), {}),
    "q_log_uniform": (("min", "max"), {"q": 1}),
    "q_log_uniform_values": (("min", "max"), {"q": 1}),
    "inv_log_uniform": (("min", "max"), {}),
    "inv_log_uniform_values": (("min", "max"), {}),
    "normal": ((), {"mu": 0, "sigma": 1}),
    "q_normal": ((), {"mu": 0, "sigma": 1, "q": 1}),
    "log_normal": ((), {"mu": 0, "sigma": 1}),
    "q_log_normal": ((), {"mu": 0, "sigma": 1, "q": 1}),
    "beta": ((), {"a": 1, "b": 1}),
    "q_beta": ((), {"a": 1, "b": 1, "q": 1}),
}
"""W&B's distributions of numbers: the keys that each needs, and those with a default."""
POSITIVE = {"q", "sigma", "a", "b"}
KEYS = ("value", "values", "probabilities", "distribution", "min", "max", "q", "mu", "sigma", "a", "b")
NEVER = {"force": "it would repeat finished runs; name another study instead", "label": "it is derived"}


@dataclass(frozen=True)
class Parameter:
    """One entry of `parameters`.

    Fields:
        distribution: constant, categorical, or a key of DISTRIBUTIONS.
        values: of constant (one) and categorical.
        numbers: min, max, q, mu, sigma, a, b: those that the distribution has.
        probabilities: of the values; None: equal.
    """

    name: str
    distribution: str
    values: tuple[Any, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    probabilities: tuple[float, ...] | None = None

    @property
    def drawn(self) -> bool:
        """Whether values come from a distribution of numbers rather than from a list."""
        return self.distribution in DISTRIBUTIONS

    @property
    def swept(self) -> bool:
        """Whether runs may differ in it."""
        return self.distribution != "constant"


def read(parameters: Mapping[str, Any]) -> dict[str, Parameter]:
    """The checked parameters of a sweep file, in its order.

    Raises:
        ConfigError: the line names the parameter.
    """
    return {name: _parameter(name, spec) for name, spec in parameters.items()}


def check_name(name: object) -> str:
    """A parameter's name: a group or a setting of train, as W&B can carry it.

    Raises:
        ConfigError: no such setting; the line offers the closest.
    """
    if not isinstance(name, str):
        raise ConfigError(f"parameter {quoted(name)} is no name: put it in quotes")
    if "/" in name:
        raise ConfigError(
            f"parameter {quoted(name)}: W&B takes no slash in a name (a group is one word, an option dotted)"
        )
    head, _, rest = name.partition(".")
    if name in NEVER:
        raise ConfigError(f"parameter {quoted(name)} cannot be set in a sweep: {NEVER[name]}")
    if rest == "name" and head in setting_names.GROUPS:
        raise ConfigError(f"parameter {quoted(name)}: choose the whole part with the parameter {quoted(head)}")
    if setting_names.lettered(name) not in setting_names.settings():
        raise ConfigError(setting_names.unknown_setting("parameter", name, _near(name)))
    return name


def plain(name: str, value: Any) -> Any:
    """A value of a parameter as train will understand it.

    Raises:
        ConfigError: YAML made something else of it than what was meant, or the setting cannot take it.
    """
    value, group = _scalar(name, value), setting_names.lettered(name)
    if group in setting_names.GROUPS:
        if not isinstance(value, str):
            hint = " (YAML reads yes, no, on, off as truth values, and null as nothing: use quotes)"
            raise ConfigError(f"{name} must be the name of an option, not {cut(shown(value))}{hint}")
        allowed = setting_names.choices(group)
        if value not in allowed:
            raise ConfigError(unknown(name, value, allowed))
        return value
    refusal: ConfigError | None = None
    for annotation in setting_names.settings()[group]:
        try:
            return options.check(name, value, annotation)
        except ConfigError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def _near(name: str) -> list[str]:
    """The names to list beside a wrong one: those of its section, or all without a dot."""
    known = [one for one in setting_names.settings() if one not in NEVER]
    head = name.partition(".")[0]
    inside = [one for one in known if "." in name and one.startswith(f"{head}.")]
    return inside or [one for one in known if "." not in one]


def _parameter(name: object, spec: Any) -> Parameter:
    name = check_name(name)
    if not isinstance(spec, Mapping):
        form = f"values: {cut(str(spec))}" if isinstance(spec, list) else f"value: {cut(shown(spec))}"
        raise ConfigError(f"{name} must be a mapping: write {name}: {{{form}}}")
    if "parameters" in spec:
        raise ConfigError(
            f"{name}: nested parameters reach train as one dictionary: write flat, dotted names ({name}.KEY: ...)"
        )
    for key in spec:
        if key not in KEYS:
            raise ConfigError(unknown(f"key of {name}:", key, KEYS))
    stated = spec.get("distribution")
    if stated == "categorical_w_probabilities":
        stated = "categorical"
    if stated is not None and stated not in ("constant", "categorical", *DISTRIBUTIONS):
        raise ConfigError(unknown(f"distribution of {name}:", stated, ("constant", "categorical", *DISTRIBUTIONS)))
    if "value" in spec and "values" in spec:
        raise ConfigError(f"{name} has both value and values: one of them")
    if name.split(".")[0] in NOT_IDENTITY and (stated != "constant" and "value" not in spec):
        raise ConfigError(f"{name} changes no result of a run and cannot be swept: give it one value: {{value: ...}}")
    if "value" in spec or stated == "constant":
        _only(name, "constant", spec, stated, ("value",))
        return Parameter(name, "constant", (plain(name, spec["value"]),))
    if "values" in spec or stated == "categorical":
        _only(name, "categorical", spec, stated, ("values",), ("probabilities",))
        return _categorical(name, spec)
    return _numbers(name, spec, stated)


def _categorical(name: str, spec: Mapping[str, Any]) -> Parameter:
    given = spec["values"]
    if not isinstance(given, list):
        raise ConfigError(f"values of {name} must be a list, not {quoted(given)}: write [{cut(str(given))}]")
    if not given:
        raise ConfigError(f"values of {name} is empty: give at least one")
    values = tuple(plain(name, value) for value in given)
    seen: set[str] = set()
    for value in values:
        if shown(value) in seen:
            raise ConfigError(f"values of {name} has {shown(value)} twice")
        seen.add(shown(value))
    if "probabilities" not in spec:
        return Parameter(name, "categorical", values)
    chances = spec["probabilities"]
    if (
        not isinstance(chances, list)
        or len(chances) != len(values)
        or not all(_is_number(p) and p >= 0 for p in chances)
        or not math.isclose(sum(chances), 1.0, abs_tol=1e-6)
    ):
        raise ConfigError(f"probabilities of {name} must be {len(values)} numbers that sum to 1, not {quoted(chances)}")
    return Parameter(name, "categorical", values, probabilities=tuple(float(p) for p in chances))


def _numbers(name: str, spec: Mapping[str, Any], stated: str | None) -> Parameter:
    if name in setting_names.GROUPS:
        raise ConfigError(f"{name} is a choice of parts: give it values: [...]")
    if stated is None:
        if "min" not in spec or "max" not in spec:
            raise ConfigError(f"{name} needs value, values, or min and max")
        stated = "int_uniform" if is_whole(spec["min"]) and is_whole(spec["max"]) else "uniform"
    needed, more = DISTRIBUTIONS[stated]
    _only(name, stated, spec, stated, needed, tuple(more))
    numbers = {key: _number(name, key, spec.get(key, more.get(key))) for key in (*needed, *more)}
    if "min" in numbers and numbers["min"] >= numbers["max"]:
        raise ConfigError(
            f"{name}: min {numbers['min']:g} must be below max {numbers['max']:g} (one value is written value: ...)"
        )
    if stated == "int_uniform" and not (is_whole(spec["min"]) and is_whole(spec["max"])):
        raise ConfigError(f"{name}: int_uniform takes whole numbers as min and max, not {spec['min']}, {spec['max']}")
    if stated.endswith("log_uniform_values") and numbers["min"] <= 0:
        raise ConfigError(f"{name}: {stated} needs a min above 0, not {numbers['min']:g}")
    for key in POSITIVE & set(numbers):
        if numbers[key] <= 0:
            raise ConfigError(f"{name}: {key} must be above 0, not {numbers[key]:g}")
    return Parameter(name, stated, numbers=numbers)


def _only(
    name: str,
    kind: str,
    spec: Mapping[str, Any],
    stated: str | None,
    needed: tuple[str, ...],
    more: tuple[str, ...] = (),
) -> None:
    if stated not in (None, kind):
        raise ConfigError(f"{name} has {needed[0]}, which distribution {stated} does not take")
    for key in needed:
        if key not in spec:
            raise ConfigError(f"{name}: distribution {kind} needs {key}")
    foreign = [key for key in spec if key not in (*needed, *more, "distribution")]
    if foreign:
        raise ConfigError(f"{name}: {kind} takes no {foreign[0]} (it takes {', '.join((*needed, *more))})")


def _scalar(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        raise ConfigError(f"{name} has a mapping as a value: write flat, dotted names ({name}.KEY: ...)")
    if isinstance(value, list):
        return [_scalar(name, item) for item in value]
    if isinstance(value, str):
        if value == "null":
            return None
        if value == "None":
            raise ConfigError(f'{name}: "None" is text here: write "null"')
        if value.lower() in ("true", "false"):
            raise ConfigError(f"{name}: {quoted(value)} in quotes is text: write {value.lower()}")
        refuse_number_text(name, value)
    elif value is not None and not isinstance(value, bool | int | float):
        raise ConfigError(f"{name}: YAML reads {value} as a {type(value).__name__}: put it in quotes")
    return value


def refuse_number_text(name: str, value: str) -> None:
    """Refuses text that was meant as a number: 1e-5, which YAML reads as text, or a number in quotes.

    Raises:
        ConfigError: the line shows how to write it.
    """
    try:
        number = float(value)
    except ValueError:
        return
    if not math.isfinite(number):
        return
    mantissa, letter, exponent = value.lower().partition("e")
    if letter:
        dotted = mantissa if "." in mantissa else f"{mantissa}.0"
        sign = exponent if exponent[0] in "+-" else f"+{exponent}"
        raise ConfigError(f"{name}: YAML reads {value} as text: write {dotted}e{sign}")
    raise ConfigError(f"{name}: {quoted(value)} in quotes is text: write {value}")


def _number(name: str, key: str, value: Any) -> float:
    if isinstance(value, str):
        refuse_number_text(f"{key} of {name}", value)
    if not _is_number(value):
        raise ConfigError(f"{key} of {name} must be a number, not {quoted(value)}")
    return typing.cast(float, value)


def _is_number(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)
