"""What a body says, told in the fields of an event: one reader for each kind of sender.

===================  ============================  =================================================
reader               type                          id, time, source, subject
===================  ============================  =================================================
`StandardBody`       ``type``                      the signed header or ``id``, ``timestamp``,
                                                   ``source``, none
`PaymentKitBody`     ``type``                      ``id``, ``created_at``, ``payment-kit``,
                                                   ``object_id``
`EventBusBody`       ``type``                      ``id``, ``time``, ``source``, ``object_id``
`BlockletServerBody` ``$eventName``                of the bytes, signed time, the sender's DID,
                                                   ``object.id``
`StripeBody`         ``type``                      ``id``, ``created``, the account or Stripe,
                                                   ``data.object.id``
`GitHubBody`         ``X-GitHub-Event[.action]``   of the bytes, when it came, the repository's or
                                                   organisation's name
===================  ============================  =================================================

A reader gets the parsed body and the request that it came in, and returns an `Envelope`; a function
of your own that does so is a reader, too. It raises `InvalidEnvelope` for a body that is no event;
whatever else it raises counts as that. Most readers can also ``write`` such a body, for tests.

Payment Kit, and the component calls of Blocklets in general, send two shapes: `PaymentKitBody`
reads both, telling them apart by the fields that only one has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from eventbus.webhooks.errors import InvalidEnvelope

if TYPE_CHECKING:
    from eventbus.webhooks._request import Request

__all__ = [
    "BlockletServerBody",
    "BodyReader",
    "BodyWriter",
    "Envelope",
    "EventBusBody",
    "GitHubBody",
    "PaymentKitBody",
    "StandardBody",
    "StripeBody",
]


class Envelope(NamedTuple):
    """What a sender's message says about itself."""

    type: str
    """The sender's own name of what happened: ``"invoice.paid"``."""
    data: Any
    """What handlers get as ``event.data``."""
    id: str | None = None
    """The sender's id of the event. Default: one made from what is signed."""
    id_is_signed: bool = False
    """Whether ``id`` stands in what is signed, so that it may decide what is a duplicate. If
    false, all that is signed decides. Never set it for an id from an unsigned header: whoever has
    seen one request could repeat it under other ids."""
    time: datetime | None = None
    """When it happened, with a time zone. Default: when it was signed, else when it came."""
    source: str | None = None
    """Who says so. Default: the name of the scheme."""
    subject: str | None = None
    """What it is about."""
    attributes: Mapping[str, Any] = MappingProxyType({})
    """Whatever else travels with the event."""


class BodyReader(Protocol):
    """Reads one kind of body. A user's own function is one, too."""

    def __call__(self, content: Any, request: Request, /) -> Envelope:
        """Say what a body means. ``content`` is the parsed JSON."""
        ...


class BodyWriter(Protocol):
    """Writes one kind of body, as its sender would."""

    def write(self, type: str, data: Any, *, id: str, time: datetime) -> bytes:
        """The body of a message, in UTF-8."""
        ...


class StandardBody:
    """Standard Webhooks: ``type``, ``timestamp`` and ``data``.

    Without ``data``, the whole body is the data: several senders have it so. Some have a number as
    ``timestamp``, in units of their own: then the time of the event is that of the signature.
    With ``id_in_body``, ``id`` is the id of the event. The standard has that in a header, and an
    ``id`` in the body may be of anything.
    """

    def __init__(self, *, id_in_body: bool = True) -> None:
        self._id_in_body = id_in_body

    def __call__(self, content: Any, request: Request, /) -> Envelope:
        """See `BodyReader`."""
        body = _object(content)
        number = type(body.get("timestamp")) in (int, float)
        return Envelope(
            type=_text(body, "type"),
            data=body.get("data", body),
            id=_optional_text(body, "id") if self._id_in_body else None,
            id_is_signed=True,
            time=None if number else _iso_time(body, "timestamp"),
            source=_optional_text(body, "source"),
        )

    def write(self, type: str, data: Any, *, id: str, time: datetime) -> bytes:
        """See `BodyWriter`."""
        return dump({"id": id, "type": type, "timestamp": _iso(time), "data": data})


class EventBusBody:
    """The envelope that Blocklet's EventBus passes on: ``spec_version``, ``source``, ``time``."""

    def __call__(self, content: Any, request: Request, /) -> Envelope:
        """See `BodyReader`."""
        body = _object(content)
        return Envelope(
            type=_text(body, "type"),
            data=body.get("data"),
            id=_text(body, "id"),
            id_is_signed=True,
            time=_iso_time(body, "time"),
            source=_optional_text(body, "source"),
            subject=_filled_text(body, "object_id"),
            attributes=_filled(body, "object_type", "spec_version"),
        )

    def write(self, type: str, data: Any, *, id: str, time: datetime) -> bytes:
        """See `BodyWriter`."""
        inner = data if isinstance(data, dict) else {"object": data}
        return dump(
            {
                "id": id,
                "type": type,
                "time": _iso(time),
                "source": "z2qaCNvKMv5GjouKdcDWexv6WqtHbpNPQDnAk",
                "spec_version": "1.0.0",
                "object_type": inner.get("object_type", ""),
                "object_id": inner.get("object_id", ""),
                "data": {"type": "application/json", **inner},
            }
        )


class PaymentKitBody:
    """What Payment Kit posts: the row of its event table; also an EventBus envelope."""

    def __call__(self, content: Any, request: Request, /) -> Envelope:
        """See `BodyReader`."""
        body = _object(content)
        if "spec_version" in body or "time" in body:
            return _event_bus_body(body, request)
        return Envelope(
            type=_text(body, "type"),
            data=body.get("data"),
            id=_text(body, "id"),
            id_is_signed=True,
            time=_iso_time(body, "created_at"),
            source="payment-kit",
            subject=_filled_text(body, "object_id"),
            attributes=_filled(body, "api_version", "livemode", "metadata", "object_type"),
        )

    def write(self, type: str, data: Any, *, id: str, time: datetime) -> bytes:
        """See `BodyWriter`."""
        return dump(
            {
                "id": id,
                "livemode": False,
                "type": type,
                "api_version": "2023-09-05",
                "data": data,
                "object_type": "",
                "object_id": "",
                "request": {"id": "", "idempotency_key": ""},
                "pending_webhooks": 99,
                "metadata": {},
                "created_at": _iso(time),
                "updated_at": _iso(time),
            }
        )


class BlockletServerBody:
    """What Blocklet Server posts: an event's data, with ``$eventName`` and ``$sender`` added.

    It has no id, and ``type`` in it is the type of the content. Two messages with equal bytes are
    taken for one that was sent twice.
    """

    def __call__(self, content: Any, request: Request, /) -> Envelope:
        """See `BodyReader`."""
        body = _object(content)
        sender = body.get("$sender")
        thing = body.get("object")
        return Envelope(
            type=_text(body, "$eventName"),
            data={key: each for key, each in body.items() if key not in ("$eventName", "$sender")},
            source=_filled_text(sender, "did") if isinstance(sender, dict) else None,
            subject=_filled_text(thing, "id") if isinstance(thing, dict) else None,
            attributes={} if sender is None else {"sender": sender},
        )

    def write(self, type: str, data: Any, *, id: str, time: datetime) -> bytes:
        """See `BodyWriter`. Neither the id nor the time is in such a body."""
        inner = data if isinstance(data, dict) else {"object": data}
        sender = {"did": "z1", "pk": "0x00", "url": "http://localhost", "name": "eventbus"}
        return dump(
            {
                "type": "application/json",
                **inner,
                "$eventName": type,
                "$sender": sender,
            }
        )


class StripeBody:
    """Stripe's event. ``event.data`` is its ``data``: ``object`` and ``previous_attributes``."""

    def __call__(self, content: Any, request: Request, /) -> Envelope:
        """See `BodyReader`."""
        body = _object(content)
        data = body.get("data")
        thing = data.get("object") if isinstance(data, dict) else None
        return Envelope(
            type=_text(body, "type"),
            data=data,
            id=_text(body, "id"),
            id_is_signed=True,
            time=_created(body),
            source=_optional_text(body, "account") or "stripe",
            subject=_filled_text(thing, "id") if isinstance(thing, dict) else None,
            attributes=_filled(body, "api_version", "livemode"),
        )

    def write(self, type: str, data: Any, *, id: str, time: datetime) -> bytes:
        """See `BodyWriter`. Data that is no ``{"object": …}`` becomes the object."""
        whole = isinstance(data, dict) and "object" in data and isinstance(data["object"], dict)
        return dump(
            {
                "id": id,
                "object": "event",
                "api_version": "2025-03-31.basil",
                "created": int(time.timestamp()),
                "data": data if whole else {"object": data},
                "livemode": False,
                "pending_webhooks": 1,
                "request": {"id": None, "idempotency_key": None},
                "type": type,
            }
        )


class GitHubBody:
    """What GitHub posts: the event's name in ``X-GitHub-Event``, what happened in ``action``.

    GitHub signs the body alone. Who has seen one request could send it again as another event; so
    the header is believed only as far as the body bears it out: for the events of the table
    ``SIGNS``, the body must have what such an event has, and lack what tells it from its likes.
    The delivery's id is in the attribute ``delivery``, which nobody has signed.
    """

    SIGNS: Final[Mapping[str, tuple[str, str]]] = {
        # event: names that its body has, names that it has not
        "check_run": ("check_run", ""),
        "check_suite": ("check_suite", "check_run"),
        "commit_comment": ("comment", "issue pull_request discussion"),
        "create": ("ref ref_type master_branch", "pusher"),
        "delete": ("ref ref_type pusher_type", "master_branch"),
        "deployment": ("deployment", "deployment_status"),
        "deployment_status": ("deployment deployment_status", ""),
        "discussion": ("discussion", "comment"),
        "discussion_comment": ("discussion comment", ""),
        "fork": ("forkee", ""),
        "issue_comment": ("issue comment", ""),
        "issues": ("issue", "comment"),
        "label": ("label", "issue pull_request discussion"),
        "milestone": ("milestone", "issue pull_request"),
        "ping": ("zen hook_id", ""),
        "pull_request": ("pull_request number", "review comment"),
        "pull_request_review": ("pull_request review", ""),
        "pull_request_review_comment": ("pull_request comment", ""),
        "push": ("ref before after commits", ""),
        "release": ("release", ""),
        "star": ("starred_at", ""),
        "workflow_job": ("workflow_job", ""),
        "workflow_run": ("workflow_run", ""),
    }

    def __call__(self, content: Any, request: Request, /) -> Envelope:
        """See `BodyReader`."""
        body = _object(content)
        event = _header(request, b"x-github-event", required=True)
        delivery = _header(request, b"x-github-delivery")
        present, absent = self.SIGNS.get(event, ("", ""))
        if not body.keys() >= set(present.split()) or body.keys() & set(absent.split()):
            raise InvalidEnvelope("x-github-event", "is not what the body is of")
        action = _optional_text(body, "action")
        return Envelope(
            type=event if action is None else f"{event}.{action}",
            data=body,
            source=_full_name(body),
            attributes={} if delivery is None else {"delivery": delivery},
        )

    def write(self, type: str, data: Any, *, id: str, time: datetime) -> bytes:
        """See `BodyWriter`. What the event's body must have is added, where it is not there."""
        event, _, action = type.partition(".")
        body: dict[str, Any] = {name: {} for name in self.SIGNS.get(event, ("", ""))[0].split()}
        body.update(data if isinstance(data, dict) else {"data": data})
        if action:
            body["action"] = action
        return dump(body)


_event_bus_body = EventBusBody()
_is_header_text = re.compile(rb"[A-Za-z0-9_-]{1,100}").fullmatch


def dump(value: Any) -> bytes:
    """JSON in UTF-8 without white space. Raises ``ValueError`` for what JSON cannot say."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InvalidEnvelope("body", "is no object")
    return content


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidEnvelope(name, "is no text" if name in body else "is missing")
    return value


def _optional_text(body: Mapping[str, Any], name: str) -> str | None:
    return None if body.get(name) is None else _text(body, name)


def _filled_text(body: Mapping[str, Any], name: str) -> str | None:
    """A text that may be empty, null or missing, and then says nothing."""
    value = body.get(name)
    return value if isinstance(value, str) and value else None


def _filled(body: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The fields of these names that say something."""
    return {name: body[name] for name in names if body.get(name) not in (None, "", {})}


def _iso_time(body: Mapping[str, Any], name: str) -> datetime | None:
    """A moment as ISO 8601 writes it, with its offset from UTC."""
    text = _optional_text(body, name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("no offset")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidEnvelope(name, "is no ISO 8601 time with an offset") from None


def _iso(moment: datetime) -> str:
    """As JavaScript writes it: in UTC, with milliseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _created(body: Mapping[str, Any]) -> datetime | None:
    """Stripe's time: whole UNIX seconds. Its thin events have an ISO 8601 time instead."""
    created = body.get("created")
    if created is None or isinstance(created, str):
        return _iso_time(body, "created")
    try:
        if type(created) is not int:
            raise ValueError("no integer")
        return datetime.fromtimestamp(created, UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidEnvelope("created", "is no time") from None


def _header(request: Request, name: bytes, *, required: bool = False) -> Any:
    """A header that names something; None if there is none and it is not required."""
    value = request.header(name)
    if value is None and not required:
        return None
    if value is None or not _is_header_text(value):
        raise InvalidEnvelope(name.decode(), "is missing" if value is None else "is no name")
    return value.decode()


def _full_name(body: Mapping[str, Any]) -> str | None:
    """Of what GitHub repository, or else organisation, a body tells."""
    for owner, name in (("repository", "full_name"), ("organization", "login")):
        thing = body.get(owner)
        if isinstance(thing, dict) and (found := _filled_text(thing, name)):
            return found
    return None
