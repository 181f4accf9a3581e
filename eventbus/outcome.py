"""How deliveries ended: the values that receipts give to whoever waits, and that hooks get.

Waiting for a hundred deliveries makes a hundred of them, so an outcome is filled with what the
delivery already has, and reckons its seconds when they are read. That is why it is no dataclass:
a frozen one has its fields written past its own refusal, or changes its class as an event does, and
either costs as much as all the rest. Events are made once for all handlers, and read by each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, final

from eventbus._delivery import Status  # noqa: TC001 - `typing.get_type_hints` looks for it here
from eventbus.errors import DeliveryCancelled, EventBusError, HandlerErrors

if TYPE_CHECKING:
    from eventbus._delivery import Delivery
    from eventbus.event import Event

__all__ = ["Outcome"]


@final
class Outcome:
    """How one delivery ended. Its fields cannot be set; two are equal if all their fields are.

    Tests may compare one with an outcome of their own, in which ``unittest.mock.ANY`` stands for
    what they do not know.

    >>> outcome = Outcome("audit", "handled", "filed", None, attempts=1, queued=0.5, ran=2.0)
    >>> outcome.status, outcome.result, outcome.ran
    ('handled', 'filed', 2.0)
    """

    __slots__ = (
        "_accepted_at",
        "_end",
        "_ended_at",
        "_result",
        "_started_at",
        "_subscription",
    )
    __match_args__ = (
        "subscription",
        "status",
        "result",
        "error",
        "attempts",
        "queued",
        "ran",
    )

    # Written in here and in `outcomes_of`, and by nobody else.
    _subscription: str
    _end: tuple[Status, BaseException | None, int]
    """Status, error, attempts: most outcomes share one."""
    _result: Any
    _accepted_at: float
    _started_at: float | None
    """None where the bus has not made it: then the other two are ``queued`` and ``ran``."""
    _ended_at: float

    def __init__(  # noqa: PLR0917 - the values, in their order
        self,
        subscription: str,
        status: Status,
        result: Any,
        error: BaseException | None,
        attempts: int,
        queued: float,
        ran: float,
    ) -> None:
        self._subscription = subscription
        self._end = status, error, attempts
        self._result = result
        self._accepted_at = queued
        self._started_at = None
        self._ended_at = ran

    @property
    def subscription(self) -> str:
        """The name of the subscription."""
        return self._subscription

    @property
    def status(self) -> Status:
        """``"handled"``, ``"failed"``, ``"dropped"`` or ``"cancelled"``."""
        return self._end[0]

    @property
    def result(self) -> Any:
        """What the handler returned, if it was handled."""
        return self._result

    @property
    def error(self) -> BaseException | None:
        """What the last attempt raised, if it failed."""
        return self._end[1]

    @property
    def attempts(self) -> int:
        """How often the handler was run; 0 if it never was."""
        return self._end[2]

    @property
    def queued(self) -> float:
        """Seconds from acceptance to the start of the first attempt, or to the end without one."""
        started = self._started_at
        return self._accepted_at if started is None else started - self._accepted_at

    @property
    def ran(self) -> float:
        """Seconds from the start of the first attempt to the end, pauses between them included."""
        started = self._started_at
        return self._ended_at if started is None else self._ended_at - started

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Outcome):
            return NotImplemented
        return _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(_values(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return Outcome, _values(self)

    def __replace__(self, /, **changes: Any) -> Outcome:
        """For ``copy.replace``, which Python has from 3.13 on."""
        fields = dict(zip(self.__match_args__, _values(self), strict=True))
        return Outcome(**{**fields, **changes})

    @recursive_repr()
    def __repr__(self) -> str:
        fields = zip(self.__match_args__, _values(self), strict=True)
        return f"Outcome({', '.join([f'{name}={value!r}' for name, value in fields])})"


_values: Callable[[Outcome], tuple[Any, ...]] = attrgetter(*Outcome.__match_args__)


class _Blank(Outcome):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues] - final for others
    """An outcome as the bus makes it, and it stays one: the same in all but its constructor.

    It has none, because a call of the other one costs as much as the filling.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self) -> None: ...

    else:
        __init__ = object.__init__  # not even that of `Outcome`, which wants seven arguments


_Blank.__name__ = _Blank.__qualname__ = Outcome.__name__

_AT_ONCE: tuple[Status, None, int] = ("handled", None, 1)
"""Of a delivery that has no `Work`: its first attempt returned in its first step."""


def outcomes_of(deliveries: Iterable[Delivery], accepted_at: float) -> tuple[Outcome, ...]:
    """How deliveries of one event have ended, by the time at which it was accepted."""
    outcomes: list[Outcome] = []
    for delivery in deliveries:
        owner, work, status = delivery.owner, delivery.work, delivery.status
        outcome = _Blank()
        outcome._subscription = owner._name or owner.name
        # A handler that was given up may still return or raise: that changes no outcome.
        if status == "handled":
            outcome._result = delivery.result
            outcome._end = _AT_ONCE if work is None else (status, None, work.attempt)
        else:
            outcome._result = None
            error = delivery.error if status == "failed" else None
            outcome._end = status, error, delivery.attempt  # type: ignore[assignment]  # it has ended
        outcome._accepted_at = accepted_at
        outcome._started_at = delivery.started
        outcome._ended_at = delivery.ended
        outcomes.append(outcome)
    return tuple(outcomes)


def check_outcomes(event: Event[Any], outcomes: tuple[Outcome, ...]) -> None:
    """Raise ``HandlerErrors`` if a delivery failed or was cancelled."""
    errors = [_error_of(event, outcome) for outcome in outcomes if outcome._end[0] in _BAD]
    if errors:
        group = HandlerErrors(
            f"{len(errors)} of {len(outcomes)} deliveries of {event!r} did not go well", errors
        )
        group.outcomes = outcomes
        try:
            raise group
        finally:
            del group  # its traceback knows this frame


_BAD = ("failed", "cancelled")


def _error_of(event: Event[Any], outcome: Outcome) -> Exception:
    if isinstance(outcome.error, Exception):
        return outcome.error
    if outcome.error is None:
        return DeliveryCancelled(f"{outcome.subscription}: the delivery of {event!r} was cancelled")
    error = EventBusError(f"{outcome.subscription} raised {outcome.error!r}")
    error.__cause__ = outcome.error
    return error
