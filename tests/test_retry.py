"""``Retry``: a pure policy, and what its values may be."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus import Event, EventBus, OptionError, Retry
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import within


def no_jitter() -> float:
    return 0.0


def all_jitter() -> float:
    return 1.0


def pauses(retry: Retry, count: int) -> list[float | None]:
    return [retry.delay(attempt, ValueError(), random=no_jitter) for attempt in range(1, count + 1)]


def test_the_defaults() -> None:
    """Three attempts, after 0.1 and 0.2 seconds, at most a minute, up to 20 % longer."""
    retry = Retry()
    assert pauses(retry, 4) == [0.1, 0.2, None, None]
    assert (retry.maximum, retry.jitter, retry.on) == (60, 0.2, (Exception,))


def test_each_pause_is_the_last_one_times_the_factor() -> None:
    """Up to the maximum, and then no longer."""
    retry = Retry(attempts=7, initial=1, factor=3, maximum=20)
    assert pauses(retry, 7) == [1, 3, 9, 20, 20, 20, None]


def test_one_attempt_is_no_retry() -> None:
    """``attempts`` counts the first one too."""
    assert pauses(Retry(attempts=1), 1) == [None]


def test_jitter_only_lengthens() -> None:
    """By up to its share of the pause."""
    retry = Retry(initial=10, jitter=0.2)
    assert retry.delay(1, ValueError(), random=no_jitter) == 10
    assert retry.delay(1, ValueError(), random=all_jitter) == 12
    assert retry.delay(1, ValueError(), random=lambda: 0.5) == 11


@given(
    attempt=st.integers(1, 10_000),
    initial=st.floats(0, 1e6),
    factor=st.one_of(st.integers(1, 10), st.floats(1, 1e3)),
    maximum=st.floats(0, 1e6),
    jitter=st.floats(0, 10),
    part=st.floats(0, 1),
)
def test_a_pause_is_always_a_number_within_its_bounds(  # noqa: PLR0917 - drawn by name
    attempt: int, initial: float, factor: float, maximum: float, jitter: float, part: float
) -> None:
    """However many attempts there were: nothing overflows, nothing is negative."""
    retry = Retry(20_000, initial, factor, maximum, jitter)
    pause = retry.delay(attempt, ValueError(), random=lambda: part)
    assert pause is not None
    assert math.isfinite(pause)
    assert min(initial, maximum) <= pause <= maximum * (1 + jitter) * 1.000001


def test_no_first_pause_means_no_pauses() -> None:
    """Nothing, however often it is doubled, stays nothing."""
    retry = Retry(attempts=5000, initial=0.0)
    assert {retry.delay(attempt, ValueError(), random=all_jitter) for attempt in (1, 2, 4000)} == {
        0
    }


def test_a_number_of_attempts_that_overflows_has_the_longest_pause() -> None:
    """``factor ** attempt`` may be larger than any float."""
    retry = Retry(attempts=5000, jitter=0)
    assert retry.delay(4999, ValueError(), random=no_jitter) == 60


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionError(), True),
        (OSError(), True),
        (ValueError(), True),
        (KeyError(), False),
        (ExceptionGroup("", [OSError()]), False),
    ],
)
def test_only_the_errors_in_on_are_tried_again(error: Exception, again: bool) -> None:
    """Subclasses included."""
    retry = Retry(on=(OSError, ValueError))
    assert (retry.delay(1, error, random=no_jitter) is not None) == again


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_what_is_no_exception_is_never_tried_again(error: BaseException) -> None:
    """Whatever ``on`` says."""
    assert Retry(on=(BaseException,)).delay(1, error, random=no_jitter) is None


def test_one_class_may_stand_alone() -> None:
    """``on=OSError`` means ``on=(OSError,)``."""
    retry = Retry(on=OSError)  # type: ignore[arg-type]  # forgiven at run time
    assert retry.on == (OSError,)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"attempts": 0}, "attempts=0: pass a whole number of at least 1"),
    ({"attempts": 2.0}, "attempts=2.0: pass a whole number"),
    ({"attempts": True}, "attempts=True: pass a whole number"),
    ({"attempts": None}, "attempts=None: pass a whole number"),
    ({"initial": -0.1}, "initial=-0.1: pass a finite number of at least 0"),
    ({"initial": "1"}, "initial='1': pass a finite number"),
    ({"factor": 0.9}, "factor=0.9: pass a finite number of at least 1"),
    ({"factor": math.nan}, "factor=nan: pass a finite number"),
    ({"maximum": -1}, "maximum=-1: pass a finite number of at least 0"),
    ({"maximum": math.inf}, "maximum=inf: pass a finite number"),
    ({"jitter": -0.2}, "jitter=-0.2: pass a finite number of at least 0"),
    ({"jitter": None}, "jitter=None: pass a finite number"),
    ({"on": "OSError"}, r"on='OSError': pass exception classes, for example on=\(OSError,\)"),
    ({"on": (OSError, 3)}, "on=.*pass exception classes"),
    ({"on": (int,)}, "on=.*pass exception classes"),
    ({"on": (OSError(),)}, "on=.*pass exception classes"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=lambda each: str(each)[:40])
def test_bad_values_are_refused(values: dict[str, Any], message: str) -> None:
    """The error names the value and what to pass."""
    with pytest.raises(OptionError, match=message):
        Retry(**values)


def test_a_retry_is_a_value() -> None:
    """Frozen, hashable, picklable, and equal to another of the same values."""
    retry = Retry(attempts=5)
    assert retry == Retry(5)
    assert hash(retry) == hash(Retry(5))
    assert pickle.loads(pickle.dumps(retry)) == retry  # noqa: S301 - our own
    with pytest.raises(AttributeError):
        retry.attempts = 6  # type: ignore[misc]  # the case at hand


async def test_a_bus_waits_as_long_as_its_policy_says() -> None:
    """Each attempt begins at its time, on the bus's clock, and sees its own number."""
    clock = FakeClock(start=1000)
    bus = EventBus(clock=clock)
    bus._random = no_jitter
    attempts: list[tuple[int, float]] = []

    @bus.on(retry=Retry(attempts=4, initial=1))
    async def handler(event: Event[Any]) -> str:
        assert event.delivery is not None
        attempts.append((event.delivery.attempt, clock.monotonic() - 1000))
        if event.delivery.attempt < 4:
            raise ValueError
        return "at last"

    receipt = await bus.publish("a")
    for pause in (1, 2, 4):
        await wait_all_tasks_blocked()
        assert clock.next_timer == pause
        clock.advance(pause)
    (outcome,) = await within(receipt.outcomes())
    assert attempts == [(1, 0), (2, 1), (3, 3), (4, 7)]
    assert (outcome.status, outcome.result, outcome.attempts) == ("handled", "at last", 4)
    assert (outcome.error, outcome.ran) == (None, 7)


async def test_an_error_that_is_not_in_on_ends_the_delivery() -> None:
    """Also after one that was."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    errors: list[Exception] = [OSError(), ValueError(), OSError()]

    @bus.on(retry=Retry(attempts=9, on=(OSError,)))
    def handler(event: Event[Any]) -> None:
        raise errors.pop(0)

    receipt = await bus.publish("a")
    await wait_all_tasks_blocked()
    clock.advance(1)
    (outcome,) = await within(receipt.outcomes())
    assert outcome.attempts == 2
    assert isinstance(outcome.error, ValueError)


async def test_a_policy_of_ones_own() -> None:
    """``Retry`` may be subclassed: its ``delay`` says when, and when no more."""

    class Once(Retry):
        def delay(self, attempt: int, error: BaseException, *, random: Any) -> float | None:
            return 30.0 if attempt == 1 else None

    clock = FakeClock()
    bus = EventBus(clock=clock)
    runs: list[float] = []

    @bus.on(retry=Once(attempts=100))
    def handler(event: Event[Any]) -> None:
        runs.append(clock.monotonic())
        raise ValueError

    receipt = await bus.publish("a")
    await wait_all_tasks_blocked()
    clock.advance(30)
    (outcome,) = await within(receipt.outcomes())
    assert outcome.attempts == 2
    assert runs[1] - runs[0] == 30
