"""Two-level factorial designs: the arms of a fraction, its aliases, the published resolutions, bad files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.errors import ConfigError
from gpt_lab.stats import two_level
from gpt_lab.study import cells, sweep_file
from gpt_lab.study.format import factorial_block
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger import sweep_text

SETTINGS: dict[str, list[Any]] = {
    "residual": ["pre", "olmo2"],
    "attention.qk_norm": ["none", "full"],
    "model.tied": [False, True],
    "position": ["rope", "alibi"],
    "norm": ["rmsnorm", "layernorm"],
    "mlp": ["swiglu", "relu2"],
    "optim": ["adamw", "lion"],
    "schedule": ["cosine", "linear"],
    "init": ["normal", "fan_in"],
}
NAMES = tuple(SETTINGS)


def read(k: int, seeds: int = 2, swept: dict[str, Any] | None = None, **block: Any) -> Sweep:
    stated = {name: {"values": SETTINGS[name]} for name in NAMES[:k]}
    stated |= {name: {"values": values} for name, values in (swept or {}).items()}
    base = {name: one["values"][0] for name, one in stated.items() if name not in block.get("nuisance", ())}
    raw = {
        "method": "grid",
        "parameters": {**stated, "seed": {"values": list(range(seeds))}},
        "gpt_lab": {"baseline": base, "design": "factorial", **block},
    }
    return sweep_file.read(
        Path("f.yaml"), {**raw, "gpt_lab": {k: v for k, v in raw["gpt_lab"].items() if v is not None}}
    )


def highs(sweep: Sweep) -> set[frozenset[str]]:
    """Each arm as the factors that it has at their high level."""
    base = sweep.design.baseline
    assert base is not None
    return {frozenset(n for n in base if cell.values[n] != base[n]) for cell in cells.cells(sweep)}


def test_the_full_factorial_is_the_grid() -> None:
    sweep = read(3)
    assert sweep.design.factorial == ()
    assert len(cells.cells(sweep)) == 2**3 * 2
    assert highs(sweep) == {frozenset(c) for n in range(4) for c in itertools.combinations(NAMES[:3], n)}


def test_a_half_fraction_by_hand() -> None:
    """d = abc of four factors: the arms with an even number of high levels, among them the baseline."""
    a, b, c, d = NAMES[:4]
    sweep = read(4, generators={d: [a, b, c]})
    assert sweep.design.factorial == ((a, b, c, d),)
    assert highs(sweep) == {frozenset(x) for n in (0, 2, 4) for x in itertools.combinations((a, b, c, d), n)}
    assert read(4, fraction="1/2").design.factorial == read(4, fraction=0.5).design.factorial == ((a, b, c, d),)
    assert len(cells.cells(sweep)) == 8 * 2


def test_the_sign_of_an_odd_word() -> None:
    """c = ab: of its two fractions the one with the baseline, so the columns' product is -1 in every arm."""
    a, b, c = NAMES[:3]
    sweep = read(3, fraction="1/2")
    assert highs(sweep) == {frozenset(), frozenset({a, b}), frozenset({a, c}), frozenset({b, c})}
    for arm in highs(sweep):
        x = {name: 1 if name in arm else -1 for name in (a, b, c)}
        assert x[a] * x[b] * x[c] == -1
    assert two_level.aliases(frozenset({a}), sweep.design.factorial or ()) == [(-1, frozenset({b, c}))]
    assert two_level.defining_relation(((a, b, c),)) == f"I = −{a} × {b} × {c}"


@pytest.mark.parametrize("k, share, found", [(5, "1/4", 2), (6, "1/8", 3), (7, "1/16", 4)])
def test_columns_of_aliases_are_equal_in_every_arm(k: int, share: str, found: int) -> None:
    """Aliases by the algebra of words against the columns themselves."""
    sweep = read(k, seeds=1, fraction=share)
    words = sweep.design.factorial or ()
    assert len(words) == found and len(two_level.group(words)) == 2**found - 1
    arms = highs(sweep)
    assert len(arms) == 2 ** (k - found) and frozenset() in arms

    def column(effect: frozenset[str]) -> tuple[int, ...]:
        return tuple((-1) ** len(effect - arm) for arm in sorted(arms, key=sorted))

    effects = [frozenset(x) for n in (1, 2, 3) for x in itertools.combinations(NAMES[:k], n)]
    for effect in effects:
        stated = {alias: sign for sign, alias in two_level.aliases(effect, words)}
        for other in effects:
            same = column(other) == column(effect), column(other) == tuple(-x for x in column(effect))
            if other != effect:
                assert any(same) == (other in stated)
                assert not any(same) or stated[other] == (1 if same[0] else -1)


PUBLISHED = {
    (3, 1): 3,
    (4, 1): 4,
    (5, 1): 5,
    (6, 1): 6,
    (7, 1): 7,
    (8, 1): 8,
    (9, 1): 9,
    (5, 2): 3,
    (6, 2): 4,
    (7, 2): 4,
    (8, 2): 5,
    (9, 2): 6,
    (6, 3): 3,
    (7, 3): 4,
    (8, 3): 4,
    (9, 3): 4,
    (7, 4): 3,
    (8, 4): 4,
    (9, 4): 4,
    (9, 5): 3,
}
"""Box, Hunter & Hunter 2005, table 6.22: the highest resolution of 2^(k-p)."""


@pytest.mark.parametrize("k, p", PUBLISHED)
def test_published_resolutions(k: int, p: int) -> None:
    block = {"fraction": f"1/{2**p}"}
    values = {name: tuple(SETTINGS[name]) for name in NAMES[:k]}
    words = factorial_block.generator_words(
        {"design": "factorial", **block}, NAMES[:k], values, {n: v[0] for n, v in values.items()}
    )
    assert words is not None and two_level.resolution(words) == PUBLISHED[k, p]


def test_minimum_aberration_of_2_7_2() -> None:
    """Fries & Hunter 1980: of the 2^(7-2) of resolution IV the best has one word of four letters, not two or three."""
    words = read(7, seeds=1, fraction="1/4").design.factorial or ()
    assert sorted(map(len, two_level.group(words))) == [4, 5, 5]


def test_a_resolution_chooses_the_fraction() -> None:
    assert len(read(6, resolution=4).design.factorial or ()) == 2
    assert len(read(5, resolution=5).design.factorial or ()) == 1
    assert read(3, resolution=3).design.factorial == (NAMES[:3],)


def test_the_baseline_s_level_is_the_low_one_wherever_it_stands() -> None:
    a, b, c = NAMES[:3]
    baseline = {a: "olmo2", b: "none", c: True}
    sweep = read(3, fraction="1/2", baseline=baseline)
    assert sweep.design.baseline_arm in {cell.arm for cell in cells.cells(sweep)}
    assert len(highs(sweep)) == 4


def test_tuning_and_seeds_stay_whole() -> None:
    sweep = read(4, seeds=3, swept={"optim.lr": [0.001, 0.004]}, nuisance=["optim.lr"], fraction="1/2")
    found = cells.cells(sweep)
    assert len(found) == 8 * 3 * 2
    more = cells.cells(sweep_file.with_seeds(sweep, 5))
    assert len(more) == 8 * 5 * 2 and highs(sweep) == highs(sweep_file.with_seeds(sweep, 5))


def test_every_cell_is_one_of_w_and_bs_grid() -> None:
    whole, part = read(4), read(4, fraction="1/2")
    assert {cell.identity for cell in cells.cells(part)} < {cell.identity for cell in cells.cells(whole)}


def test_the_ledger_keeps_the_design() -> None:
    for sweep in (read(4, fraction="1/2"), read(2), sweep_file.load("norm")):
        assert sweep_text.from_json(sweep_text.to_json(sweep)).design == sweep.design


A, B, C, D = NAMES[:4]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another design": ({"design": "latin"}, "unknown gpt_lab.design 'latin' (allowed: factorial)"),
    "misspelled": ({"design": "factoral"}, "did you mean 'factorial'?"),
    "a fraction alone": ({"design": None, "fraction": "1/2"}, "gpt_lab.fraction needs gpt_lab.design: factorial"),
    "no baseline": ({"baseline": None}, "add gpt_lab.baseline"),
    "three levels": (
        {"swept": {A: ["pre", "post", "olmo2"]}},
        f"two values of each factor, but {A} has 3 (pre, post, olmo2)",
    ),
    "a third": ({"fraction": "1/3"}, "gpt_lab.fraction must be 1/2, 1/4, 1/8 and so on, not '1/3'"),
    "a word": ({"fraction": "half"}, "gpt_lab.fraction must be 1/2"),
    "the whole": ({"fraction": 1}, "gpt_lab.fraction must be 1/2"),
    "too small": ({"fraction": "1/4"}, "1/4 of 4 factors is 4 arms, too few to tell 4 main effects apart"),
    "resolution II": ({"fraction": "1/2", "resolution": 2}, "gpt_lab.resolution must be a whole number from 3 to"),
    "out of reach": ({"k": 5, "fraction": "1/4", "resolution": 4}, "no 1/4 fraction of 5 factors reaches IV"),
    "stated, out of reach": (
        {"generators": {D: [A, B]}, "resolution": 4},
        f"reach resolution III only, not IV: I = −{A} × {B} × {D}",
    ),
    "two for a half": (
        {"k": 5, "fraction": "1/2", "generators": {D: [A, B], NAMES[4]: [A, C]}},
        "gpt_lab.generators states 2, which makes a fraction of 1/4, not 1/2",
    ),
    "not a mapping": ({"generators": [A]}, "gpt_lab.generators must be a mapping like {d: [a, b, c]}"),
    "unknown factor": ({"generators": {"residul": [A, B]}}, "did you mean 'residual'?"),
    "unknown in the list": ({"generators": {D: [A, "norm"]}}, "unknown factor in gpt_lab.generators.position: 'norm'"),
    "one in the list": ({"generators": {D: [A]}}, "must be a list of two or more other factors"),
    "itself": ({"generators": {D: [A, D]}}, "position is generated itself"),
    "twins": (
        {"k": 5, "generators": {D: [A, B, C], NAMES[4]: [A, B, C]}},
        f"{NAMES[4]} and {D} always change together",
    ),
    "an arm excluded": ({"exclude": [{A: "olmo2", B: "full"}]}, "factorial needs the arm residual=olmo2, "),
    "levels zipped": ({"zip": [[A, B]]}, "which zip, per or exclude leaves out"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line(case: str) -> None:
    changes, text = BAD[case]
    with pytest.raises(ConfigError) as caught:
        read(**{"k": 4, **changes})
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("f.yaml: ")


def test_only_for_grids_and_for_two_factors() -> None:
    raw = {
        "method": "random",
        "run_cap": 3,
        "parameters": {"position": {"values": ["rope", "alibi"]}},
        "gpt_lab": {"design": "factorial", "baseline": {"position": "rope"}},
    }
    with pytest.raises(ConfigError, match="design is for method: grid, not for random"):
        sweep_file.read(Path("f.yaml"), raw)
    with pytest.raises(ConfigError, match="factorial needs two or more swept factors"):
        read(1)


def test_a_baseline_without_a_level_of_each_factor() -> None:
    values = {"a": (0, 1), "b": (0, 1)}
    with pytest.raises(ConfigError, match=r"add gpt_lab\.baseline with a level of b$"):
        factorial_block.generator_words({"design": "factorial"}, ("a", "b"), values, {"a": 0})


def test_more_factors_than_are_tried_need_generators() -> None:
    names = [f"f{i}" for i in range(10)]
    values = dict.fromkeys(names, (0, 1))
    low = dict.fromkeys(names, 0)
    with pytest.raises(ConfigError, match="chosen for up to 9 factors, not 10: state them"):
        factorial_block.generator_words({"design": "factorial", "fraction": "1/2"}, names, values, low)
    stated = {"design": "factorial", "generators": {"f9": names[:9]}}
    assert factorial_block.generator_words(stated, names, values, low) == (tuple(names),)
