"""Checkpoints that take pictures on every engine: tokens after a picture agree with the whole network in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import picture_folders
import pytest
from rotation import in_turn

from slmbench.backend import load_backend, specs_of
from slmbench.errors import CannotRunError
from slmbench.measure.pictures import pixels_of
from slmbench.measure.proof import REQUIRED_AGREEMENT, agreement, coarser
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.terms import DEFAULT_COMPUTE, MARGIN_TOLERANCE, plain_precision

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("PIL", reason="pictures need Pillow")

ENGINES = ("openvino", "onnxruntime", "torch")
#: Types that llama.cpp's projector files have.
WITH_PROJECTOR = ("llava.siglip", "smolvlm", "idefics3", "gemma3")
EVERY = [(name, engine) for name in picture_folders.NAMES for engine in ENGINES]
EVERY += [(name, "llama_cpp") for name in WITH_PROJECTOR]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a checkpoint of ``picture_folders`` by its name; a folder is made once."""
    made: dict[str, Checkpoint] = {}

    def get(name: str) -> Checkpoint:
        if name not in made:
            made[name] = resolve(str(picture_folders.make(name, tmp_path_factory.mktemp(name))))
        return made[name]

    return get


def proven(
    checkpoint: Checkpoint, engine: str, precision: str, exporter: str | None = None
) -> tuple[float | None, int]:
    """Return the share of golden tokens that come out, and of how many."""
    from slmbench.export.build import ensure_artifact

    if engine == "llama_cpp":
        pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
        pytest.importorskip("gguf", reason="needs slmbench[llama]")
    backend = load_backend(engine)
    specs = specs_of(backend, checkpoint, precision, "cpu", pictures=True)  # type: ignore[arg-type]  # by name
    spec = next(one for one in specs if exporter in (None, one.exporter))
    artifact = ensure_artifact(checkpoint, spec, progress=lambda _: None)
    compute = DEFAULT_COMPUTE[precision]  # type: ignore[index]  # by name
    if engine in ("onnxruntime", "llama_cpp") and precision == "int8":
        compute = "int8"
    session: Any = backend.open(artifact, "cpu", backend.options_type(compute_precision=compute, threads=1))
    try:
        golden = artifact.golden().prompts
        session.reserve(1, max(len(one.input_ids) for one in golden), max(len(one.tokens) for one in golden))
        tolerance = max(MARGIN_TOLERANCE.get(compute, 0.0), MARGIN_TOLERANCE[plain_precision(spec.weight_precision)])
        found = agreement(session, golden, tolerance, checkpoint.family, pixels_of(checkpoint, artifact.home))
        assert found.share is None or found.share >= REQUIRED_AGREEMENT[coarser(spec.weight_precision, compute)]
        return found.share, found.compared
    finally:
        session.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "engine"), in_turn(EVERY, 7))
def test_tokens_after_a_picture_agree(name: str, engine: str, folders: Any) -> None:
    """The reference is transformers' own forward over pixels and ids; nothing of it is ours."""
    share, compared = proven(folders(name), engine, "fp32")
    assert share == 1.0
    assert compared >= 40


@pytest.mark.slow
@pytest.mark.parametrize("name", in_turn(["llava.siglip", "gemma3"], 2))
def test_graphs_of_embeddings_are_joined(name: str, folders: Any) -> None:
    """optimum-intel's text graph takes embeddings, Gemma 3's also where its image tokens are."""
    pytest.importorskip("optimum.intel", reason="needs slmbench[optimum]")
    assert proven(folders(name), "openvino", "fp32", "optimum") == (1.0, 48)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "engine"), in_turn([one for one in EVERY if one[1] != "torch"], 7))
def test_eight_bit_weights(name: str, engine: str, folders: Any) -> None:
    share, compared = proven(folders(name), engine, "int8")
    assert share is not None
    assert compared > 0


def test_others_take_no_pictures() -> None:
    """What cannot is not offered: text alone is exported by other routes and run by other engines."""
    from slmbench.export.routes import refusal

    pair = [resolve("mu-vision-tiny"), resolve("dec-vision-tiny")]
    for engine in ("openvino_genai", "onnxruntime_genai", "llama_cpp", "ctranslate2"):
        assert not any(specs_of(load_backend(engine), one, "fp32", "cpu", pictures=True) for one in pair)
    for engine in ("openvino", "onnxruntime"):
        assert not specs_of(load_backend(engine), pair[0], "fp32", "npu", pictures=True)
    assert not specs_of(load_backend("openvino"), resolve("mu-tiny"), "fp32", "cpu", pictures=True)
    spec = ArtifactSpec(format="openvino", exporter="optimum", pictures=True)
    assert refusal(pair[1], spec) == (
        "the exporter optimum (dynamic) is used for text alone; generic exports the vision part too"
    )
    assert refusal(resolve("dec-tiny"), spec) == "dec-tiny takes no pictures"


def test_an_artifact_of_the_text_alone_keeps_its_name() -> None:
    """Old artifacts are found by their names, which are made of what was asked."""
    text = ArtifactSpec(format="openvino")
    assert text.artifact_id("0" * 64) == "5b818a5cd238356f3c8555d6c76af4e7"
    assert text.model_copy(update={"pictures": True}).artifact_id("0" * 64) != text.artifact_id("0" * 64)


def test_a_picture_that_changes_nothing_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from slmbench.export import golden_pictures
    from slmbench.export.picture_network import load_with_pictures

    checkpoint = resolve("dec-vision-tiny")
    monkeypatch.setattr(golden_pictures, "PICTURES", golden_pictures.PICTURES[:1] * 2)
    with pytest.raises(CannotRunError, match="dec-vision-tiny gives the same answer after any picture"):
        golden_pictures.golden_after_pictures(load_with_pictures(checkpoint), checkpoint)


def test_the_processor_comes_with_the_artifact(folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has the artifact alone, and so has another machine."""
    from slmbench.export.build import ensure_artifact

    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path))
    checkpoint = folders("llava")
    spec = ArtifactSpec(format="torch", exporter="none", pictures=True)
    artifact = ensure_artifact(checkpoint, spec, progress=lambda _: None)
    own = checkpoint.path / "preprocessor_config.json"
    assert (artifact.home / own.name).read_bytes() == own.read_bytes()


def opened(engine: str, name: str, attention: str | None = None) -> tuple[Any, Any]:
    """Return a session over a catalog checkpoint with pictures that holds the first golden picture, and its prompt."""
    from slmbench.export.build import ensure_artifact

    backend, checkpoint = load_backend(engine), resolve(name)
    spec, *_ = specs_of(backend, checkpoint, "fp32", "cpu", pictures=True)
    artifact = ensure_artifact(checkpoint, spec, progress=lambda _: None)
    session: Any = backend.open(artifact, "cpu", backend.options_type(threads=1, attention=attention))
    prompt = artifact.golden().prompts[0]
    session.reserve(1, len(prompt.input_ids) + 8, 8)
    session.take_pictures(pixels_of(checkpoint, artifact.home)(prompt.pictures))
    return session, np.array([prompt.input_ids], np.int64)


@pytest.mark.parametrize("name", [pytest.param("mu-vision-tiny", marks=pytest.mark.slow), "dec-vision-tiny"])
def test_openvino_reads_features_where_the_vision_graph_wrote_them(name: str) -> None:
    session, ids = opened("openvino", name)
    session.start(ids)
    reader = session._graphs["encoder" if name.startswith("mu") else "model"].request
    written = session._graphs["vision"].request.get_output_tensor(0)
    assert reader.get_tensor("image_features").data.ctypes.data == written.data.ctypes.data
    session.close()


def test_onnxruntime_reads_features_where_the_vision_graph_wrote_them() -> None:
    session, ids = opened("onnxruntime", "dec-vision-tiny")
    given: list[Any] = []
    bind = session._bind_features

    def watched(binding: Any, features: Any) -> None:
        if binding is session._prompt:
            given.append(features)
        bind(binding, features)

    session._bind_features = watched
    session.start(ids)
    session.start(ids)
    assert given[0] is given[1], "the very value that ONNX Runtime gave, for both starts"
    assert given[0].data_ptr() == session._pictures.features.data_ptr()
    session.close()


def test_a_step_of_its_own_graph_knows_nothing_of_pictures() -> None:
    """The step's graph is as large as that of the text alone: nothing is looked up for tokens that are no pictures."""
    from slmbench.export.build import ensure_artifact

    session, _ = opened("openvino", "dec-vision-tiny", "SDPA+step")
    step = session._graphs["decode"]
    assert "image_features" not in step.names
    backend, checkpoint = load_backend("openvino"), resolve("dec-vision-tiny")
    text = ensure_artifact(checkpoint, ArtifactSpec(format="openvino", exporter="generic"), progress=lambda _: None)
    alone: Any = backend.open(text, "cpu", backend.options_type(threads=1, attention="SDPA+step"))
    alone.reserve(1, 8, 8)
    operators = [len(one.model.get_runtime_model().get_ops()) for one in (step, alone._graphs["decode"])]
    assert operators[0] == operators[1]
    alone.close()
    session.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "engine"), in_turn([(name, one) for name in ("dec-vision-tiny", "qwen3_vl") for one in ENGINES], 6)
)
def test_a_later_turn_does_not_look_again(name: str, engine: str, folders: Any) -> None:
    """A decoder-only model goes on from its K/V and its positions, whatever it was that it saw."""
    session, ids = opened(engine, name if name.startswith("dec") else str(folders(name).path))
    first = session.start(ids)
    second = session.step(first)
    turn = np.array([[int(second[0]), 11, 12, 13]], np.int64)
    went_on = [int(session.extend(turn)[0])]
    at_once = np.concatenate([ids, first[None], turn], axis=1)
    went_on.append(int(session.start(at_once)[0]))
    assert went_on[0] == went_on[1]
    session.close()


def test_threads_of_the_text_do_not_spin_against_a_vision_graph() -> None:
    """They did: the same vision part took 90 ms in a decoder-only model, and 63 in an encoder-decoder."""
    ort = pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    from slmbench.export.build import ensure_artifact

    spec = ArtifactSpec(format="onnx", exporter="generic", pictures=True)
    artifact = ensure_artifact(resolve("dec-vision-tiny"), spec, progress=lambda _: None)
    backend = load_backend("onnxruntime")
    session: Any = backend.open(artifact, "cpu", backend.options_type())
    try:
        graphs: list[ort.InferenceSession] = [graph.session for graph in session._graphs.values()]
        asked = {one.get_session_options().get_session_config_entry("session.force_spinning_stop") for one in graphs}
    finally:
        session.close()
    assert len(graphs) == 2
    assert asked == {"1"}
