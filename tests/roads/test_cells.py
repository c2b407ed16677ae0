"""A cell that cannot run never costs the others: from the command to table, files and exit code."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from folders import make_folder
from rotation import in_turn, takes_turns
from standins import install_plugin

from slmbench.cli import run_main
from slmbench.records.refusals import lines_of
from slmbench.records.schema import read_run
from slmbench.terms import PRECISIONS

pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")

BACKENDS = ("openvino", "openvino_genai", "onnxruntime", "onnxruntime_genai", "llama_cpp", "torch")
SHORT = ("--input-tokens", "16", "--output-tokens", "4", "--repeat", "1")


def options(name: str, *values: str) -> list[str]:
    return [part for value in values for part in (f"--{name}", value)]


def rows_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run_main(["table", str(folder), "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_lines_name_the_cells_that_were_given_and_no_other() -> None:
    cells = [("a", "x", "cpu", "int8", "no"), ("b", "x", "cpu", "int8", "no"), ("b", "x", "cpu", "int4", "no")]
    assert lines_of(cells) == ["a on x in int8: no", "b on x in int8, int4: no"]
    assert lines_of([*cells, ("a", "x", "cpu", "int4", "no")]) == ["a, b on x in int8, int4: no"]
    assert lines_of([("a", "x", "npu", "int8", "no"), ("a", "x", "npu", "int8", "no")]) == ["a on x (npu) in int8: no"]
    shared = [("a", "x", "npu", "int8", "no"), ("a", "y", "npu", "int8", "no"), ("b", "y", "npu", "int4", "no")]
    assert lines_of(shared) == ["a on x, y (npu) in int8: no", "b on y (npu) in int4: no"]


def test_where_nothing_can_run_every_reason_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = options("model", "dec-tiny", "mu-tiny") + options("backend", "onnxruntime", "llama_cpp")
    assert run_main(["run", *arguments, "--precision", "int4/bf16", "--dry-run"]) == 5
    first, *reasons = capsys.readouterr().err.splitlines()
    assert first == "slmbench: error: nothing can be measured"
    assert len(reasons) == 3, reasons
    assert run_main(["run", *arguments, "--input-tokens", "100000000", "--dry-run"]) == 5
    assert "longer than dec-tiny takes" in capsys.readouterr().err


def test_one_length_too_long_is_one_cell_less(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*options("model", "dec-tiny"), *options("backend", "onnxruntime"), "--output-tokens", "4"]
    assert run_main(["run", *arguments, *options("input-tokens", "16", "100000000"), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [case["key"].split("|")[-1] for case in found["cases"]] == ["in16-out4-b1"]
    assert "longer than" in found["refusals"][0]


def test_an_option_of_one_backend_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    arguments = [*options("model", "dec-tiny"), *options("backend", "onnxruntime", "openvino"), "--dry-run"]
    assert run_main(["run", *arguments, "--option", "kv_cache=u8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {case["key"].split("|")[1] for case in found["cases"]} == {"openvino"}
    assert "has no option 'kv_cache'" in found["refusals"][0]
    assert run_main(["run", *arguments, "--option", "no_such=1"]) == 2
    assert "no_such" in capsys.readouterr().err


@takes_turns(2, 4)
@pytest.mark.slow
def test_what_fails_in_export_is_listed_and_the_rest_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, out = make_folder(tmp_path / "broken"), tmp_path / "run"
    arguments = options("model", str(broken), "llama-tiny") + options("backend", "onnxruntime", "llama_cpp")
    assert run_main(["run", *arguments, *SHORT, "--out", str(out)]) == 5
    rows = {(row["model"], row["backend"]): row for row in rows_of(out, capsys)}
    for backend in ("onnxruntime", "llama_cpp"):
        assert rows["llama-tiny", backend]["ttft_s"] > 0
        assert rows["llama-tiny", backend]["failure"] is None
        assert rows["broken", backend]["failure"].startswith("export failed: ")
    before = (out / "samples.jsonl").read_bytes()
    # Nothing is tried again, and nothing is written twice.
    assert run_main(["run", "--resume", str(out)]) == 5
    assert (out / "samples.jsonl").read_bytes() == before
    # Cut before the run ended: the failure is known from the file, the export is not tried again.
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "finished": None}))
    assert run_main(["run", "--resume", str(out)]) == 5
    assert len([one for one in read_run(out).failures if one.reason == "export failed"]) == 2
    assert run_main(["run", *options("model", str(broken)), *SHORT, "--out", str(tmp_path / "none")]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert "slmbench: error: nothing can be measured" in lines


@takes_turns(3, 4)
@pytest.mark.slow
def test_what_fails_at_load_and_what_cannot_run_are_listed_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in gives other tokens than the reference: its proof fails when it is loaded."""
    pytest.importorskip("torch", reason="needs slmbench[torch]")
    site, out = tmp_path / "site", tmp_path / "run"
    site.mkdir()
    install_plugin(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    arguments = options("backend", "standin", "torch") + options("precision", "fp32", "int8")
    assert run_main(["run", "--model", "llama-tiny", *arguments, *SHORT, "--out", str(out)]) == 5
    screen = " ".join(capsys.readouterr().out.split())
    rows = {(row["backend"], row["weight_precision"]): row for row in rows_of(out, capsys)}
    assert rows["torch", "fp32"]["ttft_s"] > 0
    assert rows["standin", "fp32"]["failure"].startswith("wrong tokens")
    refused = "torch takes fp32, fp16, bf16 weights of decoder-only models, not int8"
    assert rows["torch", "int8"]["refusal"] == refused
    assert rows["torch", "int8"]["ttft_s"] is None
    texts = [(out / name).read_text() for name in ("table.md", "table.csv", "report.html", "run.json")]
    for text in (screen, *texts):
        assert refused in text
    for text in (screen, *texts[:3]):
        assert "wrong tokens" in text
    with (out / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4


#: What the engines are known to have on every CPU: a cell that is lost from here is a loss.
QUANTISED, HALVES = ("fp32", "int8", "int4"), ("fp32", "fp16", "bf16")
KNOWN = {
    **{("mu-tiny", backend): QUANTISED for backend in ("openvino", "onnxruntime")},
    **{("dec-tiny", f"{engine}{more}"): QUANTISED for engine in ("openvino", "onnxruntime") for more in ("", "_genai")},
    **{(model, "torch"): HALVES for model in ("mu-tiny", "dec-tiny")},
    ("dec-tiny", "llama_cpp"): (*HALVES, "int8"),
}


@takes_turns(0, 2)
@pytest.mark.slow
def test_all_precisions_on_all_backends_for_both_families(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("openvino_genai", "onnxruntime_genai", "llama_cpp", "torch"):
        pytest.importorskip(module, reason="needs every engine")
    out, models, precisions = tmp_path / "run", ("mu-tiny", "dec-tiny"), in_turn(PRECISIONS, 3)
    asked = options("model", *models) + options("backend", *BACKENDS) + options("precision", *precisions)
    code = run_main(["run", *asked, *SHORT, "--out", str(out)])
    rows = rows_of(out, capsys)
    cells = {(row["model"], row["backend"], row["weight_precision"]): row for row in rows}
    assert len(rows) == len(cells) == len(models) * len(BACKENDS) * len(precisions)
    failed = {cell: row["failure"] for cell, row in cells.items() if row["failure"]}
    # Which half precisions a CPU has is found out when OpenVINO loads the model.
    for (_, backend, precision), reason in failed.items():
        assert reason.startswith("wrong precision"), reason
        assert backend in ("openvino", "openvino_genai")
        assert precision in ("fp16", "bf16")
    assert code == (5 if failed else 0)
    measured = {cell for cell, row in cells.items() if row["ttft_s"]}
    assert {cell for cell, row in cells.items() if row["refusal"]} == cells.keys() - measured - failed.keys()
    known = {(*cell, precision) for cell, has in KNOWN.items() for precision in has if precision in precisions}
    assert known <= measured
    assert run_main(["run", "--resume", str(out), "--strict"]) == 5


@takes_turns(1, 4)
@pytest.mark.slow
def test_a_load_is_proven_though_its_first_golden_prompt_tells_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No token of bart-base's first prompt has a margin that 8 bits could tell: all its loads but one failed."""
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    out = tmp_path / "run"
    arguments = ["--model", "bart-base", "--backend", "openvino", "--precision", "int8"]
    assert run_main(["run", *arguments, *SHORT, "--out", str(out)]) == 0
    (row,) = rows_of(out, capsys)
    assert row["failure"] is None
    assert row["agreement"] == 1.0
