"""Waiting for a bounded time, by the clock of a bus."""

from __future__ import annotations

import asyncio

import pytest

from eventbus.testing import FakeClock
from eventbus.webhooks._deadline import Deadline, Rest, begin, ended_within, within
from tests.helpers import turns


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


async def value() -> int:
    await turns(3)
    return 7


class TestWithin:
    async def test_in_time(self, clock: FakeClock) -> None:
        """What ends in time is what it is, and leaves no timer."""
        assert await within(clock, 3, value()) == 7
        assert clock.next_timer is None

    async def test_too_late(self, clock: FakeClock) -> None:
        """What takes too long is cancelled, and that is a TimeoutError for who waits."""
        waiting = asyncio.ensure_future(within(clock, 3, wait_for_ever()))
        await turns(3)
        clock.advance(3)
        with pytest.raises(TimeoutError, match="within 3 s"):
            await waiting
        assert waiting.cancelling() == 0

    async def test_cancelled_from_outside(self, clock: FakeClock) -> None:
        """A cancellation stays one, in the very turn of the deadline too."""
        for at_the_same_time in (False, True):
            waiting = asyncio.ensure_future(within(clock, 3, wait_for_ever()))
            await turns(3)
            waiting.cancel()
            if at_the_same_time:
                clock.advance(3)
            with pytest.raises(asyncio.CancelledError):
                await waiting

    async def test_an_error_of_its_own(self, clock: FakeClock) -> None:
        """What the work raises passes through, even if it was its answer to the deadline."""

        async def stubborn() -> None:
            try:
                await wait_for_ever()
            finally:
                raise LookupError

        waiting = asyncio.ensure_future(within(clock, 3, stubborn()))
        await turns(3)
        clock.advance(3)
        with pytest.raises(LookupError):
            await waiting

    async def test_a_clock_moved_by_the_task_itself(self, clock: FakeClock) -> None:
        """A task that moves the clock does not cancel itself: it was not waiting."""
        with Deadline(clock, 3):
            clock.advance(5)
        await turns(3)

    async def test_renewed(self, clock: FakeClock) -> None:
        """A renewed deadline counts from then."""

        async def read() -> None:
            with Deadline(clock, 3) as deadline:
                clock.advance(2)
                deadline.renew(3)
                await wait_for_ever()

        reading = asyncio.ensure_future(read())
        await turns(3)
        clock.advance(2.9)
        await turns(3)
        assert not reading.done()
        clock.advance(0.1)
        with pytest.raises(TimeoutError):
            await reading


class TestEndedWithin:
    async def test_it_leaves_the_task_alone(self, clock: FakeClock) -> None:
        """Whether the task has ended or not is all that is said; it goes on."""
        task = asyncio.ensure_future(wait_for_ever())
        looking = asyncio.ensure_future(ended_within(clock, task, 3))
        await turns(3)
        clock.advance(3)
        assert not await looking
        assert not task.done()
        looking = asyncio.ensure_future(ended_within(clock, task, 3))
        await turns(3)
        task.cancel()
        assert await looking
        assert await ended_within(clock, task, 3)
        assert clock.next_timer is None

    async def test_both_at_once(self, clock: FakeClock) -> None:
        """A task that ends in the turn in which the time is over has ended."""
        task = asyncio.get_running_loop().create_future()
        looking = asyncio.ensure_future(ended_within(clock, task, 3))
        await turns(3)
        task.set_result(None)
        clock.advance(3)
        await turns(2)
        assert await looking


class TestBegin:
    async def test_without_a_wait(self) -> None:
        """Work that never waits is done at once."""

        async def quick() -> int:
            return 7

        assert begin(quick()) == 7

    async def test_with_some(self) -> None:
        """Work that waits goes on where it is awaited, in the same task, however often it waits."""
        tasks = []

        async def slow() -> int:
            for _ in range(3):
                tasks.append(asyncio.current_task())
                await asyncio.sleep(0)
            return await value()

        rest = begin(slow())
        assert isinstance(rest, Rest)
        assert await rest == 7
        assert tasks == [asyncio.current_task()] * 3

    async def test_a_future(self) -> None:
        """What it waits for may be any awaitable."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, 7)
        rest = begin(future)
        assert isinstance(rest, Rest)
        assert await rest == 7

    async def test_it_may_fail(self) -> None:
        """What the work raises comes out, before its first wait and after it."""

        async def fail(count: int) -> None:
            await turns(count)
            raise LookupError

        with pytest.raises(LookupError):
            begin(fail(0))
        rest = begin(fail(2))
        assert isinstance(rest, Rest)
        with pytest.raises(LookupError):
            await rest

    async def test_cancelled(self) -> None:
        """A cancellation reaches the work, which may clean up, and wait while it does."""
        said = []

        async def careful() -> None:
            try:
                await wait_for_ever()
            finally:
                await turns(2)
                said.append("cleaned up")

        async def run() -> None:
            rest = begin(careful())
            assert isinstance(rest, Rest)
            await rest

        running = asyncio.ensure_future(run())
        await turns(2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert said == ["cleaned up"]

    async def test_given_up(self) -> None:
        """If nobody goes on with it, the work is closed with the coroutine that awaited it."""
        said = []

        async def careful() -> None:
            try:
                await asyncio.sleep(0)
            finally:
                said.append("closed")

        async def run() -> None:
            rest = begin(careful())
            assert isinstance(rest, Rest)
            await rest

        coroutine = run()
        coroutine.send(None)
        coroutine.close()
        assert said == ["closed"]
