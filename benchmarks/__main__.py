"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks._measure import QUICK, Settings, measure
from benchmarks._table import HEAD, Row, format_case, format_summary, rows_of
from benchmarks.workloads import WORKLOADS
from eventbus import __version__

DISCLAIMER = "QUICK RUN: everything ran once and tiny. Its figures MEAN NOTHING."


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="The bus, its peers and the floors of the machine, side by side.",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=sorted(WORKLOADS),
        metavar="WORKLOAD",
        help=f"run this workload alone; may be repeated: {', '.join(WORKLOADS)}",
    )
    parser.add_argument("--rounds", type=int, help="turns of each contender (default 9)")
    parser.add_argument("--seconds", type=float, help="of one turn (default 0.06)")
    parser.add_argument("--events", type=int, help="of the endurance run (default 10,000,000)")
    parser.add_argument("--subscriptions", type=int, help="at most (default 1,000,000)")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--quick", action="store_true", help="tiny: shows that everything runs")
    parser.add_argument("--json", action="store_true", help="for machines, instead of the table")
    parser.add_argument(
        "--require-peers", action="store_true", help="fail if a peer is not installed"
    )
    return parser


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The defaults of a full or quick run, with what was asked for."""
    given = {
        name: getattr(arguments, name)
        for name in ("rounds", "seconds", "events", "subscriptions")
        if getattr(arguments, name) is not None
    }
    return replace(QUICK if arguments.quick else Settings(), **given)


def environment(loop: str) -> dict[str, Any]:
    """What was measured, and on what."""
    return {
        "eventbus": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "loop": loop,
        "system": f"{platform.system()} {platform.machine()}",
        "processors": f"{os.cpu_count()} x {processor()}",
        "peers": {name: version for name, version in peers.versions().items() if version},
        "absent": peers.absent(),
    }


def processor() -> str:
    """What the system calls its processor."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or "unknown"
    models = [line.partition(":")[2].strip() for line in told.splitlines() if "model name" in line]
    return models[0] if models else platform.machine()


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop of each case."""
    if name == "asyncio":
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = peers.load("uvloop").new_event_loop
    return factory


def run(
    names: list[str], settings: Settings, loop: str, show: Callable[[str], object]
) -> list[Row]:
    """Run workloads, each case on a loop of its own, and show each case as it is done."""
    rows: list[Row] = []
    for name in names:
        show(f"\n{WORKLOADS[name].title}\n{HEAD}")
        for case in WORKLOADS[name].cases(settings):
            with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
                entries = runner.run(measure(case, settings))
            done = list(rows_of(name, case, entries, judge=not settings.quick))
            show(format_case(done))
            rows += done
    return rows


def absence(absent: list[str]) -> str:
    """The peers that are not there, loudly; empty if all are."""
    if not absent:
        return ""
    names = ", ".join(absent)
    return f"!!! NOT INSTALLED, SO NOT COMPARED: {names}. Install: pip install -e '.[bench]'"


def silence_peers() -> None:
    """Keep what peers log and warn out of the table. It only makes them quicker."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def main() -> int:
    """Measure, print, and say whether everything ran."""
    arguments = make_parser().parse_args()
    settings = settings_of(arguments)
    machine = environment(arguments.loop)
    warnings_ = [absence(machine["absent"]), DISCLAIMER if settings.quick else ""]
    silence_peers()

    def show(text: str) -> None:
        if text and not arguments.json:
            print(text, flush=True)

    for text in (describe(machine), *warnings_):
        show(text)
    before = time.perf_counter()
    rows = run(arguments.only or list(WORKLOADS), settings, arguments.loop, show)
    machine["seconds"] = round(time.perf_counter() - before, 1)
    if arguments.json:
        print(json.dumps({"environment": machine, "rows": [asdict(row) for row in rows]}, indent=1))
    elif not settings.quick:
        show("\n" + format_summary(rows))
    show(f"\n{len(rows)} rows in {machine['seconds']:.0f} s; {describe(machine)}")
    failures = [
        f"{row.workload}: {row.case}: {row.contender}: {row.note}" for row in rows if row.failed
    ]
    for text in filter(None, (*failures, *warnings_)):
        print(text, file=sys.stderr)
    return exit_status(rows, machine["absent"], require_peers=arguments.require_peers)


def describe(machine: dict[str, Any]) -> str:
    """The machine and who takes part."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["peers"].items())
    return (
        f"eventbus {machine['eventbus']}, {machine['python']}, {machine['loop']}, "
        f"{machine['system']}, {machine['processors']}; peers: {versions or 'none'}"
    )


def exit_status(rows: list[Row], absent: list[str], *, require_peers: bool) -> int:
    """0 if everything ran. A goal that was missed is no error: machines and days differ."""
    if any(row.failed for row in rows):
        return 1
    return 1 if require_peers and absent else 0


if __name__ == "__main__":
    sys.exit(main())
