"""An event loop in which chance, and nothing else, decides what happens next.

It runs one callback at a time, in virtual time, without sockets, files or threads. Which of the
tasks that can go on does so is drawn from a seeded generator of random numbers; the same seed
draws the same order again. Two things keep their order, because asyncio promises it: plain
callbacks (``call_soon``) among themselves, and timers that are due at different times. Time passes
only when nothing can go on, unless steps take time too (``step_seconds``); when then no timer is
set either, the loop is *idle*, and as nothing comes from outside, it will be for ever.

Nothing else may decide. A set of tasks is iterated over in the order of their hashes, and asyncio
and anyio cancel the tasks of a group so; usually those are addresses, which differ from run to
run. Here they are numbers, in the order in which the tasks were made (and anyio's cancel scopes
have the numbers of their tasks).
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Never

from eventbus.testing._describe import where_waiting

if TYPE_CHECKING:
    from contextvars import Context
    from random import Random

FAIRNESS: Final = (0.0, 0.5, 0.9)
"""How often, in a run, whatever has been ready for longest goes on, rather than anything."""

HASTE: Final = (2, 8, 32, 128)
"""After how many steps, on average, a cancellation comes."""

LAST_STEPS: Final = 12
"""How many of the last steps are told when a run fails."""

SAME_MOMENT: Final = 1e-9
"""Timers that are due within so many seconds are due at once: sums of floats are that exact."""


class Idle(Exception):
    """Nothing can go on any more, and nobody outside will change that."""


class TooManySteps(Exception):
    """The run does not come to an end."""


class NoThreads(RuntimeError):
    """What runs in a simulation has asked for a thread, a socket or a file."""


def number_of(task: asyncio.Task[Any]) -> int:
    """Which task of its loop it is, in the order in which they were made: the hash of a task."""
    loop = task.get_loop()
    if not isinstance(loop, SimulationLoop):
        return object.__hash__(task)
    number: int | None = getattr(task, "simulation_number", None)
    if number is None:
        number = task.simulation_number = next(loop.numbers)  # type: ignore[attr-defined]
    return number


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is a number and not an address."""

    def __init__(self, coro: Any, *, loop: SimulationLoop, **options: Any) -> None:
        self.simulation_number = next(loop.numbers)
        super().__init__(coro, loop=loop, **options)  # which asks for the hash

    def __hash__(self) -> int:
        return self.simulation_number


class _Victim:
    """A task that is to be cancelled beside a step of its own."""

    def __init__(self, task: asyncio.Task[Any], number: int, *, after: bool) -> None:
        self.task = task
        self.number = number
        self.after = after


class SimulationLoop(asyncio.BaseEventLoop):
    """An event loop whose every choice comes from ``random``.

    Raises `Idle` and `TooManySteps` out of ``run_until_complete``.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, random: Random, *, limit: int, fair: bool = False) -> None:
        super().__init__()
        self.random = random
        self.limit = limit
        """How many steps it may take."""
        self.steps = 0
        """Callbacks run so far."""
        self.signature = 0
        """Of all choices so far: equal for equal orders of events."""
        self.errors: list[dict[str, Any]] = []
        """What was handed to the exception handler: errors that nobody else will see."""
        self.last: deque[Callable[..., object]] = deque(maxlen=LAST_STEPS)
        """What was called last."""
        self.thread_seconds = 0.0
        """How long a thread of a handler takes at most."""
        self.step_seconds = 0.0
        """How long a callback takes at most."""
        self.numbers = itertools.count()
        self._names = itertools.count(1)
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        """By address: those that have made a step and not ended, or whose error nobody has looked
        at. Kept here, they do not depend on when the garbage collector comes."""
        self._now = 0.0
        self._fair = fair
        self._fairness = 1.0 if fair else random.choice(FAIRNESS)
        self._victims: list[_Victim] = []
        self._sometime: list[tuple[int, int, asyncio.Task[Any]]] = []
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        """Virtual seconds since the start of the run."""
        return self._now

    def create_task(self, coro: Any, *, name: Any = None, **options: Any) -> asyncio.Task[Any]:
        """As of any loop, with a name that says which task of this run it is."""
        if name is None:
            name = f"Task-{next(self._names)}"
        if self.get_task_factory() is not None:
            return super().create_task(coro, name=name, **options)
        self._check_closed()  # type: ignore[attr-defined]  # asyncio's own
        return SimulatedTask(coro, loop=self, name=name, **options)

    def all_tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that have not ended, in the order in which they were made."""
        return sorted(asyncio.all_tasks(self), key=hash)

    def unseen(self) -> asyncio.Task[Any] | None:
        """A task that has raised, and nobody has asked what."""
        for task in self._tasks.values():
            if task.done() and task._log_traceback:
                return task
        return None

    # Cancelling.

    def cancel_sometime(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task after a random number of steps, if it is not done by then."""
        delay = int(self.random.expovariate(1 / self.random.choice(HASTE)))
        heapq.heappush(self._sometime, (self.steps + delay, hash(task), task))

    def cancel_beside_step(self, task: asyncio.Task[Any], number: int, *, after: bool) -> None:
        """Cancel a task just before or after its next step but ``number``."""
        self._victims.append(_Victim(task, number, after=after))

    def cancel_nobody(self) -> None:
        """Forget who was still to be cancelled."""
        self._victims.clear()
        self._sometime.clear()

    def _cancel_beside(self, stepping: object, *, after: bool) -> None:
        for victim in [v for v in self._victims if v.task is stepping and v.after is after]:
            if victim.number == 0:
                self._victims.remove(victim)
                victim.task.cancel()
            victim.number -= 1

    # Running. `run_forever`, of the base class, calls `_run_once` until it is stopped.

    def _run_once(self) -> None:
        if self.steps >= self.limit:
            raise TooManySteps
        while self._sometime and self._sometime[0][0] <= self.steps:
            heapq.heappop(self._sometime)[-1].cancel()
        if self.step_seconds:
            self._now += self.random.uniform(0, self.step_seconds)
            self._call_what_is_due()
        while not self._ready:
            self._pass_time()
        handle = self._choose()
        if handle.cancelled():
            return
        self.steps += 1
        callback: Callable[..., object] = handle._callback  # type: ignore[attr-defined]  # asyncio's own
        self.last.append(callback)
        task = _task_of(callback)
        if task is None:
            handle._run()
            return
        if self._victims:
            self._cancel_beside(task, after=False)
        self._tasks[id(task)] = task
        handle._run()
        if self._victims:
            self._cancel_beside(task, after=True)
        if task.done() and not task._log_traceback:
            del self._tasks[id(task)]

    def _choose(self) -> asyncio.Handle:
        ready = self._ready
        count = len(ready)
        if count == 1 or self.random.random() < self._fairness:
            index = 0
        else:
            index = self.random.randrange(count)
            if _is_plain(ready[index]):  # the oldest of them
                index = next(i for i in range(count) if _is_plain(ready[i]))
        self.signature = hash((self.signature, count, index))
        handle = ready[index]
        del ready[index]
        return handle

    def _pass_time(self) -> None:
        """Jump to the next timers. Without any, whoever is to be cancelled sometime is it now."""
        while self._scheduled and self._scheduled[0].cancelled():
            self._take_timer()
        if self._scheduled:
            self._now = max(self._now, self._scheduled[0].when())
            self._call_what_is_due()
        elif self._sometime:
            heapq.heappop(self._sometime)[-1].cancel()
        else:
            raise Idle

    def _call_what_is_due(self) -> None:
        """Make the calls of timers ready, those of one moment in any order."""
        until = self._now + SAME_MOMENT
        due: list[asyncio.TimerHandle] = []
        while self._scheduled and self._scheduled[0].when() <= until:
            timer = self._take_timer()
            if not timer.cancelled():
                due.append(timer)
        if not due:
            return
        self._now = max(self._now, due[-1].when())
        order = list(range(len(due)))
        if not self._fair and due[0].when() + SAME_MOMENT >= due[-1].when():
            self.random.shuffle(order)
        self.signature = hash((self.signature, *order))
        self._ready.extend(due[index] for index in order)

    def _take_timer(self) -> asyncio.TimerHandle:
        timer = heapq.heappop(self._scheduled)
        timer._scheduled = False  # type: ignore[attr-defined]  # as the base class does
        return timer

    # What an event loop has to have, and a simulation refuses. See also below.

    def call_soon_threadsafe(  # type: ignore[override]  # typeshed: variadic generics
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """The same as ``call_soon``: there are no threads."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Never:  # type: ignore[override]  # it never returns
        """Refuse. Raises `NoThreads`."""
        raise NoThreads(no_threads(f"a thread for {_name_of(func)}"))

    def _process_events(self, event_list: object) -> None:
        """There are none from outside."""

    def _write_to_self(self) -> None:
        """Nobody outside has to wake the loop."""


def no_threads(what: str) -> str:
    """The message for whoever asks for a thread."""
    return (
        f"a simulation has no threads, sockets or files, and was asked for {what}: "
        "put something else in its place with replace(bus, handler, with_=…)"
    )


def _refusing(name: str) -> Callable[..., Never]:
    def refuse(loop: SimulationLoop, *_: Any, **__: Any) -> Never:
        raise NoThreads(no_threads(f"loop.{name}()"))

    return refuse


for _name in (
    *("add_reader", "add_writer", "add_signal_handler", "getaddrinfo", "getnameinfo"),
    *("connect_read_pipe", "connect_write_pipe", "subprocess_exec", "subprocess_shell"),
    *("create_connection", "create_datagram_endpoint", "create_server", "start_tls", "sendfile"),
    *("create_unix_connection", "create_unix_server", "connect_accepted_socket"),
    *("sock_accept", "sock_connect", "sock_recv", "sock_recv_into", "sock_recvfrom"),
    *("sock_recvfrom_into", "sock_sendall", "sock_sendfile", "sock_sendto"),
):
    setattr(SimulationLoop, _name, _refusing(_name))


def _is_plain(handle: asyncio.Handle) -> bool:
    """Whether this is a callback, and no step of a task."""
    return _task_of(handle._callback) is None  # type: ignore[attr-defined]  # asyncio's own


def _task_of(callback: object) -> asyncio.Task[Any] | None:
    """The task of which this is a step; None for a plain callback."""
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task) and getattr(callback, "__name__", "") in _STEPS:
        return task
    return None


_STEPS: Final = ("", "task_wakeup", "__step", "__wakeup", "_Task__step", "_Task__wakeup")
"""How the callbacks are called that run a step of a task, in C and in Python."""


def show_step(callback: object) -> str:
    """One step of a run, for the message of its failure."""
    task = _task_of(callback)
    if task is None:
        return f"a call of {_name_of(callback)}"
    coroutine = task.get_coro()
    now = "" if task.done() else f", now at {where_waiting(coroutine)}"
    return f"a step of {task.get_name()} ({_name_of(coroutine)}){now}"


def _name_of(function: Any) -> str:
    """What a callable or a coroutine is called, whatever is wrapped around it."""
    while isinstance(function, functools.partial):
        runs = getattr(function.func, "__name__", "") == "run" and bool(function.args)
        function = function.args[0] if runs else function.func
    return str(getattr(function, "__qualname__", function))
