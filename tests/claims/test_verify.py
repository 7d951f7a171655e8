"""`verify`: real runs come out identical; planted differences are found, and only by the tolerance that was stated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.claims import code, folder, rerun, selection
from gpt_lab.cli import report, verify
from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.report import write
from gpt_lab.store import Run
from gpt_lab.store.atomic_files import read_json, write_json
from tests.processes import commands
from tests.sweep.sweep_helpers import write_sweep

CLEAN = code.Version("c" * 40, False)


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    """Those of a claim's report are in tests/claims/test_folder.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "draw", lambda *material: [])
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real trainings: a learning rate of almost nothing learns less."""
    place = tmp_path_factory.mktemp("study")
    block = {"baseline": {"optim.lr": 0.01}, "sesoi": 0.001}
    path = write_sweep(place, {"optim.lr": [0.01, 1e-7], "seed": [0, 1, 2]}, gpt_lab=block)
    done = commands.run(["sweep", str(path), "--jobs", "1"], place)
    assert done.returncode == 0, done.stdout + done.stderr
    for record in place.glob("runs/*/*/run.json"):
        edit(record, git={"commit": CLEAN.commit, "dirty": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "of_this_checkout", lambda: CLEAN)
        assert report.run([str(path), "--claim", "slow", "--out", str(place / "slow")]) == 0
    return place


@pytest.fixture
def here(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the claim `slow`; the records of the runs and the corpus are put back at the end."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs / "slow", "claims/slow")
    kept = [runs / "words.txt", *runs.glob("runs/*/*/run.json")]
    texts = {path: path.read_bytes() for path in kept}
    monkeypatch.setattr(code, "of_this_checkout", lambda: CLEAN)
    yield runs
    for path, text in texts.items():
        path.write_bytes(text)


def edit(path: Path, **changes: Any) -> None:
    """Changes keys of a run.json; a mapping's keys one by one."""
    raw = read_json(path)
    for key, value in changes.items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) and raw.get(key) else value
    write_json(path, raw)


def claim() -> folder.Claim:
    return folder.read(Path("claims/slow"))


def claim_again(runs: Path) -> folder.Claim:
    """Of records that were edited."""
    assert report.run([str(runs / "tiny.yaml"), "--claim", "slow", "--force"]) == 0
    return claim()


def record_of(runs: Path, lr: float, seed: int) -> Path:
    for path in runs.glob("runs/*/*/run.json"):
        config = json.loads(path.read_text())["config"]
        if (config["optim.lr"], config["seed"]) == (lr, seed):
            return path
    raise LookupError((lr, seed))


def verified(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    status = verify.run(["slow", *words])
    return status, capsys.readouterr().out


@pytest.mark.slow
def test_real_runs_are_identical(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = claim()
    assert (made.folder / "sweep.yaml").read_text() == (here / "tiny.yaml").read_text()
    assert made.content["sweep"] == {"path": str(here / "tiny.yaml"), "overrides": []}
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert verify.run(["slow"]) == 0
    out, progress = capsys.readouterr()
    assert progress.splitlines() == ["run 1 of 2: optim.lr=0.01, seed=0", "run 2 of 2: optim.lr=1e-07, seed=0"]
    lines = out.splitlines()
    assert "claim slow of " in lines[0] and "lr=1e-07 is worse" in lines[0]
    for lr in ("0.01", "1e-07"):
        (cell,) = [c for c in made.cells if c["arm"] == f"optim.lr={lr}" and c["pair"] == "0"]
        said = f"val/bpb {cell['score']!r}, to the last bit; data, parameters and tokens too"
        assert f"optim.lr={lr}, seed=0: identical: {said}" in lines
    assert lines[-1] == "verified: 2 of 2 runs"
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
    status, out = verified(capsys, "--cells", "3", "--runs-dir", "again")
    assert (status, out.count(": identical: "), out.splitlines()[-1]) == (0, 3, "verified: 3 of 3 runs")
    (kept,) = Path("again").iterdir()
    assert out.splitlines()[-2] == f"runs in {kept}"
    commands = {Run.open(path).record["command"].split()[0] for path in kept.iterdir()}
    assert commands == {"train"}  # what repeats the run, not what checks the claim
    assert len(list(kept.glob("*/run.json"))) == 3 and all(Run.open(p).state == "finished" for p in kept.iterdir())
    assert verified(capsys, "--cells", "1", "--runs-dir", "again")[0] == 0  # trained anew, not found there
    assert len(list(Path("again").iterdir())) == 2


@pytest.mark.slow
def test_a_score_that_was_never_reached(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last bit counts where code, CPU, threads and torch are the same, and a tolerance is what the user says."""
    path = record_of(here, 0.01, 0)
    score = json.loads(path.read_text())["summary"]["val/bpb"]
    edit(path, summary={"val/bpb": score + 1e-9})
    claim_again(here)
    status, out = verified(capsys, "--cell", "0.01,0")
    assert status == 1
    assert "optim.lr=0.01, seed=0: different: " in out and "-1e-09" in out
    assert "same code, CPU, threads and torch: equal to the last bit" in out
    assert out.splitlines()[-1] == "not verified: 1 of 1 runs differ from what is claimed"
    status, out = verified(capsys, "--cell", "0.01,0", "--tolerance", "1e-6")
    assert status == 0 and "within noise: " in out and "1e-06 would be noise (as asked for)" in out
    assert verified(capsys, "--cell", "0.01,0", "--tolerance", "1e-10")[0] == 1
    status, out = verified(capsys, "--cell", "0.01,1", "--cell", "0.01,0")
    assert status == 1 and "seed=1: identical" in out and "1 of 2 runs differ" in out


@pytest.mark.slow
@pytest.mark.parametrize("shift, word, status", [(1.9, "within noise", 0), (2.1, "different", 1)])
def test_noise_on_another_machine(
    here: Path, capsys: pytest.CaptureFixture[str], shift: float, word: str, status: int
) -> None:
    """Twice the run sd of the claim, which the claim itself states."""
    path = record_of(here, 0.01, 0)
    edit(path, hardware={"cpu": "another CPU"})
    sd = claim_again(here).content["run_sd"]
    assert sd > 0
    score = json.loads(path.read_text())["summary"]["val/bpb"]
    content = claim().content
    for cell in content["cells"]:
        if (cell["arm"], cell["pair"]) == ("optim.lr=0.01", "0"):
            cell["score"] = score + shift * sd
    forge(content)
    found, out = verified(capsys, "--cell", "0.01,0")
    assert found == status and f"seed=0: {word}: " in out
    assert "2 sd of a run, as the CPU is " in out and "and was another CPU" in out


def forge(content: dict[str, Any]) -> None:
    """A claim that says something else, with a digest that fits."""
    write_json(Path("claims/slow/claim.json"), content)


@pytest.mark.slow
def test_other_data_another_model_or_budget_are_found_before_training(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = here / "words.txt"
    corpus.write_text(corpus.read_text() + "whether it is nobler\n")
    status, out = verified(capsys, "--runs-dir", "again")
    assert status == 1 and "different: the data are others: fingerprint " in out
    assert not Path("again").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "key, said", [("parameters", " parameters, claimed "), ("tokens", " tokens, claimed "), ("data", "the data are")]
)
def test_facts_that_were_never_so(here: Path, capsys: pytest.CaptureFixture[str], key: str, said: str) -> None:
    content = claim().content
    for cell in content["cells"]:
        cell[key] = "0" * 16 if key == "data" else cell[key] + 1
    forge(content)
    status, out = verified(capsys, "--runs-dir", "again", "--tolerance", "10")
    assert status == 1 and said in out and not Path("again").exists()


@pytest.mark.slow
def test_what_is_said_of_the_code(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "of_this_checkout", lambda: code.Version("d" * 40, True))
    status, out = verified(capsys, "--cells", "1")
    assert status == 0 and ": identical: " in out
    assert "this checkout is commit dddddddddddd with uncommitted changes" in out
    assert "code: the run was made by commit cccccccccccc, this checkout is commit dddddddddddd" in out


def prepared(made: folder.Claim, cell: dict[str, Any], store: Path, tolerance: float | None = None) -> rerun.Prepared:
    return rerun.Prepared(made, cell, store, "again", tolerance)


@pytest.mark.slow
def test_what_a_run_is_held_to(here: Path, tmp_path: Path) -> None:
    made = claim()
    (cell,) = selection.choose(made, number=1)
    assert prepared(made, cell, tmp_path).tolerance == 0
    assert prepared(made, cell, tmp_path, 0.5).tolerance == 0.5
    (env,) = made.content["environment"]["runs"]
    sd = made.content["run_sd"]
    for changes, said in (
        ({"cpu": "x"}, "the CPU is"),
        ({"threads": None}, "the number of threads is not known"),
        ({"precision": "bf16"}, "precision is fp32, and was bf16"),
        ({"device": "cuda"}, "device is cpu, and was cuda"),
        ({"compile": "on"}, "compile is off, and was on"),
        ({"packages": "python 3.11.7, torch 1.0"}, "and was 1.0"),
        ({"commit": None}, "code of no known commit"),
        ({"dirty": True}, "with uncommitted changes"),
    ):
        made.content["environment"]["runs"][0] = {**env, **changes}
        found = prepared(made, cell, tmp_path)
        assert found.tolerance == pytest.approx(2 * sd) and said in found.basis
        assert found.basis.startswith("2 sd of a run, as ")
    made.content["run_sd"] = None
    with pytest.raises(ConfigError, match="knows no noise: say with --tolerance X"):
        prepared(made, cell, tmp_path)
    assert prepared(made, cell, tmp_path, 0.1).tolerance == 0.1
    made.content["environment"]["runs"][0] = env
    made.content["design"]["metric"] = "perf/tokens_per_s"
    made.content["run_sd"] = 5.0
    found = prepared(made, cell, tmp_path)
    assert (found.tolerance, found.basis) == (10.0, "2 sd of a run, as perf/tokens_per_s is measured by the clock")


@pytest.mark.slow
def test_a_config_that_means_another_run(here: Path, tmp_path: Path) -> None:
    made = claim()
    (cell,) = selection.choose(made, number=1)
    with pytest.raises(ConfigError, match="means another run to this code .* check out cccc"):
        prepared(made, {**cell, "identity": "0" * 12}, tmp_path)
    path = made.folder / cell["config"]
    path.write_text(path.read_text().replace("name: adamw", "name: adamv"))
    with pytest.raises(ConfigError, match="is no config of this code: .*adamw"):
        prepared(made, cell, tmp_path)


@pytest.mark.parametrize(
    "score, tolerance, word",
    [
        (2.0, 0.0, "identical"),
        (2.0 + 2**-51, 0.0, "different"),
        (2.25, 0.25, "within noise"),
        (1.75, 0.25, "within noise"),
        (2.2500001, 0.25, "different"),
        (float("nan"), 0.25, "different"),
        (float("inf"), 0.25, "different"),
        (None, 0.25, "different"),
    ],
)
def test_the_three_words(score: float | None, tolerance: float, word: str) -> None:
    assert rerun.judge(2.0, score, tolerance, "").word == word
    assert rerun.judge(2.0, score, tolerance, "", ("the data are others",)).word == "different"


@pytest.mark.slow
def test_a_run_that_diverges_or_is_stopped(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt_lab.train import start
    from gpt_lab.train.ending import Result

    diverged = Result(Path("x"), "diverged", {"diverged/step": 7})
    monkeypatch.setattr(start, "run_training", lambda *words: diverged)
    status, out = verified(capsys, "--cells", "1")
    assert status == 1 and "different: the new run diverged at step 7" in out
    stopped = Result(Path("x"), "stopped", {}, signal_number=15)
    monkeypatch.setattr(start, "run_training", lambda *words: stopped)
    status, out = verified(capsys, "--cells", "1")
    assert status == 143 and out.splitlines()[-1] == "interrupted: the claim is neither verified nor refuted"


@pytest.mark.parametrize(
    "words, message",
    [
        (["nosuch"], "no claim 'nosuch': `uv run report STUDY --claim NAME` makes one"),
        (["x", "--cells", "0"], "a whole number from 1 to 100,000 is expected, not '0'"),
        (["x", "--tolerance", "-1"], "--tolerance must be 0 or a positive number, not -1"),
        (["x", "--tolerance", "nan"], "--tolerance must be 0 or a positive number"),
        (["x", "--all", "--cells", "2"], "not allowed with argument"),
        ([], "the following arguments are required: CLAIM"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabError) as caught:
        verify.run(words)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_touched_claim_is_not_run(here: Path) -> None:
    path = Path("claims/slow/seeds.csv")
    path.write_text(path.read_text() + "more\n")
    with pytest.raises(DataError, match="seeds.csv was edited or is damaged"):
        verify.run(["slow", "--runs-dir", "again"])
    assert not Path("again").exists()
