"""Run folders become rows: whole, torn, killed, and asked for by a ledger."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gpt_lab.frame.sources import store_runs
from gpt_lab.frame.sources.source import Wanted, columns
from gpt_lab.store import Run
from gpt_lab.store.atomic_files import read_json, write_json
from gpt_lab.study.design import Cell, Design, Settings
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger.ledger import FILE, Ledger
from tests.helpers import tiny_config
from tests.report.stores import TOKENS, finished, save, study


def only(path: Path) -> dict[str, object]:
    (row,) = store_runs.load([path]).rows
    return row


def test_a_finished_run(tmp_path: Path) -> None:
    run = finished(tmp_path, 2.25, position="alibi", seed=3)
    row = only(tmp_path / "pos")
    assert row["run"] == str(run.path)
    assert (row["source"], row["study"], row["name"]) == ("local", "pos", run.name)
    assert (row["state"], row["error"]) == ("finished", "")
    assert row["summary"]["val/bpb"] == 2.25  # type: ignore[index]
    assert row["config"]["position.name"] == "alibi"  # type: ignore[index]
    assert (row["tokens"], row["parameters"], row["train_flops_per_token"]) == (TOKENS, 1000, 6000)
    assert (row["seconds"], row["tokens_per_s"], row["peak_memory_gb"]) == (2.5, TOKENS / 2.5, 0.5)
    assert (row["floor_unigram"], row["floor_bigram"], row["floor_trigram"]) == (3.9, 2.7, 2.1)
    env = row["env"]
    assert env["commit"] == "a" * 40 and env["packages"] == "python 3.11.7, torch 2.11.0"  # type: ignore[index]
    assert env["device"] == "cpu" and env["data"] == "fingerprint"  # type: ignore[index]


def test_settings_shared_with_another_run_keep_their_types(tmp_path: Path) -> None:
    """Runs keep equal settings once, but 1, 1.0 and true are equal and not the same, and so are 0.0 and -0.0."""
    values = {
        "norm.one": [1, 1.0, 1.0, True],
        "norm.zero": [0.0, -0.0, 0, False],
        "norm.list": [[1], [1.0], [True], []],
        "norm.text": ["a", "a", "", "a"],
    }
    for i in range(4):
        run = finished(tmp_path, 2.0 + i, seed=i)
        record = read_json(run.path / "run.json")
        record["config"] |= {key: several[i] for key, several in values.items()}
        write_json(run.path / "run.json", record)
    loaded = store_runs.load([tmp_path / "pos"]).rows
    assert [row["config"]["seed"] for row in loaded] == [0, 1, 2, 3]
    for row in loaded:
        own = read_json(Path(row["run"]) / "run.json")["config"]
        assert repr(row["config"]) == repr(own)
    assert loaded[1]["config"]["position.name"] is loaded[0]["config"]["position.name"]


def test_a_setting_that_only_a_later_run_has_wrong_is_seen(tmp_path: Path) -> None:
    for seed in range(3):
        run = finished(tmp_path, 2.0, seed=seed)
    record = read_json(run.path / "run.json")
    record["config"]["scale.depth"] = "deep"
    write_json(run.path / "run.json", record)
    source = store_runs.load([tmp_path / "pos"])
    assert len(source.rows) == 2 and "scale.depth" in source.notes[0]


def test_columns_of_rows() -> None:
    assert columns([{"a": 1, "b": 2}, {"a": 3, "b": 4}]) == {"a": [1, 3], "b": [2, 4]}
    assert columns([{"a": 1}, {"b": 4, "a": 3}], "-") == {"a": [1, 3], "b": ["-", 4]}
    assert columns([]) == {} and columns([{}, {}]) == {}


def test_no_result_is_read_into_a_run_that_has_none(tmp_path: Path) -> None:
    with save(tmp_path, tiny_config(study="pos")).lock():
        row = only(tmp_path / "pos")
    assert row["state"] == "running"
    assert math.isnan(row["seconds"]) and math.isnan(row["tokens"])  # type: ignore[arg-type]
    assert row["parameters"] == 1000 and row["train_flops_per_token"] == 6000


def test_killed_while_running_is_stopped(tmp_path: Path) -> None:
    save(tmp_path, tiny_config(study="pos"))
    row = only(tmp_path / "pos")
    assert row["state"] == "stopped"
    assert row["error"] == store_runs.KILLED


@pytest.mark.parametrize(
    "state, fields, summary, error",
    [
        ("failed", {"error": "RuntimeError: first\nlast line\n"}, {}, "last line"),
        ("failed", {}, {}, "failed"),
        ("diverged", {}, {"diverged/step": 7}, "diverged at step 7"),
        ("stopped", {}, {"steps": 5}, "stopped at step 5: the same command resumes it"),
    ],
)
def test_what_went_wrong(
    tmp_path: Path, state: str, fields: dict[str, str], summary: dict[str, int], error: str
) -> None:
    save(tmp_path, tiny_config(study="pos"), **fields).finish(state, summary)
    row = only(tmp_path / "pos")
    assert (row["state"], row["error"]) == (state, error)


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    run = save(tmp_path, tiny_config(study="pos"))
    run.finish("finished", {"val/bpb": math.inf, "val/loss": math.nan, "steps": 1})
    assert "Infinity" in (run.path / "run.json").read_text()
    summary = only(tmp_path / "pos")["summary"]
    assert summary["val/bpb"] == math.inf and math.isnan(summary["val/loss"])  # type: ignore[index]


def test_torn_folders_are_told(tmp_path: Path) -> None:
    folder = study(tmp_path, {"rope": 0.0}, seeds=1)
    (folder / "half" / "checkpoints").mkdir(parents=True)
    (folder / "report").mkdir()
    (folder / "logs").mkdir()
    (folder / ".temporary.tmp").mkdir()
    bad = {
        "torn": ('{"state": "fin', "cannot read {}: not valid JSON"),
        "bytes": (b"\xff\xfe\x00{", "cannot read {}: not valid JSON"),
        "deep": ("[" * 200_000, "cannot read {}: not valid JSON"),
        "list": ("[]", "cannot read {}: a JSON object is expected"),
        "text": ('"run"', "cannot read {}: a JSON object is expected"),
        "stateless": ('{"config": {}}', "{} is not that of a run: its state is null"),
        "strange": ('{"config": {}, "state": "asleep"}', '{} is not that of a run: its state is "asleep"'),
        "many": ('{"config": {}, "state": ["finished"]}', "{} is not that of a run: its state is a list"),
        "config": ('{"config": [], "state": "finished"}', "{} is not that of a run: its config is a list"),
        "nested": ('{"config": {"a": {}}, "state": "finished"}', "{} is not that of a run: its config.a is an object"),
        "none": ('{"state": "finished"}', "{} is not that of a run: it has no config"),
        "git": ('{"git": {"dirty": [1]}, "state": "finished"}', "{} is not that of a run: its git.dirty is a list"),
        "forked": ('{"forked": {"step": "1"}, "state": "finished"}', '{} is not that of a run: its forked.step is "1"'),
    }
    for name, (content, _) in bad.items():
        (folder / name).mkdir()
        (folder / name / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    shutil.copytree(next(folder.glob("rope-*")), folder / "edited")
    edited = folder / "edited" / "run.json"
    text = edited.read_text(encoding="utf-8")
    edited.write_text(text.replace('"name": "', '"name": "x', 1), encoding="utf-8")
    assert edited.read_text(encoding="utf-8") != text
    found = store_runs.load([folder])
    assert [row["state"] for row in found.rows] == ["finished"]
    text = "\n".join(found.notes)
    assert "1 folder of" in text and "half" in text
    for name, (_, says) in bad.items():
        assert f"{folder / name} left out: {says.format(folder / name / 'run.json')}" in found.notes
    assert f"{folder / 'edited'} left out: {edited} was edited or is damaged: its digest does not fit" in found.notes
    assert not {word for word in ("report", "logs", "temporary") if f"/{word}" in text}


def test_single_runs_and_folders_together_count_once(tmp_path: Path) -> None:
    folder = study(tmp_path, {"rope": 0.0}, seeds=2)
    one = next(path for path in folder.iterdir() if path.name.endswith("seed1"))
    assert len(store_runs.load([folder], [one]).rows) == 2
    assert [row["run"] for row in store_runs.load([], [one]).rows] == [str(one)]


def test_values_that_are_none_are_left_out_by_name(tmp_path: Path) -> None:
    run = finished(tmp_path, 2.25)
    wrong = {"val/bpb": "low", "steps": [20], "tokens": {"n": 1}, "flops": True, "seconds": 10**400, "val/ppl": None}
    record = read_json(run.path / "run.json")
    write_json(run.path / "run.json", {**record, "summary": {**record["summary"], **wrong}})
    found = store_runs.load([tmp_path / "pos"])
    said = 'val/bpb is "low"; steps is a list; tokens is an object; flops is true; seconds is too large a number'
    assert found.notes == [f"{run.path}/run.json: {said}: left out of its summary"]
    (row,) = found.rows
    assert row["summary"]["val/loss"] == pytest.approx(2.7) and "val/bpb" not in row["summary"]
    assert math.isnan(row["seconds"]) and math.isnan(row["tokens"])


def test_lines_that_are_none_are_left_out_of_curves_by_name(tmp_path: Path) -> None:
    run = finished(tmp_path, 2.25)
    path = run.path / "metrics.jsonl"
    steps = ['"20"', "[20]", "null", "-1", "20.5", '"NaN"', "true", "9" * 30]
    bad = [*(f'{{"step":{step},"val/bpb":9.0}}' for step in steps), "[" * 200_000, '{"a":' * 500, "\xff", "", '{"a":1}']
    path.write_text("\n".join([*bad, *path.read_text().splitlines(), '{"step":20,"val/bpb":"low","x":[1]}']) + "\n")
    found = store_runs.load([tmp_path / "pos"])
    for _ in range(2):
        (table,) = found.curves([str(run.path)]).values()
        assert list(table["step"]) == [10, 20] and list(table["val/bpb"]) == [2.75, 2.25] and "x" not in table
    assert found.notes == [f'{path}: {len(bad)} lines and 1 value left out (line 1: step is "20")']


def test_curves_of_those_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = study(tmp_path, {"rope": 0.0, "alibi": 0.1}, seeds=1)
    asked: list[Path] = []
    read = Run.read_metrics
    monkeypatch.setattr(Run, "read_metrics", lambda run: asked.append(run.path) or read(run))
    source = store_runs.load([folder])
    assert asked == []
    name = source.rows[0]["run"]
    with open(Path(name) / "metrics.jsonl", "a") as file:
        file.write('{"step":20,"train/loss":1.5}\n{"step":30,"val/b')  # the second line is torn
    (table,) = source.curves([name]).values()
    assert asked == [Path(name)]
    assert list(table.columns[:4]) == ["step", "tokens", "flops", "seconds"]
    assert list(table["step"]) == [10, 20]
    assert table["val/bpb"].iloc[1] == pytest.approx(source.rows[0]["summary"]["val/bpb"])
    assert table["train/loss"].iloc[1] == 1.5


def test_a_run_without_lines_has_an_empty_curve(tmp_path: Path) -> None:
    run = save(tmp_path, tiny_config(study="pos"))
    assert store_runs.load([tmp_path / "pos"]).curves([str(run.path)])[str(run.path)].empty


# -- the ledger --


def cells(number: int) -> list[Cell]:
    return [
        Cell(
            i,
            {"position": "rope", "seed": i},
            Settings((("position", "rope"),)),
            Settings(),
            i,
            (f"seed={i}",),
            f"key{i}",
            f"identity{i}",
        )
        for i in range(number)
    ]


def sweep(**changes: object) -> Sweep:
    design = Design("pos", factors=("position",), baseline={"position": "rope"}, values={"position": ("rope",)})
    return Sweep(Path("pos.yaml"), replace(design, **changes), content={"method": "grid", "parameters": {}})  # type: ignore[arg-type]


def test_a_ledger_says_what_was_asked_for(tmp_path: Path) -> None:
    folder = study(tmp_path, {"rope": 0.0}, seeds=1)
    (run,) = (path.name for path in folder.iterdir())
    ledger = Ledger.open(folder)
    ledger.begin(sweep(), cells(5))
    ledger.begin(sweep(), cells(4))  # an edited file: key4 is no longer asked for
    for key, end in (("key0", "finished"), ("key1", "pruned"), ("key2", "failed")):
        entry = ledger.claim()
        assert entry is not None and entry.key == key
        if end == "failed":
            ledger.fail(key, "killed (out of memory?)", retries=0)
        else:
            ledger.name_run(key, run if key == "key0" else "gone")
            ledger.end(key, end)  # type: ignore[arg-type]
    ledger.close()
    source = store_runs.load([folder])
    assert source.sweep is not None and source.sweep.design.factors == ("position",)
    assert source.wanted == [
        Wanted("key0", {"position": "rope", "seed": 0}, "identity0", "finished", str(folder / run)),
        Wanted("key1", {"position": "rope", "seed": 1}, "identity1", "pruned", str(folder / "gone")),
        Wanted("key2", {"position": "rope", "seed": 2}, "identity2", "failed", None, "killed (out of memory?)"),
        Wanted("key3", {"position": "rope", "seed": 3}, "identity3", "waiting"),
    ]
    assert "1 run belongs to an earlier version of the sweep file: left out" in source.notes


def test_ledgers_of_other_comparisons_are_not_joined(tmp_path: Path) -> None:
    for name, factor in (("a", "position"), ("b", "norm")):
        finished(tmp_path, 2.0, study=name)
        ledger = Ledger.open(tmp_path / name)
        ledger.begin(sweep(study=name, factors=(factor,)), cells(1))
        ledger.close()
    source = store_runs.load([tmp_path / "a", tmp_path / "b"])
    assert source.wanted is not None and len(source.wanted) == 1
    assert f"the sweep of {tmp_path / 'b'} compares other settings: its ledger was not used" in source.notes


def test_a_damaged_ledger_is_told(tmp_path: Path) -> None:
    folder = study(tmp_path, {"rope": 0.0}, seeds=1)
    (folder / FILE).write_bytes(b"no database at all" * 100)
    source = store_runs.load([folder])
    assert len(source.rows) == 1 and source.wanted is None
    assert any("the ledger of" in note and "was not used" in note for note in source.notes)
