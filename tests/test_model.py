"""The bus against a model of plain lists, in sequences of calls that hypothesis chooses.

The model does not guess in which order a bus runs what. It is told of each thing in the moment in
which it happens (an event accepted, a handler begun or ended, a subscription gone), keeps its own
lists by the words of the promises, and refuses what they do not allow: a handler that begins out of
order, twice, beside too many others, or after its subscription has left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventbus import Event, EventBus, Receipt, Subscription, WouldBlock, matches
from eventbus.subscription import Overflow  # noqa: TC001 - hypothesis resolves annotations
from eventbus.testing import FakeClock, wait_all_tasks_blocked

TOPICS = ("a", "a.b", "c")
PATTERNS = ("a", "a.b", "c", "*", "a.*", "**")
Ends = Literal["handled", "failed", "dropped", "cancelled"]


@dataclass(frozen=True)
class Plan:
    """How a handler behaves: what it does in its first step, whether it waits, and how it ends."""

    waits: bool
    fails: bool
    publishes: tuple[str, ...]
    leaves: bool


@dataclass(eq=False)
class Listener:
    """The model of one subscription."""

    pattern: str
    plan: Plan
    concurrency: int
    capacity: int
    overflow: Overflow
    once: bool
    listening: bool = True
    accepted: int = 0
    queue: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    ends: dict[int, Ends] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        return len(self.queue) >= self.capacity

    def count(self, end: Ends) -> int:
        return sum(each == end for each in self.ends.values())

    def end(self, number: int, end: Ends) -> None:
        assert number not in self.ends, f"event {number} ended twice"
        self.ends[number] = end


@dataclass(eq=False)
class Waiting:
    """The model of a publication that waits for room."""

    number: int
    topic: str
    blocked_by: Listener
    task: asyncio.Task[Receipt] | None = None


class Model:
    """Every subscription there was, in order, and who waits for room."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.line: list[Waiting] = []
        self.events = 0
        self.unhandled = 0
        self.reached: dict[int, list[Listener]] = {}

    def whom(self, topic: str) -> list[Listener]:
        return [each for each in self.listeners if each.listening and matches(each.pattern, topic)]

    def blocking(self, topic: str) -> Listener | None:
        """The first full queue that makes an outsider wait."""
        full = (each for each in self.whom(topic) if each.full and each.overflow == "block")
        return next(full, None)

    def accept(self, number: int, topic: str) -> None:
        self.events += 1
        self.reached[number] = self.whom(topic)
        self.unhandled += not self.reached[number]
        for listener in self.reached[number]:
            listener.accepted += 1
            if listener.full and listener.overflow == "drop_newest":
                listener.end(number, "dropped")
                continue
            if listener.full and listener.overflow == "drop_oldest":
                listener.end(listener.queue.pop(0), "dropped")
            listener.queue.append(number)
            if listener.once:
                listener.listening = False

    def begin(self, listener: Listener, number: int) -> None:
        assert listener.queue, f"event {number} was not queued"
        if listener.concurrency == 1:
            assert listener.queue[0] == number, "out of order"
        listener.queue.remove(number)
        listener.running.append(number)
        assert len(listener.running) <= listener.concurrency, "too many at once"
        self.place_is_free(listener)

    def finish(self, listener: Listener, number: int, end: Ends) -> None:
        listener.running.remove(number)
        listener.end(number, end)

    def leave(self, listener: Listener) -> None:
        listener.listening = False
        for number in listener.queue:
            listener.end(number, "cancelled")
        listener.queue.clear()
        self.place_is_free(listener)

    def place_is_free(self, listener: Listener) -> None:
        """Serve who waits for this queue, in order of arrival; who meets another waits for that."""
        for waiting in [each for each in self.line if each.blocked_by is listener]:
            if listener.full and listener.listening:
                return
            blocking = self.blocking(waiting.topic)
            if blocking is not None:
                waiting.blocked_by = blocking
            else:
                self.line.remove(waiting)
                self.accept(waiting.number, waiting.topic)


PLANS = st.builds(
    Plan,
    waits=st.booleans(),
    fails=st.booleans(),
    publishes=st.lists(st.sampled_from(TOPICS), max_size=2).map(tuple),
    leaves=st.booleans(),
)
MOST_NESTED = 40


class BusMachine(RuleBasedStateMachine):
    """Calls on a bus, made on an event loop that runs only while a rule does."""

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("eventbus").disabled = True
        self.runner = asyncio.Runner()
        self.bus = EventBus(clock=FakeClock())
        self.model = Model()
        self.pairs: list[tuple[Subscription, Listener]] = []
        self.gates: list[asyncio.Future[None]] = []
        self.receipts: dict[int, Receipt] = {}
        self.numbers = 0
        self.nested = 0
        self.broken: list[BaseException] = []
        self.tasks: list[asyncio.Task[Receipt]] = []

    def run(self, step: Coroutine[Any, Any, None]) -> None:
        self.runner.run(asyncio.wait_for(step, 10))

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    # What handlers and rules do.

    def subscribe(self, listener: Listener) -> None:
        async def handle(event: Event[Any]) -> None:
            try:
                self.model.begin(listener, event.data)
                self.act(listener)
            except AssertionError as error:
                self.broken.append(error)
            if listener.plan.waits:
                gate = asyncio.get_running_loop().create_future()
                self.gates.append(gate)
                await gate
            self.model.finish(listener, event.data, "failed" if listener.plan.fails else "handled")
            if listener.plan.fails:
                raise ValueError("as planned")

        def handle_without_waiting(event: Event[Any]) -> Any:
            return handle(event)

        subscription = self.bus.subscribe(
            handle if len(self.pairs) % 2 else handle_without_waiting,
            listener.pattern,
            concurrency=listener.concurrency,
            capacity=listener.capacity,
            overflow=listener.overflow,
            once=listener.once,
        )
        self.model.listeners.append(listener)
        self.pairs.append((subscription, listener))

    def act(self, listener: Listener) -> None:
        """What a handler does in its first step: publish, subscribe, leave."""
        for topic in listener.plan.publishes:
            self.nested += 1
            if self.nested < MOST_NESTED:
                self.publish_now(topic)
        if listener.plan.leaves:
            self.leave(next(pair for pair in self.pairs if pair[1] is listener))
            if self.nested < MOST_NESTED:
                self.nested += 1
                quiet = Plan(waits=False, fails=False, publishes=(), leaves=False)
                self.subscribe(Listener("a", quiet, 1, 2, "block", once=True))

    def publish_now(self, topic: str) -> None:
        number = self.next_number()
        self.model.accept(number, topic)
        self.receipts[number] = self.bus.publish_nowait(topic, number)

    def leave(self, pair: tuple[Subscription, Listener]) -> None:
        subscription, listener = pair
        self.model.leave(listener)
        subscription.unsubscribe()

    # Rules.

    @rule(
        pattern=st.sampled_from(PATTERNS),
        plan=PLANS,
        concurrency=st.sampled_from([1, 1, 2, 3]),
        capacity=st.sampled_from([1, 2, 3, 8]),
        overflow=st.sampled_from(["block", "drop_oldest", "drop_newest"]),
        once=st.booleans(),
    )
    def subscribes(  # noqa: PLR0917 - hypothesis passes them by name
        self,
        pattern: str,
        plan: Plan,
        concurrency: int,
        capacity: int,
        overflow: Overflow,
        once: bool,
    ) -> None:
        self.subscribe(Listener(pattern, plan, concurrency, capacity, overflow, once))

    @precondition(lambda self: self.pairs)
    @rule(data=st.data())
    def unsubscribes(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(range(len(self.pairs))))

        async def step() -> None:
            self.leave(self.pairs[pair])

        self.run(step())

    @rule(topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=5))
    def publishes_without_waiting(self, topics: list[str]) -> None:
        async def step() -> None:
            for topic in topics:
                if self.model.blocking(topic) is not None:
                    with pytest.raises(WouldBlock):
                        self.bus.publish_nowait(topic, "nothing of this")
                else:
                    self.publish_now(topic)

        self.run(step())

    @rule(topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=4))
    def publishes_and_waits_for_room(self, topics: list[str]) -> None:
        async def publish(number: int, topic: str) -> Receipt:
            blocking = self.model.blocking(topic)
            if blocking is None:
                self.model.accept(number, topic)
            else:
                waiting = Waiting(number, topic, blocking, asyncio.current_task())
                self.model.line.append(waiting)
            self.receipts[number] = receipt = await self.bus.publish(topic, number)
            return receipt

        async def step() -> None:
            for topic in topics:
                self.tasks.append(asyncio.create_task(publish(self.next_number(), topic)))
            await asyncio.sleep(0)

        self.run(step())

    @precondition(lambda self: self.model.line)
    @rule(data=st.data())
    def cancels_a_publisher(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(range(len(self.model.line))))

        async def step() -> None:
            await wait_all_tasks_blocked()
            if index < len(self.model.line):
                waiting = self.model.line.pop(index)
                assert waiting.task is not None
                waiting.task.cancel()
                await wait_all_tasks_blocked()
                assert waiting.task.cancelled()

        self.run(step())

    @precondition(lambda self: any(not gate.done() for gate in self.gates))
    @rule(data=st.data())
    def lets_a_handler_go_on(self, data: st.DataObject) -> None:
        closed = [gate for gate in self.gates if not gate.done()]
        gate = closed[data.draw(st.sampled_from(range(len(closed))))]

        async def step() -> None:
            gate.set_result(None)
            await asyncio.sleep(0)

        self.run(step())

    @rule()
    def comes_to_rest(self) -> None:
        """Nothing that could begin is left."""

        async def step() -> None:
            await wait_all_tasks_blocked()

        self.run(step())
        for _, listener in self.pairs:
            assert not listener.queue or len(listener.running) == listener.concurrency
        for number, receipt in self.receipts.items():
            reached = self.model.reached[number]
            assert receipt.done == all(number in listener.ends for listener in reached)

    @rule()
    def settles(self) -> None:
        """With all gates open, everything accepted ends, and each outcome is the model's."""

        async def settle() -> int:
            await self.bus.settle()
            return self.bus.statistics().pending

        async def step() -> None:
            settling = asyncio.create_task(settle())
            while not settling.done():
                for gate in self.gates:
                    if not gate.done():
                        gate.set_result(None)
                await asyncio.sleep(0)
            assert await settling == 0
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await self.bus.settle()

        self.run(step())
        self.gates.clear()
        self.nested = 0
        assert not self.model.line
        assert not any(listener.queue or listener.running for _, listener in self.pairs)

        async def compare() -> None:
            for number, receipt in self.receipts.items():
                outcomes = await receipt.outcomes()
                reached = self.model.reached[number]
                assert [each.status for each in outcomes] == [each.ends[number] for each in reached]
            self.receipts.clear()

        self.run(compare())

    # What holds after every rule.

    @invariant()
    def nothing_is_broken(self) -> None:
        assert self.broken == []

    @invariant()
    def accounts_are_the_models(self) -> None:
        totals = self.bus.statistics()
        assert (totals.events, totals.unhandled) == (self.model.events, self.model.unhandled)
        for subscription, listener in self.pairs:
            s = subscription.statistics()
            assert s.accepted == listener.accepted
            for end in ("handled", "failed", "dropped", "cancelled"):
                assert getattr(s, end) == listener.count(end)
            assert s.pending == len(listener.queue) + len(listener.running)
            assert subscription.active == listener.listening
        assert totals.accepted == sum(listener.accepted for _, listener in self.pairs)

    def teardown(self) -> None:
        async def close() -> None:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            for subscription in self.bus.subscriptions:
                subscription.unsubscribe()
            closing = asyncio.create_task(self.bus.aclose())
            while not closing.done():
                for gate in self.gates:
                    if not gate.done():
                        gate.set_result(None)
                await asyncio.sleep(0)
            assert (await closing).accepted == self.bus.statistics().accepted

        try:
            self.run(close())
        finally:
            self.runner.close()
            logging.getLogger("eventbus").disabled = False


def check(examples: int, *, derandomize: bool) -> None:
    run_state_machine_as_test(
        BusMachine,
        settings=settings(
            phases=[Phase.generate, Phase.shrink],
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            derandomize=derandomize,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_bus_does_what_plain_lists_do() -> None:
    """Subscribe, unsubscribe, publish, wait for room, cancel, settle, also inside handlers."""
    check(60, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_the_bus_does_what_plain_lists_do_for_long(part: int) -> None:
    """The same in two thousand other sequences, in ten parts, different ones in every run."""
    check(100, derandomize=False)
