"""What surrounds the shop: services that fail on command, and somebody who watches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventbus.instrumentation import Hook, LogLine

if TYPE_CHECKING:
    from eventbus.event import Event, RunningDelivery
    from eventbus.outcome import Outcome


class Outside:
    """The services that the shop calls, and how they are today."""

    def __init__(self) -> None:
        self.refused_mails = 0
        """How many mails the mail server refuses before it recovers."""
        self.hanging_calls = 0
        """How many calls to the partner never return."""
        self.crm_is_down = False

    def break_down(self) -> None:
        """The troubles that the story tells of begin."""
        self.refused_mails, self.hanging_calls, self.crm_is_down = 2, 1, True

    def repair(self) -> None:
        """All is well again."""
        self.refused_mails, self.hanging_calls, self.crm_is_down = 0, 0, False

    async def send_mail(self) -> None:
        """Raises ``ConnectionError`` while the mail server is busy."""
        if self.refused_mails:
            self.refused_mails -= 1
            raise ConnectionError("mail server is busy")

    async def call_crm(self) -> None:
        """Raises ``ConnectionError`` while the CRM is down."""
        if self.crm_is_down:
            raise ConnectionError("CRM is down")

    async def call_partner(self) -> None:
        """May never return."""
        if self.hanging_calls:
            self.hanging_calls -= 1
            await asyncio.Event().wait()


class Watch(Hook):
    """Hands on what the bus tells, while there is an audience."""

    def __init__(self) -> None:
        self.audience = Hook()

    def accepted(self, event: Event[Any], deliveries: int) -> None:
        """Hand it on."""
        self.audience.accepted(event, deliveries)

    def attempt_started(self, event: Event[Any], delivery: RunningDelivery) -> None:
        """Hand it on."""
        self.audience.attempt_started(event, delivery)

    def attempt_ended(
        self, event: Event[Any], delivery: RunningDelivery, error: BaseException | None
    ) -> None:
        """Hand it on."""
        self.audience.attempt_ended(event, delivery, error)

    def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
        """Hand it on."""
        self.audience.delivery_ended(event, outcome)

    def log(self, line: LogLine) -> None:
        """Hand it on."""
        self.audience.log(line)
