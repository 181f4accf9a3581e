"""Workload 10: the time of ``import eventbus`` in a new process that has anyio and asyncio."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import peers
from benchmarks._measure import MS, Case, Contender, Goal, Round, Settings, Workload

if TYPE_CHECKING:
    from benchmarks.peers import Adapter

SCRIPT = """
import anyio, asyncio, time
before = time.perf_counter()
import {}
print(time.perf_counter() - before)
"""


def importing(settings: Settings) -> Iterator[Case]:
    """What an application imports, peers and two libraries that it may have anyway."""
    adapters: list[type[Adapter]] = [peers.Ours, *peers.installed()]
    modules = {adapter.name: adapter.module for adapter in adapters}
    modules |= {"floor: import pydantic": "pydantic", "floor: import structlog": "structlog"}
    yield Case(
        label="over import anyio, asyncio",
        figures=[MS],
        goals=[Goal(at_least=25, aim=15)],
        contenders=[
            Contender(
                name=name,
                role="floor"
                if name.startswith("floor")
                else "ours"
                if name == "eventbus"
                else "peer",
                lacks=f"import {module}",
                prepare=partial(_prepare, module),
            )
            for name, module in modules.items()
        ],
    )


async def _prepare(module: str, stack: AsyncExitStack) -> Round:
    command = [sys.executable, "-c", SCRIPT.format(module)]
    # Compiling is no part of an import, but for the first of an installation.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    async def run() -> tuple[float]:
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=True, env=env
        )
        return (float(done.stdout),)

    await run()  # compiles it, if nobody has
    return run


WORKLOAD = Workload(name="importing", title="import time", cases=importing)
