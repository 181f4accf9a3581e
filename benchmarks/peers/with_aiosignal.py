"""aiosignal: a frozen list of coroutine functions, awaited one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers._adapter import TOPIC, Sending, load

if TYPE_CHECKING:
    from benchmarks._handlers import Handler, Kind


class Aiosignal(Sending):
    """The nearest that a library comes to a bare await."""

    name = "aiosignal"
    distribution = "aiosignal"
    module = "aiosignal"
    lacks = "serial, no isolation, no queue; frozen list"

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.imported = load("aiosignal")
        self.signals: dict[str, Any] = {}

    def subscribe(self, topic: str, handler: Handler) -> Handler:
        signal = self.signals.get(topic)
        if signal is None:
            signal = self.signals[topic] = self.imported.Signal(self)
        signal.append(handler)
        return handler

    def unsubscribe(self, topic: str, subscribed: Any) -> None:
        """As from a list, before it is frozen."""
        self.signals[topic].remove(subscribed)

    async def send(self, value: float) -> None:
        signal = self.signals[TOPIC]
        signal.freeze()
        await signal.send(value)

    async def publish_each(self, events: int) -> None:
        signal = self.signals[TOPIC]
        signal.freeze()
        for number in range(events):
            await signal.send(number)

    @classmethod
    def refuses(cls, kind: Kind, events: int) -> str | None:
        """It awaits what handlers return."""
        return "async handlers only" if kind == "def" else None
