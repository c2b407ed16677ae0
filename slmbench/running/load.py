"""One opening of a case: start a worker, load, prove, warm up; and the survey, which every case passes once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from slmbench.measure.memory import MemoryPoller
from slmbench.measure.proof import SessionProof, judge
from slmbench.records.schema import Conditions, LoadRecord, MemoryRecord, SampleRecord
from slmbench.running.settings import MeasureSettings, PlannedCase
from slmbench.running.worker_process import Worker, WorkerError, log_path
from slmbench.worker import protocol as p


def now() -> str:
    """Return the time in UTC, to the millisecond, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def start_worker(planned: PlannedCase, folder: Path) -> Worker:
    """Start a worker whose log is the case's."""
    return Worker(log_path(folder, planned.key), python=planned.python)


def open_case(
    worker: Worker,
    planned: PlannedCase,
    load: int,
    settings: MeasureSettings,
    avoid: Mapping[int, tuple[int, ...]],
    *,
    survey: bool,
) -> tuple[LoadRecord, float]:
    """Open a case in a fresh worker and prove it; return its record and the seconds that one sample may take.

    A survey opens without the engine's cache, so that its compile time is one; it is proven with every golden
    prompt and not warmed up. A load that is to be sampled is proven with the first prompt.

    Raises:
        WorkerError: it cannot be opened, or shows something else than what was asked.
    """
    started = now()
    options = planned.options | {"engine_cache": None} if survey else planned.options
    request = p.Open(
        case=planned.case,
        artifact=planned.artifact,
        stamp=planned.stamp,
        options=options,
        seed=settings.seed,
        avoid=avoid[planned.checkpoint.geometry.vocab_size],
        tokenizer=planned.tokenizer,
    )
    opened = worker.ask(request, p.Opened, settings.open_timeout_s)
    proven = worker.ask(p.Prove(full=survey), p.Proven, settings.open_timeout_s)
    _check(planned, proven)
    if survey:
        warm = p.Warm(generations=0, stationary=True, last_ns=0)
    else:
        warm = worker.ask(p.WarmUp(load=load, most=settings.max_warmups), p.Warm, settings.open_timeout_s)
    record = LoadRecord(
        case=planned.key,
        load=load,
        pid=worker.pid,
        load_ns=opened.load_ns,
        compile_ns=opened.compile_ns,
        first_inference_ns=opened.first_inference_ns,
        engine_cache=options.get("engine_cache") is not None,
        warmups=warm.generations,
        stationary=warm.stationary,
        agreement=proven.agreement,
        agreement_tokens=proven.agreement_tokens,
        reference=proven.reference,
        requested_device=planned.case.device,
        executed_on=proven.executed_on,
        nodes=proven.nodes,
        compute_precision=proven.compute_precision,
        threads=proven.threads,
        attention_path=proven.attention_path,
        artifact_id=planned.artifact_id,
        started=started,
    )
    timeout_s = max(settings.sample_timeout_floor_s, settings.sample_timeout_factor * warm.last_ns / 1e9)
    return record, timeout_s


def measure_memory(worker: Worker, planned: PlannedCase, settings: MeasureSettings) -> MemoryRecord:
    """Let an open worker generate once and follow its memory from here; nothing is timed meanwhile.

    Raises:
        WorkerError: the generation failed.
    """
    with MemoryPoller(worker.pid, gpu=planned.case.device == "gpu") as poller:
        worker.ask(p.Exercise(), p.Exercised, settings.open_timeout_s)
    return MemoryRecord(
        case=planned.key,
        peak_rss_bytes=poller.peak_rss_bytes,
        peak_uss_bytes=poller.peak_uss_bytes,
        device_bytes=poller.peak_device_bytes,
    )


def sample_record(
    planned: PlannedCase,
    load: int,
    round_: int,
    started: str,
    reply: p.Sampled,
    conditions: Conditions,
    flags: Sequence[str],
) -> SampleRecord:
    """Return what is kept of one generation."""
    work = planned.case.workload
    return SampleRecord(
        case=planned.key,
        load=load,
        round=round_,
        started=started,
        batch=work.batch,
        input_tokens=reply.input_tokens,
        output_tokens=work.output_tokens,
        token_ns=reply.token_ns,
        answers=work.answers,
        turn_start_ns=reply.turn_start_ns,
        turn_tokens=reply.turn_tokens,
        phases_ns=reply.phases_ns,
        energy_j=reply.energy_j,
        conditions=conditions,
        flags=tuple(flags),
    )


def _check(planned: PlannedCase, proven: p.Proven) -> None:
    evidence = SessionProof(
        agreement=proven.agreement,
        agreement_tokens=proven.agreement_tokens,
        executed_on=proven.executed_on,
        compute_precision=proven.compute_precision,
        threads=proven.threads,
        cross_kv_once=proven.cross_kv_once,
        nodes=proven.nodes,
        settings=proven.settings,
        reference=proven.reference,
    )
    verdict = judge(planned.case, evidence)
    if verdict:
        raise WorkerError(verdict.reason, verdict.message)
