"""The signature schemes: one module for each."""

from eventbus.webhooks.schemes.blocklet import BlockletServer
from eventbus.webhooks.schemes.component import ComponentSignature
from eventbus.webhooks.schemes.github import GitHub
from eventbus.webhooks.schemes.hmac import HmacSignature
from eventbus.webhooks.schemes.standard import StandardWebhooks
from eventbus.webhooks.schemes.stripe import Stripe

__all__ = [
    "BlockletServer",
    "ComponentSignature",
    "GitHub",
    "HmacSignature",
    "StandardWebhooks",
    "Stripe",
]
