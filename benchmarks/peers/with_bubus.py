"""bubus: the ancestor of abxbus, with one lock for all buses of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.peers._adapter import Adapter, load
from benchmarks.peers.with_abxbus import _class_name, _new_event

if TYPE_CHECKING:
    from benchmarks._handlers import Handler, Kind


class Bubus(Adapter):
    """With parallel handlers and its default history. It refuses the 51st waiting event."""

    name = "bubus"
    distribution = "bubus"
    module = "bubus"
    lacks = "no wildcards; 50 events, then refuses; one at a time"
    burst = 40
    deliveries = 100

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        library = load("bubus")
        self.event = _new_event(library)
        self.bus = library.EventBus(parallel_handlers=True)

    def subscribe(self, topic: str, handler: Handler) -> None:
        """By the name of the event's class. There is no way back."""
        self.bus.on(_class_name(topic), handler)

    async def publish_all(self, events: int) -> None:
        for event in [self.bus.dispatch(self.event(number=number)) for number in range(events)]:
            await event

    async def publish_each(self, events: int) -> None:
        for number in range(events):
            await self.bus.dispatch(self.event(number=number))

    async def aclose(self) -> None:
        """Stop its loop, and let go of the bus, which is kept for ever otherwise."""
        await self.bus.stop(clear=True)
