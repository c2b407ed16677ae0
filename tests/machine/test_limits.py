from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from slmbench.backend import load_backend
from slmbench.errors import BadInputError, CannotRunError
from slmbench.machine import limits as module
from slmbench.machine.limits import (
    BandwidthPoint,
    Limits,
    MatrixRate,
    bandwidth_use,
    cached_limits,
    compute_use,
    limits_of,
    measure_limits,
)

MB, GB = 10**6, 10**9

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
        from slmbench.backends._probe_onnxruntime import probe_graph
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


def make(*points: tuple[float, float], **matrix: float) -> Limits:
    return Limits(
        engine="e",
        device="cpu",
        threads=2,
        versions={},
        machine="m",
        measured="2026-01-01",
        bandwidth=tuple(BandwidthPoint(footprint_bytes=int(f), bytes_per_s=b) for f, b in points),
        matrix={"fp32": MatrixRate(flops_per_s=matrix["fp32"], effective="fp32")} if matrix else {},
    )


def test_decoding_from_memory_is_held_against_memory() -> None:
    use = bandwidth_use(540 * MB, 25e6, make((32 * MB, 60 * GB), (512 * MB, 27 * GB)))
    assert use is not None
    assert use.share == pytest.approx(0.8)
    assert use.explanation is None


def test_weights_in_the_cache_are_held_against_the_bandwidth_at_their_size_and_said_to_be() -> None:
    use = bandwidth_use(32 * MB, 1e6, make((32 * MB, 50 * GB), (512 * MB, 25 * GB)))
    assert use is not None
    assert use.share == pytest.approx(0.64)
    assert "32 MB" in (use.explanation or "")
    assert "50 GB/s" in (use.explanation or "")
    assert "not memory's 25 GB/s" in (use.explanation or "")


@pytest.mark.parametrize("size", [1 * MB, 32 * MB, 100 * MB, 512 * MB, 4 * GB])
@pytest.mark.parametrize("tpot_ns", [1e4, 1e6, 1e8])
def test_no_share_beyond_one_without_an_explanation(size: int, tpot_ns: float) -> None:
    use = bandwidth_use(size, tpot_ns, make((32 * MB, 50 * GB), (512 * MB, 25 * GB)))
    assert use is not None
    assert use.share <= 1 or "`slmbench limits --again`" in (use.explanation or "")


def test_between_two_sizes_the_bandwidth_is_interpolated_and_never_rises_with_size() -> None:
    limits = make((8 * MB, 20 * GB), (32 * MB, 60 * GB), (128 * MB, 40 * GB), (512 * MB, 25 * GB))
    sizes = [1, 8 * MB, 16 * MB, 32 * MB, 64 * MB, 128 * MB, 256 * MB, 512 * MB, 5 * GB]
    found = [limits.bandwidth_at(size) / GB for size in sizes]
    assert found == pytest.approx([60, 60, 60, 60, 50, 40, 32.5, 25, 25])


def test_compute_use_needs_the_rate_of_that_precision() -> None:
    limits = make((MB, GB), fp32=2e12)
    assert compute_use(1e12, 1e9, limits, "bf16") is None
    half = compute_use(1e12, 1e9, limits, "fp32")
    assert half is not None
    assert half.share == pytest.approx(0.5)
    assert half.explanation is None
    double = compute_use(4e12, 1e9, limits, "fp32")
    assert double is not None
    assert double.share == pytest.approx(2.0)
    assert "above the limit" in (double.explanation or "")


@pytest.mark.parametrize(("size", "ns"), [(0, 1e6), (MB, 0)])
def test_nothing_to_divide_is_empty(size: float, ns: float) -> None:
    assert bandwidth_use(size, ns, make((MB, GB))) is None
    assert compute_use(size, ns, make((MB, GB), fp32=1.0), "fp32") is None


def test_a_crash_in_one_precision_costs_that_precision_alone(plugin: None) -> None:
    found = measure_limits(load_backend("prober"), "cpu", 1, footprints_mib=(4, 16), width=1024)
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
    first = measure_limits(backend, "cpu", 1, footprints_mib=(4,), width=512)
    assert cached_limits(backend, "cpu", 1) == first == limits_of("prober", "cpu", 1)
    assert cached_limits(backend, "cpu", 2) is None
    monkeypatch.setattr(module, "_versions", lambda backend: {"engine": "2.0"})
    assert cached_limits(backend, "cpu", 1) is None


def test_a_path_of_an_engine_shares_the_limits_of_the_one_that_has_a_probe(plugin: None) -> None:
    first = measure_limits(load_backend("prober"), "cpu", 1, footprints_mib=(4,), width=512)
    assert cached_limits(load_backend("stranger"), "cpu", 1) == first


def test_what_cannot_be_measured_is_refused_with_the_reason(plugin: None) -> None:
    with pytest.raises(CannotRunError, match=r"no limits of npu through prober: no fp16 on this npu"):
        measure_limits(load_backend("prober"), "npu", 1, footprints_mib=(4,), width=512)
    with pytest.raises(CannotRunError, match="'mute' has no probe.*these have: .*prober"):
        limits_of("mute", "cpu", 1)
    with pytest.raises(BadInputError, match="threads must be 1 or more"):
        limits_of("prober", "cpu", 0)


def test_a_real_engine_is_measured_in_small(plugin: None) -> None:
    pytest.importorskip("onnxruntime")
    found = measure_limits(load_backend("real"), "cpu", 2, footprints_mib=(4,), width=512)
    assert found.bandwidth[0].bytes_per_s > 1e8
    assert found.matrix["fp32"].flops_per_s > 1e9
    # ONNX Runtime's CPU has no bf16, and computes fp16 in fp32: neither may pass for what it is not.
    assert "bf16" in found.refused
    assert found.matrix["fp16"].effective == "fp32"
