"""The results format: what a run leaves on disk, how a line is added, how a run is read.

A run is a folder. ``run.json`` says what was asked, on which machine, with which versions; it is replaced as a
whole when something is added to it. ``samples.jsonl`` holds one JSON object a line, each with a ``type``:
``load`` (one opening of one case, with its proof), ``sample`` (one generation, its time stamps, never an
average), ``memory`` (one memory pass) or ``failure``. Lines are appended and flushed as things end, so a killed
run loses at most the sample it was in. Every table and verdict is computed from these two files alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from slmbench.case import FORMERLY_SAMPLES, Case
from slmbench.errors import BadInputError
from slmbench.models.artifact import StoredWeights
from slmbench.models.checkpoint import Checkpoint
from slmbench.records.lines import explain, record_lines
from slmbench.records.refusals import Refusal
from slmbench.records.tasks_asked import TasksRecord
from slmbench.records.without_folders import Message
from slmbench.system.files import has_path_bytes, json_text, read_regular, write_whole
from slmbench.terms import Natural, PairNames, StrictModel, not_boolean

RUN_NAME = "run.json"
SAMPLES_NAME = "samples.jsonl"
#: In the folder of a fleet's run, where a plain run has :data:`RUN_NAME`.
FLEET_NAME = "fleet.json"
SCHEMA_VERSION = 1


class Conditions(StrictModel):
    """The machine around one sample, read outside the timed region. Empty where not readable."""

    #: Busy time of all cores that is not ours, during the sample, in cores.
    foreign_load: float | None = None
    cpu_mhz: float | None = None
    temperature_c: float | None = None
    on_battery: bool | None = None


class LoadRecord(StrictModel):
    """One opening, as one of the cases that it serves sees it: its phases and the proof that it runs what was asked."""

    type: Literal["load"] = "load"
    case: str
    #: Counts the openings of this case, or of its configuration, from 0. The first is the survey: alone on the machine,
    #: without the engine's cache, proven with every golden prompt, not sampled.
    load: Natural
    pid: Natural
    load_ns: Natural
    #: None where the engine does not tell compiling from loading.
    compile_ns: Natural | None = None
    #: None where the process had read another case's prompt before.
    first_inference_ns: Natural | None
    #: Whether the engine could take compiled blobs from a cache: its compile time is then no compile time.
    engine_cache: bool = False
    warmups: Natural
    #: False when the warm-up count ran out before two consecutive generations agreed.
    stationary: bool
    agreement: float | None
    #: Golden tokens that were compared (margin large enough).
    agreement_tokens: Natural
    #: False where there is no reference: the session was compared with itself and with the load before.
    reference: bool = True
    requested_device: str
    executed_on: str
    nodes: dict[str, Natural] = Field(default_factory=dict)
    compute_precision: str
    threads: Natural
    attention_path: str
    #: What else the engine says is in effect, by its own names; empty in older records.
    settings: dict[str, str] = Field(default_factory=dict)
    artifact_id: str
    started: str
    #: Key of the configuration whose process this was. Cases with the same configuration and ``load`` shared it.
    #: None: the case had a process of its own.
    configuration: str | None = None


class SampleRecord(StrictModel):
    """One generation. Times in ns from the call of ``start``; ``token_ns[0]`` is the time to first token."""

    type: Literal["sample"] = "sample"
    case: str
    load: Natural
    #: The round it belongs to, counted over the run: samples of one round are interleaved neighbours.
    round: Natural
    started: str
    batch: Natural
    #: Those of pictures included.
    input_tokens: Natural
    output_tokens: Natural
    #: Tokens of the prompt that pictures became.
    image_tokens: Natural = 0
    #: Of all turns, in order.
    token_ns: tuple[Natural, ...]
    #: Answers to each prompt: ``batch * answers`` rows were generated side by side.
    answers: Natural = Field(default=1, validation_alias=FORMERLY_SAMPLES)
    #: Of a conversation: when each turn was asked (the first at 0), and how many tokens each answered.
    turn_start_ns: tuple[Natural, ...] = ()
    turn_tokens: tuple[Natural, ...] = ()
    #: Parts of the first token's time: "vision" (pictures to features), "encode", "cross_kv", "first_step", "prefill";
    #: before the start: "tokenise", "preprocess" (pixels of pictures); and "later_vision", in all later turns together.
    phases_ns: dict[str, Natural] = Field(default_factory=dict)
    energy_j: float | None = None
    conditions: Conditions = Conditions()
    #: "foreign_load", "retaken": labels; of a sample and its retake the less disturbed counts.
    flags: tuple[str, ...] = ()
    #: Key of the case whose longer generation this one is the beginning of; None: generated for this case.
    derived_from: str | None = None


class MemoryRecord(StrictModel):
    """Peak memory of one case's worker, from a pass of its own."""

    type: Literal["memory"] = "memory"
    case: str
    peak_rss_bytes: Natural
    peak_uss_bytes: Natural | None = None
    device_bytes: Natural | None = None


class FailureReason(StrEnum):
    """Why a case could not be measured, or not further."""

    WRONG_TOKENS = "wrong tokens"
    WRONG_DEVICE = "wrong device"
    WRONG_PRECISION = "wrong precision"
    WRONG_SETTING = "wrong setting"
    WRONG_THREADS = "wrong threads"
    CROSS_KV_RECOMPUTED = "cross K/V recomputed"
    SHORT_GENERATION = "short generation"
    EXPORT_FAILED = "export failed"
    CANNOT_RUN = "cannot run"
    CRASHED = "crashed"
    KILLED = "killed"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def voids_figures(self) -> bool:
        """Whether no figure of the case may be shown or judged, those from before the failure included.

        A proof that failed once says that the case never was what it claims to be. A crash says nothing about what
        was measured before it.
        """
        return self not in _FIGURES_STAND


_FIGURES_STAND = (FailureReason.CRASHED, FailureReason.KILLED, FailureReason.TIMEOUT, FailureReason.ERROR)

#: A processor whose instructions a program translates (qemu, Rosetta).
EMULATED_CPU = "emulated-cpu"
#: What runs in place of a device (``executed_on``): its tokens count, its times do not.
STAND_INS = ("npuw-cpu", "htp-emulator", EMULATED_CPU)


class FailureRecord(StrictModel):
    """A case that could not be measured, or not further."""

    type: Literal["failure"] = "failure"
    case: str
    load: Natural | None = None
    reason: FailureReason
    message: Message
    log_tail: Message = ""


Record = Annotated[LoadRecord | SampleRecord | MemoryRecord | FailureRecord, Field(discriminator="type")]
_RECORD: TypeAdapter[LoadRecord | SampleRecord | MemoryRecord | FailureRecord] = TypeAdapter(Record)


#: What a claim can be about that follows from the models' sizes: nothing of it has to be measured. Parameters, and a
#: decode step's operations, bytes read and written, and K/V read.
COUNTED_METRICS = ("parameters", "step_flops", "step_bytes", "kv_bytes")


class Claim(StrictModel):
    """What a publication says of an encoder-decoder against another model."""

    #: As it is published: "47 % lower first-token latency".
    says: str
    #: What it is about: time to first token, per token, or of the whole answer; or one of :data:`COUNTED_METRICS`.
    metric: Literal["ttft", "tpot", "e2e", "parameters", "step_flops", "step_bytes", "kv_bytes"]
    #: The claim as a factor: how many times faster the encoder-decoder is. 47 % lower is 1 / (1 - 0.47).
    speedup: Annotated[float, Field(gt=0, le=1e6), BeforeValidator(not_boolean)]
    #: Two checkpoints that the claim is about, where it is not about the suite's pairs: the first has the advantage.
    between: tuple[str, str] | None = None
    #: How much of the publication the writer of the suite could read; what was not read has no figure of its own here.
    read: Literal["paper", "abstract", "not read"] = "paper"
    #: What of the claim is checked, and what cannot be.
    checks: str = ""
    cannot: str = ""
    #: Publication, with what was measured there and on which device.
    source: str
    #: Published figures of that metric by device, in ms, and the checkpoint that has the shape they were measured on.
    figures_ms: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0, le=1e9)]] = Field(
        default_factory=dict
    )
    figures_of: str | None = None
    #: What a reader must bear in mind.
    note: str = ""


class CaseInfo(StrictModel):
    """A case as planned, with what the tables say about its model."""

    case: Case
    checkpoint: Checkpoint
    #: The engine of the case's backend.
    engine: str
    artifact_id: str | None = None
    decode_weight_bytes: Natural | None = None
    #: What its weights are stored in; None for artifacts of versions before 0.3.
    weights: StoredWeights | None = None
    #: What the recipe of its weights came down to; empty for plain ones.
    recipe: dict[str, str] = Field(default_factory=dict)


#: How the warning begins that a case of a run that ended has no samples, for its budget was spent.
NOT_MEASURED = "not measured"


class Outcome(StrictModel):
    """How a case ended, per metric ("ttft", "tpot"): whether its interval reached the target."""

    #: Loads that were sampled.
    loads: Natural
    converged: dict[str, bool] = Field(default_factory=dict)
    #: Half-width of the 95 % interval as a share of the figure; None while unknown (fewer than two loads).
    half_width: dict[str, float | None] = Field(default_factory=dict)
    #: What a reader of the figures has to know: "ttft drifted by 7 %", "not stationary after warm-up", ...
    warnings: tuple[Message, ...] = ()


class RunRecord(StrictModel):
    """``run.json``."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    slmbench_version: str
    created: str
    #: None while the run is under way or was killed.
    finished: str | None = None
    command: tuple[str, ...] = ()
    seed: int
    suite: str | None = None
    #: SHA-256 over the planned cases and the options that change what is measured; `--resume` compares it.
    plan_digest: str
    cases: tuple[CaseInfo, ...]
    #: What was asked for besides and cannot run here, with the reasons.
    refusals: tuple[Refusal, ...] = ()
    #: Pairs to judge: (encoder-decoder checkpoint, decoder-only checkpoint), and the pairing where it is not "total".
    pairs: tuple[PairNames, ...] = ()
    #: Published claims that the report compares with the pairs' figures.
    claims: tuple[Claim, ...] = ()
    #: The machine's fingerprint (slmbench.machine.fingerprint), one per arm; "" is the arm of a plain run.
    machines: dict[str, dict[str, Any]] = Field(default_factory=dict)
    versions: dict[str, dict[str, str]] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    limits: dict[str, Any] = Field(default_factory=dict)
    #: Blocks of case keys that were live together (all in one where memory holds them).
    blocks: tuple[tuple[str, ...], ...] = ()
    outcomes: dict[str, Outcome] = Field(default_factory=dict)
    #: The tasks that were asked; None: none.
    tasks: TasksRecord | None = None


@dataclass(frozen=True)
class Run:
    """A run as read from disk. ``warnings`` are for readers of anything made from it."""

    folder: Path
    record: RunRecord
    loads: list[LoadRecord] = field(default_factory=list)
    samples: list[SampleRecord] = field(default_factory=list)
    memory: list[MemoryRecord] = field(default_factory=list)
    failures: list[FailureRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def write_run(folder: Path, record: RunRecord) -> None:
    """Write ``run.json`` as a whole or not at all.

    Raises:
        BadInputError: the folder cannot be written.
    """
    write_whole(folder / RUN_NAME, json_text(record, indent=1) + "\n")


def folder_of(path: Path) -> Path:
    """Return the folder of a run that is named by its folder or by one of its files.

    Raises:
        BadInputError: there is nothing of that name, or no run.
    """
    if not path.exists():
        raise BadInputError(f"{path}: no such run")
    folder = path if path.is_dir() else path.parent
    if folder != path and not (folder / RUN_NAME).exists():
        raise BadInputError(f"{path}: not a run; a run is a folder with {RUN_NAME} in it")
    return folder


def _runs_below(folder: Path) -> str:
    """Return which runs a folder has in it, the first few: whoever names it may mean one of them."""
    found = sorted(place.parent for place in folder.glob(f"*/{RUN_NAME}"))
    more = f", and {len(found) - _NAMED_RUNS} more" if len(found) > _NAMED_RUNS else ""
    return f"; name one of those in it: {', '.join(map(str, found[:_NAMED_RUNS]))}{more}" if found else ""


#: Runs in a folder that a message names.
_NAMED_RUNS = 3


def read_run(path: Path) -> Run:
    """Read a run from its folder or from either of its files.

    A last line that was cut off is left out, with a warning; a broken line elsewhere is an error.

    Raises:
        BadInputError: not a run, damaged, or written by a newer slmbench.
    """
    folder = folder_of(path)
    run = Run(folder, read_run_record(folder / RUN_NAME))
    into: dict[type[BaseModel], list[Any]] = {
        LoadRecord: run.loads,
        SampleRecord: run.samples,
        MemoryRecord: run.memory,
        FailureRecord: run.failures,
    }
    for record in read_samples(folder / SAMPLES_NAME, run.warnings):
        into[type(record)].append(record)
    return run


def read_samples(path: Path, warnings: list[str]) -> Iterator[LoadRecord | SampleRecord | MemoryRecord | FailureRecord]:
    """Return the records of ``samples.jsonl`` in the order they were written; none if there is no such file."""
    return record_lines(path, _RECORD, warnings)


def parse_sample(line: bytes) -> LoadRecord | SampleRecord | MemoryRecord | FailureRecord:
    """Return one line of ``samples.jsonl``.

    Raises:
        ValidationError: pydantic's, where it is none.
    """
    return _RECORD.validate_json(line)


def read_run_record(path: Path) -> RunRecord:
    """Read ``run.json``.

    Raises:
        BadInputError: not a run, damaged, or written by a newer slmbench.
    """
    try:
        raw = json.loads(read_regular(path))
    except FileNotFoundError as error:
        raise BadInputError(f"{path.parent}: holds no run (no {RUN_NAME}){_runs_below(path.parent)}") from error
    except OSError as error:
        raise BadInputError(f"{path}: not a run: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not JSON: {error}") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if type(version) is not int or version < 1:
        said = "no schema_version" if version is None else f"schema_version {version!r:.20}"
        raise BadInputError(f"{path}: not a run: {said}")
    if version > SCHEMA_VERSION:
        raise BadInputError(f"{path}: schema version {version}; this slmbench reads up to {SCHEMA_VERSION}")
    try:
        text = json.dumps(raw)
        return RunRecord.model_validate(raw) if has_path_bytes(text) else RunRecord.model_validate_json(text)
    except ValidationError as error:
        raise BadInputError(f"{path}: {explain(error)}") from error


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return the published JSON Schemas: of ``run.json`` and of one line of ``samples.jsonl``, by file name."""
    schemas = {
        "run.schema.json": (RunRecord.model_json_schema(mode="serialization"), "slmbench run.json"),
        "sample.schema.json": (_RECORD.json_schema(mode="serialization"), "one line of slmbench samples.jsonl"),
    }
    return {
        name: {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}
        for name, (schema, title) in schemas.items()
    }
