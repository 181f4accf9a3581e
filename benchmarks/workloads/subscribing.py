"""Workload 6: what subscriptions cost: to make, to end, and to have.

Handlers and topics are made beforehand and not counted. Memory is what tracemalloc saw, tracked
objects are those that the garbage collector goes through, and an idle subscription should have no
task. Peers whose time or memory grows faster than the number of subscriptions hold fewer.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial

from benchmarks import peers
from benchmarks._measure import Case, Contender, Figure, Goal, Round, Settings, Workload
from benchmarks.peers import Adapter

BATCH = 500

Prepare = Callable[[type[Adapter], AsyncExitStack], Awaitable[Round]]


def subscribing(settings: Settings) -> Iterator[Case]:
    """Rates, then memory with a topic for each, then memory on one topic."""
    present = settings.pick(10_000, 50)
    yield _case(
        f"rates, each its own topic, {present:,} present",
        [Figure("µs subs", 1e6), Figure("µs unsub", 1e6)],
        partial(_prepare_rates, present, settings.pick(BATCH, 10)),
    )
    ours, theirs = settings.pick(100_000, 100), settings.pick(10_000, 100)
    figures = [Figure("bytes"), Figure("tracked"), Figure("tasks")]
    idle = Goal(at_least=0, figure=2)
    yield _case(
        f"memory, each its own topic, {ours:,} (peers {theirs:,})",
        figures,
        partial(_prepare_memory, ours, theirs, False),
        goals=[Goal(at_least=600, aim=450), idle],
        once=True,
    )
    theirs = settings.pick(2_000, 100)
    yield _case(
        f"memory, all on one topic, {ours:,} (peers {theirs:,})",
        figures,
        partial(_prepare_memory, ours, theirs, True),
        goals=[Goal(at_least=450, aim=350), idle],
        once=True,
    )


def _case(
    label: str,
    figures: list[Figure],
    prepare: Prepare,
    *,
    goals: Sequence[Goal] = (),
    once: bool = False,
) -> Case:
    adapters: list[type[Adapter]] = [peers.Ours, *peers.installed(), peers.Serial]
    return Case(
        label=label,
        figures=figures,
        goals=goals,
        once=once,
        contenders=[
            Contender(
                name="floor: dict of lists" if adapter is peers.Serial else adapter.name,
                role=adapter.role,
                prepare=partial(prepare, adapter),
            )
            for adapter in adapters
        ],
    )


async def _prepare_rates(
    present: int, batch: int, adapter: type[Adapter], stack: AsyncExitStack
) -> Round:
    contender = _open(adapter, stack)
    for number in range(present):
        contender.subscribe(f"present.t{number}", contender.make_handler())
    topics = [f"new.t{number}" for number in range(batch)]

    async def run() -> tuple[float, float]:
        new = [(topic, contender.make_handler()) for topic in topics]
        start = time.perf_counter()
        handles = [contender.subscribe(topic, handler) for topic, handler in new]
        middle = time.perf_counter()
        try:
            for topic, handle in zip(topics, handles, strict=True):
                contender.unsubscribe(topic, handle)
        except NotImplementedError:
            return (middle - start) / batch, math.nan
        return (middle - start) / batch, (time.perf_counter() - middle) / batch

    return run


async def _prepare_memory(
    ours: int, theirs: int, shared: bool, adapter: type[Adapter], stack: AsyncExitStack
) -> Round:
    async def run() -> tuple[float, float, float]:
        contender = _open(adapter, stack)
        number = theirs if adapter.role == "peer" else ours
        handlers = [contender.make_handler() for _ in range(number)]
        for handler in handlers:
            _ = handler.__annotations__  # the function's own, made when it is first read
        topics = ["topic.t" if shared else f"topic.t{each}" for each in range(number)]
        tasks, tracked = len(asyncio.all_tasks()), _tracked()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for topic, handler in zip(topics, handlers, strict=True):
            contender.subscribe(topic, handler)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        more_tasks = len(asyncio.all_tasks()) - tasks
        return (after - before) / number, (_tracked() - tracked) / number, more_tasks

    return run


def _tracked() -> int:
    gc.collect()
    return len(gc.get_objects())


def _open(adapter: type[Adapter], stack: AsyncExitStack) -> Adapter:
    contender = adapter("async")
    stack.push_async_callback(contender.aclose)
    return contender


WORKLOAD = Workload(
    name="subscribing",
    title="subscribe and unsubscribe, and what a subscription holds",
    cases=subscribing,
)
