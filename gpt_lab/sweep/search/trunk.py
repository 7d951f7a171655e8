"""Trunk and branch: cells that differ in the budget alone share the training that their schedules share.

Of such cells the longest run is the trunk. It leaves a fork point (store/fork.py) at the step from which on a
shorter run's learning rate is another, and the shorter run, its branch, begins there. Hägele et al. 2024,
arXiv:2405.18392. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.config.sections import Budget
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.optim.schedule import decay_factor
from gpt_lab.store import fork
from gpt_lab.store.atomic_files import read_json
from gpt_lab.study.design import Cell
from gpt_lab.study.sweep import Sweep

if TYPE_CHECKING:
    from gpt_lab.study.build import Builder
    from gpt_lab.sweep.ledger.entry import LedgerEntry


@dataclass(frozen=True)
class Length:
    """How long a cell trains: its steps (None under a budget in seconds), the FLOPs of all of them, and what `auto`
    became."""

    steps: int | None
    flops: float
    resolved: Mapping[str, str]


@dataclass(frozen=True)
class Branch:
    """A cell that begins at a step of another: keys of both, the step, and the share of its own steps before it."""

    key: str
    trunk: str
    step: int
    share: float


@dataclass(frozen=True)
class Trunks:
    """What the cells of a sweep share.

    Fields:
        branches: by the key of the cell. alone: why cells with several budgets share nothing, in words.
        flops: of each cell, if it were trained from the start.
    """

    branches: Mapping[str, Branch] = field(default_factory=dict)
    alone: tuple[str, ...] = ()
    flops: Mapping[str, float] = field(default_factory=dict)

    def share(self, key: str) -> float:
        """The share of a cell's own training that is left when it begins."""
        return 1 - self.branches[key].share if key in self.branches else 1.0

    @property
    def spent(self) -> float:
        """Training FLOPs of all cells, as a share of what straight runs take."""
        return sum(flops * self.share(key) for key, flops in self.flops.items()) / sum(self.flops.values())

    def forks(self, key: str) -> list[int]:
        """Steps at which a cell leaves a fork point."""
        return sorted({branch.step for branch in self.branches.values() if branch.trunk == key})

    def waiting(self, entries: Sequence[LedgerEntry], folder: Path) -> set[str]:
        """Keys of the cells whose trunk will come to their fork point, or may yet.

        A trunk that has ended in any way without leaving one is not waited for, and a branch that has a run neither.
        """
        known = {entry.key: entry for entry in entries if entry.wanted}
        return {
            branch.key
            for branch in self.branches.values()
            if (mine := known.get(branch.key)) is not None
            and mine.state == "waiting"
            and mine.run is None
            and (trunk := known.get(branch.trunk)) is not None
            and trunk.state in ("waiting", "running")
            and (trunk.run is None or fork.read(fork.fork_point(folder / trunk.run, branch.step)) is None)
        }

    def settings(self, key: str, entries: Sequence[LedgerEntry], folder: Path) -> dict[str, Any]:
        """What a trial's process is told (worker.train_job): where it begins, and where it leaves fork points."""
        branch = self.branches.get(key)
        trunk = next((e for e in entries if branch is not None and e.key == branch.trunk), None)
        begins = None
        if branch is not None and trunk is not None and trunk.run is not None:
            begins = str(fork.fork_point(folder / trunk.run, branch.step))
        return {"trunk": begins, "forks": self.forks(key)}

    def clear(self, entries: Sequence[LedgerEntry], folder: Path) -> None:
        """Removes the fork points that all of their branches have taken."""
        known = {entry.key: entry for entry in entries if entry.wanted}
        for key in {branch.trunk for branch in self.branches.values()}:
            trunk = known.get(key)
            if trunk is None or trunk.run is None:
                continue
            for step in self.forks(key):
                takers = [b.key for b in self.branches.values() if (b.trunk, b.step) == (key, step)]
                if all(taker in known and known[taker].run is not None for taker in takers):
                    fork.remove(fork.fork_point(folder / trunk.run, step))


def missed(trunks: Trunks, entries: Sequence[LedgerEntry], folder: Path) -> list[str]:
    """A line on branches that were trained from the start all the same; [] where there are none."""
    runs = [folder / entry.run for entry in entries if entry.key in trunks.branches and entry.run is not None]
    count = sum(not _forked(run / "run.json") for run in runs if (run / "run.json").exists())
    if not count:
        return []
    why = "their trunk had left them none that this code, these packages and this machine could go on from"
    return [f"{count} of {len(trunks.branches)} branches did not begin at a fork point: {why}"]


def _forked(path: Path) -> bool:
    try:
        return read_json(path).get("forked") is not None
    except DataError:
        return False


def clear_all(entries: Sequence[LedgerEntry], folder: Path) -> None:
    """Removes all fork points of a sweep that is over, and copies of them that were never finished."""
    for entry in entries:
        if entry.run is not None:
            fork.remove(folder / entry.run / fork.FOLDER)
    for path in folder.glob(".*.tmp/checkpoints/step-*"):
        fork.remove(path.parent.parent)


def lengths(cells: Sequence[Cell], configs: Sequence[RunConfig], builder: Builder) -> list[Length]:
    """How long each cell trains. Imports torch.

    Raises:
        ConfigError, DataError: a cell that cannot be built on this machine.
    """
    plans = [builder.plan(cfg, cell) for cfg, cell in zip(configs, cells, strict=True)]
    return [
        Length(p.budget.steps, float(cfg.tokens_after(p.budget.steps or 0) * p.cost.train_flops_per_token), p.resolved)
        for cfg, p in zip(configs, plans, strict=True)
    ]


def find(cells: Sequence[Cell], configs: Sequence[RunConfig], lengths: Sequence[Length]) -> Trunks:
    """What these cells share."""
    groups: dict[str, list[int]] = {}
    for i, cfg in enumerate(configs):
        groups.setdefault(_but_budget(cfg), []).append(i)
    branches: dict[str, Branch] = {}
    alone: dict[str, None] = {}
    for group in groups.values():
        top = max(group, key=lambda i: lengths[i].steps or 0)
        for i in group:
            if i == top:
                continue
            found = _branch(cells[i], cells[top], configs[i], lengths[i], lengths[top])
            if isinstance(found, Branch):
                branches[found.key] = found
            else:
                alone[found] = None
    return Trunks(branches, tuple(alone), {cell.key: one.flops for cell, one in zip(cells, lengths, strict=True)})


def required(sweep: Sweep, found: Trunks) -> Trunks:
    """The same, if there is anything.

    Raises:
        ConfigError: the sweep asks for a trunk, and no cells can share one.
    """
    if not found.branches:
        why = found.alone[0] if found.alone else "no two cells differ in the budget alone"
        raise ConfigError(f"{sweep.path}: gpt_lab.trunk: {why}")
    return found


def lines(sweep: Sweep, found: Trunks) -> list[str]:
    """What the dry run says: what is saved, or could be."""
    if not found.branches:
        return [f"these budgets could share a trunk: {why}" for why in found.alone if why.startswith("schedule.warmup")]
    if not sweep.trunk:
        return [f"gpt_lab: {{trunk: true}} would train {saved(len(found.flops), found.spent)}, with the same results"]
    straight = [f"trained from the start: {why}" for why in found.alone]
    return [f"trunk and branch: {saved(len(found.flops), found.spent)}", *straight]


def saved(runs: int, spent: float) -> str:
    """`5 runs for the cost of 2.1 (58 % of the training FLOPs saved)`.

    Args:
        spent: as a share of what straight runs take.
    """
    return f"{runs} runs for the cost of {runs * spent:.1f} ({1 - spent:.0%} of the training FLOPs saved)"


def shared_steps(schedule: Mapping[str, Any], steps: int, longest: int) -> int:
    """Steps from the first one on in which runs of these lengths have the same rate and weight decay, bit for bit.

    Args:
        schedule: name and options, as RunConfig has them.
    """
    return _shared_steps(json.dumps(dict(schedule), sort_keys=True), steps, longest)


@functools.cache
def _shared_steps(schedule: str, steps: int, longest: int) -> int:
    settings = json.loads(schedule)
    factor = registry.build("schedule", settings)

    def at(t: int, length: int) -> tuple[float, float]:
        progress = (t + 1) / (length + 1)
        rate = factor(progress, t)
        return rate, decay_factor(settings.get("weight_decay", ""), progress, rate)

    least = min(steps, longest)
    return next((t for t in range(least) if at(t, steps) != at(t, longest)), least)


def _but_budget(cfg: RunConfig) -> str:
    """Equal for configs whose runs differ in their budget alone."""
    asked = dataclasses.replace(cfg, budget=Budget()).identity()
    return json.dumps([asked, dataclasses.asdict(cfg.log), dataclasses.asdict(cfg.sample)], sort_keys=True)


def _branch(cell: Cell, trunk: Cell, cfg: RunConfig, length: Length, longest: Length) -> Branch | str:
    """What a cell shares with its trunk; why it shares nothing, in words."""
    name, warmup = cfg.schedule["name"], cfg.schedule.get("warmup")
    if length.steps is None or longest.steps is None:
        return "runs with a budget in seconds have no step at which they would leave a trunk"
    for key, value in length.resolved.items():
        if value != longest.resolved[key]:
            return (
                f"{key} is {value} for {length.steps} steps and {longest.resolved[key]} for {longest.steps}: state it"
            )
    if cfg.gpus_per_trial > 1:
        return "trials that several devices share leave no fork points: leave out parallel and gpus_per_trial"
    if cfg.batch.curriculum:
        return f"batch.curriculum={cfg.batch.curriculum:g} is a share of each budget, so no two begin alike"
    if cfg.optim.get("rise"):
        return f"optim.rise={cfg.optim['rise']:g} is a share of each budget, so no two begin alike"
    step = shared_steps(cfg.schedule, length.steps, longest.steps)
    if step:
        return Branch(cell.key, trunk.key, step, cfg.tokens_after(step) / cfg.tokens_after(length.steps))
    decay = cfg.schedule.get("weight_decay")
    if decay in ("linear", "cosine"):
        return f"schedule.weight_decay={decay} depends on the budget from the first step on"
    if name in ("wsd", "constant") and isinstance(warmup, float) and warmup > 0:
        return (
            f"schedule.warmup={warmup:g} is a share of each budget, so no two begin alike: state it in steps "
            f"(schedule.warmup={max(2, round(warmup * length.steps))})"
        )
    return f"schedule={name} depends on the budget from the first step on (wsd with a warm-up in steps does not)"
