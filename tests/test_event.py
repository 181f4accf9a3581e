"""``Event``: a frozen value with an identity of its own, a time, and a place in a chain."""

from __future__ import annotations

import asyncio
import copy
import enum
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from eventbus import Event, EventBus, _identity
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import within

MOMENT = datetime(2024, 5, 17, 12, 30, tzinfo=UTC)
FIELDS = ("id", "type", "data", "source", "time", "subject", "attributes", "cause", "root")


def full_event() -> Event[Any]:
    return Event(
        "invoice.paid",
        {"amount": 3},
        id="evt_1",
        source="billing",
        time=MOMENT,
        subject="in_1",
        attributes={"tenant": "acme"},
        cause="evt_0",
        root="evt_00",
    )


async def published(bus: EventBus, **fields: Any) -> Event[Any]:
    receipt = await bus.publish("invoice.paid", {"amount": 3}, **fields)
    return receipt.event


# An identity.


def test_an_id_is_made_of_the_era_and_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fork begins an era: its numbers have a prefix of their own, earlier ones keep theirs."""
    monkeypatch.setattr(_identity, "_first_serials", [0, 10, 20])
    monkeypatch.setattr(_identity, "_prefixes", ["p", "q", "r"])
    ids = [_identity.identity(serial) for serial in (1, 9, 10, 19, 20, 0xABCDEF012)]
    assert ids == [
        *("evt_p00000001", "evt_p00000009", "evt_q0000000a"),
        *("evt_q00000013", "evt_r00000014", "evt_rabcdef012"),
    ]


async def test_a_copy_of_an_event_knows_its_delivery(bus: EventBus) -> None:
    """Events are the same if their ids are, and not only if they are one object."""
    found: list[object] = []

    @bus.on("invoice.paid")
    async def handler(event: Event[Any]) -> None:
        found.append(pickle.loads(pickle.dumps(event)).delivery is event.delivery)  # noqa: S301

    await published(bus, id=str(b"evt_1", "ascii"))
    await within(bus.settle())
    assert found == [True]


async def test_an_id_has_eighty_random_bits(bus: EventBus) -> None:
    """Twenty hexadecimal digits of chance, and eight of a number that is not very large."""
    assert re.fullmatch(r"evt_[0-9a-f]{28}", (await published(bus)).id)
    assert {len(prefix) for prefix in _identity._prefixes} == {20}


# A value.


@pytest.mark.parametrize("name", [*FIELDS, "delivery", "_id", "new"])
async def test_an_event_is_frozen(name: str) -> None:
    """No attribute can be set or deleted, on one that a bus made nor on one's own."""
    for event in (full_event(), await published(EventBus())):
        with pytest.raises(AttributeError, match=f"an Event is frozen: cannot set '{name}'"):
            setattr(event, name, "other")
        with pytest.raises(AttributeError, match=f"an Event is frozen: cannot delete '{name}'"):
            delattr(event, name)


async def test_the_attributes_are_a_copy_that_nobody_can_change() -> None:
    """Neither through the event nor through what the publisher passed."""
    mine = {"tenant": "acme"}
    for event in (
        Event("a", attributes=mine),
        await published(EventBus(), attributes=mine),
    ):
        with pytest.raises(TypeError):
            event.attributes["tenant"] = "other"  # type: ignore[index]  # the case at hand
        mine["tenant"] = "changed"
        assert event.attributes == {"tenant": "acme"}
        mine["tenant"] = "acme"


async def test_the_data_is_shared_and_not_copied() -> None:
    """The handlers see the very object that was published."""
    bus = EventBus()
    data = {"amount": 3}
    seen: list[Any] = []
    bus.subscribe(lambda event: seen.append(event.data))
    bus.subscribe(lambda event: seen.append(event.data))
    await within(bus.publish_and_wait("a", data))
    assert [each is data for each in seen] == [True, True]


def test_events_of_equal_fields_are_equal() -> None:
    """And differ if one field does, and are never equal to anything else."""
    event = full_event()
    assert event == full_event()
    assert hash(event) == hash(full_event())
    changes: dict[str, Any] = {
        "id": "evt_2",
        "source": "other",
        "time": MOMENT + timedelta(1),
        "subject": "in_2",
        "attributes": {},
        "cause": None,
        "root": "evt_1",
    }
    values = {name: getattr(event, name) for name in FIELDS}
    for name, value in changes.items():
        assert event != Event(**{**values, name: value}), name
    assert event != Event(**{**values, "data": {"amount": 4}})
    assert event != "evt_1"


def test_the_data_is_not_part_of_the_repr() -> None:
    """Tracebacks and logs must not show who paid what."""
    assert repr(full_event()) == "Event('invoice.paid', id='evt_1')"


async def test_an_event_survives_pickling_and_copying() -> None:
    """With all its fields, a child with its cause and root."""
    bus = EventBus()
    events: list[Event[Any]] = [full_event(), Event("a"), await published(bus, attributes={"a": 1})]

    @bus.on("a")
    async def nest(event: Event[Any]) -> None:
        events.append((await bus.publish("b", [1])).event)

    await within(bus.publish_and_wait("a", cascade=True))
    assert events[3].cause is not None
    for event in events:
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            twin = pickle.loads(pickle.dumps(event, protocol))  # noqa: S301 - our own
            assert twin == event
            assert (twin.id, twin.time, twin.root) == (event.id, event.time, event.root)
        assert copy.copy(event) is event
        deep = copy.deepcopy(event)
        assert deep == event
        assert deep.data is not event.data or event.data is None


# Fields.


async def test_what_the_bus_fills_in() -> None:
    """A root of its own, from the bus, at the moment of acceptance."""
    clock = FakeClock(start=MOMENT.timestamp())
    event = await published(EventBus(name="shop", clock=clock))
    assert (event.type, event.data, event.source) == ("invoice.paid", {"amount": 3}, "shop")
    assert (event.subject, dict(event.attributes), event.cause) == (None, {}, None)
    assert event.root == event.id
    assert event.time == MOMENT
    assert event.time.tzinfo is UTC
    assert (await published(EventBus(source="till"))).source == "till"


async def test_what_the_publisher_may_say() -> None:
    """Id, source, time in any zone, subject and attributes."""
    zone = timezone(timedelta(hours=2))
    event = await published(
        EventBus(),
        id="evt_mine",
        source="till",
        time=MOMENT.astimezone(zone),
        subject="in_1",
        attributes={"tenant": "acme"},
    )
    assert (event.id, event.root, event.source) == ("evt_mine", "evt_mine", "till")
    assert (event.time, event.time.tzinfo) == (MOMENT, UTC)
    assert (event.subject, event.attributes) == ("in_1", {"tenant": "acme"})


async def test_a_member_of_a_str_enum_is_its_value() -> None:
    """In the fields as in the topic, also on Python 3.11, where ``str()`` of one is its name."""

    class Name(str, enum.Enum):  # noqa: UP042 - StrEnum is the easy case
        ID = "evt_enum"

    for event in (await published(EventBus(), id=Name.ID, source=Name.ID), Event("a", id=Name.ID)):
        assert (event.id, type(event.id)) == ("evt_enum", str)
    assert (await published(EventBus(), source=Name.ID)).source == "evt_enum"


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"id": ""}, TypeError, "id='': pass a string that is not empty"),
        ({"id": 3}, TypeError, "id=3: pass a string"),
        ({"source": b"x"}, TypeError, "source=b'x': pass a string"),
        ({"subject": 3}, TypeError, "subject=3: pass a string"),
        ({"time": 3}, TypeError, "time=3: pass a datetime with a time zone"),
        ({"time": datetime(2024, 1, 1)}, ValueError, "no time zone: pass datetime.now"),  # noqa: DTZ001 - the case at hand
        ({"colour": "red"}, TypeError, "colour"),
    ],
)
async def test_bad_fields_are_refused(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    """By every way to publish; nothing is accepted."""
    async with EventBus() as bus:
        with pytest.raises(error, match=message):
            await bus.publish("a", **fields)
        with pytest.raises(error, match=message):
            bus.publish_nowait("a", **fields)
        with pytest.raises(error, match=message):
            await bus.publish_and_wait("a", **fields)
        with pytest.raises(error, match=message):
            await anyio.to_thread.run_sync(lambda: bus.publish_from_thread("a", **fields))
        assert bus.statistics().events == 0


def test_an_event_of_ones_own_checks_its_time() -> None:
    """For tests of handlers alone."""
    with pytest.raises(ValueError, match="no time zone"):
        Event("a", time=datetime(2024, 1, 1))  # noqa: DTZ001 - the case at hand
    assert abs(Event("a").time - datetime.now(UTC)) < timedelta(minutes=1)


async def test_the_time_is_that_of_acceptance() -> None:
    """One that waited for room is dated when it got it, unless its publisher dated it."""
    clock = FakeClock(start=MOMENT.timestamp())
    bus = EventBus(clock=clock)
    gate = asyncio.Event()

    @bus.on(capacity=1)
    async def handler(event: Event[Any]) -> None:
        await gate.wait()

    await bus.publish("a")
    await wait_all_tasks_blocked()
    await bus.publish("a")
    waiting = asyncio.create_task(bus.publish("a"))
    dated = asyncio.create_task(bus.publish("a", time=MOMENT))
    await wait_all_tasks_blocked()
    clock.advance(3)
    gate.set()
    assert (await within(waiting)).event.time == MOMENT + timedelta(seconds=3)
    assert (await within(dated)).event.time == MOMENT
    await within(bus.settle())


# Identity.


async def test_ids_are_stable_and_unique() -> None:
    """Read late or twice, in any order, an id stays what it is."""
    bus = EventBus()
    events = [await published(bus) for _ in range(1000)] + [Event("a") for _ in range(1000)]
    backwards = [event.id for event in reversed(events)]
    assert backwards == [event.id for event in reversed(events)]
    assert len(set(backwards)) == 2000
    assert all(each.startswith("evt_") for each in backwards)


def test_ids_are_unique_across_threads() -> None:
    """Eight threads at once make no id twice."""
    ids: list[list[str]] = [[] for _ in range(8)]
    start = threading.Barrier(8)

    def make(mine: list[str]) -> None:
        start.wait()
        mine.extend(Event("a").id for _ in range(2000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each for mine in ids for each in mine}) == 16_000


@pytest.mark.posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_ids_are_unique_across_forks() -> None:
    """A child keeps the ids of the events it was born with, and makes no id of its parent's."""
    before: Event[Any] = Event("a")  # its id is read for the first time after the fork, in both
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            lines = [before.id, *(Event("a").id for _ in range(100))]
            os.write(writer, " ".join(lines).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = pipe.read().split()
    os.waitpid(child, 0)
    ours = [before.id, *(Event("a").id for _ in range(100))]
    assert theirs[0] == ours[0]
    assert len({*theirs[1:], *ours}) == 201


def test_ids_are_unique_across_processes() -> None:
    """Two interpreters that make their first event do not make the same id."""
    command = [sys.executable, "-c", "from eventbus import Event; print(Event('a').id)"]
    runs = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)
    ]
    assert runs[0] != runs[1]


# Copies for typed handlers, and the delivery.


class Paid(BaseModel):
    amount: int


async def test_a_typed_handler_gets_a_copy_that_is_the_same_event() -> None:
    """Same id, time, cause and root, read before or after; the event as published is unchanged."""
    bus = EventBus()
    typed: list[Event[Paid]] = []
    plain: list[Event[Any]] = []

    @bus.on()
    async def with_model(event: Event[Paid]) -> None:
        typed.append(event)

    bus.subscribe(plain.append)
    await within(bus.publish_and_wait("a", {"amount": "3"}, subject="in_1", attributes={"b": 1}))
    assert typed[0].data == Paid(amount=3)
    assert plain[0].data == {"amount": "3"}
    for name in FIELDS:
        if name != "data":
            assert getattr(typed[0], name) == getattr(plain[0], name), name
    assert typed[0] != plain[0]
    with pytest.raises(AttributeError):
        typed[0].data = Paid(amount=4)  # type: ignore[misc]  # the case at hand


async def test_the_delivery_is_there_in_its_handler_alone() -> None:
    """Of this event, in this delivery, until it ends; None for other events and elsewhere."""
    bus = EventBus()
    other: Event[Any] = Event("other")
    seen: list[Event[Any]] = []
    left: list[asyncio.Task[object]] = []
    gate = asyncio.Event()

    @bus.on("a", name="reader")
    async def handler(event: Event[dict[str, int]]) -> None:
        delivery = event.delivery
        assert delivery is not None
        assert (delivery.subscription, delivery.attempt, delivery.redelivered) == (
            "reader",
            1,
            False,
        )
        assert other.delivery is None
        assert await asyncio.create_task(read(event)) is delivery
        left.append(asyncio.create_task(read_later(event)))
        seen.append(event)

    async def read(event: Event[Any]) -> object:
        return event.delivery

    async def read_later(event: Event[Any]) -> object:
        await gate.wait()
        return event.delivery

    (outcome,) = await within(bus.publish_and_wait("a", {"amount": 3}))
    assert outcome.error is None
    assert seen[0].delivery is None
    gate.set()
    assert await left[0] is None


async def test_a_thread_reads_its_delivery_too() -> None:
    """The context goes with the handler into its thread."""
    bus = EventBus()

    def handler(event: Event[Any]) -> int | None:
        return None if event.delivery is None else event.delivery.attempt

    bus.subscribe(handler, thread=True)
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert outcome.result == 1


@pytest.mark.parametrize("make", [lambda: Event("a"), lambda: Event("a", None)])
def test_an_event_of_ones_own_is_a_root(make: Callable[[], Event[Any]]) -> None:
    """Without data, without a cause, its own root."""
    event = make()
    assert (event.data, event.cause, event.root, event.source) == (None, None, event.id, "eventbus")
