"""The event: an immutable fact, and which delivery of it runs right now."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypedDict, TypeVar, final

from eventbus._identity import identity, next_serial

if TYPE_CHECKING:
    import typing_extensions

    from eventbus._delivery import Delivery

__all__ = ["Event", "EventFields", "RunningDelivery"]

if TYPE_CHECKING:
    # With a default, as of Python 3.13, a bare `Event` is an event of anything.
    T_co = typing_extensions.TypeVar("T_co", covariant=True, default=Any)
else:
    T_co = TypeVar("T_co", covariant=True)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOTHING: Mapping[str, Any] = MappingProxyType({})


class RunningDelivery(Protocol):
    """What ``Event.delivery`` tells a handler about its own run."""

    @property
    def subscription(self) -> str:
        """The name of the subscription that handles the event."""
        ...

    @property
    def attempt(self) -> int:
        """Which attempt this is, counted from 1."""
        ...

    @property
    def redelivered(self) -> bool:
        """Whether the event was delivered to this subscription before: it may have had effects."""
        ...


current: ContextVar[Delivery | None] = ContextVar("eventbus.delivery", default=None)
"""The delivery in whose handler, or in a task started there, this code runs. It may have ended."""

# Bound once. In a call of `current.get()`, where `current` is imported, the interpreter makes a
# method object each time (it takes what is imported for a module).
get_current = current.get
set_current = current.set


class EventDraft:
    """An event while it is made.

    ``Event`` refuses attribute writes, and writing nine slots past that refusal would cost more
    than the rest of ``publish``. A draft has the same slots without the refusal; changing its
    class is the last step.
    """

    __slots__ = (
        "_cause",
        "_id",
        "_root",
        "_time",
        "attributes",
        "data",
        "source",
        "subject",
        "type",
    )

    # The four with an underscore hold what the property of that name is made from when it is read.
    _id: str | int
    _time: datetime | float
    _cause: str | int | None
    _root: str | int | None
    type: str
    data: Any
    source: str
    subject: str | None
    attributes: Mapping[str, Any]


if TYPE_CHECKING:

    class _Slots:
        """The slots of a draft, for type checkers: the public ones are read-only in an event."""

        _id: str | int
        _time: datetime | float
        _cause: str | int | None
        _root: str | int | None

else:
    _Slots = EventDraft


@final
class Event(_Slots, Generic[T_co]):
    """A fact that somebody announced. Frozen and picklable; handlers share it and do not change it.

    Buses make events; code that tests a handler alone may make its own. Unless they are given,
    the id is new, the time is now, and the event is a root: it has no cause.

    >>> event = Event("invoice.paid", {"customer": "cus_1"}, id="evt_1")
    >>> event
    Event('invoice.paid', id='evt_1')
    >>> event.data["customer"], event.cause, event.root
    ('cus_1', None, 'evt_1')

    Two events are equal if all their fields are. ``data`` is not part of the ``repr``: logs and
    tracebacks must not show what was paid by whom.
    """

    __slots__ = ()

    def __init__(
        self,
        type: str,
        data: T_co = None,  # type: ignore[assignment]  # no data is None, whatever T_co is
        *,
        id: str | None = None,
        source: str = "eventbus",
        time: datetime | None = None,
        subject: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        cause: str | None = None,
        root: str | None = None,
    ) -> None:
        now = datetime.now(UTC)
        values = {
            "type": type,
            "data": data,
            "source": source,
            "subject": subject,
            "attributes": freeze_attributes(attributes),
            "_id": next_serial() if id is None else str.__str__(id),
            "_time": now if time is None else check_time(time),
            "_cause": cause,
            "_root": root,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    if TYPE_CHECKING:

        @property
        def type(self) -> str:
            """The topic on which it was published."""
            ...

        @property
        def data(self) -> T_co:
            """What its publisher gave: neither copied nor logged."""
            ...

        @property
        def source(self) -> str:
            """Who published it; by default the name of the bus."""
            ...

        @property
        def subject(self) -> str | None:
            """What it is about, in the words of its source."""
            ...

        @property
        def attributes(self) -> Mapping[str, Any]:
            """Whatever else travels with it."""
            ...

    @property
    def id(self) -> str:
        """Unique across threads, forks and processes, unless the publisher gave its own."""
        return self._id if isinstance(self._id, str) else identity(self._id)

    @property
    def time(self) -> datetime:
        """The moment at which the bus accepted the event, or the publisher's own; in UTC."""
        moment = self._time
        if isinstance(moment, datetime):
            return moment
        return _EPOCH + timedelta(seconds=moment)

    @property
    def cause(self) -> str | None:
        """The id of the event in whose handler this one was published; None for a root."""
        cause = self._cause
        return identity(cause) if isinstance(cause, int) else cause

    @property
    def root(self) -> str:
        """The id of the first event of the chain; a root's own id."""
        root = self._root
        if root is None:
            return self.id
        return identity(root) if isinstance(root, int) else root

    @property
    def delivery(self) -> RunningDelivery | None:
        """The delivery of this event that runs this code; None outside of one."""
        delivery = current.get()
        if delivery is None or delivery.status is not None or delivery.event._id != self._id:
            return None
        return delivery

    def with_data(self, data: Any) -> Event[Any]:
        """The same event (same id, same time) with other data, as a typed handler gets it."""
        draft = EventDraft()
        draft.type, draft.data, draft.source = self.type, data, self.source
        draft.subject, draft.attributes = self.subject, self.attributes
        draft._id, draft._time = self._id, self._time
        draft._cause, draft._root = self._cause, self._root
        draft.__class__ = Event  # type: ignore[assignment]  # it has the same slots
        return draft  # type: ignore[return-value]  # it has become an Event, in the line above

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an Event is frozen: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an Event is frozen: cannot delete {name!r}")

    def _fields(self) -> tuple[Any, ...]:
        return (
            self.type,
            self.data,
            self.id,
            self.source,
            self.time,
            self.subject,
            dict(self.attributes),
            self.cause,
            self.root,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, self._fields()

    def __copy__(self) -> Event[T_co]:
        return self

    def __repr__(self) -> str:
        return f"Event({self.type!r}, id={self.id!r})"


def _restore(  # noqa: PLR0917 - one for each field, and called by pickle alone
    type: str,
    data: Any,
    id: str,
    source: str,
    time: datetime,
    subject: str | None,
    attributes: Mapping[str, Any],
    cause: str | None,
    root: str,
) -> Event[Any]:
    return Event(
        type,
        data,
        id=id,
        source=source,
        time=time,
        subject=subject,
        attributes=attributes,
        cause=cause,
        root=root,
    )


class EventFields(TypedDict, total=False):
    """What a publisher may say of an event beside its topic and its data."""

    id: str | None
    """Default: a new one, unique across threads, forks and processes."""
    source: str | None
    """Default: the ``source`` of the bus."""
    time: datetime | None
    """With a time zone. Default: the moment of acceptance."""
    subject: str | None
    """What the event is about, in the words of its source. Default: nothing."""
    attributes: Mapping[str, Any] | None
    """Whatever else travels with it. Default: nothing."""


def given_slots(
    id: str | None = None,
    source: str | None = None,
    time: datetime | None = None,
    subject: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    **unknown: object,
) -> dict[str, Any]:
    """What a publisher gave beside topic and data, checked, by the slot it belongs to."""
    for name in unknown:
        raise TypeError(
            f"publishing takes no {name!r}: beside topic and data it takes "
            "id, source, time, subject and attributes"
        )
    given: dict[str, Any] = {}
    for name, value in (("_id", id), ("source", source), ("subject", subject)):
        if value is not None:
            if not isinstance(value, str) or not value:
                raise TypeError(f"{name.strip('_')}={value!r}: pass a string that is not empty")
            given[name] = str.__str__(value)  # an Enum's member is its value
    if time is not None:
        given["_time"] = check_time(time)
    if attributes is not None:
        given["attributes"] = freeze_attributes(attributes)
    return given


def date(event: Event[Any], moment: float) -> None:
    """Date an event that had to wait for room, unless its publisher dated it."""
    if not isinstance(event._time, datetime):
        object.__setattr__(event, "_time", moment)


def check_time(time: datetime) -> datetime:
    """The moment in UTC. Raises ``ValueError`` for one without a time zone."""
    if not isinstance(time, datetime):
        raise TypeError(f"time={time!r}: pass a datetime with a time zone")
    if time.tzinfo is None:
        raise ValueError(f"time={time!r} has no time zone: pass datetime.now(UTC), for example")
    return time.astimezone(UTC)


def freeze_attributes(attributes: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A read-only copy of a publisher's attributes."""
    return MappingProxyType(dict(attributes)) if attributes else NOTHING
