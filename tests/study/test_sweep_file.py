"""What a sweep file says, read into a design; command, overrides and seeds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_lab.config import composition
from gpt_lab.errors import ConfigError
from gpt_lab.study import cells, sweep_file
from gpt_lab.study.sweep import Sweep
from tests.study.arms import settings

POSITIONS: dict[str, Any] = {
    "method": "grid",
    "parameters": {"position": {"values": ["rope", "alibi"]}, "seed": {"values": [0, 1, 2]}},
}


def read(raw: dict[str, Any], *overrides: str, study: str | None = None) -> Sweep:
    return sweep_file.read(Path("some/dir/pos.yaml"), raw, overrides, study)


def with_parameters(**parameters: Any) -> dict[str, Any]:
    return {**POSITIONS, "parameters": {**POSITIONS["parameters"], **parameters}}


def test_a_name_of_sweeps_is_enough() -> None:
    for name in ("pos_enc", "pos_enc.yaml", "sweeps/pos_enc.yaml"):
        assert sweep_file.load(name).path == Path("sweeps/pos_enc.yaml"), "as it stands in the checkout"


def test_a_name_of_sweeps_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("sweeps/pos_enc.yaml").resolve()
    monkeypatch.chdir(tmp_path)
    assert sweep_file.load("pos_enc").path == path


def test_design_of_a_plain_w_and_b_file() -> None:
    """Without a gpt_lab block: every swept setting but the seed is a factor, the file's stem is the study."""
    sweep = read(POSITIONS)
    design = sweep.design
    assert (design.study, design.family, design.pair, design.factors) == ("pos", "pos", "seed", ("position",))
    assert (design.metric, design.goal, design.baseline, design.sesoi, design.alpha) == (
        "val/bpb",
        "minimize",
        None,
        None,
        0.05,
    )
    assert design.values == {"position": ("rope", "alibi"), "seed": (0, 1, 2)}
    assert sweep.content is POSITIONS


def test_the_block_is_the_design() -> None:
    block = {
        "study": "mine",
        "question": " Which? ",
        "baseline": {"position": "alibi"},
        "family": "all of them",
        "sesoi": 0.01,
        "alpha": 0.1,
        "pair": "batch.seed",
        "nuisance": ["optim.lr"],
    }
    raw = with_parameters(
        **{"optim.lr": {"values": [0.001, 0.004]}, "batch.seed": {"values": [5, 6]}, "seed": {"value": 3}}
    )
    design = read({**raw, "gpt_lab": block, "metric": {"name": "val/accuracy", "goal": "maximize"}}).design
    assert (design.study, design.question, design.family) == ("mine", "Which?", "all of them")
    assert (design.factors, design.nuisance, design.pair) == (("position",), ("optim.lr",), "batch.seed")
    assert (design.sesoi, design.alpha, design.metric, design.goal) == (0.01, 0.1, "val/accuracy", "maximize")
    assert design.baseline_arm == settings("position=alibi")


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_what_a_search_draws_from_a_range_is_tuned_and_never_an_arm(method: str) -> None:
    raw = with_parameters(**{"optim.lr": {"min": 0.001, "max": 0.01}, "seed": {"value": 0}})
    design = read({**raw, "method": method, "run_cap": 5, "metric": {"name": "val/bpb"}}).design
    assert (design.factors, design.nuisance) == (("position",), ("optim.lr",))
    assert design.values == {"position": ("rope", "alibi"), "optim.lr": ()}


def test_study_from_the_command_line() -> None:
    assert read(POSITIONS, study="a").design.study == "a"
    assert read(POSITIONS, "log.every=1").design.study == "pos", "nothing that changes a result"
    assert read(POSITIONS, "data.path=a (b)/ü").design.study == "pos-data.path-a-b"
    assert re.fullmatch("pos-[0-9a-f]{12}", read(POSITIONS, "data.path=" + 80 * "x").design.study)
    named = read(POSITIONS, "study=b")
    assert named.design.study == "b"
    assert [word for word in cells.cells(named)[0].overrides if word.startswith("study=")] == ["study=b"]
    with pytest.raises(ConfigError, match="plain folder name"):
        read(POSITIONS, study="a/b")


def test_every_cell_has_what_command_constants_and_command_line_say() -> None:
    raw = with_parameters(**{"budget.steps": {"value": 30}, "eval.every": {"value": 10}})
    raw["command"] = ["uv", "run", "train", "+experiment=modern", "study=pos", "log.every=5", "${args_no_hyphens}"]
    for cell in cells.cells(read(raw, "scale.depth=2", "eval.every=15")):
        cfg = composition.compose(cell.overrides)
        assert (cfg.budget.steps, cfg.eval.every, cfg.log.every, cfg.scale.depth) == (30, 15, 5, 2)
        assert (cfg.optim["name"], cfg.study) == ("muon", "pos-scale.depth-2-eval.every-15")
        assert cfg.position["name"] == cell.values["position"] and cfg.seed == cell.pair


def test_a_budget_of_the_command_line_lifts_the_file_s() -> None:
    cfg = composition.compose(
        cells.cells(read(with_parameters(**{"budget.steps": {"value": 30}}), "budget.tokens=1e5"))[0].overrides
    )
    assert (cfg.budget.steps, cfg.budget.tokens) == (None, 1e5)


@pytest.mark.parametrize("count, expected", [(1, (4,)), (2, (4, 7)), (4, (4, 7, 8, 9))])
def test_seeds_are_the_first_ones_then_the_next(count: int, expected: tuple[int, ...]) -> None:
    sweep = read(with_parameters(seed={"values": [4, 7]}), "scale=nano")
    changed = sweep_file.with_seeds(sweep, count)
    assert changed.design.values["seed"] == expected
    assert (changed.overrides, changed.design.factors) == (sweep.overrides, sweep.design.factors)


def test_more_seeds_keep_the_cells_there_were() -> None:
    sweep = read(POSITIONS, study="other")
    before = {cell.key for cell in cells.cells(sweep)}
    after = {cell.key for cell in cells.cells(sweep_file.with_seeds(sweep, 5))}
    assert before < after and len(after) == 10


def test_seeds_where_none_are_swept() -> None:
    raw = {"method": "grid", "parameters": {"position": {"values": ["rope", "alibi"]}}}
    assert sweep_file.with_seeds(read(raw), 3).design.values["seed"] == (0, 1, 2)
    with pytest.raises(ConfigError, match="--seeds is for grids"):
        sweep_file.with_seeds(read({**POSITIONS, "method": "random", "run_cap": 3}), 3)


@pytest.mark.parametrize(
    "name, value",
    [
        ("optim.lr", 1e-05),
        ("optim.lr", 0.1 + 0.2),
        ("batch.micro", None),
        ("optim.nesterov", True),
        ("sample.prompt", 'It\'s "so", a=b: [x] {y} $z \\ '),
        ("sample.prompt", "ends in a backslash\\"),
        ("sample.prompt", "\n"),
        ("sample.prompt", ""),
        ("sample.prompt", "Ünïcode, 1e-5"),
        ("tracker.tags", ["a", "b c"]),
        ("seed", 7),
        ("position", "rope"),
    ],
)
def test_an_override_reads_back_as_its_value(name: str, value: Any) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(sweep_file.override(name, value))
    assert parsed.key_or_group == name
    assert parsed.value() == value and type(parsed.value()) is type(value)


def test_null_is_written_both_ways(tmp_path: Path) -> None:
    """W&B hands a bare null on as the text None; "null" in quotes reaches train as nothing. Here both are nothing."""
    path = tmp_path / "a.yaml"
    for text in ('"null"', "null"):
        path.write_text(f"method: grid\nparameters: {{batch.micro: {{values: [{text}, 2]}}}}\n")
        first = cells.cells(sweep_file.load(path))[0]
        assert first.values == {"batch.micro": None} and first.overrides[0] == "batch.micro=null"


def test_reading_changes_nothing(tmp_path: Path) -> None:
    text = yaml.safe_dump(POSITIONS)
    path = tmp_path / "a.yaml"
    path.write_text(text)
    cells.cells(sweep_file.load(path))
    assert path.read_text() == text and list(tmp_path.iterdir()) == [path]
