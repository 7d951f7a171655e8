"""Random draws against scipy, the search space against W&B's own, TPE and hyperband by what they achieve."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from gpt_lab.study import sweep_file
from gpt_lab.study.design import Cell
from gpt_lab.study.format import distributions, parameters
from gpt_lab.study.format.early_terminate import Hyperband
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.search import search
from gpt_lab.sweep.search.asked import Done
from gpt_lab.sweep.search.search import Pruner, Search

LR = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}


def read(swept: dict[str, Any], method: str = "random", run_cap: int = 20, **more: Any) -> Sweep:
    metric = {"name": "val/bpb", "goal": "minimize"}
    return sweep_file.read(
        Path("a.yaml"), {"method": method, "run_cap": run_cap, "metric": metric, "parameters": swept, **more}
    )


def parameter(stated: dict[str, Any]) -> parameters.Parameter:
    return parameters.read({"optim.lr": stated})["optim.lr"]


def draws(stated: dict[str, Any], count: int = 4000) -> list[Any]:
    one = parameter(stated)
    return [distributions.value_at(one, distributions.uniform("optim.lr", index)) for index in range(count)]


CONTINUOUS = {
    "uniform": ({"min": 0.5, "max": 2.0}, stats.uniform(0.5, 1.5)),
    "log_uniform": ({"min": -3, "max": 1}, stats.loguniform(math.exp(-3), math.exp(1))),
    "log_uniform_values": ({"min": 1e-4, "max": 0.1}, stats.loguniform(1e-4, 0.1)),
    "inv_log_uniform": ({"min": 1, "max": 3}, stats.loguniform(math.exp(-3), math.exp(-1))),
    "inv_log_uniform_values": ({"min": 0.01, "max": 2.0}, stats.loguniform(0.01, 2.0)),
    "normal": ({"mu": 3, "sigma": 0.5}, stats.norm(3, 0.5)),
    "log_normal": ({"mu": -1, "sigma": 0.7}, stats.lognorm(0.7, scale=math.exp(-1))),
    "beta": ({"a": 2, "b": 5}, stats.beta(2, 5)),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_draws_have_their_distribution(name: str) -> None:
    numbers, expected = CONTINUOUS[name]
    assert stats.kstest(draws({"distribution": name, **numbers}), expected.cdf).pvalue > 0.01


@pytest.mark.parametrize("name", ["uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta"])
def test_rounded_draws_are_the_multiples_of_q(name: str) -> None:
    numbers, expected = CONTINUOUS[name]
    found = draws({"distribution": f"q_{name}", **numbers, "q": 0.25})
    counts = Counter(round(x / 0.25) for x in found)
    assert all(x == 0.25 * round(x / 0.25) for x in found)
    for times, count in counts.items():
        share = expected.cdf((times + 0.5) * 0.25) - expected.cdf((times - 0.5) * 0.25)
        assert abs(count - 4000 * share) < 5 * math.sqrt(4000 * share) + 1


def test_whole_numbers_and_choices() -> None:
    ints = Counter(draws({"min": 2, "max": 5}))
    assert set(ints) == {2, 3, 4, 5} and stats.chisquare(list(ints.values())).pvalue > 0.01
    chances = [0.7, 0.1, 0.2]
    found = Counter(draws({"values": [1.0, 2.0, 3.0], "probabilities": chances}))
    assert stats.chisquare([found[v] for v in (1.0, 2.0, 3.0)], [4000 * p for p in chances]).pvalue > 0.01


def test_parameters_are_drawn_independently() -> None:
    pairs = [(distributions.uniform("optim.lr", i), distributions.uniform("schedule.warmup", i)) for i in range(4000)]
    assert stats.spearmanr(pairs).pvalue > 0.01
    assert all(0 < u < 1 for pair in pairs for u in pair)


@pytest.mark.parametrize("name", [*CONTINUOUS, "q_normal"])
def test_a_drawn_value_has_its_quantile_back(name: str) -> None:
    numbers = CONTINUOUS[name.removeprefix("q_")][0]
    one = parameter({"distribution": name, **numbers} | ({"q": 0.01} if name.startswith("q_") else {}))
    for u in (0.01, 0.3, 0.77, 0.99):
        value = distributions.value_at(one, u)
        assert distributions.value_at(one, distributions.quantile(one, value)) == pytest.approx(value, rel=1e-9)


def test_random_is_the_same_again_and_never_repeats() -> None:
    sweep = read({"optim.lr": LR, "position": {"values": ["rope", "alibi"]}})
    cells = ask_all(sweep)
    assert [cell.values for cell in cells] == [cell.values for cell in ask_all(sweep)]
    assert len({cell.key for cell in cells}) == 20
    assert all(
        cell.overrides[:-1] == tuple(sweep_file.override(k, v) for k, v in cell.values.items()) for cell in cells
    )


def test_another_parameter_leaves_the_draws_of_the_first() -> None:
    more = read({"optim.lr": LR, "schedule.warmup": {"min": 0.0, "max": 0.5}})
    assert [c.values["optim.lr"] for c in ask_all(read({"optim.lr": LR}))] == [
        c.values["optim.lr"] for c in ask_all(more)
    ]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_small_space_is_exhausted_once(method: str) -> None:
    cells = ask_all(read({"position": {"values": ["rope", "alibi", "none"]}}, method))
    assert sorted(cell.values["position"] for cell in cells) == ["alibi", "none", "rope"]


def test_a_killed_runner_asks_for_the_same_cell_again() -> None:
    """What is asked next depends on what was asked before, not on who asked."""
    for method in ("random", "bayes"):
        sweep = read({"optim.lr": LR, "position": {"values": ["rope", "alibi"]}}, method)
        known = [done(cell, 2.0) for cell in ask_all(sweep)[:12]]
        assert Search(sweep).ask(known) == Search(sweep).ask(list(reversed(known)))


def test_a_target_ends_the_search() -> None:
    sweep = read({"optim.lr": LR}, metric={"name": "val/bpb", "goal": "minimize", "target": 1.5})
    first = Search(sweep).ask([])
    assert first is not None
    assert Search(sweep).ask([done(first, 1.6)]) is not None
    assert Search(sweep).ask([done(first, 1.4)]) is None


def test_a_grid_goes_in_order() -> None:
    sweep = sweep_file.load("pos_enc")
    search_ = Search(sweep)
    assert search_.cells is not None
    asked = [Done(i, search_.cells[i].values, "running") for i in (0, 1, 3)]
    found = search_.ask(asked)
    assert found is not None and found.index == 2


def done(cell: Cell, score: float | None, state: str = "finished") -> Done:
    return Done(cell.index, cell.values, state, score)


def ask_all(sweep: Sweep, score: Any = lambda values: 1.0, state: Any = lambda values: "finished") -> list[Cell]:
    """Every cell, each told before the next is asked for."""
    search_, told, cells = Search(sweep), [], []
    while (cell := search_.ask(told)) is not None:
        cells.append(cell)
        told.append(done(cell, score(cell.values), state(cell.values)))
    return cells


def bowl(values: dict[str, Any]) -> float:
    """Lowest at lr 3e-3 and weight decay 0.05."""
    lr, decay = math.log10(values["optim.lr"] / 3e-3), math.log10(values["optim.weight_decay"] / 0.05)
    return 2.0 + lr**2 + 0.3 * decay**2


BOWL = {"optim.lr": LR, "optim.weight_decay": {"distribution": "log_normal", "mu": -2, "sigma": 1.5}}


def test_bayes_finds_what_random_misses() -> None:
    """Also in a distribution that Optuna lacks."""
    by_random = sorted(bowl(cell.values) for cell in ask_all(read(BOWL, "random", 30), bowl))
    by_bayes = sorted(bowl(cell.values) for cell in ask_all(read(BOWL, "bayes", 30), bowl))
    assert sum(by_bayes[:10]) / 10 < sum(by_random[:10]) / 10
    assert by_bayes[0] < 2.05


def test_bayes_maximizes_where_the_goal_says_so() -> None:
    metric = {"name": "val/accuracy", "goal": "maximize"}
    cells = ask_all(read({"optim.lr": LR}, "bayes", 25, metric=metric), lambda values: values["optim.lr"])
    assert sum(cell.values["optim.lr"] > 0.03 for cell in cells[12:]) > 6


def test_bayes_avoids_where_runs_diverge() -> None:
    """A diverged run counts as the worst one, as W&B's `impute: worst` does."""
    cells = ask_all(
        read({"optim.lr": LR}, "bayes", 40),
        lambda values: None if values["optim.lr"] > 1e-2 else 2.0,
        lambda values: "diverged" if values["optim.lr"] > 1e-2 else "finished",
    )
    high = [cell.values["optim.lr"] > 1e-2 for cell in cells]
    assert sum(high[20:]) < sum(high[:20])


@pytest.mark.parametrize("state", ["failed", "running", "waiting", "pruned", "stopped", "diverged"])
def test_bayes_takes_trials_without_a_result(state: str) -> None:
    sweep = read(BOWL, "bayes")
    first = Search(sweep).ask([])
    assert first is not None
    second = Search(sweep).ask([done(first, 2.0 if state == "pruned" else None, state)])
    assert second is not None and second.key != first.key and second.index == 1


def test_the_first_draws_of_bayes_favour_nothing() -> None:
    sweep = read({"position": {"values": ["rope", "alibi"]}, "optim.lr": LR}, "bayes", 200)
    search_ = Search(sweep)
    found: Counter[str] = Counter()
    for index in range(40):  # as if 40 sweeps began here
        cell = search_.ask([Done(index - 1, {"position": "rope", "optim.lr": 0.01}, "failed")] if index else [])
        assert cell is not None
        found[cell.values["position"]] += 1
    assert min(found.values()) > 8


ORACLE = {
    "optim.lr": [
        LR,
        {"min": 0.001, "max": 0.1},
        {"distribution": "uniform", "min": 0.1, "max": 2},
        {"values": [0.1, 0.2]},
    ],
    "seed": [{"min": 1, "max": 9}, {"distribution": "q_uniform", "min": 0, "max": 9, "q": 3}, {"values": [1, 2]}],
    "schedule.warmup": [{"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.125}],
    "position": [{"values": ["rope", "none"]}, {"distribution": "categorical", "values": ["rope", "alibi"]}],
    "optim.nesterov": [{"values": [True, False]}],
    "scale.depth": [{"distribution": "int_uniform", "min": 1, "max": 4}],
}


@pytest.mark.parametrize("name, stated", [(name, one) for name, all_ in ORACLE.items() for one in all_], ids=str)
def test_the_space_is_w_and_bs_own(name: str, stated: dict[str, Any]) -> None:
    """wandb.sdk.sweeps.scheduler.optuna maps the same files to Optuna."""
    from wandb.sdk.sweeps.scheduler.optuna import search_space_from_sweep_config

    sweep = read({name: stated}, "random")
    assert search.space(sweep) == search_space_from_sweep_config({name: stated})


def curve(*values: float) -> list[tuple[int, float]]:
    return [(10 * (i + 1), value) for i, value in enumerate(values)]


def kept(pruner: Pruner, curves: Sequence[list[tuple[int, float]]]) -> list[bool]:
    return [not pruner.prune(own, [c for c in curves if c is not own]) for own in curves]


def test_hyperband_keeps_the_best_third_at_each_band() -> None:
    pruner = Pruner(Hyperband(min_iter=2), "minimize")
    curves = [curve(3.0, 2.0 + i / 10) for i in range(9)]
    assert kept(pruner, curves) == [True] * 3 + [False] * 6
    higher = [curve(1.0, 2.0 + i / 10) for i in range(9)]
    assert kept(Pruner(Hyperband(min_iter=2), "maximize"), higher) == [False] * 6 + [True] * 3
    assert kept(Pruner(Hyperband(min_iter=3), "minimize"), curves) == [True] * 9, "before the first band all go on"


def test_bands() -> None:
    assert Pruner(Hyperband(min_iter=2, eta=2), "minimize").bands(20) == [2, 4, 8, 16]
    assert Pruner(Hyperband(max_iter=27, s=2, eta=3), "minimize").bands(100) == [3, 9]
    assert Pruner(Hyperband(max_iter=4, s=5, eta=2), "minimize").bands(100) == [1, 2]


def test_only_the_band_s_own_value_counts_when_strict() -> None:
    """Without `strict`, as W&B says, the best value so far does."""
    worse = curve(1.0, 3.0)
    others = [curve(2.0, 2.0), curve(2.0, 2.0), curve(2.0, 2.0)]
    assert not Pruner(Hyperband(min_iter=2, eta=2), "minimize").prune(worse, others)
    assert Pruner(Hyperband(min_iter=2, eta=2, strict=True), "minimize").prune(worse, others)


def test_what_is_not_finite_is_given_up() -> None:
    assert Pruner(Hyperband(min_iter=1), "minimize").prune(curve(math.nan), [curve(2.0)])
    assert not Pruner(Hyperband(min_iter=1), "minimize").prune(curve(2.0), [])


def test_pruner_of_a_sweep() -> None:
    assert search.pruner(sweep_file.load("pos_enc")) is None
    made = search.pruner(read({"optim.lr": LR}, early_terminate={"type": "hyperband", "min_iter": 3, "eta": 4}))
    assert made is not None and (made.first, made.eta, made.goal) == (3, 4, "minimize")
