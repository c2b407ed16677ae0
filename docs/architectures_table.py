"""Makes docs/architectures.md and slmbench/models/architectures.json: which route exports which architecture.

    python docs/architectures_table.py            # every architecture; a good half hour on two cores
    python docs/architectures_table.py gpt2 mt5   # these; the other rows stay

Every cell is a small checkpoint (tests/architectures.py) that was exported in fp32, opened and asked for its golden
tokens. tests/export/test_every_architecture.py does the same and compares.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slmbench.backend import Backend, Session, SessionOptions, load_backend
from slmbench.errors import SlmbenchError, first_error_line
from slmbench.export.build import NEXT_ONE, ensure_artifact
from slmbench.export.routes import refusal
from slmbench.measure.proof import agreement
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.models.known_routes import AGREE, KnownArchitecture
from slmbench.terms import MARGIN_TOLERANCE, Exporter, Format

ROOT = Path(__file__).parents[1]
PAGE, DATA = ROOT / "docs" / "architectures.md", ROOT / "slmbench" / "models" / "architectures.json"
#: Column → backend, format and exporter.
COLUMNS: dict[str, tuple[str, Format, Exporter]] = {
    "torch": ("torch", "torch", "none"),
    "openvino optimum": ("openvino", "openvino", "optimum"),
    "openvino slmbench": ("openvino", "openvino", "slmbench"),
    "openvino generic": ("openvino", "openvino", "generic"),
    "onnxruntime genai": ("onnxruntime", "onnx", "genai"),
    "onnxruntime slmbench": ("onnxruntime", "onnx", "slmbench"),
    "onnxruntime generic": ("onnxruntime", "onnx", "generic"),
    "llama_cpp": ("llama_cpp", "gguf", "slmbench"),
}
#: Types that the catalog has, each by its smallest checkpoint; the others are those of tests/architectures.py.
CATALOG = {
    "llama": "llama-tiny", "mistral": "mistral-tiny", "phi3": "phi3-tiny", "qwen3": "qwen3-tiny",
    "gemma3_text": "gemma3-tiny", "smollm3": "smollm3-tiny", "t5": "t5-tiny", "bart": "bart-tiny",
    "marian": "marian-tiny", "t5gemma.even": "t5gemma-tiny",
}  # fmt: skip
HEAD = """\
# Architectures: which route exports which

Made by `docs/architectures_table.py`, checked by `tests/export/test_every_architecture.py`; not written by hand. A cell
is one small checkpoint with random weights, exported in fp32, opened by the engine and asked for {tokens} golden tokens
of two prompts. **agree**: every token that the reference was sure of came out. A number is the reason below the table.
`slmbench models --architectures` prints the same table.

`auto` asks the routes of a format from left to right: the community's, which decides by its own list what it exports;
slmbench's own builder; then `generic`, which traces the transformers network itself. A route that failed here for every
checkpoint of a type is not chosen by `auto` for that type, and one that fails on your machine is remembered there. A
type that is not here is tried the same way; its own proof decides.

"""


def _small_checkpoints() -> Any:
    spec = importlib.util.spec_from_file_location("architectures", ROOT / "tests" / "architectures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names() -> list[str]:
    """Return every row's name, decoder-only types first."""
    small = _small_checkpoints()
    families = {name: resolve(checkpoint).family for name, checkpoint in CATALOG.items()}
    return [
        name
        for family in ("decoder-only", "encoder-decoder")
        for name in sorted([*small.names(family), *(one for one in CATALOG if families[one] == family)])
    ]


def row(name: str, folder: Path, columns: Sequence[str] = tuple(COLUMNS)) -> KnownArchitecture:
    """Return the row of an architecture: for each column ``tokens agree`` or the reason."""
    made = CATALOG.get(name) or str(_small_checkpoints().make(name, folder / name))
    checkpoint = resolve(made)
    cells, failed = {}, []
    for title in columns:
        was_tried, text = _cell(checkpoint, *COLUMNS[title])
        cells[title] = _short(text, folder)
        if was_tried and text != AGREE:
            failed.append(title)
    return KnownArchitecture(
        name=name, architecture=checkpoint.architecture, family=checkpoint.family, cells=cells, failed=tuple(failed)
    )


def _short(text: str, folder: Path) -> str:
    """Return a reason without what differs from run to run, or only in the architecture's name."""
    text = re.sub(r"\b([A-Z]\w+)_\d{4,}", r"\1", text)
    text = re.sub(r"the architecture '[\w.]+'", "this architecture", text.replace(str(folder), ""))
    return re.sub(r"\s+", " ", text.replace("|", "/"))[:240]


def _cell(checkpoint: Checkpoint, backend_name: str, format_: Format, exporter: Exporter) -> tuple[bool, str]:
    """Return whether the exporter took it and was asked, and what came of it."""
    spec = ArtifactSpec(format=format_, exporter=exporter)
    backend = load_backend(backend_name)
    if spec not in backend.artifact_specs(checkpoint, "fp32", "cpu"):
        return False, f"{exporter if exporter == 'genai' else backend_name} takes no {checkpoint.family} models"
    reason = refusal(checkpoint, spec)
    if reason is not None:
        return False, reason
    return True, _proof(checkpoint, backend, spec)


def _proof(checkpoint: Checkpoint, backend: Backend, spec: ArtifactSpec) -> str:
    try:
        artifact = ensure_artifact(checkpoint, spec, progress=lambda _: None)
        session = backend.open(artifact, "cpu", backend.options_type.model_validate(SessionOptions().model_dump()))
        assert isinstance(session, Session)
        prompts = artifact.golden().prompts
        session.reserve(1, max(len(one.input_ids) for one in prompts), max(len(one.tokens) for one in prompts))
        found = agreement(session, prompts, MARGIN_TOLERANCE["fp32"], checkpoint.family)
        session.close()
    except SlmbenchError as error:
        text = str(error).partition(f"{checkpoint.name} to {spec.label()}: ")[2] or str(error)
        return text.removesuffix(NEXT_ONE)
    except Exception as error:  # an engine's, for a graph that it cannot run
        return f"the engine fails: {first_error_line(error)}"
    if artifact.manifest.cross_kv_once is False and spec.format != "gguf":
        return "a decoder step computes cross-attention K/V again"
    if found.share == 1.0:
        return AGREE
    return f"{found.compared - found.equal} of {found.compared} golden tokens differ"


def page(rows: Sequence[KnownArchitecture]) -> str:
    """Return the page of these rows."""
    reasons: dict[str, int] = {}
    lines = [f"| architecture | {' | '.join(COLUMNS)} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    for one in rows:
        shown = [
            "agree" if cell == AGREE else f"{reasons.setdefault(cell, len(reasons) + 1)}"
            for cell in (one.cells[title] for title in COLUMNS)
        ]
        lines.append(f"| {one.name} | {' | '.join(shown)} |")
    listed = [f"{number}. {reason}" for reason, number in reasons.items()]
    return HEAD.format(tokens=48) + "\n".join([*lines, "", *listed, ""])


def read() -> dict[str, KnownArchitecture]:
    """Return the rows that are kept, by name."""
    return {one["name"]: KnownArchitecture.model_validate(one) for one in json.loads(DATA.read_text(encoding="utf-8"))}


def main(asked: Sequence[str]) -> None:
    """Make the rows that were asked for, or all, and write both files."""
    kept = read() if asked else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked or names():
            kept[name] = row(name, Path(folder))
            print(name, kept[name].cells, flush=True)
    rows = [kept[name] for name in names() if name in kept]
    DATA.write_text(json.dumps([one.model_dump(mode="json") for one in rows], indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
