"""The small files next to a graph: config.json, generation_config.json, tokenizer.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.given.description import short
from slmbench.models.checkpoint import special_tokens
from slmbench.models.geometry import Geometry, read_config
from slmbench.models.picture_processor import processor_settings
from slmbench.models.vision_facts import VisionFacts
from slmbench.system.files import json_object
from slmbench.terms import Family


@dataclass(frozen=True)
class ModelConfig:
    """What a config.json says of the model whose graph is next to it."""

    family: Family
    architecture: str
    geometry: Geometry
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    decoder_start_token_id: int | None
    #: Of the part that reads pictures, where the whole model has one.
    vision: VisionFacts | None = None


def read_model_config(folder: Path) -> ModelConfig:
    """Return what the folder's config.json says.

    Raises:
        BadInputError: there is none, or it is not of a model that slmbench measures.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise BadInputError(f"{folder}: no config.json next to the graph, so nobody knows what model it is")
    config = json_object(path)
    facts = read_config(config, str(path), processor=processor_settings(folder))
    generation = folder / "generation_config.json"
    tokens = special_tokens(
        {**facts.values, **config}, json_object(generation) if generation.is_file() else {}, facts.family
    )
    return ModelConfig(facts.family, short(facts.architecture), facts.geometry, **tokens, vision=facts.vision)


def check_vocabulary(folder: Path, configured: int, found: int | None) -> None:
    """Compare the vocabulary of a config with that of the graph's logits, which may be padded.

    Raises:
        BadInputError: the graph has fewer.
    """
    if found is not None and found < configured:
        raise BadInputError(f"{folder}: config.json says {configured:,} tokens, the graph gives {found:,} logits")


def tokenizer_of(folder: Path, vocabulary: int) -> str:
    """Return kind and size of the folder's tokenizer, empty where it has none.

    Raises:
        BadInputError: it is damaged, or of another vocabulary.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return ""
    content = json_object(path)
    model = content.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(words, (dict, list)):
        raise BadInputError(f"{path}: no tokenizer: it has no model with a vocabulary")
    largest = len(words) - 1
    if isinstance(words, dict):
        largest = max((one for one in words.values() if type(one) is int), default=-1)
    if largest >= vocabulary:
        raise BadInputError(
            f"{path}: a tokenizer of another vocabulary: it gives token {largest:,}, the model knows {vocabulary:,}"
        )
    return f"{short(model.get('type', '?'))}, {len(words):,} tokens"
