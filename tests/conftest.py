"""What every test gets: the core's own checks, a bus, its accounts looked over, and the variants.

``EVENTBUS_TEST_VARIANT`` runs the same tests in other surroundings:

========  ==========================================================
(unset)   asyncio's own loop, fast path on
careful   the pump's fast path off
apart     every first handler is taken for one that waits, and gets a task of its own
eager     ``asyncio.eager_task_factory`` on every loop (Python 3.12+)
uvloop    uvloop's event loop instead of asyncio's
debug     asyncio's debug mode
========  ==========================================================

tests/promises/test_variant.py asserts that a variant that was asked for is really there.
"""

from __future__ import annotations

import os

os.environ.setdefault("EVENTBUS_DEBUG", "1")  # read once, when the core is imported

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

import eventbus._apart
import eventbus._pump
import eventbus._state
from eventbus import EventBus, Subscription
from eventbus.testing._watch import unbalanced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from eventbus._engine import Engine

VARIANT = os.environ.get("EVENTBUS_TEST_VARIANT", "")
VARIANTS = ("", "careful", "apart", "eager", "uvloop", "debug")
EAGER = getattr(asyncio, "eager_task_factory", None)  # from Python 3.12 on


def pytest_configure(config: pytest.Config) -> None:
    if VARIANT not in VARIANTS:
        raise pytest.UsageError(f"EVENTBUS_TEST_VARIANT={VARIANT!r}: take one of {VARIANTS}")
    vars(eventbus._pump)["BATCH_SECONDS"] = 600  # how busy the machine is ends no batch
    if VARIANT == "careful":
        eventbus._pump.FAST = False
    elif VARIANT == "apart":
        _expect_all_to_wait()
    elif VARIANT == "debug":
        os.environ["PYTHONASYNCIODEBUG"] = "1"  # for loops that tests make by themselves
        config.option.asyncio_debug = True  # for those of pytest-asyncio, which overrides it
    elif VARIANT == "eager":
        if EAGER is None:
            raise pytest.UsageError("EVENTBUS_TEST_VARIANT=eager needs Python 3.12")
        _make_every_loop_with(_new_eager_loop)
    elif VARIANT == "uvloop":
        import uvloop

        _make_every_loop_with(uvloop.new_event_loop)


def pytest_report_header() -> str:
    return f"variant: {VARIANT or 'none'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, in one place, what the operating system does not have."""
    if os.name == "posix":
        return
    for item in items:
        if item.get_closest_marker("posix"):
            item.add_marker(pytest.mark.skip(reason="needs POSIX"))


def pytest_collection_finish() -> None:
    """Take what lives as long as the run out of the collector's sight: many tests call it."""
    gc.collect()
    gc.freeze()


def _make_every_loop_with(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Let ``asyncio.run``, ``asyncio.Runner`` and pytest-asyncio all make their loops so.

    A loop policy is the one thing that all three ask. Python 3.14 deprecates it; by then the
    hook ``pytest_asyncio_loop_factories`` and an argument in each ``asyncio.run`` must do.
    """

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return new_loop()

    asyncio.set_event_loop_policy(Policy())


def _expect_all_to_wait() -> None:
    """Let the first event of each subscription find what it otherwise finds after a wait."""
    subscribe, start = Subscription.__init__, eventbus._apart.start_apart

    def subscribe_active(self: Subscription, *args: Any, **options: Any) -> None:
        subscribe(self, *args, **options)
        self._active = {}

    def start_all(subscription: Subscription, most: int, *, alone: bool) -> int:
        return start(subscription, most, alone=False)

    Subscription.__init__ = subscribe_active  # type: ignore[method-assign]
    vars(eventbus._pump)["start_apart"] = start_all


def _new_eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()
    loop.set_task_factory(EAGER)
    return loop


@pytest.fixture
async def bus(bus: EventBus) -> AsyncIterator[EventBus]:
    """The kit's own bus, entered."""
    async with bus:
        yield bus


@pytest.fixture(autouse=True)
def accounts(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Engine]]:
    """Every bus that the test makes; P6 must hold for each of them when the test has ended.

    The list keeps them alive until then, unless the test is marked ``buses_may_vanish``.
    """
    seen: list[Engine] = []
    if request.node.get_closest_marker("buses_may_vanish") is None:
        register = eventbus._state.instances.add

        def remember(engine: Engine) -> None:
            seen.append(engine)
            register(engine)

        monkeypatch.setattr(eventbus._state.instances, "add", remember)
    before = set(eventbus._state.instances)
    yield seen
    for engine in {*seen, *eventbus._state.instances} - before:
        if isinstance(engine, EventBus):
            assert unbalanced(engine) == []
