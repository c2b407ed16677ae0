"""Qualcomm's HTP: graphs wholly on it, chips by name, context binaries, and nothing on the CPU by stealth."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from slmbench.backends.onnxruntime import qnn
from slmbench.backends.onnxruntime.static_session import strict_settings

from slmbench.backend import SessionOptions
from slmbench.cli import run_main
from slmbench.errors import BadInputError, CannotRunError
from slmbench.measure.proof import agreement
from slmbench.models.artifact import Artifact
from slmbench.models.checkpoint import resolve
from slmbench.models.qnn_socs import SOCS, find_soc, target_soc
from slmbench.system.extras import install_command

FP16 = SessionOptions(simulate=True, compute_precision="fp16")
INT16 = SessionOptions(simulate=True, compute_precision="int16")
MakeArtifact = Callable[..., Artifact]


@pytest.fixture(scope="module")
def emulator() -> None:
    pytest.importorskip("onnxruntime_qnn", reason="the HTP emulator needs onnxruntime-qnn")
    if qnn.devices()[0].available:
        pytest.skip("this machine has a Qualcomm NPU; the emulator is for machines without")


def on_htp(make_static: MakeArtifact, name: str, precision: str, **more: object) -> Artifact:
    return make_static(name, "onnx", weight_precision=precision, target="qnn", **more)


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("t5-tiny", 1e-2),
        ("llama-tiny", 1e-2),
        pytest.param("mu-tiny", 1e-2, marks=pytest.mark.slow),
        pytest.param("qwen3-tiny", 1e-2, marks=pytest.mark.slow),
        pytest.param("phi3-tiny", 1e-2, marks=pytest.mark.slow),
        # Normalised after each block, random weights double any rounding in every layer: 20-fold at the logits.
        pytest.param("bart-tiny", 5e-2, marks=pytest.mark.slow),
    ],
)
def test_fp16_gives_the_golden_tokens_wholly_on_the_htp(name: str, tolerance: float, make_static: MakeArtifact) -> None:
    artifact = on_htp(make_static, name, "fp16")
    session = qnn.open_session(artifact, FP16)
    found = agreement(session, artifact.golden().prompts, tolerance, artifact.manifest.checkpoint.family)
    assert found.compared > 25
    assert found.share == 1.0
    placement = session.placement()
    assert placement.executed_on == "htp-emulator"
    assert list(placement.nodes) == ["QNNExecutionProvider"]
    assert session.compute_precision() == "fp16"
    session.close()


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("name", ["t5-tiny", pytest.param("bart-tiny", marks=pytest.mark.slow)])
def test_int8_weights_with_16_bit_activations(name: str, make_static: MakeArtifact) -> None:
    artifact = on_htp(make_static, name, "int8")
    session = qnn.open_session(artifact, INT16)
    # Below, a choice hangs by less than what 8-bit weights move: 47 of 48 tokens (T5), 44 of 48 (BART) come out anyway.
    found = agreement(session, artifact.golden().prompts, 0.1, "encoder-decoder")
    assert found.compared > 35
    assert found.share == 1.0
    assert list(session.placement().nodes) == ["QNNExecutionProvider"]
    assert session.compute_precision() == "int16"
    session.close()


@pytest.mark.usefixtures("emulator")
def test_calibration_is_recorded(make_static: MakeArtifact) -> None:
    artifact = on_htp(make_static, "t5-tiny", "int8")
    record = json.loads((artifact.folder / "calibration.json").read_text())
    assert (record["activations"], record["weights"]) == ("QUInt16", "QUInt8")
    assert [len(prompt) for prompt in record["prompts"]] == [48, 36, 24, 12]
    assert "calibration.json" in {entry.path for entry in artifact.manifest.files}


@pytest.mark.usefixtures("emulator")
def test_context_binaries_are_compiled_for_a_chip_and_reloaded(make_static: MakeArtifact) -> None:
    artifact = make_static("t5-tiny", "onnx", weight_precision="fp16", target="qnn-sm8550")
    assert artifact.manifest.graphs["decoder"].endswith(".sm8550.onnx")
    # No fp32 graph is left next to the binary.
    assert all(not entry.path.endswith(".data") for entry in artifact.manifest.files)
    session = qnn.open_session(artifact, FP16)
    found = agreement(session, artifact.golden().prompts, 1e-2, "encoder-decoder")
    assert found.share == 1.0
    assert session.placement().nodes == {"QNNExecutionProvider": 2}
    session.close()


@pytest.mark.usefixtures("emulator")
def test_the_engine_cache_holds_context_binaries(make_static: MakeArtifact, tmp_path: Any) -> None:
    artifact = on_htp(make_static, "t5-tiny", "fp16")
    options = FP16.model_copy(update={"engine_cache": str(tmp_path)})
    given = []
    for _ in range(2):
        session = qnn.open_session(artifact, options)
        given.append(int(session.start(np.arange(10, 20)[None])[0]))
        session.close()
    assert given[0] == given[1]
    assert len(list(tmp_path.rglob("*.onnx"))) == 2


@pytest.mark.usefixtures("emulator")
def test_without_simulate_the_emulator_is_no_npu(make_static: MakeArtifact) -> None:
    reason = qnn.refusal(
        on_htp(make_static, "t5-tiny", "fp16").manifest.spec, FP16.model_copy(update={"simulate": False})
    )
    assert reason is not None
    assert "onnxruntime-qnn has a device of type CPU, none of type NPU" in reason


@pytest.mark.usefixtures("emulator")
def test_a_bad_backend_path_is_an_error(make_static: MakeArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = on_htp(make_static, "t5-tiny", "fp16")
    good = qnn.provider_options
    monkeypatch.setattr(qnn, "provider_options", lambda soc: good(soc) | {"backend_path": "/nowhere/libQnnHtp.so"})
    # The provider stays in the list of providers; only a strict session tells.
    with pytest.raises(CannotRunError):
        qnn.open_session(artifact, FP16)


@pytest.mark.usefixtures("emulator")
def test_a_node_that_the_htp_does_not_take_is_an_error(tmp_path: Any) -> None:
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"])],
        "one node",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "det.onnx")
    settings = strict_settings(1)
    settings.add_provider_for_devices(qnn._ep_devices()[:1], qnn.provider_options(SOCS["sc8380xp"]))
    with pytest.raises(
        ort.capi.onnxruntime_pybind11_state.Fail, match="fallback to CPU EP has been explicitly disabled"
    ):
        ort.InferenceSession(tmp_path / "det.onnx", settings, enable_fallback=0)


def test_a_session_that_asks_for_an_absent_provider_is_an_error(make_static: MakeArtifact) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    graph = make_static("t5-tiny", "onnx").graph("decoder")
    # By itself ONNX Runtime warns and runs on the CPU.
    loose = ort.InferenceSession(graph, providers=["CUDAExecutionProvider"])
    assert loose.get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail, match="explicitly disabled"):
        ort.InferenceSession(graph, strict_settings(1), providers=["CUDAExecutionProvider"], enable_fallback=0)


def test_without_the_plugin_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise CannotRunError("onnxruntime-qnn is not installed")

    monkeypatch.setattr(qnn, "_module", missing)
    monkeypatch.setattr("onnxruntime.get_ep_devices", list)
    (status,) = qnn.devices()
    assert not status.available
    assert "not installed" in status.detail
    assert install_command("onnxruntime-qnn") in status.remedy


@pytest.mark.parametrize(("precision", "compute"), [("fp16", "fp32"), ("int8", "fp32"), ("int8", "fp16")])
def test_what_the_htp_does_not_compute_in_is_refused(precision: str, compute: str) -> None:
    (spec,) = qnn.artifact_specs(precision)  # type: ignore[arg-type]
    reason = qnn.refusal(spec, SessionOptions.model_validate({"compute_precision": compute, "simulate": True}))
    assert reason is not None
    assert f"not {precision}/{compute}" in reason


def test_precisions_without_an_htp_graph_have_no_artifact() -> None:
    assert not qnn.artifact_specs("fp32")
    assert not qnn.artifact_specs("int4")


def test_chips_are_looked_up_by_name() -> None:
    assert (find_soc("SM8550").soc_model, find_soc("sm8550").htp_arch) == (43, 73)
    assert target_soc("qnn") is None
    with pytest.raises(BadInputError, match=r"unknown Qualcomm chip 'sm9999'.*sm8550"):
        find_soc("sm9999")


def test_an_unknown_chip_ends_with_2_and_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "t5-tiny", "--format", "onnx", "--precision", "fp16", "--layout", "static"]
    command += ["--input-tokens", "8", "--output-tokens", "4", "--target", "qnn", "--soc", "sm8551"]
    assert run_main(command) == 2
    told = capsys.readouterr().err
    assert "unknown Qualcomm chip 'sm8551'" in told
    assert "Did you mean sm8550" in told


def test_a_model_too_large_for_the_htp_is_refused_with_the_figures() -> None:
    large = resolve("llama-tiny").model_copy(update={"parameter_count": 4 * 10**9})
    (spec,) = qnn.artifact_specs("int8")
    spec = spec.model_copy(update={"input_tokens": 512, "output_tokens": 64})
    reason = qnn.size_refusal(large, spec)
    assert reason is not None
    assert "takes at least 4.0 GB on the NPU, a process of Qualcomm's HTP has 3.5 GB" in reason
    assert qnn.size_refusal(resolve("llama-tiny"), spec) is None


@pytest.mark.usefixtures("emulator")
def test_a_driver_that_refuses_a_graph_is_named(make_static: MakeArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = on_htp(make_static, "t5-tiny", "fp16")
    good = qnn.provider_options
    monkeypatch.setattr(qnn, "provider_options", lambda soc: good(soc) | {"backend_path": "/nowhere/libQnnHtp.so"})
    here = qnn.DeviceStatus("npu", qnn.PROVIDER, True, "an NPU that is not there", driver="30.0.31.250")
    monkeypatch.setattr(qnn, "devices", lambda: [here])
    with pytest.raises(CannotRunError, match=r"NPU driver 30\.0\.31\.250, onnxruntime-qnn \d"):
        qnn.open_session(artifact, FP16.model_copy(update={"simulate": False}))


def test_no_two_chips_share_a_number() -> None:
    assert len({soc.soc_model for soc in SOCS.values()}) == len(SOCS)
    assert {soc.htp_arch for soc in SOCS.values()} <= {68, 69, 73, 75, 79, 81}
