"""openvino-genai's NPU pipeline in its simulation: the golden tokens, its bounds, and what it does not say."""

from __future__ import annotations

import numpy as np
import pytest
from slmbench.backends.openvino import npu as openvino_npu
from slmbench.backends.openvino.genai_npu_session import GenaiNpuSession

from slmbench.backend import LoopSession, SessionOptions
from slmbench.errors import BadInputError, CannotRunError
from slmbench.measure.generate import ShortGenerationError, generate
from slmbench.measure.proof import agreement
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve

pytest.importorskip("openvino_genai")
pytestmark = pytest.mark.slow
OPTIONS = SessionOptions(simulate=True)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    pytest.importorskip("optimum.intel", reason="the pipeline takes optimum-intel's graphs")
    from slmbench.export.build import ensure_artifact

    spec = ArtifactSpec(format="openvino", exporter="optimum")
    return ensure_artifact(resolve("llama-tiny"), spec, progress=lambda _: None)


def test_golden_tokens(artifact: Artifact) -> None:
    session = GenaiNpuSession(artifact, OPTIONS)
    assert isinstance(session, LoopSession)
    session.reserve(1, 72, 24)
    found = agreement(session, artifact.golden().prompts, 1e-3, "decoder-only")
    assert found.compared > 30
    assert found.share == 1.0
    assert session.placement().executed_on == "npuw-cpu"
    session.close()


def test_a_generation_cut_short_is_noticed(artifact: Artifact) -> None:
    """Asked for more than its K/V cache holds, the pipeline gives fewer tokens and no error."""
    session = GenaiNpuSession(artifact, OPTIONS)
    session.reserve(1, 32, 16)
    prompt = np.arange(10, 42)[None]
    tokens, stamps = session.generate(prompt, 400)
    assert tokens.shape[1] == len(stamps) < 400
    with pytest.raises(ShortGenerationError, match=r"400 tokens asked, \d+ given"):
        generate(session, prompt, None, 400)
    session.close()


def test_bounds_are_refused_with_the_figure(artifact: Artifact) -> None:
    session = GenaiNpuSession(artifact, OPTIONS)
    with pytest.raises(BadInputError, match="1 prompt at a time, 2"):
        session.reserve(2, 8, 8)
    session.reserve(1, 32, 16)
    with pytest.raises(BadInputError, match=r"1x40 tokens\) exceeds what is reserved \(1x32"):
        session.generate(np.arange(10, 50)[None], 4)
    session.close()


def test_a_cache_folder_does_not_change_the_tokens(artifact: Artifact, tmp_path: object) -> None:
    """Blobs that NPUW reads back forget their precision, so the simulation keeps none."""
    given = []
    for _ in range(2):
        session = GenaiNpuSession(artifact, OPTIONS.model_copy(update={"engine_cache": str(tmp_path)}))
        session.reserve(1, 32, 64)
        given.append(session.generate(np.arange(10, 42)[None], 64)[0].tolist())
        session.close()
    assert given[0] == given[1]


def test_a_driver_that_does_not_compile_is_named(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    if openvino_npu.devices()[0].available:
        pytest.skip("this machine has an Intel NPU")
    # The plugin without an NPU fails as a driver that is too old does: when the pipeline is compiled.
    present = [openvino_npu.DeviceStatus("npu", "NPU", True, "an NPU", driver="31.0.100.1688")]
    monkeypatch.setattr(openvino_npu, "devices", lambda: present)
    session = GenaiNpuSession(artifact, SessionOptions(compute_precision="fp16"))
    with pytest.raises(CannotRunError, match=r"does not compile it: .*NPU driver 31\.0\.100\.1688, OpenVINO"):
        session.reserve(1, 16, 8)
