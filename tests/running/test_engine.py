"""A real engine behind the whole path: plan, worker, proof, samples."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from slmbench.backend import load_backend
from slmbench.case import Case, Workload
from slmbench.models.checkpoint import resolve
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import CaseInfo, RunRecord, read_run, write_run
from slmbench.running.scheduler import measure
from slmbench.running.settings import MeasureSettings, PlannedCase
from slmbench.running.worker_process import Worker
from slmbench.worker import protocol as p
from slmbench.worker.unused_packages import UNUSED, UNUSED_BY_TORCH, hide_unused_packages

openvino = pytest.importorskip("openvino")


def planned(model: str, engine: str = "openvino") -> PlannedCase:
    from slmbench.export.build import ensure_artifact

    backend, checkpoint = load_backend(engine), resolve(model)
    spec = next(s for s in backend.artifact_specs(checkpoint, "fp32", "cpu") if s.exporter in ("slmbench", "none"))
    artifact = ensure_artifact(checkpoint, spec, progress=print)
    case = Case(
        checkpoint=model,
        backend=engine,
        device="cpu",
        format=spec.format,
        exporter=spec.exporter,
        weight_precision="fp32",
        compute_precision="fp32",
        workload=Workload(input_tokens=24, output_tokens=6),
    )
    return PlannedCase(case=case, checkpoint=checkpoint, artifact=artifact.folder, artifact_id=spec.format)


@pytest.mark.slow
def test_a_pair_on_openvino(tmp_path: Path) -> None:
    plan = [planned("mu-tiny"), planned("dec-tiny")]
    infos = tuple(CaseInfo(case=p.case, checkpoint=p.checkpoint, engine="openvino") for p in plan)
    record = RunRecord(run_id="r", slmbench_version="0", created="", seed=0, plan_digest="", cases=infos)
    write_run(tmp_path, record)
    measured = measure(plan, tmp_path, MeasureSettings(repeat=4, foreign_load_bound=100.0))
    run = read_run(tmp_path)
    assert not run.failures
    assert {outcome.loads for outcome in measured.outcomes.values()} == {4}
    for load in run.loads:
        assert load.agreement == 1.0
        assert load.agreement_tokens > 0
        assert (load.executed_on, load.compute_precision) == ("cpu", "fp32")
        assert load.load_ns > 0
        assert load.first_inference_ns > 0
    encoder = [s for s in run.samples if s.case.startswith("mu-tiny|")]
    for sample in encoder:
        assert {"encode", "first_step"} <= set(sample.phases_ns)
        assert sum(sample.phases_ns.values()) <= sample.token_ns[0]
        assert len(sample.token_ns) == 6
        assert all(a < b for a, b in zip(sample.token_ns, sample.token_ns[1:], strict=False))
    # The readers of a run agree with its writer.
    assert {key: len(columns) for key, columns in read_columns(tmp_path).recorded.items()} == {p.key: 4 for p in plan}
    for memory in run.memory:
        assert 20e6 < memory.peak_rss_bytes < 3e9


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells which files a process has mapped")
def test_torch_brings_no_package_that_a_text_model_does_not_need(tmp_path: Path) -> None:
    unused = {*UNUSED, *UNUSED_BY_TORCH}
    assert any(find_spec(name) for name in unused)
    case = planned("dec-tiny", "torch")
    request = p.Open(case=case.case, artifact=case.artifact, options=case.options, seed=0)
    with Worker(tmp_path / "w.log") as worker:
        worker.ask(request, p.Opened, 120)
        mapped = [Path(one.path) for one in psutil.Process(worker.pid).memory_maps()]
    assert any("torch" in path.parts for path in mapped)
    assert not [path for path in mapped if {*unused, "pandas"} & set(path.parts)]


def test_an_engine_of_a_plugin_may_compute_with_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, hidden in (("numpy", UNUSED), ("torch", (*UNUSED, *UNUSED_BY_TORCH))):
        monkeypatch.setattr(sys, "modules", {})
        hide_unused_packages(backend)
        assert set(sys.modules) == set(hidden)
        monkeypatch.undo()
