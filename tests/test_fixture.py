"""A bus as a fixture of pytest-asyncio: ``async with bus`` around a ``yield``, one per test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from eventbus import BusClosed, Event, EventBus
from tests.helpers import turns, within

GLOBAL = EventBus(name="global")
"""As applications have it: made at import, used by every test on that test's own loop."""


class Shop:
    """A little application around a bus."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.shipped: list[Any] = []
        bus.subscribe(self.ship, "invoice.paid")

    async def ship(self, event: Event[Any]) -> None:
        await turns(3)
        self.shipped.append(event.data)
        if event.data == "first":
            await self.bus.publish("invoice.paid", "nested")


@pytest.fixture
def after_the_bus() -> Iterator[list[Shop]]:
    """Torn down after the bus: what was accepted has been handled by then."""
    shops: list[Shop] = []
    yield shops
    for shop in shops:
        assert shop.shipped == ["first", "nested"]
        assert shop.bus.statistics().pending == 0
        assert "closed" in repr(shop.bus)


@pytest.fixture
async def shop(after_the_bus: list[Shop]) -> AsyncIterator[Shop]:
    """Opened in the task of the fixture, used in that of the test, closed in a third one."""
    bus = EventBus()
    shop = Shop(bus)
    after_the_bus.append(shop)
    async with bus:
        yield shop


async def test_leaving_the_fixture_drains(shop: Shop) -> None:
    """The test ends with everything pending; the fixture's end handles it, cascades included."""
    await shop.bus.publish("invoice.paid", "first")
    assert shop.shipped == []


@pytest.mark.parametrize("round_", [1, 2])
async def test_each_test_has_a_bus_of_its_own(shop: Shop, round_: int) -> None:
    """Nothing of the test before is left: the same steps give the same result again."""
    await shop.bus.publish("invoice.paid", "first")
    await within(shop.bus.settle())
    assert shop.shipped == ["first", "nested"]


@pytest.fixture
async def global_bus() -> AsyncIterator[EventBus]:
    """The application's own bus, entered for one test, with its subscriptions taken off after."""
    async with GLOBAL as bus:
        yield bus
    for subscription in bus.subscriptions:
        subscription.unsubscribe()


LOOPS: list[asyncio.AbstractEventLoop] = []


@pytest.mark.parametrize("round_", [1, 2, 3])
async def test_a_global_bus_goes_from_loop_to_loop(global_bus: EventBus, round_: int) -> None:
    """One bus, one event loop per test: what one test left pending is drained on its own loop."""
    seen: list[Any] = []
    loop = asyncio.get_running_loop()
    assert loop not in LOOPS
    LOOPS.append(loop)
    before = global_bus.statistics().events

    async def handler(event: Event[Any]) -> None:
        await turns(2)
        seen.append(event.data)

    global_bus.subscribe(handler, "a")
    await within(global_bus.publish_and_wait("a", round_, check=True))
    await global_bus.publish("a", "left for the drain")
    assert seen == [round_]
    assert global_bus.statistics().events == before + 2


@pytest.fixture(scope="module")
def entered_elsewhere() -> Iterator[EventBus]:
    """A bus entered and left on a loop that is none of the tests'."""
    bus = EventBus()
    with asyncio.Runner() as runner:
        runner.run(bus.__aenter__())
        yield bus
        runner.run(bus.aclose())


async def test_a_bus_entered_on_another_fixtures_loop_says_so(
    entered_elsewhere: EventBus,
) -> None:
    """The usual mistake with scopes: the error names the loop, and nothing was accepted."""
    with pytest.raises(RuntimeError, match="busy on another event loop"):
        await entered_elsewhere.publish("a")
    assert entered_elsewhere.statistics().accepted == 0


async def test_a_failing_test_body_still_drains() -> None:
    """An exception on its way out does not stop the drain, nor does the drain eat it."""
    bus = EventBus()
    shop = Shop(bus)

    async def body() -> None:
        async with bus:
            await bus.publish("invoice.paid", "first")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await within(body())
    assert shop.shipped == ["first", "nested"]
    with pytest.raises(BusClosed):
        await bus.publish("invoice.paid")
