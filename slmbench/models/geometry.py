"""What follows from a config.json alone: family, sizes, limits. One reader for each kind of architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slmbench.errors import BadInputError, nearest, one_line
from slmbench.terms import Family

#: Bounds that no text model reaches; a number beyond them is a damaged or hostile config.
_Size = Annotated[int, Field(ge=1, le=2**24)]
_Layers = Annotated[int, Field(ge=0, le=4096)]


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
    heads: _Size
    kv_heads: _Size
    head_dim: _Size
    #: The LM head is the (decoder's) embedding.
    tied_embeddings: bool
    #: Encoder and decoder read one embedding (encoder-decoder only).
    shared_embedding: bool = False
    #: Attention window of each decoder layer in tokens; None where a layer sees everything.
    windows: tuple[int | None, ...] = ()
    #: The same of each encoder layer.
    encoder_windows: tuple[int | None, ...] = ()
    #: Longest prompt the positions allow; None where nothing bounds it.
    max_input_tokens: int | None = None
    #: Longest decoder sequence (prompt and answer for decoder-only); None where nothing bounds it.
    max_total_tokens: int | None = None


class _ConfigReader:
    """Reads a config's values with their types checked; ``where`` names the file in errors."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def size(self, name: str, default: int | None = None) -> int:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 2**24:
            what = "is missing" if value is None else f"is {one_line(str(value))[:40]}, not a sensible size"
            raise BadInputError(f"{self.where}: '{name}' {what}")
        return value

    def optional_size(self, name: str) -> int | None:
        return None if self.values.get(name) is None else self.size(name)

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name, default)
        return default if value is None else bool(value)

    def text(self, name: str, default: str) -> str:
        value = self.values.get(name)
        return value if isinstance(value, str) else default

    def section(self, name: str) -> _ConfigReader:
        value = self.values.get(name)
        if not isinstance(value, Mapping):
            raise BadInputError(f"{self.where}: '{name}' is missing")
        return _ConfigReader(value, f"{self.where}, {name}")

    def layer_types(self, layers: int) -> Sequence[str] | None:
        value = self.values.get("layer_types")
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != layers or not all(isinstance(x, str) for x in value):
            raise BadInputError(f"{self.where}: 'layer_types' is not a list of {layers} names")
        return value


Windows = tuple[int | None, ...]


def _windows(types: Sequence[str], window: int | None, positions: int) -> Windows:
    """Return each layer's window; one as long as the positions is none."""
    bounded = window if window is not None and window < positions else None
    return tuple(bounded if kind == "sliding_attention" else None for kind in types)


def _t5(c: _ConfigReader) -> Geometry:
    layers = c.size("num_layers", 6)
    kind = c.text("feed_forward_proj", "relu")
    return Geometry(
        vocab_size=c.size("vocab_size", 32128),
        width=c.size("d_model", 512),
        ffn_width=c.size("d_ff", 2048),
        ffn_matrices=3 if kind.startswith("gated") else 2,
        encoder_layers=layers,
        decoder_layers=c.size("num_decoder_layers", layers),
        heads=c.size("num_heads", 8),
        kv_heads=c.size("num_heads", 8),
        head_dim=c.size("d_kv", 64),
        tied_embeddings=c.flag("tie_word_embeddings", True),
        shared_embedding=True,
    )


def _bart(c: _ConfigReader) -> Geometry:
    width, heads = c.size("d_model", 1024), c.size("decoder_attention_heads", 16)
    if c.size("encoder_attention_heads", 16) != heads or width % heads:
        raise BadInputError(f"{c.where}: heads of encoder and decoder differ or do not divide the width {width}")
    positions = c.size("max_position_embeddings", 1024)
    return Geometry(
        vocab_size=c.size("vocab_size", 50265),
        width=width,
        ffn_width=c.size("decoder_ffn_dim", 4096),
        ffn_matrices=2,
        encoder_layers=c.size("encoder_layers", 12),
        decoder_layers=c.size("decoder_layers", 12),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        tied_embeddings=c.flag("tie_word_embeddings", True),
        shared_embedding=c.flag("share_encoder_decoder_embeddings", True),
        max_input_tokens=positions,
        max_total_tokens=positions,
    )


def _t5gemma(c: _ConfigReader) -> Geometry:
    encoder, decoder = c.section("encoder"), c.section("decoder")
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"):
        if encoder.size(name) != decoder.size(name):
            raise BadInputError(
                f"{c.where}: encoder and decoder differ in '{name}'; slmbench takes T5Gemma with equal widths"
            )

    def windows(side: _ConfigReader, layers: int) -> Windows:
        types = side.layer_types(layers) or ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
        return _windows(types, side.optional_size("sliding_window"), side.size("max_position_embeddings", 8192))

    encoder_layers, decoder_layers = encoder.size("num_hidden_layers"), decoder.size("num_hidden_layers")
    return Geometry(
        vocab_size=decoder.size("vocab_size", 256000),
        width=decoder.size("hidden_size"),
        ffn_width=decoder.size("intermediate_size"),
        ffn_matrices=3,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        heads=decoder.size("num_attention_heads"),
        kv_heads=decoder.size("num_key_value_heads"),
        head_dim=decoder.size("head_dim"),
        tied_embeddings=c.flag("tie_word_embeddings", True),
        shared_embedding=c.flag("slmbench_shared_embedding", False),
        windows=windows(decoder, decoder_layers),
        encoder_windows=windows(encoder, encoder_layers),
        max_input_tokens=encoder.size("max_position_embeddings", 8192),
        max_total_tokens=decoder.size("max_position_embeddings", 8192),
    )


def _decoder_only(c: _ConfigReader, *, tied: bool, windows: Callable[[_ConfigReader, int, int], Windows]) -> Geometry:
    """Read a config with Llama's key names; ``tied`` is what transformers assumes when the config is silent."""
    width, heads, layers = c.size("hidden_size"), c.size("num_attention_heads"), c.size("num_hidden_layers")
    positions = c.size("max_position_embeddings")
    return Geometry(
        vocab_size=c.size("vocab_size"),
        width=width,
        ffn_width=c.size("intermediate_size"),
        ffn_matrices=3,
        encoder_layers=0,
        decoder_layers=layers,
        heads=heads,
        kv_heads=c.size("num_key_value_heads", heads),
        head_dim=c.size("head_dim", max(1, width // heads)),
        tied_embeddings=c.flag("tie_word_embeddings", tied),
        windows=windows(c, layers, positions),
        max_input_tokens=positions,
        max_total_tokens=positions,
    )


def _no_window(c: _ConfigReader, layers: int, positions: int) -> Windows:  # noqa: ARG001 (one signature for all)
    return (None,) * layers


def _one_window(c: _ConfigReader, layers: int, positions: int) -> Windows:
    return _windows(["sliding_attention"] * layers, c.optional_size("sliding_window"), positions)


def _qwen_windows(c: _ConfigReader, layers: int, positions: int) -> Windows:
    if not c.flag("use_sliding_window", False):
        return (None,) * layers
    first = c.size("max_window_layers", 28)
    types = c.layer_types(layers) or ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    return _windows(types, c.optional_size("sliding_window"), positions)


def _gemma_windows(c: _ConfigReader, layers: int, positions: int) -> Windows:
    every = c.size("sliding_window_pattern", 6)
    default = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
    return _windows(c.layer_types(layers) or default, c.size("sliding_window", 4096), positions)


def _smollm3_windows(c: _ConfigReader, layers: int, positions: int) -> Windows:
    if not c.flag("use_sliding_window", False):
        return (None,) * layers
    return _windows(c.layer_types(layers) or ["full_attention"] * layers, c.optional_size("sliding_window"), positions)


def _llama(c: _ConfigReader) -> Geometry:
    return _decoder_only(c, tied=False, windows=_no_window)


#: transformers' model_type → family and reader.
_READERS: dict[str, tuple[Family, Callable[[_ConfigReader], Geometry]]] = {
    "t5": ("encoder-decoder", _t5),
    "bart": ("encoder-decoder", _bart),
    "marian": ("encoder-decoder", _bart),
    "t5gemma": ("encoder-decoder", _t5gemma),
    "llama": ("decoder-only", _llama),
    "mistral": ("decoder-only", lambda c: _decoder_only(c, tied=False, windows=_one_window)),
    "phi3": ("decoder-only", lambda c: _decoder_only(c, tied=False, windows=_one_window)),
    "qwen3": ("decoder-only", lambda c: _decoder_only(c, tied=False, windows=_qwen_windows)),
    "gemma3_text": ("decoder-only", lambda c: _decoder_only(c, tied=True, windows=_gemma_windows)),
    "smollm3": ("decoder-only", lambda c: _decoder_only(c, tied=True, windows=_smollm3_windows)),
}

#: Architectures without a decoder; what people try most.
_ENCODER_ONLY = frozenset(
    {"albert", "bert", "camembert", "clip", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm",
     "eurobert", "longformer", "modernbert", "mpnet", "nomic_bert", "rembert", "roberta", "roformer", "siglip",
     "squeezebert", "vit", "xlm-roberta", "xlm-roberta-xl"}
)  # fmt: skip


def architectures() -> list[str]:
    """Return the supported values of transformers' model_type."""
    return list(_READERS)


def read_config(config: Mapping[str, Any], where: str, *, trust_remote_code: bool = False) -> tuple[Family, Geometry]:
    """Return the family and the sizes of the model that ``config`` (a config.json) describes.

    ``where`` names the config in errors. With ``trust_remote_code`` an unknown architecture that brings its own
    code is read as a decoder-only with Llama's key names.

    Raises:
        BadInputError: an encoder-only or unsupported architecture, a missing or absurd size.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise BadInputError(f"{where}: no 'model_type'; slmbench reads transformers configs")
    if kind in _ENCODER_ONLY:
        raise BadInputError(
            f"{where}: '{kind}' is an encoder-only model and generates no text; "
            "slmbench measures encoder-decoders and decoder-only models"
        )
    family: Family
    if kind in _READERS:
        family, read = _READERS[kind]
    elif trust_remote_code and "auto_map" in config:
        family, read = "decoder-only", _llama
    else:
        raise BadInputError(
            f"{where}: unsupported architecture '{one_line(kind)[:60]}'. Supported: {', '.join(_READERS)}."
            + nearest(kind, architectures())
        )
    try:
        geometry = read(_ConfigReader(config, where))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if geometry.heads % geometry.kv_heads:
        raise BadInputError(f"{where}: {geometry.heads} heads are not a multiple of {geometry.kv_heads} K/V heads")
    return family, geometry
