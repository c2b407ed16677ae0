"""Why a cell of a suite cannot run: what is known before anything is exported."""

from __future__ import annotations

from collections.abc import Iterable

from slmbench.backend import Ability, Backend, SessionOptions, WorkloadAbilities
from slmbench.case import Workload
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.given_record import LAYOUTS
from slmbench.terms import GGUF_PRECISIONS, PRECISIONS, Device, Precision

#: What a workload needs beyond one prompt and one answer, and what is said of a backend that lacks it.
_MISSING: dict[Ability, str] = {
    "turns": "cannot continue a conversation",
    "answers": "cannot generate several answers per prompt",
    "random": "cannot sample with a seed",
    "uncached": "cannot run without a K/V cache",
}


def length_refusal(checkpoint: Checkpoint, work: Workload) -> str | None:
    """Return why the workload is longer than the model takes, or None."""
    sizes, given, answered = checkpoint.geometry, work.longest_input, max(work.outputs())
    turns = f" after {work.turns} turns" if work.turns > 1 else ""
    if sizes.max_input_tokens and given > sizes.max_input_tokens:
        return f"a prompt of {given} tokens{turns} is longer than {checkpoint.name} takes ({sizes.max_input_tokens})"
    total = answered + (given if checkpoint.family == "decoder-only" else 0)
    if sizes.max_total_tokens and total > sizes.max_total_tokens:
        return (
            f"{given} tokens in and {answered} out{turns} are more than the decoder of {checkpoint.name} takes "
            f"({sizes.max_total_tokens})"
        )
    return None


def format_refusal(backend: Backend, checkpoint: Checkpoint, precision: Precision, device: Device) -> str:
    """Return why a backend that names no artifact for a checkpoint in a precision has none."""
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


def ability_refusal(backend: Backend, checkpoint: Checkpoint, spec: ArtifactSpec, work: Workload) -> str | None:
    """Return what the workload asks for that the backend's sessions cannot do, or None."""
    can: frozenset[str] = backend.abilities(checkpoint, spec) if isinstance(backend, WorkloadAbilities) else frozenset()
    # Backends written for version 0.2 call the answers to a prompt "samples".
    can |= {"answers"} if "samples" in can else set()
    wanted: dict[Ability, bool] = {
        "turns": work.turns > 1,
        "answers": work.answers > 1,
        "random": work.sampling == "random",
        "uncached": work.cache == "off",
    }
    for ability, asked in wanted.items():
        if asked and ability not in can:
            return f"{backend.name} {_MISSING[ability]} ({spec.exporter}'s {spec.layout} artifact)"
    return None
