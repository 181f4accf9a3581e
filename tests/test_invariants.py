"""The checks of the debug mode: each of them fails when what it looks at is wrong."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from eventbus import Event, EventBus, Subscription
from eventbus._invariants import MOST_CHECKED, check
from eventbus.subscription import GONE, HELD, IDLE, LEAVING, READY, SATURATED
from tests.helpers import turns


class Stage:
    """A bus with one subscription, two places and room for two, and what is to be set in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bus = EventBus()
        self.sub = self.bus.subscribe(lambda _: None, concurrency=2, capacity=2)
        self._monkeypatch = monkeypatch

    def set(self, owner: EventBus | Subscription, **values: Any) -> None:
        for name, value in values.items():
            self._monkeypatch.setattr(owner, name, value)

    def fails(self) -> bool:
        try:
            check(self.bus)
        except AssertionError:
            return True
        return False


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    stage = Stage(monkeypatch)
    assert not stage.fails()
    yield stage
    monkeypatch.undo()
    assert not stage.fails()


def queue(count: int) -> deque[Any]:
    return deque([object()] * count)


class Thing:
    """Something with an identity."""

    receipt = None


def things(count: int) -> dict[Any, None]:
    return {Thing(): None for _ in range(count)}


@pytest.mark.parametrize(
    ("of_bus", "of_sub", "wrong"),
    [
        # Pumps, publications and full queues are counted.
        ({"_pumps": 0}, {}, False),
        ({"_pumps": 1}, {}, False),
        ({"_pumps": -1}, {}, True),
        ({"_open": 1}, {}, False),
        ({"_open": -1}, {}, True),
        ({"_full": 1}, {}, True),
        ({"_full": -1}, {}, True),
        # What is ready is in line once, and somebody takes it.
        ({"_pumps": 1}, {"_place": READY}, True),
        # Queued: somebody takes it, and its publication is open.
        ({"_open": 1}, {"_queue": queue(1), "accepted": 1}, True),
        ({"_open": 1}, {"_queue": queue(1), "accepted": 1, "_running": 2, "_active": {}}, True),
        ({"_open": 1}, {"_running": 2, "_active": {}, "_place": SATURATED}, False),
        (
            {"_open": 1},
            {"_queue": queue(1), "accepted": 1, "_running": 2, "_active": {}, "_place": SATURATED},
            False,
        ),
        (
            {},
            {"_queue": queue(1), "accepted": 1, "_running": 2, "_active": {}, "_place": SATURATED},
            True,
        ),
        # As many run as may, and as many as there are places taken.
        ({}, {"_running": 1, "_active": {}}, False),
        ({}, {"_running": 2, "_active": {}}, True),
        ({}, {"_running": 1, "_active": {}, "_place": SATURATED}, True),
        ({}, {"_running": 3, "_active": {}, "_place": SATURATED}, True),
        ({"_open": 1}, {"_running": 1, "_active": things(1), "accepted": 1}, False),
        ({"_open": 1}, {"_running": 0, "_active": things(1), "accepted": 1}, True),
        ({}, {"_running": 1, "_active": things(1), "accepted": 1}, True),
        # Whose handlers have not waited has no place taken, and nothing that is due.
        ({"_pumps": 1}, {"_place": HELD}, False),
        ({"_pumps": 1}, {"_place": HELD, "_running": 1}, True),
        ({"_pumps": 1}, {"_place": HELD, "_due": deque(things(1))}, True),
        ({"_pumps": 1}, {"_place": HELD, "_due": deque(things(1)), "_active": {}}, False),
        # A queue is full if it has reached its capacity, and not before.
        ({"_full": 1}, {"_full": True}, True),
        (
            {"_open": 1},
            {"_queue": queue(2), "accepted": 2, "_running": 2, "_active": {}, "_place": SATURATED},
            True,
        ),
        (
            {"_open": 1, "_full": 1},
            {
                "_queue": queue(2),
                "accepted": 2,
                "_running": 2,
                "_active": {},
                "_place": SATURATED,
                "_full": True,
            },
            False,
        ),
        (
            {"_open": 1, "_full": 1},
            {
                "_queue": queue(3),
                "accepted": 3,
                "_running": 2,
                "_active": {},
                "_place": SATURATED,
                "_full": True,
            },
            False,
        ),
        # The accounts balance.
        ({}, {"accepted": 1}, True),
        ({}, {"handled": 1}, True),
        ({}, {"accepted": 2, "handled": 1, "failed": 1}, False),
        ({}, {"accepted": 2, "dropped": 1, "cancelled": 1}, False),
        # Who has left and has something pending is remembered.
        (
            {"_open": 1},
            {
                "_queue": queue(1),
                "accepted": 1,
                "_running": 2,
                "_active": {},
                "_place": SATURATED,
                "_standing": LEAVING,
            },
            True,
        ),
        ({}, {"_standing": GONE}, False),
    ],
)
def test_a_bus_that_is_wrong_is_found(
    stage: Stage, of_bus: dict[str, Any], of_sub: dict[str, Any], wrong: bool
) -> None:
    """One thing is out of step with the others, or they are in step after all."""
    stage.set(stage.bus, **of_bus)
    stage.set(stage.sub, **of_sub)
    assert stage.fails() is wrong


@pytest.mark.parametrize(
    ("pumps", "place", "times", "wrong"),
    [
        (1, READY, 1, False),
        (0, READY, 1, True),
        (1, READY, 0, True),
        (1, READY, 2, True),
        (1, IDLE, 1, True),
    ],
)
def test_the_line_of_who_is_ready(
    stage: Stage, pumps: int, place: int, times: int, wrong: bool
) -> None:
    """A subscription is in it once if it is ready, and a pump takes it."""
    stage.set(stage.bus, _pumps=pumps, _ready=deque([stage.sub] * times), _open=1)
    stage.set(stage.sub, _place=place)
    assert stage.fails() is wrong


@pytest.mark.parametrize(
    ("numbers", "full", "ours", "standing", "wrong"),
    [
        ([1, 2, 5], True, True, 0, False),
        ([1], True, True, 0, False),
        ([2, 1], True, True, 0, True),
        ([1], False, True, 0, True),
        ([1], True, False, 0, True),
        ([1, 2], False, True, GONE, False),  # they are being served
    ],
)
def test_the_publishers_in_a_line(  # noqa: PLR0917 - a row of the table
    stage: Stage, numbers: list[int], full: bool, ours: bool, standing: int, wrong: bool
) -> None:
    """They wait in order of arrival, for a queue that is full, and know for which."""
    blocked_by = stage.sub if ours else None
    line = [SimpleNamespace(number=number, blocked_by=blocked_by) for number in numbers]
    held = 2 if full else 0
    stage.set(stage.bus, _open=1, _full=int(full))
    stage.set(
        stage.sub,
        _line=line,
        _full=full,
        _queue=queue(held),
        accepted=held,
        _running=2,
        _active={},
        _place=SATURATED,
        _standing=standing,
    )
    if standing:
        stage.bus._left[stage.sub] = None
    assert stage.fails() is wrong
    stage.bus._left.clear()


@pytest.mark.parametrize("more", [0, 1])
def test_a_bus_with_many_subscriptions_is_looked_at_in_sum(stage: Stage, more: int) -> None:
    """Beyond 200, what each of them counts is its own affair; full queues are counted still."""
    for _ in range(MOST_CHECKED - 1 + more):
        stage.bus.subscribe(lambda _: None)
    assert len(stage.bus.subscriptions) == 200 + more
    stage.set(stage.sub, accepted=1)
    assert stage.fails() is not bool(more)
    stage.set(stage.bus, _full=1)
    assert stage.fails()


async def test_readers_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stream has not read is no work of the pump's, and needs no open publication."""
    bus = EventBus()
    async with bus.stream("a") as stream:
        await bus.publish("a")
        check(bus)
        monkeypatch.setattr(stream.subscription, "accepted", 2)
        with pytest.raises(AssertionError):
            check(bus)
        monkeypatch.undo()


async def test_a_handler_at_work_is_in_order(bus: EventBus) -> None:
    """While it waits, it has its place, and its publication is open."""
    release = asyncio.Event()

    async def wait(_: Event[Any]) -> None:
        await release.wait()

    bus.subscribe(wait)
    for _ in range(3):
        await bus.publish("a")
        await turns(2)
        check(bus)
    release.set()
