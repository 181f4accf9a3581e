"""The pytest plugin of eventbus: fixtures that look at a bus at the end of each test.

========================  ========================================================================
``bus``                   a fresh `EventBus`, watched; it settles and closes when the test ends
``watch_bus``             ``watch_bus(bus)`` watches a bus that the application owns
``fake_clock``            a `FakeClock` that jumps; ``bus`` goes by it in tests that ask for it
========================  ========================================================================

A watched bus fails the test on a handler error that nobody looked at, on deliveries that are
pending or unaccounted for, on tasks that still run, and, if that is asked for, on events that
nobody handled. ``@pytest.mark.eventbus(strict=True, tasks=False, …)`` adjusts each check for a
test; ``eventbus_strict`` and so on, in pytest's configuration, for all.

pytest imports this file in each run of each project that has eventbus installed. That is why it
stands outside of the package and imports nothing of it before a test asks for a fixture: the
package would be loaded before coverage begins to measure, and by runs that never use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator

    from eventbus import EventBus
    from eventbus.testing import FakeClock
    from eventbus.testing._pytest import Guard

CHECKS = {
    "failures": "fail a test if a handler failed and nobody looked at its error",
    "accounts": "fail a test if deliveries are pending or unaccounted for when it ends",
    "tasks": "fail a test if tasks that it started still run when it ends",
    "strict": "fail a test if an event reached no subscription",
}

GUARD: pytest.StashKey[Guard] = pytest.StashKey()
"""What guards a test that has asked for ``watch_bus``, with ``bus`` or alone."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options, each with the default that `eventbus.testing.watch` has too."""
    for check, text in CHECKS.items():
        parser.addini(f"eventbus_{check}", text, type="bool", default=check != "strict")
    number: Any = "float" if pytest.version_tuple >= (8, 4) else None
    parser.addini("eventbus_timeout", "seconds that a bus may take to settle", number, 5.0)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "eventbus(failures, accounts, tasks, strict, timeout): adjust what is checked of "
        "watched buses when the test ends",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Tell of failed handlers if a fixture of the application fails."""
    __tracebackhide__ = True
    try:
        return (yield)
    except BaseException as error:
        if GUARD in item.stash:
            item.stash[GUARD].failed(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Settle and look at the watched buses while the test still counts as running."""
    __tracebackhide__ = True
    if GUARD not in item.stash:
        return (yield)
    return (yield from item.stash[GUARD].run_test(item))


def pytest_fixture_post_finalizer(request: pytest.FixtureRequest) -> None:
    """Settle after each fixture: what its end has published may need a loop that closes next."""
    if GUARD in request.node.stash:
        request.node.stash[GUARD].settle_where_busy()


@pytest.fixture
def watch_bus(request: pytest.FixtureRequest) -> Iterator[Callable[[EventBus], EventBus]]:
    """``watch_bus(bus)`` watches a bus until the end of the test, and returns it."""
    from eventbus.testing import _pytest

    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("_eventbus_keeps_the_loop")
    guard = request.node.stash[GUARD] = _pytest.new_guard(request)
    yield guard.watch
    try:
        guard.finish()
    finally:
        del request.node.stash[GUARD]
        guard.stop()


@pytest.fixture
async def _eventbus_keeps_the_loop(anyio_backend: object) -> AsyncIterator[None]:
    """Nothing: anyio's plugin closes its loop with the last async fixture, which is this one."""
    yield  # noqa: PT022 - its end is what counts: see above


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that jumps once everything has waited for 0.01 s; ``bus`` goes by it."""
    from eventbus.testing import _pytest

    return _pytest.new_clock()


@pytest.fixture
def bus(
    request: pytest.FixtureRequest, watch_bus: Callable[[EventBus], EventBus]
) -> Iterator[EventBus]:
    """A fresh bus, watched. It is not entered, so that an application can enter it."""
    from eventbus import EventBus

    clock = None
    if "fake_clock" in request.fixturenames:
        clock = request.getfixturevalue("fake_clock")
    bus = watch_bus(EventBus(clock=clock))
    guard = request.node.stash[GUARD]
    yield bus
    try:
        guard.finish()
    finally:
        guard.close(bus)
