"""The index of parts: what it finds, what it refuses, and that it agrees with the classes themselves."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_lab import options, registry
from gpt_lab.errors import ConfigError

PARTS = [(kind, name) for kind, parts in registry.index().items() for name in parts]
HEADER = "from gpt_lab.options import *\nfrom gpt_lab.registry import register\n"
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes a module with this text and an installed distribution whose entry point names it."""

    def make(text: str, module: str = "extra_parts", header: str = HEADER, write: bool = True) -> None:
        if write:
            (tmp_path / f"{module}.py").write_text(header + text, encoding="utf-8")
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[gpt_lab.parts]\n{module} = {module}\n", encoding="utf-8")
        registry.index.cache_clear()

    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield make
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    registry.index.cache_clear()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Writes a file of one's own, and makes its folder the one that is read."""

    def make(text: str, name: str = "mine.py", header: str = HEADER) -> None:
        (tmp_path / name).write_text(header + text, encoding="utf-8")
        registry.index.cache_clear()

    monkeypatch.setenv("GPT_LAB_PARTS", str(tmp_path))
    before = set(sys.modules)
    yield make
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == registry.OWN:
            del sys.modules[name]
    registry.index.cache_clear()


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_kind_has_parts(kind: str) -> None:
    assert registry.index()[kind]


@pytest.mark.parametrize("kind, name", PARTS)
def test_index_agrees_with_the_class(kind: str, name: str) -> None:
    """The syntax tree and Python see the same options with the same defaults."""
    part = registry.get(kind, name)
    cls = registry.load(kind, name)
    assert cls.part == (kind, name)
    keyword_only: dict[str, Any] = {}
    for above in cls.__mro__[:-1]:
        if made := vars(above).get("__init__") or vars(above).get("__new__"):
            parameters = inspect.signature(made).parameters.values()
            keyword_only |= {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | keyword_only
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    stated = {
        key: inspect.Parameter.empty if option.default is registry.REQUIRED else option.default
        for key, option in part.options.items()
    }
    assert stated == keyword_only
    assert [type(v) for v in stated.values()] == [type(v) for v in keyword_only.values()]


@pytest.mark.parametrize("kind, name", PARTS)
def test_defaults_satisfy_their_types(kind: str, name: str) -> None:
    for key, option in registry.get(kind, name).options.items():
        assert option.annotation is not Any, f"{kind}.{key} needs a type of options.NAMESPACE"
        if option.default is not registry.REQUIRED:
            checked = options.check(f"{kind}.{key}", option.default, option.annotation)
            assert checked == option.default
            assert type(checked) is type(option.default)


@pytest.mark.parametrize("kind, name", PARTS)
def test_no_option_hides_the_choice(kind: str, name: str) -> None:
    assert "name" not in registry.get(kind, name).options, f"{kind}.name is the part that was chosen"


def test_unknown_names_offer_the_closest() -> None:
    assert "did you mean 'rmsnorm'" in refusal(lambda: registry.get("norm", "rmsnrm"))
    assert "did you mean 'attention'" in refusal(lambda: registry.get("atention", "mha"))
    assert "did you mean 'norm'" in refusal(lambda: registry.register("nrom", "x"))


def test_no_part_is_missed_without_the_syntax_tree() -> None:
    found = {(kind, part.name, part.qualname) for kind, parts in registry.index().items() for part in parts.values()}
    texts = [path.read_text(encoding="utf-8") for path in registry.project.PACKAGE.rglob("*.py")]
    marked = [one for text in texts if "register(" in text for one in registry._marked(ast.parse(text))]
    assert {(kind, name, node.name) for kind, name, node in marked} <= found and len(marked) > 50


def test_entry_point(install: Install) -> None:
    install("""
@register("norm", "half")
class Half:
    \"\"\"Halves.

    by: divisor
    \"\"\"
    def __init__(self, dim: int, *, by: PositiveFloat = 2.0, must: int, maybe: int | None = None) -> None:
        self.dim, self.by, self.must = dim, by, must
""")
    part = registry.get("norm", "half")
    assert part.module == "extra_parts"
    assert part.summary == "Halves."
    assert part.options["by"] == registry.Option(options.PositiveFloat, 2.0)
    assert part.options["must"] == registry.Option(int, registry.REQUIRED)
    assert part.options["maybe"] == registry.Option(int | None, None)
    assert "extra_parts" not in sys.modules, "the index imports no part"
    built = registry.build("norm", {"name": "half", "by": 4.0, "must": 1}, 8)
    assert (built.dim, built.by, built.must) == (8, 4.0, 1)
    assert "rmsnorm" in registry.index()["norm"], "our own parts stay"


def test_options_come_from_the_nearest_base(install: Install) -> None:
    install("""
class Base:
    '''Has an option.

    eps: of the base,
        on two lines.
    '''

    def __init__(self, dim: int, *, eps: float = 1e-6) -> None: ...

class Middle(Base):
    pass

@register("norm", "inherits")
class Inherits(Middle): ...

@register("norm", "replaces")
class Replaces(Middle):
    def __init__(self, dim: int, *, other: int = 3) -> None: ...

@register("norm", "adds")
class Adds(Middle):
    def __init__(self, dim: int, *, other: int = 3, **options: float) -> None: ...

@register("norm", "differs")
class Differs(Adds):
    '''Another default.

    eps: its own.
    '''

    def __init__(self, dim: int, *, eps: float = 1e-3, **options: float) -> None: ...

@register("norm", "plain")
class Plain: ...
""")
    found = registry.index()["norm"]
    assert list(found["inherits"].options) == ["eps"]
    assert list(found["replaces"].options) == ["other"]
    assert {key: option.default for key, option in found["adds"].options.items()} == {"other": 3, "eps": 1e-6}
    assert {key: option.default for key, option in found["differs"].options.items()} == {"other": 3, "eps": 1e-3}
    assert dict(found["plain"].options) == {}
    assert found["adds"].doc == "eps: of the base,\n    on two lines."
    assert found["differs"].doc == "Another default.\n\neps: its own."
    assert found["replaces"].doc == "", "an option that is not taken is not explained"


def test_a_type_of_its_own_is_left_to_the_class(install: Install) -> None:
    install("""
@register("norm", "own")
class Own:
    def __init__(self, dim: int, *, size: "Size" = 3, kind: Colour = "red") -> None: ...
""")
    assert registry.get("norm", "own").options["kind"].annotation is Any


def test_qualified_decorator(install: Install) -> None:
    install('@registry.register("norm", "dotted")\nclass Dotted: ...\n', header="from gpt_lab import registry\n")
    assert registry.get("norm", "dotted").qualname == "Dotted"


def test_two_claims(install: Install) -> None:
    install('@register("norm", "rmsnorm")\nclass Mine: ...\n')
    line = refusal(registry.index)
    assert "norm=rmsnorm" in line and "extra_parts" in line and "gpt_lab.parts.norm" in line


def test_unknown_kind_in_a_package(install: Install) -> None:
    install('@register("nrom", "x")\nclass Mine: ...\n')
    line = refusal(registry.index)
    assert "extra_parts.Mine" in line and "did you mean 'norm'" in line


def test_entry_point_without_module(install: Install) -> None:
    install("", module="not_there", write=False)
    assert "not_there" in refusal(registry.index)


def test_a_default_must_be_a_literal(install: Install) -> None:
    """The index cannot evaluate an expression: it says so, and where."""
    install("""
SIZE = 4

@register("norm", "named")
class Named:
    def __init__(self, dim: int, *, size: int = SIZE) -> None: ...
""")
    line = refusal(registry.index)
    assert "extra_parts.Named" in line and "size" in line and "literal" in line


HALF = """
@register("norm", "half")
class Half:
    def __init__(self, dim: int, *, by: float = 2.0) -> None:
        self.dim, self.by = dim, by
"""


def test_a_file_of_one_s_own(own: Install, tmp_path: Path) -> None:
    """It may use its neighbours, and is part of the code that runs are told apart by."""
    from gpt_lab.store import record

    record.code.cache_clear()
    own("def doubled(x: float) -> float:\n    return 2 * x\n", "helpers.py", header="")
    before = record.code()
    own(HALF.replace("by\n", "doubled(by)\n"), header=HEADER + "from .helpers import doubled\n")
    part = registry.get("norm", "half")
    assert part.path == tmp_path / "mine.py"
    assert part.module not in sys.modules, "the index imports no part"
    assert registry.build("norm", {"name": "half", "by": 4.0}, 8).by == 8.0
    record.code.cache_clear()
    assert record.code() != before
    record.code.cache_clear()


def test_the_folders_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """./parts before that of the source tree; the lab's own is not one."""
    monkeypatch.delenv("GPT_LAB_PARTS")
    (tmp_path / "parts").mkdir()
    monkeypatch.chdir(tmp_path)
    assert registry.own_dir() == tmp_path / "parts"
    monkeypatch.chdir(Path(registry.__file__).parent)
    assert registry.own_dir() != Path(registry.__file__).parent / "parts"
    monkeypatch.setenv("GPT_LAB_PARTS", str(tmp_path / "nowhere"))
    assert "nowhere is no folder" in refusal(registry.own_dir)


def test_a_file_that_cannot_be_read(own: Install, tmp_path: Path) -> None:
    """One line says where and what, and nothing is run to know it."""
    own('@register("norm", "half"\n', header="")
    assert f"{tmp_path / 'mine.py'}:1 cannot be read as Python: SyntaxError" in refusal(registry.index)
    (tmp_path / "mine.py").write_bytes(b"register(\xff")
    registry.index.cache_clear()
    assert "mine.py cannot be read as Python: UnicodeDecodeError" in refusal(registry.index)
    own("import not_there\n" + HALF)
    line = refusal(lambda: registry.load("norm", "half"))
    assert f"norm=half cannot be loaded: {tmp_path / 'mine.py'}:3: ModuleNotFoundError" in line
    own(HALF, ".#mine.py", header="\0")
    own(HALF)
    assert registry.load("norm", "half").part == ("norm", "half"), "editors' own files are passed over"
