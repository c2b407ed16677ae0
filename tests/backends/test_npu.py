"""Intel's NPU where there is none: told line by line, refused, simulated under its own name; no silent fallback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slmbench.backends.common.npu_limits import needed_bytes
from slmbench.backends.openvino import npu as openvino_npu
from slmbench.backends.openvino.static_session import executed_on

from slmbench.backend import SessionOptions, load_backend
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve

ov = pytest.importorskip("openvino")
SIMULATED = SessionOptions(threads=1, simulate=True)


@pytest.fixture(scope="module")
def npu_is_absent() -> None:
    if "NPU" in ov.Core().available_devices:
        pytest.skip("this machine has an Intel NPU")


@pytest.fixture
def step_graph(make_static: Callable[..., Artifact]) -> Any:
    return ov.Core().read_model(make_static("t5-tiny").graph("decoder"))


@pytest.mark.usefixtures("npu_is_absent")
def test_an_absent_npu_is_told_in_one_line_with_what_was_found_and_what_to_do() -> None:
    (status,) = openvino_npu.devices()
    assert not status.available
    assert "OpenVINO lists CPU" in status.detail
    assert "NPU compiler" in status.detail
    assert "--simulate" in status.remedy
    assert "\n" not in status.detail + status.remedy
    assert len(status.refusal()) < 260
    assert "; needs an Intel Core Ultra machine" in status.refusal() or Path("/dev/accel").exists()


@pytest.mark.usefixtures("npu_is_absent")
def test_without_an_npu_nothing_is_opened(make_static: Callable[..., Artifact]) -> None:
    with pytest.raises(CannotRunError, match="looked for an Intel NPU"):
        load_backend("openvino").open(make_static("t5-tiny"), "npu", SessionOptions(compute_precision="fp16"))


@pytest.mark.usefixtures("npu_is_absent")
def test_a_plugin_that_answers_is_not_a_device() -> None:
    # OpenVINO gives versions of its NPU plugin on any machine; it is the list of devices that counts.
    assert ov.Core().get_versions("NPU")
    assert not openvino_npu.devices()[0].available


def test_only_what_an_npu_computes_in_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    present = [openvino_npu.DeviceStatus("npu", "NPU", True, "an NPU", driver="1.2")]
    monkeypatch.setattr(openvino_npu, "devices", lambda: present)
    spec = ArtifactSpec(format="openvino", layout="static", weight_precision="int8")
    assert openvino_npu.refusal(spec, SessionOptions(compute_precision="fp16")) is None
    reason = openvino_npu.refusal(spec, SessionOptions(compute_precision="fp32"))
    assert reason == "the NPU computes in fp16, not in fp32: ask for int8/fp16"


@pytest.mark.parametrize(("name", "backend"), [("t5-tiny", "openvino"), ("llama-tiny", "openvino_genai")])
def test_a_simulation_computes_what_this_cpu_can(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from slmbench.cli import run_main

    words = ["run", "--device", "npu", "--simulate", "--model", name, "--backend", backend, "--dry-run", "--precision"]
    for weights in ("fp16", "int8"):
        assert run_main([*words, weights]) == 0
        assert f"|npu|{weights}-fp32|" in "".join(capsys.readouterr().out.split())
    lacking = "OpenVINO does not compute in fp16 on this CPU, only in fp32"
    monkeypatch.setattr(openvino_npu, "capability_refusal", lambda asked, _: lacking if asked == "fp16" else None)
    assert run_main([*words, "int8/fp16"]) == 5
    told = capsys.readouterr().err
    assert f"in int8: the simulation runs on the CPU, and {lacking}: ask for int8/fp32" in told


def test_a_batch_is_refused_before_anything_is_exported(capsys: pytest.CaptureFixture[str]) -> None:
    from slmbench.cli import run_main

    words = ["run", "--device", "npu", "--simulate", "--backend", "openvino,openvino_genai", "--model", "llama-tiny"]
    assert run_main([*words, "--batch", "2", "--dry-run"]) == 5
    told = capsys.readouterr().err.splitlines()[1:]
    reason = "graphs of fixed shapes take 1 prompt at a time, not 2: use --batch 1"
    assert told == [f"  llama-tiny on openvino, openvino_genai (npu) in fp16: {reason}"]
    assert run_main([*words, "--batch", "1,2", "--dry-run"]) == 0
    assert "1 prompt at a time, not 2" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("npu_is_absent")
def test_without_an_npu_each_reason_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from slmbench.cli import run_main

    words = ["run", "--device", "npu", "--model", "t5-small", "--input-tokens", "512", "--output-tokens", "64"]
    assert run_main([*words, "--dry-run"]) == 5
    told = capsys.readouterr().err.splitlines()[1:]
    reasons = [line.partition(": ")[2] for line in told]
    assert len(set(reasons)) == len(reasons) <= 4, told
    assert any(line.startswith("  t5-small on openvino (npu) in fp16: looked for an Intel NPU") for line in told)
    assert "  t5-small on ctranslate2, llama_cpp, onnxruntime_genai, torch (npu) in fp16: no NPU support" in told[0]
    assert any("openvino_genai takes no encoder-decoder models on npu" in line for line in told)


@pytest.mark.usefixtures("npu_is_absent")
def test_a_driver_that_does_not_compile_is_named(
    make_static: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The plugin without its compiler fails as a driver that is too old does: when a graph is compiled.
    present = [openvino_npu.DeviceStatus("npu", "NPU", True, "an NPU", driver="31.0.100.1688")]
    monkeypatch.setattr(openvino_npu, "devices", lambda: present)
    with pytest.raises(CannotRunError, match=r"does not compile it for NPU: .*NPU driver 31\.0\.100\.1688, OpenVINO"):
        openvino_npu.open_session(make_static("t5-tiny"), SessionOptions(compute_precision="fp16"))


def test_a_model_too_large_for_the_npu_is_refused_with_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    present = [openvino_npu.DeviceStatus("npu", "NPU", True, "Intel AI Boost", memory_bytes=2 * 10**9, driver="1.2")]
    monkeypatch.setattr(openvino_npu, "devices", lambda: present)
    checkpoint = resolve("llama-tiny").model_copy(update={"parameter_count": 3 * 10**9})
    spec = ArtifactSpec(format="openvino", layout="static", weight_precision="fp16", input_tokens=512, output_tokens=64)
    backend, options = load_backend("openvino"), SessionOptions(compute_precision="fp16")
    reason = backend.refusal(checkpoint, spec, options, "npu")
    assert reason is not None
    assert "in fp16 for 512 tokens in and 64 out takes at least 6.0 GB on the NPU, Intel AI Boost has 2.0 GB" in reason
    fewer_bits = spec.model_copy(update={"weight_precision": "int4"})
    assert backend.refusal(checkpoint, fewer_bits, options, "npu") is None
    assert backend.refusal(resolve("llama-tiny"), spec, options, "npu") is None


def test_bounds_count_as_weights_do(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = resolve("llama-tiny")
    sizes = checkpoint.geometry
    spec = ArtifactSpec(format="onnx", layout="static", weight_precision="fp16", input_tokens=1000, output_tokens=24)
    kv = sizes.decoder_layers * 2 * sizes.kv_heads * sizes.head_dim * 1024 * 2
    assert needed_bytes(checkpoint, spec) == 2 * checkpoint.parameter_count + kv


def test_a_driver_too_old_to_tell_is_still_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class OldCore:
        available_devices = ("CPU", "NPU")

        def get_property(self, name: str, what: str) -> object:
            if what == "NPU_DRIVER_VERSION":
                return 1688
            raise RuntimeError(f"{what} is not supported by this driver")

    monkeypatch.setattr(ov, "Core", OldCore)
    (status,) = openvino_npu.devices()
    assert (status.available, status.driver, status.memory_bytes) == (True, "1688", None)


def test_the_simulation_has_a_name_of_its_own(make_static: Callable[..., Artifact]) -> None:
    session = load_backend("openvino").open(make_static("t5-tiny"), "npu", SIMULATED)
    placement = session.placement()
    assert (placement.requested, placement.executed_on) == ("npu", "npuw-cpu")
    session.close()


def test_auto_is_seen_through(step_graph: Any) -> None:
    compiled = ov.Core().compile_model(step_graph, "AUTO:NPU,CPU")
    assert executed_on(compiled) == "cpu"


@pytest.mark.parametrize("devices", [{}, {"NPUW_DEVICES": "NPU,CPU"}])
def test_a_wrapper_that_may_use_the_cpu_is_seen_through(step_graph: Any, devices: dict[str, str]) -> None:
    properties = {"NPU_USE_NPUW": "YES", "NPUW_ONLINE_PIPELINE": "NONE", **devices}
    compiled = ov.Core().compile_model(step_graph, "NPU", properties)
    # OpenVINO's own word for where it runs is "NPU".
    assert compiled.get_property("EXECUTION_DEVICES") == "NPU"
    assert executed_on(compiled) == "npuw-cpu+npu"


def test_openvinos_own_choice_of_precision_is_not_ours(make_static: Callable[..., Artifact], step_graph: Any) -> None:
    session = load_backend("openvino").open(make_static("t5-tiny"), "cpu", SessionOptions(threads=1))
    assert session.compute_precision() == "fp32"
    default = ov.Core().compile_model(step_graph, "CPU").get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if default == "f32":
        pytest.skip("this CPU has no faster type that OpenVINO would take by itself")
    bf16 = load_backend("openvino").open(
        make_static("t5-tiny"), "cpu", SessionOptions(threads=1, compute_precision="bf16")
    )
    assert bf16.compute_precision() == "bf16"


@pytest.mark.slow
def test_a_simulated_run_proves_and_gives_no_times(tmp_path: Path) -> None:
    from slmbench.cli import run_main
    from slmbench.records.schema import read_run

    arguments = ["run", "--model", "t5-tiny", "--model", "llama-tiny", "--backend", "openvino", "--device", "npu"]
    assert (
        run_main([*arguments, "--simulate", "--input-tokens", "48", "--output-tokens", "24", "--out", str(tmp_path)])
        == 0
    )
    run = read_run(tmp_path)
    assert {load.executed_on for load in run.loads} == {"npuw-cpu"}
    assert {load.agreement for load in run.loads} == {1.0}
    assert not run.samples
    assert not run.failures
    table = (tmp_path / "table.csv").read_text()
    assert "simulated: no times" in table


@pytest.mark.usefixtures("npu_is_absent")
def test_a_run_on_an_absent_npu_ends_with_5_and_a_line_a_candidate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from slmbench.cli import run_main

    backends = ["--backend", "openvino", "--backend", "onnxruntime"]
    code = run_main(
        ["run", "--model", "t5-tiny", *backends, "--device", "npu", "--precision", "fp16", "--out", str(tmp_path / "x")]
    )
    assert code == 5
    told = capsys.readouterr().err
    assert "t5-tiny on openvino (npu) in fp16: looked for an Intel NPU" in told
    assert "t5-tiny on onnxruntime (npu) in fp16: looked for" in told
    assert not (tmp_path / "x").exists()
