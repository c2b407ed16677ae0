"""slmbench's own ONNX route: dynamic layout for ONNX Runtime, both families, built block by block."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError
from slmbench.export.routes import Exported, Progress
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.cost_model import decode_weights
from slmbench.system.extras import needed
from slmbench.system.telemetry import silence_telemetry

ARCHITECTURES = frozenset(
    {"t5", "bart", "marian", "t5gemma", "llama", "mistral", "qwen3", "phi3", "gemma3_text", "smollm3"}
)
ATTENTION = "GroupQueryAttention"
#: Angles are stored for so many positions at most: a table for 131,072 would outweigh a small model.
MAX_POSITIONS = 32768
#: Bits a weight, scales of blocks included; embedding and LM head as everything else.
_BITS = {"fp32": 32.0, "int8": 8.5, "int4": 5.0}
_CUDA_BITS = {"fp32": 32.0, "fp16": 16.0, "bf16": 16.0, "int4": 4.5}
#: The target of graphs that are wholly for the CUDA provider (``onnx_cuda``).
CUDA = "cuda"


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None."""
    if checkpoint.architecture not in ARCHITECTURES:
        return (
            f"slmbench's ONNX exporter does not know the architecture '{checkpoint.architecture}'; "
            f"it knows {', '.join(sorted(ARCHITECTURES))}"
        )
    if checkpoint.geometry.encoder_sizes is not None:
        return "slmbench's ONNX exporter takes encoder-decoders whose two sides have the same sizes"
    if spec.target == CUDA:
        known = ", ".join(_CUDA_BITS)
        return None if spec.weight_precision in _CUDA_BITS else f"graphs for CUDA have weights in {known}"
    if spec.target is not None:
        return f"graphs of dynamic shape are made for no target or for {CUDA}, not for {spec.target}"
    if spec.weight_precision not in _BITS:
        return (
            f"ONNX Runtime on CPUs has no {spec.weight_precision} kernels for these graphs; "
            f"weights can be {', '.join(_BITS)}; "
            f"`slmbench export --target {CUDA}` writes {', '.join(_CUDA_BITS)} for a GPU"
        )
    return None


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``model.onnx`` (decoder-only), or ``encoder.onnx`` and ``decoder.onnx``, with their weights next to them.

    Raises:
        CannotRunError: torch or onnx-ir is missing, or a variant of the architecture has no blocks.
    """
    silence_telemetry()
    try:
        import onnx_ir
    except ImportError as error:
        raise CannotRunError(needed(error, "to export to ONNX")) from error
    from slmbench.export.onnx.architectures import describe
    from slmbench.export.own_network import own_network

    progress("loading the weights")
    positions = checkpoint.geometry.max_total_tokens or checkpoint.geometry.max_input_tokens or MAX_POSITIONS
    network = describe(own_network(checkpoint), checkpoint.architecture, min(positions, MAX_POSITIONS))
    graphs = _graphs(checkpoint, spec, network)
    if "model" in graphs and spec.target is None:
        config = genai_config(checkpoint, network.max_positions or MAX_POSITIONS)
        (folder / "genai_config.json").write_text(config, encoding="utf-8")
    once = not recomputed_products(graphs["decoder"]) if "decoder" in graphs else None
    for role, graph in graphs.items():
        progress(f"writing {role}.onnx in {spec.weight_precision}")
        onnx_ir.save(graph, folder / f"{role}.onnx", external_data=f"{role}.onnx.data")
    del graphs, network
    gc.collect()
    bits = (_CUDA_BITS if spec.target == CUDA else _BITS)[spec.weight_precision]
    bytes_read = round(decode_weights(checkpoint.geometry) * bits / 8)
    roles: dict[Role, str] = {"model": "model.onnx"}
    if checkpoint.family == "encoder-decoder":
        roles = {"encoder": "encoder.onnx", "decoder": "decoder.onnx"}
    return Exported(roles, ATTENTION, once, bytes_read)


def _graphs(checkpoint: Checkpoint, spec: ArtifactSpec, network: Any) -> dict[Role, Any]:
    """Return the graphs of a described network by role."""
    from slmbench.export.onnx import cuda, decoder_only, encoder_decoder

    precision, ends = spec.weight_precision, checkpoint.eos_token_ids
    if spec.target == CUDA:
        if network.encoder is None:
            return {"model": cuda.decoder_only(network, precision, ends)}
        steps = cuda.step_decoder(network, precision, ends)
        return {"encoder": cuda.encoder(network, precision), "decoder": steps}
    bits = {"fp32": None, "int8": 8, "int4": 4}[precision]
    if network.encoder is None:
        return {"model": decoder_only.decoder_only(network, bits)}
    return {"encoder": encoder_decoder.encoder(network, bits), "decoder": encoder_decoder.decoder(network, bits)}


def genai_config(checkpoint: Checkpoint, positions: int) -> str:
    """Return what onnxruntime-genai must know about a graph besides the graph itself."""
    sizes = checkpoint.geometry
    parts = {"key": "past_key_values.%d.key", "value": "past_key_values.%d.value"}
    ends: dict[str, object] = {"eos_token_id": list(checkpoint.eos_token_ids)} if checkpoint.eos_token_ids else {}
    model: dict[str, object] = {
        # It chooses the generic decoder loop for every architecture.
        "type": "llama",
        "context_length": positions,
        "vocab_size": sizes.vocab_size,
        "pad_token_id": checkpoint.pad_token_id,
        **ends,
        "decoder": {
            "filename": "model.onnx",
            "session_options": {"provider_options": []},
            "hidden_size": sizes.width,
            "head_size": sizes.head_dim,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "num_hidden_layers": sizes.decoder_layers,
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                **{f"past_{part}_names": name for part, name in parts.items()},
            },
            "outputs": {
                "logits": "logits",
                **{f"present_{part}_names": f"present.%d.{part}" for part in parts},
            },
        },
    }
    search = {"max_length": positions, "do_sample": False, "num_beams": 1, "past_present_share_buffer": True}
    return json.dumps({"model": model, "search": search}, indent=1)


def recomputed_products(graph: Any) -> list[str]:
    """Return the names of products over encoder states that every decoder step computes; none is the proof.

    What depends on the encoder's output (``cross.*``, ``encoder_*``) and not on the decoder's own tokens could be
    computed once a prompt; a matrix product with weights among it is computed again at each step.
    """
    from_encoder: set[str] = set()
    from_tokens: set[str] = set()
    products = []
    for value in graph.graph.inputs:
        encoded = value.name.startswith(("encoder_", "cross."))
        (from_encoder if encoded else from_tokens).add(value.name)
    for node in graph.graph:
        sources = {value.name for value in node.inputs if value is not None}
        made = {value.name for value in node.outputs}
        if sources & from_tokens:
            from_tokens |= made
        elif sources & from_encoder:
            from_encoder |= made
            if node.op_type in ("MatMul", "Gemm", "MatMulNBits", "FusedMatMul"):
                products.append(node.name or node.op_type)
    return products
