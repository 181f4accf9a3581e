"""What Stripe and Blocklet Server have in common: ``t=<UNIX seconds>,v1=<hex>`` in one header.

Signed is ``t.body``, with the text of the secret as the key. A header has one ``t`` and up to 16
``v1``; other fields, such as the ``v0`` of Stripe's test deliveries, mean nothing here. The time is
refused if it is too far ahead as well as too far back: Stripe's own library takes any time in the
future, which makes whoever can get one request signed ahead of time a sender for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, ClassVar, Final

from eventbus.webhooks._scheme import Headers, Verified, message_key, require_header
from eventbus.webhooks._secrets import read_opaque_secret, read_secrets
from eventbus.webhooks._tolerance import check_seconds, check_time, is_timestamp
from eventbus.webhooks.errors import MalformedHeader, NoMatchingSignature

if TYPE_CHECKING:
    from eventbus.webhooks._request import Request
    from eventbus.webhooks._secrets import SymmetricKey
    from eventbus.webhooks.bodies import BodyReader, BodyWriter

_MAX_FIELDS: Final = 18
_MAX_BYTES: Final = 4096

_is_field = re.compile(rb"([a-z0-9]{1,16})=([!-+\--~]+)").fullmatch  # visible ASCII, no comma
_is_mac = re.compile(rb"[0-9a-f]{64}").fullmatch


class TimedHmac:
    """The part that such schemes share. They name the header and the body."""

    name: ClassVar[str]
    header: ClassVar[bytes]
    format: ClassVar[Any]
    """Reads and writes the body."""

    def __init__(
        self,
        secrets: str | bytes | Iterable[str | bytes],
        *,
        tolerance: float = 300,
        allow_weak_secret: bool = False,
    ) -> None:
        self._keys = read_secrets(secrets, partial(self._read_secret, weak=allow_weak_secret))
        self._tolerance = check_seconds("tolerance", tolerance)

    @property
    def body(self) -> BodyReader:
        """See ``Scheme.body``."""
        reader: BodyReader = self.format
        return reader

    def verify(self, request: Request, now: float) -> Verified:
        """See ``Scheme.verify``."""
        timestamp, signatures = _fields(require_header(request, self.header))
        signed = timestamp + b"." + request.body
        good = False
        for key in self._keys:
            mac = key.digest(signed).hex().encode()
            for signature in signatures:
                good |= compare_digest(mac, signature)
        if not good:
            raise NoMatchingSignature("no signature fits")
        moment = int(timestamp)
        return Verified(
            # A sender signs each attempt anew. Its body stays, or has an id that the reader finds.
            key=message_key(self.name, b"body", request.body),
            id=None,
            time=moment,
            remember=check_time(moment, now, self._tolerance),
        )

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
        """See ``SigningScheme.sign``."""
        if body is None:
            writer: BodyWriter = self.format
            body = writer.write(type, data, id=id, time=happened or time)
        timestamp = b"%d" % int(time.timestamp())
        signer = self._keys[0] if key is None else self._read_secret(key, weak=True)
        mac = signer.digest(timestamp + b"." + body).hex().encode()
        return [(self.header, b"t=%b,v1=%b" % (timestamp, mac))], body

    @classmethod
    def _read_secret(cls, secret: str | bytes, *, weak: bool) -> SymmetricKey:
        return read_opaque_secret(secret, weak=weak)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, secrets: {len(self._keys)}>"


def _fields(header: bytes) -> tuple[bytes, list[bytes]]:
    """The time and the ``v1`` signatures of a header."""
    parts = header.split(b",")
    if len(header) > _MAX_BYTES or len(parts) > _MAX_FIELDS:
        raise MalformedHeader(f"more than {_MAX_FIELDS} fields, or {_MAX_BYTES} bytes")
    times, signatures = [], []
    for part in parts:
        field = _is_field(part)
        if field is None:
            raise MalformedHeader("a field is not written as <name>=<value>")
        if field[1] == b"t":
            times.append(field[2])
        elif field[1] == b"v1":
            signatures.append(field[2])
    if len(times) != 1 or not is_timestamp(times[0]):
        raise MalformedHeader("there is not one time, of 1 to 12 digits")
    if not all(map(_is_mac, signatures)):
        raise MalformedHeader("a v1 signature is not 64 hexadecimal digits in lower case")
    return times[0], signatures
