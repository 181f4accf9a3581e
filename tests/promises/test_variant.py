"""The surroundings that a run asked for are really there; otherwise it would prove nothing."""

from __future__ import annotations

import asyncio
import os

import eventbus._invariants
import eventbus._pump

VARIANT = os.environ.get("EVENTBUS_TEST_VARIANT", "")


def describe_loop() -> dict[str, bool]:
    """What is special about the running loop."""
    loop = asyncio.get_running_loop()
    eager = getattr(asyncio, "eager_task_factory", None)
    return {
        "eager": eager is not None and loop.get_task_factory() is eager,
        "uvloop": type(loop).__module__.split(".")[0] == "uvloop",
        "debug": loop.get_debug(),
    }


async def describe_loop_later() -> dict[str, bool]:
    return describe_loop()


EXPECTED = {name: name == VARIANT for name in ("eager", "uvloop", "debug")}


async def test_the_loop_of_a_test_is_the_variants() -> None:
    """pytest-asyncio runs tests on the kind of loop that was asked for."""
    assert describe_loop() == EXPECTED


def test_a_loop_that_a_test_makes_is_the_variants() -> None:
    """``asyncio.run`` in a test makes the kind of loop that was asked for."""
    assert asyncio.run(describe_loop_later()) == EXPECTED


def test_the_path_is_the_one_in_the_name(path: str) -> None:
    """The fast path is on in the runs named so, and off in the others."""
    assert eventbus._pump.FAST is (path == "fast")


def test_the_core_checks_its_invariants() -> None:
    """All tests run with the core's own checks on."""
    assert eventbus._invariants.DEBUG
