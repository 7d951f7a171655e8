"""The `early_terminate` of a sweep file: W&B's hyperband (Li et al. 2018, JMLR 18:185), which ends poor runs early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt_lab.errors import ConfigError, quoted, unknown
from gpt_lab.options import is_whole
from gpt_lab.study.format import layout


@dataclass(frozen=True)
class Hyperband:
    """Where runs are compared, in logged values of the metric, and how many of them go on.

    Fields:
        min_iter: of the first band; None where the last one is stated.
        max_iter, s: the last band times eta, and how many bands there are.
        eta: one in so many goes on. strict: by the value at the band, not by the best so far.
    """

    min_iter: int | None = None
    max_iter: int | None = None
    s: int | None = None
    eta: int = 3
    strict: bool = False


def read(raw: Mapping[str, Any], tuned: bool) -> Hyperband | None:
    """The checked `early_terminate` of a sweep file; None without one.

    Args:
        raw: the whole file. tuned: some setting is tuned within each arm.

    Raises:
        ConfigError: one line that names the key.
    """
    if "early_terminate" not in raw:
        return None
    stated = raw["early_terminate"]
    for key in stated:
        if key not in layout.EARLY:
            raise ConfigError(unknown("key of early_terminate:", key, layout.EARLY))
    if stated.get("type") != "hyperband":
        raise ConfigError(unknown("early_terminate type", stated.get("type"), ("hyperband",)))
    for key, least in (("min_iter", 1), ("max_iter", 1), ("s", 1), ("eta", 2)):
        value = stated.get(key, least)
        if not is_whole(value) or value < least:
            raise ConfigError(f"early_terminate.{key} must be a whole number from {least} up, not {quoted(value)}")
    if not isinstance(stated.get("strict", False), bool):
        raise ConfigError(f"early_terminate.strict must be true or false, not {quoted(stated['strict'])}")
    if ("min_iter" in stated) == ("max_iter" in stated):
        raise ConfigError("early_terminate needs either min_iter or max_iter with s")
    if ("max_iter" in stated) != ("s" in stated):
        raise ConfigError("early_terminate: max_iter and s go together")
    if not tuned:
        raise ConfigError(
            "early_terminate may stop only what is tuned within an arm: name that in gpt_lab.nuisance, or leave it out"
        )
    return Hyperband(**{key: value for key, value in stated.items() if key != "type"})
