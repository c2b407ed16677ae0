"""Steps by a graph of their own: which tokens, whose K/V, what the engine makes of it, and where there is none."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
from cpu_abilities import need_bf16_of_openvino

from slmbench.backend import BadInputError, Extends, FreesMemory, Rereads, Session, load_backend
from slmbench.models.artifact import Artifact, ArtifactSpec, Role
from slmbench.models.checkpoint import resolve

pytest.importorskip("openvino", reason="needs slmbench[cpu]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")

from slmbench.backends.openvino.step_graph import for_one_token, keep_products_plain, state_begun_by

from slmbench.export.build import ensure_artifact

PATHS = ("SDPA+step", "SDPA")
PROMPT = np.random.default_rng(0).integers(4, 1000, (2, 20))


def artifact_of(name: str) -> Artifact:
    spec = ArtifactSpec(format="openvino", exporter="slmbench")
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


def open_session(name: str, path: str, batch: int = 1, inputs: int = 64, **options: Any) -> Session:
    backend = load_backend("openvino")
    given = {"threads": 1, "attention": path, **options}
    session = backend.open(artifact_of(name), "cpu", backend.options_type.model_validate(given))
    assert isinstance(session, Session)
    session.reserve(batch, inputs, 24)
    return session


def steps(session: Session, token: Any, count: int) -> list[Any]:
    tokens = [token.copy()]
    for _ in range(count):
        tokens.append(session.step(tokens[-1]).copy())
    return tokens


def read(name: str, role: Role) -> Any:
    import openvino as ov

    return ov.Core().read_model(artifact_of(name).graph(role))


def test_a_conversation_keeps_its_kv_when_it_changes_between_graphs() -> None:
    """Two turns: the prompt's graph reads what the step's graph has left, and the other way round."""
    answers = []
    for path in PATHS:
        session = open_session("llama-tiny", path, batch=2)
        assert isinstance(session, Extends)
        first = steps(session, session.start(PROMPT), 5)
        said = np.concatenate([first[-1][:, None], PROMPT[:, :7]], axis=1)
        answers.append(np.stack(first + steps(session, session.extend(said), 5)))
    assert answers[0].tolist() == answers[1].tolist()
    whole = open_session("llama-tiny", "SDPA", batch=2)
    context = np.concatenate([PROMPT, np.stack(first, axis=1), PROMPT[:, :7]], axis=1)
    assert whole.start(context).tolist() == answers[0][6].tolist()


def test_several_answers_to_a_prompt_and_then_one_again() -> None:
    """Rows are spread by the step's graph; a later prompt of full width is not narrowed by the one before."""
    given = []
    for path in PATHS:
        session = open_session("llama-tiny", path, batch=4)
        shared = np.stack(steps(session, session.start(PROMPT), 6), axis=1)
        wide = np.stack(steps(session, session.start(np.tile(PROMPT, (2, 1))), 6), axis=1)
        given.append((shared.tolist(), wide.tolist()))
    assert given[0] == given[1]
    shared, wide = given[0]
    assert [shared[0], shared[2]] == wide[:2]
    assert shared[0] == shared[1] != shared[2]


@pytest.mark.parametrize(
    "options",
    [{}, {"kv_cache": "u8"}, {"kv_cache": "f16"}, {"compute_precision": "bf16"}],
    ids=["fp32", "K/V in u8", "K/V in f16", "bf16"],
)
def test_the_states_of_steps_begin_with_the_prompts(options: dict[str, str]) -> None:
    """In whatever precision the engine keeps them; the same tokens as from one graph that reads and steps."""
    if "compute_precision" in options:
        need_bf16_of_openvino()
    given = []
    for path in PATHS:
        session: Any = open_session("llama-tiny", path, batch=2, **options)
        assert session.attention_path() == path
        for prompt in (PROMPT, PROMPT[:, :9]):
            first = session.start(prompt).copy()
            read = {state.name: state.state for state in session._prompt.query_state()}
            second = session.step(first).copy()
            given.append([first.tolist(), *(one.tolist() for one in steps(session, second, 6))])
            if options or path == "SDPA":
                continue
            begun = {state_begun_by(port) for port in session._graphs["decode"].model.inputs} - {None}
            assert begun == set(read)
            for state in session._steps.query_state():
                kept, before = state.state.data, read[state.name].data
                assert kept.shape[2] == before.shape[2] + 7
                assert np.array_equal(kept[:, :, :-7], before)
    assert given[:2] == given[2:]


def test_a_decoder_of_steps_rereads_an_answer_by_the_whole_graph() -> None:
    answers = []
    for path in PATHS:
        session = open_session("t5-tiny", path, batch=2)
        assert isinstance(session, Rereads)
        tokens = [session.start(PROMPT).copy()]
        for _ in range(4):
            tokens.append(session.reread(np.stack(tokens, axis=1)).copy())
        answers.append(np.stack(tokens).tolist())
    cached = open_session("t5-tiny", "SDPA", batch=2)
    assert answers[0] == answers[1] == np.stack(steps(cached, cached.start(PROMPT), 4)).tolist()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        pytest.param("llama-tiny", "model", id="SwiGLU"),
        pytest.param("flan-t5-tiny", "decoder", id="gated GELU, written out"),
        pytest.param("t5-tiny", "decoder", id="ReLU"),
        pytest.param("bart-tiny", "decoder", id="bias and GELU, scaled queries"),
        pytest.param("t5gemma-tiny", "decoder", id="soft-capped logits", marks=pytest.mark.slow),
        pytest.param("mu-tiny", "decoder", id="scaled queries", marks=pytest.mark.slow),
    ],
)
def test_no_product_of_a_step_takes_anything_in(name: str, role: Role) -> None:
    import openvino as ov

    inside = {}
    for plain in (False, True):
        model = read(name, role)
        for_one_token(model, 1, plain_products=plain)
        hints = {"INFERENCE_PRECISION_HINT": "f32"}
        executed = ov.Core().compile_model(model, "CPU", hints).get_runtime_model().get_ops()
        products = [op.get_rt_info() for op in executed if _told(op, "layerType") == "FullyConnected"]
        inside[plain] = sum("," in info["originalLayersNames"].astype(str) for info in products)
        if plain and platform.machine() in ("x86_64", "AMD64"):
            assert {info["primitiveType"].astype(str) for info in products} == {"gemm_mlas_f32"}
    assert inside[False] > 0
    assert inside[True] == 0


def _told(op: Any, name: str) -> str:
    info = op.get_rt_info()
    return str(info[name].astype(str)) if name in info else ""


def test_products_that_take_nothing_in_stay_as_they_are() -> None:
    import openvino as ov
    from openvino import opset13 as ops

    x = ops.parameter([1, 1, 8], np.float32)
    stored = ops.constant(np.ones((8, 8), np.float16))
    compressed = ops.swish(ops.matmul(x, ops.convert(stored, "f32"), False, True))
    twice = ops.matmul(x, ops.constant(np.ones((8, 8), np.float32)), False, True)
    no_product = ops.swish(ops.multiply(x, x))
    again = ops.matmul(twice, ops.constant(np.ones((8, 8), np.float32)), False, True)
    residual = ops.add(again, x)
    results = [ops.result(node) for node in (compressed, ops.swish(twice), residual, no_product)]
    assert keep_products_plain(ov.Model(results, [x], "none")) == 0


def test_where_a_path_is_not_to_be_had_it_is_said() -> None:
    backend, checkpoint = load_backend("openvino"), resolve("llama-tiny")
    (spec,) = [s for s in backend.artifact_specs(checkpoint, "fp32", "cpu") if s.exporter == "slmbench"]

    def refused(device: Any, attention: str | None) -> str | None:
        options = backend.options_type.model_validate({"attention": attention})
        return backend.refusal(checkpoint, spec, options, device)

    assert refused("cpu", "SDPA+step") is None
    assert refused("cpu", "SDPA") is None
    assert refused("gpu", "SDPA") is None
    assert "for CPUs" in str(refused("gpu", "SDPA+step"))
    assert "static and have one path" in str(refused("npu", "SDPA"))
    assert "openvino has SDPA+step, SDPA" in str(refused("cpu", "paged"))


def test_memory_of_prompts_is_freed_for_a_text_that_is_fed_token_by_token() -> None:
    """Tokens and logits stay what they were; a longer prompt that is reserved has its graph again."""
    text = PROMPT[:1]
    session: Any = open_session("llama-tiny", "SDPA+step")
    assert isinstance(session, FreesMemory)

    def fed(session: Any) -> tuple[list[int], Any]:
        session.reserve(1, 1, 24)
        tokens, rows = [int(session.start(text[:, :1])[0])], [np.array(session.logits())]
        for place in range(1, text.shape[1]):
            tokens.append(int(session.step(text[:, place])[0]))
            rows.append(np.array(session.logits()))
        return tokens, np.concatenate(rows)

    whole = session.start(text).tolist()
    tokens, rows = fed(session)
    session.free_memory(2)
    assert set(session._graphs) == {"model", "decode"}, "a prompt of two tokens is none that a step reads"
    session.free_memory(1)
    assert set(session._graphs) == {"decode"}
    for _ in range(2):
        again, again_rows = fed(session)
        assert again == tokens
        finite = np.isfinite(rows)
        assert np.abs(again_rows[finite] - rows[finite]).max() < 1e-4
    assert session.attention_path() == "SDPA+step"
    assert session.compute_precision() == "fp32"
    with pytest.raises(BadInputError):
        session.start(text)
    session.reserve(1, 64, 24)
    assert session.start(text).tolist() == whole
    plain: Any = open_session("llama-tiny", "SDPA")
    plain.free_memory(1)
    assert fed(plain)[0] == tokens, "where one graph reads prompts and steps, it stays"
