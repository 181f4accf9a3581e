"""Streams: a subscription whose queue is its buffer, read by ``async for``."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from eventbus import (
    BusClosed,
    CascadeOverflow,
    Event,
    EventBus,
    EventStream,
    NameTaken,
    NoRunningLoop,
    OptionError,
    PatternError,
    Subscription,
    SubscriptionStatistics,
    Topic,
    WouldBlock,
    WrongLoop,
)
from eventbus.testing import wait_all_tasks_blocked
from tests.helpers import balances, turns, within


class Paid(BaseModel):
    amount: int


PAID = Topic("invoice.paid", Paid)


async def read(stream: EventStream[Any], count: int) -> list[Any]:
    """The data of so many events."""
    return [(await within(anext(stream))).data for _ in range(count)]


async def read_all(stream: AsyncIterator[Event[Any]]) -> list[Any]:
    """The data of all events up to the end of the stream."""
    return [event.data async for event in stream]


# Entering and leaving.


async def test_a_stream_is_subscribed_while_its_block_runs() -> None:
    """Not before it is entered, and not after it is left."""
    bus = EventBus()
    stream = bus.stream("a")
    assert "new" in repr(stream)
    assert stream.lagged == 0
    await bus.publish("a", "before")
    async with stream as entered:
        assert entered is stream
        assert list(bus.subscriptions) == [stream.subscription]
        await bus.publish("a", "during")
        assert await read(stream, 1) == ["during"]
    await bus.publish("a", "after")
    assert list(bus.subscriptions) == []
    assert await read_all(stream) == []
    assert bus.statistics().unhandled == 2


async def test_leaving_ends_what_is_unread_as_cancelled() -> None:
    """The accounts keep them, in the stream's subscription and in all; no log line, no letter."""
    bus = EventBus()
    async with bus.stream("a") as stream:
        for number in range(5):
            await bus.publish("a", number)
        await read(stream, 2)
        assert stream.subscription.statistics() == SubscriptionStatistics(5, 2, 0, 0, 0, 3)
    assert stream.subscription.statistics() == SubscriptionStatistics(5, 2, 0, 0, 3, 0)
    assert bus.statistics().cancelled == 3
    assert balances(bus)
    assert len(bus.dead_letters) == 0


async def test_leaving_by_an_exception_leaves_all_the_same() -> None:
    """The exception goes on, and the subscription is gone."""
    bus = EventBus()
    with pytest.raises(ZeroDivisionError):
        async with bus.stream("a"):
            raise ZeroDivisionError
    assert bus.subscriptions == ()
    assert not bus._is_busy()


async def test_leaving_twice_and_unsubscribing_before_leaving_are_harmless() -> None:
    """The stream's subscription is a subscription: it can be unsubscribed; then iteration ends."""
    bus = EventBus()
    async with bus.stream("a") as stream:
        await bus.publish("a", 1)
        reader = asyncio.create_task(read_all(stream))
        await turns(2)
        stream.subscription.unsubscribe()
        stream.subscription.unsubscribe()
        assert await within(asyncio.wait_for(reader, 5)) == [1]
    assert balances(bus)


def test_a_stream_needs_a_loop_only_when_it_is_entered() -> None:
    """It can be made anywhere; entering it without a loop is refused."""
    bus = EventBus()
    stream = bus.stream("a")
    with pytest.raises(NoRunningLoop):
        stream.__aenter__().send(None)
    assert bus.subscriptions == ()


async def test_a_stream_is_entered_once() -> None:
    """A second entry, and reading before the first, are refused with the cure."""
    stream = EventBus().stream("a")
    with pytest.raises(RuntimeError, match="async with"):
        await anext(stream)
    with pytest.raises(RuntimeError, match="async with"):
        stream.subscription  # noqa: B018 - a property that raises
    async with stream:
        with pytest.raises(RuntimeError, match="once"):
            await stream.__aenter__()
        assert len(stream.subscription.bus._index.subscriptions()) == 1


@pytest.mark.parametrize(
    ("patterns", "options", "error"),
    [
        (("a..b",), {}, PatternError),
        (("**.a",), {}, PatternError),
        (("a",), {"capacity": 0}, OptionError),
        (("a",), {"overflow": "explode"}, OptionError),
        (("a",), {"where": "not callable"}, OptionError),
        (("a",), {"name": ""}, OptionError),
    ],
)
def test_what_is_wrong_raises_at_the_call(
    patterns: tuple[str, ...], options: dict[str, Any], error: type[Exception]
) -> None:
    """Not only when the block is entered."""
    with pytest.raises(error):
        EventBus().stream(*patterns, **options)


async def test_an_entry_that_fails_leaves_nothing_behind() -> None:
    """A name that is taken is found out at the entry; the bus is as idle as before."""
    bus = EventBus()
    bus.subscribe(lambda event: None, "a", name="reader")
    with pytest.raises(NameTaken):
        async with bus.stream("a", name="reader"):
            raise AssertionError("the block was entered")
    assert len(bus.subscriptions) == 1
    assert not bus._is_busy()


# What is read.


async def test_events_come_in_order_and_only_those_that_match() -> None:
    """A union of patterns: each event once, in the order of acceptance; ``where`` chooses."""
    bus = EventBus()
    even = lambda event: event.data % 2 == 0  # noqa: E731 - it has no better name
    stream: EventStream[Any]
    async with bus.stream("a.*", "*.b", where=even) as stream:
        for number, topic in enumerate(["a.b", "a.b", "a.c", "x.y", "x.b", "a.x", "a.z"]):
            await bus.publish(topic, number)
        assert await read(stream, 3) == [0, 2, 4]
        assert await read(stream, 1) == [6]
        assert stream.subscription.statistics().pending == 0


async def test_without_a_pattern_a_stream_gets_every_event() -> None:
    """As ``subscribe`` does."""
    bus = EventBus()
    stream: EventStream[Any]
    async with bus.stream() as stream:
        await bus.publish("a", 1)
        await bus.publish("b.c.d", 2)
        assert await read(stream, 2) == [1, 2]


async def test_a_reader_that_waits_is_woken_by_the_next_event() -> None:
    """Reading an empty stream waits, without a task or a timer of the bus's."""
    bus = EventBus()
    async with bus.stream("a") as stream:
        before = asyncio.all_tasks()
        reader = asyncio.create_task(read(stream, 2))
        await wait_all_tasks_blocked()
        assert asyncio.all_tasks() - before == {reader}
        await bus.publish("a", 1)
        await wait_all_tasks_blocked()
        assert not reader.done()
        await bus.publish("a", 2)
        assert await asyncio.wait_for(reader, 5) == [1, 2]


async def test_accepting_puts_it_in_the_buffer_and_reading_ends_the_delivery() -> None:
    """No pump is needed: what was accepted can be read in the same turn."""
    bus = EventBus()
    async with bus.stream("a") as stream:
        bus.publish_nowait("a", 1)
        assert stream.subscription.statistics() == SubscriptionStatistics(1, 0, 0, 0, 0, 1)
        await anext(stream)
        assert stream.subscription.statistics() == SubscriptionStatistics(1, 1, 0, 0, 0, 0)
        assert bus.statistics().handled == 1


async def test_a_stream_runs_no_pump_and_no_handler() -> None:
    """However much is unread, reading and publishing set nothing else in motion."""
    bus, seen = EventBus(), list[Any]()
    bus.subscribe(lambda event: seen.append(event.data), "b")
    async with bus.stream("a") as stream:
        for number in range(3):
            await bus.publish("a", number)
        await read(stream, 1)
        assert bus._pumps == 0
        await bus.publish("b", "b")
        await within(bus.settle())
        assert seen == ["b"]
        assert await read(stream, 2) == [1, 2]


async def test_handlers_are_read_along() -> None:
    """What a handler publishes while it runs comes in the stream, in order, with its cause."""
    bus = EventBus()

    async def handler(event: Event[Any]) -> None:
        await bus.publish("b", "nested")
        await turns(2)
        await bus.publish("b", "later")

    bus.subscribe(handler, "a")
    stream: EventStream[Any]
    async with bus.stream() as stream:
        receipt = await bus.publish("a", "root")
        events: list[Event[Any]] = [await within(anext(stream)) for _ in range(3)]
    assert [event.data for event in events] == ["root", "nested", "later"]
    assert [event.cause for event in events] == [None, receipt.event.id, receipt.event.id]
    await bus.settle()


# Overflow.


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    """By default the newest ``capacity`` events are kept; ``lagged`` counts the others."""
    bus = EventBus()
    async with bus.stream("a", capacity=3) as stream:
        for number in range(10):
            await bus.publish("a", number)
            assert len(stream.subscription._queue or ()) <= 3
        assert stream.lagged == 7
        assert "3 unread, 7 lagged" in repr(stream)
        assert await read(stream, 3) == [7, 8, 9]
        assert stream.subscription.statistics() == SubscriptionStatistics(10, 3, 0, 7, 0, 0)
    assert stream.lagged == 7


async def test_the_newest_can_be_dropped_instead() -> None:
    """``overflow="drop_newest"`` keeps what came first."""
    bus = EventBus()
    async with bus.stream("a", capacity=3, overflow="drop_newest") as stream:
        for number in range(10):
            await bus.publish("a", number)
        assert stream.lagged == 7
        assert await read(stream, 3) == [0, 1, 2]
        await bus.publish("a", 10)
        assert await read(stream, 1) == [10]


async def test_publishers_can_wait_for_the_reader() -> None:
    """``overflow="block"``: reading one event lets one publisher in, in order of arrival."""
    bus = EventBus()
    async with bus.stream("a", capacity=1, overflow="block") as stream:
        publishers = [asyncio.create_task(bus.publish("a", number)) for number in range(4)]
        await turns(3)
        assert [publisher.done() for publisher in publishers] == [True, False, False, False]
        with pytest.raises(WouldBlock):
            bus.publish_nowait("a", "no")
        assert await read(stream, 1) == [0]
        await turns(1)
        assert [publisher.done() for publisher in publishers] == [True, True, False, False]
        assert await read(stream, 3) == [1, 2, 3]
        await within(asyncio.wait_for(asyncio.gather(*publishers), 5))
        assert stream.lagged == 0


async def test_leaving_lets_waiting_publishers_go_on() -> None:
    """Who waited for the reader is accepted without it, when the stream leaves."""
    bus = EventBus()
    async with bus.stream("a", capacity=1, overflow="block"):
        await bus.publish("a", 1)
        publisher = asyncio.create_task(bus.publish("a", 2))
        await turns(2)
        assert not publisher.done()
    receipt = await asyncio.wait_for(publisher, 5)
    assert await receipt.outcomes() == ()
    assert bus.statistics().unhandled == 1


async def test_unread_nested_events_count_against_their_roots_limit() -> None:
    """A handler that floods a stream nobody reads is stopped; reading gives the budget back."""
    bus = EventBus(cascade_limit=3)
    errors: list[BaseException] = []

    async def floods(event: Event[Any]) -> None:
        for number in range(4):
            try:
                await bus.publish("b", number)
            except CascadeOverflow as error:
                errors.append(error)
                await read(stream, 2)
                await bus.publish("b", "again")

    bus.subscribe(floods, "a")
    async with bus.stream("b", capacity=10, overflow="block") as stream:
        await within(bus.publish_and_wait("a", check=True))
        assert len(errors) == 1
        assert await read(stream, 2) == [2, "again"]


# Nothing waits for readers.


async def test_settle_receipts_and_drain_do_not_wait_for_readers() -> None:
    """An unread event keeps nobody waiting; it has no outcome either."""
    bus = EventBus()
    async with bus, bus.stream("a") as stream:
        receipt = await bus.publish("a", 1)
        assert receipt.done
        assert await within(receipt.outcomes(cascade=True, check=True)) == ()
        await within(bus.settle())
        assert bus.statistics().pending == 1
        report = await within(bus.aclose())
        assert (report.accepted, report.handled, report.unread) == (1, 0, 1)
        assert await read_all(stream) == [1]
    assert balances(bus)


async def test_a_stream_keeps_its_bus_on_its_loop() -> None:
    """A bus with an open stream is busy; once left, it is free for another loop."""
    bus = EventBus()
    async with bus.stream("a"):
        with pytest.raises(RuntimeError, match="busy on another event loop"):
            await asyncio.to_thread(asyncio.run, bus.publish("a"))
    await asyncio.to_thread(asyncio.run, bus.publish("a"))


# Closing.


async def test_closing_lets_the_reader_take_what_is_left_and_ends_the_iteration() -> None:
    """The reader that waits ends too, and one that comes late reads the rest."""
    bus = EventBus()
    async with bus:
        stream = await bus.stream("a").__aenter__()
        waiting = await bus.stream("b").__aenter__()
        reader = asyncio.create_task(read_all(waiting))
        for number in range(3):
            await bus.publish("a", number)
        await turns(2)
    assert await asyncio.wait_for(reader, 5) == []
    assert stream.subscription.statistics().pending == 3
    assert bus.subscriptions == ()
    assert await within(read_all(stream)) == [0, 1, 2]
    await stream.__aexit__(None, None, None)
    assert bus.statistics().handled == 3
    assert bus.statistics().pending == 0


async def test_while_the_bus_drains_a_stream_still_gets_events() -> None:
    """What handlers publish during the drain is read too; then comes the end."""
    bus, gate = EventBus(), asyncio.Event()

    async def handler(event: Event[Any]) -> None:
        await gate.wait()
        await bus.publish("b", "during the drain")

    bus.subscribe(handler, "a")
    async with bus.stream("b") as stream:
        await bus.publish("a")
        await turns(2)
        closing = asyncio.create_task(bus.aclose())
        await turns(2)
        reader = asyncio.create_task(read_all(stream))
        gate.set()
        assert await asyncio.wait_for(reader, 5) == ["during the drain"]
        assert (await closing).unread in (0, 1)


async def test_a_closed_bus_refuses_streams() -> None:
    """Closing and closed alike; entered again, it takes them."""
    bus = EventBus()
    await bus.aclose()
    with pytest.raises(BusClosed):
        async with bus.stream("a"):
            raise AssertionError("the block was entered")
    async with bus, bus.stream("a") as stream:
        await bus.publish("a", 1)
        assert await read(stream, 1) == [1]


# Several readers, cancelled readers.


async def test_each_event_goes_to_one_of_several_readers() -> None:
    """None is lost, none is read twice, and each reader ends with the stream."""
    bus = EventBus()
    async with bus:
        stream = await bus.stream("a").__aenter__()
        readers = [asyncio.create_task(read_all(stream)) for _ in range(3)]
        await turns(2)
        for number in range(20):
            await bus.publish("a", number)
            if number % 3 == 0:
                await turns(2)
    results = await asyncio.wait_for(asyncio.gather(*readers), 5)
    assert sorted(number for result in results for number in result) == list(range(20))
    assert sum(map(bool, results)) > 1


async def test_a_cancelled_read_has_taken_nothing() -> None:
    """Cancelled while it waits: the next event is there for the next read."""
    bus = EventBus()
    async with bus.stream("a") as stream:
        reader = asyncio.create_task(anext(stream))
        await turns(2)
        reader.cancel()
        await turns(2)
        assert reader.cancelled()
        await bus.publish("a", 1)
        assert await read(stream, 1) == [1]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(stream)
        await bus.publish("a", 2)
        assert await read(stream, 1) == [2]


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_an_event_for_a_reader_cancelled_in_the_same_turn_goes_to_another(
    cancelled: int,
) -> None:
    """Woken and cancelled in one turn, a reader hands its wake-up on."""
    bus = EventBus()
    async with bus.stream("a") as stream:
        readers = [asyncio.create_task(read(stream, 1)) for _ in range(3)]
        await turns(2)
        await bus.publish("a", "for whoever is left")
        readers[cancelled].cancel()
        await turns(4)
        done = [reader for reader in readers if reader.done() and not reader.cancelled()]
        assert [reader.result() for reader in done] == [["for whoever is left"]]
        await bus.publish("a", "second")
        await turns(4)
        assert sum(reader.done() for reader in readers) == 3
        assert stream.subscription.statistics().pending == 0


async def test_every_woken_reader_but_one_cancelled_leaves_it_all_to_that_one() -> None:
    """Two events, three readers, the two that were woken cancelled: the third gets the first."""
    bus = EventBus()
    async with bus.stream("a") as stream:
        readers = [asyncio.create_task(read(stream, 2)) for _ in range(3)]
        await turns(2)
        bus.publish_nowait("a", 1)
        bus.publish_nowait("a", 2)
        readers[0].cancel()
        readers[1].cancel()
        assert await asyncio.wait_for(readers[2], 5) == [1, 2]


# Typed streams.


async def test_a_typed_stream_reads_the_model() -> None:
    """Dict data arrives validated, an instance as it is; the id and time are the event's own."""
    bus = EventBus()
    async with bus.stream(PAID) as stream:
        receipt = await bus.publish("invoice.paid", {"amount": 5})
        model = Paid(amount=6)
        await bus.publish(PAID, model)
        first, second = [await within(anext(stream)) for _ in range(2)]
    assert first.data == Paid(amount=5)
    assert first.id == receipt.event.id
    assert first.time == receipt.event.time
    assert second.data is model
    assert receipt.event.data == {"amount": 5}


async def test_data_that_does_not_fit_is_passed_over_as_failed() -> None:
    """It is a failed delivery with a dead letter; the reader gets the next one."""
    bus = EventBus()
    async with bus.stream(PAID) as stream:
        await bus.publish("invoice.paid", {"amount": "a lot"})
        await bus.publish("invoice.paid", {"amount": 2})
        assert (await within(anext(stream))).data == Paid(amount=2)
        assert stream.subscription.statistics() == SubscriptionStatistics(2, 1, 1, 0, 0, 0)
    (letter,) = bus.dead_letters
    assert letter.subscription == stream.subscription.name
    assert "a lot" not in str(letter.error)


async def test_a_predicate_that_raises_fails_that_delivery_and_not_the_stream() -> None:
    """The reader never sees it; it is counted failed, with a letter, and the publisher goes on."""
    bus = EventBus()
    async with bus.stream("a", where=lambda event: 1 / event.data) as stream:
        await bus.publish("a", 0)
        await bus.publish("a", 1)
        assert await read(stream, 1) == [1]
        assert stream.subscription.statistics() == SubscriptionStatistics(2, 1, 1, 0, 0, 0)
    (letter,) = bus.dead_letters
    assert isinstance(letter.error, ZeroDivisionError)
    assert letter.attempts == 0


async def test_what_the_model_made_is_read_even_if_it_equals_the_data() -> None:
    """1.0 is equal to 1, and is no int."""
    bus = EventBus()
    async with bus.stream(Topic("a", int)) as stream:
        await bus.publish("a", 1.0)
        assert type((await within(anext(stream))).data) is int


async def test_a_stream_can_be_forgotten_after_it_was_left() -> None:
    """The bus keeps no reference to streams that were left, nor to their subscriptions."""
    bus = EventBus()
    gone: list[weakref.ref[Subscription]] = []
    for _ in range(3):
        async with bus.stream("a") as stream:
            await bus.publish("a", 1)
            gone.append(weakref.ref(stream.subscription))
        del stream
    gc.collect()
    assert [each() for each in gone] == [None] * 3
    assert bus.statistics().cancelled == 3


def test_it_is_read_on_its_own_loop_alone() -> None:
    """Another one would miss the wake-up; an ended stream is nobody's, and can be read on."""
    bus = EventBus()
    one, two = asyncio.new_event_loop(), asyncio.new_event_loop()
    stream = bus.stream("a")
    with (
        asyncio.Runner(loop_factory=lambda: one) as first,
        asyncio.Runner(loop_factory=lambda: two) as second,
    ):
        first.run(stream.__aenter__())
        first.run(bus.publish("a", 1))
        with pytest.raises(WrongLoop):
            second.run(read(stream, 1))
        assert first.run(read(stream, 1)) == [1]
        first.run(bus.publish("a", 2))
        first.run(bus.aclose())
        assert second.run(read_all(stream)) == [2]


async def test_a_read_that_is_closed_takes_nobodys_turn(bus: EventBus) -> None:
    """Nor does one that ends in another way than by a cancellation."""
    async with bus.stream("a") as stream:
        closed = stream.__anext__()
        closed.send(None)
        closed.close()
        reader = asyncio.create_task(read(stream, 1))
        await turns(1)
        await bus.publish("a", 1)
        assert await within(reader) == [1]
