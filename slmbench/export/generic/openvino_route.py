"""The generic OpenVINO route: the network traced, its self-attention K/V as states, attention fused by the engine."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError
from slmbench.export.openvino.graph import cross_kv_once, make_stateful, write_compressed
from slmbench.export.openvino.merge_projections import merge_projections
from slmbench.export.routes import Exported, Progress
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import needed
from slmbench.system.telemetry import silence_telemetry

ATTENTION = "SDPA, stateful"
#: Some layers keep another state than K/V; the engine's session looks for the word.
ATTENTION_RECURRENT = "SDPA, stateful, recurrent"
#: Soft-capped scores fit no fused operator.
ATTENTION_CAPPED = "soft-capped, stateful"
_FILES: dict[Role, str] = {
    "vision": "openvino_vision_model.xml",
    "model": "openvino_model.xml",
    "encoder": "openvino_encoder_model.xml",
    "decoder": "openvino_decoder_model.xml",
}


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return None: whether a network can be traced is seen when it is."""
    return None


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``openvino_model.xml`` (decoder-only), or an encoder and a decoder, into ``folder``.

    Raises:
        CannotRunError: openvino, nncf or torch is missing, or the network cannot be traced; the text says why.
    """
    silence_telemetry()
    try:
        import openvino  # noqa: F401 (is it installed?)

        from slmbench.export.generic.attention import Engine
        from slmbench.export.generic.traced_parts import load_parts
        from slmbench.export.generic.wrapper import kv_sizes, longest_that_traces
    except ImportError as error:
        raise CannotRunError(needed(error, "to export to OpenVINO")) from error
    progress("loading the weights")
    parts = load_parts(checkpoint, spec)
    sizes = kv_sizes(parts.text, checkpoint.family == "encoder-decoder")
    engine = Engine()
    roles = parts.roles(sizes)
    parts.install(engine)

    def make(role: Role) -> Any:
        progress("tracing the network" if role == "model" else f"tracing the {role}")
        model = longest_that_traces(partial(_converted, role, parts, engine, sizes), role)
        fix_picture_shapes(model, parts.sizes())
        return model if role in ("encoder", "vision") else fix_kv_shapes(model, sizes)

    exported = write_graphs(roles, make, checkpoint, spec, folder, progress)
    attention = ATTENTION_CAPPED if engine.capped else ATTENTION
    return replace(exported, attention=ATTENTION_RECURRENT if sizes.is_recurrent else attention)


def write_graphs(
    roles: Sequence[Role],
    make: Callable[[Role], Any],
    checkpoint: Checkpoint,
    spec: ArtifactSpec,
    folder: Path,
    progress: Progress,
) -> Exported:
    """Write the graph that ``make`` returns for each role, K/V of decoders as states, weights as the spec asks."""
    once, bytes_read = None, 0
    recipe: dict[str, str] = {}
    for role in roles:
        model = make(role)
        if role in ("model", "decoder"):
            make_stateful(model)
        if role == "decoder":
            once = cross_kv_once(model)
        progress(f"writing {_FILES[role]} in {spec.weight_precision}")
        merge_projections(model)
        # Of an encoder-decoder the decoder comes last: it is what a step reads.
        bytes_read, recipe = write_compressed(model, checkpoint, spec, folder / _FILES[role], progress)
        del model
        gc.collect()
    return Exported({role: _FILES[role] for role in roles}, ATTENTION, once, bytes_read, recipe)


def _converted(role: Role, parts: Any, engine: Any, sizes: Any, length: int) -> Any:
    from slmbench.export.generic.openvino_graphs import traced

    if role == "vision":
        return convert(*parts.vision_graph())
    return convert(*parts.with_features(traced(role, parts.text, engine, sizes, length), role))


def convert(module: Any, example: tuple[Any, ...], inputs: list[str], outputs: list[str]) -> Any:
    """Trace the module and return the OpenVINO model with named ports.

    Raises:
        CannotRunError: OpenVINO's frontend does not take the network.
    """
    import openvino as ov
    import torch

    from slmbench.export.generic.wrapper import failure_text

    try:
        with torch.no_grad(), warnings.catch_warnings():
            # The tracer warns of every Python branch on a shape; the golden record is what proves the graph.
            warnings.simplefilter("ignore")
            model = ov.convert_model(module.eval(), example_input=example)
    except Exception as error:  # the frontend raises whatever the traced network raises
        raise CannotRunError(f"OpenVINO cannot convert the network: {failure_text(error)}") from error
    for ports, names in ((model.inputs, inputs), (model.outputs, outputs)):
        if len(ports) != len(names):
            raise CannotRunError(f"the converted graph has {len(ports)} ports where {len(names)} are expected")
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    return model


def fix_kv_shapes(model: Any, sizes: Any) -> Any:
    """Tell the graph what never varies of its K/V: heads and their size. Engines fuse attention only then."""
    import openvino as ov

    for prefix, layers in (("past_key_values", sizes.own), ("cross", sizes.cross)):
        for index, parts in enumerate(layers):
            for name, axes in parts:
                shape = ov.PartialShape([-1, *(-1 if size is None else size for size in axes)])
                model.input(f"{prefix}.{index}.{name}").get_node().set_partial_shape(shape)
    model.validate_nodes_and_infer_types()
    return model


def fix_picture_shapes(model: Any, sizes: Mapping[str, Sequence[int | None]]) -> None:
    """Tell a graph what never varies of the pictures and features that it takes."""
    import openvino as ov

    for port in model.inputs:
        for name in port.get_names() & sizes.keys():
            shape = ov.PartialShape([-1 if size is None else size for size in sizes[name]])
            port.get_node().set_partial_shape(shape)
    model.validate_nodes_and_infer_types()
