"""Registry of swappable parts: kind -> name -> class, indexed without importing a single part.

A part is a class under `@register(kind, name)`. The index is read from the source text, what a part says of itself from
its syntax tree, so that the command line can list, check and explain every option in milliseconds; a class is imported
only when it is built.
A user's own parts are the files of the folder parts/ and the module that `parts: NAME` in a project's conf/config.yaml
names; other packages join through the entry-point group `gpt_lab.parts`, whose values name the modules with their
parts.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gpt_lab import options, project
from gpt_lab.errors import ConfigError, unknown

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
    "parallel",
    "tracker",
)
ENTRY_POINTS = "gpt_lab.parts"
BASES = ("gpt_lab.parts.", "gpt_lab.optim.")
"""Modules whose classes, imported by name, are bases with options and explanations of their own."""
OWN = "own_parts"
"""Package under whose name the files of one's own are imported, whatever folders of that name lie about."""
REQUIRED = object()
"""The default of an option that has none: the user must give it."""

C = TypeVar("C", bound=type)
_MARKED = re.compile(r'^@register\("(\w+)", "([^"\n]+)"\)\n(?:@.+\n)*class (\w+)', re.MULTILINE)


@dataclass(frozen=True)
class Option:
    """One keyword-only argument of a part: its type and its default."""

    annotation: Any
    default: Any


@dataclass(frozen=True)
class Part:
    """One entry of the index: where the class is; read when asked for: what it says of itself, its options."""

    kind: str
    name: str
    module: str
    path: Path
    qualname: str

    @property
    def doc(self) -> str:
        return _docs(self.module, self.path)[self.qualname]

    @property
    def options(self) -> Mapping[str, Option]:
        return _described(self.module, self.path)[self.qualname]

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
    _described.cache_clear()
    _docs.cache_clear()
    found: dict[str, dict[str, Part]] = {kind: {} for kind in KINDS}
    for module, path in _sources():
        for part in _scan(module, path):
            if part.kind not in KINDS:
                raise ConfigError(f"{module}.{part.qualname}: " + unknown("kind of part", part.kind, KINDS))
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
    """The class of a part; imports its module.

    Raises:
        ConfigError: a file of one's own, or of another package, cannot be imported; the line says where.
    """
    return load_class(get(kind, name))


def load_class(part: Part) -> Any:
    """The class of an entry; errors as those of load."""
    try:
        return getattr(_imported(part), part.qualname)
    except Exception as error:
        if part.module.startswith("gpt_lab."):
            raise
        raise ConfigError(
            f"{part.kind}={part.name} cannot be loaded: {_where(error, part.path)}: {_error_text(error)}"
        ) from error


def build(kind: str, settings: Mapping[str, Any], *args: Any) -> Any:
    """An instance of the part that `settings["name"]` selects, with the other settings as its options."""
    chosen = {key: value for key, value in settings.items() if key != "name"}
    return load(kind, settings["name"])(*args, **chosen)


def parts_of(kind: str, settings: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parts that a group's settings choose, each with where its options stand: its letters', else itself."""
    taken = get(kind, settings["name"]).options
    inside = next((key for key, option in taken.items() if option.annotation == options.Letters), None)
    if inside is None:
        yield where or kind, settings
        return
    for letter, chosen in settings[inside].items():
        yield from parts_of(kind, chosen, f"{where or kind}.{inside}.{letter}")


def own_dir() -> Path | None:
    """The folder of a user's own parts: $GPT_LAB_PARTS, ./parts, the one of the source tree; None: there is none.

    Raises:
        ConfigError: the variable names no folder.
    """
    chosen = os.environ.get("GPT_LAB_PARTS")
    if chosen and not Path(chosen).is_dir():
        raise ConfigError(f"GPT_LAB_PARTS={chosen} is no folder")
    source = [project.PACKAGE.parent / "parts"] if project.in_source_tree() else []
    for place in [Path(chosen)] if chosen else [Path.cwd() / "parts", *source]:
        if place.is_dir() and place.resolve() != project.PACKAGE / "parts":
            return place.resolve()
    return None


def foreign() -> Iterator[tuple[str, Path]]:
    """Modules outside the lab that may hold parts, with their files: of other packages, of the project, of parts/.

    Raises:
        ConfigError: an entry point, or the project's conf/config.yaml, names a module that is not there.
    """
    seen: set[Path] = set()
    for module, path in _announced():
        if path.resolve() not in seen:
            seen.add(path.resolve())
            yield module, path


def _announced() -> Iterator[tuple[str, Path]]:
    for module in sorted({point.module for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}):
        path = _origin(module)
        if path is None:
            raise ConfigError(f"entry point {ENTRY_POINTS} names the module {module!r}, which is not installed")
        yield module, path
    for module in project.own_modules():
        found = project.module_files(module)
        if not found and (path := _origin(module)) is not None:
            found = [(module, path)]
        if not found:
            raise ConfigError(
                f"conf/config.yaml: {project.PARTS}: {module}: there is no {module.replace('.', '/')}.py and no such "
                "folder beside conf/, and no installed module of that name"
            )
        yield from found
    folder = own_dir()
    for path in sorted(folder.glob("[!.]*.py")) if folder is not None else ():
        yield f"{OWN}.{path.stem}", path


def _sources() -> Iterator[tuple[str, Path]]:
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        yield ".".join(path.relative_to(root.parent).with_suffix("").parts), path
    yield from foreign()


def _origin(module: str) -> Path | None:
    """The file of an installed module.

    A folder of the module's name in the working directory is a namespace package to Python and comes before a module
    that is installed in editable form; it holds no code and is passed over.
    """
    try:
        found = [importlib.util.find_spec(module)]
    except ImportError:
        return None
    if "." not in module:
        found += [finder.find_spec(module, None) for finder in sys.meta_path if hasattr(finder, "find_spec")]
    return next((Path(spec.origin) for spec in found if spec is not None and spec.has_location and spec.origin), None)


def _imported(part: Part) -> types.ModuleType:
    """The module of a part: of the lab and below a package by its name, otherwise from the very file of the index."""
    made = sys.modules.get(part.module)
    if made is not None and made.__file__ == str(part.path):
        return made
    above = part.module.rpartition(".")[0]
    if above == OWN:
        sys.modules.setdefault(OWN, types.ModuleType(OWN)).__path__ = [str(part.path.parent)]
    sys.path += [str(root) for root in project.roots() if part.path.is_relative_to(root) and str(root) not in sys.path]
    if above:
        made = importlib.import_module(part.module)
        if made.__file__ is None or not os.path.samefile(made.__file__, part.path):
            raise ImportError(f"another module of the name {part.module} comes first: {made.__file__}")
        return made
    known = sys.modules.get(part.module)
    if known is not None and getattr(known, "__file__", None):
        return known
    spec = importlib.util.spec_from_file_location(part.module, part.path)
    assert spec is not None and spec.loader is not None, "it is a Python file"
    made = sys.modules[part.module] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[part.module]
        raise
    return made


def _where(error: Exception, path: Path) -> str:
    """File and line of an error: the last in the file of the part, else the file alone."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}" if line else str(path)


def _error_text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {getattr(error, 'msg', None) or error}".split())


def _scan(module: str, path: Path) -> Iterator[Part]:
    try:
        text = path.read_text(encoding="utf-8")
        if "register(" not in text:
            return
        if module.startswith("gpt_lab."):  # all written alike: to parse them took a tenth of a second
            yield from (Part(kind, name, module, path, qualname) for kind, name, qualname in _MARKED.findall(text))
            return
        tree = ast.parse(text, str(path))
    except (SyntaxError, ValueError, OSError) as error:  # ValueError: not UTF-8, or a null byte
        raise ConfigError(f"{_where(error, path)} cannot be read as Python: {_error_text(error)}") from None
    for kind, name, node in _marked(tree):
        part = Part(kind, name, module, path, node.name)
        assert part.options is not None, "what cannot be read is said at once"
        yield part


@functools.cache
def _described(module: str, path: Path) -> Mapping[str, Mapping[str, Option]]:
    """Options of each part in a file, by its class."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    classes = _classes(tree)
    return {node.name: _options(f"{module}.{node.name}", node, classes) for _, _, node in _marked(tree)}


@functools.cache
def _docs(module: str, path: Path) -> Mapping[str, str]:
    """Docstring of each part in a file, by its class: only what shows parts asks for it, and it takes longest."""
    tree, taken = ast.parse(path.read_text(encoding="utf-8"), str(path)), _described(module, path)
    classes = _classes(tree)
    return {node.name: _doc(node, taken[node.name], classes) for _, _, node in _marked(tree)}


def _marked(tree: ast.Module) -> Iterator[tuple[str, str, ast.ClassDef]]:
    """Kind, name and class of each part in a file."""
    for node in [node for node in tree.body if isinstance(node, ast.ClassDef)]:
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(
                    func=ast.Name(id="register") | ast.Attribute(attr="register"),
                    args=[ast.Constant(value=str(kind)), ast.Constant(value=str(name))],
                ):
                    yield kind, name, node


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    """The classes that a file defines or imports by name from one of BASES, and theirs in turn."""
    found: dict[str, ast.ClassDef] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(BASES):
            inside = _package_classes(str(node.module))
            found |= inside  # the bases of what is imported must be found as well
            found |= {name.asname: inside[name.name] for name in node.names if name.asname and name.name in inside}
    return found | {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


@functools.cache
def _package_classes(module: str) -> dict[str, ast.ClassDef]:
    """As _classes, of a module of this package."""
    path = project.PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return _classes(ast.parse(path.read_text(encoding="utf-8"), str(path))) if path.is_file() else {}


def explained(doc: str, key: str) -> str:
    """The lines of a docstring that say what an option means: `key: ...`, continuation lines (deeper indented) too."""
    if key not in doc:
        return ""
    found = re.search(rf"^([ ]*)`{{0,2}}{re.escape(key)}`{{0,2}}: *.+(?:\n\1[ ]+\S.*)*", doc, re.MULTILINE)
    return found[0] if found else ""


def _base(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> ast.ClassDef | None:
    """The first base that is in the same file, or imported by it from one of BASES."""
    return next((classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes), None)


def _options(where: str, node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> dict[str, Option]:
    """Keyword-only arguments of the class's own __init__ or __new__; where it has none, or takes `**`, its base's too.

    A base is one in the same file or imported from gpt_lab.parts or gpt_lab.optim.
    """
    own: dict[str, Option] = {}
    complete = False
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__"):
            pairs = zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True)
            own = {
                arg.arg: Option(_annotation(arg.annotation), _default(where, arg.arg, value)) for arg, value in pairs
            }
            complete = item.args.kwarg is None
    base = None if complete else _base(node, classes)
    above = {} if base is None else _options(where, base, classes)
    return {key: option for key, option in own.items() if key not in above} | above | own


def _doc(node: ast.ClassDef, taken: Collection[str], classes: Mapping[str, ast.ClassDef]) -> str:
    """The docstring, and of its base's what explains options that it does not explain itself."""
    doc, base = ast.get_docstring(node) or "", _base(node, classes)
    above = "" if base is None else _doc(base, taken, classes)
    return "\n\n".join(
        filter(None, (doc, "\n".join(explained(above, k) for k in taken if not explained(doc, k)).strip()))
    )


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
