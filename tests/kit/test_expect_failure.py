"""``expect_failure``: failures that a test provokes on purpose."""

# ruff: noqa: PT012 - what raises is the end of a block, and that needs the block

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from eventbus import Event, EventBus, PatternError, Retry, Topic
from eventbus.testing import expect_failure, settle, watch


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


def fail(event: Event[Any]) -> None:
    raise event.data


def broken_bus(*patterns: str, **options: Any) -> EventBus:
    """A bus with a handler that raises what it gets."""
    bus = EventBus(name="shop")
    bus.subscribe(fail, *patterns, **options)
    return bus


def complaint(error: pytest.ExceptionInfo[BaseException]) -> list[str]:
    return str(error.value).splitlines()


async def test_the_failures_are_kept_in_order() -> None:
    """``error`` is the first, ``errors`` are all; retries that mend nothing are one failure."""
    bus = broken_bus(retry=Retry(attempts=2, initial=0))
    first, second = ValueError("no address"), KeyError("zip")
    async with watch(bus):
        async with expect_failure(bus) as failure:
            await bus.publish("a", first)
            await bus.publish("a", second)
        assert (failure.error, failure.errors) == (first, [first, second])
    assert repr(failure) == "<ExpectedFailure: Exception came twice>"


async def test_each_condition_counts() -> None:
    """Kind, text, handler and topic have to fit, and what does not fit is told."""
    bus = broken_bus()
    topic: Topic[Any] = Topic("a.b")
    good: list[dict[str, Any]] = [
        {"kind": LookupError},
        {"kind": (OSError, KeyError)},
        {"match": "z.p"},
        {"handler": fail},
        {"handler": "fail"},
        {"topic": "a.*"},
        {"topic": topic},
        {"times": 1},
    ]
    for conditions in good:
        async with expect_failure(bus, **conditions) as failure:
            await bus.publish("a.b", KeyError("zip"))
        assert isinstance(failure.error, KeyError)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"kind": OSError}, "expected OSError at least once; it came never."),
        (
            {"kind": (OSError, ValueError), "times": 2},
            "expected OSError or ValueError twice; it came never.",
        ),
        ({"match": "x+"}, "expected Exception matching 'x+' at least once; it came never."),
        ({"handler": print}, "expected Exception of print at least once; it came never."),
        ({"handler": "ship"}, "expected Exception of ship at least once; it came never."),
        ({"topic": "b.**"}, "expected Exception on b.** at least once; it came never."),
    ]
    for conditions, text in bad:
        with pytest.raises(AssertionError) as error:
            async with expect_failure(bus, **conditions):
                await bus.publish("a.b", KeyError("zip"))
        assert complaint(error)[:2] == [text, "Other failures:"]
        assert re.fullmatch(
            r"  fail \(.*test_expect_failure.py:\d+\), handling a.b: KeyError\('zip'\)",
            complaint(error)[2],
        )


async def test_how_often() -> None:
    """Neither fewer nor more than ``times``; ``times=0`` is never."""
    bus = broken_bus()
    for count, times, came in ((1, 2, "once"), (3, 1, "3 times"), (2, 0, "twice")):
        with pytest.raises(AssertionError) as error:
            async with expect_failure(bus, times=times):
                for _ in range(count):
                    await bus.publish("a", ValueError())
        assert complaint(error)[0].endswith(f"; it came {came}")
    async with expect_failure(bus, times=0):
        pass


async def test_a_plain_block_does_not_settle() -> None:
    """The message says what is pending, and the cure."""
    bus = broken_bus()
    with pytest.raises(AssertionError) as error, expect_failure(bus, ValueError):
        await bus.publish("a", ValueError("late"))
    assert complaint(error)[:2] == [
        "expected ValueError at least once; it came never.",
        "Still pending (settle the bus first, or write 'async with'):",
    ]
    assert "fail (" in complaint(error)[2]
    with expect_failure(bus, ValueError, times=1) as failure:
        with pytest.raises(LookupError, match=r"ValueError has not come .yet.: settle the bus"):
            failure.error  # noqa: B018 - reading it raises
        await settle(bus)
    with pytest.raises(AssertionError, match=r"^expected OSError at least once; it came never$"):
        expect_failure(bus, OSError).__exit__(None, None, None)


async def test_what_the_block_raises_comes_first() -> None:
    """No complaint about missing failures hides the error of the block, or of settling."""
    bus, gate = EventBus(), asyncio.Event()
    for block in (expect_failure(bus, ValueError), expect_failure(bus, ValueError)):
        with pytest.raises(ZeroDivisionError):
            async with block:
                raise ZeroDivisionError
    bus.subscribe(lambda _: gate.wait())
    with pytest.raises(AssertionError, match="did not settle within"):
        async with expect_failure(bus, ValueError, timeout=0.01):
            await bus.publish("a")
    gate.set()
    await bus.settle()


async def test_the_inner_block_has_the_first_word() -> None:
    """Each failure is caught by one block: the innermost that expects it."""
    bus = broken_bus()
    async with expect_failure(bus, topic="a") as outer:
        async with expect_failure(bus, ValueError) as inner:
            await bus.publish("a", ValueError(1))
            await bus.publish("a", KeyError(2))
        await bus.publish("a", ValueError(3))
    assert [str(error) for error in inner.errors] == ["1"]
    assert [str(error) for error in outer.errors] == ["2", "3"]


async def test_failures_of_every_kind_count() -> None:
    """Those of subscriptions that leave, of predicates, of threads and of streams."""
    bus = EventBus()

    def in_thread(event: Event[Any]) -> None:
        raise event.data

    def where(event: Event[Any]) -> bool:
        raise event.data

    bus.subscribe(fail, "once", once=True)
    bus.subscribe(in_thread, "thread", thread=True)
    bus.subscribe(print, "where", where=where)
    async with expect_failure(bus, OSError, handler=fail, times=1):
        await bus.publish("once", OSError())
    async with expect_failure(bus, OSError, handler=in_thread, times=1):
        await bus.publish("thread", OSError())
    async with expect_failure(bus, OSError, handler=print, times=1):
        await bus.publish("where", OSError())
    numbers: Topic[int] = Topic("number", int)
    async with bus.stream(numbers, name="reader") as stream:
        with expect_failure(bus, ValueError, handler="reader", match="valid integer"):
            await bus.publish("number", "x")
            await bus.publish("number", 1)
            assert (await anext(stream)).data == 1


async def test_an_error_that_cannot_be_printed() -> None:
    """It neither fits a ``match`` nor stops the others from being told."""
    bus = broken_bus()
    with pytest.raises(AssertionError) as error:
        async with expect_failure(bus, match="x"):
            await bus.publish("a", Unprintable())
    assert "handling a: <Unprintable instance at" in complaint(error)[2]
    async with expect_failure(bus, Unprintable):
        await bus.publish("a", Unprintable())


async def test_a_failure_without_a_letter() -> None:
    """A bus that keeps no dead letters still tells of failures."""
    bus = EventBus(dead_letters=0)
    bus.subscribe(fail)
    async with expect_failure(bus, ValueError, times=2):
        await bus.publish("a", ValueError())
        await bus.publish("a", ValueError())


def test_a_handler_that_ends_the_program() -> None:
    """``SystemExit`` leaves the loop as it does everywhere, and has been caught on its way."""
    bus = broken_bus()
    failure = expect_failure(bus, SystemExit)

    async def main() -> None:
        async with failure:
            await bus.publish("a", SystemExit(3))

    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert [type(error) for error in failure.errors] == [SystemExit]
    assert bus._failure_witnesses == ()


def test_arguments_that_cannot_be_meant() -> None:
    """They are refused at once."""
    bus = EventBus()
    bad: Any
    for bad in (ValueError(), "ValueError", int, (), (ValueError, 1)):
        with pytest.raises(TypeError, match="pass an exception class, for example Connection"):
            expect_failure(bus, bad)
    with pytest.raises(PatternError):
        expect_failure(bus, topic="a..b")
    with pytest.raises(re.error):
        expect_failure(bus, match="(")
    with pytest.raises(TypeError, match="is no EventBus"):
        expect_failure(bus.publish)  # type: ignore[arg-type]  # the point


async def test_it_is_entered_once() -> None:
    """A second block is refused."""
    failure = expect_failure(broken_bus(), times=0)
    with failure:
        pass
    with pytest.raises(RuntimeError, match="entered before"):
        failure.__enter__()
