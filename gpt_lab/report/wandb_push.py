"""The report as a W&B run of its own: its table, its figures, and what was compared."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.console.invocation import prefix
from gpt_lab.errors import LabError
from gpt_lab.frame.study import Study
from gpt_lab.trackers.wandb import Wandb
from gpt_lab.trackers.wandb_env import as_client, base_url, choose_mode, setting
from gpt_lab.trackers.wandb_process import refusal, unreachable

if TYPE_CHECKING:
    from gpt_lab.report.figures import Figure

JOB = "report"
"""The job type of a report: frame.sources.wandb_server leaves such runs out."""
PROBE, INIT, FINISH = 10.0, 30.0, 120.0
"""Seconds for a first answer of the server, for the run's beginning, for the upload."""
MEDIANS = ("parameters", "flops_per_token", "tokens_per_s", "peak_memory_gb", "seconds")
COLUMNS: dict[str, Callable[[Row], Any]] = {
    "arm": lambda row: str(row.arm),
    "verdict": lambda row: row.verdict,
    "tier": lambda row: row.tier,
    "delta": lambda row: row.delta and row.delta.estimate,
    "low": lambda row: row.delta and row.delta.low,
    "high": lambda row: row.delta and row.delta.high,
    "p_adjusted": lambda row: row.p_adjusted,
    "mean": lambda row: row.mean,
    "sd": lambda row: row.sd,
    "n": lambda row: row.n,
    "runs": lambda row: row.runs,
    "rho": lambda row: row.rho,
    "median": lambda row: row.median,
    "tuning": lambda row: str(row.tuning),
    "not_finished": lambda row: ", ".join(f"{count} {state}" for state, count in row.states.items() if count),
    "warnings": lambda row: "; ".join(row.warnings),
}
"""Of the table; the medians follow."""


def push(
    comparison: Comparison,
    study: Study,
    figures: Sequence[Figure],
    project: str | None = None,
    entity: str | None = None,
    group: str | None = None,
) -> str:
    """Logs the table and the figures (PNG) as one run of job type "report"; returns the line that says where.

    Online or offline as a training run with tracker=auto; a server that does not answer makes it offline.

    Args:
        project, entity: None: those of the runs if they come from W&B, else WANDB_PROJECT or gpt_lab, and the login's.
        group: None: the study.

    Raises:
        ConfigError: W&B online without a login. LabError: W&B cannot begin or refuses.
    """
    home, design = _home(study), study.design
    names = ("study", "question", "metric", "goal", "pair", "family", "alpha")
    config = {
        **{name: getattr(design, name) for name in names},
        "baseline": None if design.baseline is None else str(design.baseline_arm),
        "factors": list(design.factors),
        "sesoi": comparison.sesoi,
        "correction": comparison.correction,
        "notes": list(comparison.notes),
    }

    def fill(run: Any) -> None:
        import wandb

        values: dict[str, Any] = {"report/arms": wandb.Table(columns=[*COLUMNS, *MEDIANS], data=table(comparison))}
        for figure in figures:
            values[f"report/{figure.name}"] = wandb.Image(str(figure.png), caption=figure.caption)
        run.log(values)
        run.summary.update({f"verdict/{row.arm}": row.verdict for row in comparison.rows})

    place = project or home[1], entity or home[0], group or design.study
    return push_one(JOB, f"report of {design.study}", config, fill, _folder(study), *place)


def push_one(
    job: str,
    name: str,
    config: Mapping[str, Any],
    fill: Callable[[Any], None],
    folder: str | None = None,
    project: str | None = None,
    entity: str | None = None,
    group: str | None = None,
) -> str:
    """One W&B run that is logged at once; returns the line that says where.

    Online or offline as a training run with tracker=auto; a server that does not answer makes it offline.

    Args:
        job: its job type, what it is called in lines. fill: logs into the wandb run. folder: of wandb's files.
        project, entity: None: those of the environment, else gpt_lab and the login's.

    Raises:
        ConfigError: W&B online without a login. LabError: W&B cannot begin or refuses.
    """
    mode = choose_mode("auto")
    if mode == "disabled":
        return f"W&B is switched off (WANDB_MODE=disabled): the {job} was not logged"
    Wandb.check()
    problem = unreachable(base_url(), PROBE) if mode == "online" else None
    if problem is not None:
        mode = "offline"
    try:
        with as_client():  # a run's id or name in the environment is not this one's
            import wandb

            settings = wandb.Settings(
                mode=mode,
                base_url=base_url(),
                console="off",
                silent=True,
                init_timeout=INIT,
                finish_timeout=FINISH,
                finish_timeout_raises=True,
                disable_code=True,
                disable_git=True,
            )
            run = wandb.init(
                project=project or setting("project") or "gpt_lab",
                entity=entity or setting("entity"),
                group=group,
                job_type=job,
                name=name,
                dir=folder,
                config=dict(config),
                settings=settings,
            )
            where = run.url if mode == "online" else run.settings.sync_dir
            try:
                fill(run)
            except BaseException:
                run.finish(exit_code=1)
                raise
            run.finish()
            if mode == "online" and (refused := refusal(Path(run.settings.log_internal))):
                raise LabError(refused)
    except Exception as error:
        raise LabError(f"W&B did not take the {job}: {' '.join(str(error).split())}") from error
    if mode == "online":
        return f"{job} in W&B: {where}"
    lead = f"W&B cannot be reached ({problem}); " if problem else ""
    return f"{lead}{job} kept offline; later: {prefix()}wandb sync {shlex.quote(str(where))}"


def table(comparison: Comparison) -> list[list[Any]]:
    """One list per arm, as COLUMNS and MEDIANS name its values; None where there is no number."""
    return [
        [*(_plain(value(row)) for value in COLUMNS.values()), *(_plain(row.medians.get(name)) for name in MEDIANS)]
        for row in comparison.rows
    ]


def _plain(value: Any) -> Any:
    """Plain Python values; NaN as nothing."""
    if value is None or isinstance(value, str | int):
        return value
    number = float(value)
    return None if number != number else number


def _home(study: Study) -> tuple[str, str]:
    """Entity and project of runs that came from W&B; empty otherwise, and where they came from several."""
    runs = study.runs[study.runs["source"] == "wandb"]["run"]
    homes = {tuple(run.split("/")[:2]) for run in runs}
    if len(homes) != 1:
        return "", ""
    entity, project = homes.pop()
    return entity, project


def _folder(study: Study) -> str | None:
    """Where W&B keeps its files: the study's folder; None, the working directory, for runs that have none."""
    runs = study.runs[study.runs["source"] == "local"]["run"]
    folder = Path(runs.iloc[0]).parent if len(runs) else None
    return str(folder) if folder is not None and folder.is_dir() else None
