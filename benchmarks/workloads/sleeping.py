"""Workload 4: handlers that wait, as those of applications do. Ideal is the time of one wait."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks._measure import MS, Case, Goal, Settings, Workload
from benchmarks.peers import Gather, TaskGroup
from benchmarks.workloads._dispatch import dispatch_case


def sleeping(settings: Settings) -> Iterator[Case]:
    """100 handlers that each sleep 10 ms: one event, then 100 at once, with ``concurrency=100``."""
    handlers = settings.pick(100, 5)
    for events in (1, settings.pick(100, 3)):
        yield dispatch_case(
            f"{handlers} handlers x {events} event{'s'[: events > 1]} of 10 ms",
            "publish_at_once",
            "sleep",
            handlers,
            settings,
            floors=(Gather, TaskGroup),
            events=events,
            goals=[Goal(against=TaskGroup.name, at_least=1.4, aim=1.2)] if events > 1 else (),
            per_event=True,
            figure=MS,
        )


WORKLOAD = Workload(
    name="sleep",
    title="concurrent handlers that sleep 10 ms, until the last is done",
    cases=sleeping,
)
