"""Signature schemes by name, as options of a command give them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eventbus.webhooks import (
    BlockletServer,
    ComponentSignature,
    GitHub,
    StandardWebhooks,
    Stripe,
)

if TYPE_CHECKING:
    from eventbus.webhooks._scheme import Scheme, SigningScheme

SCHEMES: Final[dict[str, Callable[[Sequence[str]], Any]]] = {
    "standard": StandardWebhooks,
    "stripe": Stripe,
    "github": GitHub,
    "component": ComponentSignature,
    "blocklet-server": BlockletServer,
}
"""What makes each of secrets (for ``component``: of public keys)."""

HEX_OF_KEY: Final = 64


class Sender(NamedTuple):
    """Who signs."""

    scheme: SigningScheme
    key: str | None
    """What it signs with, where that is not the first secret of the scheme."""


def receiving(name: str, secrets: Sequence[str]) -> Scheme:
    """A scheme that verifies. Raises ``OptionError``."""
    scheme: Scheme = SCHEMES[name](secrets)
    return scheme


def sending(name: str, secret: str) -> Sender:
    """A scheme that signs, with a shared secret or a private key. Raises ``OptionError``."""
    if name == "component":
        digits = secret.removeprefix("0x")
        public = digits[HEX_OF_KEY:] or _public_half(bytes.fromhex(digits)).hex()
        return Sender(ComponentSignature(f"0x{public}"), secret)
    if secret.startswith("whsk_"):
        seed = base64.b64decode(secret.removeprefix("whsk_"))[:32]
        public = base64.b64encode(_public_half(seed)).decode()
        return Sender(StandardWebhooks(f"whpk_{public}"), secret)
    return Sender(SCHEMES[name]([secret]), None)


def _public_half(seed: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
