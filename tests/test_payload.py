"""Does data fit a model, and what is said if it does not."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic.errors import PydanticSchemaGenerationError
from typing_extensions import TypedDict

from eventbus._payload import Payload, _checker, model_name
from eventbus.errors import PayloadError

SECRET = "s3cr3t"


class Connection:
    """A class that pydantic knows nothing about."""


class FastConnection(Connection):
    """A subclass of it."""


class Paid(BaseModel):
    """A model."""

    amount: int
    customer: str = "c"


class Refunded(BaseModel):
    """A model with another in it, and a validator that may fail in three ways."""

    paid: Paid
    how: str = ""

    @field_validator("how")
    @classmethod
    def check_how(cls, how: str) -> str:
        """Fail as the value says."""
        if how == "nested":
            Paid.model_validate({"amount": SECRET})
        if how == "value":
            raise ValueError("not like this")
        if how == "bug":
            raise ZeroDivisionError
        return how


@dataclass
class Job:
    """A dataclass with a schema."""

    number: int


@dataclass
class Work:
    """A dataclass without one."""

    connection: Connection


class Row(NamedTuple):
    """A named tuple without a schema."""

    connection: Connection


class Record(TypedDict):
    """A typed dictionary."""

    number: int


class Holder(TypedDict):
    """A typed dictionary without a schema."""

    connection: Connection


class Card(BaseModel):
    """One of two."""

    kind: Literal["card"]


class Cash(BaseModel):
    """The other."""

    kind: Literal["cash"]


def payload(model: Any) -> Payload:
    """The checker of a model that has one."""
    found = Payload.of(model)
    assert found is not None
    return found


@pytest.mark.parametrize("model", [None, Any, object])
def test_no_model_no_payload(model: Any) -> None:
    """What any data fits needs no checker."""
    assert Payload.of(model) is None


FITTING = [
    (Paid, {"amount": "1"}, Paid(amount=1)),
    (Job, {"number": "1"}, Job(1)),
    (Record, {"number": "1"}, {"number": 1}),
    (dict[str, int], {"a": "1"}, {"a": 1}),
    (Annotated[int, Field(gt=0)], "3", 3),
    (int | str, "3", "3"),
    (Paid | None, None, None),
    (type(None), None, None),
]


@pytest.mark.parametrize(("model", "data", "expected"), FITTING)
def test_data_becomes_the_model(model: Any, data: Any, expected: Any) -> None:
    """Whatever a TypeAdapter takes is a model; it validates again and again."""
    checker = payload(model)
    for _ in range(2):
        assert checker.validate(data, "x") == expected


SAME = [
    (Paid, Paid.model_construct(amount="unchecked")),
    (Job, Job("unchecked")),  # type: ignore[arg-type]  # that is what is tested
    (int, 7),
    (dict, {1: 2}),
    (Connection, Connection()),
    (Connection, FastConnection()),
    (Work, Work(Connection())),
    (Row, Row(Connection())),
]


@pytest.mark.parametrize(("model", "data"), SAME)
def test_an_instance_stays_itself(model: Any, data: Any) -> None:
    """An instance of the model class is returned, not validated and not copied."""
    assert payload(model).validate(data, "x") is data


def test_classes_without_schema_inside() -> None:
    """A class without a schema inside of another model is checked by isinstance."""
    connection = Connection()
    assert payload(list[Connection]).validate((connection,), "x") == [connection]
    with pytest.raises(PayloadError, match=r"0: Input should be an instance of Connection$"):
        payload(list[Connection]).validate([1], "x")


MISFITS = [
    (Paid, {}, "Paid: amount: Field required"),
    (Refunded, {"paid": {}}, "Refunded: paid.amount: Field required"),
    (
        Refunded,
        {"paid": {"amount": 1}, "how": "value"},
        "Refunded: how: Value error, not like this",
    ),
    (Refunded, {"paid": {"amount": 1}, "how": "nested"}, "Refunded: how.amount: Input should be"),
    (
        dict[str, list[int]],
        {"a": [1, "x"]},
        "dict[str, list[int]]: a.1: Input should be a valid int",
    ),
    (int, "x", "int: Input should be a valid integer"),
    (Connection, {}, "Connection: Input should be an instance of Connection"),
    (Work, {"connection": 1}, "Work: Input should be an instance of Work"),
    (type(None), 0, "NoneType: Input should be None"),
    (Paid, {"customer": 1}, "amount: Field required; customer: Input should be a valid string"),
]


@pytest.mark.parametrize(("model", "data", "message"), MISFITS)
def test_data_that_does_not_fit(model: Any, data: Any, message: str) -> None:
    """The error names for whom the data was, the model and each field, as pydantic does."""
    with pytest.raises(PayloadError) as caught:
        payload(model).validate(data, "handler 'ship'")
    assert str(caught.value).startswith("data for handler 'ship' does not fit ")
    assert message in str(caught.value)
    with pytest.raises(ValidationError) as pydantic_says:
        _checker(model)(data)
    assert caught.value.errors == pydantic_says.value.errors(
        include_input=False, include_url=False, include_context=False
    )


LEAKS = [
    (Paid, {"amount": SECRET}),
    (Refunded, {"paid": {"amount": 1}, "how": "nested"}),
    (Annotated[Card | Cash, Field(discriminator="kind")], {"kind": SECRET}),
    (Literal["a"], SECRET),
    (Paid, SECRET),
]


@pytest.mark.parametrize(("model", "data"), LEAKS)
def test_an_error_never_tells_a_value(model: Any, data: Any) -> None:
    """Neither the message nor the list of errors repeats a piece of the payload."""
    with pytest.raises(PayloadError) as caught:
        payload(model).validate(data, "x")
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.errors)
    assert caught.value.errors
    # Nor does what a logger may find around it: other errors, and the variables of its frames.
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    (_, *frames) = traceback.walk_tb(caught.value.__traceback__)
    assert frames
    assert SECRET not in repr([frame.f_locals for frame, _ in frames])


def test_an_error_is_short() -> None:
    """Of many wrong fields the message names ten, and long keys are cut; ``errors`` has all."""
    with pytest.raises(PayloadError, match=r"; and 90 more$") as caught:
        payload(list[int]).validate(["x"] * 100, "x")
    assert len(caught.value.errors) == 100
    with pytest.raises(PayloadError, match=r"9: Input should [^;]*$"):
        payload(list[int]).validate(["x"] * 10, "x")
    assert str(caught.value).count("Input should be") == 10
    with pytest.raises(PayloadError, match="k…: Input should be") as caught:
        payload(dict[str, int]).validate({"k" * 10_000: "x"}, "x")
    assert len(str(caught.value)) < 300


def test_an_error_can_be_pickled() -> None:
    """Message and errors survive a pickle."""
    with pytest.raises(PayloadError) as caught:
        payload(Paid).validate({}, "x")
    twin = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # the test's own pickle
    assert str(twin) == str(caught.value)
    assert twin.errors == caught.value.errors


def test_a_bug_in_a_validator_is_no_misfit() -> None:
    """What a validator raises that is no verdict on the data goes through."""
    with pytest.raises(ZeroDivisionError):
        payload(Refunded).validate({"paid": {"amount": 1}, "how": "bug"}, "x")


def test_a_typed_dictionary_without_schema() -> None:
    """It has no instances to check by, so pydantic's own error with its cure goes through."""
    with pytest.raises(PydanticSchemaGenerationError, match="arbitrary_types_allowed"):
        payload(Holder).validate({"connection": Connection()}, "x")


def test_the_checker_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """pydantic builds one adapter per payload, on the first data that needs it."""
    import pydantic

    made: list[Any] = []
    adapter: Callable[..., Any] = pydantic.TypeAdapter

    def counting(model: Any) -> Any:
        made.append(model)
        return adapter(model)

    monkeypatch.setattr(pydantic, "TypeAdapter", counting)
    checker = payload(Paid)
    checker.validate(Paid(amount=1), "x")
    assert made == []
    for amount in range(3):
        checker.validate({"amount": amount}, "x")
    assert made == [Paid]


def test_names_of_models() -> None:
    """A class by its qualified name, anything else by its repr."""
    assert model_name(Paid) == "Paid"
    assert model_name(dict[str, int]) == "dict[str, int]"
    assert repr(payload(Paid)) == "Payload(Paid)"
