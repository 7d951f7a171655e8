"""`lab.study("sweeps/pos_enc.yaml")`: the runs of a study as tables, compared as `report` compares them."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from gpt_lab.errors import ConfigError, unknown
from gpt_lab.frame.places import Goal, Places, StudyOptions, Tier, find

if TYPE_CHECKING:
    import pandas as pd

    from gpt_lab.frame import study as frame
    from gpt_lab.notebook.report_view import ReportView
    from gpt_lab.report.figures.base import Canvas


class ReportOptions(TypedDict, total=False):
    """The options of `report`; what is left out is the sweep's own word.

    Fields:
        baseline: arm to compare with, or its settings "key=value,...".
        metric: final metric that decides, such as "val/loss". goal: which direction of it is better.
        group_by: settings whose values make the arms. pair: setting that pairs the runs of two arms ("seed").
        sesoi: smallest effect size of interest, in units of the metric. alpha: probability of a false verdict (0.05).
        tier: "auto", "screen" or "confirm": which test decides. details: also what pairing was worth.
    """

    baseline: str
    metric: str
    goal: Goal
    group_by: tuple[str, ...] | list[str] | str
    pair: str
    sesoi: float
    alpha: float
    tier: Tier
    details: bool


def study(*targets: str | os.PathLike[str], runs_dir: str | os.PathLike[str] | None = None) -> StudyView:
    """The runs of a study, as they are when first asked for; call it again to see newer ones.

    Args:
        targets: a sweep file or its name, a study's folder or its name, several of them, a run's folder, or
            "wandb:ENTITY/PROJECT/SWEEP"; none: the only study.
        runs_dir: where the studies are; None: where the sweep puts them, else runs.

    Raises:
        ConfigError: a sweep file that cannot be, or several studies to choose from. DataError: no such place, no runs.
    """
    options = StudyOptions(runs_dir=None if runs_dir is None else Path(runs_dir))
    return StudyView(find([os.fspath(target) for target in targets], options), options)


class StudyView:
    """The runs of one study."""

    def __init__(self, places: Places, options: StudyOptions) -> None:
        self._places, self._options = places, options

    @property
    def name(self) -> str:
        return self._places.name

    @property
    def runs(self) -> pd.DataFrame:
        """A row for each run: run (its folder), state, arm, pair, score, costs, config.KEY, summary.METRIC."""
        from gpt_lab.frame.study import named

        return named(self._read.runs)

    @property
    def notes(self) -> list[str]:
        """What a reader must know of how the runs were found."""
        return list(self._read.notes)

    def curves(self, metric: str | None = None) -> pd.DataFrame:
        """A row for each evaluation: run, arm, the pair (seed), step, value.

        Args:
            metric: any that a run has logged, such as "train/loss"; None: the one that decides.

        Raises:
            ConfigError: no run has logged it; the line names the closest.
        """
        import pandas as pd

        from gpt_lab.frame.study import named

        found = self._read
        pair, name = found.design.pair, found.design.metric if metric is None else metric
        every = found.curves(found.runs["run"].tolist())
        known = {key for curve in every.values() for key in curve.columns if "/" in key}
        if name not in known:
            raise ConfigError(unknown("metric", name, known))
        parts = []
        for row in named(found.runs).to_dict("records"):
            curve = every.get(row["run"])
            if curve is not None and name in curve:
                here = curve.loc[curve[name].notna(), ["step", name]].rename(columns={name: "value"})
                parts.append(here.assign(run=row["run"], arm=row["arm"], **{pair: row["pair"]}))
        table = pd.concat(parts, ignore_index=True)[["run", "arm", pair, "step", "value"]]
        numbers = pd.to_numeric(table[pair], errors="coerce")
        return table if numbers.isna().any() else table.assign(**{pair: numbers})

    def compare(self, **options: Unpack[ReportOptions]) -> ReportView:
        """What `report` says with the same options: verdicts, estimates, intervals.

        Args:
            options: those of ReportOptions: baseline, metric, goal, group_by, pair, sesoi, alpha, tier, details.

        Raises:
            ConfigError: an unknown option or value, a metric, setting or baseline that does not exist.
            DataError: no finished run.
        """
        from gpt_lab.frame import load
        from gpt_lab.notebook.report_view import ReportView
        from gpt_lab.report.tables import Report
        from gpt_lab.report.write import judged

        chosen = with_options(self._options, options)
        found = self._read if chosen == self._options else load.read(self._places, chosen)
        return ReportView(Report(judged(found, chosen), found), self._places.folder)

    def plot(self, name: str = "forest", **options: Unpack[ReportOptions]) -> Canvas:
        """A figure of the report by name: forest, curves, differences, pareto, ...; a notebook shows it.

        Raises:
            ConfigError: no such figure, or as compare. DataError: the study has nothing to draw there.
        """
        return self.compare(**options).plot(name)

    @cached_property
    def _read(self) -> frame.Study:
        from gpt_lab.frame import load

        return load.read(self._places, self._options)

    def __repr__(self) -> str:
        from gpt_lab.report import facts

        return f"study {self.name}: {facts.counts(self._read)}"


def with_options(options: StudyOptions, given: Any) -> StudyOptions:
    """The options with some replaced.

    Raises:
        ConfigError: one that there is not, or a value that it cannot have.
    """
    allowed = {one.name for one in fields(StudyOptions)} - {"runs_dir", "remote"}
    for key in given:
        if key not in allowed:
            raise ConfigError(unknown("option", key, allowed))
    keys = given.get("group_by", ())
    if isinstance(keys, str):
        keys = [key.strip() for key in keys.split(",")]
    return replace(options, **{**given, "group_by": tuple(keys)})
