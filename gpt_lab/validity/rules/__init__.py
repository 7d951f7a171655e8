"""The rules on fair comparison: each module here makes one, or a few that share a measurement, and needs no list.

They are said in the order of their places: what became of the runs, tuning, budget, settings, versions, text.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from gpt_lab.validity.rule import PlannedOf, Rule, SeenIn


def every() -> list[Rule]:
    """The rules of all modules, as they are found."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Rule)]


RULES: Mapping[str, Rule] = {rule.name: rule for rule in sorted(every(), key=lambda rule: rule.place)}
"""By name, in the order of their places."""
BEFOREHAND: tuple[PlannedOf, ...] = tuple(
    find for _, find in sorted((one for rule in RULES.values() for one in rule.beforehand), key=lambda one: one[0])
)
AFTERWARDS: tuple[SeenIn, ...] = tuple(
    find for _, find in sorted((one for rule in RULES.values() for one in rule.afterwards), key=lambda one: one[0])
)
