"""The public API as type checkers see it. mypy and pyright check this file; nothing runs it.

``assert_type`` says what an expression must be. A line with ignore comments must be an error: both
checkers are told to report a comment that ignores nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, assert_type

from eventbus import (
    BusClosed,
    Catalog,
    Clock,
    CloseReport,
    DeadLetter,
    Event,
    EventBus,
    EventBusError,
    EventStream,
    Explanation,
    HandlerErrors,
    Hook,
    LogLine,
    Outcome,
    Receipt,
    Retry,
    Statistics,
    Subscription,
    SubscriptionInfo,
    SubscriptionStatistics,
    SystemClock,
    Topic,
    matches,
)
from eventbus.payment_kit import PAYMENT_KIT
from eventbus.testing import (
    FakeClock,
    Simulated,
    Simulation,
    capture,
    expect_failure,
    fake_time,
    replace,
    settle,
    sign,
    simulate,
    watch,
)
from eventbus.webhooks import (
    Answer,
    BlockletServer,
    Claim,
    ComponentSignature,
    GitHub,
    HmacSignature,
    MemoryReplayStore,
    Receiver,
    ReplayStore,
    SqliteReplayStore,
    StandardWebhooks,
    Stripe,
    WebhookApp,
)
from eventbus.webhooks.bodies import Envelope, PaymentKitBody


@dataclass
class InvoicePaid:
    id: str
    amount: int


@dataclass
class CustomerCreated:
    name: str


INVOICE_PAID = Topic("invoice.paid", InvoicePaid, description="Invoice payment completed")
CUSTOMER_CREATED = Topic("customer.created", CustomerCreated)
UNTYPED = Topic("anything.at_all")

assert_type(INVOICE_PAID, Topic[InvoicePaid])
assert_type(UNTYPED, Topic[Any])
assert_type(INVOICE_PAID.validate({"id": "in_1", "amount": 1}), InvoicePaid)
assert_type(INVOICE_PAID.name, str)
assert_type(matches("invoice.*", "invoice.paid"), bool)

bus = EventBus()
EventBus(name="orders", catalog=PAYMENT_KIT, strict=True, clock=SystemClock(), dead_letters=10)
EventBus(catalog=Catalog([INVOICE_PAID, "customer.created"]), cascade_limit=5, threads=2)
EventBus("orders")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - options are named


# ---- Handlers of every kind


async def handle(event: Event[Any]) -> None: ...
def handle_plainly(event: Event[Any]) -> None: ...
async def handle_invoice(event: Event[InvoicePaid]) -> None: ...
async def handle_customer(event: Event[CustomerCreated]) -> None: ...
async def handle_bare(event: Event) -> None: ...
async def handle_nothing() -> None: ...
async def handle_with(connection: sqlite3.Connection, event: Event[Any]) -> None: ...


class Shop:
    async def on_paid(self, event: Event[InvoicePaid]) -> None: ...
    async def __call__(self, event: Event[Any]) -> None: ...


assert_type(bus.subscribe(handle), Subscription)
assert_type(bus.subscribe(handle, "customer.subscription.*", "invoice.paid"), Subscription)
bus.subscribe(handle_plainly, "invoice.**", thread=True)
bus.subscribe(handle_bare, "invoice.paid")
bus.subscribe(lambda event: event.data, "invoice.paid")
bus.subscribe(partial(handle_with, sqlite3.connect(":memory:")), "invoice.paid")
bus.subscribe(Shop(), "invoice.paid")
bus.subscribe(Shop().on_paid, "invoice.paid")
bus.subscribe(handle_invoice, "invoice.*")
bus.subscribe(handle_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
bus.subscribe(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
with bus.subscribe(handle) as subscription:
    assert_type(subscription, Subscription)
    assert_type(subscription.statistics(), SubscriptionStatistics)
    assert_type(subscription.name, str)
    assert_type(subscription.unsubscribe(), None)

# Topics are typed: their handlers take what they carry.
bus.subscribe(handle_invoice, INVOICE_PAID)
bus.subscribe(Shop().on_paid, INVOICE_PAID)
bus.subscribe(handle, INVOICE_PAID, CUSTOMER_CREATED, "invoice.*")
bus.subscribe(handle_bare, INVOICE_PAID)

bus.subscribe(
    handle,
    "invoice.*",
    name="ledger",
    where=lambda event: event.data["amount"] > 0,
    concurrency=8,
    key=lambda event: event.data["customer"],
    capacity=10,
    overflow="drop_oldest",
    timeout=1.5,
    retry=Retry(attempts=5, initial=0.5, factor=3, maximum=10, jitter=0, on=(OSError,)),
    once=True,
)
bus.subscribe(handle, concurency=8)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
bus.subscribe(handle, overflow="drop")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


@bus.on(INVOICE_PAID)
async def ship(event: Event[InvoicePaid]) -> str:
    assert_type(event.data, InvoicePaid)
    return event.data.id


@bus.on("invoice.paid", concurrency=8, key=lambda e: e.data["customer"], timeout=10)
async def bill(event: Event[Any]) -> None: ...


@bus.on()
def everything(event: Event[Any]) -> None: ...


@bus.on(INVOICE_PAID, "customer.*")
async def several(event: Event[Any]) -> None: ...


@bus.on(INVOICE_PAID)
async def bare(event: Event) -> None: ...


@bus.on(INVOICE_PAID)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - other data
async def wrong(event: Event[CustomerCreated]) -> None: ...


# ---- Publishing and waiting


async def use() -> None:
    assert_type(await ship(Event("invoice.paid", InvoicePaid("in_1", 1))), str)
    everything(Event("a"))

    receipt = await bus.publish("invoice.paid", {"id": "in_1"}, subject="in_1", attributes={"a": 1})
    assert_type(receipt, Receipt)
    assert_type(await receipt.outcomes(cascade=True, check=True), tuple[Outcome, ...])
    assert_type(receipt.event, Event[Any])
    assert_type(receipt.duplicate, bool)
    assert_type(await bus.publish_and_wait("a", cascade=True, check=True), tuple[Outcome, ...])
    assert_type(bus.publish_nowait("a"), Receipt)
    assert_type(bus.publish_from_thread("a", id="evt_1", time=datetime.now(UTC)), Receipt)
    await bus.publish("a", 1, subjekt="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

    # A type checker refuses a payload that is not the topic's, in each way to publish.
    paid = InvoicePaid("in_1", 100)
    await bus.publish(UNTYPED, {"whatever": 1})
    await bus.publish(UNTYPED)
    await bus.publish_and_wait(UNTYPED, check=True)
    bus.publish_nowait(Topic("nothing.to_say", type(None)), subject="in_1")
    bus.publish_from_thread(UNTYPED, id="evt_1")
    await bus.publish(INVOICE_PAID, paid)
    await bus.publish_and_wait(INVOICE_PAID, paid)
    bus.publish_nowait(INVOICE_PAID, paid)
    bus.publish_from_thread(INVOICE_PAID, paid)
    await bus.publish(INVOICE_PAID, {"id": "in_1"})  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await bus.publish(INVOICE_PAID)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bus.publish_and_wait(INVOICE_PAID, 1)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.publish_nowait(INVOICE_PAID, 1)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.publish_from_thread(INVOICE_PAID, 1)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]

    (outcome,) = await receipt.outcomes()
    assert_type(outcome.status, Literal["handled", "failed", "dropped", "cancelled"])
    assert_type(outcome.subscription, str)
    assert_type(outcome.error, BaseException | None)
    assert_type((outcome.attempts, outcome.queued, outcome.ran), tuple[int, float, float])

    try:
        await bus.publish_and_wait("a", check=True)
    except HandlerErrors as errors:
        assert_type(errors.outcomes, tuple[Outcome, ...])
        assert_type(errors.exceptions, tuple[Exception | ExceptionGroup[Exception], ...])
    except BusClosed as closed:
        assert_type(closed.args, tuple[Any, ...])
        raise EventBusError from closed


async def read() -> None:
    async with bus.stream("invoice.*", capacity=100) as events:
        assert_type(events, EventStream[Any])
        assert_type(events.lagged, int)
        async for event in events:
            assert_type(event, Event[Any])
    async with bus.stream(INVOICE_PAID, overflow="drop_newest") as invoices:
        async for paid in invoices:
            assert_type(paid.data, InvoicePaid)
    assert_type(await bus.wait_for("invoice.*", timeout=5), Event[Any])
    assert_type(
        (await bus.wait_for(INVOICE_PAID, where=lambda e: e.data.amount > 1)).data, InvoicePaid
    )


async def look(event: Event[InvoicePaid]) -> None:
    assert_type((event.id, event.type, event.source), tuple[str, str, str])
    assert_type((event.time, event.subject), tuple[datetime, str | None])
    assert_type((event.cause, event.root), tuple[str | None, str])
    if event.delivery is not None:
        assert_type(event.delivery.attempt, int)
        assert_type(event.delivery.redelivered, bool)
        assert_type(event.delivery.subscription, str)
    event.type = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue] - frozen


async def live() -> None:
    async with bus as entered:
        assert_type(entered, EventBus)
        assert_type(await bus.settle(), None)
    assert_type(await bus.aclose(grace=10), CloseReport)
    assert_type(bus.statistics(), Statistics)
    assert_type(bus.statistics().pending, int)
    assert_type(bus.subscriptions, tuple[Subscription, ...])
    assert_type(bus.describe(), list[SubscriptionInfo])
    assert_type(bus.explain("invoice.paid"), Explanation)
    bus.explain(INVOICE_PAID)
    for letter in bus.dead_letters:
        assert_type(letter, DeadLetter)
        assert_type(letter.event, Event[Any])
        assert_type(await bus.redeliver(letter), Receipt)


# ---- The test kit


async def use_the_kit(bus: EventBus) -> None:
    async with capture(bus, "invoice.*", INVOICE_PAID) as captured:
        assert_type(captured.events, list[Event[Any]])
    assert_type(captured.assert_published("invoice.paid", times=1), list[Event[Any]])
    captured.assert_handled_by(lambda event: event.data)
    async with expect_failure(bus, ValueError, handler="ship") as failure:
        assert_type(failure.error, BaseException)
    with replace(bus, "ship", with_=lambda event: event.data) as replaced:
        assert_type(replaced.events, list[Event[Any]])
    with fake_time(bus) as fake:
        assert_type(fake, FakeClock)
    async with watch(bus, strict=True) as watched:
        assert_type(watched, EventBus)
    await settle(bus, timeout=1)


async def scenario(sim: Simulation) -> None:
    assert_type(sim.start(returns_int(), cancel=True), asyncio.Task[int])


async def returns_int() -> int:
    return 1


assert_type(simulate(scenario, seeds=[1, 2]), Simulated)
assert_type(simulate(returns_int), Simulated)


# ---- Webhooks


def read_body(content: Any, request: Any) -> Envelope:
    return Envelope(content["kind"], content, id=content["id"], id_is_signed=True)


def read_nothing(content: Any) -> Envelope:
    return Envelope("a", content)


async def receive(bus: EventBus) -> None:
    Receiver(bus, StandardWebhooks(["whsec_", b"raw"], tolerance=60, svix_headers=True))
    Receiver(bus, Stripe("whsec_"), topic="stripe.{type}")
    Receiver(bus, GitHub(("old", "new")), topic=lambda envelope: f"github.{envelope.type}")
    Receiver(bus, ComponentSignature("0x"), body=PaymentKitBody())
    Receiver(bus, BlockletServer("secret"), ack="handled")
    receiver = Receiver(bus, HmacSignature("secret", header="X-Signature"), body=read_body)
    Receiver(bus, GitHub("secret"), body=read_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - one argument too few
    ComponentSignature(b"secret")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - text alone
    request = sign(Stripe("whsec_"), "invoice.paid", {"id": "in_1"}, time=1_740_000_000.0)
    assert_type(request.headers, list[tuple[bytes, bytes]])
    assert_type(receiver.verify(*request), Event[Any])
    answer = await receiver.accept(*request)
    assert_type(answer, Answer)
    assert_type((answer.status, answer.event), tuple[int, Event[Any] | None])
    assert_type(receiver.statistics().refused, Mapping[str, int])
    Receiver(bus, GitHub("secret"), ack="later")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - no such word
    async with WebhookApp({"/hook": receiver}, max_in_flight=8) as app:
        assert_type(app, WebhookApp)


async def remember(key: bytes, now: float) -> None:
    stores: list[ReplayStore] = [MemoryReplayStore(1000), SqliteReplayStore("hooks.db", keep=3600)]
    for store in stores:
        claim = await store.claim(key, 300.0, now)
        assert_type(claim, Claim | None)
        if claim is not None:
            assert_type(await store.renew(claim, now), bool)
            await store.done(claim)


# ---- What applications bring


class Observer(Hook):
    def accepted(self, event: Event[Any], deliveries: int) -> None:
        assert_type(event.type, str)

    def log(self, line: LogLine) -> None:
        assert_type(line.level, Literal["info", "warning", "error"])


EventBus(hooks=[Observer()])


class StoppedClock:
    def time(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0


clock: Clock = SystemClock()
EventBus(clock=StoppedClock())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - no call_later

for topic in PAYMENT_KIT:
    assert_type(topic, Topic[Any])
