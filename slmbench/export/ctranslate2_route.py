"""CTranslate2's own converter, given our network and a vocabulary of numbers.

Its tokens are texts. Ours are the ids themselves, written as numbers: every id has one text, whatever tokenizer the
checkpoint has, and the network, its bytes and its speed are the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from slmbench.errors import CannotRunError, last_error_line
from slmbench.export.routes import Exported, Progress
from slmbench.given.ctranslate2_file import read_model
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import needed
from slmbench.system.telemetry import silence_telemetry
from slmbench.terms import Precision

#: The converter empties the folder that it writes into.
FOLDER, FILE_NAME = "ctranslate2", "model.bin"
#: The types of weights and CTranslate2's names for them.
QUANTISATION: dict[Precision, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
#: What transformers' configs said before 5.0 and the converter still asks them for: norm before each block, and after
#: the embedding.
_NORMS = {"bart": (False, True), "mbart": (True, True), "pegasus": (True, False)}


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None; what the converter takes shows when it converts."""
    if spec.target is not None:
        return f"a CTranslate2 model has no target; '{spec.target}' was given"
    if spec.weight_precision not in QUANTISATION:
        return f"CTranslate2 has no {spec.weight_precision} weights; it has {', '.join(QUANTISATION)}"
    if checkpoint.geometry.layer_kinds:
        return "CTranslate2 runs layers of attention only"
    return None


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``ctranslate2/model.bin`` with its config and vocabulary.

    Raises:
        CannotRunError: ctranslate2 or torch is missing, or its converter does not take the checkpoint.
    """
    silence_telemetry()
    try:
        import ctranslate2.converters  # noqa: F401 (is it installed?)

        from slmbench.export.torch_model import load_model
    except ImportError as error:
        raise CannotRunError(needed(error, "to export to CTranslate2")) from error
    progress("loading the weights")
    model: Any = load_model(checkpoint)
    _in_older_words(model.config)
    progress("converting with ctranslate2")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-config-") as config:
        model.config.save_pretrained(config)
        if model.config.model_type == "phi3":
            _with_older_rotary(model)
        _convert(checkpoint, model, config, folder / FOLDER, QUANTISATION[spec.weight_precision])
    # Its decoder keeps K and V of the encoder's output in its state from the first step on.
    once = True if checkpoint.family == "encoder-decoder" else None
    read_bytes = read_model(folder / FOLDER / FILE_NAME).decode_bytes()
    return Exported({"model": f"{FOLDER}/{FILE_NAME}"}, "ctranslate2", once, read_bytes)


def _convert(checkpoint: Checkpoint, model: Any, config: str, folder: Path, quantisation: str) -> None:
    from ctranslate2.converters import TransformersConverter
    from ctranslate2.converters import transformers as loaders

    class Converter(TransformersConverter):  # type: ignore[misc]  # ctranslate2 has no types
        def load_model(self, *_names: Any, **_options: Any) -> Any:
            return model

        def load_tokenizer(self, *_names: Any, **_options: Any) -> Any:
            return _Numbers(checkpoint, model.config)

    kept: dict[str, Any] = dict(loaders._MODEL_LOADERS)
    try:
        loaders._MODEL_LOADERS["MarianConfig"] = _marian_with_its_start_token(loaders)
        Converter(config).convert(str(folder), quantization=quantisation, force=True)
    except Exception as error:  # a converter of many architectures raises many kinds
        what = f"ctranslate2's converter does not take {checkpoint.architecture}"
        raise CannotRunError(f"{checkpoint.name}: {what}: {type(error).__name__}: {last_error_line(error)}") from error
    finally:
        loaders._MODEL_LOADERS.clear()
        loaders._MODEL_LOADERS.update(kept)


def _marian_with_its_start_token(loaders: Any) -> Any:
    """Return a loader of Marian that keeps the row of the start token.

    CTranslate2's leaves it out and starts from zeros, which that row has in a trained Marian, and in others need not.
    """

    class Loader(loaders.MarianMTLoader):  # type: ignore[misc]  # ctranslate2 has no types
        set_decoder: Callable[..., None] = loaders.BartLoader.set_decoder
        set_config: Callable[..., None] = loaders.BartLoader.set_config
        get_vocabulary: Callable[..., list[str]] = loaders.BartLoader.get_vocabulary

        def _remove_pad_weights(self, spec: Any) -> None:
            """Keep them."""

    return Loader()


def _in_older_words(config: Any) -> None:
    """Give a config what transformers 5 calls by other names or leaves out, and the converter asks for."""
    if config.model_type in _NORMS and not hasattr(config, "normalize_before"):
        config.normalize_before, config.normalize_embedding = _NORMS[config.model_type]
    if hasattr(config, "scale_decoder_outputs"):
        # transformers 5 says that every T5 ties its head; the converter scales the logits of those that do.
        config.tie_word_embeddings = config.scale_decoder_outputs
    rotary = getattr(config, "rope_parameters", None) or {}
    whole = rotary.get("full_attention", rotary)
    if "rope_theta" in whole and not hasattr(config, "rope_theta"):
        config.rope_theta = whole["rope_theta"]
    if "sliding_attention" in rotary and not hasattr(config, "rope_local_base_freq"):
        config.rope_local_base_freq = rotary["sliding_attention"]["rope_theta"]


def _with_older_rotary(model: Any) -> None:
    """Give a Phi-3 its rotary embedding as transformers had it before 5.0: in each layer; "default" is none."""
    rotary = model.config.rope_parameters
    factors = SimpleNamespace(long_factor=rotary.get("long_factor"), short_factor=rotary.get("short_factor"))
    for layer in model.model.layers:
        layer.self_attn.rotary_emb = factors
    kind = rotary["rope_type"]
    model.config.rope_scaling = None if kind == "default" else rotary | {"type": kind}


class _Numbers:
    """What a converter asks of a tokenizer, answered with each id as its own text."""

    chat_template = None
    num_madeup_words = 0

    def __init__(self, checkpoint: Checkpoint, config: Any) -> None:
        self._size = checkpoint.geometry.vocab_size
        ends = checkpoint.eos_token_ids
        self.pad_token = self.unk_token = self._text(checkpoint.pad_token_id)
        self.eos_token = self._text(ends[0] if ends else None)
        self.bos_token = self._text(getattr(config, "bos_token_id", None))
        self.unk_token_id = int(self.unk_token)
        self.special_tokens_map: dict[str, Any] = {}

    def _text(self, token: int | None) -> str:
        return str(token if token is not None and token < self._size else 0)

    def __len__(self) -> int:
        return self._size

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each text."""
        return {str(token): token for token in range(self._size)}

    def convert_ids_to_tokens(self, token: int) -> str:
        """Return the text of an id."""
        return str(token)
