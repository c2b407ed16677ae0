"""From a checkpoint and a spec to an artifact in the store: found, or exported once."""

from __future__ import annotations

import contextlib
import gc
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from pydantic import ValidationError

from slmbench.errors import CannotRunError, ExporterError
from slmbench.export.artifact_store import (
    UNFINISHED,
    artifacts_dir,
    find_artifact,
    lock_of,
    move_into_place,
    refuse_if_measured,
    write_manifest,
)
from slmbench.export.failed_proofs import FailedProof, remember_failed_proof
from slmbench.export.golden_pictures import golden_after_pictures
from slmbench.export.golden_record import make_golden, reference_versions
from slmbench.export.routes import Exported, Progress, installed_versions, refusal, route
from slmbench.export.stored_weights import stored_weights
from slmbench.models.artifact import (
    GOLDEN_NAME,
    Artifact,
    ArtifactSpec,
    FileEntry,
    GoldenRecord,
    Manifest,
    read_artifact,
)
from slmbench.models.catalog import export_bytes
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.forecast_sizes import parameters_held, written_bytes
from slmbench.models.gguf_layout import MIXTURES
from slmbench.models.picture_processor import PROCESSOR_FILES
from slmbench.models.shipped_golden import shipped_record
from slmbench.system.digests import sha256_of
from slmbench.system.files import make_folder, nearest_folder, write_whole
from slmbench.system.paths import cache_dir, closed_cache
from slmbench.system.telemetry import silence_telemetry

#: What the text of an exporter's failure ends with.
NEXT_ONE = "; from now on --exporter auto takes the next one"


__all__ = ["NEXT_ONE", "ensure_artifact", "resources_refusal"]


def ensure_artifact(checkpoint: Checkpoint, spec: ArtifactSpec, *, progress: Progress, force: bool = False) -> Artifact:
    """Return the artifact from the store, exporting it first if it is missing, damaged or outdated.

    Two processes that want the same artifact: one exports, the other waits for it. An interrupted export leaves
    nothing that is taken for an artifact. ``force`` exports again in any case.

    Raises:
        CannotRunError: no route writes this, too little memory or disk, or a run measures what is to be replaced.
        ExporterError: the exporter fails.
        BadInputError: bounds or weights that do not fit the checkpoint.
    """
    if not force and (found := find_artifact(checkpoint, spec)) is not None:
        return found
    reason = refusal(checkpoint, spec)
    if reason is not None:
        raise CannotRunError(f"{checkpoint.name} to {spec.label()}: {reason}")
    store = artifacts_dir()
    store.mkdir(parents=True, exist_ok=True)
    artifact_id = spec.artifact_id(checkpoint.digest)
    with _locked(lock_of(artifact_id), checkpoint, progress):
        found = None if force else find_artifact(checkpoint, spec, note=progress)
        if found is None:
            refuse_if_measured(store / artifact_id)
        return found or _export(checkpoint, spec, store / artifact_id, progress)


def resources_refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return which memory or disk this machine lacks for an export, with the figures needed and found, or None."""
    if (closed := closed_cache()) is not None:
        return closed
    count = parameters_held(checkpoint, pictures=spec.pictures)
    # One copy in torch, one in the exporter's graph; two routes only write what they hold, tensor by tensor.
    direct = spec.format in ("torch", "gguf")
    memory = export_bytes(count, copies=1 if direct else 2)
    available = psutil.virtual_memory().available
    what = f"exporting {checkpoint.name} ({count / 1e6:.0f}M parameters) to {spec.label()}"
    if memory > available:
        return f"{what} takes about {memory / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available"
    written = written_bytes(checkpoint, spec)
    # Compression starts from an fp32 graph in the same folder, which is deleted at the end.
    # A quantised GGUF is made from one in fp32 as well.
    from_fp32 = spec.weight_precision in MIXTURES if spec.format == "gguf" else not direct
    disk = written + count * 4 if from_fp32 and spec.weight_precision != "fp32" else written
    store = artifacts_dir()
    free = shutil.disk_usage(nearest_folder(store)).free
    if disk > free:
        return (
            f"{what} takes about {disk / 1e9:.1f} GB of disk, {store} has {free / 1e9:.1f} GB free; "
            "`slmbench cache clean` frees some, SLMBENCH_CACHE names another folder"
        )
    return None


@contextmanager
def _locked(path: Path, checkpoint: Checkpoint, progress: Progress) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"another process is exporting {checkpoint.name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _export(checkpoint: Checkpoint, spec: ArtifactSpec, place: Path, progress: Progress) -> Artifact:
    if (lacking := resources_refusal(checkpoint, spec)) is not None:
        raise CannotRunError(lacking)
    silence_telemetry()
    began = time.perf_counter()
    # The lock is ours: what an earlier, killed export of this artifact left is rubbish.
    for leftover in place.parent.glob(f"{UNFINISHED}{place.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = make_folder(place.parent, f"{UNFINISHED}{place.name}-")
    try:
        golden = golden_record(checkpoint, spec, progress)
        (folder / GOLDEN_NAME).write_text(golden.model_dump_json(), encoding="utf-8")
        exported = _written(checkpoint, spec, folder, progress)
        if spec.pictures:
            _keep_processor(checkpoint, folder)
        progress("hashing the files")
        _write_manifest(checkpoint, spec, folder, exported, time.perf_counter() - began)
        move_into_place(folder, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return read_artifact(place)


def _written(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Let the route write; what an exporter fails on is remembered, so that "auto" asks the next one."""
    try:
        return route(spec).writer()(checkpoint, spec, folder, progress)
    except ExporterError as error:
        failure = FailedProof(backend=None, message=str(error), versions=installed_versions())
        remember_failed_proof(spec.artifact_id(checkpoint.digest), failure)
        raise ExporterError(f"{error}{NEXT_ONE}") from error


def _keep_processor(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy what says how pictures are prepared next to the graphs: a worker has the artifact alone."""
    for name in PROCESSOR_FILES:
        if checkpoint.path is not None and (checkpoint.path / name).is_file() and not (folder / name).exists():
            shutil.copyfile(checkpoint.path / name, folder / name)


def golden_record(checkpoint: Checkpoint, spec: ArtifactSpec, progress: Progress) -> GoldenRecord:
    """Return the golden record: shipped, or kept from an export to another format where the same libraries made it."""
    if spec.input_tokens is None and spec.output_tokens is None and not spec.pictures:
        shipped = shipped_record(checkpoint)
        if shipped is not None:
            return shipped
    # optimum-intel's graphs are run by VLMPipeline too, which resizes pictures in a way of its own.
    tiles = spec.exporter == "optimum"
    seen = "pictures-of-tiles" if tiles else "pictures"
    of_what = seen if spec.pictures else f"{spec.input_tokens}-{spec.output_tokens}"
    kept = cache_dir() / "golden" / f"{checkpoint.digest[:32]}-{of_what}.json"
    with contextlib.suppress(OSError, ValidationError):
        record = GoldenRecord.model_validate_json(kept.read_bytes())
        if record.versions == reference_versions():
            return record
    record = _after_pictures(checkpoint, progress, tiles) if spec.pictures else _record(checkpoint, spec, progress)
    gc.collect()
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Two exports may write it at once: the last one wins, both are the same.
    write_whole(kept, record.model_dump_json())
    return record


def _record(checkpoint: Checkpoint, spec: ArtifactSpec, progress: Progress) -> GoldenRecord:
    from slmbench.export.torch_model import load_model

    progress("loading the reference")
    model = load_model(checkpoint)
    progress("generating the golden record")
    return make_golden(model, checkpoint, input_tokens=spec.input_tokens, output_tokens=spec.output_tokens)


def _after_pictures(checkpoint: Checkpoint, progress: Progress, of_tiles: bool) -> GoldenRecord:
    from slmbench.export.picture_network import load_with_pictures

    progress("loading the reference")
    network = load_with_pictures(checkpoint)
    progress("generating the golden record after pictures")
    return golden_after_pictures(network, checkpoint, of_tiles=of_tiles)


def _write_manifest(
    checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, exported: Exported, seconds: float
) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = Manifest(
        artifact_id=spec.artifact_id(checkpoint.digest),
        spec=spec,
        checkpoint=checkpoint,
        graphs=exported.graphs,
        files=tuple(
            FileEntry(path=p.relative_to(folder).as_posix(), size_bytes=p.stat().st_size, sha256=sha256_of(p))
            for p in files
        ),
        attention=exported.attention,
        cross_kv_once=exported.cross_kv_once,
        decode_weight_bytes=exported.decode_weight_bytes,
        recipe=exported.recipe,
        weights=stored_weights(spec, folder, exported.graphs),
        versions=installed_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        export_seconds=round(seconds, 3),
    )
    write_manifest(folder, manifest.model_dump_json(indent=1).encode())
