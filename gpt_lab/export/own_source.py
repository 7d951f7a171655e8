"""Definitions of the lab, with all that they use, as the text of one file: their own source, only names rewritten.

What is reached from the roots is taken, and nothing else; a definition of a name that two modules have gets its
module's in front. Annotations are not followed: none is evaluated.
"""

from __future__ import annotations

import ast
import builtins
import functools
import graphlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpt_lab import project
from gpt_lab.errors import ConfigError

Symbol = tuple[str, str]
"""Module and name of a definition; of a whole module, "" as its name."""
PACKAGES = ("torch", "transformers")
"""What the file may import beside the standard library."""
_KNOWN = {*PACKAGES, *sys.stdlib_module_names}
LEFT_OUT = frozenset(
    {"flops_per_token", "choose_kernels", "request", "measures", "limit_scores", "unlimited", "scale_scores"}
    | {"_clip_scores"}
)
"""Methods that only training and its accounts use."""


@dataclass
class Source:
    """A module's text: its definitions, and what its imports mean."""

    name: str
    text: str
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, Symbol] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def starts(self) -> list[int]:
        """Where each line begins, in bytes, as syntax trees count."""
        lines = self.text.encode().splitlines(keepends=True)
        return [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First byte of a node and the one after its last, decorators included."""
        first = min([node, *getattr(node, "decorator_list", ())], key=lambda n: n.lineno)
        start = self.starts[first.lineno - 1] + first.col_offset - (first is not node)
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]


class Bundle:
    """The definitions that some roots need.

    Args:
        files: modules beside the lab's own, by name.
        moved: definitions that others take the place of.
        instead: texts that take the place of definitions, which are not looked into.
    """

    def __init__(
        self, files: Mapping[str, Path], moved: Mapping[Symbol, Symbol], instead: Mapping[Symbol, str]
    ) -> None:
        self.files, self.moved, self.instead = files, moved, instead
        self._sources: dict[str, Source] = {}
        self.taken: dict[Symbol, dict[tuple[int, int], Symbol | None]] = {}
        self.outside: dict[str, str] = {}
        self.annotations: set[str] = set()

    def add(self, root: Symbol) -> Symbol:
        """Takes a definition and all that it uses; where it is.

        Raises:
            ConfigError: it uses a package that the file may not import.
        """
        todo, found = [self.resolve(*root)], self.resolve(*root)
        while todo:
            one = todo.pop()
            if one in self.taken:
                continue
            if one in self.instead:
                self.taken[one] = {}
                continue
            self.taken[one] = dict(self._uses(one))
            todo += [(one[0], target.id) for target in _targets(self.source(one[0]).definitions[one[1]])]
            todo += [use for use in self.taken[one].values() if use is not None and use not in self.taken]
        return found

    def source(self, module: str) -> Source:
        """A module, read."""
        if module not in self._sources:
            self._sources[module] = read_module(module, self._path(module))
        return self._sources[module]

    def resolve(self, module: str, name: str) -> Symbol:
        """Where a name of a module is defined, through the modules that only pass it on."""
        if (module, name) in self.moved:
            return self.moved[module, name]
        if (module, name) in self.instead:
            return module, name
        found = self.source(module)
        if name in found.definitions or name not in found.imports:
            return module, name
        there, inner = found.imports[name]
        return (there, "") if not inner else self.resolve(there, inner)

    def names(self) -> dict[Symbol, str]:
        """What each definition is called in the file."""
        taken: dict[str, Symbol] = {}
        found: dict[Symbol, str] = {}
        for symbol in self._ordered():
            module, name = symbol
            free = name not in taken and name not in self.outside
            found[symbol] = name if free else f"{module.rpartition('.')[2].strip('_')}_{name.lstrip('_')}"
            taken[found[symbol]] = symbol
        return found

    def imports(self) -> list[str]:
        """The lines that import what is not the lab's."""
        return sorted({*self.outside.values()}, key=lambda line: (line.split()[1], line))

    def unknown_types(self) -> list[str]:
        """Names of types that only annotations have, and that are not in the file."""
        return sorted(self.annotations - {*self.names().values()} - self.outside.keys())

    def text(self) -> str:
        """The definitions, those that others are made of first."""
        names, pieces, seen = self.names(), [], set()
        for symbol in self._ordered():
            if symbol in self.instead:
                pieces.append(self.instead[symbol].strip())
                continue
            source = self.source(symbol[0])
            node = source.definitions[symbol[1]]
            if (symbol[0], node.lineno) not in seen:
                seen.add((symbol[0], node.lineno))
                pieces.append(self._rewritten(source, node, symbol, names))
        return "\n\n\n".join(pieces)

    def _ordered(self) -> list[Symbol]:
        """Modules after those that they import, definitions as they stand in them."""
        graph = {}
        for module in {module for module, _ in self.taken}:
            known = {there for there, _ in self.source(module).imports.values()}
            graph[module] = self._reached(known)
        order = {module: i for i, module in enumerate(graphlib.TopologicalSorter(graph).static_order())}

        def place(symbol: Symbol) -> tuple[int, int]:
            node = self.source(symbol[0]).definitions.get(symbol[1])
            return order[symbol[0]], 0 if node is None else node.lineno

        return sorted(self.taken, key=place)

    def _reached(self, modules: set[str]) -> set[str]:
        """Modules, and those that they import, through packages too."""
        found: set[str] = set()
        todo = list(modules)
        while todo:
            module = todo.pop()
            if module not in found and self._is_ours(module):
                found.add(module)
                todo += [there for there, _ in self.source(module).imports.values()]
        return found

    def _is_ours(self, module: str) -> bool:
        return module.split(".")[0] == "gpt_lab" or module in self.files

    def _path(self, module: str) -> Path:
        if module in self.files:
            return self.files[module]
        place = project.PACKAGE.joinpath(*module.split(".")[1:])
        return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")

    def _uses(self, symbol: Symbol) -> Iterator[tuple[tuple[int, int], Symbol | None]]:
        """What a definition refers to and where; None: of another package."""
        source = self.source(symbol[0])
        if symbol[1] not in source.definitions:
            raise ConfigError(f"{symbol[0]} has no {symbol[1] or 'definition'} that could be written into a file")
        for name in _annotations(source.definitions[symbol[1]]):
            if name in source.outside and source.outside[name].split()[1].split(".")[0] in _KNOWN:
                self.outside.setdefault(name, source.outside[name])
            elif name in source.definitions or name in source.imports:
                self.annotations.add(name)
        for node in _references(source.definitions[symbol[1]]):
            name = node.id if isinstance(node, ast.Name) else _root(node)
            if name in source.outside:
                line = source.outside[name]
                package = line.split()[1].split(".")[0]
                if package not in _KNOWN:
                    raise ConfigError(f"{source.name} imports {package}: one file of torch alone cannot hold it")
                if self.outside.setdefault(name, line) != line:
                    raise ConfigError(f"{source.name} calls {name} what another module calls so: rename its import")
                continue
            if name not in source.definitions and name not in source.imports:
                continue  # a builtin
            target = self.resolve(source.name, name)
            if not target[1]:
                if not isinstance(node, ast.Attribute):
                    raise ConfigError(f"{source.name} hands a module on ({name}): write the names that it uses")
                target = self.resolve(target[0], node.attr)
            elif isinstance(node, ast.Attribute):
                node = node.value  # type: ignore[assignment]
                if not isinstance(node, ast.Name):
                    continue
            yield source.span(node), target

    def _rewritten(self, source: Source, node: ast.stmt, symbol: Symbol, names: Mapping[Symbol, str]) -> str:
        edits = {span: names[use] for span, use in self.taken[symbol].items() if use is not None}
        for part in _left_out(node):
            start, end = source.span(part)
            edits = {span: new for span, new in edits.items() if not start <= span[0] < end}
            first, last = _whole_lines(source, start, end)
            edits[first, min(last, source.span(node)[1])] = ""
        start, end = source.span(node)
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            for decorator in node.decorator_list:
                if _root(decorator) == "register":
                    edits = {span: new for span, new in edits.items() if span[0] >= source.span(decorator)[1]}
                    start = source.starts[decorator.end_lineno]  # type: ignore[index]
            if names[symbol] != node.name:
                line = source.text.encode()[start:end].decode()
                word = "class" if isinstance(node, ast.ClassDef) else "def"
                at = source.starts[node.lineno - 1] + len(word) + 1
                assert line.find(f"{word} {node.name}") >= 0
                edits[(at, at + len(node.name.encode()))] = names[symbol]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in _targets(node):
                edits[source.span(target)] = names[(symbol[0], target.id)]
        data = source.text.encode()
        for (a, b), new in sorted(edits.items(), reverse=True):
            if start <= a and b <= end:
                data, end = data[:a] + new.encode() + data[b:], end + len(new.encode()) - (b - a)
        text = data[start:end].decode()
        return re.sub(r"\n{3,}", "\n\n", text)


@functools.cache
def read_module(module: str, path: Path) -> Source:
    """The definitions and imports of a file."""
    text = path.read_text(encoding="utf-8")
    found = Source(module, text)
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found.definitions |= {target.id: node for target in _targets(node)}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                line = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                found.outside[alias.asname or alias.name.split(".")[0]] = line
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                name = alias.asname or alias.name
                if node.module.split(".")[0] != "gpt_lab":
                    more = f" as {alias.asname}" if alias.asname else ""
                    found.outside[name] = f"from {node.module} import {alias.name}{more}"
                elif _is_module(f"{node.module}.{alias.name}"):
                    found.imports[name] = (f"{node.module}.{alias.name}", "")
                else:
                    found.imports[name] = (node.module, alias.name)
    return found


def _is_module(name: str) -> bool:
    place = project.PACKAGE.joinpath(*name.split(".")[1:])
    return (place / "__init__.py").is_file() or place.with_suffix(".py").is_file()


def _targets(node: ast.stmt) -> list[ast.Name]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    found: list[ast.Name] = []
    for target in targets:
        inner = target.elts if isinstance(target, ast.Tuple) else [target]
        found += [one for one in inner if isinstance(one, ast.Name)]
    return found


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else ""


def _left_out(node: ast.stmt) -> list[ast.stmt]:
    """Methods of a class that the file does without."""
    inner = node.body if isinstance(node, ast.ClassDef) else []
    return [one for one in inner if isinstance(one, ast.FunctionDef) and one.name in LEFT_OUT]


def _whole_lines(source: Source, start: int, end: int) -> tuple[int, int]:
    return max(at for at in source.starts if at <= start), min(at for at in source.starts if at >= end)


@functools.cache
def _annotations(node: ast.stmt) -> set[str]:
    """Names in the annotations of a definition, those of what the file does without left out."""
    found = set()
    left_out = _left_out(node)
    todo: list[ast.AST] = [node]
    while todo:
        one = todo.pop()
        todo += [child for child in ast.iter_child_nodes(one) if child not in left_out]
        for where in ("annotation", "returns"):
            inner = getattr(one, where, None)
            if isinstance(inner, ast.AST):
                found |= {leaf.id for leaf in ast.walk(inner) if isinstance(leaf, ast.Name)}
    return found


class _Finder(ast.NodeVisitor):
    """Names and dotted names that are not of the scopes inside: what the module around must give."""

    def __init__(self) -> None:
        self.found: list[ast.Name | ast.Attribute] = []
        self.scopes: list[set[str]] = []

    def own(self, name: str) -> bool:
        return any(name in scope for scope in self.scopes)

    def visit_Name(self, node: ast.Name) -> None:
        if not self.own(node.id):
            self.found.append(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name):
            if not self.own(node.value.id):
                self.found.append(node)
        else:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """Its annotation is not evaluated."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            self.visit(decorator)
        self._inside(node.args, node.body)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._inside(node.args, [node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outer in (*(d for d in node.decorator_list if _root(d) != "register"), *node.bases, *node.keywords):
            self.visit(outer)
        left_out = _left_out(node)
        for statement in node.body:
            if statement not in left_out:
                self.visit(statement)

    def _inside(self, args: ast.arguments, body: list[ast.stmt] | list[ast.expr]) -> None:
        for default in (*args.defaults, *(one for one in args.kw_defaults if one is not None)):
            self.visit(default)
        named = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
        self.scopes.append({one.arg for one in named} | {name for one in body for name in _bound(one)})
        for one in body:
            self.visit(one)
        self.scopes.pop()

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self.scopes.append({name for one in node.generators for name in _bound(one.target)})
        self.generic_visit(node)
        self.scopes.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that a statement binds in its function, those of functions and comprehensions inside left out."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
        return
    elif isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _bound(child)


@functools.cache  # a node of a module that is read once
def _references(node: ast.stmt) -> list[ast.Name | ast.Attribute]:
    finder = _Finder()
    if isinstance(node, ast.Assign | ast.AnnAssign):
        if node.value is not None:
            finder.visit(node.value)
    else:
        finder.visit(node)
    known = {*dir(builtins)}
    return [one for one in finder.found if _root(one) not in known]
