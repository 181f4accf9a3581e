"""What every signature scheme promises, and what a receiver may rely on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from eventbus.webhooks._request import Request

UNPARSED: Final = object()
"""The scheme has not looked into the body."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What is known of a request once its signature has been found good."""

    key: bytes
    """32 bytes that identify it, made from signed bytes alone: a replay has the same."""
    id: str | None
    """The sender's id of the message, where the scheme signs one."""
    time: float | None
    """When the sender signed it, in UNIX seconds, where the scheme signs that."""
    remember: float
    """Seconds, from now on, during which a replay would verify again: a replay store must not
    forget the key sooner."""
    content: Any = UNPARSED
    """The parsed body, where the signature covers that and not the bytes."""


class Scheme(Protocol):
    """Verifies requests of one kind of sender. Pure: no clock, no files, no state."""

    @property
    def name(self) -> str:
        """For logs and ``repr``: ``"standard-webhooks"``."""
        ...

    def verify(self, request: Request, now: float) -> Verified:
        """Say what is proven about a request, at a UNIX time in seconds.

        Raises a ``VerificationError``, a ``DuplicateHeader`` or (where the body is signed as
        parsed) nothing else, whatever bytes it is given.
        """
        ...
