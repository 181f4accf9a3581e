"""Workload 11: handlers annotated ``Event[Model]``, whose payload pydantic validates.

The floor validates once for each delivery and awaits a handler, and does nothing else. Ours
validates once for each event and model, and gives each handler an event with the model in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial

from pydantic import BaseModel

from benchmarks._handlers import Handler, make_handler
from benchmarks._measure import US, Case, Contender, Round, Settings, Workload, timed
from eventbus import Event, EventBus

TOPIC = "invoice.paid"
PAYLOAD = {"id": "in_1", "customer": "cus_1", "amount": 1_000}


class Invoice(BaseModel):
    """A payload of the usual size for an event that carries ids."""

    id: str
    customer: str
    amount: int


def make_typed_handler() -> Handler:
    """A new handler that asks for the model."""

    async def handle(event: Event[Invoice]) -> None:
        pass

    return handle


def typed(settings: Settings) -> Iterator[Case]:
    """A burst to 1 and 10 handlers; dict data, as a webhook brings it."""
    for handlers in (1, 10):
        yield Case(
            label=f"burst, {handlers} async handler{'s'[: handlers > 1]} of Event[Model]",
            figures=[US],
            contenders=[
                Contender(
                    name="eventbus",
                    role="ours",
                    prepare=partial(_prepare, handlers, make_typed_handler, settings),
                ),
                Contender(
                    name="eventbus, untyped",
                    role="floor",
                    lacks="no validation",
                    prepare=partial(_prepare, handlers, partial(make_handler, "async"), settings),
                ),
                Contender(
                    name="floor: pydantic",
                    role="floor",
                    lacks="model_validate and await, per delivery, in series",
                    prepare=partial(_prepare_floor, handlers, settings),
                ),
            ],
        )


async def _prepare(
    handlers: int, make: Callable[[], Handler], settings: Settings, stack: AsyncExitStack
) -> Round:
    bus = EventBus()
    for _ in range(handlers):
        bus.subscribe(make(), TOPIC)
    events = settings.pick(1_000, 10)

    async def work(times: int) -> None:
        for _ in range(times):
            for _ in range(events):
                await bus.publish(TOPIC, PAYLOAD)
            await bus.settle()

    return timed(work, events * handlers, settings)


async def _prepare_floor(handlers: int, settings: Settings, stack: AsyncExitStack) -> Round:
    handlings = [make_handler("async") for _ in range(handlers)]

    async def work(times: int) -> None:
        for _ in range(times):
            for handler in handlings:
                await handler(Invoice.model_validate(PAYLOAD))

    return timed(work, handlers, settings)


WORKLOAD = Workload(
    name="typed", title="typed handlers, per delivery, against bare pydantic", cases=typed
)
