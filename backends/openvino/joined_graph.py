"""optimum-intel's three graphs of a model for pictures as the two that our loop drives; joined in memory alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from slmbench.backend import Artifact, Role

from ..common.held_pictures import FEATURES

Reader = Callable[[], Any]


def readers(core: Any, artifact: Artifact) -> dict[Role, Reader]:
    """Return for each graph of a session what reads it; where embeddings are a graph of their own, they are joined."""
    graphs = artifact.manifest.graphs
    if "embedding" not in graphs:
        return {role: partial(core.read_model, artifact.graph(role)) for role in graphs}
    vision = artifact.manifest.checkpoint.vision
    token = vision.image_token_id if vision else -1
    joined = partial(_joined, core, artifact.graph("embedding"), artifact.graph("model"), token)
    return {"vision": partial(_rows, core, artifact.graph("vision")), "model": joined}


def _rows(core: Any, path: Path) -> Any:
    """Return the vision graph, its features ``[pictures, tokens, width]`` as rows ``[pictures * tokens, width]``."""
    import numpy as np
    from openvino import opset13 as ops

    model = core.read_model(path)
    result = model.output(0).get_node()
    features = result.input_value(0)
    width = features.get_partial_shape()[-1].get_length()
    rows = ops.reshape(features, np.array([-1, width], np.int64), special_zero=False)
    result.input(0).replace_source_output(rows.output(0))
    model.validate_nodes_and_infer_types()
    model.output(0).get_tensor().set_names({FEATURES})
    return model


def _joined(core: Any, embedding: Path, text: Path, token: int) -> Any:
    """Return the text graph with ids and features for inputs: row i of the features at the i-th place of ``token``."""
    import numpy as np
    from openvino import opset13 as ops

    words, model = core.read_model(embedding), core.read_model(text)
    ids = words.input(0).get_node()
    ids.output(0).get_tensor().set_names({"input_ids"})
    embedded = words.output(0).get_node().input_value(0)
    width = embedded.get_partial_shape()[-1].get_length()
    features = ops.parameter([-1, width], np.float32, name=FEATURES)
    features.output(0).get_tensor().set_names({FEATURES})
    here = ops.equal(ids, ops.constant(token, ids.get_element_type()))
    row = ops.maximum(ops.subtract(ops.cum_sum(ops.convert(here, "i64"), 1), np.int64(1)), np.int64(0))
    placed = ops.gather(features, row, np.int64(0))
    chosen = ops.select(ops.unsqueeze(here, np.int64(-1)), placed, embedded)
    model.add_parameters([ids, features])
    _replace(model, "inputs_embeds", chosen)
    if any("token_type_ids" in port.get_names() for port in model.inputs):
        # 1 where a picture is: its tokens may look at each other.
        _replace(model, "token_type_ids", ops.convert(here, "i64"))
    model.validate_nodes_and_infer_types()
    return model


def _replace(model: Any, name: str, made: Any) -> None:
    """Compute an input of a graph inside it."""
    parameter = model.input(name).get_node()
    parameter.output(0).replace(made.output(0))
    model.remove_parameter(parameter)
