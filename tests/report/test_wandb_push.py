"""A report in W&B: on the double with the real client, and offline."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.analysis.comparison import Comparison
from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.frame.sources import wandb_server
from gpt_lab.frame.study import Study
from gpt_lab.report.figures import Figure
from gpt_lab.report.wandb_push import COLUMNS, MEDIANS, push, table
from tests.report import fabricated
from tests.trackers import offline as oracle
from tests.trackers.sweep_double import SweepDouble
from tests.trackers.wandb_double import RecordedRun


def png() -> bytes:
    """A picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0\xff\x80\x00"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SweepDouble]:
    with SweepDouble() as double:
        for name, value in double.environment().items():
            monkeypatch.setenv(name, value)
        yield double


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Comparison, Study, list[Figure]]:
    monkeypatch.chdir(tmp_path)
    comparison, study = fabricated.plain()
    picture = tmp_path / "forest.png"
    picture.write_bytes(png())
    return comparison, study, [Figure("forest", "Forest", "What is drawn.", tmp_path / "forest.svg", picture)]


def recorded(server: SweepDouble) -> RecordedRun:
    (run,) = server.runs.values()
    return run


@pytest.mark.slow
def test_online(
    server: SweepDouble, made: tuple[Comparison, Study, list[Figure]], monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison, _, _ = made
    monkeypatch.setenv("WANDB_RUN_ID", "some_run")  # what the environment says of a run is not the report's
    line = push(*made)
    run = recorded(server)
    assert run.name != "some_run"
    assert line == f"report in W&B: {server.url}/tester/gpt_lab/runs/{run.name}"
    assert (run.job_type, run.group, run.display_name) == ("report", "pos_enc", "report of pos_enc")
    assert (run.complete, run.exit_code) == (True, 0)
    assert run.setting("question") == comparison.design.question
    assert run.setting("baseline") == "position=learned"
    (row,) = run.history
    assert (row["report/forest"]["_type"], row["report/forest"]["caption"]) == ("image-file", "What is drawn.")
    assert png() in run.files.values()
    kept = json.loads(next(data for name, data in run.files.items() if name.startswith("media/table/")))
    assert kept["columns"] == [*COLUMNS, *MEDIANS]
    assert [line[0] for line in kept["data"]] == [str(arm.arm) for arm in comparison.rows]
    best = comparison.rows[0]
    assert best.delta is not None
    assert kept["data"][0][3:6] == pytest.approx([best.delta.estimate, best.delta.low, best.delta.high])
    assert run.summary[f"verdict/{best.arm}"] == best.verdict
    assert server.unknown == []
    with pytest.raises(DataError, match="no run there"):
        wandb_server.load("wandb:tester/gpt_lab")


@pytest.mark.slow
def test_beside_its_runs(server: SweepDouble, made: tuple[Comparison, Study, list[Figure]]) -> None:
    """The report of runs from W&B goes to their project."""
    comparison, study, figures = made
    study.runs["source"] = "wandb"
    study.runs["run"] = [f"team/lab/{number}" for number in range(len(study.runs))]
    push(comparison, study, figures, group="mine")
    assert (recorded(server).project, recorded(server).group) == ("lab", "mine")


@pytest.mark.slow
def test_refused_in_the_middle(server: SweepDouble, made: tuple[Comparison, Study, list[Figure]]) -> None:
    """W&B's client ends as if all had arrived."""
    answer = server.on_CreateRunFiles

    def withdrawn(variables: dict[str, Any]) -> dict[str, Any]:
        server.trouble = "unauthorized"
        return answer(variables)

    server.on_CreateRunFiles = withdrawn  # type: ignore[method-assign]
    with pytest.raises(LabError, match=r"W&B did not take the report: (the server answered 401|.*unauthorized)"):
        push(*made)


@pytest.mark.slow
def test_no_answer(
    server: SweepDouble, made: tuple[Comparison, Study, list[Figure]], tmp_path: Path, monkeypatch: Any
) -> None:
    """Offline, in the study's own folder."""
    comparison, study, figures = made
    study.runs["run"] = [str(tmp_path / "runs/pos_enc" / Path(run).name) for run in study.runs["run"]]
    (tmp_path / "runs/pos_enc").mkdir(parents=True)
    server.stop()
    line = push(comparison, study, figures)
    assert line.startswith("W&B cannot be reached (") and "; report kept offline; later: uv run wandb sync " in line
    folder = Path(line.rpartition("wandb sync ")[2])
    assert folder.parent == tmp_path / "runs/pos_enc/wandb"
    for _ in range(100):  # the client closes its file a moment after it says that it has finished
        if (kept := oracle.read(folder))["config"] and kept["history"]:
            break
        time.sleep(0.1)
    assert kept["config"]["sesoi"] == comparison.sesoi
    assert kept["history"][0]["report/forest/_type"] == "image-file"


@pytest.mark.slow
def test_refused(made: tuple[Comparison, Study, list[Figure]], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, and no run is left open."""
    comparison, study, figures = made
    figures[0].png.write_bytes(b"no picture")
    with pytest.raises(LabError, match="^W&B did not take the report: .*image") as caught:
        push(comparison, study, figures)
    assert "\n" not in str(caught.value)
    import wandb

    assert wandb.run is None


def test_no_login(made: tuple[Comparison, Study, list[Figure]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="needs a login"):
        push(*made)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "was not logged" in push(*made)


def test_numbers_that_do_not_exist(made: tuple[Comparison, Study, list[Figure]]) -> None:
    """A baseline has no difference; what is unknown is empty, never NaN, which W&B's tables refuse."""
    comparison, _, _ = made
    rows = {row[0]: dict(zip([*COLUMNS, *MEDIANS], row, strict=True)) for row in table(comparison)}
    baseline = rows["position=learned"]
    assert (baseline["delta"], baseline["low"], baseline["verdict"]) == (None, None, "baseline")
    assert all(value == value for row in rows.values() for value in row.values())
