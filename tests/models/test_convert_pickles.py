"""Pickled weights are converted on request, in a process that loads tensors and runs nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import architectures
import pytest
from rotation import takes_turns

from slmbench.errors import BadInputError
from slmbench.models.checkpoint import resolve

torch = pytest.importorskip("torch", reason="needs slmbench[export]")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.make("mt5", tmp_path_factory.mktemp("mt5") / "small")


def pickled(whole: Path, folder: Path, *, shards: int = 1) -> Path:
    """The checkpoint as older repositories have it: pickles, tied tensors under every name."""
    from safetensors.torch import load_file

    shutil.copytree(whole, folder)
    state: dict[str, Any] = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    state["decoder.embed_tokens.weight"] = state["shared.weight"]
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    placed = {}
    for number in range(shards):
        part = dict(list(state.items())[number::shards])
        torch.save(part, folder / f"pytorch_model-{number}.bin")
        placed |= dict.fromkeys(part, f"pytorch_model-{number}.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_the_same_model_comes_out(whole: Path, tmp_path: Path, shards: int) -> None:
    folder = pickled(whole, tmp_path / "old", shards=shards)
    with pytest.raises(BadInputError, match="--convert-pickles"):
        resolve(str(folder))
    found, original = resolve(str(folder), convert_pickles=True), resolve(str(whole))
    assert (found.parameter_count, found.geometry) == (original.parameter_count, original.geometry)
    assert found.name == "old"
    assert str(found.converted_from).startswith("pytorch_model")
    # Once: the second time nothing is written.
    assert found.path is not None
    before = found.path.stat().st_mtime_ns
    again = resolve(str(folder), convert_pickles=True)
    assert again == found
    assert found.path.stat().st_mtime_ns == before


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_that_runs_code_runs_none(whole: Path, tmp_path: Path) -> None:
    folder = pickled(whole, tmp_path / "old")
    mark = tmp_path / "ran"
    for content in (pickle.dumps({"shared.weight": Hostile(mark)}), None):
        if content is None:
            torch.save({"shared.weight": Hostile(mark)}, folder / "pytorch_model.bin")
        else:
            (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(BadInputError, match="holds something else than tensors") as caught:
            resolve(str(folder), convert_pickles=True)
        assert "\n" not in str(caught.value)
        assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"PK\x03\x04 broken"])
def test_damaged_pickles_are_one_line(whole: Path, tmp_path: Path, content: bytes) -> None:
    folder = pickled(whole, tmp_path / "old")
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(BadInputError, match=r"pytorch_model\.bin") as caught:
        resolve(str(folder), convert_pickles=True)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_of_pickles(whole: Path, tmp_path: Path) -> None:
    folder = pickled(whole, tmp_path / "old", shards=3)
    (folder / "pytorch_model-1.bin").unlink()
    with pytest.raises(BadInputError, match=r"pytorch_model-1\.bin.*not in this folder"):
        resolve(str(folder), convert_pickles=True)


@takes_turns(2, 4)
@pytest.mark.slow
def test_a_run_from_pickles(whole: Path, tmp_path: Path) -> None:
    """From the typed command to the table: every token agrees."""
    folder = pickled(whole, tmp_path / "old")
    command = [
        sys.executable, "-m", "slmbench", "run", "--model", str(folder), "--backend", "torch", "--input-tokens", "16",
        "--output-tokens", "4", "--repeat", "2", "--out", str(tmp_path / "run"), "--json",
    ]  # fmt: skip
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--convert-pickles" in refused.stderr.splitlines()[-1]
    done = subprocess.run([*command, "--convert-pickles"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["agreement"] == 1.0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "pytorch_model.bin" in json.dumps(record)
