"""What commands share: exit statuses, the bus and the file that they are about, and refusals."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from eventbus.cli._load import BusNotFound, load_bus

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.cli._feed import Source

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

Target = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:BUS",
        help="Where the bus is, for example shop.app:bus. Name a module that imports the handlers, "
        "too. The current directory is importable.",
    ),
]


@contextmanager
def opened(name: str) -> Iterator[tuple[Source, int | None]]:
    """The file, unbuffered, and its size in bytes if it has one. Refuses what cannot be opened."""
    if name == "-":
        # The raw file returns what there is, and holds no lock that the end of the process needs.
        yield getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), None
        return
    try:
        file = Path(name).open("rb", buffering=0)  # noqa: SIM115 - closed below
        status = Path(name).stat()
    except (OSError, ValueError) as error:
        refuse(f"cannot open {name!r}: {getattr(error, 'strerror', None) or error}")
    with file:
        yield file, status.st_size if stat.S_ISREG(status.st_mode) else None


def load(target: str) -> EventBus:
    """The bus that ``MODULE:BUS`` names. Refuses what names none; warns if nothing listens to it.

    A bus often stands in a module of its own, which does not import those that subscribe to it.
    """
    try:
        bus = load_bus(target)
    except BusNotFound as error:
        refuse(str(error))
    if not bus.subscriptions:
        cure = "name one that imports the handlers, too"
        typer.echo(f"eventbus: nothing that {target} imports subscribes to it: {cure}", err=True)
    return bus


def refuse(message: str) -> NoReturn:
    """Say what is wrong with the call, and exit with 2."""
    typer.echo(f"eventbus: {message}", err=True)
    raise typer.Exit(USAGE)
