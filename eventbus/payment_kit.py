"""Payment Kit's catalogue: each event name as an importable topic, and all of them together.

Topics have no model: their data is whatever the sender sends. Payment Kit sends more names than
these (most of Stripe's); a bus that is not strict takes them all.
"""

from __future__ import annotations

from eventbus.catalog import Catalog
from eventbus.topics import Topic

__all__ = [
    "BILLING_DISCREPANCY",
    "CHECKOUT_SESSION_COMPLETED",
    "CHECKOUT_SESSION_CREATED",
    "CHECKOUT_SESSION_EXPIRED",
    "CHECKOUT_SESSION_NFT_MINTED",
    "CUSTOMER_CREDIT_GRANT_DEPLETED",
    "CUSTOMER_CREDIT_GRANT_GRANTED",
    "CUSTOMER_CREDIT_INSUFFICIENT",
    "CUSTOMER_CREDIT_LOW_BALANCE",
    "CUSTOMER_SUBSCRIPTION_CREATED",
    "CUSTOMER_SUBSCRIPTION_DELETED",
    "CUSTOMER_SUBSCRIPTION_PAST_DUE",
    "CUSTOMER_SUBSCRIPTION_PAUSED",
    "CUSTOMER_SUBSCRIPTION_RECOVERED",
    "CUSTOMER_SUBSCRIPTION_RENEWED",
    "CUSTOMER_SUBSCRIPTION_RENEW_FAILED",
    "CUSTOMER_SUBSCRIPTION_RESUMED",
    "CUSTOMER_SUBSCRIPTION_STARTED",
    "CUSTOMER_SUBSCRIPTION_TRIAL_END",
    "CUSTOMER_SUBSCRIPTION_TRIAL_START",
    "CUSTOMER_SUBSCRIPTION_TRIAL_WILL_END",
    "CUSTOMER_SUBSCRIPTION_UPDATED",
    "CUSTOMER_SUBSCRIPTION_UPGRADED",
    "EXCHANGE_RATE_PROVIDERS_UNAVAILABLE",
    "EXCHANGE_RATE_SPREAD_EXCEEDED",
    "INVOICE_CREATED",
    "INVOICE_PAID",
    "INVOICE_PAYMENT_FAILED",
    "INVOICE_VOIDED",
    "PAYMENT_INTENT_CREATED",
    "PAYMENT_INTENT_PAYMENT_FAILED",
    "PAYMENT_INTENT_SUCCEEDED",
    "PAYMENT_KIT",
    "REFUND_CANCELED",
    "REFUND_SUCCEEDED",
    "USAGE_REPORT_EMPTY",
]

# The 17 events of Payment Kit's own description, in its order.

CHECKOUT_SESSION_COMPLETED = Topic(
    "checkout.session.completed", description="Checkout session completed"
)
CHECKOUT_SESSION_NFT_MINTED = Topic(
    "checkout.session.nft_minted", description="NFT minting completed"
)
CUSTOMER_SUBSCRIPTION_CREATED = Topic(
    "customer.subscription.created", description="Customer subscription created"
)
CUSTOMER_SUBSCRIPTION_STARTED = Topic(
    "customer.subscription.started", description="Subscription initiated"
)
CUSTOMER_SUBSCRIPTION_RENEWED = Topic(
    "customer.subscription.renewed", description="Customer subscription renewed"
)
CUSTOMER_SUBSCRIPTION_UPGRADED = Topic(
    "customer.subscription.upgraded", description="Customer subscription upgraded"
)
CUSTOMER_SUBSCRIPTION_UPDATED = Topic(
    "customer.subscription.updated", description="Customer subscription updated"
)
CUSTOMER_SUBSCRIPTION_DELETED = Topic(
    "customer.subscription.deleted", description="Subscription canceled"
)
CUSTOMER_SUBSCRIPTION_PAUSED = Topic(
    "customer.subscription.paused", description="Customer subscription paused"
)
CUSTOMER_SUBSCRIPTION_RESUMED = Topic(
    "customer.subscription.resumed", description="Subscription resumed"
)
CUSTOMER_SUBSCRIPTION_TRIAL_START = Topic(
    "customer.subscription.trial_start", description="Trial period started"
)
CUSTOMER_SUBSCRIPTION_TRIAL_WILL_END = Topic(
    "customer.subscription.trial_will_end", description="Trial period will end soon"
)
CUSTOMER_SUBSCRIPTION_TRIAL_END = Topic(
    "customer.subscription.trial_end", description="Trial period ended"
)
PAYMENT_INTENT_SUCCEEDED = Topic("payment_intent.succeeded", description="Payment succeeded")
PAYMENT_INTENT_PAYMENT_FAILED = Topic("payment_intent.payment_failed", description="Payment failed")
INVOICE_PAID = Topic("invoice.paid", description="Invoice payment completed")
REFUND_SUCCEEDED = Topic("refund.succeeded", description="Refund succeeded")

# What Payment Kit adds to Stripe's names, or its samples and first-party code use.

CHECKOUT_SESSION_CREATED = Topic("checkout.session.created", description="Checkout session created")
CHECKOUT_SESSION_EXPIRED = Topic("checkout.session.expired", description="Checkout session expired")
CUSTOMER_SUBSCRIPTION_RENEW_FAILED = Topic(
    "customer.subscription.renew_failed", description="Payment for a subscription renewal failed"
)
CUSTOMER_SUBSCRIPTION_PAST_DUE = Topic(
    "customer.subscription.past_due", description="Subscription payment is past due"
)
CUSTOMER_SUBSCRIPTION_RECOVERED = Topic(
    "customer.subscription.recovered", description="Canceled or past due subscription active again"
)
PAYMENT_INTENT_CREATED = Topic("payment_intent.created", description="Payment intent created")
INVOICE_CREATED = Topic("invoice.created", description="Invoice created")
INVOICE_PAYMENT_FAILED = Topic("invoice.payment_failed", description="Invoice payment failed")
INVOICE_VOIDED = Topic("invoice.voided", description="Invoice voided")
REFUND_CANCELED = Topic("refund.canceled", description="Refund canceled")
CUSTOMER_CREDIT_INSUFFICIENT = Topic(
    "customer.credit.insufficient", description="Credit balance cannot cover the usage"
)
CUSTOMER_CREDIT_LOW_BALANCE = Topic(
    "customer.credit.low_balance", description="Credit balance below the threshold"
)
CUSTOMER_CREDIT_GRANT_GRANTED = Topic(
    "customer.credit_grant.granted", description="Credits granted"
)
CUSTOMER_CREDIT_GRANT_DEPLETED = Topic(
    "customer.credit_grant.depleted", description="Credit grant used up"
)
BILLING_DISCREPANCY = Topic("billing.discrepancy", description="Discrepancy found in billing")
USAGE_REPORT_EMPTY = Topic("usage.report.empty", description="No usage reported for a metered item")
EXCHANGE_RATE_PROVIDERS_UNAVAILABLE = Topic(
    "exchange_rate.providers_unavailable", description="No exchange rate provider available"
)
EXCHANGE_RATE_SPREAD_EXCEEDED = Topic(
    "exchange_rate.spread_exceeded", description="Exchange rate providers disagree too much"
)

PAYMENT_KIT = Catalog(
    [
        CHECKOUT_SESSION_COMPLETED,
        CHECKOUT_SESSION_NFT_MINTED,
        CUSTOMER_SUBSCRIPTION_CREATED,
        CUSTOMER_SUBSCRIPTION_STARTED,
        CUSTOMER_SUBSCRIPTION_RENEWED,
        CUSTOMER_SUBSCRIPTION_UPGRADED,
        CUSTOMER_SUBSCRIPTION_UPDATED,
        CUSTOMER_SUBSCRIPTION_DELETED,
        CUSTOMER_SUBSCRIPTION_PAUSED,
        CUSTOMER_SUBSCRIPTION_RESUMED,
        CUSTOMER_SUBSCRIPTION_TRIAL_START,
        CUSTOMER_SUBSCRIPTION_TRIAL_WILL_END,
        CUSTOMER_SUBSCRIPTION_TRIAL_END,
        PAYMENT_INTENT_SUCCEEDED,
        PAYMENT_INTENT_PAYMENT_FAILED,
        INVOICE_PAID,
        REFUND_SUCCEEDED,
        CHECKOUT_SESSION_CREATED,
        CHECKOUT_SESSION_EXPIRED,
        CUSTOMER_SUBSCRIPTION_RENEW_FAILED,
        CUSTOMER_SUBSCRIPTION_PAST_DUE,
        CUSTOMER_SUBSCRIPTION_RECOVERED,
        PAYMENT_INTENT_CREATED,
        INVOICE_CREATED,
        INVOICE_PAYMENT_FAILED,
        INVOICE_VOIDED,
        REFUND_CANCELED,
        CUSTOMER_CREDIT_INSUFFICIENT,
        CUSTOMER_CREDIT_LOW_BALANCE,
        CUSTOMER_CREDIT_GRANT_GRANTED,
        CUSTOMER_CREDIT_GRANT_DEPLETED,
        BILLING_DISCREPANCY,
        USAGE_REPORT_EMPTY,
        EXCHANGE_RATE_PROVIDERS_UNAVAILABLE,
        EXCHANGE_RATE_SPREAD_EXCEEDED,
    ],
    name="Payment Kit",
)
"""All of the topics above, in that order."""
