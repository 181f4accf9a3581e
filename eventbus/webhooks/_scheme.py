"""What every signature scheme promises, and what a receiver may rely on."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

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


class Verified(NamedTuple):
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


def message_key(scheme: str, kind: bytes, signed: bytes) -> bytes:
    """The key of a message: a digest of the scheme's name and of what its sender signed.

    ``kind`` says what that is, such as ``b"id"``, so that an id is no other message's body.
    """
    digest = _begun(scheme, kind).copy()
    digest.update(signed)
    return digest.digest()


@lru_cache(maxsize=64)
def _begun(scheme: str, kind: bytes) -> hashlib._Hash:
    name = scheme.encode()
    return hashlib.sha256(b"%d %d %b%b" % (len(name), len(kind), name, kind))
