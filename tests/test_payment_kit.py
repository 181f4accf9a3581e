"""Payment Kit's catalogue."""

from __future__ import annotations

import pytest

from eventbus import payment_kit
from eventbus.payment_kit import PAYMENT_KIT
from eventbus.topics import Topic

DOCUMENTED = [
    "checkout.session.completed",
    "checkout.session.nft_minted",
    "customer.subscription.created",
    "customer.subscription.started",
    "customer.subscription.renewed",
    "customer.subscription.upgraded",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "customer.subscription.trial_start",
    "customer.subscription.trial_will_end",
    "customer.subscription.trial_end",
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "invoice.paid",
    "refund.succeeded",
]
ADDED = [
    "checkout.session.created",
    "checkout.session.expired",
    "customer.subscription.renew_failed",
    "customer.subscription.past_due",
    "customer.subscription.recovered",
    "payment_intent.created",
    "invoice.created",
    "invoice.payment_failed",
    "invoice.voided",
    "refund.canceled",
    "customer.credit.insufficient",
    "customer.credit.low_balance",
    "customer.credit_grant.granted",
    "customer.credit_grant.depleted",
    "billing.discrepancy",
    "usage.report.empty",
    "exchange_rate.providers_unavailable",
    "exchange_rate.spread_exceeded",
]


def test_the_names_and_their_order() -> None:
    """First the seventeen that Payment Kit describes, in its order, then the others."""
    assert [topic.name for topic in PAYMENT_KIT] == DOCUMENTED + ADDED
    assert PAYMENT_KIT.name == "Payment Kit"


@pytest.mark.parametrize("topic", PAYMENT_KIT, ids=str)
def test_each_topic_is_a_constant(topic: Topic[object]) -> None:
    """A topic is importable under its name in capitals, has a description and no model."""
    constant = topic.name.upper().replace(".", "_")
    assert getattr(payment_kit, constant) is topic
    assert constant in payment_kit.__all__
    assert topic.description[0].isupper()
    assert topic.description.strip(" .") == topic.description
    assert topic.model is None


def test_all_is_exact() -> None:
    """``__all__`` names the constants and the catalogue, sorted, and nothing else."""
    constants = [name for name, value in vars(payment_kit).items() if isinstance(value, Topic)]
    assert payment_kit.__all__ == sorted([*constants, "PAYMENT_KIT"])
    assert len(constants) == len(PAYMENT_KIT)


def test_descriptions_are_distinct() -> None:
    """No two topics say the same."""
    assert len({topic.description for topic in PAYMENT_KIT}) == len(PAYMENT_KIT)
