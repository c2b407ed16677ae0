"""llama.cpp's precisions and T5 on llama.cpp, from the typed command to table, files and exit code."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from rotation import takes_turns

from slmbench.cli import run_main

pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
pytest.importorskip("gguf", reason="needs slmbench[llama]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")

SHORT = ("--input-tokens", "16", "--output-tokens", "4", "--repeat", "1")


def test_a_precision_of_gguf_files_is_llama_cpps_alone(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    asked = ["run", "--model", "dec-tiny", "--precision", "q4_k_m", "--dry-run", "--json", "--input-tokens", "16"]
    assert run_main([*asked, "--backend", "openvino,llama_cpp"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [case["key"].split("|")[1:5] for case in found["cases"]] == [
        ["llama_cpp", "cpu", "q4_k_m-int8", "gguf-dynamic-slmbench"]
    ]
    assert len(found["refusals"]) == 1
    assert (
        "q4_k_m is a precision of GGUF files, which `slmbench run --backend llama_cpp` measures" in found["refusals"][0]
    )
    assert run_main([*asked, "--backend", "openvino"]) == 5
    assert "precision of GGUF files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("precision", "code", "told"),
    [
        ("q4_k", 2, "Did you mean q4_k_"),
        ("q3_k_s", 5, "not q3_k_s"),
        ("q4_k_m/fp32", 5, "weights in int8, not in fp32"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(
    precision: str, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["run", "--model", "dec-tiny", "--backend", "llama_cpp", "--precision", precision, "--dry-run"]
    assert run_main(asked) == code
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said


@takes_turns(1, 2)
@pytest.mark.slow
def test_bits_a_weight_and_fallbacks_reach_every_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    out = tmp_path / "run"
    asked = ["--model", "dec-tiny", "--backend", "llama_cpp,onnxruntime", "--precision", "q4_k_m,int4,fp32"]
    assert run_main(["run", *asked, *SHORT, "--out", str(out)]) == 0
    capsys.readouterr()
    assert run_main(["table", str(out), "--json"]) == 0
    rows = {(one["backend"], one["weight_precision"]): one for one in json.loads(capsys.readouterr().out)}
    bits = {cell: row["bits_per_weight"] for cell, row in rows.items() if row["ttft_s"]}
    assert bits["llama_cpp", "fp32"] == bits["onnxruntime", "fp32"] == 32
    assert 4.5 <= bits["llama_cpp", "int4"] < bits["llama_cpp", "q4_k_m"] < 7
    assert 4.5 <= bits["onnxruntime", "int4"] < 16
    assert rows["llama_cpp", "q4_k_m"]["agreement"] > 0.5
    assert "fallback types in" in rows["llama_cpp", "q4_k_m"]["flags"]
    assert "fallback" not in rows["llama_cpp", "fp32"]["flags"]
    assert rows["llama_cpp", "int4"]["weight_types"].startswith("Q")
    for name in ("table.md", "report.html"):
        assert "bits / weight" in (out / name).read_text()
    with (out / "table.csv").open() as file:
        assert {float(row["bits_per_weight"]) for row in csv.DictReader(file) if row["bits_per_weight"]} >= {32.0}
    case = json.loads((out / "run.json").read_text())["cases"][0]
    assert case["weights"]["bits"] > 0


@takes_turns(0, 2)
@pytest.mark.slow
def test_t5_runs_and_its_extra_work_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    asked = ["--model", "t5-tiny", "--backend", "llama_cpp", "--precision", "fp32,int8"]
    assert run_main(["run", *asked, *SHORT, "--out", str(out)]) == 0
    capsys.readouterr()
    assert run_main(["table", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2
    for row in rows:
        assert row["failure"] is None
        assert row["encode_s"] > 0
        assert "cross K/V computed at every step" in row["flags"]
    assert next(row["agreement"] for row in rows if row["weight_precision"] == "fp32") == 1.0
