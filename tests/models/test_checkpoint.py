"""Checkpoints from folders: what is read, what is refused, and that a hostile file is one clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from folders import CONFIG, make_folder, tensors, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from slmbench.errors import BadInputError, ExitCode
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.models.safetensors import read_header


def refused(folder: Path | str, *parts: str) -> None:
    """The folder is refused with exit code 2 and one line that has all the parts."""
    with pytest.raises(BadInputError) as caught:
        resolve(str(folder))
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    for part in parts:
        assert part in text


def test_reading_a_folder_does_not_import_torch(tmp_path: Path) -> None:
    """The process that measures stays small: transformers, which imports torch, is asked elsewhere."""
    folder = make_folder(tmp_path / "my-model")
    asked = "import sys; from slmbench.models.checkpoint import resolve; resolve(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-P", "-c", asked, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert {"torch", "transformers", "slmbench.models.known_types"} & set(done.stdout.split()) == {
        "slmbench.models.known_types"
    }


def test_a_folder_is_read(tmp_path: Path) -> None:
    checkpoint = resolve(str(make_folder(tmp_path / "my-model")))
    assert (checkpoint.name, checkpoint.source, checkpoint.family) == ("my-model", "folder", "decoder-only")
    assert checkpoint.parameter_count == 32 * 8 * 2 + 16 * 8
    assert checkpoint.eos_token_ids == (2, 3)
    assert checkpoint.path == (tmp_path / "my-model").resolve()
    assert not checkpoint.has_tokenizer
    geometry = checkpoint.geometry
    assert (geometry.head_dim, geometry.kv_heads, geometry.max_total_tokens) == (4, 1, 64)
    assert not geometry.tied_embeddings


def test_tied_weights_count_once(tmp_path: Path) -> None:
    absent = resolve(str(make_folder(tmp_path / "absent", head=False)))
    same = tensors()
    same["lm_head.weight"] = same["model.embed_tokens.weight"]
    make_folder(tmp_path / "equal")
    write_safetensors(tmp_path / "equal" / "model.safetensors", same)
    equal = resolve(str(tmp_path / "equal"))
    assert absent.parameter_count == equal.parameter_count == 32 * 8 + 16 * 8
    assert absent.geometry.tied_embeddings
    assert equal.geometry.tied_embeddings


def test_sharded_weights(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "whole")
    whole = resolve(str(folder))
    split = tmp_path / "split"
    make_folder(split)
    (split / "model.safetensors").unlink()
    names = {}
    for number, (name, values) in enumerate(tensors().items()):
        file = f"model-{number}.safetensors"
        write_safetensors(split / file, {name: values})
        names[name] = file
    (split / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert resolve(str(split)).parameter_count == whole.parameter_count
    (split / "model-1.safetensors").unlink()
    refused(split, "index", "model-1.safetensors")


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    first = resolve(str(make_folder(tmp_path / "a")))
    assert resolve(str(make_folder(tmp_path / "b"))).digest == first.digest
    changed = make_folder(tmp_path / "c", {**CONFIG, "rope_theta": 500.0})
    assert resolve(str(changed)).digest != first.digest
    values = tensors()
    values["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
    weights = tmp_path / "a" / "model.safetensors"
    before = weights.stat()
    write_safetensors(weights, values)
    # Same size; the time of change tells (set, for file systems with coarse clocks).
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert resolve(str(tmp_path / "a")).digest != first.digest


def test_weights_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "a")
    first = resolve(str(folder))
    monkeypatch.setattr("slmbench.models.safetensors._inspect", lambda *_: pytest.fail("hashed again"))
    assert resolve(str(folder)) == first


def test_path_and_trust_are_no_part_of_the_record(tmp_path: Path) -> None:
    checkpoint = resolve(str(make_folder(tmp_path / "a")), trust_remote_code=True)
    dumped = checkpoint.model_dump(mode="json")
    assert checkpoint.trust_remote_code
    assert not {"path", "trust_remote_code"} & dumped.keys()
    assert Checkpoint.model_validate(dumped).digest == checkpoint.digest


def test_the_generation_config_names_special_tokens(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7, "pad_token_id": 5}))
    checkpoint = resolve(str(folder))
    assert checkpoint.eos_token_ids == (2, 3, 7)
    assert checkpoint.pad_token_id == 5


def test_unknown_models_get_the_nearest_names() -> None:
    refused("mu-330n", "mu-330m")
    refused("./no/such/folder", "no such file or folder")
    refused("bad name\x1b[31m", "unknown model")


def test_missing_parts(tmp_path: Path) -> None:
    refused(tmp_path, "no config.json")
    folder = make_folder(tmp_path / "a")
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights")
    refused(folder / "config.json", "a checkpoint is a folder")


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "--convert-pickles", "refs/pr")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model_type": "bert"}, "encoder-only"),
        ({"model_type": "mambo"}, "does not know this model_type; a newer one may. Did you mean mamba"),
        ({"model_type": "qwen"}, "Did you mean qwen3"),
        ({"model_type": None}, "no 'model_type'"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": 10**12}, "'hidden_size' is 1000000000000"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' is 0"),
        ({"num_hidden_layers": 10**6}, "'num_hidden_layers' is 1000000, not a sensible size"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"vocab_size": 33}, "do not fit the weights"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "not a multiple of 3 K/V heads"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    refused(make_folder(tmp_path / "a", {**CONFIG, **change}), part)


@pytest.mark.parametrize("text", ["{", "[1]", "\x00", '"x"', "[" * 100_000])
def test_a_config_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    folder = make_folder(tmp_path / "a")
    (folder / "config.json").write_text(text)
    refused(folder, "config.json", "not")


def _header(entry: dict[str, Any]) -> bytes:
    text = json.dumps({"w": entry}).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 64


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (10**9).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        _header({"dtype": "F32", "shape": [16], "data_offsets": [0, 10**15]}),
        _header({"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 64]}),
        _header({"dtype": "F32", "shape": [-4, -4], "data_offsets": [0, 64]}),
        _header({"dtype": "F32", "shape": [16], "data_offsets": [64, 0]}),
        _header({"dtype": "PICKLE", "shape": [16], "data_offsets": [0, 64]}),
        _header({"dtype": "F32", "shape": 16}),
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes) -> None:
    folder = make_folder(tmp_path / "a")
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "model.safetensors")


@settings(max_examples=200)
@given(position=st.integers(0, 300), value=st.integers(0, 255))
def test_any_changed_byte_of_a_header_is_read_or_refused(tmp_path: Path, position: int, value: int) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors())
    content = bytearray(path.read_bytes())
    content[position] = value
    path.write_bytes(content)
    try:
        read = read_header(path)
    except BadInputError:
        return
    assert all(0 <= tensor.begin <= tensor.end <= len(content) for tensor in read)
