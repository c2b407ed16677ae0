"""The results format: what is written can be read, is valid by the published schema, and survives a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from slmbench.case import Case, Workload
from slmbench.errors import BadInputError
from slmbench.models.checkpoint import Checkpoint, Geometry
from slmbench.records.quality import all_schemas
from slmbench.records.sample_writer import SampleWriter
from slmbench.records.schema import (
    RUN_NAME,
    SAMPLES_NAME,
    CaseInfo,
    Conditions,
    FailureRecord,
    LoadRecord,
    MemoryRecord,
    Outcome,
    RunRecord,
    SampleRecord,
    json_schemas,
    read_run,
    write_run,
)

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"

RECORDS = [
    LoadRecord(
        case="c",
        load=0,
        pid=1,
        load_ns=2,
        first_inference_ns=3,
        warmups=2,
        stationary=True,
        agreement=1.0,
        agreement_tokens=20,
        requested_device="cpu",
        executed_on="cpu",
        nodes={"CPU": 7},
        compute_precision="fp32",
        threads=2,
        attention_path="SDPA",
        artifact_id="a",
        started="2026-01-01T00:00:00.000+00:00",
    ),
    SampleRecord(
        case="c",
        load=1,
        round=0,
        started="2026-01-01T00:00:00.000+00:00",
        batch=1,
        input_tokens=8,
        output_tokens=2,
        token_ns=(5, 9),
        phases_ns={"encode": 3},
        energy_j=0.5,
        conditions=Conditions(foreign_load=0.01, on_battery=False),
        flags=("retaken",),
    ),
    MemoryRecord(case="c", peak_rss_bytes=10, peak_uss_bytes=9),
    FailureRecord(case="c", load=2, reason="crashed", message="the worker died of SIGSEGV", log_tail="x\ny"),
]


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    geometry = Geometry(
        vocab_size=9,
        width=1,
        ffn_width=1,
        ffn_matrices=2,
        encoder_layers=0,
        decoder_layers=1,
        heads=1,
        kv_heads=1,
        head_dim=1,
        tied_embeddings=True,
    )
    checkpoint = Checkpoint(
        name="m",
        source="folder",
        path=tmp_path,
        family="decoder-only",
        architecture="llama",
        parameter_count=1,
        geometry=geometry,
        digest="0",
    )
    case = Case(
        checkpoint="m",
        backend="torch",
        device="cpu",
        format="torch",
        exporter="none",
        weight_precision="fp32",
        compute_precision="fp32",
        workload=Workload(input_tokens=8, output_tokens=2),
    )
    return RunRecord(
        run_id="r",
        slmbench_version="0.1",
        created="2026-01-01",
        seed=0,
        plan_digest="d",
        cases=(CaseInfo(case=case, checkpoint=checkpoint, engine="torch"),),
        pairs=(("a", "b"),),
        blocks=((case.key,),),
        outcomes={case.key: Outcome(loads=1, converged={"ttft": True}, half_width={"ttft": None}, warnings=("w",))},
    )


def write(folder: Path, record: RunRecord) -> None:
    write_run(folder, record)
    with SampleWriter(folder) as writer:
        for one in RECORDS:
            writer.append(one)


def test_what_is_written_is_read_back(tmp_path: Path, record: RunRecord) -> None:
    write(tmp_path, record)
    run = read_run(tmp_path)
    assert [*run.loads, *run.samples, *run.memory, *run.failures] == RECORDS
    assert run.record.outcomes == record.outcomes
    assert run.record.cases[0].case == record.cases[0].case
    assert not run.warnings


def test_the_published_schemas_are_those_of_the_code() -> None:
    for name, schema in all_schemas().items():
        published = json.loads((SCHEMAS / name).read_text(encoding="utf-8"))
        assert published == schema, f"{name} is out of date: run docs/schema/make.py"


def test_every_file_is_valid_by_the_published_schema(tmp_path: Path, record: RunRecord) -> None:
    write(tmp_path, record)
    run_schema, line_schema = (json.loads((SCHEMAS / name).read_text(encoding="utf-8")) for name in json_schemas())
    jsonschema.Draft202012Validator.check_schema(run_schema)
    jsonschema.Draft202012Validator(run_schema).validate(json.loads((tmp_path / RUN_NAME).read_text()))
    lines = (tmp_path / SAMPLES_NAME).read_text().splitlines()
    assert len(lines) == len(RECORDS)
    for line in lines:
        jsonschema.Draft202012Validator(line_schema).validate(json.loads(line))


@pytest.mark.parametrize("change", [{"token_ns": "fast"}, {"type": "average"}, {"mean_ns": 1}])
def test_the_schema_refuses_what_is_no_sample(change: dict[str, Any]) -> None:
    schema = json.loads((SCHEMAS / "sample.schema.json").read_text(encoding="utf-8"))
    good = json.loads(RECORDS[1].model_dump_json())
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(good)
    assert not validator.is_valid(good | change)


def test_no_path_of_this_machine_is_written(tmp_path: Path, record: RunRecord) -> None:
    write(tmp_path, record)
    assert str(tmp_path) not in (tmp_path / RUN_NAME).read_text()


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_killed_writer_loses_its_last_line_only(cut: int, tmp_path: Path, record: RunRecord) -> None:
    write(tmp_path, record)
    path = tmp_path / SAMPLES_NAME
    path.write_bytes(path.read_bytes()[:-cut])
    run = read_run(tmp_path)
    assert run.samples == [RECORDS[1]]
    assert not run.failures
    assert len(run.warnings) == 1
    assert "cut off" in run.warnings[0]
    with SampleWriter(tmp_path) as writer:
        writer.append(RECORDS[3])
    assert read_run(tmp_path).failures == [RECORDS[3]]


def test_a_broken_line_elsewhere_is_named(tmp_path: Path, record: RunRecord) -> None:
    write(tmp_path, record)
    path = tmp_path / SAMPLES_NAME
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace("[5,9]", '"soon"')
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInputError, match=r"samples\.jsonl:2: .*token_ns"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "no schema_version"),
        ('{"schema_version": 99}', "schema version 99; this slmbench reads up to 1"),
        ('{"schema_version": 1}', "Field required"),
    ],
)
def test_what_is_no_run_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / RUN_NAME).write_text(text)
    with pytest.raises(BadInputError, match=message):
        read_run(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, record: RunRecord) -> None:
    with pytest.raises(BadInputError, match="cannot be written"):
        write_run(tmp_path / "absent", record)
    with pytest.raises(BadInputError, match="cannot be written"):
        SampleWriter(tmp_path / "absent")


def test_run_json_is_replaced_whole(tmp_path: Path, record: RunRecord) -> None:
    write_run(tmp_path, record)
    write_run(tmp_path, record.model_copy(update={"finished": "2026-01-02"}))
    assert read_run(tmp_path).record.finished == "2026-01-02"
    assert [path.name for path in tmp_path.iterdir()] == [RUN_NAME]
