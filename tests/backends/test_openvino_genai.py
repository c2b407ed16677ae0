"""openvino-genai's own loop on both attention paths: what it prints of itself, windows, ends of sequence, batches."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cpu_abilities import need_bf16_of_openvino
from slmbench.backends.openvino.genai_session import _properties_in

from slmbench import testing
from slmbench.backend import LoopSession, SessionOptions, load_backend
from slmbench.errors import BadInputError, CannotRunError
from slmbench.measure.generate import generate
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve

pytest.importorskip("openvino_genai", reason="needs slmbench[cpu]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")

from slmbench.export.build import ensure_artifact

PATHS = ("paged", "SDPA")


def artifact_of(name: str, exporter: str = "slmbench", precision: str = "fp32") -> Artifact:
    spec = ArtifactSpec.model_validate({"format": "openvino", "exporter": exporter, "weight_precision": precision})
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


def open_session(artifact: Artifact, **options: Any) -> LoopSession:
    backend = load_backend("openvino_genai")
    session = backend.open(artifact, "cpu", backend.options_type.model_validate({"threads": 1, **options}))
    assert isinstance(session, LoopSession)
    return session


def subject_of(name: str, path: str | None, exporter: str = "slmbench", **options: Any) -> testing.Subject:
    backend = load_backend("openvino_genai")
    chosen = backend.options_type.model_validate({"attention": path, **options})
    spec = ArtifactSpec.model_validate({"format": "openvino", "exporter": exporter})
    return testing.subject(backend, name, options=chosen, spec=spec)


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", PATHS)
def test_contract_on_our_graph(path: str, check: Any) -> None:
    check(subject_of("llama-tiny", path))


def test_paged_attention_finds_the_sliding_window_in_our_graph() -> None:
    """It recognises a window by the form of the mask; where it does not, every layer sees everything."""
    subject = subject_of("mistral-tiny", "paged")
    (window, *_) = subject.artifact.manifest.checkpoint.geometry.windows
    assert window is not None
    assert window < min(len(prompt.input_ids) for prompt in subject.artifact.golden().prompts)
    testing.check_tokens(subject)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("exporter", ["slmbench", "optimum"])
@pytest.mark.parametrize("name", ["qwen3-tiny", "phi3-tiny", "smollm3-tiny", "mistral-tiny", "gemma3-tiny", "dec-tiny"])
def test_golden_tokens(name: str, exporter: str, path: str) -> None:
    if exporter == "optimum" and name == "gemma3-tiny":
        pytest.skip("refused by optimum-intel")
    testing.check_tokens(subject_of(name, path, exporter))


@pytest.mark.parametrize("path", PATHS)
def test_precision_and_threads_are_what_the_pipeline_prints(path: str) -> None:
    need_bf16_of_openvino()
    session = open_session(artifact_of("llama-tiny"), attention=path, compute_precision="bf16", threads=2)
    assert session.compute_precision() == "bf16"
    assert session.threads() == 2
    assert session.attention_path() == path
    assert session.placement().executed_on == "cpu"


def test_the_print_neither_stays_on_nor_reaches_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    session = open_session(artifact_of("llama-tiny"))
    session.reserve(1, 8, 4)
    session.generate(np.full((1, 8), 7), 4)
    assert "OPENVINO_LOG_LEVEL" not in os.environ
    assert capfd.readouterr().out == ""


def test_a_print_of_another_form_proves_nothing() -> None:
    assert _properties_in("INFERENCE_PRECISION_HINT: f32\n") == {}
    printed = "x: 1\nModel: LLM with Paged Attention\n  NUM_STREAMS: 1\n  EXECUTION_DEVICES: CPU\nEXECUTION_DEVICES:\n"
    assert _properties_in(printed) == {
        "Model": "LLM with Paged Attention",
        "NUM_STREAMS": "1",
        "EXECUTION_DEVICES": "CPU",
    }


@pytest.mark.parametrize("path", PATHS)
def test_ends_of_sequence_are_suppressed(path: str) -> None:
    """With the most likely last token named an end of sequence, others come out, and as many as were asked."""
    artifact = artifact_of("llama-tiny")
    prompt = np.random.default_rng(3).integers(4, 1000, (1, 20))
    session = open_session(artifact, attention=path)
    session.reserve(1, 20, 6)
    made = session.generate(prompt, 6)[0][0].tolist()
    for ends in ((made[0],), (1001, made[-1])):
        checkpoint = artifact.manifest.checkpoint.model_copy(update={"eos_token_ids": ends})
        ended = replace(artifact, manifest=artifact.manifest.model_copy(update={"checkpoint": checkpoint}))
        session = open_session(ended, attention=path)
        session.reserve(1, 20, 6)
        found = generate(session, prompt, None, 6, ends).tokens[0].tolist()
        assert found != made
        assert len(found) == 6


@pytest.mark.parametrize("path", PATHS)
def test_a_checkpoint_without_an_end_of_sequence(path: str) -> None:
    artifact = artifact_of("llama-tiny")
    checkpoint = artifact.manifest.checkpoint.model_copy(update={"eos_token_ids": ()})
    endless = replace(artifact, manifest=artifact.manifest.model_copy(update={"checkpoint": checkpoint}))
    session = open_session(endless, attention=path)
    session.reserve(1, 8, 30)
    tokens, stamps = session.generate(np.full((1, 8), 7), 30)
    assert tokens.shape == (1, 30)
    assert stamps == sorted(stamps)
    assert len(set(stamps)) == 30


def test_no_prefix_is_kept() -> None:
    """A prompt asked again is computed again: its first token takes as long as another prompt's, not a fraction."""
    session = open_session(artifact_of("llama-tiny"))
    session.reserve(1, 1024, 2)
    prompts = np.random.default_rng(4).integers(4, 1000, (6, 1024))
    generate(session, prompts[:1], None, 2)
    fresh = min(generate(session, prompts[row : row + 1], None, 2).token_ns[0] for row in range(1, 6))
    again = min(generate(session, prompts[5:], None, 2).token_ns[0] for _ in range(5))
    assert again > 0.6 * fresh


def test_one_prompt_alone_is_streamed_by_the_stateful_pipeline() -> None:
    session = open_session(artifact_of("llama-tiny"), attention="SDPA")
    with pytest.raises(BadInputError, match="1 prompt at a time, 2"):
        session.reserve(2, 8, 4)


def test_prompts_beyond_what_is_reserved_are_refused() -> None:
    session = open_session(artifact_of("llama-tiny"))
    session.reserve(1, 8, 4)
    with pytest.raises(BadInputError, match=r"1x9 tokens and 4 new ones\) exceeds what is reserved \(1x8 and 4"):
        session.generate(np.full((1, 9), 7), 4)


def test_a_property_that_the_engine_refuses_is_told() -> None:
    need_bf16_of_openvino()
    with pytest.raises(CannotRunError, match="openvino-genai does not load it: .*kvcache"):
        open_session(artifact_of("llama-tiny"), compute_precision="bf16", kv_cache="f32")


@pytest.mark.parametrize(
    ("name", "device", "spec", "options", "reason"),
    [
        ("t5-tiny", "cpu", {}, {}, "decoder-only"),
        ("llama-tiny", "cpu", {"layout": "static", "input_tokens": 8, "output_tokens": 8}, {}, "dynamic OpenVINO"),
        ("llama-tiny", "cpu", {}, {"attention": "flash"}, "has paged, SDPA"),
    ],
)
def test_refusals(name: str, device: str, spec: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    backend = load_backend("openvino_genai")
    chosen = ArtifactSpec.model_validate({"format": "openvino", **spec})
    found = backend.refusal(resolve(name), chosen, SessionOptions.model_validate(options), device)  # type: ignore[arg-type]
    assert reason in (found or "")
