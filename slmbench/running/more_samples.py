"""Measuring for a check: a baseline's run once more, or a finished run on when it cannot be told yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slmbench.analysis.sides import read_side
from slmbench.errors import BadInputError
from slmbench.plan.request import RunRequest, requested_suite
from slmbench.records.sample_arrays import RunColumns, read_columns
from slmbench.records.schema import RUN_NAME, write_run
from slmbench.report.check_summary import SampleMore
from slmbench.running.runner import execute

#: Half-width of the 95 % intervals to aim for next, as a share of the widest there is.
_NARROWER = 0.6
#: A target wider than this tells nothing at any gate.
_WIDEST_TARGET = 0.02


def run_again(baseline: str) -> Path:
    """Measure what a baseline measured, here and now; return the run's folder.

    Raises:
        BadInputError: it does not say what it measured, or that cannot be asked any more.
        CannotRunError: nothing of it can run here.
    """
    side = read_side(baseline)
    if not side.options:
        raise BadInputError(f"{baseline}: does not say what was measured; run it yourself and name the run")
    try:
        request = RunRequest.model_validate(side.options)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(f"{baseline}: options: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return execute(request).folder


def sampler(name: str) -> SampleMore | None:
    """Return what takes more samples of the run ``RUN`` or ``RUN@ARM`` of that name, None where it is no run."""
    path = Path(name) if Path(name).exists() else Path(name.rpartition("@")[0])
    folder = path if path.is_dir() else path.parent
    if not (folder / RUN_NAME).is_file():
        return None

    def sample_more(seconds: float) -> bool:
        before = read_columns(folder, keep_tokens=False)
        # A run that has ended is not gone on with; this one is under way again.
        write_run(folder, before.record.model_copy(update={"finished": None}))
        execute(narrower_request(before, seconds))
        return read_columns(folder, keep_tokens=False).sample_count > before.sample_count

    return sample_more


def narrower_request(run: RunColumns, seconds: float) -> RunRequest:
    """Return the request that goes on with a run for so long, towards narrower intervals than it has."""
    options: dict[str, Any] = {**run.record.options, "resume": run.folder, "budget_s": seconds, "repeat": None}
    widths = [w for outcome in run.record.outcomes.values() for w in outcome.half_width.values() if w is not None]
    target = min(_NARROWER * max(widths, default=1.0), _WIDEST_TARGET)
    request = RunRequest.model_validate(options).model_copy(update={"interval_target": target})
    if requested_suite(request).repeat is None:
        return request
    # The suite asks for a fixed number of samples and knows no target: twice as many as there are.
    most = max((int(columns.counted().sum()) for columns in run.recorded.values()), default=1)
    return request.model_copy(update={"repeat": 2 * most})
