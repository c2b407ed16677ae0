"""The generic ONNX route: the network traced for ONNX Runtime's CPU provider, with its fused attention operators."""

from __future__ import annotations

import gc
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError
from slmbench.export.onnx.route import MAX_POSITIONS, genai_config, recomputed_products
from slmbench.export.routes import Exported, Progress
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import needed
from slmbench.system.telemetry import silence_telemetry

ATTENTION = "GroupQueryAttention"
#: Where the network's attention does not go through transformers' attention function.
ATTENTION_WRITTEN_OUT = "written out"
#: Bits of the weights in products; None where they stay in fp32.
_BITS = {"fp32": None, "int8": 8, "int4": 4}
_OPSET = 20


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None."""
    if spec.target is not None:
        return f"the generic exporter makes graphs for no target, not for {spec.target}"
    if spec.weight_precision not in _BITS:
        return f"the generic ONNX exporter writes {', '.join(_BITS)}, not {spec.weight_precision}"
    return None


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``model.onnx`` (decoder-only), or ``encoder.onnx`` and ``decoder.onnx``, with their weights next to them.

    Raises:
        CannotRunError: a library is missing, or the network cannot be traced; the text says why.
    """
    silence_telemetry()
    try:
        import onnx  # noqa: F401 (is it installed?)
        import onnx_ir

        from slmbench.export.generic.onnx_attention import OnnxEngine
        from slmbench.export.generic.onnx_fusions import fuse
        from slmbench.export.generic.onnx_weights import tidied
        from slmbench.export.generic.traced_parts import load_parts
        from slmbench.export.generic.wrapper import kv_sizes, longest_that_traces
    except ImportError as error:
        raise CannotRunError(needed(error, "to export to ONNX")) from error
    progress("loading the weights")
    parts = load_parts(checkpoint, spec)
    sizes = kv_sizes(parts.text, checkpoint.family == "encoder-decoder")
    if sizes.is_recurrent:
        raise CannotRunError("layers that keep another state than K/V have no place in ONNX Runtime's loop here")
    engine = OnnxEngine()
    roles = parts.roles(sizes)
    parts.install(engine)
    longest = checkpoint.geometry.max_total_tokens or checkpoint.geometry.max_input_tokens or MAX_POSITIONS
    positions = min(longest, MAX_POSITIONS)
    # onnxruntime-genai has no place for features.
    if roles == ("model",):
        (folder / "genai_config.json").write_text(genai_config(checkpoint, positions), encoding="utf-8")
    once, bytes_read, attention = None, 0, ATTENTION
    for role in roles:
        progress("tracing the network" if role == "model" else f"tracing the {role}")
        # Next to the artifact: the same disk, whose room was looked at before.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-traced-") as work:
            path = Path(work) / "traced.onnx"
            longest_that_traces(partial(_trace, path, role, parts, engine, sizes), role)
            model = onnx_ir.load(path)
            if fuse(model, positions):
                model.metadata_props["slmbench.max_positions"] = str(positions)
            bytes_read = tidied(model, _BITS[spec.weight_precision])
            if role == "decoder":
                once = not recomputed_products(model)
            if role in ("model", "decoder") and all(node.op_type != ATTENTION for node in model.graph):
                attention = ATTENTION_WRITTEN_OUT
            progress(f"writing {role}.onnx in {spec.weight_precision}")
            onnx_ir.save(model, folder / f"{role}.onnx", external_data=f"{role}.onnx.data")
            del model
        gc.collect()
    return Exported({role: f"{role}.onnx" for role in roles}, attention, once, bytes_read)


def _trace(path: Path, role: Role, parts: Any, engine: Any, sizes: Any, length: int) -> None:
    """Write the module's graph.

    The exporter over ``torch.jit.trace`` is asked, not the one over ``torch.export``: it takes 1 to 3 s where that
    takes 10 to 45, and it sees the network as OpenVINO does, without refusing what Python does with sizes.
    """
    import torch

    from slmbench.export.generic.onnx_graphs import free_axes, named_axes, traced
    from slmbench.export.generic.wrapper import failure_text

    if role == "vision":
        engine.reset()
        graph, axes = parts.vision_graph(), named_axes(parts.sizes())
    else:
        graph = parts.with_features(traced(role, parts.text, engine, sizes, length), role)
        axes = free_axes(graph)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # The tracer warns of every Python branch on a shape; the golden record is what proves the graph.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.module.eval(),
                graph.example,
                str(path),
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_axes=axes,
                opset_version=_OPSET,
                do_constant_folding=False,
                custom_opsets={"com.microsoft": 1},
                dynamo=False,
            )
    except Exception as error:  # the exporter raises whatever the traced network raises
        raise CannotRunError(f"torch cannot export the network to ONNX: {failure_text(error)}") from error
