"""What is followed: new runs, new lines, lines that were taken back, runs that began anew or went away."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt_lab.dashboard import follow
from gpt_lab.dashboard.follow import FileTail, Follower, Seen, StepRow, check_targets
from gpt_lab.dashboard.mirror import Writer
from gpt_lab.errors import DataError
from gpt_lab.store import Run
from gpt_lab.store.lock import Lock
from tests.dashboard.run_folders import log, make


class Recorder:
    """Keeps what a sink is told, by the run's name."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, StepRow]] = {}
        self.states: dict[str, str] = {}
        self.calls = 0

    def replace(self, run: Seen, rows: Sequence[StepRow]) -> None:
        self.rows[run.id] = {}
        self.append(run, rows)

    def append(self, run: Seen, rows: Sequence[StepRow]) -> None:
        for row in rows:
            if row.replaces:
                del self.rows[run.id][row.replaces]
            assert row.key not in self.rows[run.id], "no row is told twice"
            self.rows[run.id][row.key] = row
        self.describe(run)

    def describe(self, run: Seen) -> None:
        self.states[run.name] = run.state
        self.calls += 1

    def keep(self, runs: Iterable[Seen]) -> None:
        kept = {run.id for run in runs}
        self.rows = {name: rows for name, rows in self.rows.items() if name in kept}

    def steps(self) -> list[list[int]]:
        return [sorted(row.step for row in rows.values()) for rows in self.rows.values()]


def test_new_runs_and_new_lines_are_followed(tmp_path: Path) -> None:
    sink = Recorder()
    follower = Follower([tmp_path], sink)
    follower.poll()
    assert sink.rows == {}
    run = make(tmp_path, "pos_enc", "a")
    follower.poll()
    assert sink.steps() == [[]], "a run without lines is there"
    log(run, 1, 3)
    follower.poll()
    make(tmp_path, "pos_enc", "b", 2)
    log(run, 4, 4)
    follower.poll()
    assert sink.steps() == [[1, 2, 3, 4], [1, 2]]
    calls = sink.calls
    follower.poll()
    assert sink.calls == calls, "nothing new, nothing told"
    run.finish("finished", {"val/bpb": 2.0})
    follower.poll()
    assert sink.states == {"a": "finished", "b": "running"}


def test_a_store_a_study_and_a_run_can_be_shown(tmp_path: Path) -> None:
    run = make(tmp_path, "pos_enc", "a", 2)
    make(tmp_path, "seeds", "b", 3)
    for target, expected in ((tmp_path, [[1, 2], [1, 2, 3]]), (tmp_path / "seeds", [[1, 2, 3]]), (run.path, [[1, 2]])):
        sink = Recorder()
        Follower([target], sink).poll()
        assert sink.steps() == expected
    both = Recorder()
    Follower([tmp_path / "seeds", tmp_path, run.path], both).poll()
    assert sorted(both.steps()) == [[1, 2], [1, 2, 3]], "each run once"


def test_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    run = make(tmp_path, "pos_enc", "a", 2)
    sink = Recorder()
    follower = Follower([tmp_path], sink)
    follower.poll()
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step":3,"train/lo')
        file.flush()
        follower.poll()
        assert sink.steps() == [[1, 2]]
        file.write(b'ss":4.5}\n{"torn by a crash\n{"step":4,"train/loss":"NaN","sample":"text"}\n')
    follower.poll()
    assert sink.steps() == [[1, 2, 3, 4]]
    last = next(iter(sink.rows.values()))
    values = [row.values for row in last.values() if row.step in (3, 4)]
    assert values[0] == {"train/loss": 4.5}
    assert list(values[1]) == ["train/loss"] and math.isnan(values[1]["train/loss"])


def test_lines_that_a_resume_took_back_are_gone(tmp_path: Path) -> None:
    run = make(tmp_path, "pos_enc", "a", 6)
    sink = Recorder()
    follower = Follower([tmp_path], sink)
    follower.poll()
    run.truncate_after(3)
    follower.poll()
    assert sink.steps() == [[1, 2, 3]]
    run.truncate_after(2)
    log(run, 3, 8)  # longer than before: only the inode and the last line tell
    follower.poll()
    assert sink.steps() == [[1, 2, 3, 4, 5, 6, 7, 8]]


def test_a_replaced_file_is_seen_although_its_inode_number_is_the_same(tmp_path: Path) -> None:
    run = make(tmp_path, "pos_enc", "a", 3)
    tail = FileTail(run.path / "metrics.jsonl")
    assert [row.step for row in tail.read()[1]] == [1, 2, 3]
    (run.path / "metrics.jsonl").write_bytes(b'{"step":7,"train/loss":1.0,"pad":"' + b"x" * 2000 + b'"}\n')
    fresh, rows = tail.read()
    assert fresh and [row.step for row in rows] == [7]


def test_a_run_that_began_anew_is_another(tmp_path: Path) -> None:
    run = make(tmp_path, "pos_enc", "a", 5)
    sink = Recorder()
    follower = Follower([tmp_path], sink)
    follower.poll()
    before = set(sink.rows)
    run.restart()
    log(run, 1, 2)
    follower.poll()
    assert sink.steps() == [[1, 2]] and before.isdisjoint(sink.rows)


def test_the_lines_of_a_step_are_one_row_also_over_two_looks(tmp_path: Path) -> None:
    run = make(tmp_path, "pos_enc", "a")
    sink = Recorder()
    follower = Follower([tmp_path], sink)
    log(run, 1, 2)
    follower.poll()
    run.log(2, {"val/bpb": 3.0})
    follower.poll()
    run.log(2, {"val/bpb": 2.5})
    run.log(2, {"extra": 1})
    log(run, 3, 3)
    follower.poll()
    (rows,) = sink.rows.values()
    assert [row.step for row in rows.values()] == [1, 2, 3]
    second = next(row for row in rows.values() if row.step == 2)
    assert second.values == {"train/loss": 4.98, "train/lr": 1e-3, "tokens": 128, "flops": 2e6, "seconds": 0.2} | {
        "val/bpb": 2.5,
        "extra": 1,
    }, "the last value of each name"


def test_a_run_that_is_removed_or_half_copied_is_not_shown(tmp_path: Path) -> None:
    run = make(tmp_path, "pos_enc", "a", 2)
    make(tmp_path, "pos_enc", "b", 1)
    sink = Recorder()
    follower = Follower([tmp_path], sink)
    follower.poll()
    record = (run.path / "run.json").read_bytes()
    (run.path / "run.json").write_bytes(record[:50])
    follower.poll()
    assert sink.steps() == [[1]]
    unreadable = f"cannot read {run.path}/run.json: not valid JSON: the run is left out"
    assert follower.left_out == {run.path: unreadable}
    (run.path / "run.json").write_bytes(record)
    follower.poll()
    assert sorted(sink.steps()) == [[1], [1, 2]]
    assert follower.left_out == {}
    shutil.rmtree(run.path.parent)
    follower.poll()
    assert sink.rows == {}


@pytest.mark.parametrize("line", ['"x"', "[1]", "null", "-1", "true", '"NaN"', "2.5", str(2**63), "[" * 200_000])
def test_a_line_whose_step_is_none_is_left_out_by_name(tmp_path: Path, line: str) -> None:
    run, said = make(tmp_path, "pos_enc", "a", 2), []
    writer = Writer(Follower([tmp_path], sink := Recorder()), Lock(tmp_path / "lock"), said.append)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write(f'{{"step":{line},"train/loss":1.0}}\n{{"step":3,"train/loss":1.0,"odd":[1]}}\n')
    for _ in range(2):
        writer.look()
    assert sink.steps() == [[1, 2, 3]]
    (only,) = said
    why = (
        "not valid JSON"
        if len(line) > 99
        else f"step is {'a list' if line == '[1]' else 'too large' if len(line) > 9 else line}"
    )
    assert f"{run.path}/metrics.jsonl: left out what is no step or number (first, at byte " in only and why in only


def test_a_run_of_no_time_and_no_settings_is_shown_all_the_same(tmp_path: Path) -> None:
    run = make(tmp_path, "pos_enc", "a", 1)
    run.update(started="yesterday", config=None)
    follower = Follower([tmp_path], Recorder())
    follower.poll()
    (seen,) = follower.runs
    assert seen.when(5.0).year == 1970
    assert seen.settings["state"] == "running"
    run.update(started="2026-01-31T12:00:00Z")
    follower.poll()
    (seen,) = follower.runs
    assert (seen.when(1.5) - seen.when()).total_seconds() == 1.5
    assert seen.when(1e300).year == 1970


def test_studies_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for store in ("here", "there"):
        make(tmp_path / store, "pos_enc", "a", 1)
    sink = Recorder()
    Follower([tmp_path / "here", tmp_path / "there"], sink).poll()
    assert sorted(sink.states) == ["here:a", "there:a"] and len(sink.rows) == 2


def test_a_copied_run_is_another_run(tmp_path: Path) -> None:
    run = make(tmp_path, "pos_enc", "a", 2)
    shutil.copytree(run.path, run.path.with_name("copy"))
    sink = Recorder()
    Follower([tmp_path], sink).poll()
    assert sink.steps() == [[1, 2], [1, 2]]


def test_chosen_metrics_keep_what_they_are_drawn_against(tmp_path: Path) -> None:
    make(tmp_path, "pos_enc", "a", 3)
    sink = Recorder()
    Follower([tmp_path], sink, frozenset({"val/bpb"})).poll()
    (rows,) = sink.rows.values()
    assert {name for row in rows.values() for name in row.values} == {"val/bpb", "tokens", "flops", "seconds"}


def test_settings_are_scalars_that_runs_can_be_grouped_by(tmp_path: Path) -> None:
    run = make(tmp_path, "pos_enc", "a", 1, betas=[0.9, 0.95])
    settings = Seen(run.path, "a", Run.open(run.path).record).settings
    assert settings["attention.qkv_bias"] == "null" and settings["betas"] == "[0.9, 0.95]"
    assert (settings["optim.lr"], settings["norm.gain"], settings["position.name"]) == (0.002, True, "rope")
    assert (settings["state"], settings["parameters"]) == ("running", 1000)


def test_the_arm_is_the_sweep_s_or_what_the_command_line_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [SimpleNamespace(run="rope-seed0", arm="position=rope"), SimpleNamespace(run=None, arm="position=none")]
    monkeypatch.setattr(follow.ledger, "entries", lambda folder: known if folder.name == "pos_enc" else [])
    make(tmp_path, "pos_enc", "rope-seed0", label="rope-lr0.1")
    make(tmp_path, "pos_enc", "by-hand", label="rope-lr0.1")
    make(tmp_path, "other", "plain")
    follower = Follower([tmp_path], Recorder())
    follower.poll()
    assert [run.settings["arm"] for run in follower.runs] == ["default", "rope-lr0.1", "position=rope"]
    known.append(SimpleNamespace(run="none-seed0", arm="position=none"))
    make(tmp_path, "pos_enc", "none-seed0")
    follower.poll()
    assert {run.name: run.settings["arm"] for run in follower.runs}["none-seed0"] == "position=none"


def test_after_trouble_everything_is_compared_again(tmp_path: Path) -> None:
    class Broken(Recorder):
        broken = True

        def append(self, run: Seen, rows: Sequence[StepRow]) -> None:
            if self.broken and run.name == "b":
                raise OSError("disk full")
            super().append(run, rows)

    for name in ("a", "b"):
        make(tmp_path, "pos_enc", name, 2)
    sink = Broken()
    follower = Follower([tmp_path], sink)
    with pytest.raises(OSError, match="disk full"):
        follower.poll()
    sink.broken = False
    follower.poll()
    assert sink.steps() == [[1, 2], [1, 2]]


def test_wrong_folders_are_refused_with_the_closest_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="uv run train"):
        check_targets(["runs"])
    make(tmp_path / "runs", "pos_enc", "a", 1)
    with pytest.raises(DataError, match="did you mean runs/pos_enc"):
        check_targets(["runs/pos_en"])
    assert check_targets(["pos_enc", "runs/pos_enc"]) == [tmp_path / "runs" / "pos_enc"]
