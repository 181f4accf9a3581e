"""A replay store in a file: for several processes, and for restarts.

One thread of the store does all that touches the file. Callers leave jobs for it, and it does
those that are there in one transaction, so that many concurrent requests share one wait for the
disk. Jobs are done in the order in which they were left: a release that follows a claim undoes it.

A take-over is a compare-and-set: a transaction that has the write lock of the file looks at the
lease, and what a claim changes later is bound to its token.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

from eventbus.errors import OptionError
from eventbus.webhooks.replay import KEEP, LEASE, Claim, check_keep, raise_in_progress

__all__ = ["SqliteReplayStore"]

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS eventbus_replay (
    key       BLOB PRIMARY KEY,  -- 32 bytes
    token     INTEGER NOT NULL,  -- whose claim it is or was
    lease     REAL,              -- claimed until then, in UNIX seconds; NULL once it is done
    forget    REAL NOT NULL      -- unknown from then on
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS eventbus_replay_forget ON eventbus_replay (forget);
"""

WAL: Final = "PRAGMA journal_mode = WAL"

CLEAN_EVERY: Final = 256
"""After how many claims old rows are looked for."""

CLEAN_ROWS: Final = 500
"""How many of them are removed at once, at most: more would hold the lock of the file for long."""

BUSY_SECONDS: Final = 2.0
"""How long another process may have the file to itself before a call fails."""

PAUSE: Final = 0.01
"""How long to wait, in seconds, before such a file is tried again."""

Job = Callable[[sqlite3.Connection], Any]


class SqliteReplayStore:
    """Remembers in an SQLite file, which other processes may use at the same time.

    The file is opened at the first call, in WAL mode and with ``synchronous=FULL``: what is done
    outlives a loss of power. ``path`` lies on a local disk (SQLite's locks do not work on most
    network file systems). ``keep`` is how many seconds a key is remembered; a row takes about 100
    bytes, and old rows are removed in batches of 500, one for every 256 claims.

    Cancelling ``claim`` gives the key back as soon as the disk answers; ``done``, ``release`` and
    ``renew`` are carried out even if they are cancelled. It has one thread while it is open.

    Raises ``OptionError`` for values out of range. Calls raise ``sqlite3.Error`` if the file cannot
    be used, or is locked by somebody else for 2 s.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep: float = KEEP) -> None:
        if os.fspath(path) in {"", ":memory:"}:
            raise OptionError(f"path={path!r}: pass a file, or use MemoryReplayStore")
        self._path = Path(path)
        self._keep = check_keep(keep)
        self._worker = _Worker(self._path)
        self._claims = 0

    async def claim(self, key: bytes, remember: float, now: float) -> Claim | None:
        """As `ReplayStore` says."""
        token = secrets.randbits(63)
        self._claims += 1
        clean = self._claims % CLEAN_EVERY == 0
        forget = now + max(self._keep, remember, LEASE)

        def job(connection: sqlite3.Connection) -> float | None:
            if clean:
                connection.execute(
                    "DELETE FROM eventbus_replay WHERE key IN "
                    "(SELECT key FROM eventbus_replay WHERE forget <= ? LIMIT ?)",
                    (now, CLEAN_ROWS),
                )
            return _claim(connection, key, token, now, forget)

        try:
            lease = await self._worker.do(job)
        except asyncio.CancelledError:
            # Done right behind the claim, if that was not taken back before it began.
            self._worker.leave(lambda connection: _release(connection, key, token))
            raise
        if lease is None:
            return Claim(key, token)
        if lease > now:
            raise_in_progress()
        return None

    async def renew(self, claim: Claim, now: float) -> bool:
        """As `ReplayStore` says."""

        def job(connection: sqlite3.Connection) -> bool:
            lease = now + LEASE
            return _changed(
                connection,
                "UPDATE eventbus_replay SET lease = ?, forget = max(forget, ?) "
                "WHERE key = ? AND token = ? AND lease IS NOT NULL",
                (lease, lease, claim.key, claim.token),
            )

        renewed: bool = await asyncio.shield(self._worker.do(job))
        return renewed

    async def done(self, claim: Claim) -> None:
        """As `ReplayStore` says."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE eventbus_replay SET lease = NULL WHERE key = ? AND token = ?",
                (claim.key, claim.token),
            )

        await asyncio.shield(self._worker.do(job))

    async def release(self, claim: Claim) -> None:
        """As `ReplayStore` says."""
        await asyncio.shield(
            self._worker.do(lambda connection: _release(connection, claim.key, claim.token))
        )

    def close(self) -> None:
        """Finish what was left to do, close the file and end the thread. Idempotent.

        It may block for as long as the disk does. A later call opens the file again.
        """
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SqliteReplayStore {os.fspath(self._path)!r}>"


def _claim(
    connection: sqlite3.Connection, key: bytes, token: int, now: float, forget: float
) -> float | None:
    """None if the claim is made; else until when it is somebody else's, 0.0 for one that is done.

    Whoever asks prolongs the memory of the key: their request could be replayed, too.
    """
    row = connection.execute(
        "SELECT lease, forget FROM eventbus_replay WHERE key = ?", (key,)
    ).fetchone()
    if row is not None and row[1] > now and (row[0] is None or row[0] > now):
        connection.execute(
            "UPDATE eventbus_replay SET forget = max(forget, ?) WHERE key = ?", (forget, key)
        )
        return 0.0 if row[0] is None else float(row[0])
    connection.execute(
        "INSERT OR REPLACE INTO eventbus_replay (key, token, lease, forget) VALUES (?, ?, ?, ?)",
        (key, token, now + LEASE, forget),
    )
    return None


def _release(connection: sqlite3.Connection, key: bytes, token: int) -> None:
    connection.execute(
        "DELETE FROM eventbus_replay WHERE key = ? AND token = ? AND lease IS NOT NULL",
        (key, token),
    )


def _changed(connection: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> bool:
    return connection.execute(statement, values).rowcount == 1


class _Worker:
    """A connection, the thread that uses it, and the jobs that wait for it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        """Of all below, and never held while the disk is asked."""
        self._turn = threading.RLock()
        """Of the connection: a thread that ends and the next one may both want it."""
        self._jobs: deque[tuple[Job, Future[Any]]] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._inherited: list[sqlite3.Connection | None] = []
        """What a fork brought along. SQLite forbids to use it, and to close it."""

    def do(self, job: Job) -> asyncio.Future[Any]:
        """Leave a job and get its result. Cancelled before it began, it is not done."""
        return asyncio.wrap_future(self.leave(job))

    def leave(self, job: Job) -> Future[Any]:
        """Leave a job."""
        if self._process != os.getpid():
            self._begin_again()
        future: Future[Any] = Future()
        with self._lock:
            self._jobs.append((job, future))
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "eventbus replay store")
            self._thread.submit(self._drain)
        return future

    def close(self) -> None:
        """Finish, close the file, end the thread."""
        if self._process != os.getpid():
            self._begin_again()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.submit(self._disconnect).result()
            thread.shutdown()

    def _begin_again(self) -> None:
        """In a forked child: the thread is not there, and the connection is the parent's."""
        self._inherited.append(self._connection)
        self._connection = self._thread = None
        self._lock, self._turn = threading.Lock(), threading.RLock()  # of threads that are gone
        self._jobs.clear()
        self._process = os.getpid()

    def _drain(self) -> None:
        """In the thread: do all jobs that wait, in one transaction."""
        with self._turn:
            with self._lock:
                jobs = [each for each in self._jobs if each[1].set_running_or_notify_cancel()]
                self._jobs.clear()
            if jobs:
                self._do(jobs)

    def _do(self, jobs: list[tuple[Job, Future[Any]]]) -> None:
        try:
            results = self._transact([job for job, _ in jobs])
        except BaseException as error:
            self._disconnect()
            for _, future in jobs:
                future.set_exception(error)
            return
        for (_, future), result in zip(jobs, results, strict=True):
            future.set_result(result)

    def _transact(self, jobs: list[Job]) -> list[Any]:
        connection = self._connection
        if connection is None:
            connection = self._connection = _connect(self._path)
        with connection:  # commits, or rolls back
            connection.execute("BEGIN IMMEDIATE")
            return [job(connection) for job in jobs]

    def _disconnect(self) -> None:
        """In the thread. What made a call fail may be gone when the file is opened anew."""
        with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # one at a time, which the worker sees to
    )
    try:
        _switch_to_wal(connection, path)
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _switch_to_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Processes that open a new file at the same time get in each other's way here.

    SQLite's own patience, its time-out, does not cover this statement.
    """
    mode = None
    pauses = round(BUSY_SECONDS / PAUSE)
    while mode is None:
        try:
            (mode,) = connection.execute(WAL).fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not pauses:
                raise
            pauses -= 1
            time.sleep(PAUSE)
    if mode != "wal":
        raise sqlite3.OperationalError(f"{path}: no WAL here, but {mode!r}")
