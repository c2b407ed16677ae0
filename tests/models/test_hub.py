"""Hub checkpoints, against a server on the loopback that answers as the Hub does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import CONFIG, make_folder
from hub_server import NEW, OLD, Hub, resolve, serving


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving() as server:
        yield _filled(server, tmp_path)


def _filled(server: Hub, tmp_path: Path) -> Hub:
    old = make_folder(tmp_path / "old")
    new = make_folder(tmp_path / "new", {**CONFIG, "rope_theta": 500.0})
    for folder in (old, new):
        (folder / "pytorch_model.bin").write_bytes(b"never fetched")
        (folder / "consolidated.safetensors").write_bytes(b"never fetched")
        (folder / "modeling.py").write_text("raise SystemExit('never run')")
        (folder / "tokenizer.json").write_text("{}")
    server.repositories["org/model"] = {OLD: old, NEW: new}
    server.branches["org/model"] = {"main": NEW, "v1": OLD}
    pickled = make_folder(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    server.repositories["org/pickled"] = {NEW: pickled}
    server.repositories["org/bert"] = {NEW: make_folder(tmp_path / "bert", {**CONFIG, "model_type": "bert"})}
    server.branches["org/pickled"] = server.branches["org/bert"] = {"main": NEW}
    server.gated.add("org/gated")
    return server


def test_a_hub_checkpoint_is_pinned_to_its_commit(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    found = resolve(hub.url, home, "org/model")
    assert found.code == 0, found.error
    assert found.checkpoint["name"] == "org/model"
    assert found.checkpoint["source"] == "hub"
    assert found.checkpoint["revision"] == NEW
    assert found.checkpoint["has_tokenizer"]
    assert Path(found.checkpoint["path"]).name == NEW
    # No pickle, no second copy of the weights, no code.
    assert set(hub.served) == {"config.json", "model.safetensors", "tokenizer.json"}
    tagged = resolve(hub.url, home, "org/model@v1")
    assert tagged.checkpoint["revision"] == OLD
    assert tagged.checkpoint["digest"] != found.checkpoint["digest"]
    by_option = resolve(hub.url, home, "org/model", revision=OLD)
    assert by_option.checkpoint == tagged.checkpoint


def test_offline_takes_what_is_cached(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    missing = resolve(hub.url, home, "org/model", offline=True)
    assert missing.code == 5
    assert "not in the Hub cache" in missing.error
    online = resolve(hub.url, home, "org/model")
    hub.served.clear()
    nowhere = "http://127.0.0.1:1"
    offline = resolve(nowhere, home, "org/model", offline=True)
    assert offline.checkpoint == online.checkpoint
    assert hub.served == []
    # An interrupted connection is told, with what helps.
    lost = resolve(nowhere, home, "org/model")
    assert lost.code == 5
    assert "--offline" in lost.error


@pytest.mark.parametrize(
    ("reference", "code", "part"),
    [
        ("org/nothing", 2, "no such model on the Hub"),
        ("org/model@v9", 2, "v9"),
        ("org/pickled", 2, "--convert-pickles"),
        ("org/bert", 2, "encoder-only"),
        ("org/gated", 5, "gated"),
    ],
)
def test_what_the_hub_cannot_give(hub: Hub, tmp_path: Path, reference: str, code: int, part: str) -> None:
    refused = resolve(hub.url, tmp_path / "home", reference)
    assert refused.code == code
    assert part in refused.error
    assert len(refused.error.splitlines()) == 1
    assert "model.safetensors" not in hub.served
