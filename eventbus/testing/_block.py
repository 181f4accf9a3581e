"""What the blocks of the kit have in common: ``with``, and ``async with``, which settles first."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from eventbus.testing._record import check_bus
from eventbus.testing._settle import settle

if TYPE_CHECKING:
    from eventbus import EventBus


class Block:
    """Something that is done with a bus while a block runs, once."""

    def __init__(self, bus: EventBus, timeout: float | None) -> None:
        check_bus(bus)
        self._bus = bus
        self._timeout = timeout
        self._entered = False

    def _begin(self) -> None:
        """The block begins."""

    def _end(self, error: BaseException | None) -> None:
        """The block has ended, or raised."""

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        if self._entered:
            raise RuntimeError(f"{self!r} was entered before: make another one for another block")
        self._entered = True
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        self._end(error)

    async def __aenter__(self) -> Self:
        __tracebackhide__ = True
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        try:
            if error is None:
                await settle(self._bus, timeout=self._timeout)
        except BaseException as late:
            error = late
            raise
        finally:
            self._end(error)
