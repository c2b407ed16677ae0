"""Code of others runs because somebody typed it, never because a file or a message says so."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from synthetic import Speed, edit_json, make_run, measured_here

from slmbench.cli import run_main
from slmbench.errors import ExitCode
from slmbench.fleet.machine_server import Machine
from slmbench.fleet.messages import Holding, Planned, Progress, Wanted
from slmbench.fleet.record import FleetRecord, write_fleet_record
from slmbench.machine.fingerprint import collect
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.plan.request import RunRequest, plan_request, resume_command


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What an interpreter that nobody typed writes when it is started."""
    return tmp_path / "was-started"


@pytest.fixture
def stranger(tmp_path: Path, marker: Path) -> str:
    script = tmp_path / "a python"
    script.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(marker))}\n", encoding="utf-8")
    script.chmod(0o755)
    return str(script)


def options(**more: Any) -> dict[str, Any]:
    return RunRequest(models=("dec-tiny",), backends=("openvino",), **more).model_dump(mode="json")


@pytest.fixture
def with_arms(tmp_path: Path, stranger: str) -> Path:
    speeds = [Speed(model="dec-tiny", arm=arm, loads=2, between=0.2) for arm in ("base", "head")]
    folder = make_run(speeds).write(tmp_path / "arms")
    edit_json(folder / "run.json", options=options(arms=(("base", stranger), ("head", stranger))))
    return folder


def resumable(folder: Path) -> None:
    """Make a run that was not measured one that can go on: of the plan that its options ask for, without samples."""
    asked = RunRequest.model_validate(json.loads((folder / "run.json").read_text(encoding="utf-8"))["options"])
    arms = tuple((name, sys.executable) for name, _ in asked.arms)
    plan, _ = plan_request(asked.model_copy(update={"arms": arms}))
    edit_json(folder / "run.json", plan_digest=plan.digest(), finished=None)
    (folder / "samples.jsonl").unlink()


def test_a_baseline_starts_no_interpreter(
    tmp_path: Path, with_arms: Path, stranger: str, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = tmp_path / "base.json"
    assert run_main(["baseline", "save", f"{with_arms}@base", str(baseline)]) == ExitCode.OK
    assert "a python" not in baseline.read_text(encoding="utf-8")
    edit_json(baseline, options=options(arms=(("x", stranger), ("y", stranger))))
    assert run_main(["check", "--baseline", str(baseline)]) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert f"{baseline}: asks to start other Python interpreters" in said
    assert f"add --arm 'x={stranger}' --arm 'y={stranger}'" in said
    assert not marker.exists()


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--resume", "{run}"],
        ["run", "--resume", "{run}", "--dry-run"],
        ["check", "--baseline", "{run}@base", "{run}@head", "--until-conclusive"],
    ],
)
def test_a_results_folder_starts_no_interpreter(
    with_arms: Path, marker: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main([part.format(run=with_arms) for part in command]) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert f"{with_arms / 'run.json'}: asks to start other Python interpreters" in said
    assert "add --arm 'base=" in said
    assert not marker.exists()


def test_the_command_that_continues_a_run_can_be_pasted(with_arms: Path) -> None:
    resumable(with_arms)
    request = RunRequest(arms=(("base", sys.executable), ("head", sys.executable)), trust_remote_code=True)
    name, *typed = shlex.split(resume_command(with_arms, request))
    assert name == "slmbench"
    assert run_main([*typed, "--dry-run"]) == ExitCode.OK


def test_what_is_typed_is_what_is_started(with_arms: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resumable(with_arms)
    typed = [part for arm in ("base", "head") for part in ("--arm", f"{arm}={sys.executable}")]
    assert run_main(["run", "--resume", str(with_arms), "--dry-run", "--json", *typed]) == ExitCode.OK
    assert len(json.loads(capsys.readouterr().out)["cases"]) > 0
    assert not marker.exists()


@pytest.mark.parametrize("file", ["baseline", "run.json"])
def test_no_file_widens_trust(
    tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run([Speed(model="dec-tiny")]).write(tmp_path / "run")
    edit_json(folder / "run.json", options=options(trust_remote_code=True))
    asked: list[RunRequest] = []
    command = ["run", "--resume", str(folder), "--dry-run"]
    if file == "run.json":
        resumable(folder)
    if file == "baseline":
        baseline = str(tmp_path / "base.json")
        assert run_main(["baseline", "save", str(folder), baseline]) == ExitCode.OK
        command = ["check", "--baseline", baseline, "--gate", "30%"]
    assert run_main(command) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "asks to run a checkpoint's own code" in said
    assert said.rstrip().endswith("add --trust-remote-code")

    def execute(request: RunRequest, *, then: str, typed: bool) -> Any:
        assert not typed
        asked.append(request)
        return type("Result", (), {"folder": folder})

    monkeypatch.setattr("slmbench.running.more_samples.execute_watched", execute)
    measured_here(monkeypatch)
    assert run_main([*command, "--trust-remote-code"]) == ExitCode.OK
    assert [request.trust_remote_code for request in asked] == [True] * (file == "baseline")


@pytest.mark.parametrize("field", ["path", "trust_remote_code"])
def test_a_checkpoint_in_a_file_brings_neither_path_nor_trust(
    tmp_path: Path, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run([Speed(model="dec-tiny")]).write(tmp_path / "run")
    checkpoint = {**resolve("dec-tiny").model_dump(mode="json"), field: str(tmp_path) if field == "path" else True}
    edit_json(folder / "run.json", options={**options(), "checkpoints": [["dec-tiny", checkpoint]]})
    assert run_main(["run", "--resume", str(folder), "--dry-run"]) == ExitCode.BAD_INPUT
    assert f"checkpoints.0.1.{field}: Value error, is never taken from a file" in capsys.readouterr().err


def test_a_baseline_does_not_choose_where_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run([Speed(model="dec-tiny")]).write(tmp_path / "run")
    baseline = tmp_path / "base.json"
    assert run_main(["baseline", "save", str(folder), str(baseline)]) == ExitCode.OK
    edit_json(baseline, options={**options(), "out": str(tmp_path / "elsewhere"), "resume": str(folder)})
    asked: list[RunRequest] = []

    def execute(request: RunRequest, *, then: str, typed: bool) -> Any:
        assert not typed
        asked.append(request)
        return type("Result", (), {"folder": folder})

    monkeypatch.setattr("slmbench.running.more_samples.execute_watched", execute)
    measured_here(monkeypatch)
    assert run_main(["check", "--baseline", str(baseline), "--gate", "30%"]) == ExitCode.OK
    assert (asked[0].out, asked[0].resume) == (None, None)


def test_a_suite_has_no_such_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "suite.yaml"
    body = (
        "name: x\ncheckpoints: [dec-tiny]\nbackends: [openvino]\nworkloads:\n  - {input_tokens: 8, output_tokens: 2}\n"
    )
    for name in RunRequest.RUN_CODE:
        suite.write_text(f"{body}{name}: true\n", encoding="utf-8")
        assert run_main(["run", "--suite", str(suite), "--dry-run"]) == ExitCode.BAD_INPUT
        assert f"suite.yaml:6: {name}" in capsys.readouterr().err


def ended(machine: Machine, run: str) -> Progress:
    for _ in range(600):
        progress = Progress.model_validate_json(machine.read(run, 0)["json"])
        if progress.state == "ended":
            return progress
        time.sleep(0.1)
    raise AssertionError("the job does not end")


def test_a_fleets_machine_runs_no_code_that_a_message_names(
    stranger: str, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    machine = Machine("alone", devices=(), fingerprint=collect())
    requests = {
        "--arm names interpreters": options(arms=(("x", stranger), ("y", stranger))),
        "`slmbench fleet worker --trust-remote-code`": options(trust_remote_code=True),
    }
    for number, (said, asked) in enumerate(requests.items()):
        plan = Planned.model_validate_json(asyncio.run(machine.plan(json.dumps(asked)))["json"])
        assert not plan.keys
        assert said in plan.left_out[0]
        machine.begin(f"run-{number}", json.dumps(asked), 0)
        assert said in ended(machine, f"run-{number}").error
    assert not marker.exists()
    wanted = Wanted(
        checkpoint=resolve("dec-tiny"),
        spec=ArtifactSpec(format="openvino", exporter="slmbench", weight_precision="fp32"),
        trust_remote_code=True,
    )
    answer = machine._holder.artifact
    for _ in range(600):
        held = Holding.model_validate_json(asyncio.run(answer(wanted.model_dump_json()))["json"])
        if held.state == "lacks":
            break
        time.sleep(0.1)
    assert "`slmbench fleet worker --trust-remote-code`" in held.why
    machine.close()


def test_a_machine_that_was_started_so_trusts(tmp_path: Path) -> None:
    machine = Machine("alone", devices=(), fingerprint=collect(), trust_remote_code=True)
    asked = json.dumps(options(trust_remote_code=True, input_tokens=(8,), output_tokens=(2,)))
    plan = Planned.model_validate_json(asyncio.run(machine.plan(asked))["json"])
    assert len(plan.keys) == 1
    machine.close()


def test_a_fleets_results_folder_widens_no_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("distributed")
    record = FleetRecord(run_id="x", request=RunRequest.model_validate(options(trust_remote_code=True)), machines={})
    (tmp_path / "run").mkdir()
    write_fleet_record(tmp_path / "run", record)
    assert run_main(["run", "--fleet", "local", "--resume", str(tmp_path / "run")]) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "fleet.json: asks to run a checkpoint's own code" in said
    assert said.rstrip().endswith("add --trust-remote-code")
