"""Composition: every option of every group resolves, and changes only what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt_lab import registry
from gpt_lab.config import checked, composition, setting_names
from gpt_lab.errors import ConfigError

OPTIONS = [(group, name) for group in (*registry.KINDS, "scale") for name in setting_names.choices(group)]
DEFAULT = composition.compose().flat()


def _needed(group: str, name: str) -> list[str]:
    if group == "parallel" and name != "none":
        return ["gpus_per_trial=2"]
    part = registry.index().get(group, {}).get(name)
    required = [k for k, o in part.options.items() if o.default is registry.REQUIRED] if part else []
    return [f"{group}.{key}={'{a: {name: stdlib}}' if key == 'sources' else 'x'}" for key in required]


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_an_option_changes_its_own_group_only(group: str, name: str) -> None:
    flat = composition.compose([f"{group}={name}", *_needed(group, name)]).flat()
    differing = {key for key in flat.keys() | DEFAULT.keys() if flat.get(key) != DEFAULT.get(key)}
    set_by_laws = {"tokenizer", "budget", "batch", "optim"} if (group, name) == ("scale", "auto") else set()
    set_by_laws |= {"gpus_per_trial"} if group == "parallel" else set()
    assert {key.split(".")[0] for key in differing} <= {group, "label"} | set_by_laws
    assert flat[f"{group}.name"] == name


@pytest.mark.parametrize("name", setting_names.choices("model"))
def test_a_preset_only_picks_options(name: str) -> None:
    flat = composition.compose([f"model={name}"]).flat()
    differing = {key.split(".")[0] for key in flat if flat.get(key) != DEFAULT.get(key)}
    assert differing <= {"attention", "position", "norm", "mlp", "residual", "model", "label"}


@pytest.mark.parametrize("name", setting_names.choices("experiment"))
def test_an_experiment_composes(name: str) -> None:
    assert composition.compose([f"+experiment={name}"]).flat() != DEFAULT


def test_the_command_line_has_the_last_word_over_a_preset() -> None:
    cfg = composition.compose(["attention=mha", "model=gqa_rope"])
    assert cfg.attention["name"] == "mha"


def test_an_option_of_a_swapped_part_goes_with_it_and_shared_ones_stay() -> None:
    assert composition.compose(["model=nanochat", "norm=layernorm"]).norm["name"] == "layernorm"
    assert composition.compose(["model=qwen3", "attention=mha"]).attention["qk_norm"] == "head"


def test_naming_a_budget_lifts_the_default_one() -> None:
    budget = composition.compose(["budget.tokens=1e6"]).budget
    assert (budget.steps, budget.tokens) == (None, 1e6)


def test_round_trip_through_yaml(tmp_path: Path) -> None:
    cfg = composition.compose(
        ["model=qwen3", "optim=muon", "seed=3", "tracker.tags=[a,b]" if _has_tags() else "seed=3"]
    )
    checked.save(cfg, tmp_path / "config.yaml")
    assert checked.load(tmp_path / "config.yaml") == cfg


def _has_tags() -> bool:
    return "tags" in composition.compose().tracker


@pytest.mark.parametrize(
    "override", ["optim.lr=0.5", "seed=1", "scale.width=256", "batch.tokens=8192", "model.tied=true"]
)
def test_identity_changes_with_what_changes_the_result(override: str) -> None:
    assert composition.compose([override]).signature({}) != composition.compose().signature({})


@pytest.mark.parametrize(
    "override", ["study=other", "runs_dir=x", "tracker=none", "log.every=1", "force=true", "sample.tokens=0"]
)
def test_identity_ignores_what_does_not(override: str) -> None:
    assert composition.compose([override]).signature({}) == composition.compose().signature({})


def test_identity_holds_what_auto_became() -> None:
    cfg = composition.compose()
    assert cfg.signature({"precision": "bf16"}) != cfg.signature({"precision": "fp32"})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"optim": "adamw"}, "optim must be a part"),
        ({"budget": 5}, "budget is a section"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"optim": {"name": "adamw", "lr": "1e-5"}}, "write 1.0e-5"),
    ],
)
def test_a_damaged_config_file_is_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked.from_dict(composition.compose().to_dict() | tree)


def test_label_names_what_differs() -> None:
    assert composition.label(["model=gqa_rope", "optim=muon", "optim.lr=0.01", "seed=2"]) == "gqa_rope-muon-lr0.01"


def test_conf_is_found_in_the_folder_that_the_user_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("seed: 7\n")
    monkeypatch.setenv("GPT_LAB_CONF", str(tmp_path))
    assert composition.compose().seed == 7
    monkeypatch.setenv("GPT_LAB_CONF", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere is no folder"):
        composition.compose()


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_no_number_is_refused_as_such_however_often_it_is_given(value: str) -> None:
    """nan is not equal to itself, which is no second value."""
    for lines in ([f"optim.lr={value}"], [f"optim.lr={value}"] * 2):
        with pytest.raises(ConfigError, match=f"optim.lr must be a finite number, not {value}"):
            composition.compose(lines)
    with pytest.raises(ConfigError, match=f"schedule.warmup must be .*, not {value}"):
        composition.Composer().compose([f"schedule.warmup={value}"])
    with pytest.raises(ConfigError, match="optim.lr is given twice, as 'optim.lr=.*' and 'optim.lr=1'"):
        composition.compose([f"optim.lr={value}", "optim.lr=1"])
