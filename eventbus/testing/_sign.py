"""Requests as a webhook's sender would send them, so that no test needs the sender."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from eventbus.webhooks._scheme import Signer


class SignedRequest(NamedTuple):
    """A request in the order in which a receiver takes it: ``receiver.verify(*request)``."""

    method: str
    """``"POST"``, if nothing else was asked for."""
    target: str
    """Path and query."""
    headers: list[tuple[bytes, bytes]]
    """Names in lower case, with ``content-type``; no ``host``, no ``content-length``."""
    body: bytes


def sign(
    scheme: Signer,
    type: str,
    data: Any = None,
    *,
    id: str | None = None,
    time: datetime | float | None = None,
    happened: datetime | None = None,
    method: str = "POST",
    target: str = "/",
    headers: Iterable[tuple[bytes, bytes]] = (),
    body: bytes | None = None,
    key: str | bytes | None = None,
) -> SignedRequest:
    """The request that a sender of this scheme would send.

    ``scheme`` is one of ``eventbus.webhooks``, or whatever signs as those do.

    ``type`` and ``data`` become a body in the form that the scheme's senders use, unless ``body``
    is given. ``id`` is the message's, by default a new one. ``time`` is when it is signed, as a
    datetime or in UNIX seconds, by default now; ``happened`` is when the event happened, by default
    at that time. ``headers`` are sent along.

    ``key`` is what the sender signs with; by default it is the scheme's first secret. A scheme that
    has public keys only needs it: ``whsk_…`` for Standard Webhooks, the app's secret key in
    hexadecimal digits for component signatures.

    Raises ``OptionError`` if there is nothing to sign with.
    """
    if time is None:
        time = datetime.now(UTC)
    elif not isinstance(time, datetime):
        time = datetime.fromtimestamp(time, UTC)
    proof, content = scheme.sign(
        type,
        data,
        id=f"evt_{secrets.token_hex(12)}" if id is None else id,
        time=time,
        happened=happened,
        method=method,
        target=target,
        body=body,
        key=key,
    )
    kind = (b"content-type", b"application/json")
    return SignedRequest(method, target, [kind, *headers, *proof], content)
