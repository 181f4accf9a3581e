"""abxbus: events are pydantic models; a loop takes them from a queue and starts their handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers._adapter import TOPIC, Adapter, load

if TYPE_CHECKING:
    from benchmarks._handlers import Handler, Kind


class Abxbus(Adapter):
    """All events and handlers parallel, and the history drops: by default event 101 is refused."""

    name = "abxbus"
    distribution = "abxbus"
    module = "abxbus"
    lacks = "no wildcards, no order as set here; keeps a history"
    burst = 100
    deliveries = 1_000

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        library = load("abxbus")
        self.event = _new_event(library)
        self.bus = library.EventBus(
            event_concurrency="parallel",
            event_handler_concurrency="parallel",
            max_history_drop=True,
            event_handler_detect_file_paths=False,
            warn_on_duplicate_handler_names=False,
        )

    def subscribe(self, topic: str, handler: Handler) -> Any:
        return self.bus.on(_class_name(topic), handler)

    def unsubscribe(self, topic: str, subscribed: Any) -> None:
        self.bus.off(_class_name(topic), subscribed)

    async def publish_all(self, events: int) -> None:
        for event in [self.bus.emit(self.event(number=number)) for number in range(events)]:
            await event

    async def publish_each(self, events: int) -> None:
        for number in range(events):
            await self.bus.emit(self.event(number=number))

    async def aclose(self) -> None:
        await self.bus.destroy()


def _class_name(topic: str) -> str:
    return topic.title().replace(".", "")


def _new_event(library: Any) -> Any:
    """The class of events of `TOPIC`, in the library's documented style."""
    namespace = {"__annotations__": {"number": int}, "number": 0, "__module__": __name__}
    return type(library.BaseEvent)(_class_name(TOPIC), (library.BaseEvent,), namespace)
