"""``slmbench export``: a checkpoint to an artifact in the store."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from slmbench.errors import one_line
from slmbench.terms import Format, Layout, Precision

app = typer.Typer(add_completion=False)


Recipe = Annotated[
    str,
    typer.Option(
        help="How weights are quantised: plain, optimum[:ORG/NAME] (,text=FILE: your text) or genai:KEY=VALUE,..."
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint.")
]
ConvertPickles = Annotated[
    bool, typer.Option("--convert-pickles", help="Turn weights that are pickles into safetensors, once.")
]
Dequantize = Annotated[
    bool, typer.Option("--dequantize", help="Turn quantised weights (fp8, ...) into full precision, once.")
]


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="A catalog name, a Hugging Face folder, or a Hub id.")],
    format_: Annotated[Format, typer.Option("--format", help="What is written.")] = "openvino",
    precision: Annotated[Precision, typer.Option(help="Precision of the weights.")] = "fp32",
    exporter: Annotated[
        str, typer.Option(help="auto, slmbench, generic, optimum (OpenVINO) or genai (ONNX, decoder-only).")
    ] = "auto",
    recipe: Recipe = "plain",
    pictures: Annotated[bool, typer.Option("--pictures", help="Take pictures before the text.")] = False,
    layout: Annotated[Layout, typer.Option(help="static: fixed shapes, for NPUs.")] = "dynamic",
    input_tokens: Annotated[int | None, typer.Option(min=1, help="Static layout: longest prompt.")] = None,
    output_tokens: Annotated[int | None, typer.Option(min=1, help="Static layout: longest answer.")] = None,
    target: Annotated[str | None, typer.Option(help="The graph's target: qnn (static), cuda (dynamic).")] = None,
    soc: Annotated[str | None, typer.Option(help="With --target qnn: the chip to compile for.")] = None,
    revision: Annotated[str | None, typer.Option(help="Hub: branch, tag or commit.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Export again even if the store has it.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Hub: take what is in the cache only.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    convert_pickles: ConvertPickles = False, dequantize: Dequantize = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:  # fmt: skip
    """Export a checkpoint and print where the artifact is."""
    from rich.console import Console
    from rich.markup import escape

    from slmbench.export.build import ensure_artifact
    from slmbench.export.routes import make_spec
    from slmbench.models.checkpoint import resolve
    from slmbench.system.telemetry import output_is_ours

    began = time.perf_counter()
    model = resolve(
        checkpoint, revision=revision, offline=offline, trust_remote_code=trust_remote_code,
        convert_pickles=convert_pickles, dequantize=dequantize,
    )  # fmt: skip
    spec = make_spec(
        model, format_, precision, exporter,
        layout=layout, input_tokens=input_tokens, output_tokens=output_tokens, target=target, soc=soc, recipe=recipe,
        pictures=pictures,
    )  # fmt: skip
    console = Console(stderr=True)
    title = escape(one_line(f"{model.name} to {spec.label()}"))
    # Exporters print; standard output is the result's alone.
    with output_is_ours(), console.status(title) as status:

        def progress(line: str) -> None:
            line = one_line(line)
            status.update(f"{title}: {escape(line)}")
            if not console.is_terminal or line.endswith("exporting again"):
                console.print(line, style="dim", markup=False, highlight=False)

        artifact = ensure_artifact(model, spec, progress=progress, force=force)
    seconds = time.perf_counter() - began
    if as_json:
        result = {"folder": str(artifact.folder), "seconds": round(seconds, 3), "size_bytes": artifact.size_bytes()}
        typer.echo(json.dumps(result | artifact.manifest.model_dump(mode="json"), indent=1))
        return
    typer.echo(f"{artifact.folder}")
    typer.echo(f"{model.name}: {spec.label()}, {artifact.size_bytes() / 1e6:.1f} MB, {seconds:.1f} s")
    typer.echo(f"id {artifact.manifest.artifact_id}, checkpoint {model.digest[:16]}")
