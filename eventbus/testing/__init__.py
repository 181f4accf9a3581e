"""Tools for tests of applications that use the bus."""

from eventbus.testing._clock import FakeClock

__all__ = ["FakeClock"]
