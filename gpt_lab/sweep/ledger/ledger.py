"""The sweep's ledger: the state of every cell, and who works on it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_lab.digests import Damaged
from gpt_lab.errors import ConfigError
from gpt_lab.store.atomic_files import encode, write_atomic
from gpt_lab.study.design import Cell, Stated
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger import sweep_text
from gpt_lab.sweep.ledger.database import checked, connect, connect_reader, guarded, set_aside, transaction
from gpt_lab.sweep.ledger.entry import STATES, LedgerEntry, TrialState, read_entry
from gpt_lab.sweep.ledger.liveness import Owner

FILE = "sweep.sqlite"
COPY = "sweep.yaml"
ENDED = "state=?, owner=NULL, run=COALESCE(?, run), score=?, seconds=?, error=NULL"


class Ledger:
    """The ledger of one study's folder, open for writing. Every method is one transaction.

    Trials belong to the owner that claimed them: what another process writes about them is ignored.
    """

    def __init__(self, folder: Path, database: sqlite3.Connection, owner: Owner) -> None:
        self.folder = folder
        self.path = folder / FILE
        self.owner = owner
        self._database = database
        self._beat_number = itertools.count()  # one that comes back must not stand where it was seen last

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """The ledger of `runs_dir/<study>`, made if it is not there; this process becomes one of its owners.

        Raises:
            LabError: it cannot be written. Damaged: it is not as it was written.
        """
        ledger = cls(folder, connect(folder / FILE), Owner.this())
        ledger._enter()
        return ledger

    @classmethod
    def share(cls, other: Ledger, owner: Owner) -> Ledger:
        """The same ledger, through the same connection, for another owner."""
        ledger = cls(other.folder, other._database, owner)
        ledger._enter()
        return ledger

    def _enter(self) -> None:
        with self._writing():
            self._beat()

    def _beat(self) -> None:
        """Moves this owner's heartbeat; one that was silent for long, and so taken for dead, is an owner again."""
        who = self.owner
        self._database.execute(
            "INSERT INTO owners (id, host, pid, start, token, beat) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET beat = excluded.beat",
            (who.id, who.host, who.pid, who.start, who.token, next(self._beat_number)),
        )

    def close(self) -> None:
        """Leaves: trials that this process still holds wait for another."""
        with self._writing():
            self._database.execute("UPDATE trials SET state='waiting', owner=NULL WHERE owner=?", (self.owner.id,))
            self._database.execute("DELETE FROM owners WHERE id=?", (self.owner.id,))
        self._database.close()

    # -- the sweep and its cells --

    def begin(self, sweep: Sweep, cells: Sequence[Cell] | None, kept: Sequence[Cell] = ()) -> None:
        """Keeps the sweep; its cells become the wanted ones, those of earlier versions of the file stay unwanted.

        Args:
            cells: of a grid; None: they are drawn one by one (`add`), and stay wanted while the search is the same.
            kept: drawn ones that stay wanted when it is not.
        """
        with self._writing():
            same = self._get("search") == sweep_text.search(sweep)
            if cells is not None or not same:
                self._database.execute("UPDATE trials SET wanted=0")
            for cell in cells or (() if same else kept):
                self._put(cell)
            (begun,) = self._database.execute("SELECT COUNT(*) FROM trials WHERE attempts").fetchone()
            if not begun:
                self._set(stated=json.dumps(dataclasses.asdict(sweep.design.stated)))
            self._set(sweep=sweep_text.to_json(sweep), search=sweep_text.search(sweep))
        write_atomic(self.folder / COPY, sweep_text.readable(sweep).encode())

    def add(self, cell: Cell, known: int, claim: bool = True) -> LedgerEntry | None:
        """Keeps a drawn cell before anything of it runs, and claims it if nobody has worked on it.

        Args:
            known: how many wanted cells it was drawn after; None is returned if there are others by now.
        """
        with self._writing():
            (count,) = self._database.execute("SELECT COUNT(*) FROM trials WHERE wanted").fetchone()
            if count != known:
                return None
            self._put(cell)
            entry = self._entry(cell.key)
            if claim and entry.state == "waiting":
                self._take(cell.key)
            return self._entry(cell.key)

    def entries(self) -> list[LedgerEntry]:
        """All cells, in the sweep's order."""
        with guarded(self.path):
            return _entries(self._database, self.path)

    def counts(self) -> dict[TrialState, int]:
        """How many wanted cells are in each state."""
        with guarded(self.path):
            found = self._database.execute("SELECT state, COUNT(*) FROM trials WHERE wanted GROUP BY state").fetchall()
        return {state: dict(map(tuple, found)).get(state, 0) for state in STATES}

    def threads(self, wanted: int | None, default: int) -> int:
        """Threads per trial: those that the sweep began with, so that its curves stay the same bit for bit.

        Args:
            wanted: asked for; None: whatever the ledger says, else `default`.

        Raises:
            ConfigError: trials were begun with another number.
        """
        with self._writing():
            (begun,) = self._database.execute("SELECT COUNT(*) FROM trials WHERE attempts").fetchone()
            kept = self._get("threads")
            if kept is not None and begun:
                if wanted is not None and wanted != int(kept):
                    raise ConfigError(
                        f"this sweep was begun with --threads {kept}, and results depend on it: leave it out, or take "
                        "another study=..."
                    )
                return int(kept)
            chosen = default if wanted is None else wanted
            self._set(threads=str(chosen))
            return chosen

    # -- who does what --

    def claim(self, skip: Iterable[str] = ()) -> LedgerEntry | None:
        """Takes the first wanted cell that waits, for this process alone; None: nothing waits (or only `skip`)."""
        with self._writing():
            return self._claim(set(skip))

    def _claim(self, skipped: set[str]) -> LedgerEntry | None:
        rows = self._database.execute("SELECT key FROM trials WHERE wanted=1 AND state='waiting' ORDER BY place, key")
        key = next((row["key"] for row in rows if row["key"] not in skipped), None)
        if key is None:
            return None
        self._take(key)
        return self._entry(key)

    def beat(self, runs: Mapping[str, str] | None = None) -> list[str]:
        """Says that this process lives.

        Args:
            runs: names of runs to note by the way, by their trials' keys.

        Returns:
            the trials among them that another process has taken over.
        """
        with self._writing():
            self._beat()
            return [key for key, run in (runs or {}).items() if not self._update(key, "run=?", run)]

    def stops(self) -> int:
        """How often the sweep's workers have been asked to stop."""
        with guarded(self.path):
            return int(self._get("stops") or 0)

    def ask_to_stop(self) -> None:
        """Has every worker that was started before now write checkpoints and leave, on whatever machine."""
        with self._writing():
            self._set(stops=str(int(self._get("stops") or 0) + 1))

    def others(self) -> list[tuple[Owner, int, int]]:
        """The other owners: each with its heartbeat counter and the number of trials that it holds."""
        with guarded(self.path):
            held = dict(
                map(
                    tuple,
                    self._database.execute(
                        "SELECT owner, COUNT(*) FROM trials WHERE state='running' GROUP BY owner"
                    ).fetchall(),
                )
            )
        return [(owner, beat, held.get(owner.id, 0)) for owner, beat in self._beats()]

    def bury(self, dead: Callable[[Owner, int], bool]) -> int:
        """Takes their trials from dead owners; returns how many wait again."""
        gone = [owner for owner, beat in self._beats() if dead(owner, beat)]
        freed = 0
        for owner in gone:
            with self._writing():
                self._database.execute("DELETE FROM owners WHERE id=?", (owner.id,))
                freed += self._database.execute(
                    "UPDATE trials SET state='waiting', owner=NULL WHERE owner=? AND state='running'", (owner.id,)
                ).rowcount
        return freed

    def _beats(self) -> list[tuple[Owner, int]]:
        with guarded(self.path):
            rows = self._database.execute("SELECT * FROM owners WHERE id != ?", (self.owner.id,)).fetchall()
        return [(Owner(row["host"], row["pid"], row["start"], row["token"]), row["beat"]) for row in rows]

    def revive(self, states: Sequence[TrialState]) -> int:
        """Lets wanted cells in these states wait for another try."""
        marks = ", ".join("?" * len(states))
        with self._writing():
            return self._database.execute(
                f"UPDATE trials SET state='waiting', failures=0 WHERE wanted AND state IN ({marks})", tuple(states)
            ).rowcount

    def repeat(self, keys: Iterable[str]) -> None:
        """Lets ended cells wait again, whose runs are gone."""
        with self._writing():
            self._database.executemany(
                "UPDATE trials SET state='waiting', run=NULL, score=NULL, seconds=NULL WHERE key=? AND owner IS NULL",
                [(key,) for key in keys],
            )

    # -- what becomes of a trial that this process holds; False: another process has taken it over --

    def name_run(self, key: str, run: str) -> bool:
        """Notes a trial's folder."""
        return self._change(key, "run=?", run)

    def end(
        self,
        key: str,
        state: TrialState,
        *,
        run: str | None = None,
        score: float | None = None,
        seconds: float | None = None,
    ) -> bool:
        """Notes how a trial ended, and its folder if that is new."""
        return self._change(key, ENDED, state, run, encode(score), encode(seconds))

    def end_and_claim(
        self,
        key: str,
        state: TrialState,
        skip: Iterable[str] = (),
        *,
        run: str | None = None,
        score: float | None = None,
        seconds: float | None = None,
    ) -> tuple[bool, LedgerEntry | None]:
        """`end`, `beat` and `claim` in one transaction: what costs is how many there are, not what is in them."""
        with self._writing():
            self._beat()
            noted = self._update(key, ENDED, state, run, encode(score), encode(seconds))
            return noted, self._claim(set(skip))

    def wait(self, key: str) -> bool:
        """Puts a trial back, as if it had never been claimed but for its attempts."""
        return self._change(key, "state='waiting', owner=NULL")

    def fail(self, key: str, error: str, retries: int) -> TrialState | None:
        """Notes a failure; the trial waits for another try until it has failed more than `retries` times."""
        with self._writing():
            changed = self._database.execute(
                "UPDATE trials SET failures = failures + 1, error = ?, owner = NULL, "
                "state = CASE WHEN failures < ? THEN 'waiting' ELSE 'failed' END WHERE key=? AND owner=?",
                (error, retries, key, self.owner.id),
            ).rowcount
            return self._entry(key).state if changed else None

    def _change(self, key: str, assignments: str, *values: Any) -> bool:
        with self._writing():
            return self._update(key, assignments, *values)

    def _update(self, key: str, assignments: str, *values: Any) -> bool:
        statement = f"UPDATE trials SET {assignments} WHERE key=? AND owner=?"
        return self._database.execute(statement, (*values, key, self.owner.id)).rowcount == 1

    def _writing(self) -> Any:
        return transaction(self._database, self.path)

    def _take(self, key: str) -> None:
        self._beat()
        self._database.execute(
            "UPDATE trials SET state='running', owner=?, attempts = attempts + 1 WHERE key=?", (self.owner.id, key)
        )

    def _entry(self, key: str) -> LedgerEntry:
        return read_entry(self._database.execute("SELECT * FROM trials WHERE key=?", (key,)).fetchone(), self.path)

    def _put(self, cell: Cell) -> None:
        self._database.execute(
            "INSERT INTO trials (key, place, vals, arm, tuning, pair, overrides, identity) VALUES (?,?,?,?,?,?,?,?) "
            "ON CONFLICT (key) DO UPDATE SET place=excluded.place, vals=excluded.vals, arm=excluded.arm, "
            "tuning=excluded.tuning, pair=excluded.pair, identity=excluded.identity, wanted=1",
            (
                cell.key,
                cell.index,
                sweep_text.dump(cell.values),
                str(cell.arm),
                str(cell.tuning),
                sweep_text.dump(cell.pair),
                sweep_text.dump(cell.overrides),
                cell.identity,
            ),
        )

    def _get(self, name: str) -> str | None:
        return _meta(self._database, self.path, name)

    def _set(self, **values: str) -> None:
        self._database.executemany("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", values.items())


def entries(folder: Path) -> list[LedgerEntry]:
    """All cells that a study's ledger knows, in the sweep's order; [] without a ledger. Writes nothing.

    Raises:
        Damaged: the file is no ledger, or not as it was written. LabError: it cannot be read.
    """
    return read_with(folder, _entries) or []


def stored_sweep(folder: Path) -> Sweep | None:
    """The sweep as the last runner of a study was given it; None without a ledger.

    Raises:
        DataError: as `entries`.
    """
    return read_with(folder, _sweep)


def stops(folder: Path) -> int:
    """How often the workers of a study have been asked to stop; 0 without a ledger.

    Raises:
        DataError: as `entries`.
    """
    return read_with(folder, lambda database, path: int(_meta(database, path, "stops") or 0)) or 0


def stated(folder: Path) -> Stated | None:
    """What the sweep had said of its verdicts when its first run began; None without a ledger.

    Raises:
        DataError: as `entries`.
    """
    return read_with(folder, _stated)


def _stated(database: sqlite3.Connection, path: Path) -> Stated | None:
    row = database.execute("SELECT value FROM meta WHERE name='stated'").fetchone()
    if row is None:
        return None
    found = json.loads(row["value"])
    return Stated(found["sesoi"], found["metric"], None if found["pairs"] is None else tuple(found["pairs"]))


def mend(folder: Path) -> str | None:
    """Sets the ledger of a study aside if it is damaged, so that another is begun; what to tell the user, if it was.

    Raises:
        LabError: another process trains one of its runs, or it cannot be renamed.
    """
    try:
        entries(folder), stored_sweep(folder)
    except Damaged as error:
        return set_aside(folder / FILE, error)
    return None


def read_with(folder: Path, read: Callable[[sqlite3.Connection, Path], Any]) -> Any:
    """What `read` finds in a study's ledger; None without one. Writes nothing."""
    path = folder / FILE
    if not path.exists():
        return None
    database = connect_reader(path)
    try:
        with guarded(path):
            (tables,) = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            return read(database, path) if tables else None  # another process is about to make them
    finally:
        database.close()


def _entries(database: sqlite3.Connection, path: Path) -> list[LedgerEntry]:
    return [read_entry(row, path) for row in database.execute("SELECT * FROM trials ORDER BY wanted DESC, place, key")]


def _sweep(database: sqlite3.Connection, path: Path) -> Sweep | None:
    found = _meta(database, path, "sweep")
    return None if found is None else sweep_text.from_json(found)


def _meta(database: sqlite3.Connection, path: Path, name: str) -> str | None:
    found = database.execute("SELECT * FROM meta WHERE name=?", (name,)).fetchone()
    return None if found is None else str(checked(found, "meta", path)["value"])
