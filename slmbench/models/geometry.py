"""What follows from a config.json alone: family, sizes, limits. One reader for every architecture.

It asks for what a size means (width, layers, heads, ...) under the names that transformers' configs have for it. What a
config.json leaves out is transformers' own default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slmbench.errors import BadInputError, one_line
from slmbench.models import known_types
from slmbench.models.accepted import family_of, unknown
from slmbench.models.vision_facts import VisionFacts, read_vision
from slmbench.terms import Family

#: Bounds that no text model reaches; a number beyond them is a damaged or hostile config.
_Size = Annotated[int, Field(ge=1, le=2**24)]
_Layers = Annotated[int, Field(ge=0, le=4096)]
#: 0 where a network has no attention at all.
_Heads = Annotated[int, Field(ge=0, le=2**24)]


class SideSizes(BaseModel):
    """The sizes of one side of an encoder-decoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: _Size
    ffn_width: _Size
    heads: _Heads
    kv_heads: _Heads
    head_dim: _Heads


class Geometry(BaseModel):
    """The sizes that parameters, FLOPs and bytes follow from. Layers a family lacks are 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: _Size
    width: _Size
    ffn_width: _Size
    #: Matrices of one feed-forward block: 2, or 3 when gated.
    ffn_matrices: Annotated[int, Field(ge=1, le=8)]
    encoder_layers: _Layers
    decoder_layers: Annotated[int, Field(ge=1, le=4096)]
    heads: _Heads
    kv_heads: _Heads
    head_dim: _Heads
    #: The LM head is the (decoder's) embedding.
    tied_embeddings: bool
    #: Encoder and decoder read one embedding (encoder-decoder only).
    shared_embedding: bool = False
    #: A decoder layer attends to its own tokens and to the encoder's at once, with one set of matrices for both.
    merged_attention: bool = False
    #: Attention window of each decoder layer in tokens; None where a layer sees everything.
    windows: tuple[int | None, ...] = ()
    #: The same of each encoder layer.
    encoder_windows: tuple[int | None, ...] = ()
    #: Longest prompt the positions allow; None where nothing bounds it.
    max_input_tokens: int | None = None
    #: Longest decoder sequence (prompt and answer for decoder-only); None where nothing bounds it.
    max_total_tokens: int | None = None
    #: The encoder's sizes, where they are not the decoder's.
    encoder_sizes: SideSizes | None = None
    #: What each decoder layer is ("mamba", "conv", "attention"), where not all are attention.
    layer_kinds: tuple[str, ...] = ()
    #: Why FLOPs and bytes of a step do not follow from these sizes; None where they do.
    cost_unknown: str | None = None

    @property
    def encoder_side(self) -> SideSizes:
        """Return the encoder's sizes."""
        return self.encoder_sizes or SideSizes(
            width=self.width,
            ffn_width=self.ffn_width,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
        )


@dataclass(frozen=True)
class ConfigFacts:
    """What a config says of the part of a model that is measured."""

    family: Family
    geometry: Geometry
    #: transformers' model_type of the measured part: of the text part, where pictures or sound go in as well.
    architecture: str
    #: Whether the measured part is a section of the config.
    is_part: bool
    #: All values of the measured part, transformers' defaults included.
    values: Mapping[str, Any]
    #: Of the part that reads pictures, where there is one.
    vision: VisionFacts | None = None

    @property
    def has_other_inputs(self) -> bool:
        """Return whether the checkpoint holds weights for pictures or sound as well."""
        encoder = self.values.get("encoder")
        return self.is_part or (isinstance(encoder, Mapping) and "vision_config" in encoder)


_WIDTH = ("d_model", "hidden_size", "n_embd", "dim")
_HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads")
_HEAD_DIM = ("head_dim", "d_kv", "kv_channels")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_FFN = ("d_ff", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
_VOCABULARY = ("vocab_size", "decoder_vocab_size", "tgt_vocab_size")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
#: transformers' types whose decoders merge self- and cross-attention; no key of a config says so.
_MERGED = ("t5gemma2",)
_WINDOWED = ("sliding_attention", "chunked_attention", "local")
_ATTENTION_KINDS = frozenset({"full_attention", "attention", "global", *_WINDOWED})
#: Sizes of states that a recurrent layer keeps instead of K/V.
_STATES = ("mamba_d_state", "state_size", "mamba_state_dim", "ssm_state_size", "qk_dim_factor", "lru_width")


class _ConfigReader:
    """Reads a config's values with their types checked; ``where`` names the file in errors."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def first(self, *names: str) -> Any:
        """Return the first value that is there, or None."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def size(self, *names: str, default: int | None = None) -> int:
        name = next((name for name in names if self.values.get(name) is not None), names[-1])
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, list) and value and all(type(one) is int for one in value):
            value = max(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 2**24:
            what = "is missing" if value is None else f"is {one_line(str(value))[:40]}, not a sensible size"
            raise BadInputError(f"{self.where}: '{name}' {what}")
        return value

    def optional_size(self, *names: str) -> int | None:
        return None if self.first(*names) is None else self.size(*names)

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name, default)
        return default if value is None else bool(value)

    def section(self, name: str) -> _ConfigReader | None:
        value = self.values.get(name)
        return _ConfigReader(value, f"{self.where}, {name}") if isinstance(value, Mapping) else None

    def layer_types(self, layers: int) -> Sequence[str] | None:
        name = next((n for n in ("layer_types", "layers_block_type", "attention_layers") if self.values.get(n)), None)
        if name is None:
            return None
        value = self.values[name]
        if not isinstance(value, list) or len(value) != layers or not all(isinstance(x, str) for x in value):
            raise BadInputError(f"{self.where}: '{name}' is not a list of {layers} names")
        return value


Windows = tuple[int | None, ...]


def _windows(c: _ConfigReader, layers: int, positions: int | None) -> Windows:
    """Return each layer's attention window; one as long as the positions is none."""
    # GPT-Neo's and Llama 4's names.
    more = ("attention_chunk_size", "window_size") if "attention_layers" in c.values else ("attention_chunk_size",)
    window = c.optional_size("sliding_window", *more)
    if window is None or not c.flag("use_sliding_window", True) or (positions is not None and window >= positions):
        return (None,) * layers
    first = c.values.get("max_window_layers") if "use_sliding_window" in c.values else None
    default = ["sliding_attention" if i >= (first or 0) else "full_attention" for i in range(layers)]
    return tuple(window if kind in _WINDOWED else None for kind in c.layer_types(layers) or default)


def _sizes(c: _ConfigReader, role: str) -> SideSizes:
    """Return the sizes of one side; ``role`` is how encoder-decoders begin their names for it."""
    width = c.size(*_WIDTH)
    own_heads = (f"{role}_attention_heads", f"num_{role}_attention_heads", *_HEADS)
    heads = c.size(*own_heads) if c.first(*own_heads) is not None else 0
    if heads and c.first(*_HEAD_DIM) is None and width % heads:
        raise BadInputError(f"{c.where}: {heads} heads do not divide the width {width}")
    return SideSizes(
        width=width,
        ffn_width=c.size(f"{role}_ffn_dim", *_FFN, default=4 * width),
        heads=heads,
        kv_heads=_kv_heads(c, heads),
        head_dim=c.size(*_HEAD_DIM, default=width // heads) if heads else 0,
    )


def _kv_heads(c: _ConfigReader, heads: int) -> int:
    asks_one = "multi_query" in c.values or "new_decoder_architecture" in c.values
    if asks_one and not c.flag("new_decoder_architecture", False):
        # Falcon and GPT-BigCode: one K/V head for all, or one for each.
        return 1 if c.flag("multi_query", False) else heads
    return c.size(*_KV_HEADS, default=heads) if heads else 0


def _positions(c: _ConfigReader) -> int | None:
    # T5's positions are relative; the "n_positions" of its configs is the length that it was trained on.
    return None if "relative_attention_num_buckets" in c.values else c.optional_size(*_POSITIONS)


def _ffn_matrices(c: _ConfigReader) -> int:
    """Guess from the config whether the feed-forward is gated; the weights, where they are there, decide."""
    kind = c.first("feed_forward_proj")
    if isinstance(kind, str):
        return 3 if kind.startswith("gated") else 2
    return 3 if c.first("rms_norm_eps", "hidden_activation", "num_key_value_heads") is not None else 2


def _cost_unknown(c: _ConfigReader, kinds: Sequence[str] | None) -> str | None:
    states = c.first(*_STATES) is not None if kinds is None else not _ATTENTION_KINDS.issuperset(kinds)
    if states:
        return "recurrent or convolutional layers keep a state instead of K/V"
    experts = c.first(*_EXPERTS)
    if type(experts) is int and experts > 1:
        return "of a mixture of experts each token uses a few only"
    if c.first("q_lora_rank", "kv_lora_rank") is not None:
        return "K and V are kept compressed (latent attention)"
    if c.first("encoder_attention_type") == "transient-global":
        return "the encoder's attention is local with global summaries"
    return None


def _decoder_only(c: _ConfigReader) -> Geometry:
    layers = c.size("decoder_layers", "num_decoder_layers", *_LAYERS)
    side, positions = _sizes(c, "decoder"), _positions(c)
    kinds = c.layer_types(layers)
    unknown = _cost_unknown(c, kinds)
    mixed = kinds is not None and any(kind not in _ATTENTION_KINDS for kind in kinds)
    return Geometry(
        vocab_size=c.size(*_VOCABULARY),
        **side.model_dump(),
        ffn_matrices=_ffn_matrices(c),
        encoder_layers=0,
        decoder_layers=layers,
        tied_embeddings=c.flag("tie_word_embeddings", True),
        windows=_windows(c, layers, positions),
        max_input_tokens=positions,
        max_total_tokens=positions,
        layer_kinds=tuple(kinds) if mixed and kinds is not None else (),
        cost_unknown=unknown,
    )


def _encoder_decoder(c: _ConfigReader) -> Geometry:
    """Read both sides: of one config with names for each (T5, BART), or of two nested ones (T5Gemma)."""
    encoder, decoder = c.section("encoder"), c.section("decoder")
    nested = encoder is not None and decoder is not None
    # T5Gemma2's encoder takes pictures as well.
    first = (encoder.section("text_config") or encoder) if nested and encoder else c
    second = decoder if nested and decoder else c
    encoder_layers = first.size("encoder_layers", "num_encoder_layers", "num_layers", *_LAYERS)
    decoder_layers = second.size("decoder_layers", "num_decoder_layers", *_LAYERS)
    sides = _sizes(first, "encoder"), _sizes(second, "decoder")
    positions = _positions(first), _positions(second)
    windows: Windows = _windows(second, decoder_layers, positions[1]) if nested else ()
    encoder_windows: Windows = _windows(first, encoder_layers, positions[0]) if nested else ()
    merged = c.values.get("model_type") in _MERGED
    if merged:
        # Of this type's window one half lies before a token and the other, one longer if need be, behind it.
        encoder_windows = tuple(window and (window + 1) // 2 for window in encoder_windows)
    radius = c.optional_size("local_radius")
    if radius is not None and c.first("encoder_attention_type") == "local":
        encoder_windows = (radius + 1,) * encoder_layers
    return Geometry(
        vocab_size=second.size(*_VOCABULARY),
        **sides[1].model_dump(),
        ffn_matrices=_ffn_matrices(second),
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        tied_embeddings=c.flag("tie_word_embeddings", True),
        shared_embedding=merged or c.flag("slmbench_shared_embedding", False)
        if nested
        else c.flag("share_encoder_decoder_embeddings", True),
        merged_attention=merged,
        windows=windows,
        encoder_windows=encoder_windows,
        max_input_tokens=positions[0],
        max_total_tokens=positions[1],
        encoder_sizes=None if sides[0] == sides[1] else sides[0],
        cost_unknown=_cost_unknown(second, None) or _cost_unknown(c, None),
    )


def read_config(
    config: Mapping[str, Any],
    where: str,
    *,
    trust_remote_code: bool = False,
    processor: Mapping[str, Any] | None = None,
) -> ConfigFacts:
    """Return what ``config`` (a config.json) says of the part that is measured.

    ``where`` names the config in errors. With ``trust_remote_code`` an architecture that transformers does not know
    and that brings its own code is read under Llama's key names. ``processor`` holds the settings of its processor of
    pictures.

    Raises:
        BadInputError: an architecture that generates no text, that this transformers does not know, or that brings
            its own code without ``trust_remote_code``; a missing or absurd size.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise BadInputError(f"{where}: no 'model_type'; slmbench reads transformers configs")
    values, text = dict(config), None
    found = known_types.completed(config, where)
    if found is not None:
        values, text = found
        for name in ("tie_word_embeddings", "architectures"):
            # transformers 5 ties every T5 and says so in its configs; a config.json knows better.
            if name in config:
                values[name] = config[name]
    elif known_types.is_installed() and not (trust_remote_code and "auto_map" in config):
        raise BadInputError(unknown(kind, where, brings_code="auto_map" in config))
    whole = values
    task: known_types.Task = "seq2seq" if values.get("is_encoder_decoder") else "causal"
    part_types = known_types.of_task(task) | known_types.HEADED
    is_part = text is not None and text.get("model_type") in part_types
    if text is not None and is_part:
        kind, values, where = str(text["model_type"]), text, f"{where}, text part"
    family = family_of(kind, values, text, where)
    geometry = geometry_of(values, family, where)
    takes_pictures = whole.get("model_type") in known_types.of_task("pictures")
    vision = read_vision(whole, geometry.encoder_side.width, where, processor) if takes_pictures else None
    return ConfigFacts(family, geometry, kind, is_part, values, vision)


def geometry_of(values: Mapping[str, Any], family: Family, where: str) -> Geometry:
    """Return the sizes in a config that gives every one of them, as the catalog's do; transformers is not asked.

    Raises:
        BadInputError: a missing or absurd size.
    """
    reader = _ConfigReader(values, where)
    try:
        geometry = _encoder_decoder(reader) if family == "encoder-decoder" else _decoder_only(reader)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    for side in (geometry, geometry.encoder_side):
        if side.heads and side.heads % side.kv_heads:
            raise BadInputError(f"{where}: {side.heads} heads are not a multiple of {side.kv_heads} K/V heads")
    return geometry
