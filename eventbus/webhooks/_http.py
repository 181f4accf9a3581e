"""A request over HTTP, before anybody knows who sends it: what its head may say, and how long and
how slow its body may be.

The limits and the reasons for them: a body of 1 MiB holds any sensible event, and what it costs to
take it in is bounded; ``Content-Encoding`` is refused, since a few kilobytes of gzip make a
gigabyte; a sender that dribbles its body is cut off. The phase before, in which the headers come,
is the server's to limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import anyio

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
    from eventbus.webhooks._answer import Receive, Scope

__all__ = ["DEFAULT_BODY", "LARGEST_BODY", "Limits", "check_head", "read_body", "target_of"]

DEFAULT_BODY: Final = 1024 * 1024
LARGEST_BODY: Final = 25 * 1024 * 1024

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
        if name == b"content-length":
            lengths.append(value)
        elif name == b"content-type":
            types.append(value)
        elif name == b"content-encoding":
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
    with anyio.CancelScope() as scope:
        patience = _Patience(scope.cancel, limits, clock)
        try:
            return await _collect(receive, limits.size, patience)
        finally:
            patience.end()
    raise BodyTimeout(f"the body took more than {limits.total:g} s, or {limits.idle:g} s a piece")


async def _collect(receive: Receive, limit: int, patience: _Patience) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect("the sender left before its body was complete")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"more than the {limit:,} bytes that are the limit")
        if not message.get("more_body", False):
            return b"".join([*chunks, chunk]) if chunks else chunk
        if chunk:
            chunks.append(chunk)
            patience.renew()
        patience.check()


class _Patience:
    """Ends the reading of a body when nothing came for too long, or not all of it in time."""

    __slots__ = ("_cancel", "_clock", "_deadline", "_idle", "_timer")

    def __init__(self, cancel: Callable[[], object], limits: Limits, clock: Clock) -> None:
        self._cancel = cancel
        self._clock = clock
        self._idle = limits.idle
        self._deadline = clock.monotonic() + limits.total
        self._timer = clock.call_later(min(limits.idle, limits.total), cancel)

    def renew(self) -> None:
        """A piece has come."""
        self._timer.cancel()
        left = self._deadline - self._clock.monotonic()
        self._timer = self._clock.call_later(max(min(self._idle, left), 0.0), self._cancel)

    def check(self) -> None:
        """End it also where pieces, empty ones say, come without the loop ever having a turn."""
        if self._clock.monotonic() >= self._deadline:
            raise BodyTimeout("the body took too long")

    def end(self) -> None:
        """The body is there, or given up."""
        self._timer.cancel()


def target_of(scope: Scope) -> str:
    """Path and query as the client wrote them, as far as the server has kept that."""
    raw: bytes | None = scope.get("raw_path")
    # Some servers leave the query in it.
    path = quote(scope["path"]) if raw is None else raw.partition(b"?")[0].decode("latin-1")
    query: bytes = scope.get("query_string", b"")
    return f"{path}?{query.decode('latin-1')}" if query else path
