"""What a plan will take, before anything is exported or measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rotation import takes_turns

from slmbench.cli import run_main
from slmbench.export.build import ensure_artifact
from slmbench.models import catalog
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.plan.planner import PlanOptions, make_plan
from slmbench.plan.suite import Suite
from slmbench.running.estimate import CaseEstimate, estimate
from slmbench.running.settings import MeasureSettings

pytest.importorskip("openvino", reason="needs slmbench[cpu]")


def case_of(checkpoint: str, backend: str, attention: str | None = None) -> CaseEstimate:
    suite = Suite.model_validate(
        {
            "name": "s",
            "checkpoints": [checkpoint],
            "backends": [backend],
            "workloads": [{"input_tokens": 8, "output_tokens": 4}],
        }
    )
    plan = make_plan(suite, {checkpoint: resolve(checkpoint)}, PlanOptions(attention=attention))
    return estimate(plan, MeasureSettings()).cases[0]


def test_weights_that_are_held_twice_are_counted_twice() -> None:
    """Steps by a graph of their own hold a decoder-only model's weights once more, and an encoder-decoder's not."""
    weights = resolve("dec-small").parameter_count * 4
    plain, own = (case_of("dec-small", "openvino", path).memory_bytes for path in ("SDPA", "SDPA+step"))
    assert own - plain == weights
    assert case_of("dec-small", "openvino").memory_bytes == own
    assert case_of("mu-small", "openvino", "SDPA").memory_bytes == case_of("mu-small", "openvino").memory_bytes


def test_an_engine_that_reads_weights_where_they_are_takes_less() -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    assert case_of("dec-small", "onnxruntime").memory_bytes < case_of("dec-small", "openvino", "SDPA").memory_bytes


def _forecast(*typed: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return what the typed command says that a run will take, with an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLMBENCH_CACHE", str(cache))
        lengths = ("--input-tokens", "8", "--output-tokens", "2", "--dry-run", "--json")
        assert run_main(["run", "--backend", "openvino", *typed, *lengths]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_what_reads_pictures_is_counted_where_there_are_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vision = catalog.get("dec-vision-small").vision_parameter_count
    text = _forecast("--model", "dec-vision-small", cache=tmp_path, capsys=capsys)
    both = _forecast("--model", "dec-vision-small", "--images", "1", cache=tmp_path, capsys=capsys)
    assert both["disk_bytes"] - text["disk_bytes"] == pytest.approx(4 * vision, rel=0.001)
    # Two copies while exporting; a tenth for buffers while running, twice with a graph for steps.
    assert both["export_memory_bytes"] - text["export_memory_bytes"] == pytest.approx(8 * vision, rel=0.001)
    assert both["memory_bytes"] - text["memory_bytes"] >= 4 * vision


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=takes_turns(place, 2)) for place, one in enumerate(("mu-vision-tiny", "dec-vision-tiny"))],
)
def test_the_disk_that_is_forecast_is_what_an_artifact_takes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="exporting needs slmbench[export]")
    forecast = _forecast("--model", name, "--images", "1", cache=tmp_path, capsys=capsys)["disk_bytes"]
    spec = ArtifactSpec(format="openvino", exporter="generic", pictures=True)
    weights = [
        entry.size_bytes
        for entry in ensure_artifact(resolve(name), spec, progress=lambda _: None).manifest.files
        if entry.path.endswith(".bin")
    ]
    assert sum(weights) <= forecast * 1.001 <= 1.05 * sum(weights)
