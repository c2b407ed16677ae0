"""A case: one cell of a suite, on one device, with a key that stays the same from run to run."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from slmbench.terms import AskedCompute, Device, Exporter, Format, Layout, Natural, Precision, Settings

Sampling = Literal["greedy", "random"]
Cache = Literal["on", "off"]
#: Suites and records of version 0.2 call the answers to each prompt "samples".
FORMERLY_SAMPLES = AliasChoices("answers", "samples")
#: Pictures before one text.
MOST_PICTURES = 64
#: Pixels of a drawn picture's side.
MOST_SIDE = 8192
_Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]


class Workload(BaseModel):
    """What is generated: ``batch`` prompts of ``input_tokens``, ``output_tokens`` new tokens each.

    A conversation has ``turns``: each later one adds ``added_tokens`` to what was read and answered before. To each
    prompt there are ``answers``, generated together as rows of one batch; the prompt is read once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(default=1, ge=1)
    input_tokens: int = Field(ge=1)
    output_tokens: int = Field(ge=1)
    #: Digest of the text prompts, where real text is read; ``input_tokens`` is then the longest prompt's length.
    #: None: prompts of random token ids from the run's seed.
    prompts: str | None = None
    turns: int = Field(default=1, ge=1)
    #: Tokens that each turn after the first adds; None where there is one turn.
    added_tokens: int | None = Field(default=None, ge=1)
    #: Output of the last turn where it is another than that of the others: a report after a search.
    last_output_tokens: int | None = Field(default=None, ge=1)
    #: Answers to each prompt.
    answers: int = Field(default=1, ge=1, validation_alias=FORMERLY_SAMPLES)
    #: Whether the best token is taken, or one is drawn from the model's distribution with the run's seed.
    sampling: Sampling = "greedy"
    #: "off", an ablation: no K/V of the answer are kept, and every token reads the decoder's whole input again.
    cache: Cache = "on"
    #: Pictures before the text of the first turn. The image tokens that they become are not among ``input_tokens``.
    images: int = Field(default=0, ge=0, le=MOST_PICTURES)
    #: Width and height in pixels of pictures that are drawn from the run's seed.
    image_size: tuple[_Side, _Side] | None = None
    #: Digest of the user's pictures, where those are read instead.
    pictures: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_pictures()
        if self.turns > 1 and self.added_tokens is None:
            raise ValueError(f"{self.turns} turns: `added_tokens` says how much each later turn adds")
        if self.turns == 1 and (self.added_tokens is not None or self.last_output_tokens is not None):
            raise ValueError("`added_tokens` and `last_output_tokens` are of later turns; `turns` is 1")
        if self.turns > 1 and (self.answers > 1 or self.prompts):
            raise ValueError("a conversation of several turns takes one answer per prompt, and random prompts")
        if self.cache == "off" and (self.turns > 1 or self.answers > 1 or self.prompts):
            raise ValueError("without a K/V cache: only one turn, one answer per prompt, random prompts")
        return self

    def _check_pictures(self) -> None:
        if not self.images:
            if self.image_size or self.pictures:
                raise ValueError("`image_size` is of drawn pictures: say how many with `images`")
            return
        if (self.image_size is None) == (self.pictures is None):
            raise ValueError("pictures are either drawn in one `image_size` or read from files")
        if self.batch > 1 or self.answers > 1:
            raise ValueError("pictures go with one prompt and one answer at a time: batch 1, answers 1")
        if self.cache == "off":
            raise ValueError("pictures cannot be combined with `cache: off`")

    @property
    def rows(self) -> int:
        """Return the answers that are generated side by side: ``batch * answers``."""
        return self.batch * self.answers

    @property
    def added(self) -> int:
        """Return the tokens that a later turn adds; 0 where there is none."""
        return self.added_tokens or 0

    def outputs(self) -> tuple[int, ...]:
        """Return the output tokens of each turn."""
        last = self.last_output_tokens or self.output_tokens
        return (*(self.output_tokens,) * (self.turns - 1), last)

    @property
    def total_output_tokens(self) -> int:
        """Return the output tokens of all turns, a row."""
        return sum(self.outputs())

    @property
    def longest_input(self) -> int:
        """Return what has been said before the last answer: prompts and answers of all turns, in tokens."""
        return self.input_tokens + (self.turns - 1) * (self.added + self.output_tokens)

    def more(self) -> str:
        """Return what a reader has to know besides the lengths; empty for one prompt and one answer."""
        parts = [self.seen] if self.images else []
        parts += [f"batch {self.batch}"] if self.batch > 1 else []
        if self.turns > 1:
            parts.append(f"{self.turns} turns of {self.added} more")
            parts += [f"the last answer {self.last_output_tokens}"] if self.last_output_tokens else []
        parts += [f"{self.answers} answers"] if self.answers > 1 else []
        parts += [self.sampling] if self.sampling != "greedy" else []
        return ", ".join([*parts, *(["no K/V cache"] if self.cache == "off" else [])])

    @property
    def source(self) -> str:
        """Return the name of what is read: ``in512``, or the digest of text prompts; and of the pictures."""
        text = f"text-{self.prompts}" if self.prompts else f"in{self.input_tokens}"
        if not self.images:
            return text
        which = "x".join(map(str, self.image_size)) if self.image_size else self.pictures
        return f"{text}-img{self.images}x{which}"

    @property
    def seen(self) -> str:
        """Return the pictures in words: ``1 picture of 512x512``; empty where there is none."""
        if not self.images:
            return ""
        size = "x".join(map(str, self.image_size)) if self.image_size else f"files {self.pictures}"
        return f"{self.images} picture{'s' if self.images > 1 else ''} of {size}"

    @property
    def has_prefixes(self) -> bool:
        """Return whether a shorter output of the same prompt is the beginning of this one: greedy, one turn."""
        return self.turns == 1 and self.sampling == "greedy" and self.cache == "on"

    def label(self) -> str:
        """Return the short name used in keys: ``in512-out32-b1``; what is at its default is left out."""
        parts = [f"{self.source}-out{self.output_tokens}-b{self.batch}"]
        if self.turns > 1:
            parts.append(f"t{self.turns}x{self.added}")
        if self.last_output_tokens:
            parts.append(f"last{self.last_output_tokens}")
        if self.answers > 1:
            parts.append(f"s{self.answers}")
        if self.sampling != "greedy":
            parts.append(self.sampling)
        return "-".join(parts) + ("|cache=off" if self.cache == "off" else "")


class Case(BaseModel):
    """Everything that decides a case's speed, as asked for; what took effect is in the records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    backend: str
    device: Device
    format: Format
    layout: Layout = "dynamic"
    exporter: Exporter
    weight_precision: Precision
    #: "default" with shipped settings: what it is was read back, and stands in the records.
    compute_precision: AskedCompute
    workload: Workload
    #: None: the backend's best.
    attention: str | None = None
    #: None: the number of physical cores; the figure in effect is recorded.
    threads: Natural | None = None
    #: Options of this backend beyond those every backend has, as key=value.
    options: tuple[tuple[str, str], ...] = ()
    #: The side-by-side environment this case runs in, if there are several.
    arm: str | None = None
    simulate: bool = False
    settings: Settings = "fair"
    #: How weights were quantised, where that is not slmbench's plain way.
    recipe: str | None = None

    @model_validator(mode="after")
    def _computed_as_set(self) -> Self:
        if (self.compute_precision == "default") != (self.settings == "shipped"):
            raise ValueError(f"compute precision {self.compute_precision} does not go with {self.settings} settings")
        return self

    @property
    def engine_builds_graph(self) -> bool:
        """Return whether the artifact holds weights alone: what the graph computes is then the engine's own choice."""
        return self.format == "gguf"

    @property
    def key(self) -> str:
        """Return the stable key: what is asked, in fixed order, defaults left out where they are optional."""
        return self.key_with(self.workload.label())

    def key_with(self, workload: str) -> str:
        """Return the key with another text in place of the workload's label."""
        parts = [
            self.checkpoint,
            self.backend,
            self.device,
            f"{self.weight_precision}-{self.compute_precision}",
            f"{self.format}-{self.layout}-{self.exporter}",
            workload,
        ]
        if self.attention:
            parts.append(f"attention={self.attention}")
        if self.threads:
            parts.append(f"threads={self.threads}")
        parts += [f"{name}={value}" for name, value in self.options]
        if self.recipe:
            parts.append(f"recipe={self.recipe}")
        if self.settings != "fair":
            parts.append(f"settings={self.settings}")
        if self.simulate:
            parts.append("simulate")
        if self.arm:
            parts.append(f"arm={self.arm}")
        return "|".join(parts)
