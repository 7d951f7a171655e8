"""Loading of targets into one table of runs: places.py finds them, sources/ read them, arms.py assigns arms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gpt_lab.console.invocation import prefix
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.frame import arms, noise_floor
from gpt_lab.frame.places import Places, StudyOptions, find
from gpt_lab.frame.sources import store_runs
from gpt_lab.frame.sources.source import ENVIRONMENT, Source, Wanted
from gpt_lab.frame.sources.source import columns as by_key
from gpt_lab.frame.study import COLUMNS, Study
from gpt_lab.noise.records import Noise
from gpt_lab.options import is_number
from gpt_lab.study.design import Design, Stated
from gpt_lab.study.sweep import Sweep

TEXT = frozenset({"run", "source", "study", "name", "state", "pair", "stratum", "error", "conflict"})

MOST_KEPT = 10_000_000
"""Numbers of curves that stay in memory: 80 MB."""


class Loaded(Study):
    """A study whose curves are read from where its runs came from, when they are asked for."""

    def __init__(
        self,
        arranged: arms.Arranged,
        runs: pd.DataFrame,
        sources: Sequence[Source],
        sweep: Sweep | None,
        runs_dirs: Sequence[Path] = (),
    ) -> None:
        super().__init__(arranged.design, runs, arranged.notes, _stated(arranged.design, sources, sweep), sweep)
        self._sources = {r["run"]: source for source in sources for r in source.rows}
        self._rows, self._runs_dirs = arranged.rows, tuple(runs_dirs)
        self._curves: dict[str, pd.DataFrame] = {}
        self._origins = {r["run"]: r for source in sources for r in source.rows}

    def origin(self, run: str) -> Mapping[str, Any]:
        """The row of a run as its source gave it (source.row), its settings untouched; {} if it never began."""
        return self._origins.get(run, {})

    def curves(self, runs: list[str]) -> Mapping[str, pd.DataFrame]:
        """Curves by run: step, tokens, flops, seconds and metrics; runs that never began have none."""
        found = {run: self._curves[run] for run in runs if run in self._curves}
        for source in {id(s): s for s in self._sources.values()}.values():
            own = [run for run in runs if self._sources.get(run) is source and run not in found]
            if own:
                told = len(source.notes)
                new = source.curves(own)
                self.notes += source.notes[told:]
                found.update(new)
                self._keep(new)
        return found

    def _keep(self, curves: Mapping[str, pd.DataFrame]) -> None:
        """Tables, figures and the page ask for the same curves: those that fit are read once."""
        room = MOST_KEPT - sum(table.size for table in self._curves.values())
        for run, table in curves.items():
            room -= table.size
            if room >= 0:
                self._curves[run] = table

    def samples(self, runs: list[str]) -> Mapping[str, tuple[int, str]]:
        """The step and the text that each of these runs wrote last, of the runs whose source keeps texts."""
        found: dict[str, tuple[int, str]] = {}
        for source in {id(s): s for s in self._sources.values()}.values():
            if source.samples is not None:
                found.update(source.samples([run for run in runs if self._sources.get(run) is source]))
        return found

    def noise(self, runs: list[str]) -> Noise | None:
        """What null pairs tell of these runs' recipe: of other seeds than the study's, computed as these runs were."""
        return noise_floor.find(self._rows, runs, self.design, self._runs_dirs)


def _stated(design: Design, sources: Sequence[Source], sweep: Sweep | None) -> Stated:
    """What was said of the verdicts before the first run: by a ledger, else by the sweep; nothing of runs without."""
    known = next((source.stated for source in sources if source.stated is not None), None)
    if known is not None:
        return known
    return Stated(None, design.metric) if sweep is None else sweep.design.stated


def load(targets: Sequence[str], options: StudyOptions) -> Study:
    """The runs that the targets name, with the arm and pair of each.

    Raises:
        ConfigError: a target or an option that cannot be; a metric, setting or baseline that does not exist.
        DataError: a place without runs, or that cannot be read.
    """
    return read(find(targets, options), options)


def read(places: Places, options: StudyOptions) -> Loaded:
    """As `load`, of places already found."""
    sources = _sources(places)
    rows = [r for source in sources for r in source.rows]
    notes = [note for source in sources for note in source.notes]
    sweep, wanted = _asked_for(places, sources, rows, notes)
    if not rows and not wanted:
        raise DataError(_nothing(places, notes))
    arranged = arms.arrange(rows, wanted, sweep, options, places.name)
    arranged.notes[:0] = notes
    return Loaded(arranged, _table(arranged), sources, sweep, places.runs_dirs)


def _sources(places: Places) -> list[Source]:
    found = []
    if places.studies or places.runs:
        found.append(store_runs.load(places.studies, places.runs))
    if places.remote:
        from gpt_lab.frame.sources import wandb_server

        found += [wandb_server.load(address) for address in places.remote]
    return found


def _asked_for(
    places: Places, sources: Sequence[Source], rows: arms.Rows, notes: list[str]
) -> tuple[Sweep | None, list[Wanted] | None]:
    """The sweep and its cells: a ledger's, else those of the file named, of the source, or of the study's name."""
    ledger = next((source for source in sources if source.wanted is not None), None)
    if ledger is not None and len(sources) == 1:
        assert ledger.sweep is not None
        return _newer(places.sweep, ledger, notes)
    sweep = places.sweep or next((source.sweep for source in sources if source.sweep is not None), None)
    guessed = sweep is None and not places.runs and len(places.studies) == 1
    if guessed:
        sweep = _named_like(places)
    if sweep is None or not sweep.listed:
        return (None if guessed else sweep), None
    wanted = _cells(sweep)
    if not guessed:
        return sweep, wanted
    known = {w.identity for w in wanted}
    if not any(arms.identity(r) in known for r in rows):
        return None, None
    notes.append(f"matched to the cells of {sweep.path}")
    return sweep, wanted


def _newer(named: Sweep | None, ledger: Source, notes: list[str]) -> tuple[Sweep, list[Wanted] | None]:
    """The named file with its own cells, what the ledger knows of them, and those that it does not; else the ledger's.

    Of a file that compares other settings than when the sweep ran, the version that ran is reported.
    """
    stored = ledger.sweep
    assert stored is not None
    if named is None:
        return stored, ledger.wanted
    new, old = named.design, stored.design
    if any(getattr(new, key) != getattr(old, key) for key in ("factors", "nuisance", "pair", "tuning_pairs", "looks")):
        notes.append(f"{named.path} compares other settings than when the sweep ran: the version that ran is reported")
        return stored, ledger.wanted
    if _asks(named) == _asks(stored) or not named.listed:
        kept = dataclasses.replace(stored, path=named.path, design=named.design, method=named.method)
        return dataclasses.replace(kept, run_cap=named.run_cap), ledger.wanted
    known = {one.key: one for one in ledger.every}
    wanted = [known.get(one.key, one) for one in _cells(named)]
    missing = sum(one.key not in known for one in wanted)
    beyond = len(known) - (len(wanted) - missing)
    said = [f"{missing} of its cells have not been run"] if missing else []
    said += [f"{beyond} runs that it does not ask for are left out"] if beyond else []
    notes.append(f"{named.path} has changed since the sweep ran: {', '.join(said) or 'the same cells'}")
    return named, wanted


def _asks(sweep: Sweep) -> tuple[Any, ...]:
    """What decides which cells a sweep has."""
    design = sweep.design
    settings = {name: parameter for name, parameter in sweep.parameters.items() if name != design.pair}
    rules = sweep.rules, sweep.match, sweep.tune, design.looks, design.factorial
    return settings, sweep.command, rules, sweep.overrides


def _named_like(places: Places) -> Sweep | None:
    """The sweep file of a study's name, for runs that no ledger knows (those of `wandb agent`)."""
    from gpt_lab.study import sweep_file
    from gpt_lab.study.format import lookup

    path = lookup.named().get(places.name)
    if path is None:
        return None
    try:
        sweep = sweep_file.load(str(path))
    except ConfigError:  # nobody asked for this file
        return None
    return sweep if sweep.design.study == places.name else None


def _cells(sweep: Sweep) -> list[Wanted]:
    from gpt_lab.study import cells

    return [Wanted(cell.key, cell.values, cell.identity) for cell in cells.cells(sweep)]


def _nothing(places: Places, notes: Sequence[str]) -> str:
    where = [*map(str, (*places.studies, *places.runs)), *places.remote]
    way = f"`{prefix()}sweep {places.sweep.path}` makes them" if places.sweep else "name a folder that holds runs"
    return f"no readable run in {', '.join(where)}: {f'{notes[0]}; ' if notes else ''}{way}"


def _table(arranged: arms.Arranged) -> pd.DataFrame:
    """COLUMNS, then config.*, summary.* and env.* of all runs; NaN, None or "" where a run has none."""
    rows, metric = arranged.rows, arranged.design.metric
    lost = 0
    for r in rows:
        value = r["summary"].get(metric) if r["state"] == "finished" else None
        r["score"] = _score(value)
        r.setdefault("conflict", "")
        lost += r["state"] == "finished" and not math.isfinite(r["score"])
    if lost:
        some = "run has no finite {} and does" if lost == 1 else "runs have no finite {} and do"
        arranged.notes.append(f"{lost} finished {some.format(metric)} not count")
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        values = [r[name] for r in rows]
        if name in ("arm", "tuning"):
            one: dict[Any, Any] = {}  # object of each value: those that are the same are found so without a comparison
            columns[name] = pd.Series([one.setdefault(value, value) for value in values], dtype="object")
        else:
            columns[name] = pd.Series(values, dtype="str" if name in TEXT else "float64")
    for part in ("config", "summary"):
        columns |= {f"{part}.{key}": _column(values) for key, values in by_key([r[part] for r in rows]).items()}
    known = by_key([r["env"] for r in rows])
    columns |= {f"env.{key}": _column(known.get(key, [None] * len(rows))) for key in ENVIRONMENT}
    return pd.DataFrame(columns)


def _score(value: Any) -> float:
    """A finite number as such, infinity for any other number (a run that went badly), NaN for what is none."""
    if isinstance(value, str) and value.strip().lstrip("+-").lower() in ("nan", "inf", "infinity"):
        return math.inf
    if not is_number(value):
        return math.nan
    return float(value) if math.isfinite(value) else math.inf


def _column(values: list[Any]) -> pd.Series:
    """Floats and integers as such where all are; else objects as they came, None where there is none."""
    kinds = set(map(type, values))
    if kinds == {int} and max(map(abs, values)) < 2**63:
        return pd.Series(values, dtype="int64")
    if kinds == {float}:
        return pd.Series(values, dtype="float64")
    if float in kinds and kinds <= {int, float, type(None)}:
        return pd.Series([math.nan if value is None else float(value) for value in values], dtype="float64")
    return pd.Series(values, dtype="object")
