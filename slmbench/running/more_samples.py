"""Measuring for a check: what a baseline measured once more, or more loads of a run that is inconclusive."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from slmbench.analysis.metrics import Side
from slmbench.analysis.quality import check_same_subject
from slmbench.analysis.quality_metrics import text_subject
from slmbench.analysis.sides import read_side, where
from slmbench.analysis.verdicts import check_machines
from slmbench.errors import BadInputError, SlmbenchError, StoppedError, one_line
from slmbench.machine.fingerprint import collect
from slmbench.plan.quality import plan_quality
from slmbench.plan.request import RunRequest, plan_request, request_from_file
from slmbench.records.sample_arrays import RunColumns, read_columns
from slmbench.records.schema import RUN_NAME, LoadRecord, read_run_record, write_run
from slmbench.report.check_summary import Sampler
from slmbench.running.watched import execute_watched

#: Seconds that a round of loads is taken to last where a run has no two of them.
_UNKNOWN_LOAD_S = 10.0


def run_again(
    baseline: str,
    typed: RunRequest | None = None,
    *,
    conditions: Sequence[str] = (),
    any_machine: bool = False,
    any_quality: bool = False,
) -> Path:
    """Measure what a baseline measured, here and now, and say so on stderr; return the run's folder.

    ``conditions`` are those of ``--where``. Without ``any_machine`` a baseline of another machine, or of another
    version of an engine, is refused: that is known before minutes of measuring. So is, without ``any_quality``, one
    whose quality is of other weights or another text.

    Raises:
        BadInputError: as :func:`request_of`, or no case fulfils the conditions.
        CannotRunError: nothing of it can run here.
        NotComparableError: what is measured here could not be judged against it.
        StoppedError: it was interrupted.
    """
    request = request_of(baseline, typed)
    (base,) = where([read_side(baseline)], conditions)
    if not any_machine:
        here = replace(base, name="a run made now", run_id="", machine=collect().model_dump(mode="json"))
        check_machines(base, here, list(base.cases.values()))
    print(one_line(f"measuring what {base.name} measured"), file=sys.stderr, flush=True)
    if not any_quality:
        _check_quality(base, request)
    with of_run(f"measuring what {base.name} measured"):
        then = f"slmbench check --baseline {shlex.quote(baseline)}"
        folder = execute_watched(request, typed=False, then=then).folder
    print(one_line(f"everything is in {folder}"), file=sys.stderr, flush=True)
    return folder


def _check_quality(base: Side, request: RunRequest) -> None:
    """Refuse a request whose quality could not be compared with the baseline's.

    Raises:
        NotComparableError: the weights or the text are others.
    """
    before = {key: case.quality for key, case in base.cases.items() if case.quality and case.quality.tokens.size}
    if not before:
        return
    with of_run(f"measuring what {base.name} measured"):
        quality = plan_quality(request, plan_request(request)[0])
    if quality is None:
        return
    for group in quality.groups:
        now = text_subject(group.reference.name, group.reference.digest[:16], quality.text.digest)
        for key in (key for keys in group.configurations for key in keys if key in before):
            then = before[key]
            check_same_subject(key, text_subject(then.reference, then.reference_digest, then.text_digest), now)


@contextmanager
def of_run(what: str) -> Iterator[None]:
    """Say of an error while another command measures whose options it names: those of `slmbench run`."""
    try:
        yield
    except StoppedError:
        raise
    except SlmbenchError as error:
        raise type(error)(f"{what}, with the options of `slmbench run`: {error}") from error


def request_of(name: str, typed: RunRequest | None = None) -> RunRequest:
    """Return what a baseline or run was asked, to ask it again.

    Raises:
        BadInputError: it does not say what it measured, that cannot be asked any more, or it runs code and that was
            not ``typed``.
    """
    side = read_side(name)
    if not side.options:
        raise BadInputError(f"{name}: does not say what was measured; run it yourself and name the run")
    asked = request_from_file(side.options, name, typed or RunRequest())
    # What "auto" chose then, not what it would choose now: a verdict is of the same kind of artifact.
    cases = (
        one.case
        for one in side.cases.values()
        if one.case.layout == "dynamic" and one.case.device == "cpu" and one.case.exporter != "given"
    )
    routes = sorted({(case.format, case.weight_precision, case.exporter) for case in cases})
    # Files that are on another machine: the comparison says that this side has no score, or no quality.
    gone: dict[str, Any] = {}
    if asked.tasks and not asked.tasks.exists():
        gone |= {"tasks": None, "max_new_tokens": None}
    if not all(path.exists() for path in asked.quality_text):
        gone |= {"quality_text": ()}
    return asked.model_copy(update={"routes": tuple(routes), **gone})


def sampler(name: str, typed: RunRequest | None = None) -> Sampler | None:
    """Return what takes more loads of the run ``RUN`` or ``RUN@ARM`` of that name, None where it is no run.

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

    def more_loads(count: int, seconds: float) -> bool:
        before = read_columns(folder, keep_tokens=False)
        # A run that has ended is not continued; this one is under way again.
        write_run(folder, before.record.model_copy(update={"finished": None}))
        options = {**before.record.options, "budget_s": seconds}
        loads = count + max((int(np.unique(columns.load).size) for columns in before.recorded.values()), default=0)
        request = request_from_file(options, str(folder / RUN_NAME), given)
        with of_run(f"more loads of {folder}"):
            execute_watched(request, loads=loads, typed=False)
        return read_columns(folder, keep_tokens=False).sample_count > before.sample_count

    return Sampler(more_loads, lambda: seconds_a_load(read_columns(folder, keep_tokens=False)))


def seconds_a_load(run: RunColumns) -> float:
    """Return how long one more load of every case takes: the time between loads as the run shows it.

    Cases that were live together take it together, memory groups follow one another.
    """
    by_case = {key: gap for key, loads in run.loads.items() if (gap := _median_gap(loads)) is not None}
    groups = run.record.blocks or (tuple(by_case),)
    longest = [max((by_case[key] for key in group if key in by_case), default=0.0) for group in groups]
    return sum(longest) or _UNKNOWN_LOAD_S


def _median_gap(loads: list[LoadRecord]) -> float | None:
    # The first opening is the survey's.
    started = sorted(datetime.fromisoformat(record.started).timestamp() for record in loads)[1:]
    return float(np.median(np.diff(started))) if len(started) > 1 else None
