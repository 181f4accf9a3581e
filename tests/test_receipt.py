"""Receipts: what became of an event, for whoever wants to know."""

from __future__ import annotations

import asyncio
import copy
import gc
import math
import pickle
from collections.abc import Iterator
from typing import Any, get_type_hints
from unittest.mock import ANY

import pytest

from eventbus import (
    DeliveryCancelled,
    Event,
    EventBus,
    EventBusError,
    HandlerErrors,
    Outcome,
    Receipt,
    Retry,
    WrongLoop,
)
from eventbus._delivery import Status
from eventbus.testing import FakeClock
from tests.helpers import turns, within


async def hang(event: Event[Any]) -> None:
    await asyncio.Event().wait()


def fail(event: Event[Any]) -> None:
    raise ValueError(event.data)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of the test's own, which it may close itself."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()
    for task in asyncio.all_tasks(loop):  # the test's buses outlive it here, and these with them
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant
    gc.collect()  # what the loop has left complains here, and not in the midst of another test


async def test_there_is_an_outcome_of_every_kind_in_order_of_subscription() -> None:
    """Whoever ends first: outcomes come in the order in which handlers were subscribed."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    gate = asyncio.Event()

    async def slow(event: Event[Any]) -> str:
        await gate.wait()
        return "slow"

    bus.subscribe(slow, "a", name="slow")
    bus.subscribe(fail, "a", name="fails", retry=Retry(attempts=2, initial=3, jitter=0))
    bus.subscribe(hang, "a", name="drops", capacity=1, overflow="drop_newest")
    leaving = bus.subscribe(hang, "a", name="leaves")
    bus.subscribe(lambda event: len(event.data), "a", name="quick")
    for _ in range(2):
        await bus.publish("a", "before")
        await turns(3)
    receipt = await bus.publish("a", "data")
    await turns(3)
    clock.advance(5)
    leaving.unsubscribe()
    for _ in range(6):
        await turns(3)
        clock.advance(3)
    gate.set()
    outcomes = await within(receipt.outcomes())
    assert receipt.done
    assert [(each.subscription, each.status, each.result, each.attempts) for each in outcomes] == [
        ("slow", "handled", "slow", 1),
        ("fails", "failed", None, 2),
        ("drops", "dropped", None, 0),
        ("leaves", "cancelled", None, 0),
        ("quick", "handled", 4, 1),
    ]
    assert [str(each.error) for each in outcomes if each.error] == ["data"]
    assert [(each.queued, each.ran) for each in outcomes[2:]] == [(0, 0), (5, 0), (0, 0)]
    closing = asyncio.create_task(bus.aclose(grace=0))
    await turns(1)
    clock.advance(0)
    await within(closing)


async def test_times_are_seconds_from_acceptance_and_from_the_first_attempt() -> None:
    """``queued`` ends as the first attempt begins; ``ran`` includes the pauses between attempts."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    gate = asyncio.Event()

    async def handler(event: Event[Any]) -> None:
        if event.data == "first":
            await gate.wait()
        elif event.delivery and event.delivery.attempt == 1:
            raise OSError

    bus.subscribe(handler, "a", retry=Retry(initial=4, jitter=0))
    await bus.publish("a", "first")
    await turns(2)
    receipt = await bus.publish("a", "second")
    clock.advance(2.5)
    gate.set()
    await turns(4)
    clock.advance(4)
    (outcome,) = await within(receipt.outcomes())
    assert outcome == Outcome(outcome.subscription, "handled", None, None, 2, 2.5, 4)


async def test_an_event_that_reaches_nobody_is_done_at_once() -> None:
    """No subscription, or only streams: there is nothing to wait for."""
    bus = EventBus()
    async with bus.stream("a"):
        receipt = await bus.publish("a")
        assert receipt.done
        assert receipt.cascade_done
        assert await receipt.outcomes(cascade=True, check=True) == ()


async def test_of_two_waiters_one_may_be_cancelled() -> None:
    """Interleaving 10: each waits for itself; the delivery and the other waiter go on."""
    bus = EventBus()
    gate = asyncio.Event()

    async def handler(event: Event[Any]) -> str:
        await gate.wait()
        return "done"

    bus.subscribe(handler, "a")
    receipt = await bus.publish("a")
    waiters = [
        asyncio.create_task(receipt.outcomes(cascade=number % 2 == 1)) for number in range(4)
    ]
    await turns(2)
    waiters[0].cancel()
    waiters[1].cancel()
    await turns(2)
    assert [waiter.done() for waiter in waiters] == [True, True, False, False]
    gate.set()
    results = await within(asyncio.gather(*waiters[2:], receipt.outcomes()))
    assert [outcomes[0].result for outcomes in results] == ["done"] * 3
    assert all(waiter.cancelled() for waiter in waiters[:2])


async def test_a_waiter_that_is_cancelled_in_the_turn_of_the_end_is_cancelled() -> None:
    """Both happen at once: it gets its cancellation, and the other waiter the outcomes."""
    bus = EventBus()
    waiters: list[asyncio.Task[tuple[Outcome, ...]]] = []

    async def handler(event: Event[Any]) -> None:
        await turns(3)
        waiters[0].cancel()

    bus.subscribe(handler, "a")
    receipt = await bus.publish("a")
    waiters.extend(asyncio.create_task(receipt.outcomes()) for _ in range(2))
    (outcome,) = await within(waiters[1])
    assert outcome.status == "handled"
    assert waiters[0].cancelled()


async def test_check_raises_what_failed_and_what_was_cancelled() -> None:
    """One error for each, in order of subscription; all outcomes are at hand."""
    bus = EventBus()
    bus.subscribe(fail, "a", name="fails")
    bus.subscribe(lambda event: "fine", "a", name="fine")
    leaving = bus.subscribe(hang, "a", name="leaves")
    receipt = await bus.publish("a", "why")
    leaving.unsubscribe()
    with pytest.raises(HandlerErrors) as caught:
        await within(receipt.outcomes(check=True))
    first, second = caught.value.exceptions
    assert isinstance(first, ValueError)
    assert first.args == ("why",)
    assert isinstance(second, DeliveryCancelled)
    assert "leaves" in str(second)
    assert caught.value.outcomes == await receipt.outcomes()
    assert "2 of 3" in str(caught.value)
    assert "why" not in str(caught.value)  # the message has no payload


async def test_check_passes_over_what_was_handled_or_dropped() -> None:
    """A drop is the subscription's own policy, and no error."""
    bus = EventBus()
    subscription = bus.subscribe(hang, "a", capacity=1, overflow="drop_newest")
    await bus.publish("a")
    await turns(2)
    await bus.publish("a")
    (outcome,) = await within(bus.publish_and_wait("a", check=True))
    assert outcome.status == "dropped"
    closing = asyncio.create_task(bus.aclose(grace=0))
    await within(closing)
    assert subscription.statistics().dropped == 1


async def test_handler_errors_are_taken_apart_by_except_star() -> None:
    """``except*`` catches by type; the parts are HandlerErrors too and keep the outcomes."""
    bus = EventBus()

    async def other(event: Event[Any]) -> None:
        raise LookupError("other")

    bus.subscribe(fail, "a")
    bus.subscribe(other, "a")
    values: list[BaseExceptionGroup[ValueError]] = []
    lookups: list[BaseExceptionGroup[LookupError]] = []
    try:
        await bus.publish_and_wait("a", "data", check=True)
    except* ValueError as group:
        values.append(group)
    except* LookupError as group:
        lookups.append(group)
    for part in (*values, *lookups):
        assert isinstance(part, HandlerErrors)
        assert len(part.exceptions) == 1
        assert len(part.outcomes) == 2
    assert (len(values), len(lookups)) == (1, 1)


def test_an_error_that_no_group_can_hold_is_the_cause_of_one_that_can(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """SystemExit leaves the loop; the outcome still has it, and the group has what it caused."""
    bus = EventBus()

    def leave(event: Event[Any]) -> None:
        raise SystemExit(3)

    bus.subscribe(leave, "a", name="leaver")
    receipts: list[Receipt] = []

    async def publish() -> None:
        receipts.append(await bus.publish("a"))
        await receipts[0].outcomes()

    with pytest.raises(SystemExit):
        loop.run_until_complete(publish())
    with pytest.raises(HandlerErrors) as caught:
        loop.run_until_complete(within(receipts[0].outcomes(check=True)))
    (error,) = caught.value.exceptions
    assert isinstance(error, EventBusError)
    assert isinstance(error.__cause__, SystemExit)
    assert "leaver" in str(error)


async def test_the_cascade_ends_with_the_last_thing_that_was_caused() -> None:
    """It goes through buses and generations, past publications that reach nobody."""
    bus, other = EventBus(), EventBus()
    gates = {topic: asyncio.Event() for topic in "abc"}
    children: list[Receipt] = []

    async def handler(event: Event[Any]) -> None:
        await gates[event.type].wait()
        await bus.publish("nobody")
        if event.type == "a":
            children.append(await other.publish("b"))
        elif event.type == "b":
            children.append(await bus.publish("c"))

    for each in (bus, other):
        each.subscribe(handler, "a", "b", "c")
    receipt = await bus.publish("a", "root")
    waiting = asyncio.create_task(receipt.outcomes(cascade=True))
    for topic in "abc":
        await turns(5)
        assert receipt.done == (topic != "a")
        assert not receipt.cascade_done
        assert not waiting.done()
        gates[topic].set()
    outcomes = await within(waiting)
    assert receipt.cascade_done
    assert all(child.cascade_done for child in children)
    assert [outcome.subscription for outcome in outcomes] == [bus.subscriptions[0].name]


async def test_a_leftovers_event_is_outside_of_the_cascade() -> None:
    """What a task that a handler left behind publishes afterwards is not waited for."""
    bus = EventBus()
    gate = asyncio.Event()
    left: list[asyncio.Task[Receipt]] = []

    async def leftover() -> Receipt:
        await gate.wait()
        return await bus.publish("b")

    async def handler(event: Event[Any]) -> None:
        left.append(asyncio.create_task(leftover()))

    bus.subscribe(handler, "a")
    bus.subscribe(hang, "b")
    receipt = await bus.publish("a")
    await within(receipt.outcomes(cascade=True))
    gate.set()
    child = await within(left[0])
    assert (receipt.cascade_done, child.done) == (True, False)
    assert (child.event.cause, child.event.root) == (receipt.event.id, receipt.event.id)
    await within(bus.aclose(grace=0))


def test_a_receipt_may_be_read_on_another_loop(loop: asyncio.AbstractEventLoop) -> None:
    """What has ended has ended; asking for it needs no particular loop."""
    bus = EventBus()
    bus.subscribe(lambda event: "fine", "a")
    receipt = loop.run_until_complete(bus.publish("a"))
    loop.run_until_complete(within(bus.settle()))
    (outcome,) = asyncio.run(within(receipt.outcomes(cascade=True)))
    assert outcome.result == "fine"


def test_a_receipt_of_a_living_loop_is_not_waited_for_on_another(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """The deliveries run there: WrongLoop says so, instead of a wait without end."""
    bus = EventBus()
    bus.subscribe(hang, "a")
    receipt = loop.run_until_complete(bus.publish("a"))
    with pytest.raises(WrongLoop):
        asyncio.run(within(receipt.outcomes()))
    loop.run_until_complete(within(bus.aclose(grace=0)))
    assert receipt.done


def test_what_was_pending_on_a_closed_loop_is_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    """Whoever asks on the next loop learns so at once."""
    bus = EventBus()
    bus.subscribe(hang, "a")
    receipts = [loop.run_until_complete(bus.publish("a")) for _ in range(2)]
    loop.run_until_complete(turns(3))
    loop.close()
    for receipt, attempts in zip(receipts, (1, 0), strict=True):
        (outcome,) = asyncio.run(within(receipt.outcomes()))
        assert (outcome.status, outcome.attempts) == ("cancelled", attempts)


def test_a_cascade_that_was_pending_on_a_closed_loop_is_over(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Also where the rest of it lies on another bus, which nobody has used since."""
    bus, other = EventBus(), EventBus()
    children: list[Receipt] = []

    async def hand_on(event: Event[Any]) -> None:
        children.append(await other.publish("b"))

    bus.subscribe(hand_on, "a")
    other.subscribe(hang, "b")
    receipt = loop.run_until_complete(bus.publish("a"))
    loop.run_until_complete(turns(5))
    loop.close()
    (outcome,) = asyncio.run(within(receipt.outcomes(cascade=True)))
    assert outcome.status == "handled"
    assert receipt.cascade_done
    assert [each.status for each in asyncio.run(within(children[0].outcomes()))] == ["cancelled"]


async def test_a_receipt_describes_itself() -> None:
    """The repr says how far it is, and has no payload."""
    bus = EventBus()
    bus.subscribe(lambda event: None, "a")
    receipt = await bus.publish("a", "secret", id="evt_1")
    assert repr(receipt) == "<Receipt of Event('a', id='evt_1'): 0 of 1 ended>"
    await within(receipt.outcomes())
    assert repr(receipt) == "<Receipt of Event('a', id='evt_1'): 1 of 1 ended>"
    assert receipt.duplicate is False


async def test_an_outcome_is_the_value_that_its_constructor_makes(bus: EventBus) -> None:
    """The bus makes it another way, and nothing shows it: equal, hashed alike, pickled, frozen."""
    bus.subscribe(lambda event: event.data, "a", name="one")
    (outcome,) = await bus.publish_and_wait("a", 7)
    same = Outcome("one", "handled", 7, None, 1, outcome.queued, outcome.ran)
    assert (outcome, hash(outcome), repr(outcome)) == (same, hash(same), repr(same))
    assert pickle.loads(pickle.dumps(outcome)) == outcome  # noqa: S301 - its own bytes
    assert type(copy.copy(outcome)) is Outcome
    assert outcome != Outcome("one", "handled", 8, None, 1, outcome.queued, outcome.ran)
    assert outcome != ("one", "handled", 7, None, 1, outcome.queued, outcome.ran)
    for name in (*Outcome.__match_args__, "other"):
        with pytest.raises(AttributeError):
            setattr(outcome, name, 8)
    match outcome:
        case Outcome(name, "handled", result=result):
            assert (name, result) == ("one", 7)
        case _:
            pytest.fail("it does not match")


@pytest.mark.parametrize("seconds", [0, -0.0, 1 / 3, 1e-300, math.inf, math.nan, 10**400])
def test_the_seconds_of_an_outcome_are_those_it_was_given(seconds: float) -> None:
    """To the last bit and its sign, whatever they are: an outcome that is made again is equal."""
    outcome = Outcome("one", "handled", None, None, 1, seconds, seconds)
    assert outcome.queued is outcome.ran is seconds
    assert outcome == Outcome("one", "handled", None, None, 1, seconds, seconds)


async def test_an_outcome_is_compared_with_what_a_test_does_not_know(bus: EventBus) -> None:
    """Seconds above all: placeholders may stand for them, on either side."""
    bus.subscribe(lambda event: event.data, "a", name="one")
    (outcome,) = await bus.publish_and_wait("a", 7)
    ran: Any = pytest.approx(outcome.ran)
    expected = Outcome("one", "handled", 7, None, 1, ANY, ran)
    assert outcome == expected
    assert expected == outcome
    assert "ran=" in repr(expected)


async def test_an_outcome_is_what_tools_take_it_for(bus: EventBus) -> None:
    """By its name, its hints, and what `copy.replace` asks of it; its repr ends."""
    results: list[Any] = []
    bus.subscribe(lambda event: results, "a", name="one")
    (outcome,) = await bus.publish_and_wait("a")
    results.append(outcome)
    assert repr(outcome).startswith("Outcome(subscription='one', status='handled', result=[...]")
    assert (type(outcome).__name__, type(outcome).__qualname__) == ("Outcome", "Outcome")
    assert get_type_hints(Outcome.__init__)["status"] == Status
    assert get_type_hints(Outcome)
    again = outcome.__replace__(result=8)
    assert again == Outcome("one", "handled", 8, None, 1, outcome.queued, outcome.ran)
    with pytest.raises(TypeError, match="surprise"):
        outcome.__replace__(surprise=1)


async def test_a_publisher_that_is_cancelled_in_its_one_turn_leaves_nothing_behind() -> None:
    """The deliveries go on, and nobody is counted as about to come back."""
    bus = EventBus()
    handled: list[object] = []
    bus.subscribe(lambda event: handled.append(event.data))
    task = asyncio.create_task(bus.publish_and_wait("a", 1))
    await asyncio.sleep(0)
    assert bus._returning == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bus.settle()
    assert (handled, bus._returning) == ([1], 0)


async def test_who_asked_first_may_give_up_at_once(bus: EventBus) -> None:
    """Another one, who asked in the same turn, is told all the same."""
    over = asyncio.Event()

    async def handle(event: Event[Any]) -> None:
        await over.wait()

    bus.subscribe(handle, "a")
    receipt = await bus.publish("a")
    first, second = (asyncio.create_task(receipt.outcomes()) for _ in range(2))
    await turns(1)
    first.cancel()
    await turns(3)
    over.set()
    assert len(await within(second)) == 1
    assert first.cancelled()
