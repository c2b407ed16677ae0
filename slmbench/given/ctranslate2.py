"""Folders of CTranslate2: model.bin, config.json and a vocabulary."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from slmbench.errors import BadInputError
from slmbench.given.ctranslate2_file import Ctranslate2Header, read_model
from slmbench.given.description import Description, files_of, short
from slmbench.models.artifact import inside
from slmbench.models.ctranslate2_vocabulary import VOCABULARIES, read_vocabulary, unfed_ids
from slmbench.models.geometry import Geometry
from slmbench.models.given_record import SCALED_LOGITS
from slmbench.system.files import json_object
from slmbench.terms import Family, Precision

MODEL, CONFIG = "model.bin", "config.json"
#: The specifications of models that generate text.
_FAMILIES: dict[str, Family] = {
    "TransformerSpec": "encoder-decoder",
    "TransformerDecoderModelSpec": "decoder-only",
}
_PRECISIONS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8"}
_ENDINGS = (".bin", ".json", ".txt", ".model")
_LAYER = re.compile(r"(?P<half>encoder|decoder)/layer_(?P<number>\d+)/")


def is_folder(folder: Path) -> bool:
    """Tell whether the folder is one of CTranslate2's."""
    return (folder / MODEL).is_file() and any((folder / name).is_file() for name in VOCABULARIES)


def describe(folder: Path) -> Description:
    """Return what the folder is.

    Raises:
        BadInputError: the model is damaged, of another version, of no kind that generates text, or its vocabulary
            does not fit.
    """
    path = inside(folder / MODEL, folder)
    header = read_model(path)
    family = _FAMILIES.get(header.specification)
    if family is None:
        known = ", ".join(_FAMILIES)
        raise BadInputError(f"{path}: is a '{short(header.specification)[:60]}', not a model of text ({known})")
    geometry = _geometry(header, family, path)
    types = _by_type(header)
    largest = max(types, key=lambda name: types[name][1], default="")
    if largest not in _PRECISIONS:
        raise BadInputError(f"{path}: most of its weights are '{largest}'; slmbench runs {', '.join(_PRECISIONS)}")
    config = json_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    texts = read_vocabulary(folder, geometry.vocab_size)
    unfed = unfed_ids(texts, geometry.vocab_size)
    twice = f" ({len(unfed):,} cannot be fed: another token has the same text)" if unfed else ""
    start = _token(config, "decoder_start_token", texts) if family == "encoder-decoder" else None
    end = _token(config, "eos_token", texts)
    return Description(
        layout="ctranslate2",
        family=family,
        architecture=short(header.specification),
        geometry=geometry,
        precision=_PRECISIONS[largest],
        weight_types=types,
        decode_weight_bytes=header.decode_bytes(),
        graphs={"model": MODEL},
        files=[name for name in files_of(folder) if name.endswith(_ENDINGS)],
        parameters=sum(count for count, _ in types.values()),
        producer={
            "specification": f"{header.specification} {header.revision}",
            **{key: short(value) for key, value in config.items() if key.startswith("add_source_") and value},
        },
        context_length=geometry.max_total_tokens,
        tokenizer=f"vocabulary, {len(texts):,} tokens{twice}",
        attention="MultiHeadAttention",
        unfed_token_ids=unfed,
        flags=[SCALED_LOGITS] if _scales_for_nothing(header, geometry) else [],
        eos_token_ids=() if end is None else (end,),
        pad_token_id=0,
        decoder_start_token_id=start,
    )


def _scales_for_nothing(header: Ctranslate2Header, geometry: Geometry) -> bool:
    """Tell whether logits are scaled as those of T5s are whose head is their embedding, and the head is another.

    CTranslate2's converter asks the config, and transformers 5 says of every T5 that its head is tied.
    """
    scale = header.get("decoder/scale_outputs")
    return scale is not None and scale.number not in (None, 0, 1) and not geometry.tied_embeddings


def _by_type(header: Ctranslate2Header) -> dict[str, tuple[int, int]]:
    """Return (weights, bytes) by type; the scales of quantised weights belong to those."""
    weights, sizes = Counter[str](), Counter[str]()
    for one in header.variables.values():
        owner = header.variables.get(one.name.removesuffix("_scale"), one)
        if one.shape:
            weights[owner.type] += one.weights
            sizes[owner.type] += one.size_bytes
    return {name: (weights[name], sizes[name]) for name in sizes if weights[name]}


def _geometry(header: Ctranslate2Header, family: Family, path: Path) -> Geometry:
    """Return the sizes of the network, read from the shapes of its weights.

    Raises:
        BadInputError: one is missing or absurd.
    """
    table = header.get("decoder/embeddings/weight")
    attention, first = "decoder/layer_0/self_attention", header.get("decoder/layer_0/ffn/linear_0/weight")
    heads = header.number("decoder/num_heads")
    wrong = BadInputError(f"{path}: its weights do not give the sizes of a model with attention")
    if table is None or len(table.shape) != 2 or first is None or len(first.shape) != 2:
        raise wrong
    rows, width = table.shape
    if heads is None or not 0 < heads <= width:
        raise wrong
    kv_heads = header.number(f"{attention}/num_heads_kv") or header.number("decoder/num_heads_kv") or heads
    head_dim = header.number(f"{attention}/head_dim") or width // heads
    decoder_only = family == "decoder-only"
    positions = _positions(header, "decoder")
    try:
        return Geometry(
            vocab_size=rows,
            width=width,
            ffn_width=first.shape[0],
            ffn_matrices=3 if header.get("decoder/layer_0/ffn/linear_0_noact/weight") else 2,
            encoder_layers=_layers(header, "encoder"),
            decoder_layers=_layers(header, "decoder"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            tied_embeddings="decoder/projection/weight" in header.aliases,
            windows=_windows(header, "decoder"),
            encoder_windows=() if decoder_only else _windows(header, "encoder"),
            max_input_tokens=positions if decoder_only else _positions(header, "encoder"),
            max_total_tokens=positions if decoder_only else None,
        )
    except ValueError as error:
        raise wrong from error


def _layers(header: Ctranslate2Header, half: str) -> int:
    found = {match["number"] for name in header.variables if (match := _LAYER.match(name)) and match["half"] == half}
    return len(found)


def _windows(header: Ctranslate2Header, half: str) -> tuple[int | None, ...]:
    """Return the sliding window of each layer, None for a layer without one; empty where none has one."""
    whole = header.number(f"{half}/sliding_window")
    found = []
    for layer in range(_layers(header, half)):
        own = header.number(f"{half}/layer_{layer}/self_attention/sliding_window")
        found.append((whole if own is None else own) or None)
    return tuple(found) if any(found) else ()


def _positions(header: Ctranslate2Header, half: str) -> int | None:
    table = header.get(f"{half}/position_encodings/encodings")
    return table.shape[0] if table is not None and len(table.shape) == 2 else None


def _token(config: dict[str, Any], name: str, texts: list[str]) -> int | None:
    text = config.get(name)
    return texts.index(text) if isinstance(text, str) and text in texts else None
