"""The cells of a grid: which, in what order, and composed exactly as train composes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.config import composition, schema
from gpt_lab.config.composition import Composer
from gpt_lab.errors import ConfigError
from gpt_lab.study import cells, sweep_file
from gpt_lab.study.design import Cell
from gpt_lab.study.sweep import Sweep
from tests.study.arms import settings


def read(parameters: dict[str, Any], block: dict[str, Any] | None = None, **more: Any) -> Sweep:
    raw = {"method": "grid", "parameters": parameters, "gpt_lab": block or {}, **more}
    return sweep_file.read(Path("a.yaml"), raw)


def values(*lists: Any) -> list[dict[str, Any]]:
    return [{"values": list(one)} for one in lists]


def rows(sweep: Sweep) -> list[tuple[Any, ...]]:
    return [tuple(cell.values.values()) for cell in cells.cells(sweep)]


LADDERS = {"optim.lr": {"optim=adamw": [0.001, 0.004], "optim=sgd": [0.1]}}
OPTIM = {"optim": {"values": ["adamw", "sgd", "lion"]}, "optim.lr": {"values": [0.001, 0.004, 0.1]}}


def test_the_pair_changes_slowest_and_the_last_parameter_fastest() -> None:
    """A sweep that is cut short has then compared every arm on its first seeds."""
    position, norm, seed = values(["rope", "alibi"], ["rmsnorm", "none"], [3, 1])
    found = cells.cells(read({"position": position, "seed": seed, "norm": norm}))
    assert [tuple(cell.values.items()) for cell in found][:2] == [
        (("position", "rope"), ("seed", 3), ("norm", "rmsnorm")),
        (("position", "rope"), ("seed", 3), ("norm", "none")),
    ]
    assert [cell.pair for cell in found] == [3] * 4 + [1] * 4
    assert [cell.index for cell in found] == list(range(8))
    assert [cell.arm for cell in found[:4]] == [cell.arm for cell in found[4:]]
    assert found[0].arm == settings("position=rope, norm=rmsnorm")


def test_run_cap_takes_the_first() -> None:
    position, seed = values(["rope", "alibi"], [0, 1])
    assert rows(read({"position": position, "seed": seed}, run_cap=3)) == [("rope", 0), ("alibi", 0), ("rope", 1)]


def test_ranges_are_listed() -> None:
    """As W&B's grids do with int_uniform and q_uniform."""
    warm = {"distribution": "q_uniform", "min": 0.1, "max": 0.4, "q": 0.1}
    assert rows(read({"schedule.warmup": warm, "seed": {"min": 2, "max": 3}})) == [
        (w, s) for s in (2, 3) for w in (0.1, 0.2, 0.3, 0.4)
    ]


def test_zip() -> None:
    depth, width, seed = values([2, 4, 8], [192, 128, 96], [0, 1])
    sweep = read({"scale.depth": depth, "seed": seed, "scale.width": width}, {"zip": [["scale.depth", "scale.width"]]})
    assert rows(sweep) == [(d, s, w) for s in (0, 1) for d, w in ((2, 192), (4, 128), (8, 96))]


def test_per_gives_each_choice_its_own_values() -> None:
    """A choice that is not named takes all values."""
    sweep = read(OPTIM, {"per": LADDERS, "nuisance": ["optim.lr"], "baseline": {"optim": "adamw"}})
    assert rows(sweep) == [
        ("adamw", 0.001),
        ("adamw", 0.004),
        ("sgd", 0.1),
        ("lion", 0.001),
        ("lion", 0.004),
        ("lion", 0.1),
    ]
    found = cells.cells(sweep)
    assert (found[1].arm, found[1].tuning) == (settings("optim=adamw"), settings("optim.lr=0.004"))


def test_an_empty_list_leaves_the_setting_out() -> None:
    attention, kv = values(["mha", "gqa"], [1, 2])
    per = {"attention.kv_heads": {"attention=mha": [], "attention=gqa": [1, 2]}}
    found = cells.cells(read({"attention": attention, "attention.kv_heads": kv}, {"per": per}))
    assert [cell.values for cell in found] == [
        {"attention": "mha"},
        {"attention": "gqa", "attention.kv_heads": 1},
        {"attention": "gqa", "attention.kv_heads": 2},
    ]
    assert found[0].arm == settings("attention=mha")


def test_exclude() -> None:
    attention, position, seed = values(["mha", "mqa"], ["rope", "alibi"], [0, 1])
    rule = {"attention": "mqa", "position": "alibi"}
    found = rows(read({"attention": attention, "position": position, "seed": seed}, {"exclude": [rule]}))
    assert found == [(a, p, s) for s in (0, 1) for a, p in (("mha", "rope"), ("mha", "alibi"), ("mqa", "rope"))]


def test_a_key_names_a_cell_for_good() -> None:
    position, seed = values(["rope", "alibi"], [0, 1])
    one = {c.key: c.values for c in cells.cells(read({"position": position, "seed": seed}))}
    other = {
        c.key: c.values for c in cells.cells(read({"seed": seed, "position": {"values": ["none", "alibi", "rope"]}}))
    }
    assert one.keys() < other.keys()
    assert all(one[key] == other[key] for key in one)


def identical(found: list[Cell]) -> None:
    for cell in found:
        assert composition.compose(cell.overrides).identity() == cell.identity


FACTORED = [
    ["position=alibi", "norm=none", "optim=muon", "optim.lr=0.1", "seed=3"],
    ["model=gpt2", "attention=gqa", "norm=rmsnorm", "norm.eps=1e-3"],
    ["model=nanochat", "norm=layernorm", "attention=mqa", "attention.qk_norm=unit"],
    ["+experiment=modern", "optim=adamw", "mlp=gelu", "budget.tokens=1e6"],
    ["+experiment=shakespeare_char", "scale=tiny", "tokenizer=byte", "position=rope"],
    ["scale=nano", "scale.depth=1", "tracker=none", "data=synthetic", "data.task=copy"],
    ["sample.prompt=${study}", "position=alibi", "norm=none", "study=x"],
]


@pytest.mark.parametrize("overrides", FACTORED, ids=" ".join)
def test_groups_put_together_are_what_hydra_composes_at_once(overrides: list[str]) -> None:
    try:
        expected: Any = composition.compose(overrides).to_dict()
    except ConfigError as error:
        expected = str(error)
    composer = Composer()
    for _ in range(2):  # the second time from what was kept
        try:
            found: Any = composer.compose(overrides).to_dict()
        except ConfigError as error:
            found = str(error)
        assert found == expected


def test_a_group_that_changes_another_is_composed_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(__file__).parent.parent.parent / "conf"
    for path in source.rglob("*.yaml"):
        target = tmp_path / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text())
    (tmp_path / "norm" / "none.yaml").write_text("# @package _global_\nnorm: {name: none}\nmodel: {dropout: 0.25}\n")
    monkeypatch.setenv("GPT_LAB_CONF", str(tmp_path))
    overrides = ["norm=none", "position=alibi", "mlp=gelu"]
    cfg = Composer().compose(overrides)
    assert (cfg.norm["name"], cfg.model.dropout, cfg.position["name"]) == ("none", 0.25, "alibi")
    assert cfg == composition.compose(overrides)


def test_a_thousand_cells_each_as_train_composes_it() -> None:
    """Measured: 1,080 cells of 54 combinations of parts in 1.3 s on one core, 0.15 s each with Hydra alone."""
    position, norm, mlp, lr, seed = values(
        ["rope", "alibi", "none"], ["rmsnorm", "layernorm"], ["gelu", "swiglu", "relu2"], [1e-3, 2e-3, 4e-3], range(20)
    )
    sweep = read({"position": position, "norm": norm, "mlp": mlp, "optim.lr": lr, "seed": seed})
    found = cells.cells(sweep)
    assert len({cell.key for cell in found}) == len({cell.identity for cell in found}) == len(found) == 1080
    identical(found[::97])


@pytest.mark.parametrize("name", ["pos_enc", "mlp", "depth_width", "gqa_heads"])
def test_shipped_cells_are_what_train_composes(name: str) -> None:
    identical(cells.cells(sweep_file.load(name))[:3])


def test_identity_is_that_of_the_flat_settings() -> None:
    """Of what is asked for: where a run is kept, and by whom it is watched, is no part of it."""
    cfg = composition.compose(["position=alibi", "seed=3"])
    assert schema.identity(cfg.flat()) == cfg.identity()
    elsewhere = composition.compose(
        ["seed=3", "position=alibi", "study=x", "tracker=none", "runs_dir=y", "log.every=3"]
    )
    assert elsewhere.identity() == cfg.identity()
    for other in ("seed=4", "replica=1", "eval.every=7", "precision=fp32", "device=cpu", "optim.lr=0.0041"):
        same = [] if other.startswith("seed=") else ["seed=3"]
        assert composition.compose(["position=alibi", *same, other]).identity() != cfg.identity()


def test_identity_survives_json() -> None:
    """Also a server's that writes 1.0 as 1."""
    flat = composition.compose(["optim.clip=1.0", "data=synthetic"]).flat()
    there_and_back = json.loads(json.dumps(flat))
    assert schema.identity(there_and_back) == schema.identity(flat)
    whole = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in there_and_back.items()}
    assert any(type(whole[k]) is not type(flat[k]) for k in flat)
    assert schema.identity(whole) == schema.identity(flat)
