"""slmbench's own OpenVINO route: dynamic layout, stateful decoders, fused attention.

The wrapper is converted directly (OpenVINO traces it), self-attention K/V become states of the graph, and their
first value is an empty tensor. In that form the CPU and GPU plugins fuse attention and K/V update into one operator.
Names are those of optimum-intel's graphs, so that openvino-genai runs ours too.
"""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError, one_line
from slmbench.export.openvino.graph import cross_kv_once, make_stateful, write_compressed
from slmbench.export.openvino.merge_projections import merge_projections
from slmbench.export.routes import Exported, Progress
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint, Geometry
from slmbench.system.extras import needed
from slmbench.system.telemetry import silence_telemetry

ARCHITECTURES = frozenset(
    {"t5", "bart", "marian", "t5gemma", "llama", "mistral", "qwen3", "phi3", "gemma3_text", "smollm3"}
)
ATTENTION = "SDPA, stateful"
#: Soft-capped scores (T5Gemma) fit no fused operator.
ATTENTION_CAPPED = "soft-capped, stateful"


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None."""
    if checkpoint.architecture not in ARCHITECTURES:
        return (
            f"slmbench's OpenVINO exporter does not know the architecture '{checkpoint.architecture}'; "
            f"it knows {', '.join(sorted(ARCHITECTURES))}"
        )
    return None


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``openvino_model.xml`` (decoder-only), or an encoder and a decoder, into ``folder``.

    Raises:
        CannotRunError: openvino, nncf or torch is missing, or the conversion fails.
    """
    silence_telemetry()
    try:
        import openvino  # noqa: F401

        from slmbench.export import torch_graphs
        from slmbench.export.torch_model import load_model
    except ImportError as error:
        raise CannotRunError(needed(error, "to export to OpenVINO")) from error
    progress("loading the weights")
    network = torch_graphs.prepare(load_model(checkpoint))
    attention = ATTENTION_CAPPED if torch_graphs.is_capped(network) else ATTENTION
    if checkpoint.family == "decoder-only":
        progress("converting")
        model = _decoder_only(torch_graphs.DecoderOnly(network), checkpoint.geometry)
        del network
        bytes_read = _save(model, spec, folder / "openvino_model.xml", progress)
        return Exported({"model": "openvino_model.xml"}, attention, None, bytes_read)
    progress("converting the encoder")
    encoder = _encoder(torch_graphs.Encoder(network), checkpoint.geometry)
    _save(encoder, spec, folder / "openvino_encoder_model.xml", progress)
    del encoder
    gc.collect()
    progress("converting the decoder")
    decoder = _decoder(torch_graphs.DecoderStep(network), checkpoint.geometry)
    del network
    once = cross_kv_once(decoder)
    bytes_read = _save(decoder, spec, folder / "openvino_decoder_model.xml", progress)
    graphs: dict[Role, str] = {"encoder": "openvino_encoder_model.xml", "decoder": "openvino_decoder_model.xml"}
    return Exported(graphs, attention, once, bytes_read)


def _save(model: Any, spec: ArtifactSpec, path: Path, progress: Progress) -> int:
    progress(f"writing {path.name} in {spec.weight_precision}")
    merge_projections(model)
    return write_compressed(model, spec.weight_precision, path)


def _convert(module: Any, example: tuple[Any, ...], inputs: list[str], outputs: list[str]) -> Any:
    """Trace the module and return the OpenVINO model with named ports.

    Raises:
        CannotRunError: OpenVINO's frontend does not take the network.
    """
    import openvino as ov
    import torch

    try:
        with torch.no_grad(), warnings.catch_warnings():
            # The tracer warns of every Python branch on a shape; the golden record is what proves the graph.
            warnings.simplefilter("ignore")
            model = ov.convert_model(module.eval(), example_input=example)
    except Exception as error:  # the frontend raises whatever the traced network raises
        first = (str(error).strip().splitlines() or [repr(error)])[0]
        raise CannotRunError(f"OpenVINO cannot convert the network: {one_line(first)[:300]}") from error
    for ports, names in ((model.inputs, inputs), (model.outputs, outputs)):
        if len(ports) != len(names):
            raise CannotRunError(f"the converted graph has {len(ports)} ports where {len(names)} are expected")
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    return model


def _fix_kv_shapes(model: Any, geometry: Geometry) -> Any:
    """Tell the graph what never varies of its K/V: heads and their size. Engines fuse attention only then."""
    for port in model.inputs:
        if port.get_partial_shape().rank.get_length() == 4:
            port.get_node().set_partial_shape(_kv_shape(geometry))
    model.validate_nodes_and_infer_types()
    return model


def _kv_shape(geometry: Geometry) -> Any:
    import openvino as ov

    return ov.PartialShape([-1, geometry.kv_heads, -1, geometry.head_dim])


def _past_names(geometry: Geometry, prefix: str) -> list[str]:
    return [f"{prefix}.{i}.{part}" for i in range(geometry.decoder_layers) for part in ("key", "value")]


def _kv_example(geometry: Geometry, batch: int, length: int) -> list[Any]:
    import torch

    shape = (batch, geometry.kv_heads, length, geometry.head_dim)
    return [torch.zeros(shape) for _ in range(2 * geometry.decoder_layers)]


def _decoder_only(module: Any, geometry: Geometry) -> Any:
    import torch

    # Batch 2, several positions and a past: no axis of the example is 1 or equal to another by chance.
    batch, length, past = 2, 5, 3
    example = (
        torch.ones(batch, length, dtype=torch.long),
        torch.ones(batch, past + length, dtype=torch.long),
        (torch.arange(length) + past).expand(batch, -1),
        torch.arange(batch, dtype=torch.int32),
        *_kv_example(geometry, batch, past),
    )
    names = ["input_ids", "attention_mask", "position_ids", "beam_idx", *_past_names(geometry, "past_key_values")]
    model = _convert(module, example, names, ["logits", *_past_names(geometry, "present")])
    return make_stateful(_fix_kv_shapes(model, geometry), geometry.kv_heads, geometry.head_dim)


def _encoder(module: Any, geometry: Geometry) -> Any:
    import torch

    ids = torch.ones(2, 5, dtype=torch.long)
    return _convert(module, (ids, ids), ["input_ids", "attention_mask"], _past_names(geometry, "cross"))


def _decoder(module: Any, geometry: Geometry) -> Any:
    import torch

    batch, length, past, encoded = 2, 4, 3, 5
    example = (
        torch.ones(batch, length, dtype=torch.long),
        torch.ones(batch, encoded, dtype=torch.long),
        torch.arange(batch, dtype=torch.int32),
        *_kv_example(geometry, batch, past),
        *_kv_example(geometry, batch, encoded),
    )
    names = ["input_ids", "encoder_attention_mask", "beam_idx"]
    names += [*_past_names(geometry, "past_key_values"), *_past_names(geometry, "cross")]
    model = _convert(module, example, names, ["logits", *_past_names(geometry, "present")])
    return make_stateful(_fix_kv_shapes(model, geometry), geometry.kv_heads, geometry.head_dim)
