"""A request as its bytes came in: nothing decoded, nothing merged, so that repeats can be seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """What a scheme verifies."""

    method: str
    """As the client wrote it: ``"POST"``."""
    target: str
    """Path and query as the client wrote them: ``"/hook?livemode=true"``."""
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case, values as they came, in order, repeats included."""
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The one value of a header; None without it. Raises ``DuplicateHeader`` for two."""
        raise NotImplementedError


def read_request(
    method: str, target: str, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> Request:
    """Check the types, and lower the names. Raises ``TypeError`` for a body that is not bytes."""
    raise NotImplementedError
