"""The ledger's sqlite file: several machines may write, schema checked, errors as one line.

sqlite finds damage to its own structure, not to what the rows say: so each row has a digest of its values, kept by
triggers of the connection and checked by whoever reads it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gpt_lab.digests import Damaged
from gpt_lab.errors import DataError, LabError
from gpt_lab.store.atomic_files import writing
from gpt_lab.store.lock import Lock

VERSION = 2
BUSY_SECONDS = 60.0
LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "overlay", "f2fs", "jfs", "bcachefs", "apfs"}
"""File systems whose shared memory all processes see. Elsewhere (NFS, SMB, FUSE, unknown ones) WAL can lose data."""
SHARED = "workers/shared"
"""A file beside the ledger that says that other machines write too, though the file system here may be a local one."""
TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, digest TEXT);
CREATE TABLE IF NOT EXISTS owners (
    id TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, start INTEGER, token TEXT NOT NULL,
    beat INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS trials (
    key TEXT PRIMARY KEY, place INTEGER NOT NULL, vals TEXT NOT NULL, arm TEXT NOT NULL, tuning TEXT NOT NULL,
    pair TEXT NOT NULL, overrides TEXT NOT NULL, identity TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'waiting',
    run TEXT, attempts INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0, error TEXT,
    wanted INTEGER NOT NULL DEFAULT 1, owner TEXT, score REAL, seconds REAL,
    digest TEXT);
CREATE INDEX IF NOT EXISTS by_state ON trials (state, wanted, place);
"""
COLUMNS = {
    "meta": ("name", "value"),
    "trials": (
        *("key", "place", "vals", "arm", "tuning", "pair", "overrides", "identity", "state", "run", "attempts"),
        *("failures", "error", "wanted", "owner", "score", "seconds"),
    ),
}
"""What a row's digest is of, the primary key first."""
WAY = "the command of the sweep sets it aside and finds its runs again"


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turns an error of sqlite into one line.

    Raises:
        LabError: full disk, no permission, locked for too long. Damaged: the file is no database, or not as written.
    """
    try:
        yield
    except sqlite3.Error as error:
        text = " ".join(str(error).split())
        code = getattr(error, "sqlite_errorname", "") or ""
        if code.startswith("SQLITE_FULL"):
            way = "no space left: free some and repeat the command, nothing is lost"
        elif code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
            way = f"{text}: make it writable or choose another folder with runs_dir=..."
        elif code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            way = f"another process has held it for {BUSY_SECONDS:.0f} s: repeat the command"
        elif (
            code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR"))
            or "decode to UTF-8" in text
            or not isinstance(error, sqlite3.OperationalError)
        ):
            raise damaged(path, text) from error
        else:
            way = f"{text}: free space, or choose another folder with runs_dir=..."
        raise LabError(f"cannot use {path}: {way}") from error


def damaged(path: Path, how: str) -> Damaged:
    """The error of a file that cannot be used."""
    return Damaged(f"{path} is damaged ({how}): {WAY}")


def digest(*values: Any) -> str:
    """16 hex digits over the values of a row."""
    return hashlib.sha256(json.dumps(values, default=repr).encode()).hexdigest()[:16]


def checked(row: sqlite3.Row, table: str, path: Path) -> sqlite3.Row:
    """A row whose values are those that were written.

    Raises:
        Damaged: they are not.
    """
    if digest(*(row[name] for name in COLUMNS[table])) != row["digest"]:
        raise damaged(path, f"a row of {table} is not what was written")
    return row


def connect(path: Path) -> sqlite3.Connection:
    """A connection for writing; the file and its tables are made if they are not there.

    Raises:
        LabError, DataError: as `guarded`, or a newer lab wrote the file.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with guarded(path):
        database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            database.row_factory = sqlite3.Row
            alone = is_local(path) and not (path.parent / SHARED).exists()
            _set_journal(database, "WAL" if alone else "PERSIST")
            # a rollback journal that is kept: one that is deleted costs two more writes, of its folder
            database.execute("PRAGMA synchronous=FULL")  # a power cut loses nothing that was said to be done
            check_version(database, path)
            database.execute("BEGIN IMMEDIATE")
            for statement in TABLES.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version={VERSION}")
            database.execute("COMMIT")
            _check(database, path)
            database.create_function("digest_of", -1, digest, deterministic=True)
            for table, names in COLUMNS.items():
                values, of = ", ".join(f"NEW.{name}" for name in names), ", ".join(names)
                for event in ("INSERT", f"UPDATE OF {of}"):
                    database.execute(
                        f"CREATE TEMP TRIGGER {table}_{event[:6]} AFTER {event} ON main.{table} BEGIN UPDATE {table} "
                        f"SET digest = digest_of({values}) WHERE {names[0]} = NEW.{names[0]}; END"
                    )
        except BaseException:
            database.close()
            raise
    return database


def _set_journal(database: sqlite3.Connection, mode: str) -> None:
    """Changes how the file is written. Here sqlite does not wait for other processes by itself."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            database.execute(f"PRAGMA journal_mode={mode}")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or time.monotonic() > end:
                raise
            time.sleep(0.02)


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads, also in a folder that cannot be written.

    Raises:
        LabError, DataError: as `connect`.
    """
    with guarded(path):
        mode = "ro" if os.access(path.parent, os.W_OK) else "ro&immutable=1"
        uri = f"{path.resolve().as_uri()}?mode={mode}"
        database = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            database.row_factory = sqlite3.Row
            check_version(database, path)
            _check(database, path)
        except BaseException:
            database.close()
            raise
    return database


def check_version(database: sqlite3.Connection, path: Path) -> None:
    """Refuses a file of another version of the lab."""
    (found,) = database.execute("PRAGMA user_version").fetchone()
    if found > VERSION:
        raise DataError(f"{path} was written by a later version of gpt_lab ({found} > {VERSION}): update the lab")
    (tables,) = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if tables and found < VERSION:
        raise damaged(path, f"written by an earlier version of gpt_lab, {found} < {VERSION}")


def _check(database: sqlite3.Connection, path: Path) -> None:
    (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise damaged(path, " ".join(str(found).split()).removeprefix("*** in database main *** "))


def set_aside(path: Path, error: Damaged) -> str:
    """Renames a file that is damaged, and the journals beside it; returns what to tell the user.

    Raises:
        LabError: another process trains a run in its folder, or it cannot be renamed.
    """
    reason = str(error).removesuffix(f": {WAY}")
    for lock in path.parent.glob("*/lock"):
        if (holder := Lock(lock).holder()) is not None:
            who = f"process {holder.get('pid')} on {holder.get('host')} trains {lock.parent.name}"
            raise LabError(f"{reason}, and {who}: stop it, then repeat the command")
    names = (f"{path.name}.damaged{'' if number == 1 else f'-{number}'}" for number in itertools.count(1))
    kept = next(place for name in names if not (place := path.with_name(name)).exists())
    with writing(path):
        for suffix in ("-shm", "-wal", "-journal", ""):  # a journal must never meet another database
            with suppress(FileNotFoundError):
                os.replace(f"{path}{suffix}", f"{kept}{suffix}")
    return f"{reason}: kept as {kept.name}; a new one is begun, and runs that are there are found"


@contextmanager
def transaction(database: sqlite3.Connection, path: Path) -> Iterator[None]:
    """One writing transaction: it takes the write lock at once, and all of it happens or nothing."""
    with guarded(path):
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def is_local(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether the file system of a path is known to be of this machine alone."""
    return file_system(path, mounts) in LOCAL


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Type of the file system that holds a path, such as ext4 or nfs4; "unknown" where the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    where = path.absolute().resolve()
    best, kind = -1, "unknown"
    for line in lines:  # 36 35 98:0 /root /mount/point options ... - type source options
        fields, _, rest = line.partition(" - ")
        words = fields.split()
        if len(words) < 5 or not rest:
            continue
        point = Path(words[4].encode().decode("unicode_escape"))
        if where.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split()[0]
    return kind
