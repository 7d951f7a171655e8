"""Sweeps with `tune`: as many runs for each arm, the same ones whatever ends first, then fresh seeds at the choice."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_lab.errors import ConfigError
from gpt_lab.stats.paired import paired_t
from gpt_lab.study import cells, sweep_file
from gpt_lab.study.format import tune_block
from gpt_lab.study.format.early_terminate import Hyperband
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger import sweep_text
from gpt_lab.sweep.search import search, tuner
from gpt_lab.sweep.search.asked import Done
from gpt_lab.sweep.search.search import Pruner, Search
from gpt_lab.sweep.search.tuner import Tuner
from tests.study.arms import settings

BEST = {"adamw": 0.004, "muon": 0.013, "lion": 3.3e-5}
Score = Callable[[Mapping[str, Any]], float | None]


def read(tune: Any, optims: tuple[str, ...] = ("adamw", "muon", "lion"), seeds: int = 3, **more: Any) -> Sweep:
    swept = {"optim": {"values": list(optims)}, "seed": {"values": list(range(seeds))}}
    tune = {**tune, "seeds": tune.get("seeds", 1)} if isinstance(tune, dict) and tune else tune  # one, to count by hand
    block = {"baseline": {"optim": optims[0]}, "tune": tune, **more.pop("block", {})}
    raw = {"method": "grid", "metric": {"name": "val/bpb"}, "parameters": swept | more.pop("parameters", {})}
    overrides = more.pop("overrides", ())
    return sweep_file.read(Path("a.yaml"), raw | {"gpt_lab": block} | more, overrides)


def planted(values: Mapping[str, Any]) -> float | None:
    return 2 + 0.1 * math.log2(values["optim.lr"] / BEST[values["optim"]]) ** 2


def play(made: Tuner, score: Score = planted, jobs: int = 1, seed: int = 0) -> list[Done]:
    """All runs of a sweep, which end in a random order; a run without a score diverges."""
    draw, running, done = random.Random(seed), [], []
    while True:
        while len(running) < jobs and (row := made.next_row([*done, *running])) is not None:
            running.append(Done(*row, "running"))
        if not running:
            return done
        one = running.pop(draw.randrange(len(running)))
        value = score(one.values)
        done.append(Done(one.index, one.values, "diverged" if value is None else "finished", value))


def names(done: list[Done]) -> list[tuple[Any, ...]]:
    return sorted((one.index, *map(str, one.values.items())) for one in done)


@pytest.fixture(scope="module")
def three() -> Tuner:
    return tuner.build_tuner(read({"optim.lr": {}}))


def tuned(made: Tuner, done: list[Done]) -> dict[str, list[float]]:
    """Values that each arm tried, in order."""
    found: dict[str, list[float]] = {str(arm.settings): [] for arm in made.arms}
    for one in sorted(done, key=lambda one: one.index):
        if made.design.tunes(one.values["seed"]):
            found[str(made.design.arm(one.values))].append(one.values["optim.lr"])
    return found


def test_planted_optima_are_found_with_as_many_runs_for_each_arm(three: Tuner) -> None:
    done = play(three)
    assert three.chosen(done) == {
        settings("optim=adamw"): (0.004,),
        settings("optim=muon"): (pytest.approx(0.013, rel=0.03),),
        settings("optim=lion"): (pytest.approx(3.3e-5, rel=0.03),),
    }
    tried = tuned(three, done)
    assert tried["optim=adamw"] == [0.004, 0.002, 0.008, 0.001, 0.016, 0.00283, 0.00566], "finer, as others are wider"
    assert tried["optim=muon"][:5] == tried["optim=adamw"][:5], "each begins with its own config's value"
    assert tried["optim=lion"][:3] == [3e-4, 1.5e-4, 6e-4] and tried["optim=lion"][5:] == [
        3.75e-5,
        1.87e-5,
    ]
    assert {len(values) for values in tried.values()} == {7} and all(len(set(v)) == 7 for v in tried.values())
    fresh = [one for one in done if not three.design.tunes(one.values["seed"])]
    assert Counter((one.values["optim"], one.values["seed"]) for one in fresh) == Counter(
        (optim, seed) for optim in BEST for seed in range(3)
    )
    assert {(settings(f"optim={one.values['optim']}"), (one.values["optim.lr"],)) for one in fresh} == set(
        three.chosen(done).items()
    )


@pytest.mark.parametrize("jobs", [2, 3, 9])
def test_neither_order_nor_number_at_a_time_changes_anything(three: Tuner, jobs: int) -> None:
    expected = names(play(three))
    for seed in range(4):
        assert names(play(three, jobs=jobs, seed=seed)) == expected


def test_two_at_a_time_are_busy(three: Tuner) -> None:
    """Arms wait for each other only at the end of the tuning."""
    done: list[Done] = []
    idle = []
    for number in range(21 + 9):
        first = three.next_row(done)
        assert first is not None
        if three.next_row([*done, Done(*first, "running")]) is None:
            idle.append(number)
        done.append(Done(*first, "finished", planted(first[1])))
    assert idle in ([17, 20, 29], [20, 29]), "a refinement of one arm, the last of the tuning, the last of all"


def test_what_is_killed_is_asked_for_again(three: Tuner) -> None:
    """The next run follows from the ledger alone: a trial that waits again changes nothing."""
    done = play(three)
    for cut in (0, 3, 11, 20, 25):
        assert three.next_row(done[:cut]) == three.next_row(list(reversed(done[:cut])))
        held = [*done[:cut], *(Done(one.index, one.values, "waiting") for one in done[cut : cut + 1])]
        asked = three.next_row(held)
        assert asked is None or asked[0] not in {one.index for one in held}


def test_a_failed_run_holds_up_the_comparison(three: Tuner) -> None:
    """It says nothing of its value: the same command tries it again."""
    done = play(three)
    tuning = [one for one in done if three.design.tunes(one.values["seed"])]
    lost = next(one for one in tuning if one.values["optim"] == "muon")
    rest = [one for one in tuning if one is not lost]
    assert three.next_row([*rest, Done(lost.index, lost.values, "failed")]) is None
    assert three.next_row(rest) == (lost.index, lost.values)


def test_an_edge_is_widened_up_to_the_cap_and_no_further() -> None:
    made = tuner.build_tuner(read({"optim.lr": {"start": 0.001, "widen": 3}}, ("adamw", "muon")))
    far = {"adamw": 0.001, "muon": 1.0}
    done = play(made, lambda values: 2 + math.log2(values["optim.lr"] / far[values["optim"]]) ** 2)
    tried = tuned(made, done)
    assert tried["optim=muon"][5:] == [0.008, 0.016, 0.032] and len(tried["optim=adamw"]) == 8
    assert made.chosen(done) == {settings("optim=adamw"): (0.001,), settings("optim=muon"): (0.032,)}
    assert (made.least, made.most, len(done)) == (10, 16, 16 + 6)


def test_without_an_edge_nobody_gets_more() -> None:
    made = tuner.build_tuner(read({"optim.lr": {}}, ("adamw", "muon"), seeds=4))
    done = play(made, lambda values: 2 + math.log2(values["optim.lr"] / 0.005) ** 2)
    assert len(done) == made.least + 8 and set(map(len, tuned(made, done).values())) == {5}


def test_divergence_is_a_bad_place_and_costs_a_run() -> None:
    made = tuner.build_tuner(read({"optim.lr": {}}, ("adamw", "muon")))
    low = lambda values: planted(values) if values["optim"] == "adamw" or values["optim.lr"] < 0.003 else None  # noqa: E731
    done = play(made, low)
    assert made.chosen(done)[settings("optim=muon")] == (0.002,) and len(tuned(made, done)["optim=muon"]) == 5
    never = play(made, lambda values: planted(values) if values["optim"] == "adamw" else None)
    assert made.chosen(never)[settings("optim=muon")] is None
    assert tuned(made, never)["optim=muon"][5:] == [5e-4, 2.5e-4, 1.25e-4, 6.25e-5], "lower until the cap"
    assert {one.values["optim"] for one in never if one.values["seed"] < 3} == {"adamw"}, "it has nothing to compare"


def test_several_tuning_seeds_are_averaged() -> None:
    made = tuner.build_tuner(read({"optim.lr": {}, "seeds": 2}, ("adamw", "muon")))
    shift = {tune_block.FIRST: 2.0, tune_block.FIRST + 1: 0.5}
    done = play(made, lambda v: 2 + math.log2(v["optim.lr"] / (0.004 * shift.get(v["seed"], 1.0))) ** 2, jobs=3, seed=5)
    assert made.chosen(done) == {settings("optim=adamw"): (0.004,), settings("optim=muon"): (0.004,)}
    assert (made.least, len(done)) == (20, 20 + 6)


def test_two_settings_are_tuned_one_after_the_other() -> None:
    sweep = read(
        {"optim.lr": {"points": 3}, "optim.weight_decay": {"start": 0.1, "points": 3, "widen": 2}}, ("adamw", "muon")
    )
    made = tuner.build_tuner(sweep)

    def score(values: Mapping[str, Any]) -> float:
        return 2 + math.log2(values["optim.lr"] / 0.003) ** 2 + math.log2(values["optim.weight_decay"] / 0.5) ** 2

    done = play(made, score, jobs=2, seed=3)
    assert made.chosen(done) == dict.fromkeys((settings("optim=adamw"), settings("optim=muon")), (0.003, 0.5))
    first = [one for one in done if one.index < made._slots * 2 and one.values["optim"] == "adamw"]
    assert {one.values["optim.weight_decay"] for one in first} == {0.1}
    later = [one for one in done if one.values["optim.weight_decay"] != 0.1]
    assert {one.values["optim.lr"] for one in later} == {0.003}
    assert names(play(made, score)) == names(done)


def test_with_early_terminate_the_runs_of_an_arm_follow_each_other() -> None:
    stop = {"type": "hyperband", "min_iter": 1}
    made = tuner.build_tuner(read({"optim.lr": {}}, ("adamw", "muon"), early_terminate=stop))
    done: list[Done] = []
    running = []
    while (row := made.next_row([*done, *running])) is not None:
        running.append(Done(*row, "running"))
    assert [one.values["optim"] for one in running] == ["adamw", "muon"], "one of each arm"
    assert names(play(made, jobs=4, seed=2)) == names(play(made))


def test_what_is_pruned_does_not_depend_on_when_one_looks() -> None:
    pruner = Pruner(Hyperband(min_iter=2, eta=2), "minimize")
    good, poor = [(i, 2.0 - i / 10) for i in range(1, 9)], [(i, 3.0) for i in range(1, 9)]
    assert pruner.cut(good, []) is None and pruner.cut(good, [poor]) is None
    assert pruner.cut(poor, [good]) == 2
    assert pruner.cut(poor, [good, poor[:2]]) == pruner.cut(poor, [good, poor]), "a poor run that went on longer"
    assert pruner.cut(poor[:1], [good]) is None


def test_the_runner_s_rule_prunes_tuning_runs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from gpt_lab.sweep import runner

    sweep = read({"optim.lr": {}}, ("adamw", "muon"), early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2})
    prune = runner._prune(sweep, tmp_path)
    assert prune is not None
    curves = {"good": [(1, 2.0), (2, 1.0)], "poor": [(1, 3.0), (2, 3.0)]}
    monkeypatch.setattr(
        runner, "MetricsTail", lambda path, metric: SimpleNamespace(poll=lambda: 0, curve=curves[path.parent.name])
    )

    def trial(index: int, arm: str, seed: int, run: str) -> Any:
        entry = SimpleNamespace(index=index, arm=arm, pair=seed, run=run, key=f"{index}", wanted=True, state="finished")
        return SimpleNamespace(entry=entry, tail=SimpleNamespace(curve=curves[run]))

    own = tune_block.FIRST
    before = [trial(0, "optim=adamw", own, "good").entry]
    assert prune(trial(2, "optim=adamw", own, "poor"), [], before)
    assert not prune(trial(2, "optim=muon", own, "poor"), [], before), "arms never compete"
    assert not prune(trial(20, "optim=adamw", 0, "poor"), [], before), "nor do runs of the comparison"
    assert not prune(trial(0, "optim=adamw", own, "poor"), [], [trial(2, "optim=adamw", own, "good").entry])


def test_a_search_asks_the_tuner() -> None:
    sweep = read({"optim.lr": {"start": {"optim=adamw": 5e-4}}, "seeds": [77]}, ("adamw", "muon"))
    made = Search(sweep)
    cell = made.ask([])
    assert cell is not None and made.cells is None and made.most == 18 + 6
    assert (cell.arm, cell.tuning, cell.pair, cell.index) == (
        settings("optim=adamw"),
        settings("optim.lr=0.0005"),
        77,
        0,
    )
    assert cell.identity == cells.cell(sweep, 9, {"optim": "adamw", "seed": 77, "optim.lr": 5e-4}).identity
    assert made.tuner is not None and made.tuner.arms[1].ladders[0].start == 0.004, "muon's own"
    assert len(made.planned or ()) == 10 + 6
    with pytest.raises(ConfigError, match="sweep with tune draws its cells one by one"):
        cells.cells(sweep)


def test_more_seeds_keep_the_tuning() -> None:
    sweep = read({"optim.lr": {}}, ("adamw", "muon"))
    done = play(tuner.build_tuner(sweep))
    more = tuner.build_tuner(sweep_file.with_seeds(sweep, 5))
    left = [one for one in play(more) if names([one])[0][1:] not in {name[1:] for name in names(done)}]
    assert sorted((one.values["optim"], one.values["seed"]) for one in left) == [
        (optim, seed) for optim in ("adamw", "muon") for seed in (3, 4)
    ]


def test_the_ledger_s_copy_knows_the_tuning_seeds() -> None:
    sweep = read({"optim.lr": {}})
    again = sweep_text.from_json(sweep_text.to_json(sweep))
    assert again.design.tuning_pairs == (tune_block.FIRST,) and again.design == sweep.design and not again.listed


def test_a_value_that_no_run_can_have_is_said_before_anything_runs() -> None:
    """The farthest that widening could go is tried first."""
    sweep = read({"model.dropout": {"start": 0.1}}, ("adamw", "muon"))
    with pytest.raises(ConfigError, match="dropout"):
        search.Search(sweep)


BAD = {
    "no setting": ({"seeds": 3}, {}, "must name a setting"),
    "no mapping": ({"optim.lr": [0.1]}, {}, "must be a mapping like"),
    "unknown setting": ({"optim.lrr": {}}, {}, "did you mean 'optim.lr'"),
    "unknown key": ({"optim.lr": {"begin": 1}}, {}, "unknown key of gpt_lab.tune.optim.lr: 'begin'"),
    "a choice of parts": ({"norm": {}}, {}, "tune takes numbers"),
    "whole numbers": ({"scale.depth": {}}, {}, "scale.depth must be a whole number"),
    "the pair": ({"seed": {}}, {}, "would pick the luckiest"),
    "even": ({"optim.lr": {"points": 4}}, {}, "points must be odd"),
    "text": ({"optim.lr": {"start": "1e-3"}}, {}, "1.0e-3"),
    "below 0": ({"optim.lr": {"start": -1.0}}, {}, "above 0"),
    "factor": ({"optim.lr": {"factor": 1}}, {}, "from 1.1 to 100"),
    "widen": ({"optim.lr": {"widen": 1000}}, {}, "from 0 to 25"),
    "two values": ({"optim.lr": {"values": [0.1, 0.2]}}, {}, "three numbers or more"),
    "falling": ({"optim.lr": {"values": [0.2, 0.1, 0.3]}}, {}, "must rise"),
    "values and start": ({"optim.lr": {"values": [0.1, 0.2, 0.3], "start": 1}}, {}, "leave start out"),
    "another setting": ({"optim.lr": {"start": {"norm=rmsnorm": 0.1}}}, {}, "unknown factor"),
    "another value": ({"optim.lr": {"start": {"optim=muno": 0.1}}}, {}, "did you mean 'muon'"),
    "no condition": ({"optim.lr": {"start": {"optim": 0.1}}}, {}, "write SETTING=VALUE"),
    "unequal": (
        {"optim.lr": {"values": {"optim=adamw": [0.1, 0.2, 0.3], "optim=muon": [0.1, 0.2, 0.3, 0.4]}}},
        {},
        "equally many",
    ),
    "an arm without": ({"optim.lr": {"values": {"optim=adamw": [0.1, 0.2, 0.3]}}}, {}, "optim=muon is missing"),
    "seeds of the comparison": ({"optim.lr": {}, "seeds": [1]}, {}, "seed=1 is one of the comparison's"),
    "seeds twice": ({"optim.lr": {}, "seeds": [7, 7]}, {}, "a list of different ones"),
    "seeds that are none": ({"optim.lr": {}, "seeds": [0.5]}, {}, "whole numbers"),
    "swept too": (
        {"optim.lr": {}},
        {"parameters": {"optim.lr": {"values": [0.1, 0.2]}}},
        "take parameters.optim.lr out",
    ),
    "overridden": ({"optim.lr": {}}, {"overrides": ["optim.lr=0.1"]}, "take optim.lr=... out"),
    "nuisance": ({"optim.lr": {}}, {"block": {"nuisance": ["optim"]}}, "tune and gpt_lab.nuisance do not go together"),
    "run_cap": ({"optim.lr": {}}, {"run_cap": 3}, "run_cap do not go together"),
    "random": ({"optim.lr": {}}, {"method": "random", "run_cap": 3}, "gpt_lab.tune is for method: grid"),
}


@pytest.mark.parametrize("tune, more, says", BAD.values(), ids=BAD)
def test_bad_blocks(tune: Any, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tune, ("adamw", "muon"), **more)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_setting_without_a_value_needs_a_start() -> None:
    with pytest.raises(ConfigError, match=r"optim\.adam_lr of optim=muon, norm=rmsnorm: .* state a start above 0"):
        tuner.build_tuner(
            read(
                {"optim.adam_lr": {}},
                ("muon",),
                parameters={"norm": {"values": ["rmsnorm", "layernorm"]}},
                block={"baseline": {"optim": "muon", "norm": "rmsnorm"}},
            )
        )
    with pytest.raises(ConfigError, match=r"optim=sgd has no optim.beta2"):
        tuner.build_tuner(read({"optim.beta2": {"start": 0.5}}, ("adamw", "sgd")))


def test_equal_arms_are_called_different_as_seldom_as_promised() -> None:
    """Tuned on noise, compared on fresh seeds; on the seeds that chose, the arm that was tuned more would win."""
    made = tuner.build_tuner(read({"optim.lr": {"points": 3, "widen": 2}}, ("adamw", "muon"), seeds=5))
    rng = np.random.default_rng(3)
    fresh, lucky = [], []
    for _ in range(700):
        noise = rng.normal(0, 0.03, 64)
        place = iter(noise)

        def score(values: Mapping[str, Any], place: Any = place) -> float:
            return 2 + 0.02 * math.log2(values["optim.lr"] / 0.004) ** 2 + next(place)

        done = play(made, score)
        scores = {(o.values["optim"], o.values["seed"]): o.score or 0.0 for o in done}
        fresh.append([scores["muon", seed] - scores["adamw", seed] for seed in range(5)])
        lucky.append(min(o.score or 0.0 for o in done if o.values["seed"] == tune_block.FIRST) - 2)
    p = paired_t(np.array(fresh)).p()
    false = float((p < 0.05).mean())
    assert 0.027 < false < 0.075, "5 % with a standard error of 0.8 %"
    assert np.mean(lucky) < -0.02, "the best tuning score flatters: it is never what is compared"
    assert abs(float(np.mean(fresh))) < 0.003


LOOKS = {"min": 3, "max": 8, "stop": "decided"}


def looked(apart: float, noise: float, jobs: int = 1, seed: int = 0) -> tuple[Tuner, list[Done]]:
    """A tuned study with sequential seeds whose arms differ by `apart`; noise of a run follows from its values."""
    raw = {"optim": {"values": ["adamw", "muon"]}}
    block = {"baseline": {"optim": "adamw"}, "sesoi": 0.01, "seeds": LOOKS, "tune": {"optim.lr": {}, "seeds": 1}}
    sweep = sweep_file.read(
        Path("a.yaml"), {"method": "grid", "metric": {"name": "val/bpb"}, "parameters": raw, "gpt_lab": block}
    )
    made = tuner.build_tuner(sweep)

    def score(values: Mapping[str, Any]) -> float:
        luck = random.Random(str(sorted(values.items()))).gauss(0, noise)
        return 2 + 0.1 * math.log2(values["optim.lr"] / 0.004) ** 2 + apart * (values["optim"] == "muon") + luck

    return made, play(made, score, jobs, seed)


def test_seeds_are_added_at_the_chosen_value_until_an_arm_is_decided() -> None:
    made, done = looked(-0.3, 0.005)
    fresh = [one for one in done if not made.design.tunes(one.values["seed"])]
    assert len(fresh) == 2 * 3 and (made.least, len(made.rows)) == (10, 16), "decided at the first look"
    chosen = made.chosen(done)
    assert all((one.values["optim.lr"],) == chosen[settings(f"optim={one.values['optim']}")] for one in fresh)
    made, done = looked(0.012, 0.03)
    fresh = [one for one in done if not made.design.tunes(one.values["seed"])]
    assert len(fresh) == 2 * 8, "never decided: all that there are"
    for jobs in (2, 5):
        assert names(looked(0.012, 0.03, jobs, jobs)[1]) == names(done)


def test_an_arm_that_tuning_lost_asks_for_no_seeds() -> None:
    made, _ = looked(0.0, 0.01)
    done = play(made, lambda v: None if v["optim"] == "muon" else 2 + math.log2(v["optim.lr"] / 0.004) ** 2)
    assert {one.values["optim"] for one in done if one.values["seed"] < 8} <= {"adamw"}
    assert made.next_row(done) is None
