"""Awaiting something for a bounded time, by the clock of a bus.

``asyncio.timeout`` asks the event loop for the time, and anyio's scopes do; a test that moves the
clock of a bus would wait for them. Otherwise this is what they do: the task is cancelled, and the
cancellation becomes a ``TimeoutError`` where it was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    from eventbus.clock import Clock

T = TypeVar("T")


class Deadline:
    """``with Deadline(clock, 3): await …`` raises ``TimeoutError`` if that takes longer than 3 s.

    A cancellation from outside stays one, even in the turn in which the time is over.
    """

    __slots__ = ("_cancelling", "_clock", "_expired", "_task", "_timer", "seconds")

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self.seconds = seconds
        self._expired = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = self._clock.call_later(max(self.seconds, 0.0), self._expire)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if not self._expired:
            return
        outside = self._task.uncancel() > self._cancelling
        if kind is asyncio.CancelledError and not outside:
            raise TimeoutError(f"not done within {self.seconds:g} s") from None

    def renew(self, seconds: float) -> None:
        """From now on, wait so long."""
        self._timer.cancel()
        self._timer = self._clock.call_later(max(seconds, 0.0), self._expire)

    def _expire(self) -> None:
        # A test may move the clock in the task itself: it runs, so there is no wait to be ended.
        if asyncio.current_task() is not self._task:
            self._expired = True
            self._task.cancel()


async def within(clock: Clock, seconds: float, work: Awaitable[T]) -> T:
    """Await something, for so many seconds at most. Raises ``TimeoutError``; it was cancelled."""
    with Deadline(clock, seconds):
        return await work


async def sleep(clock: Clock, seconds: float) -> None:
    """Wait for so many seconds."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await ended_within(clock, over, seconds)


async def ended_within(clock: Clock, task: asyncio.Future[Any], seconds: float) -> bool:
    """Wait for a task, which is left alone, for so many seconds at most. Whether it has ended."""
    if task.done():
        return True
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    timer = clock.call_later(max(seconds, 0.0), wake)
    task.add_done_callback(wake)
    try:
        await over
    finally:
        timer.cancel()
        task.remove_done_callback(wake)
    return task.done()


def begin(work: Awaitable[T]) -> T | Rest[T]:
    """Take the first steps of some work; its result, if it never waits, and else what is left.

    So work that has nothing to wait for, such as reading what the server has already got, needs no
    deadline and no timer. It runs in the task that calls this, as if that had awaited it.
    """
    steps = work.__await__()
    try:
        waits_for = next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    return Rest(steps, waits_for)


class Rest(Generic[T]):
    """Work that has begun, and waits. To be awaited once, in the same task."""

    __slots__ = ("_steps", "_waits_for")

    def __init__(self, steps: Generator[Any, Any, T], waits_for: Any) -> None:
        self._steps = steps
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        return _go_on(self._steps, self._waits_for)


def _go_on(steps: Generator[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """What ``yield from`` does, for a generator whose first value was taken already."""
    while True:
        try:
            sent = yield waits_for
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:
            step = partial(steps.throw, error)
        else:
            step = partial(steps.send, sent)
        try:
            waits_for = step()
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # it is a T
