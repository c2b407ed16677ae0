"""Sessions over static artifacts: OpenVINO and ONNX Runtime on the CPU, and NPUW with CPU submodels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from slmbench.backends.onnxruntime.static_session import OnnxRuntimeStaticSession
from slmbench.backends.openvino import npu as openvino_npu
from slmbench.backends.openvino.static_session import OpenVinoStaticSession

from slmbench.backend import Session, SessionOptions
from slmbench.errors import BadInputError, CannotRunError
from slmbench.measure.proof import agreement
from slmbench.models.artifact import Artifact

pytest.importorskip("openvino")
Open = Callable[[Artifact], Session]

NAMES = ["t5-tiny", "mu-tiny", "llama-tiny", "gemma3-tiny"]
SLOW = ["bart-tiny", "marian-tiny", "t5gemma-tiny", "qwen3-tiny", "phi3-tiny", "mistral-tiny", "smollm3-tiny"]
CHECKPOINTS = [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
OPTIONS = SessionOptions(threads=1)


def on_openvino(artifact: Artifact) -> Session:
    return OpenVinoStaticSession(artifact, "cpu", OPTIONS, "CPU")


def on_onnxruntime(artifact: Artifact) -> Session:
    manifest = artifact.manifest
    graphs = {role: artifact.graph(role) for role in manifest.graphs}
    return OnnxRuntimeStaticSession(manifest.checkpoint, manifest.spec, graphs, "cpu", OPTIONS)


def on_npuw(artifact: Artifact) -> Session:
    return openvino_npu.open_session(artifact, OPTIONS.model_copy(update={"simulate": True}))


ENGINES = [(on_openvino, "openvino"), (on_onnxruntime, "onnx"), (on_npuw, "openvino")]


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize(("open_session", "format_"), ENGINES)
def test_all_golden_tokens(name: str, open_session: Open, format_: str, make_static: Callable[..., Artifact]) -> None:
    artifact = make_static(name, format_)
    session = open_session(artifact)
    found = agreement(session, artifact.golden().prompts, 1e-3, artifact.manifest.checkpoint.family)
    assert found.compared > 30
    assert found.share == 1.0
    session.close()


@pytest.mark.parametrize(
    ("open_session", "format_", "where"),
    [(on_openvino, "openvino", "cpu"), (on_onnxruntime, "onnx", "cpu"), (on_npuw, "openvino", "npuw-cpu")],
)
def test_a_session_tells_where_and_how_it_ran(
    open_session: Open, format_: str, where: str, make_static: Callable[..., Artifact]
) -> None:
    session = open_session(make_static("t5-tiny", format_))
    session.reserve(1, 10, 2)
    session.start(np.arange(10, 20)[None])
    assert session.placement().executed_on == where
    assert session.compute_precision() == "fp32"
    assert set(session.phases_ns()) == {"encode", "first_step"}
    assert session.load_phases_ns()["load"] > 0
    session.close()


@pytest.mark.parametrize(("open_session", "format_"), ENGINES[:2])
def test_kv_is_written_where_it_is_read(open_session: Open, format_: str, make_static: Callable[..., Artifact]) -> None:
    """What the first graph writes is the memory that the step reads: nothing is carried."""
    for name, prefix in (("t5-tiny", "cross"), ("llama-tiny", "past")):
        session = open_session(make_static(name, format_))
        seen: dict[str, list[int]] = {}
        request = session._request if format_ == "openvino" else session._binding  # type: ignore[attr-defined]
        for role in (session._first_role, session._step_role):  # type: ignore[attr-defined]
            for port, memory in request(role).items():
                if port.startswith(prefix):
                    seen.setdefault(port, []).append(memory.ctypes.data)
        assert seen
        assert all(len(places) == 2 and len(set(places)) == 1 for places in seen.values())
        session.close()


@pytest.mark.parametrize(
    ("shape", "text"),
    [((2, 8, 8), "1 prompt at a time, 2"), ((1, 49, 8), "49 tokens .* graph's 48"), ((1, 8, 25), "25 .* graph's 24")],
)
def test_shapes_beyond_the_bounds_are_refused_with_the_figure(
    shape: tuple[int, int, int], text: str, make_static: Callable[..., Artifact]
) -> None:
    session = on_openvino(make_static("t5-tiny"))
    with pytest.raises(BadInputError, match=text):
        session.reserve(*shape)
    session.close()


def test_a_full_cache_is_an_error_not_a_wrong_token(make_static: Callable[..., Artifact]) -> None:
    for name in ("t5-tiny", "llama-tiny"):
        session = on_onnxruntime(make_static(name, "onnx"))
        token = session.start(np.arange(10, 20)[None])
        # A decoder-only model's first token comes of the prompt, so its steps have a slot to spare.
        for _ in range(23 if name == "t5-tiny" else 24):
            token = session.step(token)
        with pytest.raises(CannotRunError, match="built for 24 new tokens"):
            session.step(token)
        session.close()


def test_padding_in_a_mask_changes_nothing(make_static: Callable[..., Artifact]) -> None:
    ids = np.arange(10, 20)[None]
    for name, side in (("t5-tiny", (0, 6)), ("llama-tiny", (6, 0))):
        session = on_onnxruntime(make_static(name, "onnx"))
        alone = session.start(ids)
        padded = session.start(np.pad(ids, ((0, 0), side)), np.pad(np.ones_like(ids), ((0, 0), side)))
        assert np.array_equal(alone, padded)
        session.close()


def test_compiled_blobs_are_cached(make_static: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = make_static("t5-tiny")
    options = OPTIONS.model_copy(update={"engine_cache": str(tmp_path)})
    first = OpenVinoStaticSession(artifact, "cpu", options, "CPU")
    tokens = [int(first.start(np.arange(10, 20)[None])[0])]
    first.close()
    assert list(tmp_path.rglob("*.blob"))
    second = OpenVinoStaticSession(artifact, "cpu", options, "CPU")
    assert [int(second.start(np.arange(10, 20)[None])[0])] == tokens
    assert second.compute_precision() == "fp32"
    second.close()
