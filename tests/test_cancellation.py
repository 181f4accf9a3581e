"""Cancellation at every await of every call that waits.

Each scenario begins one call and lets the loop take *k* turns before it is cancelled, for every
*k* until the call ends untouched, so that no point is left out. After each, the accounts must
balance, the event must be everywhere or nowhere, and the bus must work as if nothing had been.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventbus import Event, EventBus, Receipt
from eventbus.testing import FakeClock
from tests.helpers import balances, turns

MOST_TURNS = 60


class Case:
    """A bus with two serial subscriptions whose queues are easily full, and an open gate later."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.bus = EventBus(clock=self.clock)
        self.gate = asyncio.Event()
        self.seen: dict[str, list[Any]] = {"left": [], "right": [], "reader": []}
        for name in ("left", "right"):
            self.bus.subscribe(self.make_handler(name), "a", name=name, capacity=1)
        self.bus.subscribe(self.relay, "relay")
        self.healthy = True
        self.receipt: Receipt | None = None

    def make_handler(self, name: str) -> Callable[[Event[Any]], Awaitable[None]]:
        async def handler(event: Event[Any]) -> None:
            await self.gate.wait()
            if name == "left" and event.data == "new" and not self.healthy:
                raise ValueError("left is not well")
            self.seen[name].append(event.data)

        return handler

    async def relay(self, event: Event[Any]) -> None:
        await turns(2)
        await self.bus.publish("a", event.data)

    async def fill(self) -> None:
        """One delivery runs and one is queued, on both sides; the gate opens in a few turns."""
        for number in range(2):
            await self.bus.publish("a", number)
            await turns(3)
        asyncio.get_running_loop().call_soon(self.open_later, 6)

    def open_later(self, left: int) -> None:
        if left:
            asyncio.get_running_loop().call_soon(self.open_later, left - 1)
        else:
            self.gate.set()

    async def check(self, *, all_or_nothing: bool) -> None:
        """The bus is sound, works, and is idle in the end."""
        bus = self.bus
        self.gate.set()
        assert balances(bus, *bus.subscriptions)
        async with asyncio.timeout(5):
            await bus.settle()
            await bus.publish_and_wait("a", "after", check=True)
            await bus.publish_and_wait("relay", "relayed", cascade=True, check=True)
        assert not all_or_nothing or self.seen["left"] == self.seen["right"]
        assert self.seen["left"].count("after") == 1
        assert balances(bus, *bus.subscriptions)
        assert bus.statistics().pending == 0
        assert not bus._tickets
        assert not bus._settlers
        assert not bus._streams
        assert bus._room_timer is None
        assert not any(each._line for each in bus.subscriptions)
        assert self.clock.next_timer is None
        assert len(bus.subscriptions) == 3


async def publish(case: Case) -> None:
    await case.fill()
    await case.bus.publish("a", "new")


async def publish_in_a_line(case: Case) -> None:
    await case.fill()
    others = [asyncio.create_task(case.bus.publish("a", f"other {n}")) for n in range(2)]
    await turns(1)
    others.append(asyncio.create_task(case.bus.publish("a", "behind")))
    await case.bus.publish("a", "new")
    await asyncio.gather(*others)


async def publish_and_wait(case: Case) -> None:
    await case.fill()
    await case.bus.publish_and_wait("a", "new", cascade=True)


async def outcomes(case: Case) -> None:
    await case.fill()
    case.receipt = await case.bus.publish("relay", "new")
    await case.receipt.outcomes()


async def cascade(case: Case) -> None:
    await case.fill()
    case.receipt = await case.bus.publish("relay", "new")
    await case.receipt.outcomes(cascade=True)


async def settle(case: Case) -> None:
    await case.fill()
    await case.bus.settle()
    assert case.bus.statistics().pending == 0


async def wait_for(case: Case) -> None:
    await case.fill()
    asyncio.get_running_loop().call_soon(case.open_later, 6)
    late = asyncio.create_task(publish_late(case))
    event = await case.bus.wait_for("a", timeout=5)
    case.seen["reader"].append(event.data)
    await late


async def publish_late(case: Case) -> None:
    await turns(4)
    await case.bus.publish("a", "new")


async def stream(case: Case) -> None:
    await case.fill()
    late = asyncio.create_task(publish_late(case))
    async with case.bus.stream("a", capacity=1, overflow="block") as events:
        case.seen["reader"].append((await anext(events)).data)
    await late


async def redeliver(case: Case) -> None:
    case.healthy = False
    case.gate.set()
    await case.bus.publish_and_wait("a", "new")
    case.healthy = True
    case.gate.clear()
    await case.fill()
    await case.bus.redeliver(case.bus.dead_letters[0])


async def close(case: Case) -> None:
    await case.fill()
    waiting = asyncio.create_task(case.bus.publish("a", "refused"))
    await turns(1)
    try:
        await case.bus.aclose()
    finally:
        await asyncio.gather(waiting, return_exceptions=True)


async def leave_the_block(case: Case) -> None:
    async with case.bus:
        await case.fill()


SCENARIOS = [
    publish,
    publish_in_a_line,
    publish_and_wait,
    outcomes,
    cascade,
    settle,
    wait_for,
    stream,
    redeliver,
    close,
    leave_the_block,
]
CLOSING = (close, leave_the_block)


async def cancel_after(scenario: Callable[[Case], Awaitable[None]], count: int) -> bool:
    """Run a scenario, cancel it after so many turns, and check. True if it ended untouched."""
    case = Case()
    events: list[str] = []
    tasks_before = asyncio.all_tasks()

    async def run() -> None:
        await scenario(case)
        events.append("ended")

    task = asyncio.create_task(run())
    await turns(count)
    finished = task.done()
    task.cancel()
    await turns(3)
    if task.done():  # whoever was cancelled has left every line, while that still matters
        assert not case.bus._settlers
        assert case.receipt is None or not case.receipt._waiters
    case.gate.set()
    async with asyncio.timeout(5):
        await asyncio.wait([task])
    assert task.cancelled() != (events == ["ended"])
    if scenario in CLOSING:
        assert balances(case.bus, *case.bus.subscriptions)
        await turns(20)
        assert case.bus.statistics().pending == 0
        await case.bus.__aenter__()  # what is closed can be opened again
    case.healthy = True
    await case.check(all_or_nothing=scenario not in (redeliver, *CLOSING))
    new = {"left": case.seen["left"].count("new"), "right": case.seen["right"].count("new")}
    if scenario is redeliver:  # the event is in the ring, or with its handler, and never in both
        assert new["left"] + len(case.bus.dead_letters) == new["right"]
    else:
        assert new["left"] == new["right"], f"after {count} turns the event is on one side alone"
    assert max(new.values()) <= 1
    if finished and scenario not in (settle, *CLOSING):
        assert new["left"] == 1
    await turns(5)
    assert asyncio.all_tasks() == tasks_before
    return finished


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[each.__name__ for each in SCENARIOS])
async def test_cancelled_at_any_await_it_leaves_the_bus_sound(
    scenario: Callable[[Case], Awaitable[None]],
) -> None:
    """After 0, 1, 2, … turns until it ends untouched: all or nothing, and everything works."""
    for count in range(MOST_TURNS):
        if await cancel_after(scenario, count):
            break
    else:
        raise AssertionError(f"{scenario.__name__} took more than {MOST_TURNS} turns")
    assert count > 5, "the scenario did not wait: it proves nothing"


async def test_a_cancelled_close_cancels_what_is_left_and_closes_all_the_same() -> None:
    """It does not wait for the grace period, and raises only once the bus is closed."""
    case = Case()
    await case.fill()
    case.gate = asyncio.Event()  # the handlers that run wait for the old one; nobody opens this one
    closing = asyncio.create_task(case.bus.aclose(grace=1000))
    await turns(2)
    closing.cancel()
    await turns(10)
    assert closing.cancelled()
    assert "closed" in repr(case.bus)
    statistics = case.bus.statistics()
    assert (statistics.cancelled, statistics.pending) == (4, 0)
    assert case.clock.next_timer is None
