"""A case: one cell of a suite, on one device, with a key that stays the same from run to run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from slmbench.terms import ComputePrecision, Device, Exporter, Format, Layout, Precision


class Workload(BaseModel):
    """What is generated: ``batch`` prompts of ``input_tokens``, ``output_tokens`` new tokens each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(default=1, ge=1)
    input_tokens: int = Field(ge=1)
    output_tokens: int = Field(ge=1)
    #: Digest of the text prompts, where real text is read; ``input_tokens`` is then the longest prompt's length.
    #: None: prompts of random token ids from the run's seed.
    prompts: str | None = None

    def label(self) -> str:
        """Return the short name used in keys: ``in512-out32-b1``."""
        source = f"text-{self.prompts}" if self.prompts else f"in{self.input_tokens}"
        return f"{source}-out{self.output_tokens}-b{self.batch}"


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
    compute_precision: ComputePrecision
    workload: Workload
    #: None: the backend's best.
    attention: str | None = None
    #: None: the number of physical cores; the figure in effect is recorded.
    threads: int | None = None
    #: Options of this backend beyond those every backend has, as key=value.
    options: tuple[tuple[str, str], ...] = ()
    #: The side-by-side environment this case runs in, if there are several.
    arm: str | None = None
    simulate: bool = False

    @property
    def key(self) -> str:
        """Return the stable key: what is asked, in fixed order, defaults left out where they are optional."""
        parts = [
            self.checkpoint,
            self.backend,
            self.device,
            f"{self.weight_precision}-{self.compute_precision}",
            f"{self.format}-{self.layout}-{self.exporter}",
            self.workload.label(),
        ]
        if self.attention:
            parts.append(f"attention={self.attention}")
        if self.threads:
            parts.append(f"threads={self.threads}")
        parts += [f"{name}={value}" for name, value in self.options]
        if self.simulate:
            parts.append("simulate")
        if self.arm:
            parts.append(f"arm={self.arm}")
        return "|".join(parts)
