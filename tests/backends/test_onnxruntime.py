"""Our loop on ONNX Runtime: the reference's tokens, padded batches, resets, bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rotation import tiny_models

from slmbench.backend import Session, SessionOptions, load_backend
from slmbench.errors import BadInputError, CannotRunError
from slmbench.measure.proof import agreement
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.terms import MARGIN_TOLERANCE

pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")

from slmbench.export.build import ensure_artifact
from slmbench.export.onnx.route import ARCHITECTURES

QUICK = {"llama-tiny", "t5-tiny", "t5gemma-tiny"}
TINY = [name for name in tiny_models(QUICK) if resolve(name).architecture in ARCHITECTURES]


def quick(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def artifact_of(name: str, precision: str = "fp32", exporter: str = "slmbench") -> Artifact:
    spec = ArtifactSpec.model_validate({"format": "onnx", "weight_precision": precision, "exporter": exporter})
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


def open_session(artifact: Artifact, batch: int = 1, inputs: int = 48, outputs: int = 24) -> Session:
    session = load_backend("onnxruntime").open(artifact, "cpu", SessionOptions(threads=1))
    assert isinstance(session, Session)
    session.reserve(batch, inputs, outputs)
    return session


def generate(session: Session, prompt: Any, mask: Any = None, count: int = 12) -> Any:
    tokens = [session.start(prompt, mask).copy()]
    for _ in range(count - 1):
        tokens.append(session.step(tokens[-1]).copy())
    return np.stack(tokens, axis=1)


@pytest.mark.parametrize("name", quick(TINY))
def test_every_golden_token_comes_out(name: str) -> None:
    artifact = artifact_of(name)
    found = agreement(open_session(artifact), artifact.golden().prompts, MARGIN_TOLERANCE["fp32"], resolve(name).family)
    assert found.compared > 40
    assert found.equal == found.compared


@pytest.mark.parametrize("name", quick(TINY))
def test_tokens_survive_int8(name: str) -> None:
    artifact = artifact_of(name, "int8")
    found = agreement(open_session(artifact), artifact.golden().prompts, MARGIN_TOLERANCE["int8"], resolve(name).family)
    assert found.equal >= 0.95 * found.compared > 0


def test_two_sessions_of_a_model_do_not_spin_against_each_other() -> None:
    def stops(name: str) -> set[str]:
        graphs = open_session(artifact_of(name))._graphs.values()
        return {g.session.get_session_options().get_session_config_entry("session.force_spinning_stop") for g in graphs}

    assert stops("t5-tiny") == {"1"}
    with pytest.raises(RuntimeError, match="does not have configuration"):
        stops("llama-tiny")


def test_quantised_products_are_not_called_fp32() -> None:
    assert open_session(artifact_of("llama-tiny")).compute_precision() == "fp32"
    session = open_session(artifact_of("llama-tiny", "int8"))
    session.start(np.full((1, 4), 5))
    assert session.compute_precision() == "int8"


@pytest.mark.parametrize("exporter", ["slmbench", "genai"])
def test_quantised_products_round_their_input_to_8_bits(exporter: str) -> None:
    """What the compute precision says rests on this attribute, which a session does not tell."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(artifact_of("llama-tiny", "int4", exporter).graph("model"), load_external_data=False)
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    levels = {a.i for node in products for a in node.attribute if a.name == "accuracy_level"}
    assert products
    assert levels == {4}


@pytest.mark.parametrize("name", quick(TINY))
def test_a_padded_batch_gives_what_each_prompt_gives_alone(name: str) -> None:
    """Rows of three lengths; encoder-decoders are padded on the right, decoder-only on the left."""
    checkpoint, rng = resolve(name), np.random.default_rng(0)
    lengths = (9, 31, 20)
    prompts = [rng.integers(4, checkpoint.geometry.vocab_size, length) for length in lengths]
    ids, mask = np.full((3, 31), checkpoint.pad_token_id), np.zeros((3, 31), np.int64)
    for row, prompt in enumerate(prompts):
        place = slice(0, len(prompt)) if checkpoint.family == "encoder-decoder" else slice(31 - len(prompt), 31)
        ids[row, place], mask[row, place] = prompt, 1
    artifact = artifact_of(name)
    together = generate(open_session(artifact, 3, 31, 12), ids, mask)
    alone = open_session(artifact, 1, 31, 12)
    for row, prompt in enumerate(prompts):
        assert together[row].tolist() == generate(alone, prompt[None])[0].tolist()


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_start_forgets_the_generation_before(name: str) -> None:
    rng = np.random.default_rng(1)
    first, second = rng.integers(4, 1000, (1, 30)), rng.integers(4, 1000, (1, 11))
    session = open_session(artifact_of(name))
    fresh = generate(session, first)
    other = generate(session, second, count=5)
    assert not np.array_equal(fresh[:, :5], other)
    assert np.array_equal(generate(session, first), fresh)


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_shapes_beyond_what_is_reserved_are_refused(name: str) -> None:
    session = open_session(artifact_of(name), 1, 8, 4)
    for shape in ((1, 9), (2, 8)):
        with pytest.raises(BadInputError, match=rf"{shape[0]}x{shape[1]} tokens\) exceeds what is reserved \(1x8"):
            session.start(np.full(shape, 5))


def test_more_tokens_than_positions_are_refused() -> None:
    session = open_session(artifact_of("llama-tiny"))
    session.reserve(1, 4000, 96)
    with pytest.raises(BadInputError, match="4096 tokens; .* 4097"):
        session.reserve(1, 4000, 97)


def test_two_distributions_of_one_module_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    from slmbench.backends.onnxruntime import installed

    def found(name: str) -> str | None:
        return "1.0" if name in ("onnxruntime", "onnxruntime-gpu") else None

    artifact = artifact_of("llama-tiny")
    monkeypatch.setattr(installed, "installed_version", found)
    with pytest.raises(CannotRunError, match="onnxruntime and onnxruntime-gpu are both installed"):
        open_session(artifact)
    monkeypatch.setattr(installed, "installed_version", lambda name: None)
    with pytest.raises(CannotRunError, match="onnxruntime is not installed"):
        open_session(artifact)


@pytest.mark.slow
def test_the_builders_graph_refuses_padding() -> None:
    session = open_session(artifact_of("llama-tiny", exporter="genai"), 2, 8, 4)
    mask = np.ones((2, 8), np.int64)
    session.start(np.full((2, 8), 5), mask)
    mask[0, :3] = 0
    with pytest.raises(CannotRunError, match="equally long"):
        session.start(np.full((2, 8), 5), mask)


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_steps_beyond_what_is_reserved_are_refused(name: str) -> None:
    session = open_session(artifact_of(name), 1, 8, 3)
    tokens = session.start(np.full((1, 8), 5))
    for _ in range(2):
        tokens = session.step(tokens)
    with pytest.raises(BadInputError, match="beyond the 3 new tokens"):
        session.step(tokens)
