"""Workload 5: whom a topic reaches, among ten to a million patterns, without publishing.

The patterns have four tokens: 60 % literal, 20 % ``r.id.m.*``, 10 % ``r.id.**``, 5 % each
``*.id.m.a`` and ``r.id.*.a``; a topic matches two on average. A *hit* is a topic that was matched
before, a *miss* one that was not, or is forgotten: then ours checks it, walks and remembers.
The index is asked itself, with members as small as it allows; peers that remember nothing pay the
same for both. MQTT's separators, and its ``+`` and ``+/#`` for ``*`` and ``**``, are written
into the patterns and topics of paho beforehand, and pymitter's ``**`` is ``*.*``, its nearest.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import product
from typing import Any

from benchmarks import peers
from benchmarks._measure import (
    US,
    Case,
    Contender,
    Figure,
    Goal,
    Round,
    Settings,
    Workload,
    timed,
)
from eventbus._index import Index
from eventbus.topics import check_topic

ROOTS = [f"r{number}" for number in range(50)]
HOT = 500
COLD = 6_000
"""More topics than the caches hold, so that going round them never hits."""

Match = Callable[[str], object]


class Member:
    """The least that an index takes for a subscription."""

    __slots__ = ("number",)

    plain = True

    def __init__(self, number: int) -> None:
        self.number = number


class Matcher:
    """Patterns in one library: how they get in and out, and the two ways to ask."""

    name = "eventbus"
    role: peers.Role = "ours"
    lacks = ""
    distribution: str | None = None
    largest = 10**9
    """The most patterns that it can be asked for in reasonable time."""

    def __init__(self) -> None:
        self.index: Index[Member] = Index()
        self.members = 0

    def spell(self, pattern_or_topic: str) -> str:
        """As the library writes it."""
        return pattern_or_topic

    def add(self, pattern: str) -> Any:
        """Returns what `remove` wants."""
        self.members += 1
        member = Member(self.members)
        self.index.add(member, (pattern,))
        return member

    def remove(self, pattern: str, added: Any) -> None:
        """Take it out again."""
        self.index.remove(added, (pattern,))

    def hit(self, topic: str) -> object:
        """Match a topic as a publish does."""
        return self.index.match(topic) or self.index.route(check_topic(topic))

    def walk(self, topic: str) -> object:
        """Match it without remembering."""
        return self.index.walk(topic)


class Paho(Matcher):
    """paho-mqtt's trie."""

    name = "paho-mqtt"
    role = "peer"
    lacks = "a value per pattern; nothing remembered"
    distribution = "paho-mqtt"

    def __init__(self) -> None:
        self.matcher = peers.load("paho.mqtt.matcher").MQTTMatcher()

    def spell(self, pattern_or_topic: str) -> str:
        """With MQTT's separator and wildcards."""
        tokens = [{"*": "+", "**": "+/#"}.get(each, each) for each in pattern_or_topic.split(".")]
        return "/".join(tokens)

    def add(self, pattern: str) -> Any:
        """A filter is its own handle."""
        self.matcher[pattern] = pattern

    def remove(self, pattern: str, added: Any) -> None:
        """By the filter."""
        del self.matcher[pattern]

    def hit(self, topic: str) -> object:
        """All values."""
        return list(self.matcher.iter_match(topic))

    walk = hit


class Pymitter(Matcher):
    """pymitter's tree, which compares each node of a level."""

    name = "pymitter"
    role = "peer"
    lacks = "no **; nothing remembered"
    distribution = "pymitter"
    largest = 100_000

    def __init__(self) -> None:
        self.emitter = peers.load("pymitter").EventEmitter(wildcard=True)

    def spell(self, pattern_or_topic: str) -> str:
        """The nearest pattern that it has."""
        return pattern_or_topic.replace("**", "*.*")

    def add(self, pattern: str) -> Any:
        """The listener is the same for all."""
        self.emitter.on(pattern, print)

    def remove(self, pattern: str, added: Any) -> None:
        """By pattern and listener."""
        self.emitter.off(pattern, print)

    def hit(self, topic: str) -> object:
        """All listeners."""
        return self.emitter.listeners(topic)

    walk = hit


class Exact(Matcher):
    """A dict by topic: no patterns, so it is a floor."""

    name = "floor: dict hit"
    role = "floor"
    lacks = "no wildcards"

    def __init__(self) -> None:
        self.topics: dict[str, object] = {}

    def hit(self, topic: str) -> object:
        """With a frame around it: `_hit_of` has none."""
        return self.topics.get(topic)

    walk = hit

    def add(self, pattern: str) -> Any:
        """As if it were a topic."""
        self.topics[pattern] = pattern

    def remove(self, pattern: str, added: Any) -> None:
        """By the topic."""
        del self.topics[pattern]


MATCHERS: tuple[type[Matcher], ...] = (Matcher, Paho, Pymitter, Exact)


def make_patterns(number: int) -> list[str]:
    """So many distinct patterns, ten to each id."""
    patterns: list[str] = []
    for id_ in range(-(-number // 10)):
        start = f"{ROOTS[id_ % len(ROOTS)]}.d{id_}"
        patterns += [f"{start}.m{m}.{a}" for m in range(3) for a in "ab"]
        patterns += [f"{start}.m0.*", f"{start}.m1.*", f"{start}.**"]
        patterns.append(f"*.d{id_}.m0.a" if id_ % 2 else f"{start}.*.a")
    return patterns[:number]


def make_topics(number: int, patterns: int, seed: int) -> list[str]:
    """So many distinct topics; of those with a known id, each matches two patterns on average."""
    ids = range(max(patterns // 10, number // 8))
    choice = random.Random(seed)
    topics: dict[str, None] = {}
    while len(topics) < number:
        id_ = choice.choice(ids)
        m, a = choice.randrange(4), choice.choice("abcd")
        topics[f"{ROOTS[id_ % len(ROOTS)]}.d{id_}.m{m}.{a}"] = None
    return list(topics)


def sizes(settings: Settings) -> Iterator[Case]:
    """Hits and misses among more and more patterns."""
    for number in (10, 1_000, 10_000, 100_000, 1_000_000):
        if number <= settings.subscriptions:
            patterns = make_patterns(number)
            yield matching_case(
                f"{number:,} patterns",
                number,
                partial(_prepare_size, patterns, settings),
                figures=[Figure("µs hit", 1e6), Figure("µs miss", 1e6)],
                goals=goals_of(number),
            )


def goals_of(number: int) -> list[Goal]:
    """Which goals a number of patterns has."""
    if number == 1_000_000:
        return [
            Goal(against=Exact.name, at_least=4, aim=2.5),
            Goal(at_least=6, aim=4, figure=1),
        ]
    against = Goal(against=Pymitter.name, at_least=1 / 500, figure=1)
    return [against] if number == 100_000 else []


Prepare = Callable[[type[Matcher], AsyncExitStack], Awaitable[Round]]


def matching_case(
    label: str,
    number: int,
    prepare: Prepare,
    *,
    figures: Sequence[Figure],
    goals: Sequence[Goal] = (),
    without: Sequence[type[Matcher]] = (),
) -> Case:
    """A case of all matchers that can take so many patterns."""
    able = [each for each in MATCHERS if each not in without]
    present = [each for each in able if peers.is_present(each.distribution)]
    return Case(
        label=label,
        figures=figures,
        goals=goals,
        left_out={
            each.name: f"at most {each.largest:,} patterns, or it takes minutes"
            for each in present
            if each.largest < number
        },
        contenders=[
            Contender(
                name=each.name, role=each.role, lacks=each.lacks, prepare=partial(prepare, each)
            )
            for each in present
            if each.largest >= number
        ],
    )


async def _prepare_size(
    patterns: list[str], settings: Settings, kind: type[Matcher], stack: AsyncExitStack
) -> Round:
    matcher = kind()
    for pattern in patterns:
        matcher.add(matcher.spell(pattern))
    hot, cold = (
        [matcher.spell(topic) for topic in make_topics(number, len(patterns), seed=number)]
        for number in (settings.pick(HOT, 20), settings.pick(COLD, 50))
    )
    hit = timed(_asking(_hit_of(matcher), hot), len(hot), settings)
    miss = timed(_asking_on(matcher.hit, cold), 1, settings)
    for topic in hot:
        matcher.hit(topic)

    async def both() -> tuple[float, float]:
        (missed,) = await miss()
        for topic in hot:
            matcher.hit(topic)
        (found,) = await hit()
        return found, missed

    return both


def _hit_of(matcher: Matcher) -> Match:
    """What a publish calls first. No frame of ours is around it, where it can be without."""
    if isinstance(matcher, Exact):
        return matcher.topics.get
    return matcher.index.match if type(matcher) is Matcher else matcher.hit


def _asking(match: Match, topics: list[str]) -> Callable[[int], Awaitable[None]]:
    async def work(times: int) -> None:
        for _ in range(times):
            for topic in topics:
                match(topic)

    return work


def _asking_on(match: Match, topics: list[str]) -> Callable[[int], Awaitable[None]]:
    """One topic a time, going on where the last round ended."""
    position = 0

    async def work(times: int) -> None:
        nonlocal position
        while times:
            some = topics[position : position + times]
            for topic in some:
                match(topic)
            times -= len(some)
            position = (position + len(some)) % len(topics)

    return work


def adversarial(settings: Settings) -> Iterator[Case]:
    """Sets of patterns made to be slow to match, each asked for a topic that is not remembered."""
    depth = settings.pick(10, 3)
    stars = [list(mask) for mask in product((True, False), repeat=depth)]
    tokens = [f"t{number}" for number in range(depth)]
    masks = [".".join("*" if s else t for s, t in zip(m, tokens, strict=True)) for m in stars]
    deep = [f"{mask}.{end}" for mask in masks for end in ("p", "q", "*.r", "*.s")]
    roots = range(settings.pick(5_000, 20))
    for label, patterns, topic in (
        (f"{len(masks):,} masks, all match", masks, ".".join(tokens)),
        (f"{len(deep):,} dead ends, none matches", deep, ".".join([*tokens, "x", "y"])),
        (
            f"{2 * len(roots):,} of r.** and r.s.**, two match",
            [f"r{number}{end}" for number in roots for end in (".**", ".s.**")],
            "r7.s.x.y",
        ),
    ):
        yield matching_case(
            label,
            len(patterns),
            partial(_prepare_walk, patterns, topic, settings),
            figures=[US],
            without=(Pymitter, Exact),
        )


async def _prepare_walk(
    patterns: list[str],
    topic: str,
    settings: Settings,
    kind: type[Matcher],
    stack: AsyncExitStack,
) -> Round:
    matcher = kind()
    for pattern in patterns:
        matcher.add(matcher.spell(pattern))
    return timed(_asking(matcher.walk, [matcher.spell(topic)]), 1, settings)


def churn(settings: Settings) -> Iterator[Case]:
    """A pattern comes, a topic is matched, and the pattern goes, among 100,000 others."""
    number = min(settings.subscriptions, 100_000)
    patterns = make_patterns(number)
    for label, pattern in (
        ("a literal pattern", "other.d1.m1.x"),
        ("a wildcard of another root", "other.d1.*.x"),
        ("a wildcard of the same root", "r1.*.m1.x"),
        ("a wildcard as root", "*.d1.m1.x"),
    ):
        yield matching_case(
            f"churn of {label}, {number:,} others",
            number,
            partial(_prepare_churn, patterns, pattern, settings),
            figures=[Figure("µs cycle", 1e6)],
            without=(Pymitter, Exact),
        )


async def _prepare_churn(
    patterns: list[str],
    pattern: str,
    settings: Settings,
    kind: type[Matcher],
    stack: AsyncExitStack,
) -> Round:
    matcher = kind()
    for each in patterns:
        matcher.add(matcher.spell(each))
    ids = range(1, min(len(patterns) // 10, 5_000), len(ROOTS))
    topics = [matcher.spell(f"r1.d{id_}.m1.a") for id_ in ids]
    spelled = matcher.spell(pattern)

    async def work(times: int) -> None:
        for _ in range(times):
            for topic in topics:
                added = matcher.add(spelled)
                matcher.hit(topic)
                matcher.remove(spelled, added)

    return timed(work, len(topics), settings)


def matching(settings: Settings) -> Iterator[Case]:
    """All of it."""
    yield from sizes(settings)
    yield from adversarial(settings)
    yield from churn(settings)


WORKLOAD = Workload(
    name="matching", title="matching a topic: hit, miss, adversarial sets, churn", cases=matching
)
