"""Our loop on OpenVINO: the reference's tokens, precisions read back, padded batches, resets, cross K/V once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_abilities import need_bf16_of_openvino
from rotation import tiny_models

from slmbench.backend import Session, load_backend
from slmbench.errors import BadInputError, CannotRunError
from slmbench.measure.proof import agreement
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.terms import MARGIN_TOLERANCE

pytest.importorskip("openvino", reason="needs slmbench[cpu]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")

from slmbench.export.build import ensure_artifact
from slmbench.export.openvino import graph as openvino_graph
from slmbench.export.openvino.route import refusal

SPEC = ArtifactSpec(format="openvino", exporter="slmbench")
QUICK = {"llama-tiny", "t5-tiny"}
TINY = [name for name in tiny_models(QUICK) if refusal(resolve(name), SPEC) is None]
PATHS = ("SDPA+step", "SDPA")


def quick(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def artifact_of(name: str, precision: str = "fp32", exporter: str = "slmbench") -> Artifact:
    spec = ArtifactSpec.model_validate({"format": "openvino", "weight_precision": precision, "exporter": exporter})
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


def open_session(artifact: Artifact, batch: int = 1, inputs: int = 48, outputs: int = 24, **options: Any) -> Session:
    backend = load_backend("openvino")
    session = backend.open(artifact, "cpu", backend.options_type.model_validate({"threads": 1, **options}))
    assert isinstance(session, Session)
    session.reserve(batch, inputs, outputs)
    return session


def generate(session: Session, prompt: Any, mask: Any = None, count: int = 12) -> Any:
    tokens = [session.start(prompt, mask).copy()]
    for _ in range(count - 1):
        tokens.append(session.step(tokens[-1]).copy())
    return np.stack(tokens, axis=1)


def compared(artifact: Artifact, precision: str, **options: Any) -> Any:
    session = open_session(artifact, **options)
    tolerance = MARGIN_TOLERANCE[precision]
    return agreement(session, artifact.golden().prompts, tolerance, artifact.manifest.checkpoint.family)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", quick(TINY))
def test_every_golden_token_comes_out(name: str, path: str) -> None:
    found = compared(artifact_of(name), "fp32", attention=path)
    assert found.compared > 40
    assert found.equal == found.compared


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_tokens_survive_int8(name: str) -> None:
    found = compared(artifact_of(name, "int8"), "int8")
    assert found.equal >= 0.95 * found.compared > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-tiny", "qwen3-tiny", "t5-tiny", "bart-tiny"])
def test_optimums_graphs_run_in_our_loop(name: str) -> None:
    artifact = artifact_of(name, exporter="optimum")
    found = compared(artifact, "fp32")
    assert found.equal == found.compared > 40
    assert open_session(artifact).attention_path() == "SDPA+step"


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("path", PATHS)
def test_what_is_asked_is_what_the_engine_says(name: str, precision: str, path: str) -> None:
    if precision == "bf16":
        need_bf16_of_openvino()
    session = open_session(artifact_of(name), compute_precision=precision, threads=2, attention=path)
    generate(session, np.full((1, 8), 7))
    assert session.compute_precision() == precision
    assert session.threads() == 2
    assert session.attention_path() == path
    assert session.placement().executed_on == "cpu"
    assert session.placement().nodes["cpu"] > 10


def test_bf16_is_not_fp32() -> None:
    """The logits differ: the precision that is read back is the one that computes."""
    need_bf16_of_openvino()
    given = []
    for precision in ("fp32", "bf16"):
        session = open_session(artifact_of("llama-tiny"), compute_precision=precision)
        session.start(np.full((1, 8), 7))
        given.append(session._prompt.get_output_tensor(0).data.copy())  # type: ignore[attr-defined]
    finite = np.isfinite(given[0]) & np.isfinite(given[1])
    assert np.abs(given[0][finite] - given[1][finite]).max() > 1e-4


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
    generate(session, np.full((1, 8), 5), count=4)
    with pytest.raises(BadInputError, match="beyond the 4 new tokens"):
        session.step(np.array([5]))


def test_a_property_that_the_engine_refuses_is_told() -> None:
    with pytest.raises(CannotRunError, match="does not compile it for CPU"):
        open_session(artifact_of("llama-tiny"), kv_cache="f7")


def test_the_parts_of_an_encoder_decoders_first_token_are_told() -> None:
    session = open_session(artifact_of("t5-tiny"))
    session.start(np.full((1, 40), 7))
    phases = session.phases_ns()
    assert set(phases) == {"encode", "first_step"}
    assert min(phases.values()) > 0


def test_our_decoder_step_computes_no_cross_kv() -> None:
    import openvino as ov

    artifact = artifact_of("t5-tiny")
    assert artifact.manifest.cross_kv_once is True
    assert openvino_graph.recomputed_products(ov.Core().read_model(artifact.graph("decoder"))) == []


def test_a_decoder_that_recomputes_cross_kv_is_noticed() -> None:
    """In our decoder, one layer's cross K and V are replaced by products with the encoder's states."""
    import openvino as ov
    from openvino import opset13 as ops

    artifact = artifact_of("t5-tiny")
    decoder, geometry = ov.Core().read_model(artifact.graph("decoder")), artifact.manifest.checkpoint.geometry
    states = ops.parameter([-1, -1, geometry.width], np.float32)
    states.output(0).set_names({"encoder_hidden_states"})
    inner = geometry.kv_heads * geometry.head_dim
    for part in ("key", "value"):
        port = decoder.input(f"cross.0.{part}")
        weight = ops.constant(np.ones((geometry.width, inner), np.float32))
        split = ops.reshape(ops.matmul(states, weight, False, False), [0, 0, geometry.kv_heads, -1], True)
        for target in port.get_target_inputs():
            target.replace_source_output(ops.transpose(split, [0, 2, 1, 3]).output(0))
        decoder.remove_parameter(port.get_node())
    decoder.add_parameters([states])
    decoder.validate_nodes_and_infer_types()
    assert len(openvino_graph.recomputed_products(decoder)) == 2
    assert openvino_graph.cross_kv_once(decoder) is False
