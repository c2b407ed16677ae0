"""An artifact of a tiny checkpoint that a stranger broke, and the worker that opens it as a run does."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from slmbench.case import Case, Workload
from slmbench.models.artifact import MANIFEST_NAME, Artifact, FileEntry, sha256_of
from slmbench.records.schema import LoadRecord
from slmbench.running.load import load_record, open_load
from slmbench.running.settings import MeasureSettings, PlannedCase, tokens_to_avoid
from slmbench.running.worker_process import Worker, WorkerError

#: Backend to the format and the checkpoint that it is attacked with.
SUBJECTS = {
    "llama_cpp": ("gguf", "llama-tiny"),
    "onnxruntime": ("onnx", "t5-tiny"),
    "onnxruntime_genai": ("onnx", "llama-tiny"),
    "openvino": ("openvino", "t5-tiny"),
    "openvino_genai": ("openvino", "llama-tiny"),
    "torch": ("torch", "llama-tiny"),
}


@dataclass
class Victim:
    """Opens artifacts with one backend, in one worker for as long as it lives."""

    backend: str
    good: Artifact
    place: Path
    worker: Worker | None = None
    made: list[Path] = field(default_factory=list)

    def copy(self, changes: dict[str, bytes], *, rehash: bool = True) -> Path:
        """Return a copy of the good artifact with these files; ``rehash``: and the manifest made to fit them."""
        folder = self.place / f"{self.backend}-{len(self.made)}"
        folder.mkdir(parents=True)
        self.made.append(folder)
        manifest = self.good.manifest
        for entry in manifest.files:
            if entry.path not in changes:
                os.link(self.good.folder / entry.path, folder / entry.path)
        for name, data in changes.items():
            (folder / name).write_bytes(data)
        if rehash:
            names = {entry.path for entry in manifest.files} | set(changes)
            entries = tuple(_entry(folder, name) for name in sorted(names))
            manifest = manifest.model_copy(update={"files": entries})
        (folder / MANIFEST_NAME).write_text(manifest.model_dump_json())
        return folder

    def bytes_of(self, name: str) -> bytes:
        return (self.good.folder / name).read_bytes()

    def planned(self, folder: Path, stamp: str = "") -> PlannedCase:
        manifest = self.good.manifest
        case = Case(
            checkpoint=manifest.checkpoint.name, backend=self.backend, device="cpu", format=manifest.spec.format,
            exporter=manifest.spec.exporter, weight_precision="fp32", compute_precision="fp32",
            workload=Workload(input_tokens=16, output_tokens=4),
        )  # fmt: skip
        return PlannedCase(
            case=case, checkpoint=manifest.checkpoint, artifact=folder, artifact_id=manifest.artifact_id, stamp=stamp
        )

    def open(self, folder: Path, stamp: str = "") -> LoadRecord | WorkerError:
        """Open, prove in full and judge, as the survey of a run does."""
        if self.worker is None or not self.worker.alive:
            self.worker = Worker(self.place / f"{self.backend}.log")
        planned = self.planned(folder, stamp)
        settings = MeasureSettings(open_timeout_s=60)
        try:
            load = open_load(self.worker, planned, 0, settings, tokens_to_avoid([planned]), survey=True)
        except WorkerError as failure:
            return failure
        return load_record(load, planned)

    def refused(self, folder: Path, stamp: str = "") -> str:
        """Return the line with which the artifact was refused."""
        failure = self.open(folder, stamp)
        assert isinstance(failure, WorkerError), "it was opened"
        check_line(failure, folder)
        return failure.message


def check_line(failure: WorkerError, folder: Path) -> None:
    """Hold a failure against what is promised: one line, printable, that names the artifact; and no traceback."""
    assert failure.message.isprintable()
    assert "Traceback" not in failure.message
    # Of a dead process, and of tokens that are not the reference's, the case's key says whose they are.
    if failure.reason not in ("crashed", "killed", "wrong tokens"):
        assert str(folder) in failure.message, failure


def _entry(folder: Path, name: str) -> FileEntry:
    path = folder / name
    return FileEntry(path=name, size_bytes=path.stat().st_size, sha256=sha256_of(path))


MakeVictim = Callable[[str], Victim]
