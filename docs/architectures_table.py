"""Makes docs/architectures.md and slmbench/models/architectures.json: which route exports which architecture.

    python docs/architectures_table.py            # every architecture; half an hour on two cores
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

from slmbench.backend import Session, SessionOptions, load_backend
from slmbench.errors import SlmbenchError, first_error_line
from slmbench.export.build import ensure_artifact
from slmbench.export.routes import refusal
from slmbench.measure.proof import agreement
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.models.known_routes import AGREE
from slmbench.terms import MARGIN_TOLERANCE

ROOT = Path(__file__).parents[1]
PAGE, DATA = ROOT / "docs" / "architectures.md", ROOT / "slmbench" / "models" / "architectures.json"
#: Column → backend, format and exporter.
COLUMNS = {
    "openvino optimum": ("openvino", "openvino", "optimum"),
    "openvino slmbench": ("openvino", "openvino", "slmbench"),
    "openvino generic": ("openvino", "openvino", "generic"),
    "onnxruntime genai": ("onnxruntime", "onnx", "genai"),
    "onnxruntime slmbench": ("onnxruntime", "onnx", "slmbench"),
    "onnxruntime generic": ("onnxruntime", "onnx", "generic"),
}
HEAD = """\
# Architectures: which route exports which

Made by `docs/architectures_table.py`, checked by `tests/export/test_every_architecture.py`; not written by hand. A cell
is one small checkpoint with random weights, exported in fp32, opened by the engine and asked for {tokens} golden tokens
of two prompts. **agree**: every token that the reference was sure of came out. A number is the reason below the table.
`slmbench models --architectures` prints the same table.

`auto` asks the routes of a format from left to right: the community's, slmbench's own builder, then `generic`, which
traces the transformers network itself. A type that is not here is tried the same way; its own proof decides. The types
of the catalog (t5, bart, marian, llama, mistral, phi3, qwen3, gemma3_text, smollm3) are exported by every route that
knows them and have tests of their own; what torch and llama.cpp run is in docs/backends.md.

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
    return [*sorted(small.names("decoder-only")), *sorted(small.names("encoder-decoder"))]


def row(name: str, folder: Path, columns: Sequence[str] = tuple(COLUMNS)) -> dict[str, str]:
    """Return the row of an architecture: its family, and for each column ``tokens agree`` or the reason."""
    checkpoint = resolve(str(_small_checkpoints().make(name, folder / name)))
    cells = {title: _short(_cell(checkpoint, *COLUMNS[title]), folder) for title in columns}
    return {"name": name, "family": checkpoint.family, **cells}


def _short(text: str, folder: Path) -> str:
    """Return a reason without what differs from machine to machine, or only in the architecture's name."""
    text = re.sub(r"the architecture '[\w.]+'", "this architecture", text.replace(str(folder), ""))
    return re.sub(r"\s+", " ", text.replace("|", "/"))[:240]


def _cell(checkpoint: Checkpoint, backend_name: str, format_: str, exporter: str) -> str:
    spec = ArtifactSpec.model_validate({"format": format_, "exporter": exporter})
    backend = load_backend(backend_name)
    if spec not in backend.artifact_specs(checkpoint, "fp32", "cpu"):
        return f"{exporter if exporter == 'genai' else backend_name} takes no {checkpoint.family} models"
    reason = refusal(checkpoint, spec)
    if reason is not None:
        return reason
    try:
        artifact = ensure_artifact(checkpoint, spec, progress=lambda _: None)
        session = backend.open(artifact, "cpu", backend.options_type.model_validate(SessionOptions().model_dump()))
        assert isinstance(session, Session)
        prompts = artifact.golden().prompts
        session.reserve(1, max(len(one.input_ids) for one in prompts), max(len(one.tokens) for one in prompts))
        found = agreement(session, prompts, MARGIN_TOLERANCE["fp32"], checkpoint.family)
        session.close()
    except SlmbenchError as error:
        return str(error).partition(f"{checkpoint.name} to {spec.label()}: ")[2] or str(error)
    except Exception as error:  # an engine's, for a graph that it cannot run
        return f"the engine fails: {first_error_line(error)}"
    if artifact.manifest.cross_kv_once is False:
        return "a decoder step computes cross-attention K/V again"
    if found.share == 1.0:
        return AGREE
    return f"{found.compared - found.equal} of {found.compared} golden tokens differ"


def page(rows: Sequence[dict[str, str]]) -> str:
    """Return the page of these rows."""
    reasons: dict[str, int] = {}
    lines = [f"| architecture | {' | '.join(COLUMNS)} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    for one in rows:
        shown = [
            "agree" if one[title] == AGREE else f"{reasons.setdefault(one[title], len(reasons) + 1)}"
            for title in COLUMNS
        ]
        lines.append(f"| {one['name']} | {' | '.join(shown)} |")
    listed = [f"{number}. {reason}" for reason, number in reasons.items()]
    return HEAD.format(tokens=48) + "\n".join([*lines, "", *listed, ""])


def main(asked: Sequence[str]) -> None:
    """Make the rows that were asked for, or all, and write both files."""
    kept = {one["name"]: one for one in json.loads(DATA.read_text(encoding="utf-8"))} if DATA.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked or names():
            kept[name] = row(name, Path(folder))
            print(name, {title: kept[name][title] for title in COLUMNS}, flush=True)
    rows = [kept[name] for name in names() if name in kept]
    DATA.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
