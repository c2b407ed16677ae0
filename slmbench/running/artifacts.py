"""The artifacts of a run: from the store, or exported in a process of its own; and why some cannot be had."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from slmbench.errors import ERROR_PREFIX, BadInputError, CannotRunError, SlmbenchError
from slmbench.export.artifact_store import find_artifact
from slmbench.export.given_artifact import given_artifact
from slmbench.models.artifact import Artifact, ArtifactSpec, GoldenRecord, read_artifact, same_content
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.plan.planner import Plan
from slmbench.plan.request import RunRequest
from slmbench.records.refusals import refusal_lines
from slmbench.records.schema import SAMPLES_NAME, FailureReason, FailureRecord, read_samples
from slmbench.running.worker_process import explain_exit
from slmbench.system.locks import in_use
from slmbench.system.processes import child_environment

#: Told one short line when the work enters a new stage.
Say = Callable[[str], None]


@dataclass(frozen=True)
class RunArtifacts:
    """The artifacts of a plan, and why those that could not be exported were not."""

    found: dict[tuple[Checkpoint, ArtifactSpec], Artifact]
    failed: dict[tuple[Checkpoint, ArtifactSpec], str]


def get_artifacts(plan: Plan, request: RunRequest, folder: Path, say: Say, holds: ExitStack) -> RunArtifacts:
    """Return every artifact that can be had, held until ``holds`` ends, and why the others cannot.

    What the store lacks is exported; what failed already in a run that is resumed is not tried again.

    Raises:
        CannotRunError: there is not one artifact; a line for each reason.
    """
    found: dict[tuple[Checkpoint, ArtifactSpec], Artifact] = {}
    failed = failed_exports(plan, folder) if request.resume else {}
    # Said once there is something to measure; else they are the error that ends the run.
    failed_lines: list[str] = []
    for checkpoint, spec in plan.artifacts():
        if (checkpoint, spec) in failed:
            continue
        try:
            artifact = _get(checkpoint, spec, request, say)
            # A folder of the user's has a name of its own; what engines compile of it is under its id.
            holds.enter_context(in_use({artifact.folder.name, artifact.manifest.artifact_id}))
            # In the moment between the two; from here on nobody does.
            if not _is_still(artifact):
                raise CannotRunError(
                    f"{artifact.folder}: another slmbench replaced or removed it just now; start again"
                )
            found[checkpoint, spec] = artifact
        except SlmbenchError as error:
            failed[checkpoint, spec] = str(error)
            failed_lines.append(f"failed: {error}")
        if found:
            for line in failed_lines:
                say(line)
            failed_lines.clear()
    if not found:
        raise CannotRunError("\n".join(["nothing can be measured", *failed.values(), *refusal_lines(plan.refusals)]))
    return RunArtifacts(found, failed)


def _get(checkpoint: Checkpoint, spec: ArtifactSpec, request: RunRequest, say: Say) -> Artifact:
    if checkpoint.given is not None:
        reference = None if request.reference is None else resolve(request.reference, offline=request.offline)
        record = None if reference is None else _reference_record(checkpoint, spec, reference, request, say)
        # Only GGUF files say nothing of how pictures are prepared.
        silent = reference is not None and spec.pictures and spec.format == "gguf"
        return given_artifact(checkpoint, spec, record, reference.path if reference and silent else None)
    return find_artifact(checkpoint, spec, note=say) or export_in_child(checkpoint, spec, request, say)


def _reference_record(
    given: Checkpoint, spec: ArtifactSpec, reference: Checkpoint, request: RunRequest, say: Say
) -> GoldenRecord:
    """Return the tokens of the reference that the user names, made in a process of its own.

    Raises:
        CannotRunError: torch cannot run it.
    """
    say(f"running {reference.name} in torch, the reference of {given.name}")
    command = [sys.executable, "-P", "-m", "slmbench.export.reference", checkpoint_name(reference)]
    command += [json.dumps(given.eos_token_ids), json.dumps(given.unfed_token_ids)]
    command += ["pictures"] if spec.pictures else []
    offline = {"HF_HUB_OFFLINE": "1"} if request.offline else {}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**child_environment(), **offline})
    if done.returncode != 0:
        raise CannotRunError(f"--reference {reference.name}: {error_line(done.stderr) or 'torch does not run it'}")
    return GoldenRecord.model_validate_json(done.stdout.strip().splitlines()[-1])


def failed_exports(plan: Plan, folder: Path) -> dict[tuple[Checkpoint, ArtifactSpec], str]:
    """Return what could not be exported when the run in the folder began, with the reasons."""
    records = read_samples(folder / SAMPLES_NAME, [])
    reasons = {
        r.case: r.message for r in records if isinstance(r, FailureRecord) and r.reason is FailureReason.EXPORT_FAILED
    }
    return {(cell.checkpoint, cell.spec): reasons[cell.case.key] for cell in plan.cells if cell.case.key in reasons}


def _is_still(artifact: Artifact) -> bool:
    try:
        return same_content(read_artifact(artifact.folder).stamp, artifact.stamp)
    except BadInputError:
        return False


def export_in_child(checkpoint: Checkpoint, spec: ArtifactSpec, request: RunRequest, say: Say) -> Artifact:
    """Export in a process of its own: torch and the exporters stay out of this one.

    Raises:
        CannotRunError: the checkpoint is not on this machine, or the export fails.
    """
    if not checkpoint.is_here:
        raise CannotRunError(f"{checkpoint.name}: neither the model nor its artifact {spec.label()} is on this machine")
    say(f"exporting {checkpoint.name} to {spec.label()}")
    # -P: a folder named slmbench where the user stands is not the package.
    command = [sys.executable, "-P", "-m", "slmbench", "export", checkpoint_name(checkpoint), "--json"]
    command += ["--format", spec.format, "--precision", spec.weight_precision, "--exporter", spec.exporter]
    command += ["--layout", spec.layout]
    if spec.layout == "static":
        command += ["--input-tokens", str(spec.input_tokens), "--output-tokens", str(spec.output_tokens)]
    if spec.recipe:
        command += ["--recipe", spec.recipe]
    if spec.pictures:
        command += ["--pictures"]
    if spec.target:
        command += ["--target", spec.target]
    if request.offline:
        command += ["--offline"]
    if request.trust_remote_code:
        command += ["--trust-remote-code"]
    if checkpoint.converted_from is not None:
        command += ["--convert-pickles"]
    if checkpoint.dequantized_from is not None:
        command += ["--dequantize"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment())
    if done.returncode != 0:
        reason = error_line(done.stderr) or f"the exporter ended with code {done.returncode}"
        if done.returncode < 0:
            reason = explain_exit(done.returncode, "the exporter", reported=done.stderr)[1]
        raise CannotRunError(f"{checkpoint.name} to {spec.label()}: {reason}")
    # A site customisation may have printed before.
    made = read_artifact(Path(json.loads(done.stdout[max(0, done.stdout.find('{\n "folder"')) :])["folder"]))
    if made.manifest.spec != spec:
        raise CannotRunError(
            f"{checkpoint.name}: {spec.label()} was asked, the export made {made.manifest.spec.label()}"
        )
    return made


def checkpoint_name(checkpoint: Checkpoint) -> str:
    """Return what one types for the checkpoint."""
    if checkpoint.source == "hub":
        return f"{checkpoint.name}@{checkpoint.revision}"
    return checkpoint.name if checkpoint.source == "catalog" else str(checkpoint.path)


def error_line(stderr: str) -> str:
    """Return the error that a child process of ours printed, or its last line."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith(ERROR_PREFIX)]
    return (marked or lines or [""])[-1].removeprefix(ERROR_PREFIX)
