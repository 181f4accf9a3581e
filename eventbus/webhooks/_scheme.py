"""What every signature scheme promises, and what a receiver may rely on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from eventbus.webhooks.errors import MissingHeader

if TYPE_CHECKING:
    from eventbus.webhooks._request import Request
    from eventbus.webhooks.bodies import BodyReader

UNPARSED: Final = object()
"""The scheme has not looked into the body."""

AN_HOUR: Final = 3600.0
"""How long to remember, in seconds, where a signature never gets too old."""

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, and values."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What is known of a request once its signature has been found good."""

    key: bytes
    """32 bytes that identify the message, made from signed bytes alone: a replay has the same."""
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

    @property
    def body(self) -> BodyReader:
        """Reads the bodies that senders of this kind usually send."""
        ...

    def verify(self, request: Request, now: float) -> Verified:
        """Say what is proven about a request, at a UNIX time in seconds.

        Raises ``VerificationError`` or ``DuplicateHeader`` and nothing else, whatever bytes it is
        given.
        """
        ...


class Signer(Protocol):
    """What signs requests as their sender does; a user's own need do no more."""

    def sign(
        self,
        type: str,
        data: Any,
        *,
        id: str,
        time: datetime,
        happened: datetime | None,
        method: str,
        target: str,
        body: bytes | None,
        key: str | bytes | None,
    ) -> tuple[Headers, bytes]:
        """The headers that prove a request, and its body, as a sender would send them at that time.

        ``body`` stands for the one that the scheme's senders would write of type, data, id and
        when it ``happened``, by default at that time too. ``key`` is the sender's; by default a
        secret of the scheme, if that can sign.

        Raises ``OptionError`` if there is nothing to sign with.
        """
        ...


class SigningScheme(Scheme, Signer, Protocol):
    """A scheme that can also sign, so that a receiver can be tested without its sender."""


def require_header(request: Request, name: bytes) -> bytes:
    """The one value of a header. Raises ``MissingHeader`` or ``DuplicateHeader``."""
    value = request.header(name)
    if value is None:
        raise MissingHeader(name.decode("ascii", "replace"))
    return value


def message_key(scheme: str, *signed: bytes) -> bytes:
    """The key of a message: a digest of the scheme's name and of parts that its sender signed."""
    digest = hashlib.sha256()
    for part in (scheme.encode(), *signed):
        digest.update(len(part).to_bytes(8, "big"))  # so that no two lists of parts look alike
        digest.update(part)
    return digest.digest()
