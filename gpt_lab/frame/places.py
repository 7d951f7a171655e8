"""Report targets: the runs that `report` was asked for, and where they are. Imports no pandas."""

from __future__ import annotations

import difflib
import glob
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from gpt_lab.console.invocation import prefix
from gpt_lab.errors import ConfigError, DataError, quoted
from gpt_lab.noise import records
from gpt_lab.options import NonEmpty, NonNegativeFloat, Range, check
from gpt_lab.study import sweep_file
from gpt_lab.study.format import lookup
from gpt_lab.study.sweep import Sweep

REMOTE = "wandb:"
RUNS = Path("runs")
Goal = Literal["minimize", "maximize"]
Tier = Literal["auto", "screen", "confirm"]
CHECKED: dict[str, Any] = {
    "baseline": NonEmpty,
    "metric": NonEmpty,
    "goal": Goal,
    "pair": NonEmpty,
    "sesoi": NonNegativeFloat,
    "alpha": Annotated[float, Range(low=0, high=0.5, open_low=True, open_high=True)],
    "details": bool,
    "tier": Tier,
}


@dataclass(frozen=True)
class StudyOptions:
    """The options of `report`; None leaves the sweep's own word.

    Fields:
        runs_dir: where the studies are; None: where the sweep puts them, else runs.
        remote: `wandb:entity/project/sweep`, read instead of runs_dir.
        baseline: name of the arm to compare with, or its settings `key=value,...`.
        metric, goal, pair, sesoi, alpha: as in Design.
        group_by: settings whose values make the arms.
        details: also what only some want to know.
        tier: which test decides; auto: confirm where there are enough fresh seeds, else screen.

    Raises:
        ConfigError: a value that an option cannot have.
    """

    runs_dir: Path | None = None
    remote: str | None = None
    baseline: str | None = None
    metric: str | None = None
    goal: Goal | None = None
    group_by: tuple[str, ...] = ()
    pair: str | None = None
    sesoi: float | None = None
    alpha: float | None = None
    details: bool = False
    tier: Tier = "auto"

    def __post_init__(self) -> None:
        for key, kind in CHECKED.items():
            if (value := getattr(self, key)) is not None:
                check(key, value, kind)
        keys = self.group_by
        if not all(isinstance(key, str) and key.strip() for key in keys) or len(set(keys)) < len(keys):
            given = quoted(",".join(map(str, keys)))
            raise ConfigError(f"group_by takes settings, each once, such as position,scale.depth; not {given}")


@dataclass
class Places:
    """Where the runs of a report are.

    Fields:
        sweep: the sweep file that was named, if one was.
        studies: folders that hold run folders. runs: single run folders. remote: `wandb:...` addresses.
        runs_dir: where the studies are.
    """

    sweep: Sweep | None = None
    studies: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    remote: list[str] = field(default_factory=list)
    runs_dir: Path = RUNS

    @property
    def name(self) -> str:
        """Name of what is reported: the study's, or those of several joined."""
        if self.sweep is not None:
            return self.sweep.design.study
        if self.studies:
            return "+".join(path.resolve().name for path in self.studies)[:100]
        if self.runs:
            run = self.runs[0].resolve()
            return run.name if len(self.runs) == 1 else f"{run.parent.name}-selected"
        return self.remote[0].removeprefix(REMOTE).replace("/", "-")

    @property
    def folder(self) -> Path:
        """Where a report's files go unless the user says: into the study's or the run's folder."""
        own = [*self.studies, *self.runs]
        return (own[0] if len(own) == 1 else self.runs_dir / self.name) / "report"

    @property
    def runs_dirs(self) -> list[Path]:
        """Where noise may be kept: beside the studies, the runs' studies, and where the studies are."""
        beside = [*(path.parent for path in self.studies), *(path.parent.parent for path in self.runs), self.runs_dir]
        return list({path.resolve(): path for path in reversed(beside)}.values())[::-1]


def find(targets: Sequence[str], options: StudyOptions) -> Places:
    """The places that the targets name; a sweep's runs are looked for in runs_dir/<study>.

    Settings `key=value` beside a sweep file mean the sweep that ran with them, as on the command line of `sweep`.

    Raises:
        ConfigError: settings without a sweep file, no target where there are several studies, two sweep files, a sweep
            file that cannot be read.
        DataError: a target that is nothing of the kind; the line offers the closest names.
    """
    places = Places(runs_dir=options.runs_dir or RUNS)
    if options.remote is not None:
        places.remote.append(_address(options.remote))
    settings = [target for target in targets if _is_setting(target, places.runs_dir)]
    for target in targets or ([] if places.remote else [_only_study(places.runs_dir)]):
        if target not in settings:
            _place(places, target, settings)
    if settings and places.sweep is None:
        raise ConfigError(f"{quoted(settings[0])} is a setting of a sweep: name its file too, as `sweep` was given it")
    if places.sweep is not None:
        if options.runs_dir is None:
            places.runs_dir = _runs_dir(places.sweep)
        if not (places.studies or places.runs or places.remote):
            places.studies.append(_folder(places.sweep, places.runs_dir))
    return places


def _runs_dir(sweep: Sweep) -> Path:
    """Where a sweep puts its runs: its own fixed runs_dir, else the default one."""
    given = [text.partition("=")[2] for text in sweep_file.fixed(sweep) if text.startswith("runs_dir=")]
    return Path(given[-1].strip("'\"")) if given else RUNS


def _folder(sweep: Sweep, runs_dir: Path) -> Path:
    """The folder of a sweep's runs.

    Raises:
        DataError: nothing has run yet.
    """
    folder = runs_dir / sweep.design.study
    if not folder.is_dir():
        others = sorted(path.name for path in runs_dir.glob(f"{glob.escape(sweep.design.study)}-*") if path.is_dir())
        also = f"; with other settings than these there is {runs_dir}/{others[0]}" if others else ""
        way = prefix() + shlex.join(["sweep", str(sweep.path), *sweep.overrides])
        raise DataError(f"{sweep.path} has no runs yet ({folder} does not exist): `{way}` makes them{also}")
    return folder


def _is_setting(target: str, runs_dir: Path) -> bool:
    """Whether a target is `key=value` and no folder of that name."""
    named = "=" in target and not target.startswith(REMOTE)
    return named and not any(path.exists() for path in (Path(target), runs_dir / target))


def _place(places: Places, target: str, settings: Sequence[str]) -> None:
    path = Path(target)
    if target.startswith(REMOTE):
        places.remote.append(_address(target))
    elif path.suffix in (".yaml", ".yml") or (not path.exists() and target in lookup.named()):
        if places.sweep is not None:
            raise ConfigError(
                f"{target} is a second sweep file: a report answers one (the first is {places.sweep.path})"
            )
        places.sweep = sweep_file.load(target, settings)
    else:
        folder = path if path.is_dir() else places.runs_dir / target
        if not folder.is_dir():
            raise DataError(f"no study, run or sweep {target!r}: {_offer(target, places.runs_dir)}")
        kind = _kind(folder)
        if kind is None:
            raise DataError(f"{folder} holds no runs: name a study's folder (runs/STUDY), a run's, or a sweep file")
        listed = {"study": places.studies, "run": places.runs}[kind]
        if folder.resolve() not in {path.resolve() for path in listed}:
            listed.append(folder)


def _kind(folder: Path) -> str | None:
    """Whether a folder is a run or a study; None for neither."""
    if (folder / "run.json").exists():
        return "run"
    if is_study(folder):
        return "study"
    if within := studies(folder):
        raise ConfigError(f"which study? {folder} holds {', '.join(within)}: write report {folder}/STUDY")
    return None


def is_study(folder: Path) -> bool:
    """Whether a folder holds a sweep's ledger or at least one run folder."""
    if (folder / "sweep.sqlite").is_file():
        return True
    try:
        with os.scandir(folder) as entries:
            return any(
                e.is_dir() and not e.name.startswith(".") and os.path.exists(f"{e.path}/run.json") for e in entries
            )
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from error


def _address(text: str) -> str:
    words = text.removeprefix(REMOTE).strip("/").split("/")
    if not text.startswith(REMOTE) or len(words) not in (2, 3) or not all(words):
        raise ConfigError(f"{text!r} is no W&B address: write wandb:ENTITY/PROJECT/SWEEP or wandb:ENTITY/PROJECT")
    return REMOTE + "/".join(words)


def _only_study(runs_dir: Path) -> str:
    names = studies(runs_dir)
    names = [name for name in names if not records.is_noise(name)] or names
    if not names:
        raise DataError(
            f"no runs in {runs_dir} yet: `{prefix()}sweep sweeps/NAME.yaml` makes them (--runs-dir looks elsewhere)"
        )
    if len(names) > 1:
        raise ConfigError(f"which study? {runs_dir} holds {', '.join(names)}: write report {runs_dir}/STUDY")
    return str(runs_dir / names[0])


def studies(runs_dir: Path) -> list[str]:
    """Names of the studies in runs_dir, sorted."""
    try:
        return sorted(p.name for p in runs_dir.iterdir() if p.is_dir() and not p.name.startswith(".") and is_study(p))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _offer(target: str, runs_dir: Path) -> str:
    here = studies(runs_dir)
    names = {name: f"{runs_dir}/{name}" for name in here} | {
        f"{runs_dir}/{name}": f"{runs_dir}/{name}" for name in here
    }
    for name, path in lookup.named().items():
        text = name if path.is_absolute() else str(path)
        names |= {text: text} | ({} if name in names else {name: text})
    close = difflib.get_close_matches(target, sorted(names), n=1, cutoff=0.5)
    if close:
        return f"did you mean {names[close[0]]}?"
    there = ", ".join(here) if here else "no study"
    return f"{runs_dir} holds {there} (--runs-dir looks elsewhere)"
