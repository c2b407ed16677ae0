"""``slmbench explain``: FLOPs and bytes of a model, phase by phase."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from slmbench.errors import one_line

app = typer.Typer(add_completion=False)


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="A catalog name, a Hugging Face folder, or a Hub id.")],
    input_tokens: Annotated[int, typer.Option(min=1, help="Length of the prompt.")] = 512,
    output_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer.")] = 64,
    tiles: Annotated[int, typer.Option(min=0, help="Tiles of pictures before the text: one a picture, or more.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Prompts at a time.")] = 1,
    weight_bytes: Annotated[float, typer.Option(help="Bytes of one weight: 4 for fp32, 1 for int8.")] = 4.0,
    kv_bytes: Annotated[float, typer.Option(help="Bytes of one element of K or V.")] = 4.0,
    offline: Annotated[bool, typer.Option("--offline", help="Hub: take what is in the cache only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Count what a generation must compute and read, from the model's sizes alone."""
    from slmbench.case import Workload
    from slmbench.models.checkpoint import resolve
    from slmbench.models.cost_model import phase_rows, with_image_tokens

    checkpoint = resolve(model, offline=offline)
    workload = Workload(batch=batch, input_tokens=input_tokens, output_tokens=output_tokens)
    rows = phase_rows(checkpoint, workload, weight_bytes=weight_bytes, kv_bytes=kv_bytes, tiles=tiles)
    tokens = with_image_tokens(checkpoint, workload, tiles).input_tokens - input_tokens
    if as_json:
        result = {"model": checkpoint.name, "family": checkpoint.family, "workload": workload.model_dump()}
        pictures = {"tiles": tiles, "image_tokens": tokens} if tiles else {}
        typer.echo(json.dumps(result | pictures | {"phases": rows}, indent=1))
        return
    from rich.markup import escape
    from rich.table import Table

    from slmbench.models.vision_cost import vision_weights
    from slmbench.report.text_table import make_console

    seen = f", {tiles} {'tile' if tiles == 1 else 'tiles'} of pictures ({tokens} image tokens)" if tiles else ""
    size = f"{checkpoint.parameter_count / 1e6:.1f}M"
    if tiles and checkpoint.vision is not None:
        size += f" + vision {vision_weights(checkpoint.vision) / 1e6:.1f}M"
    title = f"{checkpoint.name}, {checkpoint.family}, {size}, {workload.label()}{seen}"
    table = Table(box=None, title=escape(one_line(title)), caption="decode_step is one step, the mean over the answer")
    for column in ("phase", "times", "GFLOP", "weights MB", "K/V read MB", "K/V written MB", "FLOP/byte"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for row in rows:
        table.add_row(
            row["phase"],
            str(row["times"]),
            f"{row['flops'] / 1e9:,.3f}",
            *(f"{row[name] / 1e6:,.2f}" for name in ("weight_bytes", "kv_read_bytes", "kv_written_bytes")),
            f"{row['flops_per_byte']:,.1f}",
        )
    make_console().print(table)
