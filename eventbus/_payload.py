"""Does this data fit that model? The one place that asks pydantic.

Typed topics ask when an event is published, typed handlers when it arrives. pydantic is imported
when the first data is checked: a program whose topics have no models does not load it for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from eventbus.errors import PayloadError

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = ["Payload", "model_name"]

_FIELDS_SHOWN = 10
_LOCATION_SHOWN = 100

# pydantic's own words for these would repeat a piece of the payload.
_WORDS = {"union_tag_invalid": "Input tag is not one of the expected tags"}


@final
class Payload:
    """Checks data against one model: a class, or anything else a pydantic ``TypeAdapter`` takes.

    A class of which pydantic can make no schema is checked by ``isinstance``.
    """

    __slots__ = ("_check", "model")

    def __init__(self, model: Any) -> None:
        self.model = model
        self._check: Callable[[Any], Any] | None = None

    @classmethod
    def of(cls, model: Any) -> Payload | None:
        """The checker of a model, or None for a model that any data fits: None, Any, object."""
        return None if model is None or model is Any or model is object else cls(model)

    def validate(self, data: Any, what: str | Callable[[], str]) -> Any:
        """The data as the model. An instance of the model class itself is returned as it is.

        ``what`` says in the error's message for whom the data is: ``"topic 'invoice.paid'"``. It
        may be a function, which is asked only then.

        Raises ``PayloadError`` if the data does not fit. It may be logged, so it names the fields
        and never their values (what a validator of your own says stands in it as it is), and
        neither pydantic's error, which quotes them, nor the data hang on to it. Raises what
        pydantic raises if it can make nothing of the model, and any other error of a validator
        of your own.
        """
        if type(data) is self.model:
            return data
        check = self._check
        if check is None:
            check = self._check = _checker(self.model)
        try:
            return check(data)
        except Exception as error:
            from pydantic import ValidationError

            if not isinstance(error, ValidationError):
                raise
            errors = _without_values(error)
        del data  # some loggers show what a frame knows
        raise _misfit(errors, self.model, what if isinstance(what, str) else what())

    def __repr__(self) -> str:
        return f"Payload({model_name(self.model)})"


def model_name(model: Any) -> str:
    """How people write the model: a class by its name, anything else by its ``repr``."""
    return model.__qualname__ if isinstance(model, type) else repr(model)


def _checker(model: Any) -> Callable[[Any], Any]:
    from pydantic import ConfigDict, InstanceOf, TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError

    try:
        return TypeAdapter(model).validate_python
    except PydanticSchemaGenerationError:
        if hasattr(model, "__required_keys__"):  # a TypedDict, which has no instances
            raise
    if isinstance(model, type):
        instance_of: Any = InstanceOf  # brackets on the name itself are a type, to a type checker
        return TypeAdapter(instance_of[model]).validate_python
    # A class without a schema stands somewhere inside, as in list[Connection].
    return TypeAdapter(model, config=ConfigDict(arbitrary_types_allowed=True)).validate_python


def _without_values(error: ValidationError) -> list[Any]:
    return [
        {**each, "msg": _WORDS.get(each["type"], each["msg"])}
        for each in error.errors(include_input=False, include_url=False, include_context=False)
    ]


def _misfit(errors: list[Any], model: Any, what: str) -> PayloadError:
    fields = [f"{_location(each['loc'])}{each['msg']}" for each in errors[:_FIELDS_SHOWN]]
    if len(errors) > _FIELDS_SHOWN:
        fields.append(f"and {len(errors) - _FIELDS_SHOWN} more")
    return PayloadError(
        f"data for {what} does not fit {model_name(model)}: {'; '.join(fields)}", errors
    )


def _location(loc: tuple[int | str, ...]) -> str:
    path = ".".join(map(str, loc))
    if len(path) > _LOCATION_SHOWN:
        path = path[:_LOCATION_SHOWN] + "…"
    return f"{path}: " if path else ""
