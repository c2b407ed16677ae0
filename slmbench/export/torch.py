"""The torch route: the checkpoint's own safetensors and config, for the torch backend."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from slmbench.export.routes import Exported, Progress
from slmbench.models import catalog
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.catalog_configs import PICTURES_IN_FRONT
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.cost_model import known_decode_weights
from slmbench.models.safetensors import INDEX_NAME, weight_files

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why torch does not run this spec, or None."""
    if spec.weight_precision not in _BYTES:
        return f"the torch format has no {spec.weight_precision} weights; it has {', '.join(_BYTES)}"
    return None


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``config.json`` and safetensors into ``folder``.

    A local checkpoint's files are hard-linked (copied across disks): the session that opens them casts to the spec's
    precision. A catalog checkpoint's random weights are written in it.
    """
    if checkpoint.path is None:
        progress("drawing the weights")
        _write_catalog(checkpoint, spec, folder)
    else:
        progress("linking the checkpoint's files")
        _link(checkpoint.path, folder)
    return Exported(
        graphs={"model": "config.json"},
        attention="transformers",
        # transformers' EncoderDecoderCache keeps cross K/V from the first step on; a test counts the projections.
        cross_kv_once=True if checkpoint.family == "encoder-decoder" else None,
        decode_weight_bytes=known_decode_weights(checkpoint.geometry, _BYTES[spec.weight_precision]),
    )


def _write_catalog(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from slmbench.export.torch_model import load_model

    entry = catalog.get(checkpoint.name)
    dtype: Any = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[spec.weight_precision]
    model, config = None, dict(entry.config)
    if spec.pictures and entry.whole is not None:
        from slmbench.export.picture_network import load_with_pictures
        from slmbench.models.picture_parts import VISION_CONFIG, VISION_WEIGHTS

        network = load_with_pictures(checkpoint)
        model = network.text
        if entry.whole["model_type"] == PICTURES_IN_FRONT:
            save_file(_weights(network.vision, dtype), folder / VISION_WEIGHTS, metadata={"format": "pt"})
            (folder / VISION_CONFIG).write_text(json.dumps(entry.whole, indent=1), encoding="utf-8")
        else:
            model, config = network.whole, dict(entry.whole)
    model = load_model(checkpoint) if model is None else model
    tensors = _weights(model, dtype)
    if config.get("slmbench_shared_embedding"):
        # transformers knows no tie between the two: both are there, so that any loader gets the right weights.
        embedding = tensors["model.encoder.embed_tokens.weight"]
        tensors["model.decoder.embed_tokens.weight"] = embedding.clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _weights(network: Any, dtype: Any) -> dict[str, Any]:
    """Return a network's tensors in that type, tied ones once."""
    tensors: dict[str, Any] = {}
    seen: set[int] = set()
    for name, tensor in network.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return tensors


def _link(source: Path, folder: Path) -> None:
    extras = [source / name for name in ("config.json", "generation_config.json", INDEX_NAME)]
    for path in [*weight_files(source), *(extra for extra in extras if extra.is_file())]:
        # Through the Hub cache's symbolic links to the file itself.
        real, target = path.resolve(), folder / path.name
        try:
            os.link(real, target)
        except OSError:
            shutil.copyfile(real, target)
