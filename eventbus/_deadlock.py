"""Whether a handler may wait: a look at who needs whom, made when it is about to.

The graph owns nothing; it is read off the bus at the moment of the question. Its nodes are
deliveries, and the question is which of them *can end*, as far as the bus can see:

- a running delivery can end once all that it waits for can end. One that waits for nothing that
  the bus sees is taken to end by itself;
- a queued delivery can end if its subscription has a place free, or once any running delivery of
  its subscription can end (with ``key``: the one that has its key, if one has);
- an event can end once all its deliveries can end; its cascade, once those of what it caused can;
- a bus can settle once everything pending on it can end.

The answer is the least fixpoint of these rules: start with nobody, add whoever can end because of
those already in, until nothing changes. A handler that is not in it when its own wait is counted
would wait for ever, and gets `WouldDeadlock` instead. Computed only when a handler waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from eventbus._delivery import Delivery, Wait, Work
from eventbus.errors import WouldDeadlock
from eventbus.event import current

if TYPE_CHECKING:
    from eventbus.receipt import Receipt
    from eventbus.subscription import Subscription


class waiting:  # noqa: N801 - used like a function: `with waiting(...)`
    """Mark the running delivery, if this code is inside one, as waiting while the block runs.

    Raises ``WouldDeadlock`` instead of entering the block if that wait could never end.
    """

    __slots__ = ("_wait", "_work")

    def __init__(self, wait: Wait) -> None:
        self._wait = wait
        self._work: Work | None = None

    def __enter__(self) -> None:
        delivery = current.get()
        if delivery is None or delivery.status is not None:
            return
        work = delivery.working()
        work.waits.append(self._wait)
        needs = _Needs(delivery)
        if not needs.can_end(delivery):
            work.waits.remove(self._wait)
            raise WouldDeadlock(
                f"{_name(delivery)} would wait for its own end: {needs.chain(delivery)}. "
                "Let the handler return first, or publish without waiting"
            )
        self._work = work

    def __exit__(self, *_: object) -> None:
        if self._work is not None:
            self._work.waits.remove(self._wait)


class _Needs:
    """The part of the graph that one delivery can reach, and who in it can end."""

    def __init__(self, asking: Delivery) -> None:
        self.asking = asking
        self.needs: dict[Any, list[tuple[Any, ...]]] = {}
        """Per node, its conditions: all must hold, each holds once one of its nodes can end."""
        self._explore(asking)
        self.ending = self._fixpoint()

    def can_end(self, delivery: Delivery) -> bool:
        return delivery in self.ending

    def _explore(self, start: Any) -> None:
        todo = [start]
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
            return
        receipt, subscription = node
        yield from self._queued(receipt, subscription)

    def _needed(self, wait: Wait) -> Iterator[Any]:
        """The deliveries, running or queued, whose ends a wait needs."""
        if wait.receipt is not None:
            yield from self._of_receipt(wait.receipt)
        if wait.cascade or wait.bus is not None:
            bus = wait.bus if wait.bus is not None else wait.receipt._bus  # type: ignore[union-attr]  # one of the two
            buses = {bus} if wait.bus is not None else bus._neighbours()
            for bus in buses:
                for subscription, receipt, delivery in bus._pending_deliveries():
                    if wait.bus is not None or _is_caused_by(receipt, wait.receipt):
                        yield delivery if delivery is not None else (receipt, subscription)

    def _of_receipt(self, receipt: Receipt) -> Iterator[Any]:
        ended = {delivery.owner for delivery in receipt._ended}
        for subscription in receipt._subscriptions:
            if subscription not in ended:
                running = self._running(subscription, receipt)
                yield running if running is not None else (receipt, subscription)

    def _running(self, subscription: Subscription, receipt: Receipt) -> Delivery | None:
        for delivery in self._all_running(subscription):
            if delivery.receipt is receipt:
                return delivery
        return None

    def _all_running(self, subscription: Subscription) -> list[Delivery]:
        return list(subscription.running_deliveries())

    def _queued(self, receipt: Receipt, subscription: Subscription) -> Iterator[tuple[Any, ...]]:
        running = self._all_running(subscription)
        lane = subscription.lane_of(receipt)
        if lane is not None and lane.busy:
            yield tuple(delivery for delivery in running if delivery.lane is lane)
        elif subscription.occupied >= subscription.concurrency and running:
            yield tuple(running)

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
        """One way round: each link needs the next, and the last is one that came before."""
        seen: list[Any] = []
        node: Any = start
        while node not in seen:
            seen.append(node)
            stuck = (c for c in self.needs[node] if not any(one in self.ending for one in c))
            node = next(stuck)[0]
        return " -> ".join(_name(each) for each in [*seen, node])


def _name(node: Any) -> str:
    if isinstance(node, Delivery):
        return f"{node.owner.name} ({node.event.type})"
    receipt, subscription = node
    return f"{receipt.event.type} queued for {subscription.name}"


def _is_caused_by(receipt: Receipt, cause: Receipt | None) -> bool:
    """Whether a publication was made, however indirectly, in a handler of another."""
    above: Receipt | None = receipt._parent
    while above is not None:
        if above is cause:
            return True
        above = above._parent
    return False
