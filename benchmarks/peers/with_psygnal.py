"""psygnal: compiled signals; one queue and one task for the async callbacks of the process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from benchmarks.peers._adapter import TOPIC, Adapter, load

if TYPE_CHECKING:
    from benchmarks._handlers import Handler, Kind


class Psygnal(Adapter):
    """It cannot be waited for: a marker sent behind the events tells when they are done."""

    name = "psygnal"
    distribution = "psygnal"
    module = "psygnal"
    lacks = "serial, no bound, no await (a marker tells)"

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.imported = load("psygnal")
        load("psygnal._async").clear_async_backend()
        self.imported.set_async_backend("asyncio")
        self.signals: dict[str, Any] = {}
        self.marker = self.imported.SignalInstance((object,))
        self.marker.connect(_set_result)

    def _signal(self, topic: str) -> Any:
        signal = self.signals.get(topic)
        if signal is None:
            signal = self.signals[topic] = self.imported.SignalInstance((object,))
        return signal

    def subscribe(self, topic: str, handler: Handler) -> Handler:
        self._signal(topic).connect(handler)
        return handler

    def unsubscribe(self, topic: str, subscribed: Any) -> None:
        self.signals[topic].disconnect(subscribed)

    async def publish_all(self, events: int) -> None:
        emit = self._signal(TOPIC).emit
        for number in range(events):
            emit(number)
        if self.kind != "def":
            await self._marked()

    async def publish_each(self, events: int) -> None:
        for _ in range(events):
            await self.publish_all(1)

    async def _marked(self) -> None:
        done = asyncio.get_running_loop().create_future()
        self.marker.emit(done)
        await done

    async def aclose(self) -> None:
        load("psygnal._async").clear_async_backend()

    @classmethod
    def refuses(cls, kind: Kind, events: int) -> str | None:
        """Callbacks of all events run one after the other."""
        return "serial: all sleeps in turn" if kind == "sleep" and events > 1 else None


async def _set_result(done: asyncio.Future[None]) -> None:
    done.set_result(None)
