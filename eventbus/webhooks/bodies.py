"""What a body says, told in the fields of an event: one reader for each kind of sender.

A reader gets the parsed body and the request that it came in, and returns an ``Envelope``. It
raises ``InvalidEnvelope`` for a body that is no event. What it takes from headers may be unsigned:
each reader says so where that is the case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from eventbus.webhooks.errors import InvalidEnvelope

if TYPE_CHECKING:
    from eventbus.webhooks._request import Request


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a sender's message says about itself."""

    type: str
    """The sender's own name of what happened: ``"invoice.paid"``."""
    data: Any
    """What handlers get as ``event.data``."""
    id: str | None = None
    """The sender's id of the event. Default: one made from what is signed."""
    id_is_signed: bool = False
    """Whether ``id`` stands in what is signed, so that it may decide what is a duplicate. If
    false, the bytes of the whole body do: two messages with equal bytes are then one."""
    time: datetime | None = None
    """When it happened, with a time zone. Default: when it was signed, else when it came."""
    source: str | None = None
    """Who says so. Default: the name of the scheme."""
    subject: str | None = None
    """What it is about."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else travels with the event."""


class BodyReader(Protocol):
    """Reads one kind of body. A user's own function is one, too."""

    def __call__(self, content: Any, request: Request, /) -> Envelope:
        """Say what a body means. ``content`` is the parsed JSON."""
        ...


def _object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InvalidEnvelope("body", "is no object")
    return content


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidEnvelope(name, "is no text" if name in content else "is missing")
    return value


def _optional_text(content: Mapping[str, Any], name: str) -> str | None:
    return _text(content, name) if content.get(name) is not None else None


def _iso_time(content: Mapping[str, Any], name: str) -> datetime | None:
    """A moment as ISO 8601 writes it, with its offset."""
    text = _optional_text(content, name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise InvalidEnvelope(name, "has no offset from UTC")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidEnvelope(name, "is no ISO 8601 time") from None


def standard_body(content: Any, request: Request, /) -> Envelope:
    """Standard Webhooks: ``type``, ``timestamp`` and ``data``, and an ``id`` if there is one.

    Without ``data`` the whole body is the data, as several senders have it.
    """
    body = _object(content)
    return Envelope(
        type=_text(body, "type"),
        data=body.get("data", body),
        id=_optional_text(body, "id"),
        id_is_signed=True,
        time=_iso_time(body, "timestamp"),
        source=_optional_text(body, "source"),
    )
