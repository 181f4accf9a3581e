"""Webhooks in: HTTP requests that are verified, and become events on the bus."""

from eventbus.webhooks.schemes import StandardWebhooks

__all__ = ["StandardWebhooks"]
