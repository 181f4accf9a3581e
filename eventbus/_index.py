"""Which subscriptions a topic reaches: found by walking a trie, then remembered.

Where a pattern lives:

- a literal one in a dict, keyed by the topic itself;
- ``**`` beside the trie: it matches everything, so nothing needs to look for it;
- any other in a trie of tokens, in a place of its own.

Most patterns have one subscriber, so what is held for a pattern is that subscriber itself; a
``Slot`` from the second one on.

What is remembered of the topics that were met of late:

- *walks*: topic → the places in the trie that match it. Subscribing and unsubscribing change what
  is in a place, not which places match, so a walk stays good until a pattern that is new, with
  wildcards, and has the topic's first token or ``*`` as its own first token. The trie knows when
  that last happened, and a walk knows when it was made. A place that its pattern has left is
  empty; in a remembered walk it adds nothing. The same pattern again has a new place.
- *routes*: topic → the subscriptions themselves, as one tuple in order of subscription. Any
  subscribe or unsubscribe forgets them all, so a route that is remembered is always right (a hit
  compares nothing), and no subscription is kept alive by it after it left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, final

from eventbus._generations import Generations, Route, Walk
from eventbus._trie import Place, Trie

__all__ = ["Index", "Member", "Route"]

_FEW = 32  # members that a slot keeps in a tuple, copied at each change, rather than in a dict

_is_plain = attrgetter("plain")
_number = attrgetter("number")


class Member(Protocol):
    """What the index wants to know of a subscription."""

    @property
    def number(self) -> int:
        """Its place in the order of subscription; no other subscription has the same."""
        ...

    @property
    def plain(self) -> bool:
        """Whether it can be served by the shortest way; never changes."""
        ...


S = TypeVar("S", bound=Member)


@final
class Index(Generic[S]):
    """Subscriptions by pattern. Agrees with ``topics.matches`` for every topic.

    It takes only well-formed patterns and topics, and checks neither. A subscription is added
    once, with all its patterns, each of them once; subscriptions are added in the order of their
    numbers. Used by one thread at a time.
    """

    __slots__ = ("_exact", "_memory", "_special", "_trie", "_wild", "_young", "remembered")

    def __init__(self) -> None:
        self._exact: dict[str, Held[S]] = {}
        self._wild: dict[str, Place[Held[S]]] = {}  # every pattern with a wildcard, '**' too
        self._trie: Trie[Held[S]] = Trie()
        self._special = 0  # subscriptions that are not plain
        self._memory: Generations[S] = Generations()
        self._young = self._memory.routes
        self.remembered: Callable[[str], Route[S] | None] = self._young.get
        """The remembered route of a topic if it was used of late; None says nothing.

        The quickest way to ask, and the same object for ever: who asks often may keep it.
        """

    def match(self, topic: str) -> Route[S] | None:
        """The remembered route of a topic, or None: then check the topic and ask ``route``.

        A topic that was never given to ``route`` is not remembered, so a hit needs no check.
        """
        return self._young.get(topic) or self.recall(topic)

    def recall(self, topic: str) -> Route[S] | None:
        """What ``match`` asks if ``remembered`` says nothing: the route, if that needs no walk."""
        remembered = self._memory.take(topic)
        if remembered is None:
            return None
        walk, route = remembered
        if route is not None:
            self._memory.put(topic, walk, route)
            return route
        time, _ = walk
        return None if self._trie.has_changed(topic, time) else self._remember(topic, walk)

    def route(self, topic: str) -> Route[S]:
        """Find the route of a topic and remember it, even if nobody listens."""
        return self._remember(topic, (self._trie.time, self._trie.find(topic)))

    def walk(self, topic: str) -> tuple[S, ...]:
        """The subscriptions that a topic reaches, found anew; nothing is remembered."""
        return self._gather(topic, self._trie.find(topic))

    def add(self, subscription: S, patterns: Iterable[str]) -> None:
        """Add a subscription under its patterns."""
        for pattern in patterns:
            if "*" not in pattern:
                held = self._exact.get(pattern)
                self._exact[pattern] = subscription if held is None else _joined(held, subscription)
            elif (place := self._wild.get(pattern)) is not None:
                assert place.held is not None
                place.held = _joined(place.held, subscription)
            else:
                place = self._wild[pattern] = Place(subscription)
                if pattern != "**":
                    self._trie.plant(pattern, place)
        self._special += not subscription.plain
        self._memory.forget_routes()

    def remove(self, subscription: S, patterns: Iterable[str]) -> None:
        """Remove a subscription that was added under exactly these patterns."""
        for pattern in patterns:
            if "*" not in pattern:
                held = _left(self._exact[pattern], subscription)
                if held is None:
                    del self._exact[pattern]
                else:
                    self._exact[pattern] = held
                continue
            place = self._wild[pattern]
            assert place.held is not None
            place.held = _left(place.held, subscription)
            if place.held is None:
                del self._wild[pattern]
                if pattern != "**":
                    self._trie.uproot(pattern)
        self._special -= not subscription.plain
        self._memory.forget_routes()

    def __len__(self) -> int:
        """How many distinct patterns there are."""
        return len(self._exact) + len(self._wild)

    def patterns(self) -> Iterator[str]:
        """The distinct patterns at this moment, the literal ones first."""
        return iter((*self._exact, *self._wild))

    def subscriptions(self) -> tuple[S, ...]:
        """All subscriptions, in order of subscription, each once. May be read in any thread."""
        members: list[Any] = []
        wild = [held for place in list(self._wild.values()) if (held := place.held) is not None]
        for held in [*self._exact.values(), *wild]:
            if type(held) is Slot:
                members.extend(held.peek())
            else:
                members.append(held)
        return _union(members)

    def __repr__(self) -> str:
        return f"<Index: {len(self)} patterns>"

    # Routes.

    def _gather(self, topic: str, places: tuple[Place[Held[S]], ...]) -> tuple[S, ...]:
        holdings = [held for place in places if (held := place.held) is not None]
        if (held := self._exact.get(topic)) is not None:
            holdings.append(held)
        if (all_topics := self._wild.get("**")) is not None and all_topics.held is not None:
            holdings.append(all_topics.held)
        return _union(holdings)

    def _remember(self, topic: str, walk: Walk) -> Route[S]:
        subscriptions = self._gather(topic, walk[1])
        route = Route(subscriptions, not self._special or all(map(_is_plain, subscriptions)))
        self._memory.put(topic, walk, route)
        return route


@final
class Slot(Generic[S]):
    """The subscriptions of one distinct pattern, in order of subscription; at least one at first.

    Adding and removing take constant time however many there are.
    """

    __slots__ = ("_many", "_members")

    def __init__(self, members: tuple[S, ...]) -> None:
        self._members: tuple[S, ...] | None = members  # None: to be made from _many
        self._many: dict[int, S] | None = None  # by number, instead of the tuple

    @property
    def members(self) -> tuple[S, ...]:
        """The subscriptions at this moment. The tuple is made at most once per change."""
        if self._members is None:
            assert self._many is not None
            self._members = tuple(self._many.values())
        return self._members

    def peek(self) -> tuple[S, ...]:
        """The same, in any thread: what is remembered is only the bus's own to write."""
        while True:
            many, members = self._many, self._members
            if members is not None:
                return members
            if many is not None:  # pragma: no branch - else it has changed between the two readings
                return tuple(many.values())

    def __bool__(self) -> bool:
        return self._many is not None or bool(self._members)

    def add(self, member: S) -> None:
        if self._many is None:
            members = self.members
            if len(members) < _FEW:
                self._members = (*members, member)
                return
            self._many = {each.number: each for each in members}
        self._many[member.number] = member
        self._members = None

    def remove(self, member: S) -> None:
        if self._many is None:
            self._members = tuple([each for each in self.members if each is not member])
            return
        del self._many[member.number]
        self._members = None
        if len(self._many) <= _FEW // 2:  # well below, so that no change to and fro repeats
            self._members = self.members
            self._many = None


Held: TypeAlias = "S | Slot[S]"
"""What is held for a pattern: its subscriber, or a slot of several."""


def _joined(held: Held[S], subscription: S) -> Slot[S]:
    """What is held for a pattern once another subscription has come."""
    if type(held) is not Slot:
        return Slot((held, subscription))
    held.add(subscription)
    return held


def _left(held: Held[S], subscription: S) -> Slot[S] | None:
    """What is held for a pattern once one of its subscriptions has left."""
    if type(held) is not Slot:
        return None
    held.remove(subscription)
    return held or None


def _union(holdings: list[Held[S]]) -> tuple[S, ...]:
    """All subscriptions that are held, each once, in order of subscription."""
    if len(holdings) < 2:
        return _members(holdings[0]) if holdings else ()
    members: list[Any] = holdings
    for held in holdings:
        if type(held) is Slot:
            members = [member for each in holdings for member in _members(each)]
            break
    members.sort(key=_number)
    for one, other in pairwise(members):
        if one is other:  # several of its patterns match
            return tuple({each.number: each for each in members}.values())
    return tuple(members)


def _members(held: Held[S]) -> tuple[S, ...]:
    return held.members if type(held) is Slot else (held,)
