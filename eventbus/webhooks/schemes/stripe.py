"""Stripe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus.errors import OptionError
from eventbus.webhooks.bodies import StripeBody
from eventbus.webhooks.schemes._timed import TimedHmac

if TYPE_CHECKING:
    from eventbus.webhooks._secrets import SymmetricKey

__all__ = ["Stripe"]


class Stripe(TimedHmac):
    """Verifies what Stripe signs in ``Stripe-Signature``.

    ``secrets`` are one to ten signing secrets of endpoints, ``whsec_…``; the prefix is part of the
    key, unlike in `StandardWebhooks`, whose secrets look alike. ``tolerance`` is how many seconds,
    1 to 3600, the signed time may be off, both ways. ``allow_weak_secret`` allows keys of fewer
    than 16 bytes.

    Raises ``OptionError`` for secrets that are none, or of another kind.
    """

    name = "stripe"
    header = b"stripe-signature"
    format = StripeBody()

    @classmethod
    def _read_secret(cls, secret: str | bytes, *, weak: bool) -> SymmetricKey:
        key = super()._read_secret(secret, weak=weak)
        text = secret if isinstance(secret, bytes) else secret.encode()
        if not weak and not text.startswith(b"whsec_"):
            raise OptionError("the signing secret of a Stripe endpoint begins with whsec_")
        return key
