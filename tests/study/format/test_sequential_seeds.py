"""Sequential seeds: what a file may say, which run comes next, and that this depends on no order of events."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_lab.errors import ConfigError
from gpt_lab.plan import expected_runs as expected
from gpt_lab.plan import sample_size
from gpt_lab.plan.sample_size import Spread
from gpt_lab.study import sweep_file
from gpt_lab.study.design import Design, Looks, Settings
from gpt_lab.study.format import sequential_seeds
from gpt_lab.study.format.sequential_seeds import InterimPlan, next_run, standings
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger.sweep_text import from_json, to_json
from gpt_lab.sweep.search import search
from gpt_lab.sweep.search.asked import Done
from gpt_lab.sweep.search.search import Search
from tests.study.arms import settings

PARAMETERS: dict[str, Any] = {"position": {"values": ["rope", "none", "alibi"]}}
BLOCK: dict[str, Any] = {
    "baseline": {"position": "rope"},
    "sesoi": 0.5,
    "seeds": {"min": 3, "max": 6, "stop": "decided"},
}
NOISE = (0.00, 0.03, -0.02, 0.01, -0.03, 0.02)
EFFECTS = {"rope": 0.0, "none": 5.0, "alibi": 0.48}
"""Of none: seen at once. Of alibi: on the edge of the band, never decided."""


def sweep(block: dict[str, Any] | None = None, parameters: dict[str, Any] | None = None, **top: Any) -> Sweep:
    raw = {"method": "grid", "parameters": parameters or PARAMETERS, "gpt_lab": {**BLOCK, **(block or {})}, **top}
    return sweep_file.read(Path("some.yaml"), {key: value for key, value in raw.items() if value is not None})


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in BLOCK.items() if name != key}


def score(arm: str, seed: int) -> float:
    return 2 + 0.1 * seed + EFFECTS[arm] + NOISE[seed % 6] * (arm != "rope") * (2 if arm == "alibi" else 1)


# -- the file --


def test_seeds_are_counted_where_none_are_listed() -> None:
    read = sweep()
    assert read.design.looks == Looks(3, 6, 2)
    assert read.design.values["seed"] == tuple(range(6))
    listed = sweep(parameters={**PARAMETERS, "seed": {"values": [7, 3, 5, 11, 2, 8, 99]}})
    assert [cell.pair for cell in sequential_seeds.Adaptive(listed, cells(listed)).cells[::3]] == [7, 3, 5, 11, 2, 8]
    assert from_json(to_json(read)).design.looks == read.design.looks


@pytest.mark.parametrize(
    "seeds, said",
    [
        (5, "must be a mapping, not 5: write seeds: {min: 3, max: 10, stop: decided}"),
        ({"min": 3, "max": 6}, "gpt_lab.seeds.stop is missing"),
        ({"min": 3, "max": 6, "stop": "decidd"}, "unknown value of gpt_lab.seeds.stop: 'decidd'"),
        ({"min": 3, "maxx": 6, "stop": "decided"}, "did you mean 'max'?"),
        ({"min": 2, "max": 6, "stop": "decided"}, "3 <= min < max <= 50, not min 2"),
        ({"min": 6, "max": 6, "stop": "decided"}, "3 <= min < max <= 50"),
        ({"min": 3, "max": 51, "stop": "decided"}, "3 <= min < max <= 50"),
        ({"min": 3.5, "max": 6, "stop": "decided"}, "gpt_lab.seeds.min must be a whole number, not 3.5"),
        ({"min": 3, "max": True, "stop": "decided"}, "gpt_lab.seeds.max must be a whole number, not True"),
    ],
)
def test_what_the_key_cannot_be(seeds: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^some.yaml: ") as caught:
        sweep({"seeds": seeds})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"gpt_lab": without("baseline")}, "gpt_lab.seeds needs gpt_lab.baseline"),
        ({"gpt_lab": without("sesoi")}, "gpt_lab.seeds needs gpt_lab.sesoi"),
        ({"run_cap": 10}, "gpt_lab.seeds does not go with run_cap"),
        ({"method": "random", "run_cap": 9}, "gpt_lab.seeds is for method: grid"),
        (
            {"parameters": {**PARAMETERS, "seed": {"values": [0, 1, 2]}}},
            "gpt_lab.seeds.max is 6, but parameters.seed has 3 values: list 6",
        ),
        ({"parameters": {**PARAMETERS, "seed": {"value": 0}}}, "parameters.seed has 1 value:"),
        ({"gpt_lab": {**BLOCK, "exclude": [{"position": "none", "seed": 4}]}}, "position=none lacks seed=4"),
        (
            {
                "parameters": {**PARAMETERS, "optim.lr": {"values": [0.1, 0.2]}},
                "gpt_lab": {**BLOCK, "nuisance": ["optim.lr"]},
            },
            "does not go with gpt_lab.nuisance",
        ),
        (
            {
                "parameters": {"position": {"values": ["rope", "none"]}, "scale.depth": {"values": [1, 2]}},
                "gpt_lab": {**BLOCK, "within": ["scale.depth"]},
            },
            "does not go with gpt_lab.within",
        ),
        (
            {
                "parameters": {"position": {"values": ["rope", "none"]}, "norm": {"values": ["rmsnorm", "none"]}},
                "gpt_lab": {**BLOCK, "baseline": {"position": "rope", "norm": "rmsnorm"}, "design": "factorial"},
            },
            "does not go with gpt_lab.design",
        ),
    ],
)
def test_what_does_not_go_with_it(changes: dict[str, Any], said: str) -> None:
    raw = {"method": "grid", "parameters": PARAMETERS, "gpt_lab": BLOCK, **changes}
    with pytest.raises(ConfigError) as caught:
        sweep_file.read(Path("some.yaml"), raw)
    assert said in str(caught.value)


def test_the_commands_numbers_of_seeds_are_for_fixed_designs() -> None:
    with pytest.raises(ConfigError, match="gpt_lab.seeds says how many seeds"):
        sweep_file.with_seeds(sweep(), 4)
    with pytest.raises(ConfigError, match="--target-effect sets the seeds of a fixed design"):
        sample_size.with_enough_seeds(sweep(), 0.1)


def test_rules_cannot_change_after_a_run_was_seen() -> None:
    before, seen = sweep(), [Done(0, {}, "finished", 1.0)]
    sequential_seeds.refuse_change(sweep(), before, seen)
    sequential_seeds.refuse_change(sweep({"question": "What else?"}), before, seen)
    raised = sweep({"seeds": {"min": 3, "max": 9, "stop": "decided"}})
    sequential_seeds.refuse_change(raised, before, [Done(0, {}, "running")])
    sequential_seeds.refuse_change(raised, None, seen)
    for changed, said in (
        (raised, r"gpt_lab.seeds was {min: 3, max: 6, stop: decided} .* and is {min: 3, max: 9, stop: decided} now"),
        (sweep({"sesoi": 0.4}), "gpt_lab.sesoi was 0.5 when this sweep began and is 0.4 now"),
        (sweep({"alpha": 0.1}), "gpt_lab.alpha was 0.05"),
        (sweep(parameters={"position": {"values": ["rope", "none"]}}), "the number of arms was 2 .* and is 1 now"),
    ):
        with pytest.raises(ConfigError, match=said):
            sequential_seeds.refuse_change(changed, before, seen)


# -- the looks --


def test_a_look_by_hand() -> None:
    """The paired t's mean and standard error; intervals by the committed critical values."""
    d = np.array([1.0, 1.2, 0.9, 1.1, 1.0, 1.05])
    found = standings(d, Looks(3, 6, 1), 0.05, 0.1)
    critical = {3: 7.422, 4: 5.098}
    halves = {k: critical[k] * d[:k].std(ddof=1) / math.sqrt(k) for k in critical}
    assert d[:3].mean() - halves[3] < 0.5, "the first look is wide"
    assert int(found.pairs) == next(k for k in critical if d[:k].mean() - halves[k] >= 0.1)
    k = int(found.pairs)
    assert float(found.estimate) == pytest.approx(d[:k].mean())
    assert float(found.error) == pytest.approx(d[:k].std(ddof=1) / math.sqrt(k))


def test_looks_take_complete_pairs_from_the_first_on() -> None:
    looks = Looks(3, 6, 1)
    d = [5.0, 5.1, math.nan, 5.0, 4.9, 5.0]
    found = standings(d, looks, 0.05, 0.5)
    assert (int(found.whole), int(found.pairs), bool(found.decided)) == (2, 0, False)
    assert math.isnan(float(found.estimate))
    d[2] = 4.9
    found = standings(d, looks, 0.05, 0.5)
    assert (int(found.whole), int(found.pairs), bool(found.decided)) == (6, 3, True)
    inside = standings([0.0, 0.01, -0.01, 0.0], looks, 0.05, 0.5)
    assert (int(inside.pairs), bool(inside.decided)) == (3, True), "equivalence stops too"
    small = standings([0.4, 0.41, 0.39, 0.4, 0.4, 0.4], looks, 0.05, 0.41)
    assert not bool(standings([0.4, 0.41, 0.39], looks, 0.05, 0.41).decided), "real but small is open"
    assert int(small.pairs) > 3
    same = standings([0.7] * 6, looks, 0.05, 0.5)
    assert (int(same.pairs), float(same.error)) == (3, 0.0)


def test_more_arms_need_more() -> None:
    d = np.random.default_rng(0).standard_normal((500, 6)) + 3
    alone, many = (standings(d, Looks(3, 6, family), 0.05, 0.5) for family in (1, 8))
    assert many.pairs.mean() > alone.pairs.mean() + 0.3
    assert not (many.decided & ~alone.decided).any()


# -- what comes next --

ROPE, NONE, ALIBI = (settings(f"position={name}") for name in ("rope", "none", "alibi"))
PLAN = InterimPlan(Looks(3, 6, 2), dict.fromkeys((ROPE, NONE, ALIBI), ROPE), tuple("012345"), 0.5, 0.05)


def play(
    plan: InterimPlan, jobs: int, order: random.Random, lost: frozenset[tuple[Settings, str]] = frozenset()
) -> dict[Any, Any]:
    """The scores of all runs that were asked for, with `jobs` at a time that end in a random order."""
    scores: dict[tuple[Settings, str], float | None] = {}
    running: list[tuple[Settings, str]] = []
    while True:
        while len(running) < jobs and (found := next_run(plan, scores)) is not None:
            assert found not in scores
            scores[found] = None
            running.append(found)
        if not running:
            return scores
        ended = running.pop(order.randrange(len(running)))
        if ended not in lost:
            scores[ended] = score(ended[0].text("position"), int(ended[1]))


def test_the_stopping_pattern_is_known_and_depends_on_no_order() -> None:
    expected_runs = {(arm, seed) for arm in (ROPE, ALIBI) for seed in "012345"} | {(NONE, s) for s in "012"}
    for number in range(20):
        assert set(play(PLAN, 1 + number % 5, random.Random(number))) == expected_runs


def test_the_order_of_one_job() -> None:
    asked = list(play(PLAN, 1, random.Random(0)))
    assert asked[:4] == [(ROPE, "0"), (NONE, "0"), (ALIBI, "0"), (ROPE, "1")], "the baseline first, seed by seed"
    assert asked[9:] == [(arm, seed) for seed in "345" for arm in (ROPE, ALIBI)]


def test_nobody_looks_before_the_pair_is_complete() -> None:
    scores: dict[tuple[Settings, str], float | None] = {
        (arm, seed): score(arm.text("position"), int(seed)) for seed in "012" for arm in PLAN.baselines
    }
    assert next_run(PLAN, {**scores, (ROPE, "2"): None}) is None
    assert next_run(PLAN, scores) == (ROPE, "3")
    assert next_run(PLAN, {**scores, (NONE, "2"): None, (ROPE, "3"): None}) == (ALIBI, "3"), "others need not wait"
    assert next_run(PLAN, {**scores, (ROPE, "3"): 2.3, (ALIBI, "3"): None}) is None


@pytest.mark.parametrize(
    "lost, arms",
    [
        ((ALIBI, "1"), {"rope": 3, "none": 3, "alibi": 3}),
        ((ALIBI, "4"), {"rope": 5, "none": 3, "alibi": 5}),
        ((ROPE, "3"), {"rope": 4, "none": 3, "alibi": 4}),
        ((NONE, "0"), {"rope": 6, "none": 3, "alibi": 6}),
    ],
)
def test_an_arm_that_loses_a_run_gets_no_more(lost: tuple[Settings, str], arms: dict[str, int]) -> None:
    for number in range(6):
        runs = play(PLAN, 1 + number % 3, random.Random(number), frozenset([lost]))
        assert {arm: sum(name.text("position") == arm for name, _ in runs) for arm in arms} == arms


def test_the_baseline_stops_with_the_last_open_arm() -> None:
    sure = replace(PLAN, sesoi=1.5)  # alibi is inside the band by far
    runs = play(sure, 2, random.Random(0))
    assert len(runs) == 9


# -- as a search --


def cells(read: Sweep) -> list[Any]:
    from gpt_lab.study import cells as cells_

    return cells_.cells(read)


def test_the_search_answers_from_the_ledger_alone() -> None:
    made = Search(sweep())
    assert made.cells is None and made.planned is not None and made.most == len(made.planned) == 18
    done: list[Done] = []
    while (cell := made.ask(done)) is not None:
        assert cell.index == made.planned[cell.index].index
        state = "diverged" if (cell.values["position"], cell.pair) == ("none", 1) else "finished"
        found = None if state == "diverged" else score(str(cell.values["position"]), int(cell.pair))
        done.append(Done(cell.index, cell.values, state, found, cell.key))
    assert len(done) == 15
    again = [Search(sweep()).ask(done[:n]) for n in (0, 5, 9, 14, 15)]
    assert [cell and cell.key for cell in again] == [*(done[n].key for n in (0, 5, 9, 14)), None]
    other = [replace(one, key="0" * 12) for one in done]
    first = Search(sweep()).ask(other)
    assert first is not None and first.index == 0, "runs of other settings do not count"
    assert made.kept(other) == [] and {cell.key for cell in made.kept(done)} == {one.key for one in done}


def test_a_grid_without_the_key_is_a_grid() -> None:
    plain = sweep_file.read(
        Path("some.yaml"), {"method": "grid", "parameters": PARAMETERS, "gpt_lab": without("seeds")}
    )
    made = search.Search(plain)
    assert made.cells is not None and made.planned is made.cells and made.most == 3 and plain.design.looks is None


# -- before anything runs --


def test_runs_to_expect() -> None:
    looks = Looks(3, 10, 4)
    none, large = (expected.expected(looks, effect, 0.5, 0.05, studies=400) for effect in (0.0, 40.0))
    assert none.runs == pytest.approx(50, abs=0.2) and none.decided < 0.01
    assert large.runs == pytest.approx(15, abs=0.5) and large.decided == 1
    lines = expected.lines(Design("x", sesoi=0.1, looks=looks), None)
    assert lines[0] == "sequential seeds: 3 to 10 for each of 5 arms, until decided: 15 to 50 runs"
    assert "nothing 50 (0%)" in lines[1] and "sd of a pair's difference taken as 0.2" in lines[1]
    known = Spread("val/bpb", 0.02, 8, 0.05, 0.92, "12 pairs of this study")
    said = expected.lines(Design("x", sesoi=0.1, looks=looks), known)[1]
    assert "sd 0.0200" in said and "rho 0.92: 12 pairs of this study" in said
