"""Which arm and pair a run belongs to, with and without a sweep; nothing is mixed in silently."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.config.schema import identity
from gpt_lab.errors import ConfigError
from gpt_lab.frame import arms
from gpt_lab.frame.places import StudyOptions
from gpt_lab.frame.sources.source import Wanted, row
from gpt_lab.study import sweep_file
from gpt_lab.study.design import Design
from gpt_lab.study.sweep import Sweep
from tests.helpers import tiny_config
from tests.report.stores import summary
from tests.study.arms import settings

NAMES = iter(range(10**6))


def run(bpb: float = 2.0, state: str = "finished", when: str = "2026-01-01", **settings: Any) -> dict[str, Any]:
    flat = tiny_config(**settings).flat()
    return row(
        f"runs/pos/{next(NAMES)}", "local", flat["study"], "x", state, flat, summary(bpb), env={"finished": when}
    )


def grid(design: Design) -> Sweep:
    return Sweep(Path("pos.yaml"), design)


def wanted(values: Mapping[str, Any], state: str = "missing", run: str | None = None, **settings: Any) -> Wanted:
    flat = tiny_config(**{**values, **settings}).flat()
    return Wanted("-".join(map(str, values.values())), values, identity(flat), state, run)


def arrange(
    rows: list[dict[str, Any]], design: Design | None = None, cells: Any = None, **options: Any
) -> arms.Arranged:
    sweep = None if design is None else grid(design)
    return arms.arrange(rows, cells, sweep, StudyOptions(**options), "pos")


def placed(found: arms.Arranged) -> list[tuple[str, str, str, str]]:
    return [(str(r["arm"]), str(r["tuning"]), r["pair"], r["state"]) for r in found.rows]


POSITIONS = Design("pos", factors=("position",), baseline={"position": "rope"})


# -- by cells --


def test_cells_are_matched_by_settings_whoever_ran_them() -> None:
    cells = [wanted({"position": p, "seed": s}) for p in ("rope", "alibi") for s in (0, 1)]
    rows = [run(position="alibi", seed=1, study="other", tracker="wandb"), run(position="rope", seed=0)]
    found = arrange(rows, POSITIONS, cells)
    assert placed(found) == [
        ("position=rope", "", "0", "finished"),
        ("position=rope", "", "1", "missing"),
        ("position=alibi", "", "0", "missing"),
        ("position=alibi", "", "1", "finished"),
    ]
    assert found.design.baseline_arm == settings("position=rope")
    assert found.notes == []


def test_strays_are_left_out_and_counted() -> None:
    rows = [run(), run(position="none"), run(seed=9)]
    found = arrange(rows, POSITIONS, [wanted({"position": "rope", "seed": 0})])
    assert len(found.rows) == 1
    assert found.notes == ["2 runs in the folder that match no cell of the sweep: left out"]


def test_the_pair_is_the_seed_even_if_it_is_not_swept() -> None:
    (r,) = arrange([run(seed=4)], POSITIONS, [wanted({"position": "rope"}, seed=4)]).rows
    assert r["pair"] == "4"


def test_the_latest_finished_double_counts() -> None:
    rows = [
        run(2.1, when="2026-01-01"),
        run(2.2, when="2026-01-03"),
        run(2.3, "stopped", when="2026-01-04"),
    ]
    found = arrange(rows, POSITIONS, [wanted({"position": "rope", "seed": 0})])
    (kept,) = found.rows
    assert kept["summary"]["val/bpb"] == 2.2
    (note,) = found.notes
    assert note.startswith("2 runs with the same settings as another left out") and kept["run"] in note


def test_the_ledger_speaks_for_runs_that_cannot() -> None:
    a, b, c = run(state="stopped", seed=0), run(state="stopped", seed=1), run(seed=2)
    cells = [
        wanted({"position": "rope", "seed": 0}, "failed", a["run"]),
        wanted({"position": "rope", "seed": 1}, "pruned", b["run"]),
        wanted({"position": "rope", "seed": 2}, "failed", c["run"]),
        wanted({"position": "rope", "seed": 3}, "running"),
        wanted({"position": "rope", "seed": 4}, "waiting"),
        wanted({"position": "rope", "seed": 5}, "finished", "runs/pos/gone"),
        wanted({"position": "rope", "seed": 6}, "failed"),
    ]
    found = arrange([a, b, c], POSITIONS, cells)
    states = {r["pair"]: r["state"] for r in found.rows}
    assert states == {
        "0": "failed",
        "1": "pruned",
        "2": "finished",
        "3": "missing",
        "4": "missing",
        "5": "missing",
        "6": "failed",
    }
    gone = next(r for r in found.rows if r["pair"] == "5")
    assert gone["error"] == "finished, but its folder runs/pos/gone is gone or unreadable"


def test_the_ledgers_folder_wins_over_equal_settings() -> None:
    first, second = run(2.1, seed=0), run(2.2, seed=1)
    cells = [wanted({"position": "rope", "seed": 0}, "finished", second["run"])]  # what the ledger says is so
    found = arrange([second], POSITIONS, cells)
    assert [r["run"] for r in found.rows] == [second["run"]]
    assert arrange([first], POSITIONS, cells).rows[0]["run"] == first["run"]


def test_nuisance_settings_make_no_arm() -> None:
    design = Design("lr", factors=("optim",), nuisance=("optim.lr",), baseline={"optim": "adamw"})
    cells = [wanted({"optim": "adamw", "optim.lr": lr, "seed": 0}) for lr in (0.001, 0.004)]
    rows = [run(**{"optim": "adamw", "optim.lr": lr}) for lr in (0.001, 0.004)]
    assert placed(arrange(rows, design, cells)) == [
        ("optim=adamw", "optim.lr=0.001", "0", "finished"),
        ("optim=adamw", "optim.lr=0.004", "0", "finished"),
    ]


# -- what the user overrides --


def test_group_by_makes_other_arms_and_averages_the_rest_within_a_seed() -> None:
    design = Design("pos", factors=("position", "norm"), baseline={"position": "rope", "norm": "rmsnorm"})
    both = [(p, n) for p in ("rope", "alibi") for n in ("rmsnorm", "layernorm")]
    cells = [wanted({"position": p, "norm": n, "seed": 0}) for p, n in both]
    rows = [run(position=p, norm=n) for p, n in both]
    found = arrange(rows, design, cells, group_by=("position",))
    assert placed(found) == [(f"position={p}", "", "0", "finished") for p, _ in both]
    assert [r["stratum"] for r in found.rows] == [f"norm={n}" for _, n in both]
    assert found.design.baseline_arm == settings("position=rope")
    assert any("norm" in note for note in found.notes)


def test_group_by_a_setting_that_was_not_swept() -> None:
    rows = [run(**{"optim.lr": lr, "seed": s}) for lr in (0.001, 0.004) for s in (0, 1)]
    found = arrange(rows, group_by=("optim.lr",))
    assert {r["arm"] for r in found.rows} == {settings("optim.lr=0.001"), settings("optim.lr=0.004")}
    assert found.design.values == {"optim.lr": (0.001, 0.004)}


def test_another_pair() -> None:
    design = Design("seeds", factors=("replica",), baseline={"replica": 0})
    cells = [wanted({"replica": r, "seed": s}) for r in (0, 1) for s in (0, 1)]
    rows = [run(replica=r, seed=s) for r in (0, 1) for s in (0, 1)]
    found = arrange(rows, design, cells, pair="replica", group_by=("seed",), baseline="seed=1")
    assert [(str(r["arm"]), r["pair"]) for r in found.rows] == [
        ("seed=0", "0"),
        ("seed=1", "0"),
        ("seed=0", "1"),
        ("seed=1", "1"),
    ]
    assert found.design.baseline_arm == settings("seed=1")


@pytest.mark.parametrize(
    "asked, arm",
    [
        ("position=alibi", "position=alibi"),
        ("alibi", "position=alibi"),
        (" position=alibi ", "position=alibi"),
    ],
)
def test_baseline(asked: str, arm: str) -> None:
    rows = [run(position=p) for p in ("rope", "alibi")]
    assert arrange(rows, baseline=asked).design.baseline_arm == settings(arm)


def test_baseline_of_several_settings() -> None:
    rows = [run(position=p, norm=n) for p in ("rope", "alibi") for n in ("rmsnorm", "layernorm")]
    for asked in ("norm=rmsnorm,position=alibi", "position=alibi, norm=rmsnorm"):
        found = arrange(rows, baseline=asked)
        assert found.design.baseline is not None
        assert dict(found.design.baseline) == {"position": "alibi", "norm": "rmsnorm"}
        assert found.design.baseline_arm in {r["arm"] for r in found.rows}
    with pytest.raises(ConfigError, match="'alibi' means several arms"):
        arrange(rows, baseline="alibi")
    with pytest.raises(ConfigError, match="unknown baseline 'position=rop'; did you mean"):
        arrange(rows, baseline="position=rop")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"group_by": ("positon",)}, "unknown setting 'positon'; did you mean 'position'"),
        ({"pair": "sed"}, "unknown setting that pairs runs 'sed'; did you mean 'seed'"),
        ({"metric": "val/bpp"}, "unknown metric 'val/bpp'; did you mean 'val/bpb'"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arrange([run()], **options)


def test_thresholds_and_metric_of_the_user_win() -> None:
    cells = [wanted({"position": "rope", "seed": 0})]
    found = arrange([run()], POSITIONS, cells, metric="val/loss", goal="minimize", sesoi=0.5, alpha=0.1)
    design = found.design
    assert (design.metric, design.goal, design.sesoi, design.alpha) == ("val/loss", "minimize", 0.5, 0.1)
    assert (design.factors, design.baseline_arm) == (("position",), settings("position=rope"))


def test_a_goal_against_its_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match="--goal maximize is against val/bpb, of which lower is better"):
        arrange([run()], goal="maximize")


def test_results_of_one_identity_that_differ_are_said() -> None:
    rows = [run(), run()]
    rows[1]["run"], rows[1]["summary"] = "copy", rows[1]["summary"] | {"val/bpb": 1.5}
    (kept,) = arrange(rows).rows
    assert kept["conflict"].startswith("runs of the same settings end with 1.5 and ")
    assert all("conflict" not in r for r in arrange([run(), run()]).rows)


def test_loss_decides_where_there_is_no_text() -> None:
    r = run()
    del r["summary"]["val/bpb"]
    found = arrange([r])
    assert found.design.metric == "val/loss"
    assert found.notes == ["no run has val/bpb (its data is no text): val/loss decides"]


# -- without a sweep --


def test_arms_by_the_settings_that_differ() -> None:
    """Not by seeds, by what changes no result, nor by options that follow from a choice."""
    rows = [
        run(position=p, seed=s, optim=o, label=f"{p}{s}", study=f"s{s}")
        for p in ("rope", "alibi")
        for o in ("adamw", "sgd")
        for s in (0, 1)
    ]
    found = arrange(rows)
    assert found.design.factors == ("position", "optim")
    assert found.design.baseline is None
    assert placed(found)[:2] == [
        ("position=rope, optim=adamw", "", "0", "finished"),
        ("position=rope, optim=adamw", "", "1", "finished"),
    ]
    assert "no sweep file: arms are the settings that differ (position, optim)" in found.notes
    assert "runs of 2 studies together: s0, s1" in found.notes


def test_an_option_that_varies_within_a_choice_is_an_arm() -> None:
    rows = [run(**{"optim": o, "optim.lr": lr}) for o, lr in (("adamw", 0.001), ("adamw", 0.004), ("sgd", 0.1))]
    assert arrange(rows).design.factors == ("optim", "optim.lr")


def test_what_match_made_of_an_arm_is_not_its_name() -> None:
    """Sizes and target go, unless they alone tell runs apart; a null that older runs lack is no difference."""
    plain = [run(attention=a) for a in ("mha", "mqa")]
    made = run(attention="mqa", match="params", match_to=800, **{"mlp.d_ff": 90})
    assert arrange([*plain, made]).design.factors == ("attention", "match")
    for other in ({"match_to": 900}, {"mlp.d_ff": 91}):
        twice = run(**{"attention": "mqa", "match": "params", "match_to": 800, "mlp.d_ff": 90, **other})
        assert {"match_to", "mlp.d_ff"} & set(arrange([*plain, made, twice]).design.factors)
    assert arrange([*plain, run(attention="mqa", **{"mlp.d_ff": 90})]).design.factors == ("attention", "mlp.d_ff")
    for r in plain[:1]:
        r["config"] = {key: value for key, value in r["config"].items() if not key.startswith("match")}
    assert arrange(plain).design.factors == ("attention",)


def test_other_draws_are_pairs_not_arms() -> None:
    rows = [run(position=p, seed=0, replica=r) for p in ("rope", "none") for r in (0, 1)]
    found = arrange(rows)
    assert found.design.factors == ("position",)
    assert [(r["pair"], r["stratum"]) for r in found.rows] == [("0", "replica=0"), ("0", "replica=1")] * 2
    with pytest.raises(ConfigError, match="unknown setting that pairs runs"):
        arrange(rows, pair="position")


def test_equal_runs_are_one_arm() -> None:
    found = arrange([run(seed=s) for s in (0, 1)])
    assert found.design.factors == ()
    assert {str(r["arm"]) for r in found.rows} == {""}


# -- drawn sweeps --


def test_drawn_cells_are_known_by_their_fixed_values(tmp_path: Path) -> None:
    path = tmp_path / "drawn.yaml"
    path.write_text(
        "program: train\nmethod: random\nrun_cap: 4\nmetric: {name: val/bpb, goal: minimize}\n"
        "parameters:\n  position: {values: [rope, alibi]}\n  optim.lr: {min: 0.001, max: 0.1}\n"
        "  seed: {values: [0, 1]}\n  budget.steps: {value: 20}\n"
        "gpt_lab: {nuisance: [optim.lr], baseline: {position: rope}}\n"
    )
    sweep = sweep_file.load(path)
    rows = [run(**{"optim.lr": 0.0125}), run(position="alibi", seed=1), run(**{"budget.steps": 999})]
    found = arms.arrange(rows, None, sweep, StudyOptions(), "drawn")
    assert placed(found) == [
        ("position=rope", "optim.lr=0.0125", "0", "finished"),
        ("position=alibi", f"optim.lr={rows[1]['config']['optim.lr']}", "1", "finished"),
    ]
    assert found.notes == ["1 run in the folder with other fixed settings than the sweep's: left out"]
    path.write_text(path.read_text().replace("gpt_lab: {", "gpt_lab: {match: params, "))
    both = [run(**{"optim.lr": 0.0125, "match": "params", "match_to": 9}), run(**{"optim.lr": 0.0125})]
    matched = arms.arrange(both, None, sweep_file.load(path), StudyOptions(), "drawn")
    assert [r["run"] for r in matched.rows] == [both[0]["run"]] and len(matched.notes) == 1
