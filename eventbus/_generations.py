"""What is remembered of topics: of those in use, and in bounded memory.

Of a topic that was met, that is its *walk*, what the trie said and when, and the *route* that was
made of it, the subscriptions themselves. Routes can be forgotten and walks kept.

There are two generations. When the young one is full, it becomes the old one, and what was the
old one is forgotten; what is found in the old one is put into the young one. So what is in use
stays, and no hit pays for book-keeping. Full is 1,024 topics, or 65,536 references in all, so
that neither many topics nor many subscribers to each take unbounded memory.
"""

from __future__ import annotations

from typing import Any, Generic, TypeAlias, TypeVar, final

from eventbus._trie import Place

__all__ = ["Generations", "Route", "Walk"]

GENERATION_TOPICS = 1024
GENERATION_REFERENCES = 65_536

S = TypeVar("S")

Walk: TypeAlias = tuple[int, tuple[Place[Any], ...]]
"""When the trie was asked for a topic, and the places that it found."""


@final
class Route(Generic[S]):
    """The subscriptions that a topic reaches, at one moment. Never changed once made."""

    __slots__ = ("plain", "subscriptions")

    def __init__(self, subscriptions: tuple[S, ...], plain: bool) -> None:
        self.subscriptions = subscriptions
        """In order of subscription, each once."""
        self.plain = plain
        """Whether all of them are plain."""

    def __repr__(self) -> str:
        return f"Route({self.subscriptions!r})"


@final
class Generations(Generic[S]):
    """Walks and routes by topic. A route is never without its walk, in the same generation."""

    __slots__ = ("_routes_weight", "_walks_weight", "old_routes", "old_walks", "routes", "walks")

    def __init__(self) -> None:
        self.routes: dict[str, Route[S]] = {}
        """Of the young generation. It is always the same dict."""
        self.walks: dict[str, Walk] = {}
        self.old_routes: dict[str, Route[S]] = {}
        self.old_walks: dict[str, Walk] = {}
        self._routes_weight = 0  # references from the young routes to subscriptions
        self._walks_weight = 0  # references from the young walks to places

    def put(self, topic: str, walk: Walk, route: Route[S]) -> None:
        """Remember a topic, in the young generation."""
        if topic in self.walks:
            self.take(topic)
        walks_weight = self._walks_weight + len(walk[1])
        routes_weight = self._routes_weight + len(route.subscriptions)
        if len(self.walks) >= GENERATION_TOPICS or (
            self.walks and walks_weight + routes_weight > GENERATION_REFERENCES
        ):
            self.old_walks, self.walks = self.walks, {}
            self.old_routes = self.routes.copy()
            self.routes.clear()
            walks_weight = len(walk[1])
            routes_weight = len(route.subscriptions)
        self.walks[topic] = walk
        self.routes[topic] = route
        self._walks_weight = walks_weight
        self._routes_weight = routes_weight

    def take(self, topic: str) -> tuple[Walk, Route[S] | None] | None:
        """Forget a topic, and say what was remembered of it: put it again to keep it."""
        if topic in self.walks:
            walk = self.walks.pop(topic)
            route = self.routes.pop(topic, None)
            self._walks_weight -= len(walk[1])
            if route is not None:
                self._routes_weight -= len(route.subscriptions)
            return walk, route
        if topic in self.old_walks:
            return self.old_walks.pop(topic), self.old_routes.pop(topic, None)
        return None

    def forget_routes(self) -> None:
        """Forget all routes, and keep the walks."""
        if self.routes or self.old_routes:
            self.routes.clear()
            self.old_routes = {}
            self._routes_weight = 0
