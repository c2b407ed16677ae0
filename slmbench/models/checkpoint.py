"""A checkpoint: a catalog name, a local Hugging Face folder or a Hub id, resolved without torch."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from slmbench.errors import BadInputError, nearest, one_line
from slmbench.models import catalog
from slmbench.models.geometry import Geometry, read_config
from slmbench.models.given_record import GivenRecord
from slmbench.models.safetensors import inspect, weight_files
from slmbench.system.files import read_regular
from slmbench.system.paths import plain_path, plain_text
from slmbench.terms import Family

__all__ = ["Checkpoint", "Geometry", "checkpoint_of_folder", "resolve"]

#: "org/name" or "org/name@revision", as the Hub allows them.
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
    #: The Hub commit, where there is one.
    revision: str | None = None
    family: Family
    #: transformers' model_type: "t5", "llama", ...
    architecture: str
    parameter_count: int = Field(ge=0, le=2**50)
    geometry: Geometry
    #: SHA-256 over the config and the weights (catalog: the config and the seed).
    digest: str
    has_tokenizer: bool = False
    #: Token that starts the decoder (encoder-decoder only).
    decoder_start_token_id: int | None = None
    #: Never generated: a measured generation has exactly the asked length.
    eos_token_ids: tuple[int, ...] = ()
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
    reference: str, *, revision: str | None = None, offline: bool = False, trust_remote_code: bool = False
) -> Checkpoint:
    """Return the checkpoint that ``reference`` names: a catalog name, a local folder, or a Hub id.

    A Hub checkpoint (``org/name`` or ``org/name@revision``) is downloaded, safetensors only, and pinned to the
    commit that its revision names; with ``offline`` (or ``HF_HUB_OFFLINE=1``) it must be in the Hub cache.

    Raises:
        BadInputError: nothing of that name, or a checkpoint that slmbench does not take; the text says why.
        CannotRunError: the Hub cannot be reached, or its files do not fit on the disk.
    """
    from slmbench.given import recognise

    entry = catalog.find(reference)
    if entry is not None:
        if revision is not None:
            raise BadInputError(f"'{reference}' is a catalog name and has no revision '{revision}'")
        return _of_entry(entry)
    folder = Path(reference).expanduser()
    try:
        is_folder, exists = folder.is_dir(), folder.exists()
    except (OSError, ValueError):
        # Too long for a file name, or with a NUL in it: no path, so a name.
        is_folder = exists = False
    if is_folder:
        return _of_local(folder, trust_remote_code=trust_remote_code)
    if exists:
        return recognise.of_file(folder)
    place, name = recognise.split_name(reference)
    if name is not None and Path(place).expanduser().is_dir():
        return recognise.named_in(Path(place).expanduser(), name)
    match = _HUB_ID.fullmatch(place)
    if match is None:
        raise BadInputError(
            f"unknown model '{one_line(reference)[:120]}': no catalog name, no folder, no Hub id (org/name)."
            + nearest(reference, catalog.names())
            + " `slmbench models` lists the catalog"
        )
    from slmbench.models import hub

    asked = revision or match["revision"]
    if name is not None:
        return recognise.of_hub(match["id"], name, revision=asked, offline=offline)
    try:
        path, commit = hub.download(
            match["id"], revision=asked, offline=offline, trust_remote_code=trust_remote_code, check=read_config
        )
    except hub.NoCheckpointError:
        return recognise.of_hub(match["id"], None, revision=asked, offline=offline)
    local = checkpoint_of_folder(path, trust_remote_code=trust_remote_code)
    return local.model_copy(update={"name": match["id"], "source": "hub", "revision": commit})


def _of_local(folder: Path, *, trust_remote_code: bool) -> Checkpoint:
    """Return the checkpoint in a folder, or the artifact where it holds no weights of a checkpoint."""
    from slmbench.given import recognise

    has_weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index.json"))
    given = None if has_weights else recognise.of_folder(folder)
    return given or checkpoint_of_folder(folder, trust_remote_code=trust_remote_code)


def checkpoint_of_folder(folder: Path, *, trust_remote_code: bool = False) -> Checkpoint:
    """Return the checkpoint in a local Hugging Face folder.

    Raises:
        BadInputError: no config or weights, pickled weights, an architecture slmbench does not take, a config
            that is not JSON or does not fit the weights, a damaged safetensors file.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise BadInputError(f"{folder}: no config.json; a checkpoint folder holds config.json and safetensors")
    if (folder / "adapter_config.json").exists():
        # transformers would load the model that it names, wherever that is, and apply the adapter to it.
        raise BadInputError(
            f"{folder}: an adapter (adapter_config.json), no whole model; merge it into its model first"
        )
    config = json_object(config_path)
    family, geometry = read_config(config, str(config_path), trust_remote_code=trust_remote_code)
    weights = inspect(weight_files(folder))
    vocabularies = {shape[0] for shape in weights.embedding_shapes if len(shape) == 2 and shape[1] == geometry.width}
    if weights.embedding_shapes and geometry.vocab_size not in vocabularies:
        raise BadInputError(
            f"{config_path}: vocabulary {geometry.vocab_size} and width {geometry.width} do not fit the weights, whose "
            f"embeddings are {', '.join('x'.join(map(str, shape)) for shape in weights.embedding_shapes)}"
        )
    digest = hashlib.sha256(config_path.read_bytes() + weights.sha256.encode()).hexdigest()
    return Checkpoint(
        name=plain_text(folder.resolve().name),
        source="folder",
        path=plain_path(folder.resolve()),
        trust_remote_code=trust_remote_code,
        family=family,
        architecture=config["model_type"],
        parameter_count=weights.parameter_count,
        geometry=geometry.model_copy(update={"tied_embeddings": weights.tied_embeddings}),
        digest=digest,
        has_tokenizer=(folder / "tokenizer.json").is_file() or any(folder.glob("*.spm")),
        **special_tokens(config, _generation_config(folder), family),
    )


def _of_entry(entry: catalog.CatalogEntry) -> Checkpoint:
    family, geometry = read_config(entry.config, entry.name)
    return Checkpoint(
        name=entry.name,
        source="catalog",
        family=family,
        architecture=entry.architecture,
        parameter_count=entry.parameter_count,
        geometry=geometry,
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


def _generation_config(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return json_object(path) if path.is_file() else {}


def json_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        BadInputError: it is not JSON, no object, or cannot be read.
    """
    try:
        value = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not JSON: {one_line(str(error))[:120]}") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: not a JSON object")
    return value
