"""What the scheduler is given and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmbench.analysis.stats import LEAST_LOADS
from slmbench.case import Case
from slmbench.errors import BadInputError
from slmbench.measure.conditions import MINIMUM_SPAN_S
from slmbench.measure.pictures import PictureFile
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.configuration import lane_of
from slmbench.records.schema import Outcome


@dataclass(frozen=True)
class PlannedCase:
    """A case that is ready to be measured: its artifact is on disk."""

    case: Case
    checkpoint: Checkpoint
    artifact: Path
    artifact_id: str
    #: The artifact's stamp when its hashes were checked; without it every load checks them.
    stamp: str = ""
    #: Fields of the backend's options type, JSON values only.
    options: dict[str, Any] = field(default_factory=dict)
    #: The interpreter of the case's arm; None for this one.
    python: str | None = None
    #: The configuration whose other cases the case shares its loads with; None: its loads are its own.
    configuration: str | None = None
    #: Texts that samples take in turn instead of drawn ids, and the folder of the tokenizer.json that reads them.
    prompts: tuple[str, ...] = ()
    tokenizer: Path | None = None
    #: Pictures that samples take in turn instead of drawn ones.
    pictures: tuple[PictureFile, ...] = ()

    @property
    def key(self) -> str:
        """Return the case's stable key."""
        return self.case.key

    @property
    def generation_key(self) -> tuple[str, str]:
        """Return what is generated for the case: shorter outputs of one prompt come out of the longest."""
        return self.load_key, lane_of(self.case.workload)

    @property
    def load_key(self) -> str:
        """Return the key of what is opened for the case: of its configuration, or its own."""
        return self.configuration or self.case.key

    def special_tokens(self) -> set[int]:
        """Return the ids that a drawn prompt must not hold."""
        one = self.checkpoint
        start = set() if one.decoder_start_token_id is None else {one.decoder_start_token_id}
        image = set() if one.vision is None else {one.vision.image_token_id}
        return {one.pad_token_id, *one.eos_token_ids, *one.unfed_token_ids, *start, *image}

    def texts(self, index: int) -> tuple[str, ...]:
        """Return the texts of the sample with that index, one a row of the batch; empty for drawn ids."""
        if not self.prompts:
            return ()
        batch = self.case.workload.batch
        return tuple(self.prompts[(index * batch + row) % len(self.prompts)] for row in range(batch))

    def picture(self, index: int) -> tuple[Path, str, str] | None:
        """Return file, digest and place of the user's picture of the sample with that index; None for drawn ones."""
        if not self.pictures:
            return None
        one = self.pictures[index % len(self.pictures)]
        return one.path, one.sha256, one.place


def tokens_to_avoid(plan: Sequence[PlannedCase]) -> dict[int, tuple[int, ...]]:
    """Return for each vocabulary size the special tokens of all its checkpoints.

    Cases of one vocabulary avoid the same ids, and so draw the same prompts.
    """
    found: dict[int, set[int]] = {}
    for planned in plan:
        found.setdefault(planned.checkpoint.geometry.vocab_size, set()).update(planned.special_tokens())
    return {vocab: tuple(sorted(ids)) for vocab, ids in found.items()}


@dataclass(frozen=True)
class MeasureSettings:
    """How long and how precisely to measure."""

    seed: int = 0
    #: Largest half-width of the 95 % interval, as a share of the figure.
    ttft_target: float = 0.03
    tpot_target: float = 0.02
    #: Seconds to measure at most, all cases together; None for ``default_budget_s`` each.
    budget_s: float | None = None
    #: Whether the budget is kept also where a case then has too few loads for an interval, or is not measured at all.
    #: Otherwise every case gets ``first_loads`` loads.
    strict_budget: bool = False
    first_loads: int = LEAST_LOADS
    #: A fixed number of samples a case instead of the stop rule.
    repeat: int | None = None
    #: Loads before an interval is believed, and where a case ends even without one.
    min_loads: int = LEAST_LOADS
    max_loads: int = 30
    #: Loads that a budget is spread over: more of them narrow an interval more than more samples of each.
    wanted_loads: int = 12
    #: Samples of a case in one load.
    rounds: int = 5
    max_warmups: int = 5
    #: Cores of foreign activity above which a sample is marked and taken again.
    foreign_load_bound: float = 0.06
    #: Seconds to wait after workers were started: at least the time needed to measure foreign activity.
    settle_s: float = MINIMUM_SPAN_S
    #: Share of the free memory that live workers may fill together.
    memory_share: float = 0.8
    open_timeout_s: float = 900.0
    #: A sample may take this many times the last warm-up's time, and never less than the floor.
    sample_timeout_factor: float = 20.0
    sample_timeout_floor_s: float = 60.0

    def targets(self) -> dict[str, float]:
        """Return the target of each metric of the stop rule."""
        return {"ttft": self.ttft_target, "tpot": self.tpot_target}

    def budget_for(self, generations: int) -> float:
        """Return the budget in seconds for cases that take so many different generations."""
        return DEFAULT_BUDGET_S * generations if self.budget_s is None else self.budget_s


#: For each generation of each load: outputs that come out of a longer one take no time of their own.
DEFAULT_BUDGET_S = 90.0


@dataclass(frozen=True)
class Measured:
    """How a run ended: per case key its outcome, and which cases were live together."""

    outcomes: dict[str, Outcome]
    blocks: tuple[tuple[str, ...], ...]
    #: By case key: seconds that opening its configuration and one generation took, where it was surveyed just now.
    costs: dict[str, tuple[float, float]] = field(default_factory=dict, compare=False)


def check_settings(plan: Sequence[PlannedCase], settings: MeasureSettings) -> None:
    """Refuse a plan and settings that nothing can be measured with.

    Raises:
        BadInputError: no case, two of one key, or a figure out of its range.
    """
    if not plan:
        raise BadInputError("nothing to measure: the plan has no case")
    if len({planned.key for planned in plan}) != len(plan):
        raise BadInputError("two cases of the plan have the same key")
    if settings.budget_s is not None and not settings.budget_s > 0:
        raise BadInputError(f"--budget {settings.budget_s:g}: more than 0 seconds are needed")
    if settings.repeat is not None and settings.repeat < 1:
        raise BadInputError(f"--repeat {settings.repeat}: at least one sample a case is needed")
    for name, target in settings.targets().items():
        if not 0 < target < 1:
            raise BadInputError(f"--interval-target: {target:.3g} for {name}; between 0 and 100 % is expected")
