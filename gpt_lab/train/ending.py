"""The end of a run: its result, the final table, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gpt_lab import metrics, trackers
from gpt_lab.config.schema import RunConfig
from gpt_lab.console.invocation import prefix
from gpt_lab.data.base import Dataset
from gpt_lab.devices import hardware
from gpt_lab.errors import LabError
from gpt_lab.model.skip_init import is_out_of_memory
from gpt_lab.store import Run
from gpt_lab.train import run_display
from gpt_lab.train.resolve_auto import ResolvedRun
from gpt_lab.train.state import TrainingState


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Fields:
        state: finished, stopped (by a signal; the same command resumes) or diverged.
        done: it had ended before; nothing was trained.
    """

    path: Path
    state: str
    summary: Mapping[str, Any]
    done: bool = False
    signal_number: int | None = None

    @property
    def exit_code(self) -> int:
        """0 finished, 1 diverged, 128 + the signal's number if one ended it."""
        if self.signal_number is not None:
            return 128 + self.signal_number
        return 0 if self.state == "finished" else 1


def already_done(run: Run, cfg: RunConfig, console: Console) -> Result:
    """Says that there is nothing to train; a W&B sweep that asked for the run gets it from the store."""
    when = str(run.record.get("finished"))[:19].replace("T", " ")
    if run.state == "diverged":
        line = f"{run.path} diverged at step {run.summary.get('diverged/step')} ({when})"
    else:
        line = f"{run.path} is already done (finished {when})"
    console.print(f"{line}: nothing to train; force=true repeats it", markup=False, highlight=False, soft_wrap=True)
    rows = run_display.summary_rows(run.summary)
    run_display.show_end(console, run.name, rows, list(_judged(run, cfg, run.summary)))
    for message in trackers.replay(cfg.tracker, run, cfg):
        console.print(message, markup=False, highlight=False, soft_wrap=True)
    return Result(run.path, run.state, run.summary, done=True)


def floors(dataset: Dataset) -> dict[str, float]:
    """floor/unigram, floor/bigram, floor/trigram: what counting reaches on the same split, in bits per byte."""
    return {f"floor/{name}": value for name, value in dataset.floors().items()}


def packed(dataset: Dataset) -> dict[str, float]:
    """data/dropped, data/cut, data/filled: what packing does to the documents; {} where they are joined."""
    return {} if dataset.packed is None else {f"data/{name}": v for name, v in dataset.packed._asdict().items()}


def show(
    console: Console,
    run: Run,
    cfg: RunConfig,
    summary: Mapping[str, Any],
    rows: Sequence[tuple[str, str]],
    command: str,
    dataset: Dataset,
    prompt: str | None,
) -> None:
    """Prints the table of a finished run, the verdict, the folder, and the commands that come next.

    Args:
        prompt: of the run; None: its model continues no text.
    """
    lines = [
        *_judged(run, cfg, summary),
        f"run folder: {run.path}",
        *([f"no bits per byte: {dataset.lossy}"] if dataset.lossy else []),
        *next_commands(run, cfg, command, prompt if dataset.is_text else None),
    ]
    run_display.show_end(console, run.name, rows, lines)


def _judged(run: Run, cfg: RunConfig, summary: Mapping[str, Any]) -> Iterator[str]:
    """Whether a run beats counting, and what its objective measured if not the exact likelihood."""
    measure = (run.record.get("text") or {}).get("measure", metrics.EXACT)
    if verdict := run_display.verdict(summary, bound=measure == metrics.BOUND):
        yield verdict
    if measure not in (metrics.EXACT, metrics.BOUND):
        yield f"no bits per byte: objective={cfg.objective['name']} measures {measure}"


def next_commands(run: Run, cfg: RunConfig, command: str, prompt: str | None) -> list[str]:
    """Lines that a user may copy: continue a prompt (None: the model knows no text), repeat with another seed."""
    words = [word for word in shlex.split(command or "train") if not word.startswith(("seed=", "force="))]
    again = prefix() + shlex.join([*words, f"seed={cfg.seed + 1}"])
    given = [f"prompt={prompt.strip()}"] if prompt and prompt.strip() else []
    generate = prefix() + shlex.join(["generate", f"run={run.path}", *given])
    return [*([] if prompt is None else [f"continue a text:  {generate}"]), f"another seed:     {again}"]


def spent(state: TrainingState, tokens: int, flops: float, seconds: float, plan: ResolvedRun) -> dict[str, Any]:
    """The summary of a run as far as it is known without evaluating it again."""
    cost, teacher = plan.cost, plan.teacher
    taught = {}
    if teacher is not None:
        taught = {"teacher/flops": float(tokens * teacher.forward), "teacher/train_flops": teacher.spent}
    return {
        "steps": state.step,
        "tokens": tokens,
        "flops": flops,
        "seconds": seconds,
        "best/val_loss": state.best,
        "best/step": state.best_step,
        "parameters": cost.parameters,
        "parameters_non_embedding": cost.non_embedding,
        "perf/tokens_per_s": tokens / seconds if seconds > 0 else 0.0,
        **{name: value for name, value in taught.items() if value is not None},
    }


@contextmanager
def failures(
    run: Run,
    cfg: RunConfig,
    plan: ResolvedRun,
    view: run_display.RunDisplay,
    tracker: trackers.Tracker,
    step: Callable[[], int],
) -> Iterator[None]:
    """Leaves word of an error that ends the run; earlier checkpoints stay.

    Raises:
        LabError: instead of a device without memory, or of what Apple's GPU lacks, with the ways out.
    """
    try:
        yield
    except BaseException as error:
        view.stop()
        with suppress(LabError):  # the disk that is full or closed may be what ended the run
            run.update(error=f"{type(error).__name__}: {error}")
            run.finish("failed", {})
        tracker.finish("failed", {}, open_step=step())
        if is_out_of_memory(error):
            raise out_of_memory(cfg, plan.device) from error
        if (lacking := hardware.lack(error, plan.device)) is not None:
            raise lacking from error
        raise


def out_of_memory(cfg: RunConfig, device: str) -> LabError:
    """The error of a device without enough memory, with the ways out."""
    where = "GPU memory" if device == "cuda" else "memory"
    return LabError(
        f"out of {where} with {cfg.batch.micro or cfg.rows} rows of {cfg.scale.context} tokens at a time: lower "
        "batch.micro, set model.checkpointing=true, or make the model smaller"
    )
