"""The index finds what matches() says, always, and remembers no more and no longer than it may."""

from __future__ import annotations

import gc
import itertools
import random
import time
import tracemalloc
import weakref
from typing import Any, final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus import _generations
from eventbus._generations import (
    GENERATION_REFERENCES,
    GENERATION_TOPICS,
    Generations,
    Walk,
)
from eventbus._index import Index, Route, Slot
from eventbus._trie import Place
from eventbus.topics import matches


@final
class Listener:
    """As much of a subscription as the index needs."""

    __slots__ = ("__weakref__", "number", "patterns", "plain")

    def __init__(self, number: int, patterns: tuple[str, ...] = (), *, plain: bool = True) -> None:
        self.number = number
        self.plain = plain
        self.patterns = patterns

    def __eq__(self, other: object) -> bool:
        raise AssertionError("the index may not compare subscriptions")

    __hash__ = None  # type: ignore[assignment]  # nor hash them

    def __repr__(self) -> str:
        return f"#{self.number}"


class Checked:
    """An index beside a plain list of the same listeners, which are filtered by matches()."""

    def __init__(self) -> None:
        self.index: Index[Listener] = Index()
        self.listeners: list[Listener] = []
        self.numbers = itertools.count()

    def add(self, *patterns: str, plain: bool = True) -> Listener:
        """Subscribe to a union of patterns."""
        listener = Listener(next(self.numbers), patterns, plain=plain)
        self.listeners.append(listener)
        self.index.add(listener, patterns)
        return listener

    def remove(self, place: int = 0) -> None:
        """Unsubscribe the listener at a place of the list."""
        listener = self.listeners.pop(place)
        self.index.remove(listener, listener.patterns)

    def check(self, *topics: str) -> None:
        """Compare what the index says, from memory and anew, with the list."""
        for topic in topics:
            expected = [
                each.number
                for each in self.listeners
                if any(matches(pattern, topic) for pattern in each.patterns)
            ]
            route = reach(self.index, topic)
            assert [each.number for each in route.subscriptions] == expected, topic
            assert route.plain == all(each.plain for each in route.subscriptions)
            assert self.index.match(topic) is route
            assert [each.number for each in self.index.walk(topic)] == expected, topic

    def check_patterns(self) -> None:
        """Compare what the index says of itself with the list."""
        patterns = sorted({pattern for each in self.listeners for pattern in each.patterns})
        assert sorted(self.index.patterns()) == patterns
        assert len(self.index) == len(patterns)
        numbers = [each.number for each in self.index.subscriptions()]
        assert numbers == [each.number for each in self.listeners]

    def check_empty(self) -> None:
        """Nothing is left of any pattern."""
        assert not self.listeners
        assert len(self.index) == 0
        assert self.index._exact == {}
        assert self.index._wild == {}
        assert self.index._trie._root == {}
        assert self.index._trie._changed == {}
        assert self.index._special == 0


def reach(index: Index[Listener], topic: str) -> Route[Listener]:
    """What a bus does: the remembered route, or else a new one."""
    return index.match(topic) or index.route(topic)


def remembered(index: Index[Listener]) -> dict[str, Route[Listener]]:
    """The routes in the cache."""
    return index._memory.old_routes | index._memory.routes


def dotted(alphabet: str, longest: int) -> list[str]:
    """All texts of up to so many tokens."""
    return [
        ".".join(tokens)
        for n in range(1, longest + 1)
        for tokens in itertools.product(alphabet, repeat=n)
    ]


def patterns_of(alphabet: str, longest: int) -> list[str]:
    """All patterns of up to so many tokens."""
    short = dotted(alphabet + "*", longest - 1)
    return [*dotted(alphabet + "*", longest), "**", *(f"{text}.**" for text in short)]


# ---- It agrees with matches()


def test_each_pattern_alone() -> None:
    """Every pattern of up to four tokens, alone in the index, against every topic."""
    topics = dotted("abc", 4)
    for pattern in patterns_of("ab", 4):
        checked = Checked()
        checked.add(pattern)
        checked.check(*topics)
        checked.remove()
        checked.check_empty()


def test_all_patterns_at_once() -> None:
    """All patterns of up to four tokens in one index, added and removed in random order."""
    topics, patterns = dotted("abc", 4), patterns_of("ab", 4)
    rng = random.Random(1)
    rng.shuffle(patterns)
    checked = Checked()
    for pattern in patterns:
        checked.add(pattern)
        checked.check(*rng.sample(topics, 5))
    checked.check(*topics)
    checked.check_patterns()
    while checked.listeners:
        checked.remove(rng.randrange(len(checked.listeners)))
        checked.check(*rng.sample(topics, 5))
    checked.check(*topics)
    checked.check_empty()


def test_all_pairs_of_patterns() -> None:
    """Every two patterns: what one leaves in the trie does not touch the other."""
    topics = dotted("ab", 3)
    patterns = patterns_of("a", 3)
    for first, second in itertools.product(patterns, patterns):
        checked = Checked()
        checked.add(first)
        checked.check(*topics)
        checked.add(second)
        checked.check(*topics)
        checked.remove()
        checked.check(*topics)
        checked.check_patterns()
        checked.remove()
        checked.check(*topics)
        checked.check_empty()


@pytest.mark.parametrize("longest", [2, 4])
def test_random_churn(longest: int) -> None:
    """Subscribe, unsubscribe and match in any order, for long: every answer is right."""
    rng = random.Random(longest)
    topics, patterns = dotted("abc", longest), patterns_of("ab", longest)
    checked = Checked()
    for _ in range(4000):
        if rng.random() < 0.5 and len(checked.listeners) < 30:
            union = rng.sample(patterns, rng.choice((1, 1, 2, 3)))
            checked.add(*union, plain=rng.random() < 0.9)
        elif checked.listeners:
            checked.remove(rng.randrange(len(checked.listeners)))
        checked.check(*rng.sample(topics, 3))
        if rng.random() < 0.02:
            while checked.listeners:
                checked.remove(-1)
            checked.check(*topics)
            checked.check_empty()
    checked.check_patterns()


steps = st.one_of(
    st.tuples(
        st.just("add"), st.sets(st.sampled_from(patterns_of("ab", 3)), min_size=1, max_size=3)
    ),
    st.tuples(st.just("remove"), st.integers(0, 100)),
    st.tuples(st.just("match"), st.sampled_from(dotted("abc", 3))),
)


@given(st.lists(steps, max_size=40))
def test_churn(steps: list[tuple[str, Any]]) -> None:
    """The same with the steps that hypothesis likes, and every topic compared at the end."""
    checked = Checked()
    for step, what in steps:
        if step == "add":
            checked.add(*what)
        elif step == "match":
            checked.check(what)
        elif checked.listeners:
            checked.remove(what % len(checked.listeners))
    checked.check(*dotted("abc", 3))
    checked.check_patterns()
    while checked.listeners:
        checked.remove()
    checked.check_empty()


@pytest.mark.parametrize("pattern", ["a.b", "a.*", "a.**", "**"])
def test_many_subscribers_of_one_pattern(pattern: str) -> None:
    """Growing and shrinking across the size where a slot changes its form, at both ends."""
    rng = random.Random(1)
    checked = Checked()
    for _ in range(3):
        for _ in range(80):
            checked.add(pattern)
            checked.check("a.b", "c")
        for _ in range(75):
            checked.remove(rng.choice((0, -1, rng.randrange(len(checked.listeners)))))
            checked.check("a.b", "c")
    checked.check_patterns()
    while checked.listeners:
        checked.remove(-1)
    checked.check_empty()


def test_a_slot_changes_its_form_rarely() -> None:
    """A tuple up to 32 members, a dictionary above, and a tuple again only at half of that."""
    slot: Slot[Any] = Slot(())
    members = [Listener(number) for number in range(34)]
    forms = []
    for member in members:
        slot.add(member)
        forms.append(slot._many is None)
    assert forms == [True] * 32 + [False] * 2
    forms.clear()
    for member in members:
        slot.remove(member)
        forms.append(slot._many is None)
    assert forms == [False] * 17 + [True] * 17
    assert not slot


def test_order_of_subscription() -> None:
    """Whatever kind of pattern brings them, subscriptions come in order, and each once."""
    checked = Checked()
    for patterns in (["a.*"], ["**"], ["a.b", "a.*", "*.b", "**"], ["a.b"], ["a.**"], ["*.*"]):
        checked.add(*patterns)
    assert [each.number for each in reach(checked.index, "a.b").subscriptions] == [0, 1, 2, 3, 4, 5]


def test_deep_patterns() -> None:
    """Thirty-two tokens, every one of them a fork: the walk is no recursion and finds all."""
    checked = Checked()
    rng = random.Random(1)
    for _ in range(200):
        checked.add(".".join(rng.choice("a*") for _ in range(32)))
        checked.add(".".join(rng.choice("a*") for _ in range(rng.randrange(1, 32))) + ".**")
    checked.check(".".join("a" * 32), ".".join("a" * 31), "a", "a.b")


def test_the_index_describes_itself() -> None:
    """Its repr counts patterns; a route's shows whom it reaches."""
    checked = Checked()
    checked.add("a.b", "a.*")
    assert repr(checked.index) == "<Index: 2 patterns>"
    assert repr(checked.index.route("a.b")) == "Route((#0,))"


def test_patterns_is_a_snapshot() -> None:
    """Who iterates over the patterns may unsubscribe meanwhile."""
    checked = Checked()
    checked.add("a.b", "a.*")
    for pattern in checked.index.patterns():
        checked.add(f"x.{pattern}")
    assert len(checked.index) == 4


# ---- What it remembers


def test_an_unknown_topic_is_not_remembered() -> None:
    """match() answers nothing for what route() was never given, so nothing unchecked gets in."""
    checked = Checked()
    checked.add("**")
    assert checked.index.match("not a topic") is None
    checked.index.walk("a.b")
    assert checked.index.match("a.b") is None


def test_a_topic_without_listeners_is_remembered() -> None:
    """Nobody listens: that, too, is found out once."""
    index: Index[Listener] = Index()
    assert index.match("a.b") is None
    route = index.route("a.b")
    assert (route.subscriptions, route.plain) == ((), True)
    assert index.match("a.b") is route


def recalled(checked: Checked) -> tuple[Route[Listener], Walk]:
    """The route of a.b.c, which needs no walk, and the walk that it was made of."""
    route = checked.index.match("a.b.c")
    assert route is not None
    return route, checked.index._memory.walks["a.b.c"]


@pytest.fixture
def warm() -> Checked:
    """An index that has met a.b.c, which one pattern with wildcards matches."""
    checked = Checked()
    checked.add("a.b.*")
    checked.check("a.b.c")
    _, (_, places) = recalled(checked)
    assert len(places) == 1
    return checked


HARMLESS = ["a.b.c", "a.b.*", "**", "z.b.*", "z.**", "a.b", "z"]
HARMFUL = ["a.b.**", "a.*.c", "a.z.*", "*.b.c", "*", "*.**"]


@pytest.mark.parametrize("pattern", HARMLESS)
def test_a_walk_is_repeated_only_if_needed(warm: Checked, pattern: str) -> None:
    """A second subscriber, a literal pattern, '**' or another first token: no new walk is made."""
    before, walk = recalled(warm)
    listener = warm.add(pattern)
    added, same = recalled(warm)
    assert added is not before
    assert same is walk
    numbers = [each.number for each in added.subscriptions]
    assert (listener.number in numbers) == matches(pattern, "a.b.c")
    warm.remove(1)
    _, same = recalled(warm)
    assert same is walk
    warm.check("a.b.c")


@pytest.mark.parametrize("pattern", HARMFUL)
def test_a_walk_is_repeated_if_needed(warm: Checked, pattern: str) -> None:
    """A new pattern with wildcards that may concern the topic makes the index look again, once."""
    warm.add(pattern)
    assert warm.index.match("a.b.c") is None
    warm.check("a.b.c")
    _, walk = recalled(warm)
    warm.remove(1)
    _, same = recalled(warm)
    assert same is walk
    warm.check("a.b.c")


def test_the_same_pattern_again_is_a_new_one(warm: Checked) -> None:
    """Its last subscriber leaves, another comes: the remembered walk does not hide the new one."""
    for _ in range(3):
        warm.remove()
        assert warm.index.match("a.b.c") is not None
        warm.add("a.b.*")
        assert warm.index.match("a.b.c") is None
        warm.check("a.b.c")


def test_a_walk_in_the_old_generation_can_be_stale(warm: Checked) -> None:
    """A walk that is found in the old generation is looked at as critically as a young one."""
    for n in range(GENERATION_TOPICS):
        reach(warm.index, f"topic.n{n}")
    warm.add("a.**")
    assert warm.index.match("a.b.c") is None
    warm.check("a.b.c")


def test_a_route_in_hand_does_not_change(warm: Checked) -> None:
    """Who holds a route holds the subscriptions of that moment, whoever comes or leaves."""
    route = reach(warm.index, "a.b.c")
    held = route.subscriptions
    warm.add("a.b.*")
    warm.add("a.b.c")
    warm.remove(0)
    reach(warm.index, "a.b.c")
    assert route.subscriptions is held
    assert [each.number for each in held] == [0]


@pytest.mark.parametrize("pattern", ["a.b", "a.*", "a.**", "**"])
@pytest.mark.parametrize("others", [0, 1, 40])
def test_no_subscription_is_kept_alive(pattern: str, others: int) -> None:
    """Once removed, a subscription is referred to by nothing, neither slot nor cache."""
    checked = Checked()
    for _ in range(others):
        checked.add(pattern)
    checked.add(pattern)
    checked.check("a.b", "a.c", "b")
    gone = weakref.ref(checked.listeners[-1])
    checked.remove(-1)
    gc.collect()
    assert gone() is None


# ---- What it costs


def test_the_cache_is_bounded_in_topics() -> None:
    """However many topics are met, two generations of them are remembered."""
    checked = Checked()
    checked.add("topic.*")
    for n in range(5 * GENERATION_TOPICS):
        checked.check(f"topic.n{n}")
        memory = checked.index._memory
        for cache in (memory.routes, memory.old_routes, memory.walks, memory.old_walks):
            assert len(cache) <= GENERATION_TOPICS


def references(routes: dict[str, Route[Listener]]) -> int:
    """How many subscriptions the routes refer to in all."""
    return sum(len(route.subscriptions) for route in routes.values())


def test_the_cache_is_bounded_in_references() -> None:
    """Many subscribers to each of many topics: few topics are remembered."""
    index: Index[Listener] = Index()
    for n in range(3000):
        index.add(Listener(n), ("**",))
    for n in range(100):
        route = reach(index, f"topic.n{n}")
        assert index.match(f"topic.n{n}") is route
        assert references(index._memory.routes) <= GENERATION_REFERENCES
        assert references(index._memory.old_routes) <= GENERATION_REFERENCES
    assert GENERATION_REFERENCES // 3000 <= len(remembered(index)) < 50


def test_a_large_fan_out_is_remembered() -> None:
    """A route larger than a whole generation is in the cache all the same, with few others."""
    index: Index[Listener] = Index()
    for n in range(GENERATION_REFERENCES + 1):
        index.add(Listener(n), ("a.*",))
    large = index.route("a.b")
    assert index.match("a.b") is large
    index.route("z")
    assert index.match("a.b") is large
    index.route("a.c")
    index.route("a.d")
    assert len(remembered(index)) <= 3


def test_a_slot_is_shared_by_its_routes() -> None:
    """Topics that one pattern alone brings share one tuple of its subscribers."""
    checked = Checked()
    for _ in range(50):
        checked.add("a.*")
    first, second = (reach(checked.index, topic) for topic in ("a.b", "a.c"))
    assert first.subscriptions is second.subscriptions


def test_walks_are_bounded_in_references() -> None:
    """Many patterns that match many topics: the walks remembered are few as well."""
    index: Index[Listener] = Index()
    for n, pattern in enumerate(itertools.product("a*", repeat=10)):
        index.add(Listener(n), (".".join((*pattern, "**")),))
    topic = ".".join("a" * 10)
    for n in range(200):
        reach(index, f"{topic}.n{n}")
        held = sum(len(places) for _, places in index._memory.walks.values())
        assert held <= GENERATION_REFERENCES
    assert len(index._memory.walks) + len(index._memory.old_walks) < 200


def test_what_is_in_use_stays() -> None:
    """A topic that is met now and then survives any number of topics that are met once."""
    index: Index[Listener] = Index()
    route = index.route("hot")
    for n in range(10 * GENERATION_TOPICS):
        index.route(f"cold.n{n}")
        if n % (GENERATION_TOPICS // 2) == 0:
            assert index.match("hot") is route
    for n in range(2 * GENERATION_TOPICS):
        index.route(f"cold.n{n}")
    assert index.match("hot") is None


def test_generations_count_references_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put again, promoted or forgotten is weighed once, be it a route's or a walk's."""
    monkeypatch.setattr(_generations, "GENERATION_REFERENCES", 10)
    memory: Generations[str] = Generations()

    def put(topic: str, places: int, subscriptions: int) -> None:
        walk = 0, (Place(None),) * places
        memory.put(topic, walk, Route(("s",) * subscriptions, plain=True))

    def topics() -> tuple[str, str]:
        assert memory.routes.keys() <= memory.walks.keys()
        assert memory.old_routes.keys() <= memory.old_walks.keys()
        return "".join(memory.walks), "".join(memory.old_walks)

    for _ in range(5):
        put("a", 1, 3)
    put("b", 2, 4)
    assert topics() == ("ab", "")
    put("c", 1, 0)
    assert topics() == ("c", "ab")
    remembered = memory.take("b")
    assert remembered is not None
    walk, route = remembered
    assert route is not None
    memory.put("b", walk, route)
    put("d", 0, 3)
    assert topics() == ("cbd", "a")
    memory.forget_routes()
    assert (memory.routes, memory.old_routes) == ({}, {})
    put("e", 3, 4)
    assert topics() == ("cbde", "a")
    put("b", 0, 2)
    assert topics() == ("cdeb", "a")
    put("f", 1, 0)
    assert topics() == ("f", "cdeb")
    assert memory.take("z") is None


def test_remembered_is_the_same_for_ever(warm: Checked) -> None:
    """Who keeps it is told what match() says, or nothing, whatever is forgotten meanwhile."""
    remembered = warm.index.remembered
    assert remembered("a.b.c") is warm.index.match("a.b.c") is not None
    warm.add("a.*.c")
    assert remembered("a.b.c") is None
    warm.check("a.b.c")
    assert remembered("a.b.c") is warm.index.match("a.b.c") is not None
    for n in range(GENERATION_TOPICS):
        warm.check(f"topic.n{n}")
    assert remembered("a.b.c") is None
    assert warm.index.match("a.b.c") is remembered("a.b.c") is not None
    assert warm.index.remembered is remembered


def test_one_subscriber_needs_no_slot() -> None:
    """Of each pattern the first subscriber is held as it is, and a slot from the second one on."""
    checked = Checked()
    patterns = ("a.b", "a.*", "a.**", "**")
    first = checked.add(*patterns)

    def held() -> list[object]:
        places = [checked.index._wild[pattern].held for pattern in patterns[1:]]
        return [checked.index._exact["a.b"], *places]

    assert all(each is first for each in held())
    checked.add(*patterns)
    assert all(type(each) is Slot for each in held())
    checked.remove()
    checked.remove()
    checked.check_empty()


def test_only_a_fork_has_a_node() -> None:
    """However many tokens a pattern has, its place is where no other pattern goes."""
    checked = Checked()
    checked.add("a.b.c.*")
    root = checked.index._trie._root
    assert root == {"a": checked.index._wild["a.b.c.*"]}
    checked.add("a.b.d.*")
    checked.add("*.b.c")
    assert [each.rest for each in checked.index._wild.values()] == ["*", "*", "b.c"]
    checked.check("a.b.c.x", "a.b.d.x", "a.b.c", "a.b.c.x.y", "x.b.c")
    checked.remove()
    checked.remove()
    assert root == {"*": checked.index._wild["*.b.c"]}


def test_texts_of_patterns_are_shared() -> None:
    """What many patterns say is one text, so that it takes memory once and is compared at once."""
    checked = Checked()
    checked.add("a.token.*")
    checked.add("a.other.*")
    checked.add("b.token.*")
    checked.add("b.other.*")
    root: Any = checked.index._trie._root
    assert all(mine is yours for mine, yours in zip(root["a"], root["b"], strict=True))
    checked.add("c.*.to.no.end")
    checked.add("d.*.to.no.end")
    assert root["c"].rest is root["d"].rest


def test_a_pattern_that_left_takes_no_memory() -> None:
    """However many patterns come and go, each of its own, what they said is forgotten."""
    index: Index[Listener] = Index()
    index.add(Listener(0), ("client.*.now.*",))

    def come_and_go(first: int) -> None:
        for n in range(first, first + 5000):
            listener, patterns = Listener(n), (f"client.id{n}.now.*", f"client.id{n}.later{n}.**")
            index.add(listener, patterns)
            index.remove(listener, patterns)

    come_and_go(10)
    tracemalloc.start()
    try:
        come_and_go(10_000)
        come_and_go(20_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after < 300_000


@pytest.mark.parametrize(
    ("pattern", "most"), [("topic.n{}", 100), ("topic.n{}.*", 400), ("topic.n{}.*.to.no.end", 450)]
)
def test_memory_of_subscriptions(pattern: str, most: int) -> None:
    """A subscription to a pattern of its own costs the index few bytes, however many tokens."""
    index: Index[Listener] = Index()
    listeners = [Listener(n) for n in range(20_000)]
    patterns = [pattern.format(n) for n in range(20_000)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for listener, each in zip(listeners, patterns, strict=True):
            index.add(listener, (each,))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 20_000 < most


@pytest.mark.parametrize("pattern", ["a.b", "a.*", "**"])
@pytest.mark.parametrize("order", ["first", "last", "any"])
def test_many_subscribers_take_linear_time(pattern: str, order: str) -> None:
    """100,000 come and go, in any order: seconds would mean that each one copies the others."""
    index: Index[Listener] = Index()
    listeners = [Listener(n) for n in range(100_000)]
    began = time.process_time()
    for listener in listeners:
        index.add(listener, (pattern,))
    assert len(reach(index, "a.b").subscriptions) == 100_000
    if order == "last":
        listeners.reverse()
    elif order == "any":
        random.Random(1).shuffle(listeners)
    for listener in listeners:
        index.remove(listener, (pattern,))
    assert reach(index, "a.b").subscriptions == ()
    assert time.process_time() - began < 15
