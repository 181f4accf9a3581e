"""Catalogues: what they know, what can match, and what may have been meant."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from eventbus.catalog import Catalog, _Likeness, _patterns_like
from eventbus.errors import EventBusError, OptionError, PatternError, TopicError, UnknownTopic
from eventbus.payment_kit import PAYMENT_KIT
from eventbus.topics import Topic, matches

PAID = Topic("invoice.paid", dict[str, int])


class Name(str, enum.Enum):  # noqa: UP042  # a StrEnum prints as its value
    """Names that print as something else."""

    PAID = "invoice.paid"


@pytest.fixture
def catalog() -> Catalog:
    """Three topics."""
    return Catalog([PAID, "customer.created", "customer.subscription.created"], name="shop")


def test_a_catalog_holds_topics_in_order(catalog: Catalog) -> None:
    """Names become topics without a model; the order is the one given."""
    assert list(catalog) == [
        PAID,
        Topic("customer.created"),
        Topic("customer.subscription.created"),
    ]
    assert len(catalog) == 3
    assert catalog.name == "shop"
    assert repr(catalog) == "<Catalog 'shop': 3 topics>"


def test_an_empty_catalog() -> None:
    """It knows nothing and suggests nothing."""
    empty = Catalog([])
    assert (len(empty), list(empty), empty.name) == (0, [], "catalog")
    assert not empty.can_match("**")
    assert empty.suggest("invoice.paid") == empty.suggest("*") == []
    assert empty.did_you_mean("invoice.paid") == ""


def test_lookup(catalog: Catalog) -> None:
    """By name, in the three ways of a mapping."""
    assert catalog["invoice.paid"] is PAID
    assert catalog.get("invoice.paid") is PAID
    assert catalog.get("invoice.piad") is None
    with pytest.raises(UnknownTopic) as caught:
        catalog["invoice.piad"]
    assert str(caught.value) == (
        "no topic 'invoice.piad' in the catalogue 'shop'. Did you mean 'invoice.paid'?"
    )
    assert isinstance(caught.value, LookupError)


def test_membership(catalog: Catalog) -> None:
    """A name is in it if it is known; a Topic if an equal one, model included, is."""
    assert "invoice.paid" in catalog
    assert "invoice" not in catalog
    assert PAID in catalog
    assert Topic("invoice.paid") not in catalog
    assert Topic("invoice") not in catalog
    assert 7 not in catalog


@pytest.mark.parametrize(
    ("name", "known"),
    [("invoice.paid", True), (Name.PAID, True), ("invoice", False), (PAID, False), (None, False)],
)
def test_known(catalog: Catalog, name: object, known: bool) -> None:
    """Only names are known, those of a str Enum too."""
    assert catalog.known(name) is known


def test_adding_catalogs(catalog: Catalog) -> None:
    """The sum has the topics of both, in order, and leaves both as they were."""
    both = catalog + Catalog(["refund.succeeded"], name="extra")
    assert list(both) == [*catalog, Topic("refund.succeeded")]
    assert both.name == "shop+extra"
    assert len(catalog) == 3
    with pytest.raises(OptionError, match=r"'invoice\.paid' is twice in the catalogue 'shop\+x'"):
        _ = catalog + Catalog(["invoice.paid"], name="x")
    names: Any = ["refund.succeeded"]
    with pytest.raises(TypeError):
        _ = catalog + names


BAD: list[tuple[Any, type[Exception], str]] = [
    (["a", "b", "a"], OptionError, "'a' is twice in the catalogue 'shop': leave one out"),
    ([PAID, "invoice.paid"], OptionError, "'invoice.paid' is twice"),
    (["invoice.*"], TopicError, "wildcards are not allowed"),
    ([""], TopicError, "the topic is empty"),
    ([7], TypeError, "a topic is a str, not int"),
    ("invoice.paid", TypeError, "pass a list of topics, not a single one"),
]


@pytest.mark.parametrize(("topics", "error", "message"), BAD)
def test_bad_catalogs(topics: Any, error: type[Exception], message: str) -> None:
    """What is no catalogue is refused as a whole."""
    with pytest.raises(error) as caught:
        Catalog(topics, name="shop")
    assert message in str(caught.value)


PATTERNS = [
    ("invoice.paid", ["invoice.paid"]),
    ("invoice.piad", []),
    ("customer.*", ["customer.created"]),
    ("customer.**", ["customer.created", "customer.subscription.created"]),
    ("*.created", ["customer.created"]),
    ("*", []),
    ("**", ["invoice.paid", "customer.created", "customer.subscription.created"]),
]


@pytest.mark.parametrize(("pattern", "names"), PATTERNS)
def test_what_a_pattern_matches(catalog: Catalog, pattern: str, names: list[str]) -> None:
    """matching() lists the topics in order; can_match() says whether there is any."""
    assert [topic.name for topic in catalog.matching(pattern)] == names
    assert catalog.can_match(pattern) == bool(names)


def test_a_bad_pattern_is_refused(catalog: Catalog) -> None:
    """A pattern is checked before it is compared."""
    for ask in (catalog.matching, catalog.can_match):
        with pytest.raises(PatternError, match="partial wildcard"):
            ask("invoice.p*")


# ---- What may have been meant

SUGGESTIONS = [
    # Typos, and other ways to write the same.
    ("customer.subscription.creatd", "customer.subscription.created"),
    ("custmer.subscription.renewed", "customer.subscription.renewed"),
    ("refund.suceeded", "refund.succeeded"),
    ("Invoice.Paid", "invoice.paid"),
    ("invoice_paid", "invoice.paid"),
    ("invoice/paid", "invoice.paid"),
    ("payment.intent.created", "payment_intent.created"),
    # Singular and plural.
    ("invoices.paid", "invoice.paid"),
    ("customer.subscriptions.renewed", "customer.subscription.renewed"),
    ("customer.credits.insufficient", "customer.credit.insufficient"),
    # A prefix too few, or too many.
    ("subscription.created", "customer.subscription.created"),
    ("session.completed", "checkout.session.completed"),
    ("paid", "invoice.paid"),
    ("stripe.invoice.paid", "invoice.paid"),
    ("com.example.billing.invoice.paid", "invoice.paid"),
    ("subscription_created", "customer.subscription.created"),
    ("piad", "invoice.paid"),
    ("subscription.creatd", "customer.subscription.created"),
    # The end is missing.
    ("customer.subscription.trial_will", "customer.subscription.trial_will_end"),
    ("usage.report", "usage.report.empty"),
    ("billing", "billing.discrepancy"),
    # Patterns.
    ("subscription.*", "customer.subscription.*"),
    ("custmer.**", "customer.**"),
    ("customer.*", "customer.**"),
    ("checkout.*", "checkout.**"),
    ("*.piad", "*.paid"),
    ("customer.*.create", "customer.*.created"),
    ("refund.*.*", "refund.*"),
    ("customer.credit_grants.*", "customer.credit_grant.*"),
    ("usages.report.**", "usage.report.**"),
    ("*", "**"),
    ("*.*.*.*.*", "**"),
]


@pytest.mark.parametrize(("text", "meant"), SUGGESTIONS)
def test_the_first_suggestion(text: str, meant: str) -> None:
    """What people write instead of a name or a pattern, and what they mean."""
    assert PAYMENT_KIT.suggest(text)[0] == meant
    assert PAYMENT_KIT.suggest(text, n=1) == [meant]
    assert repr(meant) in PAYMENT_KIT.did_you_mean(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("customer.subscription.canceled", "customer.subscription.deleted"),
        ("subscription.canceled", "customer.subscription.deleted"),
        ("invoice.settled", "invoice.voided"),
        ("invoice", "invoice.paid"),
        ("customer.*", "customer.credit.*"),
    ],
)
def test_among_the_suggestions(text: str, meant: str) -> None:
    """A wrong last token may mean any of the right ones: the nearest three are told."""
    assert meant in PAYMENT_KIT.suggest(text)
    assert len(PAYMENT_KIT.suggest(text)) <= 3


@pytest.mark.parametrize(
    "text", ["", "zzz.qqq", "a.*.b.c", "charge.**", "\ud800", "x" * 10_000, "..."]
)
def test_nothing_is_near(text: str) -> None:
    """What resembles no topic gets no suggestion, whatever it is."""
    assert PAYMENT_KIT.suggest(text) == []
    assert PAYMENT_KIT.did_you_mean(text) == ""


@pytest.mark.parametrize(("text", "_"), SUGGESTIONS)
def test_suggestions_are_good(text: str, _: str) -> None:
    """Each suggestion matches something that is known, and none comes twice."""
    suggestions = PAYMENT_KIT.suggest(text, n=100)
    assert all(PAYMENT_KIT.can_match(each) for each in suggestions)
    assert len(set(suggestions)) == len(suggestions)


LIKENESS = [
    # The same but for case and separators, with something before or after it.
    ("A_b", "a.b", 1),
    ("b", "a.b", 0.95),
    ("x.a.b", "a.b", 0.95),
    ("a", "a.b", 0.8),
    ("a", "ab.c", 0),
    # A slip of the pen: difflib's ratio; nine tenths of it where the first tokens are left out.
    ("invoice.piad", "invoice.paid", 11 / 12),
    ("piad", "invoice.paid", 0.9 * 0.75),
    ("invoice.pai", "stripe.invoice.paid", 0.9 * 22 / 23),
    ("stripe.invoice.pad", "invoice.paid", 22 / 30),
    ("abcxy", "abcvw", 0.6),
    ("abc", "abcdefg", 0.6),
    ("abc", "abcdefgh", 0),
    # Only the last token is another: from 0.6, and up to 0.8 for its own likeness.
    ("invoice.xxxx", "invoice.paid", 2 / 3),
    ("ab.wxyz", "ab.klmn", 0.6),
    ("ab.wxyz", "q.ab.klmn", 0.6),
    ("b.wxmn", "b.klmn", 0.7),
    ("b.wxmn", "a.b.klmn", 0.7),
    ("a.b.wxyzmn", "a.b.klopmn", 2 / 3),
    ("b.wxmn", "a.c.klmn", 0),
    ("wxmn", "klmn", 0),
    # Nothing but wildcards is like the same alone.
    ("*", "**", 1),
    ("*", "a.*", 0),
    ("a", "**", 0),
]


@pytest.mark.parametrize(("text", "name", "score"), LIKENESS)
def test_likeness_is_a_number(text: str, name: str, score: float) -> None:
    """How near a name is to a text decides what is suggested, and how surely."""
    assert _Likeness(text).to(name) == pytest.approx(score)


def test_letters_that_are_frequent_count_in_long_texts() -> None:
    """difflib passes over them beyond 200 letters, unless it is told not to."""
    assert _Likeness("a" * 240).to("b" + "a" * 240) == pytest.approx(480 / 481)


@pytest.mark.parametrize(
    ("text", "name", "patterns"),
    [
        ("*", "a.b", ["**"]),
        ("**.*", "a.b", ["**"]),
        ("a.**", "a.b.c", ["a.**", "a.b.**"]),
        ("a.b.**", "a.b", ["a.**"]),
        ("a.**", "a", []),
        ("a.*", "a.b.c", ["a.b.*", "a.**"]),
        ("a.b.x.*", "a.b.c.d.e", ["a.b.c.d.*", "a.b.c.**"]),
        ("a.*.c", "x.a.b.c", ["x.a.*.c"]),
        ("*.x", "a.b.c", ["a.*.c"]),
        ("*.x.y", "a.b.c", ["*.b.c"]),
        ("x.a.*", "a.b", ["a.*", "a.b"]),
        ("a.*.*", "a.b", ["*.*", "a.*"]),
        ("a.*.b", "a.b", ["*.b", "a.*"]),
    ],
)
def test_patterns_that_may_be_meant(text: str, name: str, patterns: list[str]) -> None:
    """A text with wildcards is compared with patterns that match a name, and not with names."""
    assert list(_patterns_like(text, name)) == patterns
    assert all(matches(pattern, name) for pattern in patterns)


def test_did_you_mean_is_a_sentence() -> None:
    """One name if that is nearly sure, else up to three; it can be appended to any sentence."""
    catalog = Catalog(["a.paid", "b.paid", "c.sent", "c.seen", "c.held"])
    assert catalog.did_you_mean("A.Paid") == " Did you mean 'a.paid'?"
    assert catalog.did_you_mean("paid") == " Did you mean 'a.paid' or 'b.paid'?"
    assert catalog.did_you_mean("c.xxxx") == " Did you mean 'c.sent', 'c.seen' or 'c.held'?"
    assert Catalog(["c.sand", "c.sent", "c.salt"]).did_you_mean("c.sort") == (
        " Did you mean 'c.sent', 'c.salt' or 'c.sand'?"
    )
    assert PAYMENT_KIT.suggest("refund.*.*") == ["refund.*"]
    assert PAYMENT_KIT.did_you_mean("subscription.created") == (
        " Did you mean 'customer.subscription.created'?"
    )


def test_equal_suggestions_come_in_the_order_of_the_catalog() -> None:
    """Nothing but the catalogue decides between two that are equally near."""
    names = ["c.b.x", "a.b.x", "b.b.x"]
    assert Catalog(names).suggest("b.x") == names
    assert matches("*.b.x", names[0])


def test_errors_have_the_common_root() -> None:
    """Whoever catches EventBusError catches what a catalogue raises by itself."""
    assert issubclass(UnknownTopic, EventBusError)
    assert issubclass(OptionError, EventBusError)
