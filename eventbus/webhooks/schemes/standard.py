"""Standard Webhooks 1.0.0, symmetric (``v1``) and with Ed25519 (``v1a``).

What is signed is ``id.timestamp.body``. The three are only told apart if neither of the first two
has a dot, which the specification asks of senders and other libraries do not check: there, one
signature is good for ``("msg_1", T, "T.5")`` and for ``("msg_1.T", T, "5")``. Here, no id has one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Final

from eventbus.errors import OptionError
from eventbus.webhooks._scheme import Headers, Verified, message_key, require_header
from eventbus.webhooks._secrets import (
    PublicKey,
    SigningKey,
    SymmetricKey,
    read_secrets,
    read_standard_secret,
    read_standard_signer,
)
from eventbus.webhooks._tolerance import check_seconds, check_time, is_timestamp
from eventbus.webhooks.bodies import StandardBody
from eventbus.webhooks.errors import MalformedHeader, NoMatchingSignature

if TYPE_CHECKING:
    from eventbus.webhooks._request import Request
    from eventbus.webhooks.bodies import BodyReader

__all__ = ["StandardWebhooks"]

_STANDARD: Final = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
_SVIX: Final = (b"svix-id", b"svix-timestamp", b"svix-signature")
_MAX_ENTRIES: Final = 16
_MAX_SIGNATURES: Final = 4096  # bytes of the header

_is_id = re.compile(rb"[!-\-/-~]{1,256}").fullmatch  # visible ASCII without the dot
_is_entry = re.compile(rb"[a-z0-9]{1,16},[!-~]+").fullmatch
# The last letter before the padding has bits that nobody reads: only 0 is written there.
_is_v1 = re.compile(rb"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=").fullmatch
_is_v1a = re.compile(rb"[A-Za-z0-9+/]{85}[AQgw]==").fullmatch

_TEXTS: Final = {b"v1": _is_v1, b"v1a": _is_v1a}


class StandardWebhooks:
    """Verifies what senders sign as Standard Webhooks says; Svix and many others do.

    ``secrets`` are one to ten: ``whsec_…`` for ``v1``, ``whpk_…`` for ``v1a``; while a sender
    changes its secret, configure the old and the new one. ``tolerance`` is how many seconds,
    1 to 3600, the signed time may be off, both ways. ``svix_headers`` also takes ``svix-id``,
    ``svix-timestamp`` and ``svix-signature``, if none of the standard three is there.
    ``allow_weak_secret`` allows keys of fewer than 24 bytes.

    Raises ``OptionError`` for secrets that are none, or of another kind.
    """

    name = "standard-webhooks"

    def __init__(
        self,
        secrets: str | bytes | Iterable[str | bytes],
        *,
        tolerance: float = 300,
        svix_headers: bool = False,
        allow_weak_secret: bool = False,
    ) -> None:
        keys = read_secrets(secrets, partial(read_standard_secret, weak=allow_weak_secret))
        self._symmetric = [key for key in keys if isinstance(key, SymmetricKey)]
        self._public = [key for key in keys if isinstance(key, PublicKey)]
        self._tolerance = check_seconds("tolerance", tolerance)
        self._svix_headers = svix_headers

    @property
    def body(self) -> BodyReader:
        """``type``, ``timestamp`` and ``data``."""
        return _format

    def verify(self, request: Request, now: float) -> Verified:
        """See ``Scheme.verify``."""
        message_id, timestamp, signatures = self._headers(request)
        signed = b".".join((message_id, timestamp, request.body))
        self._check_signatures(signatures, signed)
        moment = int(timestamp)
        return Verified(
            key=message_key(self.name, b"id", message_id),
            id=message_id.decode("ascii"),
            time=moment,
            remember=check_time(moment, now, self._tolerance),
        )

    def _headers(self, request: Request) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
        names = _STANDARD
        if self._svix_headers and not any(name in _STANDARD for name, _ in request.headers):
            names = _SVIX
        message_id = require_header(request, names[0])
        timestamp = require_header(request, names[1])
        signatures = require_header(request, names[2])
        if not _is_id(message_id):
            raise MalformedHeader("the id is not 1 to 256 visible ASCII characters without a dot")
        if not is_timestamp(timestamp):
            raise MalformedHeader("the timestamp is not 1 to 12 digits")
        return message_id, timestamp, _entries(signatures)

    def _check_signatures(self, entries: list[tuple[bytes, bytes]], signed: bytes) -> None:
        macs = [base64.b64encode(key.digest(signed)) for key in self._symmetric]
        good = False
        for version, text in entries:
            if version == b"v1":
                for mac in macs:
                    good |= compare_digest(mac, text)
            elif version == b"v1a" and self._public:
                raw = base64.b64decode(text)
                good |= any(key.fits(raw, signed) for key in self._public)
        if not good:
            raise NoMatchingSignature("no signature fits")

    def sign(
        self,
        type: str,
        data: Any,
        *,
        id: str,
        time: datetime,
        happened: datetime | None = None,
        method: str = "POST",
        target: str = "/",
        body: bytes | None = None,
        key: str | bytes | None = None,
    ) -> tuple[Headers, bytes]:
        """See ``SigningScheme.sign``. ``key`` is ``whsec_…`` or, for ``v1a``, ``whsk_…``."""
        if body is None:
            body = _format.write(type, data, id=id, time=happened or time)
        timestamp = b"%d" % int(time.timestamp())
        signed = b".".join((id.encode(), timestamp, body))
        signature = self._signature(None if key is None else read_standard_signer(key), signed)
        return [
            (b"webhook-id", id.encode()),
            (b"webhook-timestamp", timestamp),
            (b"webhook-signature", signature),
        ], body

    def _signature(self, signer: SymmetricKey | SigningKey | None, signed: bytes) -> bytes:
        if signer is None and not self._symmetric:
            raise OptionError("public keys cannot sign: pass the sender's private key, whsk_…")
        signer = signer or self._symmetric[0]
        if isinstance(signer, SigningKey):
            return b"v1a," + base64.b64encode(signer.sign(signed))
        return b"v1," + base64.b64encode(signer.digest(signed))

    def __repr__(self) -> str:
        count = len(self._symmetric) + len(self._public)
        return f"<StandardWebhooks, secrets: {count}>"


_format = StandardBody(id_in_body=False)


def _entries(header: bytes) -> list[tuple[bytes, bytes]]:
    """The signatures of a header, with their versions; versions that nobody knows are kept."""
    parts = header.split(b" ")
    if len(header) > _MAX_SIGNATURES or len(parts) > _MAX_ENTRIES:
        raise MalformedHeader(f"more than {_MAX_ENTRIES} signatures, or {_MAX_SIGNATURES} bytes")
    entries = []
    for part in parts:
        version, _, text = part.partition(b",")
        well_formed = _TEXTS.get(version)
        if not (_is_entry(part) if well_formed is None else well_formed(text)):
            raise MalformedHeader("a signature is not written as <version>,<base64>")
        entries.append((version, text))
    return entries
