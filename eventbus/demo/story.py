"""The story of the demo: the life of some subscriptions, in Payment Kit's events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from eventbus.demo import shop
from eventbus.demo.door import Door, open_door
from eventbus.demo.stage import Stage
from eventbus.instrumentation import Hook

if TYPE_CHECKING:
    from rich.console import Console

    from eventbus.testing import SignedRequest

__all__ = ["payment_kit_event", "tell"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One event, as Payment Kit sends it."""

    type: str
    object: dict[str, Any]
    before: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scene:
    """A title, what to look at, the code of one handler perhaps, and what happens."""

    title: str
    text: str
    facts: tuple[Fact, ...]
    code: Callable[..., Any] | None = None
    shows_payload: bool = False


def _subscription(status: str, customer: str = "ada", **more: str) -> dict[str, Any]:
    return {"id": f"sub_{customer}", "customer_id": f"cus_{customer}", "status": status, **more}


def _invoice(number: int, customer: str, cents: str = "990") -> dict[str, Any]:
    return {"id": f"in_{number}", "customer_id": f"cus_{customer}", "amount_paid": cents}


SCENES = (
    Scene(
        "Ada checks out",
        "Payment Kit posts one fact to the shop, signed; a receiver verifies it and publishes it "
        "on the bus. Handlers react, and announce facts of their own: nested events. Every handler "
        "sees them in the order in which they were published.",
        (
            Fact(
                "checkout.session.completed",
                {"id": "cs_7", "customer_id": "cus_ada", "subscription_id": "sub_ada"},
            ),
        ),
        shop.open_account,
        shows_payload=True,
    ),
    Scene(
        "The trial ends, the first invoice is paid",
        "The mail server refuses twice. The bus tries again, after 0.2 and 0.4 seconds; "
        "nobody else waits for that.",
        (
            Fact(
                "customer.subscription.trial_end",
                _subscription("active"),
                {"status": "trialing"},
            ),
            Fact("invoice.paid", _invoice(1, "ada")),
        ),
        shop.send_receipt,
    ),
    Scene(
        "Renewal day",
        "Drawing a PDF is slow. concurrency=3 draws three at once; key=… keeps each customer's in "
        "order, so Ada's second one waits for her first.",
        (
            Fact("customer.subscription.renewed", _subscription("active")),
            Fact("invoice.paid", _invoice(2, "ada")),
            Fact("invoice.paid", _invoice(3, "bo")),
            Fact("invoice.paid", _invoice(4, "cy")),
            Fact("invoice.paid", _invoice(5, "ada", "250")),
        ),
    ),
    Scene(
        "Ada upgrades, and the CRM is down",
        "After three attempts the bus gives up on this one delivery. It is kept, with its error, "
        "as a dead letter; the others are done.",
        (
            Fact(
                "customer.subscription.upgraded",
                _subscription("active", plan="pro"),
                {"plan": "basic"},
            ),
        ),
    ),
    Scene(
        "A break, and a partner that hangs",
        "tell_partner has timeout=0.4. Without it, the second event would wait for ever behind "
        "the first.",
        (
            Fact("customer.subscription.paused", _subscription("paused", plan="pro")),
            Fact("customer.subscription.resumed", _subscription("active", plan="pro")),
        ),
    ),
    Scene(
        "Ada leaves",
        "One event causes another, which other handlers see: nobody calls anybody.",
        (Fact("customer.subscription.deleted", _subscription("canceled", plan="pro")),),
    ),
)


async def tell(console: Console) -> None:
    """Run the shop through all scenes, and show what happens. Takes a few seconds."""
    shop.outside.break_down()
    stage = Stage(console, shop.bus)
    shop.watch.audience = stage
    try:
        with _quiet_log(), stage:
            async with shop.bus, open_door(shop.bus) as door:
                requests = [await _play(stage, door, scene) for scene in SCENES]
                await _knock(stage, door, requests[-1])
                await _repair(stage)
            stage.finish()
    finally:
        shop.watch.audience = Hook()


async def _play(stage: Stage, door: Door, scene: Scene) -> SignedRequest:
    """Play a scene. Returns its last request."""
    stage.scene(scene.title, scene.text)
    requests = [door.sign(payment_kit_event(fact)) for fact in scene.facts]
    if scene.shows_payload:
        stage.request(requests[0])
    if scene.code is not None:
        stage.code(scene.code)
    await stage.pause()
    for request in requests:
        stage.posted(request, "signed by Payment Kit")
        answer = await door.post(request)
        assert answer == '200 {"accepted":true}', answer
    await shop.bus.settle()
    return requests[-1]


async def _knock(stage: Stage, door: Door, request: SignedRequest) -> None:
    stage.scene(
        "Somebody else at the door",
        "The last request comes once more, as senders do that missed the answer, and attackers "
        "that were listening. Then with another body. Neither reaches a handler.",
    )
    await stage.pause()
    forged = request._replace(body=request.body.replace(b"cus_ada", b"cus_eve"))
    for each, who in ((request, "the same again"), (forged, "forged")):
        stage.posted(each, who)
        stage.answered(await door.post(each))


async def _repair(stage: Stage) -> None:
    letters = list(shop.bus.dead_letters)
    stage.scene(
        "The morning after",
        f"CRM and partner work again. {len(letters)} dead letters were kept; "
        "bus.redeliver(letter) hands each to its own handler once more.",
    )
    await stage.pause()
    shop.outside.repair()
    for letter in letters:
        stage.letter(letter)
        await shop.bus.redeliver(letter)
        await shop.bus.settle()


def payment_kit_event(fact: Fact) -> dict[str, Any]:
    """The envelope in which Payment Kit's own event bus would hand the fact over."""
    names = {"cs": "CheckoutSession", "sub": "Subscription", "in": "Invoice"}
    subject = fact.object["id"]
    return {
        "id": f"evt_{fact.type.replace('.', '_')}_{subject}",
        "type": fact.type,
        "source": shop.PAYMENT_KIT_DID,
        "spec_version": "1.0.0",
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "object_type": names[subject.partition("_")[0]],
        "object_id": subject,
        "data": {
            "type": "application/json",
            "object": fact.object,
            "previous_attributes": fact.before,
        },
    }


@contextmanager
def _quiet_log() -> Iterator[None]:
    """The failures of the demo are part of the show: the stage tells them, not the log."""
    logger = logging.getLogger("eventbus")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
