"""ONNX files as optimum and transformers.js name them: ``onnx/model_q4f16.onnx``, an encoder and a merged decoder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.given.description import Description, files_of, short
from slmbench.given.hf_files import check_vocabulary, read_model_config, tokenizer_of
from slmbench.given.onnx_file import OnnxHeader, cuts_before_head, read_onnx
from slmbench.given.onnx_precision import compute_of, decode_bytes, precision_of
from slmbench.models.artifact import inside
from slmbench.models.given_record import ALL_LOGITS, NO_SHARED_BUFFER, GivenRole

_NAME = re.compile(
    r"(?P<kind>model|encoder_model|decoder_model_merged|decoder_model|decoder_with_past_model)"
    r"(?:_(?P<variant>[a-z0-9_]+))?\.onnx"
)
#: Where the graphs are: next to config.json (optimum), or in a folder of their own (transformers.js).
_PLACES = ("", "onnx")
_CONFIGS = (".json", ".txt", ".jinja", ".model", ".spm")
#: Inputs that a loop knows how to feed, besides past K/V.
_KNOWN_INPUTS = frozenset(
    {"input_ids", "attention_mask", "position_ids", "use_cache_branch", "num_logits_to_keep", "encoder_hidden_states",
     "encoder_attention_mask"}
)  # fmt: skip
#: Graphs of each family, the best first: what reads a prompt, and what runs a step where that is another.
_DECODERS: tuple[dict[GivenRole, str], ...] = (
    {"model": "model"},
    {"model": "decoder_model_merged"},
    {"model": "decoder_model", "decode": "decoder_with_past_model"},
)
_SEQ2SEQ: tuple[dict[GivenRole, str], ...] = (
    {"encoder": "encoder_model", "decoder": "decoder_model_merged"},
    {"encoder": "encoder_model", "decoder": "decoder_model", "decode": "decoder_with_past_model"},
)


def variants(folder: Path) -> dict[str, dict[str, str]]:
    """Return by name ("q4f16"; "model" where the files' names say none) the graphs: kind to relative path."""
    if not (folder / "config.json").is_file():
        return {}
    places = [place for place in _PLACES if not place or (folder / place).is_dir()]
    return kinds_of(f"{place}/{name}".lstrip("/") for place in places for name in files_of(folder / place))


def kinds_of(paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the same of a list of paths."""
    found: dict[str, dict[str, str]] = {}
    for path in paths:
        place, _, name = path.rpartition("/")
        match = _NAME.fullmatch(name) if place in _PLACES else None
        if match is not None:
            found.setdefault(match["variant"] or "model", {}).setdefault(match["kind"], path)
    needed = {"model", "decoder_model_merged", "decoder_with_past_model"}
    return {name: kinds for name, kinds in found.items() if needed & set(kinds)}


def describe(folder: Path, graphs: dict[str, str]) -> Description:
    """Return what these graphs of a folder are.

    Raises:
        BadInputError: one is missing or damaged, has inputs that nobody could feed, or does not fit config.json.
    """
    config = read_model_config(folder)
    choices = _DECODERS if config.family == "decoder-only" else _SEQ2SEQ
    chosen = next((one for one in choices if set(one.values()) <= set(graphs)), None)
    if chosen is None:
        listed = ", ".join(graphs.values())
        raise BadInputError(
            f"{folder}: {listed} is no whole {config.family} model with K/V: "
            f"{' or '.join(' + '.join(one.values()) for one in choices)} is expected"
        )
    names: dict[GivenRole, str] = {role: graphs[kind] for role, kind in chosen.items()}
    headers = {role: read_onnx(inside(folder / name, folder)) for role, name in names.items()}
    for role, header in headers.items():
        _check_inputs(header, folder / names[role])
    first = headers.get("decoder") or headers["model"]
    stepped = headers.get("decode") or first
    logits = first.outputs.get("logits", ("", ()))[1]
    check_vocabulary(folder, config.geometry.vocab_size, logits[-1] if logits and logits[-1] > 0 else None)
    types: dict[str, tuple[int, int]] = {}
    for role, header in headers.items():
        # The step's graph holds the weights of the prompt's again.
        for name, (count, size) in header.by_type().items() if role != "decode" else ():
            before = types.get(name, (0, 0))
            types[name] = before[0] + count, before[1] + size
    fused = bool(stepped.operators["GroupQueryAttention"])
    past = next((kind for port, (kind, _) in stepped.inputs.items() if port.startswith("past_key")), "float")
    trimmed = cuts_before_head(first) or "num_logits_to_keep" in first.inputs
    many = config.family == "decoder-only" and not trimmed
    external = {str(Path(names[role]).parent / name) for role, header in headers.items() for name in header.external}
    return Description(
        layout="hf_onnx",
        family=config.family,
        architecture=config.architecture,
        geometry=config.geometry,
        precision=precision_of(types),
        compute=compute_of(stepped, past),
        weight_types=types,
        decode_weight_bytes=decode_bytes(stepped, config.geometry.vocab_size),
        graphs=names,
        files=sorted({one for one in files_of(folder) if one.endswith(_CONFIGS)} | set(names.values()) | external),
        parameters=sum(count for count, _ in types.values()),
        producer={short(key): short(value) for key, value in first.notes.items()},
        context_length=config.geometry.max_total_tokens,
        tokenizer=tokenizer_of(folder, config.geometry.vocab_size),
        attention="GroupQueryAttention" if fused else "unfused",
        flags=([ALL_LOGITS] if many else []) + ([] if fused else [NO_SHARED_BUFFER]),
        inputs=sorted(first.inputs),
        eos_token_ids=config.eos_token_ids,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
    )


def _check_inputs(header: OnnxHeader, path: Path) -> None:
    for name, (kind, _) in header.inputs.items():
        if name in header.weights or name in _KNOWN_INPUTS:
            continue
        if not name.startswith("past_key_values.") or kind not in ("float", "float16"):
            raise BadInputError(f"{path}: has the input {short(name)[:60]} ({kind}), which no loop can feed")
