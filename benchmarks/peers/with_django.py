"""Django's signals: receivers get keywords; ``asend`` gathers the async ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks._handlers import make_keyword_handler
from benchmarks.peers._adapter import TOPIC, Sending, load

if TYPE_CHECKING:
    from benchmarks._handlers import Handler, Kind


class Django(Sending):
    """``asend`` for ``async def``, ``send`` for ``def``."""

    name = "django"
    distribution = "django"
    module = "django.dispatch"
    lacks = "no order, no bound, no queue; first error only"

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.imported = load("django.dispatch")
        self.signals: dict[str, Any] = {}

    def make_handler(self) -> Handler:
        return make_keyword_handler(self.kind)

    def subscribe(self, topic: str, handler: Handler) -> Handler:
        """With a strong reference: by default, a closure would vanish."""
        signal = self.signals.get(topic)
        if signal is None:
            signal = self.signals[topic] = self.imported.Signal()
        signal.connect(handler, weak=False)
        return handler

    def unsubscribe(self, topic: str, subscribed: Any) -> None:
        self.signals[topic].disconnect(subscribed)

    async def send(self, value: float) -> None:
        await self.signals[TOPIC].asend(None, event=value)

    async def publish_each(self, events: int) -> None:
        signal = self.signals[TOPIC]
        if self.kind == "def":
            for number in range(events):
                signal.send(None, event=number)
            return
        for number in range(events):
            await signal.asend(None, event=number)
