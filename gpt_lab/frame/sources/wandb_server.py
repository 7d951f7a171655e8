"""Runs on a W&B server, through `wandb.Api`: `wandb:entity/project/sweep`, `.../group=NAME`, or the whole project."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gpt_lab.console.invocation import prefix
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.frame.sources.source import Source
from gpt_lab.frame.sources.wandb_row import merged, table, wandb_row
from gpt_lab.store.atomic_files import decode
from gpt_lab.study import sweep_file
from gpt_lab.study.format import layout
from gpt_lab.study.sweep import Sweep
from gpt_lab.trackers.wandb_env import as_client, base_url, login
from gpt_lab.trackers.wandb_process import unreachable

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "wandb:"
PROBE = 10.0
"""Seconds in which the server must answer at all."""
TIMEOUT = 30
"""Seconds for one request of the listing."""
PATIENCE = 120.0
"""Seconds for the whole history of one run."""
PAGE = 200
"""Runs per request: each carries its config and its summary, some 20 KB."""
JOBS = 8
"""Histories read at once."""
T = TypeVar("T")


def load(address: str) -> Source:
    """The runs at an address: of a sweep, of a group, or of a project (reports that were pushed there left out).

    Args:
        address: `wandb:ENTITY/PROJECT/SWEEP`, `wandb:ENTITY/PROJECT/group=NAME` or `wandb:ENTITY/PROJECT`.

    Raises:
        ConfigError: the address is none, or nobody is logged in.
        DataError: no such project, sweep or group; the server does not answer, or refuses.
    """
    entity, project, part = split(address)
    if login() is None:
        raise ConfigError(f"{address}: reading W&B needs a login: run `{prefix()}wandb login`, or set WANDB_API_KEY")
    if problem := unreachable(base_url(), PROBE):
        raise DataError(f"{address}: W&B cannot be reached ({problem})")
    with _quiet(), _refusals(address):
        import wandb

        api = wandb.Api(timeout=TIMEOUT)
        sweep, notes = None, []
        filters: dict[str, Any] = {}
        if part.startswith("group="):
            filters = {"group": part.removeprefix("group=")}
        elif part:
            filters = {"sweep": part}
            sweep, refusal = stated(part, _sweep(api, entity, project, part))
            notes += [f"the sweep that W&B keeps is not used: {refusal}"] if refusal else []
        listed = api.runs(f"{entity}/{project}", filters=filters, per_page=PAGE, lazy=False)
        found = [run for run in listed if run.job_type not in ("report", "attention")]
    if not found and sweep is None:
        raise DataError(f"{address}: no run there")
    runs = {"/".join(run.path): run for run in found}

    kept: dict[str, pd.DataFrame] = {}  # the figures and the page ask for the same ones, each a download

    def curves(names: Sequence[str]) -> Mapping[str, pd.DataFrame]:
        new = [name for name in names if name not in kept]
        with _quiet(), _refusals(address):
            kept.update(zip(new, _each(_history, [runs[name] for name in new]), strict=True))
        return {name: kept[name] for name in names}

    return Source([_row(name, run) for name, run in runs.items()], curves, sweep=sweep, notes=notes)


def split(address: str) -> tuple[str, str, str]:
    """Entity, project, and a sweep's name or `group=NAME` ("" for neither).

    Raises:
        ConfigError: it is no address.
    """
    words = address.removeprefix(PREFIX).strip("/").split("/", 2)
    if not address.startswith(PREFIX) or len(words) < 2 or not all(words) or words[2:] == ["group="]:
        raise ConfigError(
            f"{address!r} is no W&B address: write wandb:ENTITY/PROJECT/SWEEP, wandb:ENTITY/PROJECT/group=NAME "
            "or wandb:ENTITY/PROJECT"
        )
    entity, project, *rest = words
    return entity, project, rest[0] if rest else ""


def stated(name: str, raw: Any) -> tuple[Sweep | None, str]:
    """The sweep that a server's copy of a sweep file states; None, and why, for one that the lab cannot read.

    Args:
        name: the sweep's; the study is that of the `gpt_lab:` block, else of the command, and names the file.
    """
    if not isinstance(raw, Mapping):
        return None, "it is empty"
    kept = {key: value for key, value in raw.items() if key in layout.TOP}
    block = kept.get("gpt_lab")
    if not isinstance(block, Mapping) or "study" not in block:
        words = [word for word in kept.get("command") or [] if isinstance(word, str) and word.startswith("study=")]
        study = words[-1].removeprefix("study=") if words else name
        kept["gpt_lab"] = {**(block if isinstance(block, Mapping) else {}), "study": study}
    try:
        sweep = sweep_file.read(Path(name), kept)
        shipped = Path("sweeps", f"{sweep.design.study}.yaml")
        return replace(sweep, path=shipped if shipped.is_file() else Path(shipped.name)), ""
    except ConfigError as error:
        return None, str(error)


def _sweep(api: Any, entity: str, project: str, name: str) -> Any:
    """The server's copy of a sweep file.

    Raises:
        DataError: there is no such sweep.
    """
    try:
        return api.sweep(f"{entity}/{project}/{name}").config
    except Exception as error:
        if "Could not find sweep" not in str(error):
            raise
        raise DataError(
            f"no sweep {name!r} in {entity}/{project}: its id is the end of its address in W&B (a group's runs are "
            "read with group=NAME)"
        ) from error


def _row(name: str, run: Any) -> dict[str, Any]:
    return wandb_row(
        name,
        str(run.name or run.id),
        run.group,
        run.state,
        decode(run.config),
        decode(dict(run.summary_metrics)),
        _iso(run.created_at),
        _iso(run.heartbeat_at),
    )


def _history(run: Any) -> pd.DataFrame:
    return table(merged(decode(line) for line in run.scan_history(page_size=10_000, use_cache=False)))


def _each(work: Callable[[Any], T], things: Sequence[Any]) -> list[T]:
    """`work` of each thing, in threads, with an end: a server that falls silent would hold wandb for days.

    Raises:
        DataError: one takes too long.
    """
    pool = ThreadPoolExecutor(JOBS)
    try:
        waiting = [pool.submit(work, thing) for thing in things]
        return [future.result(PATIENCE) for future in waiting]
    except TimeoutError as error:
        import wandb

        wandb.teardown(exit_code=1)  # ends the requests that the threads wait for
        raise DataError(f"a run's history did not come within {PATIENCE:g} s") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """W&B's client without prints, error reports, questions, or folders left in the temporary one for each run."""
    with tempfile.TemporaryDirectory() as folder:
        with as_client(WANDB_MODE="online", WANDB_DIR=folder):
            yield


@contextmanager
def _refusals(address: str) -> Iterator[None]:
    """What W&B's client raises, as one line.

    Raises:
        DataError: whatever went wrong between here and the server.
    """
    from wandb.errors import Error
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        yield
    except DataError as error:
        raise DataError(f"{address}: {error}") from error
    except (Error, WandbApiFailedError, ValueError, OSError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{address}: W&B says: {text}") from error


def _iso(text: str | None) -> str | None:
    """W&B's times are in UTC and may not say so."""
    return text if text is None or text.endswith("Z") or "+" in text else f"{text}Z"
