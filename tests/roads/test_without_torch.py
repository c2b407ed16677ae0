"""What `pip install slmbench[cpu]` gives: the catalog's pairs are exported, proven and measured without torch.

`.ci/environments` runs it where torch is really missing; elsewhere torch and its exporters are hidden from the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from known_limits import keep_limits

from slmbench.system.extras import install_command

pytest.importorskip("onnx_ir", reason="needs slmbench[cpu]")
pytest.importorskip("openvino", reason="needs slmbench[cpu]")
pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")

HIDDEN = "torch transformers optimum onnxscript"
NEEDS_TORCH = f"cannot be exported here, torch is not installed: {install_command('torch')}"
REAL = "SLMBENCH_ENVIRONMENT" in os.environ and find_spec("torch") is None


def slmbench(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    hiding = (
        {} if REAL else {"SLMBENCH_ABSENT": HIDDEN, "PYTHONPATH": str(Path(__file__).parents[1] / "fleet/no_torch")}
    )
    return subprocess.run(
        [sys.executable, "-P", "-m", "slmbench", *words],
        cwd=folder, capture_output=True, text=True, timeout=600, env={**os.environ, **hiding, **more},
    )  # fmt: skip


@pytest.mark.slow
def test_a_pair_is_measured_without_torch(tmp_path: Path) -> None:
    engines = ["--backend", "openvino,openvino_genai,onnxruntime,onnxruntime_genai", "--precision", "fp32"]
    sizes = ["--input-tokens", "16", "--output-tokens", "4", "--repeat", "1"]
    done = slmbench(tmp_path, "run", "--pair", "mu-tiny,dec-tiny", *engines, *sizes, "--out", "run", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert {(row["model"], row["backend"]) for row in rows if row["ttft_s"]} == {
        ("mu-tiny", "openvino"), ("mu-tiny", "onnxruntime"), ("dec-tiny", "openvino"), ("dec-tiny", "onnxruntime"),
        ("dec-tiny", "openvino_genai"), ("dec-tiny", "onnxruntime_genai"),
    }, [row["failure"] or row["refusal"] for row in rows]  # fmt: skip
    assert {row["agreement"] for row in rows if row["ttft_s"]} == {1.0}
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert "torch" not in json.dumps(record["machines"])


def test_what_needs_torch_says_which_extra_brings_it(tmp_path: Path) -> None:
    # In a cache of its own: what other tests exported needs no torch.
    done = slmbench(tmp_path, "export", "t5-tiny", "--format", "openvino", SLMBENCH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 5
    assert "torch is needed to export" in done.stderr
    assert install_command("torch") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_forecast_says_what_cannot_be_exported_here(tmp_path: Path) -> None:
    asked = ["--model", "mu-tiny,t5-tiny", "--backend", "onnxruntime", "--input-tokens", "16", "--output-tokens", "4"]
    done = slmbench(tmp_path, "run", "--dry-run", *asked, SLMBENCH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert f"cannot run: t5-tiny on onnxruntime in fp32: {NEEDS_TORCH}" in shown
    assert "to export: mu-tiny to onnx" in shown
    assert "to export: t5-tiny" not in shown


def test_a_model_that_needs_torch_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    done = slmbench(tmp_path, "run", "--model", "t5-tiny,bart-tiny", SLMBENCH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 5
    assert done.stdout == ""
    # On a small disk the room that torch takes is told as well.
    assert done.stderr.startswith(f"slmbench: error: t5-tiny, bart-tiny: {NEEDS_TORCH}")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_what_can_run_runs_next_to_a_model_that_needs_torch(tmp_path: Path) -> None:
    asked = ["--model", "mu-tiny,t5-tiny", "--backend", "onnxruntime", "--input-tokens", "16", "--output-tokens", "4"]
    cache = {"SLMBENCH_CACHE": str(tmp_path / "cache")}
    keep_limits(tmp_path / "cache")
    done = slmbench(tmp_path, "run", *asked, "--repeat", "1", "--out", "run", "--json", **cache)
    assert done.returncode == 0, done.stderr
    rows = {row["model"]: row for row in json.loads(done.stdout)}
    assert rows["mu-tiny"]["agreement"] == 1.0
    assert rows["t5-tiny"]["refusal"].startswith(NEEDS_TORCH)
    assert "failed" not in done.stderr
    again = slmbench(tmp_path, "run", "--resume", "run", "--json", **cache)
    assert (again.returncode, len(json.loads(again.stdout))) == (0, 2), again.stderr


def test_a_reference_that_needs_torch_is_refused_when_it_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs slmbench[llama]")
    pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
    made = slmbench(tmp_path, "export", "dec-tiny", "--format", "gguf", "--precision", "int8", "--json")
    file = next(Path(json.loads(made.stdout)["folder"]).glob("*.gguf"))
    done = slmbench(tmp_path, "run", "--model", str(file), "--reference", "dec-tiny")
    assert done.returncode == 5
    why = f"torch is not installed: {install_command('torch')}"
    assert done.stderr.startswith(f"slmbench: error: --reference dec-tiny cannot be run as the reference here, {why}")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("format_", "precision"), [("gguf", "int8"), ("openvino", "int8"), ("onnx", "int4")])
def test_quantised_artifacts_are_written_without_torch(format_: str, precision: str, tmp_path: Path) -> None:
    if format_ == "gguf":
        pytest.importorskip("gguf", reason="needs slmbench[llama]")
    words = ["export", "dec-tiny", "--format", format_, "--precision", precision, "--force", "--json"]
    done = slmbench(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((Path(json.loads(done.stdout)["folder"]) / "manifest.json").read_bytes())
    assert not {"torch", "transformers"} & set(manifest["versions"])
