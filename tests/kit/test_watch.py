"""``watch``: what went wrong on a bus without anybody looking."""

# ruff: noqa: PT012 - what raises is the end of a block, and that needs the block

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from eventbus import BusClosed, Event, EventBus, Retry, Topic, WrongLoop
from eventbus.testing import FakeClock, expect_failure, settle, wait_all_tasks_blocked, watch
from eventbus.testing._record import record_of
from eventbus.testing._watch import MOST_TOLD, abandon, unbalanced


def fail(event: Event[Any]) -> None:
    raise ValueError(event.data)


async def complaint_of(block: Any, bus: EventBus, **checks: Any) -> str:
    """What is said at the end of a block; empty if nothing."""
    try:
        async with watch(bus, **checks):
            await block()
    except AssertionError as error:
        return str(error)
    return ""


async def test_nothing_is_wrong() -> None:
    """The block gets its bus, which settles, and is left as it was."""
    bus, handled = EventBus(), list[str]()

    @bus.on()
    async def handle(event: Event[Any]) -> None:
        await asyncio.sleep(0)
        handled.append(event.type)

    async with watch(bus) as watched:
        assert watched is bus
        await bus.publish("a")
    assert handled == ["a"]
    assert (bus._witnesses, bus._failure_witnesses) == ((), ())
    with pytest.raises(TypeError, match="is no EventBus"):
        async with watch("bus"):  # type: ignore[arg-type]  # the point
            pass


async def test_a_failure_that_nobody_looked_at_is_told() -> None:
    """With the handler's file and line, the error with its traceback, and what caused what."""
    bus = EventBus(name="shop")
    bus.subscribe(fail, "invoice.paid", retry=Retry(attempts=2, initial=0))

    @bus.on("order.placed")
    async def bill(_: Event[Any]) -> None:
        await bus.publish("invoice.sent")
        await bus.publish("invoice.paid", "in_1")

    with pytest.raises(AssertionError) as error:
        async with watch(bus):
            await bus.publish("other")
            await bus.publish("order.placed")
    first, *lines = str(error.value).splitlines()
    assert first.startswith(f"[shop] fail ({__file__}:")
    assert first.endswith(" (2 attempts):")
    assert ") failed handling invoice.paid evt_" in first
    assert lines[0] == "  Traceback (most recent call last):"
    at = lines.index("  The event, what caused it, and what it caused:")
    assert lines[at - 1] == "  ValueError: in_1"
    name = bill.__qualname__
    assert lines[at + 1 :] == [
        f"    order.placed  -> {name} handled",
        "       invoice.sent",
        "       invoice.paid  'in_1'  -> fail failed   <-- here",
    ]
    assert len(bus.dead_letters) == 0


async def test_a_failure_counts_as_looked_at() -> None:
    """By asking for outcomes at any time, expecting it, and redelivering or discarding it."""
    bus = EventBus()
    bus.subscribe(fail)
    async with watch(bus):
        await bus.publish_and_wait("a")
        receipt = await bus.publish("a")
        await settle(bus)
        (outcome,) = await receipt.outcomes()  # it has ended by then
        assert outcome.status == "failed"
        async with expect_failure(bus, ValueError):
            await bus.publish("a")
        await bus.publish("a")
        await settle(bus)
        bus.dead_letters.discard(bus.dead_letters[-1])
        receipt = await bus.redeliver(bus.dead_letters[-1])
        await receipt.outcomes()


async def test_who_gave_up_has_not_looked() -> None:
    """An endpoint that waits for outcomes with a time-out, and goes on without them."""
    bus, over = EventBus(), asyncio.Event()

    @bus.on()
    async def fails_late(_: Event[Any]) -> None:
        await over.wait()
        raise ValueError("too late")

    async def give_up() -> None:
        waiting = asyncio.create_task(bus.publish_and_wait("a"))
        await wait_all_tasks_blocked()
        waiting.cancel()
        await asyncio.wait([waiting])

    with pytest.raises(AssertionError, match="too late"):
        async with watch(bus):
            await give_up()
            over.set()
    over.clear()
    async with watch(bus):
        receipt = await bus.publish("a")
        waiting = asyncio.create_task(receipt.outcomes())
        gives_up = asyncio.create_task(receipt.outcomes())
        await wait_all_tasks_blocked()
        gives_up.cancel()
        over.set()
        await waiting  # another one has seen them


async def test_an_outcome_of_one_publication_is_none_of_another() -> None:
    """The same id, the same error and the same event, redelivered, are not mixed up."""
    bus, error = EventBus(), ValueError("shared")

    @bus.on()
    def always(_: Event[Any]) -> None:
        raise error

    async def same_id() -> None:
        await bus.publish_and_wait("a", 1, id="evt_1")
        await bus.publish("a", 2, id="evt_1")

    async def redelivered() -> None:
        await bus.publish_and_wait("a", 1)
        await bus.redeliver(bus.dead_letters[-1])

    assert "a  2  -> " in await complaint_of(same_id, bus)
    text = await complaint_of(redelivered, bus)
    assert text.count("a  1  (redelivered)") == 1
    assert text.count("<-- here") == 1


async def test_the_outcomes_of_an_event_say_nothing_of_streams() -> None:
    """A stream's failure is not among them, and is told although somebody asked."""
    bus = EventBus()
    numbers: Topic[int] = Topic("number", int)

    async def read() -> None:
        async with bus.stream(numbers, name="reader") as stream:
            await bus.publish_and_wait("number", "x")
            await bus.publish("number", 1)
            assert (await anext(stream)).data == 1

    text = await complaint_of(read, bus)
    assert "failed handling number" in text
    assert "PayloadError" in text


@pytest.mark.parametrize("maximum", [0, 1, 1000])
async def test_letters_that_were_lost_were_not_looked_at(maximum: int) -> None:
    """A full ring, or none, hides no failure; what was lost before the block does not matter."""
    bus = EventBus(dead_letters=maximum)
    bus.subscribe(fail)
    for _ in range(2):
        await bus.publish_and_wait("a")

    async def two() -> None:
        await bus.publish("a", 1)
        await bus.publish("a", 2)

    text = await complaint_of(two, bus)
    assert text.count("failed handling a") == 2
    async with watch(bus):
        if maximum:
            await bus.publish("a")
            await settle(bus)
            bus.dead_letters.clear()


async def test_the_letters_of_the_block_are_taken_out() -> None:
    """Those that were there before stay."""
    bus = EventBus()
    bus.subscribe(fail)
    await bus.publish_and_wait("a", "before")
    async with watch(bus):
        await bus.publish_and_wait("a", "in it")
    assert [letter.event.data for letter in bus.dead_letters] == ["before"]


async def test_many_failures_are_cut() -> None:
    """Ten are told in full, and how many more there are."""
    bus = EventBus()
    bus.subscribe(fail)

    async def publish(count: int) -> None:
        for number in range(count):
            await bus.publish("a", number)

    text = await complaint_of(lambda: publish(MOST_TOLD + 1), bus)
    assert text.count("failed handling a") == MOST_TOLD
    assert text.endswith("[eventbus] … and 1 more failure")
    assert (await complaint_of(lambda: publish(MOST_TOLD + 3), bus)).endswith("3 more failures")


async def test_a_long_cascade_is_cut_but_not_its_causes() -> None:
    """The marked event and those that caused it are shown, whatever stands before them."""
    bus = EventBus()

    @bus.on("root")
    async def burst(_: Event[Any]) -> None:
        for number in range(100):
            await bus.publish("noise", number)
        await bus.publish("deep", 0)

    @bus.on("deep")
    async def dive(event: Event[Any]) -> None:
        if event.data == 30:
            raise ValueError
        await bus.publish("deep", event.data + 1)

    text = await complaint_of(lambda: bus.publish("root"), bus)
    tree = text.partition("what it caused:\n")[2].splitlines()
    assert len(tree) == 41
    assert tree[0].startswith("    root  -> ")
    assert tree[-2].endswith("   <-- here")
    assert tree[-1] == "    … and 92 more"
    assert sum("deep" in line for line in tree) == 31


async def test_an_event_from_before_the_block() -> None:
    """It is shown alone, or with what was written down of its cascade."""
    bus, gate = EventBus(), asyncio.Event()

    @bus.on("a")
    async def late(_: Event[Any]) -> None:
        await gate.wait()
        await bus.publish("b", 1)
        raise ValueError

    await bus.publish("a")
    await wait_all_tasks_blocked()

    async def go() -> None:
        gate.set()

    lines = (await complaint_of(go, bus)).splitlines()
    assert lines[-2].startswith("    a  -> ")
    assert lines[-2].endswith("failed   <-- here")
    assert lines[-1] == "       b  1"


async def test_ids_that_go_round() -> None:
    """Events whose given ids name each other as causes are all shown, each once."""
    bus, steps = EventBus(), iter([("b", "1"), ("c", "2")])

    @bus.on()
    async def again(event: Event[Any]) -> None:
        if event.type == "c":
            raise ValueError
        topic, given = next(steps)
        await bus.publish(topic, id=given)

    await bus.publish("a", id="2")
    await wait_all_tasks_blocked()
    steps = iter([("b", "1"), ("c", "2")])
    bus.dead_letters.clear()
    record = record_of(bus)

    async def go() -> None:
        await bus.publish("a", id="2")
        await settle(bus)
        record.recent.popleft()

    text = await complaint_of(go, bus)
    assert text.count("<-- here") == 1
    assert "    b  -> " in text


async def test_what_reached_nobody_is_told_if_strict() -> None:
    """With what it just misses; ten events, and how many more."""
    bus = EventBus()
    bus.subscribe(lambda _: None, "invoice.*", name="book")

    async def publish() -> None:
        await bus.publish("invoice.paid.late", {"id": "in_1"})
        await bus.publish("invoice.paid")

    assert await complaint_of(publish, bus) == ""
    assert await complaint_of(publish, bus, strict=True) == (
        "[eventbus] 1 event reached no subscription:\n"
        "  invoice.paid.late  {'id': 'in_1'}\n"
        "    misses book: invoice.* is one level: '*' is exactly one token, '**' is one or more"
    )

    async def twelve() -> None:
        for number in range(12):
            await bus.publish("nobody", number)

    text = await complaint_of(twelve, bus, strict=True)
    assert text.startswith("[eventbus] 12 events reached no subscription:\n  nobody  0\n")
    assert text.endswith("\n  nobody  9\n  … and 2 more")


async def test_a_task_that_still_runs_is_told() -> None:
    """With where it waits; those from before, and those about to end, are not."""
    bus, gate, started = EventBus(), asyncio.Event(), list[asyncio.Task[Any]]()

    async def leak() -> None:
        await gate.wait()

    async def start(count: int) -> None:
        started.extend(asyncio.create_task(leak(), name=f"t{number}") for number in range(count))
        started.append(asyncio.create_task(asyncio.sleep(0)))

    before = asyncio.create_task(leak())
    text = await complaint_of(lambda: start(1), bus)
    assert text.startswith("[eventbus] 1 task was started and still runs:\n  t0 (")
    assert ".leak, in Event.wait" in text
    assert "2 tasks were started and still run:" in await complaint_of(lambda: start(2), bus)
    assert await complaint_of(lambda: start(1), bus, tasks=False) == ""
    gate.set()
    await asyncio.wait([*started, before])


async def test_what_does_not_settle_is_told() -> None:
    """Within ``timeout`` seconds; the failures so far are told with it, leaked tasks are not."""
    bus, gate = EventBus(), asyncio.Event()
    bus.subscribe(fail, "a")
    bus.subscribe(lambda _: gate.wait(), "b")

    async def hang() -> None:
        await bus.publish("a")
        await bus.publish("b")

    text = await complaint_of(hang, bus, timeout=0.01)
    settled, failed = text.split("\n\n")
    assert "did not settle within 0.01 s" in settled
    assert "failed handling a" in failed
    assert "started" not in text
    gate.set()
    await bus.settle()


async def test_accounts_that_do_not_balance_are_told() -> None:
    """Of the bus and of each subscription; never seen, but for a bug."""
    bus = EventBus()
    subscription = bus.subscribe(lambda _: None, name="book")

    async def break_them() -> None:
        await bus.publish("a")
        await settle(bus)
        subscription.handled += 1

    text = await complaint_of(break_them, bus)
    assert "the accounts of <EventBus 'eventbus'" in text
    assert "the accounts of <Subscription 'book' to '**': 0 pending> do not balance" in text
    assert await complaint_of(lambda: asyncio.sleep(0), bus, accounts=False) == ""
    subscription.handled -= 1
    assert unbalanced(bus) == []


async def test_checks_that_are_off_say_nothing() -> None:
    """A failure passes with ``failures=False``."""
    bus = EventBus()
    bus.subscribe(fail)
    assert await complaint_of(lambda: bus.publish("a"), bus, failures=False) == ""


async def test_an_error_of_the_block_comes_with_the_failures_so_far() -> None:
    """As a note: they may be its cause. Nothing settles then."""
    bus = EventBus()
    bus.subscribe(fail)
    with pytest.raises(ZeroDivisionError) as error:
        async with watch(bus):
            await bus.publish("a")
            await settle(bus)
            raise ZeroDivisionError
    (note,) = error.value.__notes__
    assert note.startswith("Meanwhile on the bus:\n[eventbus] fail (")
    with pytest.raises(ZeroDivisionError) as error:
        async with watch(bus):
            raise ZeroDivisionError
    assert not hasattr(error.value, "__notes__")


def test_a_global_bus_on_one_loop_after_another() -> None:
    """Each block looks at its own events; what an earlier loop left pending is no failure."""
    bus = EventBus()
    bus.subscribe(fail, "a")

    async def one(number: int) -> str:
        return await complaint_of(lambda: bus.publish("a", number), bus)

    for number in range(3):
        text = asyncio.run(one(number))
        assert text.count("failed handling a") == 1
        assert f"ValueError: {number}" in text


def test_what_is_pending_on_another_loop_is_told() -> None:
    """It cannot settle from here; on a loop that is closed it never will."""
    bus, loop = EventBus(), asyncio.new_event_loop()
    gate = asyncio.Event()
    bus.subscribe(lambda _: gate.wait(), "a")

    async def hang() -> None:
        await bus.publish("a", 1)
        await wait_all_tasks_blocked()

    loop.run_until_complete(hang())
    text = asyncio.run(complaint_of(lambda: asyncio.sleep(0), bus))
    assert text.startswith("[eventbus] deliveries are still pending:\n")
    assert "handles a  1" in text
    loop.run_until_complete(abandon(bus))
    assert bus.statistics().cancelled == 1
    assert bus.statistics().pending == 0
    loop.close()


async def test_abandoning_ends_what_does_not_want_to_end() -> None:
    """Queued and running deliveries end; a handler that swallows its cancellation is given up."""
    bus, gate = EventBus(clock=FakeClock()), asyncio.Event()

    async def stubborn(_: Event[Any]) -> None:
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()

    bus.subscribe(stubborn)
    for _ in range(2):
        await bus.publish("a")
    await wait_all_tasks_blocked()
    await abandon(bus)
    assert bus.statistics().cancelled == 2
    gate.set()
    assert [o.status for o in await bus.publish_and_wait("a")] == ["handled"]


async def test_a_bus_that_was_closed_is_open_in_the_block_and_after_it() -> None:
    """The end of a lifespan, in one test or the one before, does not spoil the next."""
    bus = EventBus()
    await bus.aclose()
    async with watch(bus):
        await bus.publish("a")
        async with bus:
            await bus.publish("b")
        with pytest.raises(BusClosed):
            await bus.publish("c")
    await bus.publish("d")
    assert bus.statistics().events == 3


async def test_a_bus_that_stays_entered_is_left_alone() -> None:
    """Only a closed bus is changed: one that a wider fixture has entered stays so."""
    async with EventBus() as bus:
        async with watch(bus):
            await bus.publish("a")
        with pytest.raises(WrongLoop, match="entered"):
            await bus.__aenter__()


async def test_a_thread_that_still_runs_is_told_by_its_handler() -> None:
    """Its delivery has timed out; the file and line are those of the handler."""
    clock, begun, over = FakeClock(), threading.Event(), threading.Event()
    bus = EventBus(clock=clock)

    def slow(_: Event[Any]) -> None:
        begun.set()
        over.wait(10)

    bus.subscribe(slow, "a", thread=True, timeout=1)

    async def time_out() -> None:
        publishing = asyncio.create_task(bus.publish_and_wait("a", 7))
        await asyncio.to_thread(begun.wait, 5)
        clock.advance(1)
        await publishing

    try:
        text = await complaint_of(time_out, bus)
    finally:
        over.set()
    first, second = text.splitlines()
    assert first == "[eventbus] 1 task was started and still runs:"
    assert f"({__file__}:" in second
    assert second.endswith(" is still at work in its thread, at a  7")
