"""What the interpreter lets run between two steps of the bus: signal handlers, finalizers, threads.

None of them knows what the bus is in the middle of. They may read, anywhere; a finalizer that
changes something must not lose an event, and must not wedge the bus.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

import eventbus
import eventbus._engine
import eventbus._publishing
import eventbus._pump
import eventbus.subscription
from eventbus import Event, EventBus, Retry, Subscription
from eventbus._index import Index, Slot
from eventbus.receipt import new_publication
from tests.helpers import balances, reading_in_a_thread, turns, within

PACKAGE = eventbus.__file__.removesuffix("__init__.py")


# A test here makes hundreds of buses. Kept by the look at all accounts, they would make each
# collection slow from then on.
pytestmark = pytest.mark.buses_may_vanish


@pytest.fixture(autouse=True, params=[True, False], ids=["fast", "careful"])
def fast_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each of these holds with the pump's inlined path and without it."""
    monkeypatch.setattr(eventbus._pump, "FAST", request.param and eventbus._pump.FAST)
    yield
    gc.collect()


def listen(
    bus: EventBus, who: int, heard: list[tuple[int, Any]], pattern: str = "a"
) -> Subscription:
    """Subscribe somebody who notes what he hears."""

    def handle(event: Event[Any]) -> None:
        heard.append((who, event.data))

    return bus.subscribe(handle, pattern)


class Interruption:
    """Runs something of the application before one instruction of the package, and then no more.

    Those of functions named ``besides`` do not count.
    """

    def __init__(self, place: int, call: Callable[[], object], *, besides: str = "") -> None:
        self.left = place
        self.call = call
        self.besides = besides

    @contextmanager
    def allowed(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE) or self.left < 0:
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode" and frame.f_code.co_name != self.besides:
            self.left -= 1
            if self.left == -1:
                self.call()
        return self._step


@pytest.mark.parametrize(
    ("listeners", "before", "events"),
    [
        pytest.param(2, 0, 1, id="a round"),
        pytest.param(2, 0, 2, id="a round that is dealt out"),
        pytest.param(1, 1, 1, id="a queue"),
    ],
)
def test_a_signal_handler_may_read_the_accounts_anywhere(
    listeners: int, before: int, events: int
) -> None:
    """Before whichever instruction of the bus it runs, every event reaches everybody in order."""

    async def run(place: int) -> bool:
        bus = EventBus()
        heard: list[tuple[int, Any]] = []
        for who in range(listeners):
            listen(bus, who, heard)
        for number in range(before):
            bus.publish_nowait("a", number)
        read = Interruption(place, bus.statistics)
        with read.allowed():
            for number in range(events):
                bus.publish_nowait("a", before + number)
            await asyncio.sleep(0)
        await within(bus.settle(), 1)
        for who in range(listeners):
            data = [data for each, data in heard if each == who]
            assert data == list(range(before + events)), f"interrupted at {place}"
        assert bus.statistics().handled == listeners * (before + events)
        return read.left < 0

    async def run_all() -> None:
        place = 0
        await run(place)  # CPython 3.12 tells of instructions only from the second time on
        while await run(place):
            place += 1 if eventbus._pump.FAST else 7
        assert place > 300  # it really went through

    asyncio.run(run_all())


def once(call: Callable[[], object], then: Callable[..., Any]) -> Callable[..., Any]:
    """Stands where the bus allocates: the first time, the collector runs there, and a finalizer."""
    called: list[None] = []

    def allocate(*arguments: Any) -> Any:
        if not called:
            called.append(None)
            call()
        return then(*arguments)

    return allocate


async def test_a_finalizer_publishes_to_nobody_while_an_event_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That one lets go of the loop; the event that is being made holds it all the same."""
    bus = EventBus()
    heard: list[tuple[int, Any]] = []
    listen(bus, 0, heard)
    make = once(lambda: bus.publish_nowait("b"), new_publication)
    monkeypatch.setattr(eventbus._publishing, "new_publication", make)
    bus.publish_nowait("a", 1)
    assert bus._loop is asyncio.get_running_loop()
    await within(bus.settle(), 1)
    await within(bus.publish_and_wait("a", 2), 1)
    assert heard == [(0, 1), (0, 2)]
    await turns(2)
    assert bus._loop is None


async def test_a_finalizer_publishes_while_an_event_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its event comes first, everywhere, and is not left in a round behind the one being made."""
    bus = EventBus()
    plain: list[Any] = []
    in_thread: list[Any] = []
    bus.subscribe(lambda event: plain.append(event.data), "a")
    bus.subscribe(lambda event: in_thread.append(event.data), "a", thread=True)
    make = once(lambda: bus.publish_nowait("a", "first"), new_publication)
    monkeypatch.setattr(eventbus._publishing, "new_publication", make)
    bus.publish_nowait("a", "second")
    await within(bus.settle())
    assert plain == in_thread == ["first", "second"]


async def test_a_finalizer_publishes_while_a_queue_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are in that queue; whoever is dealt the first later gets them in order."""
    bus = EventBus()
    heard: list[tuple[int, Any]] = []
    for who in range(3):
        listen(bus, who, heard)
    monkeypatch.setattr(eventbus._engine, "DEBUG", False)  # which asserts what holds between steps
    make = once(lambda: bus.publish_nowait("a", "finalizer"), deque)
    bus.publish_nowait("a", 1)
    assert bus._round is not None
    monkeypatch.setattr(eventbus.subscription, "deque", make)
    bus.statistics()  # deals the round out, which makes the queues
    await within(bus.settle(), 1)
    assert sorted(str(data) for who, data in heard if who == 0) == ["1", "finalizer"]
    for who in (1, 2):
        assert [data for each, data in heard if each == who] == [1, "finalizer"]
    assert balances(bus)


context_variable: contextvars.ContextVar[Any] = contextvars.ContextVar("context_variable")


class Dies:
    """Makes a call when nobody holds it any more."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def __del__(self) -> None:
        self.call()


@pytest.mark.parametrize("events", [1, 3])
async def test_what_dies_with_a_handlers_context_may_unsubscribe_the_next(events: int) -> None:
    """That context goes when the next handler is about to be called, too late for it (P8)."""
    bus = EventBus()
    heard: list[str] = []

    def leave() -> None:
        second.unsubscribe()
        heard.append("left")

    def first(event: Event[Any]) -> None:
        if not heard:
            context_variable.set(Dies(leave))
        heard.append("first")

    bus.subscribe(first, "a")
    second = bus.subscribe(lambda event: heard.append("second"), "a")
    for _ in range(events):
        bus.publish_nowait("a")
    await within(bus.settle())
    assert "second" not in heard[heard.index("left") :]
    assert heard.count("first") == events


async def test_what_dies_with_a_dropped_event_finds_the_new_one_queued_everywhere() -> None:
    """Its publisher's context lives until the acceptance that dropped it is through (P3)."""
    bus = EventBus()
    heard: dict[str, list[Any]] = {"first": [], "drops": [], "last": []}
    bus.subscribe(lambda event: heard["first"].append(event.data), "a")
    bus.subscribe(
        lambda event: heard["drops"].append(event.data),
        "a",
        "old",
        capacity=1,
        overflow="drop_oldest",
    )
    bus.subscribe(lambda event: heard["last"].append(event.data), "a")

    def publish_old() -> None:
        context_variable.set(Dies(lambda: bus.publish_nowait("a", "finalizer")))
        bus.publish_nowait("old")

    contextvars.copy_context().run(publish_old)
    bus.publish_nowait("a", "new")
    await within(bus.settle())
    assert heard == {
        "first": ["new", "finalizer"],
        "drops": ["finalizer"],
        "last": ["new", "finalizer"],
    }


@pytest.mark.parametrize("pausing", [False, True])
async def test_what_dies_with_an_event_finds_its_subscription_gone(pausing: bool) -> None:
    """A finalizer that is set off by unsubscribing does not run in the middle of that."""
    bus = EventBus()
    found: list[tuple[int, int]] = []

    def fail(event: Event[Any]) -> None:
        raise ValueError

    retry = Retry(attempts=2, initial=60)
    subscription = bus.subscribe(fail, "a", concurrency=2, retry=retry)

    def look() -> None:
        statistics = subscription.statistics()
        found.append((statistics.cancelled + statistics.failed, statistics.pending))

    def publish() -> None:
        context_variable.set(Dies(look))
        bus.publish_nowait("a")

    contextvars.copy_context().run(publish)
    bus.publish_nowait("a")
    if pausing:
        await turns(5)
        gc.collect()  # the task in which it has raised
        assert len(subscription._active or ()) == 2
    assert found == []
    subscription.unsubscribe()
    assert found == [(2, 0)]
    await within(bus.settle())


class Member:
    """Stands for a subscription."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.plain = True


def test_reading_all_subscriptions_writes_nothing() -> None:
    """What an index remembers for itself, another thread that reads must not overwrite."""
    index: Index[Any] = Index()
    members = [Member(number) for number in range(40)]
    for member in members:
        index.add(member, ("a",))
    (slot,) = index._exact.values()
    assert isinstance(slot, Slot)
    assert slot._members is None
    assert index.subscriptions() == tuple(members)
    assert slot._members is None
    assert slot.members == tuple(members)
    assert index.subscriptions() == tuple(members)


def through_all_places(run: Callable[[int], bool]) -> None:
    """Interrupt at one place after the other, until a run says that there was none left."""
    place = 0
    run(place)  # CPython 3.12 tells of instructions only from the second time on
    while run(place):
        place += 1
    assert place > 100  # it really went through


def with_three_handled(pattern: str) -> tuple[EventBus, Subscription]:
    bus = EventBus()
    heard: list[tuple[int, Any]] = []
    subscription = listen(bus, 0, heard, pattern)

    async def publish() -> None:
        for number in range(3):
            await bus.publish_and_wait("a", number)

    asyncio.run(publish())
    return bus, subscription


@pytest.mark.parametrize("pattern", ["a", "*"])
def test_sums_are_right_wherever_unsubscribing_is_interrupted(pattern: str) -> None:
    """Who leaves is counted once; no other thread runs between the two writes of `retire`."""

    def run(place: int) -> bool:
        bus, subscription = with_three_handled(pattern)
        seen: list[int] = []
        read = Interruption(place, lambda: seen.append(bus.statistics().handled), besides="retire")
        with read.allowed():
            subscription.unsubscribe()
        assert seen in ([], [3]), f"interrupted at {place}"
        return bool(seen)

    through_all_places(run)


@pytest.mark.parametrize("pattern", ["a", "*"])
def test_sums_are_right_wherever_reading_is_interrupted(pattern: str) -> None:
    """Another thread reads, and meanwhile somebody leaves: it counts once more."""

    def run(place: int) -> bool:
        bus, subscription = with_three_handled(pattern)
        leave = Interruption(place, subscription.unsubscribe)
        with leave.allowed():
            handled = bus.statistics().handled
        assert handled == 3, f"interrupted at {place}"
        return not subscription.active

    through_all_places(run)


async def test_sums_never_go_back_while_subscriptions_leave() -> None:
    """A metrics exporter in a thread finds who leaves with its sums, once, wherever they are."""
    bus = EventBus()
    with reading_in_a_thread(lambda: bus.statistics().handled) as seen:
        for _ in range(60):
            subscription = bus.subscribe(lambda event: None, "a")
            for _ in range(100):
                bus.publish_nowait("a")
            await within(bus.settle())
            subscription.unsubscribe()
    steps = [later - earlier for earlier, later in itertools.pairwise(seen)]
    assert min(steps) >= 0
    assert max(seen) <= 6_000
