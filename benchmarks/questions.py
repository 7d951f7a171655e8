"""The ready-made questions, one after the other: their reports, their times, and the table of answers.

    uv run python benchmarks/questions.py

Each is run and judged by its one command, `sweep NAME --report --jobs 2`. Reports go to sweeps/results/NAME, times and
answers to benchmarks/results/questions.json, and the table of docs/sweep-files.md is written from these. With
--runs-dir a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpt_lab import metrics
from gpt_lab.analysis import wording
from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.analysis.sections import factorial
from gpt_lab.analysis.sections.effects import Effects
from gpt_lab.frame import exported
from gpt_lab.frame.study import Study
from gpt_lab.store.record import machine
from gpt_lab.study import sweep_file
from gpt_lab.study.arm_names import short_names

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "questions.json"
REPORTS = ROOT / "sweeps" / "results"
PAGE = ROOT / "docs" / "sweep-files.md"
BLOCK = re.compile(r"(?<=<!-- questions -->\n).*?(?=<!-- /questions -->)", re.DOTALL)
QUESTIONS = ("extrapolation", "norm", "mlp", "pre_post", "qk_norm", "muon", "gqa_heads", "recall")
BEYOND = {"extrapolation": {"val/bpb_8x": "at eight times the training context"}}
"""Metrics that belong to the answer beside the one that decides, and what they are in words."""
KEPT = ("report.md", "runs.csv")
COMMAND = [sys.executable, "-c", "from gpt_lab.cli.sweep import main; main()"]
QUICK = ["--seeds", "2", "budget.steps=4", "eval.every=4", "eval.tokens=2048"]
QUICK_TEXT = ["data.val_fraction=0.002"]


def command(name: str) -> str:
    """What a user types."""
    return f"uv run sweep {name} --report"


def asked(name: str, place: Path, jobs: int, quick: bool) -> dict[str, Any]:
    """Runs a question in the folder `place`, and what it took."""
    words = [*COMMAND, f"sweeps/{name}.yaml", "--report", "--jobs", str(jobs)]
    if quick:
        words += [*QUICK, f"study={name}"]
        words += QUICK_TEXT if sweep_file.load(ROOT / "sweeps" / f"{name}.yaml").design.metric.endswith("bpb") else []
    began = time.perf_counter()
    status = subprocess.run(words, cwd=place, env={**os.environ, "WANDB_MODE": "disabled"}).returncode
    seconds = time.perf_counter() - began
    if status not in (0, 1) or not (place / "runs" / name / "report" / KEPT[0]).is_file():
        raise SystemExit(f"{name} ended with {status}: the same command goes on")
    return {"command": command(name), "seconds": round(seconds, 1), "status": status}


def answer(name: str, folder: Path) -> str:
    """The sentence for the table, from the runs of a report."""
    parts = []
    for metric, where in {"": "", **BEYOND.get(name, {})}.items():
        found = read(name, folder, metric)
        comparison = compare(found)
        effects = factorial.analyse(comparison, found) if found.design.factorial is not None else None
        parts.append(" ".join(filter(None, [where, sentence(comparison)])) if effects is None else told(effects))
    return "; ".join(parts)


def read(name: str, folder: Path, metric: str = "") -> Study:
    """A question's runs as their report was made from them, scored by the metric that decides, or by another."""
    return exported.read(sweep_file.load(ROOT / "sweeps" / f"{name}.yaml"), folder, metric)


def told(effects: Effects) -> str:
    """The effects of a factorial: main ones and interactions."""
    sizes = [
        wording.with_interval(e.interval) if e.interval else wording.signed(e.estimate, 4) for e in effects.effects
    ]
    return ", ".join(f"{e.name} {size} {e.word}" for e, size in zip(effects.effects, sizes, strict=True))


def sentence(comparison: Comparison) -> str:
    """`to gelu: geglu −0.01 [−0.02, −0.00] better, ... (bits per byte, 5 seeds)`: all arms, best first."""
    design = comparison.design
    names = short_names(row.arm for row in comparison.rows)
    compared = [row for row in comparison.rows if row.verdict != "baseline"]
    judged = ", ".join(_judged(row, names[row.arm]) for row in compared)
    seeds = sorted({row.n for row in compared if row.delta is not None})
    count = wording.seeds(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds" if seeds else "no pairs"
    base = next((row for row in comparison.rows if row.verdict == "baseline"), None)
    told = names[base.arm] + _tuned(base) if base is not None and not design.within else design.baseline_arm
    caveat = f"no answer about language models, as {comparison.caveat}; " if comparison.caveat else ""
    return f"{caveat}against {told}: {judged} ({metrics.unit(design.metric)}, {count})"


def _judged(row: Row, name: str) -> str:
    size = [wording.with_interval(row.delta)] if row.delta is not None else []
    return " ".join([name + _tuned(row), *size, row.verdict])


def _tuned(row: Row) -> str:
    values = ", ".join(f"{key.rpartition('.')[2]}={text}" for key, text in row.tuning.texts)
    return f" ({values}{', the edge' if row.on_edge else ''})" if values else ""


def keep(name: str, place: Path, folder: Path) -> None:
    """Copies a report: its text, its runs, its figures."""
    report = place / "runs" / name / "report"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "figures").mkdir(parents=True)
    for file in KEPT:
        shutil.copyfile(report / file, folder / file)
    for figure in sorted((report / "figures").glob("*.svg")):
        shutil.copyfile(figure, folder / "figures" / figure.name)


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page's table of the questions; times and answers only when all have been run."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    known = set(QUESTIONS) <= set(found)
    yield "| question | command |" + " minutes | answer |" * known
    yield "|---|---|" + "---:|---|" * known
    for name in QUESTIONS:
        question = sweep_file.load(ROOT / "sweeps" / f"{name}.yaml").design.question
        link = f"[{question}](../sweeps/results/{name}/report.md)" if known else f"[{question}](../sweeps/{name}.yaml)"
        row = f"| {link} | `{command(name)}` |"
        if known:
            text = found[name]["answer"].replace("|", "\\|")
            row += f" {found[name]['seconds'] / 60:.1f} | {text} |"
        yield row


def committed() -> dict[str, Any]:
    """The result that the table tells of; {} before there is one."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs, keeps, writes JSON and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(QUESTIONS)} (all of them)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="4 steps a run, to see that everything works")
    parser.add_argument("--runs-dir", type=Path, help="a folder for the runs, to go on later (default: a passing one)")
    parser.add_argument("--out", type=Path, help="where all goes, no page touched (default: the repository)")
    chosen = parser.parse_args(arguments)
    if wrong := set(chosen.names) - set(QUESTIONS):
        raise SystemExit(f"{', '.join(sorted(wrong))}: no such question; there are {', '.join(QUESTIONS)}")
    if chosen.quick and not chosen.out:
        raise SystemExit("--quick makes no results worth keeping: name a folder with --out")
    named: dict[str, Any] = {**machine(), "torch": version("torch"), "load_before": round(os.getloadavg()[0], 2)}
    reports = chosen.out or REPORTS
    result: dict[str, Any] = {"machine": named, "questions": {}} if chosen.out else {"questions": {}, **committed()}
    with tempfile.TemporaryDirectory() as passing:
        place = (chosen.runs_dir or Path(passing)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "sweeps").exists():
            (place / "sweeps").symlink_to(ROOT / "sweeps")
        for name in [name for name in QUESTIONS if name in (chosen.names or QUESTIONS)]:
            print(f"== {command(name)}", flush=True)
            one = asked(name, place, chosen.jobs, chosen.quick)
            keep(name, place, reports / name)
            one["answer"] = answer(name, reports / name)
            result["questions"][name] = one
            print(f"{name}: {one['seconds']:.0f} s: {one['answer']}", flush=True)
    result["machine"] = {**named, "jobs": chosen.jobs, "load_after": round(os.getloadavg()[0], 2)}
    result["minutes"] = round(sum(one["seconds"] for one in result["questions"].values()) / 60, 1)
    out = chosen.out / RESULTS.name if chosen.out else RESULTS
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if not chosen.out:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(BLOCK.sub(lambda _: table(result["questions"]), text), encoding="utf-8")
    print(f"{len(result['questions'])} questions, {result['minutes']} minutes; written: {out}")


if __name__ == "__main__":
    main()
