"""Which patterns with wildcards match a topic: a trie of tokens, no deeper than it must be.

A node is a dict by token: by literal ones, by ``*``, by ``**`` for the pattern that goes on with
that, and by the empty text for the pattern that ends here. Below a token is another node or, as
long as only one pattern goes that way, the *place* of that pattern, which has the rest of its text.
When a second one comes along, a node takes the place's place, and stays until it is empty. So a
walk meets few nodes, however many tokens there are, and that counts: among many patterns each of
them is in memory that was not used of late, and to wait for memory is most of what a walk does.
For the same reason tokens and rests are shared: one that many patterns have is compared without a
wait, and hardly takes memory twice. ``sys.intern`` would share them too, but CPython 3.12 keeps for
ever what it has interned.

A walk goes down with the set of nodes that the topic's tokens reach, level by level: no recursion,
no backtracking, never more nodes than were subscribed.
"""

from __future__ import annotations

from typing import Final, Generic, TypeAlias, TypeVar, final

from eventbus.topics import matches

__all__ = ["Place", "Trie"]

MOST_TEXTS: Final = 1024
"""How many tokens and rests of patterns are remembered, for others to share."""

H = TypeVar("H")


@final
class Place(Generic[H]):
    """Where one pattern is, and what is held for it. Who remembers it sees what is held now."""

    __slots__ = ("held", "rest")

    def __init__(self, held: H) -> None:
        self.held: H | None = held
        """The trie's owner sees to it: it is None once the pattern has left."""
        self.rest = ""
        """What the pattern says after the tokens that lead here."""

    def fits(self, tokens: list[str], depth: int) -> bool:
        """Whether the rest matches the tokens of a topic from a depth on: at least one."""
        rest = self.rest
        if rest == "*":
            return len(tokens) == depth + 1
        if rest == "**":
            return True
        end = ".".join(tokens[depth:])
        return rest == end or ("*" in rest and matches(rest, end))


Below: TypeAlias = "dict[str, Below[H]] | Place[H]"
"""What is below a token: a node or a place."""


@final
class Trie(Generic[H]):
    """Places by pattern, each pattern once. ``**`` alone is none of them: it has no first token."""

    __slots__ = ("_changed", "_root", "_texts", "time")

    def __init__(self) -> None:
        self._root: dict[str, Below[H]] = {}
        self._changed: dict[str, int] = {}  # by first token: the time when its last pattern came
        self.time = 0
        """How many patterns it has ever been given."""
        self._texts: dict[str, str] = {}

    def find(self, topic: str) -> tuple[Place[H], ...]:
        """The places of the patterns that match a topic."""
        tokens = topic.split(".")
        found: list[Place[H]] = []
        belows: list[Below[H]] = [self._root]
        for depth, token in enumerate(tokens):
            reached: list[Below[H]] = []
            for below in belows:
                if type(below) is Place:
                    if below.fits(tokens, depth):
                        found.append(below)
                    continue
                # Most are not there, and `in` is the quickest way to know.
                if token in below:
                    reached.append(below[token])
                if "*" in below:
                    reached.append(below["*"])
                if "**" in below:
                    found.append(below["**"])  # type: ignore[arg-type]  # nothing comes after '**'
            if not reached:
                break
            belows = reached
        else:
            found += [place for below in belows if (place := _end(below)) is not None]
        return tuple(found)

    def has_changed(self, topic: str, since: int) -> bool:
        """Whether a pattern that may match the topic has come since that time."""
        changed = self._changed
        return max(changed.get(topic.partition(".")[0], 0), changed.get("*", 0)) > since

    def plant(self, pattern: str, place: Place[H]) -> None:
        """Put in a pattern that is not there, at a new place."""
        token, _, rest = pattern.partition(".")
        self.time += 1
        self._changed[token] = self.time
        node = self._root
        while (below := node.get(token)) is not None:
            if type(below) is Place:
                below = node[token] = self._fork(below)
            node = below
            token, _, rest = rest.partition(".")
        if node is not self._root:  # where each token is but once
            token = self._shared(token)
        node[token] = place
        place.rest = self._shared(rest)

    def uproot(self, pattern: str) -> None:
        """Take out a pattern that is there, and every node that only led to it."""
        first, _, rest = pattern.partition(".")
        node, token = self._root, first
        way = [(node, token)]
        while type(below := node[token]) is not Place:
            node = below
            token, _, rest = rest.partition(".")
            way.append((node, token))
        for node, token in reversed(way):
            del node[token]
            if node:
                break
        if first not in self._root:
            del self._changed[first]

    def _fork(self, place: Place[H]) -> dict[str, Below[H]]:
        """A node for a place to be below, with room for others."""
        token, _, rest = place.rest.partition(".")
        place.rest = self._shared(rest)
        return {self._shared(token): place}

    def _shared(self, text: str) -> str:
        """The text, as the same object for all that say it, if one of them did of late."""
        texts = self._texts
        if len(texts) >= MOST_TEXTS:
            texts.clear()
        return texts.setdefault(text, text)


def _end(below: Below[H]) -> Place[H] | None:
    """The place of the pattern that ends right here."""
    if type(below) is Place:
        return None if below.rest else below
    return below.get("")  # type: ignore[return-value]  # nothing comes after the end
