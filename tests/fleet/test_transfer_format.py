"""What may be in a parcel at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from artifact_files import checkpoint_elsewhere, write_artifact
from hypothesis import given, settings
from hypothesis import strategies as st

from slmbench.errors import BadInputError
from slmbench.fleet.transfer_format import checked_manifest, content_digest, difference, parcel_of, parse
from slmbench.models.artifact import Artifact, Manifest


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    files = {"model.xml": b"0123456789abc", "weights/model.bin": b"x" * 20, "empty": b""}
    return write_artifact(checkpoint_elsewhere(tmp_path / "model"), files)


def checked(text: str) -> Manifest:
    return checked_manifest(parse(text).manifest)


def changed(artifact: Artifact, **changes: Any) -> str:
    """Return the parcel as JSON with a change in its manifest, or in the entry of a file."""
    manifest = json.loads(parcel_of(artifact).manifest)
    if "path" in changes:
        manifest["files"][1]["path"] = changes["path"]
    if "size" in changes:
        manifest["files"][1]["size_bytes"] = changes["size"]
    manifest.update(changes.get("manifest", {}))
    return json.dumps({"manifest": json.dumps(manifest), **changes.get("parcel", {})})


def test_an_artifact_is_offered_as_its_manifest(artifact: Artifact) -> None:
    assert checked(parcel_of(artifact).model_dump_json()) == artifact.manifest


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        *(
            ({"path": name}, "no file of the artifact's folder")
            for name in ("../x", "/etc/passwd", "a/../../x", "C:\\x", "C:/x", "a\\b", "x\ny", "")
        ),
        *(
            ({"path": name}, "not a valid file name on every system")
            for name in ("a//b", "./a", "nul", "a/COM1.bin", "ab:y", "x ", "a" * 200)
        ),
        ({"path": "Manifest.json"}, "two manifests"),
        ({"path": "MODEL.XML"}, "same name"),
        ({"path": "model.xml/x"}, "'model.xml' is a file and a folder"),
        ({"size": -1}, "-1 bytes"),
        ({"parcel": {"pieces": {}}}, "pieces: Extra inputs are not permitted"),
        ({"parcel": {"carried": {"name": "../../x"}}}, "carried.name"),
        ({"manifest": {"artifact_id": "0" * 32}}, "is not its id"),
        ({"manifest": {"graphs": {"model": "absent.xml"}}}, "absent.xml is missing"),
        ({"manifest": {"schema_version": 99}}, "schema version 99"),
    ],
)  # fmt: skip
def test_what_is_no_artifact_is_refused_by_name(changes: dict[str, Any], problem: str, artifact: Artifact) -> None:
    with pytest.raises(BadInputError, match="received data") as error:
        checked(changed(artifact, **changes))
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3))


@settings(max_examples=150)
@given(data=st.data())
def test_whatever_is_sent_ends_in_one_line_or_stays_in_its_folder(data: st.DataObject, artifact: Artifact) -> None:
    raw = {"manifest": json.loads(parcel_of(artifact).manifest), "carried": None}
    part, inner = raw, raw
    while isinstance(inner, dict | list) and inner and (inner is raw or data.draw(st.booleans())):
        part = inner
        key = data.draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
        inner = part[key]
    part[key] = data.draw(VALUES)
    manifest = raw.get("manifest")
    text = json.dumps(raw | {"manifest": json.dumps(manifest)})
    said, names = "", []
    try:
        names = [entry.path for entry in checked(text).files]
    except BadInputError as error:
        said = str(error)
    assert said.isprintable()
    assert said or names
    assert all((Path("/a") / name).resolve().is_relative_to("/a") for name in names)


def test_a_golden_record_may_differ_and_no_other_file(artifact: Artifact) -> None:
    files = artifact.manifest.files
    golden = tuple(e.model_copy(update={"sha256": "0" * 64}) if e.path == "golden.json" else e for e in files)
    assert difference(files, golden) is None
    assert content_digest(files) != content_digest(golden)
    weights = tuple(e.model_copy(update={"sha256": "0" * 64}) if e.path == "weights/model.bin" else e for e in files)
    assert difference(files, weights) == "weights/model.bin"
    assert difference(files, files[1:]) == "model.xml"
