"""When nothing goes on by itself any more: every task waits for something that has not come.

asyncio has no public way to ask what a task waits for. ``_fut_waiter`` is what anyio asks too; the
tasks of asyncio have it on every supported version, and under uvloop. Callbacks that no task waits
for (a future that resolves another one) cannot be seen, so what is seen has to stay the same for
`QUIET_TURNS` turns of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from typing import Any, Final, TypeAlias

from eventbus.testing._describe import frames

Waits: TypeAlias = frozenset[tuple[asyncio.Task[Any], asyncio.Future[Any]]]

QUIET_TURNS: Final = 10
"""A `gather` of a `gather` passes a result on in a turn for each of them, and no task moves."""

_onlookers: set[asyncio.Task[Any]] = set()
"""Tasks inside `wait_all_tasks_blocked`: they go on when all others wait."""


def blocked(loop: asyncio.AbstractEventLoop, apart: Container[object] = ()) -> Waits | None:
    """What each task of a loop waits for; None if one of them can go on."""
    waits = []
    for task in asyncio.all_tasks(loop):
        if task in apart:
            continue
        waiter = getattr(task, "_fut_waiter", None)
        if waiter is None or waiter.done():
            return None
        waits.append((task, waiter))
    return frozenset(waits)


def is_for_thread(waits: Waits) -> bool:
    """Whether one of the tasks waits for a thread, which will answer by itself.

    Such are ``asyncio.to_thread``, ``loop.run_in_executor`` and ``anyio.to_thread.run_sync``,
    awaited by the task itself.
    """
    return any(_from_executor(future) or _runs_in_anyio(task) for task, future in waits)


def _from_executor(future: asyncio.Future[Any]) -> bool:
    """Whether ``asyncio.wrap_future`` has made it: then it tells its thread of cancellation."""
    callbacks = getattr(future, "_callbacks", None) or ()
    return any(getattr(call, "__qualname__", "").startswith(_CHAINED) for call, _ in callbacks)


_CHAINED: Final = "_chain_future."


def _runs_in_anyio(task: asyncio.Task[Any]) -> bool:
    """Whether what it waits in is anyio's."""
    return any(
        frame.f_code.co_name == "run_sync_in_worker_thread" for frame in frames(task.get_coro())
    )


async def wait_all_tasks_blocked() -> None:
    """Wait until every other task of this event loop waits for something that has not come.

    What runs in threads, on sockets or until a time of the real clock counts as not come. It takes
    turns of the loop and no time; a task that never waits keeps it waiting. Several tasks may call
    it at once. Raises nothing of its own; cancelling it leaves nothing behind.
    """
    loop = asyncio.get_running_loop()
    me = asyncio.current_task()
    assert me is not None
    _onlookers.add(me)
    try:
        before, quiet = None, 0
        while quiet < QUIET_TURNS:
            await asyncio.sleep(0)
            waits = blocked(loop, _onlookers)
            quiet = quiet + 1 if waits is not None and waits == before else 0
            before = waits
    finally:
        _onlookers.discard(me)
