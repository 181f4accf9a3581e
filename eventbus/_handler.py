"""What a callable is, looked at once, when it subscribes.

The answers (is it a coroutine function, does it take one event, which payload does its annotation
ask for, where was it written) cost microseconds; an event has no time for them. What cannot work
is refused here, at the call that registers it, and not at three in the morning at the first event.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from eventbus._payload import Payload
from eventbus.errors import HandlerError
from eventbus.event import Event


class Handler(NamedTuple):
    """A callable and what its looks say."""

    call: Callable[[Event[Any]], Any]
    is_async: bool
    payload: Payload | None


def inspect_handler(handler: object) -> Handler:
    """Look at a callable.

    Raises ``TypeError`` for what is no callable and ``HandlerError`` for a callable that cannot
    handle an event; both say how to mend it.
    """
    looks = _looks_of(handler)
    if looks is not None and looks in _any_event:
        return Handler(handler, _any_event[looks], None)  # type: ignore[arg-type]  # it is a function
    found = _inspect(handler)
    if looks is not None and found.payload is None:
        if len(_any_event) >= MOST_LOOKS:
            _any_event.clear()
        _any_event[looks] = found.is_async
    return found


MOST_LOOKS: Final = 1000
"""How many functions are remembered by their looks."""

Looks = tuple[types.CodeType, str]

_any_event: dict[Looks, bool] = {}
"""Plain functions that take an event of any payload, by their looks; and whether they are async."""

_REMARKABLE: Final = ("__wrapped__", "__signature__", "_is_coroutine_mark", "_is_coroutine")
_ANY: Final = (inspect.Parameter.empty, Any, Event)


def _looks_of(handler: object) -> Looks | None:
    """What decides of a plain function for any event: a ``def`` makes many that look alike.

    None if it takes more to know: it is none, has defaults or attributes that `inspect` heeds,
    or its parameter is annotated with more than the name of an event.
    """
    if type(handler) is not types.FunctionType or handler.__defaults__ or handler.__kwdefaults__:
        return None
    code = handler.__code__
    if not code.co_argcount or any(hasattr(handler, name) for name in _REMARKABLE):
        return None
    annotation = handler.__annotations__.get(code.co_varnames[0], inspect.Parameter.empty)
    if type(annotation) is str and annotation not in code.co_freevars:
        annotation = handler.__globals__.get(annotation)
    if not any(annotation is each for each in _ANY):
        return None
    return code, handler.__qualname__


def _inspect(handler: object) -> Handler:
    if isinstance(handler, str):
        raise TypeError(
            f"handler={handler!r} is a string: the handler comes first, "
            f"for example bus.subscribe(handler, {handler!r})"
        )
    if not callable(handler):
        raise TypeError(
            f"handler={handler!r} is not callable: pass a function that takes the event"
        )
    function = _function_of(handler)
    name = describe_callable(handler)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise HandlerError(
            f"handler {name} is a generator function, which runs nothing when it is called: "
            "remove the 'yield', or read events with 'async with bus.stream(...)'"
        )
    parameter = _event_parameter(handler, function, name)
    model = None if parameter is None else _model_of(parameter.annotation, function, name)
    return Handler(handler, inspect.iscoroutinefunction(function), Payload.of(model))


def describe_callable(handler: object) -> str:
    """The qualified name that a reader of the source would look for."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    name = getattr(handler, "__qualname__", None)
    if isinstance(name, str):
        return name
    return type(handler).__qualname__


def locate_callable(handler: object) -> str:
    """``file:line`` of the handler's source, or the module of a callable without Python source."""
    function: Any = _function_of(handler)
    with contextlib.suppress(ValueError):  # it wraps itself
        function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None:
        return str(getattr(function, "__module__", None) or type(function).__module__)
    return f"{code.co_filename}:{code.co_firstlineno}"


def is_coroutine_function(handler: object) -> bool:
    """Whether calling it only makes a coroutine, which somebody must await."""
    return callable(handler) and inspect.iscoroutinefunction(_function_of(handler))


def _function_of(handler: object) -> object:
    """The function behind partials, bound methods and objects with ``__call__``."""
    while isinstance(handler, functools.partial | staticmethod):
        handler = handler.func if isinstance(handler, functools.partial) else handler.__func__
    if isinstance(handler, types.MethodType):
        return handler.__func__
    if inspect.isroutine(handler) or isinstance(handler, type):
        return handler
    call = type(handler).__call__
    return call if inspect.isroutine(call) else handler


def _event_parameter(handler: Any, function: Any, name: str) -> inspect.Parameter | None:
    """The parameter that the event goes to; None if a builtin does not tell."""
    try:
        signature = inspect.signature(handler)
    except (ValueError, TypeError):
        return None
    parameters = list(signature.parameters.values())
    if _is_unbound_method(handler, function, parameters):
        raise HandlerError(
            f"handler {name} is a method without its object: "
            "pass the method of an instance, for example Billing().on_paid"
        )
    try:
        bound = signature.bind(Event)
    except TypeError as error:
        raise HandlerError(
            f"handler {name}{signature} cannot be called with one event ({error}): "
            "give it exactly one required parameter, the event"
        ) from None
    taken = next(iter(bound.arguments))
    return signature.parameters[taken]


def _is_unbound_method(handler: Any, function: Any, parameters: list[inspect.Parameter]) -> bool:
    if handler is not function or not isinstance(function, types.FunctionType) or not parameters:
        return False
    owner = function.__qualname__.rpartition(".")[0]
    in_a_class = bool(owner) and not owner.endswith("<locals>")
    return in_a_class and parameters[0].name in ("self", "cls")


_ANY_EVENT = re.compile(r"([\w.]+\.)?Event(\[([\w.]+\.)?Any\])?")


def _model_of(annotation: Any, function: Any, name: str) -> Any:
    """The payload type that an annotation asks for; None for an event of any payload."""
    try:
        annotation = _resolve(annotation, function, name)
    except HandlerError:
        if isinstance(annotation, str) and _ANY_EVENT.fullmatch(annotation.strip("'\"")):
            return None  # imported under TYPE_CHECKING only, and nothing to validate
        raise
    members = [_unwrap(member) for member in _members(_unwrap(annotation))]
    if any(member in (inspect.Parameter.empty, Any, object, Event) for member in members):
        return None
    if not all(typing.get_origin(member) is Event for member in members):
        raise HandlerError(
            f"handler {name} is annotated with {_show(annotation)}, and it gets an event: annotate "
            f"it with Event, or with Event[{_show(annotation)}] to get that as event.data"
        )
    models = [typing.get_args(member)[0] for member in members]
    if any(model is Any or isinstance(model, typing.TypeVar) for model in models):
        return None
    return functools.reduce(lambda left, right: typing.Union[left, right], models)  # noqa: UP007 - known only now


def _resolve(annotation: Any, function: Any, name: str) -> Any:
    """What an annotation means where the function was written: it may be text, or have some in it.

    Text is ``"Event[Paid]"`` as well as ``Event["Paid"]``.
    """
    resolved = annotation
    try:
        for _ in range(2):  # text in a module with `from __future__ import annotations`
            if isinstance(resolved, str):
                resolved = eval(resolved, _names_of(function))  # noqa: S307 - the application's own source
        if typing.get_args(resolved):
            holder = types.SimpleNamespace(__annotations__={"event": resolved})
            hints = typing.get_type_hints(holder, _names_of(function), {}, include_extras=True)
            return hints["event"]
    except Exception as error:
        raise HandlerError(
            f"handler {name} is annotated with {annotation!r}, which cannot be resolved ({error}): "
            "import the payload type at run time and define it at module level, "
            "or annotate the parameter with a bare Event"
        ) from None
    return resolved


def _names_of(function: Any) -> dict[str, Any]:
    """What names mean where the function was written."""
    if isinstance(function, type):
        function = vars(function).get("__init__", function)
    source = inspect.unwrap(function)
    names = dict(getattr(source, "__globals__", {}))
    names.update(_closure_of(source))
    return names


def _closure_of(function: Any) -> dict[str, Any]:
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    found = {}
    for name, cell in zip(code.co_freevars if code else (), cells or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet: the name is not known yet either
            continue
    return found


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _unwrap(annotation: Any) -> Any:
    while type(annotation).__name__ == "TypeAliasType":  # the statement `type X = …` of Python 3.12
        annotation = annotation.__value__
    if typing.get_origin(annotation) is typing.Annotated:
        return _unwrap(typing.get_args(annotation)[0])
    return annotation


def _show(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
