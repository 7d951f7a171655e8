"""What can be swapped: kind -> name -> class, known without importing a single part.

A part is a class under `@register(kind, name)`. The index is read from the source text (its syntax tree), so that
the command line can list, check and explain every option in milliseconds; a class is imported only when it is built.
Other packages join through the entry-point group `gpt_lab.parts`, whose values name the modules with their parts.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gpt_lab import options
from gpt_lab.errors import ConfigError, quoted, unknown

KINDS = (
    "attention",
    "position",
    "norm",
    "mlp",
    "residual",
    "init",
    "optim",
    "schedule",
    "precision",
    "kernel",
    "data",
    "tokenizer",
    "objective",
    "tracker",
)
ENTRY_POINTS = "gpt_lab.parts"
REQUIRED = object()
"""The default of an option that has none: the user must give it."""

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Option:
    """One keyword-only argument of a part: its type and its default."""

    annotation: Any
    default: Any


@dataclass(frozen=True)
class Part:
    """One entry of the index: where the class is, what it says of itself, which options it takes."""

    kind: str
    name: str
    module: str
    qualname: str
    doc: str
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return self.doc.strip().splitlines()[0] if self.doc.strip() else ""


def register(kind: str, name: str) -> Callable[[C], C]:
    """Class decorator: makes the class selectable as `<kind>=<name>`. Its keyword-only arguments are its options."""
    if kind not in KINDS:
        raise ConfigError(unknown("kind of part", kind, KINDS))

    def mark(cls: C) -> C:
        cls.part = (kind, name)  # type: ignore[attr-defined]
        return cls

    return mark


@functools.cache
def index() -> Mapping[str, Mapping[str, Part]]:
    """Every part, by kind and name; reads source files, imports none of them.

    Raises:
        ConfigError: two parts claim the same kind and name.
    """
    found: dict[str, dict[str, Part]] = {kind: {} for kind in KINDS}
    for module, path in _sources():
        for part in _scan(module, path):
            other = found[part.kind].get(part.name)
            if other is not None and other.module != part.module:
                raise ConfigError(
                    f"{part.kind}={part.name} is registered by both {other.module} and {part.module}: rename one"
                )
            found[part.kind][part.name] = part
    return {kind: dict(sorted(parts.items())) for kind, parts in found.items()}


def get(kind: str, name: str) -> Part:
    """The index entry of one part.

    Raises:
        ConfigError: no such kind or name; the line offers the closest.
    """
    if kind not in KINDS:
        raise ConfigError(unknown("kind of part", kind, KINDS))
    parts = index()[kind]
    if name not in parts:
        raise ConfigError(unknown(f"{kind}", name, parts))
    return parts[name]


def load(kind: str, name: str) -> Any:
    """The class of a part; imports its module."""
    part = get(kind, name)
    return getattr(importlib.import_module(part.module), part.qualname)


def build(kind: str, settings: Mapping[str, Any], *args: Any) -> Any:
    """An instance of the part that `settings["name"]` selects, with the other settings as its options."""
    chosen = {key: value for key, value in settings.items() if key != "name"}
    return load(kind, settings["name"])(*args, **chosen)


def packages() -> list[str]:
    """Modules that other distributions announce under the entry-point group, in name order."""
    return sorted({point.value.partition(":")[0] for point in importlib.metadata.entry_points(group=ENTRY_POINTS)})


def _sources() -> Iterator[tuple[str, Path]]:
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        yield ".".join(path.relative_to(root.parent).with_suffix("").parts), path
    for module in packages():
        try:
            spec = importlib.util.find_spec(module)
        except ImportError:
            spec = None
        if spec is None or spec.origin is None:
            raise ConfigError(f"entry point {ENTRY_POINTS} names the module {quoted(module)}, which is not installed")
        yield module, Path(spec.origin)


def _scan(module: str, path: Path) -> Iterator[Part]:
    text = path.read_text(encoding="utf-8")
    if "register(" not in text:
        return
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    for node in classes.values():
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(
                    func=ast.Name(id="register") | ast.Attribute(attr="register"),
                    args=[ast.Constant(value=str(kind)), ast.Constant(value=str(name))],
                ):
                    if kind not in KINDS:
                        raise ConfigError(f"{module}.{node.name}: " + unknown("kind of part", kind, KINDS))
                    doc = ast.get_docstring(node) or ""
                    where = f"{module}.{node.name}"
                    yield Part(kind, name, module, node.name, doc, _options(where, node, classes))


def _options(where: str, node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> dict[str, Option]:
    """Keyword-only arguments of the class's own __init__, or of the nearest base in the same file that has one."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            pairs = zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True)
            return {
                arg.arg: Option(_annotation(arg.annotation), _default(where, arg.arg, default))
                for arg, default in pairs
            }
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            return _options(where, classes[base.id], classes)
    return {}


def _annotation(node: ast.expr | None) -> Any:
    if node is None:
        return Any
    try:
        return eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, options.NAMESPACE)
    except (NameError, TypeError):  # a type of the other package's own: its class checks it
        return Any


def _default(where: str, key: str, node: ast.expr | None) -> Any:
    if node is None:
        return REQUIRED
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ConfigError(
            f"{where}: the default of {key} must be a literal (a number, text, true, null or a list), "
            f"not {ast.unparse(node)}"
        ) from None
