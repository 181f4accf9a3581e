"""Secrets: read once, when a scheme is made, and never shown again.

Senders write keys in ways that look alike and mean different things. A wrong reading makes no
error later, only a receiver that refuses everybody or, worse, one whose key is short. So each form
is read strictly here, and a known mix-up is named:

========  =================================  ================================================
prefix    Standard Webhooks                  others
========  =================================  ================================================
whsec_    base64 of a symmetric key          Stripe: the text itself, prefix included, is the key
whpk_     base64 of an Ed25519 public key
whsk_     base64 of an Ed25519 private key   (the sender's; no receiver needs it)
========  =================================  ================================================
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, final

from eventbus.errors import OptionError

MAX_SECRETS: Final = 10
"""How many secrets one scheme tries at most: an unauthenticated request costs that many MACs."""
_LEAST_STANDARD = 24
_MOST_STANDARD = 75  # the specification says 64; Svix hands out up to 75
_LEAST_OPAQUE = 16

K = TypeVar("K")

_is_base64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?").fullmatch


@final
class SymmetricKey:
    """A key of an HMAC with SHA-256. It has no readable form."""

    __slots__ = ("_fresh", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._fresh = hmac.new(key, digestmod="sha256")
        """To copy takes less time than to work the key in for each message."""

    def digest(self, message: bytes, algorithm: str = "sha256") -> bytes:
        """The authentication code of a message."""
        if algorithm != "sha256":
            return hmac.digest(self._key, message, algorithm)
        code = self._fresh.copy()
        code.update(message)
        return code.digest()

    def __repr__(self) -> str:
        return "SymmetricKey(…)"


@final
class PublicKey:
    """An Ed25519 public key: 32 bytes. Raises ``OptionError`` without the extra ``webhooks``."""

    __slots__ = ("_key",)

    def __init__(self, raw: bytes) -> None:
        self._key = _ed25519().Ed25519PublicKey.from_public_bytes(raw)

    def fits(self, signature: bytes, message: bytes) -> bool:
        """Whether the key's owner has signed the message."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return "PublicKey(…)"


@final
class SigningKey:
    """An Ed25519 private key: 32 bytes, or 64 of which the second half is the public key.

    Raises ``OptionError`` for another length, for halves that do not belong together, and without
    the extra ``webhooks``.
    """

    __slots__ = ("_key",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) not in (32, 64):
            raise OptionError("an Ed25519 private key has 32 bytes, or 64 with its public key")
        self._key = _ed25519().Ed25519PrivateKey.from_private_bytes(raw[:32])
        if len(raw) == 64 and self._key.public_key().public_bytes_raw() != raw[32:]:
            raise OptionError("the two halves of this Ed25519 private key do not belong together")

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of a signature."""
        signature: bytes = self._key.sign(message)
        return signature

    def __repr__(self) -> str:
        return "SigningKey(…)"


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise OptionError(
            "Ed25519 keys need the package cryptography: pip install 'eventbus[webhooks]'"
        ) from error
    return ed25519


def read_secrets(
    secrets: object, read: Callable[[str | bytes], K], noun: str = "secret"
) -> tuple[K, ...]:
    """Read each of one to ten secrets; a lone one may stand without a list.

    Raises ``OptionError`` for none: a scheme without secrets would have to refuse or to allow
    everything.
    """
    each: list[Any] = (
        [secrets]
        if isinstance(secrets, str | bytes)
        else list(secrets)
        if isinstance(secrets, Iterable)
        else []
    )
    if not each or not all(each):
        raise OptionError(f"no {noun}: pass one at least (is an environment variable not set?)")
    if len(each) > MAX_SECRETS:
        raise OptionError(f"{len(each)} {noun}s: pass {MAX_SECRETS} at most, and retire old ones")
    for one in each:
        if not isinstance(one, str | bytes):
            raise OptionError(f"a {noun} is a str, not {type(one).__qualname__}")
    return tuple(read(one) for one in each)


def read_standard_secret(secret: str | bytes, *, weak: bool = False) -> SymmetricKey | PublicKey:
    """A secret as Standard Webhooks writes it; bytes are a symmetric key as it is.

    ``weak`` allows symmetric keys of fewer than 24 bytes. Raises ``OptionError``.
    """
    if isinstance(secret, bytes):
        return SymmetricKey(_long_enough(secret, weak))
    prefix, _, text = secret.partition("_")
    if prefix == "whsk":
        raise OptionError(
            "this is the sender's private key (whsk_…): a receiver needs its public key (whpk_…)"
        )
    if prefix not in ("whsec", "whpk"):
        raise OptionError("a secret of Standard Webhooks begins with whsec_ or whpk_")
    raw = decode_base64(text)
    if raw is None:
        raise OptionError(
            f"what follows {prefix}_ is no base64: was it cut off? (Stripe's secrets begin alike; "
            "they are for the scheme Stripe)"
        )
    if prefix == "whsec":
        return SymmetricKey(_long_enough(raw, weak))
    if len(raw) != 32:
        raise OptionError("a public key (whpk_…) has 32 bytes: is this whsec_… mislabelled?")
    return PublicKey(raw)


def read_standard_signer(key: str | bytes) -> SymmetricKey | SigningKey:
    """What a sender signs with: ``whsec_…``, ``whsk_…``, or the bytes of a symmetric key.

    Raises ``OptionError``.
    """
    if isinstance(key, str) and key.startswith("whsk_"):
        return SigningKey(decode_base64(key.removeprefix("whsk_")) or b"")
    read = read_standard_secret(key, weak=True)
    if isinstance(read, PublicKey):
        raise OptionError("a public key cannot sign: pass the sender's private key, whsk_…")
    return read


def _long_enough(raw: bytes, weak: bool) -> bytes:
    if len(raw) > _MOST_STANDARD:
        raise OptionError(f"a secret of {len(raw)} bytes: Standard Webhooks has 64 at most")
    if len(raw) < _LEAST_STANDARD and not weak:
        raise OptionError(
            f"a secret of {len(raw)} bytes is weak: Standard Webhooks has {_LEAST_STANDARD} at "
            "least; pass allow_weak_secret=True to use it all the same"
        )
    return raw


def read_opaque_secret(secret: str | bytes, *, weak: bool = False) -> SymmetricKey:
    """A secret whose bytes are the key, in UTF-8 if it is a text.

    ``weak`` allows fewer than 16 bytes. Raises ``OptionError``, also for the key of another
    scheme, and for white space around the text, which is most likely a line end from a file.
    """
    raw = secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogatepass")
    if raw != raw.strip():
        raise OptionError("a secret with white space around it: strip() what was read from a file")
    if raw.startswith((b"whpk_", b"whsk_")):
        raise OptionError("keys that begin with whpk_ or whsk_ are for the scheme StandardWebhooks")
    if raw.startswith((b"sk_", b"rk_", b"pk_")):
        raise OptionError(
            "this is one of Stripe's API keys: the signing secret of an endpoint begins with whsec_"
        )
    if len(raw) < _LEAST_OPAQUE and not weak:
        raise OptionError(
            f"a secret of {len(raw)} bytes is weak: use {_LEAST_OPAQUE} random ones at least, or "
            "pass allow_weak_secret=True to use it all the same"
        )
    return SymmetricKey(raw)


def decode_base64(text: str) -> bytes | None:
    """The bytes of a text in the standard alphabet, padded; None if it is none, or not the one
    text that encodes them.
    """
    if not _is_base64(text):
        return None
    raw = base64.b64decode(text)
    return raw if base64.b64encode(raw).decode() == text else None
