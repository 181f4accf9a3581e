"""The pytest plugin, as projects meet it: each test here runs pytest on a little project."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import TypeAlias

import pytest

import eventbus.testing._pytest  # noqa: F401 - an inner run forgets what it is first to import

pytest_plugins = ["pytester"]

Run: TypeAlias = Callable[..., pytest.RunResult]

PREAMBLE = """
import asyncio
import pytest
from eventbus import Event, EventBus

async def broken(event):
    raise ZeroDivisionError(f"no {event.data}")

async def hanging(event):
    await asyncio.Event().wait()
"""

# The loop cancels the first as it closes; the second never begins.
PREAMBLE += """
async def left_pending(bus):
    bus.subscribe(hanging, "a")
    await bus.publish("a", 1)
    await bus.publish("a", 2)
"""

AUTO = "asyncio_mode = auto"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest on a test file in which any warning is an error."""
    for name in ("CI", "BUILD_NUMBER"):  # pytest shows more, and shows it again, where one is set
        monkeypatch.delenv(name, raising=False)

    def run(
        source: str, *options: str, head: str = "", ini: str = AUTO, conftest: str = ""
    ) -> pytest.RunResult:
        lines = ["[pytest]", "filterwarnings = error", "strict_markers = true", ini]
        if "no:asyncio" not in options and "fixture_loop_scope" not in ini:
            lines.append("asyncio_default_fixture_loop_scope = function")
        pytester.makeini("\n".join(lines))
        if conftest:
            pytester.makeconftest(f"{PREAMBLE}\n{dedent(conftest)}")
        pytester.makepyfile(f"{PREAMBLE}\n{head}\n{dedent(source)}")
        if "from hypothesis" not in source:
            options += ("-p", "no:hypothesispytest")  # most of the time went into its import
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return run


def shown(result: pytest.RunResult, *lines: str) -> None:
    """Assert that pytest has shown these lines, in this order, others between them."""
    result.stdout.fnmatch_lines([*lines])


# ---- What it finds, and what it says


FAIL_IN_THE_KIT = """
from eventbus.testing import capture, expect_failure, replace, settle, simulate, watch

async def test_published(bus):
    with capture(bus) as captured:
        captured.assert_published("a")

async def test_not_published(bus):
    async with capture(bus) as captured:
        await bus.publish("a")
    captured.assert_not_published()

async def test_nothing_else(bus):
    async with capture(bus) as captured:
        await bus.publish("a")
    captured.assert_nothing_else()

async def test_order(bus):
    with capture(bus) as captured:
        captured.assert_order(["a"])

async def test_handled(bus):
    with capture(bus) as captured:
        captured.assert_handled_by(broken)

async def test_not_listened_to(bus):
    with capture(bus, "a") as captured:
        captured.assert_published("b")

async def test_expected(bus):
    async with expect_failure(bus):
        pass

async def test_replaced(bus):
    async with replace(bus, "nobody"):
        pass

@pytest.mark.eventbus(accounts=False)
async def test_settled(bus):
    bus.subscribe(hanging)
    await bus.publish("a")
    await settle(bus, timeout=0.01)

@pytest.mark.eventbus(accounts=False)
async def test_captured(bus):
    bus.subscribe(hanging)
    async with capture(bus, timeout=0.01):
        await bus.publish("a")

async def test_watched():
    async with watch(EventBus()) as bus:
        bus.subscribe(broken)
        await bus.publish("a")

def test_simulated():
    async def scenario(sim):
        assert sim.seed < 1

    simulate(scenario)

def test_deadlock():
    async def scenario():
        await asyncio.Event().wait()

    simulate(scenario)
"""


def test_the_last_line_shown_is_the_test_own(run: Run) -> None:
    """No failed assertion of the kit shows the code of the kit, or of what is between."""
    result = run(FAIL_IN_THE_KIT)
    result.assert_outcomes(failed=13)
    places = [line for line in result.outlines if re.match(r"\S+\.py:\d+: ", line)]
    assert len(places) >= 13
    assert {line.partition(":")[0] for line in places} == {
        "test_the_last_line_shown_is_the_test_own.py"
    }


def test_a_failure_is_told_in_full(run: Run) -> None:
    """A failed handler fails the test: event, handler with its place, traceback, and the tree."""
    result = run(
        """
        def wire(bus):
            @bus.on("order.placed")
            async def invoice(event):
                await bus.publish("invoice.paid", {"number": 7})

            @bus.on("invoice.paid")
            async def ship(event):
                raise ZeroDivisionError("no stock")

        async def test_order(bus):
            wire(bus)
            await bus.publish("order.placed", {"number": 6})
        """
    )
    result.assert_outcomes(failed=1)
    shown(
        result,
        "*_ test_order _*",
        "*ship (*.py:*) failed handling invoice.paid*",
        '*raise ZeroDivisionError("no stock")',
        "*ZeroDivisionError: no stock*",
        "*order.placed*{'number': 6}*",
        "*invoice.paid*{'number': 7}*here*",
    )
    text = result.stdout.str()
    assert "_pytest.py" not in text, "none of the plugin's own frames is shown"


SOME_PASS = """
async def test_handled(bus):
    seen = []
    bus.subscribe(lambda event: seen.append(event.data), "a")
    await bus.publish("a", 1)
    await bus.settle()
    assert seen == [1]

async def test_broken(bus):
    bus.subscribe(broken, "a")
    await bus.publish("a", 1)

@pytest.mark.parametrize("data", [0, 1])
class TestClass:
    async def test_method(self, bus, data):
        bus.subscribe(broken if data else print, "a")
        await bus.publish("a", data)
"""


@pytest.mark.parametrize(
    ("head", "ini", "options"),
    [
        ("", AUTO, []),
        ("", AUTO, ["-p", "no:anyio"]),
        ("", f"{AUTO}\nasyncio_default_test_loop_scope = module", []),
        ("", f"{AUTO}\nasyncio_default_test_loop_scope = session", []),
        ("pytestmark = pytest.mark.asyncio", "asyncio_mode = strict", []),
        ("pytestmark = pytest.mark.asyncio(loop_scope='class')", "asyncio_mode = strict", []),
        ("pytestmark = pytest.mark.anyio", "asyncio_mode = strict", ["-k", "asyncio"]),
        ("", "anyio_mode = auto", ["-p", "no:asyncio", "-k", "asyncio"]),
    ],
    ids=["auto", "alone", "module", "session", "strict", "class", "anyio", "anyio-auto"],
)
def test_it_works_with_each_plugin(run: Run, head: str, ini: str, options: list[str]) -> None:
    """What passes and what fails is the same with each plugin, mode and scope of the loop."""
    result = run(SOME_PASS, *options, head=head, ini=ini)
    result.assert_outcomes(passed=2, failed=2, deselected=None)
    assert result.stdout.str().count("ZeroDivisionError: no 1") == 2 + 2  # and in the summary


def test_sync_tests_run_loops_of_their_own(run: Run) -> None:
    """``asyncio.run`` in a test: failures are found, and what its loop left pending as well."""
    result = run(
        """
        async def settled(bus, handler):
            async with bus:
                bus.subscribe(handler, "a")
                await bus.publish("a", 1)

        def test_handled(bus):
            asyncio.run(settled(bus, print))

        def test_broken(bus):
            asyncio.run(settled(bus, broken))

        def test_unsettled(bus):
            asyncio.run(left_pending(bus))

        def test_unused(bus):
            pass
        """
    )
    result.assert_outcomes(passed=2, failed=2)
    shown(result, "*ZeroDivisionError: no 1*", "*still pending on an event loop that is closed:*")


def test_a_loop_in_another_thread_is_settled_there(run: Run) -> None:
    """As a test client has it: the bus is entered on a loop that runs while the test ends."""
    result = run(
        """
        from anyio.from_thread import start_blocking_portal

        @pytest.fixture
        def client(bus):
            with start_blocking_portal() as portal, portal.wrap_async_context_manager(bus):
                yield portal

        async def slow_and_broken(event):
            await asyncio.sleep(0.05)
            await broken(event)

        def test_handled(bus, client):
            bus.subscribe(lambda event: asyncio.sleep(0.05), "a")
            client.call(bus.publish, "a", 1)

        def test_broken(bus, client):
            bus.subscribe(slow_and_broken, "a")
            client.call(bus.publish, "a", 1)

        @pytest.mark.eventbus(timeout=0.05)
        def test_hanging(bus, client):
            bus.subscribe(hanging, "a")
            client.call(bus.publish, "a", 1)
        """
    )
    result.assert_outcomes(passed=1, failed=2, errors=0)
    shown(result, "*ZeroDivisionError: no 1*", "*hanging*waits at*")


def test_unittest_classes(run: Run) -> None:
    """A fixture of the class watches for ``unittest``, async methods included."""
    result = run(
        """
        import unittest

        event_bus = EventBus()

        @pytest.fixture
        def watched(watch_bus):
            watch_bus(event_bus)

        @pytest.mark.usefixtures("watched")
        class TestSync(unittest.TestCase):
            def test_broken(self):
                with event_bus.subscribe(broken, "a"):
                    asyncio.run(event_bus.publish_and_wait("a"))
                    asyncio.run(self.publish())

            async def publish(self):
                await event_bus.publish("a", 2)
                await event_bus.settle()

            def test_fine(self):
                pass

        @pytest.mark.usefixtures("watched")
        class TestAsync(unittest.IsolatedAsyncioTestCase):
            async def test_broken(self):
                event_bus.subscribe(broken, "a")
                await event_bus.publish("a", 3)

            async def test_late(self):
                async def late(event):
                    for _ in range(50):
                        await asyncio.sleep(0)
                    raise ZeroDivisionError("late")

                event_bus.subscribe(late, "b")
                await event_bus.publish("b")

            async def test_failing(self):
                assert 1 == 2
        """
    )
    result.assert_outcomes(passed=1, failed=4)
    for error in ("no 2", "no 3", "late"):
        shown(result, f"*ZeroDivisionError: {error}*")


def test_hypothesis_finds_the_smallest_example(run: Run) -> None:
    """A handler's failure fails the example that provoked it, so that it can be made smaller."""
    result = run(
        """
        from hypothesis import HealthCheck, given, settings, strategies

        async def picky(event):
            if event.data >= 10:
                raise ZeroDivisionError(f"no {event.data}")

        @settings(
            suppress_health_check=[HealthCheck.function_scoped_fixture],
            database=None,
            deadline=None,
        )
        @given(number=strategies.integers(0, 1000))
        async def test_numbers(bus, number):
            with bus.subscribe(picky, "a"):
                await bus.publish("a", number)
                await bus.settle()
        """
    )
    result.assert_outcomes(failed=1)
    shown(result, "E *ZeroDivisionError: no 10", "E *number=10,")


def test_a_hanging_handler_is_named(run: Run) -> None:
    """Settling is bounded by ``eventbus_timeout``, once; the message says who waits, and where."""
    result = run(
        """
        async def test_hangs(bus):
            bus.subscribe(hanging, "a")
            await bus.publish("a", {"number": 7})

        @pytest.mark.eventbus(accounts=False)
        async def test_may_hang(bus):
            await test_hangs(bus)

        async def test_next(bus):
            pass
        """,
        ini=f"{AUTO}\neventbus_timeout = 0.1",
    )
    result.assert_outcomes(failed=1, passed=2)
    shown(
        result,
        "*did not settle within 0.1 s:*",
        "*hanging*a  {'number': 7}*waits at*.py:* in hanging*Event.wait*",
    )
    assert result.duration < 1


def test_nothing_hangs_after_a_failed_test(run: Run) -> None:
    """A test that fails with handlers under way fails once, and does not wait for them."""
    result = run(
        """
        @pytest.fixture
        async def service(bus):
            async with bus:
                yield

        async def test_fails(service, bus):
            bus.subscribe(hanging, "a")
            await bus.publish("a")
            await asyncio.sleep(0)
            assert 1 == 2
        """
    )
    result.assert_outcomes(failed=1)
    assert result.duration < 3


def test_closing_is_bounded_when_the_clock_stands_still(run: Run) -> None:
    """Nothing waits for a handler that refuses to end on a bus whose clock nobody moves."""
    result = run(
        """
        from eventbus.testing import FakeClock

        event_bus = EventBus(clock=FakeClock())

        async def stubborn(event):
            for _ in range(2):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass

        @pytest.mark.eventbus(timeout=0.05, tasks=False)
        async def test_stubborn(watch_bus):
            event_bus.subscribe(stubborn, "a")
            await watch_bus(event_bus).publish("a")

        def test_next():
            assert event_bus.statistics().pending == 0
        """
    )
    result.assert_outcomes(failed=1, passed=1)
    assert result.duration < 4


def test_leaked_tasks(run: Run) -> None:
    """Tasks of the test that still run fail it, once, whichever bus; those of fixtures do not."""
    result = run(
        """
        import pytest_asyncio

        async def wait_for_ever():
            await asyncio.Event().wait()

        @pytest.fixture
        async def worker():
            task = asyncio.create_task(wait_for_ever())
            yield
            task.cancel()

        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def workers():
            task = asyncio.create_task(wait_for_ever())
            yield
            task.cancel()

        async def test_leaks(bus, watch_bus, worker):
            watch_bus(EventBus())
            test_leaks.task = asyncio.create_task(wait_for_ever(), name="the leak")

        async def test_ends(bus, worker):
            asyncio.create_task(asyncio.sleep(0))

        @pytest.mark.asyncio(loop_scope="module")
        async def test_module_scope(workers, watch_bus):
            watch_bus(EventBus())

        @pytest.mark.asyncio(loop_scope="module")
        async def test_once_more(bus, workers):
            pass
        """
    )
    result.assert_outcomes(failed=1, passed=3)
    shown(result, "*1 task*", "*the leak (wait_for_ever) waits at*")
    assert result.stdout.str().count("the leak") == 1


def test_strict_finds_events_that_reach_nobody(run: Run) -> None:
    """By marker or by configuration, the nearest wins."""
    result = run(
        """
        async def test_by_configuration(bus):
            await bus.publish("order.misspelt", 1)

        @pytest.mark.eventbus(strict=False)
        class TestClass:
            async def test_by_class(self, bus):
                await bus.publish("order.misspelt", 2)

            @pytest.mark.eventbus(strict=True)
            async def test_by_function(self, bus):
                await bus.publish("order.misspelt", 3)
        """,
        ini=f"{AUTO}\neventbus_strict = true",
    )
    result.assert_outcomes(failed=2, passed=1)
    shown(result, "*order.misspelt  1*", "*misspelt  3*")


EVERYTHING_WRONG = """
async def test_failure(bus):
    bus.subscribe(broken, "a")
    await bus.publish("a")

async def test_task(bus):
    test_task.task = asyncio.create_task(asyncio.Event().wait())

def test_pending(bus):
    asyncio.run(left_pending(bus))
"""


@pytest.mark.parametrize("check", ["failures", "tasks", "accounts"])
@pytest.mark.parametrize("by", ["marker", "ini"])
def test_each_check_can_be_left_out(run: Run, check: str, by: str) -> None:
    """A marker or an option turns off one check, and no other."""
    head, ini = f"pytestmark = pytest.mark.eventbus({check}=False)", AUTO
    if by == "ini":
        head, ini = "", f"{AUTO}\neventbus_{check} = false"
    result = run(EVERYTHING_WRONG, "-rA", head=head, ini=ini)
    result.assert_outcomes(failed=2, passed=1)
    test = {"failures": "failure", "tasks": "task", "accounts": "pending"}[check]
    shown(result, f"PASSED *::test_{test}")


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("leaks=False", "*UsageError: @pytest.mark.eventbus takes *tasks=*; got*leaks*"),
        ("False", "*UsageError: @pytest.mark.eventbus takes *; got*False*"),
        ("timeout='soon'", "*UsageError: eventbus_timeout: 'soon' is no number of seconds*"),
    ],
)
def test_a_wrong_marker_says_so(run: Run, marker: str, message: str) -> None:
    """A marker that cannot be meant is an error that names what can be."""
    result = run(f"@pytest.mark.eventbus({marker})\ndef test_nothing(bus): pass\n")
    result.assert_outcomes(errors=1)
    shown(result, message)


def test_the_marker_of_a_parameter_is_the_nearest(run: Run) -> None:
    """It overrules the one of the function, whatever the order in which pytest keeps them."""
    result = run(
        """
        @pytest.mark.eventbus(failures=False)
        @pytest.mark.parametrize(
            "strict",
            [False, pytest.param(True, marks=pytest.mark.eventbus(failures=True))],
        )
        async def test_broken(bus, strict):
            bus.subscribe(broken, "a")
            await bus.publish("a", 1)
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    shown(result, "FAILED *test_broken?True?*")


def test_a_wrong_time_out_says_so(run: Run) -> None:
    """In the configuration too, which pytest checks by itself from some version on."""
    result = run("def test_nothing(bus): pass\n", ini=f"{AUTO}\neventbus_timeout = soon")
    result.assert_outcomes(errors=1)
    shown(result, "*UsageError: eventbus_timeout: *soon*")


def test_a_time_out_may_be_a_number_in_toml(run: Run, pytester: pytest.Pytester) -> None:
    """Where configuration has types, it has that of a number."""
    source = "async def test_nothing(bus): await bus.publish('a')\n"
    run(source).assert_outcomes(passed=1)
    (pytester.path / "tox.ini").unlink()
    scope = "asyncio_default_fixture_loop_scope = 'function'"
    pytester.makepyprojecttoml(
        f"[tool.pytest]\nasyncio_mode = 'auto'\neventbus_timeout = 10\n{scope}\n"
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


# ---- Beside other outcomes


def test_a_failing_test_tells_of_failed_handlers(run: Run) -> None:
    """The test's own error comes first, with the handler's as a note, and the teardown is quiet."""
    result = run(
        """
        async def test_fails(bus):
            bus.subscribe(broken, "a")
            await bus.publish("a", 5)
            await bus.settle()
            bus.subscribe(hanging, "b")
            await bus.publish("b")
            assert 1 == 2

        @pytest.fixture
        async def started(bus):
            bus.subscribe(broken, "a")
            await bus.publish("a", 6)
            await bus.settle()
            raise LookupError("not started")

        async def test_fixture_fails(started):
            pass
        """
    )
    result.assert_outcomes(failed=1, errors=1)
    shown(result, "*LookupError: not started*", "*Meanwhile on the bus:*", "*no 6*")
    shown(result, "*assert 1 == 2*", "*Meanwhile on the bus:*", "*no 5*")
    assert "pytest_eventbus.py" not in result.stdout.str()


def test_skips_and_expected_failures_stay_what_they_are(run: Run) -> None:
    """Failed handlers and pending deliveries change nothing about a skip or an xfail."""
    result = run(
        """
        @pytest.fixture
        async def busy(bus):
            bus.subscribe(broken, "a")
            bus.subscribe(hanging, "b")
            await bus.publish("a")
            await bus.publish("b")
            await asyncio.sleep(0)

        async def test_skips(busy):
            pytest.skip("not today")

        @pytest.fixture
        async def skipping(busy):
            pytest.skip("not today")

        async def test_skipped(skipping):
            pass

        @pytest.mark.xfail(strict=True)
        async def test_expected(busy):
            assert 1 == 2

        @pytest.mark.xfail(strict=True)
        async def test_expects_the_handler_to_fail(bus):
            bus.subscribe(broken, "a")
            await bus.publish("a")

        async def test_xfails(busy):
            pytest.xfail("known")
        """
    )
    result.assert_outcomes(skipped=2, xfailed=3)


@pytest.mark.parametrize("plugin", ["asyncio", "anyio"])
def test_fixtures_publish_as_they_end(run: Run, plugin: str) -> None:
    """What the end of a fixture publishes is handled before its loop is closed, and looked at."""
    result = run(
        """
        @pytest.fixture
        def handled():
            seen = []
            yield seen
            assert seen == ["stopped"]

        @pytest.fixture
        async def service(handled, bus):
            @bus.on("stopped")
            async def slow(event):
                for _ in range(20):  # more turns than a loop has that is being closed
                    await asyncio.sleep(0)
                handled.append(event.type)

            yield bus
            await bus.publish("stopped", 8)

        async def test_fine(service):
            pass

        async def test_broken(service):
            service.subscribe(broken, "stopped")
        """,
        "-k",
        "not trio",
        head=f"pytestmark = pytest.mark.{plugin}",
        ini=f"asyncio_mode = {'auto' if plugin == 'asyncio' else 'strict'}",
    )
    result.assert_outcomes(passed=2, errors=1)
    shown(result, "*ERROR at teardown of test_broken*", "*ZeroDivisionError: no 8*")


def test_what_a_fixture_leaves_on_a_closed_loop_is_told(run: Run) -> None:
    """Deliveries that can never run any more are an error, though closing would hide them."""
    result = run(
        """
        @pytest.fixture
        def service(bus):
            yield
            asyncio.run(left_pending(bus))

        def test_unlucky(service):
            pass
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    shown(result, "*ERROR at teardown*", "*pending on an event loop that is closed:*")


# ---- Buses of applications


def test_a_test_enters_and_closes_the_bus_itself(run: Run) -> None:
    """The fixture's bus is neither entered nor closed before the test, and may be both in it."""
    result = run(
        """
        async def test_enters(bus):
            async with bus:
                bus.subscribe(broken, "a")
                await bus.publish("a")

        async def test_closes(bus):
            await bus.publish("a")
            await bus.aclose()

        async def test_stays_in(bus):
            await bus.__aenter__()

        buses = []

        @pytest.fixture
        def after():
            yield
            (bus,) = buses
            assert "closed" in repr(bus)

        async def test_neither(after, bus):
            buses.append(bus)
            assert "open" in repr(bus)
        """
    )
    result.assert_outcomes(passed=3, failed=1)
    shown(result, "*_ test_enters _*")


def test_a_bus_of_the_application_is_watched_and_left_as_it_is(run: Run) -> None:
    """A module-level bus: each test answers for itself, and the bus stays open, its letters too."""
    result = run(
        """
        event_bus = EventBus()

        @pytest.fixture(autouse=True)
        def watched(watch_bus):
            assert watch_bus(event_bus) is event_bus

        async def test_broken():
            with event_bus.subscribe(broken, "a"):
                await event_bus.publish("a")
                await event_bus.settle()

        async def test_hanging(watch_bus):
            watch_bus(event_bus)  # which it is already
            event_bus.subscribe(hanging, "b")
            await event_bus.publish("b")

        async def test_fine(watch_bus):
            watch_bus(event_bus)
            assert not event_bus.dead_letters
            assert not event_bus.statistics().pending
            assert (await event_bus.publish("a")).event.data is None
        """,
        ini=f"{AUTO}\neventbus_timeout = 0.1",
    )
    result.assert_outcomes(passed=1, failed=2)
    shown(result, "*_ test_broken _*", "*_ test_hanging _*")
    assert result.stdout.str().count("did not settle") == 1


def test_a_bus_of_the_application_is_looked_at_after_its_fixtures(run: Run) -> None:
    """What the end of a fixture breaks on a watched bus is an error of the teardown."""
    result = run(
        """
        event_bus = EventBus()

        @pytest.fixture
        async def service(watch_bus):
            watch_bus(event_bus).subscribe(broken, "stopped")
            yield
            await event_bus.publish("stopped", 9)

        async def test_fine(service):
            pass
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    shown(result, "*ERROR at teardown of test_fine*", "*ZeroDivisionError: no 9*")


def test_a_bus_that_stays_entered(run: Run) -> None:
    """A bus entered for the whole run is still entered after a test that left it hanging."""
    result = run(
        """
        event_bus = EventBus()

        @pytest.fixture(scope="session", autouse=True)
        async def application():
            async with event_bus:
                yield

        @pytest.fixture(autouse=True)
        def watched(watch_bus):
            watch_bus(event_bus)

        @pytest.mark.eventbus(timeout=0.05)
        async def test_hanging():
            with event_bus.subscribe(hanging, "a"):
                await event_bus.publish("a")
                await asyncio.sleep(0)

        @pytest.mark.parametrize("round", [1, 2])
        async def test_next(round):
            assert "entered" in repr(event_bus)
            assert not event_bus.statistics().pending
            await event_bus.publish("a")
        """,
        ini=f"{AUTO}\nasyncio_default_test_loop_scope = session\n"
        "asyncio_default_fixture_loop_scope = session",
    )
    result.assert_outcomes(passed=2, failed=1)


def test_buses_that_publish_to_each_other(run: Run) -> None:
    """They settle together, however often one gives the other more to do."""
    result = run(
        """
        one, two = EventBus(name="one"), EventBus(name="two")
        other = {"one": two, "two": one}

        def wire(bus):
            @bus.on("ping")
            async def pass_on(event):
                for _ in range(50):  # longer than tasks have to end
                    await asyncio.sleep(0)
                if event.data:
                    await other[bus.name].publish("ping", event.data - 1)
                else:
                    await broken(event)

        wire(one)
        wire(two)

        async def test_cascade(watch_bus):
            watch_bus(one)
            watch_bus(two)
            await one.publish("ping", 250)
        """
    )
    result.assert_outcomes(failed=1)
    shown(result, "*ZeroDivisionError: no 0*")
    result.stdout.no_fnmatch_line("*still*")


def test_a_fixture_named_bus_of_the_application(run: Run) -> None:
    """It may build on the plugin's, or have nothing to do with it."""
    entered = """
    @pytest.fixture
    async def bus(bus):
        async with bus:
            yield bus
    """
    source = """
    async def test_broken(bus):
        assert "entered" in repr(bus)
        bus.subscribe(broken, "a")
        await bus.publish("a")
    """
    run(source, conftest=entered).assert_outcomes(failed=1)
    own = entered.replace("bus(bus)", "bus()").replace("with bus", "with EventBus() as bus")
    run(source, conftest=own).assert_outcomes(passed=1)


def test_fixtures_asked_for_by_name_while_the_test_runs(run: Run) -> None:
    """``request.getfixturevalue``, in a fixture and in a test, is as good as an argument."""
    result = run(
        """
        @pytest.fixture
        def application(request):
            return request.getfixturevalue("bus")

        async def test_in_a_fixture(application):
            application.subscribe(broken, "a")
            await application.publish("a")

        def test_in_a_test(request):
            bus = request.getfixturevalue("bus")
            bus.subscribe(broken, "a")
            asyncio.run(bus.publish_and_wait("a"))
            asyncio.run(left_pending(bus))
        """
    )
    result.assert_outcomes(failed=1, passed=1, errors=1)
    shown(result, "*ERROR at teardown of test_in_a_test*", "*pending on an event loop*")


def test_a_bus_is_for_one_test(run: Run) -> None:
    """A fixture that lives longer than a test cannot have it: pytest says so."""
    result = run(
        """
        @pytest.fixture(scope="session")
        def application(bus):
            return bus

        def test_nothing(application):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    shown(result, "*ScopeMismatch*")


@pytest.mark.parametrize("arguments", ["bus, fake_clock", "fake_clock, bus"])
def test_the_clock_jumps(run: Run, arguments: str) -> None:
    """An hour of retries passes in no time for the ``bus`` of a test with ``fake_clock``."""
    result = run(
        f"""
        from eventbus import Retry

        async def test_retries({arguments}):
            attempts = []

            @bus.on("a", retry=Retry(attempts=3, initial=1800, maximum=3600, jitter=0))
            async def charge(event):
                attempts.append(fake_clock.monotonic())
                if len(attempts) < 3:
                    raise ConnectionError

            await bus.publish("a")
            await bus.settle()
            assert attempts[-1] - attempts[0] == 1800 + 3600
        """
    )
    result.assert_outcomes(passed=1)


# ---- Where it is not wanted


def test_the_plugin_can_be_left_out(run: Run) -> None:
    """``-p no:eventbus`` takes its fixtures away, and harms nothing else."""
    source = "def test_one(bus): pass\ndef test_other(): pass\n"
    result = run(source, "-p", "no:eventbus")
    result.assert_outcomes(passed=1, errors=1)
    shown(result, "*fixture 'bus' not found*")


def test_without_a_plugin_for_coroutines(run: Run) -> None:
    """Sync tests need none, and pytest says of coroutine functions what it always says."""
    source = "def test_one(bus): pass\nasync def test_other(bus): pass\n"
    result = run(source, "-p", "no:asyncio", "-p", "no:anyio", ini="")
    result.assert_outcomes(passed=1, failed=1)
    shown(result, "*async def functions are not natively supported*")


# ---- In processes of their own: what is loaded when


def run_in_a_process(pytester: pytest.Pytester, *command: str) -> pytest.RunResult:
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    nobody_else = [
        f"-pno:{name}" for name in ("asyncio", "anyio", "hypothesispytest", "pytest_cov")
    ]
    return pytester.run(sys.executable, "-m", *command, *nobody_else)


def test_a_run_that_uses_nothing_loads_nothing(pytester: pytest.Pytester) -> None:
    """The installed plugin is there in every run; the package and its libraries are not."""
    pytester.makepyfile(
        """
        import sys

        def test_nothing(request):
            assert request.config.pluginmanager.has_plugin("eventbus")
            ours = {"eventbus", "anyio", "pydantic", "structlog", "asyncio"}
            assert sorted(ours & set(sys.modules)) == []
        """
    )
    run_in_a_process(pytester, "pytest").assert_outcomes(passed=1)


def test_coverage_sees_the_package_being_loaded(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that run at import are measured, as the plugin has loaded nothing before."""
    for variable in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(variable)  # this test may be measured itself
    pytester.makepyfile("async def nothing(): pass\ndef test_nothing(bus): pass\n")
    options = ("--include=*/eventbus/*", "-m", "pytest")
    run_in_a_process(pytester, "coverage", "run", *options).assert_outcomes(passed=1)
    pytester.run(sys.executable, "-m", "coverage", "json", "-o", "coverage.json")
    files = json.loads((pytester.path / "coverage.json").read_text(encoding="utf-8"))["files"]
    executed = {
        path.replace("\\", "/"): set(told["executed_lines"]) for path, told in files.items()
    }
    for name in ("__init__.py", "bus.py", "testing/_pytest.py"):
        (path,) = [path for path in executed if path.endswith(f"eventbus/{name}")]
        source = Path(path).read_text(encoding="utf-8").splitlines()
        at_import = {
            number
            for number, line in enumerate(source, start=1)
            if line.startswith(("from ", "import ", "class ", "def ", "async def "))
        }
        assert at_import
        assert at_import <= executed[path]
