from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from known_limits import BANDWIDTH, keep_limits

from slmbench.analysis.metrics import side_of
from slmbench.analysis.pairs import beats_limits
from slmbench.backend import LimitsProbe, load_backend, load_backends
from slmbench.cli import run_main
from slmbench.errors import BadInputError, CannotRunError, ExitCode
from slmbench.machine import limits as module
from slmbench.machine.limits import cached_limits, limits_of, measure_limits
from slmbench.machine.probe import ProbeRequest, ProbeResult
from slmbench.records.limits import Limits
from slmbench.records.sample_arrays import read_columns

GB = 10**9

#: A package of a stranger: an engine that reads exactly 4 GB/s, multiplies exactly 2 TFLOP/s, dies in bf16.
PLUGIN = """
import os, time
from slmbench.backend import ProbeGraph, SessionOptions
from slmbench.errors import CannotRunError

class Stranger:
    name, engine, distributions, options_type, attention_paths = "stranger", "strange", ("numpy",), SessionOptions, ()
    def devices(self): return ()
    def artifact_specs(self, checkpoint, precision, device): return ()
    def refusal(self, checkpoint, spec, options, device): return None
    def open(self, artifact, device, options): raise CannotRunError("never")

class Prober(Stranger):
    name = "prober"
    def probe_graph(self, shape, compute_precision, device, threads):
        print("chatter of the engine")
        if compute_precision == "bf16":
            os.abort()
        if compute_precision == "fp16" or device == "npu":
            raise CannotRunError(f"no {compute_precision} on this {device}")
        seconds = shape.weight_bytes() / 4e9 if shape.rows == 1 else shape.flops / 2e12
        return ProbeGraph(lambda: time.sleep(seconds), "fp32", "cpu")

class Mute(Stranger):
    name, engine = "mute", "silent"

class Real(Stranger):
    name, engine = "real", "real"
    def probe_graph(self, shape, compute_precision, device, threads):
        from slmbench.backends.onnxruntime.probe import probe_graph
        return probe_graph(shape, compute_precision, device, threads)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the stranger's package, for this process and those it starts; limits are kept in a cache of its own."""
    (tmp_path / "stranger.py").write_text(textwrap.dedent(PLUGIN))
    metadata = tmp_path / "stranger-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    names = {"stranger": "Stranger", "prober": "Prober", "mute": "Mute", "real": "Real"}
    lines = [f"{name} = stranger:{cls}" for name, cls in names.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[slmbench.backends]", *lines]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))


def test_a_crash_in_one_precision_costs_that_precision_alone(plugin: None) -> None:
    found = measure_limits(load_backend("prober"), "cpu", 1, footprints_mib=(4, 16), widths=(1024,))
    assert list(found.matrix) == ["fp32"]
    assert found.matrix["fp32"].effective == "fp32"
    assert 1e12 < found.matrix["fp32"].flops_per_s <= 2e12
    assert found.refused["fp16"] == "no fp16 on this cpu"
    assert "ended with" in found.refused["bf16"]
    assert [p.footprint_bytes for p in found.bandwidth] == [4 * 2**20, 16 * 2**20]
    # A sleep is never too short, and long by its own cost.
    assert all(2e9 < p.bytes_per_s <= 4e9 for p in found.bandwidth)


def test_limits_are_measured_once_and_again_on_request(plugin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOOTPRINTS_MIB", (4,))
    backend = load_backend("prober")
    assert cached_limits(backend, "cpu", 1) is None
    first = measure_limits(backend, "cpu", 1, footprints_mib=(4,), widths=(512,))
    assert cached_limits(backend, "cpu", 1) == first == limits_of("prober", "cpu", 1)
    assert cached_limits(backend, "cpu", 2) is None
    monkeypatch.setattr(module, "_versions", lambda backend: {"engine": "2.0"})
    assert cached_limits(backend, "cpu", 1) is None


def test_a_path_of_an_engine_shares_the_limits_of_the_one_that_has_a_probe(plugin: None) -> None:
    first = measure_limits(load_backend("prober"), "cpu", 1, footprints_mib=(4,), widths=(512,))
    assert cached_limits(load_backend("stranger"), "cpu", 1) == first


def test_what_cannot_be_measured_is_refused_with_the_reason(plugin: None) -> None:
    with pytest.raises(CannotRunError, match=r"no limits of npu through prober: no fp16 on this npu"):
        measure_limits(load_backend("prober"), "npu", 1, footprints_mib=(4,), widths=(512,))
    with pytest.raises(CannotRunError, match="'mute' has no probe.*these have: .*prober"):
        limits_of("mute", "cpu", 1)
    with pytest.raises(BadInputError, match="threads must be 1 or more"):
        limits_of("prober", "cpu", 0)


def test_a_real_engine_is_measured_in_small(plugin: None) -> None:
    pytest.importorskip("onnxruntime")
    found = measure_limits(load_backend("real"), "cpu", 2, footprints_mib=(4,), widths=(512,))
    assert found.bandwidth[0].bytes_per_s > 1e8
    assert found.matrix["fp32"].flops_per_s > 1e9
    # ONNX Runtime's CPU has no bf16, and computes fp16 in fp32: neither may pass for what it is not.
    assert "bf16" in found.refused
    assert found.matrix["fp16"].effective == "fp32"


def busy(monkeypatch: pytest.MonkeyPatch, cores: float) -> None:
    """Let other processes use so many cores, before and while limits are measured."""
    results = module._run

    def run(request: ProbeRequest) -> list[ProbeResult]:
        return [result.model_copy(update={"foreign_load": cores}) for result in results(request)]

    monkeypatch.setattr(module, "FOOTPRINTS_MIB", (4,))
    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(module, "cores_used_by_others", lambda: cores)


def test_limits_of_a_busy_machine_are_marked_and_measured_again_when_it_is_quiet(
    plugin: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["limits", "--backend", "prober", "--threads", "1"]
    with pytest.MonkeyPatch.context() as patch:
        busy(patch, 0.8)
        assert run_main(command) == ExitCode.OK
        assert "these limits may be too low" in capsys.readouterr().out
        (kept,) = (tmp_path / "cache" / "limits").rglob("*.json")
        first = json.loads(kept.read_text(encoding="utf-8"))
        assert first["disturbed"] is True
        # Still busy: nothing better can be had.
        assert limits_of("prober", "cpu", 1).model_dump(mode="json") == first
    with pytest.MonkeyPatch.context() as patch:
        busy(patch, 0.0)
        # Where others come and go, not every run measures again.
        assert limits_of("prober", "cpu", 1).model_dump(mode="json") == first
        kept.write_text(json.dumps(first | {"measured": "2026-01-01T00:00:00+00:00"}), encoding="utf-8")
        assert run_main(command) == ExitCode.OK
        assert "too low" not in capsys.readouterr().out
        quiet = json.loads(kept.read_text(encoding="utf-8"))
        assert (quiet["disturbed"], quiet["foreign_load"]) == (False, 0.0)
    with pytest.MonkeyPatch.context() as patch:
        busy(patch, 0.8)
        assert not limits_of("prober", "cpu", 1, again=True).disturbed
        # What a busy machine gives leaves what a quiet one did at least as high.
        after = json.loads(kept.read_text(encoding="utf-8"))
        assert (after["disturbed"], after["bandwidth"][0]["footprint_bytes"]) == (False, 4 * 2**20)
        assert after["bandwidth"][0]["bytes_per_s"] >= quiet["bandwidth"][0]["bytes_per_s"]


def test_limits_that_an_earlier_version_measured_on_a_busy_machine_are_marked(plugin: None) -> None:
    found = measure_limits(load_backend("prober"), "cpu", 1, footprints_mib=(4,), widths=(512,))
    raw = found.model_dump(mode="json", exclude={"disturbed"})
    for used, marked in ((None, False), (0.05, False), (0.3, True)):
        assert Limits.model_validate({**raw, "foreign_load": used}).disturbed == marked


def test_others_that_work_are_seen(plugin: None) -> None:
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        time.sleep(0.5)
        # Ours, unless it is left out: a child of the test.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "process_tree", lambda: [os.getpid()])
            assert module.cores_used_by_others() > 0.2
    finally:
        other.kill()
        other.wait()


def test_limits_that_other_tests_are_given_are_the_ones_a_run_looks_for() -> None:
    """Else every run of a test would measure them."""
    for backend in load_backends()[0]:
        if isinstance(backend, LimitsProbe) and backend.engine in ("openvino", "onnxruntime", "torch", "llama_cpp"):
            found = cached_limits(backend, "cpu")
            assert found is not None, backend.name
            assert found.bandwidth[0].bytes_per_s == BANDWIDTH


def test_of_two_measurements_the_higher_figure_is_the_limit(plugin: None) -> None:
    found = measure_limits(load_backend("prober"), "cpu", 1, footprints_mib=(4, 16), widths=(512, 1024))
    found = found.model_copy(update={"disturbed": False})
    slow = found.model_copy(
        update={
            "bandwidth": tuple(p.model_copy(update={"bytes_per_s": p.bytes_per_s / 2}) for p in found.bandwidth[:1]),
            "matrix": {"fp32": found.matrix["fp32"].model_copy(update={"flops_per_s": 1e9})},
            "disturbed": True,
        }
    )
    for best in (slow.or_higher(found), found.or_higher(slow)):
        assert (best.bandwidth, best.matrix, best.disturbed) == (found.bandwidth, found.matrix, False)
        assert set(best.refused) == {"fp16", "bf16"}
    # What was kept before counts when it is measured again.
    high = found.model_copy(
        update={"matrix": {"fp32": found.matrix["fp32"].model_copy(update={"flops_per_s": 9e12})}, "disturbed": False}
    )
    (kept,) = module.cache_dir().rglob("*.json")
    kept.write_text(high.model_dump_json(), encoding="utf-8")
    again = measure_limits(load_backend("prober"), "cpu", 1, footprints_mib=(4, 16), widths=(512,))
    assert again.matrix["fp32"].flops_per_s == 9e12
    assert cached_limits(load_backend("prober"), "cpu", 1) == again


def test_limits_that_a_figure_of_the_run_beats_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine can be slow while its limits are measured, and fast while the samples are."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(module, "FOOTPRINTS_MIB", (4,))
    monkeypatch.setattr(module, "WIDTHS", {"cpu": (512,)})
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    keep_limits(tmp_path / "cache", bandwidth=1e5, rate=1e5)
    out = tmp_path / "out"
    command = ["run", "--model", "mu-tiny", "--backend", "onnxruntime", "--input-tokens", "16", "--output-tokens", "4"]
    assert run_main([*command, "--repeat", "2", "--samples", "3", "--out", str(out)]) == 0
    assert "a figure is faster than the limits of onnxruntime allow: measuring these again" in capsys.readouterr().err
    (kept,) = json.loads((out / "run.json").read_text(encoding="utf-8"))["limits"].values()
    assert kept["bandwidth"][0]["bytes_per_s"] > 1e8
    assert kept["matrix"]["fp32"]["flops_per_s"] > 1e9
    side = side_of(read_columns(out), "")
    assert not any(beats_limits(case, metric) for case in side.cases.values() for metric in case.model.shortest_s)
