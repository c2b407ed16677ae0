"""``slmbench limits``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from slmbench.errors import BadInputError, nearest, one_line
from slmbench.terms import DEVICES, Device

if TYPE_CHECKING:
    from rich.console import Console

    from slmbench.records.limits import Limits

app = typer.Typer(add_completion=False)


@app.command()
def limits(
    backend: Annotated[str, typer.Option(help="The backend whose engine measures.")] = "openvino",
    device: Annotated[str, typer.Option(help="cpu, gpu or npu.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the engine.", show_default="physical cores")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure again even if there is a stored result.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Measure what a device can do at best: read bandwidth and matrix rate, by the engine itself.

    Stored per machine, engine version and thread count; takes up to 20 s the first time.
    """
    from slmbench.machine.limits import limits_of

    found = limits_of(backend, _device(device), threads, again=again)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    from slmbench.report.text_table import make_console

    _print(found, make_console())


def _device(name: str) -> Device:
    for known in DEVICES:
        if name == known:
            return known
    raise BadInputError(f"unknown device '{name}'. Known: {', '.join(DEVICES)}.{nearest(name, list(DEVICES))}")


def _print(found: Limits, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    load = "" if found.foreign_load is None else f", other processes used {found.foreign_load:.2f} cores"
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    title = f"{found.device} through {versions or found.engine}, {found.threads} threads, {found.measured}{load}"
    console.print(Text(one_line(title)))
    if found.disturbed:
        console.print(Text("these limits may be too low; they are measured again when the machine is quiet"))
    bandwidth = Table(box=None)
    bandwidth.add_column("weights read per step", justify="right")
    bandwidth.add_column("GB/s", justify="right")
    for point in found.bandwidth:
        bandwidth.add_row(f"{point.footprint_bytes / 1e6:.0f} MB", f"{point.bytes_per_s / 1e9:.1f}")
    console.print(bandwidth)
    matrix = Table(box=None)
    matrix.add_column("matrix product in")
    matrix.add_column("GFLOP/s", justify="right")
    matrix.add_column("computed in")
    for precision, rate in found.matrix.items():
        matrix.add_row(precision, f"{rate.flops_per_s / 1e9:.0f}", Text(one_line(rate.effective)))
    for precision, reason in found.refused.items():
        matrix.add_row(precision, "", Text(one_line(reason)))
    console.print(matrix)
