"""Which subscriptions a topic reaches: found by walking a trie, then remembered.

Where a pattern lives:

- a literal one in a dict, keyed by the topic itself. Most patterns are literal and most have one
  subscriber, so the dict holds that subscriber itself; a ``Slot`` from the second one on;
- ``**`` in a slot of its own: it matches everything, so nothing needs to look for it;
- any other in a trie of tokens. A walk goes down it with the set of nodes that the topic's tokens
  reach, level by level: no recursion, no backtracking, never more nodes than were subscribed.

What is remembered, in two caches of bounded size:

- *walks*: topic → the slots of the trie that match it. Subscribing and unsubscribing change what
  is in a slot, not which slots match, so a walk stays good until a pattern that is new, with
  wildcards, and has the topic's first token or ``*`` as its own first token. Each root of the
  trie knows when that last happened, and a walk knows when it was made. An emptied slot leaves
  the trie; in a remembered walk it adds nothing. The same pattern again is a new slot.
- *routes*: topic → the subscriptions themselves, as one tuple in order of subscription. Any
  subscribe or unsubscribe forgets them all, so a route in the cache is always right (a hit
  compares nothing), and no subscription is kept alive by it after it left.

A cache has two generations. When the young one is full, it becomes the old one, and what was the
old one is forgotten; what is found in the old one moves to the young one. So what is in use
stays, and no hit pays for book-keeping. Full is 1,024 topics, or 65,536 references in all, so
that neither many topics nor many subscribers to each take unbounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Generic, Protocol, TypeVar, final

__all__ = ["Index", "Member", "Route"]

GENERATION_TOPICS = 1024
GENERATION_REFERENCES = 65_536

_FEW = 32  # members that a slot keeps in a tuple, copied at each change, rather than in a dict

_is_plain = attrgetter("plain")


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
V = TypeVar("V")


@final
class Route(Generic[S]):
    """The subscriptions that a topic reaches, at one moment. Never changed once made."""

    __slots__ = ("plain", "slots", "subscriptions")

    def __init__(self, subscriptions: tuple[S, ...], slots: tuple[Slot[S], ...]) -> None:
        self.subscriptions = subscriptions
        """In order of subscription, each once."""
        self.plain = all(map(_is_plain, subscriptions))
        """Whether all of them are plain."""
        self.slots = slots
        """The slots of the trie that match the topic."""

    def __repr__(self) -> str:
        return f"Route({self.subscriptions!r})"


@final
class Index(Generic[S]):
    """Subscriptions by pattern. Agrees with ``topics.matches`` for every topic.

    It takes only well-formed patterns and topics, and checks neither. A subscription is added
    once, with all its patterns, each of them once; subscriptions are added in the order of their
    numbers. Used by one thread at a time.
    """

    __slots__ = ("_exact", "_roots", "_routes", "_time", "_walks", "_wild")

    def __init__(self) -> None:
        self._exact: dict[str, S | Slot[S]] = {}
        self._wild: dict[str, Slot[S]] = {}  # every pattern with a wildcard, '**' too
        self._roots: dict[str, Root[S]] = {}  # the trie, by first token; '*' is one of them
        self._time = 0  # how many patterns the trie has ever been given
        self._walks: Generations[tuple[int, tuple[Slot[S], ...]]] = Generations(_walk_weight)
        self._routes: Generations[Route[S]] = Generations(_route_weight)

    def match(self, topic: str) -> Route[S] | None:
        """The remembered route of a topic, or None: then check the topic and ask ``route``.

        A topic that was never given to ``route`` is not remembered, so a hit needs no check.
        """
        return self._routes.young.get(topic) or self._recall(topic)

    def route(self, topic: str) -> Route[S]:
        """Find the route of a topic and remember it, even if nobody listens."""
        slots = self._find_slots(topic)
        self._walks.put(topic, (self._time, slots))
        return self._remember(topic, slots)

    def walk(self, topic: str) -> tuple[S, ...]:
        """The subscriptions that a topic reaches, found anew; nothing is remembered."""
        return self._subscriptions(topic, self._find_slots(topic))

    def add(self, subscription: S, patterns: Iterable[str]) -> None:
        """Add a subscription under its patterns."""
        for pattern in patterns:
            if "*" not in pattern:
                self._add_exact(pattern, subscription)
            elif (slot := self._wild.get(pattern)) is not None:
                slot.add(subscription)
            else:
                slot = self._wild[pattern] = Slot((subscription,))
                if pattern != "**":
                    self._plant(pattern, slot)
        self._routes.clear()

    def remove(self, subscription: S, patterns: Iterable[str]) -> None:
        """Remove a subscription that was added under exactly these patterns."""
        for pattern in patterns:
            if "*" not in pattern:
                self._remove_exact(pattern, subscription)
                continue
            slot = self._wild[pattern]
            slot.remove(subscription)
            if not slot:
                del self._wild[pattern]
                if pattern != "**":
                    self._uproot(pattern)
        self._routes.clear()

    def __len__(self) -> int:
        """How many distinct patterns there are."""
        return len(self._exact) + len(self._wild)

    def patterns(self) -> Iterator[str]:
        """The distinct patterns at this moment, the literal ones first."""
        return iter((*self._exact, *self._wild))

    def subscriptions(self) -> tuple[S, ...]:
        """All subscriptions, in order of subscription, each once."""
        return _union([_members(held) for held in (*self._exact.values(), *self._wild.values())])

    def __repr__(self) -> str:
        return f"<Index: {len(self)} patterns>"

    # Literal patterns.

    def _add_exact(self, topic: str, subscription: S) -> None:
        held = self._exact.get(topic)
        if held is None:
            self._exact[topic] = subscription
        elif isinstance(held, Slot):
            held.add(subscription)
        else:
            self._exact[topic] = Slot((held, subscription))

    def _remove_exact(self, topic: str, subscription: S) -> None:
        held = self._exact[topic]
        if isinstance(held, Slot):
            held.remove(subscription)
            if held:
                return
        del self._exact[topic]

    # Patterns in the trie.

    def _plant(self, pattern: str, slot: Slot[S]) -> None:
        first, *tokens = pattern.split(".")
        root = self._roots.get(first)
        if root is None:
            root = self._roots[first] = Root()
        self._time += 1
        root.changed = self._time
        node: Node[S] = root
        for token in tokens:
            if token == "**":
                node.tail = slot
                return
            node = node.below(token)
        node.here = slot

    def _uproot(self, pattern: str) -> None:
        """Take a pattern's slot out, and every node that only led to it."""
        first, *tokens = pattern.split(".")
        node: Node[S] = self._roots[first]
        if tail := tokens[-1:] == ["**"]:
            del tokens[-1]
        path: list[Node[S]] = [node]
        for token in tokens:
            node = node.below(token)
            path.append(node)
        if tail:
            node.tail = None
        else:
            node.here = None
        for parent, token in zip(path[-2::-1], reversed(tokens), strict=True):
            if not node.is_empty():
                return
            parent.cut(token)
            node = parent
        if node.is_empty():
            del self._roots[first]

    def _find_slots(self, topic: str) -> tuple[Slot[S], ...]:
        first, *tokens = topic.split(".")
        nodes: list[Node[S]] = [root for root in self._roots_of(first) if root is not None]
        found: list[Slot[S]] = []
        for token in tokens:
            if not nodes:
                return tuple(found)
            reached: list[Node[S]] = []
            for node in nodes:
                if node.tail is not None:
                    found.append(node.tail)
                if node.kids is not None and (kid := node.kids.get(token)) is not None:
                    reached.append(kid)
                if node.star is not None:
                    reached.append(node.star)
            nodes = reached
        found.extend(node.here for node in nodes if node.here is not None)
        return tuple(found)

    def _roots_of(self, first: str) -> tuple[Root[S] | None, Root[S] | None]:
        return self._roots.get(first), self._roots.get("*")

    # Routes.

    def _subscriptions(self, topic: str, slots: tuple[Slot[S], ...]) -> tuple[S, ...]:
        sources = [slot.members for slot in slots if slot]
        if (held := self._exact.get(topic)) is not None:
            sources.append(_members(held))
        if (everything := self._wild.get("**")) is not None:
            sources.append(everything.members)
        return _union(sources)

    def _remember(self, topic: str, slots: tuple[Slot[S], ...]) -> Route[S]:
        route = Route(self._subscriptions(topic, slots), slots)
        self._routes.put(topic, route)
        return route

    def _recall(self, topic: str) -> Route[S] | None:
        """The route of a topic that is not in the young generation, if that needs no walk."""
        route = self._routes.get(topic)
        if route is None and (walk := self._walks.get(topic)) is not None:
            time, slots = walk
            for root in self._roots_of(topic.partition(".")[0]):
                if root is not None and root.changed > time:
                    return None
            route = self._remember(topic, slots)
        return route


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


class Node(Generic[S]):
    """A place in the trie: the token patterns that begin with the tokens on the way to it."""

    __slots__ = ("here", "kids", "star", "tail")

    def __init__(self) -> None:
        self.kids: dict[str, Node[S]] | None = None  # by literal token
        self.star: Node[S] | None = None  # for '*'
        self.tail: Slot[S] | None = None  # of the pattern that goes on with '**'
        self.here: Slot[S] | None = None  # of the pattern that ends here

    def below(self, token: str) -> Node[S]:
        """The node below for a token of a pattern, made if there is none."""
        if token == "*":
            if self.star is None:
                self.star = Node()
            return self.star
        if self.kids is None:
            self.kids = {}
        kid = self.kids.get(token)
        if kid is None:
            kid = self.kids[token] = Node()
        return kid

    def cut(self, token: str) -> None:
        """Drop the node below for a token of a pattern that is in the trie."""
        if token == "*":
            self.star = None
            return
        assert self.kids is not None
        del self.kids[token]
        if not self.kids:
            self.kids = None

    def is_empty(self) -> bool:
        return self.kids is None and self.star is None and self.tail is None and self.here is None


class Root(Node[S]):
    """The node of a first token."""

    __slots__ = ("changed",)

    changed: int
    """The index's time when it last got a new pattern: walks made before may lack it."""


class Generations(Generic[V]):
    """A mapping from topics that forgets what has not been used for long, in constant time."""

    __slots__ = ("_weigh", "_weight", "old", "young")

    def __init__(self, weigh: Callable[[V], int]) -> None:
        self.young: dict[str, V] = {}
        self.old: dict[str, V] = {}
        self._weigh = weigh  # how many references a value holds
        self._weight = 0  # of the young generation

    def get(self, topic: str) -> V | None:
        value = self.young.get(topic)
        if value is None:
            value = self.old.pop(topic, None)
            if value is not None:
                self.put(topic, value)
        return value

    def put(self, topic: str, value: V) -> None:
        former = self.young.pop(topic, None)
        if former is not None:
            self._weight -= self._weigh(former)
        weight = self._weigh(value)
        if len(self.young) >= GENERATION_TOPICS or (
            self.young and self._weight + weight > GENERATION_REFERENCES
        ):
            self.old = self.young
            self.young = {}
            self._weight = 0
        self.young[topic] = value
        self._weight += weight

    def clear(self) -> None:
        if self.young:  # if it is empty, so is the old one
            self.young = {}
            self.old = {}
            self._weight = 0


def _members(held: S | Slot[S]) -> tuple[S, ...]:
    return held.members if isinstance(held, Slot) else (held,)


def _union(sources: list[tuple[S, ...]]) -> tuple[S, ...]:
    """All members of the tuples, each once, in order of subscription. Each tuple is in order."""
    if not sources:
        return ()
    if len(sources) == 1:
        return sources[0]
    union = {member.number: member for source in sources for member in source}
    return tuple([union[number] for number in sorted(union)])


def _walk_weight(walk: tuple[int, tuple[Slot[S], ...]]) -> int:
    return len(walk[1])


def _route_weight(route: Route[S]) -> int:
    return len(route.subscriptions)
