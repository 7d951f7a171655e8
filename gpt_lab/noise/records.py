"""The noise ledger: the spread of A/A pairs (two runs of one recipe), read from runs, never written by hand.

A recipe is all that a run was told but its seed and replica. Its null pairs, replica 0 and replica 1 of a seed (the
same data, other initial values and dropout), are ordinary runs of the study `noise-<recipe>`, so a study whose
baseline has that recipe finds them by name. Seeds from FIRST on are theirs: a study's own runs say the same thing twice
where they share a seed with a null pair.
"""

from __future__ import annotations

import math
import re
import shlex
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_lab.config import schema
from gpt_lab.config.overrides import key_of
from gpt_lab.options import is_number

if TYPE_CHECKING:
    from gpt_lab.store import Run

PREFIX = "noise-"
FIRST = 1000
"""Seed of the first null pair."""
FEWEST = 3
"""Null pairs below which nothing is made of them."""
DRAWN = ("seed", "replica")
"""Settings that draw a run of a recipe."""
MEASURED = ("eval.contexts",)
"""Settings that add to what is measured of a recipe and change none of it."""
RESOLVED = ("device", "precision", "kernel", "compile", "data")
"""What `auto` became, and the fingerprint of the data: pairs of different ones are never mixed."""
OF_THE_MACHINE = "perf/"
"""Metrics that measure the machine as much as the recipe: their noise is not kept."""


def recipe(flat: Mapping[str, Any]) -> str:
    """12 hex digits over flat settings: equal for runs that only their seed and replica tell apart."""
    return schema.identity({key: value for key, value in flat.items() if key not in (*DRAWN, *MEASURED)})


def folder_of(runs_dir: str | Path, flat: Mapping[str, Any]) -> Path:
    """Where the null pairs of these settings are, or would be."""
    return Path(runs_dir) / f"{PREFIX}{recipe(flat)}"


def is_noise(name: str) -> bool:
    """Whether a study of this name holds null pairs."""
    return re.fullmatch(rf"{PREFIX}[0-9a-f]{{12}}", name) is not None


@dataclass(frozen=True)
class Noise:
    """Null pairs of one recipe that were computed in one way, at least one.

    Fields:
        folder: their study. metric: what scores are of.
        seeds: of the pairs, in order. scores: of replica 0 and replica 1 of each.
        diverged: runs that have no score because they diverged: the floor is that of the others.
        resolved: RESOLVED of all these runs.
        settings: how the recipe was asked for, as words of train.
        seconds: of training, median over the runs.
        first, last: when the first and the last of them finished, ISO text. commits, machines: of all of them.
    """

    folder: Path
    metric: str
    seeds: tuple[int, ...]
    scores: tuple[tuple[float, float], ...]
    diverged: int
    resolved: Mapping[str, Any]
    settings: str
    seconds: float
    first: str
    last: str
    commits: tuple[str, ...]
    machines: tuple[str, ...]

    @property
    def pairs(self) -> int:
        return len(self.scores)

    @property
    def df(self) -> int:
        """Degrees of freedom of `sd`."""
        return self.pairs - 1

    @property
    def usable(self) -> bool:
        """Enough pairs, that differ: where they do not, the replica draws nothing and the noise is not known."""
        return self.pairs >= FEWEST and self.sd > 0

    @cached_property
    def sd(self) -> float:
        """Standard deviation of the difference of a pair; NaN of a single one."""
        return math.sqrt(_variance([b - a for a, b in self.scores]))

    @cached_property
    def run_sd(self) -> float:
        """Standard deviation of a run over seeds, pooled over the replicas; NaN of a single pair."""
        return math.sqrt(self._runs / 2)

    @cached_property
    def rho(self) -> float:
        """Correlation of the runs of a pair, 1 - var(difference) / (var(replica 0) + var(replica 1)); may be NaN."""
        return 1 - self.sd**2 / self._runs if self._runs > 0 else math.nan

    @property
    def _runs(self) -> float:
        """Sum of the two replicas' variances."""
        return sum(_variance([pair[replica] for pair in self.scores]) for replica in (0, 1))

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Ends of the chi-square interval of `sd` at level 1 - alpha.

        Raises:
            ValueError: a single pair.
        """
        from scipy.special import chdtri

        if self.df < 1:
            raise ValueError("one pair has no spread")
        low, high = (self.sd * math.sqrt(self.df / float(chdtri(self.df, tail))) for tail in (alpha / 2, 1 - alpha / 2))
        return low, high


def measured(folder: Path, metric: str, without: Collection[int] = ()) -> list[Noise]:
    """What the study of a recipe tells: one Noise for each way that its runs were computed, most pairs first.

    Args:
        without: seeds that do not count, as a study has runs of its own with them.

    Raises:
        DataError: the folder cannot be read.
    """
    from gpt_lab.store import all_runs

    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in all_runs(folder.parent, folder.name):
        config = run.record.get("config")
        if not isinstance(config, Mapping) or f"{PREFIX}{recipe(config)}" != folder.name:
            continue  # somebody's run, moved here
        if config.get("seed") not in without:
            resolved = run.record.get("resolved") or {}
            groups.setdefault(tuple(resolved.get(key) for key in RESOLVED), []).append(run)
    found = [noise for runs in groups.values() if (noise := _noise(folder, metric, runs)) is not None]
    return sorted(found, key=lambda noise: -noise.pairs)


def find(folder: Path, metric: str, resolved: Mapping[str, Any], without: Collection[int] = ()) -> Noise | None:
    """The usable noise of a recipe that was computed in this way; None where there is none, or no telling which.

    Args:
        resolved: of RESOLVED what is known (not None).
        without: as in `measured`.
    """
    if metric.startswith(OF_THE_MACHINE) or not folder.is_dir():
        return None
    asked = {key: resolved[key] for key in RESOLVED if resolved.get(key) is not None}
    fitting = [
        noise
        for noise in measured(folder, metric, without)
        if all(noise.resolved.get(key) == value for key, value in asked.items())
    ]
    return fitting[0] if len(fitting) == 1 and fitting[0].usable else None


def everything(runs_dir: str | Path, metric: str) -> list[Noise]:
    """All that a folder of runs knows, the latest first.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        folders = sorted(path for path in Path(runs_dir).iterdir() if is_noise(path.name) and path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [noise for folder in folders for noise in measured(folder, metric)]
    return sorted(found, key=lambda noise: noise.last, reverse=True)


def _noise(folder: Path, metric: str, runs: Sequence[Run]) -> Noise | None:
    """The pairs of runs that were computed in one way, oldest first; None without a whole pair."""
    by_seed: dict[int, dict[int, Run]] = {}
    diverged = 0
    for run in runs:
        seed, replica = (run.record["config"].get(key) for key in DRAWN)
        if _score(run, metric) is not None and isinstance(seed, int) and isinstance(replica, int):
            by_seed.setdefault(seed, {})[replica] = run
        diverged += run.state == "diverged"
    pairs = {seed: by_seed[seed] for seed in sorted(by_seed) if {0, 1} <= set(by_seed[seed])}
    if not pairs:
        return None
    used = [pair[replica] for pair in pairs.values() for replica in (0, 1)]
    times = sorted(str(run.record.get("finished") or "") for run in used)
    resolved = used[0].record.get("resolved") or {}
    return Noise(
        folder=folder,
        metric=metric,
        seeds=tuple(pairs),
        scores=tuple((_known_score(pair[0], metric), _known_score(pair[1], metric)) for pair in pairs.values()),
        diverged=diverged,
        resolved={key: resolved.get(key) for key in RESOLVED},
        settings=settings(str(used[-1].record.get("command") or "")),
        seconds=statistics.median(float(run.summary.get("seconds") or 0) for run in used),
        first=times[0],
        last=times[-1],
        commits=_distinct(_commit(run.record.get("git") or {}) for run in used),
        machines=_distinct(_machine(run.record.get("hardware") or {}) for run in used),
    )


def settings(command: str) -> str:
    """The settings of a command line of train that say which recipe it is."""
    kept = []
    for word in shlex.split(command)[1:]:
        key = key_of(word)
        if key not in DRAWN and key.split(".")[0] not in schema.NOT_IDENTITY:
            kept.append(word)
    return shlex.join(kept)


def _score(run: Run, metric: str) -> float | None:
    value = run.summary.get(metric) if run.state == "finished" else None
    fine = is_number(value) and math.isfinite(value)
    return float(value) if fine and value is not None else None


def _known_score(run: Run, metric: str) -> float:
    value = _score(run, metric)
    assert value is not None
    return value


def _variance(values: Sequence[float]) -> float:
    return statistics.variance(values) if len(values) > 1 else math.nan


def _commit(git: Mapping[str, Any]) -> str:
    commit = str(git.get("commit") or "")
    return f"{commit[:12]}{' with changes' if git.get('dirty') else ''}" if commit else ""


def _machine(hardware: Mapping[str, Any]) -> str:
    return str(hardware.get("gpu") or hardware.get("cpu") or "")


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(text for text in dict.fromkeys(texts) if text)
