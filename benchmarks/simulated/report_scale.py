"""The report of thousands of runs: seconds to read them, to compare them and to write every file.

    uv run python benchmarks/simulated/report_scale.py

The runs are synthetic folders (run.json and metrics.jsonl as the trainer writes them); the page cache is warm, as after
a sweep. The whole is also measured as the command, imports included; what it imports is compiled before.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from gpt_lab.analysis.compare import compare
from gpt_lab.config import composition
from gpt_lab.frame import load
from gpt_lab.frame.places import StudyOptions, find
from gpt_lab.report import console, facts
from gpt_lab.report.tables import Report
from gpt_lab.report.write import figure_files, write
from gpt_lab.store import Run
from gpt_lab.store.atomic_files import read_json, write_json
from gpt_lab.store.record import machine

RESULTS = Path(__file__).parent.parent / "results"
REPORT = [sys.executable, "-c", "from gpt_lab.cli.report import main; main()"]
ARMS, LINES = 20, 50
"""Arms of the study; lines in the metrics of each run."""


def make(runs_dir: Path, count: int) -> Path:
    """A study of `count` finished runs: one real folder, then copies with their own settings and results."""
    cfg = composition.compose(["study=many"])
    template = Run.create(runs_dir, "many", "template", cfg.to_dict(), {"config": cfg.flat(), "command": "train"})
    record = read_json(template.path / "run.json")
    draw = random.Random(0)
    effects = [draw.gauss(0, 0.03) for _ in range(ARMS)]
    for number in range(count):
        seed, arm = divmod(number, ARMS)
        bpb = 2.0 + effects[arm] + 0.01 * random.Random(seed).gauss(0, 1) + draw.gauss(0, 0.005)
        record["config"] |= {"optim.lr": round(0.001 * (arm + 1), 6), "seed": seed}
        record |= {"state": "finished", "name": f"run{number}", "summary": _summary(bpb), "seed": seed}
        folder = template.path.with_name(f"run{number:06d}")
        folder.mkdir()
        write_json(folder / "run.json", record)
        with open(folder / "metrics.jsonl", "w", encoding="utf-8") as file:
            for step in range(1, LINES + 1):
                spent = {"step": step * 20, "tokens": step * 61440, "flops": step * 3.6e11, "seconds": step * 1.5}
                file.write(json.dumps({**spent, "val/bpb": bpb + 3 * (step**-0.5 - LINES**-0.5)}) + "\n")
    shutil.rmtree(template.path)
    return runs_dir / "many"


def _summary(bpb: float) -> dict[str, float]:
    return {
        "val/bpb": bpb,
        "val/loss": 1.6 * bpb,
        "val/ppl": 20.0,
        "steps": 1000,
        "tokens": 3072000,
        "flops": 1.8e13,
        "seconds": 75.0,
        "parameters": 922752,
        "parameters_non_embedding": 791680,
        "perf/tokens_per_s": 40960.0,
        "perf/peak_memory_gb": 0.5,
        "perf/mfu": 0.4,
        "floor/unigram": 3.96,
        "floor/bigram": 2.69,
        "floor/trigram": 2.08,
    }


def measure(study: Path, count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each stage in this process, and of the whole command in one of its own; the same of processor time.

    The second hardly depends on what else the machine does.
    """
    options = StudyOptions(baseline="optim.lr=0.001")
    seconds: dict[str, float] = {}
    processor: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start, before = time.perf_counter(), sum(os.times()[:4])
        result = work()
        seconds[name] = round(time.perf_counter() - start, 3)
        processor[name] = round(sum(os.times()[:4]) - before, 2)
        return result

    loaded = timed("read", lambda: load.read(find([str(study)], options), options))
    if len(loaded.runs) != count or loaded.runs["score"].isna().any():
        raise SystemExit(f"{len(loaded.runs)} runs were read, not {count}: {loaded.notes}")
    comparison = timed("compare", lambda: compare(loaded))
    report = Report(comparison, loaded)
    timed("show", lambda: console.show(report, Console(file=io.StringIO(), width=140)))
    timed("environment and differences", lambda: (facts.environment(loaded), facts.differences(loaded)))
    figures = timed("draw", lambda: figure_files(comparison, loaded, study / "report"))
    timed("write", lambda: write(report, figures, study / "report", "uv run report"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = partial(subprocess.run, env=environment, capture_output=True, text=True)
    start([*REPORT, str(study / "run000000"), "--no-files"])
    for name, words in (("command, table only", ["--no-files"]), ("command, every file", [])):
        done = timed(name, partial(start, [*REPORT, str(study), "--baseline", "optim.lr=0.001", *words]))
        if done.returncode:
            raise SystemExit(done.stderr)
    return seconds, processor


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="check that everything runs; numbers mean little")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: results/)")
    chosen = parser.parse_args(arguments)
    count = 100 if chosen.quick else chosen.runs
    named: dict[str, Any] = {
        **machine(),
        "torch": version("torch"),
        "pandas": version("pandas"),
        "python": sys.version.split()[0],
        "load_before": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory() as folder:
        seconds, processor = measure(make(Path(folder), count), count)
    named["load_after"] = round(os.getloadavg()[0], 2)
    for name, value in seconds.items():
        print(f"{name:30s} {value:7.3f} s, {processor[name]:6.2f} s of a processor")
    slug = re.sub(r"[^a-z0-9]+", "-", f"{named['cpu']}-{named['cores']}-cores".lower()).strip("-")
    out = chosen.out or RESULTS / f"report_scale-{slug}{'-quick' if chosen.quick else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    found = {"machine": named, "runs": count, "arms": ARMS, "lines_per_run": LINES, "seconds": seconds}
    found["processor_seconds"] = processor
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
