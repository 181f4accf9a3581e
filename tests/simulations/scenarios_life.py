"""Scenarios of the bus about waiting, cancelling, closing, threads and streams."""

# virtual time: all of this runs on the event loops of simulate()

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

from eventbus import Event, EventBus, Receipt, Retry
from eventbus.errors import BusClosed, HandlerErrors, HandlerTimeout, NotSubscribed, WouldDeadlock
from eventbus.testing import Simulation, watch
from tests.helpers import balances


async def outcomes_in_handlers(sim: Simulation) -> None:
    """P7: a handler that waits for its own end is refused; one that waits for others is not."""
    async with EventBus() as bus, watch(bus):
        refused: list[Any] = []

        @bus.on("ask")
        async def ask(event: Event) -> None:
            await asyncio.sleep(sim.random.randrange(2))
            receipt = await bus.publish("work", event.data)
            (outcome,) = await receipt.outcomes()  # others can finish it: never refused
            assert outcome.status == "handled"
            mine = await bus.publish("ask.self", event.data)
            outcomes = await mine.outcomes(cascade=True)
            assert outcomes[0].result == event.data

        @bus.on("work", concurrency=2)
        async def work(event: Event) -> None:
            await asyncio.sleep(sim.random.randrange(2))

        @bus.on("ask.self")
        async def ask_itself(event: Event) -> Any:
            receipt = await bus.publish("queued.behind", event.data)
            for wait in (bus.aclose, bus.settle)[: event.data]:
                try:
                    await wait()
                except WouldDeadlock:
                    refused.append(event.data)
            await receipt.outcomes(cascade=True)
            return event.data

        @bus.on("queued.behind")
        async def behind(event: Event) -> None:
            await asyncio.sleep(0)

        @bus.on("pair", concurrency=2)
        async def pair(event: Event) -> None:
            if event.data == 0:  # there is a place beside its own: never refused
                receipt = await bus.publish("pair", 1)
                await receipt.outcomes()

        await bus.publish("pair", 0)
        receipts = await asyncio.gather(*(bus.publish("ask", number) for number in range(3)))
        for receipt in receipts:
            await receipt.outcomes(cascade=True, check=True)
            assert receipt.cascade_done
        assert sorted(refused) == [1, 2, 2]


async def waits_that_grow(sim: Simulation) -> None:
    """P7: a wait for a cascade that becomes a wait for oneself is refused when it does."""
    async with EventBus() as bus, watch(bus):
        said: list[str] = []

        @bus.on("start")
        async def start(event: Event) -> None:
            receipt = await bus.publish("child")
            await asyncio.sleep(sim.random.randrange(2))
            try:
                await receipt.outcomes(cascade=True)
                said.append("done")
            except WouldDeadlock:
                said.append("refused")

        @bus.on("child")
        async def child(event: Event) -> None:
            await asyncio.sleep(sim.random.randrange(3))
            await bus.publish("start.again")

        again = bus.subscribe(lambda event: None, "start.again")
        closing = sim.random.random() < 0.5
        if closing:
            again.unsubscribe()

            @bus.on("start.again")
            async def through_start(event: Event) -> None:
                await bus.publish("start.two")

            @bus.on("start.two")
            async def two(event: Event) -> None:
                await asyncio.sleep(sim.random.randrange(2))

        outcomes = await bus.publish_and_wait("start", cascade=True)
        assert outcomes[0].status == "handled"
        assert said == ["done"]
        waited: list[str] = []

        @bus.on("loop")
        async def loop(event: Event) -> None:
            if event.data:
                return
            receipt = await bus.publish("loop.child")
            try:
                await receipt.outcomes(cascade=True)
            except WouldDeadlock:
                waited.append("refused")

        @bus.on("loop.child")
        async def loop_child(event: Event) -> None:
            await asyncio.sleep(sim.random.randrange(2))
            await bus.publish("loop", 1)  # behind `loop`, which waits for this cascade

        await bus.publish("loop", 0)
        await bus.settle()
        assert waited == ["refused"]


async def close_during_a_burst(sim: Simulation) -> None:
    """P11: whatever is pending when the bus closes is in the report, once, however it ends."""
    bus = EventBus()
    started: list[int] = []
    ended: list[int] = []
    refused: list[int] = []
    receipts: list[Receipt] = []

    @bus.on("a", capacity=2, concurrency=2)
    async def handle(event: Event) -> None:
        started.append(event.data)
        await asyncio.sleep(sim.random.randrange(4))
        if event.data < 6:
            try:
                receipts.append(await bus.publish("nested", event.data))
            except BusClosed:  # past the grace period
                refused.append(event.data)
        ended.append(event.data)

    @bus.on("nested")
    async def nested(event: Event) -> None:
        await asyncio.sleep(sim.random.randrange(2))

    async def publish(number: int) -> None:
        try:
            receipts.append(await bus.publish("a", number))
        except BusClosed:
            refused.append(number)

    async with bus:
        publishers = [sim.start(publish(number)) for number in range(8)]
        await asyncio.sleep(sim.random.randrange(3))
        grace = sim.random.choice((0, 1, 3, 30))
        close = sim.start(bus.aclose(grace=grace))
        other = sim.start(bus.aclose())
        if sim.random.random() < 0.4:
            await asyncio.sleep(sim.random.choice((0, 0.5, 1.5)))
            close.cancel()
            cancelled_at = sim.time
            await asyncio.wait([close])
            assert sim.time <= cancelled_at + 1.01
        await asyncio.wait([close, other, *publishers])
        assert bus._state.value == "closed" or close.cancelled()
    report = await bus.aclose()
    ends = report.handled + report.failed + report.dropped + report.cancelled
    statistics = bus.statistics()
    assert report.accepted == ends == statistics.accepted == len(receipts)
    assert statistics.pending == 0
    assert all(receipt.done for receipt in receipts)
    assert len(started) == len(set(started))
    interrupted = sum(report.interrupted.values()) + sum(report.unstarted.values())
    assert report.cancelled == interrupted
    if not close.cancelled():
        assert other.result() == close.result() == report
        if grace == 30:
            assert report.cancelled == 0
    assert sim.time <= 40
    assert balances(bus, *bus.subscriptions)
    assert bus._loop is None


async def stubborn_handlers(sim: Simulation) -> None:
    """P10, P11: a cancelled handler frees its place when it ends, or is abandoned."""
    async with EventBus() as bus:
        seen: list[int] = []
        running = [0]

        @bus.on("a", timeout=1, capacity=3)
        async def handle(event: Event) -> str:
            running[0] += 1
            assert running[0] == 1
            try:
                await asyncio.sleep(sim.random.randrange(3))
            except asyncio.CancelledError:
                if event.data % 2:
                    await asyncio.sleep(sim.random.choice((0.5, 3)))
                    return "stubborn"
                raise
            finally:
                seen.append(event.data)
                running[0] -= 1
            return "quick"

        async def publish(number: int) -> Any:
            return (await bus.publish_and_wait("a", number))[0]

        tasks = [sim.start(publish(number)) for number in range(4)]
        if sim.random.random() < 0.5:
            outcomes = await asyncio.gather(*tasks)
            assert len(seen) == 4
            for outcome in outcomes:
                assert outcome.status in ("handled", "failed")
                assert (outcome.status == "failed") == isinstance(outcome.error, HandlerTimeout)
        else:
            await asyncio.sleep(1)
            report = await bus.aclose(grace=0)
            assert report.accepted == report.handled + report.failed + report.cancelled
            await asyncio.wait(tasks)
            for task in tasks:
                assert task.done()
                assert isinstance(task.exception(), BusClosed) or task.result()
            await asyncio.sleep(5)  # the abandoned one changes nothing
            assert bus.statistics().handled == report.handled
        assert balances(bus, *bus.subscriptions)


async def cancelled_at_every_point(sim: Simulation) -> None:
    """P9, P6: a publisher, a handler or a waiter is cancelled at any point; nothing is lost."""
    async with EventBus() as bus:
        seen: list[int] = []
        accepted: list[int] = []

        @bus.on("a", capacity=1)
        async def handle(event: Event) -> None:
            seen.append(event.data)
            await asyncio.sleep(sim.random.randrange(2))
            await asyncio.sleep(0)

        async def publish(number: int) -> None:
            receipt = await bus.publish("a", number)
            accepted.append(number)
            await receipt.outcomes()

        publishers = [sim.start(publish(number)) for number in range(5)]
        victim = publishers[sim.random.randrange(5)]
        cancel = sim.random.choice((sim.cancel_before_step, sim.cancel_after_step))
        cancel(victim, sim.seed % 6)
        if sim.random.random() < 0.5:
            other = sim.random.choice(publishers)
            sim.cancel_sometime(other)
        await asyncio.wait(publishers)
        await bus.settle()
        assert set(accepted) <= set(seen)
        assert len(seen) == len(set(seen))
        for number, task in enumerate(publishers):
            assert number in seen or task.cancelled()
        statistics = bus.statistics()
        assert statistics.accepted == statistics.handled == len(seen)
        assert not bus._tickets
        assert bus._room_timer is None
        assert not bus._full


async def cancelled_handlers(sim: Simulation) -> None:
    """P10: whoever cancels a handler's task, its place is free for the next, and order holds."""
    async with EventBus() as bus:
        begun: list[int] = []
        expected: list[int] = []
        tasks: dict[int, asyncio.Task[Any] | None] = {}

        @bus.on("a", retry=Retry(attempts=2, initial=0.5), timeout=sim.random.choice((1, None)))
        async def handle(event: Event) -> None:
            begun.append(event.data)
            task = tasks[event.data] = asyncio.current_task()
            assert task is not None
            assert event.delivery is not None
            if event.data % 2:
                if event.delivery.attempt == (event.data + 1) // 2:
                    sim.cancel_after_step(task, sim.random.randrange(2))
                    expected.append(event.data)
                else:
                    await asyncio.sleep(3)  # until it times out, if it does
                    raise ValueError
            await asyncio.sleep(0)
            await asyncio.sleep(1)
            await asyncio.sleep(0)

        receipts = [await bus.publish("a", number) for number in range(4)]
        outcomes = [(await receipt.outcomes())[0] for receipt in receipts]
        assert begun == sorted(begun)
        for number, outcome in enumerate(outcomes):
            assert outcome.attempts == begun.count(number)
            assert outcome.status in ("handled", "failed", "cancelled")
            assert (outcome.status == "cancelled") == (number in expected)
        statistics = bus.statistics()
        assert statistics.cancelled == sum(each.status == "cancelled" for each in outcomes)
        assert len(bus.dead_letters) == statistics.failed
        await asyncio.sleep(1)
        assert bus.subscriptions[0]._running == 0


async def threads_hand_over(sim: Simulation) -> None:
    """P12: what a thread hands over is accepted once, in order, and waits for room in its turn."""
    async with EventBus() as bus, watch(bus):
        loop = asyncio.get_running_loop()
        seen: list[str] = []

        @bus.on("a", capacity=1)
        async def handle(event: Event) -> None:
            await asyncio.sleep(sim.random.randrange(2))
            seen.append(event.data)

        async def thread(name: str) -> list[Receipt | BaseException]:
            got: list[Receipt | BaseException] = []
            for number in range(3):
                future: concurrent.futures.Future[Receipt] = concurrent.futures.Future()
                loop.call_soon_threadsafe(
                    bus._submit_for_thread, future, "a", f"{name}{number}", None
                )
                while not future.done():  # noqa: ASYNC110 - as a thread would, in its own time
                    await asyncio.sleep(0.25)
                got.append(future.exception() or future.result())
            return got

        tasks = [sim.start(thread(name)) for name in "xy"]
        tasks_of_loop = [sim.start(bus.publish("a", f"z{number}")) for number in range(2)]
        closing = sim.random.random() < 0.3
        if closing:
            await asyncio.sleep(sim.random.randrange(3))
            await bus.aclose()
        results = await asyncio.gather(*tasks)
        errors = await asyncio.gather(*tasks_of_loop, return_exceptions=True)
        await bus.settle()
        assert closing or all(isinstance(each, Receipt) for each in errors)
        for name, got in zip("xy", results, strict=True):
            good = [each.event.data for each in got if isinstance(each, Receipt)]
            assert good == [each for each in seen if each[0] == name]
            assert all(isinstance(each, Receipt | BusClosed) for each in got)
            assert closing or good == [f"{name}{number}" for number in range(3)]
        assert len(seen) == len(set(seen))


async def handlers_in_threads(sim: Simulation) -> None:
    """P10, P12: a thread keeps its place until it returns, whatever becomes of its delivery."""
    sim.thread_seconds = sim.random.choice((0, 4))
    async with EventBus(threads=2) as bus:
        began: list[int] = []
        nested: list[int] = []

        @bus.on("a", thread=True, timeout=sim.random.choice((1, None)), concurrency=1, capacity=2)
        def handle(event: Event) -> int:
            began.append(event.data)
            bus.publish_from_thread("nested", event.data)
            return int(event.data)

        @bus.on("b", thread=True, concurrency=3, retry=Retry(attempts=2, initial=0.5))
        def other(event: Event) -> None:
            raise ValueError

        bus.subscribe(lambda event: nested.append(event.data), "nested")
        receipts = []
        for number in range(4):
            receipts.append(await bus.publish("a", number))
            if number < 2:
                await bus.publish("b", number)
        leave = sim.random.randrange(4)
        if leave == 0:
            await asyncio.sleep(sim.random.randrange(3))
            bus.subscriptions[0].unsubscribe()
        elif leave == 1:
            await asyncio.sleep(sim.random.randrange(3))
            await bus.aclose(grace=sim.random.randrange(2))
        outcomes = [(await receipt.outcomes())[0] for receipt in receipts]
        for number, outcome in enumerate(outcomes):
            if outcome.status == "handled":
                assert outcome.result == number in began
        assert began == sorted(set(began))
        await asyncio.sleep(30)
        assert bus._stuck_threads == 0
        assert all(each._running == 0 for each in bus.subscriptions)
        if bus._thread_limit is not None:
            assert bus._thread_limit.places.borrowed_tokens == 0
        assert set(nested) <= set(began)
        assert balances(bus, *bus.subscriptions)
        assert leave != 2 or set(nested) == set(began)


async def readers_of_a_stream(sim: Simulation) -> None:
    """Streams: each event goes to one reader, in order; a cancelled read has taken nothing."""
    async with EventBus() as bus, watch(bus):
        read: list[int] = []
        per_reader: list[list[int]] = [[], [], [], []]
        capacity = sim.random.choice((2, 20))

        async def reader(number: int) -> None:
            async for event in stream:
                read.append(event.data)
                per_reader[number].append(event.data)
                await asyncio.sleep(sim.random.randrange(2) / 4)

        async with bus.stream("a", capacity=capacity) as stream:
            readers = [sim.start(reader(number), cancel=number == 0) for number in range(4)]
            for number in range(8):
                await bus.publish("a", number)
                await asyncio.sleep(sim.random.randrange(2) / 4)
            await asyncio.sleep(5)
            assert len(read) + stream.lagged == 8
            assert capacity == 2 or not stream.lagged
            assert read == sorted(read)

            async def give_up() -> None:
                readers[1].cancel()

            await asyncio.gather(give_up(), sim.start(bus.publish("a", 8)))
            await asyncio.sleep(5)
            assert read[-1] == 8  # whoever was woken for it
            await bus.publish("a", 9)
            if sim.random.randrange(2):
                await asyncio.sleep(5)
            ending = sim.random.randrange(2)
            if ending:
                await bus.aclose()
                await asyncio.wait(readers)  # they take what is left, and then it ends
                assert read[-2:] == [8, 9]
        await asyncio.wait(readers)
        assert len(read) == len(set(read))
        statistics = stream.subscription.statistics()
        assert statistics.handled == len(read)
        assert statistics.accepted == 10 == len(read) + statistics.dropped + statistics.cancelled
        assert not stream._readers


async def settle_and_wait_for(sim: Simulation) -> None:
    """P13: ``settle`` and ``wait_for`` see what comes while they wait, and leave nothing."""
    bus = EventBus()
    seen: list[int] = []

    @bus.on("a")
    async def handle(event: Event) -> None:
        await asyncio.sleep(sim.random.randrange(2))
        seen.append(event.data)
        if event.data < 3:
            await bus.publish("a", event.data + 1)

    async def settler() -> None:
        await bus.settle()
        assert bus.subscriptions[0].statistics().pending == 0  # nobody waits for readers

    async def waiter(number: int, timeout: float | None) -> Any:
        try:
            event = await bus.wait_for("a", where=lambda e: e.data == number, timeout=timeout)
        except TimeoutError:
            return None
        return event.data

    waiting = [sim.start(waiter(number, 10)) for number in (1, 3)]
    waiting.append(sim.start(waiter(9, sim.random.randrange(3))))
    waiting.append(sim.start(waiter(2, None), cancel=True))
    await asyncio.sleep(0.5)
    await bus.publish("a", 0)
    settlers = [sim.start(settler(), cancel=number == 1) for number in range(3)]
    await asyncio.wait(settlers)
    assert seen == [0, 1, 2, 3]
    await asyncio.wait(waiting)
    results = [task.result() for task in waiting if not task.cancelled()]
    assert results[:3] == [1, 3, None]
    assert results[3:] in ([], [2])
    assert len(bus.subscriptions) == 1
    assert (bus._loop, bus._settlers, bus._streams) == (None, [], {})
    assert balances(bus, *bus.subscriptions)


async def in_and_out(sim: Simulation) -> None:
    """P11, P13: a bus is entered and left again and again, with publishers at work all the time."""
    bus = EventBus()
    seen: list[int] = []
    accepted: list[int] = []
    numbers = iter(range(1000))

    @bus.on("a", capacity=1)
    async def handle(event: Event) -> None:
        await asyncio.sleep(sim.random.randrange(2))
        seen.append(event.data)

    async def publish() -> None:
        for _ in range(4):
            number = next(numbers)
            try:
                await bus.publish("a", number)
            except BusClosed:
                await asyncio.sleep(0.5)
            else:
                accepted.append(number)

    publishers = [sim.start(publish()) for _ in range(3)]
    reports = []
    for _ in range(3):
        async with bus:
            await asyncio.sleep(sim.random.randrange(2))
        reports.append(await bus.aclose())
        assert bus.statistics().pending == 0
        assert bus._loop is None
    async with bus:
        await asyncio.wait(publishers)
    reports.append(await bus.aclose())
    assert not any(task.exception() for task in publishers)
    assert sorted(seen) == sorted(accepted)
    assert sum(report.accepted for report in reports) == len(seen)
    assert all(report.accepted == report.handled for report in reports)
    assert bus._loop is None


async def redelivery(sim: Simulation) -> None:
    """Redelivery: a dead letter leaves the ring exactly when its event is accepted again."""
    async with EventBus() as bus:
        attempts: dict[int, list[bool]] = {}

        @bus.on("a", capacity=1, name="target")
        async def handle(event: Event) -> None:
            assert event.delivery is not None
            attempts.setdefault(event.data, []).append(event.delivery.redelivered)
            await asyncio.sleep(sim.random.randrange(2))
            if not event.delivery.redelivered:
                raise ValueError(event.data)

        for number in range(4):
            await bus.publish("a", number)
        await bus.settle()
        letters = list(bus.dead_letters)
        assert [letter.event.data for letter in letters] == [0, 1, 2, 3]
        tasks = [
            sim.start(bus.redeliver(each), cancel=n % 2 == 1) for n, each in enumerate(letters)
        ]
        leaves = sim.random.random() < 0.3
        if leaves:
            await asyncio.sleep(sim.random.randrange(2))
            bus.subscriptions[0].unsubscribe()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        await bus.settle()
        assert leaves or not any(isinstance(each, NotSubscribed) for each in errors)
        assert bus._tickets == {}
        for letter, task in zip(letters, tasks, strict=True):
            again = attempts[letter.event.data][1:]
            assert again in ([], [True])
            if letter in bus.dead_letters:
                assert not again
                assert task.cancelled() or leaves
            elif not leaves:
                assert again
        assert balances(bus)
        redelivered = sum(len(each) - 1 for each in attempts.values())
        statistics = bus.statistics()
        assert statistics.handled == redelivered
        assert statistics.accepted == 4 + redelivered + statistics.cancelled


async def checked_outcomes(sim: Simulation) -> None:
    """P2, P8: each end is in exactly one outcome, also when subscriptions come and go meanwhile."""
    async with EventBus() as bus:
        runs = [0]

        async def handle(event: Event) -> None:
            runs[0] += 1
            await asyncio.sleep(sim.random.randrange(2))
            if event.data % 3 == 2:
                raise ValueError

        async def come_and_go() -> None:
            for _ in range(3):
                with bus.subscribe(handle, "a", capacity=2, concurrency=sim.random.choice((1, 2))):
                    await asyncio.sleep(sim.random.randrange(3))

        async def publish(number: int) -> int:
            await asyncio.sleep(sim.random.randrange(3))
            try:
                outcomes = await bus.publish_and_wait("a", number, check=True)
            except HandlerErrors as group:
                outcomes = group.outcomes
            return sum(each.attempts for each in outcomes)

        comers = [sim.start(come_and_go()) for _ in range(2)]
        counts = await asyncio.gather(*(publish(number) for number in range(6)))
        await asyncio.gather(*comers)
        await bus.settle()
        assert sum(counts) == runs[0]
        statistics = bus.statistics()
        assert statistics.failed == len(bus.dead_letters)
        assert statistics.handled + statistics.failed == runs[0]
        assert statistics.events == 6
        assert not bus._left
        assert not bus._full


SCENARIOS = (
    outcomes_in_handlers,
    waits_that_grow,
    close_during_a_burst,
    stubborn_handlers,
    cancelled_at_every_point,
    cancelled_handlers,
    threads_hand_over,
    handlers_in_threads,
    readers_of_a_stream,
    settle_and_wait_for,
    in_and_out,
    redelivery,
    checked_outcomes,
)
