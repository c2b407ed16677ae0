"""Runs that nobody measured: records with a load lottery, drift and noise, for tests of what is made from runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmbench.analysis.metrics import METRICS, matching_key
from slmbench.analysis.noise import Calibration, Floor, save_calibration
from slmbench.case import Case, Workload
from slmbench.machine.fingerprint import Fingerprint
from slmbench.models.checkpoint import Checkpoint, Geometry
from slmbench.records.sample_writer import SampleWriter
from slmbench.records.schema import (
    CaseInfo,
    LoadRecord,
    MemoryRecord,
    Outcome,
    RunRecord,
    SampleRecord,
    read_run_record,
    write_run,
)
from slmbench.terms import ComputePrecision, Device, Family, Precision

GEOMETRY = Geometry(
    vocab_size=32128,
    width=512,
    ffn_width=2048,
    ffn_matrices=2,
    encoder_layers=0,
    decoder_layers=8,
    heads=8,
    kv_heads=4,
    head_dim=64,
    tied_embeddings=True,
)

MACHINE: dict[str, Any] = {
    "hardware": {
        "cpu_model": "Example 9000",
        "cpu_flags": ["avx2"],
        "physical_cores": 2,
        "logical_cores": 2,
        "memory_gib": 24,
        "os": "Linux",
        "arch": "x86_64",
    },
    "software": {"engines": {"openvino": "2026.4.1"}, "environment": {}},
    "soft": {"kernel": "6.1", "python": "3.11.2", "libraries": {"numpy": "2.4.6"}},
}

#: What a run keeps of its engine's limits.
LIMITS: dict[str, Any] = {
    "openvino|cpu": {
        "engine": "openvino",
        "device": "cpu",
        "threads": 2,
        "versions": {},
        "machine": "x",
        "measured": "today",
        "bandwidth": [{"footprint_bytes": 2**28, "bytes_per_s": 30e9}],
        "matrix": {"fp32": {"flops_per_s": 3e12, "effective": "fp32"}},
    }
}


def checkpoint(name: str, family: Family, parameters: int = 60_000_000) -> Checkpoint:
    geometry = GEOMETRY.model_copy(update={"encoder_layers": 8 if family == "encoder-decoder" else 0})
    return Checkpoint(
        name=name,
        source="catalog",
        family=family,
        architecture="t5" if family == "encoder-decoder" else "llama",
        parameter_count=parameters,
        geometry=geometry,
        digest=f"digest-of-{name}",
    )


@dataclass
class Speed:
    """A case to make: its true times in ms and how noisy it is."""

    model: str = "dec-small"
    family: Family = "decoder-only"
    backend: str = "openvino"
    engine: str = "openvino"
    attention: str = "SDPA"
    input_tokens: int = 512
    output_tokens: int = 32
    ttft_ms: float = 100.0
    tpot_ms: float = 10.0
    loads: int = 6
    rounds: int = 4
    between: float = 0.015
    within: float = 0.005
    parameters: int = 60_000_000
    arm: str | None = None
    simulate: bool = False
    device: Device = "cpu"
    weights: Precision = "fp32"
    compute: ComputePrecision = "fp32"
    options: tuple[tuple[str, str], ...] = ()
    flags: tuple[str, ...] = ()
    #: Pictures before the text, of 8 image tokens each; ``vision_ms`` of ``ttft_ms`` is theirs.
    images: int = 0
    vision_ms: float = 0.0

    @property
    def case(self) -> Case:
        return Case(
            checkpoint=self.model,
            backend=self.backend,
            device=self.device,
            format="openvino" if self.engine == "openvino" else "onnx",
            exporter="slmbench",
            weight_precision=self.weights,
            compute_precision=self.compute,
            workload=Workload(
                input_tokens=self.input_tokens,
                output_tokens=self.output_tokens,
                images=self.images,
                image_size=(64, 64) if self.images else None,
            ),
            arm=self.arm,
            simulate=self.simulate,
            options=self.options,
        )

    @property
    def configuration(self) -> str:
        """Return what shares loads: the case without its workload."""
        return self.case.key.replace(f"|{self.case.workload.label()}", "")


#: Lengths of a grid: in, out, and what the first token and the others take.
GRID = ((128, 16, 25.0), (128, 64, 25.0), (1024, 16, 210.0), (1024, 64, 210.0))


def grid(speed: Speed) -> list[Speed]:
    """Return a model at every length of the grid; its own time to the first token is that of 128 tokens in."""
    return [
        replace(speed, input_tokens=given, output_tokens=out, ttft_ms=speed.ttft_ms * first / GRID[0][2])
        for given, out, first in GRID
    ]


PAIR = (
    Speed(model="mu-small", family="encoder-decoder", ttft_ms=52, tpot_ms=7.6, parameters=60_100_000),
    Speed(model="dec-small", ttft_ms=100, tpot_ms=10, parameters=60_300_000),
)


@dataclass
class Made:
    """A run in the making, for tests that want to change something before it is written."""

    record: RunRecord
    lines: list[Any] = field(default_factory=list)

    def with_other_weights(self) -> Made:
        """Return the run of other models that have the same names."""
        infos = []
        for info in self.record.cases:
            checkpoint = info.checkpoint.model_copy(update={"digest": f"other-{info.checkpoint.digest}"})
            infos.append(info.model_copy(update={"checkpoint": checkpoint}))
        return Made(self.record.model_copy(update={"cases": tuple(infos)}), self.lines)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        write_run(folder, self.record)
        with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(line.model_dump_json() + "\n" for line in self.lines)
        return folder


def make_run(
    speeds: Sequence[Speed] = PAIR,
    *,
    seed: int = 0,
    drift: float = 0.0,
    machine: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    run_id: str | None = None,
    created: str = "2026-01-02T03:04:05+00:00",
    shared: bool = False,
) -> Made:
    """Make a run of these cases, all live in the same rounds; ``drift`` moves all of a round together.

    ``shared``: one process a load serves all workloads of a model, one input length after the other. What a load does
    to times is the same for all of them; of equal inputs the longest output is measured, the others are derived.
    """
    rng = np.random.default_rng(seed)
    pairs = _pairs(speeds)
    arms = sorted({s.arm or "" for s in speeds})
    record = RunRecord(
        run_id=run_id or f"run-{seed}",
        slmbench_version="0.1.0",
        created=created,
        finished=created,
        seed=seed,
        suite="synthetic",
        plan_digest="none",
        cases=tuple(
            CaseInfo(
                case=s.case,
                checkpoint=checkpoint(s.model, s.family, s.parameters),
                engine=s.engine,
                artifact_id="a" * 32,
                decode_weight_bytes=4 * s.parameters // (2 if s.family == "encoder-decoder" else 1),
            )
            for s in speeds
        ),
        pairs=pairs,
        machines=dict.fromkeys(arms, machine or MACHINE),
        versions={arm: {"openvino": "2026.4.1"} for arm in arms},
        limits=limits or {},
        outcomes={s.case.key: Outcome(loads=s.loads, converged={"ttft": True, "tpot": True}) for s in speeds},
    )
    made = Made(record)
    shift = np.cumsum(rng.normal(0, drift, 10_000)) if drift else np.zeros(10_000)
    if shared:
        made.lines += _shared_records(speeds, rng, shift)
    for speed in speeds:
        made.lines += [] if shared else _records(speed, rng, shift)
        made.lines.append(MemoryRecord(case=speed.case.key, peak_rss_bytes=400_000_000))
    return made


def _pairs(speeds: Sequence[Speed]) -> tuple[tuple[str, str], ...]:
    encoders = dict.fromkeys(s.model for s in speeds if s.family == "encoder-decoder")
    decoders = dict.fromkeys(s.model for s in speeds if s.family == "decoder-only")
    return tuple((a, b) for a in encoders for b in decoders)


def _records(speed: Speed, rng: np.random.Generator, shift: np.ndarray) -> list[Any]:
    lines: list[Any] = []
    for load in range(speed.loads):
        lottery = np.exp(rng.normal(0, speed.between, 2))
        lines.append(_load(speed, load, lottery, first_inference_ns=int(2e8 * lottery[1])))
        for number in range(speed.rounds):
            round_ = load * speed.rounds + number
            lines.append(_sample(speed, load, round_, lottery * np.exp(shift[round_]), rng))
    return lines


def _shared_records(speeds: Sequence[Speed], rng: np.random.Generator, shift: np.ndarray) -> list[Any]:
    configurations: dict[str, list[Speed]] = {}
    for speed in speeds:
        configurations.setdefault(speed.configuration, []).append(speed)
    lanes = sorted({speed.input_tokens for speed in speeds})
    lines: list[Any] = []
    for name, members in configurations.items():
        longest = {lane: max((s for s in members if s.input_tokens == lane), key=_output) for lane in lanes}
        measured = list(longest.values())
        for load in range(members[0].loads):
            lottery = np.exp(rng.normal(0, members[0].between, 2))
            first = measured[int(rng.integers(len(measured)))]
            for speed in members:
                inference = int(2e8 * lottery[1]) if speed is first else None
                record = _load(speed, load, lottery, first_inference_ns=inference)
                lines.append(record.model_copy(update={"configuration": name}))
            for place, lane in enumerate(lanes):
                speed = longest[lane]
                for number in range(speed.rounds):
                    round_ = (load * len(lanes) + place) * speed.rounds + number
                    sample = _sample(speed, load, round_, lottery * np.exp(shift[round_]), rng)
                    lines.append(sample)
                    others = [s for s in members if s.input_tokens == lane and s is not speed]
                    lines += [_beginning(sample, other) for other in others]
    return lines


def _output(speed: Speed) -> int:
    return speed.output_tokens


def _beginning(sample: SampleRecord, speed: Speed) -> SampleRecord:
    count = speed.output_tokens
    new = {"case": speed.case.key, "output_tokens": count, "token_ns": sample.token_ns[:count]}
    return sample.model_copy(update={**new, "derived_from": sample.case})


def _load(speed: Speed, load: int, lottery: np.ndarray, *, first_inference_ns: int | None) -> LoadRecord:
    return LoadRecord(
        case=speed.case.key,
        load=load,
        pid=1000 + load,
        load_ns=int(3e8 * lottery[0]),
        first_inference_ns=first_inference_ns,
        warmups=2,
        stationary=True,
        agreement=1.0,
        agreement_tokens=48,
        requested_device=speed.device,
        executed_on=speed.device,
        compute_precision=speed.compute,
        threads=2,
        attention_path=speed.attention,
        artifact_id="a" * 32,
        started="2026-01-02T03:04:05+00:00",
    )


def _sample(speed: Speed, load: int, round_: int, factors: np.ndarray, rng: np.random.Generator) -> SampleRecord:
    """Make one generation; ``factors`` are what its load and the moment do to the first token and to the others."""
    ttft = 1e6 * speed.ttft_ms * factors[0] * np.exp(rng.normal(0, speed.within))
    noise = np.exp(rng.normal(0, 3 * speed.within, speed.output_tokens - 1))
    stamps = np.concatenate([[ttft], ttft + np.cumsum(1e6 * speed.tpot_ms * factors[1] * noise)]).astype(np.int64)
    phases = {"encode": int(ttft * 0.9), "first_step": int(ttft * 0.1)} if speed.family == "encoder-decoder" else {}
    if speed.images:
        vision = int(ttft * speed.vision_ms / speed.ttft_ms)
        of_text = {name: int(took * (1 - speed.vision_ms / speed.ttft_ms)) for name, took in phases.items()}
        phases = {"preprocess": 500_000, "vision": vision, **(of_text or {"prefill": int(ttft) - vision})}
    return SampleRecord(
        case=speed.case.key,
        load=load,
        round=round_,
        started="2026-01-02T03:04:05+00:00",
        batch=1,
        image_tokens=8 * speed.images,
        input_tokens=speed.input_tokens + 8 * speed.images,
        output_tokens=speed.output_tokens,
        token_ns=tuple(int(s) for s in stamps),
        phases_ns=phases,
        flags=speed.flags,
    )


def floor_of(keys: Iterable[str], shift: float = 0.002, runs: int = 12) -> Floor:
    """Return what many identical runs of these cases would show on a machine whose runs hardly differ."""
    levels = tuple(shift * (-1.0) ** n for n in range(runs))
    digest = Fingerprint.model_validate(MACHINE).digest()
    cases = {key: dict.fromkeys(METRICS, levels) for key in keys}
    return Floor(Calibration(machine=digest, measured="now", runs=runs, cases=cases))


def calibrate(*folders: Path) -> None:
    """Keep such a floor for every case of these runs: separate runs can then be judged from the command line."""
    keys = [matching_key(info.case) for folder in folders for info in read_run_record(folder / "run.json").cases]
    found = floor_of(keys).calibration
    assert found is not None
    save_calibration(found)


def measured_here(monkeypatch: pytest.MonkeyPatch, **software: Any) -> None:
    """Let a check that measures find itself on the machine of synthetic runs, with other software if given."""
    here = {**MACHINE, "software": {**MACHINE["software"], **software}}
    monkeypatch.setattr("slmbench.running.more_samples.collect", lambda: Fingerprint.model_validate(here))


def append(folder: Path, record: Any) -> None:
    with SampleWriter(folder) as writer:
        writer.append(record)


def edit_json(path: Path, **changes: Any) -> None:
    raw = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**raw, **changes}), encoding="utf-8")
