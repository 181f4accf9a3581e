"""Cascades: what handlers publish because of an event, and how much of it there may be.

A publication that is made in a handler is *nested*. Its parent is the publication which that
handler handles, its root the one with which all began. A root is charged for the nested deliveries
that are pending, so that handlers that publish to each other without end are stopped; and each
publication counts its children, so that somebody can wait for all that it has caused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from eventbus.errors import CascadeOverflow

if TYPE_CHECKING:
    from eventbus._engine import Engine
    from eventbus.receipt import Receipt


class Cascade:
    """What ties a publication to its parent and to its children. Most have neither, and no ties."""

    __slots__ = ("charge", "children", "depth", "parent", "pending", "root")

    def __init__(self) -> None:
        self.root: Receipt | None = None
        """Of a nested publication, until it has given back its charge; None for a root."""
        self.parent: Receipt | None = None
        """The publication in whose handler this one was made, until its own cascade has ended."""
        self.depth = 0
        """How many events caused it, one after the other."""
        self.charge = 0
        """What its root was charged for it: its deliveries, those to streams included."""
        self.children = 0
        """Nested publications made here whose cascades have not ended."""
        self.pending = 0
        """On a root: the deliveries of its unfinished nested publications."""


def check(bus: Engine, parent: Receipt, deliveries: int) -> None:
    """Raise ``CascadeOverflow`` if one more nested event would be too many."""
    ties = parent._cascade
    if ties is None:
        root, pending, depth = parent, 0, 0
    else:
        root, depth = ties.root or parent, ties.depth
        pending = _ties(root).pending
    if pending + deliveries > bus._cascade_limit:
        raise CascadeOverflow(
            f"{root.event!r} has caused {pending} deliveries of events that are not through, "
            f"and cascade_limit={bus._cascade_limit}: {_ENDLESS}"
        )
    if depth >= bus._cascade_depth:
        raise CascadeOverflow(
            f"{parent.event!r} is number {depth} of a chain that began with "
            f"{root.event!r}, and cascade_depth={bus._cascade_depth}: {_ENDLESS}"
        )


_ENDLESS = "do handlers publish to each other without end?"


def nest(receipt: Receipt, parent: Receipt, deliveries: int) -> None:
    """Hang a publication under the one in whose handler it is made, and charge its root."""
    above = _ties(parent)
    ties = receipt._cascade = Cascade()
    ties.root = above.root or parent
    ties.depth = above.depth + 1
    ties.charge = deliveries
    _ties(ties.root).pending += deliveries
    if receipt._total:
        ties.parent = parent
        above.children += 1


def _ties(receipt: Receipt) -> Cascade:
    ties = receipt._cascade
    if ties is None:
        ties = receipt._cascade = Cascade()
    return ties


def give_back_charge(receipt: Receipt) -> None:
    """A publication is over, readers of streams included: if nested, its root may have more."""
    ties = receipt._cascade
    if ties is not None and ties.root is not None:
        _ties(ties.root).pending -= ties.charge
        ties.root = None


def leave(receipt: Receipt) -> Iterator[Receipt]:
    """The cascade of a publication has ended: find those above of which it was the last part."""
    ties = receipt._cascade
    while ties is not None and ties.parent is not None:
        parent, ties.parent = ties.parent, None
        ties = _ties(parent)
        ties.children -= 1
        if not parent.cascade_done:
            return
        yield parent


def is_caused_by(receipt: Receipt, cause: Receipt | None) -> bool:
    """Whether a publication was made, however indirectly, in a handler of another."""
    ties = receipt._cascade
    while ties is not None and ties.parent is not None:
        if ties.parent is cause:
            return True
        ties = ties.parent._cascade
    return False
