"""What a session is opened with where nobody says: compute precision, attention path, and the options together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from slmbench.backend import AttentionDefault, Backend, ComputeDefault, SessionOptions
from slmbench.errors import BadInputError
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.suite import Cell, Suite
from slmbench.terms import DEFAULT_COMPUTE, ComputePrecision, Settings

if TYPE_CHECKING:
    from slmbench.plan.planner import PlanOptions


def default_attention(backend: Backend, checkpoint: Checkpoint, cell: Cell) -> str | None:
    """Return the backend's best attention path for the cell where that is not its first; else None."""
    if not isinstance(backend, AttentionDefault):
        return None
    return backend.default_attention(checkpoint, cell.workload, cell.device)


def default_compute(backend: Backend, cell: Cell, options: PlanOptions) -> ComputePrecision:
    """Return what the backend computes the cell's weights in where nobody says."""
    if isinstance(backend, ComputeDefault):
        return backend.default_compute(cell.weight_precision, cell.device, simulate=options.simulate)
    return DEFAULT_COMPUTE[cell.weight_precision]


def session_options(
    backend: Backend,
    compute: ComputePrecision,
    suite: Suite,
    options: PlanOptions,
    attention: str | None,
    settings: Settings = "fair",
) -> SessionOptions:
    """Return the options a session is opened with, checked by the backend's own type.

    Raises:
        BadInputError: a backend option that this backend does not have, or a value it does not take.
    """
    try:
        return backend.options_type.model_validate(
            {
                **dict(options.backend_options),
                "compute_precision": compute,
                "settings": settings,
                "threads": suite.threads,
                "attention": attention,
                "simulate": options.simulate,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(set(backend.options_type.model_fields) - set(SessionOptions.model_fields)) or "none"
        name = ".".join(map(str, first["loc"]))
        raise BadInputError(f"option '{name}' of {backend.name}: {first['msg']} (its own options: {known})") from error
