"""Any architecture's config is read by one reader: sizes, windows, defaults of transformers, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
from folders import CONFIG, make_folder, tensors, write_safetensors

from slmbench.errors import BadInputError
from slmbench.models import catalog
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.models.geometry import SideSizes, geometry_of, read_config

pytest.importorskip("transformers", reason="needs slmbench[export]")

#: Where FLOPs and bytes of a step do not follow from the sizes, and why.
UNKNOWN = {
    "qwen3_moe": "experts", "phimoe": "experts", "mixtral": "experts", "granitemoehybrid": "state",
    "lfm2": "state", "qwen3_5_text": "state", "gemma3n_text": "built in another way",
    "prophetnet": "built in another way", "longt5.global": "global summaries",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = architectures.make(name, tmp_path_factory.mktemp("model") / name)
        return made[name]

    return folder


@pytest.mark.parametrize("entry", catalog.entries(), ids=lambda entry: entry.name)
def test_a_complete_config_needs_nothing_of_transformers(entry: catalog.CatalogEntry) -> None:
    facts = read_config(entry.config, entry.name)
    assert facts.geometry == geometry_of(entry.config, entry.family, entry.name)
    assert (facts.family, facts.architecture, facts.is_part) == (entry.family, entry.architecture, False)


@pytest.mark.parametrize("name", architectures.names())
def test_sizes_are_those_of_the_network(name: str, folder_of: Any) -> None:
    checkpoint = resolve(str(folder_of(name)))
    g = checkpoint.geometry
    assert (g.vocab_size, g.width, g.heads, g.head_dim) == (1024, 128, 4, 64 if name == "gemma" else 32)
    assert checkpoint.family == (
        "encoder-decoder" if name in architectures.names("encoder-decoder") else "decoder-only"
    )
    assert checkpoint.parameter_count == measured_parameters(name)
    reason = UNKNOWN.get(name)
    assert g.cost_unknown is None if reason is None else reason in str(g.cost_unknown)


def family_of(name: str) -> str:
    return "encoder-decoder" if name in architectures.names("encoder-decoder") else "decoder-only"


def measured_parameters(name: str) -> int:
    """Count the parameters of the text part of a network, tied ones once."""
    towers = ("vision_tower", "multi_modal_projector")
    parameters = {
        id(parameter): parameter.numel()
        for path, parameter in architectures.network(name).named_parameters()
        if not any(tower in path for tower in towers)
    }
    return sum(parameters.values())


def test_variants_of_sizes(folder_of: Any) -> None:
    def read(name: str) -> Checkpoint:
        return resolve(str(folder_of(name)))

    assert read("gemma2").geometry.windows == (16, None)
    assert read("gemma3").geometry.windows == (16, None, 16)
    assert read("gemma3").architecture == "gemma3_text"
    assert read("gemma3").is_part
    assert read("mistral3").architecture == "ministral3"
    assert read("falcon").geometry.kv_heads == 1
    assert read("falcon.new").geometry.kv_heads == 2
    assert read("gpt2").geometry.ffn_width == 512
    assert (read("gpt2").geometry.ffn_matrices, read("qwen2").geometry.ffn_matrices) == (2, 3)
    assert read("qwen2").geometry.tied_embeddings
    assert not read("phi").geometry.tied_embeddings
    assert read("t5gemma").geometry.encoder_sizes == SideSizes(
        width=192, ffn_width=384, heads=6, kv_heads=3, head_dim=32
    )
    assert (read("t5gemma2").geometry.merged_attention, read("t5gemma").geometry.merged_attention) == (True, False)
    assert read("t5gemma2").geometry.shared_embedding
    assert read("t5gemma2").geometry.encoder_windows == (8, None, 8)
    assert (read("mt5").geometry.encoder_layers, read("mt5").geometry.decoder_layers) == (2, 3)
    assert read("longt5").geometry.encoder_windows == (16, 16)
    assert read("lfm2").geometry.layer_kinds == ("conv", "full_attention", "conv")
    assert read("prophetnet").geometry.max_total_tokens == 512


def test_what_a_config_leaves_out_is_transformers_default(folder_of: Any, tmp_path: Path) -> None:
    """A Hub config.json without sizes that are transformers' defaults: GPT-2's n_inner, Gemma 2's layer_types."""
    folder = shutil.copytree(folder_of("gemma2"), tmp_path / "g")
    config = json.loads((folder / "config.json").read_text())
    for name in ("layer_types", "tie_word_embeddings", "rms_norm_eps"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    assert resolve(str(folder)).geometry == resolve(str(folder_of("gemma2"))).geometry


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(BadInputError) as caught:
        resolve(str(folder))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def changed(folder: Path, target: Path, **values: Any) -> Path:
    copy = shutil.copytree(folder, target)
    config = json.loads((copy / "config.json").read_text()) | values
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"vocab_size": 1000}, ("vocabulary 1000", "1024x128")),
        ({"num_hidden_layers": 2, "layer_types": None}, ("2 decoder layers", "which have 3")),
        ({"num_hidden_layers": 4, "layer_types": None}, ("4 decoder layers", "which have 3")),
        ({"num_attention_heads": 8}, ("2 K/V heads of 16", "64 rows")),
        ({"num_key_value_heads": 4}, ("4 K/V heads of 32", "64 rows")),
        ({"hidden_size": 256}, ("width 256",)),
    ],
)
def test_a_config_that_contradicts_its_weights(
    folder_of: Any, tmp_path: Path, values: dict[str, Any], parts: tuple[str, ...]
) -> None:
    refused(changed(folder_of("qwen2"), tmp_path / "x", **values), "config.json", *parts)


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"model_type": "qwen33"}, ("'qwen33'", "does not know", "Did you mean qwen3")),
        ({"model_type": "own", "auto_map": {"AutoModel": "m.Own"}}, ("--trust-remote-code",)),
        ({"model_type": "vit"}, ("no part that turns text into text",)),
        ({"model_type": "whisper"}, ("no part that turns text into text",)),
        ({"model_type": "clip"}, ("the text part of 'clip'",)),
        ({"model_type": "roberta"}, ("encoder-only",)),
        ({"model_type": "deberta-v2"}, ("encoder-only",)),
        ({"model_type": "qwen3_vl_moe"}, ("the text part of 'qwen3_vl_moe'",)),
    ],
)
def test_architectures_that_are_refused(tmp_path: Path, config: dict[str, Any], parts: tuple[str, ...]) -> None:
    refused(make_folder(tmp_path / "a", {**CONFIG, **config}), *parts)


def test_a_missing_shard_is_named(folder_of: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of("qwen2"), tmp_path / "x")
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "model-00002-of-00002.safetensors", "not there")


def test_an_adapter_without_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    refused(tmp_path, "adapter", "merge", "org/base")


@pytest.mark.parametrize(
    ("more", "method"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
    ],
)
def test_quantised_checkpoints_are_refused_at_once(tmp_path: Path, more: dict[str, Any], method: str) -> None:
    refused(
        make_folder(tmp_path / "a", CONFIG | more), f"quantised ({method})", "OpenVINO artifact of this model as it is"
    )


def test_quantised_weights_are_known_by_their_names(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    scales = {"model.layers.0.mlp.up_proj.weight_scale": np.ones((1,), np.float32)}
    write_safetensors(folder / "model.safetensors", tensors() | scales)
    refused(folder, "quantised (they hold model.layers.0.mlp.up_proj.weight_scale)")
