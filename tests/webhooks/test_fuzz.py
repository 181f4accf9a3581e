"""Any bytes at all in headers, target and body: an event or a typed error, never anything else."""

from __future__ import annotations

import collections
import os
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventbus.webhooks._request import Request
from eventbus.webhooks._verification import verify_request
from eventbus.webhooks.errors import WebhookError
from tests.webhooks.fuzzing import (
    STATUSES,
    TABLE,
    check,
    mutated,
    read_corpus,
    request_of,
    seeds,
)
from tests.webhooks.samples import SAMPLES, Sample

CASES = int(os.environ.get("EVENTBUS_FUZZ_CASES", "1000000"))


@given(st.binary(max_size=300))
@example(b"")
def test_any_input(data: bytes) -> None:
    """An input of the fuzzers has an outcome, whatever it is."""
    check(data)


@pytest.mark.parametrize("data", [*seeds(), *read_corpus()], ids=lambda data: data[:24].hex())
def test_the_corpus(data: bytes) -> None:
    """What guided fuzzing has found worth keeping has an outcome."""
    check(data)


NAMES = [name for target in TABLE for name in target.names]
requests = st.builds(
    Request,
    st.text(max_size=8),
    st.text(max_size=30),
    st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=80)), max_size=6).map(tuple),
    st.binary(max_size=80),
)


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
@given(request=requests, now=st.floats(0, 1e12))
def test_any_request(sample: Sample, request: Request, now: float) -> None:
    """A request that nobody has signed is refused with a typed error, at any time."""
    with pytest.raises(WebhookError) as raised:
        verify_request(sample.scheme, sample.scheme.body, "{type}", request, now)
    assert raised.value.status in STATUSES


def test_inputs_reach_everything() -> None:
    """The fuzzers' inputs are no mere noise: they reach events, and each kind of refusal."""
    chance = random.Random(1)
    known = [*seeds(), *read_corpus()]
    outcomes = collections.Counter(check(mutated(chance, known)) for _ in range(4000))
    assert outcomes.keys() >= {
        "DuplicateHeader",
        "InvalidEnvelope",
        "InvalidJson",
        "MalformedHeader",
        "NoMatchingSignature",
        "event",
    }
    assert {request_of(bytes([n]))[0] for n in range(len(TABLE))} == set(TABLE)


@pytest.mark.slow
def test_a_million_inputs() -> None:
    """So many inputs near what senders send, and not one of them breaks anything.

    EVENTBUS_FUZZ_CASES is how many; the seed is new each time, and is part of a failure's message.
    """
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    known = [*seeds(), *read_corpus()]
    for number in range(CASES):
        data = mutated(chance, known)
        try:
            check(data)
        except BaseException as error:
            raise AssertionError(f"seed {seed}, case {number}: {data!r}") from error
