"""YAML: strict reading and quick writing. What YAML lets pass in silence is refused, and its errors are put in words.

No line repeats more than a few words of the file: it may be the wrong one, and private.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gpt_lab.errors import ConfigError, one_line, quoted

LARGEST = 1 << 20
"""Bytes: the parser takes a second for each 100 kB, and no file of settings is longer than a few."""
DEEPEST = 4000
"""Signs that may open a level, of a text that libyaml is given: it recurses on the C stack."""
DIGITS = 80
"""Characters of a whole number, its underscores or zeros and ones included, that may still be one of 64 bits."""
INDENTED = (
    "it does not stand in the column of its neighbours: all lines of one level begin in the same column, those under a "
    "key two spaces further in"
)
COLON = "a line without `key: value`: after each key stand a colon and a space"
WORDS = (
    (r"found character '\t'", "a tab: YAML indents with spaces"),
    ("cannot start any token", "a value cannot begin with this character: put it in quotes"),
    (
        "mapping values are not allowed",
        (
            "a colon where none can be: lines of one level begin in the same column, a value with a colon stands in "
            "quotes, and a space follows the colon of each key"
        ),
    ),
    ("but found '<block mapping start>'", INDENTED),
    ("but found '<block sequence start>'", INDENTED),
    ("<block end>, but found '-'", INDENTED),
    ("<block end>, but found '?'", INDENTED),
    ("<block end>, but found '}'", "a closing } without its {, or a key without a space after its colon"),
    ("<block end>, but found ']'", "a closing ] without its ["),
    ("could not find expected ':'", COLON),
    ("expected ',' or ']'", "a [ that is not closed, or a comma that is missing"),
    ("expected ',' or '}'", "a { that is not closed, or a comma that is missing"),
    ("unexpected end of stream", "a quote that is not closed"),
    ("unknown escape character", "a backslash in double quotes: use single quotes"),
    ("undefined alias", "a value cannot begin with *: put it in quotes"),
    ("expected alphabetic or numeric", "a value cannot begin with & or *: put it in quotes"),
    ("determine a constructor for the tag", "a value cannot begin with !: put it in quotes"),
    ("found another document", "a second document begins with ---: one file holds one"),
    ("sequence entries are not allowed", "a list begins on a line of its own, or stands in brackets: [a, b]"),
    ("expected the node content", "a value is missing between two signs"),
    ("found unhashable key", "a list or a mapping cannot be a key"),
)
"""What the parser says, and the same for somebody who does not know how it works."""


def read(path: Path) -> dict[str, Any]:
    """The top-level mapping of a YAML file; {} of an empty one.

    Raises:
        ConfigError: unreadable, too large, not UTF-8, not YAML, a key twice, not a mapping; the line names file and
            line.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ConfigError(f"{path} has {size:,} bytes: no file of settings is that long")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(text, str(path))


def text(content: Any) -> str:
    """Plain values as YAML, keys in their order; by libyaml where PyYAML has it, which takes a tenth of the time."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True))


def parse(text: str, where: str) -> dict[str, Any]:
    """The top-level mapping of a YAML text; {} of an empty one.

    Raises:
        ConfigError: as `read`; the line begins with `where`.
    """
    try:
        tree = _loaded(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, 2026-13-45
        raise ConfigError(f"{where}: {reason(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        hint = COLON if isinstance(tree, str) else f"this is a {type(tree).__name__}"
        raise ConfigError(f"{where} must be a mapping (key: value on each line): {hint}")
    return dict(tree)


def line_of(path: Path, key: str) -> int | None:
    """The line on which a key of the top level stands, from 1; None if it does not."""
    node = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    return next((one.start_mark.line + 1 for one in keys if str(one.value) == key), None)


def reason(error: Exception) -> str:
    """Why a text is not YAML, in words, with its line."""
    if isinstance(error, RecursionError):
        return "brackets or lists nested too deep"
    if isinstance(error, yaml.reader.ReaderError):
        return f"not text: character {error.position} is one that no text file holds"
    if not isinstance(error, yaml.MarkedYAMLError):
        return one_line(str(error), 200)
    mark, problem = error.problem_mark or error.context_mark, str(error.problem)
    words = next((words for sign, words in WORDS if sign in problem), one_line(problem, 200))
    begun = error.context_mark
    if (
        begun is not None
        and mark is not None
        and begun.line != mark.line
        and words.startswith(("a [", "a {", "a quote"))
    ):
        return f"line {begun.line + 1}: {words} by line {mark.line + 1}"
    return f"line {mark.line + 1}: {words}" if mark else words


def _loaded(text: str) -> Any:
    """By libyaml where PyYAML has it, in a tenth of the time; what it refuses is read again for a reason in words."""
    if hasattr(yaml, "CSafeLoader") and sum(map(text.count, "[{-?")) < DEEPEST:
        try:
            return yaml.load(text, _quick())
        except (yaml.YAMLError, ValueError, RecursionError):
            pass
    return yaml.load(text, _Strict)


@functools.cache
def _quick() -> Any:
    return _refusing(type("_Quick", (yaml.CSafeLoader,), {}))


class _Strict(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML would keep the last."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                twice = f"{quoted(key.value)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, twice, key.start_mark)
            seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _whole(loader: _Strict, node: yaml.ScalarNode) -> int:
    if len(node.value) <= DIGITS:
        number: int = loader.construct_yaml_int(node)
        if abs(number) < 2**63:
            return number
    raise yaml.constructor.ConstructorError(None, None, "a whole number of more than 64 bits", node.start_mark)


def _refusing(loader: Any) -> Any:
    loader.add_constructor("tag:yaml.org,2002:int", _whole)
    loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
    return loader


_refusing(_Strict)
