"""Workload 9: many events through one bus, and how much memory the process has over time.

In a process of its own, so that the holes that other workloads left in the heap hide nothing, with
the garbage collector on. A tenth of the events is the warm-up; growth is counted from there.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from benchmarks import peers
from benchmarks._measure import Case, Contender, Figure, Goal, Round, Settings, Workload

PARTS = 10
MIB = 2.0**20

SCRIPT = """
import asyncio, json, sys
from benchmarks.workloads.endurance import endure
print(json.dumps(asyncio.run(endure(int(sys.argv[1])))))
"""


def resident() -> int:
    """Bytes of memory that the process has; where only the peak is known, the peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
    return pages * os.sysconf("SC_PAGE_SIZE")


async def endure(events: int) -> dict[str, list[float]]:
    """Publish, and note the resident memory, in bytes, and the seconds of each tenth."""
    contender = peers.Ours("async")
    contender.subscribe(peers.TOPIC, contender.make_handler())
    sizes, seconds = [], []
    for _ in range(PARTS):
        before = time.perf_counter()
        for _ in range(max(1, events // PARTS // contender.burst)):
            await contender.publish_all(contender.burst)
        sizes.append(float(resident()))
        seconds.append(time.perf_counter() - before)
    return {"bytes": sizes, "seconds": seconds}


def endurance(settings: Settings) -> Iterator[Case]:
    """One row, with one figure for each thing of interest."""
    figures = [
        Figure("MiB more", 1 / MIB),
        *(Figure(f"MiB {part}0%", 1 / MIB) for part in (1, 4, 7, 10)),
        Figure("µs/event", 1e6),
    ]
    yield Case(
        label=f"{settings.events:,} events, 1 async handler",
        figures=figures,
        goals=[Goal(at_least=2.0)],
        once=True,
        contenders=[
            Contender(name="eventbus", role="ours", prepare=partial(_prepare, settings.events))
        ],
    )


async def _prepare(events: int, stack: AsyncExitStack) -> Round:
    async def run() -> list[float]:
        command = [sys.executable, "-c", SCRIPT, str(events)]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=True
        )
        noted = json.loads(done.stdout)
        sizes, seconds = noted["bytes"], noted["seconds"]
        growth = max(sizes) - sizes[0]
        return [growth, sizes[0], sizes[3], sizes[6], sizes[9], sum(seconds) / events]

    return run


WORKLOAD = Workload(
    name="endurance", title="many events through one bus: resident memory", cases=endurance
)
