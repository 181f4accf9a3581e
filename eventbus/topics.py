"""Topics and patterns: the grammar, what matches what, and topics that know their payload.

::

    topic   = token *("." token)
    pattern = "**" / ptok *("." ptok) [".**"]        ptok = "*" / token
    token   = one or more of any code point except  .  *  >  white space  controls  surrogates
    limits  : 255 UTF-8 bytes, 32 tokens; a first token beginning with "$" is reserved for the bus

``*`` is exactly one token. ``**`` is one or more, and stands only at the end, so ``customer.**``
does not match ``customer``. Nothing is trimmed, folded or normalised: tokens are equal when their
code points are.

The rules are one to one with NATS subjects, where ``**`` is written ``>``; that is why ``>`` and
white space are refused. A ``**`` in the middle is refused because each one multiplies the cost of
a match. A wildcard for a part of a token is refused rather than taken literally, and so is a
wildcard in a topic: both would silently never match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar, cast, final, overload

from eventbus._payload import Payload, model_name
from eventbus.errors import PatternError, TopicError

__all__ = ["Topic", "check_pattern", "check_topic", "is_literal", "matches"]

T = TypeVar("T")

MAX_BYTES = 255
"""The longest topic or pattern, in bytes of UTF-8: an AMQP short string holds as much."""
MAX_TOKENS = 32
"""The deepest topic or pattern; ``**`` counts as one token."""

_SHORT = 63  # so few characters are within both limits, whatever they are
_QUOTED = 80  # how much of a bad topic an error message repeats
_NEVER = r"\s\x00-\x1f\x7f-\x9f\ud800-\udfff>"
_TOKEN = rf"[^.*{_NEVER}]+"
_PTOK = rf"(?:\*|{_TOKEN})"
_is_topic = re.compile(rf"(?!\$){_TOKEN}(?:\.{_TOKEN})*").fullmatch
_is_pattern = re.compile(rf"(?!\$)(?:\*\*|{_PTOK}(?:\.{_PTOK})*(?:\.\*\*)?)").fullmatch


def check_topic(topic: object) -> str:
    """The topic as a plain ``str``; a member of a ``str`` Enum becomes its value.

    Raises ``TopicError`` if it is no topic, naming the position and the cure, and ``TypeError``
    if it is no string. Positions count from 0, those of tokens as those of characters.
    """
    text = topic if type(topic) is str else _plain(topic, "topic")
    if (len(text) > _SHORT and not _fits(text)) or not _is_topic(text):
        _refuse(TopicError, "topic", text)
    return text


def check_pattern(pattern: object) -> str:
    """The pattern as a plain ``str``; a member of a ``str`` Enum becomes its value.

    Raises ``PatternError`` if it is no pattern, naming the position and the cure, and
    ``TypeError`` if it is no string. Positions count from 0, as in ``check_topic``.
    """
    text = pattern if type(pattern) is str else _plain(pattern, "pattern")
    if (len(text) > _SHORT and not _fits(text)) or not _is_pattern(text):
        _refuse(PatternError, "pattern", text)
    return text


def is_literal(pattern: str) -> bool:
    """Whether the pattern is a topic: it has no wildcard and matches only itself."""
    return "*" not in pattern


def matches(pattern: str, topic: str) -> bool:
    """Whether a pattern matches a topic. Both are well formed.

    This is the specification. The bus finds subscriptions with an index that is tested to agree.

    >>> matches("customer.*", "customer.created"), matches("customer.*", "customer.card.created")
    (True, False)
    >>> matches("customer.**", "customer.card.created"), matches("customer.**", "customer")
    (True, False)
    """
    wanted, tokens = pattern.split("."), topic.split(".")
    if wanted[-1] == "**":
        del wanted[-1]
        if len(tokens) < len(wanted) + 1:
            return False
    elif len(tokens) != len(wanted):
        return False
    return all(want in ("*", token) for want, token in zip(wanted, tokens, strict=False))


@final
@dataclass(frozen=True, init=False, repr=False, eq=False)
class Topic(Generic[T]):
    """A topic that code can import: its name, and what its events carry.

    >>> INVOICE_PAID = Topic("invoice.paid", dict[str, int], description="Invoice paid in full")
    >>> INVOICE_PAID.validate({"amount": "100"})
    {'amount': 100}

    Immutable, hashable, picklable; equal to a topic of the same name and model. It is no ``str``:
    ``str(topic)`` is the name.

    Raises ``TopicError`` if the name is no topic, wildcards included, and ``TypeError`` if it is
    no string.
    """

    # Not slots=True, which makes the class anew: Topic[Model]("invoice.paid") fails with that.
    __slots__ = ("_payload", "description", "model", "name")

    name: str
    """The literal dotted name."""
    model: Any
    """What the data of its events fits: a class, or whatever else a pydantic ``TypeAdapter``
    takes. None if that is left open."""
    description: str
    """One sentence for people: when an event is published on it."""
    _payload: Payload | None

    @overload
    def __init__(
        self: Topic[Any], name: str, model: None = None, *, description: str = ""
    ) -> None: ...
    @overload
    def __init__(self, name: str, model: type[T], *, description: str = "") -> None: ...
    @overload
    def __init__(self: Topic[Any], name: str, model: Any, *, description: str = "") -> None: ...
    def __init__(self, name: str, model: Any = None, *, description: str = "") -> None:
        payload = Payload.of(model)
        object.__setattr__(self, "name", check_topic(name))
        object.__setattr__(self, "model", None if payload is None else model)
        object.__setattr__(self, "description", description)
        object.__setattr__(self, "_payload", payload)

    def validate(self, data: object) -> T:
        """The data as the model; as it is, if there is no model or it is an instance already.

        Raises ``PayloadError`` if the data does not fit: see ``Payload.validate``.
        """
        payload = self._payload
        if payload is None or type(data) is self.model:
            return cast("T", data)
        return cast("T", payload.validate(data, f"topic {self.name!r}"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Topic):
            return NotImplemented
        return bool(self.name == other.name and self.model == other.model)

    def __hash__(self) -> int:
        return hash(self.name)  # a model need not be hashable

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        model = "" if self.model is None else f", {model_name(self.model)}"
        return f"Topic({self.name!r}{model})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Topic, description=self.description), (self.name, self.model)


def _plain(value: object, noun: str) -> str:
    if isinstance(value, str):
        return str.__str__(value)  # a subclass may print as something else, and is a slow key
    if isinstance(value, Topic):
        cure = f"pass {value.name!r}"
    elif isinstance(value, list | tuple | set | frozenset):
        cure = f"pass each {noun} as an argument of its own"
    else:
        cure = "pass a str such as 'invoice.paid'"
    raise TypeError(f"a {noun} is a str, not {type(value).__qualname__}: {cure}")


def _fits(text: str) -> bool:
    return (
        len(text) <= MAX_BYTES
        and (text.isascii() or _size(text) <= MAX_BYTES)
        and text.count(".") < MAX_TOKENS
    )


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _refuse(error: type[TopicError | PatternError], noun: str, text: str) -> NoReturn:
    """Say what is wrong with a text that is no topic or no pattern: the first thing that is."""
    quoted = repr(text) if len(text) <= _QUOTED else f"{text[:_QUOTED]!r}…"
    raise error(f"bad {noun} {quoted}: {_complaint(text, noun)}")


def _complaint(text: str, noun: str) -> str:
    if not text:
        every = ", or '**' for every topic" if noun == "pattern" else ""
        return f"the {noun} is empty: write at least one token{every}"
    if _size(text) > MAX_BYTES:
        return f"{_size(text)} bytes of UTF-8 are too long: shorten it to {MAX_BYTES} at most"
    tokens = text.split(".")
    if len(tokens) > MAX_TOKENS:
        return (
            f"{len(tokens)} tokens are too deep: use {MAX_TOKENS} at most "
            f"(the first too many is at position {MAX_TOKENS})"
        )
    start = 0
    for position, token in enumerate(tokens):
        where = f"at position {position} (character {start})"
        if not token:
            return f"empty token {where}: write one '.' between two tokens, none before or after"
        if found := re.search(f"[{_NEVER}]", token):
            at = f"at position {position} (character {start + found.start()})"
            return _character_complaint(found[0], at, noun)
        is_last = position == len(tokens) - 1
        if "*" in token and (complaint := _wildcard_complaint(token, where, is_last, noun)):
            return complaint
        start += len(token) + 1
    return (
        "a first token beginning with '$', as at position 0 (character 0), is reserved for the "
        "bus: begin with another character"
    )


def _wildcard_complaint(token: str, where: str, is_last: bool, noun: str) -> str:
    if noun == "topic":
        return (
            f"wildcards are not allowed in a published topic, but {token!r} is {where}: "
            "publish on one literal name; patterns are for subscribing"
        )
    if token == "**" and not is_last:
        return (
            f"'**' is allowed only as the last token, not {where}: write '*' for each single token"
        )
    if token not in ("*", "**"):
        return (
            f"'*' must be a whole token (no partial wildcard {token!r}) {where}: "
            "write '*' alone for any one token"
        )
    return ""


def _character_complaint(character: str, where: str, noun: str) -> str:
    if character == ">":
        cure = "use '**' for the rest of a topic" if noun == "pattern" else "leave it out"
        return f"'>' is reserved; {cure}: found {where}"
    if character.isspace():
        kind = "white space"
    elif "\ud800" <= character <= "\udfff":
        kind = "a surrogate"
    else:
        kind = "a control character"
    return f"character {character!r} is not allowed ({kind}) {where}: leave it out or encode it"
