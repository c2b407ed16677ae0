"""Which route is chosen: asked in order, each with its reason; not one whose tokens were wrong; the baseline's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rotation import takes_turns
from typer.testing import CliRunner

from slmbench.cli import app, run_main
from slmbench.export import failed_proofs
from slmbench.export.ort_genai import refusal as builder_refusal
from slmbench.export.routes import choose_route, installed_versions
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.running.more_samples import request_of

QUICK = ["--input-tokens", "8", "--output-tokens", "3", "--repeat", "2"]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def unknown(checkpoint: Checkpoint) -> Checkpoint:
    return checkpoint.model_copy(update={"name": "stranger", "architecture": "stranger"})


def test_routes_are_asked_in_order_and_each_says_why_not(own_cache: Path) -> None:
    assert choose_route("onnx", [resolve("llama-tiny")], "fp32").exporter == "genai"
    own = choose_route("onnx", [resolve("llama-tiny"), resolve("t5-tiny")], "fp32")
    assert own.exporter == "slmbench"
    assert own.sentence().startswith("slmbench (not genai: t5-tiny: ")
    traced = choose_route("openvino", [resolve("llama-tiny"), unknown(resolve("llama-tiny"))], "fp32")
    assert traced.exporter == "generic"
    assert [name for name, _ in traced.passed_over] == ["optimum", "slmbench"]
    assert all(reason.startswith("stranger: ") for _, reason in traced.passed_over)


def test_what_no_route_takes_decides_nothing(own_cache: Path) -> None:
    lost = unknown(resolve("llama-tiny"))
    assert choose_route("gguf", [lost], "fp32").exporter == "slmbench"
    # bf16: neither the builder nor our ONNX routes write it.
    assert choose_route("onnx", [resolve("llama-tiny")], "bf16").exporter == "generic"


def test_a_route_that_failed_its_proof_is_not_chosen_again_until_a_library_changes(own_cache: Path) -> None:
    checkpoint = resolve("llama-tiny")
    spec = ArtifactSpec(format="openvino", exporter="optimum")
    key = spec.artifact_id(checkpoint.digest)
    failure = failed_proofs.FailedProof(
        backend="openvino", message="41 of 47 golden tokens differ", versions=installed_versions()
    )
    failed_proofs.remember_failed_proof(key, failure)
    chosen = choose_route("openvino", [checkpoint], "fp32")
    assert chosen.exporter == "slmbench"
    assert "failed its proof on openvino: 41 of 47 golden tokens differ" in chosen.sentence()
    assert choose_route("openvino", [checkpoint], "fp32", "optimum").exporter == "optimum"
    assert choose_route("openvino", [checkpoint], "int8").exporter == "optimum", "another artifact"
    older = failure.model_copy(update={"versions": {**failure.versions, "torch": "2.9"}})
    failed_proofs.remember_failed_proof(key, older)
    assert choose_route("openvino", [checkpoint], "fp32").exporter == "optimum"
    failed_proofs.remember_failed_proof(key, failure)
    failed_proofs.forget_failed_proof(key)
    assert choose_route("openvino", [checkpoint], "fp32").exporter == "optimum"


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_the_builder_is_not_asked_for_longrope(tmp_path: Path, key: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({key: {"rope_type": "longrope"}}))
    checkpoint = resolve("phi3-tiny").model_copy(update={"source": "folder", "path": tmp_path})
    reason = builder_refusal(checkpoint, ArtifactSpec(format="onnx", exporter="genai"))
    assert reason is not None
    assert "longrope" in reason


@pytest.mark.slow
def test_what_an_exporter_fails_on_is_remembered(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime_genai", reason="needs slmbench[cpu]")
    assert run_main(["export", "smollm3-tiny", "--format", "onnx", "--exporter", "genai"]) == 5
    assert "from now on --exporter auto takes the next one" in " ".join(capsys.readouterr().err.split())
    chosen = choose_route("onnx", [resolve("smollm3-tiny")], "fp32")
    assert chosen.exporter == "slmbench"
    assert "not genai: smollm3-tiny: onnxruntime-genai's builder failed with 1" in chosen.sentence()


def test_what_failed_in_our_own_tests_is_not_tried_first(own_cache: Path) -> None:
    """The builder takes SmolLM3 and fails; so that nobody has to find out, the table says so."""
    chosen = choose_route("onnx", [resolve("smollm3-tiny")], "fp32")
    assert chosen.exporter == "slmbench"
    assert "failed when slmbench's own tests tried it" in chosen.sentence()


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["run", *arguments])


def test_a_dry_run_prints_the_route_and_why(own_cache: Path) -> None:
    told = run("--model", "llama-tiny", "--model", "t5-tiny", "--backend", "onnxruntime", "--dry-run", *QUICK)
    assert told.exit_code == 0, told.output
    assert re.search(r"route to onnx fp32: slmbench \(not genai: t5-tiny:", told.output.replace("\n", " "))


@takes_turns(1, 2)
@pytest.mark.slow
def test_wrong_tokens_turn_auto_away_and_the_baseline_keeps_its_route(tmp_path: Path, own_cache: Path) -> None:
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    asked = ["--model", "llama-tiny", "--backend", "openvino", "--exporter", "generic", *QUICK]
    first = run(*asked, "--out", str(tmp_path / "first"))
    assert first.exit_code == 0, first.output
    # What was measured is what a check asks for, whatever "auto" is by then.
    record = json.loads((tmp_path / "first" / "run.json").read_text())
    record["options"]["exporter"] = None
    (tmp_path / "first" / "run.json").write_text(json.dumps(record))
    assert request_of(str(tmp_path / "first")).routes == (("openvino", "fp32", "generic"),)
    golden = next((own_cache / "golden").glob("*.json"))
    wrong = json.loads(golden.read_text())
    for prompt in wrong["prompts"]:
        prompt["tokens"] = [(token + 1) % 200 + 4 for token in prompt["tokens"]]
    golden.write_text(json.dumps(wrong))
    auto = ["--model", "llama-tiny", "--backend", "openvino", *QUICK]
    assert run(*auto, "--out", str(tmp_path / "second")).exit_code == 5
    third = run(*auto, "--dry-run")
    assert "route to openvino fp32: slmbench (not optimum: llama-tiny: failed its proof on openvino" in re.sub(
        r"\s+", " ", third.output
    )
