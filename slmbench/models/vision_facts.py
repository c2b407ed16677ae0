"""What is known of a checkpoint's vision part, from its config alone."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class VisionFacts(BaseModel):
    """The sizes of the network that reads pictures, and where its features go in the text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Stands in the prompt for each row of features.
    image_token_id: int = Field(ge=0)
    #: Pixels a side that the vision network reads (one tile).
    image_size: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    width: int = Field(gt=0)
    ffn_width: int = Field(gt=0)
    heads: int = Field(gt=0)
    #: Image tokens of one tile, after projector or resampler.
    tokens_per_tile: int = Field(gt=0)
    #: Why pictures do not go in here (one line), or None.
    refusal: str | None = None
