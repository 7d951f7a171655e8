"""Inverse distribution functions of W&B's distributions: from a number in [0, 1] to a parameter's value."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
import statistics
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from gpt_lab.errors import ConfigError
from gpt_lab.study.format.parameters import Parameter, plain

CHECKED = (1e-4, 0.5, 1 - 1e-4)
"""Quantiles at which a setting must take what its distribution gives."""
EXTREME = (2.0**-53, 1 - 2.0**-53)
"""The ends of what `uniform` gives."""


def value_at(parameter: Parameter, u: float) -> Any:
    """The value of a parameter below which a share `u` (0 < u < 1) of its draws lie."""
    if not parameter.drawn:
        return parameter.values[_position(parameter, u)]
    n, name = parameter.numbers, parameter.distribution
    if name == "int_uniform":
        return int(n["min"]) + int(u * (n["max"] - n["min"] + 1))
    match name.removeprefix("q_"):
        case "uniform":
            x = _between(n["min"], n["max"], u)
        case "log_uniform":
            x = math.exp(_between(n["min"], n["max"], u))
        case "inv_log_uniform":
            x = math.exp(-_between(n["max"], n["min"], u))
        case "log_uniform_values" | "inv_log_uniform_values":  # log(1/x) is uniform where log(x) is
            x = math.exp(_between(math.log(n["min"]), math.log(n["max"]), u))
            x = min(max(x, n["min"]), n["max"])
        case "normal":
            x = statistics.NormalDist(n["mu"], n["sigma"]).inv_cdf(u)
        case "log_normal":
            x = math.exp(statistics.NormalDist(n["mu"], n["sigma"]).inv_cdf(u))
        case _:
            from scipy.special import betaincinv

            x = float(betaincinv(n["a"], n["b"], u))
    return rounded(x, n["q"]) if "q" in n else x


def rounded(x: float, q: float) -> float:
    """The multiple of q nearest to x; whole if q is."""
    times = round(x / q)
    return times * q if isinstance(q, int) else float(times * Decimal(str(q)))


def stepped(low: float, q: float, times: int) -> float:
    """low + times * q, without the noise of binary fractions; whole if both are."""
    if isinstance(low, int) and isinstance(q, int):
        return low + times * q
    return float(Decimal(str(low)) + times * Decimal(str(q)))


def quantile(parameter: Parameter, value: float) -> float:
    """The u at which value_at gives a drawn value (of a rounded one: the lowest)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if value_at(parameter, middle) < value:
            low = middle
        else:
            high = middle
    return high


def uniform(name: str, index: int, attempt: int = 0) -> float:
    """The same number in (0, 1) for the same parameter and place in the sweep, on every machine."""
    digest = hashlib.sha256(f"{name}/{index}/{attempt}".encode()).digest()
    return (int.from_bytes(digest[:7], "big") >> 3 | 1) / 2**53


def check(parameters: Mapping[str, Parameter]) -> None:
    """Refuses a distribution whose values the setting cannot take.

    Raises:
        ConfigError: the line names parameter and value.
    """
    for name, parameter in parameters.items():
        try:
            for u in EXTREME if parameter.drawn else ():
                value_at(parameter, u)
        except (OverflowError, ValueError):
            logs = "; min, max, mu are natural logarithms" if "log" in parameter.distribution else ""
            raise ConfigError(f"{name}: {parameter.distribution} gives numbers that are too large{logs}") from None
        for u in CHECKED if parameter.drawn else ():
            value = value_at(parameter, u)
            try:
                plain(name, value)
            except ConfigError as error:
                raise ConfigError(f"{error} (drawn from {parameter.distribution})") from None


def _position(parameter: Parameter, u: float) -> int:
    last = len(parameter.values) - 1
    if parameter.probabilities is None:
        return min(int(u * (last + 1)), last)
    return min(bisect.bisect_right(list(itertools.accumulate(parameter.probabilities)), u), last)


def _between(low: float, high: float, u: float) -> float:
    return low + (high - low) * u
