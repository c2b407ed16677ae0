"""Quantised checkpoints are turned into full precision on request, by transformers; others are refused at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import architectures
import pytest

from slmbench.errors import BadInputError, CannotRunError
from slmbench.models import dequantize
from slmbench.models.checkpoint import resolve
from slmbench.system.extras import installed_version

torch = pytest.importorskip("torch", reason="needs slmbench[export]")

#: Weights that share a scale, in rows and columns.
BLOCK = 32


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.make("qwen2", tmp_path_factory.mktemp("qwen2") / "small")


def load(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {key: value for file in sorted(folder.glob("*.safetensors")) for key, value in load_file(file).items()}


def is_matrix(name: str) -> bool:
    return name.endswith("_proj.weight")


def write(whole: Path, folder: Path, state: dict[str, Any], settings: dict[str, Any]) -> Path:
    from safetensors.torch import save_file

    shutil.copytree(whole, folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return folder


def fp8(whole: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """As Qwen3-0.6B-FP8 has them: a scale for each block of rows and columns; and what the weights are."""
    stored, meant = {}, {}
    for name, tensor in load(whole).items():
        stored[name] = meant[name] = tensor
        if is_matrix(name):
            rows, columns = (size // BLOCK for size in tensor.shape)
            blocks = tensor.reshape(rows, BLOCK, columns, BLOCK)
            scales = blocks.abs().amax((1, 3)) / 448
            small = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
            stored[name], stored[f"{name}_scale_inv"] = small.reshape(tensor.shape), scales
            meant[name] = (small.float() * scales[:, None, :, None]).reshape(tensor.shape)
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
    return write(whole, folder, stored, settings), meant


def compressed_tensors(whole: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """As RedHatAI's w8a8 models have them: 8-bit integers, a scale for each row; and what the weights are."""
    stored, meant = {}, {}
    for name, tensor in load(whole).items():
        stored[name] = meant[name] = tensor
        if is_matrix(name):
            scales = tensor.abs().amax(1, keepdim=True) / 127
            small = (tensor / scales).round().to(torch.int8)
            stored[name], stored[f"{name}_scale"] = small, scales
            meant[name] = small.float() * scales
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    group = {"targets": ["Linear"], "weights": weights, "format": "int-quantized",
             "input_activations": weights | {"strategy": "token", "dynamic": True}}  # fmt: skip
    settings = {
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"],
    }  # fmt: skip
    return write(whole, folder, stored, settings), meant


def packed_tensors(whole: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """As RedHatAI's w4a16 models have them: eight numbers of 4 bits in one; and what the weights are."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    stored, meant = {}, {}
    for name, tensor in load(whole).items():
        stored[name] = meant[name] = tensor
        if is_matrix(name):
            groups = tensor.reshape(len(tensor), -1, BLOCK)
            scales = groups.abs().amax(2) / 7
            small = (groups / scales[..., None]).round().to(torch.int8)
            del stored[name]
            stored[f"{name}_packed"] = pack_to_int32(small.reshape(tensor.shape), 4)
            stored[f"{name}_scale"], stored[f"{name}_shape"] = scales, torch.tensor(tensor.shape)
            meant[name] = (small.float() * scales[..., None]).reshape(tensor.shape)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": BLOCK}
    settings = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"],
    }  # fmt: skip
    return write(whole, folder, stored, settings), meant


def bitsandbytes(whole: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """As unsloth's models have them: NF4, written by transformers; and what bitsandbytes says the weights are."""
    import transformers

    settings = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = transformers.AutoModelForCausalLM.from_pretrained(whole, quantization_config=settings, device_map="cpu")
    model.save_pretrained(folder)
    return folder, {key: value.float() for key, value in model.dequantize(torch.float32).state_dict().items()}


MAKERS = [
    ("fp8", fp8),
    ("compressed-tensors", compressed_tensors),
    ("compressed-tensors", packed_tensors),
    ("bitsandbytes", bitsandbytes),
]


@pytest.mark.parametrize(("method", "make"), MAKERS)
def test_the_weights_are_those_that_the_quantised_ones_stand_for(
    method: str, make: Any, whole: Path, tmp_path: Path
) -> None:
    for name in dequantize._METHODS[method][2]:
        if installed_version(name) is None:
            pytest.skip(f"{method} weights need {name}")
    folder, meant = make(whole, tmp_path / "small-quantised")
    with pytest.raises(BadInputError, match="--dequantize"):
        resolve(str(folder))
    found, original = resolve(str(folder), dequantize=True), resolve(str(whole))
    assert (found.parameter_count, found.geometry) == (original.parameter_count, original.geometry)
    assert found.name == "small-quantised"
    assert str(found.dequantized_from).startswith(f"{method}, by transformers")
    assert found.path is not None
    made = load(found.path)
    assert made.keys() == load(whole).keys()
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, meant[name], rtol=0, atol=0)
    # Once: the second time nothing is written.
    before = found.path.stat().st_mtime_ns
    assert resolve(str(folder), dequantize=True) == found
    assert found.path.stat().st_mtime_ns == before


@pytest.mark.parametrize("method", ["awq", "gptq", "unheard-of"])
def test_what_transformers_cannot_turn_back_is_refused_with_the_option_too(
    method: str, whole: Path, tmp_path: Path
) -> None:
    folder = write(whole, tmp_path / "small", load(whole), {"quant_method": method})
    with pytest.raises(BadInputError, match=method) as caught:
        resolve(str(folder), dequantize=True)
    assert "--dequantize" not in str(caught.value)
    assert "as it is" in str(caught.value)


def test_a_package_that_is_missing_is_named(whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder, _ = fp8(whole, tmp_path / "small")
    monkeypatch.setattr(dequantize, "installed_version", lambda name: None if name == "accelerate" else "1.0")
    with pytest.raises(CannotRunError, match="accelerate is needed.*pip install '.*\\[dequantize\\]'"):
        resolve(str(folder), dequantize=True)


def test_a_checkpoint_in_full_precision_stays_as_it_is(whole: Path) -> None:
    assert resolve(str(whole), dequantize=True) == resolve(str(whole))


@pytest.mark.slow
def test_a_run_of_quantised_weights(whole: Path, tmp_path: Path) -> None:
    """From the typed command to the table: refused without the option, measured and recorded with it."""
    if installed_version("accelerate") is None:
        pytest.skip("fp8 weights need accelerate")
    folder, _ = fp8(whole, tmp_path / "small")
    command = [
        sys.executable, "-m", "slmbench", "run", "--model", str(folder), "--backend", "onnxruntime", "--input-tokens",
        "16", "--output-tokens", "4", "--repeat", "2", "--out", str(tmp_path / "run"), "--json",
    ]  # fmt: skip
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--dequantize" in refused.stderr.splitlines()[-1]
    done = subprocess.run([*command, "--dequantize"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["agreement"] == 1.0
    assert "fp8, by transformers" in (tmp_path / "run" / "run.json").read_text()
