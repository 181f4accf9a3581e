"""Whether a handler may wait: a look at who needs whom, made when it is about to.

The graph owns nothing; it is read off the bus at the moment of the question. Its nodes are
deliveries, and the question is which of them *can end*, as far as the bus can see:

- a running delivery can end once all that it waits for can end. One that waits for nothing that
  the bus sees is taken to end by itself;
- a queued delivery can end if its subscription has a place free, or once any running delivery of
  its subscription can end (with ``key``: the one that has its key, if one has);
- an event can end once all its deliveries can end; its cascade, once those of what it caused can;
- a bus can settle once everything pending on it can end.

- a handler that runs in a thread also needs one: while all threads of the bus are at work, the end
  of any of their handlers.

The answer is the least fixpoint of these rules: start with nobody, add whoever can end because of
those already in, until nothing changes. A handler that is not in it when its own wait is counted
would wait for ever, and gets `WouldDeadlock` instead. Computed when a handler waits, and when one
publishes into a cascade for which another waits: that wait has grown, and may only now have become
a deadlock. No other wait can, because every later edge is made by a wait that is looked at itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from eventbus import _cascade
from eventbus._delivery import Delivery, Wait, Work
from eventbus.errors import WouldDeadlock
from eventbus.event import current

if TYPE_CHECKING:
    from eventbus._engine import Engine
    from eventbus.receipt import Receipt
    from eventbus.subscription import Subscription


class waiting:  # noqa: N801 - used like a function: `with waiting(...)`
    """Mark the running delivery, if this code is inside one, as waiting while the block runs.

    Raises ``WouldDeadlock`` instead of entering the block if that wait could never end.
    """

    __slots__ = ("_wait", "_work")

    _cascades: ClassVar[dict[Wait, Delivery]] = {}
    """Who waits for a cascade: such a wait can grow."""

    def __init__(self, wait: Wait) -> None:
        self._wait = wait
        self._work: Work | None = None

    def __enter__(self) -> None:
        delivery = current.get()
        if delivery is None or delivery.status is not None or not delivery.owner.bus._is_here():
            return  # what waits on another loop, in a thread of the handler's, is seen by nobody
        work = delivery.working()
        work.waits = (*work.waits, self._wait)
        refusal = _refusal(delivery)
        if refusal is not None:
            _remove(work, self._wait)
            raise refusal
        self._work = work
        if self._wait.cascade:
            self._cascades[self._wait] = delivery

    def __exit__(self, *_: object) -> None:
        self._cascades.pop(self._wait, None)
        if self._work is not None:
            _remove(self._work, self._wait)

    @classmethod
    def grew(cls, receipt: Receipt) -> None:
        """A handler has published: refuse whoever waits for that cascade, and so now for itself."""
        if not cls._cascades:
            return
        affected = {
            wait: delivery
            for wait, delivery in list(cls._cascades.items())
            if delivery.owner.bus._loop is receipt._bus._loop
            and _cascade.is_caused_by(receipt, wait.receipt)
        }
        if not affected or _Needs(receipt._bus, *_of_receipt(receipt)).needs.keys().isdisjoint(
            affected.values()
        ):
            return
        for wait, delivery in affected.items():
            refusal = _refusal(delivery) if delivery.status is None else None
            if refusal is not None and wait.future is not None and not wait.future.done():
                _remove(delivery.working(), wait)
                del cls._cascades[wait]
                wait.future.set_exception(refusal)


def _remove(work: Work, wait: Wait) -> None:
    """The handler does not wait for this any more, if it still did."""
    work.waits = tuple([each for each in work.waits if each is not wait])


def _refusal(delivery: Delivery) -> WouldDeadlock | None:
    """The error for a delivery that waits for its own end."""
    chain = _Needs(delivery.owner.bus, delivery).chain(delivery)
    if not chain:
        return None
    return WouldDeadlock(
        f"{_name(delivery)} would wait for its own end: {chain}. "
        "Let the handler return first; an event that it has published stays accepted"
    )


class _Needs:
    """The part of the graph that some nodes can reach, and who in it can end."""

    def __init__(self, bus: Engine, *start: Any) -> None:
        self.bus = bus
        """One that is busy on the loop in question."""
        self.needs: dict[Any, list[tuple[Any, ...]]] = {}
        """Per node, its conditions: all must hold, each holds once one of its nodes can end."""
        self._explore(start)
        self.ending = self._fixpoint()

    def _explore(self, start: Iterable[Any]) -> None:
        todo = list(start)
        while todo:
            node = todo.pop()
            if node in self.needs:
                continue
            self.needs[node] = list(self._conditions(node))
            for condition in self.needs[node]:
                todo.extend(condition)

    def _conditions(self, node: Any) -> Iterator[tuple[Any, ...]]:
        """What must hold for a node to end: for each condition, one of its nodes must."""
        if isinstance(node, Delivery):
            for wait in node.work.waits if node.work is not None else ():
                for needed in self._needed(wait):
                    yield (needed,)
            if node.owner._options.thread and not _is_in_thread(node):
                yield from _a_thread(node.owner.bus)
            return
        receipt, subscription = node
        yield from _a_place(receipt, subscription)
        if subscription._options.thread:
            yield from _a_thread(subscription.bus)

    def _needed(self, wait: Wait) -> Iterator[Any]:
        """The deliveries, running or queued, whose ends a wait needs."""
        if wait.receipt is not None:
            yield from _of_receipt(wait.receipt)
        if wait.cascade or wait.bus is not None:
            # The receipt's own bus may be idle by now, and on no loop: so not its neighbours.
            buses = {wait.bus} if wait.bus is not None else self.bus._neighbours()
            for bus in buses:
                for subscription, receipt, delivery in bus._pending_deliveries():
                    if wait.bus is not None or _cascade.is_caused_by(receipt, wait.receipt):
                        yield delivery if delivery is not None else (receipt, subscription)

    def _fixpoint(self) -> set[Any]:
        ending: set[Any] = set()
        grown = True
        while grown:
            grown = False
            for node, conditions in reversed(self.needs.items()):
                if node not in ending and all(
                    any(one in ending for one in condition) for condition in conditions
                ):
                    ending.add(node)
                    grown = True
        return ending

    def chain(self, start: Delivery) -> str:
        """The shortest way from a delivery back to itself, each link needing the next.

        Empty if it can end, and if it is only others who cannot: then those are to be refused.
        """
        came_from: dict[Any, Any] = {}
        todo = deque([] if start in self.ending else [start])
        while todo and start not in came_from:
            node = todo.popleft()
            for one in self._lacks(node):
                if one not in came_from:
                    came_from[one] = node
                    todo.append(one)
        if start not in came_from:
            return ""
        links: list[Any] = [start, came_from[start]]
        while links[-1] is not start:
            links.append(came_from[links[-1]])
        return " -> ".join(_name(link) for link in reversed(links))

    def _lacks(self, node: Any) -> Iterator[Any]:
        """The nodes of whose ends a node would need one more."""
        for condition in self.needs[node]:
            if self.ending.isdisjoint(condition):
                yield from condition


def _of_receipt(receipt: Receipt) -> Iterator[Any]:
    """The deliveries of an event that have not ended: running ones, and queued ones."""
    ended = {delivery.owner for delivery in receipt._ended}
    for subscription in receipt._subscriptions:
        if subscription not in ended:
            running = (d for d in subscription._running_deliveries() if d.receipt is receipt)
            yield next(running, (receipt, subscription))


# What these two ask for may also be in the hands of a thread whose delivery was given up. That
# one waits for nobody as far as the bus sees, and so there is no condition.


def _a_place(receipt: Receipt, subscription: Subscription) -> Iterator[tuple[Delivery, ...]]:
    """What it takes to begin with a queued event."""
    running = list(subscription._running_deliveries())
    lane = subscription._lane_of(receipt)
    if lane is not None and lane.busy:
        holder = tuple(delivery for delivery in running if delivery.lane is lane)
        if holder:
            yield holder
    elif len(running) >= subscription.concurrency:
        yield tuple(running)


def _a_thread(bus: Engine) -> Iterator[tuple[Delivery, ...]]:
    """What it takes to get a thread."""
    in_threads = tuple(
        delivery
        for subscription in bus._all_subscriptions()
        for delivery in subscription._running_deliveries()
        if _is_in_thread(delivery)
    )
    if len(in_threads) >= bus._threads:
        yield in_threads


def _is_in_thread(delivery: Delivery) -> bool:
    return delivery.work is not None and delivery.work.in_thread


def _name(node: Any) -> str:
    if isinstance(node, Delivery):
        return f"{node.owner.name} ({node.event.type})"
    receipt, subscription = node
    return f"{receipt.event.type} queued for {subscription.name}"
