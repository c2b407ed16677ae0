"""``slmbench inspect``: what an artifact is, by its headers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slmbench.errors import BadInputError, CannotRunError, one_line

if TYPE_CHECKING:
    from slmbench.models.checkpoint import Checkpoint

app = typer.Typer(add_completion=False)


@app.command()
def inspect(
    artifact: Annotated[str, typer.Argument(help="A file, a folder, or a Hub id (user/repo:Q4_K_M).")],
    offline: Annotated[bool, typer.Option("--offline", help="Hub: take what is in the cache only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Describe an artifact: format, model, weights, tokenizer, digest, and the backends that can run it.

    Only headers are read. Nothing in the artifact is run, and nothing is written next to it.
    """
    from slmbench.models.checkpoint import resolve

    checkpoint = resolve(artifact, offline=offline)
    if checkpoint.given is None:
        raise BadInputError(
            f"{artifact}: a checkpoint, no artifact; `slmbench explain {artifact}` counts what it computes"
        )
    found = _summary(checkpoint) | {"backends": _backends(checkpoint)}
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    from rich.markup import escape
    from rich.table import Table

    from slmbench.report.text_table import make_console

    table = Table(box=None, show_header=False)
    for name, text in _lines(found):
        table.add_row(name, escape(one_line(text)))
    make_console().print(table)


def _summary(checkpoint: Checkpoint) -> dict[str, Any]:
    from slmbench.models.given_record import LAYOUTS

    given = checkpoint.given
    assert given is not None
    return {
        "name": checkpoint.name,
        "format": LAYOUTS[given.layout],
        "family": checkpoint.family,
        "architecture": checkpoint.architecture,
        "parameters": checkpoint.parameter_count,
        "precision": given.precision,
        "weight_types": [
            {"type": one.name, "weights": one.weights, "bytes": one.size_bytes,
             "share": round(one.size_bytes / max(1, given.weight_bytes), 4)}
            for one in given.weight_types
        ],
        "bits_per_weight": round(8 * given.weight_bytes / max(1, checkpoint.parameter_count), 2),
        "context_length": given.context_length,
        "tokenizer": given.tokenizer or None,
        "flags": list(given.flags),
        "producer": dict(given.producer),
        "digest": checkpoint.digest,
        "files": [one.model_dump() for one in given.files],
        "projectors": _projectors(checkpoint) if given.layout == "gguf" else [],
    }  # fmt: skip


def _projectors(checkpoint: Checkpoint) -> list[dict[str, str | None]]:
    """Return the projector files next to a GGUF model, and why one cannot be measured with it, or None."""
    from slmbench.given.projector_file import check_width, next_to, read_projector

    assert checkpoint.path is not None
    rows: list[dict[str, str | None]] = []
    for name in next_to(checkpoint.path):
        kind, refusal = None, None
        try:
            found = read_projector(checkpoint.path / name)
            kind, refusal = found.kind, found.refusal()
            check_width(found, checkpoint)
        except BadInputError as error:
            refusal = str(error)
        rows.append({"file": name, "type": kind, "refusal": refusal})
    return rows


def _backends(checkpoint: Checkpoint) -> list[dict[str, str | None]]:
    """Return for each backend why it cannot run the artifact on the CPU, or None."""
    from slmbench.backend import ComputeDefault, load_backends, specs_of
    from slmbench.terms import DEFAULT_COMPUTE

    assert checkpoint.given is not None
    precision = checkpoint.given.precision
    backends, broken = load_backends()
    rows: list[dict[str, str | None]] = [{"backend": name, "refusal": reason} for name, reason in broken.items()]
    for backend in backends:
        specs = specs_of(backend, checkpoint, precision, "cpu")
        compute = checkpoint.given.compute or DEFAULT_COMPUTE[precision]
        if checkpoint.given.compute is None and isinstance(backend, ComputeDefault):
            compute = backend.default_compute(precision, "cpu", simulate=False)
        reason: str | None = f"takes no {checkpoint.given.format} artifacts"
        if specs:
            try:
                options = backend.options_type.model_validate({"compute_precision": compute})
                reason = backend.refusal(checkpoint, specs[0], options, "cpu")
            except CannotRunError as error:
                reason = str(error)
        rows.append({"backend": backend.name, "refusal": reason})
    return sorted(rows, key=lambda row: (row["refusal"] is not None, str(row["backend"])))


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    can = [row["backend"] for row in found["backends"] if row["refusal"] is None]
    types = ", ".join(f"{one['type']} {one['share']:.1%}" for one in found["weight_types"])
    lines = [
        ("artifact", found["name"]),
        ("format", found["format"]),
        ("model", f"{found['architecture']}, {found['family']}, {found['parameters'] / 1e6:,.1f}M parameters"),
        ("precision", f"{found['precision']}, {found['bits_per_weight']:.2f} bits per weight"),
        ("weights", f"{types} (of {sum(one['bytes'] for one in found['weight_types']) / 1e6:,.1f} MB)"),
        ("context", f"{found['context_length']:,} tokens" if found["context_length"] else "not said"),
        ("tokenizer", found["tokenizer"] or "none"),
        ("runs on", ", ".join(map(str, can)) or "no backend"),
    ]
    lines += [("cost", flag) for flag in found["flags"]]
    for one in found["projectors"]:
        able = f"{one['file']} ({one['type']}): measured with `slmbench run --images 1 --reference CHECKPOINT`"
        lines.append(("projector", one["refusal"] or able))
    if not can:
        lines += [(str(row["backend"]), str(row["refusal"])) for row in found["backends"]]
    lines += [("made by", f"{key}: {value}") for key, value in found["producer"].items()]
    files = found["files"]
    lines += [("digest", found["digest"]), ("files", f"{len(files)}: " + ", ".join(one["path"] for one in files[:8]))]
    return lines
