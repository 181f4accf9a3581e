"""Webhooks in: HTTP requests that are verified, and become events on the bus.

`Receiver` takes the requests of one endpoint: a scheme (`StandardWebhooks`, `Stripe`, `GitHub`,
`ComponentSignature`, `BlockletServer`, `HmacSignature`) says whether they come from the sender, and
a replay store whether they have come before. `WebhookApp` serves receivers by HTTP.
"""

from eventbus.webhooks._answer import Answer
from eventbus.webhooks._ledger import WebhookStatistics
from eventbus.webhooks._sqlite_replay import SqliteReplayStore
from eventbus.webhooks.app import WebhookApp
from eventbus.webhooks.receiver import Receiver
from eventbus.webhooks.replay import Claim, MemoryReplayStore, ReplayStore
from eventbus.webhooks.schemes.blocklet import BlockletServer
from eventbus.webhooks.schemes.component import ComponentSignature
from eventbus.webhooks.schemes.github import GitHub
from eventbus.webhooks.schemes.hmac import HmacSignature
from eventbus.webhooks.schemes.standard import StandardWebhooks
from eventbus.webhooks.schemes.stripe import Stripe

__all__ = [
    "Answer",
    "BlockletServer",
    "Claim",
    "ComponentSignature",
    "GitHub",
    "HmacSignature",
    "MemoryReplayStore",
    "Receiver",
    "ReplayStore",
    "SqliteReplayStore",
    "StandardWebhooks",
    "Stripe",
    "WebhookApp",
    "WebhookStatistics",
]
