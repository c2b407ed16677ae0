"""Workloads of a suite as lists, of which every combination is measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from slmbench.case import Cache, Sampling, Workload


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _switches(value: Any) -> Any:
    """Return what YAML reads of on and off as words again."""
    return [{True: "on", False: "off"}.get(one, one) if isinstance(one, bool) else one for one in _as_list(value)]


_Counts = Annotated[list[PositiveInt], BeforeValidator(_as_list), Field(min_length=1)]


class WorkloadSweep(BaseModel):
    """Workloads as lists; the product of the lists is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_tokens: _Counts
    output_tokens: _Counts
    batch: _Counts = [1]
    #: Turns of a conversation, what each after the first adds, and the last answer's length where it is another.
    turns: PositiveInt = 1
    added_tokens: PositiveInt | None = None
    last_output_tokens: PositiveInt | None = None
    #: Answers to each prompt, which is read once.
    samples: _Counts = [1]
    sampling: Annotated[list[Sampling], BeforeValidator(_as_list), Field(min_length=1)] = ["greedy"]
    #: "off", an ablation: every token reads the decoder's whole input anew.
    cache: Annotated[list[Cache], BeforeValidator(_switches), Field(min_length=1)] = ["on"]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        # What the lists cannot be combined to is said when the file is read, with its line.
        for samples, sampling, cache in itertools.product(self.samples, self.sampling, self.cache):
            self._workload(1, 1, 1, samples, sampling, cache)
        return self

    def _workload(self, batch: int, given: int, asked: int, samples: int, sampling: Sampling, cache: Cache) -> Workload:
        try:
            return Workload(
                batch=batch,
                input_tokens=given,
                output_tokens=asked,
                turns=self.turns,
                added_tokens=self.added_tokens,
                last_output_tokens=self.last_output_tokens,
                samples=samples,
                sampling=sampling,
                cache=cache,
            )
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error

    @property
    def count(self) -> int:
        """Return the number of combinations."""
        more = len(self.samples) * len(self.sampling) * len(self.cache)
        return len(self.batch) * len(self.input_tokens) * len(self.output_tokens) * more

    def workloads(self) -> Iterator[Workload]:
        """Yield every combination."""
        lists = (self.batch, self.input_tokens, self.output_tokens, self.samples, self.sampling, self.cache)
        for batch, given, asked, samples, sampling, cache in itertools.product(*lists):
            yield self._workload(batch, given, asked, samples, sampling, cache)
