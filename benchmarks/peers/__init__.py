"""The contenders: the bus, the floors, and a file for each peer.

`installed` and `absent` say who takes part; nobody is left out in silence.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

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
    "Adapter",
    "Gather",
    "Ours",
    "Role",
    "Serial",
    "TaskGroup",
    "Tasks",
    "absent",
    "installed",
    "load",
    "prove",
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


def is_installed(adapter: type[Adapter]) -> bool:
    """Whether the library of an adapter is there."""
    try:
        adapter.version()
    except PackageNotFoundError:
        return False
    return True


def installed() -> list[type[Adapter]]:
    """The peers that can be compared."""
    return [peer for peer in PEERS if is_installed(peer)]


def absent() -> list[type[Adapter]]:
    """The peers that cannot, because they are not installed."""
    return [peer for peer in PEERS if not is_installed(peer)]
