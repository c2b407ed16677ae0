"""Smaller versions of a suite: the same ratios, stand-ins for its checkpoints, fewer tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from slmbench.case import FORMERLY_SAMPLES
from slmbench.plan.typed_lists import seconds
from slmbench.records.schema import Claim
from slmbench.terms import PairNames, StrictModel, not_boolean

_Factor = Annotated[float, Field(gt=0, le=1000), BeforeValidator(not_boolean)]
Seconds = Annotated[float, BeforeValidator(seconds, json_schema_input_type=float | str), Field(allow_inf_nan=False)]


class Scale(StrictModel):
    """A smaller version of a suite with the same ratios."""

    #: What stands in for which checkpoint.
    checkpoints: dict[str, str] = Field(default_factory=dict)
    #: Factors on the token counts; a scaled count is at least 1.
    input_tokens: _Factor = 1.0
    output_tokens: _Factor = 1.0
    answers: Annotated[_Factor, Field(validation_alias=FORMERLY_SAMPLES)] = 1.0
    budget_s: Seconds | None = None


def named_pair(pair: PairNames, names: Mapping[str, str]) -> PairNames:
    """Return the pair under other names."""
    first, second = (names.get(name, name) for name in pair[:2])
    return (first, second, pair[2]) if len(pair) == 3 else (first, second)


def named_claim(claim: Claim, names: Mapping[str, str]) -> Claim:
    """Return the claim about other names; its published figures stay those of one shape."""
    if claim.between is None:
        return claim
    first, second = (names.get(name, name) for name in claim.between)
    return claim.model_copy(update={"between": (first, second)})


def scaled(counts: list[int], factor: float) -> list[int]:
    """Return the counts times a factor, at least 1, each once."""
    return list(dict.fromkeys(max(1, round(count * factor)) for count in counts))


def scaled_one(count: int | None, factor: float) -> int | None:
    """Return a count times a factor, at least 1; None stays."""
    return None if count is None else scaled([count], factor)[0]
