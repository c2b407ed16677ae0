"""GGUF files: what a header says of the model, and which file of several is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath

from slmbench.errors import BadInputError, one_line
from slmbench.given.description import Description, short
from slmbench.given.gguf_reader import SPLIT, GgufHeader, parts_of, read_parts
from slmbench.models.artifact import inside
from slmbench.models.geometry import Geometry
from slmbench.models.ggml_types import FILE_TYPES, PRECISION_OF_TYPE
from slmbench.models.given_record import CROSS_KV_AGAIN
from slmbench.terms import PRECISIONS, Family, Precision

#: How people write the mixture in a file's name: Q4_K_M, IQ4_XS, F16, UD-Q4_K_XL.
_KIND = re.compile(r"(?i)(?:UD-)?(?:I?Q\d\w*|TQ\d\w*|BF16|FP?16|FP?32|MXFP4\w*)$")
#: Architectures without a decoder, and files that are no model of their own.
_ENCODERS = ("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert",
             "t5encoder", "gemma-embedding", "eurobert")  # fmt: skip


def family_of(header: GgufHeader, where: str) -> Family:
    """Return the family of the model.

    Raises:
        BadInputError: it generates no text by itself: an encoder, an adapter, a projector.
    """
    kind, architecture = header.values.get("general.type", "model"), header.architecture
    if not architecture:
        raise BadInputError(f"{where}: its header names no architecture (general.architecture)")
    if kind == "mmproj" or architecture == "clip":
        raise BadInputError(f"{where}: is a projector that reads pictures or sound for a model; name the model's file")
    if kind != "model":
        raise BadInputError(f"{where}: is of the kind '{one_line(str(kind))[:40]}', no model that generates text")
    if architecture in _ENCODERS:
        raise BadInputError(f"{where}: '{one_line(architecture)}' is an encoder-only model and generates no text")
    return "encoder-decoder" if architecture == "t5" else "decoder-only"


def geometry_of(header: GgufHeader, family: Family, where: str) -> Geometry:
    """Return the sizes of the network.

    Raises:
        BadInputError: one is missing or absurd.
    """
    names = {one.name for one in header.tensors}
    heads = header.number("attention.head_count")
    width = header.number("embedding_length")
    layers = header.number("block_count")
    decoder_layers = header.number("decoder_block_count", layers) if family == "encoder-decoder" else layers
    head_dim = header.number("attention.key_length") or (width // heads if width and heads else None)
    positions = header.number("context_length")
    try:
        return Geometry.model_validate(
            {
                "vocab_size": vocabulary(header),
                "width": width,
                "ffn_width": header.number("feed_forward_length") or header.number("expert_feed_forward_length"),
                "ffn_matrices": 3 if any(".ffn_gate" in name for name in names) else 2,
                "encoder_layers": layers if family == "encoder-decoder" else 0,
                "decoder_layers": decoder_layers,
                "heads": heads,
                "kv_heads": header.number("attention.head_count_kv", heads) or heads,
                "head_dim": head_dim,
                "tied_embeddings": "output.weight" not in names,
                "max_input_tokens": positions if family == "decoder-only" else None,
                "max_total_tokens": positions if family == "decoder-only" else None,
            }
        )
    except ValueError as error:
        raise BadInputError(
            f"{where}: its header does not give the sizes of a model with attention ({one_line(header.architecture)})"
        ) from error


def vocabulary(header: GgufHeader) -> int | None:
    """Return the size of the vocabulary: rows of the embedding, which is what a token id may name."""
    table = next((one for one in header.tensors if one.name == "token_embd.weight"), None)
    return table.shape[1] if table is not None and len(table.shape) == 2 else header.number("vocab_size")


def precision_of(header: GgufHeader) -> Precision | None:
    """Return the file's name of its mixture, or that of the type of most of its bytes where the two do not fit."""
    by_type = header.by_type()
    largest = max(by_type, key=lambda name: by_type[name][1], default="")
    file_type = header.values.get("general.file_type")
    claimed = FILE_TYPES.get(file_type) if type(file_type) is int else None
    found = PRECISION_OF_TYPE.get(largest)
    if claimed is None or (claimed in PRECISIONS) != (found in PRECISIONS):
        return found
    return found if claimed in PRECISIONS else claimed


def decode_bytes(header: GgufHeader) -> int:
    """Return the bytes of weights that one step reads: of an untied embedding a row, of experts those that are used."""
    used, there = header.number("expert_used_count"), header.number("expert_count")
    share = used / there if used and there else 1.0
    tied = all(one.name != "output.weight" for one in header.tensors)
    total = 0.0
    for one in header.tensors:
        if (one.name == "token_embd.weight" and not tied) or one.name.startswith("enc."):
            continue
        total += one.size_bytes * (share if "_exps." in one.name else 1.0)
    return round(total)


def stem_of(path: PurePath) -> str:
    """Return a file's name without its ending and the number of its part."""
    match = SPLIT.fullmatch(path.name)
    return match["stem"] if match else path.stem


def named(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return those of a folder's files that are models, of a split one the first part, each with what to call it.

    That is what their names do not share: ``Q4_K_M`` of ``SmolLM2-135M-Q4_K_M.gguf``.
    """
    found = []
    for name in names:
        match = SPLIT.fullmatch(name)
        if not name.lower().endswith(".gguf") or is_projector(name) or (match and int(match["part"]) != 1):
            continue
        stem = stem_of(PurePosixPath(name))
        kind = _KIND.search(stem)
        found.append((kind[0] if kind else stem, name))
    return found


def is_projector(name: str) -> bool:
    """Return whether a file is one of pictures by its name: it comes along with a model and is none.

    People call them ``mmproj-F16.gguf``, ``mmproj-SmolVLM-256M-Instruct-f16.gguf`` or ``llava-mmproj-f16.gguf``.
    """
    plain = PurePosixPath(name).name.lower()
    return "mmproj" in plain and plain.endswith(".gguf")


def describe(path: Path) -> Description:
    """Return what a file is; the path may name any of its parts.

    Raises:
        BadInputError: it is no GGUF file of a model that generates text, a part is missing, or its header lies.
    """
    parts = [inside(part, part.parent) for part in parts_of(path)]
    header = read_parts(parts)
    where = str(path)
    family = family_of(header, where)
    precision = precision_of(header)
    if precision is None:
        raise BadInputError(f"{where}: has no weights")
    if family == "encoder-decoder" and not any(one.name.startswith("dec.") for one in header.tensors):
        raise BadInputError(f"{where}: has an encoder and no decoder, so it generates no text")
    by_type = header.by_type()
    kind, size = header.values.get("tokenizer.ggml.model", ""), header.lengths.get("tokenizer.ggml.tokens")
    geometry = geometry_of(header, family, where)
    return Description(
        layout="gguf",
        family=family,
        architecture=short(header.architecture),
        geometry=geometry,
        precision=precision,
        weight_types=by_type,
        decode_weight_bytes=decode_bytes(header),
        graphs={"model": parts[0].name},
        files=[part.name for part in parts],
        parameters=sum(count for count, _ in by_type.values()),
        producer=_producer(header),
        context_length=header.number("context_length"),
        tokenizer=f"{short(kind)}, {size:,} tokens" if size else "",
        attention="llama.cpp",
        # llama.cpp's graph of a step has them in it, whatever file it is built from.
        flags=[CROSS_KV_AGAIN] if family == "encoder-decoder" else [],
        eos_token_ids=_ends(header, geometry.vocab_size),
        pad_token_id=_token(header, "padding_token_id") or 0,
        decoder_start_token_id=header.number("decoder_start_token_id", 0) if family == "encoder-decoder" else None,
    )


def _producer(header: GgufHeader) -> dict[str, str]:
    """Return who made the file, by its own account."""
    names = ("name", "basename", "finetune", "size_label", "quantized_by", "quantization_version", "author",
             "organization", "license", "source.url", "repo_url")  # fmt: skip
    found = {f"general.{name}": header.values.get(f"general.{name}") for name in names}
    found |= {key: value for key, value in header.values.items() if key.startswith("quantize.imatrix.")}
    return {short(key): short(value) for key, value in found.items() if isinstance(value, (str, int)) and value != ""}


def _token(header: GgufHeader, name: str) -> int | None:
    value = header.values.get(f"tokenizer.ggml.{name}")
    return value if type(value) is int and 0 <= value < 2**31 else None


def _ends(header: GgufHeader, vocabulary: int) -> tuple[int, ...]:
    """Return the tokens that end a text or a turn."""
    ends = {_token(header, f"{name}_token_id") for name in ("eos", "eot", "eom")}
    return tuple(sorted(one for one in ends if one is not None and one < vocabulary))
