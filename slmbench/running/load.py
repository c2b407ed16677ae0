"""One opening: start a worker, load, prove, warm up; and what is written down of it for each case that it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from slmbench.export.failed_proofs import FailedProof, forget_failed_proof, remember_failed_proof
from slmbench.machine.cpu import emulator
from slmbench.measure.memory import MemoryPoller
from slmbench.measure.proof import SessionProof, Verdict, judge
from slmbench.models.artifact import read_artifact
from slmbench.plan.configuration import lane_of
from slmbench.records.schema import EMULATED_CPU, Conditions, FailureReason, LoadRecord, MemoryRecord, SampleRecord
from slmbench.running.picture_processes import PictureProcesses
from slmbench.running.settings import MeasureSettings, PlannedCase
from slmbench.running.worker_process import Worker, WorkerError, log_path
from slmbench.worker import protocol as p


def now() -> str:
    """Return the time in UTC, to the millisecond, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def start_worker(planned: PlannedCase, folder: Path) -> Worker:
    """Start a worker whose log is that of the case's loads."""
    return Worker(log_path(folder, planned.load_key), python=planned.python)


@dataclass(frozen=True)
class Load:
    """One opening, proven: what every case that it serves records of it."""

    number: int
    pid: int
    started: str
    opened: p.Opened
    proven: p.Proven
    engine_cache: bool
    #: The case whose prompt was the first that the process read.
    first: PlannedCase


def open_load(
    worker: Worker,
    first: PlannedCase,
    number: int,
    settings: MeasureSettings,
    avoid: Mapping[int, tuple[int, ...]],
    *,
    survey: bool,
    pictures: PictureProcesses | None = None,
) -> Load:
    """Open the artifact of a case in a fresh worker, let it read the case's prompt, and prove it.

    A survey opens without the engine's cache, so that its compile time is one; it is proven with every golden
    prompt. A load that is to be sampled is proven with one prompt. ``pictures`` are the run's processes that prepare
    pictures; without them the worker does so itself.

    Raises:
        WorkerError: it cannot be opened, or shows something else than what was asked.
    """
    started = now()
    options = first.options | {"engine_cache": None} if survey else first.options
    request = p.Open(
        case=first.case,
        artifact=first.artifact,
        stamp=first.stamp,
        options=options,
        seed=settings.seed,
        avoid=avoid[first.checkpoint.geometry.vocab_size],
        tokenizer=first.tokenizer,
        picture=first.picture(0),
        picture_process=pictures.of(first) if pictures else None,
    )
    opened = worker.ask(request, p.Opened, settings.open_timeout_s)
    proven = worker.ask(p.Prove(full=survey), p.Proven, settings.open_timeout_s)
    _check(first, proven)
    cached = options.get("engine_cache") is not None
    return Load(number, worker.pid, started, opened, proven, cached, first)


def load_record(load: Load, planned: PlannedCase, warm: p.Warm | None = None) -> LoadRecord:
    """Return what a load says of one of its cases; ``warm`` is its warm-up, None for a survey."""
    proven = load.proven
    read_first = lane_of(planned.case.workload) == lane_of(load.first.case.workload)
    return LoadRecord(
        case=planned.key,
        load=load.number,
        pid=load.pid,
        load_ns=load.opened.load_ns,
        compile_ns=load.opened.compile_ns,
        first_inference_ns=load.opened.first_inference_ns if read_first else None,
        engine_cache=load.engine_cache,
        warmups=warm.generations if warm else 0,
        stationary=warm.stationary if warm else True,
        agreement=proven.agreement,
        agreement_tokens=proven.agreement_tokens,
        reference=proven.reference,
        requested_device=planned.case.device,
        executed_on=_executed_on(proven),
        nodes=proven.nodes,
        compute_precision=proven.compute_precision,
        threads=proven.threads,
        attention_path=proven.attention_path,
        settings={name: reported for name, (_, reported) in proven.settings.items()},
        artifact_id=planned.artifact_id,
        started=load.started,
        configuration=planned.configuration,
    )


def _executed_on(proven: p.Proven) -> str:
    return EMULATED_CPU if proven.executed_on == "cpu" and emulator() else proven.executed_on


def warm_up(worker: Worker, planned: PlannedCase, load: Load, settings: MeasureSettings) -> tuple[p.Warm, float]:
    """Prepare a worker for a case and generate until it is steady; return the seconds that a sample may take.

    Raises:
        WorkerError: the workload does not fit, or a generation failed.
    """
    request = p.WarmUp(workload=planned.case.workload, load=load.number, most=settings.max_warmups)
    warm = worker.ask(request, p.Warm, settings.open_timeout_s)
    return warm, max(settings.sample_timeout_floor_s, settings.sample_timeout_factor * warm.last_ns / 1e9)


def measure_memory(worker: Worker, planned: PlannedCase, settings: MeasureSettings) -> MemoryRecord:
    """Let an open worker generate once and follow its memory from here; nothing is timed meanwhile.

    Raises:
        WorkerError: the generation failed.
    """
    with MemoryPoller(worker.pid, gpu=planned.case.device == "gpu") as poller:
        worker.ask(p.Exercise(workload=planned.case.workload), p.Exercised, settings.open_timeout_s)
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
        image_tokens=reply.image_tokens,
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


def derived_record(whole: SampleRecord, planned: PlannedCase) -> SampleRecord:
    """Return the sample of a case with a shorter output: the beginning of one with a longer output.

    Energy is the whole generation's and cannot be divided, so it is empty.
    """
    count = planned.case.workload.output_tokens
    beginning = {"output_tokens": count, "token_ns": whole.token_ns[:count], "energy_j": None}
    return whole.model_copy(update={**beginning, "case": planned.key, "derived_from": whole.case})


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
    _remember(planned, verdict)
    if verdict:
        raise WorkerError(verdict.reason, verdict.message)


#: What an artifact does wrong, on any machine.
_OF_THE_ARTIFACT = (FailureReason.WRONG_TOKENS, FailureReason.CROSS_KV_RECOMPUTED)


def _remember(planned: PlannedCase, verdict: Verdict | None) -> None:
    """Keep "auto" from choosing this route again where its tokens were wrong; what is right now was mended."""
    if planned.case.exporter == "given":
        return
    if verdict is None:
        forget_failed_proof(planned.artifact_id)
    elif verdict.reason in _OF_THE_ARTIFACT and planned.case.arm is None and not planned.case.simulate:
        versions = read_artifact(planned.artifact).manifest.versions
        failure = FailedProof(backend=planned.case.backend, message=verdict.message, versions=versions)
        remember_failed_proof(planned.artifact_id, failure)
