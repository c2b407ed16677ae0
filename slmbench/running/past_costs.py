"""What earlier runs on this machine took, for the forecast of the next one."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slmbench.case import Case
from slmbench.errors import SlmbenchError
from slmbench.system.files import read_regular, write_whole
from slmbench.system.paths import cache_dir

#: Figures kept of each kind; older ones go.
MOST_KEPT = 20


class SeenCost(BaseModel):
    """What one case took."""

    model_config = ConfigDict(frozen=True)

    #: Seconds to open and prove its configuration.
    open_s: float = Field(ge=0, allow_inf_nan=False)
    #: One generation's seconds, as a factor of what was estimated without any run.
    factor: float = Field(gt=0, allow_inf_nan=False)


class PastCosts(BaseModel):
    """Costs by the kind of case: the model, on which engine, device and precisions; not the lengths."""

    model_config = ConfigDict(frozen=True)

    seen: dict[str, tuple[SeenCost, ...]] = Field(default_factory=dict)

    def open_s(self, kind: str, default: float) -> float:
        """Return the median seconds of opening, or the default where none was seen."""
        return statistics.median([one.open_s for one in self.seen.get(kind, ())] or [default])

    def factor(self, kind: str) -> float:
        """Return the median factor on a generation's estimate, 1 where none was seen."""
        return statistics.median([one.factor for one in self.seen.get(kind, ())] or [1.0])


def kind_of(case: Case) -> str:
    """Return the kind whose costs a case shares: what a small model takes says nothing of a large one."""
    return "|".join((case.checkpoint, case.backend, case.device, case.weight_precision, case.compute_precision))


def read_past_costs(path: Path | None = None) -> PastCosts:
    """Return what is known; nothing where nothing is, or where the file cannot be read: it is a forecast's only."""
    try:
        return PastCosts.model_validate_json(read_regular(path or _path()))
    except (OSError, ValidationError, SlmbenchError):
        return PastCosts()


def remember(found: Iterable[tuple[str, SeenCost]], path: Path | None = None) -> None:
    """Add what a run took, by kind; where the cache cannot be written nothing is kept."""
    path = path or _path()
    seen: dict[str, tuple[SeenCost, ...]] = dict(read_past_costs(path).seen)
    for kind, cost in found:
        seen[kind] = (*seen.get(kind, ()), cost)[-MOST_KEPT:]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, PastCosts(seen=seen).model_dump_json() + "\n")
    except (OSError, SlmbenchError):
        return


def seen_costs(
    costs: Mapping[str, tuple[float, float]], estimated_s: Mapping[str, float]
) -> Iterator[tuple[str, SeenCost]]:
    """Yield what a run's cases took, by key: ``costs`` holds the seconds of opening and of one generation."""
    for key, (open_s, sample_s) in costs.items():
        if sample_s > 0 and estimated_s[key] > 0:
            yield key, SeenCost(open_s=open_s, factor=sample_s / estimated_s[key])


def _path() -> Path:
    return cache_dir() / "costs.json"
