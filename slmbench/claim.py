"""Claims that others made and a suite puts beside its own figures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Claim(BaseModel):
    """What a publication says of an encoder-decoder against a decoder-only model of the same size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: As it is published: "47 % lower first-token latency".
    says: str
    #: What it is about: time to first token, per token, or of the whole answer.
    metric: Literal["ttft", "tpot", "e2e"]
    #: The claim as a factor: how many times faster the encoder-decoder is. 47 % lower is 1 / (1 - 0.47).
    speedup: float = Field(gt=0, le=1e6)
    #: Publication, with what was measured there and on which device.
    source: str
    #: Published figures of that metric by device, in ms, and the checkpoint that has the shape they were measured on.
    figures_ms: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0, le=1e9)]] = {}
    figures_of: str | None = None
    #: What a reader must bear in mind.
    note: str = ""
