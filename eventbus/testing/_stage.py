"""What a simulation puts in the place of the real world, for the whole program while it runs.

The clocks show the time of its loop; a thread of a handler is one step of the loop; other threads
are refused; the log, the garbage collector and the global random numbers are kept from making one
run differ from another.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import random
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio

import eventbus._threads
from eventbus import _binding, _publishing
from eventbus._apart import HandlerTask
from eventbus._publishing import Publishing
from eventbus._pump import PumpTask
from eventbus._state import every_bus
from eventbus.clock import SystemClock
from eventbus.event import given_slots
from eventbus.instrumentation import LogHook, LogLine
from eventbus.testing import _blocked
from eventbus.testing._loop import NoThreads, SimulationLoop, no_threads, number_of

if TYPE_CHECKING:
    from eventbus.receipt import Receipt

T = TypeVar("T")

START: Final = 1_700_000_000.0
"""The wall clock at the start of each run, in UNIX time."""

QUIET_TURNS: Final = 100
"""How many turns of its own `wait_all_tasks_blocked` looks at here. In some of them chance passes
over whatever else can go on; not in all of so many."""

COLLECT_ALL_EVERY: Final = 500
"""After how many runs all garbage is collected, and not that of the last run alone."""

one_at_a_time: Final = threading.Lock()
"""What is replaced here is replaced for every thread."""


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Write nothing to the log: what is to be read there is the one run that is repeated."""
    log = LogHook.log
    LogHook.log = _write_nothing  # type: ignore[method-assign, assignment]  # put back below
    try:
        yield
    finally:
        LogHook.log = log  # type: ignore[method-assign]


def _write_nothing(hook: LogHook, line: LogLine) -> None:
    """Stands in for the log."""


@contextlib.contextmanager
def seeded_random() -> Iterator[None]:
    """Let each run seed the global generator, and put it back to where it was."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Collect no garbage by chance: what is destroyed in the midst of a run may call its loop."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def collect_garbage(runs: int) -> None:
    """Collect what the last of so many runs has left.

    asyncio goes through all tasks in memory, of whatever loop, each time it is asked for those of
    one, so they must not pile up. While the collector is off, what a run has made is young, and
    nothing else is: that costs next to nothing, however large the application. What outlives its
    run (the application's buses keep dead letters, say) takes a look at everything, now and then.
    """
    gc.collect(0 if runs % COLLECT_ALL_EVERY else 2)


def _show_buses_their_clocks() -> None:
    """A bus keeps the method that tells its time, and now another one does."""
    for bus in every_bus():
        bus._set_clock(bus._clock)


@contextlib.contextmanager
def without_threads() -> Iterator[None]:
    """Refuse threads to what runs in this thread. Others may do as they like."""
    here = threading.get_ident()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if threading.get_ident() == here:
            raise NoThreads(no_threads(f"the thread {thread.name!r}"))
        start(thread)

    threading.Thread.start = refuse  # type: ignore[method-assign, assignment]  # put back below
    try:
        yield
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]


@contextlib.contextmanager
def stage(loop: SimulationLoop) -> Iterator[None]:
    """Let everybody see the loop's time, and nothing that differs from run to run."""
    time, monotonic = SystemClock.time, SystemClock.monotonic
    run_in_thread, turns = eventbus._threads.run_in_thread, _blocked.QUIET_TURNS
    SystemClock.time = staticmethod(lambda: START + loop.time())
    SystemClock.monotonic = staticmethod(loop.time)
    _show_buses_their_clocks()
    eventbus._threads.run_in_thread = _run_at_some_moment  # type: ignore[assignment]  # fewer arguments
    _blocked.QUIET_TURNS = QUIET_TURNS  # type: ignore[misc]  # put back below
    PumpTask.__hash__ = number_of  # type: ignore[method-assign, assignment]  # put back below
    HandlerTask.__hash__ = number_of  # type: ignore[method-assign, assignment]
    scopes = _class_of_scopes()
    scopes.__hash__ = _number_of_host  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        SystemClock.time, SystemClock.monotonic = staticmethod(time), staticmethod(monotonic)
        _show_buses_their_clocks()
        eventbus._threads.run_in_thread = run_in_thread
        _blocked.QUIET_TURNS = turns  # type: ignore[misc]
        del PumpTask.__hash__, HandlerTask.__hash__, scopes.__hash__


@functools.cache
def _class_of_scopes() -> type[anyio.CancelScope]:
    """What anyio's cancel scopes are on asyncio; it has no public name for that class."""

    async def look() -> type[anyio.CancelScope]:
        return type(anyio.CancelScope())

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(look())
    finally:
        loop.close()


def _number_of_host(scope: Any) -> int:
    """Instead of its address: scopes that are cancelled together have different hosts."""
    host = getattr(scope, "_host_task", None)
    return object.__hash__(scope) if host is None else hash(host)


# ---- Threads that are none


async def _run_at_some_moment(function: Callable[..., T], *arguments: Any, **_: Any) -> T:
    """A thread: it runs the function in one step, and reports to the loop when its time is over."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulationLoop)
    thread = _Thread(loop)
    future: asyncio.Future[T] = loop.create_future()

    async def run() -> None:
        await thread.take_time()
        seen_from_there = [thread if each is loop else each for each in arguments]
        with _outside_of(loop):
            result = function(*seen_from_there)
        thread.call_soon_threadsafe(_report, future, result)
        await thread.take_time()
        thread.tell_loop()

    running = loop.create_task(run(), name="a thread")  # a task, so that chance decides
    try:
        return await future
    finally:
        del running


def _report(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


class _Thread:
    """What the function in a thread takes for the loop: it hears of calls when the thread ends."""

    def __init__(self, loop: SimulationLoop) -> None:
        self._loop = loop
        self._calls: list[Callable[[], object]] = []

    async def take_time(self) -> None:
        """Let virtual time pass, if threads take any."""
        if self._loop.thread_seconds:
            await asyncio.sleep(self._loop.random.uniform(0, self._loop.thread_seconds / 2))

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        """Keep a call for later."""
        self._calls.append(functools.partial(callback, *args))

    def tell_loop(self) -> None:
        """The thread ends."""
        for call in self._calls:
            self._loop.call_soon(call)


@contextlib.contextmanager
def _outside_of(loop: SimulationLoop) -> Iterator[None]:
    """Let the code in the block see what it would see in a thread."""
    publish_from_thread = Publishing.publish_from_thread

    def publish(bus: Publishing, topic: Any, data: Any = None, **fields: Any) -> Receipt:
        if bus._loop is not loop:
            return publish_from_thread(bus, topic, data, **fields)
        _binding.check_other_thread(bus)
        _take_for(loop, threading.get_ident)
        try:
            return _publish_at_once(bus, topic, data, **fields)
        finally:
            _take_for(None, _nobody)

    Publishing.publish_from_thread = publish  # type: ignore[method-assign, assignment]  # put back below
    _take_for(None, _nobody)
    try:
        yield
    finally:
        _take_for(loop, threading.get_ident)
        Publishing.publish_from_thread = publish_from_thread  # type: ignore[method-assign]


def _take_for(loop: SimulationLoop | None, get_ident: Callable[[], int]) -> None:
    """Say which loop runs here, and which thread this is."""
    asyncio._set_running_loop(loop)
    _binding.get_ident = _publishing.get_ident = get_ident  # type: ignore[attr-defined]


def _nobody() -> int:
    """The number of no thread."""
    return 0


def _publish_at_once(bus: Publishing, topic: Any, data: Any, **fields: Any) -> Receipt:
    """As ``publish_from_thread``, in the step of the thread: nested, it never waits for room."""
    future: concurrent.futures.Future[Receipt] = concurrent.futures.Future()
    bus._submit_for_thread(future, topic, data, given_slots(**fields) if fields else None)
    assert future.done()
    return future.result()
