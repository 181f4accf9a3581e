"""What can be a handler, what is refused at ``subscribe``, and that a refusal leaves nothing."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel

import eventbus
from eventbus import (
    Event,
    EventBus,
    HandlerError,
    NameTaken,
    OptionError,
    PatternError,
    Retry,
    _handler,
)
from eventbus._handler import describe_callable, inspect_handler, locate_callable
from tests.helpers import LogLines, within

if TYPE_CHECKING:
    from decimal import Decimal

    from somewhere import Event as Unknown  # type: ignore[import-not-found]  # the case at hand


class Paid(BaseModel):
    amount: int


# Every kind of callable works.


async def coroutine_function(event: Event[Any]) -> str:
    return f"got {event.data}"


def function(event: Event[Any]) -> str:
    return f"got {event.data}"


def returns_awaitable(event: Event[Any]) -> Awaitable[str]:
    return coroutine_function(event)


def with_defaults(event: Event[Any], colour: str = "red", *rest: str, size: int = 3) -> str:
    return f"got {event.data}"


def positional_only(event: Event[Any], /) -> str:
    return f"got {event.data}"


def anything(*args: Any, **options: Any) -> str:
    return f"got {args[0].data}"


def two_arguments(prefix: str, event: Event[Any]) -> str:
    return f"{prefix} {event.data}"


async def two_arguments_async(event: Event[Any], *, prefix: str) -> str:
    return f"{prefix} {event.data}"


@functools.wraps(coroutine_function)
def wrapper(*args: Any, **options: Any) -> Any:
    return coroutine_function(*args, **options)


@functools.lru_cache
def cached(event: Event[Any]) -> str:
    return f"got {event.data}"


@functools.singledispatch
def dispatched(event: object) -> str:
    return f"got {event.data}"  # type: ignore[attr-defined]  # it is an event


class Future:
    """Awaitable, and no coroutine."""

    def __init__(self, event: Event[Any]) -> None:
        self.event = event

    def __await__(self) -> Generator[Any, Any, str]:
        yield from asyncio.sleep(0).__await__()
        return f"got {self.event.data}"


class Callables:
    async def method(self, event: Event[Any]) -> str:
        return f"got {event.data}"

    def plain_method(self, event: Event[Any]) -> str:
        return f"got {event.data}"

    @classmethod
    async def class_method(cls, event: Event[Any]) -> str:
        return f"got {event.data}"

    @staticmethod
    def static_method(event: Event[Any]) -> str:
        return f"got {event.data}"

    class Nested:
        async def __call__(self, event: Event[Any]) -> str:
            return f"got {event.data}"


class Called:
    def __call__(self, event: Event[Any]) -> str:
        return f"got {event.data}"


GOOD: dict[str, Callable[..., Any]] = {
    "async def": coroutine_function,
    "def": function,
    "def that returns a coroutine": returns_awaitable,
    "def that returns an awaitable": Future,
    "further parameters with defaults": with_defaults,
    "positional only": positional_only,
    "any arguments": anything,
    "lambda": lambda event: f"got {event.data}",
    "async method": Callables().method,
    "method": Callables().plain_method,
    "async class method": Callables.class_method,
    "static method": Callables.static_method,
    "partial": functools.partial(two_arguments, "got"),
    "async partial": functools.partial(two_arguments_async, prefix="got"),
    "partial of a partial": functools.partial(functools.partial(two_arguments_async), prefix="got"),
    "partial of an async method": functools.partial(Callables().method),
    "object with async __call__": Callables.Nested(),
    "object with __call__": Called(),
    "wrapped": wrapper,
    "cached": cached,
    "singledispatch": dispatched,
    "bound __call__": Called().__call__,
}


@pytest.mark.parametrize("handler", GOOD.values(), ids=GOOD.keys())
async def test_every_kind_of_callable_works(handler: Callable[..., Any]) -> None:
    """Each gets the event, and what it returns, or what that is awaited to, is the result."""
    bus = EventBus()
    sub = bus.subscribe(handler, "a")
    (outcome,) = await within(bus.publish_and_wait("a", "it"))
    assert (outcome.status, outcome.result) == ("handled", "got it")
    assert outcome.subscription == sub.name
    assert sub.handler is handler


async def test_a_builtin_works() -> None:
    """``list.append`` is the shortest handler there is."""
    bus = EventBus()
    seen: list[Any] = []
    bus.subscribe(seen.append)
    receipt = await bus.publish("a")
    await within(receipt.outcomes())
    assert seen == [receipt.event]


async def test_the_decorator_returns_the_function_unchanged() -> None:
    """So it can be called, tested and decorated again."""
    bus = EventBus()
    assert bus.on("a")(coroutine_function) is coroutine_function
    assert bus.on()(function) is function
    assert [sub.patterns for sub in bus.subscriptions] == [("a",), ("**",)]


async def test_thread_runs_def_handlers_of_every_kind_in_a_thread() -> None:
    """Functions, partials and objects run beside the loop, not in it."""
    bus = EventBus()
    threads: list[int] = []

    def note(label: str, event: Event[Any]) -> None:
        threads.append(threading.get_ident())

    class Noting:
        def __call__(self, event: Event[Any]) -> None:
            note("object", event)

    bus.subscribe(functools.partial(note, "partial"), thread=True)
    bus.subscribe(Noting(), thread=True)
    await within(bus.publish_and_wait("a"))
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_a_thread_handler_that_returns_an_awaitable_fails() -> None:
    """Nobody could await it there; the error says what to do."""
    bus = EventBus()
    bus.subscribe(returns_awaitable, thread=True)
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert outcome.status == "failed"
    assert "make it async def" in str(outcome.error)


# What is refused.


def takes_nothing() -> None: ...
def takes_two(event: Event[Any], other: Event[Any]) -> None: ...
def takes_a_keyword(*, event: Event[Any]) -> None: ...
def needs_a_keyword(event: Event[Any], *, other: int) -> None: ...
def takes_an_int(event: int) -> None: ...
def takes_a_model(paid: Paid) -> None: ...
def takes_other_events(*events: int) -> None: ...
def takes_a_threading_event(event: threading.Event) -> None: ...
def takes_an_unknown_payload(event: Event[Decimal]) -> None: ...
def takes_a_misspelt_payload(event: Event[Piad]) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - the case at hand
def takes_a_union(event: Event[Paid] | int) -> None: ...


def generates(event: Event[Any]) -> Iterator[int]:
    yield 1


async def generates_async(event: Event[Any]) -> AsyncIterator[int]:
    yield 1


class Billing:
    def on_paid(self, event: Event[Any]) -> None: ...
    def on_anything(self) -> None: ...
    async def on_paid_async(self, event: Event[Any]) -> None: ...


class Generates:
    def __call__(self, event: Event[Any]) -> Iterator[int]:
        yield 1


BAD_HANDLERS: dict[str, tuple[Any, type[Exception], str]] = {
    "None": (None, TypeError, "handler=None is not callable: pass a function"),
    "a string": ("ship", TypeError, "handler='ship' is a string: the handler comes first"),
    "a coroutine's result": (3, TypeError, "handler=3 is not callable"),
    "no parameter": (takes_nothing, HandlerError, "takes_nothing.*exactly one required parameter"),
    "two parameters": (takes_two, HandlerError, "takes_two.*'other'.*exactly one required"),
    "a lambda without": (lambda: None, HandlerError, "lambda.*exactly one required parameter"),
    "keyword only": (takes_a_keyword, HandlerError, "takes_a_keyword.*exactly one required"),
    "keyword needed": (needs_a_keyword, HandlerError, "needs_a_keyword.*exactly one required"),
    "int": (takes_an_int, HandlerError, r"takes_an_int is annotated with int.*Event\[int\]"),
    "model": (takes_a_model, HandlerError, r"takes_a_model.*Event\[Paid\]"),
    "star int": (takes_other_events, HandlerError, r"takes_other_events.*Event\[int\]"),
    "another Event": (takes_a_threading_event, HandlerError, "annotated with .*Event, and it gets"),
    "union with int": (takes_a_union, HandlerError, "takes_a_union is annotated with"),
    "only for type checkers": (
        takes_an_unknown_payload,
        HandlerError,
        r"'Event\[Decimal\]', which cannot be resolved.*import the payload type at run time",
    ),
    "misspelt": (takes_a_misspelt_payload, HandlerError, r"Piad.*or annotate .* a bare Event"),
    "unbound": (Billing.on_paid, HandlerError, r"on_paid is a method without its object"),
    "unbound async": (Billing.on_paid_async, HandlerError, r"without its object.*Billing\(\)"),
    "unbound, one parameter": (Billing.on_anything, HandlerError, "without its object"),
    "generator": (generates, HandlerError, "generates is a generator function.*bus.stream"),
    "async generator": (generates_async, HandlerError, "generator function.*remove the 'yield'"),
    "generating object": (Generates(), HandlerError, "Generates is a generator function"),
    "partial generator": (functools.partial(generates), HandlerError, "is a generator function"),
    "partial, all bound": (
        functools.partial(takes_an_int, 1),
        HandlerError,
        "exactly one required",
    ),
}


@pytest.mark.parametrize(
    ("handler", "error", "message"), BAD_HANDLERS.values(), ids=BAD_HANDLERS.keys()
)
async def test_a_bad_handler_is_refused_at_subscribe(
    handler: Any, error: type[Exception], message: str
) -> None:
    """The error names the handler and the cure, and nothing is registered."""
    bus = EventBus()
    with pytest.raises(error, match=message):
        bus.subscribe(handler, "a", name="mine")
    assert_nothing_registered(bus)


async def where_async(event: Event[Any]) -> bool:
    return False


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "capacity 0": ({"capacity": 0}, OptionError, "capacity=0: pass a whole number of at least 1"),
    "capacity -1": ({"capacity": -1}, OptionError, "capacity=-1: pass a whole number"),
    "capacity 1.5": ({"capacity": 1.5}, OptionError, "capacity=1.5: pass a whole number"),
    "capacity None": ({"capacity": None}, OptionError, "capacity=None: pass a whole number"),
    "capacity True": ({"capacity": True}, OptionError, "capacity=True: pass a whole number"),
    "concurrency 0": ({"concurrency": 0}, OptionError, "concurrency=0: pass a whole number"),
    "concurrency '2'": ({"concurrency": "2"}, OptionError, "concurrency='2': pass a whole"),
    "key alone": ({"key": function}, OptionError, "key has no use with concurrency=1.*pass conc"),
    "key, concurrency=1": (
        {"key": function, "concurrency": 1},
        OptionError,
        "key has no use with concurrency=1",
    ),
    "key no callable": ({"key": "id", "concurrency": 2}, OptionError, "key='id': pass a function"),
    "key async": ({"key": where_async, "concurrency": 2}, OptionError, "key=.*make it def"),
    "where no callable": ({"where": True}, OptionError, "where=True: pass a function"),
    "where async": ({"where": where_async}, OptionError, "where=.*is async def.*make it def"),
    "overflow": ({"overflow": "drop"}, OptionError, "overflow='drop': pass 'block', 'drop_old"),
    "overflow list": ({"overflow": ["block"]}, OptionError, "overflow=.*pass 'block'"),
    "timeout 0": ({"timeout": 0}, OptionError, "timeout=0: pass .* seconds, above 0"),
    "timeout -1": ({"timeout": -1.0}, OptionError, "timeout=-1.0: pass"),
    "timeout nan": ({"timeout": float("nan")}, OptionError, "timeout=nan: pass a finite"),
    "timeout inf": ({"timeout": float("inf")}, OptionError, "timeout=inf: pass a finite"),
    "timeout str": ({"timeout": "5"}, OptionError, "timeout='5': pass a finite number of seconds"),
    "timeout True": ({"timeout": True}, OptionError, "timeout=True: pass"),
    "retry 3": ({"retry": 3}, OptionError, r"retry=3: pass a Retry, for example Retry\("),
    "retry class": ({"retry": Retry}, OptionError, "retry=.*pass a Retry, for example"),
    "once 1": ({"once": 1}, OptionError, "once=1: pass True or False"),
    "thread 'yes'": ({"thread": "yes"}, OptionError, "thread='yes': pass True or False"),
    "thread async": ({"thread": True}, OptionError, "thread=True is for def.*leave thread out"),
    "name ''": ({"name": ""}, OptionError, "name='': pass a string that is not empty"),
    "name 3": ({"name": 3}, OptionError, "name=3: pass a string"),
    "unknown": ({"capcity": 3}, TypeError, "unknown option 'capcity'.*capacity"),
}


@pytest.mark.parametrize(
    ("options", "error", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys()
)
async def test_a_bad_option_is_refused_at_subscribe(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """By ``subscribe`` and by ``on``; the error names the argument and the cure."""
    bus = EventBus()
    with pytest.raises(error, match=message):
        bus.subscribe(coroutine_function, "a", **options)
    with pytest.raises(error, match=message):
        bus.on("a", **options)(coroutine_function)
    assert_nothing_registered(bus)


@pytest.mark.parametrize("pattern", ["", "a..b", "**.a", "a*", ".a", "a.", "$a", "a b", "a.>"])
async def test_a_bad_pattern_is_refused_at_subscribe(pattern: str) -> None:
    """Also beside good ones: nothing is registered for those either."""
    bus = EventBus()
    with pytest.raises(PatternError, match=r"position|empty"):
        bus.subscribe(function, "good", pattern, name="mine")
    assert_nothing_registered(bus)


@pytest.mark.parametrize("pattern", [None, 3, b"a"])
async def test_a_pattern_of_another_type_is_refused_at_subscribe(pattern: Any) -> None:
    """A ``TypeError`` that says what to pass."""
    bus = EventBus()
    with pytest.raises(TypeError, match=r"a pattern is a str, not .*: pass a str such as"):
        bus.subscribe(function, pattern)
    assert_nothing_registered(bus)


async def test_a_bare_decorator_is_refused() -> None:
    """``@bus.on`` without parentheses says what to write."""
    bus = EventBus()
    with pytest.raises(HandlerError, match=r"@bus.on needs parentheses: write '@bus.on\(\"some"):
        bus.on(function)  # type: ignore[call-overload]  # the case at hand
    assert_nothing_registered(bus)


async def test_thread_refuses_async_callables_of_every_kind() -> None:
    """Partials, methods and objects with an async ``__call__`` are seen through."""
    bus = EventBus()
    for handler in (
        functools.partial(two_arguments_async, prefix=""),
        Callables().method,
        Callables.Nested(),
    ):
        with pytest.raises(OptionError, match="thread=True is for def handlers"):
            bus.subscribe(handler, thread=True)
    assert_nothing_registered(bus)


async def test_a_taken_name_is_refused() -> None:
    """The error names the name; it is free again once its subscription has left."""
    bus = EventBus()
    sub = bus.subscribe(function, name="mine")
    with pytest.raises(NameTaken, match="name='mine' is taken"):
        bus.subscribe(function, name="mine")
    assert bus.subscriptions == (sub,)
    sub.unsubscribe()
    assert bus.subscribe(function, name="mine").name == "mine"


def assert_nothing_registered(bus: EventBus) -> None:
    assert bus.subscriptions == ()
    assert bus.describe() == []
    assert bus.publish_nowait("a").done
    assert bus.statistics().accepted == 0
    assert bus.subscribe(function, name="mine").name == "mine", "the name was kept"


# Annotations.

Alias = Event[Paid]


def bare(event: Event) -> None: ...
def unannotated(event) -> None: ...  # type: ignore[no-untyped-def]  # the case at hand
def any_type(event: Any) -> None: ...
def an_object(event: object) -> None: ...
def any_payload(event: Event[Any]) -> None: ...
def optional(event: Event | None) -> None: ...
def qualified(event: eventbus.Event) -> None: ...
def only_for_type_checkers(event: Unknown) -> None: ...
def aliased(event: Alias) -> None: ...
def annotated(event: Annotated[Event[Paid], "why"]) -> None: ...
def unioned(event: Event[Paid] | Event[int]) -> None: ...


NO_PAYLOAD = [bare, unannotated, any_type, an_object, any_payload, optional, qualified]


@pytest.mark.parametrize("handler", NO_PAYLOAD, ids=lambda each: each.__name__)
async def test_an_event_of_any_payload(handler: Callable[..., Any]) -> None:
    """These annotations take the data as it is."""
    assert EventBus().subscribe(handler)._payload is None


@pytest.mark.parametrize(
    ("handler", "model"), [(aliased, Paid), (annotated, Paid), (unioned, Paid | int)]
)
async def test_an_event_of_one_payload(handler: Callable[..., Any], model: Any) -> None:
    """These annotations name what the data must be."""
    payload = EventBus().subscribe(handler)._payload
    assert payload is not None
    assert payload.model == model


@pytest.mark.parametrize("annotation", ["missing.Event", "missing.Event[missing.Any]"])
async def test_a_bare_event_needs_no_resolving(annotation: str) -> None:
    """Imported under ``TYPE_CHECKING`` only, ``Event`` is known by its name."""

    def handler(event: Event[Any]) -> None: ...

    handler.__annotations__["event"] = annotation
    assert EventBus().subscribe(handler)._payload is None


async def test_an_annotation_may_name_what_a_closure_holds() -> None:
    """A model defined beside its handler, inside a function, is found."""

    class Local(BaseModel):
        amount: int

    def handler(event: Event[Local]) -> type[Local]:
        return Local

    payload = EventBus().subscribe(handler)._payload
    assert payload is not None
    assert payload.model is Local


def test_a_name_that_a_closure_has_not_yet_does_not_hide_the_next() -> None:
    """Of what the handler uses, only what its annotation names must be there."""

    class Local(BaseModel):
        amount: int

    def handler(event: Event[Local]) -> object:
        return Local, Alater

    payload = EventBus().subscribe(handler)._payload
    assert payload is not None
    assert payload.model is Local
    Alater = None  # noqa: N806 - it comes before Local in the alphabet, as closures go


# Names.


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (function, "function"),
        (Callables().method, "Callables.method"),
        (functools.partial(two_arguments, ""), "two_arguments"),
        (Called(), "Called"),
        ([].append, "list.append"),
    ],
)
def test_a_callable_is_described_by_the_name_that_a_reader_looks_for(
    handler: Any, name: str
) -> None:
    """Its qualified name; of an object, that of its class."""
    assert describe_callable(handler) == name
    assert EventBus().subscribe(handler).name == name


def test_a_callable_is_located_where_it_is_written() -> None:
    """File and line, seen through partials and wrappers; the module for one without source."""
    line = coroutine_function.__code__.co_firstlineno
    for handler in (coroutine_function, wrapper, functools.partial(coroutine_function)):
        assert locate_callable(handler) == f"{__file__}:{line}"
    assert locate_callable(print) == "builtins"


# Functions that look alike are looked at once; what decides is looked at each time.


def make_handler(kind: str) -> Any:
    """A new function of one of these two, which differ only when they are called."""

    async def take(event: Event) -> str:
        return kind

    def leave(event: Event) -> str:
        return kind

    return take if kind == "async" else leave


@pytest.mark.parametrize("kind", ["async", "def"])
def test_functions_of_one_def_are_looked_at_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is known by its looks, and is itself what is called."""
    inspect_handler(make_handler(kind))
    monkeypatch.setattr(_handler, "_inspect", None)
    second = make_handler(kind)
    assert inspect_handler(second) == (second, kind == "async", None)


def test_an_annotation_that_was_changed_is_seen() -> None:
    """Two functions of one ``def`` may be annotated with different payloads."""
    inspect_handler(make_handler("async"))
    typed = make_handler("async")
    typed.__annotations__["event"] = Event[int]
    payload = inspect_handler(typed).payload
    assert payload is not None
    assert payload.model is int
    assert inspect_handler(make_handler("async")).payload is None


def test_a_signature_that_was_changed_is_seen() -> None:
    """``inspect`` believes it, and so does the bus."""
    inspect_handler(make_handler("def"))
    other = make_handler("def")
    other.__signature__ = inspect.Signature()
    with pytest.raises(HandlerError):
        inspect_handler(other)


def test_not_more_functions_are_remembered_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that makes code at run time does not fill the memory with it."""
    monkeypatch.setattr(_handler, "MOST_LOOKS", 2)
    monkeypatch.setattr(_handler, "_any_event", {})
    for number in range(5):
        names: dict[str, Any] = {}
        exec(f"def handle{number}(event): return {number}", names)  # noqa: S102 - it is the case
        inspect_handler(names[f"handle{number}"])
        assert 1 <= len(_handler._any_event) <= 2


def test_an_annotation_that_each_function_means_differently_is_looked_up() -> None:
    """A closure's own name goes before a global one."""

    def make(Event: Any) -> Any:  # noqa: N803 - it hides the global one

        async def handle(event: Event) -> object:
            return Event

        return handle

    assert inspect_handler(make(Event)).payload is None
    payload = inspect_handler(make(Event[int])).payload
    assert payload is not None
    assert payload.model is int


def takes_text_inside(event: Event["Paid"]) -> int:  # noqa: UP037 - the case at hand
    return event.data.amount


async def test_text_inside_an_annotation_is_resolved() -> None:
    """``Event["Paid"]`` is ``Event[Paid]``, where annotations are evaluated too."""
    handler = types.FunctionType(takes_text_inside.__code__, globals(), takes_text_inside.__name__)
    handler.__annotations__ = {"event": Event["Paid"], "return": int}
    bus = EventBus()
    bus.subscribe(handler, "a")
    (outcome,) = await within(bus.publish_and_wait("a", {"amount": 3}, check=True))
    assert outcome.result == 3


@pytest.mark.parametrize("annotation", [Event["Nowhere"], Event[list["Nowhere"]]])  # type: ignore[name-defined]  # noqa: F821 - the case at hand
async def test_text_inside_that_means_nothing_is_refused(annotation: Any) -> None:
    """At subscribe, with the cure, and not on every event."""

    def handler(event: Any) -> None: ...

    handler.__annotations__ = {"event": annotation}
    bus = EventBus()
    with pytest.raises(HandlerError, match=r"cannot be resolved .*'Nowhere'.*bare Event"):
        bus.subscribe(handler, "a")
    assert_nothing_registered(bus)


def test_a_static_method_is_what_it_wraps() -> None:
    """``@bus.on`` may stand above ``@staticmethod``: what is refused of functions is refused."""
    bus = EventBus()

    def generator(event: Event[Any]) -> Generator[None]:
        yield

    async def coroutine(event: Event[Any]) -> None: ...

    with pytest.raises(HandlerError, match="generator"):
        bus.subscribe(staticmethod(generator), "a")
    with pytest.raises(OptionError, match="thread"):
        bus.subscribe(staticmethod(coroutine), "a", thread=True)
    assert bus.subscribe(staticmethod(coroutine), "a").location.startswith(__file__)


async def test_a_handler_that_wraps_itself_is_located() -> None:
    """Its failure has its line in the log, as any other."""

    def handler(event: Event[Any]) -> None:
        raise ValueError

    handler.__wrapped__ = handler  # type: ignore[attr-defined]  # the case at hand
    lines = LogLines()
    bus = EventBus(hooks=[lines])
    subscription = bus.subscribe(handler, "a")
    await within(bus.publish_and_wait("a"))
    (line,) = lines.named("delivery.failed")
    assert __file__ in line.fields["handler"]
    assert subscription.location.startswith(__file__)
