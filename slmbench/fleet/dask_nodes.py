"""Dask's scheduler and worker, made quiet, and a whole fleet on this machine for a first try."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError, one_line
from slmbench.fleet.connection import CONNECT_S, security, why
from slmbench.fleet.machine_server import Machine

#: Seconds between two attempts to find the scheduler again: at first, and after many.
RETURN_S = (2.0, 60.0)
#: Seconds in which the same line is logged once: a refused certificate is tried ten times a second.
AGAIN_S = 60.0
#: Seconds between two heartbeats of a worker; the dashboard is as old as that.
HEARTBEAT_S = 5.0
#: Loggers whose handlers Dask sets up; the loggers below them have none.
_LOGGERS = ("distributed", "distributed.client", "tornado", "tornado.application")
#: Our own message about a worker's end says this as well.
_SAID_BY_US = ("Unable to connect to scheduler", "Failed to communicate with scheduler during heartbeat")

#: Dask looks at its own calls, ticks and memory 150 times a second (3 % of a core, seen), to schedule tasks,
#: which is not used here. On a machine that measures, each look takes the processor from an engine's thread.
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


async def serve_scheduler(host: str, port: int, dashboard: str | None, certs: Path | None) -> None:
    """Serve until ended. Prints the address for workers and clients."""
    async with _scheduler(host, port, dashboard, certs) as scheduler:
        calm_server(scheduler)
        # The scheduler logs a machine that does not answer; this logger would say it again.
        logging.getLogger("distributed.core").setLevel(logging.CRITICAL)
        print(f"scheduler at {scheduler.address}", flush=True)
        if dashboard is not None:
            # If the port was taken, Dask chose another one.
            print(
                f"dashboard at http://{dashboard.rpartition(':')[0]}:{scheduler.http_server.port}/workers", flush=True
            )
        await scheduler.finished()


async def serve_worker(
    address: str, name: str | None, port: int, certs: Path | None, *, trust_remote_code: bool = False
) -> None:
    """Serve this machine until ended. While the scheduler is away it keeps measuring, and comes back when it can.

    Raises:
        CannotRunError: no scheduler answers at the start.
    """
    pause_s = None
    make = partial(Machine, name, trust_remote_code=trust_remote_code)
    with closing(await asyncio.to_thread(make)) as machine:
        while True:
            try:
                async with _taking_part(address, machine, certs, port) as served:
                    print(f"machine {machine.name} is connected to {address}", flush=True)
                    await served.finished()
                print(
                    f"{address}: the scheduler has ended or cannot be reached; trying again until it is back",
                    flush=True,
                )
                pause_s = RETURN_S[0]
            except CannotRunError:
                # A scheduler that never answered may be a wrong address.
                if pause_s is None:
                    raise
                pause_s = min(2 * pause_s, RETURN_S[1])
            await asyncio.sleep(pause_s)


@asynccontextmanager
async def worker(
    address: str, name: str | None, certs: Path | None, make: Callable[[str | None], Machine] = Machine
) -> AsyncIterator[Any]:
    """Yield a running worker for this machine; ``make`` makes it from its name.

    Raises:
        CannotRunError: no scheduler answers.
    """
    with closing(await asyncio.to_thread(make, name)) as machine:
        async with _taking_part(address, machine, certs) as served:
            yield served


@asynccontextmanager
async def _taking_part(address: str, machine: Machine, certs: Path | None, port: int = 0) -> AsyncIterator[Any]:
    from distributed import Worker
    from distributed.worker import DEFAULT_METRICS

    quiet()
    calm()

    served = Worker(
        address,
        name=machine.name,
        port=port,
        nthreads=1,
        resources=machine.resources(),
        security=security(certs),
        dashboard_address="127.0.0.1:0",
        dashboard=False,
        death_timeout=CONNECT_S,
        memory_limit=0,
        metrics={**DEFAULT_METRICS, **machine.metrics()},
    )
    served.handlers.update(machine.handlers())
    try:
        try:
            await served
        except (OSError, TimeoutError, RuntimeError) as error:
            raise CannotRunError(_no_scheduler(address, machine.name, error)) from error
        calm_server(served)
        yield served
    finally:
        await served.close()


@asynccontextmanager
async def local_fleet(name: str = "local", *, trust_remote_code: bool = False) -> AsyncIterator[str]:
    """Yield the address of a fleet of this machine alone, on loopback."""
    make = partial(Machine, trust_remote_code=trust_remote_code)
    async with _scheduler("127.0.0.1", 0, None, None) as scheduler, worker(scheduler.address, name, None, make):
        calm_server(scheduler)
        yield scheduler.address


def _scheduler(host: str, port: int, dashboard: str | None, certs: Path | None) -> Any:
    from distributed import Scheduler

    quiet()
    calm()

    return Scheduler(
        host=host,
        port=port,
        security=security(certs),
        protocol="tls" if certs else "tcp",
        # Dask always serves HTTP; by default only to this machine, on a free port.
        dashboard_address=dashboard or "127.0.0.1:0",
        dashboard=dashboard is not None,
    )


def _no_scheduler(address: str, name: str, error: BaseException) -> str:
    """Return in one line why a worker could not take part."""
    causes = [why(error)]
    while (inner := error.__cause__) is not None:
        error = inner
        causes.append(why(error))
    if any("address already in use" in text.lower() for text in causes):
        return f"{name}: its --port is used by another process; choose another one, or leave --port out"
    if any("name taken" in text for text in causes):
        return f"{address}: the fleet already has a machine named {name}; choose another --name"
    reason = causes[-1]
    return f"{address}: no fleet scheduler answers, or its certificates differ: {reason}"


class OneLine(logging.Filter):
    """Removes tracebacks from records and drops lines that were just logged, apart from their ports."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show a record, which becomes one line."""
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage()
        lost = record.name == "asyncio" and isinstance(error, OSError)
        # A task that nobody waits for: Dask has already logged which machine does not answer.
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
    """Stop Dask from watching itself. Call it before a scheduler or worker is made in this process."""
    import dask

    dask.config.set(_CALM)


def calm_server(server: Any) -> None:
    """Stop what a scheduler or worker does 12 times a second for tasks, which are not used here.

    A worker's heartbeat, twice a second, becomes slow: a lost worker is noticed by its connection.
    """
    from tornado.ioloop import PeriodicCallback

    # No setting of Dask's changes these.
    callbacks = server.periodic_callbacks
    for name in ("idle-timeout", "no-workers-timeout", "find-missing", "heartbeat"):
        if name in callbacks:
            callbacks[name].stop()
    if "heartbeat" in callbacks:
        # Our own, because the scheduler's answers change the pace of Dask's.
        callbacks["slow-heartbeat"] = PeriodicCallback(server.heartbeat, HEARTBEAT_S * 1000)
        callbacks["slow-heartbeat"].start()


def quiet() -> None:
    """Keep only problems in Dask's log. Call it after importing ``distributed``, which sets the log up."""
    logging.getLogger("distributed").setLevel(logging.WARNING)
    handlers = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    # asyncio's logger has no handler, so it gets the filter itself.
    for place in (*handlers, logging.getLogger("asyncio")):
        if not any(isinstance(one, OneLine) for one in place.filters):
            place.addFilter(OneLine())
