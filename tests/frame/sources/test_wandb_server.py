"""Runs read back from a W&B server, through the real wandb.Api, against the double."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_lab.config import schema
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.frame.sources import wandb_server
from gpt_lab.frame.sources.wandb_row import state_of
from gpt_lab.store.atomic_files import encode
from tests.helpers import tiny_config
from tests.trackers.sweep_double import RecordedSweep, SweepDouble
from tests.trackers.wandb_double import RecordedRun

FACTS = {
    "signature": "s",
    "resolved": {"device": "cpu", "precision": "fp32", "kernel": "math", "compile": "off", "data": "d"},
    "parameters": 41000,
    "parameters_non_embedding": 25000,
    "train_flops_per_token": 212160,
    "git": {"commit": "abc", "dirty": False},
    "hardware": {"cpu": "a cpu", "cores": 2, "threads": 1, "system": "Linux x86_64"},
    "packages": {"python": "3.11.7", "torch": "2.15.0"},
    "command": "train seed=0",
}
SWEEP: dict[str, Any] = {
    "program": "train",
    "method": "grid",
    "metric": {"name": "val/bpb", "goal": "minimize"},
    "parameters": {"position": {"values": ["rope", "alibi"]}, "seed": {"values": [0, 1]}},
    "command": ["uv", "run", "train", "study=small", "${args_no_hyphens}"],
    "gpt_lab": {"study": "small", "question": "Which?", "baseline": {"position": "rope"}},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SweepDouble]:
    with SweepDouble() as double:
        for name, value in double.environment().items():
            monkeypatch.setenv(name, value)
        yield double


def as_stored(value: Any) -> Any:
    """JSON as W&B's server keeps it: 1.0 has become 1."""
    if isinstance(value, dict):
        return {key: as_stored(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else encode(value)


def put(server: SweepDouble, name: str, *, position: str = "rope", seed: int = 0, **changes: Any) -> schema.RunConfig:
    """A finished run of the lab on the server, as its tracker and an agent leave it."""
    cfg = tiny_config(position=position, seed=seed, study="small")
    config = {**cfg.to_dict(), **cfg.flat(), **FACTS, "position": position, "seed": seed, "_wandb": {"t": 1}}
    summary = {"val/bpb": 2.0 + seed, "steps": 20, "tokens": 1280, "flops": 2e8, "seconds": 4.0, "_step": 20}
    summary |= {"perf/tokens_per_s": 320.0, "floor/unigram": 4.8, "state": "finished", "sample": {"_type": "html"}}
    run = RecordedRun(name, "lab", "tester", display_name=f"{position}-{seed}", group="small", sweep="s0")
    run.config = {key: {"value": as_stored(value)} for key, value in config.items()}
    run.summary = as_stored(summary)
    run.complete, run.exit_code = True, 0
    for key, value in changes.items():
        setattr(run, key, value)
    server.runs[name] = run
    return cfg


def log(server: SweepDouble, name: str, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(as_stored({"_step": row["step"], "_runtime": 1.5, **row})) for row in rows]
    server.runs[name].streams["wandb-history.jsonl"] = dict(enumerate(lines))


def test_sweep(server: SweepDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the lab logged comes back: settings of the same identity, costs, place, and the sweep's own design."""
    server.sweeps["s0"] = RecordedSweep("s0", "lab", "tester", yaml.dump(SWEEP))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cfg = put(server, "r0")
    put(server, "r1", position="alibi", seed=1)
    put(server, "other", sweep="s1")
    server.page = 1
    source = wandb_server.load("wandb:tester/lab/s0")
    assert [row["run"] for row in source.rows] == ["tester/lab/r0", "tester/lab/r1"]
    row = source.rows[0]
    assert schema.identity(row["config"]) == cfg.identity()
    assert row["config"] == cfg.flat()
    assert (row["source"], row["study"], row["name"], row["state"]) == ("wandb", "small", "rope-0", "finished")
    assert (row["steps"], row["tokens"], row["seconds"], row["parameters"]) == (20, 1280, 4, 41000)
    assert (row["tokens_per_s"], row["floor_unigram"], row["train_flops_per_token"]) == (320, 4.8, 212160)
    assert math.isnan(row["peak_memory_gb"])
    assert row["summary"]["val/bpb"] == 2
    assert not {"state", "sample", "_step"} & row["summary"].keys()
    assert (row["env"]["commit"], row["env"]["cpu"], row["env"]["kernel"]) == ("abc", "a cpu", "math")
    assert row["env"]["packages"] == "python 3.11.7, torch 2.15.0"
    assert row["env"]["started"] == "2026-01-01T00:00:00Z"
    assert source.sweep is not None
    assert source.sweep.path == Path("small.yaml")
    design = source.sweep.design
    assert (design.study, design.question, design.factors) == ("small", "Which?", ("position",))
    assert (design.baseline, design.values["position"]) == ({"position": "rope"}, ("rope", "alibi"))
    assert source.notes == []
    assert server.unknown == []
    assert not list(tmp_path.rglob("r0")), "wandb.Api makes a folder for each run"


def test_swept_null_and_preset(server: SweepDouble) -> None:
    """An agent's values stand over the run's own: null as text, a preset's name over the flags that it chose."""
    cfg = put(server, "r0")
    assert cfg.flat()["batch.micro"] is None
    server.runs["r0"].config |= {"batch.micro": {"value": "null"}, "model": {"value": "llama"}, "scale": {"value": "x"}}
    (row,) = wandb_server.load("wandb:tester/lab").rows
    assert row["config"] == cfg.flat()


def test_sweep_without_block(server: SweepDouble) -> None:
    """A server that dropped the lab's block still says what was swept; one that says nonsense is a note."""
    bare = {key: value for key, value in SWEEP.items() if key != "gpt_lab"}
    server.sweeps["s0"] = RecordedSweep("s0", "lab", "tester", yaml.dump({**bare, "controller": {"type": "cloud"}}))
    server.sweeps["s1"] = RecordedSweep(
        "s1", "lab", "tester", yaml.dump({**bare, "parameters": {"widht": {"value": 1}}})
    )
    sweep = wandb_server.load("wandb:tester/lab/s0").sweep
    assert sweep is not None
    assert (sweep.design.study, sweep.design.factors, sweep.design.baseline) == ("small", ("position",), None)
    put(server, "r0", sweep="s1")
    source = wandb_server.load("wandb:tester/lab/s1")
    assert source.sweep is None
    (note,) = source.notes
    assert note.startswith("the sweep that W&B keeps is not used: s1: unknown parameter 'widht'")


def test_project_and_group(server: SweepDouble) -> None:
    put(server, "r0")
    put(server, "r1", group="other")
    put(server, "r2", job_type="report")
    assert [row["run"] for row in wandb_server.load("wandb:tester/lab").rows] == ["tester/lab/r0", "tester/lab/r1"]
    source = wandb_server.load("wandb:tester/lab/group=other")
    assert ([row["run"] for row in source.rows], source.sweep) == (["tester/lab/r1"], None)


def test_curves(server: SweepDouble) -> None:
    """Every logged step, however many and however far apart; rows of one step are one line."""
    put(server, "r0")
    put(server, "r1", seed=1)
    put(server, "r2", seed=2)
    rows = [{"step": 50 * k, "tokens": 64 * k, "train/loss": 5.0 - k / 1000} for k in range(1, 1501)]
    rows[-1]["val/bpb"] = 2.5
    log(server, "r0", rows)
    log(server, "r1", [{"step": 1, "train/loss": math.nan, "sample": {"_type": "html-file", "size": 3}}])
    source = wandb_server.load("wandb:tester/lab/group=small")
    assert "HistoryPage" not in server.operations, "curves are read when asked for"
    found = source.curves(["tester/lab/r1", "tester/lab/r0", "tester/lab/r2"])
    assert list(found) == ["tester/lab/r1", "tester/lab/r0", "tester/lab/r2"]
    curve = found["tester/lab/r0"]
    assert list(curve.columns) == ["step", "tokens", "train/loss", "val/bpb"]
    assert curve["step"].tolist() == [row["step"] for row in rows]
    assert curve["train/loss"].tolist() == [row["train/loss"] for row in rows]
    assert curve["val/bpb"].dropna().tolist() == [2.5]
    assert list(found["tester/lab/r1"].columns) == ["step", "train/loss"]
    assert math.isnan(found["tester/lab/r1"]["train/loss"][0])
    assert found["tester/lab/r2"].empty


OURS = {"signature": "s"}


@pytest.mark.parametrize(
    "state, config, summary, expected",
    [
        ("finished", OURS, {"state": "finished"}, "finished"),
        ("finished", {}, {}, "finished"),
        ("running", OURS, {}, "running"),
        ("running", OURS, {"state": "stopped", "steps": 5}, "running"),
        ("running", OURS, {"state": "finished"}, "running"),
        ("pending", {}, {}, "missing"),
        ("killed", OURS, {"state": "stopped", "steps": 5}, "stopped: stopped at step 5: the same command resumes it"),
        ("failed", OURS, {"state": "diverged", "diverged/step": 7}, "diverged: diverged at step 7"),
        ("failed", OURS, {"state": "failed"}, "failed: failed (W&B says: failed)"),
        ("failed", OURS, {}, "stopped: killed while running: the same command resumes it"),
        ("crashed", OURS, {}, "stopped: killed while running: the same command resumes it"),
        ("crashed", OURS, {"state": "finished"}, "finished"),
        ("failed", {}, {}, "failed: failed (W&B says: failed)"),
        ("crashed", {}, {}, "stopped: stopped at step ?: the same command resumes it"),
    ],
)
def test_states(state: str, config: dict[str, Any], summary: dict[str, Any], expected: str) -> None:
    found, error = state_of(state, config, summary)
    assert (f"{found}: {error}" if error else found) == expected


@pytest.mark.parametrize("address", ["wandb:", "wandb:tester", "tester/lab", "wandb:tester//s0", "wandb:a/b/group="])
def test_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="is no W&B address: write wandb:ENTITY/PROJECT/SWEEP"):
        wandb_server.load(address)


def test_no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match=r"^wandb:a/b: reading W&B needs a login: run `uv run wandb login`"):
        wandb_server.load("wandb:a/b")


def test_nothing_there(server: SweepDouble) -> None:
    put(server, "r0")
    for address, message in {
        "wandb:tester/nope": "W&B says: Could not find project nope",
        "wandb:tester/lab/nope": "no sweep 'nope' in tester/lab: its id is the end of its address",
        "wandb:tester/lab/group=nope": "no run there",
    }.items():
        with pytest.raises(DataError) as caught:
            wandb_server.load(address)
        text = str(caught.value)
        assert text.startswith(f"{address}: {message}") and "\n" not in text


def test_server_refuses(server: SweepDouble) -> None:
    server.trouble = "forbidden"
    with pytest.raises(DataError, match=r"^wandb:tester/lab: W&B says: .*credentials"):
        wandb_server.load("wandb:tester/lab")


def test_no_server(server: SweepDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_server, "PROBE", 0.3)
    server.trouble = "hang"
    with pytest.raises(DataError, match=r"^wandb:tester/lab: W&B cannot be reached \(http.*timed out\)$"):
        wandb_server.load("wandb:tester/lab")
    server.stop()
    with pytest.raises(DataError, match="cannot be reached .*refused"):
        wandb_server.load("wandb:tester/lab")


@pytest.mark.parametrize("moment", ["listing", "history"])
def test_server_falls_silent(server: SweepDouble, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Bounded, wherever it happens; a later attempt works."""
    monkeypatch.setattr(wandb_server, "TIMEOUT", 1)
    monkeypatch.setattr(wandb_server, "PATIENCE", 1.0)
    put(server, "r0")
    log(server, "r0", [{"step": 1, "train/loss": 5.0}])
    source = wandb_server.load("wandb:tester/lab")

    def hang(variables: dict[str, Any]) -> dict[str, Any]:
        server.trouble = "hang"
        return server.answer("POST", "/", b"")

    name = {"listing": "on_Runs", "history": "on_HistoryPage"}[moment]
    setattr(server, name, hang)
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"^wandb:tester/lab: "):
        _ = wandb_server.load("wandb:tester/lab") if moment == "listing" else source.curves(["tester/lab/r0"])
    assert time.monotonic() - begin < 15
    delattr(server, name)
    server.trouble = "none"
    monkeypatch.undo()
    for key, value in server.environment().items():
        monkeypatch.setenv(key, value)
    again = wandb_server.load("wandb:tester/lab")
    assert again.curves(["tester/lab/r0"])["tester/lab/r0"]["train/loss"].tolist() == [5.0]
