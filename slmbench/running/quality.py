"""Quality, after the speed: the reference once for each checkpoint, then each configuration in a load of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slmbench.errors import BadInputError, CannotRunError, amount
from slmbench.evaluation.stored_reference import is_stored, place_of
from slmbench.evaluation.text import WINDOWS, Window
from slmbench.export.golden_record import reference_versions
from slmbench.models.checkpoint import how_resolved
from slmbench.plan.quality import QualityPlan, Referenced
from slmbench.records.quality import QUALITY_NAME, NoQualityRecord, WindowRecord, quality_lines
from slmbench.records.sample_writer import SampleWriter
from slmbench.records.schema import SAMPLES_NAME, FailureReason, FailureRecord, read_samples
from slmbench.running import events as e
from slmbench.running.artifacts import checkpoint_name, error_line
from slmbench.running.evaluation_costs import (
    quality_kind,
    reference_kind,
    reference_work_s,
    remember_evaluation,
    windows_s,
)
from slmbench.running.events import Observer
from slmbench.running.load import open_load, start_worker
from slmbench.running.progress import duration
from slmbench.running.settings import MeasureSettings, PlannedCase, tokens_to_avoid
from slmbench.running.worker_process import WorkerError, explain_exit
from slmbench.system.files import write_whole
from slmbench.system.processes import child_environment
from slmbench.worker import protocol as p

#: Seconds that one window may take.
_WINDOW_TIMEOUT_S = 1800.0


@dataclass
class _Before:
    """What the folder has already: windows by configuration, and why the others have none."""

    windows: dict[tuple[str, ...], set[int]] = field(default_factory=dict)
    without: dict[tuple[str, ...], NoQualityRecord] = field(default_factory=dict)


def measure_quality(
    plan: QualityPlan,
    cases: Sequence[PlannedCase],
    folder: Path,
    settings: MeasureSettings,
    say: Callable[[str], None],
    observer: Observer,
) -> None:
    """Append the quality of every configuration to ``quality.jsonl``; windows that are there are not measured again.

    One that fails has its reason there, and the others go on; one that failed before is tried again.

    Raises:
        BadInputError: the folder holds figures of another text.
        CannotRunError: the disk is full.
    """
    before = _before(folder, plan)
    failed = _failed(folder)
    by_key = {case.key: case for case in cases}
    avoid = tokens_to_avoid(cases)
    with SampleWriter(folder, QUALITY_NAME) as writer:
        for reason, keys in plan.refused.items():
            if keys not in before.without:
                _write(writer, NoQualityRecord(cases=keys, message=reason))
        ones: dict[str, _Group] = {}
        for group, keys, left in _windows_left(plan, before, failed, by_key.keys()):
            digest = group.reference.digest
            if digest not in ones:
                ones[digest] = _Group(group, plan, folder, writer, settings, say, observer)
            voided = [failed[key] for key in keys if key in failed]
            if voided:
                ones[digest].none(keys, voided[0].reason, f"its proof failed: {voided[0].message}")
            else:
                ones[digest].measure(keys, by_key[keys[0]], left, avoid)


def windows_left(
    plan: QualityPlan, folder: Path, ready: Collection[str]
) -> Iterator[tuple[tuple[str, ...], tuple[Window, ...]]]:
    """Yield each configuration that the folder has no whole quality of, with the windows that are to be measured.

    ``ready`` are the cases that there is an artifact for.

    Raises:
        BadInputError: the folder holds figures of another text.
    """
    for _, keys, left in _windows_left(plan, _before(folder, plan), _failed(folder), ready):
        yield keys, left


def _windows_left(
    plan: QualityPlan, before: _Before, failed: Mapping[str, FailureRecord], ready: Collection[str]
) -> Iterator[tuple[Referenced, tuple[str, ...], tuple[Window, ...]]]:
    for group in plan.groups:
        for configuration in group.configurations:
            keys = tuple(key for key in configuration if key in ready)
            done = before.windows.get(keys, set())
            left = tuple(one for one in group.windows if one.window not in done)
            if keys in before.without:
                if any(key in failed for key in keys):
                    # No figure of it stands, and that is written down.
                    continue
                # One that failed behind its last window reads that again: a window after a failure makes it good.
                left = left or group.windows[-1:]
            if keys and left:
                yield group, keys, left


class _Group:
    """Configurations with one reference."""

    def __init__(
        self,
        group: Referenced,
        plan: QualityPlan,
        folder: Path,
        writer: SampleWriter,
        settings: MeasureSettings,
        say: Callable[[str], None],
        observer: Observer,
    ) -> None:
        self._tell = observer
        self._group, self._text_digest, self._text_name = group, plan.text.digest, plan.text.name
        self._folder, self._writer, self._settings, self._say = folder, writer, settings, say
        #: The tokens are text: they stay in the run's folder.
        self._windows_file = (folder / f"quality-windows-{group.reference.digest[:12]}.json").resolve()
        self._place = place_of(group.reference, group.windows, reference_versions())
        self._failure: str | None = None

    def none(self, keys: tuple[str, ...], reason: FailureReason, message: str) -> None:
        """Write down why a configuration has no quality."""
        self._say(f"no quality of {keys[0]}: {message}")
        _write(self._writer, NoQualityRecord(cases=keys, failure=reason, message=message))

    def measure(
        self, keys: tuple[str, ...], first: PlannedCase, left: Sequence[Window], avoid: Mapping[int, tuple[int, ...]]
    ) -> None:
        """Measure windows of one configuration."""
        reason = self._ready()
        if reason is not None:
            self.none(keys, FailureReason.CANNOT_RUN, reason)
            return
        case = first.case
        what = f"quality of {case.checkpoint} on {case.backend} in {case.weight_precision}"
        self._say(f"{what}: {amount(len(left), 'window')} of {self._text_name}")
        self._tell(e.PartDone(what, 0, len(left)))
        try:
            began = time.monotonic()
            with start_worker(first, self._folder) as worker:
                open_load(worker, first, 0, self._settings, avoid, survey=False)
                opened = time.monotonic()
                start = p.StartJudging(reference=self._place, windows=self._windows_file)
                worker.ask(start, p.JudgingStarted, self._settings.open_timeout_s)
                for count, window in enumerate(left, 1):
                    request = p.JudgeWindow(reference=self._place, windows=self._windows_file, window=window.window)
                    found = worker.ask(request, p.WindowJudged, _WINDOW_TIMEOUT_S)
                    record = WindowRecord(
                        cases=keys,
                        reference=self._group.reference.name,
                        reference_digest=self._group.reference.digest[:16],
                        text_digest=self._text_digest,
                        document=window.document,
                        window=window.window,
                        **found.model_dump(exclude={"re"}),
                    )
                    _write(self._writer, record)
                    self._tell(e.PartDone(what, count, len(left)))
                taken_s, expected_s = time.monotonic() - opened, windows_s(first.checkpoint, case, left)
            remember_evaluation(quality_kind(case), opened - began, taken_s, expected_s)
        except WorkerError as failure:
            self.none(keys, failure.reason, failure.message)

    def _ready(self) -> str | None:
        """Have windows and reference on disk; return why they are not."""
        if self._failure is None and not (self._windows_file.exists() and is_stored(self._place)):
            write_whole(self._windows_file, WINDOWS.dump_json(list(self._group.windows)))
            try:
                if not is_stored(self._place):
                    _make_reference(self._group, self._windows_file, self._place, self._say, self._tell)
            except CannotRunError as error:
                self._failure = str(error)
        return self._failure


def _make_reference(group: Referenced, windows: Path, place: Path, say: Callable[[str], None], tell: Observer) -> None:
    reference, count = group.reference, len(group.windows)
    what = f"{reference.name} in torch in fp32, the reference for quality"
    say(f"running {what}: {amount(count, 'window')}")
    began = time.monotonic()
    command = [sys.executable, "-P", "-m", "slmbench.evaluation.torch_reference", checkpoint_name(reference)]
    command += [str(windows), str(place)]
    asked = how_resolved(reference)
    command += [f"--{name.replace('_', '-')}" for name in asked if asked[name]]
    tell(e.PartDone(what, 0, count))
    code, errors = _run_told(command, lambda done: tell(e.PartDone(what, done, count)))
    if code != 0:
        reason = error_line(errors) or f"it ended with code {code}"
        if code < 0:
            reason = explain_exit(code, "the reference", reported=errors)[1]
        raise CannotRunError(f"the reference {reference.name}: {reason}")
    taken_s = time.monotonic() - began
    say(f"the reference took {duration(taken_s)}; it is kept in the cache")
    remember_evaluation(reference_kind(reference), 0.0, taken_s, reference_work_s(group))


def _run_told(command: Sequence[str], tell: Callable[[int], None]) -> tuple[int, str]:
    """Run a process that prints how many windows it has read; return its exit code and what it wrote of errors."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=child_environment()) as process,
    ):
        try:
            for line in process.stdout or ():
                if line.strip().isdecimal():
                    tell(int(line))
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        errors.seek(0)
        return code, errors.read()


def _write(writer: SampleWriter, record: WindowRecord | NoQualityRecord) -> None:
    writer.append_line(record.model_dump_json().encode() + b"\n")


def _before(folder: Path, plan: QualityPlan) -> _Before:
    found = _Before()
    for record in quality_lines(folder, []):
        if isinstance(record, NoQualityRecord):
            found.without[record.cases] = record
        elif record.text_digest != plan.text.digest:
            raise BadInputError(f"{folder}: its quality was measured on another text ({record.text_digest})")
        else:
            found.windows.setdefault(record.cases, set()).add(record.window)
            found.without.pop(record.cases, None)
    return found


def _failed(folder: Path) -> dict[str, FailureRecord]:
    """Return the failures after which no figure of a case stands."""
    records = read_samples(folder / SAMPLES_NAME, [])
    return {one.case: one for one in records if isinstance(one, FailureRecord) and one.reason.voids_figures}
