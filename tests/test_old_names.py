"""Names of version 0.2 that have changed since: options, keys of suites, fields of records, a backend's abilities."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from slmbench.backends.torch.backend import TorchBackend

from slmbench.case import Case
from slmbench.cli import run_main
from slmbench.plan.request import RunRequest
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import read_run

FIXTURES = Path(__file__).parent / "fixtures"


def test_a_run_that_calls_answers_samples_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = shutil.copytree(FIXTURES / "schema-1" / "run", tmp_path / "run")
    raw = json.loads((old / "run.json").read_text(encoding="utf-8"))
    keys = {}
    for info in raw["cases"]:
        before = Case.model_validate(info["case"]).key
        info["case"]["workload"]["samples"] = 8
        keys[before] = Case.model_validate(info["case"]).key
    raw["options"] |= {"samples": [8], "precision_target": 0.05}
    (old / "run.json").write_text(json.dumps(raw), encoding="utf-8")
    lines = [json.loads(line) for line in (old / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line |= {"case": keys[line["case"]]} | ({"samples": 8} if line["type"] == "sample" else {})
    (old / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    run = read_run(old)
    assert all("-b1-s8" in sample.case and sample.answers == 8 for sample in run.samples)
    request = RunRequest.model_validate(run.record.options)
    assert (request.answers, request.interval_target) == ((8,), 0.05)
    eightfold = [columns.last_ns.size and columns.rows for columns in read_columns(old).recorded.values()]
    assert all((rows == 8).all() for rows in eightfold)
    assert run_main(["table", str(old), "--json"]) == 0
    assert {row["answers"] for row in json.loads(capsys.readouterr().out)} == {8}
    assert run_main(["compare", str(old), str(old), "--where", "samples=8", "--format", "csv"]) == 0
    assert "-s8" in capsys.readouterr().out


def test_old_option_names_and_suite_keys_still_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def planned(*arguments: str) -> str:
        assert run_main(["run", *arguments, "--repeat", "2", "--dry-run", "--json"]) == 0
        return capsys.readouterr().out

    asked = ["--model", "t5-tiny", "--backend", "torch", "--input-tokens", "8", "--output-tokens", "4"]
    new = planned(*asked, "--answers", "4", "--interval-target", "9")
    assert "-b1-s4" in new
    assert planned(*asked, "--samples", "4", "--precision-target", "9") == new
    suite = tmp_path / "old.yaml"
    text = "name: old\ncheckpoints: [t5-tiny]\nbackends: [torch]\nworkloads:\n"
    text += "  - {input_tokens: 8, output_tokens: 4, samples: [2, 4]}\nscales: {half: {samples: 0.5}}\n"
    suite.write_text(text, encoding="utf-8")
    assert "-b1-s2" in planned("--suite", str(suite))
    assert "-s" not in planned("--suite", str(suite), "--scale", "half", "--answers", "1")
    assert run_main(["run", "--help"]) == 0
    assert not {"--samples", "--precision-target"} & set(capsys.readouterr().out.split())


def test_a_backend_that_calls_answers_samples_is_asked_for_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TorchBackend, "abilities", lambda *_: frozenset({"samples"}))
    asked = ["--model", "t5-tiny", "--backend", "torch", "--input-tokens", "8", "--output-tokens", "4"]
    assert run_main(["run", *asked, "--answers", "3", "--dry-run", "--json"]) == 0
    assert "-b1-s3" in capsys.readouterr().out
