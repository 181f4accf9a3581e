"""The test kit: tests that settle instead of sleep.

=======================  =========================================================================
`capture`                writes down what is published, with assertions that say what was instead
`replace`                lets something else handle the events of one handler
`expect_failure`         says that a handler fails on purpose
`watch`                  checks at the end of a block what went wrong without anybody looking
`FakeClock`, `fake_time` time-outs and retries without waiting
`settle`                 until nothing is pending, for a bounded time
`sign`                   the request that a webhook's sender would send
`wait_all_tasks_blocked` until nothing goes on by itself
`simulate`               runs a coroutine in many orders of events, and finds those that break it
=======================  =========================================================================

Everything works on a bus that the application owns. In pytest, the fixtures ``bus``, ``watch_bus``
and ``fake_clock`` come with the package.
"""

from eventbus.testing._blocked import wait_all_tasks_blocked
from eventbus.testing._capture import Captured, capture
from eventbus.testing._clock import FakeClock, fake_time
from eventbus.testing._failures import ExpectedFailure, expect_failure
from eventbus.testing._replace import Replaced, replace
from eventbus.testing._settle import settle
from eventbus.testing._sign import SignedRequest, sign
from eventbus.testing._simulate import (
    Deadlock,
    Livelock,
    Simulated,
    Simulation,
    SimulationError,
    simulate,
)
from eventbus.testing._watch import watch

__all__ = [
    "Captured",
    "Deadlock",
    "ExpectedFailure",
    "FakeClock",
    "Livelock",
    "Replaced",
    "SignedRequest",
    "Simulated",
    "Simulation",
    "SimulationError",
    "capture",
    "expect_failure",
    "fake_time",
    "replace",
    "settle",
    "sign",
    "simulate",
    "wait_all_tasks_blocked",
    "watch",
]
