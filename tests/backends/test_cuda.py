from __future__ import annotations

import pytest
from slmbench.backends._cuda import PROVIDER, cuda_status

ort = pytest.importorskip("onnxruntime")


def test_a_provider_list_that_names_cuda_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    if PROVIDER in ort.get_available_providers():
        pytest.skip("onnxruntime is built with CUDA")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER, "CPUExecutionProvider"])
    with pytest.warns(UserWarning, match=PROVIDER):
        status = cuda_status()
    assert not status.available
    assert "a session of one node does not run" in status.detail
    assert "slmbench[cuda]" in status.remedy


def test_a_build_without_cuda_says_so() -> None:
    if PROVIDER in ort.get_available_providers():
        pytest.skip("onnxruntime is built with CUDA")
    status = cuda_status()
    assert (status.device, status.available) == ("gpu", False)
    assert "built without it" in status.detail
