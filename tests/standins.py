"""The stand-in backend of tests/worker as a package, its artifact, and cases of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from slmbench.case import Case, Workload
from slmbench.models.artifact import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    ArtifactSpec,
    FileEntry,
    GoldenPrompt,
    GoldenRecord,
    Manifest,
    sha256_of,
)
from slmbench.models.checkpoint import Checkpoint, Geometry
from slmbench.running.settings import PlannedCase

VOCAB = 1000

GEOMETRY = Geometry(
    vocab_size=VOCAB,
    width=8,
    ffn_width=16,
    ffn_matrices=2,
    encoder_layers=0,
    decoder_layers=1,
    heads=1,
    kv_heads=1,
    head_dim=8,
    tied_embeddings=True,
)
CHECKPOINT = Checkpoint(
    name="standin",
    source="catalog",
    family="decoder-only",
    architecture="none",
    parameter_count=1,
    geometry=GEOMETRY,
    digest="0" * 64,
    eos_token_ids=(1,),
)


def install_plugin(site: Path) -> None:
    """Make a folder, on the path, an environment with the stand-in's package installed."""
    shutil.copy(Path(__file__).parent / "running" / "standin.py", site / "slmbench_standin.py")
    info = site / "slmbench_standin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slmbench-standin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[slmbench.backends]\nstandin = slmbench_standin:StandInBackend\n")


def write_artifact(folder: Path) -> None:
    """Write an artifact whose golden record is what the stand-in says."""
    prompts = tuple(_golden(ids) for ids in ((5, 9, 12), (100, 200)))
    record = GoldenRecord(prompts=prompts, versions={})
    golden = folder / GOLDEN_NAME
    golden.write_text(record.model_dump_json())
    manifest = Manifest(
        artifact_id="standin",
        spec=ArtifactSpec(format="torch", exporter="none"),
        checkpoint=CHECKPOINT,
        graphs={},
        files=(FileEntry(path=GOLDEN_NAME, size_bytes=golden.stat().st_size, sha256=sha256_of(golden)),),
        attention="none",
        decode_weight_bytes=1,
        versions={},
        created="2026-01-01",
        export_seconds=0,
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json())


def _golden(ids: tuple[int, ...]) -> GoldenPrompt:
    tokens, last = [], ids[-1]
    for _ in range(6):
        last = 3 + (last * 7 + 11) % (VOCAB - 3)
        tokens.append(last)
    return GoldenPrompt(input_ids=ids, tokens=tuple(tokens), margins=(0.5,) * 6)


def planned_case(
    artifact: Path, name: str, workload: Workload | None, case: dict[str, Any] | None, options: dict[str, Any]
) -> PlannedCase:
    """Return a case of the stand-in; ``name`` tells keys apart, options go to the backend."""
    fields: dict[str, Any] = {
        "checkpoint": name,
        "backend": "standin",
        "device": "cpu",
        "format": "torch",
        "exporter": "none",
        "weight_precision": "fp32",
        "compute_precision": "fp32",
        "workload": workload or Workload(input_tokens=8, output_tokens=4),
        **(case or {}),
    }
    return PlannedCase(
        case=Case(**fields), checkpoint=CHECKPOINT, artifact=artifact, artifact_id="standin", options=options
    )
