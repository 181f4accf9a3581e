"""Payloads that are checked: at publish by a ``Topic``, at delivery by a handler's annotation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import anyio
import pytest
from pydantic import BaseModel, field_validator

from eventbus import (
    Event,
    EventBus,
    Hook,
    PayloadError,
    Retry,
    RunningDelivery,
    Subscription,
    Topic,
)
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import LogLines, within


class Paid(BaseModel):
    id: str
    amount: int


class Refunded(BaseModel):
    kind: Literal["refund"]
    amount: int


class Premium(Paid):
    tier: str = "gold"


@dataclass
class Shipped:
    parcel: int


look_ups: list[bool] = []
"""Which of the next look-ups fail."""


class Flaky(BaseModel):
    amount: int

    @field_validator("amount")
    @classmethod
    def look_up(cls, value: int) -> int:
        if look_ups.pop(0):
            raise ConnectionError
        return value


INVOICE_PAID = Topic("invoice.paid", Paid, description="Invoice payment completed")
INVOICE_REFUNDED = Topic("invoice.refunded", Refunded)

GOOD = {"id": "in_1", "amount": "3"}
BAD = {"id": "in_1", "amount": "secret"}


class Seen:
    """Handlers that keep what they got."""

    def __init__(self) -> None:
        self.data: list[Any] = []

    async def paid(self, event: Event[Paid]) -> None:
        self.data.append(event.data)

    async def either(self, event: Event[Paid | Refunded]) -> None:
        self.data.append(event.data)

    async def either_event(self, event: Event[Paid] | Event[Refunded]) -> None:
        self.data.append(event.data)

    async def shipped(self, event: Event[Shipped]) -> None:
        self.data.append(event.data)

    async def plain(self, event: Event[Any]) -> None:
        self.data.append(event.data)

    async def lists(self, event: Event[list[int]]) -> None:
        self.data.append(event.data)

    def in_a_thread(self, event: Event[Paid]) -> None:
        self.data.append(event.data)


# At delivery.


@pytest.mark.parametrize("thread", [False, True])
async def test_the_handler_gets_its_model_whatever_way_the_data_came(thread: bool) -> None:
    """A dict is validated, an instance is passed on as it is."""
    bus, seen = EventBus(), Seen()
    bus.subscribe(seen.in_a_thread if thread else seen.paid, "invoice.*", thread=thread)
    instance = Paid(id="in_2", amount=4)
    await within(bus.publish_and_wait("invoice.paid", GOOD, check=True))
    await within(bus.publish_and_wait("invoice.paid", instance, check=True))
    await within(bus.publish_and_wait(INVOICE_PAID, instance, check=True))
    assert seen.data == [Paid(id="in_1", amount=3), instance, instance]
    assert seen.data[1] is seen.data[2] is instance


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("data", [BAD, {}, None, "text", 3, Shipped(1)], ids=repr)
async def test_data_that_does_not_fit_never_reaches_the_handler(data: Any, thread: bool) -> None:
    """A failed delivery with the field errors, a dead letter and a line; no word of the data."""
    lines = LogLines()
    bus, seen = EventBus(hooks=[lines]), Seen()
    bus.subscribe(
        seen.in_a_thread if thread else seen.paid, name="billing", thread=thread, retry=Retry()
    )
    receipt = await bus.publish("invoice.paid", data)
    (outcome,) = await within(receipt.outcomes())
    assert seen.data == []
    assert outcome.status == "failed"
    assert isinstance(outcome.error, PayloadError)
    assert outcome.error.errors
    assert f"for {receipt.event!r} for billing does not fit Paid" in str(outcome.error)
    assert "secret" not in str(outcome.error)
    assert [letter.error for letter in bus.dead_letters] == [outcome.error]
    assert bus.dead_letters[0].event.data is data
    assert len(lines.named("delivery.failed")) == 1
    assert lines.named("delivery.retrying") == []


async def test_the_errors_name_the_fields() -> None:
    """One for each field, as pydantic has them, without the input."""
    bus, seen = EventBus(), Seen()
    bus.subscribe(seen.paid)
    (outcome,) = await within(bus.publish_and_wait("a", {"amount": "secret"}))
    error = outcome.error
    assert isinstance(error, PayloadError)
    assert [(line["loc"], line["type"]) for line in error.errors] == [
        (("id",), "missing"),
        (("amount",), "int_parsing"),
    ]
    assert all("input" not in line for line in error.errors)


async def test_invalid_data_fails_its_own_delivery_alone() -> None:
    """Handlers of other types, and of none, get the event."""
    bus, seen = EventBus(), Seen()
    bus.subscribe(seen.plain)
    bus.subscribe(seen.paid)
    bus.subscribe(seen.plain)
    outcomes = await within(bus.publish_and_wait("a", BAD))
    assert [each.status for each in outcomes] == ["handled", "failed", "handled"]
    assert seen.data == [BAD, BAD]


async def test_every_handler_validates_for_itself() -> None:
    """One event, three views of its data."""
    bus, seen = EventBus(), Seen()
    bus.subscribe(seen.paid)
    bus.subscribe(seen.plain)

    @bus.on()
    async def premium(event: Event[Premium]) -> None:
        seen.data.append(event.data)

    await within(bus.publish_and_wait("a", GOOD, check=True))
    assert seen.data == [Paid(id="in_1", amount=3), GOOD, Premium(id="in_1", amount=3)]


@pytest.mark.parametrize("how", ["either", "either_event"])
async def test_a_union_takes_whatever_fits_one_of_its_models(how: str) -> None:
    """Written inside the brackets or between events."""
    bus, seen = EventBus(), Seen()
    bus.subscribe(getattr(seen, how))
    await within(bus.publish_and_wait("a", GOOD, check=True))
    await within(bus.publish_and_wait("a", {"kind": "refund", "amount": 2}, check=True))
    (outcome,) = await within(bus.publish_and_wait("a", {"kind": "other"}))
    assert seen.data == [Paid(id="in_1", amount=3), Refunded(kind="refund", amount=2)]
    assert isinstance(outcome.error, PayloadError)


async def test_payloads_need_not_be_pydantic_models() -> None:
    """Dataclasses, lists, anything that pydantic can check."""
    bus, seen = EventBus(), Seen()
    bus.subscribe(seen.shipped, "parcel")
    bus.subscribe(seen.lists, "list")
    await within(bus.publish_and_wait("parcel", {"parcel": "1"}, check=True))
    await within(bus.publish_and_wait("list", ("1", 2), check=True))
    assert seen.data == [Shipped(1), [1, 2]]


async def test_what_the_model_made_is_handed_over_even_if_it_equals_the_data(bus: EventBus) -> None:
    """1.0 is equal to 1, and is no int."""
    kinds: list[type] = []

    @bus.on("a")
    async def handler(event: Event[int]) -> None:
        kinds.append(type(event.data))

    await within(bus.publish_and_wait("a", 1.0, check=True))
    assert kinds == [int]


async def test_a_validators_own_error_is_a_failure_like_the_handlers() -> None:
    """What is no ``ValidationError`` may pass: it is retried, and the handler runs if it does."""

    look_ups[:] = [True, False]
    clock = FakeClock()
    bus = EventBus(clock=clock)
    seen: list[int] = []

    @bus.on(retry=Retry(initial=1, jitter=0))
    async def handler(event: Event[Flaky]) -> None:
        seen.append(event.data.amount)

    receipt = await bus.publish("a", {"amount": 1})
    await wait_all_tasks_blocked()
    clock.advance(1)
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.attempts, seen) == ("handled", 2, [1])


async def test_data_that_no_longer_fits_ends_the_retries() -> None:
    """Each attempt validates anew; invalid data ends it there, with no further attempt."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    runs: list[int] = []
    data: dict[str, Any] = {"id": "in_1", "amount": 1}

    @bus.on(retry=Retry(attempts=9, initial=1, jitter=0))
    async def handler(event: Event[Paid]) -> None:
        runs.append(event.data.amount)
        data["amount"] = None  # which a handler should not do
        raise ValueError

    receipt = await bus.publish("a", data)
    await wait_all_tasks_blocked()
    clock.advance(1)
    (outcome,) = await within(receipt.outcomes())
    assert runs == [1]
    assert isinstance(outcome.error, PayloadError)
    assert clock.next_timer is None


# At delivery, on each of the ways that a handler may be run.

WAYS = ("async", "own task", "def", "observed", "thread")


class Watcher(Hook):
    """Makes every delivery take the careful way."""

    def attempt_started(self, event: Event[Any], delivery: RunningDelivery) -> None:
        """Only its presence counts."""


class Vetted(BaseModel):
    """Notes who validates it, and does what it is told to."""

    todo: Callable[[], object]

    @field_validator("todo")
    @classmethod
    def do_it(cls, todo: Callable[[], object]) -> Callable[[], object]:
        task = None if threading.current_thread().name != "MainThread" else asyncio.current_task()
        vetted_in.append("no task" if task is None else task.get_name())
        todo()
        return todo


FITS = {"todo": lambda: None}

vetted_in: list[str] = []
"""The names of the tasks in which data was validated."""


async def pass_a_turn(event: Event[Any]) -> None:
    """Waits, and takes whatever comes."""
    await asyncio.sleep(0)


async def vetting(way: str, react: Callable[[Event[Any]], object]) -> tuple[EventBus, Subscription]:
    """A bus, and a subscription whose ``Event[Vetted]`` take one of the ways to ``react``."""
    bus = EventBus(hooks=[Watcher()] if way == "observed" else [])

    async def at_once(event: Event[Vetted]) -> object:
        return react(event)

    async def after_a_turn(event: Event[Vetted]) -> object:
        await asyncio.sleep(0)
        return react(event)

    def plainly(event: Event[Vetted]) -> object:
        return react(event)

    handlers = {"async": at_once, "observed": at_once, "own task": after_a_turn}
    retry = Retry(attempts=3, initial=0, jitter=0)
    subscription = bus.subscribe(
        handlers.get(way, plainly), "a", retry=retry, thread=way == "thread"
    )
    bus.subscribe(pass_a_turn, "a")  # else a pump has nothing to do but to step the handler
    if way == "own task":  # which a handler gets that has waited before
        await within(bus.publish_and_wait("a", FITS, subject="warm-up"))
    vetted_in.clear()
    return bus, subscription


def check_way(way: str) -> None:
    """The way was taken that the test is about."""
    expected = {"own task": "eventbus-handler", "thread": "no task"}.get(way, "eventbus-pump")
    assert vetted_in[0] == expected


@pytest.mark.parametrize("way", WAYS)
async def test_a_payload_error_of_the_handlers_own_is_retried(way: str) -> None:
    """Only data that does not fit the handler is beyond mending, not data that it published."""
    attempts: list[int] = []

    def react(event: Event[Any]) -> str:
        assert event.delivery is not None
        if event.subject != "warm-up":
            attempts.append(event.delivery.attempt)
            if len(attempts) < 3:
                raise PayloadError("what it published does not fit", [])
        return "done"

    bus, _ = await vetting(way, react)
    outcome, _ = await within(bus.publish_and_wait("a", FITS))
    check_way(way)
    assert (outcome.status, outcome.result, outcome.attempts) == ("handled", "done", 3)
    assert attempts == [1, 2, 3]


@pytest.mark.parametrize("way", WAYS)
async def test_data_that_does_not_fit_is_not_tried_again(way: str) -> None:
    """One attempt, whatever the retry says, and the handler never runs."""
    ran: list[object] = []
    bus, _ = await vetting(way, ran.append)
    ran.clear()
    outcome, _ = await within(bus.publish_and_wait("a", {"todo": "no function"}))
    assert (outcome.status, outcome.attempts, ran) == ("failed", 1, [])
    assert isinstance(outcome.error, PayloadError)


@pytest.mark.parametrize("way", WAYS)
async def test_a_validator_may_unsubscribe_the_handler(way: str) -> None:
    """No new call starts after that: the delivery is cancelled, and its handler never ran."""
    ran: list[object] = []

    def leave() -> None:
        if way == "thread":
            anyio.from_thread.run_sync(subscription.unsubscribe)
        else:
            subscription.unsubscribe()

    bus, subscription = await vetting(way, ran.append)
    ran.clear()
    receipt = await bus.publish("a", {"todo": leave})
    outcome, other = await within(receipt.outcomes())
    check_way(way)
    assert (outcome.status, outcome.attempts, ran) == ("cancelled", 0, [])
    assert other.status == "handled"


@pytest.mark.parametrize("way", WAYS)
async def test_unsubscribed_by_a_validator_the_first_attempts_error_stands(way: str) -> None:
    """The handler has raised, and does not run again: that is how its delivery ends."""
    raised = ValueError("the first attempt")
    ran: list[object] = []

    def react(event: Event[Any]) -> None:
        if event.subject != "warm-up":
            ran.append(event)
            raise raised

    def leave_if_it_ran() -> None:
        if not ran:
            return
        if way == "thread":
            anyio.from_thread.run_sync(subscription.unsubscribe)
        else:
            subscription.unsubscribe()

    bus, subscription = await vetting(way, react)
    receipt = await bus.publish("a", {"todo": leave_if_it_ran})
    outcome, _ = await within(receipt.outcomes())
    assert (outcome.status, outcome.attempts, len(ran)) == ("failed", 1, 1)
    assert outcome.error is raised


# At publish.


async def test_a_topic_validates_at_publish() -> None:
    """A dict becomes the model; handlers and the receipt see that."""
    bus, seen = EventBus(), Seen()
    bus.subscribe(seen.plain)
    receipt = await bus.publish(INVOICE_PAID, GOOD)  # type: ignore[misc]  # a dict, as a webhook's
    await within(bus.settle())
    assert receipt.event.type == "invoice.paid"
    assert seen.data == [Paid(id="in_1", amount=3)]
    assert receipt.event.data is seen.data[0]


async def test_a_topic_refuses_at_publish_and_nothing_is_accepted() -> None:
    """Every way to publish raises there, with the field errors and not the data."""
    async with EventBus() as bus:
        seen = Seen()
        bus.subscribe(seen.plain)

        async def from_thread() -> None:
            await anyio.to_thread.run_sync(
                lambda: bus.publish_from_thread(INVOICE_PAID, cast("Any", BAD))
            )

        async def nowait() -> None:
            bus.publish_nowait(INVOICE_PAID, cast("Any", BAD))

        async def publish() -> None:
            await bus.publish(INVOICE_PAID, cast("Any", BAD))

        async def publish_and_wait() -> None:
            await bus.publish_and_wait(INVOICE_PAID, cast("Any", BAD))

        for way in (publish, nowait, publish_and_wait, from_thread):
            with pytest.raises(
                PayloadError, match=r"topic .invoice\.paid. does not fit Paid"
            ) as info:
                await within(way())
            assert [line["loc"] for line in info.value.errors] == [("amount",)]
            assert "secret" not in str(info.value)
        await within(bus.settle())
        assert (seen.data, bus.statistics().events, len(bus.dead_letters)) == ([], 0, 0)


async def test_a_handler_of_typed_topics_gets_their_model_unasked() -> None:
    """Subscribed with topics of one model, a bare ``Event`` has data of that model."""
    bus, seen = EventBus(), Seen()
    other = Topic("invoice.late", Paid)
    bus.subscribe(seen.plain, INVOICE_PAID, other)
    await within(bus.publish_and_wait("invoice.paid", GOOD, check=True))
    await within(bus.publish_and_wait("invoice.late", GOOD, check=True))
    (outcome,) = await within(bus.publish_and_wait("invoice.late", BAD))
    assert seen.data == [Paid(id="in_1", amount=3)] * 2
    assert isinstance(outcome.error, PayloadError)


@pytest.mark.parametrize(
    "patterns", [(INVOICE_PAID, INVOICE_REFUNDED), (INVOICE_PAID, "invoice.other"), ("invoice.*",)]
)
async def test_a_handler_of_mixed_topics_gets_the_data_as_it_is(patterns: tuple[Any, ...]) -> None:
    """Two models, or a pattern among them, say nothing about the data."""
    bus, seen = EventBus(), Seen()
    bus.subscribe(seen.plain, *patterns)
    await within(bus.publish_and_wait("invoice.paid", BAD, check=True))
    assert seen.data == [BAD]


async def test_the_annotation_wins_over_the_topic() -> None:
    """A handler that asks for a narrower model gets that."""
    bus = EventBus()
    seen: list[Any] = []

    async def premium(event: Event[Premium]) -> None:
        seen.append(event.data)

    bus.subscribe(premium, INVOICE_PAID)
    await within(bus.publish_and_wait("invoice.paid", {**GOOD, "tier": "silver"}, check=True))
    assert seen == [Premium(id="in_1", amount=3, tier="silver")]


async def test_predicates_see_the_event_as_published() -> None:
    """``where`` and ``key`` run before anything is validated for the handler."""
    bus, seen = EventBus(), Seen()
    asked: list[Any] = []

    def note(event: Event[Any]) -> bool:
        asked.append(event.data)
        return True

    bus.subscribe(seen.paid, where=note, concurrency=2, key=note)
    await within(bus.publish_and_wait("a", GOOD, check=True))
    assert [each is GOOD for each in asked] == [True, True]
    assert seen.data == [Paid(id="in_1", amount=3)]
