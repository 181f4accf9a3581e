"""The contenders: the bus, the floors, and a file for each peer.

`installed` and `absent` say who takes part; nobody is left out in silence.
"""

from __future__ import annotations

import importlib.metadata

from benchmarks.peers._adapter import TOPIC, Adapter, Role, load, prove
from benchmarks.peers.floors import Gather, Serial, TaskGroup, Tasks
from benchmarks.peers.ours import Ours
from benchmarks.peers.with_abxbus import Abxbus
from benchmarks.peers.with_aiosignal import Aiosignal
from benchmarks.peers.with_blinker import Blinker
from benchmarks.peers.with_bubus import Bubus
from benchmarks.peers.with_django import Django
from benchmarks.peers.with_psygnal import Psygnal
from benchmarks.peers.with_pyee import Pyee
from benchmarks.peers.with_pymitter import Pymitter

__all__ = [
    "FLOORS",
    "PEERS",
    "TOPIC",
    "VERIFYING",
    "Adapter",
    "Gather",
    "Ours",
    "Role",
    "Serial",
    "TaskGroup",
    "Tasks",
    "absent",
    "installed",
    "is_present",
    "load",
    "prove",
    "versions",
]

PEERS: tuple[type[Adapter], ...] = (
    Pyee,
    Blinker,
    Aiosignal,
    Django,
    Psygnal,
    Pymitter,
    Abxbus,
    Bubus,
)
FLOORS: tuple[type[Adapter], ...] = (Serial, Tasks, Gather, TaskGroup)


MATCHING_ALONE = ("paho-mqtt",)
"""Compared in matching only: its matcher is no bus."""

VERIFYING = ("standardwebhooks", "starlette")
"""Compared in webhooks only: a route made of both."""


def version_of(distribution: str) -> str | None:
    """The installed version of a library; None if there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_present(distribution: str | None) -> bool:
    """Whether a library is installed; what needs none always is."""
    return distribution is None or version_of(distribution) is not None


def installed() -> list[type[Adapter]]:
    """The peers that can be compared as buses."""
    return [peer for peer in PEERS if is_present(peer.distribution)]


def versions() -> dict[str, str | None]:
    """The version of each peer, None for those that are absent."""
    names = [peer.distribution or peer.name for peer in PEERS]
    return {name: version_of(name) for name in (*names, *MATCHING_ALONE, *VERIFYING)}


def absent() -> list[str]:
    """The peers that cannot be compared, because they are not installed."""
    return [name for name, version in versions().items() if version is None]
