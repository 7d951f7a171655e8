"""The simulated cluster: none lost, none twice; and the committed figures."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from benchmarks.simulated import ledger

ROOT = Path(__file__).parent.parent.parent


def test_workers_die_and_no_trial_is_lost(tmp_path: Path) -> None:
    """50 workers of which a third dies each minute."""
    found = ledger.simulated(tmp_path / "study", 50, 600, deaths=0.3)
    assert (found["lost"], found["noted_twice"]) == (0, 0)
    assert found["died_with_a_trial"] > 5
    assert 0 < found["begun_again"] <= found["died_with_a_trial"], "only what died with its worker is begun again"


def test_processes_share_a_ledger(tmp_path: Path) -> None:
    found = ledger.processes(tmp_path / "study", 3, "PERSIST", seconds=0.01, each=4)
    assert (found["finished"], found["attempts"]) == (12, 12)


def test_the_committed_figures() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "ledger.json").read_text(encoding="utf-8"))
    rows = {(row["journal"], row["processes"]): row for row in found["processes"]["rows"]}
    assert set(rows) == {(journal, count) for journal in ("WAL", "PERSIST") for count in ledger.PROCESSES}
    assert all(row["finished"] == row["attempts"] == row["trials"] for row in rows.values())
    played = found["simulated"]
    assert (played["workers"], played["trials"], played["deaths_a_minute"]) == (1000, 100_000, 0.01)
    assert (played["lost"], played["noted_twice"]) == (0, 0)
    assert played["begun_again"] == played["died_with_a_trial"] > 0
    assert max(rows[journal, 64]["share"] for journal in ("WAL", "PERSIST")) < 0.05
    assert found["status"]["trials"] == 10_000 and statistics.median(found["status"]["wall_s"]) < 1
