"""The workloads, in the order in which they run.

To add one, write a module with a `Workload`: a name for ``--only``, a title, and a function that
yields its cases for some `Settings` (a tiny one of each when ``settings.quick``). A case names its
contenders, ours first; a contender's ``prepare`` sets it up on the running loop and returns the
function that makes one round. `timed` makes one from any coroutine function that repeats work.
Then add it to the tuple below and to the table in README.md, which a test compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.workloads import (
    burst,
    endurance,
    importing,
    latency,
    matching,
    sleeping,
    subscribing,
    threads,
    typed,
    waiting,
    webhooks,
)

if TYPE_CHECKING:
    from benchmarks._measure import Workload

__all__ = ["WORKLOADS"]

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        burst.ASYNC,
        burst.DEF,
        waiting.WORKLOAD,
        sleeping.WORKLOAD,
        matching.WORKLOAD,
        subscribing.WORKLOAD,
        latency.WORKLOAD,
        threads.WORKLOAD,
        endurance.WORKLOAD,
        importing.WORKLOAD,
        typed.WORKLOAD,
        webhooks.WORKLOAD,
    )
}
