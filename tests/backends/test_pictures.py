"""Checkpoints that take pictures on every engine: tokens after a picture agree with the whole network in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rotation import in_turn

from slmbench.backend import load_backend, specs_of
from slmbench.errors import CannotRunError
from slmbench.measure.pictures import pixels_of
from slmbench.measure.proof import REQUIRED_AGREEMENT, agreement, coarser
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.terms import DEFAULT_COMPUTE, MARGIN_TOLERANCE, plain_precision
from tests import picture_folders

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("PIL", reason="pictures need Pillow")

ENGINES = ("openvino", "onnxruntime", "torch")
EVERY = [(name, engine) for name in picture_folders.NAMES for engine in ENGINES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a checkpoint of ``picture_folders`` by its name; a folder is made once."""
    made: dict[str, Checkpoint] = {}

    def get(name: str) -> Checkpoint:
        if name not in made:
            made[name] = resolve(str(picture_folders.make(name, tmp_path_factory.mktemp(name))))
        return made[name]

    return get


def proven(checkpoint: Checkpoint, engine: str, precision: str) -> tuple[float | None, int]:
    """Return the share of golden tokens that come out, and of how many."""
    from slmbench.export.build import ensure_artifact

    backend = load_backend(engine)
    (spec,) = specs_of(backend, checkpoint, precision, "cpu", pictures=True)  # type: ignore[arg-type]  # by name
    artifact = ensure_artifact(checkpoint, spec, progress=lambda _: None)
    compute = DEFAULT_COMPUTE[precision]  # type: ignore[index]  # by name
    if engine == "onnxruntime" and precision == "int8":
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
@pytest.mark.parametrize(("name", "engine"), in_turn([one for one in EVERY if one[1] != "torch"], 14))
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
    with pytest.raises(CannotRunError, match="dec-vision-tiny gives the same answer after two pictures"):
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
