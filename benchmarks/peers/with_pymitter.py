"""pymitter: a tree of topics; ``emit_async`` gathers what the handlers return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers._adapter import TOPIC, Sending, load

if TYPE_CHECKING:
    from benchmarks._handlers import Handler, Kind


class Pymitter(Sending):
    """Without wildcards here, which is its default and the quicker way."""

    name = "pymitter"
    distribution = "pymitter"
    module = "pymitter"
    lacks = "no order, no bound, no queue; first error only"

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.emitter = load("pymitter").EventEmitter()

    def subscribe(self, topic: str, handler: Handler) -> Handler:
        self.emitter.on(topic, handler)
        return handler

    def unsubscribe(self, topic: str, subscribed: Any) -> None:
        self.emitter.off(topic, subscribed)

    async def send(self, value: float) -> None:
        await self.emitter.emit_async(TOPIC, value)

    async def publish_each(self, events: int) -> None:
        """With the call that a running loop allows; ``emit`` for ``def`` handlers."""
        if self.kind == "def":
            for number in range(events):
                self.emitter.emit(TOPIC, number)
            return
        for number in range(events):
            await self.emitter.emit_async(TOPIC, number)
