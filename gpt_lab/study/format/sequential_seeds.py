"""Sequential seeds: the next seed goes where the verdict is undecided. `seeds: {min: 3, max: 10, stop: decided}`.

Every arm gets `min` pairs, then one at a time until a look decides it or it has `max`. A look takes an arm's first k
pairs, all of them finished, in the order of the seeds, and asks for its repeated interval

    mean(d) +/- c_k sd(d) / sqrt(k)

whose critical values c_k keep alpha / arms over all looks: the interval of no look misses the truth with
more than that probability. It decides where it lies wholly beyond the smallest effect size of interest (better,
worse) or wholly inside (equivalent). False differences and false equivalences each have an alpha of their own, as in a
fixed design. An interval that excludes 0 and overlaps the band decides nothing: more seeds would.

A look depends on the arm's and the baseline's runs alone (own variance, Bonferroni), so the runs that are asked for
are the same in whatever order trials end, and arms need not wait for each other. A variance pooled over the arms would
be known sooner and would break the level where one arm is noisier. The baseline gets a seed when an arm that is open
gets it. An arm that loses a seed of the looks to come (diverged, no score) or whose baseline does gets no more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gpt_lab.errors import ConfigError, quoted, unknown
from gpt_lab.options import is_whole
from gpt_lab.study.design import Cell, Design, Looks, Settings, shown
from gpt_lab.study.sweep import Sweep

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

KEYS = ("min", "max", "stop")
FEWEST = 3
"""Pairs before the first look: after two of ten, only a t of 142 would decide the one arm of a study."""
MOST = 50
Scores = Mapping[tuple[Settings, str], float | None]
"""By arm and pair, of every run that was asked for; None: it has not finished, or has no finite score."""


class Known(Protocol):
    """What a search is told of a cell (search.Done)."""

    @property
    def key(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def score(self) -> float | None: ...


@dataclass(frozen=True)
class InterimPlan:
    """All that the looks of a study depend on.

    Fields:
        baselines: the arm that each is compared with, in the order of the file; a baseline's is itself.
        pairs: the values of the pairing setting as text, in the order in which they are used.
        sesoi: smallest effect size of interest. alpha: of the family.
    """

    looks: Looks
    baselines: Mapping[Settings, Settings]
    pairs: tuple[str, ...]
    sesoi: float
    alpha: float


@dataclass(frozen=True)
class Standings:
    """Where arms stand, arrays (...).

    Fields:
        pairs: pairs of the look that counts, the first that decides or else the last one; 0 before the first look.
        whole: pairs that are complete, from the first on. estimate, error: at the look; NaN without one.
    """

    pairs: NDArray[np.int64]
    whole: NDArray[np.int64]
    estimate: NDArray[np.float64]
    error: NDArray[np.float64]
    decided: NDArray[np.bool_]


def with_pairs(raw: Mapping[str, Any], block: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sweep file's content with the seeds 0, 1, 2, ... where it asks for sequential ones and lists none.

    Raises:
        ConfigError: gpt_lab.seeds cannot be.
    """
    if "seeds" not in block:
        return raw
    _, last = _bounds(block["seeds"])
    pair = block.get("pair", Design.pair)
    if pair != Design.pair or pair in raw["parameters"]:
        return raw
    return {**raw, "parameters": {**raw["parameters"], pair: {"values": list(range(last))}}}


def designed(
    design: Design, block: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], run_cap: int | None
) -> Design:
    """The design with the looks of gpt_lab.seeds, if the file has it.

    Args:
        rows: all combinations of the grid.

    Raises:
        ConfigError: the file lacks what the looks need, or states what does not go with them.
    """
    if "seeds" not in block:
        return design
    first, last = _bounds(block["seeds"])
    if design.baseline is None:
        raise ConfigError("gpt_lab.seeds needs gpt_lab.baseline: seeds are added until an arm is told from it")
    if design.sesoi is None:
        raise ConfigError(
            "gpt_lab.seeds needs gpt_lab.sesoi, the smallest effect size of interest in units of the metric: it must "
            "be fixed before the first run"
        )
    for key, there in (
        ("gpt_lab.nuisance", design.nuisance and not design.tuning_pairs),
        ("gpt_lab.design", design.factorial is not None),
        ("gpt_lab.within", design.within),
        ("gpt_lab.trunk", bool(block.get("trunk"))),
        ("run_cap", run_cap is not None),
    ):
        if there:
            raise ConfigError(f"gpt_lab.seeds does not go with {key}, which needs every seed of each arm: one of them")
    listed = design.values.get(design.pair, ())
    if len(listed) < last:
        has = f"{len(listed)} values" if listed else "1 value"
        raise ConfigError(
            f"gpt_lab.seeds.max is {last}, but parameters.{design.pair} has {has}: list {last}, or leave it out for "
            "0, 1, 2, ..."
        )
    wanted = [shown(value) for value in listed[:last]]
    arms: dict[Settings, set[str]] = {}
    for row in rows:
        arms.setdefault(design.arm(row), set()).add(shown(row[design.pair]))
    for arm, pairs in arms.items():
        if (missing := next((pair for pair in wanted if pair not in pairs), None)) is not None:
            raise ConfigError(f"gpt_lab.seeds: {arm} lacks {design.pair}={missing}: zip, per or exclude leaves it out")
    if len(arms) < 2:
        raise ConfigError("gpt_lab.seeds needs an arm beside the baseline")
    return dataclasses.replace(design, looks=Looks(first, last, len(arms) - 1))


def _bounds(stated: Any) -> tuple[int, int]:
    form = "seeds: {min: 3, max: 10, stop: decided}"
    if not isinstance(stated, Mapping):
        raise ConfigError(f"gpt_lab.seeds must be a mapping, not {quoted(stated)}: write {form}")
    for key in stated:
        if key not in KEYS:
            raise ConfigError(unknown("key of gpt_lab.seeds:", str(key), KEYS))
    for key in KEYS:
        if key not in stated:
            raise ConfigError(f"gpt_lab.seeds.{key} is missing: write {form}")
    if stated["stop"] != "decided":
        raise ConfigError(unknown("value of gpt_lab.seeds.stop:", str(stated["stop"]), ("decided",)))
    for key in ("min", "max"):
        if not is_whole(stated[key]):
            raise ConfigError(f"gpt_lab.seeds.{key} must be a whole number, not {quoted(stated[key])}")
    first, last = stated["min"], stated["max"]
    if not FEWEST <= first < last <= MOST:
        raise ConfigError(f"gpt_lab.seeds needs {FEWEST} <= min < max <= {MOST}, not min {first} and max {last}")
    return first, last


def plan_of(sweep: Sweep, cells: Sequence[Cell]) -> InterimPlan:
    """The plan of a sweep with sequential seeds.

    Args:
        cells: of its whole grid, in order.
    """
    design = sweep.design
    return plan(design, [cell.values for cell in cells])


def plan(design: Design, rows: Sequence[Mapping[str, Any]]) -> InterimPlan:
    """The plan of a design with sequential seeds, whose whole grid has these values, in order."""
    assert design.looks is not None and design.sesoi is not None
    assert design.baseline is not None
    baselines = {design.arm(row): design.arm({**row, **design.baseline}) for row in rows}
    pairs = tuple(shown(value) for value in design.values[design.pair])[: design.looks.last]
    return InterimPlan(design.looks, baselines, pairs, design.sesoi, design.alpha)


def refuse_change(sweep: Sweep, before: Sweep | None, earlier: Sequence[Known]) -> None:
    """Lets nobody change the rules after runs were seen: what the looks so far have spent would not be kept.

    Args:
        before: the sweep as it ran last. earlier: its cells.

    Raises:
        ConfigError: it looked, or now looks, by other rules, and runs have ended.
    """
    if before is None or (sweep.design.looks is None and before.design.looks is None):
        return
    new, old = (_rules(one) for one in (sweep, before))
    changed = [key for key in new if new[key] != old[key]]
    if changed and any(one.state in ("finished", "diverged") for one in earlier):
        key = changed[0]
        raise ConfigError(
            f"{sweep.path}: {key} was {_as_text(old[key])} when this sweep began and is {_as_text(new[key])} now: "
            f"the alpha that looks at its runs have spent cannot be kept, so take study=NAME for a new study"
        )


def _rules(sweep: Sweep) -> dict[str, Any]:
    design, looks = sweep.design, sweep.design.looks
    last = None if looks is None else looks.last
    return {
        "gpt_lab.seeds": None if looks is None else {"min": looks.first, "max": looks.last, "stop": "decided"},
        "gpt_lab.sesoi": design.sesoi,
        "gpt_lab.alpha": design.alpha,
        "gpt_lab.baseline": None if design.baseline is None else str(design.baseline_arm),
        "metric": design.metric,
        f"the list of {design.pair}s": [shown(value) for value in design.values.get(design.pair, ())][:last],
        "the number of arms": None if looks is None else looks.family,
    }


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    return f"[{', '.join(value)}]" if isinstance(value, list) else shown(value)


def standings(differences: ArrayLike, looks: Looks, alpha: float, sesoi: float) -> Standings:
    """Where arms stand after the looks that their complete pairs allow.

    Args:
        differences: (..., pairs) in the order of the seeds, NaN where a pair is not complete; later ones do not count.
    """
    import numpy as np

    from gpt_lab.stats.alpha_spending import boundaries

    d = np.asarray(differences, float)[..., : looks.last]
    d = np.concatenate([d, np.full((*d.shape[:-1], looks.last - d.shape[-1]), np.nan)], -1)
    whole = np.cumprod(np.isfinite(d), -1).sum(-1)
    n = np.arange(1, looks.last + 1)
    base = d[..., :1]
    off = np.where(n <= whole[..., None], d - base, 0.0)  # from the first one, so that equal ones have no spread at all
    mean = np.cumsum(off, -1) / n
    square = np.maximum(np.cumsum(off**2, -1) - n * mean**2, 0.0)
    error = np.sqrt(square / np.maximum(n - 1, 1) / n)[..., looks.first - 1 :]
    estimate = (mean + base)[..., looks.first - 1 :]
    at = n[looks.first - 1 :]
    half = boundaries(looks.first, looks.last).critical(at, alpha / looks.family) * error
    there = at <= whole[..., None]
    away = np.abs(estimate)
    decides = there & ((away - half >= sesoi) | (away + half <= sesoi))
    last = np.clip(whole - looks.first, 0, None)
    chosen = np.where(decides.any(-1), decides.argmax(-1), np.minimum(last, len(at) - 1))
    seen = whole >= looks.first

    def pick(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(seen, np.take_along_axis(values, chosen[..., None], -1)[..., 0], np.nan)

    return Standings(np.where(seen, at[chosen], 0), whole, pick(estimate), pick(error), decides.any(-1))


def next_run(plan: InterimPlan, scores: Scores) -> tuple[Settings, str] | None:
    """The arm and pair to run next, None while there is nothing to begin: a pure function of what was asked for.

    What is asked for in the end does not depend on the order in which runs end: whether an arm wants a pair follows
    from its looks at fewer pairs, and then both of its runs are asked for.
    """
    stops = {arm: _stop(plan, arm, scores) for arm, base in plan.baselines.items() if arm != base}
    for place, pair in enumerate(plan.pairs):
        wanting = [arm for arm, stop in stops.items() if place < max(stop, plan.looks.first)]
        for arm in (*dict.fromkeys(plan.baselines[arm] for arm in wanting), *wanting):
            if (arm, pair) not in scores:
                return arm, pair
    return None


def _stop(plan: InterimPlan, arm: Settings, scores: Scores) -> int:
    """How many pairs an arm wants, as far as is known: those that decided it, else those that are complete and one."""
    found = standings(differences(plan, arm, scores), plan.looks, plan.alpha, plan.sesoi)
    return int(found.pairs) if found.decided else int(found.whole) + 1


def differences(plan: InterimPlan, arm: Settings, scores: Scores) -> list[float]:
    """An arm's score minus its baseline's, pair by pair; NaN where a pair is not complete."""
    found = []
    for pair in plan.pairs:
        mine, base = scores.get((arm, pair)), scores.get((plan.baselines[arm], pair))
        found.append(math.nan if mine is None or base is None else mine - base)
    return found


class Adaptive:
    """The search of a sweep with sequential seeds.

    Args:
        cells: of its whole grid; those beyond the last pair are left out.
    """

    def __init__(self, sweep: Sweep, cells: Sequence[Cell]) -> None:
        self.plan = plan_of(sweep, cells)
        self.cells = [cell for cell in cells if shown(cell.pair) in self.plan.pairs]
        self._at = {(cell.arm, shown(cell.pair)): cell for cell in self.cells}
        self._named = {cell.key: name for name, cell in self._at.items()}

    def ask(self, done: Sequence[Known]) -> Cell | None:
        """The next cell; None: nothing to begin now."""
        found = next_run(self.plan, self.scores(done))
        return None if found is None else self._at[found]

    def scores(self, done: Sequence[Known]) -> Scores:
        """The scores of the cells that were asked for, those of other versions of the file left out."""
        return {self._named[one.key]: _score(one) for one in done if one.key in self._named}


def _score(one: Known) -> float | None:
    return one.score if one.state == "finished" and one.score is not None and math.isfinite(one.score) else None
