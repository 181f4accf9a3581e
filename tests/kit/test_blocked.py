"""``wait_all_tasks_blocked``: until nothing goes on by itself."""

from __future__ import annotations

import asyncio

from eventbus.testing import wait_all_tasks_blocked
from eventbus.testing._blocked import _onlookers
from tests.helpers import within


async def test_it_waits_until_every_other_task_waits() -> None:
    """Tasks go on as far as they can, those that they start and those they wake too."""
    steps: list[str] = []
    gate = asyncio.Event()

    async def inner() -> None:
        for number in range(5):
            await asyncio.sleep(0)
            steps.append(f"inner {number}")
        gate.set()

    async def outer() -> None:
        task = asyncio.create_task(inner())
        await gate.wait()
        steps.append("outer")
        await task
        await asyncio.Event().wait()

    task = asyncio.create_task(outer())
    await within(wait_all_tasks_blocked())
    assert steps == [*(f"inner {number}" for number in range(5)), "outer"]
    task.cancel()


async def test_it_sees_through_chains_of_callbacks() -> None:
    """While a result is handed on from future to future, no task moves, and that is not the end."""
    gate, seen = asyncio.Event(), list[str]()

    async def chained() -> None:
        work = asyncio.gather(asyncio.ensure_future(gate.wait()))
        for _ in range(3):
            work = asyncio.gather(asyncio.shield(work))  # type: ignore[assignment]  # deeper lists
        await work
        seen.append("chained")

    task = asyncio.create_task(chained())
    await wait_all_tasks_blocked()
    gate.set()
    await wait_all_tasks_blocked()
    assert seen == ["chained"]
    await task


async def test_several_may_wait_at_once() -> None:
    """They do not wait for each other; what one of them does afterwards, the others wait for."""
    steps: list[int] = []

    async def onlooker(number: int) -> None:
        for _ in range(3):
            await wait_all_tasks_blocked()
            steps.append(number)

    await within(asyncio.gather(*map(onlooker, range(3))))
    assert sorted(steps) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert _onlookers == set()


async def test_cancelled_it_leaves_nothing() -> None:
    """A task that spins keeps it waiting; cancelling the wait leaves nothing behind."""

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - a task that never waits is the point
            await asyncio.sleep(0)

    spinner = asyncio.create_task(spin())
    waiting = asyncio.create_task(wait_all_tasks_blocked())
    for _ in range(100):
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait({waiting})
    assert _onlookers == set()
    spinner.cancel()
