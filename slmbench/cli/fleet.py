"""``slmbench fleet`` and ``slmbench run --fleet``."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slmbench.errors import BadInputError, CannotRunError, ExitCode, one_line
from slmbench.system.extras import missing

if TYPE_CHECKING:
    from slmbench.plan.request import RunRequest

app = typer.Typer(add_completion=False, no_args_is_help=True)

Certs = Annotated[Path | None, typer.Option(help="Folder of certificates that `slmbench fleet certs` made.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow unencrypted TCP to other machines. Only in a network you trust.")
]
Address = Annotated[str, typer.Option(help="The scheduler's address, as the scheduler prints it.")]


@app.callback()
def _root() -> None:
    """Measure one suite on many machines."""


def _need(module: str, what: str) -> None:
    """Refuse what needs a module that is not there. Help does not: it is read before anything is installed.

    Raises:
        CannotRunError: it is not installed.
    """
    if find_spec(module) is None:
        raise CannotRunError(f"{what}; {missing(module)}")


def _need_dask() -> None:
    _need("distributed", "a fleet needs Dask")


@app.command()
def scheduler(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = 8786,
    dashboard: Annotated[str | None, typer.Option(help="HOST:PORT of Dask's dashboard (needs bokeh).")] = None,
    certs: Certs = None,
    insecure: Insecure = False,
) -> None:
    """Start the scheduler."""
    _need_dask()
    from slmbench.fleet.connection import full_address
    from slmbench.fleet.dask_nodes import serve_scheduler

    full_address(f"{host}:{port}", certs, insecure)
    if dashboard is not None:
        _check_dashboard(dashboard)
    _run(serve_scheduler(host, port, dashboard, certs))


@app.command()
def worker(
    scheduler: Address,
    name: Annotated[str | None, typer.Option(help="The machine's name.", show_default="its host name")] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port the scheduler connects to.", show_default="any")
    ] = 0,
    certs: Certs = None,
    insecure: Insecure = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow clients to run a checkpoint's own code here.")
    ] = False,
) -> None:
    """Start a worker on this machine. It measures one run at a time."""
    _need_dask()
    from slmbench.fleet.connection import full_address
    from slmbench.fleet.dask_nodes import serve_worker

    address = full_address(scheduler, certs, insecure)
    _run(serve_worker(address, name, port, certs, trust_remote_code=trust_remote_code))


@app.command()
def status(
    scheduler: Address,
    certs: Certs = None,
    insecure: Insecure = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the machines, the devices they can use, and what they are doing."""
    _need_dask()
    import json

    from slmbench.fleet.client import linked

    async def ask() -> None:
        async with linked(scheduler, certs, insecure) as link:
            machines = [one.about for one in await link.machines()]
        if as_json:
            typer.echo(json.dumps([about.model_dump(mode="json") for about in machines], indent=1))
            return
        if not machines:
            typer.echo("the fleet has no machines", err=True)
        for about in machines:
            usable = "; ".join(f"{device}: {', '.join(names)}" for device, names in about.usable().items())
            cpu = about.fingerprint.hardware.cpu_model
            typer.echo(one_line(f"{about.name}  {about.doing()}  {usable or 'no usable device'}  ({cpu})"))

    _run(ask())


@app.command()
def certs(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Make a set of certificates. Copy the folder to every machine and client of the fleet."""
    _need("cryptography", "certificates need the package cryptography")
    from slmbench.fleet.certs import make

    make(folder)
    typer.echo(f"{folder}: copy it to every machine of the fleet; anyone who has it can run code on all of them")


def run_fleet(
    request: RunRequest,
    address: str,
    where: str | None,
    machines: list[str] | None,
    certs: Path | None,
    insecure: bool,
    as_json: bool,
    each_machine: bool,
    strict: bool,
) -> int:
    """Run ``slmbench run --fleet`` and return its exit code."""
    _need_dask()
    from slmbench.fleet.client import LOCAL, linked, run_on_fleet
    from slmbench.fleet.connection import full_address
    from slmbench.fleet.report import fleet_rows, print_fleet, write_fleet
    from slmbench.fleet.selection import MachineSelection
    from slmbench.report.csv_text import json_rows
    from slmbench.report.text_table import make_console
    from slmbench.system.locks import only_run_in

    if address != LOCAL:
        full_address(address, certs, insecure)
    choice = MachineSelection(tuple(machines or ()), _device(where), each_machine)
    folder = request.resume or request.out or Path("results") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-fleet"

    def say(text: str) -> None:
        typer.echo(one_line(text), err=True)

    async def measure() -> Any:
        async with linked(address, certs, insecure, trust_remote_code=request.trust_remote_code) as link:
            return await run_on_fleet(link, request, folder, choice, say)

    with only_run_in(folder):
        record = _run(measure())
        write_fleet(folder)
    rows = fleet_rows(folder, record)
    if as_json:
        typer.echo(json_rows(rows))
    else:
        print_fleet(make_console(), folder)
    say(f"results are in {folder}")
    failed = any(row["failure"] for row in rows)
    refused = strict and any(machine.left_out for machine in record.machines.values())
    return ExitCode.FAILED if record.not_run or failed or refused else ExitCode.OK


def _check_dashboard(address: str) -> None:
    """Refuse what Dask would ignore without a word: it would start without a dashboard."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadInputError(f"--dashboard {address}: not HOST:PORT; for example 127.0.0.1:8787")
    if find_spec("bokeh") is None:
        raise CannotRunError(f"--dashboard: {missing('bokeh')}")


def _device(where: str | None) -> str | None:
    if where is None:
        return None
    key, _, device = where.partition("=")
    if key != "device" or device not in ("cpu", "gpu", "npu"):
        raise BadInputError(f"--where {where}: not valid; write device=cpu, device=gpu or device=npu")
    return device


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)
