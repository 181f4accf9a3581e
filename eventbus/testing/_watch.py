"""The checks at the end of a test: what went wrong on a bus that no assertion looked at."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from eventbus import _admission, _binding, _ends, _registration
from eventbus._closing import LAST_SECOND
from eventbus._state import State
from eventbus.errors import WrongLoop
from eventbus.testing._blocked import QUIET_TURNS
from eventbus.testing._describe import cut, number, show_event, show_pending, show_task
from eventbus.testing._failures import tell
from eventbus.testing._record import Failure, record_of
from eventbus.testing._settle import SETTLE_SECONDS, settle

if TYPE_CHECKING:
    from eventbus import EventBus, Subscription
    from eventbus._delivery import Delivery
    from eventbus.receipt import Receipt

MOST_TOLD: Final = 10
"""How many failures and unhandled events are told in full."""

GRACE_TURNS: Final = 10 * QUIET_TURNS
"""How many turns of the loop tasks have to end by themselves once the bus has settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """Which checks a `Watch` makes."""

    failures: bool = True
    """No handler failed, unless somebody asked for the outcomes of its event or expected it."""
    accounts: bool = True
    """Every accepted delivery has ended in exactly one way, and nothing is left pending."""
    tasks: bool = True
    """No task that was started meanwhile still runs."""
    strict: bool = False
    """Every event reached a subscription."""
    timeout: float = SETTLE_SECONDS
    """Seconds of real time that settling may take."""


class Watch:
    """Looks at one bus from ``start`` on, and says at the end what was wrong."""

    def __init__(self, bus: EventBus, checks: Checks) -> None:
        self.bus = bus
        self.checks = checks
        self._record = record_of(bus)
        self._failures: list[Failure] = []
        self._unhandled: list[Receipt] = []
        self._unhandled_count = 0
        self._letters = tuple(bus.dead_letters)
        self._letters_lost = bus.dead_letters.lost
        self._tasks: set[asyncio.Task[Any]] = set()
        self._complaints: list[str] = []
        self.gave_up = False
        """The bus has not settled in time: that need not be tried again."""

    # As a viewer of the bus.

    def accepted(self, receipt: Receipt, deliveries: int) -> None:
        """Write down what reached nobody."""
        if not deliveries:
            self._unhandled_count += 1
            if len(self._unhandled) < MOST_TOLD:
                self._unhandled.append(receipt)

    def failed(self, failure: Failure) -> None:
        """Write it down."""
        self._failures.append(failure)

    # In the order in which they are called.

    def start(self) -> None:
        """Look from now on. A bus that an earlier test has closed is open again."""
        reopen(self.bus)
        self._record.add(self)

    def enter_loop(self) -> None:
        """The test begins on the running event loop; its tasks so far are none of its own."""
        self._tasks = asyncio.all_tasks()

    async def settle(self) -> None:
        """Settle the bus, on the loop of the test."""
        try:
            await settle(self.bus, timeout=self.checks.timeout)
        except AssertionError as error:
            self.gave_up = True
            if self.checks.accounts:
                self._complaints.append(str(error))
        except WrongLoop:
            pass  # `look` tells

    async def find_leaks(self) -> None:
        """Look for tasks that do not end, once everything has settled."""
        if self.checks.tasks and not self.gave_up:
            leaked = await self._leaked_tasks()
            if leaked:
                self._complaints.append(
                    f"{_were_started(len(leaked))}:\n" + cut(map(show_task, leaked))
                )

    async def _leaked_tasks(self) -> list[asyncio.Task[Any]]:
        leaked: set[asyncio.Task[Any]] = set()
        for _ in range(GRACE_TURNS):
            leaked = asyncio.all_tasks() - self._tasks - {asyncio.current_task()}
            if not leaked:
                break
            await asyncio.sleep(0)
        return sorted(leaked, key=lambda task: task.get_name())

    def look(self, *, settled: bool = True) -> str:
        """What was wrong so far, each thing once; empty if nothing was."""
        complaints, self._complaints = self._complaints, []
        if settled and self.checks.accounts and not complaints:
            complaints += self._accounts()
        if self.checks.failures:
            complaints += self._unseen()
        if self.checks.strict and self._unhandled:
            more = self._unhandled_count - len(self._unhandled)
            complaints.append(
                f"{number(self._unhandled_count, 'event')} reached no subscription:\n"
                + cut(_show_unhandled(self.bus, receipt) for receipt in self._unhandled)
                + (f"\n  … and {more} more" if more else "")
            )
            self._unhandled.clear()
            self._unhandled_count = 0
        return "\n\n".join(f"[{self.bus.name}] {complaint}" for complaint in complaints)

    def _accounts(self) -> list[str]:
        pending = show_pending(self.bus)
        if pending:
            loop = self.bus._loop
            where = " on an event loop that is closed" if loop and loop.is_closed() else ""
            return [f"deliveries are still pending{where}:\n{cut(pending)}"]
        return unbalanced(self.bus)

    def _unseen(self) -> list[str]:
        failures, self._failures = self._failures, []
        letters = self.bus.dead_letters
        lost = letters.lost > self._letters_lost
        unseen = [
            failure
            for failure in failures
            if not (failure.expected or failure.is_looked_at)
            and (lost or failure.letter in letters)  # else the test has discarded or redelivered it
        ]
        told = [tell(failure, self._record.recent) for failure in unseen[:MOST_TOLD]]
        if len(unseen) > MOST_TOLD:
            told.append(f"… and {number(len(unseen) - MOST_TOLD, 'more failure')}")
        return told

    def stop(self) -> None:
        """Look no longer, and leave the bus as it was.

        The letters of this test are taken out of its dead letters, and if the test has closed it,
        as the end of an application's lifespan does, it is open again.
        """
        self._record.remove(self)
        reopen(self.bus)
        for letter in self.bus.dead_letters:
            if letter not in self._letters:
                self.bus.dead_letters.discard(letter)


def _were_started(count: int) -> str:
    many = f"{count} tasks were started and still run"
    return "1 task was started and still runs" if count == 1 else many


def _show_unhandled(bus: EventBus, receipt: Receipt) -> str:
    """The event, and which subscriptions it just misses."""
    misses = bus.explain(receipt.event.type).near_misses
    return show_event(receipt.event) + "".join(
        f"\n    misses {miss.subscription}: {miss.pattern} {miss.why}" for miss in misses
    )


def unbalanced(bus: EventBus) -> list[str]:
    """The accounts of a bus and its subscriptions that do not balance: there should be none.

    ``accepted = handled + failed + dropped + cancelled + pending`` has to hold at every moment.
    """
    owners: list[EventBus | Subscription] = [bus, *bus.subscriptions]
    wrong = []
    for owner in owners:
        s = owner.statistics()
        if s.accepted != s.handled + s.failed + s.dropped + s.cancelled + s.pending:
            wrong.append(f"the accounts of {owner!r} do not balance: {s}")
    return wrong


def reopen(bus: EventBus) -> None:
    """Let a closed bus be used again without entering it, as if it were new."""
    if bus._state is State.CLOSED:
        bus._state = State.OPEN
        bus._barred = False


async def abandon(bus: EventBus) -> None:
    """Cancel what is pending, and leave the bus as usable as it was."""
    _binding.bind(bus)  # what a closed loop has left pending ends by that
    _cancel_pending(bus)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_SECOND):
            await bus.settle()
    for delivery in _cancel_pending(bus):
        _ends.end(delivery, "cancelled")


def _cancel_pending(bus: EventBus) -> list[Delivery]:
    """Cancel what is queued and what runs. Returns what has not ended by that."""
    _admission.refuse_all(bus)
    for subscription in bus._all_subscriptions():
        if subscription._reader is None:
            tell = _registration.cancel_queued(subscription)
            bus._resume()
            for call in tell:
                call()
    running = [
        delivery
        for subscription in bus._all_subscriptions()
        for delivery in subscription._running_deliveries()
    ]
    for delivery in running:
        _ends.cancel_for_good(delivery)
    return [delivery for delivery in running if delivery.status is None]


def watch(
    bus: EventBus,
    *,
    failures: bool = True,
    accounts: bool = True,
    tasks: bool = True,
    strict: bool = False,
    timeout: float = SETTLE_SECONDS,
) -> AbstractAsyncContextManager[EventBus]:
    """Check at the end of a block what went wrong on a bus without anybody looking.

    The bus settles first, for at most ``timeout`` seconds. Then no handler may have failed
    (``failures``), no delivery be unaccounted for (``accounts``), no task that was started in the
    block still run (``tasks``), and with ``strict=True`` no event have reached nobody. A failure
    counts as looked at if somebody asked for the outcomes of its event (``receipt.outcomes()``,
    ``publish_and_wait``), if `expect_failure` caught it, or if its dead letter was redelivered or
    discarded. Whatever the block left in ``bus.dead_letters`` is taken out again, and a bus that
    the block has closed is open again. In pytest, the fixture ``watch_bus`` does the same for a
    whole test.

    Raises ``AssertionError`` that tells everything found. If the block raises, that is raised,
    with the failures so far as a note.
    """
    checks = Checks(
        failures=failures, accounts=accounts, tasks=tasks, strict=strict, timeout=timeout
    )
    return _Watching(Watch(bus, checks))


class _Watching:
    """The block of `watch`."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def __aenter__(self) -> EventBus:
        self._watch.start()
        self._watch.enter_loop()
        return self._watch.bus

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        try:
            if error is not None:
                add_note(error, self._watch.look(settled=False))
                return
            await self._watch.settle()
            await self._watch.find_leaks()
            complaint = self._watch.look()
            if complaint:
                raise AssertionError(complaint)
        finally:
            self._watch.stop()


def add_note(error: BaseException, complaint: str) -> None:
    """Tell of failed handlers in an error that is already on its way: they may be its cause."""
    if complaint:
        with contextlib.suppress(Exception):  # a frozen error takes no note
            error.add_note(f"Meanwhile on the bus:\n{complaint}")
