"""What a delivery costs: ``python -m benchmarks``.

Two ways to use a bus, each with 1, 10 and 100 handlers that do nothing:

burst             publish many events, then settle once
publish_and_wait  publish one event and wait for its outcomes, then the next
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import platform
import statistics
import time
from typing import TYPE_CHECKING, Any

from eventbus import EventBus, __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventbus import Event

HANDLERS = (1, 10, 100)
BURST = 1_000  # events between two settles: fewer than a queue holds, so that nobody waits
TOPIC = "invoice.paid"


async def do_nothing(event: Event[Any]) -> None:
    """The cheapest handler, so that what is measured is the bus."""


def new_bus(handlers: int) -> EventBus:
    """A bus with so many handlers on one topic."""
    bus = EventBus()
    for _ in range(handlers):
        bus.subscribe(do_nothing, TOPIC)
    return bus


async def burst(bus: EventBus, events: int) -> None:
    """Publish in bursts; settle after each."""
    for start in range(0, events, BURST):
        for number in range(start, min(start + BURST, events)):
            await bus.publish(TOPIC, number)
        await bus.settle()


async def publish_and_wait(bus: EventBus, events: int) -> None:
    """Wait for the outcomes of each event before the next one."""
    for number in range(events):
        await bus.publish_and_wait(TOPIC, number)


WAYS: dict[str, Callable[[EventBus, int], Awaitable[None]]] = {
    "burst": burst,
    "publish_and_wait": publish_and_wait,
}


async def measure(way: str, handlers: int, events: int) -> float:
    """Seconds per delivery of one run, after a warm-up."""
    bus = new_bus(handlers)
    await WAYS[way](bus, max(1, events // 10))
    gc.collect()
    gc.disable()  # it costs by the size of the whole heap, which is not the bus's
    try:
        before = time.perf_counter()
        await WAYS[way](bus, events)
        return (time.perf_counter() - before) / (events * handlers)
    finally:
        gc.enable()


def main() -> None:
    """Measure and print a table, with the machine it was measured on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--deliveries", type=int, default=100_000, help="per measurement")
    parser.add_argument("--repeat", type=int, default=5, help="the median of so many is shown")
    arguments = parser.parse_args()
    print(
        f"eventbus {__version__}, {platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}; garbage collector off"
    )
    print(f"{'way':<18}{'handlers':>9}{'us/delivery':>13}{'deliveries/s':>14}")
    for way in WAYS:
        for handlers in HANDLERS:
            events = max(1, arguments.deliveries // handlers)
            seconds = statistics.median(
                asyncio.run(measure(way, handlers, events)) for _ in range(arguments.repeat)
            )
            print(f"{way:<18}{handlers:>9}{seconds * 1e6:>13.2f}{1 / seconds:>14,.0f}")


if __name__ == "__main__":
    main()
