"""The bus itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers._adapter import TOPIC, Adapter
from eventbus import EventBus, Subscription

if TYPE_CHECKING:
    from benchmarks._handlers import Handler, Kind


class Ours(Adapter):
    """Through the public API, with the options that an application would give."""

    name = "eventbus"
    role = "ours"
    distribution = "eventbus"
    module = "eventbus"

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.bus = EventBus()

    def subscribe(self, topic: str, handler: Handler) -> Subscription:
        """A handler that sleeps gets a concurrency: events are under way at the same time."""
        return self.bus.subscribe(handler, topic, concurrency=100 if self.kind == "sleep" else 1)

    def unsubscribe(self, topic: str, subscribed: Any) -> None:
        subscribed.unsubscribe()

    async def publish_one(self, value: float) -> None:
        await self.bus.publish(TOPIC, value)

    async def publish_all(self, events: int) -> None:
        publish = self.bus.publish
        for number in range(events):
            await publish(TOPIC, number)
        await self.bus.settle()

    async def publish_each(self, events: int) -> None:
        publish_and_wait = self.bus.publish_and_wait
        for number in range(events):
            await publish_and_wait(TOPIC, number)
