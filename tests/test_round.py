"""Events that are handed round: published while nothing else is pending, they are in no queue."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import threading
import warnings
from typing import Any

import pytest

import eventbus._pump
from eventbus import Event, EventBus, Receipt, Subscription, WouldBlock
from eventbus.testing import FakeClock
from tests.helpers import balances, reading_in_a_thread, turns, within

MANY = eventbus._pump.BATCH_STEPS + 44


class Audience:
    """Some subscribers to ``a`` that note who handled what, in this order."""

    def __init__(self, bus: EventBus, names: str = "abc", **options: Any) -> None:
        self.bus = bus
        self.heard: list[str] = []
        self.subscriptions = [
            bus.subscribe(self._handler(name), "a", "b", name=name, **options) for name in names
        ]

    def _handler(self, name: str) -> Any:
        async def handle(event: Event[Any]) -> None:
            self.heard.append(f"{name}{event.data}")
            if callable(reaction := self.reactions.get(name)):
                await reaction(event)

        self.reactions: dict[str, Any] = {}
        return handle


async def test_it_is_in_no_queue_until_somebody_looks(bus: EventBus) -> None:
    """Nothing is queued one by one, and yet it counts as accepted and pending at every moment."""
    audience = Audience(bus)
    receipt = await bus.publish("a", 1)
    assert bus._round is receipt
    assert not any(each._queue for each in audience.subscriptions)
    statistics = audience.subscriptions[1].statistics()
    assert (statistics.accepted, statistics.pending) == (1, 1)
    assert [len(each._queue or ()) for each in audience.subscriptions] == [1, 1, 1]
    await within(bus.settle())
    assert audience.heard == ["a1", "b1", "c1"]
    assert balances(bus, *audience.subscriptions)


async def test_another_thread_reads_and_changes_nothing(bus: EventBus) -> None:
    """A metrics exporter asks for the accounts in a thread of its own: the round goes on."""
    audience = Audience(bus)
    receipt = await bus.publish("a", 1)
    seen: list[Any] = []

    def export() -> None:
        seen.extend([bus.statistics(), audience.subscriptions[1].statistics(), repr(bus)])

    exporter = threading.Thread(target=export)
    exporter.start()
    exporter.join()
    assert bus._round is receipt
    assert [seen[0].accepted, seen[0].pending, seen[1].accepted, seen[1].pending] == [0, 0, 0, 0]
    await within(bus.settle())
    assert audience.heard == ["a1", "b1", "c1"]
    assert balances(bus, *audience.subscriptions)


async def test_reading_without_pause_in_another_thread_disturbs_nobody(bus: EventBus) -> None:
    """Every event reaches everybody once and in order while a thread reads and reads."""
    audience = Audience(bus, "abcdefgh")
    wild = [bus.subscribe(lambda event: None, f"w{number}.*") for number in range(50)]
    with reading_in_a_thread(bus.statistics):
        for number in range(1_000):
            if number < len(wild):
                wild[number].unsubscribe()
            await within(bus.publish_and_wait("a", number))
    assert audience.heard == [f"{name}{number}" for number in range(1_000) for name in "abcdefgh"]
    assert balances(bus, *audience.subscriptions)


@pytest.mark.parametrize("pending", [0, 1])
async def test_only_a_bus_with_nothing_else_to_do_hands_events_round(pending: int) -> None:
    """What comes while something is pending is queued behind it."""
    bus = EventBus()
    audience = Audience(bus)
    for number in range(pending):
        await bus.publish("a", number)
    await bus.publish("a", "last")
    assert (bus._round is not None) is (pending == 0)
    await within(bus.settle())
    assert audience.heard[-1] == "clast"


async def test_one_subscription_gets_it_through_its_queue(bus: EventBus) -> None:
    """There is nobody to hand it on to."""
    audience = Audience(bus, "a")
    await bus.publish("a", 1)
    assert bus._round is None
    await within(bus.settle())
    assert audience.heard == ["a1"]


async def test_what_a_handler_publishes_comes_after_it(bus: EventBus) -> None:
    """Whoever has not been given the event yet gets it before the one that it has caused."""
    audience = Audience(bus)
    audience.reactions["a"] = lambda event: bus.publish("b", 2) if event.data == 1 else turns(0)
    await within(bus.publish_and_wait("a", 1, cascade=True))
    for name in "abc":
        assert [each for each in audience.heard if each[0] == name] == [f"{name}1", f"{name}2"]


async def test_who_is_unsubscribed_on_the_way_does_not_get_it(bus: EventBus) -> None:
    """Its delivery ends cancelled, and those after it get theirs."""
    audience = Audience(bus)

    async def unsubscribe(_: Event[Any]) -> None:
        audience.subscriptions[1].unsubscribe()

    audience.reactions["a"] = unsubscribe
    outcomes = await within(bus.publish_and_wait("a", 1))
    assert [each.status for each in outcomes] == ["handled", "cancelled", "handled"]
    assert audience.heard == ["a1", "c1"]


async def test_a_handler_that_waits_does_not_hold_up_the_others(bus: EventBus) -> None:
    """They are queued then, and another pump takes them."""
    audience, gate = Audience(bus), asyncio.Event()
    audience.reactions["a"] = lambda event: gate.wait()
    receipt = await bus.publish("a", 1)
    await turns(4)
    assert audience.heard == ["a1", "b1", "c1"]
    assert not receipt.done
    gate.set()
    assert [each.status for each in await within(receipt.outcomes())] == ["handled"] * 3


async def test_a_handler_that_raises_does_not_hold_up_the_others(bus: EventBus) -> None:
    """Its delivery fails alone."""
    audience = Audience(bus)

    async def fail(_: Event[Any]) -> None:
        raise ValueError

    audience.reactions["a"] = audience.reactions["c"] = fail
    outcomes = await within(bus.publish_and_wait("a", 1))
    assert [each.status for each in outcomes] == ["failed", "handled", "failed"]


@pytest.mark.parametrize("second", ["plain", "waits"])
async def test_who_is_queued_on_the_way_begins_when_it_begins(second: str) -> None:
    """What those before it took counts as waiting, not as running."""
    clock = FakeClock()
    bus = EventBus(clock=clock)

    async def plain(event: Event[Any]) -> None:
        if event.data == "slow":
            clock.advance(0.001)  # less than a batch may take
            if second == "plain":
                raise ValueError  # and so the next one is queued

    async def waits(event: Event[Any]) -> None:
        await asyncio.sleep(0)

    bus.subscribe(plain, "a")
    bus.subscribe(plain if second == "plain" else waits, "a")
    await within(bus.publish_and_wait("a", "known by now"))
    _, outcome = await within(bus.publish_and_wait("a", "slow"))
    assert outcome.queued == pytest.approx(0.001, abs=1e-6)


async def test_handlers_have_their_own_context_and_keep_their_task(bus: EventBus) -> None:
    """P14 on this way too: the publisher's, a copy for each, and one task from begin to end."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[tuple[str, bool]] = []

    async def changes_it(event: Event[Any]) -> None:
        begun_in = asyncio.current_task()
        before = variable.get()
        variable.set("a handler's")
        if event.data == "wait":
            await asyncio.sleep(0)
        seen.append((before, asyncio.current_task() is begun_in))

    for _ in range(3):
        bus.subscribe(changes_it, "a")
    variable.set("the publisher's")
    for data in ("at once", "wait", "wait"):
        await within(bus.publish_and_wait("a", data, check=True))
    assert seen == [("the publisher's", True)] * 9
    assert variable.get() == "the publisher's"


async def test_subscribers_of_all_kinds(bus: EventBus) -> None:
    """What takes more than a step is queued, and those after it do not wait for that."""
    order: list[str] = []

    async def waits(event: Event[Any]) -> str:
        order.append("waits")
        await asyncio.sleep(0)
        return "waited"

    def awaitable(event: Event[Any]) -> Any:
        order.append("awaitable")
        return waits(event)

    def plain(event: Event[Any]) -> str:
        order.append("plain")
        return "plain"

    def in_a_thread(event: Event[Any]) -> str:
        return "thread"

    bus.subscribe(in_a_thread, "a", thread=True)
    bus.subscribe(plain, "a")
    bus.subscribe(awaitable, "a")
    bus.subscribe(plain, "a")
    bus.subscribe(waits, "a")
    for _ in range(2):  # the second time, it is known who waits
        outcomes = await within(bus.publish_and_wait("a"))
        expected = ["thread", "plain", "waited", "plain", "waited"]
        assert [each.result for each in outcomes] == expected
    assert order[:2] == ["plain", "awaitable"]


async def test_a_pump_that_is_cancelled_before_it_begins(bus: EventBus) -> None:
    """The event is queued, and handled after the rest that follows."""
    audience = Audience(bus)
    receipt = await bus.publish("a", 1)
    (pump,) = [task for task in asyncio.all_tasks() if task.get_name() == "eventbus-pump"]
    pump.cancel()
    assert bus._round is None
    await within(receipt.outcomes())
    assert audience.heard == ["a1", "b1", "c1"]


async def test_a_full_batch_leaves_the_rest_to_the_next(bus: EventBus) -> None:
    """More subscribers than a batch has steps: the loop has a turn in between."""
    audience = Audience(bus, "".join(chr(0x4E00 + number) for number in range(MANY)))
    receipt = await bus.publish("a", "")
    await turns(1)
    assert len(audience.heard) == eventbus._pump.BATCH_STEPS
    await within(receipt.outcomes())
    assert audience.heard == [each.name for each in audience.subscriptions]


async def test_it_counts_for_the_capacity(bus: EventBus) -> None:
    """A queue of one is full while its one event goes round."""
    audience = Audience(bus, capacity=1)
    bus.publish_nowait("a", 1)
    with pytest.raises(WouldBlock):
        bus.publish_nowait("a", 2)
    await within(bus.settle())
    bus.publish_nowait("a", 3)
    await within(bus.settle())
    assert audience.heard == ["a1", "b1", "c1", "a3", "b3", "c3"]


async def test_it_counts_for_the_room_of_a_redelivery(bus: EventBus) -> None:
    """A dead letter waits for a queue whose one place is the event that goes round."""
    audience = Audience(bus, capacity=1)

    async def fail(event: Event[Any]) -> None:
        if event.delivery is not None and not event.delivery.redelivered:
            raise ValueError

    audience.reactions["b"] = fail
    await within(bus.publish_and_wait("a", 1))
    waiting: list[int] = []

    async def look(event: Event[Any]) -> None:
        waiting.append(len(bus._tickets))

    audience.reactions = {"a": look}
    await turns(2)  # no pump is left that would come first
    redelivery = asyncio.create_task(bus.redeliver(bus.dead_letters[0]))
    bus.publish_nowait("a", 2)
    await within(redelivery)
    await within(bus.settle())
    assert waiting == [1]
    assert [each for each in audience.heard if each[0] == "b"] == ["b1", "b2", "b1"]


async def test_it_counts_for_the_room_of_who_waits_already() -> None:
    """A publisher that waited for a stream finds the next queue full, and waits for that."""
    bus = EventBus()
    audience = Audience(bus, capacity=1)
    async with bus.stream("b", "s", capacity=1, overflow="block") as events:
        await bus.publish("s")
        waiting = asyncio.create_task(bus.publish("b", 1))
        await asyncio.sleep(0)
        bus.publish_nowait("a", 2)
        assert bus._round is not None
        await within(anext(events))
        assert not waiting.done()
        assert [each.blocked_by for each in bus._tickets.values()] == [audience.subscriptions[0]]
        await within(waiting)
        await within(bus.settle())
    for name in "abc":
        assert [each for each in audience.heard if each[0] == name] == [f"{name}2", f"{name}1"]


async def test_a_subscription_whose_thread_is_stuck_takes_it_later() -> None:
    """Its place is free only when the thread returns, though nothing is pending on the bus."""
    clock, gate = FakeClock(), threading.Event()
    bus = EventBus(clock=clock)
    bus.subscribe(lambda event: None, "a")
    bus.subscribe(lambda event: gate.wait(5), "a", thread=True, timeout=1)
    receipt = await bus.publish("a", 1)
    async with asyncio.timeout(5):
        while clock.next_timer != 1:  # noqa: ASYNC110 - the thread has yet to begin
            await asyncio.sleep(0)
    clock.advance(1)
    assert [each.status for each in await within(receipt.outcomes())] == ["handled", "failed"]
    receipt = await bus.publish("a", 2)
    assert bus._round is receipt
    await turns(3)
    assert not receipt.done
    gate.set()
    assert [each.status for each in await within(receipt.outcomes())] == ["handled", "handled"]
    await within(bus.settle())


async def test_a_delivery_may_be_given_up_in_its_only_step() -> None:
    """A close that is over before the handler has returned: what it returns changes nothing."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    audience = Audience(bus)

    async def close(_: Event[Any]) -> None:
        closing = bus.aclose(grace=1)
        contextvars.Context().run(closing.send, None)
        clock.advance(1)
        clock.advance(1)
        with contextlib.suppress(StopIteration):
            closing.send(None)

    audience.reactions["a"] = close
    receipt = await bus.publish("a", 1)
    assert [each.status for each in await within(receipt.outcomes())] == ["cancelled"] * 3
    assert audience.heard == ["a1"]
    assert balances(bus, *audience.subscriptions)


def test_an_exit_on_the_way() -> None:
    """A handler that ends the program has failed; who has not been given the event is cancelled."""
    bus = EventBus()
    audience = Audience(bus)
    receipts: list[Receipt] = []

    async def leave(_: Event[Any]) -> None:
        raise SystemExit

    async def main() -> None:
        receipts.append(await bus.publish("a", 1))
        await within(bus.settle())

    audience.reactions["b"] = leave
    with pytest.raises(SystemExit):
        asyncio.run(main())
    outcomes = asyncio.run(within(receipts[0].outcomes()))
    assert [each.status for each in outcomes] == ["handled", "failed", "cancelled"]
    assert balances(bus, *audience.subscriptions)


async def test_closing_at_once_cancels_who_has_not_been_given_it() -> None:
    """With no grace at all, nobody has begun, and everybody's delivery is accounted for."""
    bus = EventBus()
    audience = Audience(bus)
    async with bus:
        receipt = await bus.publish("a", 1)
        report = await within(bus.aclose(grace=0))
    statuses = {each.status for each in await within(receipt.outcomes())}
    assert statuses <= {"handled", "cancelled"}
    assert report.accepted == report.handled + report.cancelled == 3
    assert balances(bus, *audience.subscriptions)


def test_a_loop_that_is_closed_on_the_way() -> None:
    """What was going round on it is buried like what was queued."""
    bus = EventBus()
    audience = Audience(bus)
    receipts: list[Receipt] = []

    async def leave() -> None:
        receipts.append(bus.publish_nowait("a", 1))
        for task in asyncio.all_tasks():
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant
        asyncio.get_running_loop().stop()  # before the pump's first step

    loop = asyncio.new_event_loop()
    task = loop.create_task(leave())
    loop.run_forever()
    (pump,) = asyncio.all_tasks(loop)
    task.result()
    assert bus._round is receipts[0]
    loop.close()
    outcomes = asyncio.run(within(receipts[0].outcomes()))
    pump.get_coro().close()
    assert [each.status for each in outcomes] == ["cancelled"] * 3
    assert balances(bus, *audience.subscriptions)
    asyncio.run(within(bus.publish_and_wait("a", 2)))
    assert audience.heard == ["a2", "b2", "c2"]


async def test_a_fork_on_the_way() -> None:
    """The event stays with the parent: in the child, nobody after the one that forked gets it."""
    bus = EventBus()
    audience = Audience(bus)
    pids: list[int] = []

    async def fork(_: Event[Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pids.append(os.fork())

    audience.reactions["b"] = fork
    receipt = await bus.publish("a", 1)
    await turns(3)
    if pids == [0]:
        statistics = bus.statistics()
        nothing = (statistics.accepted, statistics.pending, bus._pumps, bus._open) == (0, 0, 0, 0)
        os._exit(0 if nothing and audience.heard == ["a1", "b1"] else 1)
    _, status = os.waitpid(pids[0], 0)  # noqa: ASYNC222 - the child ends at once
    assert status == 0
    await within(receipt.outcomes(check=True))
    assert audience.heard == ["a1", "b1", "c1"]


async def test_a_fork_in_another_thread_while_an_event_goes_round() -> None:
    """In whatever thread it is made, the child has nothing, and no receipt waits there."""
    bus = EventBus()
    audience = Audience(bus)
    receipt = await bus.publish("a", 1)
    pids: list[int] = []

    def fork() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            nothing = bus._round is None and not bus.statistics().accepted
            os._exit(0 if nothing and receipt.done else 1)
        pids.append(pid)

    forking = threading.Thread(target=fork)
    forking.start()
    forking.join()
    _, status = os.waitpid(pids[0], 0)  # noqa: ASYNC222 - the child ends at once
    assert status == 0
    await within(bus.settle())
    assert audience.heard == ["a1", "b1", "c1"]


async def test_a_round_is_buried_from_another_thread() -> None:
    """Its loop and its thread are gone: it ends cancelled, and goes on nowhere else."""
    bus = EventBus()
    audience = Audience(bus)

    def begin() -> None:
        loop = asyncio.new_event_loop()
        loop.call_soon(bus.publish_nowait, "a", 1)
        loop.call_soon(loop.stop)
        loop.run_forever()
        with warnings.catch_warnings():  # of the pump, which this destroys
            warnings.simplefilter("ignore", RuntimeWarning)
            loop.close()
            gc.collect()

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert bus._round is not None
    await within(bus.publish_and_wait("a", 2))
    assert audience.heard == ["a2", "b2", "c2"]
    statistics = bus.statistics()
    assert (statistics.accepted, statistics.handled, statistics.cancelled) == (6, 3, 3)


async def test_subscriptions_that_come_on_the_way_do_not_get_it(bus: EventBus) -> None:
    """Who gets it was decided when it was published."""
    audience = Audience(bus)
    late: list[Subscription] = []

    async def subscribe(_: Event[Any]) -> None:
        late.append(bus.subscribe(audience._handler("d"), "a"))

    audience.reactions["a"] = subscribe
    await within(bus.publish_and_wait("a", 1))
    assert audience.heard == ["a1", "b1", "c1"]
