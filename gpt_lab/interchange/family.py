"""A family of models of Hugging Face: what it is made of, what its configuration says, where its weights are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError, quoted
from gpt_lab.interchange.links import Link
from gpt_lab.model.gpt import GPT

Settings = dict[str, dict[str, Any]]
"""Group or section -> its settings: attention, position, norm, mlp, residual, model, scale."""


@dataclass(frozen=True)
class Released:
    """A family's configuration as its config.json has it.

    Fields:
        architecture: the family's class, which errors name.
    """

    architecture: str
    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise ConfigError(f"the configuration of {self.architecture} lacks {key}")
        return self.values[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or a default where there is none or null."""
        found = self.values.get(key)
        return default if found is None else found

    def expect(self, key: str, *allowed: Any) -> None:
        """Refuses a value that has no counterpart here. The first allowed one is the family's own default.

        Raises:
            ConfigError: the line names the key and what has a counterpart.
        """
        self._refuse_unlike(key, self.values.get(key, allowed[0]), allowed)

    def demand(self, key: str, *allowed: Any) -> None:
        """As expect, of a key that must be there: without it the family's own default would count.

        Raises:
            ConfigError: as expect, or the key is missing.
        """
        self._refuse_unlike(key, self[key], allowed)

    def _refuse_unlike(self, key: str, value: Any, allowed: tuple[Any, ...]) -> None:
        if value not in allowed:
            only = " or ".join(quoted(one) for one in allowed)
            raise ConfigError(
                f"{self.architecture} with {key}={quoted(value)} has no counterpart here: only {only} has"
            )


@dataclass(frozen=True)
class Family:
    """One architecture.

    Fields:
        model_type: of its config.json.
        architecture: its class in transformers.
        parts: the parts that a model of it can have, by kind.
        write: its configuration, from settings and the model that they make (whose sizes are numbers); what is not
            written has no place in it.
        read: the settings, from its configuration.
        links: where each weight is. Of the model, only names and shapes are looked at.
    """

    model_type: str
    architecture: str
    parts: Mapping[str, tuple[str, ...]]
    write: Callable[[RunConfig, GPT], dict[str, Any]]
    read: Callable[[Released], Settings]
    links: Callable[[GPT], Iterator[Link]]


PRE_NORM = {"norm": ("rmsnorm",), "residual": ("pre",)}
HEADS = ("mha", "gqa", "mqa")
"""Attention with any number of key/value heads."""
