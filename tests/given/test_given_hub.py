"""Artifacts by their Hub ids, against a server on the loopback that answers as the Hub does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import given_files as good
import pytest
from hub_server import NEW, OLD, Hub, environment_for, resolve, serving

NOWHERE = "http://127.0.0.1:1"


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    small, other = good.gguf_bytes(), good.gguf_bytes({**good.VALUES, "general.quantized_by": "another"})
    several = {"m-Q4_K_M.gguf": small, "m-Q8_0.gguf": other, "mmproj-m.gguf": small, "README.md": b"-"}
    commits = {
        "org/several": {OLD: several, NEW: {**several, "m-Q8_0.gguf": small}},
        "org/one": {NEW: {"m.Q6_K.gguf": small}},
        "org/ir": {NEW: {**good.ir_files(), "tokenizer.txt": b"-", "pytorch_model.bin": b"never fetched"}},
        "org/genai": {NEW: good.genai_files()},
        "org/onnx": {NEW: {**good.hf_files(), **good.hf_files(name="onnx/model_fp16.onnx")}},
        "org/nothing": {NEW: {"README.md": b"-", "weights.pt": b"never fetched"}},
    }
    with serving() as server:
        for name, by_commit in commits.items():
            server.repositories[name] = {
                commit: write(tmp_path / "hub" / name / commit, files) for commit, files in by_commit.items()
            }
            server.branches[name] = {"main": NEW, "v1": OLD}
        yield server


def test_a_repository_with_several_lists_them(hub: Hub, tmp_path: Path) -> None:
    found = resolve(hub.url, tmp_path / "home", "org/several")
    assert found.code == 2
    assert "org/several: holds several artifacts; it has: Q4_K_M, Q8_0; name one as org/several:NAME" in found.error
    assert resolve(hub.url, tmp_path / "home", "org/several:Q5_K_M").code == 2
    assert not any(name.endswith(".gguf") for name in hub.served)


def test_one_of_several_is_fetched_alone_and_pinned(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    found = resolve(hub.url, home, "org/several:q8_0")
    assert found.code == 0, found.error
    assert (found.checkpoint["name"], found.checkpoint["revision"]) == ("org/several:Q8_0", NEW)
    assert hub.served == ["m-Q8_0.gguf"]
    old = resolve(hub.url, home, "org/several:Q8_0", revision="v1")
    assert (old.checkpoint["revision"], old.code) == (OLD, 0)
    assert old.checkpoint["digest"] != found.checkpoint["digest"]
    missing = resolve(hub.url, home, "org/several:Q8_0", revision="v2")
    assert (missing.code, "v2" in missing.error) == (2, True)


def test_offline_takes_what_is_cached(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert resolve(hub.url, home, "org/one", offline=True).code == 5
    online = resolve(hub.url, home, "org/one")
    assert online.code == 0, online.error
    hub.served.clear()
    offline = resolve(NOWHERE, home, "org/one", offline=True)
    assert offline.checkpoint == online.checkpoint
    assert hub.served == []
    assert resolve(NOWHERE, home, "org/one").code == 5


@pytest.mark.parametrize(
    ("name", "layout"), [("org/ir", "openvino_ir"), ("org/genai", "ort_genai"), ("org/onnx:q4f16", "hf_onnx")]
)
def test_folders_are_fetched_without_what_they_do_not_need(hub: Hub, tmp_path: Path, name: str, layout: str) -> None:
    found = resolve(hub.url, tmp_path / "home", name)
    assert found.code == 0, found.error
    assert found.checkpoint["given"]["layout"] == layout
    assert not {"pytorch_model.bin", "model_fp16.onnx"} & set(hub.served)


def test_a_repository_of_no_known_layout_is_refused_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    found = resolve(hub.url, tmp_path / "home", "org/nothing")
    assert found.code == 2
    assert len(found.error.splitlines()) == 1
    assert hub.served == []


def test_a_snapshot_of_the_hubs_cache_is_a_folder_like_any_other(hub: Hub, tmp_path: Path) -> None:
    """Its files are links into a folder of blobs, whose names say nothing."""
    home = tmp_path / "home"
    found = resolve(hub.url, home, "org/one")
    snapshot = Path(found.checkpoint["path"])
    (file,) = snapshot.glob("*.gguf")
    assert file.is_symlink()
    for what in (snapshot, file):
        by_path = resolve(NOWHERE, home, str(what))
        assert by_path.code == 0, by_path.error
        assert by_path.checkpoint["digest"] == found.checkpoint["digest"]
    link = tmp_path / "mine.gguf"
    link.symlink_to(file)
    assert resolve(NOWHERE, home, str(link)).checkpoint["name"] == "mine"


@pytest.mark.slow
def test_a_hub_artifact_from_the_typed_command_to_the_table(hub: Hub, q4_gguf: Path, tmp_path: Path) -> None:
    files = {"dec-Q4_K_M.gguf": q4_gguf.read_bytes(), "dec-Q2_K.gguf": b"never fetched"}
    hub.repositories["org/real"] = {NEW: write(tmp_path / "hub" / "real", files)}
    hub.branches["org/real"] = {"main": NEW}
    home, out = tmp_path / "home", tmp_path / "out"
    asked = ["run", "--model", "org/real:Q4_K_M", "--input-tokens", "8", "--output-tokens", "4", "--repeat", "1"]

    def slmbench(url: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "slmbench", *more]
        return subprocess.run(command, env=environment_for(url, home), capture_output=True, text=True, timeout=300)

    done = slmbench(hub.url, *asked, "--out", str(out))
    assert done.returncode == 0, done.stderr[-2000:]
    again = slmbench(NOWHERE, *asked, "--offline", "--out", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr[-2000:]
    table: list[dict[str, Any]] = json.loads(slmbench(NOWHERE, "table", str(out), "--json").stdout)
    assert [(row["model"], row["weight_precision"], row["exporter"]) for row in table] == [
        ("org/real:Q4_K_M", "q4_k_m", "given")
    ]
    assert hub.served == ["dec-Q4_K_M.gguf"]
