"""The `command` of a sweep file: what W&B's agent runs, and so what every run is told beside its swept values."""

from __future__ import annotations

from typing import Any

from gpt_lab.errors import ConfigError, quoted

ARGUMENTS = "${args_no_hyphens}"


def command_settings(command: Any) -> list[str]:
    """The settings that a command gives every run (`study=pos_enc`, `+experiment=modern`); [] without a command.

    Raises:
        ConfigError: W&B's agent could not run train with it.
    """
    if command is None:
        return []
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise ConfigError('command must be a list of words: [uv, run, train, "${args_no_hyphens}"]')
    if ARGUMENTS not in command:
        wrong = next((word for word in command if word.startswith("${args")), None)
        reason = f"{wrong} gives train words that it cannot read" if wrong else "without it every run would be the same"
        raise ConfigError(f'command must have the word "{ARGUMENTS}": {reason}')
    words = command[_after_program(command) :]
    for word in words:
        if "${" in word and word != ARGUMENTS:
            raise ConfigError(f"command: {quoted(word)} would reach train differently here and under W&B: write it out")
        if word != ARGUMENTS and (word.startswith("-") or "=" not in word):
            raise ConfigError(f"command: {quoted(word)} is no setting: after train, write key=value")
    return [word for word in words if word != ARGUMENTS]


def _after_program(command: list[str]) -> int:
    for place, word in enumerate(command):
        if word == "${program}" or word.rpartition("/")[2].rpartition(".")[2] == "train":
            return place + 1
    raise ConfigError("command must call train: [uv, run, train, ...]")
