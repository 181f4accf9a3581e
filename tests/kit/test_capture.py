"""``capture``: what was published, and assertions that say what was published instead."""

# ruff: noqa: PT012 - what raises is the end of a block, and that needs the block

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import pytest

from eventbus import Event, EventBus, PatternError, Topic, WouldDeadlock
from eventbus.testing import Captured, capture, replace, settle
from eventbus.testing._capture import covers
from eventbus.topics import matches
from tests.helpers import within

PAID: Topic[dict[str, Any]] = Topic("invoice.paid", dict[str, Any])


async def ship(_: Event[Any]) -> None:
    """A handler with a name."""


def says(error: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    """Assert that a message has these parts, in this order."""
    text, at = str(error.value), 0
    for part in parts:
        assert part in text[at:], f"{part!r} is not in its place in:\n{text}"
        at = text.index(part, at) + len(part)


async def captured_of(*topics: str, patterns: tuple[str, ...] = ()) -> Captured:
    """A capture in which these topics were published, each with its number as data."""
    bus = EventBus()
    async with capture(bus, *patterns) as captured:
        for number, topic in enumerate(topics):
            await bus.publish(topic, number)
    return captured


async def test_it_writes_down_what_matches_in_order() -> None:
    """Events of other topics, and those before and after the block, are left out."""
    bus = EventBus()
    await bus.publish("invoice.paid", "before")
    async with capture(bus, "invoice.*", PAID) as captured:
        await bus.publish("invoice.created", 1)
        await bus.publish("customer.created", 2)
        bus.publish_nowait("invoice.paid", {"id": 3})
    await bus.publish("invoice.paid", "after")
    assert [event.type for event in captured.events] == ["invoice.created", "invoice.paid"]
    assert repr(captured) == "<Captured 2 events on invoice.*, invoice.paid>"


async def test_leaving_an_async_block_settles() -> None:
    """What handlers publish belongs to the block, and they have ended when it has."""
    bus = EventBus()
    ends: list[str] = []

    @bus.on("a")
    async def nested(_: Event[Any]) -> None:
        await asyncio.sleep(0)
        await bus.publish("b")

    @bus.on("b")
    async def last(_: Event[Any]) -> None:
        await asyncio.sleep(0)
        ends.append("b")

    async with capture(bus) as captured:
        await bus.publish("a")
    assert ends == ["b"]
    captured.assert_order(["a", "b"])
    captured.assert_handled_by(last, times=1)


async def test_a_bus_that_does_not_settle_is_told() -> None:
    """The error names the handler and where it waits; the capture has ended all the same."""
    bus = EventBus()
    gate = asyncio.Event()

    @bus.on("a")
    async def hang(_: Event[Any]) -> None:
        await gate.wait()

    captured = capture(bus, timeout=0.01)
    with pytest.raises(AssertionError) as error:
        async with captured:
            await bus.publish("a", "data")
    says(error, "did not settle within 0.01 s", "hang (", "handles a  'data'", "Event.wait")
    await bus.publish("b")
    assert len(captured.events) == 1
    gate.set()
    await bus.settle()


async def test_a_block_that_raises_does_not_settle() -> None:
    """Its own error leaves at once, and the capture ends."""
    bus = EventBus()
    gate = asyncio.Event()
    bus.subscribe(lambda _: gate.wait())
    with pytest.raises(ZeroDivisionError):
        async with capture(bus, timeout=60) as captured:
            await bus.publish("a")
            raise ZeroDivisionError
    gate.set()
    await bus.publish("b")
    await bus.settle()
    assert len(captured.events) == 1


async def test_it_changes_nothing_on_the_bus() -> None:
    """No subscription and no hook is added, and nothing is left behind."""
    bus = EventBus()
    before = bus.describe(), bus._log.hooks, bus._witnesses, bus._failure_witnesses
    with capture(bus), capture(bus, "a"):
        assert bus.subscriptions == ()
        await bus.publish("a")
        assert bus.statistics().unhandled == 1
    assert (bus.describe(), bus._log.hooks, bus._witnesses, bus._failure_witnesses) == before


async def test_captures_in_each_other() -> None:
    """Each has its own events, in whatever order they end."""
    bus = EventBus()
    outer, inner = capture(bus), capture(bus)
    outer.__enter__()
    await bus.publish("a")
    inner.__enter__()
    await bus.publish("b")
    outer.__exit__(None, None, None)
    await bus.publish("c")
    inner.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    await bus.publish("d")
    assert [event.type for event in outer.events] == ["a", "b"]
    assert [event.type for event in inner.events] == ["b", "c"]


async def test_it_is_entered_once() -> None:
    """A second block is refused, within the first and after it, and nothing is doubled."""
    bus = EventBus()
    with capture(bus) as captured:
        with pytest.raises(RuntimeError, match="was entered before: make another one"), captured:
            pass
        await bus.publish("a")
        captured.assert_published("a", times=1)
    with pytest.raises(RuntimeError, match="entered before"):
        async with captured:
            pass


async def test_in_a_handler() -> None:
    """A plain block sees what that handler publishes; an async one is refused, as settling is."""
    bus = EventBus()
    seen: list[list[str]] = []

    @bus.on("a")
    async def nested(_: Event[Any]) -> None:
        with capture(bus) as captured:
            await bus.publish("b")
        seen.append([event.type for event in captured.events])
        async with capture(bus):
            pass

    (outcome,) = await within(bus.publish_and_wait("a"))
    assert seen == [["b"]]
    assert isinstance(outcome.error, WouldDeadlock)


def test_a_bus_on_a_loop_in_another_thread() -> None:
    """A plain block in the test's thread sees what is published there."""
    bus = EventBus()
    ready, stop = threading.Event(), threading.Event()

    async def application() -> None:
        async with bus:
            ready.set()
            await asyncio.to_thread(stop.wait, 5)

    thread = threading.Thread(target=asyncio.run, args=(application(),))
    with capture(bus) as captured:
        thread.start()
        assert ready.wait(5)
        bus.publish_from_thread("a", 1)
        stop.set()
        thread.join()
    captured.assert_published("a", times=1)


@pytest.mark.parametrize("no_bus", ["invoice.*", EventBus, None])
def test_the_bus_comes_first(no_bus: Any) -> None:
    """What is no bus is refused at once, and so is a bad pattern."""
    with pytest.raises(TypeError, match="is no EventBus: pass the bus of the application first"):
        capture(no_bus)
    with pytest.raises(PatternError):
        capture(EventBus(), "a.**.b")


# ---- assert_published, assert_not_published, assert_nothing_else


async def test_published_returns_the_events() -> None:
    """By topic, by pattern, by ``Topic``, and only those of which ``where`` is true."""
    captured = await captured_of("invoice.paid", "invoice.sent", "invoice.paid")
    assert [event.data for event in captured.assert_published("invoice.paid", times=2)] == [0, 2]
    assert [event.data for event in captured.assert_published("invoice.*")] == [0, 1, 2]
    assert [event.data for event in captured.assert_published(PAID)] == [0, 2]
    assert captured.assert_published("x", times=0) == []
    (event,) = captured.assert_published("**", where=lambda event: event.data == 1, times=1)
    assert event.type == "invoice.sent"


async def test_published_lists_what_was_published_instead() -> None:
    """Nearest first, with data, on one line each."""
    captured = await captured_of("customer.created", "invoice.voided", "invoice.payed")
    with pytest.raises(AssertionError) as error:
        captured.assert_published(PAID)
    says(error, "invoice.paid was never published, wanted at least once.\n")
    says(error, "Published, nearest first:\n  invoice.payed  2\n", "  invoice.voided  1\n", "cust")


async def test_published_counts() -> None:
    """Too few and too many are both told, in words."""
    captured = await captured_of("a", "a", "a")
    for times, wanted in ((0, "never"), (1, "once"), (2, "twice"), (4, "4 times")):
        with pytest.raises(AssertionError, match=f"^a was 3 times published, wanted {wanted}"):
            captured.assert_published("a", times=times)


async def test_published_says_where_the_condition_is_false() -> None:
    """Events on the right topic that ``where`` refuses are marked, others are not."""
    captured = await captured_of("a", "b", "a")

    def is_last(event: Event[Any]) -> bool:
        return bool(event.data == 2)

    with pytest.raises(AssertionError) as error:
        captured.assert_published("a", where=is_last, times=2)
    says(
        error, "a where test_published_says_where_the_condition_is_false.<locals>.is_last was once"
    )
    says(error, "\n  a  0   (", "is_last is false)\n  a  2\n  b  1")


async def test_what_a_condition_raises_is_raised() -> None:
    """A ``where`` that cannot look at an event is the test's own mistake."""
    captured = await captured_of("a")
    with pytest.raises(TypeError, match="subscriptable"):
        captured.assert_published("a", where=lambda event: event.data["id"])


async def test_published_when_nothing_was() -> None:
    """The message says on which patterns, and on which topics there was something instead."""
    nothing = await captured_of(patterns=("invoice.*",))
    with pytest.raises(AssertionError, match=r"Nothing was published on invoice\.\*\.$"):
        nothing.assert_published("invoice.paid")
    elsewhere = await captured_of("invoices.paid", "x", "x", patterns=("invoice.*",))
    with pytest.raises(AssertionError, match=r"on invoice\.\*, but on invoices\.paid, x\.$"):
        elsewhere.assert_published("invoice.paid")
    many = await captured_of(*(f"t{number}" for number in range(100)), patterns=("a",))
    with pytest.raises(AssertionError, match=r"t18, t19\.$"):
        many.assert_published("a")


async def test_long_lists_are_cut() -> None:
    """Forty lines, and how many more."""
    captured = await captured_of(*["a"] * 100)
    with pytest.raises(AssertionError) as error:
        captured.assert_not_published()
    says(error, "** was 100 times published, wanted never:\n  a  0\n", "  a  39\n  … and 60 more")
    assert "a  40" not in str(error.value)


async def test_data_is_shown_on_one_short_line() -> None:
    """Large data is shortened; data whose ``repr`` has several lines or raises does no harm."""

    class Table:
        def __repr__(self) -> str:
            return "row 1\nrow 2"

    class Broken:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    bus = EventBus()
    with capture(bus) as captured:
        for data in ("x" * 1000, Table(), Broken(), dict.fromkeys(range(100))):
            await bus.publish("a", data)
        await bus.publish("b")
    with pytest.raises(AssertionError) as error:
        captured.assert_not_published()
    says(error, "a  'xxx", "a  row 1 row 2\n", "<Broken instance at", "a  {0: None", "\n  b")
    assert max(map(len, str(error.value).splitlines())) < 150


async def test_not_published() -> None:
    """It passes without any such event, and lists those that there are."""
    captured = await captured_of("a", "b")
    captured.assert_not_published("c.**")
    captured.assert_not_published("a", where=lambda event: event.data == 1)
    with pytest.raises(AssertionError) as error:
        captured.assert_not_published("a", where=lambda event: event.data == 0)
    says(error, "a where ", "<lambda> was once published, wanted never:\n  a  0")
    (await captured_of("a", patterns=("x",))).assert_not_published()


async def test_nothing_else() -> None:
    """What assertions have named is not told; what only failed ones looked at is."""
    captured = await captured_of("a", "b", "c", "d")
    captured.assert_published("a")
    captured.assert_order(["b"])
    with pytest.raises(AssertionError):
        captured.assert_published("c", times=7)
    captured.assert_not_published("e")
    with pytest.raises(AssertionError) as error:
        captured.assert_nothing_else()
    says(error, "nothing else was to be published, and 2 events were:\n  c  2\n  d  3")
    captured.assert_published("*")
    captured.assert_nothing_else()


@pytest.mark.parametrize("ask", ["assert_published", "assert_not_published"])
async def test_a_capture_says_nothing_of_what_it_does_not_listen_to(ask: str) -> None:
    """A topic, or a pattern that goes beyond its own, is refused instead of answered wrongly."""
    captured = await captured_of("invoice.paid", patterns=("invoice.paid", "order.**"))
    for topic in ("invoice.voided", "invoice.*", "*.paid", "order"):
        with pytest.raises(ValueError, match=r"listens to 'invoice.paid', 'order.\*\*', and so"):
            getattr(captured, ask)(topic)
    with pytest.raises(ValueError, match="cannot tell what was published on 'a'"):
        captured.assert_order(["a"])
    with pytest.raises(ValueError, match="cannot tell"):
        captured.assert_handled_by(ship, "a")
    captured.assert_not_published("order.*.paid")
    captured.assert_published("**", times=1)


TOKENS = ("a", "b", "*")
NARROW = ["**", *TOKENS, *(f"{x}.{y}" for x in TOKENS for y in (*TOKENS, "**"))]
TOPICS = ["a", "b", "c", *(f"{x}.{y}" for x in "abc" for y in "abc"), "a.a.a", "b.c.a", "a.b.c.d"]


@pytest.mark.parametrize("wide", NARROW)
def test_covering_is_matching_all_that_the_other_matches(wide: str) -> None:
    """Over all small patterns, ``covers`` agrees with what it means."""
    for narrow in NARROW:
        meant = all(matches(wide, topic) for topic in TOPICS if matches(narrow, topic))
        assert covers(wide, narrow) == meant, (wide, narrow)


# ---- assert_order


async def test_order() -> None:
    """Others may stand between; each event is used once; patterns and topics go."""
    captured = await captured_of("a", "b", "invoice.paid", "a")
    assert [event.data for event in captured.assert_order(["a", PAID, "*"])] == [0, 2, 3]
    assert captured.assert_order([]) == []


async def test_order_says_how_far_it_went() -> None:
    """What was found is marked in what was published."""
    captured = await captured_of("a", "b", "c")
    with pytest.raises(AssertionError) as error:
        captured.assert_order(["a", "c", "b"])
    says(error, "b was not published after a, c.\nPublished, in this order:\n")
    says(error, "  a  0   <-- found\n  b  1\n  c  2   <-- found")
    with pytest.raises(AssertionError, match=r"^x was not published\.\nPublished"):
        captured.assert_order(["x"])
    with pytest.raises(AssertionError, match=r"^x was not published\.\nNothing was published on"):
        (await captured_of()).assert_order(["x"])


async def test_order_wants_a_list() -> None:
    """One topic is not taken for a list of letters."""
    with pytest.raises(TypeError, match="abc is one topic: pass a list"):
        (await captured_of()).assert_order("abc")
    with pytest.raises(TypeError, match=r"invoice.paid is one topic"):
        (await captured_of()).assert_order(PAID)  # type: ignore[arg-type]  # the point


# ---- assert_handled_by


class Shop:
    def on_paid(self, event: Event[Any]) -> None:
        """A method."""

    def __call__(self, event: Event[Any]) -> None:
        """An object that is called."""


async def test_handled_by_any_kind_of_callable() -> None:
    """Functions, methods, partials, objects, lambdas, threads and names all do."""
    bus, shop = EventBus(), Shop()
    handlers: list[Any] = [ship, shop.on_paid, functools.partial(ship), shop, lambda _: None]
    for handler in handlers:
        bus.subscribe(handler)
    in_thread = bus.subscribe(shop.on_paid, thread=True, name="threaded")
    async with capture(bus) as captured:
        await bus.publish("a")
    for handler in handlers:
        assert {event.type for event in captured.assert_handled_by(handler, "a")} == {"a"}
    captured.assert_handled_by(in_thread.name, times=1)
    captured.assert_handled_by(shop.on_paid, times=2)  # once for each subscription
    captured.assert_nothing_else()


async def test_handled_by_counts_only_what_went_well() -> None:
    """What failed, was dropped, cancelled or is pending is told, the handler's own first."""
    bus, gate = EventBus(), asyncio.Event()

    async def other(_: Event[Any]) -> None:
        """Another handler."""

    async def slow(event: Event[Any]) -> None:
        if event.data == 0:
            raise ValueError("no address")
        await gate.wait()

    bus.subscribe(other)
    bus.subscribe(slow, "a", capacity=1, overflow="drop_newest")
    with capture(bus) as captured:
        await bus.publish("a", 0)
        await bus.settle()
        for number in range(1, 4):
            await bus.publish("a", number)
            await asyncio.sleep(0)
        with pytest.raises(AssertionError) as error:
            captured.assert_handled_by(slow, "a", times=1)
        gate.set()
        await bus.settle()
    says(error, "slow has never handled an event on a, wanted once.\nDeliveries:\n")
    says(error, "slow (", ") failed: ValueError('no address')  a  0\n", ") pending  a  1\n")
    says(error, ") dropped  a  3\n", "other (", ") handled  a  0\n")
    captured.assert_handled_by(slow, times=2)
    with pytest.raises(AssertionError, match="slow has twice handled an event, wanted 3 times"):
        captured.assert_handled_by(slow, times=3)


async def test_handled_by_somebody_the_bus_does_not_know() -> None:
    """The nearest names are told: it may be misspelt, or never have been subscribed."""
    bus = EventBus()
    bus.subscribe(ship)
    async with capture(bus) as captured:
        await bus.publish("a")
    with pytest.raises(AssertionError) as error:
        captured.assert_handled_by("shipp")
    says(error, "shipp has never handled an event, wanted at least once", "did you mean ship?\n")
    says(error, "Deliveries:\n  ship (", ") handled  a")


async def test_handled_by_when_nothing_was_delivered() -> None:
    """What was published instead is told, and that nothing was."""
    bus = EventBus()
    bus.subscribe(ship, "a")
    async with capture(bus) as captured:
        await bus.publish("b")
    with pytest.raises(AssertionError, match=r"wanted at least once.\nPublished, nearest first:"):
        captured.assert_handled_by(ship)
    with pytest.raises(AssertionError, match=r"on a, wanted once.\nPublished, nearest first:\n  b"):
        captured.assert_handled_by(ship, "a", times=1)
    with pytest.raises(AssertionError, match=r"on a, wanted at least once.\nNothing was published"):
        capture(bus).assert_handled_by(ship, "a")


async def test_handled_by_one_that_has_left() -> None:
    """A subscription that has left the bus is known to the events that it got."""
    bus = EventBus()
    bus.subscribe(ship, "a", once=True)
    async with capture(bus) as captured:
        await bus.publish("a")
    assert bus.subscriptions == ()
    captured.assert_handled_by(ship, times=1)


async def test_handled_by_one_that_is_replaced() -> None:
    """While it is replaced, it goes by its own name and by that of what replaces it."""
    bus = EventBus()
    bus.subscribe(ship, "a")

    def fake(_: Event[Any]) -> None:
        """Does nothing."""

    with replace(bus, ship, fake):
        async with capture(bus) as captured:
            await bus.publish("a")
        captured.assert_handled_by(ship)
        captured.assert_handled_by(fake)


async def test_a_redelivered_event_is_not_published_again_but_handled() -> None:
    """``events`` has it once; the handler that got it again has handled it."""
    bus = EventBus()
    errors: list[BaseException] = [ValueError("once")]

    @bus.on("a")
    def handle(_: Event[Any]) -> None:
        if errors:
            raise errors.pop()

    async with capture(bus) as captured:
        await bus.publish("a")
        await settle(bus)
        (letter,) = bus.dead_letters
        with pytest.raises(AssertionError, match="failed: ValueError"):
            captured.assert_handled_by(handle)
        await bus.redeliver(letter)
    captured.assert_published("a", times=1)
    captured.assert_handled_by(handle, "a", times=1)


async def test_events_with_the_same_id() -> None:
    """Ids that the application gives twice confuse nothing."""
    bus = EventBus()
    bus.subscribe(ship)
    async with capture(bus) as captured:
        for data in (1, 2):
            await bus.publish("a", data, id="evt_1")
    assert [event.data for event in captured.assert_published("a", times=2)] == [1, 2]
    captured.assert_handled_by(ship, times=2)
