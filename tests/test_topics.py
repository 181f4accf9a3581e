"""The grammar of topics and patterns, what matches what, and typed topics."""

from __future__ import annotations

import copy
import dataclasses
import enum
import itertools
import pickle
import re
import subprocess
import sys
import unicodedata
from typing import Annotated, Any, assert_type

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from eventbus.errors import PatternError, PayloadError, TopicError
from eventbus.topics import Topic, check_pattern, check_topic, is_literal, matches


class Paid(BaseModel):
    """A payload of the tests."""

    amount: int


class Name(enum.Enum):
    """No string at all."""

    PAID = "invoice.paid"


class StrName(enum.StrEnum):
    """A string by inheritance."""

    PAID = "invoice.paid"


class MixedName(str, enum.Enum):  # noqa: UP042  # a StrEnum prints as its value
    """A string that prints as something else."""

    PAID = "invoice.paid"


class ShoutingName(str):
    """A string that lies about its text."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


# ---- What is a topic, what is a pattern

TOPICS = [
    "ping",
    "invoice.paid",
    "customer.subscription.trial_will_end",
    "did:abt:z1.user/42@home",
    "a.$b",
    "a-b.c+d=e#f",
    "caf\u00e9.\u2603.\U0001f600",
    "zero\u200bwidth.bom\ufeff",
    "x" * 255,
    "\u00e9" * 127,
    "\U0001f600" * 63,
    ".".join("a" * 32),
]
PATTERNS = ["*", "**", "*.*", "*.**", "a.*", "*.a", "a.**", "a.*.b.**", ".".join("*" * 32)]


@pytest.mark.parametrize("topic", TOPICS)
def test_topics_are_topics_and_patterns(topic: str) -> None:
    """A good topic comes back as it is, and is a pattern too."""
    assert check_topic(topic) is topic
    assert check_pattern(topic) is topic
    assert is_literal(topic)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_not_topics(pattern: str) -> None:
    """A good pattern with wildcards comes back as it is, and is no topic."""
    assert check_pattern(pattern) is pattern
    assert not is_literal(pattern)
    with pytest.raises(TopicError, match="wildcards are not allowed in a published topic"):
        check_topic(pattern)


BAD_IN_BOTH = [
    ("", "is empty: write at least one token"),
    (".", "empty token at position 0 (character 0): write one '.' between two tokens"),
    (".a", "empty token at position 0 (character 0)"),
    ("a.", "empty token at position 1 (character 2)"),
    ("ab..c", "empty token at position 1 (character 3)"),
    ("a b", "character ' ' is not allowed (white space) at position 0 (character 1)"),
    ("ab.c\td", r"character '\t' is not allowed (white space) at position 1 (character 4)"),
    ("a\u00a0", r"character '\xa0' is not allowed (white space) at position 0 (character 1)"),
    ("a.\u2028", r"character '\u2028' is not allowed (white space) at position 1 (character 2)"),
    ("a.\x00b", r"character '\x00' is not allowed (a control character) at position 1"),
    (
        "a.b\x7f",
        r"character '\x7f' is not allowed (a control character) at position 1 (character 3)",
    ),
    ("a.\x9fb", r"character '\x9f' is not allowed (a control character) at position 1"),
    ("a.\ud83d", r"character '\ud83d' is not allowed (a surrogate) at position 1 (character 2)"),
    ("\udfffa", r"character '\udfff' is not allowed (a surrogate) at position 0 (character 0)"),
    ("a b", "leave it out or encode it"),
    ("a.>", "'>' is reserved; "),
    ("a.b>", "at position 1 (character 3)"),
    ("$SYS.x", "'$', as at position 0 (character 0), is reserved for the bus: begin with another"),
    ("$", "is reserved for the bus"),
    ("x" * 256, "256 bytes of UTF-8 are too long: shorten it to 255 at most"),
    ("\u00e9" * 128, "256 bytes of UTF-8 are too long"),
    ("\U0001f600" * 64, "256 bytes of UTF-8 are too long"),
    ("\ud800" * 86, "258 bytes of UTF-8 are too long"),
    (
        ".".join("a" * 33),
        "33 tokens are too deep: use 32 at most (the first too many is at position 32)",
    ),
]
BAD_TOPICS = [
    *BAD_IN_BOTH,
    ("a.*", "but '*' is at position 1 (character 2): publish on one literal name"),
    ("ab.**", "but '**' is at position 1 (character 3)"),
    ("ab*.c", "but 'ab*' is at position 0 (character 0)"),
    ("a.>", "'>' is reserved; leave it out: found at position 1 (character 2)"),
]
BAD_PATTERNS = [
    *BAD_IN_BOTH,
    ("", "or '**' for every topic"),
    ("a.**.b", "'**' is allowed only as the last token, not at position 1 (character 2)"),
    ("a.**.b", "write '*' for each single token"),
    ("**.b", "'**' is allowed only as the last token, not at position 0 (character 0)"),
    ("**.**", "'**' is allowed only as the last token, not at position 0 (character 0)"),
    ("ab.sub*", "(no partial wildcard 'sub*') at position 1 (character 3): write '*' alone"),
    ("ab.*sub", "'*' must be a whole token (no partial wildcard '*sub')"),
    ("***", "'*' must be a whole token (no partial wildcard '***')"),
    ("a.>", "'>' is reserved; use '**' for the rest of a topic: found at position 1 (character 2)"),
    ("*." * 31 + "*.**", "33 tokens are too deep"),
    ("$a.*", "is reserved for the bus"),
    ("$a.**", "is reserved for the bus"),
    ("$a.b.**", "is reserved for the bus"),
    ("ab*.c", "'*' must be a whole token (no partial wildcard 'ab*') at position 0"),
]


@pytest.mark.parametrize(("text", "message"), BAD_TOPICS)
def test_bad_topics(text: str, message: str) -> None:
    """A bad topic is refused with its position and the cure."""
    with pytest.raises(TopicError, match=r"^bad topic ") as caught:
        check_topic(text)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("text", "message"), BAD_PATTERNS)
def test_bad_patterns(text: str, message: str) -> None:
    """A bad pattern is refused with its position and the cure."""
    with pytest.raises(PatternError, match=r"^bad pattern ") as caught:
        check_pattern(text)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("check", [check_topic, check_pattern])
def test_a_message_is_short(check: Any) -> None:
    """However long the text is, the message repeats only its beginning."""
    with pytest.raises(ValueError, match="1000000 bytes") as caught:
        check("\n" * 1_000_000)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", [["a", "b"], ("a", "b"), {"a"}, frozenset("a")])
def test_several_at_once(value: object) -> None:
    """What holds several strings is a TypeError that says how to pass them."""
    with pytest.raises(TypeError, match=r"^a pattern is .*: pass each pattern as an argument of"):
        check_pattern(value)


@pytest.mark.parametrize("value", [None, b"invoice.paid", 7, {"a": "b"}, Name.PAID, object])
def test_what_is_no_string(value: object) -> None:
    """What is no string is a TypeError that says what to pass."""
    with pytest.raises(TypeError, match=r"^a topic is a str, not \w+: pass a str such as"):
        check_topic(value)
    with pytest.raises(TypeError, match=r"^a pattern is a str, not \w+: pass a str such as"):
        check_pattern(value)


def test_a_topic_object_is_no_string() -> None:
    """A Topic where its name is wanted is refused, and the message says the name."""
    with pytest.raises(TypeError, match=r"^a pattern is a str, not Topic: pass 'invoice\.paid'$"):
        check_pattern(Topic("invoice.paid"))


@pytest.mark.parametrize(
    "name",
    [StrName.PAID, MixedName.PAID, ShoutingName("invoice.paid")],
    ids=["StrEnum", "Enum", "str"],
)
def test_strings_by_inheritance_become_plain(name: str) -> None:
    """A str subclass is turned into the plain text that it holds."""
    for plain in (check_topic(name), check_pattern(name), Topic(name).name):
        assert type(plain) is str
        assert plain == "invoice.paid"


def is_token_character(character: str) -> bool:
    """The grammar's own words, without a regular expression."""
    category = unicodedata.category(character)
    return not (character in ".*>" or character.isspace() or category in ("Cc", "Cs"))


def is_topic(text: str) -> bool:
    """The grammar of a topic, without a regular expression."""
    tokens = text.split(".")
    return (
        all(token and all(map(is_token_character, token)) for token in tokens)
        and not text.startswith("$")
        and len(tokens) <= 32
        and len(text.encode()) <= 255
    )


def is_pattern(text: str) -> bool:
    """The grammar of a pattern: with a topic's tokens for its wildcards, it is a topic."""
    tokens = text.split(".")
    if tokens[-1] == "**":
        tokens[-1] = "xx"
    return is_topic(".".join("x" if token == "*" else token for token in tokens))


def accepts(check: Any, text: str) -> bool:
    """Whether a check lets a text pass."""
    try:
        return bool(check(text) == text)
    except ValueError:
        return False


def test_every_code_point() -> None:
    """Of all code points, exactly the ones that the grammar names are refused in a token."""
    refused = {n for n in range(0x110000) if not accepts(check_topic, f"a{chr(n)}b")}
    expected = {n for n in range(0x110000) if n != ord(".") and not is_token_character(chr(n))}
    assert refused == expected


texts = st.one_of(
    st.text(st.sampled_from("ab$.*> \n\x80\u00e9\ud800"), max_size=12),
    st.text(st.characters(), max_size=12),
    st.lists(st.sampled_from(["a", "bc", "*", "**", "$", "\u00e9", ""]), max_size=40).map(".".join),
    st.integers(200, 260).map(lambda size: "a" * size),
    st.integers(100, 130).map(lambda size: "\u00e9" * size),
)


@given(texts)
def test_checks_agree_with_the_grammar(text: str) -> None:
    """Any text at all passes as a topic or a pattern exactly if the grammar says so."""
    assert accepts(check_topic, text) == is_topic(text)
    assert accepts(check_pattern, text) == is_pattern(text)


@given(
    st.lists(st.sampled_from(["a", "bc", "\u00e9"]), min_size=1, max_size=8).map(".".join),
    st.data(),
    st.sampled_from(" \t\x00>*\ud800"),
)
def test_the_position_is_right(topic: str, data: st.DataObject, bad: str) -> None:
    """Put one bad character anywhere: the message names its token and its place, or its token's."""
    place = data.draw(st.integers(0, len(topic)))
    text = topic[:place] + bad + topic[place:]
    with pytest.raises(TopicError) as caught:
        check_topic(text)
    position = text[:place].count(".")
    offset = text[:place].rfind(".") + 1 if bad == "*" else place
    assert f"at position {position} (character {offset})" in str(caught.value)


# ---- What matches what

MATCHES = [
    ("invoice.paid", ["invoice.paid"], ["Invoice.paid", "invoice.paid.late", "invoice"]),
    (
        "customer.subscription.*",
        ["customer.subscription.created"],
        ["customer.subscription", "customer.subscription.trial.ended"],
    ),
    ("customer.*.created", ["customer.card.created"], ["customer.created", "customer.a.b.created"]),
    (
        "customer.**",
        ["customer.created", "customer.subscription.deleted"],
        ["customer", "customer_cash_balance_transaction.created"],
    ),
    ("*", ["ping"], ["invoice.paid"]),
    ("*.*", ["payment_intent.succeeded"], ["checkout.session.nft_minted", "ping"]),
    ("*.**", ["invoice.paid", "a.b.c.d"], ["ping"]),
    ("**", ["ping", "a.b.c.d"], []),
    ("caf\u00e9", ["caf\u00e9"], ["cafe\u0301"]),
]


@pytest.mark.parametrize(("pattern", "yes", "no"), MATCHES)
def test_matches(pattern: str, yes: list[str], no: list[str]) -> None:
    """The table of the documentation."""
    assert [matches(pattern, topic) for topic in yes] == [True] * len(yes)
    assert [matches(pattern, topic) for topic in no] == [False] * len(no)


def test_matches_agrees_with_a_regular_expression() -> None:
    """All patterns and topics up to four tokens: '*' is [^.]+ and '**' is all of the rest."""
    dotted = [
        ".".join(tokens)
        for n in range(1, 5)
        for tokens in itertools.product(("a", "b", "*"), repeat=n)
    ]
    topics = [text for text in dotted if is_literal(text)]
    patterns = dotted + ["**"] + [f"{text}.**" for text in dotted if text.count(".") < 3]
    for pattern in patterns:
        parts = {"*": r"[^.]+", "**": r".+"}
        regex = re.compile(r"\.".join(parts.get(token, token) for token in pattern.split(".")))
        for topic in topics:
            assert matches(pattern, topic) == bool(regex.fullmatch(topic)), (pattern, topic)


# ---- Topic


def test_a_topic_has_name_model_and_description() -> None:
    """A Topic keeps what it was made of."""
    topic = Topic("invoice.paid", Paid, description="Paid in full")
    assert (topic.name, topic.model, topic.description) == ("invoice.paid", Paid, "Paid in full")
    plain = Topic("invoice.paid")
    assert (plain.name, plain.model, plain.description) == ("invoice.paid", None, "")


def test_types_of_topics() -> None:
    """A type checker knows the payload of a topic; this runs, and the type checkers read it."""
    assert_type(Topic("invoice.paid"), Topic[Any])
    typed = assert_type(Topic("invoice.paid", Paid), Topic[Paid])
    assert_type(typed.validate({"amount": 1}), Paid)
    assert_type(Topic("invoice.paid", dict[str, int], description="x"), Topic[dict[str, int]])
    assert_type(Topic("invoice.paid", Annotated[int, Field(gt=0)]), Topic[Any])
    assert_type(Topic[int]("invoice.paid", int), Topic[int])


@pytest.mark.parametrize("name", ["a.*", "**", "", "a..b", "$a"])
def test_a_topic_is_no_pattern(name: str) -> None:
    """A Topic's name is a topic: no wildcard, nothing ill formed."""
    with pytest.raises(TopicError):
        Topic(name)


def test_a_topic_name_is_a_string() -> None:
    """A Topic's name that is no string is a TypeError."""
    with pytest.raises(TypeError, match="a topic is a str, not int"):
        Topic(7)  # type: ignore[call-overload]  # that is what is tested


@pytest.mark.parametrize("attribute", ["name", "model", "description", "other"])
def test_a_topic_is_frozen(attribute: str) -> None:
    """No attribute of a Topic can be set, deleted or added."""
    topic = Topic("invoice.paid", Paid)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(topic, attribute, "x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(topic, attribute)
    assert not hasattr(topic, "__dict__")


def test_topics_are_equal_by_name_and_model() -> None:
    """Equal are topics of the same name and model; the description is only for people."""
    topic = Topic("invoice.paid", Paid)
    assert topic == Topic("invoice.paid", Paid, description="x")
    assert topic != Topic("invoice.paid")
    assert topic != Topic("invoice.sent", Paid)
    assert topic != "invoice.paid"
    assert len({topic, Topic("invoice.paid", Paid), Topic("invoice.paid")}) == 2


def test_a_topic_with_an_unhashable_model_is_hashable() -> None:
    """A model's annotation may hold a list; the topic can be a key all the same."""
    assert {Topic("a", Annotated[int, []]): 1} == {Topic("a", Annotated[int, []]): 1}


def test_a_topic_prints_well() -> None:
    """str() is the name; repr() is how the topic was written."""
    topic = Topic("invoice.paid", Paid, description="x")
    assert str(topic) == "invoice.paid"
    assert repr(topic) == "Topic('invoice.paid', Paid)"
    assert repr(Topic("a", dict[str, int])) == "Topic('a', dict[str, int])"
    assert repr(Topic("a")) == "Topic('a')"


def test_a_topic_is_no_str() -> None:
    """Where a plain string is meant a Topic does not slip in."""
    assert not isinstance(Topic("a"), str)


def pickled(value: Any) -> Any:
    """A value after a journey in a pickle."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301  # the test's own pickle


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_a_topic_can_be_copied_and_pickled(again: Any) -> None:
    """A copy has all attributes and validates, also when the original has validated before."""
    topic = Topic("invoice.paid", Paid, description="x")
    topic.validate({"amount": 1})
    twin = again(topic)
    assert twin == topic
    assert twin.description == "x"
    assert twin.validate({"amount": "2"}) == Paid(amount=2)


@pytest.mark.parametrize("model", [None, Any, object])
def test_a_topic_without_model_takes_anything(model: Any) -> None:
    """Without a model, or with one that says nothing, data is handed back as it is."""
    data = object()
    topic = Topic("invoice.paid", model)
    assert topic.model is None
    assert topic.validate(data) is data


def test_validate_of_a_topic() -> None:
    """Data becomes the model, an instance of it stays itself, and what does not fit is named."""
    topic = Topic("invoice.paid", Paid)
    paid = Paid(amount=1)
    assert topic.validate(paid) is paid
    assert topic.validate({"amount": "2"}) == Paid(amount=2)
    with pytest.raises(PayloadError) as caught:
        topic.validate({})
    assert (
        str(caught.value)
        == "data for topic 'invoice.paid' does not fit Paid: amount: Field required"
    )


def test_validate_leaves_an_instance_unchecked() -> None:
    """An instance of the model is not validated again: it costs nothing and stays the same."""
    changed = Paid.model_construct(amount="wrong")
    assert Topic("invoice.paid", Paid).validate(changed) is changed


def test_topics_do_not_load_pydantic() -> None:
    """pydantic is imported by the first check, not by a topic that has a model."""
    program = (
        "import sys; from eventbus.topics import Topic; t = Topic('a', dict[str, int]);"
        "assert 'pydantic' not in sys.modules; t.validate({'b': '1'});"
        "assert 'pydantic' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
