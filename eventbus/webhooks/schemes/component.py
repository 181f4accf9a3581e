"""The signature of calls between the components of a Blocklet: what ``verifySig`` checks.

What is signed is not the bytes of the body but what JavaScript makes of them::

    text      = sorted JSON of {body, exp, iat, method, query, url}     see _jsjson
    signature = Ed25519(SHA3-256(text)), as 0x and 128 hexadecimal digits

``body`` is the parsed body, ``query`` the query as ``qs`` parses it, ``method`` in lower case,
``url`` the path as written; ``iat`` and ``exp`` are UNIX seconds, in headers of their own. So this
scheme, alone, reads JSON before it knows the sender, at most 256 KiB; what the rules of
``_strictjson`` and ``_query`` do not take was signed by nobody.

What the original lets pass is refused here: a time of signing in the future, a lifetime of any
length that the sender likes, digits that JavaScript's ``Number`` reads somehow. The host is not
signed, and all components of an app share one key: a signature is good for the same path of each of
them, within its lifetime.

Until SDK 1.16.32, senders signed the sorted body alone: such a signature never ends, and is good
for any path. It is accepted with ``legacy_body_only=True`` only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from eventbus.errors import OptionError
from eventbus.webhooks._jsjson import canonical_text, js_text, plain_text
from eventbus.webhooks._query import QueryError, parse_query
from eventbus.webhooks._request import Request
from eventbus.webhooks._scheme import AN_HOUR, Headers, Verified, message_key, require_header
from eventbus.webhooks._secrets import PublicKey, SigningKey, read_secrets
from eventbus.webhooks._strictjson import parse_json
from eventbus.webhooks._tolerance import check_seconds, is_timestamp
from eventbus.webhooks.bodies import PaymentKitBody
from eventbus.webhooks.errors import (
    InvalidJson,
    MalformedHeader,
    MissingHeader,
    NoMatchingSignature,
    TimestampTooNew,
    TimestampTooOld,
    VerificationError,
)

if TYPE_CHECKING:
    from eventbus.webhooks.bodies import BodyReader

__all__ = ["ComponentSignature"]

BAD_REQUEST: Final = b'{"error":"Bad Request"}'
VERIFY_FAILED: Final = b'{"error":"verify sig failed"}'
"""What the original answers."""

_SIGNATURE: Final = b"x-component-sig"
_IAT: Final = b"x-component-sig-iat"
_EXP: Final = b"x-component-sig-exp"
_VERSION: Final = b"x-component-sig-version"
_PREFIX: Final = b"x-path-prefix"
_LIFETIME: Final = 300
_FIELDS: Final = {"body", "exp", "iat", "method", "query", "url"}

_is_signature = re.compile(rb"0x([0-9a-fA-F]{128})").fullmatch
_VISIBLE: Final = r"[!\"$->@-\[\]-~]"  # ASCII without space, #, ? and the backslash
_is_path = re.compile(rf"/{_VISIBLE}*").fullmatch
_is_target = re.compile(rf"(/(?!/){_VISIBLE}*)(?:\?((?:{_VISIBLE}|\?)*))?").fullmatch
_is_hex = re.compile(r"(?:0x)?([0-9a-fA-F]+)").fullmatch


class ComponentSignature:
    """Verifies component calls, such as Payment Kit's webhooks.

    ``public_keys`` are one to ten, ``0x`` and 64 hexadecimal digits each: the public key of the
    app's access wallet, which is the second half of ``BLOCKLET_APP_ASK``. ``tolerance`` is how many
    seconds, 1 to 3600, the time of signing may be ahead; ``lifetime`` is how many seconds, 1 to
    3600, from signing to expiry are allowed (senders take 300). ``legacy_body_only`` also takes
    the older form, in which nothing but the body is signed. Apps whose chain is Ethereum sign in
    another way, which is not supported.

    Refused requests are answered as the original does: 400 ``{"error":"Bad Request"}`` without a
    signature, 401 ``{"error":"verify sig failed"}`` else.

    Raises ``OptionError`` for keys that are none, or secret ones.
    """

    name = "component-signature"
    max_body = 256 * 1024
    """The largest body, in bytes: it is parsed before its sender is known."""

    def __init__(
        self,
        public_keys: str | Iterable[str],
        *,
        tolerance: float = 300,
        lifetime: float = _LIFETIME,
        legacy_body_only: bool = False,
    ) -> None:
        self._keys = read_secrets(public_keys, _read_public_key, "public key")
        self._tolerance = check_seconds("tolerance", tolerance)
        self._lifetime = check_seconds("lifetime", lifetime)
        self._legacy = legacy_body_only

    @property
    def body(self) -> BodyReader:
        """Payment Kit's event row, or an EventBus envelope."""
        return _format

    def verify(self, request: Request, now: float) -> Verified:
        """See ``Scheme.verify``."""
        try:
            return self._verify(request, now)
        except VerificationError as error:
            unsigned = isinstance(error, MissingHeader) and str(error) == _SIGNATURE.decode()
            error.status, error.answer = (400, BAD_REQUEST) if unsigned else (401, VERIFY_FAILED)
            raise

    def _verify(self, request: Request, now: float) -> Verified:
        legacy = self._legacy and not {_IAT, _EXP, _VERSION} & {name for name, _ in request.headers}
        times = None if legacy else self._times(request, now)
        signature = _is_signature(require_header(request, _SIGNATURE))
        if signature is None:
            raise MalformedHeader("the signature is not 0x and 128 hexadecimal digits")
        content, text = _parse_body(request.body, self.max_body)
        texts = _legacy_texts(content, text) if times is None else _texts(request, text, *times)
        digest = self._find(bytes.fromhex(signature[1].decode()), texts)
        return Verified(
            key=message_key(self.name, b"signed", digest),
            id=None,
            time=None if times is None else times[0],
            remember=AN_HOUR if times is None else times[1] + 1 - now,
            content=content,
        )

    def _times(self, request: Request, now: float) -> tuple[int, int]:
        """When the request was signed, and when that expires. The last second counts."""
        values = [require_header(request, name) for name in (_IAT, _EXP)]
        if not all(map(is_timestamp, values)):
            raise MalformedHeader("a time is not 1 to 12 digits")
        iat, exp = map(int, values)
        if now >= exp + 1:
            raise TimestampTooOld(f"expired {now - exp:.0f} s ago", now - exp)
        if iat - now > self._tolerance:
            raise TimestampTooNew(f"signed {iat - now:.0f} s ahead", iat - now)
        if not 0 <= exp - iat <= self._lifetime:
            raise MalformedHeader(f"good for {exp - iat} s; {self._lifetime:g} s are allowed")
        return iat, exp

    def _find(self, signature: bytes, texts: Iterable[bytes]) -> bytes:
        """The digest of the text that was signed."""
        for text in texts:
            digest = hashlib.sha3_256(text).digest()
            if any(key.fits(signature, digest) for key in self._keys):
                return digest
        raise NoMatchingSignature("the signature does not fit")

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
        """See ``SigningScheme.sign``. ``key`` is ``0x`` and the digits of the secret key."""
        if key is None:
            raise OptionError("public keys cannot sign: pass key=, the app's secret key")
        if body is None:
            body = _format.write(type, data, id=id, time=happened or time)
        iat = int(time.timestamp())
        exp = iat + min(_LIFETIME, int(self._lifetime))
        request = Request(method, target, (), body)
        text = next(_texts(request, _parse_body(body, len(body))[1], iat, exp))
        signer = SigningKey(_read_hex(key))
        signature = signer.sign(hashlib.sha3_256(text).digest())
        return [
            (_SIGNATURE, b"0x" + signature.hex().encode()),
            (_IAT, b"%d" % iat),
            (_EXP, b"%d" % exp),
            (_VERSION, b"1"),
        ], body

    def __repr__(self) -> str:
        return f"<ComponentSignature, public keys: {len(self._keys)}>"


_format = PaymentKitBody()


def _parse_body(body: bytes, most: int) -> tuple[Any, bytes]:
    """A body's value, and its text in JavaScript. No body, and ``null``, are an empty object."""
    if len(body) > most:
        raise NoMatchingSignature(f"the body is longer than {most} bytes")
    if not body:
        return {}, b"{}"
    try:
        content = parse_json(body)
        return ({}, b"{}") if content is None else (content, js_text(content, body))
    except (InvalidJson, ValueError) as error:
        raise NoMatchingSignature(f"the body cannot have been signed: {error}") from None


def _texts(request: Request, body: bytes, iat: int, exp: int) -> Iterator[bytes]:
    """What may have been signed: with the path as it came, and with what a proxy took off it."""
    target = _is_target(request.target)
    if target is None or not request.method.isascii() or len(request.target) > 8192:
        raise NoMatchingSignature("the method or the target cannot have been signed")
    try:
        query = parse_query(target[2] or "")
    except QueryError as error:
        raise NoMatchingSignature(f"the query cannot have been signed: {error}") from None
    fields = b'{"body":%b,"exp":%d,"iat":%d,"method":%b,"query":%b,"url":%b}'
    method = plain_text(request.method.lower())
    query_text = canonical_text(query) if query else b"{}"
    path = target[1]
    yield fields % (body, exp, iat, method, query_text, plain_text(path))
    prefix = request.header(_PREFIX)
    if prefix is not None and not path.startswith(taken := prefix.decode("latin-1")):
        if not _is_path(taken):
            raise MalformedHeader("x-path-prefix is no path")
        joined = taken if path == "/" else taken.removesuffix("/") + path
        yield fields % (body, exp, iat, method, query_text, plain_text(joined))


def _legacy_texts(content: Any, text: bytes) -> Iterator[bytes]:
    """What senders before SDK 1.16.33 signed. A body that is itself such a text as newer ones sign
    is refused: the signature of a request would be good for it.
    """
    if isinstance(content, dict) and content.keys() == _FIELDS:
        raise NoMatchingSignature("the body is the text of another request")
    yield text if content or isinstance(content, dict | list) else b"{}"


def _read_public_key(key: str | bytes) -> PublicKey:
    raw = _read_hex(key)
    if len(raw) == 64:
        raise OptionError(
            "this is a secret key, of 64 bytes: a receiver needs the public one, which is its last "
            "64 hexadecimal digits"
        )
    if len(raw) != 32:
        raise OptionError(f"a public key has 32 bytes, not {len(raw)}")
    return PublicKey(raw)


def _read_hex(key: str | bytes) -> bytes:
    text = key.decode("latin-1") if isinstance(key, bytes) else key
    match = _is_hex(text)
    if match is None or len(match[1]) % 2:
        raise OptionError("a key is 0x and hexadecimal digits (an address, z…, is no key)")
    return bytes.fromhex(match[1])
