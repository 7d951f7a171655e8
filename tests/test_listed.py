"""What is listed by hand is all there is: sections, figures, commands, parity cases."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import tomllib
from pathlib import Path
from types import ModuleType

import gpt_lab.analysis.sections as sections
import gpt_lab.report.figures as figures
from gpt_lab import registry
from gpt_lab.analysis.sections.every import MAKERS
from tests.docs.pages import every_command
from tests.parity.case import cases

ROOT = Path(__file__).parent.parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


def modules(package: ModuleType) -> list[ModuleType]:
    return [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]


def test_sections_are_in_the_report() -> None:
    makers = [
        function
        for module in modules(sections)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and name in ("make", "sections")
        and not module.__name__.endswith("every")
    ]
    assert set(makers) == set(MAKERS), "a section that sections/every.py does not list"


def test_figures_are_in_the_report() -> None:
    drawing = {module.draw for module in modules(figures) if hasattr(module, "draw")}
    assert drawing <= set(figures._families().values()), "a figure that figures/__init__.py does not list"


def test_commands_are_on_a_page() -> None:
    shown = {line.split()[2] for line in every_command() if line.startswith("uv run ")}
    assert set(SCRIPTS) <= shown, "commands that no page shows"


def test_parts_have_a_parity_case() -> None:
    """But those that are defined by being nothing, and one that is made of others."""
    have = {(case.kind, case.name) for case in cases()}
    for kind in ("attention", "position", "norm", "mlp", "residual"):
        missing = {name for name in registry.index()[kind] if (kind, name) not in have} - {"none", "hybrid"}
        assert not missing, f"{kind}: nothing is held against these"
