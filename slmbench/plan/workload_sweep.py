"""The workloads of a suite: lists whose product is measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from slmbench.case import FORMERLY_SAMPLES, Cache, Sampling, Workload
from slmbench.plan.typed_lists import counted, sized
from slmbench.terms import not_boolean

#: What pictures are drawn in where nobody says.
DEFAULT_IMAGE_SIZE = (512, 512)

Count = Annotated[PositiveInt, BeforeValidator(not_boolean)]
Counts = Annotated[
    list[Count], BeforeValidator(counted, json_schema_input_type=int | str | list[int | str]), Field(min_length=1)
]
_Pictures = Annotated[
    list[Annotated[NonNegativeInt, BeforeValidator(not_boolean)]],
    BeforeValidator(lambda given: given if isinstance(given, list | tuple) else [given]),
    Field(min_length=1),
]
_Sizes = Annotated[
    list[tuple[PositiveInt, PositiveInt]],
    BeforeValidator(sized, json_schema_input_type=str | list[str]),
    Field(min_length=1),
]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _switches(value: Any) -> Any:
    """Return what YAML reads of on and off as words again."""
    return [{True: "on", False: "off"}.get(one, one) if isinstance(one, bool) else one for one in _as_list(value)]


class WorkloadSweep(BaseModel):
    """Workloads as lists; the product of the lists is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_tokens: Counts
    output_tokens: Counts
    batch: Counts = [1]
    #: Turns of a conversation, what each after the first adds, and the last answer's length where it is another.
    turns: Count = 1
    added_tokens: Count | None = None
    last_output_tokens: Count | None = None
    #: Answers to each prompt, which is read once.
    answers: Annotated[Counts, Field(validation_alias=FORMERLY_SAMPLES)] = [1]
    sampling: Annotated[list[Sampling], BeforeValidator(_as_list), Field(min_length=1)] = ["greedy"]
    #: "off", an ablation: every token reads the decoder's whole input again.
    cache: Annotated[list[Cache], BeforeValidator(_switches), Field(min_length=1)] = ["on"]
    #: Pictures before each text, 0 for none, and the sizes that they are drawn in.
    images: _Pictures = [0]
    image_size: _Sizes | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        # What the lists cannot be combined to is said when the file is read, with its line.
        if self.image_size and not any(self.images):
            raise ValueError("`image_size` is of pictures: say with `images` how many there are before each text")
        for answers, sampling, cache, pictures in itertools.product(
            self.answers, self.sampling, self.cache, self._pictures()
        ):
            self._workload(max(self.batch), 1, 1, answers, sampling, cache, pictures)
        return self

    def _pictures(self) -> list[tuple[int, tuple[int, int] | None]]:
        """Return how many pictures of which size go together."""
        sizes = self.image_size or [DEFAULT_IMAGE_SIZE]
        return [(count, size) for count in self.images for size in (sizes if count else [None])]

    def _workload(
        self,
        batch: int,
        given: int,
        asked: int,
        answers: int,
        sampling: Sampling,
        cache: Cache,
        pictures: tuple[int, tuple[int, int] | None],
    ) -> Workload:
        try:
            return Workload(
                batch=batch,
                input_tokens=given,
                output_tokens=asked,
                turns=self.turns,
                added_tokens=self.added_tokens,
                last_output_tokens=self.last_output_tokens,
                answers=answers,
                sampling=sampling,
                cache=cache,
                images=pictures[0],
                image_size=pictures[1],
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{first['loc'][0]}: " if first["loc"] else ""
            raise ValueError(where + first["msg"].removeprefix("Value error, ")) from error

    @property
    def count(self) -> int:
        """Return the number of combinations."""
        more = len(self.answers) * len(self.sampling) * len(self.cache) * len(self._pictures())
        return len(self.batch) * len(self.input_tokens) * len(self.output_tokens) * more

    def workloads(self) -> Iterator[Workload]:
        """Yield every combination."""
        lists = (self.batch, self.input_tokens, self.output_tokens, self.answers, self.sampling, self.cache)
        for combination in itertools.product(*lists, self._pictures()):
            yield self._workload(*combination)
