"""What the report makes of a study with `tune`: the tuner's choice, fresh seeds alone, and arms that nobody tuned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.analysis.sections import every
from gpt_lab.analysis.sections import tuning as robustness
from gpt_lab.frame import tuned
from gpt_lab.frame.paired_scores import pair_up
from gpt_lab.frame.study import Study
from gpt_lab.report.figures import tuning as figure
from gpt_lab.report.figures.material import Material
from gpt_lab.study.design import Design, Looks
from gpt_lab.sweep.search import tuner
from tests.report.made import NOISE, run
from tests.study.arms import settings
from tests.sweep.search.test_tuner import play, read

OWN = 10_000
TUNE = Design(
    "opt",
    factors=("optim",),
    nuisance=("optim.lr",),
    baseline={"optim": "adamw"},
    sesoi=0.01,
    tuning_pairs=(OWN,),
)


def row(optim: str, seed: int, score: float, lr: float, design: Design = TUNE, **more: Any) -> dict[str, Any]:
    values = {"optim": optim, "optim.lr": lr}
    found = run(optim, seed, score, lr=lr, **more)
    found |= {"arm": design.arm(values), "tuning": design.tuning(values)}
    found |= {"config.optim.name": optim, "config.optim.lr": lr}
    del found["config.position.name"]
    return found


def curve(optim: str, best: float, values: Sequence[float] = (1e-3, 2e-3, 4e-3, 8e-3, 0.016)) -> list[dict[str, Any]]:
    """Tuning runs, lowest at `best`."""
    return [row(optim, OWN, 2 + 0.1 * math.log2(value / best) ** 2, value) for value in values]


def fresh(optim: str, lr: float, mean: float, design: Design = TUNE, seeds: int = 5) -> list[dict[str, Any]]:
    wiggle = np.array([0.0005, -0.0005, 0.0, 0.0002, -0.0002]) * (optim != "adamw")
    return [row(optim, s, mean + NOISE[s] + wiggle[s], lr, design) for s in range(seeds)]


def made(rows: Sequence[Mapping[str, Any]], design: Design = TUNE) -> Study:
    study = Study(design, pd.DataFrame(rows))
    study.curves = lambda runs: {}  # type: ignore[method-assign]
    return study


def of(comparison: Comparison, optim: str) -> Row:
    return next(row for row in comparison.rows if row.arm.text("optim") == optim)


def said(row: Row) -> tuple[str, ...]:
    """The row's warnings without the ways out."""
    return tuple(warning.partition(". Way out: ")[0] for warning in row.warnings)


GOOD = [*curve("adamw", 0.004), *curve("muon", 0.0055), *fresh("adamw", 0.004, 2.0), *fresh("muon", 0.0055, 1.95)]


def test_fresh_seeds_at_the_choice_are_compared_and_confirm() -> None:
    found = compare(made(GOOD))
    muon, adamw = of(found, "muon"), of(found, "adamw")
    assert (muon.verdict, muon.tier, muon.n, muon.warnings) == ("better", "confirm", 5, ())
    assert (muon.tuning, adamw.tuning, muon.on_edge) == (settings("optim.lr=0.0055"), settings("optim.lr=0.004"), False)
    assert muon.delta is not None and muon.delta.estimate == pytest.approx(-0.05, abs=1e-3)
    assert adamw.mean == pytest.approx(2.0, abs=0.01) and adamw.n == 5 and adamw.runs == 10


def test_sequential_seeds_look_at_fresh_seeds_alone() -> None:
    values = {"seed": tuple(range(5)), "optim": ("adamw", "muon")}
    design = dataclasses.replace(TUNE, looks=Looks(3, 5, 1), values=values)
    study = made(GOOD, design)
    found = compare(study)
    muon = of(found, "muon")
    assert (muon.verdict, muon.tier, muon.n, muon.warnings) == ("better", "sequential", 3, ())
    tuning, looks = every.sections(found, study)
    assert (tuning.title, looks.title) == ("Tuning", "Sequential seeds")
    assert looks.sentences[0].startswith("10 runs of the 10"), "tuning runs are none of them"


def test_a_tuning_run_at_the_chosen_value_is_not_compared() -> None:
    lucky = [
        r | {"score": 1.0} if (r["pair"], r["tuning"]) == (str(OWN), settings("optim.lr=0.004")) else r for r in GOOD
    ]
    found = compare(made(lucky))
    assert of(found, "adamw").mean == pytest.approx(2.0, abs=0.01)


def test_the_choice_is_the_tuner_s() -> None:
    made_ = tuner.build_tuner(read({"optim.lr": {}}, ("adamw", "muon")))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        noise: dict[str, float] = {}

        def score(values: Mapping[str, Any], noise: Any = noise, rng: Any = rng) -> float:
            noise.setdefault(str(values), rng.normal(0, 0.02))
            return float(2 + 0.05 * math.log2(values["optim.lr"] / 0.009) ** 2 + noise[str(values)])

        done = play(made_, score)
        table = pd.DataFrame(
            [row(o.values["optim"], o.values["seed"], o.score or 0, o.values["optim.lr"]) for o in done]
        )
        chosen = {arm: values and settings(f"optim.lr={values[0]:g}") for arm, values in made_.chosen(done).items()}
        assert {arm: tuned.read(rows, TUNE).tuning for arm, rows in table.groupby("arm")} == chosen


def test_two_settings_are_read_back_without_the_file() -> None:
    tune = {"optim.lr": {"points": 3}, "optim.weight_decay": {"start": 0.1, "points": 3, "widen": 2}}
    sweep = read(tune, ("adamw", "muon"))
    made_ = tuner.build_tuner(sweep)
    done = play(
        made_,
        lambda v: 2 + math.log2(v["optim.lr"] / 0.003) ** 2 + math.log2(v["optim.weight_decay"] / 0.5) ** 2,
    )
    rows = []
    for one in done:
        found = row(one.values["optim"], one.values["seed"], one.score or 0, one.values["optim.lr"])
        rows.append(found | {"tuning": sweep.design.tuning(one.values)})
    mine = pd.DataFrame(rows)[lambda table: table["arm"] == settings("optim=muon")]
    found = tuned.read(mine, sweep.design)
    assert (found.tuning, found.problems, found.edges) == (settings("optim.lr=0.003, optim.weight_decay=0.5"), (), ())
    assert [leg.key for leg in found.legs] == ["optim.lr", "optim.weight_decay"]
    assert [len(leg.curve) for leg in found.legs] == [4, 5] and found.tried == 9, "3, 3 and what was added"


EDGE = [*curve("adamw", 0.004), *curve("muon", 0.5), *fresh("adamw", 0.004, 2.0), *fresh("muon", 0.016, 1.9)]


def test_an_edge_at_the_cap_forbids_better() -> None:
    muon = of(compare(made(EDGE)), "muon")
    assert (muon.verdict, muon.on_edge) == ("undecided", True)
    assert said(muon) == ("best optim.lr is at the edge of what was tried: it may do better beyond",)


def test_unequal_tuning_forbids_better() -> None:
    rows = [r for r in GOOD if (r["arm"], r["tuning"]) != (settings("optim=adamw"), settings("optim.lr=0.001"))]
    muon = of(compare(made(rows)), "muon")
    assert muon.verdict == "undecided" and said(muon) == ("unequal tuning: 5 values tried, the baseline 4",)


def test_what_w_and_b_runs_without_tuning_is_not_better() -> None:
    rows = [*fresh("adamw", 0.004, 2.0), *fresh("muon", 0.004, 1.9)]
    muon = of(compare(made(rows)), "muon")
    assert muon.verdict == "undecided" and muon.delta is not None
    assert any("none of the tuning runs of its sweep is there" in warning for warning in muon.warnings)
    assert any("optimizer at a learning rate that was not tuned" in warning for warning in muon.warnings)


def test_a_comparison_elsewhere_than_the_tuning_says_is_not_better() -> None:
    rows = [*curve("adamw", 0.004), *curve("muon", 0.0055), *fresh("adamw", 0.004, 2.0), *fresh("muon", 0.008, 1.9)]
    muon = of(compare(made(rows)), "muon")
    assert (muon.verdict, muon.tuning) == ("undecided", settings("optim.lr=0.008"))
    assert said(muon) == ("it is compared at optim.lr=0.008, but its tuning runs choose optim.lr=0.0055",)


def test_tuning_that_is_not_over_is_not_better() -> None:
    rows = [
        r | {"state": "running", "score": math.nan} if r["tuning"] == settings("optim.lr=0.016") else r for r in GOOD
    ]
    assert said(of(compare(made(rows)), "muon"))[:1] == ("its tuning is not over: 1 of its runs have no outcome",)
    before = compare(made([*curve("adamw", 0.004), *curve("muon", 0.0055)]))
    assert {r.verdict for r in before.rows} == {"baseline", "no data"}
    assert of(before, "muon").tuning == settings("optim.lr=0.0055")


def test_the_table_of_optima() -> None:
    rows = [
        r | {"state": "diverged", "score": math.nan} if r["tuning"] == settings("optim.lr=0.016") else r for r in GOOD
    ]
    study = made(rows)
    comparison = compare(study)
    (section,) = robustness.make(comparison, study)
    cells = {cells[0]: dict(zip(section.heads, cells, strict=True)) for cells in section.rows}
    assert cells["optim=muon"]["chosen"] == "0.0055" and cells["optim=muon"]["best tried"] == "0.004"
    assert cells["optim=adamw"]["diverged"] == "1 of 5" and cells["optim=adamw"]["values"] == "5"
    # 0.1 per squared octave: 0.01 is the square root of 0.1 octaves away, on either side
    assert cells["optim=adamw"]["width"] == "1.6× (0.6 octaves)"
    assert "5 runs on seed 10000" in section.sentences[0] and "0.01 bits per byte" in section.sentences[1]
    assert section in every.sections(comparison, study)


def test_a_range_that_may_go_on_says_so() -> None:
    study = made([r | {"score": 2.0} if r["pair"] == str(OWN) else r for r in GOOD])
    (section,) = robustness.make(compare(study), study)
    assert section.rows[0][6] == "≥ 16× (4.0 octaves)"
    assert not robustness.make(compare(made(fresh("adamw", 0.004, 2.0))), made(fresh("adamw", 0.004, 2.0)))


def test_the_figure_shows_fit_choice_and_fresh_seeds() -> None:
    study = made(
        [r | {"state": "diverged", "score": math.nan} if r["tuning"] == settings("optim.lr=0.016") else r for r in GOOD]
    )
    material = Material(compare(study), study)
    muon = next(r for r in material.shown() if r.arm == settings("optim=muon"))
    found = figure._ladder(material, muon, "optim.lr", [], True)
    assert found is not None and found.places == [1e-3, 2e-3, 4e-3, 8e-3, 0.016] and found.lost == [0.016]
    assert found.spot == (0.0055, pytest.approx(1.95, abs=0.01)) and len(found.fresh) == 5 and found.chosen is None
    assert min(found.fit, key=lambda point: point[1])[0] == pytest.approx(0.0055, rel=0.05)
    drawn = figure.draw(material)
    assert drawn is not None and "fresh seeds (diamonds)" in drawn.caption and "diverged" in drawn.caption
    assert set(material.used["pair"]) == {"0", "1", "2", "3", "4"}, "other figures show the comparison's runs only"


HAND = Design(
    "untuned",
    factors=("optim", "optim.lr"),
    baseline={"optim": "adamw", "optim.lr": 5e-4},
    sesoi=0.01,
)


def by_hand(rows: Sequence[tuple[str, float, float]], design: Design = HAND, **config: Any) -> Comparison:
    return compare(made([r | config for one in rows for r in fresh(one[0], one[1], one[2], design)], design))


def test_a_planted_learning_rate_makes_no_arm_better() -> None:
    """The optimizer gets its own rate by hand, the baseline an eighth of it."""
    muon = of(by_hand([("adamw", 5e-4, 2.6), ("muon", 4e-3, 2.0)]), "muon")
    assert muon.verdict == "undecided"
    assert said(muon) == ("another optimizer at a learning rate that was not tuned (0.004, the baseline 0.0005)",)
    assert of(by_hand([("adamw", 5e-4, 2.0), ("muon", 4e-3, 2.6)]), "muon").verdict == "undecided", "nor worse"


def test_a_learning_rate_alone_is_a_question_of_its_own() -> None:
    design = Design("lr", factors=("optim.lr",), baseline={"optim.lr": 5e-4}, sesoi=0.01)
    found = by_hand([("adamw", 5e-4, 2.6), ("x", 4e-3, 2.0)], design, **{"config.optim.name": "adamw"})
    better = next(row for row in found.rows if row.verdict != "baseline")
    assert (better.verdict, better.warnings) == ("better", ())


def test_a_rate_set_by_hand_beside_another_setting() -> None:
    design = Design("norm", factors=("norm", "optim.lr"), baseline={"norm": "a", "optim.lr": 1e-3}, sesoi=0.01)
    rows = []
    for norm, lr, mean in (("a", 1e-3, 2.0), ("b", 2e-3, 1.9), ("c", 1e-3, 1.9)):
        own = fresh("adamw", lr, mean, design)
        rows += [r | {"arm": design.arm({"norm": norm, "optim.lr": lr}), "config.norm.name": norm} for r in own]
        for k, r in enumerate(rows[-5:]):
            r["score"] += 0.0004 * (norm != "a") * (-1) ** k
    verdicts = {row.arm: (row.verdict, row.warnings) for row in compare(made(rows, design)).rows}
    assert verdicts[settings("norm=c, optim.lr=0.001")] == ("better", ())
    name, warnings = verdicts[settings("norm=b, optim.lr=0.002")]
    assert name == "undecided" and "it also has a learning rate that was not tuned (0.002," in warnings[0]
    crossed = dataclasses.replace(design, factorial=())
    (row,) = [row for row in compare(made(rows, crossed)).rows if row.arm == settings("norm=b, optim.lr=0.002")]
    assert (row.verdict, row.warnings) == ("better", ()), "a factorial compares at equal rates too"


def test_the_batch_size_moves_the_best_rate_too() -> None:
    design = Design("batch", factors=("batch.tokens",), baseline={"batch.tokens": 1024}, sesoi=0.01)
    rows = []
    for tokens, mean in ((1024, 2.0), (4096, 1.9)):
        own = fresh("adamw" if tokens == 1024 else "adamw2", 1e-3, mean, design)
        arm = {"arm": design.arm({"batch.tokens": tokens}), "config.batch.tokens": tokens, "config.optim.name": "adamw"}
        rows += [r | arm for r in own]
    found = next(row for row in compare(made(rows, design)).rows if row.verdict != "baseline")
    assert found.verdict == "undecided" and found.warnings[0].startswith("another batch size at a learning rate")


def test_pairs_that_tune_are_left_out_of_every_table() -> None:
    paired = pair_up(pd.DataFrame(GOOD), TUNE)
    place = paired.pairs.index(str(OWN))
    assert np.isnan(paired.scores[:, place]).all() and not np.isnan(np.delete(paired.scores, place, 1)).any()
