"""On a machine with a GPU: the contract on it in every precision, device memory, energy, and what the loop costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmbench import testing
from slmbench.backend import Backend, Session, load_backend
from slmbench.cli import run_main
from slmbench.measure.energy import EnergyReader, find_energy
from slmbench.measure.memory import device_bytes
from slmbench.terms import Precision

pytestmark = pytest.mark.hardware

#: Backend, precision, compute precision, options of the backend.
WAYS: list[tuple[str, Precision, str, dict[str, Any]]] = [
    ("onnxruntime", "fp32", "fp32", {}),
    ("onnxruntime", "fp16", "fp16", {}),
    ("onnxruntime", "bf16", "bf16", {}),
    ("onnxruntime", "int4", "fp16", {}),
    ("onnxruntime", "fp16", "fp16", {"cuda_graph": True}),
    ("onnxruntime", "fp32", "fp32", {"cuda_graph": True}),
    ("openvino", "fp16", "fp16", {}),
    ("torch", "fp32", "fp32", {}),
    ("torch", "bf16", "bf16", {}),
]


def backend_with_gpu(name: str) -> Backend:
    """Return the backend, or skip with what it looked for and found."""
    backend = load_backend(name)
    found = [status for status in backend.devices() if status.device == "gpu"]
    if not any(status.available for status in found):
        pytest.skip("; ".join(f"{status.detail}; {status.remedy}" for status in found) or f"{name} has no GPU")
    return backend


def subject_on(
    way: tuple[str, Precision, str, dict[str, Any]], checkpoint: str, *, pictures: bool = False
) -> testing.Subject:
    name, precision, compute, more = way
    backend = backend_with_gpu(name)
    options = backend.options_type.model_validate({"compute_precision": compute, **more})
    return testing.subject(backend, checkpoint, device="gpu", precision=precision, options=options, pictures=pictures)


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("checkpoint", ["llama-tiny", "t5-tiny", "mu-tiny"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join([way[0], way[1], *way[3]]))
def test_contract_on_the_gpu(way: Any, checkpoint: str, check: Any) -> None:
    check(subject_on(way, checkpoint))


@pytest.mark.parametrize("check", [testing.check_pictures, testing.check_tokens, testing.check_placement])
@pytest.mark.parametrize("checkpoint", ["mu-vision-tiny", "dec-vision-tiny"])
@pytest.mark.parametrize("way", WAYS[6:], ids=lambda way: "-".join([way[0], way[1], *way[3]]))
def test_pictures_on_the_gpu(way: Any, checkpoint: str, check: Any) -> None:
    check(subject_on(way, checkpoint, pictures=True))


def test_graphs_for_cuda_are_refused_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    backend_with_gpu("onnxruntime")
    asked = ["--model", "dec-vision-tiny", "--images", "1", "--backend", "onnxruntime", "--device", "gpu"]
    assert run_main(["run", *asked, "--input-tokens", "8", "--output-tokens", "2", "--dry-run"]) == 5
    assert "onnxruntime cannot take pictures" in capsys.readouterr().err


@pytest.mark.parametrize("way", WAYS[:6], ids=lambda way: "-".join([way[0], way[1], *way[3]]))
def test_every_node_is_on_cuda(way: Any) -> None:
    with subject_on(way, "t5-tiny").session() as session:
        assert list(session.placement().nodes) == ["CUDAExecutionProvider"]


def test_a_cuda_graph_gives_the_same_tokens_at_every_length() -> None:
    plain, captured = subject_on(WAYS[1], "llama-tiny"), subject_on(WAYS[4], "llama-tiny")
    with plain.session() as first, captured.session() as second:
        for seed, length in enumerate((32, 16, 32)):
            prompt = plain.prompt(seed, length=length)
            assert np.array_equal(plain.generate(first, prompt, 24), captured.generate(second, prompt, 24))


def test_nvml_tells_memory_and_energy() -> None:
    subject = subject_on(WAYS[1], "llama-tiny")
    reader = find_energy("gpu")
    assert isinstance(reader, EnergyReader), reader
    assert reader.source == "NVML"
    before = reader.read_j()
    with subject.session() as session:
        assert isinstance(session, Session)
        for seed in range(20):
            subject.generate(session, subject.prompt(seed), 24)
        held = device_bytes(os.getpid())
    after = reader.read_j()
    assert before is not None
    assert after is not None
    assert after > before
    # None where the driver does not tell by process: Windows, MIG, containers with process ids of their own.
    assert held is None or held > 2**20


@pytest.mark.parametrize("more", [[], ["--cuda-graph"]])
def test_the_loop_costs_60_us_a_token_at_most(more: list[str]) -> None:
    backend_with_gpu("onnxruntime")
    script = Path(__file__).parents[2] / "benchmarks" / "cuda_loop_overhead.py"
    command = [sys.executable, str(script), "--device", "gpu", "--precision", "fp16", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
