"""Errors that a user can mend: one line, with the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """A problem outside the lab's code (configuration, data, environment); the message is one line."""


class ConfigError(LabError):
    """A setting that cannot work: unknown, of the wrong type, out of range or impossible together."""


class DataError(LabError):
    """A corpus or tokenizer that cannot be used: missing, empty, torn, not UTF-8, too short."""


def unknown(what: str, name: object, allowed: Iterable[str]) -> str:
    """One line that names the closest allowed value first, then all of them."""
    names = sorted(allowed)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {str(name)!r}{hint} (allowed: {', '.join(names) or 'none'})"
