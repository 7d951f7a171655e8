"""A claim's folder: all that it holds, whole or not there, and refused once it was touched."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_lab.claims import folder, selection
from gpt_lab.cli import report, verify
from gpt_lab.config import checked
from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.store.atomic_files import write_json
from tests.helpers import flip, tiny_config
from tests.report.stores import finished, save, study

WORDS = ["runs/pos", "--baseline", "rope", "--sesoi", "0.02", "--claim", "alibi-hurts"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alibi clearly worse, learned the same, a run that diverged and one that was killed; and the claim of it."""
    place = tmp_path_factory.mktemp("made")
    runs = place / "runs"
    study(runs, {"rope": 0.0, "alibi": 0.4, "learned": 0.0005}, seeds=4)
    save(runs, tiny_config(study="pos", position="none", seed=0)).finish("diverged", {"diverged/step": 3})
    save(runs, tiny_config(study="pos", position="none", seed=1))
    with contextlib.chdir(place):
        assert report.run(WORDS) == 0
    return place


@pytest.fixture
def claim(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("claims/alibi-hurts")


@pytest.fixture
def runs(claim: Path) -> Path:
    """The runs alone."""
    shutil.rmtree("claims")
    return Path("runs/pos")


def test_it_holds_the_claim_and_the_report(claim: Path) -> None:
    for name in ("report.html", "report.md", "runs.csv", "runs.parquet", "figures/forest.svg", "seeds.csv"):
        assert (claim / name).stat().st_size > 100, name
    assert not Path("runs/pos/report").exists()
    assert [path.name for path in Path("claims").iterdir()] == ["alibi-hurts"]  # nothing is left of the making
    read = folder.read(claim)
    content = read.content
    assert (read.name, content["design"]["metric"], content["sesoi"]) == ("alibi-hurts", "val/bpb", 0.02)
    assert content["design"]["baseline"] == "position=rope"
    arms = {arm["arm"]: arm for arm in read.arms}
    alibi = arms["position=alibi"]
    assert (alibi["verdict"], alibi["tier"], alibi["n"]) == ("worse", "screen", 4)
    scores = {(c["arm"], c["pair"]): c["score"] for c in read.cells if c["counts"]}
    assert len(scores) == 12
    differences = [scores["position=alibi", str(s)] - scores["position=rope", str(s)] for s in range(4)]
    assert alibi["delta"]["estimate"] == pytest.approx(sum(differences) / 4, rel=1e-12)
    assert alibi["delta"]["low"] < alibi["delta"]["estimate"] < alibi["delta"]["high"]
    with open(claim / "seeds.csv", newline="") as file:
        rows = {(row["arm"], row["pair"]): row for row in csv.DictReader(file)}
    assert {key: float(row["score"]) for key, row in rows.items() if row["counts"] == "yes"} == scores
    assert [float(rows["position=alibi", str(s)]["difference"]) for s in range(4)] == differences
    assert rows["position=rope", "0"]["difference"] == ""
    assert (rows["position=none", "0"]["state"], rows["position=none", "0"]["counts"]) == ("diverged", "no")
    assert (rows["position=none", "1"]["state"], rows["position=none", "1"]["score"]) == ("stopped", "")
    variances = [sum((scores[a, str(s)] - arms[a]["mean"]) ** 2 for s in range(4)) / 3 for a in arms if arms[a]["mean"]]
    assert 0.5 * min(variances) < content["run_sd"] ** 2 < 2 * max(variances)


def test_every_config_is_that_of_its_run(claim: Path) -> None:
    for cell in folder.read(claim).cells:
        cfg = checked.from_dict(yaml.safe_load((claim / cell["config"]).read_text()))
        assert cfg.identity() == cell["identity"]
        assert f"position={cfg.position['name']}" == cell["arm"] and str(cfg.seed) == cell["pair"]
        assert cell["overrides"] == [f"position={cfg.position['name']}", f"seed={cfg.seed}"]
        assert cell["data"] == "fingerprint"


def test_it_says_where_it_ran(claim: Path) -> None:
    content = folder.read(claim).content
    (shared,) = content["environment"]["runs"]
    assert (shared["commit"], shared["cpu"], shared["device"]) == ("a" * 40, "a CPU", "cpu")
    assert "torch 2.11.0" in shared["packages"]
    assert {"cpu", "packages"} <= set(content["environment"]["made_on"])
    assert {cell["environment"] for cell in content["cells"]} == {0}
    assert content["code"]["commit"] and (content["code"]["diff"] is not None) == (claim / "code.diff").exists()


def test_another_claim_stays(claim: Path) -> None:
    before = {path: path.read_bytes() for path in claim.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="is a claim already: choose another name, or replace it with --force"):
        report.run(WORDS)
    assert {path: path.read_bytes() for path in claim.rglob("*") if path.is_file()} == before
    shutil.rmtree("runs/pos/" + next(p.name for p in Path("runs/pos").iterdir() if p.name.startswith("learned")))
    (claim / "mine.txt").write_text("of an older claim")
    assert report.run([*WORDS, "--force"]) == 0
    assert not (claim / "mine.txt").exists()
    assert len([c for c in folder.read(claim).cells if c["arm"] == "position=learned"]) == 3
    assert [path.name for path in Path("claims").iterdir()] == ["alibi-hurts"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--claim", "../x"], "must be a plain folder name"),
        (["--claim", "x", "--out", "runs"], "runs exists and is no claim"),
        (["--claim", "x", "--out", "runs", "--force"], "runs exists and is no claim"),
        (["--claim", "x", "--no-files"], "--no-files and --claim contradict"),
        (["--force"], "--force replaces a claim"),
        (["--claim", "x"], "no baseline is stated, so there is nothing to claim"),
    ],
)
def test_refusals_write_nothing(runs: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        report.run(["runs/pos", *words])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("claims").exists() and (Path("runs") / "pos").is_dir()


def test_a_failure_leaves_what_was_there(claim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last file cannot be written: the old claim is whole, and no half of the new one is left."""
    before = (claim / folder.CLAIM).read_bytes()

    def full(path: Path, value: Any) -> None:
        raise LabError("no space left")

    monkeypatch.setattr(folder, "write_json", full)
    with pytest.raises(LabError, match="no space left"):
        report.run([*WORDS, "--force"])
    with pytest.raises(LabError, match="no space left"):
        report.run([*WORDS[:-1], "second"])
    assert (claim / folder.CLAIM).read_bytes() == before
    assert [path.name for path in Path("claims").iterdir()] == ["alibi-hurts"]
    folder.read(claim)


def test_an_edited_score_is_refused(claim: Path) -> None:
    path = claim / folder.CLAIM
    text = path.read_text()
    raw = json.loads(text)
    raw["cells"][0]["score"] += 1e-12
    edited = {
        json.dumps(raw): "claim.json was edited or is damaged",
        json.dumps(json.loads(text)): "claim.json was edited or is damaged",
        text.replace('"format": 3', '"format": 1,\n "format": 3', 1): "claim.json was edited or is damaged",
        text[:-40]: "not valid JSON",
        "[" * 200_000: "not valid JSON",
        "{}": "claim.json was edited or is damaged",
        "[]": "a JSON object is expected",
    }
    for other, says in edited.items():
        path.write_text(other)
        with pytest.raises(DataError, match=says):
            folder.read(claim)
    write_json(path, {**json.loads(text), "format": 1})
    with pytest.raises(DataError, match="is of format 1, and this lab reads 3"):
        folder.read(claim)


def test_every_changed_or_missing_file_is_named(claim: Path) -> None:
    files = sorted(path for path in claim.rglob("*") if path.is_file() and path.name != folder.CLAIM)
    for path in files:
        before, name = path.read_bytes(), path.relative_to(claim).as_posix()
        flip(claim, name, count=1)
        with pytest.raises(
            DataError, match=f"not the claim that was made: {re.escape(name)} was edited or is damaged; get"
        ):
            folder.read(claim)
        path.unlink()
        with pytest.raises(DataError, match=f"{re.escape(name)} is missing; get the claim again"):
            verify.run([str(claim)])
        path.write_bytes(before)
    assert len(files) > 20
    (claim / "notes.txt").write_text("mine")
    assert folder.read(claim).others == ("notes.txt",)
    for path in files:
        flip(claim, path.relative_to(claim).as_posix())
    with pytest.raises(DataError, match=f"is damaged and {len(files) - 5} more; get the claim again") as caught:
        folder.read(claim)
    assert str(caught.value).count("was edited") == 5


def test_a_claim_is_found_by_name(claim: Path) -> None:
    assert folder.find("alibi-hurts") == folder.find("claims/alibi-hurts") == claim
    assert folder.find("claims/alibi-hurts/claim.json") == claim
    with pytest.raises(DataError, match="did you mean alibi-hurts"):
        folder.find("alibi-hurt")
    shutil.rmtree("claims")
    with pytest.raises(DataError, match="--claim NAME` makes one"):
        folder.find("alibi-hurts")


def test_which_cells_are_run_again(claim: Path) -> None:
    read = folder.read(claim)
    by_default = [(cell["arm"], cell["pair"]) for cell in selection.choose(read)]
    assert by_default == [("position=rope", "0"), ("position=alibi", "0")]  # alibi is worse, learned is neither
    four = [(cell["arm"], cell["pair"]) for cell in selection.choose(read, number=4)]
    assert four == [*by_default, ("position=learned", "0"), ("position=rope", "1")]
    assert len(selection.choose(read, everything=True)) == 12
    for arm in read.content["arms"]:
        arm["verdict"] = {"position=learned": "better"}.get(arm["arm"], arm["verdict"])
    assert [cell["arm"] for cell in selection.choose(read)] == ["position=rope", "position=learned"]
    (one,) = selection.choose(read, ["learned,3", "position=learned, seed=3"])
    assert (one["arm"], one["pair"]) == ("position=learned", "3")


def test_the_cheapest_come_first(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(runs.parent, 2.9, position="alibi", seed=7)
    finished(runs.parent, 2.5, position="rope", seed=7)
    run.update(summary={**run.summary, "flops": 1.0})
    assert report.run([*WORDS, "--out", "deep/er"]) == 0
    assert "wrote deep/er; uv run verify deep/er checks it" in capsys.readouterr().out
    cells = selection.choose(folder.read(Path("deep/er")))
    assert [(cell["arm"], cell["pair"]) for cell in cells] == [("position=rope", "0"), ("position=alibi", "7")]


@pytest.mark.parametrize(
    "named, message",
    [
        ("alibi", "--cell takes ARM,PAIR, such as 'position="),
        ("albi,0", "unknown arm 'albi'; did you mean 'position=alibi'?"),
        ("alibi,9", "unknown seed of position=alibi '9'"),
        ("none,0", "no verdict rests on position=none, seed=0 (diverged)"),
    ],
)
def test_cells_that_cannot_be(claim: Path, named: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        selection.choose(folder.read(claim), [named])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_more_cells_than_there_are(claim: Path) -> None:
    with pytest.raises(ConfigError, match="rest on 12 runs; --all takes all"):
        selection.choose(folder.read(claim), number=13)
