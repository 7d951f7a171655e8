"""A project of one's own: its conf/, experiments/, sweeps/ and parts add to the shipped ones and win by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_lab import project, registry
from gpt_lab.config import components, composition, setting_names
from gpt_lab.errors import ConfigError
from gpt_lab.study import sweep_file
from gpt_lab.study.format import lookup

Write = Callable[..., None]
DEFAULT = composition.compose().flat()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a file of a project, which the working folder is."""

    def make(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        registry.index.cache_clear()

    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield make
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    registry.index.cache_clear()


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def differing(*overrides: str) -> dict[str, Any]:
    flat = composition.compose(overrides).flat()
    return {key: value for key, value in flat.items() if value != DEFAULT.get(key) and key != "label"}


def test_a_folder_without_any_of_it_has_what_is_shipped(write: Write) -> None:
    assert differing() == {}
    assert [len(project.folders(name)) for name in ("conf", "experiments", "sweeps")] == [1, 1, 1]


def test_a_preset_of_one_s_own(write: Write) -> None:
    """It is seen by every command, and the shipped ones stay."""
    text = "# @package _global_\n# Mine, after nobody\ndefaults:\n  - override /attention: gqa\nmodel: {tied: true}\n"
    write("conf/model/mine.yaml", text)
    assert {"mine", "llama", "qwen3"} < set(setting_names.choices("model"))
    assert differing("model=mine") == {
        "attention.name": "gqa",
        "attention.kv_heads": 2,
        "model.tied": True,
    }
    assert components.catalogue("model", "mine")["model"]["mine"].summary == "Mine, after nobody"
    assert differing() == {}


def test_a_file_of_one_s_own_wins_by_name(write: Write) -> None:
    """What it leaves out has the class's default."""
    write("conf/optim/adamw.yaml", "name: adamw\nlr: 0.5\n")
    write("conf/optim/slow.yaml", "name: muon\nlr: 0.25\n")
    assert differing() == {"optim.lr": 0.5}
    assert (composition.compose(["optim=slow"]).optim["name"], composition.compose(["optim=slow"]).optim["lr"]) == (
        "muon",
        0.25,
    )
    assert composition.compose(["optim=lion"]).optim["name"] == "lion"


def test_some_defaults_are_laid_over_the_shipped_ones(write: Write) -> None:
    write(
        "conf/config.yaml",
        "defaults:\n  - optim: lion\n  - scale: nano\nseed: 3\nbudget: {tokens: 4.0e+4}\nsample: {tokens: 0}\n",
    )
    expected = composition.compose(
        ["optim=lion", "scale=nano", "seed=3", "budget.tokens=4e4", "sample.tokens=0"]
    ).flat()
    monkey = {key: value for key, value in expected.items() if value != DEFAULT.get(key) and key != "label"}
    assert differing() == monkey
    assert differing()["budget.steps"] is None, "naming one budget lifts the shipped one"
    assert composition.compose(["optim=adamw", "seed=0"]).flat()["seed"] == 0, "the command line has the last word"


def test_a_whole_copy_changes_nothing(write: Write) -> None:
    write("conf/config.yaml", (project.shipped("conf") / "config.yaml").read_text(encoding="utf-8"))
    assert differing() == {}


@pytest.mark.parametrize(
    "text, words",
    [
        ("defaults:\n  - optim: moun\n", "conf/config.yaml: unknown optim 'moun'; did you mean 'muon'?"),
        ("defaults:\n  - optm: muon\n", "conf/config.yaml: defaults lists one group a line"),
        (
            "defaults: [muon]\n",
            "conf/config.yaml: defaults lists one group a line, such as",
        ),
        ("defaults:\n  - norm: layernorm\n", "conf/config.yaml: norm is set by model=llama, which comes after"),
        ("model: {tied: true}\n", "conf/config.yaml: model.tied is set by model=llama, which comes after"),
        ("optim: {lr: 1}\n", "conf/config.yaml: optim is a group: choose under defaults (- optim: NAME)"),
        ("sed: 1\n", "conf/config.yaml: unknown key 'sed'; did you mean 'seed'?"),
        ("budget.steps: 1\n", "in a file write budget: {steps: ...}"),
        ("budget: 5\n", "conf/config.yaml: budget is a section, not a value: 5"),
        ("budget: {step: 5}\n", "conf/config.yaml: unknown key of budget: 'step'; did you mean 'steps'?"),
        ("seed: [1\n", "conf/config.yaml: line 1: a [ that is not closed"),
        ("parts: my parts\n", "conf/config.yaml: parts names a module, such as my_parts, not 'my parts'"),
        ("parts: my_parts\n", "conf/config.yaml: parts: my_parts: there is no my_parts.py"),
    ],
)
def test_what_cannot_hold_is_refused(text: str, words: str, write: Write) -> None:
    write("conf/config.yaml", text)
    assert words in refusal(composition.compose)


@pytest.mark.parametrize(
    "item, words",
    [
        ("override /attention: gqqa", "conf/model/mine.yaml: unknown attention 'gqqa'; did you mean 'gqa'?"),
        ("/nothing: gqa", "conf/model/mine.yaml: there is no 'nothing/gqa': defaults name an option of a group"),
    ],
)
def test_a_preset_that_names_what_is_not_there(item: str, words: str, write: Write) -> None:
    """Hydra would print its search path."""
    write("conf/model/mine.yaml", f"# @package _global_\ndefaults:\n  - {item}\n")
    assert words in refusal(lambda: composition.compose(["model=mine"]))


def test_experiments_and_sweeps_of_one_s_own(write: Write) -> None:
    write("experiments/mine.yaml", "# @package _global_\nseed: 5\n")
    write("experiments/norm.yaml", "# @package _global_\nseed: 6\n")
    assert {"mine", "norm", "muon"} <= set(setting_names.choices("experiment"))
    assert differing("+experiment=mine") == {"seed": 5}
    assert differing("+experiment=norm") == {"seed": 6}
    sweep = "method: grid\nmetric: {name: val/bpb, goal: minimize}\nparameters: {seed: {values: [0, 1]}}\n"
    write("sweeps/mine.yaml", sweep)
    write("sweeps/pos_enc.yaml", sweep)
    assert lookup.find("mine") == Path("sweeps/mine.yaml")
    assert lookup.find("pos_enc") == Path("sweeps/pos_enc.yaml")
    assert lookup.find("norm") == project.shipped("sweeps") / "norm.yaml"
    assert sweep_file.load("mine").design.pair == "seed"
    assert "did you mean 'mine'" in refusal(lambda: lookup.find("mne"))


PART = """
from gpt_lab.registry import register

@register("norm", "half")
class Half:
    def __init__(self, dim: int, *, by: float = 2.0) -> None:
        self.dim, self.by = dim, by
"""


@pytest.mark.parametrize("place", ["my_parts.py", "my_parts/__init__.py", "my_parts/norms.py", "src/my_parts/norms.py"])
def test_parts_by_one_line(place: str, write: Write, tmp_path: Path) -> None:
    """A module or a package beside conf/, or below src/; it may import its neighbours."""
    write("conf/config.yaml", "parts: my_parts\n")
    write(str(Path(place).parts[0] if place.startswith("src") else ".") + "/helper.py", "BY = 2\n")
    write(place, "from helper import BY\n" + PART)
    part = registry.get("norm", "half")
    assert part.path == tmp_path / place
    assert part.module not in sys.modules, "the index imports no part"
    assert registry.build("norm", {"name": "half", "by": 4.0}, 8).by == 4.0
    assert differing("norm=half", "norm.by=3")["norm.by"] == 3.0


def test_a_module_that_parts_holds_too_is_one(write: Write) -> None:
    write("conf/config.yaml", "parts: [my_parts, parts]\n")
    write("my_parts.py", PART)
    write("parts/more.py", PART.replace("half", "third"))
    assert {"half", "third"} < set(registry.index()["norm"])


def test_a_module_that_another_hides(write: Write) -> None:
    """The project's file is what the index read: another module of the name is not taken for it."""
    write("conf/config.yaml", "parts: email.mine\n")
    write("email/mine.py", PART)
    assert "norm=half cannot be loaded" in refusal(lambda: registry.load("norm", "half"))
