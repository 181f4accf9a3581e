"""P13: an idle bus owns no task, thread or loop; a busy one belongs to its loop alone."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventbus import BusClosed, Event, EventBus, NameTaken, Receipt, Retry, WrongLoop
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import LogLines, balances, turns, within

Call = Callable[[EventBus], Awaitable[object]]


async def wait_a_turn(_: Event[Any]) -> str:
    await asyncio.sleep(0)
    return "async"


def work_in_thread(_: Event[Any]) -> int:
    return threading.get_ident()


async def use_everything(bus: EventBus) -> None:
    """Make the bus do all that it can own something for, and end all of it."""
    await bus.publish_and_wait("a", check=True)
    async with bus.stream("a") as events:
        await bus.publish("a")
        async for _ in events:
            break
    waiter = asyncio.create_task(bus.wait_for("a", timeout=60))
    await asyncio.sleep(0)
    await bus.publish("a")
    await waiter
    with pytest.raises(TimeoutError):
        await bus.wait_for("never", timeout=0)
    for number in range(5):
        await bus.publish("full", number)
    await bus.settle()


def everybody(bus: EventBus) -> None:
    """Subscribe handlers of every kind."""
    failures: list[Event[Any]] = []

    def fail_once(event: Event[Any]) -> None:
        failures.append(event)
        if len(failures) == 1:
            raise ValueError("the first time")

    bus.subscribe(wait_a_turn, "a", timeout=60)
    bus.subscribe(work_in_thread, "a", thread=True)
    bus.subscribe(fail_once, "a", retry=Retry(initial=0))
    bus.subscribe(wait_a_turn, "full", capacity=1, concurrency=2, key=lambda event: event.data)


async def test_an_idle_bus_owns_no_task() -> None:
    """After all kinds of use, entered and not, no task is left but the test's own."""
    bus = EventBus()
    everybody(bus)
    for entered in (False, True):
        if entered:
            async with bus:
                await within(use_everything(bus))
        else:
            await within(use_everything(bus))
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert bus._loop is None


def test_an_idle_bus_owns_no_loop_and_no_thread() -> None:
    """Its loops can be collected, and no thread outlives them."""
    bus = EventBus()
    everybody(bus)
    before = set(threading.enumerate())
    loops = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await within(use_everything(bus))

    asyncio.run(main())
    asyncio.run(main())
    while left := set(threading.enumerate()) - before:
        left.pop().join(5)  # anyio's workers end with their run, and know its loop
    gc.collect()
    assert [loop() for loop in loops] == [None, None]


def test_an_idle_bus_leaves_no_timer_on_its_loop() -> None:
    """What it asked its clock for is cancelled once it is idle."""
    timers: list[tuple[float, asyncio.TimerHandle]] = []

    class Clock:
        import time as _time

        time = staticmethod(_time.time)
        monotonic = staticmethod(_time.monotonic)

        def call_later(self, delay: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
            loop = asyncio.get_running_loop()
            timers.append((loop.time() + delay, loop.call_later(delay, callback)))
            return timers[-1][1]

    bus = EventBus(clock=Clock())
    everybody(bus)

    async def main() -> list[bool]:
        await within(use_everything(bus))
        now = asyncio.get_running_loop().time()
        return [timer.cancelled() for when, timer in timers if when > now]

    left = asyncio.run(main())
    assert left
    assert all(left)


BUS = EventBus(name="global")
SEEN: list[object] = []


@BUS.on("a")
async def remember(event: Event[Any]) -> None:
    await asyncio.sleep(0)
    SEEN.append(event.data)


@pytest.mark.parametrize("entered", [False, True])
def test_a_module_level_bus_is_used_from_one_loop_after_another(entered: bool) -> None:
    """Three loops use the same global, as the tests of a suite do."""
    SEEN.clear()

    async def main(number: int) -> None:
        if entered:
            async with BUS:
                await BUS.publish("a", number)
        else:
            await BUS.publish("a", number)
            await BUS.settle()

    try:
        for number in range(3):
            asyncio.run(within(main(number)))
        assert SEEN == [0, 1, 2]
        assert balances(BUS)
    finally:
        asyncio.run(BUS.__aenter__())  # not closed any more ...
        asyncio.run(BUS.settle())  # ... and not busy on the loop that was just closed


# Busy, in all its ways.


async def _entered(bus: EventBus) -> None:
    await bus.__aenter__()


async def _pending(bus: EventBus) -> None:
    bus.subscribe(lambda _: asyncio.get_running_loop().create_future(), "a")
    await bus.publish("a")


async def _in_a_pause(bus: EventBus) -> None:
    def fail(_: Event[Any]) -> None:
        raise ValueError

    bus.subscribe(fail, "a", retry=Retry(initial=60))
    await bus.publish("a")


async def _waiting_for_room(bus: EventBus) -> None:
    await _pending(bus)
    bus.subscribe(lambda _: asyncio.get_running_loop().create_future(), "full", capacity=1)
    for _ in range(3):
        bus._keep = asyncio.create_task(bus.publish("full"))  # type: ignore[attr-defined]  # else collected
        await asyncio.sleep(0)


async def _settling(bus: EventBus) -> None:
    await _pending(bus)
    bus._keep = asyncio.create_task(bus.settle())  # type: ignore[attr-defined]  # else collected


async def _streaming(bus: EventBus) -> None:
    await bus.stream("a").__aenter__()


async def _waiting_for_an_event(bus: EventBus) -> None:
    bus._keep = asyncio.create_task(bus.wait_for("a"))  # type: ignore[attr-defined]  # else collected


async def _closing(bus: EventBus) -> None:
    await _pending(bus)
    bus._keep = asyncio.create_task(bus.aclose(grace=60))  # type: ignore[attr-defined]  # else collected


BUSY: list[Call] = [
    _entered,
    _pending,
    _in_a_pause,
    _waiting_for_room,
    _settling,
    _streaming,
    _waiting_for_an_event,
    _closing,
]


async def _publish_nowait(bus: EventBus) -> None:
    bus.publish_nowait("other")


async def _stream(bus: EventBus) -> None:
    async with bus.stream("a"):
        pass


USES: list[Call] = [
    lambda bus: bus.publish("other"),
    _publish_nowait,
    lambda bus: bus.settle(),
    lambda bus: bus.wait_for("a"),
    lambda bus: bus.aclose(),
    lambda bus: bus.__aenter__(),
    _stream,
]


@pytest.mark.parametrize("make_busy", BUSY, ids=lambda call: call.__name__.strip("_"))
def test_a_busy_bus_raises_on_another_loop(make_busy: Call) -> None:
    """Whatever it is busy with and however it is used: ``WrongLoop``, and nothing has changed."""
    bus = EventBus()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def begin() -> None:
        await make_busy(bus)
        await wait_all_tasks_blocked()

    async def use(call: Call) -> None:
        with pytest.raises(WrongLoop):
            await within(call(bus))

    async def cancel_all() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=5) if tasks else None

    try:
        first.run_until_complete(begin())
        before = bus.statistics(), bus._state
        for call in USES:
            second.run_until_complete(use(call))
        assert (bus.statistics(), bus._state) == before
    finally:
        first.run_until_complete(cancel_all())
        first.close()
        second.close()
    asyncio.run(within(bus.settle()))
    assert balances(bus)


def test_a_receipt_raises_on_another_loop_until_its_deliveries_have_ended() -> None:
    """Outcomes that are still to come belong to the loop; those that are there, to everybody."""
    bus = EventBus()
    loop = asyncio.new_event_loop()
    release = asyncio.Event()

    async def wait(_: Event[Any]) -> None:
        await release.wait()

    bus.subscribe(wait, "a", name="wait")
    receipt = loop.run_until_complete(bus.publish("a"))
    with pytest.raises(WrongLoop):
        asyncio.run(within(receipt.outcomes()))
    release.set()
    loop.run_until_complete(within(receipt.outcomes()))
    loop.close()
    assert [o.status for o in asyncio.run(receipt.outcomes())] == ["handled"]


def test_a_busy_bus_raises_in_another_thread() -> None:
    """A loop that runs in another thread at the same time is another loop."""
    bus = EventBus()
    errors: list[BaseException] = []

    async def elsewhere() -> None:
        try:
            await bus.publish("a")
        except WrongLoop as error:
            errors.append(error)

    async def main() -> None:
        async with bus:
            await asyncio.to_thread(asyncio.run, elsewhere())

    asyncio.run(within(main()))
    assert len(errors) == 1
    assert bus.statistics().events == 0


# A loop that was closed under it.


@pytest.mark.parametrize("use", USES, ids=range(len(USES)))
@pytest.mark.parametrize("make_busy", BUSY, ids=lambda call: call.__name__.strip("_"))
def test_what_was_pending_on_a_closed_loop_ends_cancelled(make_busy: Call, use: Call) -> None:
    """The next use of the bus ends it, with one line ``loop.lost``, and the bus goes on."""
    lines = LogLines()
    bus = EventBus(hooks=[lines])
    loop = asyncio.new_event_loop()

    async def begin() -> None:
        await make_busy(bus)
        await wait_all_tasks_blocked()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant

    loop.run_until_complete(begin())
    loop.close()
    pending = bus.statistics().pending
    seen: list[object] = []

    async def go_on() -> None:
        try:
            async with asyncio.timeout(0.01):
                await use(bus)
        except (TimeoutError, RuntimeError):  # a bus that was closing is closed
            pass
        bus.subscribe(lambda event: seen.append(event.data), "next")
        if bus._state.value != "entered":
            await bus.__aenter__()
        await bus.publish_and_wait("next", 1)
        await bus.aclose()

    asyncio.run(within(go_on()))
    assert [line.fields["cancelled"] for line in lines.named("loop.lost")] == [pending]
    assert bus.statistics().cancelled == pending
    assert bus.statistics().pending == 0
    assert seen == [1]
    assert bus._loop is None
    assert balances(bus, *bus.subscriptions)
    gc.collect()  # the old loop's tasks go: nothing happens a second time
    assert bus.statistics().cancelled == pending
    assert len(lines.named("loop.lost")) == 1


async def read_nothing(bus: EventBus, **options: Any) -> None:
    async with bus.stream("other", **options):
        pass


IN_VAIN: dict[str, Call] = {
    "redeliver": lambda bus: bus.redeliver(bus.dead_letters[0]),
    "wait_for": lambda bus: bus.wait_for("a"),
    "a stream": read_nothing,
}


@pytest.mark.parametrize("call", IN_VAIN.values(), ids=IN_VAIN)
def test_what_a_closed_bus_refuses_leaves_it_no_loop(call: Call) -> None:
    """Each raises, and the bus does not keep the loop on which it was asked."""
    bus = EventBus()

    def fails(_: Event[Any]) -> None:
        raise ValueError

    async def close() -> None:
        async with bus:
            await bus.publish("a")

    async def ask() -> None:
        with pytest.raises(BusClosed):
            await call(bus)

    bus.subscribe(fails, "a")
    asyncio.run(close())
    asyncio.run(ask())
    assert bus._loop is None


async def test_a_stream_that_cannot_be_entered_leaves_the_bus_no_loop() -> None:
    """Its name is taken, for example."""
    bus = EventBus()
    bus.subscribe(wait_a_turn, "a", name="taken")
    with pytest.raises(NameTaken):
        await read_nothing(bus, name="taken")
    assert bus._loop is None


def test_the_outcomes_of_what_was_lost_leave_the_bus_no_loop() -> None:
    """They are told on whatever loop one asks."""
    bus = EventBus()

    async def hangs(_: Event[Any]) -> None:
        await asyncio.Event().wait()

    async def begin() -> Receipt:
        receipt = await bus.publish("a")
        await turns(3)
        return receipt

    bus.subscribe(hangs, "a")
    lost = asyncio.new_event_loop()
    receipt = lost.run_until_complete(begin())
    lost.close()
    (outcome,) = asyncio.run(receipt.outcomes())
    assert outcome.status == "cancelled"
    assert bus._loop is None


def test_a_thread_that_outlives_its_loop_keeps_no_key() -> None:
    """What has its key runs on the next loop, as what has another one does."""
    clock, seen = FakeClock(), list[Any]()
    bus, begun, over = EventBus(clock=clock), threading.Event(), threading.Event()

    def handle(event: Event[Any]) -> None:
        begun.set()
        if event.data == "hangs":
            over.wait(10)
        seen.append(event.data)

    bus.subscribe(
        handle, "a", thread=True, concurrency=2, key=lambda event: "one for all", timeout=1
    )

    async def begin() -> None:
        receipt = await bus.publish("a", "hangs")
        await asyncio.to_thread(begun.wait, 5)
        clock.advance(1)
        (outcome,) = await within(receipt.outcomes())
        assert outcome.status == "failed"

    async def go_on() -> None:
        await within(bus.publish_and_wait("a", "next"))
        assert seen == ["next"]

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(begin())
        asyncio.run(go_on())
    finally:
        over.set()
        loop.close()
