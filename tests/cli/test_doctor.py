"""`doctor`: what it finds on this machine, and what it says on one that lacks something."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from gpt_lab import doctor
from gpt_lab.cli import doctor as cli
from gpt_lab.kernels import available


def found(rows: list[doctor.Finding], section: str, name: str) -> doctor.Finding:
    (row,) = [row for row in rows if (row.section, row.name) == (section, name)]
    return row


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    text = capsys.readouterr().out
    assert text.rstrip().endswith("Ready to train: uv run train")
    assert max(map(len, text.splitlines())) <= 120, "as wide as COLUMNS says"


def test_json_has_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["can_train"] is True
    assert {row["section"] for row in tree["rows"]} == {section for section, _, _ in doctor.CHECKS}
    versions = {row["name"]: row["found"] for row in tree["rows"] if row["section"] == "packages"}
    assert versions["torch"] == importlib.metadata.version("torch")
    kernels = {row["name"]: row["state"] for row in tree["rows"] if row["section"] == "kernels"}
    assert kernels == {name: "note" if reason else "ok" for name, reason in available().items()}


def test_whatever_is_missing_says_how_to_get_it() -> None:
    for row in doctor.examine():
        assert row.state != "missing" or row.fix
        assert row.found


def test_missing_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "tokenizers":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "rich" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    rows = list(doctor.packages())
    assert found(rows, "packages", "tokenizers").state == "missing"
    assert found(rows, "packages", "tokenizers").fix == "uv sync"
    assert found(rows, "packages", "rich").found == "0.1, but >=14"
    assert not doctor.can_train(rows)
    assert cli.run([]) == 1
    assert "Not ready to train" in capsys.readouterr().out


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    row = found(list(doctor.compiler()), "compiler", "C++")
    assert row.state == "missing"
    assert "no-such-compiler" in row.found
    assert doctor.can_train([row]), "training works without torch.compile"


def test_a_cuda_machine_without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    (row,) = doctor.gpu()
    assert row.state == "missing"
    assert "driver" in row.fix


def test_a_cuda_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    device = namedtuple("Device", "name total_memory major minor")("H200", 139 * 2**30, 9, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: device)
    monkeypatch.setattr(
        doctor, "_auto_precision", lambda device: doctor.Finding("gpu", "precision=auto", "note", device)
    )
    row, fp8, recorded, precision = doctor.gpu()
    assert row.found.startswith("H200, 139 GiB, capability 9.0")
    assert fp8.name == "precision=fp8" and "never run" in fp8.found
    assert (recorded.state, recorded.found) == ("note", "no run on H200 has been recorded")
    assert "doctor --cuda" in recorded.fix
    assert precision.found == "cuda"


def test_an_apple_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    row, recorded, precision = doctor.gpu()
    assert (row.name, row.state) == ("mps", "ok")
    assert "doctor --mps" in recorded.fix
    assert precision.found.startswith("fp32: ")


def test_read_only_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path / "deep" / "cache"))
    row = found(list(doctor.disk()), "disk", "cache")
    assert row.state == "missing"
    assert "Permission denied" in row.found and "GPT_LAB_CACHE" in row.fix
    assert not doctor.can_train([row])
    assert not (tmp_path / "deep").exists(), "the doctor leaves nothing behind"


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path))
    usage = namedtuple("Usage", "total used free")(10**12, 10**12, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert found(list(doctor.disk()), "disk", "cache").state == "missing"


@pytest.mark.parametrize(
    "mode, key, state, words",
    [
        (None, False, "note", "not logged in; tracker=auto is offline"),
        (None, True, "ok", "logged in (WANDB_API_KEY); tracker=auto is online"),
        ("offline", True, "ok", "tracker=auto is offline (WANDB_MODE)"),
        ("online", False, "missing", "not logged in, but tracker=auto is online (WANDB_MODE)"),
        ("ofline", False, "missing", "did you mean 'offline'"),
    ],
)
def test_login(
    mode: str | None, key: bool, state: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    (row,) = doctor.tracking()
    assert row.state == state
    assert words in row.found
    assert "k" * 40 not in row.found, "a key is never shown"
    assert bool(row.fix) == (not key)


def test_a_check_that_breaks_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[doctor.Finding]:
        raise RuntimeError("no such thing\nsecond line")

    monkeypatch.setattr(doctor, "CHECKS", (("cpu", broken, True), ("disk", doctor.disk, True)))
    rows = doctor.examine()
    assert rows[0].found == "RuntimeError: no such thing"
    assert rows[1].section == "disk"
    assert not doctor.can_train(rows)
