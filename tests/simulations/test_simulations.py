"""Every scenario in many orders of events: some by default, 10,000 with ``-m slow``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from eventbus.testing import Simulation, simulate
from tests.simulations import scenarios_life, scenarios_order, scenarios_waiting

SCENARIOS = [
    *scenarios_order.SCENARIOS,
    *scenarios_life.SCENARIOS,
    *scenarios_waiting.SCENARIOS,
]

FIRST = 100
"""Seeds of the default run."""

ALL = 10_000
"""Seeds of the slow one."""

Scenario = Callable[[Simulation], Awaitable[None]]


@pytest.mark.buses_may_vanish  # thousands of them
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_holds_in_many_orders(scenario: Scenario) -> None:
    """The scenario's promise holds in a hundred orders of events, and they do differ."""
    assert simulate(scenario, seeds=FIRST).orders > FIRST // 4


@pytest.mark.slow
@pytest.mark.buses_may_vanish
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_holds_in_ten_thousand_orders(scenario: Scenario) -> None:
    """The scenario's promise holds in ten thousand orders of events."""
    assert simulate(scenario, seeds=range(FIRST, ALL)).orders > FIRST
