"""What the plugin does where no inner run of pytest gets to: loops that are gone or busy."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from eventbus import Event, EventBus
from eventbus.testing._pytest import Guard, _run_anywhere, _run_on
from eventbus.testing._watch import Checks, abandon
from tests.helpers import within


async def nothing() -> None:
    """What is to be run, and need not."""


def test_a_test_of_another_library_is_only_run() -> None:
    """Without an asyncio loop, as under trio, there is nothing to settle."""
    ran: list[int] = []

    async def test(number: int) -> None:
        ran.append(number)

    guard = Guard(Checks())
    guard.watch(EventBus())
    coroutine: Any = guard._settling(test, look=False)(1)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert ran == [1]


async def test_buses_that_keep_each_other_busy_are_not_settled_for_ever() -> None:
    """Each of them settles whenever it is asked to, and by that the other has more to do."""
    first, second = EventBus(cascade_depth=10**6), EventBus(cascade_depth=10**6)
    playing = True

    def pass_to(other: EventBus) -> Any:
        async def handle(_: Event[Any]) -> None:
            if playing:
                other.publish_nowait("ball")

        return handle

    first.subscribe(pass_to(second))
    second.subscribe(pass_to(first))
    guard = Guard(Checks(timeout=0.02))
    guard.watch(first)
    guard.watch(second)
    await first.publish("ball")
    await within(guard._settle())
    assert guard._unsettled()
    playing = False
    await within(guard._settle())
    assert guard._unsettled() == []
    guard.stop()


def test_a_loop_that_closes_while_it_is_asked_is_let_be() -> None:
    """The race with another thread's loop is lost in silence, and leaves no coroutine behind."""

    class Closing:
        def is_closed(self) -> bool:
            return False

        def is_running(self) -> bool:
            return True

        def call_soon_threadsafe(self, *_: object, **__: object) -> None:
            raise RuntimeError("Event loop is closed")

    made: list[Coroutine[Any, Any, None]] = []

    def make() -> Coroutine[Any, Any, None]:
        made.append(nothing())
        return made[0]

    loop: Any = Closing()
    _run_on(loop, make, timeout=1)
    assert made[0].cr_frame is None  # type: ignore[attr-defined]  # it is a coroutine: closed


async def test_nothing_is_run_where_a_loop_runs_already() -> None:
    """Neither on a new loop nor on this one, which waits for the plugin."""
    ran: list[int] = []

    async def run() -> None:
        ran.append(1)

    bus = EventBus()
    _run_anywhere(bus, run)
    _run_on(asyncio.get_running_loop(), run, timeout=1)
    assert ran == []


async def test_what_is_abandoned_leaves_streams_alone() -> None:
    """Nobody waits for their readers, and they may still read."""
    bus = EventBus()

    @bus.on("a")
    async def hang(_: Event[Any]) -> None:
        await asyncio.get_running_loop().create_future()

    async with bus.stream("a") as events:
        await bus.publish("a", 1)
        await within(abandon(bus))
        assert (await within(anext(events))).data == 1
    assert bus.statistics().cancelled == 1
