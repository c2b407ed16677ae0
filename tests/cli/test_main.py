from __future__ import annotations

import json
import subprocess
import sys

import pytest

from slmbench.cli import COMMANDS, run_main


def test_every_command_has_a_module_with_help() -> None:
    for command in COMMANDS:
        assert run_main([command, "--help"]) == 0, command


def test_no_arguments_prints_help_and_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main([]) == 0
    assert "run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["rnu"], 2, "Did you mean run?"),
        (["--no-such"], 2, "No such option"),
        (["run", "--no-such"], 2, "No such option"),
        (["suites", "show", "quik"], 2, "Did you mean quick?"),
        (["run", "--pair", "a"], 2, "--pair a"),
        (["run", "--suite", "/no/such.yaml"], 2, "/no/such.yaml"),
        (["run", "--suite", "a\x1b[31mb.yaml"], 2, "a [31mb.yaml"),
        (["run", "--model", "mu-tny"], 2, "mu-tiny"),
        (["run", "--threads", "4096", "--dry-run"], 2, "4096 threads"),
        (["run", "--precision", "fp31", "--dry-run"], 2, "fp31"),
        (["run", "--device", "tpu", "--dry-run"], 2, "tpu"),
        (["run", "--budget", "0", "--dry-run"], 2, "greater than 0"),
        (["run", "--backend", "opnvino", "--dry-run"], 2, "Did you mean openvino"),
        (["run", "--input-tokens", "100000000", "--dry-run"], 2, "longer than"),
        (["run", "--arm", "a=python", "--dry-run"], 2, "--arm is given once"),
        (["run", "--arm", "a=python", "--arm", "b=/no/python", "--dry-run"], 2, "no such interpreter"),
    ],
)
def test_bad_input_is_one_line_and_the_right_code(
    arguments: list[str], code: int, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("slmbench: error: ")
    assert part in error
    assert "\x1b" not in error
    assert len(error.splitlines()) == 1


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m slmbench suites show quick | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_the_suite_schema_is_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["suites", "schema"]) == 0
    assert "workloads" in json.loads(capsys.readouterr().out)["properties"]
