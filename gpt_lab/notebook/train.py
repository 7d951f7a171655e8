"""`lab.train("model=gqa_rope", seed=1)`: one run, trained in this process."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpt_lab.console import signals
from gpt_lab.errors import ConfigError, quoted
from gpt_lab.notebook.run import RunView
from gpt_lab.store import Run
from gpt_lab.study import sweep_file
from gpt_lab.train.begin_from import command_line


def train(*overrides: str, **settings: Any) -> RunView:
    """Trains a run as the command does, resumes it, or finds it done; progress goes to standard output, line by line.

    An interrupt is an orderly end: the run writes a checkpoint, its state is `stopped`, the same call goes on.

    Args:
        overrides: settings as on the command line, "optim=muon", "optim.lr=0.02".
        settings: the same as values, seed=1 or budget={"steps": 100}.

    Raises:
        ConfigError: a setting that cannot be; the line names the closest. DataError: its data cannot be used.
        LabError: the folder cannot be written, another process trains this run, memory is too small.
    """
    from gpt_lab.console.terminal import Terminal
    from gpt_lab.train.start import run_training

    given = to_overrides(overrides, settings)
    console = Terminal(file=sys.stdout, force_jupyter=False)
    asked = signals.Signals(at_once=_interrupt)
    result = run_training(command_line.compose(given), console, shlex.join(["train", *given]), asked=asked)
    return RunView(Run.open(result.path))


def to_overrides(overrides: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """Overrides and settings as the words of a command line.

    Raises:
        ConfigError: an override that is no text key=value.
    """
    for text in overrides:
        if not isinstance(text, str) or "=" not in text:
            raise ConfigError(f'settings are "key=value", or key=value in Python, not {quoted(text)}')
    return [*overrides, *(sweep_file.override(key, value) for key, value in _flat(settings))]


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", list(value) if isinstance(value, tuple) else value


def _interrupt(number: int) -> None:
    """A second request, later: the process is the notebook's and stays."""
    raise signals.Leave(number)
