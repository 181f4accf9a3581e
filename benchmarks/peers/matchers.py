"""Matchers: a set of patterns that is asked whom a topic reaches, ours and those of peers.

Ours is the index of the bus, asked itself, with members as small as it allows. The spelling of
others is made beforehand: MQTT's ``+`` and ``+/#`` for ``*`` and ``**``, and pymitter's
nearest, ``*.*``, for ``**``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.peers._adapter import load
from eventbus._index import Index
from eventbus.topics import check_topic

if TYPE_CHECKING:
    from benchmarks.peers._adapter import Role

Match = Callable[[str], object]


class Member:
    """The least that an index takes for a subscription."""

    __slots__ = ("number",)

    plain = True

    def __init__(self, number: int) -> None:
        self.number = number


class Matcher:
    """The index of the bus, and what a matcher must be able to do."""

    name: ClassVar[str] = "eventbus"
    role: ClassVar[Role] = "ours"
    lacks: ClassVar[str] = ""
    distribution: ClassVar[str | None] = None
    largest: ClassVar[int] = 10**9
    """The most patterns that it can be asked for in reasonable time."""

    def __init__(self) -> None:
        self.index: Index[Member] = Index()
        self.members = 0

    def spell(self, text: str) -> str:
        """A pattern or topic as the library writes it."""
        return text

    def add(self, pattern: str) -> Any:
        """Returns what `remove` wants."""
        self.members += 1
        member = Member(self.members)
        self.index.add(member, (pattern,))
        return member

    def remove(self, pattern: str, added: Any) -> None:
        """Take it out again."""
        self.index.remove(added, (pattern,))

    def match(self, topic: str) -> object:
        """As a publish does: look whether it is remembered, else check, walk and remember."""
        return self.index.match(topic) or self.index.route(check_topic(topic))

    def walk(self, topic: str) -> object:
        """Match it without remembering."""
        return self.index.walk(topic)

    @property
    def hit(self) -> Match:
        """What a publish calls first, with no frame around it."""
        return self.index.remembered


class _Forgetful(Matcher):
    """A matcher that remembers nothing: a hit costs what a miss does."""

    role: ClassVar[Role] = "peer"

    def walk(self, topic: str) -> object:
        return self.match(topic)

    @property
    def hit(self) -> Match:
        return self.match


class Paho(_Forgetful):
    """paho-mqtt's trie."""

    name = distribution = "paho-mqtt"
    lacks = "a value per pattern; nothing remembered"

    def __init__(self) -> None:
        self.matcher = load("paho.mqtt.matcher").MQTTMatcher()

    def spell(self, text: str) -> str:
        return "/".join({"*": "+", "**": "+/#"}.get(each, each) for each in text.split("."))

    def add(self, pattern: str) -> Any:
        self.matcher[pattern] = pattern

    def remove(self, pattern: str, added: Any) -> None:
        del self.matcher[pattern]

    def match(self, topic: str) -> object:
        return list(self.matcher.iter_match(topic))


class WildPymitter(_Forgetful):
    """pymitter's tree, which compares each node of a level."""

    name = distribution = "pymitter"
    lacks = "no **; nothing remembered"
    largest = 100_000

    def __init__(self) -> None:
        self.emitter = load("pymitter").EventEmitter(wildcard=True)

    def spell(self, text: str) -> str:
        return text.replace("**", "*.*")

    def add(self, pattern: str) -> Any:
        self.emitter.on(pattern, print)

    def remove(self, pattern: str, added: Any) -> None:
        self.emitter.off(pattern, print)

    def match(self, topic: str) -> object:
        return self.emitter.listeners(topic)


class Exact(_Forgetful):
    """A dict by topic: no patterns, so it is a floor."""

    name = "floor: dict hit"
    role = "floor"
    lacks = "no wildcards"

    def __init__(self) -> None:
        self.topics: dict[str, object] = {}

    def add(self, pattern: str) -> Any:
        self.topics[pattern] = pattern

    def remove(self, pattern: str, added: Any) -> None:
        del self.topics[pattern]

    def match(self, topic: str) -> object:
        return self.topics.get(topic)

    @property
    def hit(self) -> Match:
        return self.topics.get


MATCHERS: tuple[type[Matcher], ...] = (Matcher, Paho, WildPymitter, Exact)
