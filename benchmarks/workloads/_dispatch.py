"""What the workloads that publish to no-op or sleeping handlers share: a case for all adapters."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import peers
from benchmarks._measure import US, Case, Contender, Figure, Goal, Round, Settings, timed
from benchmarks.peers import TOPIC, Adapter

if TYPE_CHECKING:
    from benchmarks._handlers import Kind

BUSES = tuple(Goal(against=name, at_least=0.01) for name in ("abxbus", "bubus"))
"""Where handlers do nothing. Those that wait cost the same on every bus."""


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
    adapters: list[type[Adapter]] = [peers.Ours, *peers.installed(), *floors]
    refusals = {
        adapter.name: _refusal(adapter, kind, events if per_event else 1) for adapter in adapters
    }
    work = _Work(way, kind, handlers, events, per_event)
    return Case(
        label=label,
        figures=[figure],
        goals=[*goals, *(BUSES if kind in {"async", "def"} else ())],
        collecting=collecting,
        left_out={name: reason for name, reason in refusals.items() if reason},
        contenders=[
            Contender(
                name=adapter.name,
                role=adapter.role,
                lacks=adapter.lacks,
                prepare=partial(_prepare, adapter, work, settings),
            )
            for adapter in adapters
            if not refusals[adapter.name]
        ],
    )


def _refusal(adapter: type[Adapter], kind: Kind, events: int) -> str | None:
    if events > adapter.burst:
        return f"takes {adapter.burst} events at once"
    return adapter.refuses(kind, events)


@dataclass(frozen=True, slots=True)
class _Work:
    """What each adapter does; see `dispatch_case`."""

    way: str
    kind: Kind
    handlers: int
    events: int
    per_event: bool


async def _prepare(
    adapter: type[Adapter], work: _Work, settings: Settings, stack: AsyncExitStack
) -> Round:
    async with AsyncExitStack() as proof:
        await peers.prove(await _open(adapter, work, proof), work.way, min(work.handlers, 3))
    contender = await _open(adapter, work, stack)
    for _ in range(work.handlers):
        contender.subscribe(TOPIC, contender.make_handler())
    events = work.events if work.per_event else adapter.events_for(work.handlers, work.events)
    publish = getattr(contender, work.way)

    async def repeat(times: int) -> None:
        for _ in range(times):
            await publish(events)

    return timed(repeat, 1 if work.per_event else events * work.handlers, settings)


async def _open(adapter: type[Adapter], work: _Work, stack: AsyncExitStack) -> Adapter:
    contender = adapter(work.kind)
    stack.push_async_callback(contender.aclose)
    return contender
