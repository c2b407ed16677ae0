"""What took effect in a case, read back from its artifact and its loads: weights as stored, settings as they were."""

from __future__ import annotations

from collections.abc import Sequence

from slmbench.models.artifact import StoredWeights
from slmbench.records.schema import CaseInfo, LoadRecord


def stored_weights_of(info: CaseInfo) -> StoredWeights | None:
    """Return what the case's weights are stored in: counted at the export, or from a given artifact's headers."""
    given = info.checkpoint.given
    if given is None or not given.weights:
        return info.weights
    given = given.of_case(pictures=info.case.workload.images > 0)
    types = {one.name: one.weights / given.weights for one in given.weight_types if one.weights}
    return StoredWeights(bits=given.bits_per_weight, types=types)


def settings_of(loads: Sequence[LoadRecord]) -> dict[str, str]:
    """Return the settings that were read back from the last load, by name; empty where the case was never loaded."""
    if not loads:
        return {}
    last = loads[-1]
    return {"compute precision": last.compute_precision, "threads": str(last.threads), **last.settings}
