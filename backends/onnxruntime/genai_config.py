"""What onnxruntime-genai's config may say.

It can name libraries that the engine loads (``custom_ops_library``) and files that it writes (``enable_profiling``),
and an artifact may come from a stranger. So the engine sees a config only after this check: texts and lists are where
slmbench's exporter and the builder write them, and nowhere else; numbers do no harm.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError, one_line
from slmbench.models.artifact import Artifact

CONFIG_NAME = "genai_config.json"

#: The objects, and those of their members that may be texts; None: any of them, names of a graph's ports.
_TEXTS: dict[str, frozenset[str] | None] = {
    "": frozenset(),
    "model": frozenset({"type"}),
    "model.decoder": frozenset({"filename"}),
    "model.decoder.session_options": frozenset({"log_id"}),
    "model.decoder.inputs": None,
    "model.decoder.outputs": None,
    "model.decoder.sliding_window": frozenset(),
    "search": frozenset(),
}


def context_length(artifact: Artifact) -> int:
    """Return the positions that the artifact's config gives the graph, when all that it says is known.

    Raises:
        CannotRunError: there is no such config, or one that says something else than ours and the builder's do.
    """
    path = artifact.home / CONFIG_NAME
    try:
        config = _read(path)
        problem = _stranger(config, "") or _misfit(config, artifact)
        if problem is not None:
            raise ValueError(problem)
        length: int = config["model"]["context_length"]
    except (OSError, ValueError, RecursionError) as error:
        raise CannotRunError(f"{path}: not a config of onnxruntime-genai: {one_line(str(error))[:200]}") from error
    return length


def _read(path: Path) -> Any:
    # Of a key that is there twice the engine reads both, Python the last.
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is there twice")
        return found

    return json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=once)


def _stranger(value: Any, place: str) -> str | None:
    """Return what is in a place where neither our exporter nor the builder writes it."""
    if not isinstance(value, dict):
        return f"{place or 'it'} is no object"
    texts = _TEXTS[place]
    for name, one in value.items():
        here = f"{place}.{name}" if place else name
        if here in _TEXTS:
            if (problem := _stranger(one, here)) is not None:
                return problem
        elif (isinstance(one, str) and (texts is None or name in texts)) or (
            isinstance(one, list) and all(type(item) is int for item in one)
        ):
            continue
        elif not (one is None or isinstance(one, (bool, int, float))):
            return f"'{one_line(here)[:80]}' is not for an artifact to say"
    return None


def _misfit(config: Any, artifact: Artifact) -> str | None:
    """Return where the config describes another model than the manifest."""
    model = config.get("model", {})
    decoder, sizes = model.get("decoder", {}), artifact.manifest.checkpoint.geometry
    expected = {
        "filename": artifact.manifest.graphs.get("model"),
        "num_hidden_layers": sizes.decoder_layers,
        "num_key_value_heads": sizes.kv_heads,
        "head_size": sizes.head_dim,
    }
    for name, value in expected.items():
        if decoder.get(name) != value:
            return f"its {name} is {decoder.get(name)!r:.40}, not {value!r:.40}"
    length = model.get("context_length")
    return None if type(length) is int and 0 < length < 2**31 else f"its context_length is {length!r:.40}"
