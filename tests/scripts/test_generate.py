"""What is written from the code is what the code says, and one command says and mends where it is not."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_lab import registry
from gpt_lab.config import components
from scripts import generate

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module", autouse=True)
def made_once() -> Iterator[None]:
    """What takes seconds, and no test here changes what it is made from."""
    tables = {name: functools.cache(table) for name, table in generate.TABLES.items() if name != "components"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "TABLES", {**generate.TABLES, **tables})
        patch.setattr(generate, "atlas_page", functools.cache(generate.atlas_page))
        yield


def test_nothing_is_stale() -> None:
    stale = [str(path.relative_to(ROOT)) for path in generate.outdated()]
    assert not stale, f"run `{generate.COMMAND}`"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What is generated, in another folder."""
    for name in ("conf", "docs", "sweeps"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("README.md", generate.RECORDED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def test_what_is_stale_is_found(copy: Path) -> None:
    """An option's default, a file that is missing, one of a part that is gone, a row of a table, the catalogue."""
    assert generate.outdated(copy) == {}
    rmsnorm = copy / "conf" / "norm" / "rmsnorm.yaml"
    rmsnorm.write_text(rmsnorm.read_text().replace("1.0e-06", "1.0e-05"))
    (copy / "conf" / "norm" / "layernorm.yaml").unlink()
    (copy / "conf" / "mlp" / "gone.yaml").write_text("name: gone\n")
    (copy / "docs" / "table.md").write_text("<!-- gate -->\n| old |\n<!-- /gate -->\n")
    (copy / "docs" / "components.md").write_text("old")
    found = {str(path.relative_to(copy)): text for path, text in generate.outdated(copy).items()}
    assert set(found) == {
        *("conf/norm/rmsnorm.yaml", "conf/norm/layernorm.yaml", "conf/mlp/gone.yaml", "docs/table.md"),
        "docs/components.md",
    }
    assert found["conf/mlp/gone.yaml"] is None
    assert "eps: 1.0e-06" in (found["conf/norm/rmsnorm.yaml"] or "")
    assert "| 0 | keep | better |" in (found["docs/table.md"] or "")


def test_one_command_says_and_mends(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "ROOT", copy)
    monkeypatch.setattr(generate, "outdated", lambda found=generate.outdated: found(copy))
    shutil.copytree(ROOT / "benchmarks" / "results", copy / "benchmarks" / "results")
    gone, lost = copy / "conf" / "mlp" / "gone.yaml", copy / "conf" / "optim" / "muon.yaml"
    gone.write_text("name: gone\n")
    lost.unlink()
    assert generate.main(["--check"]) == 1
    assert (gone.exists(), lost.exists()) == (True, False)
    capsys.readouterr()
    assert generate.main([]) == 0
    assert capsys.readouterr().out == "written: conf/optim/muon.yaml\nremoved: conf/mlp/gone.yaml\n"
    assert (gone.exists(), lost.exists()) == (False, True)
    assert generate.main(["--check"]) == 0


def test_parts_of_one_s_own_are_not_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'from gpt_lab.registry import register\n@register("norm", "mine")\nclass Mine: ...\n'
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setenv("GPT_LAB_PARTS", str(tmp_path))
    registry.index.cache_clear()
    try:
        assert "mine" in components.catalogue("norm")["norm"]
        assert "norm/mine.yaml" not in generate.part_files()
        assert not any("`mine`" in row for row in generate.components_table())
    finally:
        registry.index.cache_clear()


def test_the_catalogue_has_every_part_and_option() -> None:
    page = (ROOT / generate.COMPONENTS).read_text(encoding="utf-8")
    for kind, parts in registry.index().items():
        for name, part in parts.items():
            _, found, section = page.partition(f"### {kind}={name}\n")
            assert found, f"{kind}={name}"
            section = section.partition("\n### ")[0]
            for key in part.options:
                assert f"| `{kind}.{key}` |" in section, f"{kind}={name}: {key}"
