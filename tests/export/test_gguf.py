"""The GGUF route: types and values of the tensors, what the file says, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmbench.errors import CannotRunError
from slmbench.export.build import ensure_artifact
from slmbench.export.routes import choose_route, make_spec, refusal
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.models.cost_model import decode_weights

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("gguf", reason="needs slmbench[llama]")

import gguf

from slmbench.export.gguf.header import check_variant, rotary_factors
from slmbench.export.gguf.tensors import named_tensors
from slmbench.export.torch_model import load_model

TYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "Q8_0"}


def spec_of(precision: str = "fp32", **more: Any) -> ArtifactSpec:
    return ArtifactSpec.model_validate({"format": "gguf", "weight_precision": precision, **more})


def export(name: str, precision: str = "fp32") -> Artifact:
    return ensure_artifact(resolve(name), spec_of(precision), progress=lambda _: None)


def tensors_of(artifact: Artifact) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(artifact.graph("model")).tensors}


def values_of(tensor: Any) -> Any:
    return gguf.dequantize(tensor.data, tensor.tensor_type)


@pytest.mark.parametrize("precision", TYPES)
def test_matrices_have_the_precision_and_norms_are_f32(precision: str) -> None:
    artifact = export("llama-tiny", precision)
    tensors = tensors_of(artifact)
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors.items()}
    assert {kind for name, kind in kinds.items() if "norm" not in name} == {TYPES[precision]}
    assert {kind for name, kind in kinds.items() if "norm" in name} == {"F32"}
    # Two layers of nine, the embedding, which is the LM head too, and the last norm.
    assert len(tensors) == 2 * 9 + 2
    assert sum(int(tensor.n_elements) for tensor in tensors.values()) == artifact.manifest.checkpoint.parameter_count


def test_an_lm_head_of_its_own_is_written() -> None:
    checkpoint = resolve("mistral-tiny")
    open_sizes = checkpoint.geometry.model_copy(update={"windows": (None, None)})
    names = dict(named_tensors(checkpoint.model_copy(update={"geometry": open_sizes}), load_model(checkpoint)))
    assert names["output.weight"].shape == names["token_embd.weight"].shape


@pytest.mark.parametrize(("precision", "bits"), [("fp32", 32), ("bf16", 16), ("int8", 8.5)])
def test_a_step_reads_every_weight_but_the_embedding(precision: str, bits: float) -> None:
    artifact = export("dec-tiny", precision)
    matrices = decode_weights(resolve("dec-tiny").geometry) * bits / 8
    # Norms are in F32, whatever the matrices are in.
    assert matrices <= artifact.manifest.decode_weight_bytes < 1.02 * matrices
    # The LM head is the embedding; norms are F32, and the file has a header.
    assert artifact.graph("model").stat().st_size == pytest.approx(artifact.manifest.decode_weight_bytes, rel=0.02)


def test_values_are_those_of_the_checkpoint() -> None:
    """Neighbouring rows of a head are those that transformers turns together; all other rows stay."""
    model: Any = load_model(resolve("llama-tiny"))
    tensors = tensors_of(export("llama-tiny"))
    layer, geometry = model.model.layers[1], resolve("llama-tiny").geometry
    half = geometry.head_dim // 2
    for name, module, heads in (("q", layer.self_attn.q_proj, geometry.heads), ("k", layer.self_attn.k_proj, 2)):
        theirs, ours = module.weight.numpy(), values_of(tensors[f"blk.1.attn_{name}.weight"])
        for head in range(heads):
            start = head * geometry.head_dim
            for pair in range(half):
                assert np.array_equal(ours[start + 2 * pair], theirs[start + pair])
                assert np.array_equal(ours[start + 2 * pair + 1], theirs[start + pair + half])
    same = {"blk.1.attn_v.weight": layer.self_attn.v_proj, "blk.1.ffn_down.weight": layer.mlp.down_proj}
    for name, module in {**same, "token_embd.weight": model.model.embed_tokens}.items():
        assert np.array_equal(values_of(tensors[name]), module.weight.numpy())


def test_a_qwen3_keeps_its_rows() -> None:
    model: Any = load_model(resolve("qwen3-tiny"))
    tensors = tensors_of(export("qwen3-tiny"))
    attention = model.model.layers[0].self_attn
    assert np.array_equal(values_of(tensors["blk.0.attn_q.weight"]), attention.q_proj.weight.numpy())
    assert np.array_equal(values_of(tensors["blk.0.attn_q_norm.weight"]), attention.q_norm.weight.numpy())


def test_8_bit_weights_are_within_half_a_step() -> None:
    exact = values_of(tensors_of(export("llama-tiny"))["token_embd.weight"])
    found = values_of(tensors_of(export("llama-tiny", "int8"))["token_embd.weight"])
    steps = np.abs(exact.reshape(-1, 32)).max(axis=1) / 127
    # Half a step, and 127 of them by a scale that is rounded to 11 bits.
    assert (np.abs(found - exact).reshape(-1, 32).max(axis=1) <= steps * (0.5 + 127 / 2**11)).all()


def test_llama3_frequencies_are_written_as_factors() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    scaled = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 64}  # fmt: skip
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 64}
    model = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=64, rope_parameters=scaled))
    factors = rotary_factors(resolve("llama-tiny"), model)["rope_freqs.weight"]
    rotary = model.model.rotary_emb
    unscaled = 1e4 ** -(np.arange(16) / 16)
    assert np.allclose(unscaled / factors, rotary.inv_freq.numpy(), rtol=1e-6)
    assert factors[0] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(8.0)
    assert rotary_factors(resolve("llama-tiny"), load_model(resolve("llama-tiny"))) == {}


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("bart-tiny", {}, "has no GGUF of the architecture 'bart'; it has gemma, gemma2"),
        ("mistral-tiny", {}, "ignores the attention window of 16 tokens"),
        ("llama-tiny", {"weight_precision": "q3_k_s"}, "q4_k_m, q5_k_m, q6_k, q8_0, iq4_nl, not q3_k_s"),
        ("llama-tiny", {"target": "cuda"}, "a GGUF file has no target; 'cuda' was given"),
        ("llama-tiny", {"exporter": "optimum"}, "exporter 'optimum' writes no dynamic gguf artifact"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(name: str, more: dict[str, Any], message: str) -> None:
    told = refusal(resolve(name), spec_of(**{"precision": "fp32", **more}))
    assert told is not None
    assert message in told
    assert "\n" not in told


def test_variants_that_llama_cpp_computes_otherwise_are_refused() -> None:
    checkpoint = resolve("llama-tiny")
    model: Any = load_model(checkpoint)
    model.config.rope_parameters = {**model.config.rope_parameters, "partial_rotary_factor": 0.5}
    with pytest.raises(CannotRunError, match="turns whole heads of 32, this checkpoint 16"):
        check_variant(checkpoint, model)
    model.config.rope_parameters = {"rope_type": "yarn"}
    with pytest.raises(CannotRunError, match="not yarn"):
        check_variant(checkpoint, model)
    model.config.hidden_act = "gelu"
    with pytest.raises(CannotRunError, match="silu, not with gelu"):
        check_variant(checkpoint, model)


def test_rows_that_no_block_fits_are_refused_before_the_export() -> None:
    checkpoint = resolve("llama-tiny")
    odd = checkpoint.model_copy(update={"geometry": checkpoint.geometry.model_copy(update={"ffn_width": 100})})
    assert (
        refusal(odd, spec_of("q4_0")) == "llama.cpp's q4_0 takes rows of a multiple of 32, this model has rows of 100"
    )
    assert refusal(odd, spec_of("fp32")) is None


#: Between which bits a weight of llama-tiny comes out, whose embedding is a third of it and has 8.5 in most of them.
MIXED = {"q4_0": (4.5, 6.6), "q4_k_m": (4.8, 7.0), "q6_k": (6.5, 8.6), "q8_0": (8.5, 8.6), "iq4_nl": (4.5, 6.6)}


@pytest.mark.parametrize("precision", MIXED)
def test_bits_a_weight_are_counted_from_the_file(precision: str) -> None:
    pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
    artifact = export("llama-tiny", precision)
    weights = artifact.manifest.weights
    tensors = tensors_of(artifact).values()
    stored = sum(int(one.n_bytes) for one in tensors)
    assert weights is not None
    assert weights.bits == pytest.approx(8 * stored / sum(int(one.n_elements) for one in tensors), abs=1e-3)
    least, most = MIXED[precision]
    assert least < weights.bits < most
    assert set(weights.types) == {one.tensor_type.name for one in tensors}
    assert [path.name for path in artifact.folder.iterdir() if path.suffix == ".gguf"] == ["model.gguf"]


def test_int4_is_q4_0_and_tensors_that_fall_back_are_counted() -> None:
    pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
    assert export("llama-tiny", "int4").manifest.weights == export("llama-tiny", "q4_0").manifest.weights
    narrow = export("llama-tiny", "q4_k_m").manifest.weights
    # All rows but those of the second matrix of a feed-forward block have 128 weights, and K-quants want 256.
    assert narrow is not None
    assert narrow.fallbacks == 2 * 6 + 1
    assert export("llama-tiny", "q8_0").manifest.weights.fallbacks == 0  # type: ignore[union-attr]


def test_auto_takes_the_one_exporter_there_is() -> None:
    checkpoint: Checkpoint = resolve("llama-tiny")
    assert choose_route("gguf", [checkpoint], "fp32").exporter == "slmbench"
    assert make_spec(checkpoint, "gguf", "int8").label() == "gguf int8 (slmbench)"


@pytest.mark.parametrize("name", ["dec-tiny", "qwen3-tiny"])
def test_the_file_is_the_same_without_torch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slmbench.export import own_network
    from slmbench.export.gguf import route

    monkeypatch.setattr(own_network, "needs_torch", lambda _: False)
    files = []
    for network in (own_network.own_network, load_model):
        folder = tmp_path / network.__name__
        folder.mkdir()
        monkeypatch.setattr(route, "own_network", network)
        route.write(resolve(name), ArtifactSpec(format="gguf"), folder, lambda _: None)
        files.append((folder / "model.gguf").read_bytes())
    assert files[0] == files[1]
