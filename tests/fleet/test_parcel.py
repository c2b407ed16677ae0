"""What may be in a parcel at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from artifact_files import checkpoint_elsewhere, write_artifact
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slmbench.errors import BadInputError
from slmbench.fleet import transfer_format as parcel
from slmbench.fleet.transfer_format import Content, content_digest, difference, packed, parse


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Content:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(parcel, "PIECE_BYTES", 10)
    files = {"model.xml": b"0123456789abc", "weights/model.bin": b"x" * 20, "empty": b""}
    return packed(write_artifact(checkpoint_elsewhere(tmp_path / "model"), files))


def changed(content: Content, **changes: Any) -> str:
    """Return the parcel as JSON with a change in its manifest's first file, or in its pieces."""
    raw = json.loads(content.parcel.model_dump_json())
    manifest = json.loads(raw["manifest"])
    pieces = raw["pieces"]
    if "path" in changes:
        pieces[changes["path"]] = pieces.pop(manifest["files"][1]["path"])
        manifest["files"][1]["path"] = changes["path"]
    if "size" in changes:
        manifest["files"][1]["size_bytes"] = changes["size"]
    manifest.update(changes.get("manifest", {}))
    pieces.update(changes.get("pieces", {}))
    return json.dumps({"manifest": json.dumps(manifest), "pieces": pieces})


def test_pieces_of_all_files_with_their_hashes(content: Content) -> None:
    assert parse(content.parcel.model_dump_json()).digest == content.digest
    keys = [key for key in content.piece_keys() if key[0] != "golden.json"]
    assert keys == [("model.xml", 0), ("model.xml", 1), ("weights/model.bin", 0), ("weights/model.bin", 1)]
    assert content.length(("model.xml", 1)) == 3
    assert content.fits(("model.xml", 1), b"abc")
    assert not content.fits(("model.xml", 1), b"abd")
    assert not content.fits(("model.xml", 1), b"abcd")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        *(
            ({"path": name}, "no file of the artifact's folder")
            for name in ("../x", "/etc/passwd", "a/../../x", "C:\\x", "C:/x", "a\\b", "x\ny", "")
        ),
        *(
            ({"path": name}, "no name of a file")
            for name in ("a//b", "./a", "nul", "a/COM1.bin", "ab:y", "x ", "a" * 200)
        ),
        ({"path": "Manifest.json"}, "two manifests"),
        ({"path": "MODEL.XML"}, "same name"),
        ({"path": "model.xml/x"}, "'model.xml' is a file and a folder"),
        ({"size": 2**60}, "in 2 pieces"),
        ({"size": -1}, "-1 bytes"),
        ({"pieces": {"other": []}}, "pieces are of other files"),
        ({"pieces": {"model.xml": ["0" * 64]}}, "13 bytes in 1 pieces"),
        ({"pieces": {"model.xml": ["zz"]}}, "pieces.model.xml.0"),
        ({"manifest": {"artifact_id": "0" * 32}}, "is not its id"),
        ({"manifest": {"graphs": {"model": "absent.xml"}}}, "no absent.xml is in it"),
        ({"manifest": {"schema_version": 99}}, "schema version 99"),
    ],
)  # fmt: skip
def test_what_is_no_artifact_is_refused_by_name(changes: dict[str, Any], problem: str, content: Content) -> None:
    with pytest.raises(BadInputError, match="what was sent") as error:
        parse(changed(content, **changes))
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_sent_ends_in_one_line_or_stays_in_its_folder(data: st.DataObject, content: Content) -> None:
    raw = json.loads(content.parcel.model_dump_json())
    raw["manifest"] = json.loads(raw["manifest"])
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
        names = list(parse(text).sizes)
    except BadInputError as error:
        said = str(error)
    assert said.isprintable()
    assert said or names
    assert all((Path("/a") / name).resolve().is_relative_to("/a") for name in names)


def test_a_golden_record_may_differ_and_no_other_file(content: Content) -> None:
    files = content.manifest.files
    golden = tuple(e.model_copy(update={"sha256": "0" * 64}) if e.path == "golden.json" else e for e in files)
    assert difference(files, golden) is None
    assert content_digest(files) != content_digest(golden)
    weights = tuple(e.model_copy(update={"sha256": "0" * 64}) if e.path == "weights/model.bin" else e for e in files)
    assert difference(files, weights) == "weights/model.bin"
    assert difference(files, files[1:]) == "model.xml"
