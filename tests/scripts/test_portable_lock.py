"""The committed uv.lock holds versions and no address, and the installed packages are those versions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
FULL = """\
version = 1
revision = 5
requires-python = ">=3.11"
resolution-markers = [
    "sys_platform == 'win32'",
    "sys_platform != 'win32'",
]

[options]
exclude-newer = "2026-01-01T00:00:00Z"

[[package]]
name = "anyio"
version = "4.16.0"
source = { registry = "https://mirror.example/simple" }
resolution-markers = [
    "sys_platform == 'win32'",
]
dependencies = [
    { name = "idna", version = "3.20", source = { registry = "https://mirror.example/simple" }, marker = "extra" },
]
sdist = { url = "https://files.example/anyio-4.16.0.tar.gz", hash = "sha256:59bb" }
wheels = [
    { url = "https://files.example/anyio-4.16.0-py3-none-any.whl", hash = "sha256:a97a" },
]

[[package]]
name = "gpt-lab"
version = "0.1.0"
source = { editable = "." }
dependencies = [
    { name = "anyio" },
]

[package.optional-dependencies]
extra = [
    { name = "idna" },
]

[package.dev-dependencies]
dev = [
    { name = "idna" },
]

[package.metadata]
requires-dist = [{ name = "anyio", specifier = ">=4" }]

[package.metadata.requires-dev]
dev = [{ name = "idna", specifier = ">=3" }]

[[package]]
name = "idna"
version = "3.20"
source = { registry = "https://mirror.example/simple" }
wheels = [
    { url = "https://files.example/idna-3.20-py3-none-any.whl", hash = "sha256:ff00" },
]
"""
PORTABLE = """\
version = 1
revision = 5
requires-python = ">=3.11"
resolution-markers = [
    "sys_platform != 'win32'",
    "sys_platform == 'win32'",
]

[[package]]
name = "anyio"
version = "4.16.0"
source = { registry = "index" }
resolution-markers = [
    "sys_platform == 'win32'",
]
dependencies = [
    { name = "idna", version = "3.20", source = { registry = "index" }, marker = "extra" },
]

[[package]]
name = "gpt-lab"
version = "0.1.0"
source = { editable = "." }
dependencies = [
    { name = "anyio" },
]

[package.optional-dependencies]
extra = [
    { name = "idna" },
]

[[package]]
name = "idna"
version = "3.20"
source = { registry = "index" }
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("portable_lock", ROOT / "scripts" / "portable_lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def committed() -> str:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    shown = subprocess.run(["git", "show", "HEAD:uv.lock"], cwd=ROOT, capture_output=True, text=True, check=False)
    if shown.returncode:
        pytest.skip(f"no committed uv.lock to read: {shown.stderr.strip()}")
    return shown.stdout


def test_full_becomes_portable(script: ModuleType) -> None:
    assert script.portable(FULL) == PORTABLE


def test_idempotent(script: ModuleType) -> None:
    assert script.portable(PORTABLE) == PORTABLE


def test_keeps_every_version(script: ModuleType) -> None:
    def versions(text: str) -> list[tuple[str, str]]:
        return [(p["name"], p["version"]) for p in tomllib.loads(text)["package"]]

    assert versions(script.portable(FULL)) == versions(FULL)


def test_rewrites_in_place_and_checks(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "uv.lock"
    lock.write_text(FULL, encoding="utf-8")
    assert script.main(["--check", str(lock)]) == 1
    assert lock.read_text(encoding="utf-8") == FULL, "--check changes nothing"
    assert script.main([str(lock)]) == 0
    assert lock.read_text(encoding="utf-8") == PORTABLE
    assert script.main(["--check", str(lock)]) == 0
    assert list(tmp_path.iterdir()) == [lock]
    assert "3 packages" in capsys.readouterr().out


def test_refuses_an_address_it_cannot_remove(script: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "uv.lock"
    git = FULL.replace('{ registry = "https://mirror.example/simple" }', '{ git = "https://example.org/anyio" }', 1)
    lock.write_text(git, encoding="utf-8")
    assert script.main([str(lock)]) == 2
    assert lock.read_text(encoding="utf-8") == git


def test_missing_file(script: ModuleType, tmp_path: Path) -> None:
    assert script.main([str(tmp_path / "none.lock")]) == 2


def test_committed_lock_is_portable(script: ModuleType) -> None:
    text = committed()
    assert "://" not in text, "run python scripts/portable_lock.py before committing uv.lock"
    assert script.portable(text) == text, "run python scripts/portable_lock.py before committing uv.lock"


def test_installed_versions_are_the_committed_ones() -> None:
    locked: dict[str, set[str]] = {}
    for package in tomllib.loads(committed())["package"]:
        locked.setdefault(normal(package["name"]), set()).add(package["version"])
    installed = {
        normal(dist.metadata["Name"]): dist.version
        for dist in importlib.metadata.distributions(
            path=[sysconfig.get_path("purelib")]
        )  # not what setuptools vendors
        if normal(dist.metadata["Name"]) in locked
    }
    assert {"torch", "numpy", "wandb", "gpt-lab"} <= installed.keys()
    different = {name: (version, locked[name]) for name, version in installed.items() if version not in locked[name]}
    assert not different, f"installed, committed: {different}"


def test_every_dependency_is_locked() -> None:
    """A dependency added to pyproject.toml without a new lock would resolve to whatever is newest that day."""
    locked = {normal(package["name"]) for package in tomllib.loads(committed())["package"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    for extra in project["project"]["optional-dependencies"].values():
        asked += extra
    missing = [line for line in asked if normal(re.split(r"[\s<>=!~;\[]", line)[0]) not in locked]
    assert not missing, "run uv lock, then python scripts/portable_lock.py"
