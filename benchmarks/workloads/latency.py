"""Workload 7: from the call of publish to the first line of each handler, with 10 handlers.

The load is open: events are due at fixed times, and who is late publishes what is due and gives
the loop a turn, as requests that come in would. Once at 1,000 events a second, and once at half of
what the slowest of the contenders can do, measured before, which is the same rate for all.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import peers
from benchmarks._measure import Case, Contender, Figure, Goal, Round, Settings, Workload
from benchmarks.peers import TOPIC, Adapter

if TYPE_CHECKING:
    from benchmarks._handlers import Handler

HANDLERS = 10
COMPARED = ("pyee", "blinker", "pymitter")
FIGURES = (Figure("µs p50", 1e6), Figure("µs p99", 1e6))


def latency(settings: Settings) -> Iterator[Case]:
    """The two rates."""
    for label, rate in (("1,000 a second", 1_000.0), ("half load of the slowest", None)):
        capacities: list[float] = []
        adapters: list[type[Adapter]] = [
            peers.Ours,
            *(peer for peer in peers.installed() if peer.name in COMPARED),
            peers.Serial,
            peers.Gather,
        ]
        yield Case(
            label=f"{HANDLERS} handlers, {label}",
            figures=FIGURES,
            goals=[Goal(against="pyee", at_least=1.0)] if rate else [],
            contenders=[
                Contender(
                    name=adapter.name,
                    role=adapter.role,
                    lacks=adapter.lacks,
                    prepare=partial(_prepare, adapter, rate, capacities, settings),
                )
                for adapter in adapters
            ],
        )


async def _prepare(
    adapter: type[Adapter],
    rate: float | None,
    capacities: list[float],
    settings: Settings,
    stack: AsyncExitStack,
) -> Round:
    seconds: list[float] = []
    contender = adapter("async")
    stack.push_async_callback(contender.aclose)
    for _ in range(HANDLERS):
        contender.subscribe(TOPIC, _make_handler(adapter, seconds))
    if rate is None:
        capacities.append(await _capacity(contender, settings.pick(2_000, 20)))

    async def run() -> tuple[float, float]:
        seconds.clear()
        await _publish_openly(contender, rate or min(capacities) / 2, settings.pick(400, 10) / 1e3)
        assert len(seconds) % HANDLERS == 0, f"{adapter.name}: a handler has not begun"
        return statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]

    return run


def _make_handler(adapter: type[Adapter], seconds: list[float]) -> Handler:
    """Notes how long ago the event was published; its payload says when that was."""
    now: Callable[[], float] = time.perf_counter

    async def note_data(event: Any) -> None:
        seconds.append(now() - event.data)

    async def note(event: Any) -> None:
        seconds.append(now() - event)

    return note_data if adapter is peers.Ours else note


async def _capacity(contender: Adapter, events: int) -> float:
    """Events a second, one burst of them."""
    before = time.perf_counter()
    await contender.publish_all(min(events, contender.burst))
    return min(events, contender.burst) / (time.perf_counter() - before)


async def _publish_openly(contender: Adapter, rate: float, seconds: float) -> None:
    start = time.perf_counter()
    events = max(1, round(rate * seconds))
    published = 0
    while published < events:
        due = min(events, int((time.perf_counter() - start) * rate) + 1)
        while published < due:
            await contender.publish_one(time.perf_counter())
            published += 1
        await asyncio.sleep(max(0.0, start + published / rate - time.perf_counter()))
    await asyncio.sleep(0.01)  # what was published last has begun


WORKLOAD = Workload(name="latency", title="from publish to the start of a handler", cases=latency)
