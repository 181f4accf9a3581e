"""P1: a handler that fails, hangs or is slow affects no other subscription and no publisher."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventbus import Event, EventBus, WouldBlock
from eventbus.testing import wait_all_tasks_blocked
from tests.helpers import turns, within

Handler = Callable[[Event[Any]], Any]


async def fails(event: Event[Any]) -> None:
    raise ValueError(event.data)


async def fails_later(event: Event[Any]) -> None:
    await asyncio.sleep(0)
    raise ValueError(event.data)


def fails_at_once(event: Event[Any]) -> None:
    raise ValueError(event.data)


def fails_to_await(event: Event[Any]) -> Awaitable[None]:
    return fails_later(event)


async def cancels_itself(event: Event[Any]) -> None:
    raise asyncio.CancelledError


async def exits_as_a_generator(event: Event[Any]) -> None:
    raise GeneratorExit


async def stops_iteration(event: Event[Any]) -> None:
    raise StopIteration


async def awaits_nonsense(event: Event[Any]) -> None:
    class Nonsense:
        def __await__(self) -> Any:
            yield "no future"

    await Nonsense()


class OddType(type):
    def __getattr__(cls, name: str) -> Any:
        raise ValueError(name)


class Odd(metaclass=OddType):
    pass


def returns_oddity(event: Event[Any]) -> Odd:
    return Odd()


BAD: list[Handler] = [
    fails,
    fails_later,
    fails_at_once,
    fails_to_await,
    cancels_itself,
    exits_as_a_generator,
    stops_iteration,
    awaits_nonsense,
    returns_oddity,
]


@pytest.mark.parametrize("bad", BAD, ids=lambda each: each.__name__)
async def test_a_failing_handler_affects_no_other_subscription(bad: Handler) -> None:
    """Subscriptions before and after one that fails get every event, in order."""
    bus = EventBus()
    first: list[int] = []
    last: list[int] = []
    bus.subscribe(lambda event: first.append(event.data))
    sub = bus.subscribe(bad)

    @bus.on()
    async def waits(event: Event[Any]) -> None:
        await asyncio.sleep(0)
        last.append(event.data)

    receipts = [await bus.publish("a", number) for number in range(5)]
    await within(bus.settle())

    assert first == last == list(range(5))
    for receipt in receipts:
        good, failed, also_good = await receipt.outcomes()
        assert (good.status, also_good.status) == ("handled", "handled")
        assert failed.status == ("cancelled" if bad is cancels_itself else "failed")
        assert failed.attempts == 1
    assert sub.statistics().pending == 0


async def test_a_hanging_handler_affects_no_other_subscription() -> None:
    """Forty handlers that never end keep nobody else from handling everything."""
    bus = EventBus()
    never = asyncio.Event()
    seen: list[int] = []

    async def hangs(event: Event[Any]) -> None:
        await never.wait()

    for _ in range(40):  # more than the pumps that may be scheduled at once
        bus.subscribe(hangs)
    bus.subscribe(lambda event: seen.append(event.data))
    for number in range(100):
        await within(bus.publish("a", number))
    await wait_all_tasks_blocked()
    assert seen == list(range(100))
    never.set()
    await within(bus.settle(), 60)  # four thousand deliveries, each checked


async def test_a_hanging_handler_hangs_one_subscription_of_many_on_the_same_function() -> None:
    """Two subscriptions of one function are two: where one hangs, the other goes on."""
    bus = EventBus()
    never = asyncio.Event()
    seen: list[tuple[str, int]] = []

    async def handler(event: Event[Any]) -> None:
        delivery = event.delivery
        assert delivery is not None
        if delivery.subscription == "hangs":
            await never.wait()
        seen.append((delivery.subscription, event.data))

    bus.subscribe(handler, name="hangs")
    bus.subscribe(handler, name="runs")
    bus.publish_nowait("a", 1)
    bus.publish_nowait("a", 2)
    await wait_all_tasks_blocked()
    assert seen == [("runs", 1), ("runs", 2)]
    never.set()
    await within(bus.settle())
    assert seen[2:] == [("hangs", 1), ("hangs", 2)]


async def test_a_slow_handler_holds_up_its_own_queue_alone() -> None:
    """One that takes many turns for each event does not set the pace of the others."""
    bus = EventBus()
    slow: list[int] = []
    quick: list[int] = []

    async def dawdles(event: Event[Any]) -> None:
        await turns(50)
        slow.append(event.data)

    bus.subscribe(dawdles)
    bus.subscribe(lambda event: quick.append(event.data))
    for number in range(20):
        bus.publish_nowait("a", number)
    await turns(10)
    assert (quick, slow) == (list(range(20)), [])
    await within(bus.settle())
    assert slow == list(range(20))


async def test_a_full_queue_holds_no_publisher_who_does_not_need_it() -> None:
    """Somebody waits for a hanging subscription; publishers of other events do not."""
    bus = EventBus()
    never = asyncio.Event()
    seen: list[int] = []

    async def hangs(event: Event[Any]) -> None:
        await never.wait()

    bus.subscribe(hangs, "slow", capacity=1)
    bus.subscribe(lambda event: seen.append(event.data), "quick", capacity=1)
    await bus.publish("slow")
    await wait_all_tasks_blocked()
    await bus.publish("slow")
    waiter = asyncio.create_task(bus.publish("slow"))
    await turns(2)
    with pytest.raises(WouldBlock):
        bus.publish_nowait("slow")
    for number in range(1000):
        await within(bus.publish("quick", number))
    await wait_all_tasks_blocked()
    assert seen == list(range(1000))
    assert not waiter.done()
    never.set()
    await within(bus.settle())
    await waiter


async def test_a_publisher_of_two_full_queues_holds_nothing_of_either() -> None:
    """One who waits for a free queue's partner keeps no place in the free one."""
    bus = EventBus()
    never = asyncio.Event()
    seen: list[int] = []

    async def hangs(event: Event[Any]) -> None:
        await never.wait()

    bus.subscribe(hangs, "a", capacity=1)
    bus.subscribe(lambda event: seen.append(event.data), "*", capacity=1)
    await bus.publish("a", -2)
    await wait_all_tasks_blocked()
    await bus.publish("a", -1)
    waiter = asyncio.create_task(bus.publish("a", 1000))
    await wait_all_tasks_blocked()
    for number in range(100):
        await within(bus.publish("b", number))
    await wait_all_tasks_blocked()
    assert seen == [-2, -1, *range(100)]
    never.set()
    await within(waiter)
    await within(bus.settle())
    assert seen[-1] == 1000


async def test_a_failure_does_not_reach_the_publisher() -> None:
    """``publish`` and ``outcomes`` return although every handler failed."""
    bus = EventBus()
    bus.subscribe(fails)
    bus.subscribe(fails_at_once)
    receipt = await bus.publish("a", 1)
    outcomes = await within(receipt.outcomes())
    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("waits", [False, True])
def test_an_exit_in_a_handler_costs_no_other_delivery(
    error: type[BaseException], waits: bool
) -> None:
    """``KeyboardInterrupt`` stops the loop, not the other subscriptions once it runs again."""
    bus = EventBus()
    seen: list[int] = []

    @bus.on()
    async def exits(event: Event[Any]) -> None:
        if waits:
            await asyncio.sleep(0)
        if event.data == 0:
            raise error

    bus.subscribe(lambda event: seen.append(event.data))
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # "exception was never retrieved"

    async def publish() -> None:
        for number in range(3):
            await bus.publish("a", number)
        await bus.settle()

    try:
        main = loop.create_task(publish())
        with pytest.raises(error):
            loop.run_until_complete(main)
        loop.run_until_complete(within(bus.settle()))
        loop.run_until_complete(main)
    finally:
        loop.close()
    assert seen == [0, 1, 2]
    statistics = bus.statistics()
    assert (statistics.handled, statistics.failed, statistics.pending) == (5, 1, 0)
