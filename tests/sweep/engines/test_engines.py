"""What engines are asked and refuse, the text of the sbatch file, and what a ledger says at a glance."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from gpt_lab.cli import sweep as command
from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.study import sweep_file
from gpt_lab.sweep.engines import show_workers
from gpt_lab.sweep.engines.worker_request import Request
from gpt_lab.sweep.ledger import ledger as ledger_
from gpt_lab.sweep.ledger import overview
from gpt_lab.sweep.ledger.ledger import Ledger
from tests.sweep.sweep_helpers import fake_cells, write_sweep


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--on", "slrum"], "unknown engine 'slrum'; did you mean 'slurm'?"),
        (["--on", "ssh:"], "'' is no host; ssh:HOST,HOST is expected"),
        (["--on", "ssh:-oProxyCommand=x"], "is no host"),
        (["--on", "local", "--sbatch", "time=1:00"], "--sbatch is for --on slurm, not for local"),
        (["--on", "slurm", "--sbatch", "array=1-3"], "--sbatch array: --workers and --array-limit say it"),
        (["--on", "slurm", "--sbatch", "time=1", "--sbatch", "time=2"], "--sbatch time is given twice: '1' and '2'"),
        (["--on", "slurm", "--sbatch", "=3"], "an option of sbatch is expected"),
        (["--on", "local", "--resource", "num_gpus=1"], "--resource is for --on ray, not for local"),
        (["--on", "ray", "--resource", "num_gpus=0"], "'num_gpus=0': name=number is expected, as num_gpus=1"),
        (["--on", "ray", "--resource", "a=1", "--resource", "a=2"], "--resource a is given twice: 1 and 2"),
        (["--on", "ray:"], "unknown engine 'ray:'; did you mean 'ray'?"),
        (["--resource", "num_gpus=1"], "--resource is for workers that --on starts"),
        (["--on", "local", "--report"], "--on leaves before there is anything to report"),
        (["--workers", "3"], "--workers is for workers that --on starts"),
        (["--status", "--jobs", "3"], "--status takes the file and its settings, nothing else"),
        (["--per-gpu", "2", "--jobs", "2"], "--per-gpu and --jobs both say how many trials at a time"),
        (["--per-gpu", "auto", "--dry-run"], "--per-gpu auto is measured when the sweep begins"),
        (["--per-gpu", "2", "--dry-run"], "--per-gpu: there is no GPU that the runs would use"),
        (["--per-gpu", "2", "--on", "slurm"], "--per-gpu: there is no GPU that the runs would use"),
        (["--status", "--stop"], "--status and --stop: leave one out"),
    ],
)
def test_what_makes_no_sense_is_one_line(tmp_path: Path, words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        command.run([str(write_sweep(tmp_path)), *words])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_the_sbatch_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    path = write_sweep(folder)
    words = ["--on", "slurm", "--workers", "6", "--array-limit", "2", "--jobs", "3", "--threads", "2", "--seeds", "2"]
    assert command.run([str(path), *words, "--sbatch", "exclusive", "--sbatch", "comment=two words", "--dry-run"]) == 0
    first, text = capsys.readouterr().out.split("\n", 1)
    assert first == f"would write and submit {folder}/runs/tiny/workers/slurm.sbatch:"
    for line in ("array=1-6%2", "requeue", "signal=B:TERM@120", "open-mode=append", "cpus-per-task=6", "exclusive"):
        assert f"#SBATCH --{line}\n" in text
    assert '#SBATCH --comment="two words"\n' in text
    assert f"-m gpt_lab.cli.sweep '{path}' --seeds 2 --jobs 3 --threads 2 --stops 0 &\n" in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert not (folder / "runs").exists()


def test_a_worker_has_cores_for_every_rank_of_its_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sweep(tmp_path, fixed={"parallel": "ddp", "gpus_per_trial": 2})
    assert command.run([str(path), "--on", "slurm", "--jobs", "3", "--threads", "4", "--dry-run"]) == 0
    assert "#SBATCH --cpus-per-task=24\n" in capsys.readouterr().out


def test_a_job_that_slurm_refuses_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'no such partition' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LabError, match="sbatch refuses the job .*: no such partition"):
        command.run([str(write_sweep(tmp_path)), "--on", "slurm"])
    assert not list(tmp_path.rglob("slurm.sbatch"))


def test_trials_that_share_a_gpu_need_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    path = write_sweep(tmp_path, fixed={"device": "auto"})
    with pytest.raises(ConfigError, match="GPU"):
        command.run([str(path), "--on", "local", "--per-gpu", "2"])
    assert not (tmp_path / "runs").exists()


def test_a_host_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text("#!/bin/sh\necho 'no route to it' >&2\nexit 255\n", encoding="utf-8")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=":")
    with pytest.raises(LabError, match=r"^no worker starts on far: no route to it$"):
        command.run([str(write_sweep(tmp_path)), "--on", "ssh:far"])


def test_tasks_of_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--on", "ray", "--workers", "3", "--threads", "2", "--resource", "num_gpus=0.5", "--resource", "blue=1"]
    path = write_sweep(tmp_path, fixed={"device": "auto"})
    assert command.run([str(path), *words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("would start 3 tasks of Ray, num_cpus=2, num_gpus=0.5, blue=1 each: ")
    assert "--jobs 1 --threads 2 --stops 0" in said
    assert command.run([str(path), *words, "--per-gpu", "4", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "num_cpus=8" in said and " --per-gpu 4 --threads 2 --stops 0" in said
    assert not (tmp_path / "runs").exists()


def test_a_large_ledger_at_a_glance(tmp_path: Path) -> None:
    """10,000 trials in under a second; two workers, failures with their last line, a stop that is counted."""
    sweep = sweep_file.load(write_sweep(tmp_path))
    folder = tmp_path / "runs" / "tiny"
    ledger = Ledger.open(folder)
    ledger.begin(sweep, fake_cells(10_000))
    taken = [ledger.claim() for _ in range(4)]
    assert all(taken)
    keys = [entry.key for entry in taken if entry is not None]
    ledger.end(keys[0], "finished", score=1.0, seconds=30.0)
    ledger.end(keys[1], "finished", score=1.0, seconds=50.0)
    ledger.fail(keys[2], "first line\nout of memory\n", 0)
    begun = time.perf_counter()
    lines = show_workers.status(sweep, folder)
    assert time.perf_counter() - begun < 1
    text = "\n".join(lines)
    assert lines[0] == "tiny: 10000 trials: 9996 waiting, 1 running, 2 finished, 1 failed"
    assert f"process {ledger.owner.pid}, heartbeat 4: norm=a, seed=3" in lines[1]
    assert "rate: about 90 trials an hour" in text
    assert "time left: about 111 h 4 min of training with these workers" in text, "9,997 trials of 40 s, one at a time"
    assert text.endswith(": failed: out of memory")
    assert show_workers.stop(sweep, folder) == ["asked 1 worker to leave: they hear of it within 5 s"]
    assert ledger.stops() == ledger_.stops(folder) == 1
    assert len((overview.read(folder) or pytest.fail("no ledger")).workers) == 1, "who asks is no worker"
    ledger.close()
    assert show_workers.status(sweep, folder)[1] == "nobody trains at present"


def test_a_worker_that_comes_too_late_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sweep(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    with pytest.raises(DataError, match="no worker has begun a trial there"):
        show_workers.stop(sweep_file.load(path), folder)
    (folder / "workers").mkdir(parents=True)  # asked for, and still queued: there is no ledger
    assert "workers that are queued leave as soon as they begin" in show_workers.stop(sweep_file.load(path), folder)[0]
    assert command.run([str(path), "--stops", "0"]) == 0
    assert "the sweep was stopped before this worker began" in capsys.readouterr().out


def test_other_machines_are_refused_beside_a_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sqlite cannot leave it while a worker has it open, and other machines cannot share it."""
    monkeypatch.setattr("gpt_lab.sweep.ledger.database.BUSY_SECONDS", 0.2)
    folder = tmp_path / "runs" / "tiny"
    request = Request("tiny", folder, ("tiny.yaml",), 1, None, None, tmp_path)
    at_work = Ledger.open(folder)
    with pytest.raises(LabError, match="--stop them first, then --on again"):
        request.prepare(shared=True)
    at_work.beat()
    Ledger.open(folder).close()  # and nobody is locked out
    at_work.close()
    request.prepare(shared=True)
    Ledger.open(folder).close()
