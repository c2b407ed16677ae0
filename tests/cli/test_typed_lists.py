"""Lists, ranges and times as people type them, from the command line and the suite to the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import Speed, make_run

from slmbench.cli import run_main
from slmbench.plan.typed_lists import counts, seconds

MODELS = ["--model", "mu-tiny,dec-tiny", "--output-tokens", "2"]


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Return the keys of the cases that the command would measure."""
    assert run_main(["run", *arguments, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    return [case["key"] for case in told["cases"]]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (["128"], [128]),
        (["128,512"], [128, 512]),
        (["128", "512,128"], [128, 512]),
        (["128-1024*2"], [128, 256, 512, 1024]),
        (["100-1000*3"], [100, 300, 900]),
        (["64-256+64"], [64, 128, 192, 256]),
        (["64-200+64"], [64, 128, 192]),
        (["1-4"], [1, 2, 3, 4]),
        (["8, 16-64*2"], [8, 16, 32, 64]),
    ],
)
def test_numbers_as_llama_bench_takes_them(text: list[str], values: list[int]) -> None:
    assert counts(text) == values


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20", 20), ("1.5", 1.5), ("20s", 20), ("5m", 300), ("5min", 300), ("1h30m", 5400), ("500ms", 0.5), (7, 7)],
)
def test_a_time_has_a_unit_or_is_seconds(text: object, expected: float) -> None:
    assert seconds(text) == expected


def test_commas_and_repeats_are_the_same_plan(capsys: pytest.CaptureFixture[str]) -> None:
    commas = planned(
        capsys, *MODELS, "--backend", "openvino,onnxruntime", "--input-tokens", "8,16-32*2", "--precision", "fp32,int8",
        "--budget", "2m",
    )  # fmt: skip
    repeated = planned(
        capsys, "--model", "mu-tiny", "--model", "dec-tiny", "--output-tokens", "2", "--backend", "openvino",
        "--backend", "onnxruntime", "--input-tokens", "8", "--input-tokens", "16", "--input-tokens", "32",
        "--precision", "fp32", "--precision", "int8",
    )  # fmt: skip
    assert commas == repeated
    assert len(set(commas)) == 2 * 2 * 3 * 2


def test_a_suite_takes_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    listed = tmp_path / "listed.yaml"
    listed.write_text(
        "name: s\npairs: [[mu-tiny, dec-tiny]]\nbackends: [openvino, onnxruntime]\nbudget_s: 300\n"
        "workloads:\n  - input_tokens: [8, 16, 32, 64]\n    output_tokens: [2, 4]\n"
    )
    typed = tmp_path / "typed.yaml"
    typed.write_text(
        "name: s\npairs: ['mu-tiny,dec-tiny']\nbackends: openvino, onnxruntime\nbudget_s: 5m\n"
        "workloads:\n  - input_tokens: 8,16-64*2\n    output_tokens: [2, 4]\n"
    )
    found = planned(capsys, "--suite", str(typed))
    assert found == planned(capsys, "--suite", str(listed))
    assert len(found) == 2 * 2 * 4 * 2


def test_a_folder_with_a_comma_is_one_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    assert run_main(["run", "--model", str(tmp_path / "a,b"), "--dry-run"]) == 2
    assert "a,b: no config.json" in capsys.readouterr().err


def test_an_options_value_keeps_its_commas(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["run", *MODELS, "--backend", "torch", "--input-tokens", "8", "--dry-run"]
    assert run_main([*asked, "--option", "one=1,2,two=3"]) == 2
    told = capsys.readouterr().err
    assert "one" in told
    assert run_main([*asked, "--arm", "a=/no/such,b=/no/such"]) == 2
    assert "--arm a=/no/such: no such interpreter" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "compare {run} {run} --metric ttft,tpot --columns model,metric,ratio --format markdown",
        "check --baseline {run} {run} --metric ttft,tpot --where device=cpu,backend=open* --json",
    ],
)
def test_commands_that_judge_take_commas(command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = make_run([Speed(model="a")]).write(tmp_path / "run")
    printed = []
    repeated = command.replace("ttft,tpot", "ttft --metric tpot").replace("cpu,back", "cpu --where back")
    for text in (command, repeated.replace("model,metric,ratio", "model,metric --columns ratio")):
        assert run_main(text.replace("model,metric,ratio", "model,metric --columns ratio").format(run=run).split()) in (
            0,
            4,
        )
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "ttft" in printed[0]
    assert "tpot" in printed[0]


def test_a_condition_takes_several_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = make_run([Speed(model=name) for name in ("a", "b", "c")]).write(tmp_path / "run")

    def models(condition: str) -> set[str]:
        command = f"compare {run} {run} --format csv --where {condition}"
        assert run_main(command.split()) == 0
        return {line.partition("|")[0] for line in capsys.readouterr().out.splitlines()[1:]}

    assert models("model=a,b") == {"a", "b"}
    assert models("model!=a,b") == {"c"}
    assert models("model=a*,c,device=cpu") == {"a", "c"}
