"""What tests of the runner share: a tiny sweep, its curves, its processes."""

from __future__ import annotations

import io
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from gpt_lab.store import Run
from gpt_lab.study.design import Cell, Design
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger.entry import LedgerEntry
from gpt_lab.sweep.ledger.ledger import entries
from tests.study.arms import settings

CLI = [sys.executable, "-c", "from gpt_lab.cli.sweep import main; main()"]
ROOT = Path(__file__).parent.parent.parent
CLOCKED = ("seconds", "perf/tokens_per_s", "perf/mfu", "perf/peak_memory_gb")
TINY: dict[str, Any] = {
    "scale.depth": 1,
    "scale.width": 16,
    "scale.heads": 2,
    "scale.context": 16,
    "batch.tokens": 64,
    "budget.steps": 24,
    "eval.every": 6,
    "checkpoint.every": 3,
    "log.every": 2,
    "sample.tokens": 0,
    "tokenizer": "byte",
    "precision": "fp32",
    "compile": "off",
    "tracker": "none",
    "device": "cpu",
    "data": "text",
}


def write_sweep(folder: Path, swept: dict[str, Any] | None = None, /, **changes: Any) -> Path:
    """A sweep file of tiny runs on a tiny corpus, 2 arms x 2 seeds, its runs in `folder`/runs.

    Args:
        swept: parameters with their values. changes: keys of the file; `fixed` holds settings of every run.
    """
    draw = random.Random(0)
    corpus = folder / "words.txt"
    words = ["to", "be", "or", "not", "that", "is", "the", "question"]
    corpus.write_text("\n".join(" ".join(draw.choices(words, k=8)) for _ in range(650)) + "\n", encoding="utf-8")
    fixed = {**TINY, "data.path": str(corpus), "runs_dir": str(folder / "runs"), **changes.pop("fixed", {})}
    values = swept or {"position": ["rope", "none"], "seed": [0, 1]}
    content = {
        "program": "train",
        "method": "grid",
        "parameters": {
            **{name: {"values": v} if isinstance(v, list) else v for name, v in values.items()},
            **{name: {"value": value} for name, value in fixed.items() if name not in values},
        },
        **changes,
    }
    path = folder / f"{changes.get('name', 'tiny')}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def fake_sweep(tmp_path: Path, **changes: Any) -> Sweep:
    """A Sweep object without a readable file."""
    content = {"method": "grid", "parameters": {"norm": {"values": ["a", "b"]}, "seed": {"values": [0, 1]}}}
    design = Design(
        "fake", factors=("norm",), baseline={"norm": "a"}, values={"norm": ("a", "b"), "seed": (0, 1)}, sesoi=0.01
    )
    return Sweep(**{"path": tmp_path / "fake.yaml", "design": design, "content": content, **changes})


def fake_cells(number: int, start: int = 0) -> list[Cell]:
    """Cells that nothing could run."""
    return [
        Cell(
            i,
            {"norm": "a", "seed": i},
            settings("norm=a"),
            settings(""),
            i,
            ("norm=a", f"seed={i}"),
            f"{i:012x}",
            f"{i:012x}",
        )
        for i in range(start, start + number)
    ]


def quiet() -> Console:
    """A console that is no terminal and whose text can be read back with `said`."""
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def curve(folder: Path, run: str | None) -> list[dict[str, Any]]:
    """The metrics of a run, without those that depend on the clock."""
    assert run is not None
    rows = Run.open(folder / run).metrics()
    return [{key: value for key, value in row.items() if key not in CLOCKED} for row in rows]


def curves(folder: Path) -> dict[str, Any]:
    """The curve of each cell that is wanted, by its name; all of them are finished and have a folder of their own."""
    wanted = [entry for entry in entries(folder) if entry.wanted]
    assert {entry.state for entry in wanted} == {"finished"}
    folders = sorted(path.parent.name for path in folder.glob("[!.]*/run.json"))
    assert sorted(str(entry.run) for entry in wanted) == folders, "each cell has one run, each run one cell"
    assert all(Run.open(folder / name).state == "finished" for name in folders)
    return {name_of(entry): curve(folder, entry.run) for entry in wanted}


def name_of(entry: LedgerEntry | Cell) -> str:
    return ", ".join(f"{key}={value}" for key, value in entry.values.items())


def until(true: Callable[[], Any], seconds: float = 180, every: float = 0.005) -> Any:
    """Waits for something to become true, asked `every` so many seconds, and returns it."""
    end = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > end:
            raise TimeoutError("it did not happen")
        time.sleep(every)
    return found


def children(pid: int) -> list[int]:
    """Processes that a process has started and that still run."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] not in "ZX":
                found.append(int(name))
    return sorted(found)


def tree(pid: int) -> list[int]:
    """A process and all that it has started, and they, and that still run."""
    return [pid, *(one for child in children(pid) for one in tree(child))]


def command(path: Path, *arguments: str) -> Sequence[str]:
    return [*CLI, str(path), *arguments]
