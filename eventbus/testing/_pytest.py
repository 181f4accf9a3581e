"""What the pytest plugin does, once a test has asked for it.

A test that is a coroutine is wrapped in one that settles its buses on the test's own event loop,
whichever plugin runs that. Otherwise buses settle on the loop on which they are busy, if it is
still there. Everything is looked at twice: when the test function has returned, where it fails
the test; and when the fixtures that use the bus are gone, where it is an error of the teardown.
Nothing is added to a test that has failed or was skipped by then: what handlers had to do with it
is told in its own report.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import unittest
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

from eventbus._closing import LAST_SECOND
from eventbus.testing._clock import AUTOJUMP_SECONDS, FakeClock
from eventbus.testing._watch import Checks, Watch, abandon, add_note

if TYPE_CHECKING:
    from eventbus import EventBus

MORE_SECONDS: Final = 1.0
"""How much longer than it should a loop in another thread may take to answer."""


class Guard:
    """The watched buses of one test."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._watches: list[Watch] = []
        self._quiet = False
        """The test has failed, or was skipped: nothing is added to that."""

    def watch(self, bus: EventBus) -> EventBus:
        """What the fixture ``watch_bus`` gives to the test."""
        if all(watch.bus is not bus for watch in self._watches):
            watch = Watch(bus, self._checks)
            watch.start()
            if _running_loop() is not None:
                watch.enter_loop()
            self._watches.append(watch)
        return bus

    # Around the call of a test.

    def run_test(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Run it, let it settle, and look."""
        __tracebackhide__ = True
        try:
            with self._wrapped(item):
                result = yield
        except BaseException as error:
            self.failed(error)
            raise
        self.finish()
        return result

    def failed(self, error: BaseException) -> None:
        """The test has failed, or was skipped: failed handlers may have to do with it."""
        self._quiet = True
        if not isinstance(error, pytest.skip.Exception):
            for watch in self._watches:
                add_note(error, watch.look(settled=False))
        self._abandon()

    @contextlib.contextmanager
    def _wrapped(self, item: pytest.Item) -> Iterator[None]:
        """Where a test keeps its function: let that settle at its end, if it is a coroutine."""
        function = getattr(item, "obj", None)
        keeper, name = item, "obj"
        example = hasattr(function, "hypothesis")
        if example:
            keeper, name = function.hypothesis, "inner_test"  # type: ignore[union-attr]  # has it
        function = getattr(keeper, name, None)
        if not inspect.iscoroutinefunction(function):
            yield
            return
        settling = self._settling(function, look=example)
        setattr(keeper, name, settling)
        case = getattr(item, "instance", None)
        if isinstance(case, unittest.TestCase):  # unittest takes an ``async def`` from there
            setattr(case, item.name, settling)
        try:
            yield
        finally:
            setattr(keeper, name, function)
            if isinstance(case, unittest.TestCase):
                delattr(case, item.name)

    def _settling(
        self, function: Callable[..., Awaitable[Any]], *, look: bool
    ) -> Callable[..., Awaitable[Any]]:
        """The test, and then all that it has set in motion.

        ``look`` fails it there and then, as hypothesis needs it to find the smallest example.
        """

        @functools.wraps(function)
        async def test(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if _running_loop() is None:
                return await function(*args, **kwargs)  # anyio runs it with trio
            for watch in self._watches:
                watch.enter_loop()
            result = await function(*args, **kwargs)
            await self._settle()
            for watch in self._watches[:1]:
                await watch.find_leaks()  # the tasks of the loop, whichever bus
            complaint = self._look() if look else ""
            if complaint:
                raise AssertionError(complaint)
            return result

        return test

    # At the end.

    async def _settle(self) -> None:
        """Settle what is busy on this loop: each bus may be given more to do by the others."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._checks.timeout
        while busy := [watch for watch in self._unsettled() if watch.bus._loop is loop]:
            for watch in busy:
                await watch.settle()
            if loop.time() >= end:
                return  # what is pending then is told by `look`

    def _unsettled(self) -> list[Watch]:
        return [w for w in self._watches if not (w.bus._is_drained() or w.gave_up)]

    def settle_where_busy(self) -> None:
        """Settle what a coroutine has not settled, on its own loop, if that is still there."""
        if not self._quiet:
            for watch in self._unsettled():
                _run_on(watch.bus._loop, self._settle, self._checks.timeout + MORE_SECONDS)

    def finish(self) -> None:
        """Settle, look, and fail if anything is wrong."""
        self.settle_where_busy()
        if not self._quiet:
            complaint = self._look()
            if complaint:
                self._quiet = True
                self._abandon()
            self._fail(complaint)

    def _look(self) -> str:
        return "\n\n".join(filter(None, (watch.look() for watch in self._watches)))

    def _fail(self, complaint: str) -> None:
        if complaint:
            pytest.fail(complaint, pytrace=False)

    def stop(self) -> None:
        """Look no longer, and leave nothing pending for the next test."""
        self._abandon()
        for watch in self._watches:
            watch.stop()

    def _abandon(self) -> None:
        """Cancel what is pending: a fixture that closes its bus need not wait for that."""
        for watch in self._watches:
            if not watch.bus._is_drained():
                _run_anywhere(watch.bus, functools.partial(abandon, watch.bus))

    def close(self, bus: EventBus) -> None:
        """The end of the fixture ``bus``: nobody will use that one again."""
        self._abandon()
        for watch in self._watches:
            if watch.bus is bus:
                watch.stop()
        self._watches = [watch for watch in self._watches if watch.bus is not bus]

        async def close() -> None:
            await bus.aclose(grace=0)

        _run_anywhere(bus, close)


# ---- Where things run


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _run_on(
    loop: asyncio.AbstractEventLoop | None,
    function: Callable[[], Coroutine[Any, Any, None]],
    timeout: float,
) -> None:
    """Run something on a loop that may run in another thread, if it can be run there at all."""
    if loop is None or loop.is_closed() or _running_loop() is not None:
        return
    if not loop.is_running():
        loop.run_until_complete(function())
        return
    coroutine = function()
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:  # it has been closed this very moment
        coroutine.close()
        return
    with contextlib.suppress(TimeoutError, concurrent.futures.CancelledError):
        future.result(timeout)


def _run_anywhere(bus: EventBus, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run something on the loop on which a bus is busy, or on a new one."""
    loop = bus._loop
    if loop is not None and not loop.is_closed():
        _run_on(loop, function, LAST_SECOND + MORE_SECONDS)
    elif _running_loop() is None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(function())
        finally:
            loop.close()


# ---- What the fixtures are made of


def new_guard(request: pytest.FixtureRequest) -> Guard:
    """A guard that checks what the configuration and the markers of a test ask for."""
    config = request.config
    options: dict[str, Any] = {
        check: config.getini(f"eventbus_{check}")
        for check in ("failures", "accounts", "tasks", "strict")
    }
    try:
        options["timeout"] = config.getini("eventbus_timeout")
    except (TypeError, ValueError, pytest.UsageError) as error:  # which, depends on the version
        raise pytest.UsageError(f"eventbus_timeout: {error}") from None
    markers = list(reversed(list(request.node.iter_markers("eventbus"))))  # the nearest is last
    case = getattr(request.node, "callspec", None)
    markers += [each for each in getattr(case, "marks", ()) if each.name == "eventbus"]  # nearer
    for marker in markers:
        if marker.args or not marker.kwargs.keys() <= options.keys():
            raise pytest.UsageError(
                f"@pytest.mark.eventbus takes {', '.join(f'{each}=…' for each in options)}; "
                f"got {[*marker.args, *marker.kwargs]}"
            )
        options.update(marker.kwargs)
    try:
        options["timeout"] = float(options["timeout"])
    except (TypeError, ValueError):
        raise pytest.UsageError(
            f"eventbus_timeout: {options['timeout']!r} is no number of seconds"
        ) from None
    return Guard(Checks(**options))


def new_clock() -> FakeClock:
    """The fixture ``fake_clock``."""
    return FakeClock(autojump=AUTOJUMP_SECONDS)
