"""A planned case from a few words, for the benchmarks."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from slmbench.backend import load_backend
from slmbench.case import Case, Workload
from slmbench.export.build import ensure_artifact
from slmbench.export.compiled_copies import compiled_dir
from slmbench.models.checkpoint import resolve
from slmbench.running.settings import PlannedCase
from slmbench.terms import Precision


def planned_case(
    model: str,
    backend_name: str,
    *,
    input_tokens: int,
    output_tokens: int,
    threads: int | None = None,
    arm: str = "",
    precision: Precision = "fp32",
) -> PlannedCase:
    """Export the model for the backend where the store lacks it; return the case on the CPU, computed in fp32.

    ``arm`` makes the keys of identical cases different.
    """
    backend, checkpoint = load_backend(backend_name), resolve(model)
    spec = next(s for s in backend.artifact_specs(checkpoint, precision, "cpu") if s.exporter in ("slmbench", "none"))
    # In a process of its own, as `slmbench run` does: torch stays out of the benchmark's memory.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as exporter:
        artifact = exporter.submit(ensure_artifact, checkpoint, spec, progress=print).result()
    case = Case(
        checkpoint=model,
        backend=backend_name,
        device="cpu",
        format=spec.format,
        exporter=spec.exporter,
        weight_precision=precision,
        compute_precision="fp32",
        threads=threads,
        workload=Workload(input_tokens=input_tokens, output_tokens=output_tokens),
        arm=arm or None,
    )
    options = backend.options_type.model_validate(
        {"threads": threads, "engine_cache": str(compiled_dir(artifact.manifest.artifact_id) / backend_name)}
    )
    return PlannedCase(
        case=case,
        checkpoint=checkpoint,
        artifact=artifact.folder,
        artifact_id=artifact.manifest.artifact_id,
        stamp=artifact.stamp,
        options=options.model_dump(mode="json"),
    )
