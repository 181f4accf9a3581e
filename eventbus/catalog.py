"""The topics that an application knows: to check names against, to list, to suggest from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, final

from eventbus.errors import OptionError, UnknownTopic
from eventbus.topics import Topic, check_pattern, is_literal, matches

__all__ = ["Catalog"]

_NEAR = 0.6  # below this score a name is no suggestion: difflib's own cutoff
_SURE = 0.9  # from this score on nothing less near is worth a mention
_SEPARATORS = str.maketrans("_-:/ ", ".....")


@final
class Catalog:
    """Known topics, in the order given. Immutable.

    ``topics`` are ``Topic`` objects, or names for topics without a model; ``name`` is what the
    catalogue is called in messages. Two catalogues are put together with ``+``.

    >>> catalog = Catalog(["invoice.paid", "customer.subscription.created"])
    >>> "invoice.paid" in catalog, catalog.can_match("customer.*")
    (True, False)
    >>> catalog.suggest("subscription.created")
    ['customer.subscription.created']

    Raises ``OptionError`` if a name comes twice, ``TopicError`` for a name that is no topic and
    ``TypeError`` for what is neither a topic nor a name.
    """

    __slots__ = ("_topics", "name")

    def __init__(self, topics: Iterable[Topic[Any] | str], name: str = "catalog") -> None:
        if isinstance(topics, str | Topic):
            raise TypeError(f"topics={topics!r}: pass a list of topics, not a single one")
        self.name = name
        self._topics: dict[str, Topic[Any]] = {}
        for each in topics:
            topic = each if isinstance(each, Topic) else Topic(each)
            if topic.name in self._topics:
                raise OptionError(
                    f"{topic.name!r} is twice in the catalogue {name!r}: leave one out"
                )
            self._topics[topic.name] = topic

    def __iter__(self) -> Iterator[Topic[Any]]:
        return iter(self._topics.values())

    def __len__(self) -> int:
        return len(self._topics)

    def __contains__(self, topic: object) -> bool:
        """Whether a name is known; of a ``Topic``, whether an equal one, model included, is."""
        if isinstance(topic, Topic):
            return self._topics.get(topic.name) == topic
        return self.known(topic)

    def __getitem__(self, name: str) -> Topic[Any]:
        """The topic of this name. Raises ``UnknownTopic`` (a ``LookupError``), with suggestions."""
        topic = self.get(name)
        if topic is None:
            raise UnknownTopic(
                f"no topic {name!r} in the catalogue {self.name!r}.{self.did_you_mean(name)}"
            )
        return topic

    def __add__(self, other: Catalog) -> Catalog:
        """The topics of both, these first. Raises ``OptionError`` if both have a name."""
        if not isinstance(other, Catalog):
            return NotImplemented
        return Catalog((*self, *other), f"{self.name}+{other.name}")

    def __repr__(self) -> str:
        return f"<Catalog {self.name!r}: {len(self)} topics>"

    def get(self, name: str) -> Topic[Any] | None:
        """The topic of this name, or None."""
        return self._topics.get(name)

    def known(self, topic_name: object) -> bool:
        """Whether there is a topic of this name."""
        return isinstance(topic_name, str) and topic_name in self._topics

    def can_match(self, pattern: str) -> bool:
        """Whether the pattern matches any topic. Raises ``PatternError`` if it is no pattern."""
        pattern = check_pattern(pattern)
        if is_literal(pattern):
            return pattern in self._topics
        return any(matches(pattern, name) for name in self._topics)

    def matching(self, pattern: str) -> list[Topic[Any]]:
        """The topics that the pattern matches. Raises ``PatternError`` if it is no pattern."""
        pattern = check_pattern(pattern)
        return [topic for topic in self if matches(pattern, topic.name)]

    def suggest(self, name_or_pattern: str, n: int = 3) -> list[str]:
        """Up to ``n`` names that may have been meant, the most likely first.

        For a text with wildcards: patterns that match a topic. The text may be anything; if
        nothing is near, the list is empty.
        """
        return [candidate for _, candidate in self._ranked(name_or_pattern)[:n]]

    def did_you_mean(self, text: str) -> str:
        """A sentence to append to a message: `` Did you mean 'invoice.paid'?``; '' if unknown.

        Up to three suggestions; if some are near enough to be sure, only the nearest.
        """
        ranked = self._ranked(text)[:3]
        if not ranked:
            return ""
        best = ranked[0][0]
        near = [name for score, name in ranked if score == best or best < _SURE]
        *others, last = map(repr, near)
        return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"

    def _ranked(self, text: str) -> list[tuple[float, str]]:
        """What may have been meant, with its likeness, the most likely first."""
        likeness = _Likeness(text)
        candidates: dict[str, None] = {}
        for name in self._topics:
            candidates.update(dict.fromkeys(_patterns_like(text, name) if "*" in text else [name]))
        scores = [(likeness.to(candidate), candidate) for candidate in candidates]
        near = [scored for scored in scores if scored[0] >= _NEAR]
        return sorted(near, key=lambda scored: -scored[0])  # equals stay in the catalogue's order


def _patterns_like(text: str, name: str) -> Iterator[str]:
    """Patterns that match the name, with wildcards where the text has them.

    ``*`` is counted from the end, because what people leave out is a prefix, and for texts of too
    many tokens also from the front. Where the text ends with a wildcard, ``**`` may be meant.
    """
    wanted, tokens = text.split("."), name.split(".")
    if not _letters(text):
        yield "**"
        return
    if wanted[-1] == "**":
        yield from (_below(tokens, depth) for depth in range(1, len(tokens)))
        return
    yield _starred(tokens, [""] * (len(tokens) - len(wanted)) + wanted[-len(tokens) :])
    if len(wanted) > len(tokens):
        yield _starred(tokens, wanted)
    elif wanted[-1] == "*":
        yield _below(tokens, len(wanted) - 1)


def _below(tokens: list[str], depth: int) -> str:
    return ".".join((*tokens[:depth], "**"))


def _starred(tokens: list[str], wanted: list[str]) -> str:
    pairs = zip(tokens, wanted, strict=False)
    return ".".join("*" if want == "*" else token for token, want in pairs)


class _Likeness:
    """How likely it is that somebody who wrote one text meant another: from 0 to 1."""

    def __init__(self, text: str) -> None:
        from difflib import SequenceMatcher

        self._plain = _flatten(text)
        self._tokens = text.casefold().split(".")
        self._letters = _letters(text)
        self._whole = SequenceMatcher(None, "", self._letters, autojunk=False)
        self._last = SequenceMatcher(None, "", self._tokens[-1], autojunk=False)

    def to(self, name: str) -> float:
        if bool(_letters(name)) != bool(self._letters):
            return 0.0  # nothing but wildcards is near only to the same
        return max(self._by_form(name), self._by_letters(name), self._by_tokens(name))

    def _by_form(self, name: str) -> float:
        """The same but for case and separators, or for what stands before or after it."""
        plain = _flatten(name)
        if plain == self._plain:
            return 1.0
        if plain.endswith("." + self._plain) or self._plain.endswith("." + plain):
            return 0.95
        return 0.8 if plain.startswith(self._plain + ".") else 0.0

    def _by_letters(self, name: str) -> float:
        """A slip of the pen, perhaps with the first tokens left out as well."""
        tokens = name.split(".")
        tail = tokens[-len(self._tokens) :]
        whole = self._ratio(name)
        return whole if tail == tokens else max(whole, 0.9 * self._ratio(".".join(tail)))

    def _by_tokens(self, name: str) -> float:
        """Right but for the last token, perhaps with the first tokens left out as well."""
        *lead, last = name.casefold().split(".")
        mine = self._tokens[:-1]
        if not mine or lead[-len(mine) :] != mine:
            return 0.0
        self._last.set_seq1(last)
        return _NEAR + 0.2 * self._last.ratio()

    def _ratio(self, text: str) -> float:
        matcher = self._whole
        matcher.set_seq1(_letters(text))
        near = matcher.real_quick_ratio() >= _NEAR and matcher.quick_ratio() >= _NEAR
        return matcher.ratio() if near else 0.0


def _letters(text: str) -> str:
    """What is not a wildcard: those are alike in all texts that have them."""
    return ".".join(token for token in text.casefold().split(".") if token.strip("*"))


def _flatten(text: str) -> str:
    return text.casefold().translate(_SEPARATORS)
