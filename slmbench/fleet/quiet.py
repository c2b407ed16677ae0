"""Dask without what disturbs: its log a line an event, and its watching of itself, which wakes a measuring machine."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from slmbench.errors import one_line

#: Seconds in which the same line is said once: a refused certificate is tried ten times a second.
AGAIN_S = 60.0
#: Seconds between two heartbeats of a worker; the dashboard is as old as that.
HEARTBEAT_S = 5.0
#: Loggers whose handlers Dask sets up; those below them have none of their own.
_LOGGERS = ("distributed", "distributed.client", "tornado", "tornado.application")
#: What a worker's end, in our words, says as well.
_SAID_BY_US = ("Unable to connect to scheduler", "Failed to communicate with scheduler during heartbeat")

#: Dask looks at its own calls, ticks and memory 150 times a second (3 % of a core, seen), for a scheduling of tasks
#: that is not used here; on a machine that measures, each time takes the processor from an engine's thread.
_CALM: dict[str, object] = {
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "1h",
    "distributed.admin.tick.interval": "1h",
    "distributed.admin.tick.limit": "2h",
    "distributed.admin.tick.cycle": "1h",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
}


class OneLine(logging.Filter):
    """Takes tracebacks off records and drops those that were said just now, but for their ports."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is shown; it is one line from here on."""
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage()
        lost = record.name == "asyncio" and isinstance(error, OSError)
        # A task that nobody waits for any more: Dask has said in a line of its own which machine does not answer.
        if lost or text.startswith(_SAID_BY_US):
            return False
        if error is not None and str(error) not in text:
            text = f"{text}: {error}"
        record.msg, record.args = one_line(text), ()
        record.exc_info = record.exc_text = record.stack_info = None
        now, same = time.monotonic(), re.sub(r":\d+", "", text)
        self._said = {line: at for line, at in self._said.items() if now - at < AGAIN_S}
        if same in self._said:
            return False
        self._said[same] = now
        return True


def calm() -> None:
    """Keep Dask from watching itself. Call it before a scheduler or worker of this process is made."""
    import dask

    dask.config.set(_CALM)


def calm_server(server: Any) -> None:
    """Stop what a started scheduler or worker does all the time for tasks, which are not used here: 12 times a second.

    A worker's heartbeat, twice a second, becomes slow: that it is lost is known by its connection.
    """
    from tornado.ioloop import PeriodicCallback

    # No setting of Dask's changes these.
    callbacks = server.periodic_callbacks
    for name in ("idle-timeout", "no-workers-timeout", "find-missing", "heartbeat"):
        if name in callbacks:
            callbacks[name].stop()
    if "heartbeat" in callbacks:
        # One of our own: the scheduler's answers set the pace of Dask's.
        callbacks["slow-heartbeat"] = PeriodicCallback(server.heartbeat, HEARTBEAT_S * 1000)
        callbacks["slow-heartbeat"].start()


def quiet() -> None:
    """Leave of Dask's log what went wrong. Call it when ``distributed`` has been imported: that sets the log up."""
    logging.getLogger("distributed").setLevel(logging.WARNING)
    handlers = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    # asyncio's has no handler, so that the filter is its own.
    for place in (*handlers, logging.getLogger("asyncio")):
        if not any(isinstance(one, OneLine) for one in place.filters):
            place.addFilter(OneLine())
