"""Blocklet Server's webhooks."""

from __future__ import annotations

from eventbus.webhooks.bodies import BlockletServerBody
from eventbus.webhooks.schemes._timed import TimedHmac

__all__ = ["BlockletServer"]


class BlockletServer(TimedHmac):
    """Verifies what Blocklet Server signs in ``X-Webhook-Signature``.

    ``secrets`` are one to ten, each the text that Blocklet Server shows once: 64 hexadecimal
    digits, which are the key as they stand and are not decoded. ``tolerance`` is how many seconds,
    1 to 3600, the signed time may be off, both ways. ``allow_weak_secret`` allows keys of fewer
    than 16 bytes. Endpoints that were made before Blocklet Server 1.17.11 may have no secret; what
    it sends there is not signed, and is refused: give them one.

    Raises ``OptionError`` for secrets that are none, or of another kind.
    """

    name = "blocklet-server"
    header = b"x-webhook-signature"
    format = BlockletServerBody()
