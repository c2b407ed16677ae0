"""Measuring for a check: what a baseline measured once more, or more samples of a run that is inconclusive."""

from __future__ import annotations

from pathlib import Path

from slmbench.analysis.sides import read_side
from slmbench.errors import BadInputError
from slmbench.plan.request import RunRequest, request_from_file, requested_suite
from slmbench.records.sample_arrays import RunColumns, read_columns
from slmbench.records.schema import RUN_NAME, read_run_record, write_run
from slmbench.report.check_summary import SampleMore
from slmbench.running.runner import execute

#: Half-width of the 95 % intervals to aim for next, as a share of the widest there is.
_NARROWER = 0.6
#: A target wider than this tells nothing at any gate.
_WIDEST_TARGET = 0.02


def run_again(baseline: str, typed: RunRequest | None = None) -> Path:
    """Measure what a baseline measured, here and now; return the run's folder.

    Raises:
        BadInputError: it does not say what it measured, that cannot be asked any more, or it runs code and that was
            not ``typed``.
        CannotRunError: nothing of it can run here.
    """
    side = read_side(baseline)
    if not side.options:
        raise BadInputError(f"{baseline}: does not say what was measured; run it yourself and name the run")
    return execute(request_from_file(side.options, baseline, typed or RunRequest())).folder


def sampler(name: str, typed: RunRequest | None = None) -> SampleMore | None:
    """Return what takes more samples of the run ``RUN`` or ``RUN@ARM`` of that name, None where it is no run.

    Raises:
        BadInputError: the run runs code and that was not ``typed``.
    """
    path = Path(name) if Path(name).exists() else Path(name.rpartition("@")[0])
    folder = path if path.is_dir() else path.parent
    if not (folder / RUN_NAME).is_file():
        return None
    given = (typed or RunRequest()).model_copy(update={"resume": folder})
    # Now, not after the first look: whoever has to add an option finds out at once.
    request_from_file(read_run_record(folder / RUN_NAME).options, str(folder / RUN_NAME), given)

    def sample_more(seconds: float) -> bool:
        before = read_columns(folder, keep_tokens=False)
        # A run that has ended is not continued; this one is under way again.
        write_run(folder, before.record.model_copy(update={"finished": None}))
        execute(narrower_request(before, seconds, given))
        return read_columns(folder, keep_tokens=False).sample_count > before.sample_count

    return sample_more


def narrower_request(run: RunColumns, seconds: float, typed: RunRequest) -> RunRequest:
    """Return the request that continues a run for so long, towards narrower intervals than it has."""
    options = {**run.record.options, "budget_s": seconds, "repeat": None}
    widths = [w for outcome in run.record.outcomes.values() for w in outcome.half_width.values() if w is not None]
    target = min(_NARROWER * max(widths, default=1.0), _WIDEST_TARGET)
    asked = request_from_file(options, str(run.folder / RUN_NAME), typed)
    request = asked.model_copy(update={"interval_target": target})
    if requested_suite(request).repeat is None:
        return request
    # The suite asks for a fixed number of samples and knows no target: twice as many as there are.
    most = max((int(columns.counted().sum()) for columns in run.recorded.values()), default=1)
    return request.model_copy(update={"repeat": 2 * most})
