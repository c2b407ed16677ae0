"""A checkpoint: a catalog name, a local Hugging Face folder or a Hub id, resolved without torch."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from slmbench.errors import BadInputError, nearest, one_line
from slmbench.models import catalog
from slmbench.models.accepted import check_full_precision, quantisation, quantised
from slmbench.models.convert_pickles import as_safetensors, is_pickled
from slmbench.models.cost_model import with_matrices
from slmbench.models.dequantize import dequantized
from slmbench.models.geometry import ConfigFacts, Geometry, geometry_of, read_config
from slmbench.models.given_record import GivenRecord
from slmbench.models.picture_processor import PROCESSOR_FILES, has_own_processor, processor_settings
from slmbench.models.picture_words import words_of_tiles
from slmbench.models.safetensors import Weights, inspect, weight_files
from slmbench.models.vision_facts import VisionFacts, read_vision
from slmbench.system.files import json_object
from slmbench.system.paths import plain_path, plain_text
from slmbench.terms import Family

__all__ = ["Checkpoint", "Geometry", "checkpoint_of_folder", "resolve"]

#: "org/name" or "org/name@revision", as the Hub allows them.
#: Ends of files that models come in: no id of the Hub ends so.
_FILES = {".gguf", ".onnx", ".xml", ".bin", ".safetensors", ".pt", ".pth", ".zip"}
_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})(?:@(?P<revision>[\w./-]+))?")


class Checkpoint(BaseModel):
    """A model to measure. Torch-free; ``slmbench.export.torch_model`` makes the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: As people call it: the catalog name, the folder's name or the Hub id.
    name: str
    source: Literal["catalog", "folder", "hub", "given"]
    #: The folder's path (all but catalog names); never part of the identity.
    path: Path | None = Field(default=None, exclude=True)
    #: The user lets the checkpoint's own Python code run; never part of the identity.
    trust_remote_code: bool = Field(default=False, exclude=True)
    #: The pickle that its weights were converted from, on request, with its hash.
    converted_from: str | None = None
    #: How its weights were quantised before transformers turned them into full precision, on request, and by what.
    dequantized_from: str | None = None
    #: The Hub commit, where there is one.
    revision: str | None = None
    family: Family
    #: transformers' model_type: "t5", "llama", ...; of the text part, where pictures or sound go in as well.
    architecture: str
    #: It is the text part of a model that takes pictures or sound as well.
    is_part: bool = False
    parameter_count: int = Field(ge=0, le=2**50)
    geometry: Geometry
    #: Of the part that reads pictures, where there is one.
    vision: VisionFacts | None = None
    #: SHA-256 over the config and the weights (catalog: the config and the seed).
    digest: str
    has_tokenizer: bool = False
    #: Token that starts the decoder (encoder-decoder only).
    decoder_start_token_id: int | None = None
    #: Never generated: a measured generation has exactly the asked length.
    eos_token_ids: tuple[int, ...] = ()
    #: Never part of a drawn prompt: the artifact's vocabulary has no text that leads to them.
    unfed_token_ids: tuple[int, ...] = ()
    #: Pads shorter prompts of a batch.
    pad_token_id: int = 0
    #: Of an artifact that the user brings (source "given"): what its files are.
    given: GivenRecord | None = None

    @field_validator("path", "trust_remote_code", mode="before")
    @classmethod
    def _resolved_on_this_machine(cls, value: object, info: ValidationInfo) -> object:
        if info.mode == "json" and value:
            raise ValueError("is never taken from a file or a message")
        return value

    @property
    def is_here(self) -> bool:
        """Return whether its weights are on this machine, or can be drawn here: another one may have resolved it."""
        return self.source == "catalog" or self.path is not None


def resolve(
    reference: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    convert_pickles: bool = False,
    dequantize: bool = False,
) -> Checkpoint:
    """Return the checkpoint that ``reference`` names: a catalog name, a local folder, or a Hub id.

    A Hub checkpoint (``org/name`` or ``org/name@revision``) is downloaded, safetensors only, and pinned to the
    commit that its revision names; with ``offline`` (or ``HF_HUB_OFFLINE=1``) it must be in the Hub cache. With
    ``convert_pickles`` weights that are there as pickles alone are converted once, with ``dequantize`` quantised ones
    are turned into full precision.

    Raises:
        BadInputError: nothing of that name, or a checkpoint that slmbench does not take.
        CannotRunError: the Hub cannot be reached, or its files do not fit on the disk.
    """
    from slmbench.given import recognise
    from slmbench.models import hub

    how = {"trust_remote_code": trust_remote_code, "convert_pickles": convert_pickles, "dequantize": dequantize}
    entry = catalog.find(reference)
    if entry is not None:
        if revision is not None:
            raise BadInputError(f"'{reference}' is a catalog name and has no revision '{revision}'")
        return _of_entry(entry)
    folder = Path(reference).expanduser()
    try:
        exists = folder.exists()
    except (OSError, ValueError):
        # Too long for a file name, or with a NUL in it: no path, so a name.
        exists = False
    if exists:
        return _of_local(folder, how)
    place, name = recognise.split_name(reference)
    if name is not None and Path(place).expanduser().is_dir():
        return recognise.named_in(Path(place).expanduser(), name)
    if place.startswith((".", "/", "~")) or Path(place).suffix.lower() in _FILES:
        raise BadInputError(f"{one_line(reference)[:120]}: no such file or folder")
    match = _HUB_ID.fullmatch(place)
    if match is None:
        unknown = f"unknown model '{one_line(reference)[:120]}': no catalog name, no folder, no Hub id (org/name)."
        raise BadInputError(f"{unknown}{nearest(reference, catalog.names())} `slmbench models` lists the catalog")
    asked = revision or match["revision"]
    if name is not None:
        return recognise.of_hub(match["id"], name, revision=asked, offline=offline)
    try:
        path, commit = hub.download(
            match["id"], revision=asked, offline=offline, trust_remote_code=trust_remote_code,
            pickles=convert_pickles, check=partial(_read_checkpoint_config, dequantize=dequantize),
        )  # fmt: skip
    except hub.NoCheckpointError:
        return recognise.of_hub(match["id"], None, revision=asked, offline=offline)
    found = {"name": match["id"], "source": "hub", "revision": commit}
    return checkpoint_of_folder(path, **how).model_copy(update=found)


def _of_local(path: Path, how: dict[str, bool]) -> Checkpoint:
    """Return the checkpoint in a folder, or the artifact where it holds no weights of a checkpoint or is a file."""
    from slmbench.given import recognise

    try:
        if not path.is_dir():
            return recognise.of_file(path)
        has_weights = any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json"))
        given = None if has_weights else recognise.of_folder(path)
        return given or checkpoint_of_folder(path, **how)
    except BadInputError as error:
        folder = path if path.is_dir() else path.parent
        own = None if (folder / "config.json").is_file() else _exported_from(folder)
        if own is None:
            raise
        raise BadInputError(f"{path}: {own}") from error


def _exported_from(folder: Path) -> str | None:
    """Return what slmbench exported the folder's graphs from, and how to name that; None where they are not its own."""
    from slmbench.models.artifact import read_artifact

    try:
        found = read_artifact(folder).manifest.checkpoint
    except BadInputError:
        return None
    if found.source == "folder" and not found.path:
        # A manifest says nothing of this machine's folders.
        return f"slmbench exported it from a folder named {found.name} and makes it again by itself: name that folder"
    origin = found.path or found.name
    return f"slmbench exported it from {origin} and makes it again by itself: name {origin}"


def how_resolved(checkpoint: Checkpoint) -> dict[str, bool]:
    """Return what :func:`resolve` must be asked for the same weights again."""
    return {
        "trust_remote_code": checkpoint.trust_remote_code,
        "convert_pickles": checkpoint.converted_from is not None,
        "dequantize": checkpoint.dequantized_from is not None,
    }


def _read_checkpoint_config(
    config: dict[str, Any],
    where: str,
    *,
    trust_remote_code: bool,
    dequantize: bool = False,
    processor: dict[str, Any] | None = None,
) -> ConfigFacts:
    """Return what a checkpoint's config says.

    Raises:
        BadInputError: it is of no model that slmbench measures, or of quantised weights.
    """
    check_full_precision(config, where, dequantize=dequantize)
    return read_config(config, where, trust_remote_code=trust_remote_code, processor=processor)


def checkpoint_of_folder(
    folder: Path, *, trust_remote_code: bool = False, convert_pickles: bool = False, dequantize: bool = False
) -> Checkpoint:
    """Return the checkpoint in a local Hugging Face folder; see :func:`resolve`.

    Raises:
        BadInputError: no config or weights, pickled weights, an architecture slmbench does not take, a config
            that is not JSON or does not fit the weights, a damaged safetensors file.
    """
    config_path, adapter = folder / "config.json", folder / "adapter_config.json"
    if adapter.exists():
        # transformers would load the model that it names, wherever that is, and apply the adapter to it.
        base = json_object(adapter).get("base_model_name_or_path")
        model = f"its base model {one_line(str(base))[:120]}" if base else "its base model"
        raise BadInputError(
            f"{folder}: an adapter (adapter_config.json), not a whole model; merge it into {model} "
            "(peft: merge_and_unload) and give the merged folder"
        )
    if not config_path.is_file():
        raise BadInputError(f"{folder}: no config.json; a checkpoint folder holds config.json and safetensors")
    if convert_pickles and is_pickled(folder):
        converted, origin = as_safetensors(folder)
        found = checkpoint_of_folder(converted, trust_remote_code=trust_remote_code, dequantize=dequantize)
        return found.model_copy(update={"name": plain_text(folder.resolve().name), "converted_from": origin})
    config = json_object(config_path)
    facts = _read_checkpoint_config(
        config, str(config_path), trust_remote_code=trust_remote_code, dequantize=dequantize,
        processor=processor_settings(folder),
    )  # fmt: skip
    if (method := quantisation(config)) is not None:
        whole, origin = dequantized(folder, method, facts.family, trust_remote_code=trust_remote_code)
        found = checkpoint_of_folder(whole, trust_remote_code=trust_remote_code)
        return found.model_copy(update={"name": plain_text(folder.resolve().name), "dequantized_from": origin})
    embedding = (facts.geometry.vocab_size, facts.geometry.width)
    weights = inspect(weight_files(folder), embedding, text_alone=facts.has_other_inputs)
    _check_weights(facts, weights, str(config_path))
    geometry = with_matrices(facts.geometry, weights.matrix_elements)
    # How pictures are prepared is part of what an artifact with pictures holds.
    files = [config_path, *(folder / name for name in PROCESSOR_FILES if facts.vision and (folder / name).is_file())]
    digest = hashlib.sha256(b"".join(map(Path.read_bytes, files)) + weights.sha256.encode()).hexdigest()
    return Checkpoint(
        name=plain_text(folder.resolve().name),
        source="folder",
        path=plain_path(folder.resolve()),
        trust_remote_code=trust_remote_code,
        family=facts.family,
        architecture=facts.architecture,
        is_part=facts.is_part,
        parameter_count=weights.parameter_count,
        geometry=geometry.model_copy(update={"tied_embeddings": weights.tied_embeddings}),
        vision=_with_words(facts.vision, folder),
        digest=digest,
        has_tokenizer=(folder / "tokenizer.json").is_file() or any(folder.glob("*.spm")),
        **special_tokens({**facts.values, **config}, _optional(folder / "generation_config.json"), facts.family),
    )


def _with_words(vision: VisionFacts | None, folder: Path) -> VisionFacts | None:
    """Return the facts with the words that the folder's tokenizer has for pictures that are cut into tiles."""
    if vision is None or vision.words is not None or not has_own_processor(folder):
        return vision
    return vision.model_copy(update={"words": words_of_tiles(folder / "tokenizer.json", vision.image_token_id)})


def _check_weights(facts: ConfigFacts, weights: Weights, where: str) -> None:
    """Compare the sizes in config.json with the weights'.

    Raises:
        BadInputError: they contradict each other; the text has both.
    """
    if weights.packed is not None:
        raise BadInputError(quantised(where, f"they hold {weights.packed}"))
    g = facts.geometry
    narrow = {facts.values.get(name) for name in ("word_embed_proj_dim", "embedding_size", "d_embed")}
    widths = {g.width, g.encoder_side.width, *narrow}
    rows = {shape[0] for shape in weights.embedding_shapes if len(shape) == 2 and shape[1] in widths}
    if weights.embedding_shapes and g.vocab_size not in rows:
        raise BadInputError(
            f"{where}: vocabulary {g.vocab_size} and width {g.width} do not fit the weights, whose "
            f"embeddings are {', '.join('x'.join(map(str, shape)) for shape in weights.embedding_shapes)}"
        )
    # Layers that guess further tokens come after the others; transformers does not load them.
    more = facts.values.get("num_nextn_predict_layers")
    most = g.decoder_layers + (more if type(more) is int else 0)
    found = [count for prefix, count in weights.layer_counts.items() if not g.encoder_layers or "encoder" not in prefix]
    sides = [("decoder", g.decoder_layers, most, max(found, default=g.decoder_layers))]
    if g.encoder_layers:
        found = [count for prefix, count in weights.layer_counts.items() if "encoder" in prefix]
        sides.append(("encoder", g.encoder_layers, g.encoder_layers, max(found, default=g.encoder_layers)))
    for side, least, most_, count in sides:
        if not least <= count <= most_:
            raise BadInputError(f"{where}: {least} {side} layers do not fit the weights, which have {count}")
    if facts.family == "encoder-decoder" or g.layer_kinds or facts.values.get("attn_output_gate") or _varies(facts):
        return
    for what, heads, tensors in (("heads", g.heads, weights.query_rows), ("K/V heads", g.kv_heads, weights.key_rows)):
        if tensors and heads * g.head_dim not in tensors:
            raise BadInputError(
                f"{where}: {heads} {what} of {g.head_dim} do not fit the weights, whose projections have "
                f"{', '.join(map(str, tensors))} rows"
            )


def _varies(facts: ConfigFacts) -> bool:
    """Return whether heads have other sizes than head_dim, or differ from layer to layer."""
    return any(facts.values.get(name) for name in ("q_lora_rank", "kv_lora_rank", "global_head_dim", "multi_query"))


def _of_entry(entry: catalog.CatalogEntry) -> Checkpoint:
    family, geometry = entry.family, geometry_of(entry.config, entry.family, entry.name)
    whole = entry.whole
    return Checkpoint(
        name=entry.name,
        source="catalog",
        family=family,
        architecture=entry.architecture,
        parameter_count=entry.parameter_count,
        geometry=geometry,
        vision=None if whole is None else read_vision(whole, geometry.encoder_side.width, entry.name),
        digest=entry.digest(),
        **special_tokens(dict(entry.config), {}, family),
    )


def special_tokens(config: dict[str, Any], generation: dict[str, Any], family: Family) -> dict[str, Any]:
    """Return the Checkpoint fields for the special tokens; the generation config wins where both speak."""

    def first(name: str) -> int | None:
        nested = config.get("decoder")
        for source in (generation, config, nested if isinstance(nested, dict) else {}):
            value = source.get(name)
            value = value[0] if isinstance(value, list) and value else value
            if type(value) is int and value >= 0:
                return value
        return None

    ends: list[int] = []
    for source in (generation, config):
        value = source.get("eos_token_id")
        ends += [v for v in (value if isinstance(value, list) else [value]) if type(v) is int and v >= 0]
    start = None
    if family == "encoder-decoder":
        # T5Gemma names no start token and starts from "bos"; transformers falls back in the same order.
        candidates = (first("decoder_start_token_id"), first("bos_token_id"), first("pad_token_id"), 0)
        start = next(token for token in candidates if token is not None)
    pad = first("pad_token_id")
    return {
        "decoder_start_token_id": start,
        "eos_token_ids": tuple(sorted(set(ends))),
        "pad_token_id": pad if pad is not None else (ends[0] if ends else 0),
    }


def _optional(path: Path) -> dict[str, Any]:
    return json_object(path) if path.is_file() else {}
