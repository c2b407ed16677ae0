"""One thing that a doctor found."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Severity = Literal["wrong", "noise", "note"]


class Finding(BaseModel):
    """One thing that disturbs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    #: "wrong": figures would not be what they are called; "noise": they scatter or drift; "note": know it.
    severity: Severity
    what: str
    why: str
    remedy: str
