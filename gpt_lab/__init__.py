"""gpt_lab: an experiment-tracking ablation lab for small GPT-like models.

From a notebook, `import gpt_lab as lab`: study, run, train, sweep, report, stats (docs/python.md). Nothing is imported
before it is asked for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inspect

    from gpt_lab import stats as stats
    from gpt_lab.notebook.report import report as report
    from gpt_lab.notebook.run import run as run
    from gpt_lab.notebook.study import study as study
    from gpt_lab.notebook.sweep import sweep as sweep
    from gpt_lab.notebook.train import train as train

FUNCTIONS = ("report", "run", "study", "sweep", "train")
"""Each is the function of its name in gpt_lab/notebook/NAME.py."""
FOLDERS = ("report", "study", "sweep", "train")
"""Functions that share their name with a folder of the lab: the folder's module is called in their place."""


class _CalledModule(ModuleType):
    """The module of a folder; called, it is the function of its name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _function(self)(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        from inspect import signature

        return signature(_function(self))


class _Package(ModuleType):
    """This package: whoever imports a folder first, `lab.study` is one object, module and function alike."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FOLDERS and type(value) is ModuleType:
            value.__class__ = _CalledModule
        super().__setattr__(name, value)


def _function(module: ModuleType) -> Any:
    name = module.__name__.rpartition(".")[2]
    return getattr(import_module(f"{__name__}.notebook.{name}"), name)


def __getattr__(name: str) -> Any:
    if name in FOLDERS or name == "stats":
        return import_module(f"{__name__}.{name}")
    if name in FUNCTIONS:
        return getattr(import_module(f"{__name__}.notebook.{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *FUNCTIONS, "stats"})


sys.modules[__name__].__class__ = _Package
