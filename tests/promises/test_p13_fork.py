"""P13: a forked child starts empty; what was pending is the parent's to handle."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from eventbus import BusClosed, Event, EventBus, Receipt, Retry
from eventbus.testing import wait_all_tasks_blocked
from tests.helpers import balances, within

pytestmark = pytest.mark.posix


def in_child(call: Callable[[], Any]) -> Any:
    """What the call returns in a forked child."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns: there are threads
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            with open(write, "wb") as pipe:
                pickle.dump(call(), pipe)
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    os.close(write)
    with open(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, "the child failed"
    return pickle.loads(answer)  # noqa: S301 - our own child


def use(bus: EventBus, seen: list[object]) -> tuple[Any, ...]:
    """Use a bus in the child: how it was, what it handles now, and its accounts after."""
    before = bus.statistics()
    was = before.accepted, before.pending, before.events
    seen.clear()

    async def main() -> Event[Any]:
        async with bus:
            receipt = await bus.publish("a", "child")
        return receipt.event

    event = asyncio.run(within(main()))
    after = bus.statistics()
    assert balances(bus, *bus.subscriptions)
    return was, list(seen), (after.accepted, after.handled), event.id, event.cause


async def test_a_child_starts_empty() -> None:
    """Queued, running, paused and waiting: none of it is the child's; its handlers are."""
    bus = EventBus()
    seen: list[object] = []
    release = asyncio.Event()

    async def handle(event: Event[Any]) -> None:
        seen.append(event.data)
        if event.data == "parent":
            await release.wait()

    def fail(event: Event[Any]) -> None:
        if event.data == "parent":
            raise ValueError

    async def read() -> list[object]:
        async with bus.stream("a") as events:
            return [event.data async for event in events]

    async with bus:
        bus.subscribe(handle, "a", capacity=1)
        bus.subscribe(fail, "a", retry=Retry(attempts=2, initial=0))
        bus.subscribe(lambda event: seen.append(event.data), "a", once=True, where=lambda _: False)
        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
        await bus.publish("a", "parent")
        await wait_all_tasks_blocked()
        await bus.publish("a", "parent")
        waiting = asyncio.create_task(bus.publish("a", "parent"))
        await wait_all_tasks_blocked()
        seen_before = list(seen)
        was, child_seen, accounts, _, cause = in_child(lambda: use(bus, seen))
        assert was == (0, 0, 0)
        assert child_seen == ["child"]
        assert accounts == (2, 2)  # two handlers; the stream was the parent's, and is gone
        assert cause is None
        assert seen == seen_before
        release.set()
        await within(asyncio.wait_for(waiting, 5))
    assert await reader == ["parent"] * 3
    assert seen == ["parent"] * 3
    assert balances(bus)


async def test_a_cascade_has_ended_in_the_child() -> None:
    """Who asks there for a cascade does not wait for nested events, which are the parent's."""
    bus, other = EventBus(), EventBus()
    receipts: list[Receipt] = []
    release = asyncio.Event()

    async def publish_nested(event: Event[Any]) -> None:
        receipts.append(await (other if event.type == "a" else bus).publish(f"{event.type}.b"))

    async def wait(event: Event[Any]) -> None:
        await release.wait()

    bus.subscribe(publish_nested, "a")
    other.subscribe(publish_nested, "a.b")
    bus.subscribe(wait, "a.b.b", concurrency=2)
    first = await bus.publish("a")
    second = await bus.publish("a")
    await wait_all_tasks_blocked()
    receipts += [await bus.publish("a.b.b"), first, second]
    assert [receipt.done for receipt in receipts] == [True, True, False, False, False, True, True]
    assert not any(receipt.cascade_done for receipt in receipts)

    async def ask() -> list[list[str]]:
        asked = [await receipt.outcomes(cascade=True) for receipt in receipts]
        return [[outcome.status for outcome in outcomes] for outcomes in asked]

    handled, cancelled = ["handled"], ["cancelled"]
    in_the_child = in_child(lambda: asyncio.run(within(ask())))
    assert in_the_child == [handled] * 2 + [cancelled] * 3 + [handled] * 2
    release.set()
    await within(bus.settle())
    assert await ask() == [handled] * 7


async def test_a_child_is_not_entered(bus: EventBus) -> None:
    """``publish_from_thread`` in the child refuses: its bus is open, and no loop runs."""

    def publish() -> str:
        try:
            bus.publish_from_thread("a")
        except BusClosed as error:
            return str(error)
        return "accepted"

    assert "not entered" in in_child(publish)


@pytest.mark.parametrize("kind", ["def", "async def", "thread"])
async def test_a_child_forked_inside_a_handler_starts_empty(kind: str) -> None:
    """Its publications are roots, and the handler it was forked in is none of its deliveries."""
    bus = EventBus()
    seen: list[object] = []
    answers: list[tuple[Any, ...]] = []

    def fork(event: Event[Any]) -> None:
        seen.append(event.data)
        if event.data == "parent":
            answers.append(in_child(lambda: use(bus, seen)))

    async def fork_async(event: Event[Any]) -> None:
        await asyncio.sleep(0)
        fork(event)

    async with bus:
        if kind == "async def":
            bus.subscribe(fork_async, "a")
        else:
            bus.subscribe(fork, "a", thread=kind == "thread")
        await bus.publish("a", "parent")
        await bus.publish("a", "queued")
        await within(bus.settle())
    ((was, child_seen, accounts, _, cause),) = answers
    assert (was, child_seen, accounts, cause) == ((0, 0, 0), ["child"], (1, 1), None)
    assert seen == ["parent", "queued"]


LEAVES_THE_HANDLER = """
import asyncio, os, sys
from eventbus import EventBus

bus = EventBus()
seen = []

@bus.on("a")
def handle(event):
    seen.append(event.data)

@bus.on("fork")
async def fork(event):
    if "wait" in sys.argv:
        await asyncio.sleep(0)
    if os.fork() == 0:
        sys.exit()

async def main(data):
    await bus.publish("fork" if data == "parent" else "a")
    await bus.publish("a", data)
    await asyncio.wait_for(bus.settle(), 5)

try:
    asyncio.run(main("parent"))
    os.wait()
except SystemExit:
    seen.clear()
    asyncio.run(main("child"))
print(seen, bus.statistics().pending, flush=True)
"""


@pytest.mark.parametrize("how", ["at once", "wait"])
def test_a_child_that_leaves_the_handler_can_use_its_bus(how: str) -> None:
    """``sys.exit()`` in a child goes out through the parent's pump, and harms nothing there."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEAVES_THE_HANDLER, how],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**os.environ, "EVENTBUS_DEBUG": "1"},
    )
    assert sorted(done.stdout.splitlines()) == ["['parent'] 0", "[None, 'child'] 0"], done.stderr


def test_ids_differ_between_parent_and_child() -> None:
    """Ids made before the fork stay as they are on both sides; new ones are different."""
    before: Event[Any] = Event("a")
    unread: Event[Any] = Event("a")
    first = before.id
    child = in_child(lambda: (before.id, unread.id, Event("a").id, Event("a").id))
    assert child[:2] == (first, unread.id)
    assert len({first, unread.id, *child[2:], Event("a").id, Event("a").id}) == 6


def test_a_fork_in_another_thread_leaves_the_loop_alone() -> None:
    """The parent's loop goes on while a worker thread forks."""
    bus = EventBus()
    seen: list[object] = []
    bus.subscribe(lambda event: seen.append(event.data), "a")
    answers: list[tuple[Any, ...]] = []

    async def main() -> None:
        async with bus:
            thread = threading.Thread(
                target=lambda: answers.append(in_child(lambda: use(bus, seen)))
            )
            thread.start()
            while thread.is_alive():
                await bus.publish("a", "parent")
                await asyncio.sleep(0)

    asyncio.run(within(main()))
    ((was, child_seen, accounts, _, _),) = answers
    assert (was, child_seen, accounts) == ((0, 0, 0), ["child"], (1, 1))
    assert set(seen) == {"parent"}


async def test_a_child_that_awaits_an_inherited_receipt_gets_its_outcome() -> None:
    """What ran and what was queued is cancelled there, and goes on in the parent."""
    bus = EventBus()
    release = asyncio.Event()

    async def wait(_: Event[Any]) -> str:
        await release.wait()
        return "parent"

    bus.subscribe(wait)
    receipts = [await bus.publish("a", number) for number in range(2)]
    await wait_all_tasks_blocked()

    def ask() -> list[tuple[str, int]]:
        async def main() -> list[tuple[str, int]]:
            outcomes = [outcome for each in receipts for outcome in await within(each.outcomes())]
            return [(outcome.status, outcome.attempts) for outcome in outcomes]

        return asyncio.run(main())

    assert in_child(ask) == [("cancelled", 1), ("cancelled", 0)]
    release.set()
    outcomes = [outcome for each in receipts for outcome in await within(each.outcomes())]
    assert [outcome.result for outcome in outcomes] == ["parent", "parent"]


async def test_a_publisher_that_waited_for_room_takes_nobodys_place_in_a_child() -> None:
    """Its inherited coroutine is closed there, and who waits in the child still gets in."""
    bus = EventBus()
    gates = [asyncio.Event()]
    bus.subscribe(lambda _: gates[-1].wait(), capacity=1)
    await bus.publish("a")
    await wait_all_tasks_blocked()
    await bus.publish("a")
    inherited = [bus.publish("a", number) for number in range(2)]
    waiting = [asyncio.create_task(each) for each in inherited]
    await wait_all_tasks_blocked()

    def use_child() -> tuple[int, int]:
        async def main() -> tuple[int, int]:
            gates.append(asyncio.Event())
            inherited[0].close()
            bus.publish_nowait("a")
            await wait_all_tasks_blocked()
            bus.publish_nowait("a")
            task = asyncio.create_task(bus.publish("a"))
            await wait_all_tasks_blocked()
            inherited[1].close()
            assert not task.done()
            gates[-1].set()
            await within(task)
            await within(bus.settle())
            return bus.statistics().handled, bus.statistics().pending

        return asyncio.run(main())

    assert in_child(use_child) == (3, 0)
    gates[-1].set()
    await within(asyncio.gather(*waiting))
    await within(bus.settle())
    assert bus.statistics().handled == 4


async def test_a_child_in_which_the_handler_returns_counts_nothing() -> None:
    """The parent's pump goes on to its end there, and touches no accounts."""
    bus = EventBus()
    pids: list[int] = []

    def fork(_: Event[Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pids.append(os.fork())

    bus.subscribe(fork)
    await bus.publish("a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if pids[0] == 0:
        statistics = bus.statistics()
        fine = (statistics.accepted, statistics.handled, bus._pumps, bus._open) == (0, 0, 0, 0)
        os._exit(0 if fine else 1)
    _, status = os.waitpid(pids[0], 0)  # noqa: ASYNC222 - the child ends at once
    assert status == 0
    await within(bus.settle())
    assert bus.statistics().handled == 1


async def test_what_is_closed_stays_closed_in_a_child() -> None:
    """A bus that was closed before the fork refuses in the child too, until it is entered there."""
    bus = EventBus()
    seen: list[object] = []
    bus.subscribe(lambda event: seen.append(event.data), "a")
    await bus.aclose()

    def refused() -> str:
        async def publish() -> None:
            await bus.publish("a", "child")

        with pytest.raises(BusClosed) as caught:
            asyncio.run(publish())
        return str(caught.value)

    assert in_child(lambda: (refused(), use(bus, seen)[1])) == (
        "eventbus is closed: enter it again with 'async with bus'",
        ["child"],
    )
