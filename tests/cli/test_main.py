from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
from synthetic import PAIR, make_run

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
        (["run", "--budget", "0", "--dry-run"], 2, "is not a time"),
        (["run", "--backend", "opnvino", "--dry-run"], 2, "Did you mean openvino"),
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


@pytest.mark.skipif(sys.platform == "win32", reason="a shell with pipes")
def test_a_verdict_does_not_hang_on_who_reads_it(tmp_path: Path) -> None:
    """``slmbench check ... | head -1`` under ``pipefail``: the regression is still one."""
    base = make_run(seed=1).write(tmp_path / "base")
    slower = [dataclasses.replace(speed, tpot_ms=3 * speed.tpot_ms) for speed in PAIR]
    new = make_run(slower, seed=2).write(tmp_path / "new")
    check = f"{sys.executable} -m slmbench check --gate 30% --baseline {base} {new}"
    alone = subprocess.run(check, shell=True, capture_output=True, text=True, timeout=60)
    assert alone.returncode == 1, alone.stdout
    piped = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {check} | true"], capture_output=True, text=True, timeout=60
    )
    assert (piped.returncode, piped.stderr) == (1, "")


def test_the_suite_schema_is_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["suites", "schema"]) == 0
    assert "workloads" in json.loads(capsys.readouterr().out)["properties"]


def test_every_option_of_run_reaches_the_request_or_the_command() -> None:
    from slmbench.cli import run as module
    from slmbench.plan.request import RunRequest

    given: dict[str, Any] = dict.fromkeys(inspect.signature(module.run).parameters, None)
    given |= {"seed": 7, "budget": 3.0, "interval_target": 4.0, "threads": 1, "repeat": 2, "suite": "smoke"}
    given |= {"scale": "small", "prompts": Path("p"), "exporter": "auto", "attention": "all", "out": Path("o")}
    given |= {
        "resume": Path("r"),
        "reference": "c",
        "recipe": "optimum",
        "revision": "v",
        "offline": True,
        "no_share": True,
        "convert_pickles": True,
        "dequantize": True,
        "simulate": True,
        "quick": True,
        "trust_remote_code": True,
        "quality": True,
        "quality_text": [Path("q")],
        "tasks": Path("t"),
        "max_new_tokens": 9,
    }
    given |= {name: [name] for name in ("model", "device", "backend", "precision", "settings")} | {"device": ["cpu"]}
    given |= {name: [3] for name in ("input_tokens", "output_tokens", "batch", "answers", "images")}
    given |= {"image_size": ["64x48"], "image": Path("i"), "mmproj": Path("m")}
    given |= {"pair": ["a,b"], "option": ["k=v"], "arm": ["x=y"]}
    request = module._request(given)
    assert request.interval_target == pytest.approx(0.04)
    assert (request.pairs, request.backend_options, request.arms) == ((("a", "b"),), (("k", "v"),), (("x", "y"),))
    untouched = [name for name in RunRequest.model_fields if getattr(request, name) == getattr(RunRequest(), name)]
    # What a fleet's client says to machines is no option.
    assert untouched == ["routes", "checkpoints", "only_cases", "suite_text", "carried"]
    of_the_command = {"fleet", "where", "machines", "each_machine", "certs", "insecure", "dry_run", "as_json"}
    of_the_command |= {"strict", "quiet", "verbose"}
    assert {name for name, value in given.items() if value is None} == of_the_command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--answers", "0"], "Invalid value for '--answers': '0': whole numbers"),
        (["run", "--precision", "fp31"], "--precision fp31: unknown precision"),
        (["run", "--exporter", "nix"], "--exporter nix: Input should be 'auto', 'slmbench'"),
        (["run", "--budget", "-3"], "Invalid value for '--budget': '-3' is not a time"),
        (["run", "--suite", "research-agent", "--answers", "3"], "the options do not go with the suite's workloads: "),
        (["table", "no-such-folder"], "no-such-folder: no such run"),
        (["table", __file__], f"{__file__}: not a run; a run is a folder with run.json in it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_value_is_said_with_the_option_it_was_given_to(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(arguments) == 2
    assert f"slmbench: error: {said}" in capsys.readouterr().err


def all_commands() -> Iterator[tuple[list[str], click.Command]]:
    """Yield every command, as typed."""

    def walk(command: click.Command, path: list[str]) -> Iterator[tuple[list[str], click.Command]]:
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                yield from walk(inner, [*path, name])
        else:
            yield path, command

    for name, (module, _) in COMMANDS.items():
        yield from walk(typer.main.get_command(import_module(f"slmbench.cli.{module}").app), [name])


def commands_with_json() -> Iterator[list[str]]:
    """Yield every command, as typed, that has ``--json``."""
    for path, command in all_commands():
        if any("--json" in option.opts for option in command.params):
            yield path


def test_help_explains_every_argument_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    for path, command in all_commands():
        run_main([*path, "--help"])
        # Its frame, its line breaks and its columns are not what is looked for.
        told = re.sub(r"[^a-z]", "", capsys.readouterr().out.lower())
        for parameter in command.params:
            help_text = getattr(parameter, "help", None)
            assert help_text, (path, parameter.name)
            words = [re.sub(r"[^a-z]", "", word.lower()) for word in help_text.split()]
            assert getattr(parameter, "hidden", False) or all(word in told for word in words), (path, parameter.name)


@pytest.mark.parametrize("path", list(commands_with_json()), ids=" ".join)
def test_every_command_with_json_prints_its_error_as_json(path: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main([*path, "--json", "--no-such"]) == 2
    told = capsys.readouterr()
    (error,) = json.loads(told.out).values()
    assert (error["kind"], error["exit_code"]) == ("bad_input", 2)
    assert f"slmbench: error: {error['message']}\n" == told.err
    # Without it nothing is on stdout.
    assert run_main([*path, "--no-such"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["check", "--baseline", "nowhere", "nowhere", "--json"], 2, "bad_input"),
        (["compare", "nowhere", "nowhere", "--format", "json"], 2, "bad_input"),
        (["compare", "nowhere", "nowhere", "--format=json"], 2, "bad_input"),
        (["run", "--json", "--device", "npu", "--backend", "openvino", "--model", "dec-tiny"], 5, "failed"),
        (["table", "--json", "nowhere"], 2, "bad_input"),
        (["explain", "--json", "dec-tny"], 2, "bad_input"),
        (["rnu", "--json"], 2, "bad_input"),
    ],
)
def test_errors_of_all_kinds_are_json(
    arguments: list[str], code: int, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(arguments) == code
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["kind"] == kind
    assert told.err.startswith("slmbench: error: ")
