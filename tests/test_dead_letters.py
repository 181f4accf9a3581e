"""The ring of dead letters, and delivering one again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from eventbus import BusClosed, DeadLetter, DeadLetters, Event, EventBus, NotSubscribed, OptionError
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import LogLines, balances, turns, within


class Boom(Exception):
    pass


class Mended:
    """A handler that fails until it is mended."""

    def __init__(self) -> None:
        self.broken = True
        self.seen: list[tuple[Any, int, bool]] = []

    async def handle(self, event: Event[Any]) -> str:
        delivery = event.delivery
        assert delivery is not None
        self.seen.append((event.data, delivery.attempt, delivery.redelivered))
        if self.broken:
            raise Boom(event.data)
        return "mended"


async def fail(bus: EventBus, *data: Any) -> list[DeadLetter]:
    """Publish what fails, and return the letters."""
    for each in data:
        await bus.publish("a", each)
    await within(bus.settle())
    return list(bus.dead_letters)


# The ring.


async def test_a_letter_says_what_failed_where_why_and_when() -> None:
    """Event, subscription, error, attempts and time."""
    clock = FakeClock(start=1_000_000)
    bus = EventBus(clock=clock)
    bus.subscribe(Mended().handle, name="billing")
    (letter,) = await fail(bus, "in_1")
    assert (letter.event.data, letter.subscription, letter.attempts) == ("in_1", "billing", 1)
    assert isinstance(letter.error, Boom)
    assert letter.error.__traceback__ is not None
    assert letter.timestamp == 1_000_000
    assert letter.time == datetime.fromtimestamp(1_000_000, UTC)
    assert repr(letter) == f"<DeadLetter of {letter.event!r} from 'billing': Boom('in_1')>"


async def test_a_letter_holds_the_event_as_it_was_published() -> None:
    """Not the copy that a typed handler got."""
    bus = EventBus()

    @bus.on()
    async def handler(event: Event[list[int]]) -> None:
        raise Boom

    receipt = await bus.publish("a", ("1", "2"))
    await within(bus.settle())
    assert bus.dead_letters[0].event is receipt.event
    assert receipt.event.data == ("1", "2")


async def test_the_oldest_letters_go_first_and_are_counted() -> None:
    """The ring keeps ``dead_letters``; the failures themselves are all in the statistics."""
    bus = EventBus(dead_letters=3)
    bus.subscribe(Mended().handle)
    assert [letter.event.data for letter in await fail(bus, *range(3))] == [0, 1, 2]
    assert bus.dead_letters.lost == 0
    assert [letter.event.data for letter in await fail(bus, 3, 4)] == [2, 3, 4]
    assert (len(bus.dead_letters), bus.dead_letters.maximum, bus.dead_letters.lost) == (3, 3, 2)
    assert bus.statistics().failed == 5
    assert repr(bus.dead_letters) == "<DeadLetters: 3 of at most 3, 2 lost>"


async def test_a_thousand_are_kept_by_default() -> None:
    """As the table of defaults says."""
    assert EventBus().dead_letters.maximum == 1000


async def test_none_may_be_kept() -> None:
    """With ``dead_letters=0`` all are lost, and counted."""
    lines = LogLines()
    bus = EventBus(dead_letters=0, hooks=[lines])
    bus.subscribe(Mended().handle)
    assert await fail(bus, 1, 2) == []
    assert bus.dead_letters.lost == len(lines.named("delivery.failed")) == 2


@pytest.mark.parametrize("number", [-1, 1.5, None, True])
def test_a_bad_number_of_letters_is_refused(number: Any) -> None:
    """The error names the option and the cure."""
    with pytest.raises(OptionError, match=r"dead_letters=.*whole number of at least 0"):
        EventBus(dead_letters=number)


async def test_the_ring_can_be_read_and_emptied() -> None:
    """Iterated while it changes, indexed, searched, discarded from and cleared."""
    bus = EventBus()
    bus.subscribe(Mended().handle)
    letters = await fail(bus, 1, 2, 3)
    assert bus.dead_letters[0] is letters[0]
    assert bus.dead_letters[-1] is letters[2]
    assert letters[1] in bus.dead_letters
    for letter in bus.dead_letters:
        bus.dead_letters.discard(letter)
        bus.dead_letters.discard(letter)  # nothing happens
    assert len(bus.dead_letters) == 0
    await fail(bus, 4)
    bus.dead_letters.clear()
    assert (len(bus.dead_letters), bus.dead_letters.lost) == (0, 0)


def test_two_letters_are_never_equal() -> None:
    """Two failures that look alike are two: discarding one leaves the other."""
    event: Event[Any] = Event("a")
    error = Boom()
    first, second = (DeadLetter(event, "billing", error, 1, 0.0) for _ in range(2))
    letters = DeadLetters(10)
    letters._add(first)
    letters._add(second)
    letters.discard(second)
    assert [each is first for each in letters] == [True]


async def test_cancelled_and_dropped_deliveries_are_no_letters() -> None:
    """Only failures are."""
    bus = EventBus()
    gate = asyncio.Event()

    async def handler(event: Event[Any]) -> None:
        await gate.wait()

    sub = bus.subscribe(handler, capacity=1, overflow="drop_newest")
    await bus.publish("a")
    await wait_all_tasks_blocked()
    await bus.publish("a")
    await bus.publish("a")
    sub.unsubscribe()
    gate.set()
    await within(bus.settle())
    statistics = sub.statistics()
    assert (statistics.dropped, statistics.cancelled, statistics.handled) == (1, 1, 1)
    assert len(bus.dead_letters) == 0


# Again.


async def test_a_letter_delivered_again_reaches_its_own_subscription_alone() -> None:
    """The same event, attempt 1, marked as redelivered; the letter has left the ring."""
    bus = EventBus()
    mended, other = Mended(), Mended()
    other.broken = False
    bus.subscribe(mended.handle)
    bus.subscribe(other.handle)
    (letter,) = await fail(bus, "x")
    mended.broken = False
    receipt = await within(bus.redeliver(letter))
    assert len(bus.dead_letters) == 0
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.result, outcome.attempts) == ("handled", "mended", 1)
    assert receipt.event is letter.event
    assert mended.seen == [("x", 1, False), ("x", 1, True)]
    assert other.seen == [("x", 1, False)]


async def test_a_redelivery_is_a_delivery_and_no_event() -> None:
    """The accounts have one more accepted delivery, and not one more event."""
    bus = EventBus()
    mended = Mended()
    sub = bus.subscribe(mended.handle)
    (letter,) = await fail(bus, "x")
    mended.broken = False
    await within((await bus.redeliver(letter)).outcomes())
    statistics = bus.statistics()
    assert (statistics.accepted, statistics.handled, statistics.failed) == (2, 1, 1)
    assert (statistics.events, statistics.unhandled) == (1, 0)
    assert balances(bus, sub)


async def test_a_redelivery_that_fails_makes_a_new_letter() -> None:
    """And that one can be delivered again too."""
    bus = EventBus()
    mended = Mended()
    bus.subscribe(mended.handle)
    (letter,) = await fail(bus, "x")
    await within((await bus.redeliver(letter)).outcomes())
    (again,) = bus.dead_letters
    assert again is not letter
    mended.broken = False
    await within((await bus.redeliver(again)).outcomes())
    assert len(bus.dead_letters) == 0


async def test_a_redelivery_stands_in_line_like_any_event() -> None:
    """Behind what was accepted before it, before what comes after."""
    bus = EventBus()
    mended = Mended()
    bus.subscribe(mended.handle)
    (letter,) = await fail(bus, "x")
    mended.broken = False
    bus.publish_nowait("a", "before")
    await bus.redeliver(letter)
    bus.publish_nowait("a", "after")
    await within(bus.settle())
    assert [data for data, _, _ in mended.seen[1:]] == ["before", "x", "after"]


async def test_a_redelivery_waits_for_room() -> None:
    """Like any outsider; meanwhile the letter stays where it is, also if the wait is given up."""
    bus = EventBus()
    gate = asyncio.Event()

    @bus.on(capacity=1)
    async def handler(event: Event[Any]) -> None:
        if event.data == "x" and event.delivery and not event.delivery.redelivered:
            raise Boom
        await gate.wait()

    (letter,) = await fail(bus, "x")
    await bus.publish("a")
    await wait_all_tasks_blocked()
    await bus.publish("a")
    given_up = asyncio.create_task(bus.redeliver(letter))
    waiting = asyncio.create_task(bus.redeliver(letter))
    await turns(3)
    assert (given_up.done(), waiting.done(), letter in bus.dead_letters) == (False, False, True)
    given_up.cancel()
    await asyncio.wait([given_up])
    assert letter in bus.dead_letters
    gate.set()
    receipt = await within(waiting)
    assert letter not in bus.dead_letters
    (outcome,) = await within(receipt.outcomes())
    assert outcome.status == "handled"
    await within(bus.settle())
    assert bus.statistics().accepted == 4


async def test_a_redelivery_inside_a_handler_never_waits() -> None:
    """It may fill its own queue beyond its capacity, like any nested event."""
    bus = EventBus()
    done: list[str] = []

    @bus.on("a", capacity=1)
    async def handler(event: Event[Any]) -> None:
        if event.data == "again":
            for letter in bus.dead_letters:
                await bus.redeliver(letter)
            done.append("all redelivered")
        elif event.delivery and not event.delivery.redelivered:
            raise Boom
        else:
            done.append(event.data)

    for data in ("x", "y", "z"):
        await bus.publish("a", data)
    await within(bus.settle())
    await within(bus.publish_and_wait("a", "again", cascade=True))
    assert done == ["all redelivered", "x", "y", "z"]


async def test_a_subscription_that_has_left_gets_nothing_again() -> None:
    """The error names it, and the letter stays."""
    bus = EventBus()
    sub = bus.subscribe(Mended().handle, name="billing")
    (letter,) = await fail(bus, "x")
    sub.unsubscribe()
    with pytest.raises(NotSubscribed, match="billing is not subscribed any more"):
        await bus.redeliver(letter)
    assert list(bus.dead_letters) == [letter]
    assert bus.statistics().pending == 0


async def test_a_letter_of_nobody_goes_to_nobody() -> None:
    """One that an application has made itself belongs to no subscription by number."""
    bus = EventBus()
    seen: list[object] = []
    for name in ("first", "second"):
        bus.subscribe(seen.append, name=name)
    (receipt,) = [await bus.publish("a")]
    await within(receipt.outcomes())
    seen.clear()
    letter = DeadLetter(receipt.event, "third", Boom(), 1, 0.0)
    with pytest.raises(NotSubscribed):
        await bus.redeliver(letter)
    await within(bus.settle())
    assert seen == []


async def test_a_chosen_name_is_known_by_its_text() -> None:
    """Whoever subscribes under it anew gets the letter, wherever the text came from."""
    bus = EventBus()
    sub = bus.subscribe(Mended().handle, name="billing")
    (letter,) = await fail(bus, "x")
    sub.unsubscribe()
    mended = Mended()
    mended.broken = False
    bus.subscribe(mended.handle, name=str(b"billing", "ascii"))
    (outcome,) = await within((await bus.redeliver(letter)).outcomes())
    assert outcome.status == "handled"
    assert list(bus.dead_letters) == []


async def test_a_subscription_that_leaves_meanwhile_gets_nothing_again() -> None:
    """One that unsubscribes while the redelivery waits for room ends the wait with the error."""
    bus = EventBus()
    gate = asyncio.Event()

    async def handler(event: Event[Any]) -> None:
        if event.data == "x":
            raise Boom
        await gate.wait()

    sub = bus.subscribe(handler, capacity=1)
    (letter,) = await fail(bus, "x")
    await bus.publish("a")
    await wait_all_tasks_blocked()
    await bus.publish("a")
    waiting = asyncio.create_task(bus.redeliver(letter))
    await turns(2)
    sub.unsubscribe()
    with pytest.raises(NotSubscribed, match="has left the bus"):
        await within(waiting)
    assert list(bus.dead_letters) == [letter]
    gate.set()
    await within(bus.settle())


async def test_where_is_not_asked_again() -> None:
    """It has let the event pass; its delivery is what is repeated."""
    bus = EventBus()
    mended = Mended()
    wants = True
    bus.subscribe(mended.handle, where=lambda event: wants)
    (letter,) = await fail(bus, "x")
    wants = mended.broken = False
    (outcome,) = await within((await bus.redeliver(letter)).outcomes())
    assert outcome.status == "handled"


async def test_a_closed_bus_delivers_nothing_again() -> None:
    """``BusClosed``; the letter stays, and can be delivered once the bus is open again."""
    bus = EventBus()
    mended = Mended()
    bus.subscribe(mended.handle)
    async with bus:
        (letter,) = await fail(bus, "x")
    with pytest.raises(BusClosed):
        await bus.redeliver(letter)
    assert list(bus.dead_letters) == [letter]
    mended.broken = False
    async with bus:
        await bus.redeliver(letter)
    assert mended.seen[-1] == ("x", 1, True)


async def test_a_redelivery_that_is_cancelled_while_it_waits_leaves_the_letter() -> None:
    """Nothing was accepted, so the letter stays in the ring, to be redelivered another time."""
    bus = EventBus()
    release = asyncio.Event()

    async def fail_once(event: Event[Any]) -> None:
        if event.data == "bad" and not bus.dead_letters:
            raise ValueError
        await release.wait()

    bus.subscribe(fail_once, capacity=1)
    await within(bus.publish_and_wait("a", "bad"))
    (letter,) = bus.dead_letters
    await bus.publish("a", "runs")
    await wait_all_tasks_blocked()
    await bus.publish("a", "queued")
    waiting = asyncio.create_task(bus.redeliver(letter))
    await wait_all_tasks_blocked()
    waiting.cancel()
    await wait_all_tasks_blocked()
    assert waiting.cancelled()
    assert list(bus.dead_letters) == [letter]
    release.set()
    await within(bus.settle())
    assert bus.statistics().accepted == 3


async def test_a_letter_that_waited_for_room_leaves_before_it_comes_back() -> None:
    """If its redelivery fails too, no other letter has to go for it."""
    bus = EventBus(dead_letters=2)
    over, begun = asyncio.Event(), asyncio.Event()

    async def handle(event: Event[Any]) -> None:
        if event.data == "holds":
            begun.set()
            await over.wait()
        elif event.data != "fills":
            raise Boom(event.data)

    bus.subscribe(handle, "a", capacity=1)
    _, two = await fail(bus, "one", "two")
    await bus.publish("a", "holds")
    await begun.wait()
    await bus.publish("a", "fills")
    redelivery = asyncio.create_task(bus.redeliver(two))
    await turns(1)
    over.set()
    await within(redelivery)
    await within(bus.settle())
    assert [letter.event.data for letter in bus.dead_letters] == ["one", "two"]
    assert bus.dead_letters.lost == 0


async def test_a_letter_that_fails_at_once_leaves_before_it_comes_back() -> None:
    """Its ``key`` raises in the very step in which it is delivered again."""
    bus = EventBus(dead_letters=2)

    def key(event: Event[Any]) -> str:
        raise Boom(event.data)

    bus.subscribe(lambda event: None, "a", concurrency=2, key=key)
    _, two = await fail(bus, "one", "two")
    await bus.redeliver(two)
    assert [letter.event.data for letter in bus.dead_letters] == ["one", "two"]
    assert bus.dead_letters.lost == 0


async def test_a_letter_of_another_bus_is_not_delivered() -> None:
    """Each bus counts its own subscriptions; none of them is taken for another's."""
    billing, mail = EventBus(), EventBus()
    billing.subscribe(Mended().handle, "a")
    sent: list[Event[Any]] = []
    mail.subscribe(sent.append, "a")
    (letter,) = await fail(billing, "in_1")
    with pytest.raises(NotSubscribed):
        await mail.redeliver(letter)
    assert (sent, list(billing.dead_letters)) == ([], [letter])
