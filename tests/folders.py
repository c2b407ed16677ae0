"""Makes small Hugging Face folders without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
}


def write_safetensors(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    """Write float32 tensors in the safetensors format, from its description."""
    header, position = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [position, position + values.nbytes]}
        position += values.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(v.tobytes() for v in tensors.values()))


def tensors(*, head: bool = True) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    found = {
        "model.embed_tokens.weight": rng.random((32, 8), dtype=np.float32),
        "model.layers.0.mlp.up_proj.weight": rng.random((16, 8), dtype=np.float32),
    }
    if head:
        found["lm_head.weight"] = rng.random((32, 8), dtype=np.float32)
    return found


def make_folder(folder: Path, config: dict[str, Any] | None = None, **options: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    write_safetensors(folder / "model.safetensors", tensors(**options))
    return folder
