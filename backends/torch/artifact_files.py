"""What of an artifact transformers would follow, looked at before it does: shards elsewhere, other models, sizes."""

from __future__ import annotations

import json

from slmbench.errors import BadInputError, one_line
from slmbench.models.artifact import Artifact
from slmbench.models.geometry import read_config
from slmbench.models.safetensors import read_header, weight_files


def check_files(artifact: Artifact) -> None:
    """Compare config.json and the weights next to it with the manifest's checkpoint.

    Raises:
        BadInputError: a config of another model, an adapter (which stands for a model elsewhere), an index that
            names files elsewhere, or safetensors that are not whole.
    """
    path, manifest = artifact.graph("model"), artifact.manifest
    for adapter in artifact.folder.glob("adapter_*"):
        raise BadInputError(f"{adapter}: an adapter of a model elsewhere; an artifact holds its own weights")
    try:
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not JSON: {one_line(str(error))[:120]}") from error
    found = read_config(config, str(path), trust_remote_code=manifest.checkpoint.trust_remote_code).geometry
    expected = manifest.checkpoint.geometry
    # Seen from the weights, not from the config.
    reported = {"tied_embeddings", "shared_embedding", "ffn_matrices", "cost_unknown"}
    for name in type(expected).model_fields.keys() - reported:
        value = getattr(expected, name)
        if getattr(found, name) != value:
            raise BadInputError(f"{path}: its {name} is {getattr(found, name)!r:.60}, the manifest's {value!r:.60}")
    for file in weight_files(artifact.folder):
        read_header(file)
