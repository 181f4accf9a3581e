"""A request as its bytes came in: nothing decoded, nothing merged, so that repeats can be seen.

Frameworks hand out headers as a mapping, and two mappings made of one list can disagree: one
keeps the first of two equal names, another one the last. A signature checked over the one and an
id read from the other is a replay that nobody notices. So headers are a list here, and a header
that decides anything must be there once.
"""

from __future__ import annotations

from collections.abc import Iterable

from eventbus.webhooks.errors import DuplicateHeader


class Request:
    """What a scheme verifies. Nobody changes it."""

    __slots__ = ("_repeats", "_values", "body", "headers", "method", "target")

    def __init__(
        self, method: str, target: str, headers: tuple[tuple[bytes, bytes], ...], body: bytes
    ) -> None:
        self.method = method
        """As the client wrote it: ``"POST"``."""
        self.target = target
        """Path and query as the client wrote them: ``"/hook?livemode=true"``."""
        self.headers = headers
        """Names in lower case, values as they came, in order, repeats included."""
        self.body = body
        self._values = dict(headers)
        self._repeats = len(self._values) < len(headers)

    def header(self, name: bytes) -> bytes | None:
        """The one value of a header; None without it. Raises ``DuplicateHeader`` for two."""
        if self._repeats and (times := [key for key, _ in self.headers].count(name)) > 1:
            raise DuplicateHeader(f"{name.decode('ascii', 'replace')} came {times} times")
        return self._values.get(name)


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
