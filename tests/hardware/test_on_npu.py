"""On a machine with an NPU: static graphs run on it, give the reference's tokens, and say so."""

from __future__ import annotations

from typing import Any

import pytest

from slmbench import testing
from slmbench.backend import Backend, load_backend

pytestmark = pytest.mark.hardware

ENGINES = ["openvino", "onnxruntime"]


def backend_with_npu(name: str) -> Backend:
    """Return the backend, or skip with what it looked for and found."""
    backend = load_backend(name)
    npus = [status for status in backend.devices() if status.device == "npu"]
    if not any(status.available for status in npus):
        pytest.skip("; ".join(f"{status.detail}; {status.remedy}" for status in npus) or f"{name} has no NPU")
    return backend


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("checkpoint", ["t5-tiny", "mu-tiny", "llama-tiny"])
@pytest.mark.parametrize("engine", ENGINES)
def test_contract_on_the_npu(engine: str, checkpoint: str, check: Any) -> None:
    backend = backend_with_npu(engine)
    options = backend.options_type(compute_precision="fp16")
    check(testing.subject(backend, checkpoint, device="npu", precision="fp16", options=options))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_status_names_the_driver(engine: str) -> None:
    (status,) = (s for s in backend_with_npu(engine).devices() if s.device == "npu" and s.available)
    assert status.driver


def test_simulating_beside_a_real_npu_is_refused_by_qnn() -> None:
    from slmbench.backends.onnxruntime import qnn as onnxruntime_qnn

    backend_with_npu("onnxruntime")
    (spec,) = onnxruntime_qnn.artifact_specs("fp16")
    options = load_backend("onnxruntime").options_type(compute_precision="fp16", simulate=True)
    assert onnxruntime_qnn.refusal(spec, options) is not None
