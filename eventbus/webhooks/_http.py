"""A request over HTTP, before anybody knows who sends it: what its head may say, and how long and
how slow its body may be.

The limits and the reasons for them: a body of 1 MiB holds any sensible event, and what it costs to
take it in is bounded; ``Content-Encoding`` is refused, since a few kilobytes of gzip make a
gigabyte; a sender that dribbles its body is cut off. The phase before, in which the headers come,
is the server's to limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from eventbus.webhooks._deadline import Deadline, Rest, begin
from eventbus.webhooks.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientDisconnect,
    MalformedRequest,
    UnsupportedEncoding,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from eventbus.clock import Clock
    from eventbus.webhooks._answer import Message, Receive, Scope

__all__ = ["DEFAULT_BODY", "LARGEST_BODY", "Limits", "check_head", "read_body", "target_of"]

DEFAULT_BODY: Final = 1024 * 1024
LARGEST_BODY: Final = 25 * 1024 * 1024

LOOKED_AT: Final = frozenset({b"content-length", b"content-type", b"content-encoding"})

COMMON: Final = frozenset({b"application/json", b"application/json; charset=utf-8"})
"""What nearly everybody sends, so that it is not taken apart each time."""

RawHeaders = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may cost."""

    size: int = DEFAULT_BODY
    """Bytes."""
    total: float = 10.0
    """Seconds from the first read to the last byte."""
    idle: float = 5.0
    """Seconds between two pieces."""


def check_head(headers: RawHeaders, size: int) -> None:
    """Refuse what need not be read. Names are in lower case, as ASGI has them.

    Raises ``MalformedRequest``, ``BodyTooLarge``, ``UnsupportedEncoding`` and
    ``UnsupportedMediaType``, in this order.
    """
    lengths, types, encodings = [], [], []
    for name, value in headers:
        if name not in LOOKED_AT:
            continue
        if name == b"content-length":
            lengths.append(value)
        elif name == b"content-type":
            types.append(value)
        else:
            encodings.append(value)
    if lengths:
        _check_length(lengths, size)
    if encodings and [each.strip().lower() for each in encodings] != [b"identity"]:
        raise UnsupportedEncoding("Content-Encoding: only identity is read")
    if len(types) != 1 or not (types[0] in COMMON or _is_json(types[0])):
        raise UnsupportedMediaType("Content-Type: only JSON in UTF-8 is read")


def _check_length(lengths: list[bytes], size: int) -> None:
    if len(lengths) > 1:
        raise MalformedRequest(f"Content-Length came {len(lengths)} times")
    text = lengths[0]
    if not text.isdigit() or len(text) > 19:  # bytes.isdigit: 0-9 alone
        raise MalformedRequest("Content-Length is no number")
    if int(text) > size:
        raise BodyTooLarge(f"{int(text):,} bytes announced; {size:,} are the limit")


def _is_json(value: bytes) -> bool:
    """Whether a Content-Type is ``application/json`` or ``application/*+json``, in UTF-8."""
    essence, *parameters = value.decode("latin-1").lower().split(";")
    essence = essence.strip()
    subtype = essence.removeprefix("application/")
    if subtype == essence or not (subtype == "json" or subtype.endswith("+json")):
        return False
    for parameter in parameters:
        name, _, text = parameter.partition("=")
        if name.strip() == "charset" and text.strip().strip('"') not in {"utf-8", "utf8"}:
            return False
    return True


async def read_body(receive: Receive, limits: Limits, clock: Clock) -> bytes:
    """The whole body of a request.

    Raises ``BodyTooLarge`` as soon as it is, ``BodyTimeout``, ``ClientDisconnect``, and what
    ``receive`` raises. At most the allowed size and one piece are in memory. Cancelled, it has read
    an unknown part.
    """
    first = begin(receive())  # mostly it is there, and that is all
    if isinstance(first, Rest) or first.get("more_body", False):
        try:
            return await _read_patiently(first, receive, limits, clock)
        except TimeoutError:
            raise BodyTimeout(
                f"it took more than {limits.total:g} s, or {limits.idle:g} s for a piece"
            ) from None
    return _piece_of(first, limits.size)


async def _read_patiently(
    first: Message | Rest[Message], receive: Receive, limits: Limits, clock: Clock
) -> bytes:
    """The body, where it comes in pieces or not at once. Raises ``TimeoutError``."""
    end = clock.monotonic() + limits.total
    body = bytearray()  # a list of crumbs would take twenty times their size
    with Deadline(clock, min(limits.idle, limits.total)) as deadline:
        message = await first if isinstance(first, Rest) else first
        while True:
            chunk = _piece_of(message, limits.size - len(body))
            body += chunk
            if not message.get("more_body", False):
                return bytes(body)
            seconds = end - clock.monotonic()
            if seconds <= 0:  # pieces may come without the loop ever having a turn
                raise TimeoutError
            if chunk:
                deadline.renew(min(limits.idle, seconds))
            message = await receive()


def _piece_of(message: Message, limit: int) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientDisconnect("the sender left before its body was complete")
    chunk: bytes = message.get("body", b"")
    if len(chunk) > limit:
        raise BodyTooLarge("the body is longer than the limit")
    return chunk


def target_of(scope: Scope) -> str:
    """Path and query as the client wrote them, as far as the server has kept that."""
    raw: bytes | None = scope.get("raw_path")
    # Some servers leave the query in it.
    path = quote(scope["path"]) if raw is None else raw.partition(b"?")[0].decode("latin-1")
    query: bytes = scope.get("query_string", b"")
    return f"{path}?{query.decode('latin-1')}" if query else path
