"""onnxruntime-genai's own loop, stepped: on our graphs and on those of its builder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmbench import testing
from slmbench.backend import Session, SessionOptions, load_backend
from slmbench.errors import BadInputError, CannotRunError
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve

pytest.importorskip("onnxruntime_genai", reason="needs slmbench[cpu]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")

from slmbench.export.build import ensure_artifact


def artifact_of(name: str, exporter: str = "slmbench", precision: str = "fp32") -> Artifact:
    spec = ArtifactSpec.model_validate({"format": "onnx", "weight_precision": precision, "exporter": exporter})
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


def open_session(artifact: Artifact, backend: str = "onnxruntime_genai") -> Session:
    session = load_backend(backend).open(artifact, "cpu", SessionOptions(threads=1))
    assert isinstance(session, Session)
    return session


def generate(session: Session, prompt: Any, fed: list[int]) -> list[int]:
    """Return the tokens after the prompt and after each that is fed; -1 feeds what came out."""
    given = [session.start(prompt).copy()]
    for token in fed:
        given.append(session.step(given[-1] if token < 0 else np.array([token])).copy())
    return [int(one[0]) for one in given]


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_contract_on_our_graph(check: Any) -> None:
    spec = ArtifactSpec(format="onnx", exporter="slmbench")
    check(testing.subject(load_backend("onnxruntime_genai"), "llama-tiny", spec=spec))


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["slmbench", "genai"])
@pytest.mark.parametrize("name", ["qwen3-tiny", "phi3-tiny", "smollm3-tiny", "mistral-tiny", "gemma3-tiny"])
def test_golden_tokens(name: str, exporter: str) -> None:
    if exporter == "genai" and name not in ("qwen3-tiny", "phi3-tiny"):
        pytest.skip("the builder does not take it")
    spec = ArtifactSpec.model_validate({"format": "onnx", "exporter": exporter})
    testing.check_tokens(testing.subject(load_backend("onnxruntime_genai"), name, spec=spec))


def test_forced_and_own_tokens_mixed_give_what_our_loop_gives() -> None:
    artifact = artifact_of("llama-tiny")
    prompt = np.random.default_rng(2).integers(4, 1000, (1, 20))
    fed = [-1, 7, -1, -1, 99, 512, -1, 3, -1]
    found = []
    for name in ("onnxruntime", "onnxruntime_genai"):
        session = open_session(artifact, name)
        session.reserve(1, 20, 12)
        found.append(generate(session, prompt, fed))
    assert found[0] == found[1]


def test_ends_of_sequence_are_suppressed() -> None:
    """With the most likely first token named an end of sequence, the second most likely one comes out."""
    artifact = artifact_of("llama-tiny")
    prompt = np.random.default_rng(3).integers(4, 1000, (1, 20))
    session = open_session(artifact)
    session.reserve(1, 20, 6)
    (best, *_) = generate(session, prompt, [])
    checkpoint = artifact.manifest.checkpoint.model_copy(update={"eos_token_ids": (best,)})
    ended = replace(artifact, manifest=artifact.manifest.model_copy(update={"checkpoint": checkpoint}))
    session = open_session(ended)
    session.reserve(1, 20, 6)
    found = generate(session, prompt, [-1] * 5)
    assert len(found) == 6
    assert best not in found


def test_shapes_beyond_bounds_are_refused() -> None:
    session = open_session(artifact_of("llama-tiny"))
    with pytest.raises(BadInputError, match="4096 tokens; this workload needs 4097"):
        session.reserve(1, 4000, 97)
    session.reserve(1, 8, 4)
    with pytest.raises(BadInputError, match=r"this prompt \(1x9 tokens\) exceeds what is reserved"):
        session.start(np.full((1, 9), 5))


def test_prompts_of_unequal_length_are_refused() -> None:
    session = open_session(artifact_of("llama-tiny"))
    session.reserve(2, 4, 4)
    with pytest.raises(CannotRunError, match="equally long"):
        session.start(np.full((2, 4), 5), np.array([[0, 1, 1, 1], [1, 1, 1, 1]]))


def test_an_artifact_without_its_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match="not a config of onnxruntime-genai"):
        open_session(Artifact(tmp_path, artifact_of("llama-tiny").manifest))


@pytest.mark.parametrize(
    ("name", "device", "spec", "reason"),
    [
        ("t5-tiny", "cpu", {}, "decoder-only"),
        ("llama-tiny", "gpu", {}, "not on gpu"),
        ("llama-tiny", "cpu", {"layout": "static", "input_tokens": 8, "output_tokens": 8}, "dynamic ONNX graphs"),
    ],
)
def test_refusals(name: str, device: str, spec: dict[str, Any], reason: str) -> None:
    backend = load_backend("onnxruntime_genai")
    chosen = ArtifactSpec.model_validate({"format": "onnx", **spec})
    assert reason in (backend.refusal(resolve(name), chosen, SessionOptions(), device) or "")  # type: ignore[arg-type]
