"""Replay stores: the contract that both keep, and what each does beyond it."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus import OptionError
from eventbus.testing.contracts import ReplayStoreContract, key_of
from eventbus.webhooks._sqlite_replay import CLEAN_EVERY, CLEAN_ROWS, SqliteReplayStore
from eventbus.webhooks.errors import InProgress, ReplayStoreFull
from eventbus.webhooks.replay import LEASE, Claim, MemoryReplayStore, ReplayStore

NOW = 1_700_000_000.0
WEEK = 7 * 24 * 3600.0
KEY = key_of(7)


class TestMemoryContract(ReplayStoreContract):
    def make_store(self) -> ReplayStore:
        return MemoryReplayStore()


class TestSmallMemoryContract(ReplayStoreContract):
    """The same where there is hardly any room: nothing is forgotten for it."""

    def make_store(self) -> ReplayStore:
        return MemoryReplayStore(capacity=20)


class TestSqliteContract(ReplayStoreContract):
    @pytest.fixture(autouse=True)
    def directory(self, tmp_path: Path) -> None:
        self.path = tmp_path / "replay.db"

    def make_store(self) -> ReplayStore:
        return SqliteReplayStore(self.path)

    def close_store(self, store: ReplayStore) -> None:
        assert isinstance(store, SqliteReplayStore)
        store.close()


class TestContract:
    def test_it_must_be_told_how_to_make_a_store(self) -> None:
        """A contract alone tests nothing: it says so, and has nothing to close."""
        with pytest.raises(NotImplementedError):
            ReplayStoreContract().make_store()
        assert ReplayStoreContract().close_store(MemoryReplayStore()) is None  # type: ignore[func-returns-value]

    def test_it_finds_a_store_that_forgets_who_came_meanwhile(self) -> None:
        """Whoever found the key in progress, or took it over, could be replayed as well."""

        class Forgetful(MemoryReplayStore):
            open: ClassVar[set[bytes]] = set()

            async def claim(self, key: bytes, remember: float, now: float) -> Claim | None:
                remember = 0.0 if key in self.open else remember
                self.open.add(key)
                return await super().claim(key, remember, now)

            async def done(self, claim: Claim) -> None:
                self.open.discard(claim.key)
                await super().done(claim)

        with pytest.raises((AssertionError, ReplayStoreFull)):
            contract_of(Forgetful).test_who_comes_meanwhile_prolongs_that_too()

    def test_it_finds_a_store_that_takes_an_ended_claim_for_the_next(self) -> None:
        """Its claims are told apart while they are open only."""

        class Confused(MemoryReplayStore):
            latest: ClassVar[dict[bytes, Claim]] = {}

            async def claim(self, key: bytes, remember: float, now: float) -> Claim | None:
                claim = await super().claim(key, remember, now)
                if claim is not None:
                    self.latest[key] = claim
                return claim

            async def release(self, claim: Claim) -> None:
                await super().release(self.latest[claim.key])

        with pytest.raises(AssertionError):
            contract_of(Confused).test_an_ended_claim_is_none_of_the_next()


def contract_of(store: type[MemoryReplayStore]) -> Any:
    """The contract, to be called by hand."""

    class Contract(ReplayStoreContract):
        def make_store(self) -> ReplayStore:
            return store(200, keep=60)

    return Contract()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replay.db"


@pytest.fixture
def sqlite(path: Path) -> Iterator[SqliteReplayStore]:
    with SqliteReplayStore(path) as store:
        yield store


async def keep(store: ReplayStore, number: int, remember: float, now: float) -> Claim | None:
    """Claim a key, and say that it is done."""
    claim = await store.claim(key_of(number), remember, now)
    if claim is not None:
        await store.done(claim)
    return claim


class TestMemory:
    async def test_full_of_keys_that_must_be_remembered(self) -> None:
        """A full store refuses new keys and forgets none, until the first is no longer needed."""
        store = MemoryReplayStore(3)
        for number, remember in enumerate((100.0, 300.0, 200.0)):
            await keep(store, number, remember, NOW)
        for later in (0.0, 99.0):
            with pytest.raises(ReplayStoreFull, match="all 3 keys"):
                await keep(store, 3, 100, NOW + later)
        assert await keep(store, 0, 1, NOW + 99) is None
        assert await keep(store, 3, 100, NOW + 100.5) is not None
        assert [await keep(store, number, 1, NOW + 101) for number in (1, 2, 3)] == [None] * 3
        assert len(store) == 3

    async def test_the_oldest_goes_first(self) -> None:
        """Of those that need no longer be remembered, the one goes that is not needed longest."""
        store = MemoryReplayStore(3)
        for number, remember in enumerate((70.0, 90.0, 80.0)):
            await keep(store, number, remember, NOW)
        later = NOW + 1000
        await keep(store, 3, 80, later)
        await keep(store, 4, 80, later)
        assert await keep(store, 1, 1, later) is None
        assert await keep(store, 2, 1, later + 100) is not None

    async def test_what_is_asked_for_again_is_older_later(self) -> None:
        """A retry makes its key younger: another one goes in its place."""
        store = MemoryReplayStore(2)
        await keep(store, 0, 100, NOW)
        await keep(store, 1, 150, NOW)
        assert await keep(store, 0, 100, NOW + 99) is None
        await keep(store, 2, 100, NOW + 160)
        assert await keep(store, 0, 100, NOW + 160) is None

    async def test_kept_beyond_what_is_needed(self) -> None:
        """With room, a key is remembered for a week, and unknown afterwards."""
        store = MemoryReplayStore()
        await keep(store, 0, 300, NOW)
        assert await keep(store, 0, 1, NOW + WEEK - 1) is None
        assert await keep(store, 0, 300, NOW + WEEK) is not None

    async def test_keep_is_at_least_what_is_needed(self) -> None:
        """A store that keeps for a minute keeps a key longer if its signature lives longer."""
        store = MemoryReplayStore(keep=60)
        await keep(store, 0, 300, NOW)
        assert await keep(store, 0, 1, NOW + 299) is None
        assert await keep(store, 0, 1, NOW + 300) is not None

    async def test_memory_stays_bounded(self) -> None:
        """Claims that are released again and again leave nothing behind."""
        store = MemoryReplayStore(10)
        for _ in range(5000):
            claim = await store.claim(KEY, 300, NOW)
            assert claim is not None
            await store.release(claim)
        assert len(store) == 0
        assert len(store._oldest) < 2000

    async def test_room_is_found_behind_stale_entries(self) -> None:
        """Keys that were released meanwhile do not stand in the way of finding the oldest."""
        store = MemoryReplayStore(2)
        for number in (0, 1):
            claim = await store.claim(key_of(number), 100, NOW)
            assert claim is not None
            await store.release(claim)
        await keep(store, 0, 150, NOW)
        await keep(store, 1, 150, NOW)
        assert await keep(store, 2, 100, NOW + 151) is not None

    def test_repr(self) -> None:
        """It says how full it is."""
        assert repr(MemoryReplayStore(5)) == "<MemoryReplayStore: 0 of 5 keys>"

    @pytest.mark.parametrize("capacity", [0, -1, True, 1.5, None])
    def test_capacity_out_of_range(self, capacity: int) -> None:
        """The capacity is a whole number of at least one."""
        with pytest.raises(OptionError, match="capacity"):
            MemoryReplayStore(capacity)

    @pytest.mark.parametrize("keep", [59.9, True, math.inf, math.nan, "1"])
    def test_keep_out_of_range(self, keep: float) -> None:
        """A store keeps keys for a number of seconds, a lease at least."""
        with pytest.raises(OptionError, match="keep"):
            MemoryReplayStore(keep=keep)


class Model:
    """The rules of the contract, as simply as they can be written."""

    def __init__(self) -> None:
        self.claimed: dict[bytes, tuple[int, float]] = {}
        self.handled: set[bytes] = set()

    def claim(self, key: bytes, number: int, now: float) -> str:
        if key in self.handled:
            return "duplicate"
        if key in self.claimed and self.claimed[key][1] > now:
            return "in progress"
        self.claimed[key] = (number, now + LEASE)
        return "claimed"

    def holds(self, key: bytes, number: int) -> bool:
        return key in self.claimed and self.claimed[key][0] == number

    def end(self, key: bytes, number: int, *, handled: bool) -> None:
        if self.holds(key, number):
            del self.claimed[key]
            if handled:
                self.handled.add(key)

    def renew(self, key: bytes, number: int, now: float) -> bool:
        if not self.holds(key, number):
            return False
        self.claimed[key] = (number, now + LEASE)
        return True


Steps = list[tuple[str, int, float]]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "done", "release", "renew"]),
        st.integers(0, 2),  # which key, or which claim from the end
        st.sampled_from([0.0, 1.0, 30.0, LEASE, 100.0]),  # seconds that pass before
    ),
    max_size=30,
)


async def play(store: ReplayStore, steps: Steps) -> None:
    """Take the steps in a store and in the model; both must answer alike."""
    model, now = Model(), NOW
    claims: list[tuple[Claim, int]] = []
    for number, (step, which, pause) in enumerate(steps):
        now += pause
        if step == "claim":
            expected = model.claim(key_of(which), number, now)
            try:
                claim = await store.claim(key_of(which), 10_000, now)
            except InProgress:
                actual = "in progress"
            else:
                actual = "duplicate" if claim is None else "claimed"
                if claim is not None:
                    claims.append((claim, number))
            assert expected == actual
        elif which < len(claims):
            claim, owner = claims[-1 - which]
            if step == "renew":
                assert model.renew(claim.key, owner, now) == await store.renew(claim, now)
            else:
                model.end(claim.key, owner, handled=step == "done")
                await (store.done(claim) if step == "done" else store.release(claim))


class TestModel:
    @given(STEPS)
    def test_memory(self, steps: Steps) -> None:
        """Any sequence of calls is answered as the rules say, in memory."""
        asyncio.run(play(MemoryReplayStore(), steps))

    @given(STEPS)
    @settings(max_examples=30, deadline=None)
    def test_sqlite(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, float]]
    ) -> None:
        """Any sequence of calls is answered as the rules say, in a file."""
        with SqliteReplayStore(tmp_path_factory.mktemp("replay") / "replay.db") as store:
            asyncio.run(play(store, steps))


WORKER = """
    import asyncio, sys
    from eventbus.webhooks._sqlite_replay import SqliteReplayStore
    from eventbus.webhooks.errors import InProgress
    from eventbus.testing.contracts import key_of

    async def main(path, now):
        claimed = 0
        with SqliteReplayStore(path) as store:
            for number in range(100):
                try:
                    claim = await store.claim(key_of(number), 600, now)
                except InProgress:
                    continue
                if claim is not None:
                    claimed += 1
                    await store.done(claim)
        print(claimed)

    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""

DYING = """
    import asyncio, os, signal, sys
    from eventbus.webhooks._sqlite_replay import SqliteReplayStore
    from eventbus.testing.contracts import key_of

    async def main(path, now):
        store = SqliteReplayStore(path)
        await store.done(await store.claim(key_of(0), 600, now))
        await store.claim(key_of(1), 600, now)
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


class Blocker:
    """A job that holds the thread of a store."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        self.begun.set()
        assert self.go_on.wait(10)


def start(source: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(source), str(path), str(NOW)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


class TestSqlite:
    async def test_restart(self, path: Path) -> None:
        """What was done before a restart is known after it."""
        with SqliteReplayStore(path) as store:
            await keep(store, 1, 300, NOW)
        with SqliteReplayStore(path) as store:
            assert await keep(store, 1, 300, NOW + 1) is None
            assert await keep(store, 2, 300, NOW + 1) is not None

    async def test_closing_is_not_the_end(self, path: Path) -> None:
        """A closed store opens its file again when it is called; closing twice is harmless."""
        store = SqliteReplayStore(path)
        store.close()
        await keep(store, 1, 300, NOW)
        store.close()
        store.close()
        assert await keep(store, 1, 300, NOW) is None
        store.close()

    async def test_a_call_during_a_close(self, path: Path) -> None:
        """A store that another thread closes is opened again by whoever needs it meanwhile."""
        store = SqliteReplayStore(path)
        await keep(store, 1, 300, NOW)
        blocker = Blocker()
        store._worker.leave(blocker)
        assert await asyncio.to_thread(blocker.begun.wait, 10)
        closing = asyncio.ensure_future(asyncio.to_thread(store.close))
        while store._worker._thread is not None:  # noqa: ASYNC110 - it is looked at, not told
            await asyncio.sleep(0)
        keeping = asyncio.ensure_future(keep(store, 1, 300, NOW))
        await asyncio.sleep(0.05)  # real clock: time for another thread to go wrong
        blocker.go_on.set()
        assert await keeping is None
        await closing
        store.close()

    def test_several_processes_at_once(self, path: Path) -> None:
        """Four processes want the same 100 keys: each key is claimed once."""
        workers = [start(WORKER, path) for _ in range(4)]
        said = [worker.communicate(timeout=60)[0] for worker in workers]
        assert sum(map(int, said)) == 100

    @pytest.mark.posix
    async def test_a_crash_leaves_a_lease(self, path: Path) -> None:
        """After a kill -9, what was done is done, and what was claimed is free after 60 s."""
        worker = start(DYING, path)
        worker.communicate(timeout=60)
        assert worker.returncode == -signal.SIGKILL
        with SqliteReplayStore(path) as store:
            assert await store.claim(key_of(0), 600, NOW + 1) is None
            with pytest.raises(InProgress):
                await store.claim(key_of(1), 600, NOW + LEASE - 1)
            assert await store.claim(key_of(1), 600, NOW + LEASE) is not None

    @pytest.mark.posix
    @pytest.mark.parametrize("closes", [True, False])
    def test_a_fork_uses_the_file_anew(self, path: Path, closes: bool) -> None:
        """A child of a process that has used the store opens the file for itself.

        It may close first what the parent had open: that changes nothing for the parent.
        """
        store = SqliteReplayStore(path)
        asyncio.run(keep(store, 1, 300, NOW))
        store._worker._lock.acquire()  # as the thread of the store may have it just then
        child = os.fork()
        if not child:  # pragma: no cover - coverage cannot see that child
            status = 1
            signal.alarm(10)  # a child that hangs must not outlive its test
            try:
                if closes:
                    store.close()
                status = fork_child(store)
            finally:
                os._exit(status)
        store._worker._lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert asyncio.run(keep(store, 2, 300, NOW)) is None
        store.close()

    async def test_many_share_a_transaction(self, sqlite: SqliteReplayStore) -> None:
        """A thousand concurrent claims take far fewer transactions than a thousand."""
        transactions = 0
        transact = sqlite._worker._transact

        def count(jobs):  # type: ignore[no-untyped-def]
            nonlocal transactions
            transactions += 1
            return transact(jobs)

        sqlite._worker._transact = count  # type: ignore[method-assign]
        claims = await asyncio.gather(*(keep(sqlite, n, 300, NOW) for n in range(1000)))
        assert None not in claims
        assert transactions < 200

    async def test_old_rows_are_removed_in_batches(self, path: Path) -> None:
        """Rows older than ``keep`` go, 500 at a time at most, every 256th claim."""
        with SqliteReplayStore(path, keep=60) as store:
            await asyncio.gather(*(keep(store, n, 60, NOW) for n in range(CLEAN_ROWS + 100)))
            later = NOW + 1000
            counts = []
            for number in range(2 * CLEAN_EVERY):
                await keep(store, 10_000 + number, 60, later)
                counts.append(count_rows(path, NOW + 500))
        assert sorted(set(counts), reverse=True) == [CLEAN_ROWS + 100, 100, 0]

    async def test_a_file_that_cannot_be_opened(self, tmp_path: Path) -> None:
        """Each call raises what SQLite says, and the next one tries again."""
        directory = tmp_path / "missing"
        with SqliteReplayStore(directory / "replay.db") as store:
            for _ in range(2):
                with pytest.raises(sqlite3.OperationalError):
                    await store.claim(KEY, 300, NOW)
            directory.mkdir()
            assert await store.claim(KEY, 300, NOW) is not None

    def test_a_file_that_is_no_database(self, path: Path) -> None:
        """A file of something else is left as it is."""
        path.write_bytes(b"not a database, and longer than a header" * 100)
        before = path.read_bytes()
        with SqliteReplayStore(path) as store, pytest.raises(sqlite3.DatabaseError):
            asyncio.run(store.claim(KEY, 300, NOW))
        assert path.read_bytes() == before

    async def test_a_file_that_somebody_else_holds(
        self, path: Path, sqlite: SqliteReplayStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A lock that lasts fails the call; when it is gone, all is well again."""
        monkeypatch.setattr("eventbus.webhooks._sqlite_replay.BUSY_SECONDS", 0.01)
        await keep(sqlite, 0, 300, NOW)
        sqlite.close()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await sqlite.claim(KEY, 300, NOW)
        other.execute("ROLLBACK")
        other.close()
        assert await sqlite.claim(KEY, 300, NOW) is not None

    async def test_a_new_file_that_others_open_too(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While another process sets the file up, a store tries again."""
        monkeypatch.setattr("eventbus.webhooks._sqlite_replay.BUSY_SECONDS", 0.05)
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        pauses = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            other.execute("ROLLBACK")

        monkeypatch.setattr("eventbus.webhooks._sqlite_replay.time.sleep", pause)
        with SqliteReplayStore(path) as store:
            assert await store.claim(KEY, 300, NOW) is not None
        other.close()
        assert pauses == [0.01]

    async def test_a_new_file_that_others_keep_to_themselves(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If that takes too long, the call fails."""
        monkeypatch.setattr("eventbus.webhooks._sqlite_replay.BUSY_SECONDS", 0.03)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with (
            SqliteReplayStore(path) as store,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            await store.claim(KEY, 300, NOW)
        other.close()

    async def test_no_wal_is_an_error(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the file system allows no WAL, the store says so instead of going on without."""
        monkeypatch.setattr("eventbus.webhooks._sqlite_replay.WAL", "PRAGMA journal_mode = DELETE")
        with SqliteReplayStore(path) as store, pytest.raises(sqlite3.OperationalError, match="WAL"):
            await store.claim(KEY, 300, NOW)

    @pytest.mark.parametrize("at_work", [False, True])
    async def test_a_cancelled_claim_is_given_back(
        self, sqlite: SqliteReplayStore, at_work: bool
    ) -> None:
        """A cancelled claim is not begun, or undone as soon as the disk has finished."""
        before, after = Blocker(), Blocker()
        sqlite._worker.leave(before)
        await asyncio.to_thread(before.begun.wait, 10)
        if at_work:  # the thread takes this job and the claim together
            sqlite._worker.leave(after)
        claiming = asyncio.ensure_future(sqlite.claim(KEY, 300, NOW))
        await asyncio.sleep(0)
        if at_work:
            before.go_on.set()
            await asyncio.to_thread(after.begun.wait, 10)
        claiming.cancel()
        await asyncio.wait([claiming])
        before.go_on.set()
        after.go_on.set()
        assert await sqlite.claim(KEY, 300, NOW) is not None

    async def test_each_commit_waits_for_the_disk(self, sqlite: SqliteReplayStore) -> None:
        """The file is in WAL mode, and what is committed survives a loss of power."""
        await keep(sqlite, 0, 300, NOW)
        found = sqlite._worker.leave(
            lambda connection: [
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous")
            ]
        )
        assert found.result(timeout=10) == ["wal", 2]

    @pytest.mark.parametrize("path", ["", ":memory:"])
    def test_no_file(self, path: str) -> None:
        """A database in memory would be forgotten, and shared with nobody."""
        with pytest.raises(OptionError, match="MemoryReplayStore"):
            SqliteReplayStore(path)

    def test_keep_out_of_range(self, path: Path) -> None:
        """A store keeps keys for a lease at least."""
        with pytest.raises(OptionError, match="keep"):
            SqliteReplayStore(path, keep=1)

    def test_repr(self) -> None:
        """It names the file."""
        assert repr(SqliteReplayStore("hooks.db")) == "<SqliteReplayStore 'hooks.db'>"


def fork_child(store: SqliteReplayStore) -> int:  # pragma: no cover - in another process
    """In a forked child: 0 if the store knows what the parent did, and can write."""
    return asyncio.run(_look(store))


async def _look(store: SqliteReplayStore) -> int:  # pragma: no cover - in another process
    known = await keep(store, 1, 300, NOW) is None
    new = await keep(store, 2, 300, NOW) is not None
    store.close()
    return 0 if known and new else 2


def count_rows(path: Path, before: float) -> int:
    connection = sqlite3.connect(path)
    query = "SELECT count(*) FROM eventbus_replay WHERE forget < ?"
    (count,) = connection.execute(query, (before,)).fetchone()
    connection.close()
    return int(count)
