"""Why a cell of a suite cannot run: what is known before anything is exported."""

from __future__ import annotations

from collections.abc import Iterable

from slmbench.backend import (
    Ability,
    Backend,
    PictureLimits,
    SessionOptions,
    ShippedSettings,
    WorkloadAbilities,
    specs_of,
)
from slmbench.case import Workload
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.given_record import LAYOUTS
from slmbench.plan.suite import Cell
from slmbench.system.extras import installed_version, missing
from slmbench.terms import GGUF_PRECISIONS, PRECISIONS, Device

#: What a workload needs beyond one prompt and one answer, and what is said of a backend that lacks it.
_MISSING: dict[Ability, str] = {
    "turns": "cannot continue a conversation",
    "answers": "cannot generate several answers per prompt",
    "random": "cannot sample with a seed",
    "uncached": "cannot run without a K/V cache",
    "ends": "cannot let a model end its answers",
    "pictures": "cannot take pictures",
}


def picture_refusal(checkpoint: Checkpoint, work: Workload) -> str | None:
    """Return why pictures do not go into this model, or None: also where there are none."""
    if not work.images:
        return None
    if checkpoint.vision is None and checkpoint.given is not None and checkpoint.given.layout == "gguf":
        return (
            f"{checkpoint.name} takes no pictures: no projector file (mmproj*.gguf) is next to it; "
            "put it there, or measure the checkpoint that it was made of"
        )
    if checkpoint.vision is None and checkpoint.given is not None:
        return (
            f"{checkpoint.name} takes no pictures: a file of text alone. If it was made of a model that does, measure "
            "that checkpoint: --backend openvino, onnxruntime or torch"
        )
    if checkpoint.vision is None:
        return f"{checkpoint.name} takes no pictures"
    refusal = checkpoint.vision.refusal
    return refusal and f"{checkpoint.name} cannot be measured with pictures: {refusal}"


def length_refusal(checkpoint: Checkpoint, work: Workload) -> str | None:
    """Return why the workload is longer than the model takes, or None."""
    sizes, given, answered = checkpoint.geometry, work.longest_input, max(work.outputs())
    turns = f" after {work.turns} turns" if work.turns > 1 else ""
    if work.images and checkpoint.vision:
        given += work.images * checkpoint.vision.for_picture(work.image_size).prompt_tokens_per_tile
        turns += " with its picture" if work.images == 1 else f" with its {work.images} pictures"
    if sizes.max_input_tokens and given > sizes.max_input_tokens:
        return f"a prompt of {given} tokens{turns} is longer than {checkpoint.name} takes ({sizes.max_input_tokens})"
    total = answered + (given if checkpoint.family == "decoder-only" else 0)
    if sizes.max_total_tokens and total > sizes.max_total_tokens:
        return (
            f"{given} tokens in and {answered} out{turns} are more than the decoder of {checkpoint.name} takes "
            f"({sizes.max_total_tokens})"
        )
    return None


def format_refusal(backend: Backend, checkpoint: Checkpoint, cell: Cell) -> str | None:
    """Return why a backend takes no artifact of the checkpoint, whatever is installed, or None."""
    precision, device, pictures = cell.weight_precision, cell.device, cell.workload.images > 0
    if specs_of(backend, checkpoint, precision, device, pictures=pictures):
        return None
    if pictures and backend.artifact_specs(checkpoint, precision, device):
        reason = backend.picture_refusal(checkpoint) if isinstance(backend, PictureLimits) else None
        return f"{backend.name} {_MISSING['pictures']}" + (f": {reason}" if reason else "")
    if checkpoint.given is not None:
        return f"{backend.name} does not run {LAYOUTS[checkpoint.given.layout]} files of {checkpoint.family} models"
    known = (*PRECISIONS, *(GGUF_PRECISIONS if precision in GGUF_PRECISIONS else ()))
    others = [one for one in known if backend.artifact_specs(checkpoint, one, device)]
    if others:
        return f"{backend.name} takes {', '.join(others)} weights of {checkpoint.family} models, not {precision}"
    return f"{backend.name} takes no {checkpoint.family} models on {device}"


def option_refusal(options_type: type[SessionOptions], names: Iterable[str], others: Iterable[Backend]) -> str | None:
    """Return which option a backend does not have while another backend of the plan has it, or None."""
    known = set().union(*(backend.options_type.model_fields for backend in others))
    missing = [name for name in names if name not in options_type.model_fields and name in known]
    return f"has no option '{missing[0]}'" if missing else None


def batch_refusal(spec: ArtifactSpec, device: Device, work: Workload) -> str | None:
    """Return why so many prompts at once do not run, or None: graphs of fixed shapes, as NPUs take, are made for one.

    openvino-genai makes its own of a dynamic graph.
    """
    if work.batch == 1 or (spec.layout != "static" and device != "npu"):
        return None
    return f"graphs of fixed shapes take 1 prompt at a time, not {work.batch}: use --batch 1"


def ability_refusal(backend: Backend, checkpoint: Checkpoint, spec: ArtifactSpec, work: Workload) -> str | None:
    """Return what the workload asks for that the backend's sessions cannot do, or None."""
    wanted: dict[Ability, bool] = {
        "turns": work.turns > 1,
        "answers": work.answers > 1,
        "random": work.sampling == "random",
        "uncached": work.cache == "off",
        "pictures": work.images > 0,
    }
    return lacking_ability(backend, checkpoint, spec, [ability for ability, asked in wanted.items() if asked])


def lacking_ability(
    backend: Backend, checkpoint: Checkpoint, spec: ArtifactSpec, wanted: Iterable[Ability]
) -> str | None:
    """Return the first of these abilities that the backend's sessions over the artifact do not have, or None."""
    can: frozenset[str] = backend.abilities(checkpoint, spec) if isinstance(backend, WorkloadAbilities) else frozenset()
    # Backends written for version 0.2 call the answers to a prompt "samples".
    can |= {"answers"} if "samples" in can else set()
    for ability in wanted:
        if ability not in can:
            return f"{backend.name} {_MISSING[ability]} ({spec.exporter}'s {spec.layout} artifact)"
    return None


def shipped_refusal(backend: Backend, spec: ArtifactSpec, device: Device) -> str | None:
    """Return why the backend does not open that artifact with its engine's own defaults, or None."""
    if not isinstance(backend, ShippedSettings):
        return f"{backend.name} does not say what its engine's own defaults are: leave out --settings shipped"
    return backend.shipped_refusal(spec, device)


def device_refusal(backend: Backend, device: Device, *, simulate: bool) -> str | None:
    """Return why the backend cannot run on the device here, and what to do; None when it can.

    A CPU is there wherever the engine is installed, so the engine is not imported to ask; a simulation needs no device.
    """
    missing = missing_distribution(backend)
    if missing or device == "cpu" or simulate:
        return missing
    found = [status for status in backend.devices() if status.device == device]
    if any(status.available for status in found):
        return None
    return "; ".join(status.refusal() for status in found)


def undriven(backend: Backend, device: Device) -> str | None:
    """Return that the backend has no way to use such a device, whatever is installed, or None.

    The backend's name is left out: several backends share a line.
    """
    if device == "cpu" or any(status.device == device for status in backend.devices()):
        return None
    return f"no {device.upper()} support; `slmbench devices` lists the backends that have it"


def missing_distribution(backend: Backend) -> str | None:
    """Return which of the backend's distributions is not installed and how to get it, or None."""
    absent = (one for one in backend.distributions if installed_version(one) is None)
    return next(map(missing, absent), None)
