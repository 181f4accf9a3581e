"""A request as its bytes came in: nothing decoded, nothing merged, so that repeats can be seen.

Frameworks hand out headers as a mapping, and two mappings made of one list can disagree: one
keeps the first of two equal names, another one the last. A signature checked over the one and an
id read from the other is a replay that nobody notices. So headers are a list here, and a header
that decides anything must be there once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from eventbus.webhooks.errors import DuplicateHeader


@dataclass(frozen=True, slots=True)
class Request:
    """What a scheme verifies. Its ``repr`` shows no signature and no payload."""

    method: str
    """As the client wrote it: ``"POST"``."""
    target: str
    """Path and query as the client wrote them: ``"/hook?livemode=true"``."""
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    """Names in lower case, values as they came, in order, repeats included."""
    body: bytes = field(repr=False)

    def header(self, name: bytes) -> bytes | None:
        """The one value of a header; None without it. Raises ``DuplicateHeader`` for two."""
        found = None
        for key, value in self.headers:
            if key == name:
                if found is not None:
                    times = sum(key == name for key, _ in self.headers)
                    raise DuplicateHeader(f"{name.decode('ascii', 'replace')} came {times} times")
                found = value
        return found


def read_request(
    method: str, target: str, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> Request:
    """Check the types, and lower the names.

    Raises ``TypeError`` for what is no raw request: a body that somebody has decoded or parsed,
    headers as a mapping.
    """
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(
            f"body is a {type(body).__qualname__}: pass the raw bytes as they came, before any "
            "parser; a signature covers those"
        )
    if not isinstance(method, str) or not isinstance(target, str):
        raise TypeError("method and target are str: 'POST' and '/path?query'")
    return Request(method, target, tuple(_pairs(headers)), bytes(body))


def _pairs(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    for pair in headers:
        if not isinstance(pair, tuple | list) or [type(part) for part in pair] != [bytes, bytes]:
            raise TypeError(
                "headers are the raw pairs of bytes: pass request.headers.raw or scope['headers'], "
                "no mapping, in which a repeated header cannot be seen"
            )
        yield pair[0].lower(), pair[1]
