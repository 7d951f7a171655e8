"""The ledger: each trial is one process's at a time, the dead lose theirs, nothing is forgotten."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gpt_lab.digests import Damaged
from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.store import Run
from gpt_lab.sweep.ledger import database
from gpt_lab.sweep.ledger.ledger import COPY, FILE, Ledger, entries, mend, stored_sweep
from gpt_lab.sweep.ledger.liveness import Owner, OwnerWatch, process_table
from tests.helpers import flip
from tests.sweep.sweep_helpers import ROOT, fake_cells, fake_sweep

CLAIM_ALL = """
import sys
import time
from pathlib import Path
from gpt_lab.sweep.ledger.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
while (entry := ledger.claim()) is not None:
    print(entry.key, flush=True)
    ledger.end(entry.key, "finished", score=1.0)
    time.sleep(0.005)  # the others have their turn, on one core too
ledger.close()
"""
CLAIM_ONE = """
import sys, time
from pathlib import Path
from gpt_lab.sweep.ledger.ledger import Ledger
print(Ledger.open(Path(sys.argv[1])).claim().key, flush=True)
time.sleep(600)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger.open(tmp_path / "fake")
    made.begin(fake_sweep(tmp_path), fake_cells(4))
    return made


def claimer(folder: Path, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def states(folder: Path) -> list[str]:
    return [entry.state for entry in entries(folder)]


def test_claims_come_in_order_and_once(ledger: Ledger) -> None:
    other = Ledger.open(ledger.folder)
    found = [owner.claim() for owner in (ledger, other, ledger, other, ledger)]
    assert [None if entry is None else entry.index for entry in found] == [0, 1, 2, 3, None]
    assert found[0] is not None
    assert (found[0].state, found[0].attempts, found[0].overrides) == ("running", 1, ("norm=a", "seed=0"))
    assert other.claim(skip=["x"]) is None
    assert ledger.counts()["running"] == 4


def test_many_processes_share_without_overlap(ledger: Ledger, tmp_path: Path) -> None:
    ledger.begin(fake_sweep(tmp_path), fake_cells(120))
    processes = [claimer(ledger.folder, CLAIM_ALL) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    claimed = [process.communicate(timeout=60)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(key for keys in claimed for key in keys) == [cell.key for cell in fake_cells(120)]
    assert sum(1 for keys in claimed if keys) > 1, "more than one had work"
    assert {entry.attempts for entry in entries(ledger.folder)} == {1}


def test_a_dead_owner_loses_its_trial(ledger: Ledger) -> None:
    process = claimer(ledger.folder, CLAIM_ONE)
    assert process.stdout is not None
    key = process.stdout.readline().strip()
    watch = OwnerWatch()
    assert ledger.bury(watch.dead) == 0
    assert states(ledger.folder)[0] == "running"
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # not yet waited for: a zombie is dead too
    assert ledger.bury(watch.dead) == 1
    process.communicate()
    assert ledger.others() == []
    entry = ledger.claim()
    assert entry is not None
    assert (entry.key, entry.attempts) == (key, 2)


def test_one_that_was_taken_for_dead_is_an_owner_again(ledger: Ledger) -> None:
    """Silent for long, as on a file system that stood still: what it then claims is not lost if it dies after all."""
    folder = ledger.folder
    now = [0.0]
    watch = OwnerWatch(clock=lambda: now[0])
    other = Ledger.share(ledger, Owner("elsewhere/1/2", 1, None, "t"))
    assert ledger.bury(watch.dead) == 0
    assert ledger.bury(lambda owner, beat: True) == 0 and ledger.others() == []
    now[0] = 100.0
    assert other.claim() is not None
    assert ledger.bury(watch.dead) == 0, "whoever saw it before the silence sees that it lives"
    assert [owner.id for owner, _, trials in ledger.others() if trials] == [other.owner.id]
    assert ledger.bury(lambda owner, beat: True) == 1 and "running" not in states(folder)
    other.beat()
    assert [owner.id for owner, _, _ in ledger.others()] == [other.owner.id]


def test_another_machine_is_dead_when_its_heart_stands_still() -> None:
    now = [100.0]
    watch = OwnerWatch(clock=lambda: now[0])
    owner = Owner("elsewhere/1/2", os.getpid(), 1, "t")
    assert not watch.dead(owner, 7)
    now[0] += 59
    assert not watch.dead(owner, 7)
    now[0] += 1
    assert watch.dead(owner, 7)
    assert not watch.dead(owner, 8), "it beats again"
    now[0] += 59
    assert not watch.dead(owner, 8)


def test_this_machine_is_asked_about_its_own() -> None:
    now = [0.0]
    watch = OwnerWatch(clock=lambda: now[0])
    mine = Owner.this()
    assert mine.host == process_table()
    assert not watch.dead(mine, 0)
    now[0] += 1e6
    assert not watch.dead(mine, 0), "a process that lives needs no heartbeat here"
    assert mine.start is not None
    assert watch.dead(replace(mine, start=mine.start + 1), 0), "the pid is another's by now"


def test_heartbeats_move(ledger: Ledger) -> None:
    other = Ledger.open(ledger.folder)
    before = [beat for _, beat, _ in other.others()]
    ledger.beat()
    assert [beat for _, beat, _ in other.others()] == [before[0] + 1]


def test_who_has_lost_a_trial_changes_nothing(ledger: Ledger) -> None:
    entry = ledger.claim()
    assert entry is not None
    other = Ledger.open(ledger.folder)
    assert other.bury(lambda owner, beat: True) == 1
    taken = other.claim()
    assert taken is not None
    assert taken.key == entry.key
    assert not ledger.end(entry.key, "finished", score=1.0)
    assert not ledger.name_run(entry.key, "wrong")
    assert not ledger.wait(entry.key)
    assert ledger.fail(entry.key, "wrong", 1) is None
    found = entries(ledger.folder)[0]
    assert (found.state, found.run, found.error) == ("running", None, None)
    assert other.end(entry.key, "finished", score=0.5, seconds=2.0)
    found = entries(ledger.folder)[0]
    assert (found.state, found.score, found.seconds) == ("finished", 0.5, 2.0)


def test_failures_are_counted_and_revived(ledger: Ledger) -> None:
    for expected in ("waiting", "failed"):
        entry = ledger.claim()
        assert entry is not None
        assert entry.index == 0
        assert ledger.fail(entry.key, "ValueError: no", retries=1) == expected
    found = entries(ledger.folder)[0]
    assert (found.state, found.error, found.attempts) == ("failed", "ValueError: no", 2)
    entry = ledger.claim()
    assert entry is not None
    assert entry.index == 1
    assert ledger.revive(["stopped"]) == 0
    assert ledger.revive(["stopped", "failed"]) == 1
    assert states(ledger.folder) == ["waiting", "running", "waiting", "waiting"]


def test_closing_puts_trials_back(ledger: Ledger) -> None:
    folder = ledger.folder
    ledger.claim()
    ledger.close()
    assert states(folder) == ["waiting"] * 4
    assert Ledger.open(folder).others() == []


def test_a_new_version_of_the_file_keeps_the_old_cells_unwanted(ledger: Ledger, tmp_path: Path) -> None:
    entry = ledger.claim()
    assert entry is not None
    ledger.end(entry.key, "finished", score=1.0)
    ledger.begin(fake_sweep(tmp_path), fake_cells(3, start=2))
    found = {entry.index: (entry.state, entry.wanted) for entry in ledger.entries()}
    assert found == {
        0: ("finished", False),
        1: ("waiting", False),
        2: ("waiting", True),
        3: ("waiting", True),
        4: ("waiting", True),
    }
    assert ledger.counts() | {"waiting": 3, "finished": 0} == ledger.counts()
    entry = ledger.claim()
    assert entry is not None
    assert entry.index == 2
    ledger.begin(fake_sweep(tmp_path), fake_cells(4))
    assert [entry.wanted for entry in ledger.entries()] == [True] * 4 + [False]
    assert ledger.entries()[0].state == "finished", "it is not trained twice"


def test_drawn_cells_are_kept_before_they_run(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "drawn")
    sweep = fake_sweep(tmp_path, method="random", run_cap=3)
    ledger.begin(sweep, None)
    first, second = fake_cells(2)
    entry = ledger.add(first, 0)
    assert entry is not None
    assert entry.state == "running"
    assert ledger.add(second, 0) is None, "drawn without knowing of the first"
    assert len(ledger.entries()) == 1
    ledger.close()
    again = Ledger.open(tmp_path / "drawn")
    again.begin(sweep, None)
    assert [(e.key, e.state, e.wanted) for e in again.entries()] == [(first.key, "waiting", True)]
    again.begin(replace(sweep, content={**sweep.content, "parameters": {"norm": {"values": ["c"]}}}), None)
    assert [e.wanted for e in again.entries()] == [False], "drawn from another search"


def test_threads_are_those_of_the_beginning(ledger: Ledger) -> None:
    assert ledger.threads(None, 1) == 1
    assert ledger.threads(2, 1) == 2
    ledger.claim()
    assert ledger.threads(None, 1) == 2
    assert ledger.threads(2, 1) == 2
    with pytest.raises(ConfigError, match="begun with --threads 2"):
        ledger.threads(3, 1)


def test_repeating_a_cell_whose_run_is_gone(ledger: Ledger) -> None:
    entry = ledger.claim()
    assert entry is not None
    ledger.name_run(entry.key, "a-seed0")
    ledger.end(entry.key, "finished", score=1.0)
    ledger.repeat([entry.key])
    found = ledger.entries()[0]
    assert (found.state, found.run, found.score) == ("waiting", None, None)


@pytest.mark.parametrize("score", [None, 1.25, float("inf"), float("nan")])
def test_scores_come_back(ledger: Ledger, score: float | None) -> None:
    entry = ledger.claim()
    assert entry is not None
    ledger.end(entry.key, "diverged", score=score)
    assert repr(entries(ledger.folder)[0].score) == repr(score)


def test_the_sweep_and_its_text_come_back(tmp_path: Path) -> None:
    sweep = fake_sweep(tmp_path, overrides=("budget.steps=3", "data.path='a b'"), run_cap=2)
    text = "# a comment\nmethod: grid\nparameters: {norm: {values: [a, b]}, seed: {values: [0, 1]}}\n"
    sweep.path.write_text(text, encoding="utf-8")
    folder = tmp_path / "fake"
    assert stored_sweep(folder) is None
    assert entries(folder) == []
    ledger = Ledger.open(folder)
    ledger.begin(sweep, fake_cells(1))
    assert stored_sweep(folder) == sweep
    copy = (folder / COPY).read_text(encoding="utf-8")
    assert copy.endswith(text)
    assert "budget.steps=3" in copy.splitlines()[0]
    changed = replace(sweep, content={**sweep.content, "parameters": {"seed": {"values": [5]}}})
    ledger.begin(changed, fake_cells(1))
    assert "values:\n    - 5" in (folder / COPY).read_text(encoding="utf-8"), "what the command line made of it"


def test_readers_see_a_ledger_in_use(ledger: Ledger) -> None:
    ledger._database.execute("BEGIN IMMEDIATE")
    ledger._database.execute("UPDATE trials SET state='finished'")
    assert states(ledger.folder) == ["waiting"] * 4
    ledger._database.execute("COMMIT")
    assert states(ledger.folder) == ["finished"] * 4


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:50 / /net rw - nfs4 server:/net rw
31 30 8:2 / /net/me/fast\\040disk rw - xfs /dev/sdb rw
32 22 0:60 / /mnt/odd rw - fuse.sshfs host: rw
"""


@pytest.mark.parametrize(
    "path, kind, local",
    [
        ("/var/x", "ext4", True),
        ("/net/me/runs", "nfs4", False),
        ("/net/me/fast disk/runs", "xfs", True),
        ("/mnt/odd/runs", "fuse.sshfs", False),
        ("/network", "ext4", True),
    ],
)
def test_file_systems(tmp_path: Path, path: str, kind: str, local: bool) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS, encoding="utf-8")
    assert database.file_system(Path(path), mounts) == kind
    assert database.is_local(Path(path), mounts) is local
    assert not database.is_local(Path(path), tmp_path / "missing")


@pytest.mark.parametrize("local, mode", [(True, "wal"), (False, "persist")])
def test_the_journal_suits_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool, mode: str
) -> None:
    monkeypatch.setattr(database, "is_local", lambda path: local)
    ledger = Ledger.open(tmp_path / "a")
    assert ledger._database.execute("PRAGMA journal_mode").fetchone()[0] == mode
    ledger.begin(fake_sweep(tmp_path), fake_cells(2))
    assert ledger.claim() is not None
    assert states(ledger.folder) == ["running", "waiting"]


def test_a_full_disk_is_one_line(ledger: Ledger, tmp_path: Path) -> None:
    pages = ledger._database.execute("PRAGMA page_count").fetchone()[0]
    ledger._database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(LabError, match="no space left: free some") as caught:
        ledger.begin(fake_sweep(tmp_path), fake_cells(1000))
    assert "\n" not in str(caught.value)
    assert len(ledger.entries()) == 4, "all or nothing"
    ledger._database.execute("PRAGMA max_page_count=100000")
    assert ledger.claim() is not None


def test_another_file_is_refused_and_set_aside(tmp_path: Path) -> None:
    text = json.dumps({"no": "database"}).encode() * 100
    for number in ("", "-2"):
        (tmp_path / FILE).write_bytes(text)
        (tmp_path / f"{FILE}-journal").touch()
        for use in (Ledger.open, entries, stored_sweep):
            with pytest.raises(
                Damaged, match="is damaged .* the command of the sweep sets it aside and finds its runs"
            ):
                use(tmp_path)
        said = mend(tmp_path)
        assert said is not None and f"kept as {FILE}.damaged{number}; a new one is begun" in said
        assert (tmp_path / f"{FILE}.damaged{number}").read_bytes() == text
        assert not (tmp_path / f"{FILE}-journal").exists(), "a journal must never meet another database"
        assert mend(tmp_path) is None
        Ledger.open(tmp_path).close()


def test_no_flipped_byte_goes_unnoticed(ledger: Ledger, tmp_path: Path) -> None:
    """Wherever 64 bytes are flipped: the ledger is damaged, or all that it says is as before."""
    ledger.begin(fake_sweep(tmp_path), fake_cells(12))
    for state in ("finished", "diverged", "pruned"):
        entry = ledger.claim()
        assert entry is not None
        ledger.name_run(entry.key, f"run-{entry.index}")
        ledger.end(entry.key, state, score=1.5, seconds=3.0)  # type: ignore[arg-type]
    ledger.close()
    before, data = (entries(ledger.folder), stored_sweep(ledger.folder)), ledger.path.read_bytes()
    noticed = 0
    places = [i / 150 for i in range(151)]
    for where in places:
        flip(ledger.folder, FILE, where)
        try:
            assert (entries(ledger.folder), stored_sweep(ledger.folder)) == before
        except Damaged:
            noticed += 1
        ledger.path.write_bytes(data)
    assert noticed >= 20, "the other places are free space"
    with sqlite3.connect(ledger.path) as raw:
        raw.execute("UPDATE trials SET score = 1.4 WHERE run = 'run-0'")
    raw.close()
    with pytest.raises(Damaged, match="a row of trials is not what was written"):
        entries(ledger.folder)
    with pytest.raises(Damaged, match="a row of trials is not what was written"):
        Ledger.open(ledger.folder).entries()


def test_a_damaged_ledger_stays_while_a_run_of_it_is_trained(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    flip(ledger.folder, FILE, 0.0)
    run = Run.create(tmp_path, "fake", "a", {}, {"signature": "x"})
    with (
        run.lock(),
        pytest.raises(LabError, match=rf"is damaged .*, and process {os.getpid()} on .* trains a: stop it"),
    ):
        mend(ledger.folder)
    assert ledger.path.exists()
    assert mend(ledger.folder) is not None


def test_an_earlier_version_is_set_aside(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as raw:
        raw.execute("CREATE TABLE trials (key TEXT)")
        raw.execute("PRAGMA user_version=1")
    raw.close()
    for use in (Ledger.open, entries):
        with pytest.raises(Damaged, match="written by an earlier version of gpt_lab, 1 < 2"):
            use(tmp_path)
    assert mend(tmp_path) is not None


def test_a_later_version_is_refused(ledger: Ledger) -> None:
    with sqlite3.connect(ledger.path) as raw:
        raw.execute("PRAGMA user_version=99")
    raw.close()
    with pytest.raises(DataError, match="later version"):
        entries(ledger.folder)
    with pytest.raises(DataError, match="later version"):
        Ledger.open(ledger.folder)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LabError, match="cannot write"):
        Ledger.open(tmp_path / "file" / "study")


def test_a_trial_is_one_write(ledger: Ledger) -> None:
    """Its end with the name of its run, this process's heartbeat and the next claim: one transaction."""
    entry, other = ledger.claim(), Ledger.open(ledger.folder)
    assert entry is not None
    beats, statements = [beat for _, beat, _ in other.others()], list[str]()
    ledger._database.set_trace_callback(statements.append)
    noted, following = ledger.end_and_claim(entry.key, "finished", [f"{1:012x}"], run="a-seed0", score=0.5)
    ledger._database.set_trace_callback(None)
    assert statements.count("COMMIT") == 1
    assert noted and following is not None and (following.index, following.state) == (2, "running")
    found = ledger.entries()[0]
    assert (found.state, found.run, found.score) == ("finished", "a-seed0", 0.5)
    assert [beat for _, beat, _ in other.others()] > beats
    assert not ledger.end_and_claim(entry.key, "diverged")[0], "it is nobody's any more"
    assert ledger.beat({following.key: "b-seed0", entry.key: "wrong"}) == [entry.key]
    assert [entry.run for entry in ledger.entries()[:3]] == ["a-seed0", None, "b-seed0"]
