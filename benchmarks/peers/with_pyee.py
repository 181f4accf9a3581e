"""pyee: a task per handler and event, and a set of those that have not ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers._adapter import TOPIC, Adapter, load

if TYPE_CHECKING:
    from benchmarks._handlers import Handler, Kind


class Pyee(Adapter):
    """``emit``; handlers that are ``def`` run in it, others as tasks."""

    name = "pyee"
    distribution = "pyee"
    module = "pyee.asyncio"
    lacks = "no order, no bound, awaits only all; def: no isolation"

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.emitter = load("pyee.asyncio").AsyncIOEventEmitter()

    def subscribe(self, topic: str, handler: Handler) -> Handler:
        self.emitter.on(topic, handler)
        return handler

    def unsubscribe(self, topic: str, subscribed: Any) -> None:
        self.emitter.remove_listener(topic, subscribed)

    async def publish_one(self, value: float) -> None:
        self.emitter.emit(TOPIC, value)

    async def publish_all(self, events: int) -> None:
        """Then wait until the set is empty."""
        emit = self.emitter.emit
        for number in range(events):
            emit(TOPIC, number)
        await self.emitter.wait_for_complete()

    async def publish_each(self, events: int) -> None:
        """The same for each event: nothing else is in flight."""
        for number in range(events):
            self.emitter.emit(TOPIC, number)
            await self.emitter.wait_for_complete()
