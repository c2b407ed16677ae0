"""The static layout's route: a checkpoint to graphs of fixed shapes, as ONNX, OpenVINO IR or for Qualcomm's HTP.

The graphs come from :mod:`slmbench.export.static.graphs`, are traced to ONNX once, and become IR from that very
ONNX: one source for every engine. An encoder-decoder gives ``encoder`` and ``decoder``, a decoder-only ``model``
(the prompt) and ``decode`` (one token).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slmbench.errors import BadInputError, CannotRunError
from slmbench.export.routes import Exported, Progress
from slmbench.export.static.graphs import TracedGraph, static_graphs
from slmbench.models import static_layout as layout
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint

#: Newest opset whose operators OpenVINO, ONNX Runtime's CPU and QNN providers all take undivided.
OPSET = 17
_BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write the static graphs of ``checkpoint`` into ``folder``.

    Raises:
        BadInputError: the bounds are missing or beyond the model's positions.
        CannotRunError: the precision or the architecture has no static graph; the text says what has.
    """
    input_tokens, output_tokens = check(checkpoint, spec)
    from slmbench.export.torch_model import load_model

    progress("loading the network")
    network = load_model(checkpoint)
    files: dict[Role, Path] = {}
    hidden = layout.mask_value(spec.target, spec.weight_precision)
    with static_graphs(network, checkpoint, input_tokens, output_tokens, hidden) as graphs:
        for graph in graphs:
            progress(f"tracing the {graph.role} graph")
            files[graph.role] = trace(graph, folder)
    del network
    step_role: Role = "decoder" if checkpoint.family == "encoder-decoder" else "decode"
    weight_bytes, products = _step_weights(files[step_role])
    if spec.format == "openvino":
        files = _to_openvino(files, spec, progress)
    elif spec.target is not None:
        from slmbench.export.static import qnn

        files = qnn.finish(checkpoint, spec, files, progress)
    return Exported(
        graphs={role: path.relative_to(folder).as_posix() for role, path in files.items()},
        attention="eager, static",
        cross_kv_once=_cross_kv_once(checkpoint, products),
        decode_weight_bytes=weight_bytes * _BITS[spec.weight_precision] // 32,
    )


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why there is no static artifact of this kind (one line), or None when there is.

    Raises:
        BadInputError: bounds or a target that no machine could export to.
    """
    try:
        check(checkpoint, spec)
    except CannotRunError as error:
        return str(error)
    return None


def check(checkpoint: Checkpoint, spec: ArtifactSpec) -> tuple[int, int]:
    """Return N and K of the spec.

    Raises:
        BadInputError: a bound is missing, or beyond the model's positions.
        CannotRunError: there is no static graph of that format and precision.
    """
    if not spec.input_tokens or not spec.output_tokens:
        raise BadInputError("the static layout needs its bounds: give --input-tokens and --output-tokens")
    geometry = checkpoint.geometry
    given, asked = spec.input_tokens, spec.output_tokens
    total = asked if checkpoint.family == "encoder-decoder" else given + asked
    for what, count, limit in (
        ("input tokens", given, geometry.max_input_tokens),
        ("tokens in the decoder", total, geometry.max_total_tokens),
    ):
        if limit is not None and count > limit:
            raise BadInputError(f"{checkpoint.name}: {count} {what} asked, the model has {limit} positions")
    if geometry.encoder_sizes is not None:
        raise CannotRunError("the static layout takes encoder-decoders whose two sides have the same sizes")
    if spec.format == "torch":
        raise CannotRunError("torch has no static layout: ask for onnx or openvino")
    if spec.target is not None:
        from slmbench.export.static import qnn

        qnn.check(spec)
    elif spec.format == "onnx" and spec.weight_precision != "fp32":
        raise CannotRunError(
            f"static ONNX graphs in {spec.weight_precision} are made for an NPU only: "
            "`slmbench export --target qnn` (fp16, int8), or fp32 without a target"
        )
    elif spec.format == "openvino" and spec.weight_precision == "bf16":
        raise CannotRunError("OpenVINO IR has no bf16 weights for NPUs: ask for fp32, fp16, int8 or int4")
    return given, asked


def trace(graph: TracedGraph, folder: Path) -> Path:
    """Trace one graph to ``folder/ROLE.onnx``, weights in ``ROLE.onnx.data``, and return the path.

    Constants are not folded: folding would store every weight matrix transposed, and a tied embedding twice.
    """
    import tempfile

    import onnx
    import torch

    path = folder / f"{graph.role}.onnx"
    with tempfile.TemporaryDirectory(dir=folder) as work, _quiet_tracer():
        raw = Path(work) / "raw.onnx"
        torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            str(raw),
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            opset_version=OPSET,
            dynamo=False,
            do_constant_folding=False,
        )
        model = onnx.load(str(raw))
    # The tracer leaves the folder's name and time out; what remains differs only by the producer's version.
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    return path


@contextmanager
def _quiet_tracer() -> Iterator[None]:
    """Silence what the tracer says about shapes becoming constants: here that is the purpose."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _to_openvino(files: dict[Role, Path], spec: ArtifactSpec, progress: Progress) -> dict[Role, Path]:
    """Turn each ONNX graph into IR of the asked weight precision, and remove the ONNX."""
    import openvino as ov

    written: dict[Role, Path] = {}
    for role, path in files.items():
        progress(f"converting the {role} graph")
        model = ov.Core().read_model(path)
        for port in (*model.inputs, *model.outputs):
            port.get_tensor().set_names({layout.port_name(port.get_names())})
        if spec.weight_precision in ("int8", "int4"):
            model = _compressed(model, spec)
        written[role] = path.with_suffix(".xml")
        ov.save_model(model, written[role], compress_to_fp16=spec.weight_precision == "fp16")
        del model
        path.unlink()
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    return written


def _compressed(model: Any, spec: ArtifactSpec) -> Any:
    import nncf

    if spec.weight_precision == "int8":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    # One scale a column: NPUs take 4-bit weights in whole channels (group size -1) without unpacking them first.
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=-1, ratio=1.0)


def _step_weights(path: Path) -> tuple[int, int]:
    """Return the bytes (in fp32) of the weights that a decoder step reads, and its products with weights.

    A tensor that is only looked up (an embedding, a table of positions) is read by the row and counts for nothing.
    """
    import onnx
    from onnx.numpy_helper import to_array

    model = onnx.load(str(path))
    sizes = {weight.name: int(to_array(weight).nbytes) for weight in model.graph.initializer}
    origin = {name: name for name in sizes}
    looked_up: set[str] = set()
    read: set[str] = set()
    products = 0
    for node in model.graph.node:
        if node.op_type in ("Transpose", "Identity", "Cast") and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
            continue
        used = [origin[name] for name in node.input if name in origin]
        if node.op_type == "Gather":
            looked_up.update(used[:1])
            continue
        read.update(used)
        products += node.op_type in ("MatMul", "Gemm") and bool(used)
    return sum(sizes[name] for name in read), products


def _cross_kv_once(checkpoint: Checkpoint, products: int) -> bool | None:
    """Return whether the step's products with weights are exactly those of a step that is given its cross K/V.

    A layer has q, k, v and o of itself, q and o towards the encoder, and its feed-forward block; the head is one
    more. Computing cross K/V would add two a layer.
    """
    if checkpoint.family == "decoder-only":
        return None
    geometry = checkpoint.geometry
    return products == geometry.decoder_layers * (6 + geometry.ffn_matrices) + 1
