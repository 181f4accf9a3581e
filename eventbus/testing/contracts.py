"""What an implementation of a protocol must keep, as tests that you run on your own.

Subclass a contract in a test module, say how to make your implementation, and pytest runs the
rest::

    from eventbus.testing.contracts import ReplayStoreContract

    class TestRedisStore(ReplayStoreContract):
        def make_store(self):
            return RedisReplayStore(...)

No plugin is needed for that: each test runs an event loop of its own, and time is a number that it
passes along.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from eventbus.webhooks.errors import InProgress, ReplayStoreFull
from eventbus.webhooks.replay import LEASE, Claim

if TYPE_CHECKING:
    from eventbus.webhooks.replay import ReplayStore

__all__ = ["ReplayStoreContract"]

NOW = 1_700_000_000.0
REMEMBER = 600.0
CROWD = 200
STEPS = 8

Test = Callable[["ReplayStoreContract", "ReplayStore"], Coroutine[Any, Any, None]]


def key_of(number: int) -> bytes:
    """A key of 32 bytes, different for each number."""
    return number.to_bytes(32, "big")


KEY = b"\0\xff" * 16


def _with_store(test: Test) -> Callable[[ReplayStoreContract], None]:
    """A test that makes a store, runs on an event loop, and closes the store."""

    @functools.wraps(test)
    def run(self: ReplayStoreContract) -> None:
        store = self.make_store()
        try:
            asyncio.run(test(self, store))
        finally:
            self.close_store(store)

    del run.__wrapped__  # pytest would take `store` for a fixture
    return run


async def _claim(store: ReplayStore, now: float, key: bytes = KEY) -> str | Claim | None:
    try:
        return await store.claim(key, REMEMBER, now)
    except InProgress:
        return "in progress"


async def _claim_surely(store: ReplayStore, now: float, key: bytes = KEY) -> Claim:
    claim = await _claim(store, now, key)
    assert isinstance(claim, Claim), claim
    return claim


class ReplayStoreContract:
    """What receivers expect of a `ReplayStore`."""

    def make_store(self) -> ReplayStore:
        """A new store that knows no key, with room for 200 keys or more. Yours to write."""
        raise NotImplementedError

    def close_store(self, store: ReplayStore) -> None:
        """Free what ``make_store`` took. By default nothing."""

    @_with_store
    async def test_a_done_key_is_a_duplicate(self, store: ReplayStore) -> None:
        """What is claimed and done is not claimed again."""
        await store.done(await _claim_surely(store, NOW))
        assert await _claim(store, NOW) is None
        assert await _claim(store, NOW + LEASE + 1) is None

    @_with_store
    async def test_a_released_key_may_be_claimed_again(self, store: ReplayStore) -> None:
        """What is released is as if it had never come."""
        for _ in range(3):
            await store.release(await _claim_surely(store, NOW))
        await _claim_surely(store, NOW)

    @_with_store
    async def test_a_claim_keeps_others_out_until_its_lease_ends(self, store: ReplayStore) -> None:
        """While the lease runs the key is in progress; then the next one takes over."""
        await _claim_surely(store, NOW)
        assert await _claim(store, NOW + LEASE - 0.001) == "in progress"
        await _claim_surely(store, NOW + LEASE)
        assert await _claim(store, NOW + 2 * LEASE - 0.001) == "in progress"

    @_with_store
    async def test_renewing_prolongs_the_lease(self, store: ReplayStore) -> None:
        """A lease that was renewed runs for 60 s from then."""
        claim = await _claim_surely(store, NOW)
        assert await store.renew(claim, NOW + 50)
        assert await _claim(store, NOW + 50 + LEASE - 0.001) == "in progress"
        await _claim_surely(store, NOW + 50 + LEASE)

    @_with_store
    async def test_a_claim_that_was_taken_over_changes_nothing(self, store: ReplayStore) -> None:
        """Its ``done``, ``release`` and ``renew`` leave the new claim as it is."""
        old = await _claim_surely(store, NOW)
        later = NOW + LEASE
        new = await _claim_surely(store, later)
        assert not await store.renew(old, later + 50)
        await store.done(old)
        await store.release(old)
        assert await _claim(store, later + LEASE - 0.001) == "in progress"
        await store.release(new)
        await _claim_surely(store, later)

    @_with_store
    async def test_a_late_end_counts_if_nobody_took_over(self, store: ReplayStore) -> None:
        """A claim whose lease ran out is still its owner's until somebody claims the key."""
        await store.done(await _claim_surely(store, NOW))
        assert await _claim(store, NOW + LEASE + 1) is None
        claim = await _claim_surely(store, NOW, key_of(1))
        assert await store.renew(claim, NOW + LEASE + 1)

    @_with_store
    async def test_the_end_of_a_claim_is_final(self, store: ReplayStore) -> None:
        """After ``done``, ``release`` and ``renew`` change nothing any more; nor the reverse."""
        claim = await _claim_surely(store, NOW)
        await store.done(claim)
        await store.done(claim)
        await store.release(claim)
        assert not await store.renew(claim, NOW)
        assert await _claim(store, NOW) is None

        claim = await _claim_surely(store, NOW, key_of(1))
        await store.release(claim)
        await store.release(claim)
        await store.done(claim)
        assert not await store.renew(claim, NOW)
        await _claim_surely(store, NOW, key_of(1))

    @_with_store
    async def test_of_many_at_once_one_gets_it(self, store: ReplayStore) -> None:
        """Of 1,000 concurrent claims one succeeds, and after a crash of its owner one more."""
        claim = Claim(KEY, 0)
        for now in (NOW, NOW + LEASE):
            found = await asyncio.gather(*(_claim(store, now) for _ in range(1000)))
            (claim,) = (each for each in found if isinstance(each, Claim))
            assert found.count("in progress") == 999
        await store.done(claim)
        found = await asyncio.gather(*(_claim(store, NOW) for _ in range(1000)))
        assert found == [None] * 1000

    @_with_store
    async def test_a_key_is_remembered_as_long_as_it_must(self, store: ReplayStore) -> None:
        """A done key outlives any number of others until ``remember`` seconds are over.

        They count from the last claim that named the key: that request could be replayed, too.
        """
        await store.done(await _claim_surely(store, NOW))
        assert await _claim(store, NOW + 500) is None  # a retry, signed anew
        await self._crowd(store, NOW + 501)
        assert await _claim(store, NOW + 500 + REMEMBER - 0.001) is None

    @_with_store
    async def test_who_comes_meanwhile_prolongs_that_too(self, store: ReplayStore) -> None:
        """A claim that finds the key in progress, or takes it over, has named it as well."""
        other = key_of(CROWD)
        claim = await _claim_surely(store, NOW)
        assert await _claim(store, NOW + 50) == "in progress"
        await store.done(claim)
        await _claim_surely(store, NOW, other)
        await store.done(await _claim_surely(store, NOW + LEASE, other))
        await self._crowd(store, NOW + REMEMBER + 1)
        assert await _claim(store, NOW + 50 + REMEMBER - 0.001) is None
        assert await _claim(store, NOW + LEASE + REMEMBER - 0.001, other) is None

    @_with_store
    async def test_an_ended_claim_is_none_of_the_next(self, store: ReplayStore) -> None:
        """What released a key changes nothing once it was claimed again."""
        old = await _claim_surely(store, NOW)
        await store.release(old)
        await _claim_surely(store, NOW)
        await store.release(old)
        await store.done(old)
        assert not await store.renew(old, NOW + 50)
        assert await _claim(store, NOW + LEASE - 0.001) == "in progress"

    @_with_store
    async def test_an_open_claim_is_not_forgotten(self, store: ReplayStore) -> None:
        """Neither is a key whose claim is open, however short it need be remembered."""
        claim = await store.claim(KEY, 1.0, NOW)
        assert claim is not None
        await store.renew(claim, NOW + 30)
        await self._crowd(store, NOW + 31)
        assert await _claim(store, NOW + 30 + LEASE - 0.001) == "in progress"

    async def _crowd(self, store: ReplayStore, now: float) -> None:
        """Many other keys, as many as the store takes."""

        async def another(number: int) -> None:
            with contextlib.suppress(ReplayStoreFull):
                await store.done(await _claim_surely(store, now, key_of(number)))

        await asyncio.gather(*map(another, range(CROWD)))

    @_with_store
    async def test_keys_do_not_touch_each_other(self, store: ReplayStore) -> None:
        """What becomes of one key changes nothing for another, however similar."""
        done, open_, released = [await _claim_surely(store, NOW, key_of(n)) for n in range(3)]
        await store.done(done)
        await store.release(released)
        assert await _claim(store, NOW, key_of(0)) is None
        assert await _claim(store, NOW, key_of(1)) == "in progress"
        await _claim_surely(store, NOW, key_of(2))
        await store.release(open_)
        await _claim_surely(store, NOW, key_of(1))

    @_with_store
    async def test_a_cancelled_claim_is_nobodys_for_long(self, store: ReplayStore) -> None:
        """Cancelled at any step, a claim leaves the key free, or claimed until its lease ends."""
        for step in range(STEPS):
            claiming = asyncio.ensure_future(_claim_surely(store, NOW, key_of(step)))
            await _turns(step)
            claiming.cancel()
            await asyncio.wait([claiming])
            assert await _claim(store, NOW + 1, key_of(step)) is not None
            await _claim_surely(store, NOW + 1 + LEASE, key_of(step))

    @_with_store
    async def test_a_cancelled_end_is_done_or_not(self, store: ReplayStore) -> None:
        """Cancelled at any step, ``done`` has ended the claim, or left it as it was."""
        for step in range(STEPS):
            claim = await _claim_surely(store, NOW, key_of(step))
            ending = asyncio.ensure_future(store.done(claim))
            await _turns(step)
            ending.cancel()
            await asyncio.wait([ending])
            assert await _claim(store, NOW + 1, key_of(step)) in {None, "in progress"}
            await store.done(claim)
            assert await _claim(store, NOW + 1, key_of(step)) is None


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
