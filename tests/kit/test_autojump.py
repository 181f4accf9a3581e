"""``FakeClock(autojump=…)`` and ``fake_time``: time that jumps when everything waits."""

# ruff: noqa: PT012 - what raises is the end of a block, and that needs the block

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventbus import Event, EventBus, HandlerTimeout, Retry, SystemClock
from eventbus.testing import FakeClock, fake_time, settle, wait_all_tasks_blocked
from eventbus.testing._clock import AUTOJUMP_SECONDS, LOOK_SECONDS
from tests.helpers import within


async def test_an_hour_of_retries_takes_milliseconds() -> None:
    """Six pauses that add up to an hour, and a time-out each, while a test awaits the outcome."""
    clock = FakeClock(autojump=0)
    bus = EventBus(clock=clock)

    @bus.on("a", timeout=60, retry=Retry(attempts=7, initial=600, maximum=600, jitter=0))
    async def hang(_: Event[Any]) -> None:
        await anyio.sleep_forever()

    began = time.perf_counter()  # real clock: this is what is measured
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert isinstance(outcome.error, HandlerTimeout)
    assert (outcome.attempts, outcome.ran) == (7, 7 * 60 + 6 * 600)
    assert time.perf_counter() - began < 1
    assert clock.next_timer is None


async def test_it_waits_for_real_time_before_a_jump() -> None:
    """Nothing jumps before everything has waited for ``autojump`` seconds."""
    bus = EventBus(clock=FakeClock(autojump=0.05))
    bus.subscribe(lambda _: anyio.sleep_forever(), timeout=3600)
    began = time.perf_counter()
    await within(bus.publish_and_wait("a"))
    assert time.perf_counter() - began >= 0.05


async def spinning() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def called_back() -> None:
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def hop(left: int) -> None:
        loop.call_soon(hop, left - 1) if left else done.set()

    hop(5)
    await done.wait()


async def gathering() -> None:
    await asyncio.gather(asyncio.gather(asyncio.shield(asyncio.gather(spinning()))), spinning())


async def grouped() -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(spinning())


async def streaming() -> None:
    send, receive = anyio.create_memory_object_stream[int](1)

    async def feed() -> None:
        async with send:
            for number in range(50):
                await send.send(number)

    async with receive, anyio.create_task_group() as group:
        group.start_soon(feed)
        assert [number async for number in receive] == list(range(50))


async def locking() -> None:
    lock = asyncio.Lock()

    async def locked() -> None:
        async with lock:
            await asyncio.sleep(0)

    await asyncio.gather(*(locked() for _ in range(20)))


async def in_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.002)


async def sleeping() -> None:
    await asyncio.sleep(0.002)  # real clock: a short wait for the real world is waited for


WORK = [spinning, called_back, gathering, grouped, streaming, locking, in_executor, sleeping]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
async def test_it_does_not_jump_while_something_goes_on(work: Any) -> None:
    """A handler that works, in whatever way, is not timed out."""
    patience = 0.3 if work in (in_executor, sleeping) else 0
    bus = EventBus(clock=FakeClock(autojump=patience))
    bus.subscribe(lambda _: work(), timeout=1)
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert outcome.status == "handled", outcome.error


async def test_it_waits_longer_for_handlers_in_threads() -> None:
    """A ``thread=True`` handler has a second of real time before it is timed out."""
    bus = EventBus(clock=FakeClock(autojump=0))

    def work(_: Event[Any]) -> None:
        time.sleep(0.05)  # real clock: a thread that works longer than the patience

    bus.subscribe(work, thread=True, timeout=1)
    bus.subscribe(lambda _: None, "a", retry=Retry())
    (outcome, _) = await within(bus.publish_and_wait("a"))
    assert outcome.status == "handled"


@pytest.mark.parametrize("run", ["to_thread", "run_in_executor", "anyio"])
async def test_it_waits_longer_for_whoever_waits_for_a_thread(run: str) -> None:
    """A handler that asks a library in a thread has a second of real time too."""
    bus = EventBus(clock=FakeClock(autojump=0))

    async def ask(_: Event[Any]) -> None:
        if run == "to_thread":
            await asyncio.to_thread(time.sleep, 0.05)  # real clock: longer than the patience
        elif run == "anyio":
            await anyio.to_thread.run_sync(time.sleep, 0.05)
        else:
            await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)

    bus.subscribe(ask, timeout=1)
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert outcome.status == "handled", outcome.error


async def test_a_bus_that_rests_after_a_cancellation_is_at_work() -> None:
    """The pause in which a bus lets a loop close is no reason to jump over its queue."""
    clock = FakeClock(start=0, autojump=0)
    bus = EventBus(clock=clock)
    tasks: list[asyncio.Task[Any] | None] = []
    begun: list[float] = []

    async def handle(event: Event[Any]) -> None:
        begun.append(clock.monotonic())
        tasks.append(asyncio.current_task())
        if event.data == 1:
            await anyio.sleep_forever()

    bus.subscribe(handle)
    await bus.publish("a", 1)
    receipt = await bus.publish("a", 2)
    await asyncio.sleep(0)
    assert tasks[0] is not None
    clock.call_later(3600, lambda: None)
    tasks[0].cancel()
    await within(receipt.outcomes())
    assert begun == [0, 0]


async def test_it_costs_little_while_it_waits() -> None:
    """It looks about once in a millisecond, and not as often as it can."""
    clock = FakeClock(autojump=3600)
    looks = 0
    next_timer = clock._next

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return next_timer()

    clock._next = counted  # type: ignore[method-assign]  # to count the looks
    timer = clock.call_later(1, lambda: None)
    await asyncio.sleep(50 * LOOK_SECONDS)  # real clock: this is what is measured
    assert looks < 75
    timer.cancel()
    await asyncio.sleep(3 * LOOK_SECONDS)  # real clock: the last look
    assert clock._lookouts == {}


async def test_a_jump_always_arrives() -> None:
    """Whatever the rounding of sums, a jump makes the call it jumps to, at its moment."""
    numbers = random.Random(1)
    for _ in range(2000):
        clock = FakeClock(start=numbers.choice([0, 0.1, 1e-9, 1_700_000_000]) * numbers.random())
        clock.advance(numbers.random() * 10 ** numbers.randint(-9, 3))
        called: list[float] = []
        clock.call_later(numbers.random() * 10 ** numbers.randint(-9, 3), lambda: called.append(1))  # noqa: B023 - called in this round
        assert clock.jump()
        assert called == [1]
        assert not clock.jump()


async def test_a_call_that_raises_in_a_jump_goes_to_the_loop() -> None:
    """The loop's exception handler is told, and time goes on."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: told.append(about))
    clock, done = FakeClock(autojump=0), asyncio.Event()

    def fail() -> None:
        raise ZeroDivisionError

    clock.call_later(1, fail)
    clock.call_later(2, done.set)
    await within(done.wait())
    assert [type(about["exception"]) for about in told] == [ZeroDivisionError]


def test_calls_run_in_the_context_in_which_they_were_set() -> None:
    """As those of an event loop do."""
    variable: ContextVar[str] = ContextVar("variable", default="none")
    clock, seen = FakeClock(), list[str]()
    token = variable.set("set")
    clock.call_later(1, lambda: seen.append(variable.get()))
    variable.reset(token)
    clock.advance(1)
    assert seen == ["set"]


@pytest.mark.parametrize("autojump", [-1, float("nan"), float("inf")])
def test_bad_numbers_are_refused(autojump: float) -> None:
    """``autojump`` is a number of seconds, and so is what ``advance`` gets."""
    with pytest.raises(ValueError, match="pass seconds of real time, 0 or more"):
        FakeClock(autojump=autojump)
    clock = FakeClock()
    with pytest.raises(ValueError, match="pass 0 or more; time does not go back"):
        clock.advance(autojump)
    assert clock.monotonic() == FakeClock().monotonic()


def test_without_a_loop_nothing_jumps() -> None:
    """A timer set outside of any loop is moved by hand, or by a jump."""
    clock, called = FakeClock(start=0, autojump=0), list[int]()
    clock.call_later(5, lambda: called.append(5))
    assert (clock.jumps, FakeClock().jumps, clock._lookouts) == (True, False, {})
    assert clock.jump()
    assert (clock.monotonic(), called) == (5, [5])


async def test_a_timer_that_is_cancelled_on_its_way_to_another_thread() -> None:
    """Nothing is called."""
    clock, seen = FakeClock(), list[int]()
    timer = clock.call_later(1, lambda: seen.append(1))
    timer.cancel()
    timer._call()
    clock.advance(1)
    assert seen == []


# ---- Several clocks, several loops


async def test_several_clocks_on_one_loop() -> None:
    """Each jumps by itself, to its own timers."""
    clocks = [FakeClock(start=0, autojump=0) for _ in range(3)]
    buses = [EventBus(clock=clock) for clock in clocks]
    for seconds, bus in enumerate(buses, 1):
        bus.subscribe(lambda _: anyio.sleep_forever(), timeout=seconds)
    await within(asyncio.gather(*(bus.publish_and_wait("a") for bus in buses)))
    assert [clock.monotonic() for clock in clocks] == [1, 2, 3]


def test_loops_one_after_the_other() -> None:
    """A clock of a module serves each; what was set on a loop that is closed is not called."""
    clock = FakeClock(start=0, autojump=0)
    bus = EventBus(clock=clock)
    bus.subscribe(lambda _: anyio.sleep_forever(), timeout=1)
    called: list[str] = []

    async def one(number: int) -> None:
        clock.call_later(100 + number, lambda: called.append("late"))
        await within(bus.publish_and_wait("a"))

    for number in range(3):
        asyncio.run(one(number))
    assert (clock.monotonic(), called) == (3, [])
    assert len(clock._lookouts) == 1
    clock.advance(1000)
    assert called == []
    assert clock.next_timer is None


class Elsewhere:
    """An event loop in another thread."""

    def __enter__(self) -> asyncio.AbstractEventLoop:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        return self.loop

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


async def later(clock: FakeClock, seconds: float, seen: list[Any]) -> None:
    clock.call_later(seconds, lambda: seen.append((threading.get_ident(), clock.monotonic())))


def test_a_loop_in_another_thread_is_advanced_there() -> None:
    """``advance`` returns once the calls are made, in the loop's thread, each at its moment."""
    clock, seen = FakeClock(start=0), list[Any]()
    with Elsewhere() as loop:
        for seconds in (1, 2):
            asyncio.run_coroutine_threadsafe(later(clock, seconds, seen), loop).result(5)
        clock.advance(3)
        thread = loop._thread_id if hasattr(loop, "_thread_id") else None
        assert [moment for _, moment in seen] == [1, 2]
        assert all(ident != threading.get_ident() for ident, _ in seen)
        assert thread is None or {ident for ident, _ in seen} == {thread}


def test_a_call_that_raises_elsewhere_is_raised_here() -> None:
    """The error leaves ``advance``, as it does without threads."""
    clock = FakeClock()

    async def set_timer() -> None:
        clock.call_later(1, lambda: 1 / 0)

    with Elsewhere() as loop:
        asyncio.run_coroutine_threadsafe(set_timer(), loop).result(5)
        with pytest.raises(ZeroDivisionError):
            clock.advance(1)


async def test_two_loops_do_not_wait_for_each_other() -> None:
    """Advanced on one loop, the calls of another are handed over."""
    clock, seen, mine = FakeClock(), list[Any](), list[Any]()
    with Elsewhere() as loop:
        asyncio.run_coroutine_threadsafe(later(clock, 1, seen), loop).result(5)
        await later(clock, 1, mine)
        held = threading.Event()
        loop.call_soon_threadsafe(held.wait, 5)
        began = time.perf_counter()
        clock.advance(1)
        assert time.perf_counter() - began < 4  # it has not waited for a loop that is held up
        assert len(mine) == 1
        held.set()
    assert len(seen) == 1
    assert seen[0][0] != mine[0][0]


async def test_time_jumps_to_a_timer_when_its_own_loop_waits() -> None:
    """A loop that waits does not jump to what another one, at work, will do first."""
    clock, seen, mine = FakeClock(start=0, autojump=0), list[Any](), list[Any]()
    go = threading.Event()

    async def busy() -> None:
        await later(clock, 1, seen)
        while not go.is_set():  # noqa: ASYNC110 - a task that never waits is the point
            await asyncio.sleep(0)

    with Elsewhere() as loop:
        work = asyncio.run_coroutine_threadsafe(busy(), loop)
        while not clock._timers:  # noqa: ASYNC110 - the other thread has no way to tell
            await asyncio.sleep(0)
        await later(clock, 2, mine)
        await asyncio.sleep(20 * LOOK_SECONDS)  # real clock: in which nothing may jump
        assert (seen, mine, clock.monotonic()) == ([], [], 0)
        go.set()
        await within(asyncio.wrap_future(work))
        while not mine:  # noqa: ASYNC110 - what is awaited is that time goes on by itself
            await asyncio.sleep(0.05)  # real clock: until both have jumped
    assert [seen[0][1], mine[0][1]] == [1, 2]


async def test_a_loop_that_stands_still_holds_nobody_up() -> None:
    """Timers of a loop that does not run are made where time is moved."""
    other = asyncio.new_event_loop()
    clock, seen, mine = FakeClock(autojump=0), list[Any](), list[Any]()

    def in_other() -> None:
        other.run_until_complete(later(clock, 1, seen))

    await asyncio.to_thread(in_other)
    await later(clock, 2, mine)
    while not mine:  # noqa: ASYNC110 - what is awaited is that time goes on by itself
        await asyncio.sleep(0.05)  # real clock: until it has jumped
    assert len(seen) == 1
    other.close()


def test_a_loop_that_is_closed_meanwhile() -> None:
    """A call that was due there is not made, and nobody waits for it."""
    clock, seen = FakeClock(), list[Any]()
    with Elsewhere() as loop:
        asyncio.run_coroutine_threadsafe(later(clock, 1, seen), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        clock.advance(1)
    assert clock.next_timer is None
    timer = clock.call_later(1, lambda: seen.append("never"))

    class Closing:
        """Is closed between two looks."""

        def is_running(self) -> bool:
            return not self.called

        def is_closed(self) -> bool:
            return False

        called = False

        def call_soon_threadsafe(self, *_: Any, **__: Any) -> None:
            self.called = True
            raise RuntimeError

    timer.loop = Closing()  # type: ignore[assignment]  # what it does is what counts
    before = list(seen)
    clock.advance(1)
    assert seen == before


def test_a_call_that_takes_long_elsewhere_is_waited_for() -> None:
    """``advance`` looks again and again, and returns once the call is made."""
    clock, seen = FakeClock(), list[str]()
    timer = clock.call_later(1, lambda: seen.append("made"))

    class Slow:
        """Makes the call when it was asked for the third time whether it still runs."""

        asked = 0
        call: Callable[[], object] | None = None

        def is_running(self) -> bool:
            if self.call is not None:
                self.asked += 1
                if self.asked == 3:
                    self.call()
            return True

        def is_closed(self) -> bool:
            return False

        def call_soon_threadsafe(self, call: Callable[..., object], *args: Any, **_: Any) -> None:
            self.call = partial(call, *args)

    timer.loop = Slow()  # type: ignore[assignment]  # what it does is what counts
    clock.advance(1)
    assert seen == ["made"]


# ---- fake_time


async def test_fake_time_is_for_buses_that_exist() -> None:
    """Their clocks are put back when the block ends, and when it raises."""
    buses = [EventBus(), EventBus()]
    own = [bus._clock for bus in buses]
    with fake_time(*buses, start=5) as clock:
        assert [bus._clock for bus in buses] == [clock, clock]
        assert (clock.time(), clock.jumps) == (5, True)
    assert [bus._clock for bus in buses] == own
    with pytest.raises(ZeroDivisionError), fake_time(buses[0], autojump=None) as clock:
        assert not clock.jumps
        raise ZeroDivisionError
    assert isinstance(buses[0]._clock, SystemClock)


async def test_fake_time_while_a_bus_is_entered() -> None:
    """Events are dated by it, and retries pass in the default 0.01 s of real time."""
    bus = EventBus()
    errors: list[Exception] = [ValueError(), ValueError()]

    @bus.on("a", retry=Retry(initial=3600, maximum=3600))
    def flaky(_: Event[Any]) -> None:
        if errors:
            raise errors.pop()

    async with bus:
        with fake_time(bus, start=0) as clock:
            receipt = await bus.publish("a")
            await settle(bus)
            assert receipt.event.time.year == 1970
            assert clock.monotonic() > 3600
    assert AUTOJUMP_SECONDS == 0.01


async def test_fake_time_wants_idle_buses() -> None:
    """What waits by one clock is never due by another: refused before, and told after."""
    idle, busy = EventBus(), EventBus(name="shop")
    gate = asyncio.Event()
    busy.subscribe(lambda _: gate.wait())
    await busy.publish("a")
    with (
        pytest.raises(RuntimeError, match=r"'shop', .*'await settle.bus.' before the block"),
        fake_time(idle, busy),
    ):
        pass
    assert isinstance(idle._clock, SystemClock)
    gate.set()
    await busy.settle()
    gate.clear()
    with pytest.raises(RuntimeError, match=r"'await settle.bus.' in the block"), fake_time(busy):
        await busy.publish("a")
    assert isinstance(busy._clock, SystemClock)
    gate.set()
    await busy.settle()
    with pytest.raises(TypeError, match="is no EventBus"), fake_time("bus"):  # type: ignore[arg-type]  # the point
        pass


async def test_by_hand() -> None:
    """With ``autojump=None`` only ``advance`` moves time."""
    bus = EventBus()
    bus.subscribe(lambda _: anyio.sleep_forever(), timeout=60)
    with fake_time(bus, autojump=None) as clock:
        receipt = await bus.publish("a")
        await wait_all_tasks_blocked()
        assert clock.next_timer == 60
        clock.advance(60)
        (outcome,) = await within(receipt.outcomes())
    assert isinstance(outcome.error, HandlerTimeout)
