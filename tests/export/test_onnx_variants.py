"""Config variants of the architectures that our ONNX route builds: each is carried, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rotation import in_turn

from slmbench.backend import Session, SessionOptions, load_backend
from slmbench.errors import CannotRunError
from slmbench.export.build import ensure_artifact
from slmbench.measure.proof import agreement
from slmbench.models import catalog_configs as shapes
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import checkpoint_of_folder
from slmbench.terms import MARGIN_TOLERANCE

torch = pytest.importorskip("torch", reason="exporting needs slmbench[export]")
transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {"width": 64, "layers": 2, "heads": 4, "ffn": 128, "vocab": 512}
LLAMA: dict[str, Any] = {**SMALL, "kv_heads": 2, "positions": 256, "tied": False}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.2, 1.5, 1.7, 2.0, 2.2, 2.5, 3.0], "long_factor": [4.0] * 8,
}  # fmt: skip
HALF = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
GEMMA_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}


def yarn(kind: str) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}


def _t5gemma(encoder: dict[str, Any], decoder: dict[str, Any]) -> dict[str, Any]:
    config = shapes.t5gemma(**SMALL, kv_heads=2, head_dim=16, window=8)
    return config | {"encoder": config["encoder"] | encoder, "decoder": config["decoder"] | decoder}


GEMMA: dict[str, Any] = {**SMALL, "layers": 3, "kv_heads": 1, "head_dim": 16, "window": 8, "every": 3}
T5: dict[str, Any] = {**SMALL, "head_dim": 16}
CARRIED: dict[str, dict[str, Any]] = {
    "llama, rope scaled as Llama 3": shapes.decoder("llama", **LLAMA, rope_parameters=LLAMA3),
    "llama, yarn": shapes.decoder("llama", **LLAMA, rope_parameters=yarn("yarn")),
    "llama, linear rope": shapes.decoder("llama", **LLAMA, rope_parameters=yarn("linear")),
    "llama, biases": shapes.decoder("llama", **LLAMA, attention_bias=True, mlp_bias=True),
    "llama, gelu": shapes.decoder("llama", **LLAMA, hidden_act="gelu"),
    "mistral, own head size": shapes.decoder("mistral", **LLAMA, head_dim=32, sliding_window=None),
    "phi3, longrope on half the head": shapes.decoder(
        "phi3", **{**LLAMA, "heads": 2}, rope_parameters=LONGROPE, original_max_position_embeddings=128,
        sliding_window=9,
    ),
    "qwen3, windows in the last layer": shapes.decoder(
        "qwen3", **LLAMA, head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "smollm3, windows": shapes.decoder(
        "smollm3", **LLAMA, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "gemma3, linear rope in global layers": shapes.gemma3(**GEMMA) | {"rope_parameters": GEMMA_ROPES},
    "gemma3, soft caps and scalar": shapes.gemma3(**GEMMA)
    | {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0, "query_pre_attn_scalar": 40},
    "t5, few buckets": shapes.t5(**T5)
    | {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "num_decoder_layers": 3},
    "t5, gated silu": shapes.t5(**T5) | {"feed_forward_proj": "gated-silu"},
    "bart, relu, scaled, more encoder layers": shapes.bart(**SMALL)
    | {"activation_function": "relu", "scale_embedding": True, "encoder_layers": 3},
    "marian, two vocabularies": shapes.marian(**SMALL)
    | {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 512, "tie_word_embeddings": False},
    "t5gemma, unequal scalars": _t5gemma({"query_pre_attn_scalar": 20}, {"query_pre_attn_scalar": 50}),
    "t5gemma, no soft caps": _t5gemma(
        {"attn_logit_softcapping": None}, {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    ),
}  # fmt: skip
QUICK = ["llama, rope scaled as Llama 3", "gemma3, soft caps and scalar", "t5, few buckets", "t5gemma, unequal scalars"]
SLOW = in_turn([name for name in CARRIED if name not in QUICK], 3)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rope by length": (shapes.decoder("llama", **LLAMA, rope_parameters=yarn("dynamic")), "rope type 'dynamic'"),
    "activation": (shapes.decoder("llama", **LLAMA, hidden_act="relu2"), "activation 'relu2'"),
    "few rotated sizes": (
        shapes.decoder("phi3", **LLAMA, rope_parameters=HALF),
        "multiple of 16",
    ),
    "sides of two widths": (shapes.bart(**SMALL) | {"decoder_ffn_dim": 96}, "two sides have the same sizes"),
    "both ways": (shapes.gemma3(**GEMMA) | {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
}


def folder_of(config: dict[str, Any], folder: Path) -> Path:
    """Write a checkpoint whose attention is sharp, so that its tokens depend on every part of it."""
    torch.manual_seed(0)
    made = transformers.AutoConfig.for_model(**config)
    kind = transformers.AutoModelForSeq2SeqLM if made.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = kind.from_config(made, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
            elif "relative_attention_bias" not in name:
                gain = 3.0 if name.endswith(("q_proj.weight", "qkv_proj.weight")) else 1.0
                parameter.normal_(0.0, gain * parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    return folder


def exported(config: dict[str, Any], folder: Path, target: str | None = None) -> Artifact:
    checkpoint = checkpoint_of_folder(folder if folder.exists() else folder_of(config, folder))
    return ensure_artifact(checkpoint, ArtifactSpec(format="onnx", target=target), progress=lambda _: None)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_variant_is_carried(name: str, tmp_path: Path) -> None:
    for target in (None, "cuda"):
        artifact = exported(CARRIED[name], tmp_path / "variant", target)
        session = load_backend("onnxruntime").open(artifact, "cpu", SessionOptions(threads=1))
        assert isinstance(session, Session)
        session.reserve(1, 48, 24)
        family = artifact.manifest.checkpoint.family
        found = agreement(session, artifact.golden().prompts, MARGIN_TOLERANCE["fp32"], family)
        session.close()
        assert found.compared > 40
        assert found.share == 1.0


@pytest.mark.parametrize("name", REFUSED)
def test_a_variant_without_blocks_is_refused_by_name(name: str, tmp_path: Path) -> None:
    config, told = REFUSED[name]
    with pytest.raises(CannotRunError, match=told):
        exported(config, tmp_path / "variant")


def test_longrope_ends_where_its_factors_change(tmp_path: Path) -> None:
    artifact = exported(CARRIED["phi3, longrope on half the head"], tmp_path / "variant")
    config = json.loads((artifact.folder / "genai_config.json").read_bytes())
    assert config["model"]["context_length"] == 128
