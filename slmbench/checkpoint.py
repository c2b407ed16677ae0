"""A checkpoint: a catalog name, a local Hugging Face folder or a Hub id, resolved without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from slmbench.terms import Family


class Geometry(BaseModel):
    """The sizes that parameters, FLOPs and bytes follow from. Layers a family lacks are 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int
    width: int
    ffn_width: int
    #: Matrices of one feed-forward block: 2, or 3 when gated.
    ffn_matrices: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied_embeddings: bool
    #: Attention window of each decoder layer in tokens; None where a layer sees everything.
    windows: tuple[int | None, ...] = ()
    #: Longest prompt the positions allow; None where nothing bounds it.
    max_input_tokens: int | None = None
    #: Longest decoder sequence (prompt and answer for decoder-only); None where nothing bounds it.
    max_total_tokens: int | None = None


class Checkpoint(BaseModel):
    """A model to measure. Torch-free; ``slmbench.export.load`` makes the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: As people call it: the catalog name, the folder's name or the Hub id.
    name: str
    source: Literal["catalog", "folder", "hub"]
    #: The folder's path (folder and hub); never part of the identity.
    path: Path | None = Field(default=None, exclude=True)
    #: The Hub commit, where there is one.
    revision: str | None = None
    family: Family
    #: transformers' model_type: "t5", "llama", ...
    architecture: str
    parameter_count: int
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
