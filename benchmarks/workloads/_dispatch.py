"""What the workloads that publish to no-op or sleeping handlers share: a case for all adapters."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

from benchmarks import peers
from benchmarks._handlers import Kind
from benchmarks._measure import US, Case, Contender, Figure, Goal, Round, Settings, timed
from benchmarks.peers import TOPIC, Adapter

HUNDREDTH = 0.01
SLOWER_BY_A_HUNDRED = tuple(Goal(against=name, at_least=HUNDREDTH) for name in ("abxbus", "bubus"))


def dispatch_case(
    label: str,
    way: str,
    kind: Kind,
    handlers: int,
    settings: Settings,
    *,
    floors: Sequence[type[Adapter]],
    events: int = 1,
    goals: Sequence[Goal] = (),
    collecting: bool = False,
    per_event: bool = False,
    figure: Figure = US,
) -> Case:
    """All adapters publish, in one of their three ways, to so many handlers of a kind.

    ``events`` is how many are published before they are waited for, and the figure is per
    delivery, or ``per_event`` set, for all of them.
    """
    adapters = [peers.Ours, *peers.installed(), *floors]
    refusals = {adapter.name: adapter.refuses(way, kind) for adapter in adapters}
    return Case(
        label=label,
        figures=[figure],
        goals=[*goals, *SLOWER_BY_A_HUNDRED],
        collecting=collecting,
        left_out={name: reason for name, reason in refusals.items() if reason},
        contenders=[
            Contender(
                name=adapter.name,
                role=adapter.role,
                lacks=adapter.lacks,
                prepare=partial(
                    _prepare, adapter, way, kind, handlers, events, per_event, settings
                ),
            )
            for adapter in adapters
            if not refusals[adapter.name]
        ],
    )


async def _prepare(
    adapter: type[Adapter],
    way: str,
    kind: Kind,
    handlers: int,
    events: int,
    per_event: bool,
    settings: Settings,
    stack: AsyncExitStack,
) -> Round:
    await _prove(adapter, way, kind, min(handlers, 3))
    contender = await _open(adapter, kind, stack)
    for _ in range(handlers):
        contender.subscribe(TOPIC, contender.make_handler())
    events = min(events, adapter.burst)
    publish = getattr(contender, way)

    async def work(times: int) -> None:
        for _ in range(times):
            await publish(events)

    return timed(work, 1 if per_event else events * handlers, settings)


async def _prove(adapter: type[Adapter], way: str, kind: Kind, handlers: int) -> None:
    async with AsyncExitStack() as stack:
        await peers.prove(await _open(adapter, kind, stack), way, handlers)


async def _open(adapter: type[Adapter], kind: Kind, stack: AsyncExitStack) -> Adapter:
    contender = adapter(kind)
    stack.push_async_callback(contender.aclose)
    return contender
