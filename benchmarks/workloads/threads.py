"""Workload 8: publishing from other threads, which returns once the event is accepted.

The floors are what asyncio itself offers: a coroutine run on the loop for each event, which also
returns when it is done, and a callback that nobody waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial

from benchmarks import peers
from benchmarks._handlers import make_handler
from benchmarks._measure import US, Case, Contender, Round, Settings, Workload, timed
from benchmarks.peers import TOPIC

CANNOT = {
    "pyee": "raises off its loop",
    "blinker": "runs def receivers in the calling thread, async ones not at all",
    "django": "runs def receivers in the calling thread, async ones on a loop of their own",
    "pymitter": "runs handlers in the calling thread",
    "psygnal": "its queue is not made for threads",
    "aiosignal": "a coroutine function of its loop",
    "abxbus": "raises off its loop",
    "bubus": "raises off its loop",
}

Publish = Callable[[int], object]
"""Publishes one event; called in a thread."""


def from_threads(settings: Settings) -> Iterator[Case]:
    """From one thread, and from eight at the same time; one handler."""
    for threads in (1, 8):
        yield Case(
            label=f"{threads} thread{'s'[: threads > 1]}, 1 async handler",
            figures=[US],
            contenders=[
                Contender(
                    name="eventbus", role="ours", prepare=partial(_prepare_ours, threads, settings)
                ),
                Contender(
                    name="floor: run_coroutine",
                    role="floor",
                    lacks="run_coroutine_threadsafe(…).result()",
                    prepare=partial(_prepare_floor, threads, settings, _coroutine),
                ),
                Contender(
                    name="floor: call_soon",
                    role="floor",
                    lacks="call_soon_threadsafe: nobody waits, nothing is bounded",
                    prepare=partial(_prepare_floor, threads, settings, _callback),
                ),
            ],
            left_out={each.name: CANNOT[each.name] for each in peers.installed()},
        )


async def _prepare_ours(threads: int, settings: Settings, stack: AsyncExitStack) -> Round:
    contender = peers.Ours("async")
    contender.subscribe(TOPIC, contender.make_handler())
    bus = await stack.enter_async_context(contender.bus)

    def publish(number: int) -> None:
        bus.publish_from_thread(TOPIC, number)

    return _round(threads, settings, publish, stack)


async def _prepare_floor(
    threads: int,
    settings: Settings,
    make: Callable[[asyncio.AbstractEventLoop], Publish],
    stack: AsyncExitStack,
) -> Round:
    return _round(threads, settings, make(asyncio.get_running_loop()), stack)


def _coroutine(loop: asyncio.AbstractEventLoop) -> Publish:
    handler = make_handler("async")
    return lambda number: asyncio.run_coroutine_threadsafe(handler(number), loop).result()


def _callback(loop: asyncio.AbstractEventLoop) -> Publish:
    return partial(loop.call_soon_threadsafe, make_handler("def"))


def _round(threads: int, settings: Settings, publish: Publish, stack: AsyncExitStack) -> Round:
    """All threads publish so many events each; it ends when the last thread has, and the loop."""
    loop = asyncio.get_running_loop()
    pool = stack.enter_context(ThreadPoolExecutor(threads))

    def publish_some(events: int) -> None:
        for number in range(events):
            publish(number)

    async def work(times: int) -> None:
        started = [loop.run_in_executor(pool, publish_some, times) for _ in range(threads)]
        await asyncio.gather(*started)

    return timed(work, threads, settings)


WORKLOAD = Workload(
    name="threads", title="publish_from_thread, per event, until accepted", cases=from_threads
)
