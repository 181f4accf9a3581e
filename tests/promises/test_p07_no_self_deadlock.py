"""P7: who waits for what only its own end can bring is refused at once; nobody else is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio.from_thread
import pytest

from eventbus import Event, EventBus, Receipt, Retry, WouldDeadlock, WrongLoop
from eventbus.testing import FakeClock
from tests.helpers import turns, within

Wait = Callable[[EventBus, Receipt], Awaitable[Any]]

OWN_END: dict[str, Wait] = {
    "its own outcomes": lambda bus, own: own.outcomes(),
    "its own cascade": lambda bus, own: own.outcomes(cascade=True),
    "its own queue": lambda bus, own: bus.publish_and_wait("own"),
    "its own queue, cascade and all": lambda bus, own: bus.publish_and_wait("own", cascade=True),
    "settle": lambda bus, own: bus.settle(),
    "aclose": lambda bus, own: bus.aclose(),
    "through wait_for, a child task on 3.11": lambda bus, own: asyncio.wait_for(own.outcomes(), 60),
    "through a child task": lambda bus, own: asyncio.create_task(bus.settle()),
    "through a grandchild": lambda bus, own: asyncio.create_task(in_a_task(own.outcomes)),
}


async def in_a_task(wait: Callable[[], Awaitable[Any]]) -> None:
    await asyncio.gather(wait())


@pytest.mark.parametrize("waits", [False, True], ids=["in its first step", "after it has waited"])
@pytest.mark.parametrize("wait", OWN_END.values(), ids=OWN_END)
async def test_a_handler_that_waits_for_its_own_end_is_refused_at_once(
    wait: Wait, waits: bool
) -> None:
    """The refusal names the chain, nothing else is disturbed, and the bus stays open."""
    bus = EventBus()
    receipts: asyncio.Queue[Receipt] = asyncio.Queue()

    async def loop(event: Event[Any]) -> str:
        if event.data != "first":
            return ""
        if waits:
            await asyncio.sleep(0)
        with pytest.raises(WouldDeadlock) as caught:
            await wait(bus, await receipts.get())
        return str(caught.value)

    bus.subscribe(loop, "own", name="me")
    receipt = await bus.publish("own", "first")
    receipts.put_nowait(receipt)
    (outcome,) = await within(receipt.outcomes())
    assert outcome.status == "handled", outcome.error
    assert "me (own)" in outcome.result
    assert " -> " in outcome.result
    assert outcome.result.count("me (own)") >= 3  # who asks, and both ends of its chain
    await within(bus.publish_and_wait("own"))
    await within(bus.settle())


async def test_a_refused_event_stays_accepted() -> None:
    """What ``publish_and_wait`` has published is handled once the handler has returned."""
    bus = EventBus()
    seen: list[str] = []

    async def handler(event: Event[Any]) -> None:
        seen.append(event.data)
        if event.data == "outer":
            with pytest.raises(WouldDeadlock):
                await bus.publish_and_wait("a", "inner")

    bus.subscribe(handler, "a")
    await bus.publish_and_wait("a", "outer")
    await within(bus.settle())
    assert seen == ["outer", "inner"]


async def test_the_last_edge_of_a_cycle_over_two_roots_is_refused() -> None:
    """Interleaving 6: two handlers wait for each other's queues; the second to wait is refused."""
    bus = EventBus()
    both_run = asyncio.Barrier(2)
    refused: list[str] = []

    async def left(event: Event[Any]) -> None:
        if event.data:
            await both_run.wait()
            await wait("right", "left")

    async def right(event: Event[Any]) -> None:
        if event.data:
            await both_run.wait()
            await wait("left", "right")

    async def wait(topic: str, me: str) -> None:
        try:
            await bus.publish_and_wait(topic)
        except WouldDeadlock as error:
            refused.append(f"{me}: {error}")

    bus.subscribe(left, "left", name="L")
    bus.subscribe(right, "right", name="R")
    await bus.publish("left", 1)
    await bus.publish("right", 1)
    await within(bus.settle())
    assert len(refused) == 1
    me, other = ("L", "R") if refused[0].startswith("left") else ("R", "L")
    topics = {"L": "left", "R": "right"}
    assert (
        f"{me} ({topics[me]}) -> {topics[other]} queued for {other} -> {other} ({topics[other]})"
        f" -> {topics[me]} queued for {me} -> {me} ({topics[me]})"
    ) in refused[0]


async def test_the_last_free_place_closes_the_cycle() -> None:
    """Interleaving 6: with two places, one may wait for its own queue, the second may not."""
    bus = EventBus()
    statuses: list[str] = []

    async def handler(event: Event[Any]) -> None:
        if event.data == "inner":
            return
        await turns(event.data)
        try:
            await bus.publish_and_wait("a", "inner")
            statuses.append("finished")
        except WouldDeadlock:
            statuses.append("refused")

    bus.subscribe(handler, "a", concurrency=2)
    await bus.publish("a", 1)
    await bus.publish("a", 1)
    await within(bus.settle())
    assert statuses == ["refused", "finished"]


async def test_a_free_place_is_enough() -> None:
    """With a place to spare, a handler may wait for its own subscription, in its first step too."""
    bus = EventBus()

    async def handler(event: Event[Any]) -> None:
        if event.data:
            await bus.publish_and_wait("a", event.data - 1)

    bus.subscribe(handler, "a", concurrency=3)
    (outcome,) = await within(bus.publish_and_wait("a", 2))
    assert outcome.status == "handled"
    await within(bus.publish_and_wait("a", 3))
    assert bus.statistics().failed == 1  # the third place was the last


@pytest.mark.parametrize(("key", "status"), [("same", "failed"), ("other", "handled")])
async def test_another_key_is_waited_for_and_the_own_key_is_refused(key: str, status: str) -> None:
    """Interleaving 6: a cycle through one key is a cycle, whatever places are free."""
    bus = EventBus()

    async def handler(event: Event[Any]) -> None:
        if event.subject == "outer":
            await bus.publish_and_wait("a", key)

    bus.subscribe(handler, "a", concurrency=5, key=lambda event: event.data)
    (outcome,) = await within(bus.publish_and_wait("a", "same", subject="outer"))
    assert outcome.status == status
    await within(bus.settle())


async def test_the_own_key_behind_another_event_of_it_is_refused() -> None:
    """The event waited for stands second in a lane whose holder is the one that asks."""
    bus = EventBus()

    async def handler(event: Event[Any]) -> None:
        if event.data == "outer":
            await bus.publish("a")
            await bus.publish_and_wait("a")

    bus.subscribe(handler, "a", concurrency=5, key=lambda event: 0)
    (outcome,) = await within(bus.publish_and_wait("a", "outer"))
    assert isinstance(outcome.error, WouldDeadlock)


@pytest.mark.parametrize("verb", ["outcomes", "cascade", "settle", "aclose"])
async def test_another_bus_is_waited_for(verb: str) -> None:
    """Waiting for all that another bus has to do is nobody's deadlock."""
    here, there = EventBus(name="here"), EventBus(name="there")
    done: list[str] = []

    async def work(event: Event[Any]) -> None:
        await turns(3)
        done.append(event.type)

    async def handler(event: Event[Any]) -> None:
        receipt = await there.publish("b")
        if verb == "settle":
            await there.settle()
        elif verb == "aclose":
            await there.aclose()
        else:
            await receipt.outcomes(cascade=verb == "cascade")
        assert done == ["b"]

    there.subscribe(work, "b")
    here.subscribe(handler, "a")
    await within(here.publish_and_wait("a", check=True))


@pytest.mark.parametrize("verb", ["outcomes", "cascade", "settle", "aclose"])
async def test_a_cycle_through_another_bus_is_refused(verb: str) -> None:
    """A handler there waits for one here: whatever here waits for there is refused."""
    here, there = EventBus(name="here"), EventBus(name="there")
    outer: list[Receipt] = []

    async def work(event: Event[Any]) -> None:
        await outer[0].outcomes()

    async def handler(event: Event[Any]) -> str:
        receipt = await there.publish("b")
        await turns(3)
        waits: dict[str, Callable[[], Awaitable[Any]]] = {
            "outcomes": receipt.outcomes,
            "cascade": lambda: receipt.outcomes(cascade=True),
            "settle": there.settle,
            "aclose": there.aclose,
        }
        with pytest.raises(WouldDeadlock) as caught:
            await waits[verb]()
        return str(caught.value)

    there.subscribe(work, "b", name="W")
    here.subscribe(handler, "a", name="H")
    outer.append(await here.publish("a"))
    (outcome,) = await within(outer[0].outcomes())
    assert "H (a) -> W (b) -> H (a)" in outcome.result
    await within(there.settle())
    await within(there.publish_and_wait("b"))  # the refused aclose has closed nothing


async def test_a_cascade_that_grows_into_a_deadlock_is_refused_when_it_does() -> None:
    """The wait was sound when it began; the cascade then publishes into the waiter's own queue."""
    bus = EventBus()
    go = asyncio.Event()

    async def waiter(event: Event[Any]) -> str:
        if event.type == "c":
            return ""
        with pytest.raises(WouldDeadlock) as caught:
            await bus.publish_and_wait("b", cascade=True)
        return str(caught.value)

    async def worker(event: Event[Any]) -> None:
        await go.wait()
        await bus.publish("c")

    bus.subscribe(waiter, "a", "c", name="H")
    bus.subscribe(worker, "b")
    receipt = await bus.publish("a")
    await turns(5)
    assert not receipt.done
    go.set()
    (outcome,) = await within(receipt.outcomes())
    assert "H (a) -> c queued for H -> H (a)" in outcome.result
    await within(bus.settle())


async def test_only_whoever_stands_in_the_way_of_a_grown_cascade_is_refused() -> None:
    """Of two that wait for one cascade, the other one, and one with a place to spare, may go on."""
    bus = EventBus()
    work: list[Receipt] = []

    async def waiter(event: Event[Any]) -> None:
        if event.type != "c":
            await work[0].outcomes(cascade=True)

    async def worker(event: Event[Any]) -> None:
        await turns(5)
        await bus.publish("c")

    bus.subscribe(waiter, "one", name="bystander")
    bus.subscribe(waiter, "two", "c", name="in the way")
    bus.subscribe(waiter, "three", "c", name="with room", concurrency=2)
    bus.subscribe(worker, "b", capacity=1)
    work.append(await bus.publish("b"))
    receipts = [await bus.publish(topic) for topic in ("one", "two", "three")]
    first, second, third = [(await within(receipt.outcomes()))[0] for receipt in receipts]
    assert isinstance(second.error, WouldDeadlock)
    assert (first.status, third.status) == ("handled", "handled")
    await within(bus.settle())


async def test_a_cascade_over_buses_is_seen_when_its_first_bus_is_idle_again() -> None:
    """Three buses: the first one has ended its part, and the cycle goes through the others."""
    first, second, third = (EventBus(name=name) for name in ("first", "second", "third"))
    started: list[Receipt] = []
    outer: list[Receipt] = []
    go = asyncio.Event()

    async def hand_on(event: Event[Any]) -> None:
        await second.publish("b")

    async def slow(event: Event[Any]) -> None:
        await go.wait()
        await outer[0].outcomes()

    async def waiter(event: Event[Any]) -> None:
        await started[0].outcomes(cascade=True)

    first.subscribe(hand_on, "a")
    second.subscribe(slow, "b")
    third.subscribe(waiter, "w")
    started.append(await first.publish("a"))
    await turns(5)
    outer.append(await third.publish("w"))
    await turns(5)
    await first.publish_and_wait("nobody")  # binds it, and lets it go of the loop again
    await first.settle()
    go.set()
    await within(second.settle())
    await within(third.settle())
    assert [type(letter.error) for letter in second.dead_letters] == [WouldDeadlock]


async def test_the_pause_before_a_retry_is_no_deadlock() -> None:
    """One may wait for a delivery in back-off; the own queue stays barred in a later attempt."""
    clock = FakeClock()
    bus = EventBus(clock=clock)

    async def flaky(event: Event[Any]) -> None:
        if event.delivery and event.delivery.attempt == 1:
            raise OSError
        if event.data:
            await bus.publish_and_wait("b")

    async def waiter(event: Event[Any]) -> str:
        (outcome,) = await bus.publish_and_wait("b")
        return outcome.status

    bus.subscribe(flaky, "b", retry=Retry(attempts=2, jitter=0))
    bus.subscribe(waiter, "a")
    receipt = await bus.publish("a")
    await turns(5)
    assert not receipt.done
    clock.advance(1)
    (outcome,) = await within(receipt.outcomes())
    assert outcome.result == "handled"
    barred = await bus.publish("b", "wait for yourself")
    await turns(5)
    clock.advance(1)
    (outcome,) = await within(barred.outcomes())
    assert (outcome.attempts, type(outcome.error)) == (2, WouldDeadlock)
    await turns(5)
    clock.advance(1)
    await within(bus.settle())


async def test_a_leftover_task_waits_like_an_outsider() -> None:
    """Interleaving 10: refused while the handler runs; afterwards it may wait and settle."""
    bus = EventBus()
    left: list[asyncio.Task[str]] = []
    gate = asyncio.Event()

    async def leftover(own: Receipt) -> str:
        for wait in (own.outcomes, bus.settle):
            with pytest.raises(WouldDeadlock):
                await wait()
        await gate.wait()
        await own.outcomes()
        (outcome,) = await bus.publish_and_wait("a")
        await bus.settle()
        return outcome.status

    async def handler(event: Event[Any]) -> None:
        if event.data:
            left.append(asyncio.create_task(leftover(await event.data)))
            await turns(3)

    bus.subscribe(handler, "a")
    future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    receipt = await bus.publish("a", future)
    future.set_result(receipt)
    await within(receipt.outcomes(check=True))
    gate.set()
    assert await within(left[0]) == "handled"


async def test_a_leftover_that_waits_when_its_handler_ends_stands_in_nobodys_way() -> None:
    """Interleaving 10: its wait counts as the handler's own just as long as the handler runs."""
    bus = EventBus()
    left: list[asyncio.Task[Any]] = []

    async def slow(event: Event[Any]) -> str:
        await turns(5)
        (outcome,) = await bus.publish_and_wait("own")
        return outcome.status

    async def handler(event: Event[Any]) -> None:
        if event.data:
            left.append(asyncio.create_task(bus.publish_and_wait("slow")))
            await turns(2)

    bus.subscribe(handler, "own")
    bus.subscribe(slow, "slow")
    await within(bus.publish_and_wait("own", "first", check=True))
    (outcome,) = await within(left[0])
    assert outcome.result == "handled"


def in_a_thread(wait: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return anyio.from_thread.run(wait)


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_thread_handler_waits_only_if_there_is_a_thread_left(threads: int) -> None:
    """A handler in the only thread that waits for one that needs a thread is refused."""
    bus = EventBus(threads=threads)

    def outer(event: Event[Any]) -> None:
        in_a_thread(lambda: bus.publish_and_wait("b"))

    bus.subscribe(outer, "a", thread=True, name="outer")
    bus.subscribe(lambda event: None, "b", thread=True, name="inner")
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert isinstance(outcome.error, WouldDeadlock) == (threads == 1)
    assert threads == 2 or "outer (a) -> b queued for inner -> outer (a)" in str(outcome.error)
    await within(bus.settle())


async def test_a_thread_handler_that_waits_for_its_own_end_is_refused() -> None:
    """A wait that a thread makes on the loop carries the thread's context."""
    bus = EventBus()
    bus.subscribe(lambda event: in_a_thread(bus.settle), "a", thread=True)
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert isinstance(outcome.error, WouldDeadlock)


@pytest.mark.parametrize("keyed", [True, False], ids=["its key", "its place"])
async def test_what_a_given_up_thread_still_holds_is_waited_for(keyed: bool) -> None:
    """A timed-out thread keeps key and place until it returns, and that needs nobody's end."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    started, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def worker(event: Event[Any]) -> None:
        if event.data == "stuck":
            loop.call_soon_threadsafe(started.set)
            assert go.wait(10)
        elif event.data == "outer":
            in_a_thread(wait_for_another)

    async def wait_for_another() -> None:
        receipt = await bus.publish("t")
        loop.call_later(0.01, go.set)
        await receipt.outcomes(check=True)

    async def waiter(event: Event[Any]) -> None:
        await wait_for_another()

    key = (lambda event: event.data != "outer") if keyed else None
    bus.subscribe(worker, "t", thread=True, timeout=1, concurrency=2, key=key)
    bus.subscribe(waiter, "w")
    receipt = await bus.publish("t", "stuck")
    await within(started.wait())
    clock.advance(1)
    assert (await within(receipt.outcomes()))[0].status == "failed"
    try:
        topic, data = ("w", None) if keyed else ("t", "outer")
        (outcome,) = await within(bus.publish_and_wait(topic, data))
    finally:
        go.set()
    assert outcome.status == "handled", outcome.error
    await within(bus.settle())


async def test_a_cancelled_wait_is_forgotten() -> None:
    """After it gave up waiting, a handler stands in nobody's way."""
    bus = EventBus()
    gate = asyncio.Event()
    outer: list[Receipt] = []

    async def first(event: Event[Any]) -> None:
        task = asyncio.create_task(bus.publish_and_wait("b"))
        await turns(2)
        task.cancel()
        await asyncio.wait([task])
        await gate.wait()

    async def second(event: Event[Any]) -> None:
        await turns(10)
        gate.set()
        await outer[0].outcomes()

    bus.subscribe(first, "a")
    bus.subscribe(second, "b")
    outer.append(await bus.publish("a"))
    await within(bus.settle())
    assert bus.statistics().handled == 2


async def test_a_wait_on_a_loop_of_its_own_is_none_of_the_bus() -> None:
    """A thread handler that runs another loop gets ``WrongLoop``: who waits for whom is read in
    the bus's own thread alone, where nothing changes it meanwhile."""
    bus = EventBus()
    receipts: list[Receipt] = []

    def wait_elsewhere(event: Event[Any]) -> None:
        asyncio.run(in_a_task(receipts[0].outcomes))

    bus.subscribe(wait_elsewhere, "a", thread=True)
    async with bus:
        receipts.append(bus.publish_nowait("a"))
        (outcome,) = await within(receipts[0].outcomes())
        assert isinstance(outcome.error, WrongLoop)
