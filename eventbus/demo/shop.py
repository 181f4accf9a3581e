"""A shop that sells courses through Payment Kit: how an application uses the bus.

What a handler returns is the result in its outcome; here, a sentence for those who watch.
"""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from eventbus import Event, EventBus, Retry
from eventbus.demo.outside import Outside, Watch
from eventbus.payment_kit import PAYMENT_KIT

PAYMENT_KIT_DID = "z2qaCNvKMv5GjouKdcDWexv6WqtHbpNPQDnAk"
"""The ``source`` of Payment Kit's events: its component's DID."""

T = TypeVar("T")


class Change(BaseModel, Generic[T]):
    """The data of every event of Payment Kit: an object, and on updates what it was before."""

    object: T
    previous_attributes: dict[str, Any] = {}


class Checkout(BaseModel):
    """A checkout session."""

    id: str
    customer_id: str
    subscription_id: str


class Subscription(BaseModel):
    """A customer's subscription to a plan."""

    id: str
    customer_id: str
    status: str
    plan: str = "basic"


class Invoice(BaseModel):
    """An invoice. Amounts are in cents, and come as strings; pydantic makes numbers of them."""

    id: str
    customer_id: str
    amount_paid: int


class Refund(BaseModel):
    """Money that goes back."""

    id: str
    customer_id: str
    amount: int


outside = Outside()
watch = Watch()
members: dict[str, str] = {}
journal: list[str] = []

bus = EventBus(name="shop", source=PAYMENT_KIT_DID, catalog=PAYMENT_KIT, strict=True, hooks=[watch])


@bus.on("**")
def audit(event: Event[Any]) -> None:
    """Wildcard: every event there is."""
    journal.append(event.type)


@bus.on("checkout.session.completed")
async def open_account(event: Event[Change[Checkout]]) -> str:
    """Nested events: what a handler publishes knows its cause."""
    who, new = event.data.object.customer_id, event.data.object.subscription_id
    trial = {"object": Subscription(id=new, customer_id=who, status="trialing")}
    await bus.publish("customer.subscription.created", trial, subject=new)
    await bus.publish("customer.subscription.trial_start", trial, subject=new)
    return f"opened an account for {who}"


@bus.on("customer.subscription.created")
async def start_subscription(event: Event[Change[Subscription]]) -> str:
    """Nested one level deeper."""
    await bus.publish("customer.subscription.started", event.data, subject=event.subject)
    return f"started {event.subject}"


@bus.on("customer.subscription.*")
def membership(event: Event[Change[Subscription]]) -> str:
    """One handler in the place of a switch over eleven event types."""
    subscription = event.data.object
    members[subscription.customer_id] = subscription.status
    fact = event.type.rpartition(".")[2]
    return f"{fact}: {subscription.customer_id} is {subscription.status} ({subscription.plan})"


@bus.on("invoice.paid", retry=Retry(attempts=4, initial=0.2, jitter=0))
async def send_receipt(event: Event[Change[Invoice]]) -> str:
    """Typed: pydantic has checked the data. Tried again if it raises."""
    invoice = event.data.object
    await outside.send_mail()  # raises while the server is busy
    amount = invoice.amount_paid / 100
    return f"mailed {invoice.customer_id}: {amount:.2f} paid"


@bus.on("invoice.*", concurrency=3, key=lambda e: e.data["object"]["customer_id"])
async def draw_pdf(event: Event[Change[Invoice]]) -> str:
    """Slow, so three at once; in order for each customer."""
    await asyncio.sleep(0.35)
    return f"drew {event.data.object.id} for {event.data.object.customer_id}"


@bus.on("customer.subscription.upgraded", retry=Retry(attempts=3, initial=0.1, jitter=0))
async def update_crm(event: Event[Change[Subscription]]) -> str:
    """Fails for good while the CRM is down."""
    await outside.call_crm()
    before = event.data.previous_attributes["plan"]
    return f"noted {event.data.object.customer_id}: {before} to {event.data.object.plan}"


@bus.on("customer.subscription.paused", "customer.subscription.resumed", timeout=0.4)
async def tell_partner(event: Event[Change[Subscription]]) -> str:
    """Talks to a network, so it has a time-out."""
    await outside.call_partner()
    return f"the partner knows: {event.type.rpartition('.')[2]}"


@bus.on("customer.subscription.deleted")
async def close_account(event: Event[Change[Subscription]]) -> str:
    """The rest of the month is paid back."""
    customer = event.data.object.customer_id
    refund = Refund(id="re_8", customer_id=customer, amount=990)
    await bus.publish("refund.succeeded", {"object": refund}, subject=refund.id)
    return f"closed the account of {customer}"


@bus.on("refund.succeeded")
async def book_refund(event: Event[Change[Refund]]) -> str:
    """For the books."""
    return f"{event.data.object.customer_id} gets {event.data.object.amount / 100:.2f} back"
