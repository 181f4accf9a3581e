"""blinker: the sender calls or awaits the receivers one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers._adapter import TOPIC, Sending, load

if TYPE_CHECKING:
    from benchmarks._handlers import Handler, Kind


class Blinker(Sending):
    """``send_async`` for ``async def``, ``send`` for ``def``. The event is the sender."""

    name = "blinker"
    distribution = "blinker"
    module = "blinker"
    lacks = "serial, no order, no isolation, no queue"

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.namespace = load("blinker").Namespace()
        self.signal = self.namespace.signal(TOPIC)

    def subscribe(self, topic: str, handler: Handler) -> Handler:
        """With a strong reference: by default, a closure would vanish."""
        self.namespace.signal(topic).connect(handler, weak=False)
        return handler

    def unsubscribe(self, topic: str, subscribed: Any) -> None:
        self.namespace.signal(topic).disconnect(subscribed)

    async def send(self, value: float) -> None:
        await self.signal.send_async(value)

    async def publish_each(self, events: int) -> None:
        if self.kind == "def":
            send = self.signal.send
            for number in range(events):
                send(number)
            return
        send_async = self.signal.send_async
        for number in range(events):
            await send_async(number)
