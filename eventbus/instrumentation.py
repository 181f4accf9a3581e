"""What the bus tells about itself: one hook protocol, and the hook that writes the log.

=========================  =======  ==========================================================
log event                  level    fields besides ``bus``
=========================  =======  ==========================================================
``delivery.failed``        error    subscription, handler, topic, event_id, attempts; traceback
``delivery.retrying``      warning  subscription, topic, event_id, attempt, pause, raised
``delivery.cancelled``     warning  subscription, topic, event_id, attempts
``handler.stubborn``       warning  subscription, handler, topic, event_id, seconds
``publish.waiting``        warning  topic, event_id, seconds, subscriptions, publishers
``topic.unknown``          warning  topic, suggestion
``pattern.unmatched``      warning  pattern, subscription, suggestion
``hook.failed``            error    hook, method; traceback
``bus.closed``             info     handled, failed, dropped, cancelled
``bus.interrupted``        warning  interrupted, unstarted, abandoned
``loop.lost``              warning  cancelled
=========================  =======  ==========================================================

Times are seconds. Lines carry names, ids, counts and times, never payloads. ``delivery.failed``
comes once per failed delivery, ``delivery.cancelled`` once per cancelled one whose handler had
begun, and ``loop.lost`` once for all that was pending on a closed loop. A traceback is the
application's own, and shows what the application put into its exceptions.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from eventbus.event import Event, RunningDelivery
    from eventbus.outcome import Outcome

__all__ = ["Hook", "LogHook", "LogLine"]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log, before it is written."""

    name: str
    """One of the names in the table above; stable."""
    level: Literal["info", "warning", "error"]
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: BaseException | None = None
    """Where the traceback comes from."""


class Hook:
    """Subclass it, override what you need, and pass it in ``EventBus(hooks=[...])``.

    The bus looks once, when it is made, which methods are overridden, and spends nothing on the
    others. Methods are called in the bus's own thread, except for the ``attempt_`` ones of a
    ``thread=True`` handler; they must be quick and may not raise (a hook that does is named in the
    log, and everything goes on).
    """

    def accepted(self, event: Event[Any], deliveries: int) -> None:
        """An event was accepted, for so many subscriptions, in its publisher's context."""

    def attempt_started(self, event: Event[Any], delivery: RunningDelivery) -> None:
        """A handler is about to run, in its own context: what you set here, it sees."""

    def attempt_ended(
        self, event: Event[Any], delivery: RunningDelivery, error: BaseException | None
    ) -> None:
        """The handler has returned or raised, in the same context."""

    def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
        """A delivery has ended for good, whether its handler ever ran or not. Not for streams."""

    def log(self, line: LogLine) -> None:
        """There is something to tell."""


class LogHook(Hook):
    """Writes lines with structlog if the application has configured it, else with ``logging``.

    In the second case lines go to the logger ``eventbus``, as ``name key=value …``; nothing is
    ever printed by this library itself. Every bus has one.
    """

    def log(self, line: LogLine) -> None:
        """Write the line."""
        structlog = sys.modules.get("structlog")  # not imported, it cannot have been configured
        if structlog is not None and structlog.is_configured():
            logger = structlog.get_logger("eventbus")
            traceback = {} if line.error is None else {"exc_info": line.error}
            getattr(logger, line.level)(line.name, **line.fields, **traceback)
            return
        text = " ".join([line.name, *(f"{key}={value!r}" for key, value in line.fields.items())])
        level = logging.getLevelNamesMapping()[line.level.upper()]
        logging.getLogger("eventbus").log(
            level, "%s", text, exc_info=line.error, extra={"eventbus": dict(line.fields)}
        )


def observers(hooks: Iterable[Hook], *methods: str) -> tuple[Hook, ...]:
    """The hooks that override one of these methods."""
    return tuple(
        hook
        for hook in hooks
        if any(getattr(type(hook), method) is not getattr(Hook, method) for method in methods)
    )


class Log:
    """Makes the lines of one bus and hands them to its hooks."""

    def __init__(self, bus: str, hooks: Iterable[Hook]) -> None:
        self.bus = bus
        self.hooks = observers(hooks, "log")

    def write(
        self,
        name: str,
        level: Literal["info", "warning", "error"],
        error: BaseException | None = None,
        **fields: Any,
    ) -> None:
        """Hand a line to every hook. What a hook raises stops neither the bus nor the others."""
        line = LogLine(name, level, {"bus": self.bus, **fields}, error)
        for hook in self.hooks:
            try:
                hook.log(line)
            except Exception:
                logging.getLogger("eventbus").exception("%r failed to log %s", hook, name)

    def call(self, method: Callable[..., None], *args: Any) -> None:
        """Call a hook's method; name it in the log if it raises."""
        try:
            method(*args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            name = getattr(method, "__name__", "")
            self.write("hook.failed", "error", error, hook=repr(method), method=name)

    def delivery_failed(
        self, owner: Any, event: Event[Any], error: BaseException, attempts: int
    ) -> None:
        self.write(
            "delivery.failed",
            "error",
            error,
            subscription=owner.name,
            handler=owner._describe(),
            topic=event.type,
            event_id=event.id,
            attempts=attempts,
        )

    def delivery_retrying(self, delivery: Any, pause: float) -> None:
        self._about(
            "delivery.retrying",
            delivery,
            attempt=delivery.attempt,
            pause=pause,
            raised=type(delivery.error).__name__,
        )

    def delivery_cancelled(self, delivery: Any) -> None:
        self._about("delivery.cancelled", delivery, attempts=delivery.attempt)

    def handler_stubborn(self, delivery: Any, seconds: float) -> None:
        self._about(
            "handler.stubborn", delivery, handler=delivery.owner._describe(), seconds=seconds
        )

    def _about(self, log_name: str, delivery: Any, **fields: Any) -> None:
        self.write(
            log_name,
            "warning",
            subscription=delivery.owner.name,
            topic=delivery.event.type,
            event_id=delivery.event.id,
            **fields,
        )
