"""An HMAC over some of a request, for senders that have no scheme of their own here.

Slack signs ``v0:<timestamp>:<body>`` in hexadecimal digits; Shopify signs the body, in base64::

    slack = HmacSignature(
        "8f742231b10e8888abcd99yyyzzz85a5",
        name="slack",
        header="X-Slack-Signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp_header="X-Slack-Request-Timestamp",
    )
    shopify = HmacSignature(
        "hush-this-is-the-secret-of-the-app",
        name="shopify",
        header="X-Shopify-Hmac-Sha256",
        encoding="base64",
    )
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Final, Literal

from eventbus.errors import OptionError
from eventbus.webhooks._scheme import AN_HOUR, Headers, Verified, message_key, require_header
from eventbus.webhooks._secrets import SymmetricKey, read_opaque_secret, read_secrets
from eventbus.webhooks._tolerance import check_seconds, check_time, is_timestamp
from eventbus.webhooks.bodies import StandardBody
from eventbus.webhooks.errors import MalformedHeader, NoMatchingSignature

if TYPE_CHECKING:
    from eventbus.webhooks._request import Request
    from eventbus.webhooks.bodies import BodyReader

__all__ = ["HmacSignature"]

_SIZES: Final = {"sha256": 32, "sha384": 48, "sha512": 64}
_is_id = re.compile(rb"[!-\-/-~]{1,256}").fullmatch  # visible ASCII without the dot
_is_header_name = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+").fullmatch


class HmacSignature:
    """Verifies an HMAC in one header, over the body and, if they are signed, a time and an id.

    ``signed`` says what the sender signs: ``{body}``, once, with other text around it, among which
    ``{timestamp}`` and ``{id}`` stand for the values of ``timestamp_header`` and ``id_header``. A
    time is UNIX seconds in up to 12 digits; an id is visible ASCII without a dot. The signature is
    ``prefix`` and the authentication code, in ``encoding``, ``"hex"`` (lower case) or ``"base64"``;
    ``algorithm`` is ``"sha256"``, ``"sha384"`` or ``"sha512"``. ``secrets`` are one to ten, bytes
    or texts in UTF-8. ``tolerance`` is how many seconds, 1 to 3600, the signed time may be off,
    both ways. ``allow_weak_secret`` allows keys of fewer than 16 bytes.

    Headers beside those are not proven; a ``body`` function that reads one, such as Shopify's
    ``X-Shopify-Topic``, takes it on trust. Without a signed id, what is a duplicate is decided by
    all that is signed, or by an id in the body: see ``Envelope.id_is_signed``.

    Raises ``OptionError`` for options that do not go together, and for secrets that are none.
    """

    def __init__(
        self,
        secrets: str | bytes | Iterable[str | bytes],
        *,
        header: str,
        name: str = "hmac",
        signed: str = "{body}",
        prefix: str = "",
        encoding: Literal["hex", "base64"] = "hex",
        algorithm: Literal["sha256", "sha384", "sha512"] = "sha256",
        timestamp_header: str | None = None,
        id_header: str | None = None,
        tolerance: float = 300,
        allow_weak_secret: bool = False,
    ) -> None:
        self.name = name
        """For logs, and the ``source`` of events that name none."""
        self._keys = read_secrets(secrets, partial(read_opaque_secret, weak=allow_weak_secret))
        self._header = _read_header_name(header)
        self._prefix = prefix.encode()
        if algorithm not in _SIZES:
            raise OptionError(f"algorithm={algorithm!r}: pass one of {sorted(_SIZES)}")
        if encoding not in ("hex", "base64"):
            raise OptionError(f"encoding={encoding!r}: pass 'hex' or 'base64'")
        self._algorithm = algorithm
        self._base64 = encoding == "base64"
        example = self._signature(self._keys[0], b"")
        text = rb"[A-Za-z0-9+/=]" if self._base64 else rb"[0-9a-f]"
        count = len(example) - len(self._prefix)
        form = b"%b%b{%d}" % (re.escape(self._prefix), text, count)
        self._is_signature = re.compile(form).fullmatch
        self._parts = _read_template(signed, timestamp_header, id_header)
        self._timestamp_header = _read_header_name(timestamp_header) if timestamp_header else b""
        self._id_header = _read_header_name(id_header) if id_header else b""
        self._tolerance = check_seconds("tolerance", tolerance)

    @property
    def body(self) -> BodyReader:
        """``type``, ``id``, ``timestamp`` and ``data``, as Standard Webhooks has them."""
        return _format

    def verify(self, request: Request, now: float) -> Verified:
        """See ``Scheme.verify``."""
        given = require_header(request, self._header)
        if not self._is_signature(given):
            raise MalformedHeader("the signature is not of the form that is configured")
        values = self._signed_headers(request)
        signed = self._fill(values, request.body)
        good = False
        for key in self._keys:
            good |= compare_digest(self._signature(key, signed), given)
        if not good:
            raise NoMatchingSignature("the signature does not fit")
        moment = int(values["{timestamp}"]) if "{timestamp}" in values else None
        message_id = values.get("{id}")
        return Verified(
            key=message_key(self.name, b"signed", signed)
            if message_id is None
            else message_key(self.name, b"id", message_id),
            id=None if message_id is None else message_id.decode(),
            time=moment,
            remember=AN_HOUR if moment is None else check_time(moment, now, self._tolerance),
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
            body = _format.write(type, data, id=id, time=happened or time)
        signer = self._keys[0] if key is None else read_opaque_secret(key, weak=True)
        values, headers = {}, []
        if self._timestamp_header:
            values["{timestamp}"] = b"%d" % int(time.timestamp())
            headers.append((self._timestamp_header, values["{timestamp}"]))
        if self._id_header:
            values["{id}"] = id.encode()
            headers.append((self._id_header, values["{id}"]))
        return [*headers, (self._header, self._signature(signer, self._fill(values, body)))], body

    def _signed_headers(self, request: Request) -> dict[str, bytes]:
        values = {}
        if self._timestamp_header:
            values["{timestamp}"] = require_header(request, self._timestamp_header)
            if not is_timestamp(values["{timestamp}"]):
                raise MalformedHeader("the timestamp is not 1 to 12 digits")
        if self._id_header:
            values["{id}"] = require_header(request, self._id_header)
            if not _is_id(values["{id}"]):
                raise MalformedHeader("the id is not 1 to 256 visible characters without a dot")
        return values

    def _fill(self, values: dict[str, bytes], body: bytes) -> bytes:
        """What is signed, of a request with these values."""
        known = {**values, "{body}": body}
        return b"".join(known[part] if part in known else part.encode() for part in self._parts)

    def _signature(self, key: SymmetricKey, signed: bytes) -> bytes:
        mac = key.digest(signed, self._algorithm)
        return self._prefix + (base64.b64encode(mac) if self._base64 else mac.hex().encode())

    def __repr__(self) -> str:
        return f"<HmacSignature {self.name}, secrets: {len(self._keys)}>"


_format = StandardBody()


def _read_header_name(name: str) -> bytes:
    if not isinstance(name, str) or not _is_header_name(name):
        raise OptionError(f"{name!r} is no name of a header")
    return name.lower().encode()


def _read_template(signed: str, timestamp_header: object, id_header: object) -> list[str]:
    """The parts of a template: placeholders, and the text between them.

    Raises ``OptionError`` if requests that differ could have the same signed text: no body, a time
    or an id next to something that it could go on in.
    """
    parts = [part for part in re.split(r"(\{(?:body|timestamp|id)\})", signed) if part]
    if parts.count("{body}") != 1:
        raise OptionError(f"signed={signed!r}: write {{body}} in it, once")
    for placeholder, header, own in (
        ("{timestamp}", timestamp_header, re.compile("[0-9{}]")),
        ("{id}", id_header, re.compile(r"[!-\-/-~]")),
    ):
        if parts.count(placeholder) != (header is not None):
            option = f"{placeholder[1:-1]}_header"
            raise OptionError(f"signed={signed!r}, {option}={header!r}: give both or neither")
        if header is not None:
            at = parts.index(placeholder)
            around = "".join(parts[:at])[-1:] + "".join(parts[at + 1 :])[:1]
            if own.search(around):
                raise OptionError(f"signed={signed!r}: nothing tells where {placeholder} ends")
    return parts
