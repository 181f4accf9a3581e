"""The signature schemes: one module for each."""

from eventbus.webhooks.schemes.standard import StandardWebhooks

__all__ = ["StandardWebhooks"]
