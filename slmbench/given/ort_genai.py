"""Folders of onnxruntime-genai: genai_config.json, one decoder-only graph, tokenizer files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slmbench.errors import BadInputError
from slmbench.given.description import Description, files_of, short
from slmbench.given.hf_files import tokenizer_of
from slmbench.given.onnx_file import OnnxHeader, cuts_before_head, read_onnx
from slmbench.given.onnx_precision import compute_of, decode_bytes, precision_of
from slmbench.models.artifact import inside
from slmbench.models.geometry import Geometry
from slmbench.models.given_record import ALL_LOGITS, NO_SHARED_BUFFER
from slmbench.system.files import json_object

CONFIG = "genai_config.json"
_WITH_PICTURES = (
    "with pictures slmbench measures the checkpoint that it was made of: "
    "`slmbench run --backend onnxruntime --images 1`"
)
_ENDINGS = (".onnx", ".data", ".json", ".txt", ".jinja", ".model", ".onnx_data")


def is_folder(folder: Path) -> bool:
    """Tell whether the folder is one of onnxruntime-genai's."""
    return (folder / CONFIG).is_file()


def describe(folder: Path) -> Description:
    """Return what the folder is.

    Raises:
        BadInputError: its config names libraries or several graphs, the graph is damaged, or the two do not fit.
    """
    path = folder / CONFIG
    config = json_object(path)
    model = _object(config, "model", path)
    decoder = _object(model, "decoder", path)
    refuse_libraries(config, path)
    if others := sorted(set(model) & {"encoder", "vision", "speech", "embedding", "encoder_decoder_init"}):
        raise BadInputError(
            f"{path}: a model of several graphs ({', '.join(others)}), of which slmbench runs one decoder graph alone; "
            f"{_WITH_PICTURES}"
        )
    name = decoder.get("filename")
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise BadInputError(f"{path}: model.decoder.filename is {short(repr(name))[:60]}, no file of this folder")
    header = read_onnx(inside(folder / name, folder))
    if "inputs_embeds" in header.inputs:
        raise BadInputError(
            f"{folder / name}: takes embeddings (inputs_embeds), not tokens: one part of a model; {_WITH_PICTURES}"
        )
    files = {one for one in files_of(folder) if one.endswith(_ENDINGS)} | {name} | header.external
    types = header.by_type()
    parameters = sum(count for count, _ in types.values())
    geometry = _geometry(model, decoder, header, parameters, path)
    fused = bool(header.operators["GroupQueryAttention"])
    flags = ([] if cuts_before_head(header) else [ALL_LOGITS]) + ([] if fused else [NO_SHARED_BUFFER])
    past = next((kind for port, (kind, _) in header.inputs.items() if port.startswith("past_key")), "float")
    pad = model.get("pad_token_id")
    return Description(
        layout="ort_genai",
        family="decoder-only",
        architecture=short(model.get("type", "?")),
        geometry=geometry,
        precision=precision_of(types),
        compute=compute_of(header, past),
        weight_types=types,
        decode_weight_bytes=decode_bytes(header, geometry.vocab_size),
        graphs={"model": name},
        files=sorted(files),
        parameters=parameters,
        producer={short(key): short(value) for key, value in header.notes.items()},
        context_length=geometry.max_total_tokens,
        tokenizer=tokenizer_of(folder, geometry.vocab_size),
        attention="GroupQueryAttention" if fused else "unfused",
        flags=flags,
        inputs=sorted(header.inputs),
        eos_token_ids=_tokens(model.get("eos_token_id")),
        pad_token_id=pad if type(pad) is int and pad >= 0 else 0,
    )


def _object(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    found = config.get(name)
    if not isinstance(found, dict):
        raise BadInputError(f"{path}: has no '{name}'")
    return found


def refuse_libraries(value: Any, path: Path, at: str = "") -> None:
    """Refuse a config that names a library to load or a file to write.

    Raises:
        BadInputError: it does.
    """
    for name, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        here = f"{at}.{name}" if at else str(name)
        if isinstance(name, str) and ("library" in name or name.startswith("enable_prof")) and one:
            raise BadInputError(f"{path}: {short(here)} is {short(one)}: slmbench loads no library that a file names")
        if at.count(".") < 32:
            refuse_libraries(one, path, here)


def _geometry(
    model: dict[str, Any], decoder: dict[str, Any], header: OnnxHeader, parameters: int, path: Path
) -> Geometry:
    """Return the sizes: the config's, and the width of the feed-forward blocks from what the weights leave for it."""
    try:
        vocabulary, width = _size(model["vocab_size"]), _size(decoder["hidden_size"])
        layers, head_dim = _size(decoder["num_hidden_layers"]), _size(decoder["head_size"])
        heads, kv_heads = _size(decoder["num_attention_heads"]), _size(decoder["num_key_value_heads"])
        tables = [one for one in header.weights.values() if one.weights and vocabulary in one.shape]
        embeddings = vocabulary * width * max(1, min(2, len(tables)))
        attention = 2 * layers * width * head_dim * (heads + kv_heads)
        return Geometry(
            vocab_size=vocabulary,
            width=width,
            ffn_width=max(1, round((parameters - embeddings - attention) / max(1, layers * 3 * width))),
            ffn_matrices=3,
            encoder_layers=0,
            decoder_layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            tied_embeddings=len(tables) < 2,
            max_input_tokens=_size(model["context_length"]),
            max_total_tokens=_size(model["context_length"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        name = str(error) if isinstance(error, KeyError) else "a size"
        raise BadInputError(f"{path}: {short(name)} is missing or not a sensible number") from error


def _size(value: Any) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError("a size")
    return value


def _tokens(value: Any) -> tuple[int, ...]:
    found = value if isinstance(value, list) else [value]
    return tuple(sorted({one for one in found if type(one) is int and 0 <= one < 2**31}))
