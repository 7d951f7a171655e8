"""The name of a sweep's study, and what an override of the command line adds to it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_lab.config import schema
from gpt_lab.config.combinations import check_study
from gpt_lab.config.overrides import key_of
from gpt_lab.errors import ConfigError, cut, quoted
from gpt_lab.study.format.agent_command import command_settings
from gpt_lab.study.format.parameters import Parameter

LONGEST = 60
"""Letters that overrides may add to a study's name; beyond, a hash of them is added."""


def read(
    path: Path,
    raw: Mapping[str, Any],
    in_block: str,
    found: Mapping[str, Parameter],
    overrides: Sequence[str],
    study: str | None,
) -> str:
    """The study's name: of the argument, of the overrides, of the file (`in_block`), the file's stem.

    A sweep with other settings than the file's is another study, whose name says which: pos_enc-budget.steps-30.

    Raises:
        ConfigError: no name of a study, or two places name it differently.
    """
    stated = in_block or path.stem
    said = {"command": _last_study(command_settings(raw.get("command")))}
    if "study" in found:
        said["parameters"] = str(found["study"].values[0])
    for where, other in said.items():
        if other is None or other == stated:
            continue
        mine = f"gpt_lab.study is {quoted(stated)}" if in_block else f"the file's name says {quoted(stated)}"
        write = {"command": f"study={stated} in command", "parameters": f"parameters.study: {{value: {stated}}}"}
        raise ConfigError(
            f"the study is {quoted(other)} in {where}, and {mine}: runs made by W&B's agent and by `sweep` would lie "
            f"apart. Write gpt_lab: {{study: {cut(other)}}}, or {cut(write[where], 100)}"
        )
    for where, name in (
        ("gpt_lab.study", stated),
        ("study", study or _last_study(overrides) or stated + changed(overrides)),
    ):
        check_study(where if in_block or name != stated else "the file's name, which names the study,", name)
    return name


def changed(overrides: Sequence[str]) -> str:
    """What the overrides that change a result add to a study's name; "" without any."""
    texts = [text for text in overrides if key_of(text).split(".")[0] not in schema.NOT_IDENTITY]
    if not texts:
        return ""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(texts)).strip("-")
    return f"-{name}" if len(name) <= LONGEST else f"-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _last_study(settings: Sequence[str]) -> str | None:
    return next((text.partition("=")[2] for text in reversed(settings) if key_of(text) == "study"), None)
