"""A scheduler and a worker as processes, and a whole fleet on loopback for a first try."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError, one_line
from slmbench.fleet.connection import CONNECT_S, security
from slmbench.fleet.machine_server import Machine
from slmbench.fleet.quiet import calm, calm_server, quiet

#: Seconds between two attempts to find the scheduler again: at first, and after many.
RETURN_S = (2.0, 60.0)


async def serve_scheduler(host: str, port: int, dashboard: str | None, certs: Path | None) -> None:
    """Serve until ended. Prints the address that workers and clients are given."""
    async with _scheduler(host, port, dashboard, certs) as scheduler:
        calm_server(scheduler)
        # A machine that does not answer is one line of the scheduler's own; this logger adds another.
        logging.getLogger("distributed.core").setLevel(logging.CRITICAL)
        print(f"scheduler at {scheduler.address}", flush=True)
        if dashboard is not None:
            # Its port may be another one, where that was taken.
            print(
                f"dashboard at http://{dashboard.rpartition(':')[0]}:{scheduler.http_server.port}/workers", flush=True
            )
        await scheduler.finished()


async def serve_worker(address: str, name: str | None, port: int, certs: Path | None) -> None:
    """Serve this machine until ended. While the scheduler is away it measures on, and goes back when it can.

    Raises:
        CannotRunError: no scheduler answers at the start.
    """
    pause_s = None
    with closing(await asyncio.to_thread(Machine, name)) as machine:
        while True:
            try:
                async with _taking_part(address, machine, certs, port) as served:
                    print(f"machine {machine.name} measures for {address}", flush=True)
                    await served.finished()
                print(f"{address}: the scheduler has ended or is out of reach; waiting for it", flush=True)
                pause_s = RETURN_S[0]
            except CannotRunError:
                # Who was never there may have been given a wrong address.
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
async def local_fleet(name: str = "local") -> AsyncIterator[str]:
    """Yield the address of a fleet of this machine alone, on loopback."""
    async with _scheduler("127.0.0.1", 0, None, None) as scheduler, worker(scheduler.address, name, None):
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
        # Dask serves HTTP in any case; unasked, on loopback and a free port.
        dashboard_address=dashboard or "127.0.0.1:0",
        dashboard=dashboard is not None,
    )


def _no_scheduler(address: str, name: str, error: BaseException) -> str:
    """Return in one line why a worker could not take part."""
    causes = [str(error)]
    while (inner := error.__cause__) is not None:
        error = inner
        causes.append(str(error))
    if any("address already in use" in text.lower() for text in causes):
        return f"{name}: its --port is taken by another process; give it another one, or none"
    if any("name taken" in text for text in causes):
        return f"{address}: the fleet has a machine named {name} already; give this one another --name"
    reason = next((text for text in reversed(causes) if text), type(error).__name__)
    return one_line(f"{address}: no fleet scheduler answers, or it has other certificates: {reason}")
